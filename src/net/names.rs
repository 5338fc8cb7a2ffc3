//! Published names of parameters: the path of fields down to each, where no module says otherwise.

use super::{mlp, refine, resscore};

/// How a module publishes what lies below it. `path` leads from one of the module's fields down to a parameter; the rule gives how
/// many parts of it a published name replaces, and that name. `None` leaves the field its own name.
pub(super) type Rule = fn(path: &[&str]) -> Option<(usize, String)>;

/// The modules whose published names are no fields' names, as Burn calls them. Each has its rule in its own file.
const RULES: [(&str, Rule); 3] = [
    ("Struct:ResidualConvUnit", refine::published),
    ("Struct:GroupNormBlock", resscore::published),
    ("Struct:Mlp", mlp::published),
];

/// What Burn calls the struct around a tensor that is no parameter, see [`Buffer`](super::Buffer).
const BUFFER: &str = "Struct:Buffer";

/// The path of modules down to a tensor, as a visitor of modules walks it.
#[derive(Default)]
pub(super) struct Path {
    /// Names of fields, one behind the other.
    text: String,
    parts: Vec<Part>,
}

/// A step down.
struct Part {
    /// Where its name begins in the text.
    start: usize,
    /// Whether the name is that of a field or of a member of a list. Variants of an enum are no part of published names.
    is_named: bool,
    /// The rule of the module whose field it is.
    rule: Option<Rule>,
    is_in_buffer: bool,
}

impl Path {
    /// Goes down to `name` in a module that Burn calls `container`.
    pub fn enter(&mut self, name: &str, container: &str) {
        let rule = RULES.iter().find(|(module, _)| *module == container).map(|(_, rule)| *rule);
        let is_in_buffer = container == BUFFER;
        let is_named = !container.starts_with("Enum:") && !is_in_buffer;
        self.parts.push(Part { start: self.text.len(), is_named, rule, is_in_buffer });
        self.text.push_str(name);
    }

    /// Goes up again.
    pub fn exit(&mut self) {
        self.text.truncate(self.parts.pop().expect("a module was entered").start);
    }

    /// Whether the tensor here is no parameter.
    pub fn is_buffer(&self) -> bool {
        self.parts.last().is_some_and(|part| part.is_in_buffer)
    }

    /// The published name of the tensor here.
    pub fn name(&self) -> String {
        let ends = self.parts.iter().skip(1).map(|part| part.start).chain([self.text.len()]);
        let named = self.parts.iter().zip(ends).filter(|(part, _)| part.is_named);
        let (path, rules): (Vec<&str>, Vec<_>) =
            named.map(|(part, end)| (&self.text[part.start..end], part.rule)).unzip();
        let mut name = Vec::with_capacity(path.len());
        let mut at = 0;
        while at < path.len() {
            let (n_parts, published) =
                rules[at].and_then(|rule| rule(&path[at..])).unwrap_or_else(|| (1, path[at].to_string()));
            name.push(published);
            at += n_parts;
        }
        name.join(".")
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::tensor::Device;

    use crate::net::{Conv2d, Mlp, params};
    use crate::noise::Noise;

    #[test]
    #[allow(non_snake_case, reason = "as Score-SDE's networks publish them")]
    fn a_module_that_renames_nothing_keeps_all_names_of_its_fields() {
        #[derive(Module, Debug)]
        struct Block {
            Conv_0: Conv2d,
            res: Vec<Conv2d>,
            layers: Vec<Conv2d>,
            main_3: Conv2d,
        }
        let mut noise = Noise::new(0).stream("init", 0);
        let mut conv = || Conv2d::new(1, 1, 1, 1, false, &mut noise, &Device::flex());
        let block = Block { Conv_0: conv(), res: vec![conv()], layers: vec![conv()], main_3: conv() };
        assert_eq!(params::names(&block), ["Conv_0.weight", "res.0.weight", "layers.0.weight", "main_3.weight"]);
    }

    #[test]
    fn a_rule_holds_for_its_module_alone() {
        let mut noise = Noise::new(0).stream("init", 0);
        let mlp = Mlp::new(&[1, 1, 1], &mut noise, &Device::flex());
        assert_eq!(params::names(&mlp), ["0.weight", "0.bias", "2.weight", "2.bias"]);
    }
}

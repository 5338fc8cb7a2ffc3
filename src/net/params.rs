//! A network's parameters by their published names: listed, read, replaced.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Shape, Tensor};

use crate::device::{self, upload};
use crate::error::Result;

/// One parameter on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Its extent in each dimension.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// A shape in an error: of a hostile file's only the first sizes, there may be any number.
pub(crate) fn shown_shape(shape: &[usize]) -> String {
    const N_SHOWN: usize = 8;
    if shape.len() <= N_SHOWN { format!("{shape:?}") } else { format!("of {} dimensions", shape.len()) }
}

/// The path of modules down to a parameter: fields, a dot behind each, and where each module's begins. Variants of an enum
/// (`"Enum:…"`) are not part of a name.
#[derive(Default)]
struct Path(String, Vec<usize>);

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        self.1.push(self.0.len());
        if !container.starts_with("Enum:") {
            self.0.extend([name, "."]);
        }
    }

    fn exit(&mut self) {
        self.0.truncate(self.1.pop().expect("a module was entered"));
    }

    fn name(&self) -> String {
        let parts: Vec<&str> = self.0.split_terminator('.').collect();
        published_name(&parts)
    }
}

/// Field names to published names: `res.0.1` → `res1.1`, `refine.2` → `refine3`, and an RCU's `blocks.0.1.norm` →
/// `1_2_norm`, which is no Rust identifier; a perceptron's `layers.1` → `2`; `main_3` →
/// `main.3`.
fn published_name(parts: &[&str]) -> String {
    let count = |i: usize| parts.get(i).and_then(|p| p.parse::<usize>().ok()).map(|p| p + 1);
    let mut name: Vec<String> = Vec::with_capacity(parts.len());
    let mut i = 0;
    while i < parts.len() {
        match (parts[i], count(i + 1), count(i + 2)) {
            (stage @ ("res" | "refine"), Some(k), _) => {
                name.push(format!("{stage}{k}"));
                i += 2;
            }
            ("blocks", Some(block), Some(stage)) if i + 3 < parts.len() => {
                name.push(format!("{block}_{stage}_{}", parts[i + 3]));
                i += 4;
            }
            // A sequence in which every other member is an activation.
            ("layers", Some(k), _) => {
                name.push((2 * (k - 1)).to_string());
                i += 2;
            }
            (part, ..) => {
                name.push(member_of_sequence(part).unwrap_or_else(|| part.to_string()));
                i += 1;
            }
        }
    }
    name.join(".")
}

/// `main_3` → `main.3`: a field that is a numbered member of a published sequence.
fn member_of_sequence(field: &str) -> Option<String> {
    let (sequence, number) = field.rsplit_once('_')?;
    number.parse::<usize>().ok().map(|_| format!("{sequence}.{number}"))
}

/// Calls `f` with each parameter's name and value, flattened to `[n]`, and its shape, in registration order.
pub fn visit<M: Module>(module: &M, f: impl FnMut(&str, &[usize], Tensor<1>)) {
    struct Visitor<F>(Path, F);
    impl<F: FnMut(&str, &[usize], Tensor<1>)> ModuleVisitor for Visitor<F> {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val();
            let shape = value.dims();
            self.1(&self.0.name(), &shape, value.reshape([-1]));
        }
    }
    module.visit(&mut Visitor(Path::default(), f));
}

/// The names of all parameters, in registration order.
pub fn names<M: Module>(module: &M) -> Vec<String> {
    #[derive(Default)]
    struct Collect(Path, Vec<String>);
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
            self.1.push(self.0.name());
        }
    }
    let mut collect = Collect::default();
    module.visit(&mut collect);
    collect.1
}

/// Replaces every parameter by what `f` gives for its index in registration order and the parameter itself.
pub fn replace<M: Module, F: Replace>(module: M, f: F) -> (M, F) {
    struct Mapper<F>(usize, F);
    impl<F: Replace> ModuleMapper for Mapper<F> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, value, _) = param.consume();
            let require_grad = value.is_require_grad();
            let value = self.1.replace(self.0, value);
            self.0 += 1;
            Param::initialized(id, value.set_require_grad(require_grad))
        }
    }
    let mut mapper = Mapper(0, f);
    let module = module.map(&mut mapper);
    (module, mapper.1)
}

/// How [`replace`] makes a new value of an old one, of any rank.
pub trait Replace {
    /// The new value of parameter `index`: a leaf of the same shape and device.
    fn replace<const D: usize>(&mut self, index: usize, value: Tensor<D>) -> Tensor<D>;
}

/// Replaces all values at once by what `f` makes of them. `f` is given plain tensors, without autodiff, each flattened to `[n]`, in
/// registration order. While it runs the module is without them, so that values which nobody else holds can be changed in place.
pub fn map_values<M: Module>(module: &mut M, f: impl FnOnce(Vec<Tensor<1>>) -> Vec<Tensor<1>>) {
    /// A parameter without its value.
    struct Place {
        shape: Shape,
        is_autodiff: bool,
        requires_grad: bool,
    }
    #[derive(Default)]
    struct Take {
        places: Vec<Place>,
        values: Vec<Tensor<1>>,
    }
    impl ModuleMapper for Take {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, value, _) = param.consume();
            let (shape, device, requires_grad) = (value.shape(), value.device(), value.is_require_grad());
            self.places.push(Place { shape: shape.clone(), is_autodiff: device.is_autodiff(), requires_grad });
            self.values.push(value.inner().reshape([-1]));
            // An empty tensor would do too, but takes ten times as many allocations.
            let nothing = |_: &Device, _| unreachable!("a parameter is read while its value is elsewhere");
            Param::uninitialized(id, nothing, device, requires_grad, shape)
        }
    }
    struct Put(std::iter::Zip<std::vec::IntoIter<Place>, std::vec::IntoIter<Tensor<1>>>);
    impl ModuleMapper for Put {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (Place { shape, is_autodiff, requires_grad }, value) =
                self.0.next().expect("a value for each parameter");
            // A leaf, whatever it was computed from.
            let value = value.inner().reshape(shape);
            let value = if is_autodiff { Tensor::from_inner(value).set_require_grad(requires_grad) } else { value };
            Param::initialized(param.id, value)
        }
    }
    let mut take = Take::default();
    let hollow = module.clone().map(&mut take);
    *module = hollow.clone();
    let Take { places, values } = take;
    let values = f(values);
    assert_eq!(values.len(), places.len(), "values of as many parameters");
    *module = hollow.map(&mut Put(places.into_iter().zip(values)));
}

/// Every parameter with its name, copied to the host.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when a device cannot give them.
pub fn to_host<M: Module>(module: &M) -> Result<Vec<(String, HostTensor)>> {
    let mut out = Vec::new();
    visit(module, |name, shape, value| {
        let values = device::values(value);
        out.push(values.map(|values| (name.to_string(), HostTensor { shape: shape.to_vec(), values })));
    });
    out.into_iter().collect()
}

/// The module with the parameters that `get` gives for each name and shape.
///
/// # Errors
/// The first one that `get` returns.
pub fn from_host<M: Module>(module: M, get: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>) -> Result<M> {
    struct Load<G>(Vec<String>, G, Result<()>);
    impl<G: FnMut(&str, &[usize]) -> Result<Vec<f32>>> Replace for Load<G> {
        fn replace<const D: usize>(&mut self, index: usize, value: Tensor<D>) -> Tensor<D> {
            if self.2.is_err() {
                return value;
            }
            let shape = value.dims();
            match (self.1)(&self.0[index], &shape) {
                Ok(values) => upload(values, shape, &value.device()),
                Err(error) => {
                    self.2 = Err(error);
                    value
                }
            }
        }
    }
    let names = names(&module);
    let (module, load) = replace(module, Load(names, get, Ok(())));
    load.2.map(|()| module)
}

/// The gradient of each parameter in registration order, flattened to `[n]`; `None` where the loss does not depend on it.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> Vec<Option<Tensor<1>>> {
    struct Collect<'a>(&'a Gradients, Vec<Option<Tensor<1>>>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1.push(param.val().grad(self.0).map(|gradient| gradient.reshape([-1])));
        }
    }
    let mut collect = Collect(gradients, Vec::new());
    module.visit(&mut collect);
    collect.1
}

/// How many numbers the parameters hold.
pub fn count<M: Module>(module: &M) -> usize {
    module.num_params()
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use ncsn_kernels::ops::optimizer::{self, Parameter};
    use ncsn_kernels::optimizer::{Rule, Step};

    use super::*;
    use crate::net::Mlp;
    use crate::noise::Noise;

    #[test]
    fn values_are_replaced_all_at_once_and_stay_leaves() {
        let device = Device::flex().autodiff();
        let mut net = Mlp::new(&[2, 3, 1], &mut Noise::new(1).stream("init", 0), &device);
        let before = to_host(&net).expect("values");
        map_values(&mut net, |values| values.into_iter().map(|value| value * 2.0).collect());
        for ((name, before), (_, after)) in before.iter().zip(to_host(&net).expect("values")) {
            assert_eq!(after.shape, before.shape, "{name}");
            assert_eq!(after.values, before.values.iter().map(|x| 2.0 * x).collect::<Vec<_>>(), "{name}");
        }
        let loss = net.forward(Tensor::ones([1, 2], &device).into()).value.sum();
        assert!(gradients(&net, &loss.backward()).iter().all(Option::is_some));
    }

    #[test]
    fn values_stay_plain_frozen_or_trained_and_nothing_else_holds_them_while_they_are_replaced() {
        struct Trained(Vec<[bool; 2]>);
        impl ModuleVisitor for Trained {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                self.0.push([value.is_autodiff(), value.is_require_grad()]);
            }
        }
        let places = |values: &[Tensor<1>]| -> Vec<*const f32> {
            let primitive = |value: &Tensor<1>| value.clone().try_into_primitive::<Flex>().expect("a plain tensor");
            values.iter().map(|value| primitive(value).storage::<f32>().as_ptr()).collect()
        };
        let net = |device: &Device| Mlp::new(&[2, 3, 1], &mut Noise::new(1).stream("init", 0), device);
        let (plain, autodiff) = (Device::flex(), Device::flex().autodiff());
        for (mut net, expected) in
            [(net(&plain), [false, false]), (net(&autodiff).no_grad(), [true, false]), (net(&autodiff), [true, true])]
        {
            map_values(&mut net, |values| {
                let before = places(&values);
                let rule = Rule::Sgd { lr: 1.0, momentum: 0.0 };
                let step = Step { rule, clip: 1.0, weight_decay: 0.0, ema_rate: 0.0 };
                let parameter = |value: Tensor<1>| {
                    (value.ones_like(), Parameter { state: vec![value.zeros_like()], value, shadow: None })
                };
                let parameters = values.into_iter().map(parameter).collect();
                let after: Vec<_> = optimizer::step(&step, None, parameters).into_iter().map(|p| p.value).collect();
                assert_eq!(places(&after), before, "moved in place");
                after
            });
            let mut trained = Trained(Vec::new());
            net.visit(&mut trained);
            assert_eq!(trained.0, [expected; 4]);
        }
    }

    #[test]
    fn field_names_become_published_names() {
        for (path, name) in [
            ("begin_conv.weight", "begin_conv.weight"),
            ("res.0.1.normalize2.embed.weight", "res1.1.normalize2.embed.weight"),
            ("refine.3.adapt_convs.1.blocks.0.1.norm.embed.weight", "refine4.adapt_convs.1.1_2_norm.embed.weight"),
            ("refine.0.output_convs.blocks.2.0.conv.weight", "refine1.output_convs.3_1_conv.weight"),
            ("layers.2.bias", "4.bias"),
            ("convs.1.main_3.weight", "convs.1.main.3.weight"),
            ("refine.0.crp.convs.1.weight", "refine1.crp.convs.1.weight"),
        ] {
            assert_eq!(published_name(&path.split('.').collect::<Vec<_>>()), name);
        }
    }
}

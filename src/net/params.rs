//! A network's parameters, and its buffers, by their published names: listed, read, replaced.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Shape, Tensor};

use super::names::Path;
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

/// Which of a network's tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Parameter,
    Buffer,
    Either,
}

/// A [`Path`] that tells the tensors of one kind.
struct Of(Kind, Path);

impl Of {
    fn new(kind: Kind) -> Self {
        Self(kind, Path::default())
    }

    /// Whether the tensor here is one.
    fn is_here(&self) -> bool {
        match self.0 {
            Kind::Parameter => !self.1.is_buffer(),
            Kind::Buffer => self.1.is_buffer(),
            Kind::Either => true,
        }
    }
}

/// The steps of a visitor or mapper whose first field is [`Of`].
macro_rules! walk {
    () => {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.1.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.1.exit();
        }
    };
}

fn visit_all<M: Module>(module: &M, kind: Kind, f: impl FnMut(&str, &[usize], Tensor<1>)) {
    struct Visitor<F>(Of, F);
    impl<F: FnMut(&str, &[usize], Tensor<1>)> ModuleVisitor for Visitor<F> {
        walk!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.0.is_here() {
                let value = param.val();
                let shape = value.dims();
                self.1(&self.0.1.name(), &shape, value.reshape([-1]));
            }
        }
    }
    module.visit(&mut Visitor(Of::new(kind), f));
}

fn names_of<M: Module>(module: &M, kind: Kind) -> Vec<String> {
    struct Collect(Of, Vec<String>);
    impl ModuleVisitor for Collect {
        walk!();
        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
            if self.0.is_here() {
                self.1.push(self.0.1.name());
            }
        }
    }
    let mut collect = Collect(Of::new(kind), Vec::new());
    module.visit(&mut collect);
    collect.1
}

fn replace_all<M: Module, F: Replace>(module: M, kind: Kind, f: F) -> (M, F) {
    struct Mapper<F>(Of, usize, F);
    impl<F: Replace> ModuleMapper for Mapper<F> {
        walk!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !self.0.is_here() {
                return param;
            }
            let (id, value, _) = param.consume();
            let require_grad = value.is_require_grad();
            let value = self.2.replace(self.1, value);
            self.1 += 1;
            Param::initialized(id, value.set_require_grad(require_grad))
        }
    }
    let mut mapper = Mapper(Of::new(kind), 0, f);
    let module = module.map(&mut mapper);
    (module, mapper.2)
}

/// Calls `f` with each parameter's name and value, flattened to `[n]`, and its shape, in registration order.
pub fn visit<M: Module>(module: &M, f: impl FnMut(&str, &[usize], Tensor<1>)) {
    visit_all(module, Kind::Parameter, f);
}

/// The names of all parameters, in registration order.
pub fn names<M: Module>(module: &M) -> Vec<String> {
    names_of(module, Kind::Parameter)
}

/// The names of all [buffers](super::Buffer), in registration order.
pub fn buffers<M: Module>(module: &M) -> Vec<String> {
    names_of(module, Kind::Buffer)
}

/// What Burn tells the buffers apart by, in registration order.
pub(super) fn buffer_ids<M: Module>(module: &M) -> Vec<ParamId> {
    struct Collect(Of, Vec<ParamId>);
    impl ModuleVisitor for Collect {
        walk!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.0.is_here() {
                self.1.push(param.id);
            }
        }
    }
    let mut collect = Collect(Of::new(Kind::Buffer), Vec::new());
    module.visit(&mut collect);
    collect.1
}

/// The value of each buffer, without autodiff, flattened to `[n]`, in registration order.
pub fn buffer_values<M: Module>(module: &M) -> Vec<Tensor<1>> {
    let mut values = Vec::new();
    visit_all(module, Kind::Buffer, |_, _, value| values.push(value.without_autodiff()));
    values
}

/// Replaces every parameter by what `f` gives for its index in registration order and the parameter itself.
pub fn replace<M: Module, F: Replace>(module: M, f: F) -> (M, F) {
    replace_all(module, Kind::Parameter, f)
}

/// Replaces every buffer, as [`replace`] does the parameters.
pub fn replace_buffers<M: Module, F: Replace>(module: M, f: F) -> (M, F) {
    replace_all(module, Kind::Buffer, f)
}

/// Replaces the values of buffers by what `f` makes of them and of their indices in registration order. `f` is given plain tensors,
/// without autodiff, each flattened to `[n]`.
pub fn map_buffers<M: Module>(module: M, f: impl FnMut(usize, Tensor<1>) -> Tensor<1>) -> M {
    struct Flat<F>(F);
    impl<F: FnMut(usize, Tensor<1>) -> Tensor<1>> Replace for Flat<F> {
        fn replace<const D: usize>(&mut self, index: usize, value: Tensor<D>) -> Tensor<D> {
            let new = (self.0)(index, value.clone().without_autodiff().reshape([-1])).reshape(value.dims());
            if value.is_autodiff() { Tensor::from_inner(new) } else { new }
        }
    }
    replace_buffers(module, Flat(f)).0
}

/// How [`replace`] makes a new value of an old one, of any rank.
pub trait Replace {
    /// The new value of tensor `index`: a leaf of the same shape and device.
    fn replace<const D: usize>(&mut self, index: usize, value: Tensor<D>) -> Tensor<D>;
}

/// Replaces the values of all parameters at once by what `f` makes of them. `f` is given plain tensors, without autodiff, each flattened to `[n]`, in
/// registration order. While it runs the module is without them, so that values which nobody else holds can be changed in place.
pub fn map_values<M: Module>(module: &mut M, f: impl FnOnce(Vec<Tensor<1>>) -> Vec<Tensor<1>>) {
    /// A parameter without its value.
    struct Place {
        shape: Shape,
        is_autodiff: bool,
        requires_grad: bool,
    }
    struct Take(Of, Vec<Place>, Vec<Tensor<1>>);
    impl ModuleMapper for Take {
        walk!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !self.0.is_here() {
                return param;
            }
            let (id, value, _) = param.consume();
            let (shape, device, requires_grad) = (value.shape(), value.device(), value.is_require_grad());
            self.1.push(Place { shape: shape.clone(), is_autodiff: device.is_autodiff(), requires_grad });
            self.2.push(value.inner().reshape([-1]));
            // An empty tensor would do too, but takes ten times as many allocations.
            let nothing = |_: &Device, _| unreachable!("a parameter is read while its value is elsewhere");
            Param::uninitialized(id, nothing, device, requires_grad, shape)
        }
    }
    struct Put(Of, std::iter::Zip<std::vec::IntoIter<Place>, std::vec::IntoIter<Tensor<1>>>);
    impl ModuleMapper for Put {
        walk!();
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if !self.0.is_here() {
                return param;
            }
            let (Place { shape, is_autodiff, requires_grad }, value) =
                self.1.next().expect("a value for each parameter");
            // A leaf, whatever it was computed from.
            let value = value.inner().reshape(shape);
            let value = if is_autodiff { Tensor::from_inner(value).set_require_grad(requires_grad) } else { value };
            Param::initialized(param.id, value)
        }
    }
    let mut take = Take(Of::new(Kind::Parameter), Vec::new(), Vec::new());
    let hollow = module.clone().map(&mut take);
    *module = hollow.clone();
    let Take(_, places, values) = take;
    let values = f(values);
    assert_eq!(values.len(), places.len(), "values of as many parameters");
    *module = hollow.map(&mut Put(Of::new(Kind::Parameter), places.into_iter().zip(values)));
}

fn all_to_host<M: Module>(module: &M, kind: Kind) -> Result<Vec<(String, HostTensor)>> {
    let mut out = Vec::new();
    visit_all(module, kind, |name, shape, value| {
        let values = device::values(value);
        out.push(values.map(|values| (name.to_string(), HostTensor { shape: shape.to_vec(), values })));
    });
    out.into_iter().collect()
}

/// Every parameter with its name, copied to the host.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when a device cannot give them.
pub fn to_host<M: Module>(module: &M) -> Result<Vec<(String, HostTensor)>> {
    all_to_host(module, Kind::Parameter)
}

/// Every [buffer](super::Buffer) with its name, copied to the host.
///
/// # Errors
/// As [`to_host`].
pub fn buffers_to_host<M: Module>(module: &M) -> Result<Vec<(String, HostTensor)>> {
    all_to_host(module, Kind::Buffer)
}

/// Every parameter and every [buffer](super::Buffer) with its name, copied to the host, in registration order.
///
/// # Errors
/// As [`to_host`].
pub fn state_to_host<M: Module>(module: &M) -> Result<Vec<(String, HostTensor)>> {
    all_to_host(module, Kind::Either)
}

fn all_from_host<M: Module>(module: M, kind: Kind, get: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>) -> Result<M> {
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
    let names = names_of(&module, kind);
    let (module, load) = replace_all(module, kind, Load(names, get, Ok(())));
    load.2.map(|()| module)
}

/// The module with the parameters that `get` gives for each name and shape.
///
/// # Errors
/// The first one that `get` returns.
pub fn from_host<M: Module>(module: M, get: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>) -> Result<M> {
    all_from_host(module, Kind::Parameter, get)
}

/// The module with the [buffers](super::Buffer) that `get` gives for each name and shape.
///
/// # Errors
/// The first one that `get` returns.
pub fn buffers_from_host<M: Module>(module: M, get: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>) -> Result<M> {
    all_from_host(module, Kind::Buffer, get)
}

/// The gradient of each parameter in registration order, flattened to `[n]`; `None` where the loss does not depend on it.
pub fn gradients<M: Module>(module: &M, gradients: &Gradients) -> Vec<Option<Tensor<1>>> {
    struct Collect<'a>(Of, &'a Gradients, Vec<Option<Tensor<1>>>);
    impl ModuleVisitor for Collect<'_> {
        walk!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.0.is_here() {
                self.2.push(param.val().grad(self.1).map(|gradient| gradient.reshape([-1])));
            }
        }
    }
    let mut collect = Collect(Of::new(Kind::Parameter), gradients, Vec::new());
    module.visit(&mut collect);
    collect.2
}

/// How many numbers the parameters hold.
pub fn count<M: Module>(module: &M) -> usize {
    struct Count(Of, usize);
    impl ModuleVisitor for Count {
        walk!();
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.0.is_here() {
                self.1 += param.shape().num_elements();
            }
        }
    }
    let mut count = Count(Of::new(Kind::Parameter), 0);
    module.visit(&mut count);
    count.1
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use ncsn_kernels::ops::optimizer::{self, Parameter};
    use ncsn_kernels::optimizer::{Rule, Step};

    use super::*;
    use crate::net::{Buffer, Mlp};
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
    fn a_buffer_has_a_name_and_a_value_but_is_no_parameter() {
        #[derive(Module, Debug)]
        struct Spectral {
            weight_orig: Param<Tensor<2>>,
            weight_u: Buffer<1>,
        }
        #[derive(Module, Debug)]
        struct Net {
            conv: Spectral,
        }
        let device = Device::flex().autodiff();
        let param = Param::from_tensor(Tensor::ones([2, 3], &device));
        let conv = Spectral { weight_orig: param, weight_u: Buffer::new(Tensor::zeros([2], &device)) };
        let mut net = Net { conv };
        assert_eq!((names(&net), count(&net)), (vec!["conv.weight_orig".to_string()], 6));
        assert_eq!(buffers(&net), ["conv.weight_u"]);
        net = buffers_from_host(net, |name, shape| {
            assert_eq!((name, shape), ("conv.weight_u", &[2][..]));
            Ok(vec![3.0, 4.0])
        })
        .expect("a value");
        // What moves parameters passes it by.
        map_values(&mut net, |values| {
            assert_eq!(values.len(), 1);
            values.into_iter().map(|value| value * 2.0).collect()
        });
        let loss = (net.conv.weight_orig.val().sum_dim(1).reshape([2]) * net.conv.weight_u.val()).sum();
        assert_eq!(gradients(&net, &loss.backward()).len(), 1);
        let state = state_to_host(&net).expect("values");
        assert_eq!(
            state.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["conv.weight_orig", "conv.weight_u"]
        );
        let expected = HostTensor { shape: vec![2], values: vec![3.0, 4.0] };
        for net in [net.clone(), net.valid(), net.valid().train()] {
            assert_eq!(buffers_to_host(&net).expect("values"), [("conv.weight_u".to_string(), expected.clone())]);
            assert!(!net.conv.weight_u.val().is_require_grad());
        }
        assert_eq!(to_host(&net).expect("values")[0].1.values, [2.0; 6]);
    }
}

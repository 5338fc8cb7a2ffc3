//! What programs put before the names of all weights: `module.` of `DataParallel`, `_orig_mod.` of `torch.compile`, a
//! field's name.

use std::collections::HashMap;

use crate::net::NetworkConfig;

/// Prefixes that tell nothing of the network, taken off whatever the network is.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];
/// The most parts of names that are looked at.
const MAX_PARTS: usize = 8;

/// The length of the dotted prefix that all names have and that is no part of them: the one behind which a network that
/// we know begins, else the one made of [`WRAPPERS`].
pub(super) fn prefix_len<'n>(tensors: impl Iterator<Item = (&'n str, &'n [usize])>) -> usize {
    let shapes: HashMap<&str, &[usize]> = tensors.collect();
    let Some(first) = shapes.keys().next().copied() else { return 0 };
    let is_known = |prefix: &str| {
        let shape = |name: &str| shapes.get(&*format!("{prefix}{name}")).map(|shape| shape.to_vec());
        NetworkConfig::is_known(shape)
    };
    let (mut at, mut of_wrappers) = (0, 0);
    for _ in 0..MAX_PARTS {
        if is_known(&first[..at]) {
            return at;
        }
        let Some(n) = first[at..].find('.') else { break };
        let part = &first[at..=at + n];
        if !shapes.keys().all(|name| name[at..].starts_with(part) && name.len() > at + part.len()) {
            break;
        }
        if of_wrappers == at && WRAPPERS.contains(&part) {
            of_wrappers += part.len();
        }
        at += part.len();
    }
    if is_known(&first[..at]) { at } else { of_wrappers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Architecture, Dimensions, Network, params};
    use crate::noise::Noise;

    #[track_caller]
    fn prefix(names: &[(String, Vec<usize>)]) -> &str {
        &names[0].0[..prefix_len(names.iter().map(|(name, shape)| (name.as_str(), &shape[..])))]
    }

    #[test]
    fn whatever_stands_before_a_known_network_is_taken_off_and_nothing_of_its_own_names() {
        // The names of the last six all begin alike by themselves, or those of a part do.
        for (architecture, width, size) in [
            (Architecture::Ncsn, 2, 8),
            (Architecture::Baseline, 2, 8),
            (Architecture::NcsnV2, 2, 8),
            (Architecture::NcsnV2Deepest, 2, 8),
            (Architecture::ResNetScore, 2, 8),
            (Architecture::UNetScore, 2, 16),
            (Architecture::UNetResScore, 2, 32),
            (Architecture::MlpScore, 1024, 10),
            (Architecture::Ddpm, 32, 8),
            (Architecture::NcsnPp, 8, 8),
        ] {
            let config = architecture.network(Dimensions { channels: 1, width, size, n_levels: 2 });
            let device = burn::tensor::Device::flex();
            let net = Network::new(&config, &mut Noise::new(0).stream("init", 0), &device).expect("a network");
            let own = params::state_to_host(&net).expect("values");
            for expected in [
                "",
                "module.",
                "_orig_mod.",
                "module._orig_mod.",
                "model.",
                "net.",
                "network.",
                "module.module.",
                "a.b.c.",
            ] {
                let names: Vec<_> =
                    own.iter().map(|(name, t)| (format!("{expected}{name}"), t.shape.clone())).collect();
                assert_eq!(prefix(&names), expected, "{architecture:?}");
            }
        }
    }

    #[test]
    fn of_an_unknown_network_only_wrappers_are_taken_off() {
        let names = |names: &[&str]| names.iter().map(|name| (name.to_string(), vec![2])).collect::<Vec<_>>();
        assert_eq!(prefix(&names(&["module.weight", "module.bias"])), "module.");
        assert_eq!(prefix(&names(&["module._orig_mod.a.weight", "module._orig_mod.a.bias"])), "module._orig_mod.");
        assert_eq!(prefix(&names(&["a.module.weight", "a.module.bias"])), "");
        assert_eq!(prefix(&names(&["module.weight", "other.bias"])), "");
        assert_eq!(prefix(&names(&["module.", "module.a"])), "");
        assert_eq!(prefix(&names(&["module.x"])), "module.");
        assert_eq!(prefix(&names(&["."])), "");
        assert_eq!(prefix(&names(&[&"a.".repeat(100_000)])), "");
        assert_eq!(prefix_len(std::iter::empty()), 0);
    }
}

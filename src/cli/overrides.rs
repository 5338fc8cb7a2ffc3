//! How samples are drawn, where that is not as the run says.

use clap::Args;

use ncsn::config::{Config, Sampling};
use ncsn::{Error, Result};

/// Other values of a run's `sampling`.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct Overrides {
    /// Another value of a key of `sampling` than the run's, such as sampling.method=ode; may be repeated
    #[arg(long, value_name = "sampling.KEY=VALUE")]
    set: Vec<String>,
    /// Draw by a fast solver: heun, ddim, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, …; short for --set sampling.method=solver and
    /// --set sampling.solver=NAME
    #[arg(long, value_name = "NAME")]
    solver: Option<String>,
    /// Steps of the solver [default: 18], or of a chain of a network that is told any time; short for --set sampling.n_steps=N
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Langevin steps at each noise level, instead of the run's
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    n_steps_each: Option<u64>,
    /// Step size at the smallest level, instead of the run's
    #[arg(long, value_name = "ALPHA")]
    step_lr: Option<f64>,
}

impl Overrides {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `config` with these values.
    pub fn of(&self, config: &Config) -> Result<Config> {
        let mut config = config.with_sampling(&self.sets())?;
        let Sampling { n_steps_each, step_lr, .. } = &mut config.sampling;
        *n_steps_each = self.n_steps_each.map_or(*n_steps_each, |n| n as usize);
        *step_lr = self.step_lr.map_or(Ok(*step_lr), |step_lr| positive("--step-lr", step_lr))?;
        Ok(config)
    }

    /// All that are keys with values.
    fn sets(&self) -> Vec<String> {
        let solver = self
            .solver
            .iter()
            .flat_map(|name| ["sampling.method=solver".to_string(), format!("sampling.solver={name}")]);
        let steps = self.steps.map(|n| format!("sampling.n_steps={n}"));
        solver.chain(steps).chain(self.set.iter().cloned()).collect()
    }

    /// The keys of `--set` with their values in `config`, for the name of a folder: `_KEY=VALUE` of each.
    pub fn named(&self, config: &Config) -> String {
        let sets = self.sets();
        let mut names: Vec<&str> = sets.iter().filter_map(|text| text.split_once('=').map(|(key, _)| key)).collect();
        names.sort_unstable();
        names.dedup();
        // Flags of their own name these.
        names.retain(|name| !["sampling.n_steps_each", "sampling.step_lr"].contains(name));
        let named = |name: &str| Some(format!("_{}={}", name.strip_prefix("sampling.")?, config.value(name)?));
        names.into_iter().filter_map(named).collect()
    }
}

/// `value`, if a step can be that long.
pub fn positive(flag: &str, value: f64) -> Result<f64> {
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(Error::Usage(format!("found {flag} {value}, expected a positive number")))
}

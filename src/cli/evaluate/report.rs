//! A number, and beside it all that it depends on.

use std::fmt::{self, Display, Write as _};

use ncsn::error::one_line;
use ncsn::sample::{AnnealedLangevin, Sampler};
use ncsn::{Error, Result};
use serde::{Deserialize, Serialize};

/// What the numbers of one call have in common.
#[derive(Clone, Debug, Serialize)]
pub struct Circumstances {
    /// Where the samples come from.
    pub samples: String,
    /// How many there are.
    pub n: usize,
    pub samples_sha256: String,
    /// What they are compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// Network and layer.
    pub extractor: String,
    /// The rule of resizing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<&'static str>,
    /// How floats became bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub u8: Option<String>,
    pub precision: String,
    pub weights_sha256: String,
    /// How the samples were drawn, if they were drawn here.
    #[serde(flatten)]
    pub drawn: Option<Drawn>,
}

/// The other side of a distance.
#[derive(Clone, Debug, Serialize)]
pub struct Reference {
    pub name: String,
    /// How many images; files of statistics do not always say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Of the file of statistics, or of the images.
    pub sha256: String,
    /// Whether that is a file of statistics.
    pub is_statistics: bool,
}

/// How samples were drawn.
#[derive(Clone, Debug, Serialize)]
pub struct Drawn {
    pub seed: u64,
    pub checkpoint: u64,
    pub ema: bool,
    /// The steps of the checkpoints whose scores are averaged, this one's first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ensemble: Vec<u64>,
    #[serde(flatten)]
    pub how: How,
    /// Steps of the chains, where they are not as many as the process has levels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_steps: Option<usize>,
}

/// The sampler and its settings.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum How {
    /// Annealed Langevin dynamics.
    Annealed {
        n_steps_each: usize,
        step_lr: f64,
        /// Whether a last step removes the noise that is left.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        denoise: bool,
    },
    /// Another one.
    Other(Sampler),
}

impl From<Sampler> for How {
    fn from(sampler: Sampler) -> Self {
        match sampler {
            Sampler::AnnealedLangevin(AnnealedLangevin { n_steps_each, step_lr, denoise }) => {
                Self::Annealed { n_steps_each, step_lr, denoise }
            }
            other => Self::Other(other),
        }
    }
}

impl Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            &Self::Annealed { n_steps_each, step_lr, denoise } => {
                AnnealedLangevin { n_steps_each, step_lr, denoise }.fmt(f)
            }
            Self::Other(sampler) => sampler.fmt(f),
        }
    }
}

/// One number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Number {
    /// `FID`, `FID-1k`, `IS`, …
    pub metric: String,
    pub value: f64,
    /// The deviation over splits or subsets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// What `value` is of: `10 splits`, `100 subsets of 1000`, `k = 3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Whether it compares the samples with the reference.
    #[serde(skip)]
    pub is_distance: bool,
    /// What one should know before quoting it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Number {
    /// The same, if it is a number: JSON has none that is not finite, and no table can rank one.
    pub fn finite(self) -> Result<Self> {
        match [Some(self.value), self.std].into_iter().flatten().find(|value| !value.is_finite()) {
            None => Ok(self),
            Some(value) => {
                let message =
                    format!("{} is {value}, expected a finite number: the features may be too large", self.metric);
                Err(Error::Usage(message))
            }
        }
    }

    /// Whether less is better.
    pub fn is_better_small(&self) -> bool {
        self.metric.starts_with("FID") || self.metric.starts_with("KID") || self.metric.ends_with("_loss")
    }

    /// The value, and its deviation.
    pub fn shown(&self) -> String {
        let std = self.std.map_or_else(String::new, |std| format!(" ± {}", shown(std)));
        format!("{}{std}", shown(self.value))
    }

    /// `FID 25.32  n=50000 vs 50000 (cifar10-train)  inception-2015-12-05/2048  resize=tf1  …`
    pub fn line(&self, all: &Circumstances) -> String {
        let mut line = format!("{} {}", self.metric, self.shown());
        let mut add = |text: fmt::Arguments<'_>| line.write_fmt(text).expect("writing to a string");
        if let Some(variant) = &self.variant {
            add(format_args!(" ({variant})"));
        }
        add(format_args!("  n={}", all.n));
        let reference = all.reference.as_ref().filter(|_| self.is_distance);
        if let Some(reference) = reference {
            match reference.n {
                Some(n) => add(format_args!(" vs {n} ({})", one_line(&reference.name))),
                None => add(format_args!(" vs {}", one_line(&reference.name))),
            }
        }
        add(format_args!("  {}", all.extractor));
        if let Some(resize) = all.resize {
            add(format_args!("  resize={resize}"));
        }
        if let Some(rule) = &all.u8 {
            add(format_args!("  u8={rule}"));
        }
        add(format_args!("  precision={}  weights {}", all.precision, digits(&all.weights_sha256)));
        if let Some(reference) = reference {
            let what = if reference.is_statistics { "stats" } else { "images" };
            add(format_args!("  {what} {}", digits(&reference.sha256)));
        }
        if let Some(drawn) = &all.drawn {
            let ema = if drawn.ema { " ema" } else { "" };
            let Drawn { seed, checkpoint, how, .. } = drawn;
            let n_steps = drawn.n_steps.map_or_else(String::new, |n| format!(" in {n} steps"));
            add(format_args!("  {how}{n_steps}  seed {seed}  checkpoint {checkpoint}{ema}"));
            if !drawn.ensemble.is_empty() {
                let steps: Vec<String> = drawn.ensemble.iter().map(u64::to_string).collect();
                add(format_args!("  ensemble {}", steps.join("+")));
            }
        }
        if !self.warnings.is_empty() {
            add(format_args!("  [{}]", self.warnings.join("; ")));
        }
        line
    }

    /// The same as one line of JSON.
    pub fn json<'a>(&'a self, all: &'a Circumstances) -> Line<'a> {
        Line { number: self, all }
    }
}

/// A number and what it depends on.
#[derive(Serialize)]
pub struct Line<'a> {
    #[serde(flatten)]
    number: &'a Number,
    #[serde(flatten)]
    all: &'a Circumstances,
}

/// Five digits, or more before the point.
fn shown(value: f64) -> String {
    let n_before = if value == 0.0 { 1 } else { value.abs().log10().floor() as i32 + 1 };
    format!("{value:.*}", (5 - n_before).clamp(1, 8) as usize)
}

/// The first eight digits of a digest.
fn digits(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circumstances() -> Circumstances {
        Circumstances {
            samples: "samples".into(),
            n: 50_000,
            samples_sha256: "fdeccfff".into(),
            reference: Some(Reference {
                name: "cifar10-train".into(),
                n: Some(50_000),
                sha256: "9c41aaaabbbb".into(),
                is_statistics: true,
            }),
            extractor: "inception-2015-12-05/2048".into(),
            resize: Some("tf1"),
            u8: Some("round".into()),
            precision: "highest".into(),
            weights_sha256: "6726825d0af5f729".into(),
            drawn: Some(Drawn {
                seed: 1234,
                checkpoint: 200_000,
                ema: true,
                ensemble: Vec::new(),
                how: Sampler::AnnealedLangevin(AnnealedLangevin::default()).into(),
                n_steps: None,
            }),
        }
    }

    #[test]
    fn a_number_is_printed_with_all_that_it_depends_on() {
        let number = |metric: &str, is_distance| Number {
            metric: metric.into(),
            value: 25.32,
            std: None,
            variant: None,
            is_distance,
            warnings: Vec::new(),
        };
        let mut of_ensemble = circumstances();
        if let Some(drawn) = &mut of_ensemble.drawn {
            (drawn.ema, drawn.ensemble) = (false, vec![200_000, 195_000]);
            let denoised = AnnealedLangevin { denoise: true, ..AnnealedLangevin::default() };
            drawn.how = Sampler::AnnealedLangevin(denoised).into();
            drawn.n_steps = Some(50);
        }
        let line = number("FID", true).line(&of_ensemble);
        assert!(
            line.ends_with("x0.00002 denoised in 50 steps  seed 1234  checkpoint 200000  ensemble 200000+195000"),
            "{line}"
        );
        assert_eq!(
            number("FID", true).line(&circumstances()),
            "FID 25.320  n=50000 vs 50000 (cifar10-train)  inception-2015-12-05/2048  resize=tf1  u8=round  \
             precision=highest  weights 6726825d  stats 9c41aaaa  langevin 100x0.00002  seed 1234  checkpoint 200000 ema"
        );
        let score = Number {
            std: Some(0.1),
            variant: Some("10 splits".into()),
            warnings: vec!["few".into(), "old".into()],
            ..number("IS", false)
        };
        let found = score.line(&Circumstances { drawn: None, resize: None, u8: None, ..circumstances() });
        assert_eq!(
            found,
            "IS 25.320 ± 0.10000 (10 splits)  n=50000  inception-2015-12-05/2048  precision=highest  weights 6726825d  \
             [few; old]"
        );
    }

    #[test]
    fn the_line_of_json_has_full_digests() {
        let number = Number {
            metric: "KID".into(),
            value: 0.01,
            std: Some(0.001),
            variant: Some("100 subsets of 1000".into()),
            is_distance: true,
            warnings: Vec::new(),
        };
        let json = serde_json::to_value(number.json(&circumstances())).expect("JSON");
        assert_eq!(json["metric"], "KID");
        assert_eq!(json["weights_sha256"], "6726825d0af5f729");
        assert_eq!(json["reference"]["sha256"], "9c41aaaabbbb");
        assert_eq!(json["checkpoint"], 200_000);
    }

    #[test]
    fn a_number_that_is_not_finite_is_an_error() {
        let number = |value, std| Number {
            metric: "FID-small".into(),
            value,
            std,
            variant: None,
            is_distance: true,
            warnings: Vec::new(),
        };
        assert!(number(-1e-9, Some(0.0)).finite().is_ok());
        for (value, std, found) in
            [(f64::NEG_INFINITY, None, "-inf"), (f64::NAN, None, "NaN"), (1.0, Some(f64::INFINITY), "inf")]
        {
            let message = number(value, std).finite().expect_err("not finite").to_string();
            assert!(message.starts_with(&format!("FID-small is {found}, expected a finite number")), "{message}");
        }
    }

    #[test]
    fn names_from_outside_cannot_steer_a_terminal() {
        let mut all = circumstances();
        all.reference = all.reference.map(|reference| Reference { name: "a\u{1b}[2Jb\nc".into(), ..reference });
        let (metric, value) = ("FID".into(), 1.0);
        let number = Number { metric, value, std: None, variant: None, is_distance: true, warnings: Vec::new() };
        let line = number.line(&all);
        assert!(line.contains("(a\\u{1b}[2Jb\\nc)") && !line.contains(char::is_control), "{line}");
    }

    #[test]
    fn numbers_have_five_digits() {
        let cases = [(0.0, "0.0000"), (25.321_456, "25.321"), (0.012_345_678, "0.012346"), (123_456.78, "123456.8")];
        for (value, expected) in cases.into_iter().chain([(-1e-12, "-0.00000000"), (9.999_999, "10.0000")]) {
            assert_eq!(shown(value), expected);
        }
    }
}

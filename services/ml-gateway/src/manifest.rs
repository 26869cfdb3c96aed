//! `model.toml`: what a version of a model takes, answers, and is for.

use std::{collections::BTreeMap, collections::HashSet, path::Path};

use serde::Deserialize;

/// Bytes of a manifest.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 1024 * 1024;

/// Features of a model.
const INPUTS_MAX: usize = 1_024;

/// A version as its folder describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) owner: String,
    pub(crate) card: String,
    pub(crate) training_data_sha256: String,
    /// Of `model.onnx`, in hexadecimal; empty when the model is served elsewhere.
    #[serde(default)]
    pub(crate) sha256: String,
    /// Where the model is served, `kserve+grpc://host:port/model`; without it `model.onnx` beside this file is run here.
    #[serde(default)]
    pub(crate) backend: Option<String>,
    pub(crate) output: Output,
    /// From the score to what it means; without it the score is that already.
    #[serde(default)]
    pub(crate) calibration: Option<Calibration>,
    #[serde(default)]
    pub(crate) interval: Option<Interval>,
    #[serde(default)]
    pub(crate) metrics: BTreeMap<String, f64>,
    /// How the scores of the training rows lie.
    pub(crate) score_histogram: Histogram,
    pub(crate) inputs: Vec<Input>,
}

/// The tensor that holds the score.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Output {
    pub(crate) name: String,
    /// Its column; 0 for a tensor of one.
    pub(crate) column: usize,
    /// A score outside is a fault of the model.
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
}

/// Points of a curve; straight lines between them, level outside.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Calibration {
    x: Vec<f64>,
    y: Vec<f64>,
}

/// Points of two curves around the score.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Interval {
    pub(crate) level: f64,
    x: Vec<f64>,
    lower: Vec<f64>,
    upper: Vec<f64>,
}

/// Shares of the training rows: below the first edge, between edges, above the last.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Histogram {
    edges: Vec<f64>,
    shares: Vec<f64>,
}

/// One feature.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
    /// Stands in for a missing value.
    pub(crate) default: f64,
    pub(crate) about: String,
    /// How the values of the training rows lie.
    pub(crate) histogram: Histogram,
}

// === impl Manifest ===

impl Manifest {
    /// Reads the manifest of `model/version`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(text: &str, model: &str, version: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        manifest.check(model, version)?;
        Ok(manifest)
    }

    fn check(&self, model: &str, version: &str) -> Result<(), String> {
        if self.name != model || self.version != version {
            let folder = Path::new(model).join(version);
            return Err(format!(
                "says it is {}/{}, but lies in {}",
                self.name,
                self.version,
                folder.display()
            ));
        }
        let output = &self.output;
        if !(output.minimum.is_finite() && output.maximum.is_finite() && output.minimum < output.maximum) {
            return Err("output: minimum must be less than maximum, both finite".into());
        }
        if self.inputs.is_empty() || self.inputs.len() > INPUTS_MAX {
            return Err(format!("inputs: there must be 1 to {INPUTS_MAX}"));
        }
        let mut names = HashSet::new();
        for input in &self.inputs {
            if !names.insert(input.name.as_str()) {
                return Err(format!("inputs: {} is there twice", input.name));
            }
            input.check().map_err(|error| format!("inputs: {}: {error}", input.name))?;
        }
        if let Some(Calibration { x, y }) = &self.calibration {
            check_curve(x, &[y]).map_err(|error| format!("calibration: {error}"))?;
        }
        if let Some(Interval { level, x, lower, upper }) = &self.interval {
            check_curve(x, &[lower, upper]).map_err(|error| format!("interval: {error}"))?;
            if !(0.0..=1.0).contains(level) || lower.iter().zip(upper).any(|(lower, upper)| lower > upper) {
                return Err("interval: level is a share, and no lower end is above its upper one".into());
            }
        }
        self.score_histogram.check().map_err(|error| format!("score_histogram: {error}"))
    }

    /// What a score means: a probability, or a value.
    pub(crate) fn calibrated(&self, score: f64) -> f64 {
        self.calibration.as_ref().map_or(score, |curve| interpolate(&curve.x, &curve.y, score))
    }
}

impl Input {
    fn check(&self) -> Result<(), String> {
        let finite = [self.minimum, self.maximum, self.default].iter().all(|value| value.is_finite());
        if !finite || self.minimum > self.default || self.default > self.maximum {
            return Err("minimum, default and maximum must be finite and in this order".into());
        }
        self.histogram.check()
    }
}

impl Interval {
    /// The ends around a score.
    pub(crate) fn around(&self, score: f64) -> (f64, f64) {
        (interpolate(&self.x, &self.lower, score), interpolate(&self.x, &self.upper, score))
    }
}

impl Histogram {
    /// The share of each bin.
    pub(crate) fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// The bin of a value: an edge belongs to the bin below it.
    pub(crate) fn bin(&self, value: f64) -> usize {
        self.edges.partition_point(|edge| *edge < value)
    }

    fn check(&self) -> Result<(), String> {
        if self.shares.len() != self.edges.len() + 1 {
            return Err("a histogram has one more share than edges".into());
        }
        let ordered = self.edges.windows(2).all(|pair| pair[0] < pair[1]);
        let shares = self.shares.iter().all(|share| (0.0..=1.0).contains(share));
        let whole = (self.shares.iter().sum::<f64>() - 1.0).abs() < 1e-3;
        if ordered && shares && whole {
            return Ok(());
        }
        Err("a histogram's edges rise, and its shares add up to one".into())
    }
}

fn check_curve(x: &[f64], curves: &[&Vec<f64>]) -> Result<(), String> {
    if x.is_empty() || curves.iter().any(|curve| curve.len() != x.len()) {
        return Err("needs as many points of each kind, at least one".into());
    }
    if x.iter().chain(curves.iter().copied().flatten()).any(|value| !value.is_finite()) {
        return Err("its points must be finite".into());
    }
    if x.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err("x must rise".into());
    }
    Ok(())
}

fn interpolate(x: &[f64], y: &[f64], at: f64) -> f64 {
    let above = x.partition_point(|&point| point <= at);
    if above == 0 {
        return y[0];
    }
    if above == x.len() {
        return y[above - 1];
    }
    let share = (at - x[above - 1]) / (x[above] - x[above - 1]);
    y[above - 1] + share * (y[above] - y[above - 1])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const GOOD: &str = r#"
name = "m"
version = "1"
owner = "o"
card = "c"
training_data_sha256 = "d"
[output]
name = "y"
column = 0
minimum = 0
maximum = 1
[calibration]
x = [0.2, 0.4, 0.8]
y = [0.0, 0.5, 0.6]
[score_histogram]
edges = [0.5]
shares = [0.9, 0.1]
[[inputs]]
name = "a"
unit = "seconds"
minimum = 0
maximum = 10
default = 1
about = "something"
histogram = { edges = [], shares = [1.0] }
"#;

    #[test]
    fn a_curve_is_straight_between_its_points_and_level_outside() {
        let manifest = Manifest::parse(GOOD, "m", "1").unwrap();
        for (score, meant) in
            [(0.0, 0.0), (0.2, 0.0), (0.3, 0.25), (0.4, 0.5), (0.6, 0.55), (0.8, 0.6), (1.0, 0.6)]
        {
            assert!((manifest.calibrated(score) - meant).abs() < 1e-12, "{score}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (old, new, told) in [
            ("name = \"m\"", "name = \"n\"", "says it is n/1"),
            ("default = 1\n", "default = 11\n", "a: minimum, default and maximum"),
            ("maximum = 10", "maximum = inf", "a: minimum, default and maximum"),
            ("x = [0.2, 0.4, 0.8]", "x = [0.2, 0.2, 0.8]", "calibration: x must rise"),
            ("x = [0.2, 0.4, 0.8]", "x = [0.2, 0.4]", "calibration: needs as many"),
            ("y = [0.0, 0.5, 0.6]", "y = [0.0, nan, 0.6]", "calibration: its points must be finite"),
            ("shares = [0.9, 0.1]", "shares = [0.9, 0.2]", "score_histogram"),
            ("owner = \"o\"", "owner = \"o\"\ncolour = \"red\"", "colour"),
            ("[[inputs]]", "[[other]]", "other"),
        ] {
            assert!(GOOD.contains(old));
            let error = Manifest::parse(&GOOD.replace(old, new), "m", "1").unwrap_err();
            assert!(error.contains(told), "{new}: {error}");
        }
        let twice = format!("{GOOD}{}", &GOOD[GOOD.find("[[inputs]]").unwrap()..]);
        assert!(Manifest::parse(&twice, "m", "1").unwrap_err().contains("a is there twice"));
    }
}

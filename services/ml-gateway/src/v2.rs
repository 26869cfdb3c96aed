//! The Open Inference Protocol, whichever way it comes: a model takes one tensor of features, and answers the tensor of
//! its file, and `calibrated`, and where it has an interval `lower` and `upper`.

use std::sync::Arc;

use service::{Error, Result};

use crate::{
    backend::{INPUT, Rows},
    model::Route,
    score::{self, Answer, Api},
    tensor::{FP32, FP64},
    version::Version,
};

pub(crate) const SERVER: &str = "attribution-ml-gateway";
pub(crate) const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

const CALIBRATED: &str = "calibrated";
const LOWER: &str = "lower";
const UPPER: &str = "upper";

/// A tensor that came in, its data read as 32-bit floats.
pub(crate) struct InputTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) values: Vec<f32>,
}

/// A tensor that goes out.
#[derive(Debug, PartialEq)]
pub(crate) struct OutputTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<i64>,
    pub(crate) data: Data,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Data {
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
}

/// What a model takes or answers.
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) datatype: &'static str,
    pub(crate) shape: Vec<i64>,
}

// === impl Api ===

impl Api {
    /// Runs tensors through a model and answers the outputs that are wanted, all when none is named.
    ///
    /// # Errors
    /// 400 by the name of what is wrong, and what scoring says.
    pub(crate) async fn infer(
        &self,
        route: Route,
        inputs: Vec<InputTensor>,
        wanted: &[String],
    ) -> Result<(Arc<Version>, Vec<OutputTensor>)> {
        let (Some(input), 1) = (inputs.first(), inputs.len()) else {
            return Err(invalid("inputs", format!("there must be one, {INPUT}")));
        };
        self.known(&route.first, wanted)?;
        let Answer { version, rows, scored } =
            score::answer(route, |version| self.rows(version, input)).await?;
        let count = rows.shape()[0];
        let manifest = &version.manifest;
        let column = |name: &str, values: Vec<f64>| OutputTensor {
            name: name.to_owned(),
            shape: vec![count],
            data: Data::Fp64(values),
        };
        let calibrated = scored.scores.iter().map(|&score| manifest.calibrated(score)).collect();
        let mut answer = vec![column(CALIBRATED, calibrated)];
        if let Some(interval) = &manifest.interval {
            let (lower, upper) = scored.scores.iter().map(|&score| interval.around(score)).unzip();
            answer.extend([column(LOWER, lower), column(UPPER, upper)]);
        }
        let name = manifest.output.name.clone();
        let tensor =
            OutputTensor { name, shape: scored.tensor.shape, data: Data::Fp32(scored.tensor.values) };
        answer.insert(0, tensor);
        if !wanted.is_empty() {
            answer.retain(|output| wanted.contains(&output.name));
        }
        Ok((version, answer))
    }

    /// Refuses outputs that a version has not.
    fn known(&self, version: &Version, wanted: &[String]) -> Result<()> {
        let known = outputs(version);
        for name in wanted {
            if !known.iter().any(|output| output.name == *name) {
                let names: Vec<_> = known.iter().map(|output| output.name.as_str()).collect();
                let reason = format!("there is no {name}; there are {}", names.join(", "));
                return Err(invalid("outputs", reason));
            }
        }
        Ok(())
    }

    fn rows(&self, version: &Version, input: &InputTensor) -> Result<Rows> {
        if input.name != INPUT {
            return Err(invalid("inputs", format!("there is no {}; there is {INPUT}", input.name)));
        }
        let width = version.width();
        let count = match input.shape[..] {
            [count, columns] if columns == width as i64 => usize::try_from(count).ok(),
            _ => None,
        };
        let count = count.ok_or_else(|| {
            invalid(INPUT, format!("its shape is {:?}; [rows, {width}] is taken", input.shape))
        })?;
        self.check_count(count)?;
        if input.values.len() != count * width {
            let reason = format!("has {} values; its shape says {}", input.values.len(), count * width);
            return Err(invalid(INPUT, reason));
        }
        Ok(Rows { values: input.values.clone(), width })
    }
}

/// The tensors that a version takes.
pub(crate) fn inputs(version: &Version) -> Vec<Described> {
    vec![Described { name: INPUT.into(), datatype: FP32, shape: vec![-1, version.width() as i64] }]
}

/// The tensors that a version answers.
pub(crate) fn outputs(version: &Version) -> Vec<Described> {
    let manifest = &version.manifest;
    let column = |name: &str| Described { name: name.into(), datatype: FP64, shape: vec![-1] };
    let name = manifest.output.name.clone();
    let mut outputs = vec![Described { name, datatype: FP32, shape: vec![-1, -1] }, column(CALIBRATED)];
    if manifest.interval.is_some() {
        outputs.extend([column(LOWER), column(UPPER)]);
    }
    outputs
}

pub(crate) fn invalid(field: &str, reason: String) -> Error {
    // Clients of the protocol see the detail alone.
    Error::invalid(format!("{field}: {reason}")).field(field, reason)
}

// === impl Data ===

impl Data {
    pub(crate) fn datatype(&self) -> &'static str {
        match self {
            Self::Fp32(_) => FP32,
            Self::Fp64(_) => FP64,
        }
    }

    /// Little-endian.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Fp32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::Fp64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

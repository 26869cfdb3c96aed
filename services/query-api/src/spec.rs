//! From a report's question, as either protocol sends it, to what the warehouse answers: every rule of its content.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use model::{Model as RuleModel, Transform, duration, rules::WINDOW_MILLIS_MAX};
use proto::query::{self, PathTransform, RunReportRequest, model::Model, path_transform};
use service::{Error, Tenant};
use warehouse::{
    DIMENSIONS_MAX, Dimension, FILTER_VALUES_MAX, FILTERS_MAX, Filter, MODELS_MAX, Measure, ModelSpec,
    ORDER_KEYS_MAX, OrderBy, OrderField, ROWS_MAX, ReportSpec, TRANSFORMS_MAX,
};

use crate::{
    answer::Columns,
    error,
    fault::Faults,
    parse::{self, clip},
};

/// The rows of an answer when the caller names no number.
pub(crate) const ROWS_DEFAULT: u32 = 1_000;

/// The longest value of a filter or a transform; no field of an event is longer.
pub(crate) const FILTER_VALUE_BYTES_MAX: usize = 256;

/// The value of `consistency` that waits for what was acknowledged.
pub(crate) const CONSISTENCY_ACKNOWLEDGED: &str = "acknowledged";

/// The measures when the caller names none.
pub(crate) const MEASURES_DEFAULT: [Measure; 2] = [Measure::Conversions, Measure::Value];

/// No event is older than the year 2000 or much younger than now, so bounds of a report outside of 1970 to 2200 are
/// moved there: the answer is the same, and every engine can compare them.
const TIME_MILLIS_MAX: i64 = 7_258_118_400_000;

/// A question that passed every rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Question {
    /// What to ask the warehouse; `as_of_micros` is still to be filled in.
    pub(crate) spec: ReportSpec,
    /// The models with all their parameters.
    pub(crate) models: Vec<query::Model>,
    /// As it was asked for, if it was.
    pub(crate) as_of: Option<Timestamp>,
    /// Whether to wait for what was acknowledged before.
    pub(crate) acknowledged: bool,
}

/// Checks a question of a tenant.
///
/// # Errors
/// Invalid, naming every field that is wrong, at most as many as one error holds.
pub(crate) fn check(request: &RunReportRequest, tenant: &Tenant) -> Result<Question, Error> {
    let mut faults = Faults::default();
    let dimensions = dimensions(&mut faults, &request.dimensions);
    let measures = measures(&mut faults, &request.measures);
    let (from_millis, to_millis) = interval(&mut faults, request, &tenant.time_zone);
    let models = models(&mut faults, &request.models, &dimensions);
    let as_of = given(&request.as_of).and_then(|text| faults.keep("as_of", instant(text)));
    let lookback_millis =
        given(&request.lookback).and_then(|text| faults.keep("lookback", duration::parse_millis(text)));
    let limit = request.limit.unwrap_or(ROWS_DEFAULT);
    if !(1..=ROWS_MAX).contains(&limit) {
        faults.add("limit", format!("must be a whole number from 1 to {ROWS_MAX}"));
    }
    if !["", CONSISTENCY_ACKNOWLEDGED].contains(&request.consistency.as_str()) {
        faults.add("consistency", format!("must be {CONSISTENCY_ACKNOWLEDGED}, or absent"));
    }
    let order_by = order_by(&mut faults, &request.order_by, &dimensions, &measures);
    let spec = ReportSpec {
        tenant: tenant.name.to_string(),
        from_millis,
        to_millis,
        filters: filters(&mut faults, &request.filters),
        transforms: transforms(&mut faults, &request.path_transforms),
        models,
        dimensions,
        measures,
        lookback_millis,
        order_by,
        limit,
        as_of_micros: 0,
        rules: tenant.rules.as_ref().clone(),
    };
    let models = spec.models.iter().map(|model| with_parameters(*model)).collect();
    let acknowledged = request.consistency == CONSISTENCY_ACKNOWLEDGED;
    let question = faults.or(Question { spec, models, as_of, acknowledged })?;
    // What is left: what a model cannot be asked together with.
    question.spec.check().map_err(error::warehouse)?;
    Ok(question)
}

// === impl Question ===

impl Question {
    /// What the rows show.
    pub(crate) fn columns(&self) -> Columns {
        Columns {
            dimensions: self.spec.dimensions.iter().map(|dimension| dimension.name().to_owned()).collect(),
            measures: self.spec.measures.iter().map(|measure| measure.name().to_owned()).collect(),
        }
    }
}

/// A moment written as RFC 3339, and nothing else that a calendar library would read.
///
/// # Errors
/// What to write instead.
pub(crate) fn instant(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("must be RFC 3339, such as 2026-01-31T00:00:00Z: {:?}", clip(text));
    if !is_rfc3339(text.as_bytes()) {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

fn interval(faults: &mut Faults, request: &RunReportRequest, zone: &TimeZone) -> (i64, i64) {
    let mut bound = |name: &str, text: &str| match text {
        "" => {
            faults.add(name, "is required");
            None
        }
        text => faults.keep(name, moment(text, zone)),
    };
    let (from, to) = (bound("from", &request.from), bound("to", &request.to));
    let (Some(from), Some(to)) = (from, to) else { return (0, 0) };
    if from >= to {
        faults.add("to", "must be after from");
    }
    let from = ceil_millis(from).clamp(0, TIME_MILLIS_MAX - 1);
    (from, ceil_millis(to).clamp(from + 1, TIME_MILLIS_MAX))
}

// A date is its midnight in the tenant's zone, or the first moment of the day where there is none.
fn moment(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    let wrong = || format!("must be a date such as 2026-01-31, or RFC 3339: {:?}", clip(text));
    if !is_date(text.as_bytes()) {
        return instant(text).map_err(|_| wrong());
    }
    let date: Date = text.parse().map_err(|_| wrong())?;
    let midnight = date.to_zoned(zone.clone()).map_err(|_| wrong())?;
    Ok(midnight.timestamp())
}

// Event times are whole milliseconds: one is at or after a moment if it is at or after the next whole millisecond.
fn ceil_millis(time: Timestamp) -> i64 {
    let floor = time.as_nanosecond().div_euclid(1_000_000);
    let rest = i128::from(time.as_nanosecond().rem_euclid(1_000_000) > 0);
    // The calendar ends in the year 9999, so this fits.
    (floor + rest) as i64
}

fn models(faults: &mut Faults, asked: &[query::Model], dimensions: &[Dimension]) -> Vec<ModelSpec> {
    if !length(faults, "models", asked.len(), 1, MODELS_MAX) {
        return Vec::new();
    }
    let mut models: Vec<ModelSpec> = Vec::with_capacity(asked.len());
    let faults_before = faults.len();
    for (index, model) in asked.iter().enumerate() {
        let Some(model) = model_spec(faults, &format!("models[{index}]"), model) else { continue };
        if models.contains(&model) {
            faults.add(format!("models[{index}]"), format!("{} is asked twice", model.name()));
        }
        models.push(model);
    }
    let of_touch = dimensions.iter().filter(|dimension| dimension.of_touch()).count();
    if faults.len() > faults_before {
        return models;
    }
    if models.contains(&ModelSpec::Markov) && (of_touch != 1 || dimensions.len() != 1) {
        faults.add(
            "dimensions",
            format!("markov takes exactly one dimension, of the touch: {}", touch_names()),
        );
    } else if models.contains(&ModelSpec::Shapley) && of_touch != 1 {
        faults.add(
            "dimensions",
            format!("shapley takes exactly one dimension of the touch: {}", touch_names()),
        );
    }
    models
}

fn model_spec(faults: &mut Faults, path: &str, asked: &query::Model) -> Option<ModelSpec> {
    const POSITION_DEFAULT: f64 = 0.4;
    let model = match &asked.model {
        None => {
            faults.add(path, format!("must be one of {}", parse::MODELS.join(", ")));
            return None;
        }
        Some(Model::Decision(_)) => RuleModel::Decision,
        Some(Model::FirstTouch(_)) => RuleModel::FirstTouch,
        Some(Model::LastTouch(_)) => RuleModel::LastTouch,
        Some(Model::LastNonDirect(_)) => RuleModel::LastNonDirect,
        Some(Model::Linear(_)) => RuleModel::Linear,
        Some(Model::PositionBased(shares)) => {
            let first = shares.first.unwrap_or(POSITION_DEFAULT);
            let last = shares.last.unwrap_or(POSITION_DEFAULT);
            for (name, share) in [("first", first), ("last", last)] {
                if !(0.0..=1.0).contains(&share) {
                    faults.add(format!("{path}.position_based.{name}"), "must be from 0 to 1");
                    return None;
                }
            }
            // -0 is 0, also in its bytes.
            RuleModel::PositionBased { first: first + 0.0, last: last + 0.0 }
        }
        Some(Model::TimeDecay(decay)) => {
            let path = format!("{path}.time_decay.half_life");
            let text = given(&decay.half_life).unwrap_or("7d");
            let half_life_millis = faults.keep(&path, duration::parse_millis(text))?;
            if half_life_millis == 0 {
                faults
                    .add(path, format!("must be from 1m to {}", duration::format_millis(WINDOW_MILLIS_MAX)));
                return None;
            }
            RuleModel::TimeDecay { half_life_millis }
        }
        Some(Model::Markov(chain)) => {
            let order = chain.order.unwrap_or(1);
            if order != 1 {
                let reason = format!("markov of order {order} is not supported, only 1 is");
                faults.add(format!("{path}.markov.order"), reason);
                return None;
            }
            return Some(ModelSpec::Markov);
        }
        Some(Model::Shapley(_)) => return Some(ModelSpec::Shapley),
    };
    match model.check() {
        Ok(()) => Some(ModelSpec::Rule(model)),
        Err(error) => {
            faults.add(format!("{path}.{}", model.name()), error.to_string());
            None
        }
    }
}

fn dimensions(faults: &mut Faults, asked: &[String]) -> Vec<Dimension> {
    if !length(faults, "dimensions", asked.len(), 0, DIMENSIONS_MAX) {
        return Vec::new();
    }
    each_once(faults, "dimensions", asked, Dimension::from_name, || {
        names(Dimension::ALL.map(Dimension::name))
    })
}

fn measures(faults: &mut Faults, asked: &[String]) -> Vec<Measure> {
    if asked.is_empty() {
        return MEASURES_DEFAULT.into();
    }
    if !length(faults, "measures", asked.len(), 1, Measure::ALL.len()) {
        return Vec::new();
    }
    each_once(faults, "measures", asked, Measure::from_name, || names(Measure::ALL.map(Measure::name)))
}

fn filters(faults: &mut Faults, asked: &[query::Filter]) -> Vec<Filter> {
    if !length(faults, "filters", asked.len(), 0, FILTERS_MAX) {
        return Vec::new();
    }
    let mut filters = Vec::with_capacity(asked.len());
    for (index, filter) in asked.iter().enumerate() {
        let path = format!("filters[{index}]");
        let dimension = Dimension::from_name(&filter.dimension);
        if dimension.is_none() {
            let known = names(Dimension::ALL.map(Dimension::name));
            let reason = format!("unknown dimension {:?}; one of {known}", clip(&filter.dimension));
            faults.add(format!("{path}.dimension"), reason);
        }
        if length(faults, &format!("{path}.in"), filter.r#in.len(), 1, FILTER_VALUES_MAX) {
            for (place, text) in filter.r#in.iter().enumerate() {
                value(faults, &format!("{path}.in[{place}]"), text);
            }
        }
        filters.extend(dimension.map(|dimension| Filter { dimension, values: filter.r#in.clone() }));
    }
    filters
}

fn transforms(faults: &mut Faults, asked: &[PathTransform]) -> Vec<Transform> {
    use path_transform::Transform as Asked;
    if !length(faults, "path_transforms", asked.len(), 0, TRANSFORMS_MAX) {
        return Vec::new();
    }
    let mut transforms = Vec::with_capacity(asked.len());
    for (index, transform) in asked.iter().enumerate() {
        let path = format!("path_transforms[{index}]");
        transforms.push(match &transform.transform {
            Some(Asked::Exposure(true)) => Transform::Exposure,
            Some(Asked::First(true)) => Transform::First,
            Some(Asked::RemoveIfNotAll(removed)) => {
                value(faults, &format!("{path}.remove_if_not_all"), removed);
                Transform::RemoveIfNotAll(removed.clone())
            }
            Some(Asked::RemoveIfLastAndNotAll(removed)) => {
                value(faults, &format!("{path}.remove_if_last_and_not_all"), removed);
                Transform::RemoveIfLastAndNotAll(removed.clone())
            }
            None | Some(Asked::Exposure(false) | Asked::First(false)) => {
                faults.add(path, format!("must be one of {}", parse::TRANSFORMS.join(", ")));
                continue;
            }
        });
    }
    transforms
}

fn order_by(
    faults: &mut Faults,
    asked: &[query::OrderBy],
    dimensions: &[Dimension],
    measures: &[Measure],
) -> Vec<OrderBy> {
    if !length(faults, "order_by", asked.len(), 0, ORDER_KEYS_MAX) {
        return Vec::new();
    }
    let mut keys: Vec<OrderBy> = Vec::with_capacity(asked.len());
    for (index, key) in asked.iter().enumerate() {
        let path = format!("order_by[{index}].field");
        let dimension = Dimension::from_name(&key.field).filter(|dimension| {
            dimensions.contains(dimension)
                || *dimension == Dimension::Currency && measures.contains(&Measure::Value)
        });
        let measure = Measure::from_name(&key.field).filter(|measure| measures.contains(measure));
        let field = match (key.field.as_str(), dimension, measure) {
            ("model", ..) => OrderField::Model,
            (_, Some(dimension), _) => OrderField::Dimension(dimension),
            (_, _, Some(measure)) => OrderField::Measure(measure),
            _ => {
                let reason = "must be model, or a dimension or measure that the report asks for";
                faults.add(path, format!("{reason}: {:?}", clip(&key.field)));
                continue;
            }
        };
        if keys.iter().any(|earlier| earlier.field == field) {
            faults.add(path, "is named twice");
        }
        keys.push(OrderBy { field, descending: key.descending });
    }
    keys
}

/// The message of a model with all its parameters.
fn with_parameters(model: ModelSpec) -> query::Model {
    let model = match model {
        ModelSpec::Rule(RuleModel::Decision) => Model::Decision(query::DecisionModel {}),
        ModelSpec::Rule(RuleModel::FirstTouch) => Model::FirstTouch(query::FirstTouchModel {}),
        ModelSpec::Rule(RuleModel::LastTouch) => Model::LastTouch(query::LastTouchModel {}),
        ModelSpec::Rule(RuleModel::LastNonDirect) => Model::LastNonDirect(query::LastNonDirectModel {}),
        ModelSpec::Rule(RuleModel::Linear) => Model::Linear(query::LinearModel {}),
        ModelSpec::Rule(RuleModel::PositionBased { first, last }) => {
            Model::PositionBased(query::PositionBasedModel { first: Some(first), last: Some(last) })
        }
        ModelSpec::Rule(RuleModel::TimeDecay { half_life_millis }) => {
            Model::TimeDecay(query::TimeDecayModel { half_life: duration::format_millis(half_life_millis) })
        }
        ModelSpec::Markov => Model::Markov(query::MarkovModel { order: Some(1) }),
        ModelSpec::Shapley => Model::Shapley(query::ShapleyModel {}),
    };
    query::Model { model: Some(model) }
}

fn each_once<T: Copy + PartialEq>(
    faults: &mut Faults,
    field: &str,
    asked: &[String],
    from_name: impl Fn(&str) -> Option<T>,
    known: impl Fn() -> String,
) -> Vec<T> {
    let mut all = Vec::with_capacity(asked.len());
    for (index, name) in asked.iter().enumerate() {
        match from_name(name) {
            None => faults
                .add(format!("{field}[{index}]"), format!("unknown {:?}; one of {}", clip(name), known())),
            Some(one) if all.contains(&one) => faults.add(format!("{field}[{index}]"), "is named twice"),
            Some(one) => all.push(one),
        }
    }
    all
}

fn length(faults: &mut Faults, field: &str, given: usize, min: usize, max: usize) -> bool {
    let ok = (min..=max).contains(&given);
    if !ok {
        faults.add(field, format!("must have {min} to {max} entries, not {given}"));
    }
    ok
}

fn value(faults: &mut Faults, path: &str, text: &str) {
    if text.is_empty() || text.len() > FILTER_VALUE_BYTES_MAX {
        faults.add(path, format!("must be 1 to {FILTER_VALUE_BYTES_MAX} bytes"));
    }
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn names<const N: usize>(names: [&str; N]) -> String {
    names.join(", ")
}

fn touch_names() -> String {
    let of_touch: Vec<_> = Dimension::ALL.into_iter().filter(|d| d.of_touch()).map(Dimension::name).collect();
    of_touch.join(", ")
}

fn is_date(text: &[u8]) -> bool {
    text.len() == 10 && shaped(text, b"dddd-dd-dd")
}

// `YYYY-MM-DDThh:mm:ss`, perhaps a fraction, then `Z` or an offset.
fn is_rfc3339(text: &[u8]) -> bool {
    let Some((head, rest)) = text.split_at_checked(19) else { return false };
    let fraction = match rest {
        [b'.', digits @ ..] => 1 + digits.iter().take_while(|b| b.is_ascii_digit()).count(),
        _ => 0,
    };
    let zone = &rest[fraction..];
    fraction != 1
        && shaped(head, b"dddd-dd-ddTdd:dd:dd")
        && (matches!(zone, b"Z" | b"z") || shaped(zone, b"+dd:dd") || shaped(zone, b"-dd:dd"))
}

fn shaped(text: &[u8], shape: &[u8]) -> bool {
    let fits = |(byte, shape): (&u8, &u8)| match shape {
        b'd' => byte.is_ascii_digit(),
        shape => byte.eq_ignore_ascii_case(shape),
    };
    text.len() == shape.len() && text.iter().zip(shape).all(fits)
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;

//! Credit of one conversion under each model, as SQL: the formulas of [`model::credit`](model::credit()), operation by
//! operation.

use model::{Model, TouchKind};

use crate::{
    paths::{self, PATH, paths},
    spec::{Dimension, ModelSpec, ReportSpec},
    sql::{float, quote_list},
};

/// What a touch of a path gets of its conversion; a conversion without a path is one row that gets it all.
#[derive(Debug, Clone)]
pub(crate) enum Weight {
    /// A part that is the same for every touch that gets any, in whole numbers.
    Part {
        /// Which touches get it; all without a condition.
        to: Option<String>,
        /// In 10⁻¹² of a conversion.
        conversions_e12: String,
        /// In 10⁻¹² of the currency's unit.
        value_e12: String,
    },
    /// A share as `Float64`.
    Share(String),
}

/// The array of a touch dimension that a model looks at.
pub(crate) fn needs(spec: &ReportSpec, model: ModelSpec) -> Option<Dimension> {
    match model {
        ModelSpec::Rule(Model::Decision) if !stored_winner(spec) => Some(Dimension::EventType),
        ModelSpec::Rule(Model::LastNonDirect) => Some(Dimension::Channel),
        _ => None,
    }
}

/// Whether a model looks at the times of touches.
pub(crate) fn needs_time(model: ModelSpec) -> bool {
    matches!(model, ModelSpec::Rule(Model::TimeDecay { .. }))
}

/// The weights of the models, and the select that they stand in: a row for each touch of each path, and one for each
/// conversion without a path, which is `organic`.
pub(crate) fn prepared(spec: &ReportSpec, since_micros: Option<i64>) -> (Vec<Weight>, String) {
    let mut scalars = String::new();
    let mut joined = vec![];
    for d in paths::touch_dimensions(spec) {
        joined.push((format!("a_{}", d.name()), format!("e_{}", d.name())));
    }
    let weights =
        (0..).zip(&spec.models).map(|(m, model)| weigh(spec, m, *model, &mut scalars, &mut joined)).collect();
    let first = paths::touch_dimensions(spec).first().map_or("event_type", |d| d.name());
    joined.push((format!("arrayEnumerate(a_{first})"), "i".into()));
    let arrays: Vec<String> = joined.iter().map(|(array, name)| format!("{array} AS {name}")).collect();
    // A star leaves out what the join makes.
    let names: Vec<&str> = joined.iter().map(|(_, name)| name.as_str()).collect();
    let sql = format!(
        "SELECT *, {}, n = 0 AS organic FROM (SELECT *{scalars} FROM ({})) LEFT ARRAY JOIN {}",
        names.join(", "),
        paths(spec, since_micros),
        arrays.join(", ")
    );
    (weights, sql)
}

// === impl Weight ===

impl Weight {
    /// The whole conversion to every row.
    pub(crate) fn whole() -> Self {
        Self::Part {
            to: None,
            conversions_e12: "toInt64(1000000000000)".into(),
            value_e12: "toInt128(value_micros) * 1000000".into(),
        }
    }

    fn all(to: String) -> Self {
        let Self::Part { conversions_e12, value_e12, .. } = Self::whole() else { return Self::whole() };
        Self::Part { to: Some(to), conversions_e12, value_e12 }
    }

    /// In 10⁻¹² of a conversion.
    pub(crate) fn conversions_e12(&self) -> String {
        match self {
            Self::Part { to: None, conversions_e12, .. } => conversions_e12.clone(),
            Self::Part { to: Some(to), conversions_e12, .. } => {
                format!("if(n = 0 OR {to}, {conversions_e12}, toInt64(0))")
            }
            Self::Share(share) => {
                format!("if(n = 0, toInt64(1000000000000), toInt64(round({share} * 1e12)))")
            }
        }
    }

    /// In 10⁻¹² of the currency's unit. A part is exact, a share as exact as its `Float64`.
    pub(crate) fn value_e12(&self) -> String {
        match self {
            Self::Part { to: None, value_e12, .. } => value_e12.clone(),
            Self::Part { to: Some(to), value_e12, .. } => {
                format!("if(n = 0 OR {to}, {value_e12}, toInt128(0))")
            }
            Self::Share(share) => format!(
                "if(n = 0 OR {share} = 1, toInt128(value_micros) * 1000000, \
                 toInt128(round({share} * toFloat64(value_micros) * 1e6)))"
            ),
        }
    }
}

// An even part of `count`, which may be 0 for a path without touches; computed once for each path. Value as integers,
// rounded half away from zero; a conversion has no halves with so few touches.
fn even(m: usize, count: &str, to: Option<String>, scalars: &mut String) -> Weight {
    let (conversions_e12, value_e12) = (format!("q{m}"), format!("w{m}"));
    scalars.push_str(&format!(
        ", greatest({count}, 1) AS k{m}, toInt64(round(1e12 / k{m})) AS {conversions_e12}, \
         intDiv(toInt128(value_micros) * 2000000 + if(value_micros < 0, -toInt64(k{m}), toInt64(k{m})), \
         toInt128(2 * k{m})) AS {value_e12}"
    ));
    Weight::Part { to, conversions_e12, value_e12 }
}

// Adds what the model needs of each path to the scalars, and what it needs of each touch to the joined arrays.
fn weigh(
    spec: &ReportSpec,
    m: usize,
    model: ModelSpec,
    scalars: &mut String,
    joined: &mut Vec<(String, String)>,
) -> Weight {
    let model = match model {
        ModelSpec::Rule(model) => model,
        // Only what is organic: the rest is solved over all paths at once.
        ModelSpec::Markov => return Weight::all("0".into()),
        ModelSpec::Shapley => {
            joined.push((format!("arrayEnumerateUniq({PATH})"), format!("x{m}")));
            let distinct = format!("length(arrayDistinct({PATH}))");
            return even(m, &distinct, Some(format!("x{m} = 1")), scalars);
        }
    };
    match model {
        Model::Decision if stored_winner(spec) => Weight::all("i = won".into()),
        Model::Decision => {
            let rank = rank(spec);
            scalars.push_str(&format!(", arrayMin(x -> {rank}, a_event_type) AS r{m}"));
            scalars.push_str(&format!(", arrayLastIndex(x -> {rank} = r{m}, a_event_type) AS s{m}"));
            Weight::all(format!("i = s{m}"))
        }
        Model::FirstTouch => Weight::all("i = 1".into()),
        Model::LastTouch => Weight::all("i = n".into()),
        Model::LastNonDirect if spec.rules.precedence.direct_channels.is_empty() => {
            Weight::all("i = n".into())
        }
        Model::LastNonDirect => {
            let direct = quote_list(&spec.rules.precedence.direct_channels);
            scalars.push_str(&format!(", arrayLastIndex(x -> x NOT IN {direct}, a_channel) AS s{m}"));
            Weight::all(format!("i = if(s{m} = 0, n, s{m})"))
        }
        Model::Linear => even(m, "n", None, scalars),
        Model::PositionBased { first, last } => Weight::Share(position_based(first, last)),
        Model::TimeDecay { half_life_millis } => {
            let half_life = float(half_life_millis as f64);
            scalars.push_str(&format!(
                ", arrayMax(a_millis) AS r{m}, \
                 arrayMap(x -> exp2(-(toFloat64(r{m} - x) / {half_life})), a_millis) AS d{m}, arraySum(d{m}) AS s{m}"
            ));
            joined.push((format!("d{m}"), format!("x{m}")));
            Weight::Share(format!("(x{m} / s{m})"))
        }
    }
}

// The constants are computed here, so that they are the same bits as in the model.
fn position_based(first: f64, last: f64) -> String {
    let ends = first + last;
    let (first_of_two, last_of_two) = if ends == 0.0 { (0.5, 0.5) } else { (first / ends, last / ends) };
    format!(
        "multiIf(n = 1, 1., n = 2, if(i = 1, {}, {}), i = 1, {}, i = n, {}, {} / (n - 2))",
        float(first_of_two),
        float(last_of_two),
        float(first),
        float(last),
        float((1.0 - first - last).max(0.0)),
    )
}

// Without look-back and transforms the path is the one that was decided.
fn stored_winner(spec: &ReportSpec) -> bool {
    spec.lookback_millis.is_none() && spec.transforms.is_empty()
}

// The place of the kind `x` in the precedence.
fn rank(spec: &ReportSpec) -> String {
    let rank = |kind| spec.rules.precedence.rank(kind);
    let (click, impression, visit) =
        (rank(TouchKind::Click), rank(TouchKind::Impression), rank(TouchKind::Visit));
    format!("multiIf(x = 'click', {click}, x = 'impression', {impression}, {visit})")
}

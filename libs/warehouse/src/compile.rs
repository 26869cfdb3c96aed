//! A report as SQL.
//!
//! Statements are nested selects, from the inside out: the conversions selected with their eligible touches as arrays
//! ([`paths`](crate::paths)), the level that prepares credit, the level that joins the arrays and groups by what is
//! stored, and the level that groups by what is shown.

use crate::{
    credit::{self, Weight},
    paths, rolled,
    spec::{Dimension, Measure, ModelSpec, NOT_SET, ORGANIC, ReportSpec},
    sql::{quote, quote_list},
};

/// Groups of one report at most, before its limit.
pub(crate) const GROUPS_MAX: usize = 1_000_000;

/// The person of a row `c` joined with `m`, the persons: an identity of which nothing is told is its own.
pub(crate) const PERSON: &str = "if(m.person = 0, c.identity, m.person)";

/// Rows: `dims`, `currency`, `conversions`, `value` and `persons` with an entry for each model (or none where they are
/// not measured), `touches`.
pub(crate) fn rows(spec: &ReportSpec) -> String {
    let labelled = labelled(spec);
    let models = spec.models.len();
    let persons = spec.measures(Measure::Persons);
    let each = |measure: Measure, column: char| -> Vec<String> {
        let column = |m| if persons { format!("sum(c.{column}{m})") } else { format!("c.{column}{m}") };
        if spec.measures(measure) { (0..models).map(column).collect() } else { Vec::new() }
    };
    let conversions = each(Measure::Conversions, 'c').join(", ");
    let value = each(Measure::Value, 'v').join(", ");
    let touches = if persons { "sum(c.t)" } else { "c.t" };
    let columns = format!(
        "c.dims AS dims, c.currency AS currency, CAST([{conversions}] AS Array(Int128)) AS conversions, \
         CAST([{value}] AS Array(Int128)) AS value, {touches} AS touches"
    );
    // One more than allowed, so that the reader sees that there are too many.
    let limit = GROUPS_MAX + 1;
    if !persons {
        return format!(
            "SELECT {columns}, CAST([] AS Array(UInt64)) AS persons FROM ({labelled}) AS c LIMIT {limit}"
        );
    }
    let distinct: Vec<String> = (0..models)
        .map(|m| match spec.models[m] {
            // Its credit is no one path's: a person has a part in every row that their paths touch.
            ModelSpec::Markov => format!("uniqExactIf({PERSON}, c.r != 0)"),
            _ => format!("uniqExactIf({PERSON}, c.c{m} != 0)"),
        })
        .collect();
    format!(
        "SELECT {columns}, CAST([{}] AS Array(UInt64)) AS persons FROM ({labelled}) AS c \
         LEFT JOIN ({}) AS m ON m.identity = c.identity GROUP BY dims, currency LIMIT {limit}",
        distinct.join(", "),
        paths::persons(spec)
    )
}

/// Totals of the conversions selected: `currency`, `conversions`, `value`, `touches`.
pub(crate) fn totals(spec: &ReportSpec) -> String {
    let Some(hour) = rolled::until_micros(spec) else { return totals_since(spec, None) };
    format!(
        "SELECT c.currency AS currency, sum(c.conversions) AS conversions, sum(c.value) AS value, \
         sum(c.touches) AS touches FROM ({} UNION ALL {}) AS c GROUP BY c.currency",
        rolled::totals(spec, hour),
        totals_since(spec, Some(hour))
    )
}

fn totals_since(spec: &ReportSpec, since_micros: Option<i64>) -> String {
    let (from, touches) = if spec.measures(Measure::Touches) {
        (paths::paths(spec, since_micros), "sum(sign * toInt64(n))")
    } else {
        (paths::conversions(spec, since_micros), "toInt64(0)")
    };
    format!(
        "SELECT toString(currency_key) AS currency, sum(toInt64(sign)) AS conversions, \
         sum(sign * toInt128(value_micros)) AS value, {touches} AS touches FROM ({from}) GROUP BY currency_key"
    )
}

/// Distinct persons of the conversions selected: `currency`, `persons`.
pub(crate) fn total_persons(spec: &ReportSpec) -> String {
    format!(
        "SELECT toString(currency_key) AS currency, uniqExact({PERSON}) AS persons \
         FROM (SELECT currency_key, conversion_id, identity FROM ({}) \
         GROUP BY currency_key, conversion_id, identity HAVING sum(sign) > 0) AS c \
         LEFT JOIN ({}) AS m ON m.identity = c.identity GROUP BY currency_key",
        paths::conversions(spec, None),
        paths::persons(spec)
    )
}

// Grouped by what is shown; where persons are counted, by conversion too, so that what was retracted is gone.
fn labelled(spec: &ReportSpec) -> String {
    let labels: Vec<String> = spec.dimensions.iter().map(|d| label(*d)).collect();
    let mut sums = vec!["sum(p.r) AS r".to_owned(), "sum(p.t) AS t".to_owned()];
    for m in 0..spec.models.len() {
        sums.push(format!("sum(p.c{m}) AS c{m}"));
        sums.push(format!("sum(p.v{m}) AS v{m}"));
    }
    let (columns, keys) = if spec.measures(Measure::Persons) {
        ("p.conversion_id AS conversion_id, p.identity AS identity, ", ", p.conversion_id, p.identity")
    } else {
        ("", "")
    };
    let filters: Vec<String> = spec
        .filters
        .iter()
        .filter(|filter| filter.dimension.of_touch())
        .map(|filter| format!("{} IN {}", label(filter.dimension), quote_list(&filter.values)))
        .collect();
    let filters = if filters.is_empty() { "1".into() } else { filters.join(" AND ") };
    format!(
        "SELECT CAST([{}] AS Array(String)) AS dims, toString(p.currency_key) AS currency, {columns}{} \
         FROM ({}) AS p WHERE {filters} GROUP BY dims, currency{keys}",
        labels.join(", "),
        sums.join(", "),
        match rolled::until_micros(spec) {
            Some(hour) => {
                format!("{} UNION ALL {}", rolled::credited(spec, hour), credited(spec, Some(hour)))
            }
            None => credited(spec, None),
        }
    )
}

// Grouped by what is stored: the cheapest keys for many rows.
fn credited(spec: &ReportSpec, since_micros: Option<i64>) -> String {
    let mut keys: Vec<String> = vec!["currency_key".into()];
    keys.extend(spec.dimensions.iter().filter(|d| !d.of_touch()).map(|d| paths::key(*d)));
    if spec.measures(Measure::Persons) {
        keys.extend(["conversion_id".into(), "identity".into()]);
    }
    let touch_dimensions = paths::touch_dimensions(spec);
    let (weights, from, rows, touches) = if touch_dimensions.is_empty() {
        // Whatever the model, a row holds whole conversions.
        let weights = vec![Weight::whole(); spec.models.len()];
        let (from, n) = if spec.measures(Measure::Touches) {
            (paths::paths(spec, since_micros), "toInt64(n)")
        } else {
            (paths::conversions(spec, since_micros), "0")
        };
        (weights, from, "sum(toInt64(sign))", format!("sum(sign * {n})"))
    } else {
        keys.push("organic".into());
        keys.extend(touch_dimensions.iter().map(|d| format!("e_{}", d.name())));
        let (weights, from) = credit::prepared(spec, since_micros);
        (weights, from, "sum(toInt64(sign))", "sum(sign * toInt64(n > 0))".to_owned())
    };
    let mut columns = keys.clone();
    columns.push(format!("{rows} AS r, {touches} AS t"));
    for (m, weight) in weights.iter().enumerate() {
        columns.push(format!("sum(toInt128(sign * {})) AS c{m}", weight.conversions_e12()));
        columns.push(format!("sum(sign * {}) AS v{m}", weight.value_e12()));
    }
    format!("SELECT {} FROM ({from}) GROUP BY {}", columns.join(", "), keys.join(", "))
}

// What a dimension of the row `p` is shown as.
fn label(dimension: Dimension) -> String {
    let stored = if dimension.of_touch() {
        format!("toString(p.e_{})", dimension.name())
    } else {
        paths::shown(dimension, &format!("p.{}", paths::key(dimension)))
    };
    let set = format!("if({stored} = '', {}, {stored})", quote(NOT_SET));
    if dimension.of_touch() { format!("if(p.organic, {}, {set})", quote(ORGANIC)) } else { set }
}

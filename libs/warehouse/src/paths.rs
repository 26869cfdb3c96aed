//! The conversions of a report and their eligible paths, as SQL.
//!
//! Arrays of one conversion all have the length of its path. Lambdas never capture an array, since ClickHouse would copy
//! it for each of its elements.

use model::Transform;

use crate::{
    credit,
    spec::{Dimension, Filter, Measure, ModelSpec, NOT_SET, ReportSpec},
    sql::{quote, quote_list},
};

/// The array of the labels that transforms, Shapley and Markov look at.
pub(crate) const PATH: &str = "path";

/// The conversions selected: `sign`, `value_micros`, `currency_key`, `conversion_id`, `identity`, and a key for each
/// dimension of the conversion.
pub(crate) fn conversions(spec: &ReportSpec, since_micros: Option<i64>) -> String {
    format!("SELECT {} FROM conversions WHERE {}", scalars(spec).join(", "), selected(spec, since_micros))
}

/// The conversions selected with their paths after all transforms: the columns of [`conversions`], `won` (the place of
/// the stored winner in the path, or 0), the arrays that the report needs, and `n`, their length.
pub(crate) fn paths(spec: &ReportSpec, since_micros: Option<i64>) -> String {
    let arrays = arrays(spec);
    let mut columns = scalars(spec);
    columns.push(
        "if(winner = 0, 0, arrayCount(x -> x = 'eligible', arraySlice(touch.verdict, 1, winner))) AS won"
            .into(),
    );
    for (name, stored) in &arrays {
        columns.push(format!("{} AS {name}", eligible(spec, stored)));
    }
    let mut names: Vec<String> = arrays.into_iter().map(|(name, _)| name).collect();
    if needs_labels(spec) {
        let dimension = spec.path_dimension();
        let array = format!("a_{}", dimension.name());
        columns.push(format!("arrayMap(x -> {}, {array}) AS {PATH}", path_label(dimension)));
        names.push(PATH.into());
    }
    let base =
        format!("SELECT {} FROM conversions WHERE {}", columns.join(", "), selected(spec, since_micros));
    let mut carried = vec!["sign", "value_micros", "currency_key", "conversion_id", "identity", "won"];
    let keys: Vec<String> = conversion_dimensions(spec).map(key).collect();
    carried.extend(keys.iter().map(String::as_str));
    let path = transformed(base, &carried, &names, &spec.transforms);
    format!("SELECT *, length({}) AS n FROM ({path})", names[0])
}

/// The paths that converted: `path`, `currency`, `conversions`, `value`.
pub(crate) fn converting(spec: &ReportSpec) -> String {
    format!(
        "SELECT CAST(p.{PATH} AS Array(String)) AS path, toString(p.currency_key) AS currency, \
         sum(toInt64(p.sign)) AS conversions, sum(p.sign * toInt128(p.value_micros)) AS value \
         FROM ({}) AS p WHERE n > 0 GROUP BY path, currency HAVING conversions != 0 OR value != 0",
        paths(spec, None)
    )
}

/// Where the conversions of the report are: everything but what their touches say; those recorded since a moment, if there
/// is one, Unix microseconds.
pub(crate) fn selected(spec: &ReportSpec, since_micros: Option<i64>) -> String {
    let mut conditions = within(spec);
    if let Some(since) = since_micros {
        conditions
            .push_str(&format!(" AND recorded_at >= fromUnixTimestamp64Micro(toInt64({since}), 'UTC')"));
    }
    for filter in spec.filters.iter().filter(|filter| !filter.dimension.of_touch()) {
        conditions.push_str(&format!(" AND {}", passes(spec, filter)));
    }
    conditions
}

/// Where the facts of the tenant, the interval and the moment are.
pub(crate) fn within(spec: &ReportSpec) -> String {
    let (tenant, from, to) = (quote(&spec.tenant), moment(spec.from_millis), moment(spec.to_millis));
    format!("tenant = {tenant} AND time >= {from} AND time < {to} AND {}", known(spec))
}

/// The person of every identity, as known: `identity`, `person`.
pub(crate) fn persons(spec: &ReportSpec) -> String {
    format!(
        "SELECT i.identity AS identity, if(max(i.shared), i.identity, min(i.person)) AS person \
         FROM identities AS i WHERE i.tenant = {} AND {} GROUP BY i.identity",
        quote(&spec.tenant),
        known(spec)
    )
}

/// Applies the path transforms to `from`, a select with these scalars and arrays, among them [`PATH`].
pub(crate) fn transformed(
    from: String,
    scalars: &[&str],
    arrays: &[String],
    transforms: &[Transform],
) -> String {
    let mut sql = from;
    for transform in transforms {
        let mut columns: Vec<String> = scalars.iter().map(|s| format!("p.{s} AS {s}")).collect();
        columns.extend(arrays.iter().map(|a| format!("arrayFilter((x, k) -> k, p.{a}, p.keep) AS {a}")));
        let keep = kept(transform);
        sql = format!("SELECT {} FROM (SELECT *, {keep} FROM ({sql})) AS p", columns.join(", "));
    }
    sql
}

/// What the element `x` of a path is shown as.
pub(crate) fn path_label(dimension: Dimension) -> String {
    if dimension == Dimension::EventType {
        "toString(x)".into()
    } else {
        format!("if(x = '', {}, toString(x))", quote(NOT_SET))
    }
}

/// The touch dimensions that rows are told apart by or filtered on.
pub(crate) fn touch_dimensions(spec: &ReportSpec) -> Vec<Dimension> {
    let filtered = spec.filters.iter().map(|filter| filter.dimension);
    let mut all: Vec<Dimension> =
        spec.dimensions.iter().copied().chain(filtered).filter(|d| d.of_touch()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The column of a dimension of the conversion.
pub(crate) fn key(dimension: Dimension) -> String {
    format!("k_{}", dimension.name())
}

/// What the key of a dimension of the conversion is shown as; empty where it is not set.
pub(crate) fn shown(dimension: Dimension, key: &str) -> String {
    match dimension {
        Dimension::Month => format!("formatDateTime({key}, '%Y-%m')"),
        Dimension::Hour => format!("formatDateTime({key}, '%Y-%m-%dT%H:00:00Z', 'UTC')"),
        _ => format!("toString({key})"),
    }
}

/// A moment in Unix milliseconds, within what the column holds.
pub(crate) fn moment(millis: i64) -> String {
    format!("fromUnixTimestamp64Milli(toInt64({}), 'UTC')", millis.clamp(0, 9_000_000_000_000))
}

fn known(spec: &ReportSpec) -> String {
    let micros = spec.as_of_micros.clamp(0, 9_000_000_000_000_000);
    format!("recorded_at < fromUnixTimestamp64Micro(toInt64({micros}), 'UTC')")
}

fn scalars(spec: &ReportSpec) -> Vec<String> {
    let currency = if spec.measures(Measure::Value) { "currency" } else { "''" };
    let mut columns: Vec<String> =
        ["sign", "value_micros", "conversion_id", "identity"].map(str::to_owned).into();
    columns.push(format!("{currency} AS currency_key"));
    columns.extend(conversion_dimensions(spec).map(|d| format!("{} AS {}", stored(spec, d), key(d))));
    columns
}

fn conversion_dimensions(spec: &ReportSpec) -> impl Iterator<Item = Dimension> + '_ {
    spec.dimensions.iter().copied().filter(|d| !d.of_touch())
}

fn stored(spec: &ReportSpec, dimension: Dimension) -> String {
    let zone = quote(&spec.rules.time_zone);
    match dimension {
        Dimension::Day => format!("toDate(time, {zone})"),
        Dimension::Week => format!("toMonday(time, {zone})"),
        Dimension::Month => format!("toStartOfMonth(time, {zone})"),
        Dimension::Hour => "toStartOfHour(time, 'UTC')".into(),
        _ => dimension.name().into(),
    }
}

fn passes(spec: &ReportSpec, filter: &Filter) -> String {
    let stored = stored(spec, filter.dimension);
    match filter.dimension {
        Dimension::Day | Dimension::Week | Dimension::Month | Dimension::Hour => {
            format!("{} IN {}", shown(filter.dimension, &stored), quote_list(&filter.values))
        }
        _ => format!("{stored} IN {}", quote_list(&stored_values(filter))),
    }
}

/// The values of a filter as they are stored.
pub(crate) fn stored_values(filter: &Filter) -> Vec<&str> {
    let mut values: Vec<&str> = filter.values.iter().map(String::as_str).collect();
    if values.contains(&NOT_SET) {
        values.push("");
    }
    values
}

// The arrays that the report needs and what they are made of; at least one, which says how long the path is.
fn arrays(spec: &ReportSpec) -> Vec<(String, String)> {
    let mut dimensions = touch_dimensions(spec);
    if needs_labels(spec) {
        dimensions.push(spec.path_dimension());
    }
    let credited = !touch_dimensions(spec).is_empty();
    if credited {
        dimensions.extend(spec.models.iter().filter_map(|model| credit::needs(spec, *model)));
    }
    if dimensions.is_empty() {
        dimensions.push(Dimension::EventType);
    }
    dimensions.sort_unstable();
    dimensions.dedup();
    let column = |d: Dimension| if d == Dimension::EventType { "kind" } else { d.name() };
    let mut arrays: Vec<(String, String)> =
        dimensions.into_iter().map(|d| (format!("a_{}", d.name()), format!("touch.{}", column(d)))).collect();
    if credited && spec.models.iter().any(|model| credit::needs_time(*model)) {
        arrays.push(("a_millis".into(), "touch.millis".into()));
    }
    arrays
}

fn needs_labels(spec: &ReportSpec) -> bool {
    let by_path = |model: &ModelSpec| matches!(model, ModelSpec::Markov | ModelSpec::Shapley);
    !spec.transforms.is_empty() || spec.models.iter().any(by_path)
}

fn eligible(spec: &ReportSpec, array: &str) -> String {
    match spec.lookback_millis {
        None => format!("arrayFilter((x, v) -> v = 'eligible', {array}, touch.verdict)"),
        Some(lookback) => format!(
            "arrayFilter((x, v, t) -> v IN ('eligible', 'outside_window') \
             AND t <= toUnixTimestamp64Milli(time) AND t >= toUnixTimestamp64Milli(time) - {lookback}, \
             {array}, touch.verdict, touch.millis)"
        ),
    }
}

// A mask of the path, and what it is made with.
fn kept(transform: &Transform) -> String {
    match transform {
        Transform::Exposure => format!(
            "arrayMap((x, y, i) -> i = 1 OR x != y, {PATH}, arrayShiftRight({PATH}, 1), arrayEnumerate({PATH})) AS keep"
        ),
        Transform::First => format!("arrayMap(i -> i = 1, arrayEnumerateUniq({PATH})) AS keep"),
        Transform::RemoveIfNotAll(value) => {
            let value = quote(value);
            format!(
                "arrayAll(x -> x = {value}, {PATH}) AS all_same, \
                 arrayMap(x -> x != {value} OR all_same, {PATH}) AS keep"
            )
        }
        Transform::RemoveIfLastAndNotAll(value) => {
            let value = quote(value);
            format!(
                "arrayLastIndex(x -> x != {value}, {PATH}) AS last_other, \
                 arrayMap(i -> i <= last_other OR last_other = 0, arrayEnumerate({PATH})) AS keep"
            )
        }
    }
}

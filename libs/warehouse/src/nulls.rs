//! The paths of persons who did not convert, as SQL.

use model::JOURNEY_TOUCHES_MAX;

use crate::{
    compile::PERSON,
    paths::{PATH, path_label, persons, selected, transformed, within},
    spec::{Dimension, ReportSpec},
};

/// The paths that did not convert: `path`, `persons`.
///
/// Of every person with a touch in the interval and no conversion in it that is selected: the newest touches of the
/// interval within the look-back of the last one, or within the current window of their kind.
pub(crate) fn nulls(spec: &ReportSpec) -> String {
    let touched = format!(
        "SELECT {PERSON} AS who, arraySort(groupArray((c.millis, c.touch_id, c.label, c.window))) AS touches \
         FROM ({}) AS c LEFT JOIN ({}) AS m ON m.identity = c.identity \
         WHERE who NOT IN ({}) GROUP BY who",
        touches(spec),
        persons(spec),
        converters(spec)
    );
    // The newest touch is the last; its time is no array, and may be captured.
    let near = format!(
        "SELECT arrayFilter(x -> newest - x.1 <= x.4, touches) AS near, touches[-1].1 AS newest FROM ({touched})"
    );
    let path = format!(
        "SELECT arrayMap(x -> x.3, arraySlice(near, greatest(1, toInt64(length(near)) - {}))) AS {PATH} FROM ({near})",
        JOURNEY_TOUCHES_MAX - 1
    );
    let path = transformed(path, &[], &[PATH.into()], &spec.transforms);
    format!(
        "SELECT CAST(p.{PATH} AS Array(String)) AS path, count() AS persons FROM ({path}) AS p GROUP BY path"
    )
}

fn touches(spec: &ReportSpec) -> String {
    let dimension = spec.path_dimension();
    let column = if dimension == Dimension::EventType { "kind" } else { dimension.name() };
    // The expression calls its element `x`.
    let label = format!("arrayMap(x -> {}, [{column}])[1]", path_label(dimension));
    let window = match spec.lookback_millis {
        Some(lookback) => format!("toInt64({lookback})"),
        None => {
            let windows = &spec.rules.windows;
            format!(
                "multiIf(kind = 'click', toInt64({}), kind = 'impression', toInt64({}), toInt64({}))",
                windows.click, windows.impression, windows.visit
            )
        }
    };
    format!(
        "SELECT identity, toUnixTimestamp64Milli(time) AS millis, touch_id, {label} AS label, {window} AS window \
         FROM touches WHERE {}",
        within(spec)
    )
}

fn converters(spec: &ReportSpec) -> String {
    format!(
        "SELECT {PERSON} FROM (SELECT identity FROM conversions WHERE {} \
         GROUP BY identity, conversion_id HAVING sum(sign) > 0) AS c LEFT JOIN ({}) AS m ON m.identity = c.identity",
        selected(spec, None),
        persons(spec)
    )
}

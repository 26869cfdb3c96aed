//! Reports that are served from what each part of the facts has summed by the hour: the projection `by_hour`.
//!
//! Conversions by channel under models without a parameter, by the stored verdicts. The sums are those of the facts
//! themselves, so an answer has the same bytes as without the projection, which the engine computes for a part that lacks
//! it. What was recorded in the last hour before the report's moment is read row by row.

use jiff::{Timestamp, tz::TimeZone};
use model::Model;

use crate::{
    paths,
    spec::{Dimension, Measure, ModelSpec, ReportSpec},
    sql::{quote, quote_list},
};

const HOUR_SECONDS: i64 = 3_600;
/// In 2099: the engine's hours end in 2106.
const SECONDS_MAX: i64 = 1_134_000 * HOUR_SECONDS;

const PARTS: &str = "countEqual(touch.verdict, 'eligible')";
const WON: &str = "countEqual(arraySlice(touch.verdict, 1, winner), 'eligible')";

/// The moment before which hours are whole, if this report can be served by them; Unix microseconds.
pub(crate) fn until_micros(spec: &ReportSpec) -> Option<i64> {
    let whole = |millis: i64| {
        let seconds = millis.div_euclid(1_000);
        millis % (HOUR_SECONDS * 1_000) == 0 && (0..=SECONDS_MAX).contains(&seconds)
    };
    let key = |dimension: Dimension| match dimension {
        Dimension::Channel
        | Dimension::AppId
        | Dimension::Conversion
        | Dimension::Currency
        | Dimension::Hour => true,
        Dimension::Day | Dimension::Week | Dimension::Month => has_whole_hours(spec),
        _ => false,
    };
    let passes = |dimension: Dimension| {
        matches!(
            dimension,
            Dimension::Channel | Dimension::AppId | Dimension::Conversion | Dimension::Currency
        )
    };
    let served = spec.lookback_millis.is_none()
        && spec.transforms.is_empty()
        && whole(spec.from_millis)
        && whole(spec.to_millis)
        && spec.dimensions.contains(&Dimension::Channel)
        && spec.dimensions.iter().all(|dimension| key(*dimension))
        && spec.filters.iter().all(|filter| passes(filter.dimension))
        && !spec.measures(Measure::Persons)
        && spec.models.iter().all(|model| sums(*model).is_some());
    let seconds = spec.as_of_micros.div_euclid(1_000_000).clamp(0, SECONDS_MAX);
    served.then_some((seconds - seconds % HOUR_SECONDS) * 1_000_000)
}

/// As [`compile::credited`](crate::compile), of what was recorded before `until_micros`.
pub(crate) fn credited(spec: &ReportSpec, until_micros: i64) -> String {
    let keys = keys(spec);
    let names: Vec<&str> = keys.iter().map(|(name, _)| name.as_str()).collect();
    let mut sums_of = Vec::new();
    let mut columns: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    columns.push("element.2 AS organic, element.1 AS e_channel".into());
    columns.push("if(organic, o_n, s_t[e_channel]) AS r, if(organic, 0, s_t[e_channel]) AS t".into());
    for (m, model) in spec.models.iter().enumerate() {
        let Some([conversions, value]) = sums(*model) else { continue };
        sums_of.push(format!("{conversions} AS s_c{m}, {value} AS s_v{m}"));
        // Linear parts are in 10⁻¹² already, the other models give whole conversions.
        let [one, micro] = match model {
            ModelSpec::Rule(Model::Linear) => ["1", "1"],
            _ => ["1000000000000", "1000000"],
        };
        columns.push(format!(
            "if(organic, toInt128(o_n) * 1000000000000, toInt128(s_c{m}[e_channel]) * {one}) AS c{m}, \
             if(organic, o_v * 1000000, s_v{m}[e_channel] * {micro}) AS v{m}"
        ));
    }
    let stored: Vec<String> = keys.iter().map(|(name, stored)| format!("{stored} AS {name}")).collect();
    format!(
        "SELECT {} FROM (SELECT {}, sumIf(toInt64(sign), {PARTS} = 0) AS o_n, \
         sumIf(sign * toInt128(value_micros), {PARTS} = 0) AS o_v, {} AS s_t, {} \
         FROM conversions WHERE {} GROUP BY {}) \
         ARRAY JOIN arrayPushFront(arrayMap(x -> (toString(x), 0), mapKeys(s_t)), ('', 1)) AS element",
        columns.join(", "),
        stored.join(", "),
        each("path_channel", PARTS, "toInt64(sign)"),
        sums_of.join(", "),
        selected(spec, until_micros),
        names.join(", "),
    )
}

/// As [`compile::totals`](crate::compile::totals), of what was recorded before `until_micros`.
pub(crate) fn totals(spec: &ReportSpec, until_micros: i64) -> String {
    let touches = match spec.measures(Measure::Touches) {
        true => format!("sum(sign * toInt64({PARTS}))"),
        false => "toInt64(0)".to_owned(),
    };
    format!(
        "SELECT toString(currency_key) AS currency, n AS conversions, v AS value, t AS touches FROM (SELECT {} AS \
         currency_key, sum(toInt64(sign)) AS n, sum(sign * toInt128(value_micros)) AS v, {touches} AS t \
         FROM conversions WHERE {} GROUP BY currency_key)",
        currency(spec),
        selected(spec, until_micros)
    )
}

fn currency(spec: &ReportSpec) -> &'static str {
    if spec.measures(Measure::Value) { "currency" } else { "''" }
}

// Names and what they are made of: the keys of the projection, and functions of them.
fn keys(spec: &ReportSpec) -> Vec<(String, String)> {
    let zone = quote(&spec.rules.time_zone);
    let stored = |dimension: Dimension| match dimension {
        Dimension::Hour => "toStartOfHour(time)".to_owned(),
        Dimension::Day => format!("toDate(toStartOfHour(time), {zone})"),
        Dimension::Week => format!("toMonday(toStartOfHour(time), {zone})"),
        Dimension::Month => format!("toStartOfMonth(toStartOfHour(time), {zone})"),
        _ => dimension.name().to_owned(),
    };
    let dimensions = spec.dimensions.iter().filter(|dimension| !dimension.of_touch());
    let dimensions = dimensions.map(|dimension| (paths::key(*dimension), stored(*dimension)));
    std::iter::once(("currency_key".to_owned(), currency(spec).to_owned())).chain(dimensions).collect()
}

// On nothing but the keys of the projection.
fn selected(spec: &ReportSpec, until_micros: i64) -> String {
    let hour = |seconds: i64| format!("toDateTime({seconds}, 'UTC')");
    let mut conditions = format!(
        "tenant = {} AND toStartOfHour(time) >= {} AND toStartOfHour(time) < {} AND toStartOfHour(recorded_at) < {}",
        quote(&spec.tenant),
        hour(spec.from_millis / 1_000),
        hour(spec.to_millis / 1_000),
        hour(until_micros / 1_000_000),
    );
    for filter in spec.filters.iter().filter(|filter| !filter.dimension.of_touch()) {
        conditions.push_str(&format!(
            " AND {} IN {}",
            filter.dimension.name(),
            quote_list(&paths::stored_values(filter))
        ));
    }
    conditions
}

// Sums by channel of conversions and of value, as the projection has them.
fn sums(model: ModelSpec) -> Option<[String; 2]> {
    let whole = |channels: &str, count: &str| {
        [each(channels, count, "toInt64(sign)"), each(channels, count, "sign * toInt128(value_micros)")]
    };
    let one = format!("least({PARTS}, 1)");
    Some(match model {
        ModelSpec::Rule(Model::Linear) => {
            let parts = format!("toInt64(greatest({PARTS}, 1))");
            [
                each("path_channel", PARTS, &format!("toInt128(sign * toInt64(round(1e12 / {parts})))")),
                each(
                    "path_channel",
                    PARTS,
                    &format!(
                        "sign * intDiv(toInt128(value_micros) * 2000000 + if(value_micros < 0, -{parts}, {parts}), \
                         toInt128(2 * {parts}))"
                    ),
                ),
            ]
        }
        ModelSpec::Rule(Model::FirstTouch) => whole("arraySlice(path_channel, 1, 1)", &one),
        ModelSpec::Rule(Model::LastTouch) => whole("arraySlice(path_channel, -1, 1)", &one),
        ModelSpec::Rule(Model::Decision) => {
            whole(&format!("arraySlice(path_channel, {WON}, {WON} > 0)"), &format!("toUInt64({WON} > 0)"))
        }
        _ => return None,
    })
}

fn each(channels: &str, count: &str, value: &str) -> String {
    format!("sumMap(mapFromArrays({channels}, arrayWithConstant({count}, {value})))")
}

// Whether days of the tenant's zone begin with an hour of UTC all through the report.
fn has_whole_hours(spec: &ReportSpec) -> bool {
    let Ok(zone) = TimeZone::get(&spec.rules.time_zone) else { return false };
    let moment = |millis| Timestamp::from_millisecond(millis);
    let (Ok(from), Ok(to)) = (moment(spec.from_millis), moment(spec.to_millis)) else { return false };
    let whole = |offset: jiff::tz::Offset| i64::from(offset.seconds()) % HOUR_SECONDS == 0;
    whole(zone.to_offset(from))
        && zone
            .following(from)
            .take_while(|transition| transition.timestamp() < to)
            .all(|transition| whole(transition.offset()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    fn hour() -> ReportSpec {
        ReportSpec { to_millis: HOUR_SECONDS * 1_000, ..spec() }
    }

    fn served(change: impl FnOnce(&mut ReportSpec)) -> bool {
        let mut asked = hour();
        change(&mut asked);
        until_micros(&asked).is_some()
    }

    #[test]
    fn only_what_the_hours_hold_is_served_by_them() {
        assert!(served(|_| {}));
        assert!(!served(|spec| spec.from_millis = 1));
        assert!(!served(|spec| spec.to_millis += 1));
        assert!(!served(|spec| spec.to_millis = i64::MAX));
        assert!(!served(|spec| spec.lookback_millis = Some(0)));
        assert!(!served(|spec| spec.dimensions = Vec::new()));
        assert!(!served(|spec| spec.dimensions.push(Dimension::Country)));
        assert!(!served(|spec| spec.measures.push(Measure::Persons)));
        assert!(!served(|spec| spec.models.push(ModelSpec::Markov)));
        for (zone, whole) in [("UTC", true), ("Europe/Berlin", true), ("Asia/Kolkata", false)] {
            let by_day = |spec: &mut ReportSpec| {
                spec.dimensions.push(Dimension::Day);
                spec.rules.time_zone = zone.into();
            };
            assert_eq!(served(by_day), whole, "{zone}");
        }
    }

    #[test]
    fn hours_are_whole_up_to_the_one_of_the_reports_moment() {
        for (as_of_micros, until) in [(0, 0), (3_599_999_999, 0), (3_600_000_000, 3_600_000_000)] {
            assert_eq!(until_micros(&ReportSpec { as_of_micros, ..hour() }), Some(until));
        }
    }

    #[test]
    fn the_projection_has_the_expressions_of_the_reports() {
        let migration = include_str!("../migrations/0007_by_hour.sql");
        for model in [Model::Linear, Model::FirstTouch, Model::LastTouch, Model::Decision] {
            for sum in sums(ModelSpec::Rule(model)).into_iter().flatten() {
                assert!(migration.contains(&sum), "{sum}");
            }
        }
    }
}

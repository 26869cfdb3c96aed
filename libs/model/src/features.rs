//! What the models of fraud and of lifetime value look at, for serving and for training alike.
//!
//! The names, units and ranges are those of `ml/attribution_ml/features.py`; a feature that is not known is absent, and the
//! model's own default stands in for it. Windows end at the touch and hold it.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    journey::TouchKind,
    traffic::{Kind, Traffic, key},
};

/// How many features there are.
pub const FEATURES: usize = 17;

/// Their names, in the order of the model's inputs.
pub const NAMES: [&str; FEATURES] = [
    "click_to_conversion",
    "touch_after_install_begin",
    "device_clicks_1h",
    "device_clicks_24h",
    "device_impressions_24h",
    "ip_prefix_clicks_1m",
    "ip_prefix_clicks_1h",
    "ip_prefix_clicks_24h",
    "sub_publisher_clicks_1m",
    "sub_publisher_clicks_1h",
    "sub_publisher_clicks_24h",
    "ip_devices_24h",
    "user_agent_mismatch",
    "country_mismatch",
    "hour_of_day",
    "new_device_share",
    "partner_deviation",
];

/// A feature each, in the order of [`NAMES`]; absent where it is not known.
pub type Features = [Option<f64>; FEATURES];

/// What is looked at of a touch. Absent strings are empty.
#[derive(Debug, Clone, Copy)]
pub struct Engagement<'a> {
    /// Its tenant.
    pub tenant: &'a str,
    /// Its kind.
    pub kind: TouchKind,
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// The device: the first of device id, cookie id and user id.
    pub device: &'a str,
    /// The address it came from.
    pub ip: &'a str,
    /// What it came with.
    pub user_agent: &'a str,
    /// Where it came from.
    pub country: &'a str,
    /// The partner.
    pub partner: &'a str,
    /// The sub-publisher, a partner's.
    pub sub_publisher: &'a str,
}

/// What is looked at of a conversion. Absent strings are empty.
#[derive(Debug, Clone, Copy)]
pub struct Converted<'a> {
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// When the store's download began, Unix milliseconds.
    pub install_begin_millis: Option<i64>,
    /// What it came with.
    pub user_agent: &'a str,
    /// Where it came from.
    pub country: &'a str,
}

/// How many features the model of lifetime value has.
pub const VALUE_FEATURES: usize = 9;

/// Their names, in the order of the model's inputs.
pub const VALUE_NAMES: [&str; VALUE_FEATURES] = [
    "repeat_days",
    "recency",
    "age",
    "silence",
    "spend_total",
    "spend_mean",
    "spend_first",
    "spend_last",
    "spend_13w",
];

/// How far a predicted lifetime value reaches, weeks: what the model is trained to tell (`HOLDOUT_WEEKS` of
/// `ml/attribution_ml/value.py`).
pub const HORIZON_WEEKS: u32 = 39;

/// The conversions of a person that are looked at, the newest.
pub const PURCHASES_MAX: usize = 1_000;

/// A purchase of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purchase {
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// What was paid, micros of the currency; above zero.
    pub value_micros: i64,
}

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// What the models take of these two at most.
const LATE_SECONDS_MAX: f64 = 90.0 * 86_400.0;
const DEVIATION_MAX: f64 = 1_000.0;
const MONEY_MAX: f64 = 1e9;

/// A purchase so many days ago is no longer one of the last 13 weeks.
const RECENT_DAYS: i64 = 91;

/// Systems that a user agent names, the more telling ones first: Android's names Linux as well.
const SYSTEMS: [&str; 8] = ["iPhone", "iPad", "Android", "Windows", "Macintosh", "Mac OS", "CrOS", "Linux"];

/// The features of a touch and the conversion that it may have led to, given the traffic up to then.
pub fn features(traffic: &Traffic, touch: &Engagement<'_>, conversion: &Converted<'_>) -> Features {
    let at = touch.time_millis;
    let delay = seconds(conversion.time_millis.saturating_sub(at));
    let late = conversion
        .install_begin_millis
        .map(|begin| seconds(at.saturating_sub(begin)).clamp(0.0, LATE_SECONDS_MAX));
    let device = Some(key(touch.tenant, &[touch.device]));
    let prefix = prefix_key(touch);
    let sub_publisher = sub_publisher_key(touch);
    let clicks = |kind, key: Option<u64>, window| traffic.count(kind, key?, at, window);
    let unlike = |one: Option<&str>, other: Option<&str>| Some(f64::from(u8::from(one? != other?)));
    let row = [
        Some(delay),
        late,
        clicks(Kind::DeviceClicks, device, HOUR),
        clicks(Kind::DeviceClicks, device, DAY),
        clicks(Kind::DeviceImpressions, device, DAY),
        clicks(Kind::PrefixClicks, prefix, MINUTE),
        clicks(Kind::PrefixClicks, prefix, HOUR),
        clicks(Kind::PrefixClicks, prefix, DAY),
        clicks(Kind::SubPublisherClicks, sub_publisher, MINUTE),
        clicks(Kind::SubPublisherClicks, sub_publisher, HOUR),
        clicks(Kind::SubPublisherClicks, sub_publisher, DAY),
        address_key(touch).and_then(|address| traffic.devices(address, at, DAY)),
        unlike(system(touch.user_agent), system(conversion.user_agent)),
        unlike(given(touch.country), given(conversion.country)),
        Some(at.rem_euclid(DAY) as f64 / HOUR as f64),
        sub_publisher.and_then(|sub_publisher| traffic.new_device_share(sub_publisher, at)),
        given(touch.partner)
            .and_then(|partner| traffic.deviation(key(touch.tenant, &[partner]), at, delay))
            .map(|deviation| deviation.min(DEVIATION_MAX)),
    ];
    row.map(|value| value.map(on_grid))
}

/// The features of a person's value at a moment, from the purchases until then, in any order; days are those of UTC. `None`
/// where there is no purchase.
pub fn value_features(purchases: &[Purchase], now_millis: i64) -> Option<[f64; VALUE_FEATURES]> {
    let mut days: BTreeMap<i64, i128> = BTreeMap::new();
    for purchase in purchases.iter().filter(|purchase| purchase.time_millis <= now_millis) {
        *days.entry(purchase.time_millis.div_euclid(DAY)).or_default() += i128::from(purchase.value_micros);
    }
    let (first, spent_first) = days.first_key_value()?;
    let (last, spent_last) = days.last_key_value()?;
    let today = now_millis.div_euclid(DAY);
    let total: i128 = days.values().sum();
    let recent: i128 = days.range(today - RECENT_DAYS + 1..).map(|(_, micros)| micros).sum();
    let count = days.len() as f64;
    let weeks = |days: i64| days as f64 / 7.0;
    let money = |micros: i128| (micros as f64 / 1e6).min(MONEY_MAX);
    let row = [
        count - 1.0,
        weeks(last - first),
        weeks(today - first),
        weeks(today - last),
        money(total),
        (total as f64 / 1e6 / count).min(MONEY_MAX),
        money(*spent_first),
        money(*spent_last),
        money(recent),
    ];
    Some(row.map(on_grid))
}

/// On a grid of a thousandth, as in training: there a value and a threshold of 32 bits are never confused.
fn on_grid(value: f64) -> f64 {
    (value * 1_000.0).round_ties_even() / 1_000.0
}

/// The key of an address's /24, or /48 of IPv6.
pub(crate) fn prefix_key(touch: &Engagement<'_>) -> Option<u64> {
    let prefix = match address(touch.ip)? {
        IpAddr::V4(ip) => ip.octets()[..3].to_vec(),
        IpAddr::V6(ip) => ip.octets()[..6].to_vec(),
    };
    let prefix: String = prefix.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(key(touch.tenant, &[&prefix]))
}

pub(crate) fn address_key(touch: &Engagement<'_>) -> Option<u64> {
    Some(key(touch.tenant, &[&address(touch.ip)?.to_string()]))
}

pub(crate) fn sub_publisher_key(touch: &Engagement<'_>) -> Option<u64> {
    given(touch.sub_publisher).map(|sub_publisher| key(touch.tenant, &[touch.partner, sub_publisher]))
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn system(user_agent: &str) -> Option<&'static str> {
    SYSTEMS.into_iter().find(|name| user_agent.contains(name))
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn seconds(millis: i64) -> f64 {
    millis as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purchase(day: i64, euros: i64) -> Purchase {
        Purchase { time_millis: day * DAY + HOUR, value_micros: euros * 1_000_000 }
    }

    #[test]
    fn features_of_a_value_are_those_of_days_with_purchases() {
        let purchases = [purchase(100, 5), purchase(7, 10), purchase(100, 15), purchase(120, 99)];
        // Until noon of day 105; what came later is not known then.
        let row = value_features(&purchases, 105 * DAY + 12 * HOUR);
        let expected = [1.0, 13.286, 14.0, 0.714, 30.0, 15.0, 10.0, 20.0, 20.0];
        assert_eq!(row, Some(expected));
    }

    #[test]
    fn the_last_thirteen_weeks_are_ninety_one_days_and_the_present_one_is_among_them() {
        let recent = |day| value_features(&[purchase(0, 10)], day * DAY + 12 * HOUR).map(|row| row[8]);
        assert_eq!((recent(90), recent(91)), (Some(10.0), Some(0.0)));
    }

    #[test]
    fn who_has_not_bought_has_no_features_and_who_bought_too_much_has_the_most_that_is_taken() {
        assert_eq!(value_features(&[], 0), None);
        assert_eq!(value_features(&[purchase(1, 10)], 0), None);
        let most = Purchase { time_millis: 0, value_micros: 9_000_000_000_000 * 1_000_000 };
        let row = value_features(&[most; PURCHASES_MAX], 0);
        assert_eq!(row, Some([0.0, 0.0, 0.0, 0.0, MONEY_MAX, MONEY_MAX, MONEY_MAX, MONEY_MAX, MONEY_MAX]));
    }
}

//! What may stand in `[tenants.x.fraud]`.

use std::{collections::BTreeSet, ops::Range};

use model::{
    FraudRule, duration,
    fraud::{Cap, Caps, FraudOverride, FraudSettings, PROBABILITY_MICROS},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::file::is_name;

/// Partners with rules of their own.
const OVERRIDES_MAX: usize = 1_000;

/// The most touches that a cap allows: a journey has no more.
const CAP_TOUCHES_MAX: u32 = model::JOURNEY_TOUCHES_MAX as u32;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct FraudTable {
    reject: Option<Spanned<Vec<String>>>,
    #[serde(default, deserialize_with = "probability")]
    reject_above: Option<u32>,
    #[serde(default)]
    caps: CapsTable,
    #[serde(default)]
    r#override: Vec<Spanned<OverrideTable>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CapsTable {
    minutes: Option<Spanned<CapTable>>,
    hour: Option<Spanned<CapTable>>,
    day: Option<Spanned<CapTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CapTable {
    period: String,
    touches: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideTable {
    partner: String,
    reject: Option<Spanned<Vec<String>>>,
    #[serde(default, deserialize_with = "probability")]
    reject_above: Option<u32>,
}

type Wrong = (Range<usize>, String);

// === impl FraudTable ===

impl FraudTable {
    /// The settings, or what is wrong and where.
    pub(super) fn settings(self) -> Result<FraudSettings, Wrong> {
        let mut caps = Caps::default();
        let given = [
            (FraudRule::CapMinutes, self.caps.minutes, &mut caps.minutes),
            (FraudRule::CapHour, self.caps.hour, &mut caps.hour),
            (FraudRule::CapDay, self.caps.day, &mut caps.day),
        ];
        for (rule, table, cap) in given {
            if let Some(table) = table {
                *cap = read_cap(rule, table)?;
            }
        }
        let mut overrides: Vec<FraudOverride> = Vec::new();
        for table in self.r#override {
            let span = table.span();
            let OverrideTable { partner, reject, reject_above } = table.into_inner();
            if !is_name(&partner) {
                return Err((span, "a partner has 1 to 256 characters".into()));
            }
            if reject.is_none() && reject_above.is_none() {
                return Err((span, "an override needs reject or reject_above".into()));
            }
            if overrides.iter().any(|other| other.partner == partner) {
                return Err((span, format!("partner {partner:?} stands above")));
            }
            if overrides.len() == OVERRIDES_MAX {
                return Err((span, format!("at most {OVERRIDES_MAX} partners have rules of their own")));
            }
            let reject = reject.map(rules).transpose()?;
            overrides.push(FraudOverride { partner, reject, reject_above_micros: reject_above });
        }
        Ok(FraudSettings {
            reject: self.reject.map(rules).transpose()?.unwrap_or_default(),
            reject_above_micros: self.reject_above,
            caps,
            overrides,
        })
    }
}

fn rules(given: Spanned<Vec<String>>) -> Result<BTreeSet<FraudRule>, Wrong> {
    let span = given.span();
    let named = |name: &String| {
        FraudRule::from_name(name).ok_or_else(|| {
            let names: Vec<&str> = FraudRule::ALL.iter().map(|rule| rule.name()).collect();
            (span.clone(), format!("reject takes {}, not {name:?}", names.join(", ")))
        })
    };
    given.get_ref().iter().map(named).collect()
}

fn read_cap(rule: FraudRule, table: Spanned<CapTable>) -> Result<Cap, Wrong> {
    let span = table.span();
    let CapTable { period, touches } = table.into_inner();
    let period_millis = duration::parse_millis(&period).map_err(|error| (span.clone(), error.to_string()))?;
    if !Caps::is_period(rule, period_millis) {
        let periods = match rule {
            FraudRule::CapMinutes => "1m to 10m by the minute",
            FraudRule::CapHour => "10m to 55m by five minutes",
            _ => "1h to 24h by the hour",
        };
        return Err((span, format!("the period of this cap is {periods}")));
    }
    if !(1..=CAP_TOUCHES_MAX).contains(&touches) {
        return Err((span, format!("touches is 1 to {CAP_TOUCHES_MAX}")));
    }
    Ok(Cap { period_millis, touches_max: touches })
}

fn probability<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let probability = f64::deserialize(from)?;
    if !(0.0..=1.0).contains(&probability) {
        return Err(D::Error::custom("reject_above is a probability from 0 to 1"));
    }
    // At most a million.
    Ok(Some((probability * f64::from(PROBABILITY_MICROS)).round() as u32))
}

#[cfg(test)]
#[path = "fraud_tests.rs"]
mod tests;

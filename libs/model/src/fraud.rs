//! Rules that a fraudulent touch breaks, and what the settings make of it.
//!
//! Every rule looks at one conversion's journey alone. Which of them rejects is up to the settings; by default none does,
//! and what is broken is only shown.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    duration,
    journey::{Conversion, Touch, TouchKind},
};

/// A click that came less than this before an install did not lead to it, milliseconds: nobody finds, loads and opens an
/// app in five seconds. A convention of attribution vendors, not measured here.
pub const CLICK_TO_INSTALL_MILLIS_MIN: i64 = 5_000;

/// The name of conversions that are installs; one that says when its download began is an install as well.
pub const INSTALL: &str = "install";

/// One, in millionths: probabilities of fraud are whole numbers of these.
pub const PROBABILITY_MICROS: u32 = 1_000_000;

/// Probabilities of fraud by touch id, in millionths.
pub type FraudScores = BTreeMap<String, u32>;

/// A rule. The order is that in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FraudRule {
    /// A click less than [`CLICK_TO_INSTALL_MILLIS_MIN`] before the install.
    ClickToInstall,
    /// A click or an impression later than the begin of the download, which it therefore cannot have led to (as in
    /// Airbridge, "Injection Prevention").
    AfterInstallBegin,
    /// One more click, or impression, of the person than the cap of some minutes allows.
    CapMinutes,
    /// One more than the cap of up to an hour allows.
    CapHour,
    /// One more than the cap of up to a day allows.
    CapDay,
}

/// What the settings say of fraud.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FraudSettings {
    /// Rules that reject a touch; none by default.
    pub reject: BTreeSet<FraudRule>,
    /// A touch with a greater probability of fraud is rejected, millionths; by default none is.
    pub reject_above_micros: Option<u32>,
    /// How many touches of a kind a person may have.
    pub caps: Caps,
    /// Exceptions by partner.
    pub overrides: Vec<FraudOverride>,
}

/// What one partner's touches are rejected for; what is not set is as for the others.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FraudOverride {
    /// The touch's partner.
    pub partner: String,
    /// Instead of [`FraudSettings::reject`].
    pub reject: Option<BTreeSet<FraudRule>>,
    /// Instead of [`FraudSettings::reject_above_micros`]; [`PROBABILITY_MICROS`] rejects nothing.
    pub reject_above_micros: Option<u32>,
}

/// The three caps. Their periods are those that a vendor offers (Airbridge, "Frequency Capping"): 1 to 10 minutes by the
/// minute, 10 to 55 minutes by five, 1 to 24 hours by the hour. Ten touches in a minute is its example, the other two
/// numbers are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Of 1 to 10 minutes.
    pub minutes: Cap,
    /// Of 10 to 55 minutes.
    pub hour: Cap,
    /// Of 1 to 24 hours.
    pub day: Cap,
}

/// How many touches of a kind a person may have within a period that ends with the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    /// Milliseconds; a touch this long before another is no longer within it.
    pub period_millis: i64,
    /// The next one breaks the rule.
    pub touches_max: u32,
}

/// Looks at the touches of one journey in path order.
pub(crate) struct Watch<'a> {
    conversion: &'a Conversion,
    settings: &'a FraudSettings,
    is_install: bool,
    clicks: Counted,
    impressions: Counted,
}

/// Times of the touches of one kind so far, and the first that is within each cap's period.
#[derive(Default)]
struct Counted {
    times: Vec<i64>,
    first: [usize; 3],
}

const MINUTE: i64 = 60 * 1000;

// === impl FraudRule ===

impl FraudRule {
    /// Every rule, in order.
    pub const ALL: [Self; 5] =
        [Self::ClickToInstall, Self::AfterInstallBegin, Self::CapMinutes, Self::CapHour, Self::CapDay];

    /// The name in settings and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClickToInstall => "click_to_install",
            Self::AfterInstallBegin => "after_install_begin",
            Self::CapMinutes => "cap_minutes",
            Self::CapHour => "cap_hour",
            Self::CapDay => "cap_day",
        }
    }

    /// The rule of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// When a touch breaks it, in words, with its threshold.
    pub fn reason(self, caps: &Caps) -> String {
        let words = duration::words;
        let cap = |cap: Cap| {
            format!(
                "one more than {} touches of its kind by the person within {}",
                cap.touches_max,
                words(cap.period_millis)
            )
        };
        match self {
            Self::ClickToInstall => {
                format!("a click less than {} before the install", words(CLICK_TO_INSTALL_MILLIS_MIN))
            }
            Self::AfterInstallBegin => "later than the begin of the download".into(),
            Self::CapMinutes => cap(caps.minutes),
            Self::CapHour => cap(caps.hour),
            Self::CapDay => cap(caps.day),
        }
    }
}

// === impl FraudSettings ===

impl FraudSettings {
    /// Whether nothing differs from the defaults.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a touch that breaks these rules, and has this probability of fraud, is rejected.
    pub fn rejects(&self, touch: &Touch, broken: &[FraudRule], fraud_micros: Option<u32>) -> bool {
        let own = self.of_partner(&touch.partner);
        let reject = own.and_then(|own| own.reject.as_ref()).unwrap_or(&self.reject);
        if broken.iter().any(|rule| reject.contains(rule)) {
            return true;
        }
        fraud_micros.zip(self.reject_above_micros(touch)).is_some_and(|(micros, above)| micros > above)
    }

    /// From which probability on a touch is rejected, millionths.
    pub fn reject_above_micros(&self, touch: &Touch) -> Option<u32> {
        let own = self.of_partner(&touch.partner);
        own.and_then(|own| own.reject_above_micros).or(self.reject_above_micros)
    }

    fn of_partner(&self, partner: &str) -> Option<&FraudOverride> {
        self.overrides.iter().find(|own| own.partner == partner)
    }
}

// === impl Caps ===

impl Default for Caps {
    fn default() -> Self {
        let cap = |minutes, touches_max| Cap { period_millis: minutes * MINUTE, touches_max };
        Self { minutes: cap(1, 10), hour: cap(55, 30), day: cap(24 * 60, 100) }
    }
}

impl Caps {
    /// The caps with their rules.
    fn all(&self) -> [(FraudRule, Cap); 3] {
        [
            (FraudRule::CapMinutes, self.minutes),
            (FraudRule::CapHour, self.hour),
            (FraudRule::CapDay, self.day),
        ]
    }

    /// Whether a period is one of those that a rule's cap may have.
    pub fn is_period(rule: FraudRule, period_millis: i64) -> bool {
        let (first, last, step) = match rule {
            FraudRule::CapMinutes => (1, 10, 1),
            FraudRule::CapHour => (10, 55, 5),
            FraudRule::CapDay => (60, 24 * 60, 60),
            FraudRule::ClickToInstall | FraudRule::AfterInstallBegin => return false,
        };
        let minutes = period_millis / MINUTE;
        period_millis % MINUTE == 0 && (first..=last).contains(&minutes) && minutes % step == 0
    }
}

// === impl Watch ===

impl<'a> Watch<'a> {
    pub(crate) fn new(conversion: &'a Conversion, settings: &'a FraudSettings) -> Self {
        Self {
            conversion,
            settings,
            is_install: conversion.name == INSTALL || conversion.install_begin_millis.is_some(),
            clicks: Counted::default(),
            impressions: Counted::default(),
        }
    }

    /// The rules that the next touch of the path breaks. Visits break none: somebody is there.
    pub(crate) fn next(&mut self, touch: &Touch) -> Vec<FraudRule> {
        let counted = match touch.kind {
            TouchKind::Click => &mut self.clicks,
            TouchKind::Impression => &mut self.impressions,
            TouchKind::Visit => return Vec::new(),
        };
        let mut broken = Vec::new();
        let age_millis = self.conversion.time_millis.saturating_sub(touch.time_millis);
        if self.is_install && touch.kind == TouchKind::Click && age_millis < CLICK_TO_INSTALL_MILLIS_MIN {
            broken.push(FraudRule::ClickToInstall);
        }
        if self.conversion.install_begin_millis.is_some_and(|begin| touch.time_millis > begin) {
            broken.push(FraudRule::AfterInstallBegin);
        }
        counted.next(touch.time_millis, &self.settings.caps, &mut broken);
        broken
    }
}

// === impl Counted ===

impl Counted {
    fn next(&mut self, time_millis: i64, caps: &Caps, broken: &mut Vec<FraudRule>) {
        self.times.push(time_millis);
        for (first, (rule, cap)) in self.first.iter_mut().zip(caps.all()) {
            // Ends at the touch itself: a period is longer than nothing.
            while time_millis.saturating_sub(self.times[*first]) >= cap.period_millis {
                *first += 1;
            }
            if self.times.len() - *first > cap.touches_max as usize {
                broken.push(rule);
            }
        }
    }
}

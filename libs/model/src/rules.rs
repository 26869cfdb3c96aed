//! What affects a tenant's decisions: the part of the settings that an edition is the digest of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    fraud::FraudSettings,
    journey::{Conversion, Touch, TouchKind},
};

/// The longest look-back window, milliseconds: 90 days.
pub const WINDOW_MILLIS_MAX: i64 = 90 * 24 * 60 * 60 * 1000;

/// The rules of one settings edition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// ISO 4217; of conversions that name none.
    pub currency: String,
    /// IANA name; of the day, week and month dimensions.
    pub time_zone: String,
    /// The look-back windows.
    pub windows: Windows,
    /// Who wins.
    pub precedence: Precedence,
    /// Per conversion name.
    pub conversions: BTreeMap<String, ConversionRules>,
    /// What is rejected as fraud. Left out where nothing is set: so an edition from before there were such settings is
    /// still the same.
    #[serde(default, skip_serializing_if = "FraudSettings::is_default")]
    pub fraud: FraudSettings,
}

/// Look-back windows in milliseconds, 0 to [`WINDOW_MILLIS_MAX`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    /// Of clicks.
    pub click: i64,
    /// Of impressions.
    pub impression: i64,
    /// Of visits.
    pub visit: i64,
    /// Exceptions; each window takes the most specific one that sets it.
    pub overrides: Vec<WindowOverride>,
}

/// Windows for the touches and conversions that match every key given.
///
/// The keys rank `conversion`, `ad_group_id`, `campaign_id`, `partner`, `app_id`: an override is more specific than
/// another if it sets the higher-ranked key where the two first differ; of equals the first in the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowOverride {
    /// The conversion's name.
    pub conversion: Option<String>,
    /// The touch's ad group.
    pub ad_group_id: Option<String>,
    /// The touch's campaign.
    pub campaign_id: Option<String>,
    /// The touch's partner.
    pub partner: Option<String>,
    /// The app.
    pub app_id: Option<String>,
    /// Milliseconds.
    pub click: Option<i64>,
    /// Milliseconds.
    pub impression: Option<i64>,
    /// Milliseconds.
    pub visit: Option<i64>,
}

/// Which of the eligible touches wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Precedence {
    /// Kinds, the best first, then the latest; empty: the latest alone, whatever its kind.
    pub order: Vec<TouchKind>,
    /// Channels that `last_non_direct` passes over, unless there is nothing else.
    pub direct_channels: Vec<String>,
}

/// Rules for one conversion name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConversionRules {
    /// Whether touches before the person's previous conversion of this name are not eligible.
    pub cut_at_previous: bool,
}

// === impl Rules ===

impl Default for Rules {
    fn default() -> Self {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        Self {
            currency: "EUR".into(),
            time_zone: "UTC".into(),
            windows: Windows { click: 7 * DAY, impression: DAY, visit: 30 * DAY, overrides: Vec::new() },
            precedence: Precedence {
                order: vec![TouchKind::Click, TouchKind::Impression, TouchKind::Visit],
                direct_channels: vec!["direct".into()],
            },
            conversions: BTreeMap::new(),
            fraud: FraudSettings::default(),
        }
    }
}

impl Rules {
    /// The look-back window of a touch for a conversion, milliseconds.
    pub fn window_millis(&self, touch: &Touch, conversion: &Conversion) -> i64 {
        let default = match touch.kind {
            TouchKind::Click => self.windows.click,
            TouchKind::Impression => self.windows.impression,
            TouchKind::Visit => self.windows.visit,
        };
        let mut best: Option<([bool; 5], i64)> = None;
        for rule in &self.windows.overrides {
            let Some(window) = rule.window(touch.kind) else { continue };
            if !rule.matches(touch, conversion) {
                continue;
            }
            let rank = rule.rank();
            if best.is_none_or(|(top, _)| rank > top) {
                best = Some((rank, window));
            }
        }
        best.map_or(default, |(_, window)| window)
    }

    /// Whether paths to conversions of this name are cut at the previous one.
    pub fn cut_at_previous(&self, conversion: &str) -> bool {
        self.conversions.get(conversion).is_some_and(|rules| rules.cut_at_previous)
    }
}

// === impl Precedence ===

impl Precedence {
    /// The place of a kind, 0 the best; kinds that a non-empty order leaves out share the last place.
    pub fn rank(&self, kind: TouchKind) -> u8 {
        let place = self.order.iter().position(|&k| k == kind).unwrap_or(self.order.len());
        place.min(usize::from(u8::MAX)) as u8
    }

    /// Whether `last_non_direct` passes over the channel.
    pub fn is_direct(&self, channel: &str) -> bool {
        self.direct_channels.iter().any(|direct| direct == channel)
    }
}

// === impl WindowOverride ===

impl WindowOverride {
    fn window(&self, kind: TouchKind) -> Option<i64> {
        match kind {
            TouchKind::Click => self.click,
            TouchKind::Impression => self.impression,
            TouchKind::Visit => self.visit,
        }
    }

    fn matches(&self, touch: &Touch, conversion: &Conversion) -> bool {
        let is = |wanted: &Option<String>, actual: &str| wanted.as_deref().is_none_or(|w| w == actual);
        is(&self.conversion, &conversion.name)
            && is(&self.ad_group_id, &touch.ad_group_id)
            && is(&self.campaign_id, &touch.campaign_id)
            && is(&self.partner, &touch.partner)
            && is(&self.app_id, &touch.app_id)
    }

    fn rank(&self) -> [bool; 5] {
        [
            self.conversion.is_some(),
            self.ad_group_id.is_some(),
            self.campaign_id.is_some(),
            self.partner.is_some(),
            self.app_id.is_some(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(kind: TouchKind) -> Touch {
        Touch {
            id: "t".into(),
            kind,
            time_millis: 0,
            app_id: "app".into(),
            channel: String::new(),
            partner: "network".into(),
            campaign_id: "spring".into(),
            ad_group_id: "group".into(),
            creative_id: String::new(),
            keyword: String::new(),
        }
    }

    fn window(overrides: Vec<WindowOverride>, kind: TouchKind) -> i64 {
        let mut rules = Rules::default();
        rules.windows.overrides = overrides;
        let conversion = Conversion {
            id: "c".into(),
            name: "install".into(),
            time_millis: 0,
            app_id: "app".into(),
            value_micros: 0,
            currency: "EUR".into(),
            install_begin_millis: None,
        };
        rules.window_millis(&touch(kind), &conversion)
    }

    fn on(key: usize, value: &str, click: i64) -> WindowOverride {
        let mut keys = [const { None }; 5];
        keys[key] = Some(value.to_owned());
        let [conversion, ad_group_id, campaign_id, partner, app_id] = keys;
        WindowOverride {
            conversion,
            ad_group_id,
            campaign_id,
            partner,
            app_id,
            click: Some(click),
            ..Default::default()
        }
    }

    const MATCHING: [&str; 5] = ["install", "group", "spring", "network", "app"];

    #[test]
    fn a_higher_key_is_more_specific_wherever_it_stands() {
        for (higher, value) in MATCHING.into_iter().enumerate() {
            assert_eq!(window(vec![on(higher, value, 1)], TouchKind::Click), 1);
            for (lower, other) in MATCHING.into_iter().enumerate().skip(higher + 1) {
                let (one, two) = (on(higher, value, 1), on(lower, other, 2));
                assert_eq!(window(vec![one.clone(), two.clone()], TouchKind::Click), 1);
                assert_eq!(window(vec![two, one], TouchKind::Click), 1);
            }
        }
    }

    #[test]
    fn one_high_key_outranks_all_lower_ones_and_more_keys_outrank_fewer() {
        let mut lower = on(1, "group", 2);
        lower.campaign_id = Some("spring".into());
        lower.partner = Some("network".into());
        lower.app_id = Some("app".into());
        assert_eq!(window(vec![lower, on(0, "install", 1)], TouchKind::Click), 1);
        let mut both = on(0, "install", 3);
        both.app_id = Some("app".into());
        assert_eq!(window(vec![on(0, "install", 1), both], TouchKind::Click), 3);
    }

    #[test]
    fn of_equals_the_first_counts_and_every_key_must_match() {
        assert_eq!(window(vec![on(3, "network", 1), on(3, "network", 2)], TouchKind::Click), 1);
        for key in 0..5 {
            assert_eq!(window(vec![on(key, "another", 1)], TouchKind::Click), Rules::default().windows.click);
        }
        assert_eq!(
            window(vec![WindowOverride { click: Some(5), ..Default::default() }], TouchKind::Click),
            5
        );
    }

    #[test]
    fn each_window_takes_the_most_specific_override_that_sets_it() {
        let overrides = || {
            let visit_of_partner = WindowOverride { click: None, visit: Some(9), ..on(3, "network", 0) };
            vec![on(0, "install", 1), visit_of_partner]
        };
        assert_eq!(window(overrides(), TouchKind::Click), 1);
        assert_eq!(window(overrides(), TouchKind::Visit), 9);
        assert_eq!(window(overrides(), TouchKind::Impression), Rules::default().windows.impression);
    }

    #[test]
    fn kinds_that_the_order_leaves_out_come_last_together() {
        let mut precedence = Rules::default().precedence;
        precedence.order = vec![TouchKind::Visit];
        let ranks =
            [TouchKind::Visit, TouchKind::Click, TouchKind::Impression].map(|kind| precedence.rank(kind));
        assert_eq!(ranks, [0, 1, 1]);
        precedence.order.clear();
        assert_eq!(precedence.rank(TouchKind::Click), precedence.rank(TouchKind::Visit));
        assert!(precedence.is_direct("direct") && !precedence.is_direct("Direct"));
    }

    #[test]
    fn paths_are_cut_for_the_names_that_say_so() {
        let mut rules = Rules::default();
        rules.conversions.insert("install".into(), ConversionRules { cut_at_previous: true });
        rules.conversions.insert("purchase".into(), ConversionRules::default());
        assert_eq!(
            ["install", "purchase", "other"].map(|name| rules.cut_at_previous(name)),
            [true, false, false]
        );
    }
}

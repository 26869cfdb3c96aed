//! Journeys for the tests, and strategies that make them.

use model::{Conversion, Journey, PathTouch, Rules, Touch, TouchKind};
use proptest::prelude::*;

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;
pub(crate) const NOW: i64 = 1_767_225_600_000;

pub(crate) fn touch(id: &str, kind: TouchKind, age_millis: i64) -> Touch {
    Touch {
        id: id.into(),
        kind,
        time_millis: NOW - age_millis,
        app_id: "default".into(),
        channel: String::new(),
        partner: String::new(),
        campaign_id: String::new(),
        ad_group_id: String::new(),
        creative_id: String::new(),
        keyword: String::new(),
    }
}

pub(crate) fn conversion() -> Conversion {
    Conversion {
        id: "order".into(),
        name: "purchase".into(),
        time_millis: NOW,
        app_id: "default".into(),
        value_micros: 20_000_000,
        currency: "EUR".into(),
        install_begin_millis: None,
    }
}

pub(crate) fn journey(touches: Vec<Touch>) -> Journey {
    Journey { conversion: conversion(), touches, previous_conversion_millis: None }
}

pub(crate) fn cutting() -> Rules {
    let mut rules = Rules::default();
    rules.conversions.insert("purchase".into(), model::rules::ConversionRules { cut_at_previous: true });
    rules
}

/// Ages around every edge that a verdict depends on, and moments shared by several touches.
pub(crate) fn age() -> impl Strategy<Value = i64> {
    let edges = prop::sample::select(vec![0, HOUR, DAY, 7 * DAY, 30 * DAY, 90 * DAY]);
    prop_oneof![(edges, -1..=1_i64).prop_map(|(edge, off)| edge + off), -DAY..100 * DAY]
}

pub(crate) fn kind() -> impl Strategy<Value = TouchKind> {
    prop::sample::select(vec![TouchKind::Impression, TouchKind::Click, TouchKind::Visit])
}

/// Up to 30 touches with distinct ids, not in any order.
pub(crate) fn touches() -> impl Strategy<Value = Vec<Touch>> {
    let one = (kind(), age(), prop::bool::weighted(0.9), prop::bool::ANY);
    prop::collection::vec(one, 0..30).prop_flat_map(|drawn| {
        let touches: Vec<Touch> = drawn
            .into_iter()
            .enumerate()
            .map(|(index, (kind, age, same_app, direct))| {
                let mut touch = touch(&format!("t{index}"), kind, age);
                touch.channel = if direct { "direct".into() } else { "search".into() };
                if !same_app {
                    touch.app_id = "other".into();
                }
                touch
            })
            .collect();
        Just(touches).prop_shuffle()
    })
}

pub(crate) fn journeys() -> impl Strategy<Value = Journey> {
    let previous = prop::option::of((0..20 * DAY).prop_map(|age| NOW - age));
    (touches(), previous, any::<i32>()).prop_map(|(touches, previous_conversion_millis, value)| {
        let mut conversion = conversion();
        conversion.value_micros = i64::from(value);
        Journey { conversion, touches, previous_conversion_millis }
    })
}

pub(crate) fn precedences() -> impl Strategy<Value = Vec<TouchKind>> {
    let all = vec![TouchKind::Click, TouchKind::Impression, TouchKind::Visit];
    prop::sample::subsequence(all, 0..=3).prop_shuffle()
}

/// A path of 1 to 40 eligible touches, the oldest first.
pub(crate) fn paths() -> impl Strategy<Value = Vec<PathTouch>> {
    prop::collection::vec((0..90 * DAY, any::<bool>(), 0..3_u8), 1..40).prop_map(|mut drawn| {
        drawn.sort_by_key(|&(age, _, _)| std::cmp::Reverse(age));
        drawn.into_iter().map(|(age_millis, direct, rank)| PathTouch { age_millis, direct, rank }).collect()
    })
}

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

#[test]
fn a_decision_is_told_whole() {
    let touch = |id| json!({"event_id": id, "event_type": "click", "channel": "search", "timestamp": "2026-01-01T00:00:00Z"});
    let candidate = |id, verdict, age| json!({"touch": touch(id), "verdict": verdict, "age_millis": age, "window_millis": 604_800_000});
    let decision: Decision = serde_json::from_value(json!({
        "conversion": {"conversion": "purchase", "timestamp": "2026-01-01T02:00:00Z", "value": "1234.5", "currency": "EUR"},
        "candidates": [candidate("t1", "eligible", 7_200_000), candidate("t2", "after_conversion", -60_000)],
        "winner": {"event_id": "t1"},
        "credit": [
            {"model": "linear", "touches": [{"event_id": "t1", "conversions": 1, "value": "1234.500000"}]},
            {"model": "decision", "touches": [{"event_id": "t1", "conversions": 1, "value": "1234.500000"}]},
        ],
        "editions": [
            {"reason": "conversion", "recorded_at": "2026-01-01T02:00:01Z", "in_force": false},
            {"reason": "late_touch", "recorded_at": "2026-01-01T02:00:09Z", "in_force": true},
        ],
        "settings_edition": "sha256:00", "explanation": "Credited to a click.",
    }))
    .unwrap();
    let text = decision.show("c-1", false);
    for part in [
        "c-1: purchase at 2026-01-01T02:00:00Z, 1,234.5 EUR\n",
        "\nCredited to a click.\n",
        "eligible, the winner\n",
        "-1 minute  7 days  after conversion\n",
        "1.0000 (1234.50)",
        "late touch  in force\n",
        "settings sha256:00\n",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn a_lifetime_value_is_told_with_its_interval_or_why_there_is_none() {
    let told = |value: serde_json::Value| {
        let decision: Decision = serde_json::from_value(json!({
            "conversion": null, "candidates": [], "winner": null, "settings_edition": "s", "explanation": "Organic.",
            "credit": [], "editions": [], "lifetime_value": value,
        }))
        .unwrap();
        decision.show("c-1", false)
    };
    let predicted =
        told(json!({"present": true, "value": 1234.567, "lower": 0, "upper": 2500.5, "level": 0.8,
        "currency": "EUR", "horizon_weeks": 39, "model": "value", "version": "1", "reason": null}));
    let line =
        "lifetime value 1,234.57 EUR in 39 weeks; of such persons 80 % from 0.00 to 2,500.50 (value 1)\n";
    assert!(predicted.contains(line), "{predicted}");
    let none = told(json!({"present": false, "value": null, "lower": null, "upper": null, "level": null,
        "currency": null, "horizon_weeks": null, "model": null, "version": null, "reason": "it was away"}));
    assert!(none.contains("no lifetime value: it was away\n"), "{none}");
    assert!(!told(json!(null)).contains("lifetime"));
}

#[test]
fn organic_has_no_touch() {
    let decision: Decision = serde_json::from_value(json!({
        "conversion": null, "candidates": [], "winner": null, "settings_edition": "s", "explanation": "Organic.",
        "credit": [{"model": "linear", "touches": [{"event_id": null, "conversions": 1, "value": "0.000000"}]}],
        "editions": [],
    }))
    .unwrap();
    let text = decision.show("c-1", false);
    assert!(text.contains("organic  1.0000\n"), "{text}");
}

#[test]
fn only_event_ids_get_into_a_path() {
    for wrong in ["", ".", "..", "a/b", "a?b", "é", &"x".repeat(65)] {
        assert!(event_id(wrong).is_err(), "{wrong}");
    }
    assert_eq!(event_id(&"x".repeat(64)).unwrap().len(), 64);
}

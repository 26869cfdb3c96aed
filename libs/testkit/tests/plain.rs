//! The plain model against examples worked out by hand.

#![allow(clippy::unwrap_used)]

use proto::events::{Event, EventType};
use testkit::plain::{Acceptance, DAY, Model, Platform, Report, Row, Settings, Transform, millis};

const NOON: i64 = 1_767_268_800_000;

fn event(id: &str, kind: EventType, at: i64, device: &str) -> Event {
    Event {
        event_id: id.into(),
        event_type: kind.into(),
        timestamp: Some(prost_types::Timestamp {
            seconds: at / 1_000,
            nanos: (at % 1_000) as i32 * 1_000_000,
        }),
        device_id: device.into(),
        app_id: "default".into(),
        ..Event::default()
    }
}

fn touch(id: &str, kind: EventType, at: i64, channel: &str) -> Event {
    Event { channel: channel.into(), ..event(id, kind, at, "d") }
}

fn purchase(id: &str, at: i64, value: &str) -> Event {
    let conversion = event(id, EventType::Conversion, at, "d");
    Event { conversion: "purchase".into(), value: value.into(), currency: "EUR".into(), ..conversion }
}

fn platform(events: &[Event]) -> Platform {
    let mut platform = Platform::default();
    for event in events {
        assert_eq!(platform.accept("t", event), Acceptance::Accepted);
        assert_eq!(platform.accept("t", event), Acceptance::Duplicate);
    }
    platform
}

fn verdicts(platform: &Platform, id: &str) -> Vec<(String, &'static str)> {
    let decision = platform.decision("t", id).unwrap();
    decision.candidates.iter().map(|c| (c.touch.event_id.clone(), c.verdict)).collect()
}

fn report(models: &[Model]) -> Report {
    Report {
        from_millis: NOON - 400 * DAY,
        to_millis: NOON + DAY,
        models: models.to_vec(),
        dimensions: vec!["channel".into()],
        filters: Vec::new(),
        lookback_millis: None,
        transforms: Vec::new(),
        by_currency: true,
    }
}

fn credited(platform: &Platform, report: &Report) -> Vec<(String, f64, f64)> {
    let rows: Vec<Row> = platform.report("t", report);
    rows.into_iter().map(|row| (row.dimensions.join(","), row.conversions, row.value)).collect()
}

#[test]
fn windows_include_both_ends_and_the_kind_decides_before_the_time() {
    let platform = platform(&[
        touch("click", EventType::Click, NOON - 7 * DAY, "a"),
        touch("late click", EventType::Click, NOON - 7 * DAY - 1, "a"),
        touch("view", EventType::Impression, NOON, "b"),
        touch("after", EventType::Click, NOON + 1, "c"),
        Event { app_id: "other".into(), ..touch("elsewhere", EventType::Click, NOON, "c") },
        purchase("p", NOON, "1"),
    ]);
    let expected = [
        ("late click", "outside_window"),
        ("click", "eligible"),
        ("elsewhere", "other_app"),
        ("view", "eligible"),
    ];
    assert_eq!(verdicts(&platform, "p"), expected.map(|(id, verdict)| (id.to_owned(), verdict)));
    assert_eq!(platform.decision("t", "p").unwrap().ranking, ["click", "view"]);
    assert_eq!(platform.decision("u", "p"), None);
    assert_eq!(platform.decision("t", "click"), None);
    assert_eq!(millis(&purchase("p", NOON - 1, "1")), NOON - 1);
}

#[test]
fn persons_are_joined_whatever_comes_between_and_large_sets_are_not() {
    let mut click = touch("click", EventType::Click, NOON - 1, "a");
    click.device_id = "phone".into();
    let joint = Event { user_id: "u".into(), ..event("one", EventType::Activity, NOON + 5, "phone") };
    let other = Event { user_id: "u".into(), ..event("two", EventType::Activity, NOON + 9, "d") };
    let mut platform = platform(&[click, purchase("p", NOON, "1"), joint, other]);
    assert_eq!(platform.decision("t", "p").unwrap().ranking, ["click"]);
    assert_eq!(platform.decision("t", "p").unwrap().person.identities.len(), 3);
    for extra in 0..97 {
        let id = format!("{extra}");
        platform.accept("t", &Event { user_id: "u".into(), ..event(&id, EventType::Activity, NOON, &id) });
    }
    assert_eq!(platform.decision("t", "p").unwrap().person.identities.len(), 100);
    platform.accept("t", &Event { user_id: "u".into(), ..event("last", EventType::Activity, NOON, "last") });
    let decision = platform.decision("t", "p").unwrap();
    assert!(decision.person.shared && decision.ranking.is_empty());
}

#[test]
fn paths_are_cut_where_the_settings_say_so() {
    let mut platform = platform(&[
        touch("one", EventType::Click, NOON - 2_000, "a"),
        purchase("first", NOON - 2_000, "1"),
        touch("two", EventType::Click, NOON - 1_000, "b"),
        purchase("second", NOON, "1"),
    ]);
    assert_eq!(platform.decision("t", "second").unwrap().ranking, ["two", "one"]);
    platform.set("t", Settings { cut_at_previous: vec!["purchase".into()], ..Settings::default() });
    assert_eq!(platform.decision("t", "first").unwrap().ranking, ["one"]);
    assert_eq!(platform.decision("t", "second").unwrap().ranking, ["two"]);
}

#[test]
fn a_journey_is_cut_to_its_newest_thousand() {
    let events: Vec<Event> =
        (0..1_001).map(|n| touch(&format!("{n:04}"), EventType::Click, NOON - n, "a")).collect();
    let mut platform = platform(&[purchase("p", NOON, "1")]);
    for event in &events[..1_000] {
        platform.accept("t", event);
    }
    assert!(!platform.decision("t", "p").unwrap().truncated);
    platform.accept("t", &events[1_000]);
    let decision = platform.decision("t", "p").unwrap();
    assert!(decision.truncated);
    assert_eq!(decision.candidates.len(), 1_000);
    assert_eq!(decision.candidates[0].touch.event_id, "0999");
}

#[test]
fn credit_adds_up_under_every_model() {
    let platform = platform(&[
        touch("1", EventType::Visit, NOON - 14 * DAY, "direct"),
        touch("2", EventType::Click, NOON - 7 * DAY, "email"),
        touch("3", EventType::Click, NOON - 6 * DAY, "email"),
        touch("4", EventType::Visit, NOON, "direct"),
        purchase("p", NOON, "12"),
        Event { device_id: "nobody".into(), ..purchase("q", NOON, "3") },
    ]);
    let shares = |model: Model| credited(&platform, &report(&[model]));
    let rows = |direct: f64, email: f64| {
        let row = |channel: &str, share: f64| (channel.to_owned(), share, share * 12.0);
        let mut rows = vec![row("direct", direct), row("email", email), ("organic".to_owned(), 1.0, 3.0)];
        rows.retain(|row| row.1 > 0.0 || row.0 != "organic");
        rows
    };
    assert_eq!(shares(Model::Decision), rows(0.0, 1.0));
    assert_eq!(shares(Model::FirstTouch), rows(1.0, 0.0));
    assert_eq!(shares(Model::LastNonDirect), rows(0.0, 1.0));
    assert_eq!(shares(Model::Linear), rows(0.5, 0.5));
    assert_eq!(shares(Model::Shapley), rows(0.5, 0.5));
    let position = shares(Model::PositionBased(0.4, 0.4));
    assert!((position[0].1 - 0.8).abs() < 1e-12 && (position[1].1 - 0.2).abs() < 1e-12, "{position:?}");
    let decay = shares(Model::TimeDecay(7.0 * DAY as f64));
    let sum = 0.25 + 0.5 + 0.5_f64.powf(6.0 / 7.0) + 1.0;
    assert!((decay[0].1 - 1.25 / sum).abs() < 1e-12, "{decay:?}");
}

#[test]
fn reports_filter_transform_and_look_back() {
    let platform = platform(&[
        touch("1", EventType::Click, NOON - 2 * DAY, "a"),
        touch("2", EventType::Click, NOON - DAY, "b"),
        touch("3", EventType::Click, NOON - 10, "b"),
        touch("4", EventType::Click, NOON - 5, "a"),
        purchase("p", NOON, "1"),
    ]);
    let linear = report(&[Model::Linear]);
    let shares = |report: Report| -> Vec<(String, f64)> {
        credited(&platform, &report).into_iter().map(|(channel, share, _)| (channel, share)).collect()
    };
    let row = |channel: &str, share: f64| (channel.to_owned(), share);
    let transformed = |transform: Transform| Report { transforms: vec![transform], ..linear.clone() };
    assert_eq!(shares(transformed(Transform::First)), [row("a", 0.5), row("b", 0.5)]);
    let exposure = shares(transformed(Transform::Exposure));
    assert!((exposure[0].1 - 2.0 / 3.0).abs() < 1e-12, "{exposure:?}");
    assert_eq!(shares(transformed(Transform::RemoveIfNotAll("a".into()))), [row("b", 1.0)]);
    let last = shares(transformed(Transform::RemoveIfLastAndNotAll("a".into())));
    assert!((last[0].1 - 1.0 / 3.0).abs() < 1e-12, "{last:?}");
    assert_eq!(
        shares(Report { lookback_millis: Some(10), ..linear.clone() }),
        [row("a", 0.5), row("b", 0.5)]
    );
    assert_eq!(shares(Report { lookback_millis: Some(0), ..linear.clone() }), [row("organic", 1.0)]);
    let filtered = |dimension: &str, value: &str| Report {
        filters: vec![(dimension.into(), vec![value.into()])],
        ..linear.clone()
    };
    assert_eq!(shares(filtered("channel", "a")), [row("a", 0.5)]);
    assert_eq!(shares(filtered("conversion", "install")), []);
    let by_time = Report {
        dimensions: ["day", "week", "month", "hour"].map(String::from).to_vec(),
        ..report(&[Model::LastTouch])
    };
    assert_eq!(shares(by_time), [row("2026-01-01,2025-12-29,2026-01,2026-01-01T12:00:00Z", 1.0)]);
}

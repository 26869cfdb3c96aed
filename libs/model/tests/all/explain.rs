//! Explanations, word by word.

use super::common::{DAY, HOUR, MINUTE, NOW, cutting, journey, touch};
use model::{Journey, Rules, Touch, TouchKind, decide, explain};

use TouchKind::{Click, Impression, Visit};

fn words(touches: Vec<Touch>) -> String {
    explain(&decide(journey(touches), &Rules::default()))
}

#[test]
fn a_click_before_an_impression_with_three_excluded() {
    let winner = Touch {
        channel: "search".into(),
        campaign_id: "spring".into(),
        ..touch("c-17", Click, 2 * HOUR + 5 * MINUTE)
    };
    let foreign = Touch { app_id: "other".into(), ..touch("c-4", Click, HOUR) };
    let touches = vec![
        touch("i-3", Impression, 85 * MINUTE),
        winner,
        touch("c-1", Click, 8 * DAY),
        touch("c-2", Click, 9 * DAY),
        foreign,
    ];
    assert_eq!(
        words(touches),
        "Credited to click c-17 (channel search, campaign spring) 2 hours 5 minutes before the conversion: \
         clicks come before impressions; the next best was impression i-3, 40 minutes later. \
         2 of 5 touches were eligible; 2 were older than their window (click 7d), 1 belonged to another app."
    );
}

#[test]
fn the_only_touch() {
    assert_eq!(
        words(vec![touch("v", Visit, 0)]),
        "Credited to visit v at the moment of the conversion: it was the only eligible touch."
    );
}

#[test]
fn the_latest_and_the_greater_id() {
    assert_eq!(
        words(vec![touch("a", Click, HOUR), touch("b", Click, 30 * MINUTE)]),
        "Credited to click b 30 minutes before the conversion: it is the latest eligible click; \
         the next best was click a, 30 minutes earlier. All 2 touches were eligible."
    );
    assert_eq!(
        words(vec![touch("a", Click, HOUR), touch("b", Click, HOUR)]),
        "Credited to click b 1 hour before the conversion: of touches at the same moment the greater event id counts; \
         the next best was click a, at the same moment. All 2 touches were eligible."
    );
}

#[test]
fn nobody() {
    assert_eq!(
        words(vec![]),
        "Credited to nobody (organic): the person has no touch in the 90 days before the conversion, and none after it."
    );
    assert_eq!(
        words(vec![touch("a", Click, 8 * DAY), touch("b", Impression, 2 * DAY), touch("c", Click, -1)]),
        "Credited to nobody (organic): none of 3 touches was eligible; \
         2 were older than their window (impression 1d, click 7d), 1 happened after the conversion."
    );
    assert_eq!(
        words(vec![touch("a", Click, -1)]),
        "Credited to nobody (organic): the only touch was not eligible; 1 happened after the conversion."
    );
}

#[test]
fn cut_at_the_previous_conversion() {
    let cut = Journey {
        previous_conversion_millis: Some(NOW - HOUR),
        ..journey(vec![touch("a", Click, 2 * HOUR), touch("b", Click, MINUTE)])
    };
    assert_eq!(
        explain(&decide(cut, &cutting())),
        "Credited to click b 1 minute before the conversion: it was the only eligible touch. \
         1 of 2 touches was eligible; 1 came before the person's previous conversion of this name."
    );
}

#[test]
fn a_journey_cut_at_its_limit_says_so() {
    let said = words((0..1_001).map(|n| touch(&format!("t{n}"), Click, n)).collect());
    assert!(
        said.ends_with(
            "All 1000 touches were eligible. \
             Only the newest 1000 touches of the 90 days before the conversion were considered."
        ),
        "{said}"
    );
}

#[test]
fn control_characters_of_clients_do_not_survive() {
    let evil = Touch { channel: "a\u{1b}[2J\nb".into(), ..touch("t", Click, HOUR) };
    let said = words(vec![evil]);
    assert!(said.contains("channel a\u{fffd}[2J\u{fffd}b") && !said.chars().any(char::is_control), "{said}");
}

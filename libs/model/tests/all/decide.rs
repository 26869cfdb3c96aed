//! Verdicts and winners, by example at every edge and as properties of random journeys.

use std::cmp::Reverse;

use super::common::{DAY, HOUR, MINUTE, NOW, cutting, journey, journeys, precedences, touch};
use model::{
    Candidate, DecidedBy, JOURNEY_TOUCHES_MAX, Journey, Model, Rules, Touch, TouchKind, Verdict, decide,
    explain, rules::WINDOW_MILLIS_MAX,
};
use proptest::prelude::*;

use TouchKind::{Click, Impression, Visit};

fn verdict(touch: Touch, rules: &Rules) -> Option<Verdict> {
    decide(journey(vec![touch]), rules).candidates.first().map(|candidate| candidate.verdict)
}

#[test]
fn windows_include_both_ends() {
    let rules = Rules::default();
    for (kind, window) in [(Click, 7 * DAY), (Impression, DAY), (Visit, 30 * DAY)] {
        assert_eq!(verdict(touch("t", kind, 0), &rules), Some(Verdict::Eligible));
        assert_eq!(verdict(touch("t", kind, window), &rules), Some(Verdict::Eligible));
        assert_eq!(verdict(touch("t", kind, window + 1), &rules), Some(Verdict::OutsideWindow));
        assert_eq!(verdict(touch("t", kind, -1), &rules), Some(Verdict::AfterConversion));
    }
}

#[test]
fn touches_of_more_than_90_days_are_no_candidates() {
    let rules = Rules::default();
    assert_eq!(verdict(touch("t", Click, WINDOW_MILLIS_MAX), &rules), Some(Verdict::OutsideWindow));
    assert_eq!(verdict(touch("t", Click, WINDOW_MILLIS_MAX + 1), &rules), None);
}

#[test]
fn a_window_of_zero_keeps_the_moment_itself() {
    let mut rules = Rules::default();
    rules.windows.click = 0;
    assert_eq!(verdict(touch("t", Click, 0), &rules), Some(Verdict::Eligible));
    assert_eq!(verdict(touch("t", Click, 1), &rules), Some(Verdict::OutsideWindow));
}

#[test]
fn of_several_reasons_the_first_is_named() {
    let mut rules = cutting();
    rules.windows.click = 0;
    let decide_one = |touch: Touch| {
        let mut journey = journey(vec![touch]);
        journey.previous_conversion_millis = Some(NOW - HOUR);
        decide(journey, &rules).candidates[0].verdict
    };
    let foreign = |age| Touch { app_id: "other".into(), ..touch("t", Click, age) };
    assert_eq!(decide_one(foreign(-1)), Verdict::AfterConversion);
    assert_eq!(decide_one(foreign(2 * HOUR)), Verdict::OtherApp);
    assert_eq!(decide_one(touch("t", Click, 2 * HOUR)), Verdict::BeforePreviousConversion);
    assert_eq!(decide_one(touch("t", Click, MINUTE)), Verdict::OutsideWindow);
}

#[test]
fn a_touch_at_the_previous_conversion_belongs_to_that_one() {
    let at = |age, rules: &Rules| {
        let mut journey = journey(vec![touch("t", Click, age)]);
        journey.previous_conversion_millis = Some(NOW - HOUR);
        decide(journey, rules).candidates[0].verdict
    };
    assert_eq!(at(HOUR, &cutting()), Verdict::BeforePreviousConversion);
    assert_eq!(at(HOUR - 1, &cutting()), Verdict::Eligible);
    assert_eq!(at(HOUR, &Rules::default()), Verdict::Eligible);
}

#[test]
fn the_newest_thousand_before_the_conversion_count_and_later_ones_fill_the_room() {
    let rules = Rules::default();
    let many = |before: usize, after: usize| {
        let earlier = (0..before).map(|n| touch(&format!("b{n:04}"), Click, n as i64));
        let later = (1..=after).map(|n| touch(&format!("a{n:04}"), Click, -(n as i64)));
        decide(journey(earlier.chain(later).collect()), &rules)
    };
    let full = many(JOURNEY_TOUCHES_MAX, 0);
    assert_eq!((full.candidates.len(), full.truncated), (JOURNEY_TOUCHES_MAX, false));
    let over = many(JOURNEY_TOUCHES_MAX + 1, 1);
    assert_eq!((over.candidates.len(), over.truncated), (JOURNEY_TOUCHES_MAX, true));
    assert_eq!(over.candidates[0].age_millis, JOURNEY_TOUCHES_MAX as i64 - 1);
    assert!(over.candidates.iter().all(|candidate| candidate.verdict == Verdict::Eligible));
    let room = many(JOURNEY_TOUCHES_MAX - 2, 5);
    assert_eq!((room.candidates.len(), room.truncated), (JOURNEY_TOUCHES_MAX, false));
    assert_eq!(room.candidates.last().unwrap().age_millis, -2);
    assert_eq!(room.eligible().count(), JOURNEY_TOUCHES_MAX - 2);
}

#[test]
fn extreme_times_do_not_overflow() {
    let mut journey = journey(vec![touch("t", Click, 0), touch("u", Click, 0)]);
    journey.touches[0].time_millis = i64::MIN;
    journey.touches[1].time_millis = i64::MAX;
    journey.conversion.time_millis = -2;
    let decision = decide(journey, &Rules::default());
    assert_eq!(decision.candidates.len(), 1);
    assert_eq!(decision.candidates[0].verdict, Verdict::AfterConversion);
}

fn won(order: Vec<TouchKind>, touches: Vec<Touch>) -> (String, Option<String>, DecidedBy, i64) {
    let mut rules = Rules::default();
    rules.precedence.order = order;
    let decision = decide(journey(touches), &rules);
    let winner = decision.winner.unwrap();
    let id = |index: usize| decision.candidates[index].touch.id.clone();
    (id(winner.candidate), winner.runner_up.map(id), winner.decided_by, winner.margin_millis)
}

#[test]
fn kind_then_time_then_event_id_decide() {
    let order = || vec![Click, Impression, Visit];
    let c = |age| touch("c", Click, age);
    let i = |age| touch("i", Impression, age);
    let next = |id: &str| Some(id.to_owned());
    assert_eq!(won(order(), vec![c(HOUR), i(0)]), ("c".into(), next("i"), DecidedBy::Kind, -HOUR));
    assert_eq!(
        won(order(), vec![c(HOUR), touch("d", Click, MINUTE), i(0)]),
        ("d".into(), next("c"), DecidedBy::Time, 59 * MINUTE)
    );
    assert_eq!(
        won(order(), vec![touch("d", Click, HOUR), c(HOUR)]),
        ("d".into(), next("c"), DecidedBy::EventId, 0)
    );
    assert_eq!(won(order(), vec![i(0)]), ("i".into(), None, DecidedBy::OnlyCandidate, 0));
    assert_eq!(won(vec![], vec![c(HOUR), i(0)]), ("i".into(), next("c"), DecidedBy::Time, HOUR));
    // Kinds that the order leaves out share the last place.
    assert_eq!(won(vec![Visit], vec![c(HOUR), i(0)]), ("i".into(), next("c"), DecidedBy::Time, HOUR));
    assert_eq!(
        won(vec![Visit], vec![touch("v", Visit, 2 * HOUR), i(0), c(HOUR)]),
        ("v".into(), next("i"), DecidedBy::Kind, -2 * HOUR)
    );
}

#[test]
fn verdicts_have_names_and_numbers() {
    for (number, name) in [
        (1, "eligible"),
        (2, "outside_window"),
        (3, "other_app"),
        (4, "after_conversion"),
        (5, "before_previous_conversion"),
        (6, "fraud"),
    ] {
        assert_eq!(Verdict::from_u8(number).unwrap().name(), name);
    }
    assert_eq!((Verdict::from_u8(0), Verdict::from_u8(7)), (None, None));
}

// The rules of eligibility and precedence, stated over one touch or two at a time.
fn should_be_eligible(touch: &Touch, journey: &Journey, rules: &Rules) -> bool {
    let age = journey.conversion.time_millis - touch.time_millis;
    let window = match touch.kind {
        Click => rules.windows.click,
        Impression => rules.windows.impression,
        Visit => rules.windows.visit,
    };
    let cut = rules.cut_at_previous("purchase")
        && journey.previous_conversion_millis.is_some_and(|previous| touch.time_millis <= previous);
    (0..=window).contains(&age) && touch.app_id == journey.conversion.app_id && !cut
}

fn better<'a>(order: &[TouchKind], touch: &'a Touch) -> (Reverse<usize>, i64, &'a str) {
    let rank = order.iter().position(|&kind| kind == touch.kind).unwrap_or(order.len());
    (Reverse(rank), touch.time_millis, &touch.id)
}

fn eligible_ids(candidates: &[Candidate]) -> Vec<&str> {
    candidates
        .iter()
        .filter(|candidate| candidate.verdict == Verdict::Eligible)
        .map(|candidate| candidate.touch.id.as_str())
        .collect()
}

proptest! {
    #[test]
    fn the_order_of_touches_changes_nothing(
        (journey, shuffled) in journeys().prop_flat_map(|journey| {
            let shuffled = Just(journey.touches.clone()).prop_shuffle();
            (Just(journey), shuffled)
        }),
    ) {
        let other = Journey { touches: shuffled, ..journey.clone() };
        prop_assert_eq!(decide(journey, &cutting()), decide(other, &cutting()));
    }

    #[test]
    fn deciding_the_candidates_again_changes_nothing(journey in journeys()) {
        let previous_conversion_millis = journey.previous_conversion_millis;
        let decision = decide(journey, &cutting());
        let touches = decision.candidates.iter().map(|candidate| candidate.touch.clone()).collect();
        let again = Journey { conversion: decision.conversion.clone(), touches, previous_conversion_millis };
        prop_assert_eq!(decide(again, &cutting()), decision);
    }

    #[test]
    fn verdicts_and_winner_are_as_the_rules_say(journey in journeys(), order in precedences(), cut: bool) {
        let mut rules = if cut { cutting() } else { Rules::default() };
        rules.precedence.order = order.clone();
        let mut expected: Vec<&Touch> =
            journey.touches.iter().filter(|touch| should_be_eligible(touch, &journey, &rules)).collect();
        expected.sort_by_key(|touch| Reverse(better(&order, touch)));
        let decision = decide(journey.clone(), &rules);
        let id = |index: usize| decision.candidates[index].touch.id.clone();
        let winner = decision.winner.as_ref();
        prop_assert_eq!(winner.map(|w| id(w.candidate)), expected.first().map(|t| t.id.clone()));
        prop_assert_eq!(winner.and_then(|w| w.runner_up).map(id), expected.get(1).map(|t| t.id.clone()));
        let mut ids: Vec<&str> = expected.iter().map(|touch| touch.id.as_str()).collect();
        let mut found = eligible_ids(&decision.candidates);
        ids.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, ids);
    }

    #[test]
    fn a_longer_window_never_loses_a_touch(journey in journeys(), windows in [0..90 * DAY, 0..90 * DAY, 0..90 * DAY],
                                           more in [0..40 * DAY, 0..40 * DAY, 0..40 * DAY]) {
        let with = |extra: [i64; 3]| {
            let mut rules = cutting();
            rules.windows.click = windows[0] + extra[0];
            rules.windows.impression = windows[1] + extra[1];
            rules.windows.visit = windows[2] + extra[2];
            rules
        };
        let shorter = decide(journey.clone(), &with([0; 3]));
        let longer = decide(journey, &with(more));
        let kept = eligible_ids(&longer.candidates);
        prop_assert!(eligible_ids(&shorter.candidates).iter().all(|id| kept.contains(id)));
    }

    #[test]
    fn credit_is_of_eligible_touches_and_sums_to_the_conversion(journey in journeys()) {
        let rules = cutting();
        let decision = decide(journey, &rules);
        for model in Model::DEFAULTS {
            let shares = decision.credit(model, &rules.precedence);
            prop_assert_eq!(shares.is_empty(), decision.winner.is_none());
            if shares.is_empty() {
                continue;
            }
            prop_assert_eq!(shares.iter().map(|s| s.conversion_micros).sum::<i64>(), 1_000_000);
            let value: i64 = shares.iter().map(|s| s.value_micros).sum();
            prop_assert_eq!(value, decision.conversion.value_micros);
            prop_assert!(shares.iter().all(|s| decision.candidates[s.touch].verdict == Verdict::Eligible));
        }
        let winner = decision.winner.as_ref().map(|winner| winner.candidate);
        prop_assert_eq!(decision.credit(Model::Decision, &rules.precedence).first().map(|s| s.touch), winner);
    }

    #[test]
    fn the_words_name_the_winner_and_count_every_candidate(journey in journeys()) {
        let decision = decide(journey, &cutting());
        let words = explain(&decision);
        match &decision.winner {
            Some(winner) => prop_assert!(words.contains(&decision.candidates[winner.candidate].touch.id)),
            None => prop_assert!(words.starts_with("Credited to nobody (organic)")),
        }
        prop_assert!(words.ends_with('.') && !words.contains(['\n', '\r']));
    }
}

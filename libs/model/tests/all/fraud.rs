//! Rules of fraud: what breaks them, at their thresholds and one past, and what comes of it.

use std::collections::BTreeSet;

use model::{
    Decision, FraudRule, FraudScores, Rules, Touch, TouchKind, Verdict, decide, decide_scored,
    fraud::{Cap, Caps, FraudOverride},
};
use proptest::prelude::*;

use crate::common::{DAY, HOUR, MINUTE, NOW, journey, journeys, touch};

const CLICK: TouchKind = TouchKind::Click;

fn installed(touches: Vec<Touch>, begin_millis: Option<i64>) -> model::Journey {
    let mut journey = journey(touches);
    journey.conversion.name = "install".into();
    journey.conversion.install_begin_millis = begin_millis;
    journey
}

fn rejecting(rules: &[FraudRule]) -> Rules {
    let mut settings = Rules::default();
    settings.fraud.reject = rules.iter().copied().collect();
    settings
}

fn broken(decision: &Decision, id: &str) -> Vec<FraudRule> {
    decision.candidates.iter().find(|candidate| candidate.touch.id == id).unwrap().broken.clone()
}

fn winner(decision: &Decision) -> Option<&str> {
    decision.winner.as_ref().map(|winner| decision.candidates[winner.candidate].touch.id.as_str())
}

#[test]
fn a_click_less_than_five_seconds_before_an_install_is_too_soon() {
    for (age, soon) in [(0, true), (4_999, true), (5_000, false)] {
        let decision = decide(installed(vec![touch("t", CLICK, age)], None), &Rules::default());
        assert_eq!(broken(&decision, "t").contains(&FraudRule::ClickToInstall), soon, "{age}");
    }
    // Of clicks before installs alone.
    let purchase = decide(journey(vec![touch("t", CLICK, 0)]), &Rules::default());
    assert_eq!(broken(&purchase, "t"), []);
    for kind in [TouchKind::Impression, TouchKind::Visit] {
        let decision = decide(installed(vec![touch("t", kind, 0)], None), &Rules::default());
        assert_eq!(broken(&decision, "t"), []);
    }
    // A conversion that had a download is an install, whatever its name.
    let mut named_otherwise = installed(vec![touch("t", CLICK, 4_999)], Some(NOW));
    named_otherwise.conversion.name = "first_open".into();
    assert_eq!(broken(&decide(named_otherwise, &Rules::default()), "t"), [FraudRule::ClickToInstall]);
}

#[test]
fn a_touch_later_than_the_begin_of_the_download_cannot_have_led_to_it() {
    let begin = NOW - HOUR;
    for (age, late) in [(HOUR, false), (HOUR - 1, true), (HOUR + 1, false)] {
        for kind in [CLICK, TouchKind::Impression] {
            let decision = decide(installed(vec![touch("t", kind, age)], Some(begin)), &Rules::default());
            assert_eq!(broken(&decision, "t").contains(&FraudRule::AfterInstallBegin), late, "{age}");
        }
    }
    let visit = decide(installed(vec![touch("t", TouchKind::Visit, 0)], Some(begin)), &Rules::default());
    assert_eq!(broken(&visit, "t"), []);
}

#[test]
fn caps_let_so_many_touches_of_a_kind_through_and_not_the_next() {
    // The oldest first; every tenth of a second one.
    let clicks = |count: i64| -> Vec<Touch> {
        (0..count).map(|n| touch(&format!("t{n:03}"), CLICK, DAY - n * 100)).collect()
    };
    for (rule, allowed) in [(FraudRule::CapMinutes, 10), (FraudRule::CapHour, 30), (FraudRule::CapDay, 100)] {
        let decision = decide(journey(clicks(allowed + 2)), &Rules::default());
        let past: Vec<i64> =
            (0..allowed + 2).filter(|n| broken(&decision, &format!("t{n:03}")).contains(&rule)).collect();
        assert_eq!(past, [allowed, allowed + 1], "{rule:?}");
    }
    // Kinds are counted apart, and visits not at all.
    let mut mixed = clicks(10);
    mixed.push(touch("i", TouchKind::Impression, HOUR));
    mixed.extend((0..50).map(|n| touch(&format!("v{n}"), TouchKind::Visit, DAY)));
    let decision = decide(journey(mixed), &Rules::default());
    assert!(decision.candidates.iter().all(|candidate| candidate.broken.is_empty()));
}

#[test]
fn a_period_ends_with_the_touch_and_begins_after_the_one_that_is_as_long_ago() {
    let mut rules = Rules::default();
    rules.fraud.caps.minutes = Cap { period_millis: MINUTE, touches_max: 1 };
    for (apart, past) in [(MINUTE - 1, true), (MINUTE, false)] {
        let touches = vec![touch("a", CLICK, HOUR), touch("b", CLICK, HOUR - apart)];
        let decision = decide(journey(touches), &rules);
        assert_eq!(broken(&decision, "a"), []);
        assert_eq!(broken(&decision, "b") == [FraudRule::CapMinutes], past, "{apart}");
    }
}

#[test]
fn periods_are_those_of_each_cap() {
    let minutes = |rule| -> Vec<i64> {
        (0..=25 * 60).filter(|minutes| Caps::is_period(rule, minutes * MINUTE)).collect()
    };
    assert_eq!(minutes(FraudRule::CapMinutes), (1..=10).collect::<Vec<_>>());
    assert_eq!(minutes(FraudRule::CapHour), [10, 15, 20, 25, 30, 35, 40, 45, 50, 55]);
    assert_eq!(minutes(FraudRule::CapDay), (1..=24).map(|hours| hours * 60).collect::<Vec<_>>());
    assert!(!Caps::is_period(FraudRule::CapMinutes, MINUTE + 1));
    assert!(!Caps::is_period(FraudRule::ClickToInstall, MINUTE));
}

#[test]
fn a_rejected_touch_leaves_the_pool_and_the_next_candidate_wins() {
    let touches = || vec![touch("early", CLICK, HOUR), touch("late", CLICK, 1_000)];
    let shown = decide(installed(touches(), None), &Rules::default());
    assert_eq!(winner(&shown), Some("late"), "nothing is rejected unless the settings say so");
    assert_eq!(broken(&shown, "late"), [FraudRule::ClickToInstall]);

    let rejected = decide(installed(touches(), None), &rejecting(&[FraudRule::ClickToInstall]));
    assert_eq!(winner(&rejected), Some("early"));
    assert_eq!(rejected.candidates[1].verdict, Verdict::Fraud);
    let said = model::explain(&rejected);
    assert!(said.contains("1 was judged fraudulent (click_to_install)"), "{said}");

    let other = decide(installed(touches(), None), &rejecting(&[FraudRule::CapDay]));
    assert_eq!(winner(&other), Some("late"));
    let alone = decide(installed(touches().split_off(1), None), &rejecting(&[FraudRule::ClickToInstall]));
    assert_eq!(winner(&alone), None, "organic");
}

#[test]
fn fraud_is_a_verdict_before_the_window_and_after_the_others() {
    let rules = rejecting(&[FraudRule::AfterInstallBegin]);
    let begin = NOW - 80 * DAY;
    let verdict = |change: &dyn Fn(&mut Touch)| {
        let mut touch = touch("t", CLICK, 60 * DAY);
        change(&mut touch);
        decide(installed(vec![touch], Some(begin)), &rules).candidates[0].verdict
    };
    // A report with a longer look-back takes the place of the window alone.
    assert_eq!(verdict(&|_| {}), Verdict::Fraud);
    assert_eq!(verdict(&|touch| touch.app_id = "other".into()), Verdict::OtherApp);
    assert_eq!(verdict(&|touch| touch.time_millis = NOW + 1), Verdict::AfterConversion);
    assert_eq!(verdict(&|touch| touch.time_millis = begin), Verdict::OutsideWindow);
}

#[test]
fn a_probability_rejects_above_the_threshold_and_not_at_it() {
    let mut rules = Rules::default();
    rules.fraud.reject_above_micros = Some(900_000);
    for (micros, rejected) in [(0, false), (900_000, false), (900_001, true), (1_000_000, true)] {
        let scores = FraudScores::from([("late".to_owned(), micros)]);
        let touches = vec![touch("early", CLICK, HOUR), touch("late", CLICK, MINUTE)];
        let decision = decide_scored(journey(touches.clone()), &rules, &scores);
        assert_eq!(winner(&decision), Some(if rejected { "early" } else { "late" }), "{micros}");
        assert_eq!(decision.candidates[1].fraud_micros, Some(micros));
        let unset = decide_scored(journey(touches), &Rules::default(), &scores);
        assert_eq!(winner(&unset), Some("late"), "{micros}");
    }
}

#[test]
fn a_partner_has_rules_of_its_own() {
    let mut rules = rejecting(&[FraudRule::ClickToInstall]);
    rules.fraud.reject_above_micros = Some(500_000);
    let of = |partner: &str, reject, reject_above_micros| FraudOverride {
        partner: partner.into(),
        reject,
        reject_above_micros,
    };
    rules.fraud.overrides =
        vec![of("trusted", Some(BTreeSet::new()), None), of("doubted", None, Some(100_000))];
    let verdict = |partner: &str, micros: Option<u32>, age| {
        let mut touch = touch("t", CLICK, age);
        touch.partner = partner.into();
        let scores = micros.map(|micros| ("t".to_owned(), micros)).into_iter().collect();
        decide_scored(installed(vec![touch], None), &rules, &scores).candidates[0].verdict
    };
    assert_eq!(verdict("any", None, 0), Verdict::Fraud);
    assert_eq!(verdict("trusted", None, 0), Verdict::Eligible);
    assert_eq!(verdict("trusted", Some(500_001), 0), Verdict::Fraud, "what is not set is as for the others");
    assert_eq!(verdict("doubted", None, 0), Verdict::Fraud);
    assert_eq!(verdict("doubted", Some(100_001), HOUR), Verdict::Fraud);
    assert_eq!(verdict("any", Some(100_001), HOUR), Verdict::Eligible);
}

proptest! {
    #[test]
    fn rejecting_takes_touches_out_of_the_pool_and_changes_nothing_else(journey in journeys()) {
        let mut journey = journey;
        journey.conversion.name = "install".into();
        journey.conversion.install_begin_millis = Some(NOW - 10 * DAY);
        let shown = decide(journey.clone(), &Rules::default());
        let rejected = decide(journey, &rejecting(&FraudRule::ALL));
        for (before, after) in shown.candidates.iter().zip(&rejected.candidates) {
            prop_assert_eq!(&before.broken, &after.broken);
            prop_assert!(before.verdict != Verdict::Fraud);
            if after.verdict == Verdict::Fraud {
                prop_assert!(!after.broken.is_empty());
            } else {
                prop_assert_eq!(before.verdict, after.verdict);
                prop_assert!(after.broken.is_empty());
            }
        }
    }
}

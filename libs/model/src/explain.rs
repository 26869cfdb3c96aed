//! A decision in one paragraph of plain English.

use std::{borrow::Cow, cmp::Ordering, collections::BTreeSet};

use crate::{
    decide::{Candidate, DecidedBy, Decision, Verdict, Winner},
    duration,
    fraud::{FraudRule, PROBABILITY_MICROS},
    journey::{JOURNEY_TOUCHES_MAX, TouchKind},
};

/// Says who was credited and why, how many touches were considered, and what excluded the others. The same decision
/// gives the same words.
pub fn explain(decision: &Decision) -> String {
    let mut said = match &decision.winner {
        Some(winner) => credited(decision, winner),
        None => "Credited to nobody (organic)".into(),
    };
    said.push_str(&considered(decision));
    if decision.truncated {
        said.push_str(&format!(
            " Only the newest {JOURNEY_TOUCHES_MAX} touches of the 90 days before the conversion were considered."
        ));
    }
    said
}

/// Why the winner won, and by how much, without a full stop.
pub fn reason(decision: &Decision) -> String {
    let Some(winner) = &decision.winner else { return "no touch was eligible".into() };
    let best = &decision.candidates[winner.candidate];
    let Some(next) = winner.runner_up.map(|index| &decision.candidates[index]) else {
        return "it was the only eligible touch".into();
    };
    let gap = duration::words(winner.margin_millis);
    let gap = match winner.margin_millis.cmp(&0) {
        Ordering::Less => format!("{gap} later"),
        Ordering::Equal => "at the same moment".into(),
        Ordering::Greater => format!("{gap} earlier"),
    };
    let why = match winner.decided_by {
        DecidedBy::Kind => format!("{} come before {}", plural(best.touch.kind), plural(next.touch.kind)),
        DecidedBy::EventId => "of touches at the same moment the greater event id counts".into(),
        DecidedBy::Time if best.touch.kind == next.touch.kind => {
            format!("it is the latest eligible {}", best.touch.kind.name())
        }
        DecidedBy::Time | DecidedBy::OnlyCandidate => "it is the latest eligible touch".into(),
    };
    format!("{why}; the next best was {}, {gap}", named(next))
}

fn credited(decision: &Decision, winner: &Winner) -> String {
    let best = &decision.candidates[winner.candidate];
    let before = match best.age_millis {
        0 => "at the moment of".into(),
        age => format!("{} before", duration::words(age)),
    };
    format!("Credited to {}{} {before} the conversion: {}.", named(best), source(best), reason(decision))
}

fn considered(decision: &Decision) -> String {
    let candidates = &decision.candidates;
    let eligible = decision.eligible().count();
    let mut said = match (eligible, candidates.len()) {
        (0, 0) => {
            return ": the person has no touch in the 90 days before the conversion, and none after it."
                .into();
        }
        (0, 1) => ": the only touch was not eligible".into(),
        (0, all) => format!(": none of {all} touches was eligible"),
        (1, 1) => return String::new(),
        (some, all) if some == all => return format!(" All {all} touches were eligible."),
        (1, all) => format!(" 1 of {all} touches was eligible"),
        (some, all) => format!(" {some} of {all} touches were eligible"),
    };
    let mut separator = "; ";
    for verdict in Verdict::ALL {
        let count = candidates.iter().filter(|candidate| candidate.verdict == verdict).count();
        if count > 0 && verdict != Verdict::Eligible {
            said.push_str(&format!("{separator}{}", excluded(verdict, count, candidates)));
            separator = ", ";
        }
    }
    said.push('.');
    said
}

fn excluded(verdict: Verdict, count: usize, candidates: &[Candidate]) -> String {
    let were = if count == 1 { "was" } else { "were" };
    match verdict {
        Verdict::Eligible => format!("{count} {were} eligible"),
        Verdict::OutsideWindow => {
            let their = if count == 1 { "its" } else { "their" };
            format!("{count} {were} older than {their} window ({})", windows(candidates))
        }
        Verdict::OtherApp => format!("{count} belonged to another app"),
        Verdict::AfterConversion => format!("{count} happened after the conversion"),
        Verdict::BeforePreviousConversion => {
            format!("{count} came before the person's previous conversion of this name")
        }
        Verdict::Fraud => format!("{count} {were} judged fraudulent{}", grounds(candidates)),
    }
}

// The windows that excluded something, by kind and length, each once.
fn windows(candidates: &[Candidate]) -> String {
    let windows: BTreeSet<(TouchKind, i64)> = candidates
        .iter()
        .filter(|candidate| candidate.verdict == Verdict::OutsideWindow)
        .map(|candidate| (candidate.touch.kind, candidate.window_millis))
        .collect();
    let said: Vec<String> = windows
        .into_iter()
        .map(|(kind, millis)| format!("{} {}", kind.name(), duration::format_millis(millis)))
        .collect();
    said.join(", ")
}

// What made candidates fraudulent, each rule once.
fn grounds(candidates: &[Candidate]) -> String {
    let fraud = || candidates.iter().filter(|candidate| candidate.verdict == Verdict::Fraud);
    let rules: BTreeSet<FraudRule> = fraud().flat_map(|candidate| candidate.broken.iter().copied()).collect();
    let mut said: Vec<String> = rules.into_iter().map(|rule| rule.name().to_owned()).collect();
    if let Some(micros) = fraud().filter_map(|candidate| candidate.fraud_micros).max() {
        let probability = f64::from(micros) / f64::from(PROBABILITY_MICROS);
        said.push(format!("probability up to {probability}"));
    }
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

fn named(candidate: &Candidate) -> String {
    format!("{} {}", candidate.touch.kind.name(), plain(&candidate.touch.id))
}

fn source(candidate: &Candidate) -> String {
    let touch = &candidate.touch;
    let said: Vec<String> =
        [("channel", &touch.channel), ("partner", &touch.partner), ("campaign", &touch.campaign_id)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name} {}", plain(value)))
            .collect();
    if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) }
}

fn plural(kind: TouchKind) -> &'static str {
    match kind {
        TouchKind::Impression => "impressions",
        TouchKind::Click => "clicks",
        TouchKind::Visit => "visits",
    }
}

// Values come from clients: a line break or a terminal's escape sequence must not survive in the paragraph.
fn plain(value: &str) -> Cow<'_, str> {
    if value.chars().any(char::is_control) {
        Cow::Owned(value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
    } else {
        Cow::Borrowed(value)
    }
}

//! Which touches were considered, which of them can earn credit, and which one wins.

use crate::{journey::{Conversion, Journey, Touch}, rules::Rules};

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// It can earn credit.
    Eligible = 1,
    /// Older than the look-back window of its kind.
    OutsideWindow = 2,
    /// It belongs to another app.
    OtherApp = 3,
    /// It happened after the conversion.
    AfterConversion = 4,
    /// Before the person's previous conversion of the same name, where the rules cut.
    BeforePreviousConversion = 5,
    /// Judged fraudulent, where the rules reject fraud.
    Fraud = 6,
}

/// A touch that was considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The touch.
    pub touch: Touch,
    /// What became of it.
    pub verdict: Verdict,
    /// Conversion time minus touch time, milliseconds.
    pub age_millis: i64,
    /// The window applied, milliseconds.
    pub window_millis: i64,
}

/// What set the winner apart from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// The kinds differ, and the winner's comes first in the precedence.
    Kind,
    /// The winner is later.
    Time,
    /// Same kind and time; the greater event id.
    EventId,
    /// There was no other.
    OnlyCandidate,
}

/// The winning touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Winner {
    /// Index into the candidates.
    pub candidate: usize,
    /// Index of the next best.
    pub runner_up: Option<usize>,
    /// What set them apart.
    pub decided_by: DecidedBy,
    /// Time of the winner minus time of the runner-up, milliseconds; 0 without one.
    pub margin_millis: i64,
}

/// A decided journey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The conversion.
    pub conversion: Conversion,
    /// Every candidate in path order (time, then event id).
    pub candidates: Vec<Candidate>,
    /// Whether older touches within 90 days were left out.
    pub truncated: bool,
    /// The winner; `None`: organic.
    pub winner: Option<Winner>,
}

/// Decides a journey under the rules.
pub fn decide(journey: Journey, rules: &Rules) -> Decision {
    let _ = (journey, rules);
    unimplemented!()
}

//! Which touches were considered, which of them can earn credit, and which one wins.

use crate::{
    credit::{Model, PathTouch, Share, credit},
    fraud::{FraudRule, FraudScores, Watch},
    journey::{Conversion, JOURNEY_TOUCHES_MAX, Journey, Touch},
    rules::{Precedence, Rules, WINDOW_MILLIS_MAX},
};

/// What became of a candidate. Where several apply, the first of: after the conversion, another app, before the previous
/// conversion, fraud, outside the window.
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
    /// At or before the time of the person's previous conversion of the same name, where the rules cut: at the very
    /// moment it was eligible for that one.
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
    /// Conversion time minus touch time, milliseconds; negative after the conversion.
    pub age_millis: i64,
    /// The window applied, milliseconds.
    pub window_millis: i64,
    /// The rules of fraud that it breaks; looked at where no verdict before fraud applies.
    pub broken: Vec<FraudRule>,
    /// The probability of fraud that it was decided with, millionths.
    pub fraud_micros: Option<u32>,
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
    /// Whether older touches within the 90 days before the conversion were left out.
    pub truncated: bool,
    /// The winner; `None`: organic.
    pub winner: Option<Winner>,
}

/// Decides a journey under the rules.
///
/// Candidates are the newest [`JOURNEY_TOUCHES_MAX`] touches of the 90 days up to the conversion, both ends included;
/// where these leave room, the touches after the conversion fill it, the nearest first: they are listed, and can neither
/// earn credit nor push out one that can.
/// The answer does not depend on the order of the touches, whose ids must differ.
pub fn decide(journey: Journey, rules: &Rules) -> Decision {
    decide_scored(journey, rules, &FraudScores::new())
}

/// [`decide`], given the probabilities of fraud of some touches.
pub fn decide_scored(journey: Journey, rules: &Rules, scores: &FraudScores) -> Decision {
    let Journey { conversion, touches, previous_conversion_millis } = journey;
    let (touches, truncated) = considered(touches, conversion.time_millis);
    let cut_millis = previous_conversion_millis.filter(|_| rules.cut_at_previous(&conversion.name));
    let mut watch = Watch::new(&conversion, &rules.fraud);
    let candidates: Vec<Candidate> = touches
        .into_iter()
        .map(|touch| {
            let fraud_micros = scores.get(&touch.id).copied();
            judge(touch, &conversion, cut_millis, rules, &mut watch, fraud_micros)
        })
        .collect();
    let winner = winner(&candidates, &rules.precedence);
    Decision { conversion, candidates, truncated, winner }
}

// === impl Decision ===

impl Decision {
    /// The eligible candidates in path order, each with its index.
    pub fn eligible(&self) -> impl Iterator<Item = (usize, &Candidate)> {
        self.candidates.iter().enumerate().filter(|(_, candidate)| candidate.verdict == Verdict::Eligible)
    }

    /// The credit of the conversion under a model: micros of one conversion that sum to exactly one, and micros of the
    /// currency that sum to exactly its value. Shares name candidates by index; none: the conversion is organic.
    pub fn credit(&self, model: Model, precedence: &Precedence) -> Vec<Share> {
        let (indices, path): (Vec<usize>, Vec<PathTouch>) = self
            .eligible()
            .map(|(index, candidate)| {
                let direct = precedence.is_direct(&candidate.touch.channel);
                let rank = precedence.rank(candidate.touch.kind);
                (index, PathTouch { age_millis: candidate.age_millis, direct, rank })
            })
            .unzip();
        let mut shares = credit(model, &path, self.conversion.value_micros);
        for share in &mut shares {
            share.touch = indices[share.touch];
        }
        shares
    }
}

// === impl Verdict ===

impl Verdict {
    /// Every verdict, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Eligible,
        Self::OutsideWindow,
        Self::OtherApp,
        Self::AfterConversion,
        Self::BeforePreviousConversion,
        Self::Fraud,
    ];

    /// The name in answers and facts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eligible => "eligible",
            Self::OutsideWindow => "outside_window",
            Self::OtherApp => "other_app",
            Self::AfterConversion => "after_conversion",
            Self::BeforePreviousConversion => "before_previous_conversion",
            Self::Fraud => "fraud",
        }
    }

    /// The verdict of a stored number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&verdict| verdict as u8 == number)
    }
}

// === impl DecidedBy ===

impl DecidedBy {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kind => "kind",
            Self::Time => "time",
            Self::EventId => "event_id",
            Self::OnlyCandidate => "only_candidate",
        }
    }
}

// The touches to judge in path order, and whether older ones were left out.
fn considered(mut touches: Vec<Touch>, conversion_millis: i64) -> (Vec<Touch>, bool) {
    touches.retain(|touch| conversion_millis.saturating_sub(touch.time_millis) <= WINDOW_MILLIS_MAX);
    touches.sort_unstable_by(|a, b| a.time_millis.cmp(&b.time_millis).then_with(|| a.id.cmp(&b.id)));
    let before = touches.partition_point(|touch| touch.time_millis <= conversion_millis);
    let too_old = before.saturating_sub(JOURNEY_TOUCHES_MAX);
    touches.truncate(too_old + JOURNEY_TOUCHES_MAX);
    touches.drain(..too_old);
    (touches, too_old > 0)
}

fn judge(
    touch: Touch,
    conversion: &Conversion,
    cut_millis: Option<i64>,
    rules: &Rules,
    watch: &mut Watch<'_>,
    fraud_micros: Option<u32>,
) -> Candidate {
    let age_millis = conversion.time_millis.saturating_sub(touch.time_millis);
    let window_millis = rules.window_millis(&touch, conversion);
    let mut broken = Vec::new();
    let verdict = if age_millis < 0 {
        Verdict::AfterConversion
    } else if touch.app_id != conversion.app_id {
        Verdict::OtherApp
    } else if cut_millis.is_some_and(|cut| touch.time_millis <= cut) {
        Verdict::BeforePreviousConversion
    } else {
        broken = watch.next(&touch);
        if rules.fraud.rejects(&touch, &broken, fraud_micros) {
            Verdict::Fraud
        } else if age_millis > window_millis {
            Verdict::OutsideWindow
        } else {
            Verdict::Eligible
        }
    };
    Candidate { touch, verdict, age_millis, window_millis, broken, fraud_micros }
}

// Candidates come in path order, so of equal ranks the later index is the better one.
fn winner(candidates: &[Candidate], precedence: &Precedence) -> Option<Winner> {
    let mut best: Option<(u8, usize)> = None;
    let mut second: Option<(u8, usize)> = None;
    for (index, candidate) in candidates.iter().enumerate() {
        if candidate.verdict != Verdict::Eligible {
            continue;
        }
        let rank = precedence.rank(candidate.touch.kind);
        if best.is_none_or(|(top, _)| rank <= top) {
            second = best.replace((rank, index));
        } else if second.is_none_or(|(next, _)| rank <= next) {
            second = Some((rank, index));
        }
    }
    let (rank, candidate) = best?;
    let Some((next_rank, next)) = second else {
        return Some(Winner {
            candidate,
            runner_up: None,
            decided_by: DecidedBy::OnlyCandidate,
            margin_millis: 0,
        });
    };
    let margin_millis =
        candidates[candidate].touch.time_millis.saturating_sub(candidates[next].touch.time_millis);
    let decided_by = if rank != next_rank {
        DecidedBy::Kind
    } else if margin_millis != 0 {
        DecidedBy::Time
    } else {
        DecidedBy::EventId
    };
    Some(Winner { candidate, runner_up: Some(next), decided_by, margin_millis })
}

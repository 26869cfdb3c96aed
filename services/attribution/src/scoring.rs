//! Scores in decisions: which touches need one, where it comes from, and what is owed when there is none; and the same of the
//! predicted value of the person.
//!
//! A score is a fact: it is made once for a touch of a conversion, or a value for a conversion, stored before the decision
//! that it is part of, and taken from there by every later edition.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use event_log::{Entry, EventLog};
use journey_store::{
    ConversionScores, Incoming, JourneyQuery, NewScores, Outcome, Owed, Position, ScoreKind, Scores,
    StoreError, StoredJourney, TouchScore, ValueScore,
};
use model::{
    FraudRule, FraudScores, Rules, TouchKind, Verdict,
    features::{HORIZON_WEEKS, NAMES, PURCHASES_MAX, VALUE_NAMES, features, value_features},
    fraud::PROBABILITY_MICROS,
    traffic::Traffic,
};
use parking_lot::Mutex;
use proto::{
    decisions::{Decision, LifetimeValue, Score},
    events::{DecisionReason, Event},
    ml::Features as Row,
};

use crate::{
    Config, Deps,
    asking::{Made, Wanted, ask, by_touch},
    decision,
    error::Error,
    features::{converted, engagement, purchases},
    frames,
    gateway::{Gateway, row},
};

/// Conversions that are asked to be decided again at once because a score can be had.
pub(crate) const OWED_MAX: usize = 1_000;

/// How often it is looked whether scores are owed; less often while asking again brings none.
const OWED_PAUSE: Duration = Duration::from_secs(1);
const OWED_PAUSE_MAX: Duration = Duration::from_secs(600);

/// Shared by all workers of the process.
pub(crate) struct Scorer {
    fraud: Gateway,
    /// `None` where no model of values is asked.
    value: Option<Gateway>,
    scores: Arc<dyn Scores>,
    touches_max: usize,
    partitions: usize,
    seen: Mutex<Seen>,
}

/// The scores of one worker's partition.
pub(crate) struct WorkerScores {
    partition: u32,
    scorer: Arc<Scorer>,
    /// Whether traffic is counted without a gap since the worker began.
    counting: AtomicBool,
    /// One for each kind of score.
    looks: Mutex<[Look; KINDS.len()]>,
}

const KINDS: [ScoreKind; 2] = [ScoreKind::Fraud, ScoreKind::Value];

/// When it is looked again what is owed.
struct Look {
    at: Instant,
    pause: Duration,
    /// Whether scores that were owed have come since the last time.
    brought: bool,
}

/// What the workers of this process have read.
struct Seen {
    traffic: Traffic,
    partitions: BTreeSet<u32>,
}

/// One conversion that is about to be decided.
pub(crate) struct ToScore<'a> {
    pub(crate) tenant: &'a Arc<str>,
    pub(crate) conversion_id: &'a str,
    pub(crate) cause: Position,
    /// Whether nothing can be stored of it.
    pub(crate) new: bool,
    pub(crate) journey: &'a StoredJourney,
    pub(crate) rules: &'a Rules,
}

/// What a decision is made with, and where there is nothing, why.
pub(crate) enum Scoring<'a> {
    Off,
    NotStored,
    Given(&'a Given),
}

/// The scores of one conversion.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Given {
    /// Scores by touch.
    pub(crate) scores: BTreeMap<String, TouchScore>,
    /// Why a touch that should have a score has none.
    pub(crate) missing: Option<String>,
    /// The predicted value.
    pub(crate) value: Option<ValueScore>,
    /// Why there is no value; `None` where there is one, or where none is asked for.
    pub(crate) value_missing: Option<String>,
}

// === impl Scorer ===

impl Scorer {
    /// `None` where no gateway is set.
    pub(crate) fn new(config: &Config, deps: &Deps) -> Option<Self> {
        let peer = deps.gateway.clone()?;
        let has_values = !config.value_model.is_empty();
        Some(Self {
            value: has_values.then(|| Gateway::new(peer.clone(), ScoreKind::Value, config)),
            fraud: Gateway::new(peer, ScoreKind::Fraud, config),
            scores: Arc::clone(&deps.scores),
            touches_max: config.score_touches_max,
            partitions: deps.log.partitions() as usize,
            seen: Mutex::new(Seen {
                traffic: Traffic::new(config.traffic_touches_max),
                partitions: BTreeSet::new(),
            }),
        })
    }

    /// Counts the touches of a batch.
    pub(crate) fn saw(&self, events: &[Incoming], outcomes: &[Outcome]) {
        let mut seen = self.seen.lock();
        for (incoming, _) in events.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::First) {
            if let Some(touch) = engagement(&incoming.tenant, &incoming.event) {
                seen.traffic.touch(&touch);
            }
        }
    }

    /// Learns from a conversion that was just decided for the first time.
    pub(crate) fn decided(&self, tenant: &str, decision: &Decision) {
        let winner = decision.winner.as_ref().map_or("", |winner| &winner.event_id);
        let mut touches = decision.candidates.iter().filter_map(|candidate| candidate.touch.as_ref());
        let Some(touch) = touches.find(|touch| touch.event_id == winner && !winner.is_empty()) else {
            return;
        };
        if decision::touch_kind(touch) == Some(TouchKind::Visit) {
            return;
        }
        let Some(conversion) = &decision.conversion else { return };
        let (from, to) = (journey_store::event_millis(touch), journey_store::event_millis(conversion));
        self.seen.lock().traffic.converted(tenant, &touch.partner, from, to);
    }

    /// What each conversion is decided with, in order: stored scores, and new ones, which are stored on return. Where the
    /// gateway fails it is stored that they are owed. Values are asked for when touches have been, in what is left of the
    /// time. Also answers of which kinds there are scores now that an earlier decision was made without.
    ///
    /// # Errors
    /// The store's; the gateway's failures are part of the answer.
    async fn given(
        &self,
        partition: u32,
        due: &[ToScore<'_>],
    ) -> Result<(Vec<Given>, BTreeSet<ScoreKind>), Error> {
        let mut given = self.stored(due).await?;
        let wanted = self.wanted(due, &given)?;
        let valued = match &self.value {
            Some(gateway) => Some((gateway, wanted_values(due, &mut given)?)),
            None => None,
        };
        let mut made = Made::default();
        let mut until = self.fraud.until();
        ask(&self.fraud, due, wanted, &mut until, &mut given, &mut made).await;
        if let Some((gateway, wanted)) = valued {
            ask(gateway, due, wanted, &mut until.of_another(), &mut given, &mut made).await;
        }
        let Made { new, owed } = made;
        let mut brought = BTreeSet::new();
        let new: Vec<NewScores> = new
            .into_iter()
            .map(|(index, scores)| {
                let due = &due[index];
                if !due.new {
                    brought.extend((!scores.touches.is_empty()).then_some(ScoreKind::Fraud));
                    brought.extend(scores.value.is_some().then_some(ScoreKind::Value));
                }
                NewScores {
                    tenant: Arc::clone(due.tenant),
                    conversion_id: due.conversion_id.to_owned(),
                    cause: due.cause,
                    scores,
                }
            })
            .collect();
        if !new.is_empty() || !owed.is_empty() {
            self.scores.put_scores(partition, &new, &owed).await?;
        }
        Ok((given, brought))
    }

    /// Conversions of a partition that are owed a score of a kind; none while the gateway has none to give.
    async fn owed(&self, partition: u32, kind: ScoreKind) -> Result<Vec<Owed>, StoreError> {
        let gateway = match kind {
            ScoreKind::Fraud => Some(&self.fraud),
            ScoreKind::Value => self.value.as_ref(),
        };
        let Some(gateway) = gateway.filter(|gateway| gateway.is_awake()) else { return Ok(Vec::new()) };
        let owed = self.scores.owed(partition, kind, OWED_MAX).await?;
        if let Some(first) = owed.first() {
            // A row of which nothing is known is a question like any other.
            let probe = vec![(Arc::clone(&first.tenant), vec![Row::default()])];
            if gateway.score(probe, &mut gateway.until()).await.is_err() {
                return Ok(Vec::new());
            }
        }
        Ok(owed)
    }

    async fn stored(&self, due: &[ToScore<'_>]) -> Result<Vec<Given>, Error> {
        let mut given = vec![Given::default(); due.len()];
        let old: Vec<usize> = (0..due.len()).filter(|index| !due[*index].new).collect();
        if old.is_empty() {
            return Ok(given);
        }
        let query = |index: &usize| JourneyQuery {
            tenant: Arc::clone(due[*index].tenant),
            conversion_id: due[*index].conversion_id.to_owned(),
        };
        let queries: Vec<JourneyQuery> = old.iter().map(query).collect();
        for (index, ConversionScores { touches, value }) in
            old.into_iter().zip(self.scores.scores(&queries).await?)
        {
            given[index].scores = by_touch(touches).collect();
            given[index].value = value;
        }
        Ok(given)
    }

    fn wanted(&self, due: &[ToScore<'_>], given: &[Given]) -> Result<Vec<Wanted>, Error> {
        let mut wanted = Vec::new();
        for (index, (due, given)) in due.iter().zip(given).enumerate() {
            let touches = self.wanted_touches(due, given)?;
            if !touches.is_empty() {
                let (touches, rows) = self.rows(due, touches);
                wanted.push(Wanted { due: index, touches, rows });
            }
        }
        Ok(wanted)
    }

    /// The touches that need a score and have none: the winner, and where a probability can reject, those that would win
    /// next.
    fn wanted_touches(&self, due: &ToScore<'_>, given: &Given) -> Result<Vec<String>, Error> {
        let touches = due.journey.touches.iter().filter_map(decision::event_to_touch).collect();
        let journey = model::Journey {
            conversion: decision::event_to_conversion(&due.journey.conversion.event)?,
            touches,
            previous_conversion_millis: due.journey.previous_conversion_millis,
        };
        // Without the scores: what they reject has one already.
        let decided = model::decide(journey, due.rules);
        let precedence = &due.rules.precedence;
        let mut ranked: Vec<(usize, &model::Candidate)> = decided.eligible().collect();
        ranked.sort_by_key(|(index, candidate)| (precedence.rank(candidate.touch.kind), Reverse(*index)));
        let mut wanted = Vec::new();
        for (_, candidate) in ranked.into_iter().take(self.touches_max) {
            let touch = &candidate.touch;
            if touch.kind != TouchKind::Visit && !given.scores.contains_key(&touch.id) {
                wanted.push(touch.id.clone());
            }
            if due.rules.fraud.reject_above_micros(touch).is_none() {
                // It wins whatever its score.
                break;
            }
        }
        Ok(wanted)
    }

    fn rows(&self, due: &ToScore<'_>, touches: Vec<String>) -> (Vec<String>, Vec<Row>) {
        let seen = self.seen.lock();
        let unknown;
        let traffic = if seen.partitions.len() == self.partitions {
            &seen.traffic
        } else {
            // Others count some of the touches.
            unknown = Traffic::unknown();
            &unknown
        };
        let events: HashMap<&str, _> =
            due.journey.touches.iter().map(|touch| (touch.event_id.as_str(), touch)).collect();
        let conversion = converted(&due.journey.conversion.event);
        let of_touch = |id: String| {
            let touch = engagement(due.tenant, events.get(id.as_str())?)?;
            let row = row(NAMES, features(traffic, &touch, &conversion));
            Some((id, row))
        };
        touches.into_iter().filter_map(of_touch).unzip()
    }
}

/// The conversions that need a value and have none.
fn wanted_values(due: &[ToScore<'_>], given: &mut [Given]) -> Result<Vec<Wanted>, Error> {
    let mut wanted = Vec::new();
    for (index, (due, given)) in due.iter().zip(given).enumerate() {
        if given.value.is_some() {
            continue;
        }
        let now_millis = journey_store::event_millis(&due.journey.conversion.event);
        match value_features(&purchases(due.journey)?, now_millis) {
            Some(values) => {
                let rows = vec![row(VALUE_NAMES, values.map(Some))];
                wanted.push(Wanted { due: index, touches: Vec::new(), rows });
            }
            None => given.value_missing = Some("the person has not bought anything yet".into()),
        }
    }
    Ok(wanted)
}

// === impl WorkerScores ===

impl WorkerScores {
    pub(crate) fn new(partition: u32, scorer: Arc<Scorer>) -> Self {
        let looks = KINDS.map(|_| Look { at: Instant::now(), pause: OWED_PAUSE, brought: true });
        Self { partition, scorer, counting: AtomicBool::new(false), looks: Mutex::new(looks) }
    }

    /// The conversions of a person that have to be read with a journey.
    pub(crate) fn conversions_max(&self) -> usize {
        if self.scorer.value.is_some() { PURCHASES_MAX } else { 0 }
    }

    /// A batch was read from some record on. What was before the first one is not known, unless there was nothing.
    pub(crate) fn read(&self, from: u64, entries: &[Entry]) {
        let first = entries.iter().find_map(|entry| match entry {
            Entry::Record(record) => Some(record.time_micros),
            Entry::Gap { .. } => None,
        });
        let Some(time_micros) = first else { return };
        if !self.counting.swap(true, Ordering::Relaxed) {
            let mut seen = self.scorer.seen.lock();
            let first_time = seen.partitions.insert(self.partition);
            if from > 0 || !first_time {
                seen.traffic.missing_before(time_micros.div_euclid(1_000));
            }
        }
    }

    /// The batch failed: its touches may be stored and not counted.
    pub(crate) fn failed(&self) {
        self.counting.store(false, Ordering::Relaxed);
    }

    /// Counts the touches of a batch.
    pub(crate) fn saw(&self, events: &[Incoming], outcomes: &[Outcome]) {
        self.scorer.saw(events, outcomes);
    }

    /// What each conversion is decided with.
    pub(crate) async fn given(&self, due: &[ToScore<'_>]) -> Result<Vec<Given>, Error> {
        let (given, brought) = self.scorer.given(self.partition, due).await?;
        for kind in brought {
            self.looks.lock()[kind as usize].brought = true;
        }
        Ok(given)
    }

    /// Learns from a first decision.
    pub(crate) fn decided(&self, tenant: &str, decision: &Decision) {
        self.scorer.decided(tenant, decision);
    }

    /// Now and then, asks for conversions that are owed a score to be decided again, if a score can be had.
    pub(crate) async fn ask_again(&self, log: &dyn EventLog) -> Result<(), Error> {
        let mut owed = Vec::new();
        for kind in KINDS {
            if self.looks.lock()[kind as usize].is_due() {
                let found = self.scorer.owed(self.partition, kind).await?;
                self.looks.lock()[kind as usize].looked(found.is_empty());
                owed.extend(found);
            }
        }
        let mut tenants: BTreeMap<&Arc<str>, BTreeSet<&str>> = BTreeMap::new();
        for owed in &owed {
            tenants.entry(&owed.tenant).or_default().insert(&owed.conversion_id);
        }
        for (tenant, ids) in tenants {
            let asked = ids.into_iter().map(|id| (id.to_owned(), DecisionReason::Score));
            for frame in frames::encode_redecides(tenant, jiff::Timestamp::now().as_microsecond(), asked) {
                log.append(self.partition, frame).await?;
            }
        }
        if !owed.is_empty() {
            // Only when they are in the log.
            self.scorer.scores.settle(self.partition, &owed).await?;
        }
        Ok(())
    }
}

// === impl Look ===

impl Look {
    fn is_due(&self) -> bool {
        Instant::now() >= self.at
    }

    /// What was asked for again and did not come is asked for half as often, or the log would fill with it.
    fn looked(&mut self, nothing: bool) {
        let pause = if nothing || self.brought { OWED_PAUSE } else { self.pause * 2 };
        self.pause = pause.min(OWED_PAUSE_MAX);
        self.at = Instant::now() + self.pause;
        self.brought = false;
    }
}

// === impl Scoring ===

impl Scoring<'_> {
    /// As the model takes them.
    pub(crate) fn fraud_scores(&self) -> FraudScores {
        let Self::Given(given) = self else { return FraudScores::new() };
        // From 0 to a million.
        let micros = |score: &TouchScore| (score.probability * f64::from(PROBABILITY_MICROS)).round() as u32;
        given.scores.iter().map(|(id, score)| (id.clone(), micros(score))).collect()
    }

    /// The score of a decision: that of the winner, or of what would have won if it had not been rejected.
    pub(crate) fn score(&self, decided: &model::Decision, rules: &Rules) -> Score {
        let none = |reason: &str| Score { reasons: vec![reason.into()], ..Score::default() };
        let given = match self {
            Self::Off => return none("no model gateway is configured"),
            Self::NotStored => return none("only conversions that are stored are scored"),
            Self::Given(given) => given,
        };
        let Some(candidate) = shown_candidate(decided, rules) else {
            return none("no touch is to be scored");
        };
        let Some(score) = given.scores.get(&candidate.touch.id) else {
            return match &given.missing {
                Some(why) => none(why),
                None if candidate.touch.kind == TouchKind::Visit => none("a visit is not scored"),
                None => none("the touches that would have won before it were scored"),
            };
        };
        let rule = |rule: &FraudRule| rule.reason(&rules.fraud.caps);
        Score {
            present: true,
            fraud_probability: score.probability,
            reasons: candidate.broken.iter().map(rule).chain(score.reasons.iter().cloned()).collect(),
            event_id: score.touch_id.clone(),
            model: score.model.clone(),
            version: score.version.clone(),
        }
    }

    /// The predicted value of a decision; `None` where none is asked for.
    pub(crate) fn lifetime_value(&self, conversion: &Event) -> Option<LifetimeValue> {
        let none = |reason: &str| Some(LifetimeValue { reason: reason.into(), ..LifetimeValue::default() });
        let given = match self {
            Self::Off => return None,
            Self::NotStored => return none("only conversions that are stored are scored"),
            Self::Given(given) => given,
        };
        let Some(ValueScore { model, version, value, lower, upper, level }) = given.value.clone() else {
            return given.value_missing.as_deref().and_then(none);
        };
        Some(LifetimeValue {
            present: true,
            value,
            lower,
            upper,
            level,
            currency: conversion.currency.clone(),
            horizon_weeks: HORIZON_WEEKS,
            model,
            version,
            reason: String::new(),
        })
    }
}

fn shown_candidate<'a>(decided: &'a model::Decision, rules: &Rules) -> Option<&'a model::Candidate> {
    if let Some(winner) = &decided.winner {
        return decided.candidates.get(winner.candidate);
    }
    let of_window = |one: &model::Candidate| one.age_millis <= one.window_millis;
    decided
        .candidates
        .iter()
        .enumerate()
        .filter(|(_, one)| one.verdict == Verdict::Fraud && of_window(one))
        .min_by_key(|(index, one)| (rules.precedence.rank(one.touch.kind), Reverse(*index)))
        .map(|(_, one)| one)
}

#[cfg(test)]
#[path = "scoring_tests.rs"]
mod tests;

//! A stored journey as the model takes it, and a decision as it is stored and answered.

use std::collections::{BTreeSet, HashMap};

use journey_store::StoredJourney;
use model::{FraudRule, IdentityHash, Model, Rules, TouchKind, credit, explain, fraud::PROBABILITY_MICROS};
use proto::{
    decisions::{
        self, Candidate, Decision, FraudFinding, MatchType, ModelCredit, TouchCredit, Verdict, Winner,
    },
    events::{Event, EventType},
};

use crate::{error::Error, scoring::Scoring};

// The rule models that every decision shows, with their default parameters.
const MODELS: [Model; 7] = [
    Model::Decision,
    Model::FirstTouch,
    Model::LastTouch,
    Model::LastNonDirect,
    Model::Linear,
    Model::PositionBased { first: 0.4, last: 0.4 },
    Model::TimeDecay { half_life_millis: 7 * 24 * 60 * 60 * 1000 },
];

/// What a decision is made from, with the events to show.
pub(crate) struct Case {
    pub(crate) conversion: Event,
    pub(crate) touches: Vec<Event>,
    pub(crate) previous_conversion_millis: Option<i64>,
    pub(crate) settings_edition: String,
    pub(crate) person: Option<(IdentityHash, bool)>,
}

impl From<StoredJourney> for Case {
    fn from(stored: StoredJourney) -> Self {
        Self {
            conversion: stored.conversion.event,
            touches: stored.touches,
            previous_conversion_millis: stored.previous_conversion_millis,
            settings_edition: stored.conversion.settings_edition.to_string(),
            person: Some((stored.person, stored.shared)),
        }
    }
}

/// Decides a stored journey: what the worker does with it.
///
/// # Errors
/// The conversion's value cannot be read.
pub fn decide(journey: StoredJourney, rules: &Rules) -> Result<Decision, Error> {
    make(journey.into(), rules, &Scoring::Off)
}

/// [`decide`], with what the gateway says.
pub(crate) fn decide_scored(
    journey: StoredJourney,
    rules: &Rules,
    scoring: &Scoring<'_>,
) -> Result<Decision, Error> {
    make(journey.into(), rules, scoring)
}

/// Decides a case and puts the decision in the words of the contract, without editions.
pub(crate) fn make(case: Case, rules: &Rules, scoring: &Scoring<'_>) -> Result<Decision, Error> {
    let touches = case.touches.iter().filter_map(event_to_touch).collect();
    let journey = model::Journey {
        conversion: event_to_conversion(&case.conversion)?,
        touches,
        previous_conversion_millis: case.previous_conversion_millis,
    };
    let decided = model::decide_scored(journey, rules, &scoring.fraud_scores());
    let score = scoring.score(&decided, rules);
    let lifetime_value = scoring.lifetime_value(&case.conversion);
    let mut events: HashMap<String, Event> =
        case.touches.into_iter().map(|event| (event.event_id.clone(), event)).collect();
    let winner = winner(&decided);
    let credit = MODELS.iter().map(|model| model_credit(&decided, *model, rules)).collect();
    let explanation = explain::explain(&decided);
    let fraud = findings(&decided, rules);
    let candidates = decided
        .candidates
        .into_iter()
        .map(|candidate| Candidate {
            touch: events.remove(&candidate.touch.id).map(shown),
            verdict: verdict(candidate.verdict).into(),
            match_type: MatchType::Identity.into(),
            age_millis: candidate.age_millis,
            window_millis: candidate.window_millis,
            fraud: candidate.broken.iter().map(|rule| fraud_rule(*rule).into()).collect(),
            fraud_probability: candidate.fraud_micros.map(probability),
        })
        .collect();
    Ok(Decision {
        conversion_id: case.conversion.event_id.clone(),
        conversion: Some(shown(case.conversion)),
        person_id: case.person.map(|(person, _)| person.to_string()).unwrap_or_default(),
        shared: case.person.is_some_and(|(_, shared)| shared),
        settings_edition: case.settings_edition,
        candidates,
        truncated: decided.truncated,
        winner: Some(winner),
        credit,
        score: Some(score),
        editions: Vec::new(),
        explanation,
        fraud,
        lifetime_value,
    })
}

/// An event as it is shown: without address and user agent.
fn shown(mut event: Event) -> Event {
    journey_store::conceal(&mut event);
    event
}

/// Each rule that a candidate breaks, once.
fn findings(decided: &model::Decision, rules: &Rules) -> Vec<FraudFinding> {
    let broken: BTreeSet<FraudRule> =
        decided.candidates.iter().flat_map(|candidate| candidate.broken.iter().copied()).collect();
    let finding = |rule: FraudRule| FraudFinding {
        rule: fraud_rule(rule).into(),
        reason: rule.reason(&rules.fraud.caps),
    };
    broken.into_iter().map(finding).collect()
}

fn fraud_rule(rule: FraudRule) -> decisions::FraudRule {
    match rule {
        FraudRule::ClickToInstall => decisions::FraudRule::ClickToInstall,
        FraudRule::AfterInstallBegin => decisions::FraudRule::AfterInstallBegin,
        FraudRule::CapMinutes => decisions::FraudRule::CapMinutes,
        FraudRule::CapHour => decisions::FraudRule::CapHour,
        FraudRule::CapDay => decisions::FraudRule::CapDay,
    }
}

fn probability(micros: u32) -> f64 {
    f64::from(micros) / f64::from(PROBABILITY_MICROS)
}

fn winner(decided: &model::Decision) -> Winner {
    let id = |index: usize| decided.candidates[index].touch.id.clone();
    let reason = explain::reason(decided);
    match &decided.winner {
        None => Winner { reason, decided_by: "organic".into(), ..Winner::default() },
        Some(winner) => Winner {
            event_id: id(winner.candidate),
            reason,
            runner_up: winner.runner_up.map(id).unwrap_or_default(),
            decided_by: winner.decided_by.name().into(),
            margin_millis: winner.margin_millis,
        },
    }
}

fn model_credit(decided: &model::Decision, model: Model, rules: &Rules) -> ModelCredit {
    let mut touches: Vec<TouchCredit> = decided
        .credit(model, &rules.precedence)
        .into_iter()
        .map(|share| TouchCredit {
            event_id: decided.candidates[share.touch].touch.id.clone(),
            conversion_micros: share.conversion_micros,
            value_micros: share.value_micros,
        })
        .collect();
    if touches.is_empty() {
        touches.push(TouchCredit {
            event_id: String::new(),
            conversion_micros: credit::CREDIT_MICROS,
            value_micros: decided.conversion.value_micros,
        });
    }
    ModelCredit { model: model.name().into(), touches }
}

/// The kind of a touch; `None` for other events.
pub(crate) fn touch_kind(event: &Event) -> Option<TouchKind> {
    Some(match event.event_type() {
        EventType::Impression => TouchKind::Impression,
        EventType::Click => TouchKind::Click,
        EventType::Visit => TouchKind::Visit,
        EventType::Activity | EventType::Conversion | EventType::Unspecified => return None,
    })
}

/// A touch event as the model takes it; `None` for other events.
pub fn event_to_touch(event: &Event) -> Option<model::Touch> {
    Some(model::Touch {
        id: event.event_id.clone(),
        kind: touch_kind(event)?,
        time_millis: journey_store::event_millis(event),
        app_id: event.app_id.clone(),
        channel: event.channel.clone(),
        partner: event.partner.clone(),
        campaign_id: event.campaign_id.clone(),
        ad_group_id: event.ad_group_id.clone(),
        creative_id: event.creative_id.clone(),
        keyword: event.keyword.clone(),
    })
}

/// A conversion event as the model takes it.
///
/// # Errors
/// When its value is no decimal number.
pub fn event_to_conversion(event: &Event) -> Result<model::Conversion, Error> {
    let value_micros = value_micros(&event.value, &event.event_id)?;
    Ok(model::Conversion {
        id: event.event_id.clone(),
        name: event.conversion.clone(),
        time_millis: journey_store::event_millis(event),
        app_id: event.app_id.clone(),
        value_micros,
        currency: event.currency.clone(),
        install_begin_millis: event.install_begin.as_ref().map(journey_store::time_millis),
    })
}

/// A value in micros; an absent one is zero.
pub(crate) fn value_micros(value: &str, of: &str) -> Result<i64, Error> {
    if value.is_empty() {
        return Ok(0);
    }
    model::money::parse_micros(value).map_err(|error| Error::Decision(format!("value of {of}: {error}")))
}

fn verdict(verdict: model::Verdict) -> Verdict {
    match verdict {
        model::Verdict::Eligible => Verdict::Eligible,
        model::Verdict::OutsideWindow => Verdict::OutsideWindow,
        model::Verdict::OtherApp => Verdict::OtherApp,
        model::Verdict::AfterConversion => Verdict::AfterConversion,
        model::Verdict::BeforePreviousConversion => Verdict::BeforePreviousConversion,
        model::Verdict::Fraud => Verdict::Fraud,
    }
}

//! Asking a model for what a batch of conversions wants, in calls of a bounded size, as far as the time goes.

use std::{collections::BTreeMap, sync::Arc};

use journey_store::{ConversionScores, Owed, ScoreKind, TouchScore, ValueScore};
use proto::ml::Features as Row;

use crate::{
    gateway::{Deadline, Failure, Gateway, ROWS_MAX, Scored},
    scoring::{Given, ToScore},
};

/// What of one conversion needs a score: some of its touches, or where these are none, the conversion itself.
pub(crate) struct Wanted {
    pub(crate) due: usize,
    pub(crate) touches: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// The conversions that rows are of, in order, each with its touches.
type Askers = Vec<(usize, Vec<String>)>;

/// What has to be stored.
#[derive(Default)]
pub(crate) struct Made {
    /// New scores by conversion.
    pub(crate) new: BTreeMap<usize, ConversionScores>,
    pub(crate) owed: Vec<Owed>,
}

/// Asks a model for what is wanted, as far as the time goes.
pub(crate) async fn ask(
    gateway: &Gateway,
    due: &[ToScore<'_>],
    wanted: Vec<Wanted>,
    until: &mut Deadline,
    given: &mut [Given],
    made: &mut Made,
) {
    let mut failed = None;
    for wanted in calls(wanted) {
        let indices: Vec<usize> = wanted.iter().map(|wanted| wanted.due).collect();
        let answers = match failed {
            None => call(gateway, due, wanted, until).await,
            Some(failure) => Err(failure),
        };
        match answers {
            Ok(answers) => {
                for (index, scores) in answers {
                    let given = &mut given[index];
                    let new = made.new.entry(index).or_default();
                    given.scores.extend(by_touch(scores.touches.clone()));
                    new.touches.extend(scores.touches);
                    if let Some(value) = scores.value {
                        given.value = Some(value.clone());
                        new.value = Some(value);
                    }
                }
            }
            Err(failure) => {
                let senseless = failure == Failure::Senseless;
                failed = Some(failure).filter(|_| !senseless);
                for index in indices {
                    let missing = match gateway.kind {
                        ScoreKind::Fraud => &mut given[index].missing,
                        ScoreKind::Value => &mut given[index].value_missing,
                    };
                    *missing = Some(failure.to_string());
                    if !senseless {
                        let due = &due[index];
                        made.owed.push(Owed {
                            kind: gateway.kind,
                            tenant: Arc::clone(due.tenant),
                            conversion_id: due.conversion_id.to_owned(),
                            cause: due.cause,
                        });
                    }
                }
            }
        }
    }
}

/// One call for the rows of each tenant; answers the scores of each conversion.
async fn call(
    gateway: &Gateway,
    due: &[ToScore<'_>],
    wanted: Vec<Wanted>,
    until: &mut Deadline,
) -> Result<Vec<(usize, ConversionScores)>, Failure> {
    let mut tenants: BTreeMap<Arc<str>, (Vec<Row>, Askers)> = BTreeMap::new();
    for wanted in wanted {
        let (rows, askers) = tenants.entry(Arc::clone(due[wanted.due].tenant)).or_default();
        rows.extend(wanted.rows);
        askers.push((wanted.due, wanted.touches));
    }
    let (rows, askers): (Vec<_>, Vec<_>) =
        tenants.into_iter().map(|(tenant, (rows, askers))| ((tenant, rows), askers)).unzip();
    let answers = gateway.score(rows, until).await?;
    let mut scores = Vec::new();
    for (askers, answers) in askers.into_iter().zip(answers) {
        let mut answers = answers.into_iter();
        for (index, touches) in askers {
            let scored = match gateway.kind {
                ScoreKind::Fraud => ConversionScores {
                    touches: touches.into_iter().zip(answers.by_ref()).map(score).collect(),
                    value: None,
                },
                ScoreKind::Value => {
                    ConversionScores { touches: Vec::new(), value: answers.next().map(value_score) }
                }
            };
            scores.push((index, scored));
        }
    }
    Ok(scores)
}

/// What is asked for at once: conversions in order, with as many rows as a call may have, or one with more.
fn calls(wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let mut calls: Vec<Vec<Wanted>> = Vec::new();
    let mut rows = 0;
    for wanted in wanted {
        rows += wanted.rows.len();
        match calls.last_mut() {
            Some(call) if rows <= ROWS_MAX => call.push(wanted),
            _ => {
                rows = wanted.rows.len();
                calls.push(vec![wanted]);
            }
        }
    }
    calls
}

fn score((touch_id, scored): (String, Scored)) -> TouchScore {
    let told = scored.row.contributions.iter();
    TouchScore {
        touch_id,
        model: scored.model.to_string(),
        version: scored.version.to_string(),
        probability: scored.row.calibrated,
        reasons: told.map(|part| format!("{} {:+.3}", part.feature, part.contribution)).collect(),
    }
}

/// An interval ends where the training ended: what lies beyond it is its end.
fn value_score(scored: Scored) -> ValueScore {
    let value = scored.row.calibrated;
    // There is one: that was checked.
    let interval = scored.row.interval.unwrap_or_default();
    ValueScore {
        model: scored.model.to_string(),
        version: scored.version.to_string(),
        value,
        lower: interval.lower.min(value),
        upper: interval.upper.max(value),
        level: interval.level,
    }
}

pub(crate) fn by_touch(scores: Vec<TouchScore>) -> impl Iterator<Item = (String, TouchScore)> {
    scores.into_iter().map(|score| (score.touch_id.clone(), score))
}

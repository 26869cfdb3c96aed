//! Rows of named features to scores: defaults for what is missing, refusal by name, calibration, contributions.

use std::sync::Arc;

use proto::ml::{
    Contribution, FeatureSchema, Features, GetModelResponse, Interval, ListModelsResponse, ModelSummary,
    RowScore, ScoreRequest, ScoreResponse,
};
use service::{Class, Error, Result};

use crate::{
    backend::Rows,
    metrics,
    model::Route,
    registry::Registry,
    runner::{Scored, Urgency},
    version::Version,
};

/// Rows that the model runs for the contributions of one call.
const CONTRIBUTION_ROWS_MAX: usize = 100_000;

/// What answers questions for scores, over whatever protocol. Clones share it.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) registry: Arc<Registry>,
    pub(crate) rows_max: usize,
}

// === impl Api ===

impl Api {
    pub(crate) async fn score(&self, tenant: &str, request: ScoreRequest) -> Result<ScoreResponse> {
        let route = self.registry.route(&request.model, &request.version, tenant)?;
        self.check_count(request.rows.len())?;
        let width = route.first.width();
        let wanted = usize::try_from(request.contributions_max).unwrap_or(usize::MAX).min(width);
        if wanted > 0 && request.rows.len() * width > CONTRIBUTION_ROWS_MAX {
            let reason = format!("rows times features must be at most {CONTRIBUTION_ROWS_MAX}");
            return Err(
                Error::too_large("too many rows for contributions").field("contributions_max", reason)
            );
        }
        let Answer { version, rows, scored } =
            answer(route, |version| rows_of(version, &request.rows)).await?;
        let mut told = vec![Vec::new(); rows.count()];
        if wanted > 0 {
            told = contributions(&version, &rows, &scored.scores, wanted).await?;
        }
        let manifest = &version.manifest;
        let row = |(score, contributions): (f64, Vec<Contribution>)| RowScore {
            score,
            calibrated: manifest.calibrated(score),
            contributions,
            interval: manifest.interval.as_ref().map(|interval| {
                let (lower, upper) = interval.around(score);
                Interval { lower, upper, level: interval.level }
            }),
        };
        Ok(ScoreResponse {
            model: manifest.name.clone(),
            version: manifest.version.clone(),
            rows: scored.scores.into_iter().zip(told).map(row).collect(),
            inference_ms: scored.took.as_secs_f64() * 1_000.0,
        })
    }

    pub(crate) async fn score_rows(&self, model: &str, features: Vec<f32>) -> Result<Vec<f64>> {
        let route = self.registry.route(model, "", "")?;
        let rows_for = |version: &Version| {
            if !features.len().is_multiple_of(version.width()) {
                let reason = format!("{} values; a row has {}", features.len(), version.width());
                return Err(Error::invalid("no whole rows").field("features", reason));
            }
            self.check_count(features.len() / version.width())?;
            Ok(Rows { values: features.clone(), width: version.width() })
        };
        let Answer { version, scored, .. } = answer(route, rows_for).await?;
        Ok(scored.scores.iter().map(|score| version.manifest.calibrated(*score)).collect())
    }

    /// A call has at least one row, and no more than the limit.
    ///
    /// # Errors
    /// 400 for none, 413 for too many.
    pub(crate) fn check_count(&self, rows: usize) -> Result<()> {
        if rows == 0 {
            return Err(Error::invalid("there is nothing to score").field("rows", "at least one is needed"));
        }
        if rows > self.rows_max {
            let reason = format!("{rows} rows; at most {} are taken", self.rows_max);
            return Err(Error::too_large("too many rows").field("rows", reason));
        }
        Ok(())
    }

    pub(crate) fn list(&self) -> ListModelsResponse {
        let models = self.registry.models();
        let summaries = models.iter().flat_map(|(name, model)| {
            model.versions.iter().map(move |(number, entry)| ModelSummary {
                model: name.clone(),
                version: number.to_string(),
                in_service: model.serves(*number),
                broken: entry.broken.clone().or_else(|| model.traffic_broken.clone()).unwrap_or_default(),
            })
        });
        ListModelsResponse { models: summaries.collect() }
    }

    pub(crate) fn model(&self, model: &str, version: &str) -> Result<GetModelResponse> {
        let version = self.registry.find(model, version)?;
        let manifest = version.manifest.clone();
        let features = manifest.inputs.into_iter().map(|input| FeatureSchema {
            name: input.name,
            unit: input.unit,
            minimum: input.minimum,
            maximum: input.maximum,
            default_value: input.default,
            about: input.about,
        });
        Ok(GetModelResponse {
            model: manifest.name,
            version: manifest.version,
            owner: manifest.owner,
            card: manifest.card,
            training_data_sha256: manifest.training_data_sha256,
            sha256: manifest.sha256,
            features: features.collect(),
            metrics: manifest.metrics.into_iter().collect(),
        })
    }
}

/// The rows as the version that answered took them, and what it answered.
pub(crate) struct Answer {
    pub(crate) version: Arc<Version>,
    pub(crate) rows: Rows,
    pub(crate) scored: Scored,
}

/// Asks the first version of a route, and where it fails the spare one. Shadows score the same aside, and nobody waits.
///
/// # Errors
/// Those of the first version.
pub(crate) async fn answer(route: Route, rows_for: impl Fn(&Version) -> Result<Rows>) -> Result<Answer> {
    let Route { first, spare, shadows } = route;
    let answer = match (ask(first.clone(), rows_for(&first)?).await, spare) {
        (Err(error), Some(spare)) if error.class() == Class::Unavailable => {
            let instead = match rows_for(&spare) {
                Ok(rows) => ask(spare, rows).await,
                Err(error) => Err(error),
            };
            let told = |_: &Answer| metrics::fell_back(&first.manifest.name, &first.manifest.version);
            instead.inspect(told).map_err(|_| error)?
        }
        (answer, _) => answer?,
    };
    for shadow in shadows {
        let Ok(rows) = rows_for(&shadow) else { continue };
        let manifest = &answer.version.manifest;
        let meant: Vec<_> = answer.scored.scores.iter().map(|score| manifest.calibrated(*score)).collect();
        // As many of these as its queue holds: a call that finds it full is over at once.
        service::task::spawn("shadow", compare(shadow, rows, meant));
    }
    Ok(answer)
}

async fn ask(version: Arc<Version>, rows: Rows) -> Result<Answer> {
    version.check_rows(&rows)?;
    let scored = version.score(rows.clone(), Urgency::RealTime).await?;
    version.note(&rows, &scored);
    Ok(Answer { version, rows, scored })
}

async fn compare(shadow: Arc<Version>, rows: Rows, meant: Vec<f64>) {
    // A failure was counted and logged.
    let Ok(answer) = shadow.score(rows, Urgency::Batch).await else { return };
    for (score, meant) in answer.scores.iter().zip(meant) {
        let difference = (shadow.manifest.calibrated(*score) - meant).abs();
        metrics::shadowed(&shadow.manifest.name, &shadow.manifest.version, difference);
    }
}

/// Rows in the order of the schema, with defaults where nothing was said.
fn rows_of(version: &Version, rows: &[Features]) -> Result<Rows> {
    let inputs = &version.manifest.inputs;
    let mut values = version.defaults().repeat(rows.len());
    for (row, features) in rows.iter().enumerate() {
        for (name, &value) in &features.values {
            let Some(column) = inputs.iter().position(|input| input.name == *name) else {
                let known: Vec<_> = inputs.iter().map(|input| input.name.as_str()).collect();
                let reason = format!("unknown feature; known are {}", known.join(", "));
                return Err(
                    Error::invalid("an unknown feature").field(format!("rows[{row}].values.{name}"), reason)
                );
            };
            values[row * inputs.len() + column] = value as f32;
        }
    }
    Ok(Rows { values, width: inputs.len() })
}

/// By how much each row's score would fall if a feature had its default value, the strongest first.
async fn contributions(
    version: &Version,
    rows: &Rows,
    scores: &[f64],
    wanted: usize,
) -> Result<Vec<Vec<Contribution>>> {
    let (width, defaults) = (rows.width, version.defaults());
    let mut values = Vec::with_capacity(rows.values.len() * width);
    for row in rows.values.chunks(width) {
        for (column, default) in defaults.iter().enumerate() {
            values.extend_from_slice(row);
            let at = values.len() - width + column;
            values[at] = *default;
        }
    }
    let without = version.score(Rows { values, width }, Urgency::RealTime).await?.scores;
    let told = scores.iter().zip(without.chunks(width)).map(|(score, without)| {
        let mut shares: Vec<_> = without.iter().map(|without| score - without).enumerate().collect();
        shares.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
        shares.truncate(wanted);
        shares.retain(|(_, share)| *share != 0.0);
        let told = |(column, contribution): (usize, f64)| Contribution {
            feature: version.manifest.inputs[column].name.clone(),
            contribution,
        };
        shares.into_iter().map(told).collect()
    });
    Ok(told.collect())
}

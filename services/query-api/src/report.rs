//! A report: what is known so far, the warehouse's answer, and how it was made.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use proto::{
    decisions::{GetProgressRequest, attribution_service_client::AttributionServiceClient},
    query::{Method, PathTransform, Row, RunReportRequest, RunReportResponse, path_transform},
};
use service::{Error, Tenant};
use tokio::time::timeout;
use warehouse::{Measure, ReportAnswer, ReportRow, ReportTotal};

use crate::{
    answer::Columns,
    api::Inner,
    error, metrics, render,
    spec::{self, Question},
};

const MICROS: f64 = 1_000_000.0;

/// How long a caller whose wait was in vain should stay away.
const CONSISTENCY_RETRY: Duration = Duration::from_secs(1);

/// How far the facts go.
struct Known {
    complete_through: Timestamp,
    /// The first moment as of which all that is complete is seen: a re-decision is recorded after the event that caused it.
    known_through: Timestamp,
    note: Option<&'static str>,
}

/// Answers a report of a tenant.
///
/// # Errors
/// Invalid for a question that breaks a rule, unavailable while the warehouse is, or where what was acknowledged is not
/// reported in time.
pub(crate) async fn run(
    inner: &Inner,
    tenant: &Tenant,
    request: RunReportRequest,
) -> Result<(RunReportResponse, Columns), Error> {
    let mut question = spec::check(&request, tenant)?;
    let known = if question.acknowledged { wait(inner, tenant).await? } else { known(inner, tenant).await? };
    let mut notes: Vec<String> = known.note.into_iter().map(str::to_owned).collect();
    let as_of = match question.as_of {
        Some(asked) if asked > known.complete_through => {
            notes.push(format!("as_of was set back to complete_through, {asked} is past it"));
            known.complete_through
        }
        Some(asked) => asked,
        None => known.known_through,
    };
    question.spec.as_of_micros = ceil_micros(as_of);
    let begin = Instant::now();
    let answer = ask(inner, &question).await?;
    let method = Method {
        models: question.models.clone(),
        lookback: question.spec.lookback_millis.map(model::duration::format_millis).unwrap_or_default(),
        path_transforms: question.spec.transforms.iter().map(transform).collect(),
        settings_edition: tenant.edition.to_string(),
        as_of: Some(render::timestamp(as_of)),
        complete_through: Some(render::timestamp(known.complete_through)),
        notes,
    };
    let response = RunReportResponse {
        rows: answer.rows.into_iter().map(|row| row_of(row, &question)).collect(),
        totals: answer.totals.into_iter().map(|total| total_of(total, &question)).collect(),
        method: Some(method),
        truncated: answer.truncated,
        // Microseconds are as fine as anyone can use.
        query_ms: (begin.elapsed().as_secs_f64() * MICROS).round() / 1_000.0,
    };
    Ok((response, question.columns()))
}

// One of few at a time: more at once would only share the same cores.
async fn ask(inner: &Inner, question: &Question) -> Result<ReportAnswer, Error> {
    let config = &inner.config;
    let patience = Duration::from_secs(config.report_queue_seconds_max);
    let busy = || Error::unavailable("too many reports at once; try again").code("overloaded");
    // The semaphore is never closed, so only the time can run out.
    let Ok(Ok(slot)) = timeout(patience, inner.slots.acquire()).await else { return Err(busy()) };
    let used = || config.reports_in_flight_max.saturating_sub(inner.slots.available_permits());
    metrics::warehouse_utilization(used(), config.reports_in_flight_max);
    let answer = inner.warehouse.report(&question.spec).await;
    drop(slot);
    metrics::warehouse_utilization(used(), config.reports_in_flight_max);
    answer.map_err(error::warehouse)
}

// Without the attribution service there are still the facts, as far as every partition has written them.
async fn known(inner: &Inner, tenant: &Tenant) -> Result<Known, Error> {
    match progress(inner, tenant, None).await {
        Ok(known) => Ok(known),
        Err(error) => {
            tracing::debug!(%error, "asking the warehouse instead of the attribution service");
            let written = inner.warehouse.progress().await.map_err(error::warehouse)?;
            // Records have times of their own: past that of the last one written, all of it is known.
            let micros = written.iter().map(|progress| progress.time_micros + 1).min().unwrap_or(0);
            let through = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
            Ok(Known {
                complete_through: through,
                known_through: through,
                note: Some(
                    "the attribution service cannot be reached, so the answer is as of the last facts written",
                ),
            })
        }
    }
}

async fn wait(inner: &Inner, tenant: &Tenant) -> Result<Known, Error> {
    // Progress is told in whole microseconds, so the moment to pass is the next one.
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond() + 1).map_err(Error::internal)?;
    let late = || {
        Error::unavailable("what was acknowledged before this call is not all reported yet; try again")
            .code("not_complete")
            .retry_after(CONSISTENCY_RETRY)
    };
    let reached = timeout(inner.patience, progress(inner, tenant, Some(now))).await;
    match reached {
        Ok(Ok(known)) if known.complete_through >= now => Ok(known),
        Ok(Ok(_)) | Err(_) => Err(late()),
        Ok(Err(error)) => Err(late().source(error)),
    }
}

async fn progress(
    inner: &Inner,
    tenant: &Tenant,
    wait_for: Option<Timestamp>,
) -> Result<Known, tonic::Status> {
    let mut client = AttributionServiceClient::new(inner.attribution.for_tenant(&tenant.name));
    let request = GetProgressRequest { wait_for: wait_for.map(render::timestamp) };
    let answer = client.get_progress(request).await?.into_inner();
    let time = |time: Option<prost_types::Timestamp>| {
        time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok())
    };
    let complete_through = time(answer.complete_through)
        .ok_or_else(|| tonic::Status::internal("no complete_through in the answer"))?;
    let known_through = time(answer.known_through).unwrap_or(complete_through).max(complete_through);
    Ok(Known { complete_through, known_through, note: None })
}

fn row_of(row: ReportRow, question: &Question) -> Row {
    let names = question.spec.dimensions.iter().map(|dimension| dimension.name().to_owned());
    Row {
        model: model_name(question, row.model),
        dimensions: names.zip(row.dimensions).collect(),
        currency: row.currency,
        conversions: row.conversions_micros as f64 / MICROS,
        value: value(question, row.value_micros),
        touches: row.touches,
        persons: count(row.persons),
    }
}

fn total_of(total: ReportTotal, question: &Question) -> Row {
    Row {
        model: model_name(question, total.model),
        dimensions: Default::default(),
        currency: total.currency,
        conversions: total.conversions as f64,
        value: value(question, total.value_micros),
        touches: total.touches,
        persons: count(total.persons),
    }
}

fn model_name(question: &Question, index: usize) -> String {
    question.spec.models.get(index).map_or("", |model| model.name()).to_owned()
}

fn value(question: &Question, micros: i128) -> String {
    if question.spec.measures(Measure::Value) { model::money::format_micros(micros) } else { String::new() }
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn transform(transform: &model::Transform) -> PathTransform {
    use path_transform::Transform as Shown;
    let shown = match transform.clone() {
        model::Transform::Exposure => Shown::Exposure(true),
        model::Transform::First => Shown::First(true),
        model::Transform::RemoveIfNotAll(value) => Shown::RemoveIfNotAll(value),
        model::Transform::RemoveIfLastAndNotAll(value) => Shown::RemoveIfLastAndNotAll(value),
    };
    PathTransform { transform: Some(shown) }
}

// Facts are recorded at whole microseconds, and those before the moment count.
fn ceil_micros(time: Timestamp) -> i64 {
    let micros = time.as_microsecond();
    let rest = time.as_nanosecond() > i128::from(micros) * 1_000;
    (micros + i64::from(rest)).max(0)
}

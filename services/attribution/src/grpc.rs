//! `attribution.attribution.v1.AttributionService`: decodes, calls, encodes.

use std::{pin::Pin, sync::Arc, time::Duration};

use journey_store::{JourneyStore, StoreError, event_millis, time_millis};
use proto::{
    decisions::{
        DecideRequest, DecideResponse, GetDecisionRequest, GetDecisionResponse, GetProgressRequest,
        GetProgressResponse, StreamDecisionsRequest, StreamDecisionsResponse,
        attribution_service_server::AttributionService,
    },
    events::{Event, EventType},
};
use service::{
    auth::Caller,
    error::{Error, Result},
    settings::Scope,
};
use tokio::sync::broadcast;
use tokio_stream::{Stream, StreamExt, wrappers::BroadcastStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{Deps, Made, Progress, decision, scoring::Scoring};

/// Touches and earlier conversions of one `Decide` call.
const DECIDE_EVENTS_MAX: usize = model::journey::JOURNEY_TOUCHES_MAX;

/// The longest wait of `GetProgress`, seconds.
const PROGRESS_WAIT_SECONDS_MAX: u64 = 30;

/// The service.
pub struct AttributionApi {
    journeys: Arc<dyn JourneyStore>,
    log: Arc<dyn event_log::EventLog>,
    progress: Arc<Progress>,
    decisions: broadcast::Sender<Made>,
    shutdown: CancellationToken,
    has_gateway: bool,
}

impl AttributionApi {
    pub(crate) fn new(
        deps: &Deps,
        progress: Arc<Progress>,
        decisions: broadcast::Sender<Made>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            journeys: Arc::clone(&deps.journeys),
            log: Arc::clone(&deps.log),
            progress,
            decisions,
            shutdown,
            has_gateway: deps.gateway.is_some(),
        }
    }

    /// What is not stored is not scored.
    fn scoring(&self) -> Scoring<'static> {
        if self.has_gateway { Scoring::NotStored } else { Scoring::Off }
    }

    async fn queued(&self) -> std::result::Result<u64, event_log::LogError> {
        let mut queued = 0;
        for partition in 0..self.log.partitions() {
            let end = self.log.end(partition).await?.offset;
            queued += end.saturating_sub(self.progress.consumed_to(partition));
        }
        Ok(queued)
    }

    // What was acknowledged before the call counts by the log's clock: the caller's may be behind it.
    async fn wait_complete(&self, moment: &prost_types::Timestamp) -> Result<()> {
        let mut past =
            moment.seconds.saturating_mul(1_000_000).saturating_add(i64::from(moment.nanos) / 1_000);
        for partition in 0..self.log.partitions() {
            let end = self.log.end(partition).await.map_err(log_is_away)?;
            past = past.max(end.time_micros);
        }
        let wait = Duration::from_secs(PROGRESS_WAIT_SECONDS_MAX);
        tokio::time::timeout(wait, self.progress.wait_complete(past)).await.map_err(|_| {
            let detail = format!("not everything was reported within {PROGRESS_WAIT_SECONDS_MAX} s");
            Error::unavailable(detail).code("not_complete").retry_after(Duration::from_secs(1))
        })
    }
}

#[tonic::async_trait]
impl AttributionService for AttributionApi {
    async fn decide(
        &self,
        request: Request<DecideRequest>,
    ) -> std::result::Result<Response<DecideResponse>, Status> {
        let caller = reader(&request)?;
        let case = case(request.into_inner(), &caller).map_err(Error::into_status)?;
        let decided = decision::make(case, &caller.tenant().rules, &self.scoring()).map_err(|error| {
            Error::invalid("the conversion cannot be read")
                .field("conversion.value", error.to_string())
                .into_status()
        })?;
        Ok(Response::new(DecideResponse { decision: Some(decided) }))
    }

    async fn get_decision(
        &self,
        request: Request<GetDecisionRequest>,
    ) -> std::result::Result<Response<GetDecisionResponse>, Status> {
        let caller = reader(&request)?;
        let id = request.into_inner().event_id;
        let found = journey_store::explained(&*self.journeys, caller.tenant_name(), &id)
            .await
            .map_err(|error| store(error).into_status())?;
        match found {
            Some(decision) => Ok(Response::new(GetDecisionResponse { decision: Some(decision) })),
            None => Err(Error::not_found("there is no such conversion").into_status()),
        }
    }

    type StreamDecisionsStream =
        Pin<Box<dyn Stream<Item = std::result::Result<StreamDecisionsResponse, Status>> + Send>>;

    async fn stream_decisions(
        &self,
        request: Request<StreamDecisionsRequest>,
    ) -> std::result::Result<Response<Self::StreamDecisionsStream>, Status> {
        let caller = reader(&request)?;
        let made = BroadcastStream::new(self.decisions.subscribe());
        let answers = made.filter_map(move |made| match made {
            // The stream may have outlived its key.
            Ok(made) if made.0 == *caller.tenant_name() => Some(
                (caller.renewed().and_then(|caller| caller.require(Scope::Read)))
                    .map(|()| StreamDecisionsResponse { decision: Some(made.1.clone()) })
                    .map_err(Error::into_status),
            ),
            Ok(_) => None,
            Err(_) => Some(Err(Error::over_quota("the stream was read too slowly: decisions were missed")
                .code("slow_reader")
                .into_status())),
        });
        let shutdown = self.shutdown.clone();
        let answers = futures_util::StreamExt::take_until(answers, async move { shutdown.cancelled().await });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_progress(
        &self,
        request: Request<GetProgressRequest>,
    ) -> std::result::Result<Response<GetProgressResponse>, Status> {
        reader(&request)?;
        if let Some(moment) = request.into_inner().wait_for {
            self.wait_complete(&moment).await.map_err(Error::into_status)?;
        }
        let watermark = self.progress.watermark();
        Ok(Response::new(GetProgressResponse {
            complete_through: Some(micros(watermark.complete_through_micros)),
            known_through: Some(micros(watermark.known_through_micros)),
            queued_records: self.queued().await.map_err(|error| log_is_away(error).into_status())?,
        }))
    }
}

fn micros(micros: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
    }
}

fn log_is_away(error: event_log::LogError) -> Error {
    Error::unavailable("the event log is away").source(error)
}

fn reader<T>(request: &Request<T>) -> std::result::Result<Caller, Status> {
    let caller = Caller::of(request.extensions()).map_err(Error::into_status)?;
    caller.require(Scope::Read).map_err(Error::into_status)?;
    Ok(caller)
}

fn case(request: DecideRequest, caller: &Caller) -> Result<decision::Case> {
    let mut conversion = request.conversion.ok_or_else(|| missing("conversion"))?;
    check_time("conversion.timestamp", conversion.timestamp.as_ref())?;
    if !matches!(conversion.event_type(), EventType::Conversion | EventType::Unspecified) {
        return Err(Error::invalid("not a conversion").field("conversion.event_type", "must be a conversion"));
    }
    conversion.set_event_type(EventType::Conversion);
    default(&mut conversion.event_id, "conversion");
    default(&mut conversion.app_id, "default");
    default(&mut conversion.conversion, "conversion");
    default(&mut conversion.value, "0");
    default(&mut conversion.currency, &caller.tenant().rules.currency);
    if request.touches.len() > DECIDE_EVENTS_MAX {
        let reason = format!("at most {DECIDE_EVENTS_MAX}: {}", request.touches.len());
        return Err(Error::invalid("too many touches").field("touches", reason));
    }
    if request.earlier_conversions.len() > DECIDE_EVENTS_MAX {
        let reason = format!("at most {DECIDE_EVENTS_MAX}: {}", request.earlier_conversions.len());
        return Err(Error::invalid("too many conversions").field("earlier_conversions", reason));
    }
    let mut touches = request.touches;
    for (place, touch) in touches.iter_mut().enumerate() {
        check_touch(touch, place)?;
    }
    let mut ids: Vec<&str> = touches.iter().map(|touch| touch.event_id.as_str()).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(
            Error::invalid("touches need ids of their own").field("touches", format!("twice: {:?}", pair[0]))
        );
    }
    for (place, time) in request.earlier_conversions.iter().enumerate() {
        check_time(&format!("earlier_conversions[{place}]"), Some(time))?;
    }
    let at = event_millis(&conversion);
    let earlier = request.earlier_conversions.iter().map(time_millis);
    Ok(decision::Case {
        previous_conversion_millis: earlier.filter(|time| *time < at).max(),
        conversion,
        touches,
        settings_edition: caller.tenant().edition.to_string(),
        person: None,
    })
}

fn check_touch(touch: &mut Event, place: usize) -> Result<()> {
    let field = |name: &str| format!("touches[{place}].{name}");
    check_time(&field("timestamp"), touch.timestamp.as_ref())?;
    if decision::event_to_touch(touch).is_none() {
        let reason = "must be an impression, a click or a visit";
        return Err(Error::invalid("not a touch").field(field("event_type"), reason));
    }
    default(&mut touch.event_id, &format!("touch-{place}"));
    default(&mut touch.app_id, "default");
    Ok(())
}

// Within the calendar, so that no arithmetic on it overflows.
fn check_time(field: &str, time: Option<&prost_types::Timestamp>) -> Result<()> {
    let time = time.ok_or_else(|| missing(field))?;
    if time.nanos < 0 || jiff::Timestamp::new(time.seconds, time.nanos).is_err() {
        let reason = "must be within the years -9999 to 9999, nanos from 0 to 999999999";
        return Err(Error::invalid(format!("{field} is no moment")).field(field, reason));
    }
    Ok(())
}

fn store(error: StoreError) -> Error {
    match error {
        StoreError::Unavailable(_) | StoreError::Superseded | StoreError::Indeterminate(_) => {
            Error::unavailable("journeys cannot be read now; try again").source(error)
        }
        StoreError::Corrupt(_) | StoreError::Url(_) => Error::internal(error),
    }
}

fn missing(field: &str) -> Error {
    Error::invalid(format!("{field} is missing")).field(field, "is required")
}

fn default(field: &mut String, value: &str) {
    if field.is_empty() {
        value.clone_into(field);
    }
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;

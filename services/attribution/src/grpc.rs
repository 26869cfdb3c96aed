//! `attribution.attribution.v1.AttributionService`: decodes, calls, encodes.

use std::{pin::Pin, sync::Arc, time::Duration};

use journey_store::JourneyStore;
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

use crate::{Deps, Made, Progress, decision, frames};

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
        }
    }

    async fn queued(&self) -> std::result::Result<u64, event_log::LogError> {
        let mut queued = 0;
        for partition in 0..self.log.partitions() {
            let end = self.log.end(partition).await?.offset;
            queued += end.saturating_sub(self.progress.consumed_to(partition));
        }
        Ok(queued)
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
        let decided = decision::make(case, &caller.tenant().rules).map_err(|error| {
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
        let found = query_api::decision(&*self.journeys, caller.tenant_name(), &id)
            .await
            .map_err(Error::into_status)?;
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
        let tenant = Arc::clone(reader(&request)?.tenant_name());
        let made = BroadcastStream::new(self.decisions.subscribe());
        let answers = made.filter_map(move |made| match made {
            Ok(made) if made.0 == tenant => {
                Some(Ok(StreamDecisionsResponse { decision: Some(made.1.clone()) }))
            }
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
            let past =
                moment.seconds.saturating_mul(1_000_000).saturating_add(i64::from(moment.nanos) / 1_000);
            let wait = Duration::from_secs(PROGRESS_WAIT_SECONDS_MAX);
            if tokio::time::timeout(wait, self.progress.wait_complete(past)).await.is_err() {
                let detail = format!("not everything was reported within {PROGRESS_WAIT_SECONDS_MAX} s");
                return Err(Error::unavailable(detail)
                    .code("not_complete")
                    .retry_after(Duration::from_secs(1))
                    .into_status());
            }
        }
        let through = self.progress.complete_through_micros();
        Ok(Response::new(GetProgressResponse {
            complete_through: Some(prost_types::Timestamp {
                seconds: through.div_euclid(1_000_000),
                nanos: (through.rem_euclid(1_000_000) * 1_000) as i32,
            }),
            queued_records: self
                .queued()
                .await
                .map_err(|error| Error::unavailable("the event log is away").source(error).into_status())?,
        }))
    }
}

fn reader<T>(request: &Request<T>) -> std::result::Result<Caller, Status> {
    let caller = Caller::of(request.extensions()).map_err(Error::into_status)?;
    caller.require(Scope::Read).map_err(Error::into_status)?;
    Ok(caller)
}

fn case(request: DecideRequest, caller: &Caller) -> Result<decision::Case> {
    let mut conversion = request.conversion.ok_or_else(|| missing("conversion"))?;
    if conversion.timestamp.is_none() {
        return Err(missing("conversion.timestamp"));
    }
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
    let at = frames::time_millis(&conversion);
    let earlier =
        request.earlier_conversions.iter().map(|t| t.seconds * 1000 + i64::from(t.nanos) / 1_000_000);
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
    if touch.timestamp.is_none() {
        return Err(missing(&field("timestamp")));
    }
    if decision::event_to_touch(touch).is_none() {
        let reason = "must be an impression, a click or a visit";
        return Err(Error::invalid("not a touch").field(field("event_type"), reason));
    }
    default(&mut touch.event_id, &format!("touch-{place}"));
    default(&mut touch.app_id, "default");
    Ok(())
}

fn missing(field: &str) -> Error {
    Error::invalid(format!("{field} is missing")).field(field, "is required")
}

fn default(field: &mut String, value: &str) {
    if field.is_empty() {
        value.clone_into(field);
    }
}

//! `attribution.ingestion.v1.IngestionService`: decode, call, encode.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use proto::{
    events::Event,
    ingestion::{
        IngestEventsRequest, IngestEventsResponse, Item as ItemMessage, Status as ItemStatus,
        StreamEventsRequest, StreamEventsResponse,
        ingestion_service_server::{IngestionService, IngestionServiceServer},
    },
};
use service::{Caller, Error, Scope};
use telemetry::trace::Scope as TraceScope;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};
use tracing::{Instrument, Span};

use crate::{
    accept::{Acceptor, Answer, Item},
    batch::Builder,
    config::Config,
    event::EventRef,
};

/// The gRPC name of the service.
pub(crate) const NAME: &str = "attribution.ingestion.v1.IngestionService";

#[derive(Clone)]
struct Ingest {
    acceptor: Arc<Acceptor>,
    stream_batches_in_flight_max: usize,
    shutdown: CancellationToken,
}

pub(crate) fn routes(acceptor: Arc<Acceptor>, config: &Config, shutdown: &CancellationToken) -> axum::Router {
    let stream_batches_in_flight_max = config.stream_batches_in_flight_max.max(1);
    let ingest = Ingest { acceptor, stream_batches_in_flight_max, shutdown: shutdown.clone() };
    let server = IngestionServiceServer::new(ingest)
        .max_decoding_message_size(config.body_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip);
    service::grpc_routes(tonic::service::Routes::new(server))
}

#[tonic::async_trait]
impl IngestionService for Ingest {
    async fn ingest_events(
        &self,
        request: Request<IngestEventsRequest>,
    ) -> Result<Response<IngestEventsResponse>, Status> {
        let caller = caller(request.extensions())?;
        let answer = self.accept(&caller, &request.get_ref().events).await?;
        let [accepted, duplicate, rejected] = counts(&answer);
        Ok(Response::new(IngestEventsResponse { accepted, duplicate, rejected, items: items(&answer) }))
    }

    type StreamEventsStream = Pin<Box<dyn Stream<Item = Result<StreamEventsResponse, Status>> + Send>>;

    /// Answers in order. A batch that cannot be taken ends the stream with its error, and so does the shutdown once
    /// every batch read was answered: what has no answer is to be sent again.
    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let caller = caller(request.extensions())?;
        let (ingest, span, scope) = (self.clone(), Span::current(), TraceScope::current());
        let in_flight = ingest.stream_batches_in_flight_max;
        let ended = ingest.shutdown.clone();
        let batches = request.into_inner().take_until(ended.clone().cancelled_owned());
        let answers = batches.map(move |batch| {
            let (ingest, caller) = (ingest.clone(), caller.clone());
            let work = async move { ingest.answer(&caller, batch?).await }.instrument(span.clone());
            let scope = scope.clone();
            // Batches are worked on after the call's own scope has ended.
            async move {
                match scope {
                    Some(scope) => scope.run(work).await,
                    None => work.await,
                }
            }
        });
        let goodbye = stream::once(async move {
            let going = Error::unavailable("shutting down; send what has no answer to another server");
            ended.is_cancelled().then(|| Err(going.code("shutting_down").into_status()))
        });
        let answers = answers.buffered(in_flight).chain(goodbye.filter_map(std::future::ready));
        // Nothing comes behind an error.
        let answers = answers.scan(false, |failed, answer| {
            let over = std::mem::replace(failed, *failed || answer.is_err());
            std::future::ready((!over).then_some(answer))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Ingest {
    async fn answer(
        &self,
        caller: &Caller,
        batch: StreamEventsRequest,
    ) -> Result<StreamEventsResponse, Status> {
        let answer = self.accept(caller, &batch.events).await?;
        let [accepted, duplicate, rejected] = counts(&answer);
        let items = items(&answer);
        Ok(StreamEventsResponse { sequence: batch.sequence, accepted, duplicate, rejected, items })
    }

    async fn accept(&self, caller: &Caller, events: &[Event]) -> Result<Answer, Error> {
        let now_micros = jiff::Timestamp::now().as_microsecond();
        let tenant = caller.tenant();
        let partitions = self.acceptor.partitions();
        let mut batch = Builder::new(tenant, partitions, now_micros.div_euclid(1_000), events.len());
        let mut read = EventRef::default();
        for event in events {
            read.read(event);
            batch.push(&read, Ok(()))?;
        }
        let batch = batch.finish();
        self.acceptor.accept(tenant, batch, now_micros).await
    }
}

fn caller(extensions: &http::Extensions) -> Result<Caller, Error> {
    let caller = Caller::of(extensions)?;
    caller.require(Scope::Ingest)?;
    Ok(caller)
}

fn counts(answer: &Answer) -> [u32; 3] {
    // At most as many as a batch may have.
    [answer.accepted, answer.duplicate, answer.rejected].map(|count| count as u32)
}

fn items(answer: &Answer) -> Vec<ItemMessage> {
    let message = |(index, item)| {
        let (event_id, status) = match item {
            Item::Accepted(id) => (id, ItemStatus::Accepted),
            Item::Duplicate(id) => (id, ItemStatus::Duplicate),
            Item::Rejected(id, _) => (id.unwrap_or_default(), ItemStatus::Rejected),
        };
        let mut message = ItemMessage {
            index: index as u32,
            event_id: event_id.to_owned(),
            status: status.into(),
            ..ItemMessage::default()
        };
        if let Item::Rejected(_, why) = item {
            message.code = why.code.name().to_owned();
            message.field = why.field.clone().into_owned();
            message.reason = why.reason.clone().into_owned();
        }
        message
    };
    answer.items().enumerate().map(message).collect()
}

//! `attribution.ingestion.v1.IngestionService`: decode, call, encode.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use service::{Caller, Error, Scope};
use telemetry::trace::Scope as TraceScope;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::CompressionEncoding,
    server::{Grpc, NamedService},
    service::Routes,
};
use tower::{Service, service_fn};
use tracing::{Instrument, Span};

use crate::{
    accept::Acceptor,
    config::Config,
    error,
    message::{self, Form, Messages, Reply},
};

/// The gRPC name of the service.
pub(crate) const NAME: &str = "attribution.ingestion.v1.IngestionService";

const INGEST_EVENTS: &str = "/attribution.ingestion.v1.IngestionService/IngestEvents";
const STREAM_EVENTS: &str = "/attribution.ingestion.v1.IngestionService/StreamEvents";

/// The bytes of an event of a message, to guess how many there are.
const EVENT_BYTES_GUESS: usize = 200;

#[derive(Clone)]
struct Ingest {
    acceptor: Arc<Acceptor>,
    /// A permit for each stream that may be open.
    streams: Arc<Semaphore>,
    stream_batches_in_flight_max: usize,
    message_bytes_max: usize,
    shutdown: CancellationToken,
}

pub(crate) fn routes(acceptor: Arc<Acceptor>, config: &Config, shutdown: &CancellationToken) -> axum::Router {
    let streams = Arc::new(Semaphore::new(config.streams_max.min(Semaphore::MAX_PERMITS)));
    let ingest = Ingest {
        acceptor,
        streams,
        stream_batches_in_flight_max: config.stream_batches_in_flight_max.max(1),
        message_bytes_max: config.body_bytes_max,
        shutdown: shutdown.clone(),
    };
    service::grpc_routes(Routes::new(ingest))
}

impl NamedService for Ingest {
    const NAME: &'static str = NAME;
}

/// What tonic generates for a service, but for its messages, which stay bytes.
impl Service<http::Request<Body>> for Ingest {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ingest = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                INGEST_EVENTS => {
                    let method = service_fn(|request| ingest.ingest_events(request));
                    ingest.transport(Form::Call).unary(method, request).await
                }
                STREAM_EVENTS => {
                    let method = service_fn(|request| ingest.stream_events(request));
                    ingest.transport(Form::Stream).streaming(method, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

impl Ingest {
    fn transport(&self, form: Form) -> Grpc<Messages> {
        Grpc::new(Messages(form))
            .max_decoding_message_size(self.message_bytes_max)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    async fn ingest_events(&self, request: Request<Bytes>) -> Result<Response<Reply>, Status> {
        let caller = caller(request.extensions())?;
        Ok(Response::new(self.accept(&caller, Form::Call, request.into_inner()).await?))
    }

    /// Answers in order. A batch that cannot be taken ends the stream with its error, and so does the shutdown once
    /// every batch read was answered: what has no answer is to be sent again.
    async fn stream_events(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<impl Stream<Item = Result<Reply, Status>> + Send + use<>>, Status> {
        let caller = caller(request.extensions())?;
        let open = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| error::streams_full())?;
        let (ingest, span, scope) = (self.clone(), Span::current(), TraceScope::current());
        let in_flight = ingest.stream_batches_in_flight_max;
        let ended = ingest.shutdown.clone();
        let batches = request.into_inner().take_until(ended.clone().cancelled_owned());
        let answers = batches.map(move |batch| {
            let (ingest, caller) = (ingest.clone(), caller.clone());
            let batch = batch.map_err(service::error::of_message);
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
        let answers = answers.scan(false, move |failed, answer| {
            let _open = &open;
            let over = std::mem::replace(failed, *failed || answer.is_err());
            std::future::ready((!over).then_some(answer))
        });
        Ok(Response::new(answers))
    }

    async fn answer(&self, caller: &Caller, batch: Bytes) -> Result<Reply, Status> {
        // The stream may have outlived its key, its quota or its tenant's edition.
        let caller = caller.renewed()?;
        caller.require(Scope::Ingest)?;
        self.accept(&caller, Form::Stream, batch).await
    }

    async fn accept(&self, caller: &Caller, form: Form, message: Bytes) -> Result<Reply, Status> {
        let now_micros = jiff::Timestamp::now().as_microsecond();
        let tenant = caller.tenant();
        let about = 1 + message.len() / EVENT_BYTES_GUESS;
        let mut batch = self.acceptor.batch(tenant, now_micros, about, || message::count(form, &message))?;
        let sequence = message::read(form, &message, &mut batch)?;
        drop(message);
        let answer = self.acceptor.accept(tenant, batch.finish(), now_micros).await?;
        Ok(Reply { sequence, answer })
    }
}

fn caller(extensions: &http::Extensions) -> Result<Caller, Error> {
    let caller = Caller::of(extensions)?;
    caller.require(Scope::Ingest)?;
    Ok(caller)
}

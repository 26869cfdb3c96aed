//! The processes under load that are not the platform itself: ingestion alone, and the limits it is held against.
//!
//! Each writes the port it listens on to standard output and runs until it is killed.

use std::{
    convert::Infallible,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use bytes::Bytes;
use clap::Subcommand;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use proto::{
    inference::{
        ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
        ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
        ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    },
    ingestion::{
        IngestEventsRequest, IngestEventsResponse, StreamEventsRequest, StreamEventsResponse,
        ingestion_service_server::{IngestionService, IngestionServiceServer},
    },
};
use serde::Deserialize;
use service::{Front, Limits, Listeners, SettingsHandle, settings};
use telemetry::health::Health;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

/// As many as the platform remembers.
const SEEN_EVENTS_MAX: u64 = 4_000_000;

/// What to serve.
#[derive(Debug, Subcommand)]
pub(crate) enum Serve {
    /// Ingestion behind the real front over a real log, without anything that reads the log
    Ingestion {
        /// The data folder
        data: PathBuf,
        /// The log; a local one in the folder unless said
        #[arg(long)]
        log: Option<String>,
        /// The cache; as many ids in memory as the platform remembers unless said
        #[arg(long)]
        cache: Option<String>,
    },
    /// The gateway of models alone behind the real front, with the committed models
    Scores {
        /// The data folder
        data: PathBuf,
        /// The folder of models
        #[arg(long)]
        models: PathBuf,
    },
    /// hyper, and a typed borrowed parse of the body
    HttpParse,
    /// hyper, and the body read
    HttpNoop,
    /// tonic, and the message decoded
    GrpcNoop,
    /// tonic, and a request of the Open Inference Protocol decoded
    V2Noop,
}

impl Serve {
    pub(crate) fn run(self) -> ExitCode {
        let telemetry = telemetry::Config::new("bench");
        service::run(telemetry, move |shutdown| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let mut stdout = std::io::stdout();
            writeln!(stdout, "{}", listener.local_addr()?.port())?;
            stdout.flush()?;
            match self {
                Self::Ingestion { data, log, cache } => {
                    ingestion(&data, log, cache, listener, shutdown).await
                }
                Self::Scores { data, models } => scores(&data, &models, listener, shutdown).await,
                Self::HttpParse => http(listener, parsed).await,
                Self::HttpNoop => http(listener, |_| StatusCode::OK).await,
                Self::GrpcNoop => grpc(listener).await,
                Self::V2Noop => v2(listener).await,
            }
        })
    }
}

/// The service as the standalone process starts it, but for the journey store behind its cache and the worker.
async fn ingestion(
    data: &Path,
    log: Option<String>,
    cache: Option<String>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<()> {
    let log = log.unwrap_or_else(|| format!("file://{}", data.join("log").display()));
    let cache = cache.unwrap_or_else(|| format!("memory://?seen_max={SEEN_EVENTS_MAX}&seen_ttl=365d"));
    settings::init_data_dir(data)?;
    let health = Health::default();
    let front = Front::new(SettingsHandle::open(data)?, Limits::default(), health.clone());
    let deps = ingestion::Deps {
        log: event_log::open(&log).await?,
        cache: cache::open(&cache)?,
        backlog: None,
        recover_from: Vec::new(),
        health,
    };
    let routes = ingestion::start(&ingestion::Config::default(), deps, &shutdown).await?;
    let routes = front.mount("ingestion", routes);
    let listeners = Listeners { public: listener, operations: None, tls: None };
    Ok(service::serve(listeners, &front, routes, shutdown).await?)
}

/// The service as its process starts it.
async fn scores(
    data: &Path,
    models: &Path,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<()> {
    settings::init_data_dir(data)?;
    let health = Health::default();
    let front = Front::new(SettingsHandle::open(data)?, Limits::default(), health.clone());
    let config = ml_gateway::Config {
        models: format!("onnx://{}", models.display()),
        ..ml_gateway::Config::default()
    };
    let gateway = ml_gateway::start(&config, &front, &health, &shutdown)?;
    let listeners = Listeners { public: listener, operations: None, tls: None };
    service::serve(listeners, &front, gateway.routes.clone(), shutdown).await?;
    gateway.stopped().await;
    Ok(())
}

async fn http(
    listener: TcpListener,
    answer: impl Fn(&[u8]) -> StatusCode + Copy + Send + 'static,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let handler = move |request: Request<Incoming>| async move {
            let status = match request.into_body().collect().await {
                Ok(body) => answer(&body.to_bytes()),
                Err(_) => StatusCode::BAD_REQUEST,
            };
            let mut response = Response::new(Full::new(Bytes::from_static(b"{\"accepted\":0}")));
            *response.status_mut() = status;
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            Ok::<_, Infallible>(response)
        };
        service::task::spawn("connection", async move {
            let http = hyper::server::conn::http1::Builder::new();
            // The load closes its connections when it is over.
            let _ = http.serve_connection(TokioIo::new(stream), service_fn(handler)).await;
        });
    }
}

/// The events of a body as serde's derived parser reads them, every text borrowed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Borrowed<'a> {
    event_id: &'a str,
    event_type: &'a str,
    timestamp: i64,
    device_id: &'a str,
    click_id: &'a str,
    app_id: &'a str,
    platform: &'a str,
    channel: &'a str,
    partner: &'a str,
    campaign_id: &'a str,
    ad_group_id: &'a str,
    creative_id: &'a str,
    keyword: &'a str,
    sub_publisher: Option<&'a str>,
    country: &'a str,
    conversion: Option<&'a str>,
    value: Option<&'a str>,
    ip: &'a str,
    user_agent: &'a str,
}

fn parsed(body: &[u8]) -> StatusCode {
    match serde_json::from_slice::<Vec<Borrowed<'_>>>(body) {
        Ok(events) if !std::hint::black_box(&events).is_empty() => StatusCode::OK,
        _ => StatusCode::BAD_REQUEST,
    }
}

struct Noop;

#[tonic::async_trait]
impl GrpcInferenceService for Noop {
    async fn model_infer(
        &self,
        request: tonic::Request<ModelInferRequest>,
    ) -> Result<tonic::Response<ModelInferResponse>, tonic::Status> {
        let model_name = request.into_inner().model_name;
        Ok(tonic::Response::new(ModelInferResponse { model_name, ..ModelInferResponse::default() }))
    }

    async fn server_live(
        &self,
        _: tonic::Request<ServerLiveRequest>,
    ) -> Result<tonic::Response<ServerLiveResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("only inference"))
    }

    async fn server_ready(
        &self,
        _: tonic::Request<ServerReadyRequest>,
    ) -> Result<tonic::Response<ServerReadyResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("only inference"))
    }

    async fn model_ready(
        &self,
        _: tonic::Request<ModelReadyRequest>,
    ) -> Result<tonic::Response<ModelReadyResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("only inference"))
    }

    async fn server_metadata(
        &self,
        _: tonic::Request<ServerMetadataRequest>,
    ) -> Result<tonic::Response<ServerMetadataResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("only inference"))
    }

    async fn model_metadata(
        &self,
        _: tonic::Request<ModelMetadataRequest>,
    ) -> Result<tonic::Response<ModelMetadataResponse>, tonic::Status> {
        Err(tonic::Status::unimplemented("only inference"))
    }
}

#[tonic::async_trait]
impl IngestionService for Noop {
    async fn ingest_events(
        &self,
        request: tonic::Request<IngestEventsRequest>,
    ) -> Result<tonic::Response<IngestEventsResponse>, tonic::Status> {
        let accepted = request.get_ref().events.len() as u32;
        Ok(tonic::Response::new(IngestEventsResponse { accepted, ..IngestEventsResponse::default() }))
    }

    type StreamEventsStream = tokio_stream::Empty<Result<StreamEventsResponse, tonic::Status>>;

    async fn stream_events(
        &self,
        _: tonic::Request<tonic::Streaming<StreamEventsRequest>>,
    ) -> Result<tonic::Response<Self::StreamEventsStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("only whole batches"))
    }
}

async fn grpc(listener: TcpListener) -> Result<()> {
    let server = tonic::transport::Server::builder().add_service(IngestionServiceServer::new(Noop));
    Ok(server.serve_with_incoming(TcpListenerStream::new(listener)).await?)
}

async fn v2(listener: TcpListener) -> Result<()> {
    let server = tonic::transport::Server::builder().add_service(GrpcInferenceServiceServer::new(Noop));
    Ok(server.serve_with_incoming(TcpListenerStream::new(listener)).await?)
}

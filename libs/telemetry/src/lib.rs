//! What a process says about itself: logs, traces, metrics, health.
//!
//! Owns the two globals of a process (the tracing subscriber and the metrics recorder), the names of all metrics, and
//! how a trace crosses HTTP, gRPC and the event log.
//! It must never open a port, know a service, or fail a request.

pub mod health;
pub mod metrics;
pub mod trace;

use std::{io::IsTerminal, str::FromStr, time::Duration};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt,
};

/// The log filter unless another is given: our own news, and of the libraries only what is wrong.
pub const LOG_FILTER_DEFAULT: &str = "info,fjall=warn,lsm_tree=warn,h2=warn,hyper=warn,hyper_util=warn,tower=warn,opentelemetry=warn,opentelemetry_sdk=warn";

/// How long a flush of traces may hold up the end of the process, seconds.
pub const FLUSH_SECONDS_MAX: u64 = 5;

/// How log lines are written. Lines go to standard error; standard output belongs to data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// What to set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// `service.name` of traces and the `service` of logs.
    pub service: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// An `EnvFilter`: `info,ingestion=debug`. Empty: [`LOG_FILTER_DEFAULT`].
    pub log_filter: String,
    /// Where traces go, OTLP over gRPC: `http://127.0.0.1:4317`. Absent: nowhere, and spans cost nothing.
    pub otlp_endpoint: Option<String>,
    /// The share of traces kept, 0 to 1, unless the caller's `traceparent` has decided already.
    pub trace_sample_ratio: f64,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("log_filter is not a filter such as info,ingestion=debug: {0}")]
    LogFilter(String),
    /// The ratio is not between 0 and 1.
    #[error("trace_sample_ratio must be between 0 and 1: {0}")]
    SampleRatio(f64),
    /// The endpoint does not parse or cannot be used.
    #[error("otlp_endpoint must be a URL such as http://127.0.0.1:4317: {0}")]
    OtlpEndpoint(String),
    /// Only the first call of a process counts.
    #[error("logs or metrics are already set up in this process")]
    AlreadySet,
    /// The log format is none of the three.
    #[error("log_format must be auto, json or pretty: {0:?}")]
    LogFormat(String),
}

/// Keeps the exporter alive. Call [`Guard::shutdown`] before the process ends, or the last spans are lost.
#[derive(Debug)]
#[must_use = "dropping the guard loses the last spans"]
pub struct Guard {
    provider: Option<SdkTracerProvider>,
}

/// Sets up logs, traces and metrics for the whole process; call it once, inside a tokio runtime.
///
/// # Errors
/// What the configuration gets wrong, or [`Error::AlreadySet`].
pub fn init(config: Config) -> Result<Guard, Error> {
    metrics::install()?;
    let filter = match config.log_filter.as_str() {
        "" => LOG_FILTER_DEFAULT,
        given => given,
    };
    let filter = EnvFilter::builder().parse(filter).map_err(|error| Error::LogFilter(error.to_string()))?;
    let provider = match &config.otlp_endpoint {
        Some(endpoint) => Some(provider(&config, endpoint)?),
        None => None,
    };
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("attribution"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_traced))
    });
    let logs = logs(config.log_format).with_filter(filter);
    tracing_subscriber::registry().with(logs).with(traces).try_init().map_err(|_| Error::AlreadySet)?;
    Ok(Guard { provider })
}

// === impl Guard ===

impl Guard {
    /// Sends what is left, at most for [`FLUSH_SECONDS_MAX`]. Blocks: on a runtime call it by `spawn_blocking`.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(Duration::from_secs(FLUSH_SECONDS_MAX))
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

// === impl LogFormat ===

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "auto" => Ok(Self::Auto),
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            other => Err(Error::LogFormat(other.into())),
        }
    }
}

// === impl Config ===

impl Config {
    /// The defaults for a service of this name: logs at `info`, no traces.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            log_format: LogFormat::Auto,
            log_filter: String::new(),
            otlp_endpoint: None,
            trace_sample_ratio: 1.0,
        }
    }
}

fn provider(config: &Config, endpoint: &str) -> Result<SdkTracerProvider, Error> {
    if !(0.0..=1.0).contains(&config.trace_sample_ratio) {
        return Err(Error::SampleRatio(config.trace_sample_ratio));
    }
    if !endpoint.starts_with("http://") {
        return Err(Error::OtlpEndpoint(endpoint.into()));
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(FLUSH_SECONDS_MAX))
        .build()
        .map_err(|error| Error::OtlpEndpoint(error.to_string()))?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_sample_ratio)));
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(Resource::builder().with_service_name(config.service.clone()).build())
        .build())
}

/// Spans of our own down to `debug`, events down to `info`; never those of the exporter's own transport, which would
/// make spans for sending spans.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    const TRANSPORT: [&str; 6] = ["h2", "hyper", "tonic", "tower", "opentelemetry", "rustls"];
    let level = if metadata.is_span() { Level::DEBUG } else { Level::INFO };
    *metadata.level() <= level && !TRANSPORT.iter().any(|target| metadata.target().starts_with(target))
}

fn logs<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let pretty = match format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Json => false,
        LogFormat::Pretty => true,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if pretty {
        layer.with_ansi(std::io::stderr().is_terminal()).compact().boxed()
    } else {
        layer.json().flatten_event(true).with_span_list(false).boxed()
    }
}

//! The Prometheus recorder and the names of all metrics that alerts, dashboards and scalers rely on.
//!
//! The names, types, units and buckets stand here and nowhere else.

use std::sync::{Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::Error;

/// Requests answered over REST. Labels `service`, `method`, `route` (the pattern, never the raw path), `status`.
pub const HTTP_REQUESTS: &str = "http_requests_total";
/// Seconds from a REST request's head to its answer's head. Labels `service`, `route`.
pub const HTTP_DURATION: &str = "http_request_duration_seconds";
/// Calls answered over gRPC. Labels `service`, `grpc_service`, `grpc_method`, `grpc_code`.
pub const GRPC_HANDLED: &str = "grpc_server_handled_total";
/// Seconds from a call's head to its trailers. Labels `service`, `grpc_service`, `grpc_method`.
pub const GRPC_HANDLING: &str = "grpc_server_handling_seconds";
/// Events by `result`: `accepted`, `duplicate`, `rejected`.
pub const INGESTION_EVENTS: &str = "ingestion_events_total";
/// Events waiting for the log, whichever log.
pub const PRODUCER_QUEUE: &str = "kafka_producer_queue_size";
/// Records in librdkafka's producer queue.
pub const KAFKA_CLIENT_RECORDS: &str = "kafka_client_queue_records";
/// Bytes in librdkafka's producer queue.
pub const KAFKA_CLIENT_BYTES: &str = "kafka_client_queue_bytes";
/// Records that librdkafka has sent.
pub const KAFKA_CLIENT_SENT: &str = "kafka_client_records_sent_total";
/// Requests to a broker that were tried again. Label `broker`.
pub const KAFKA_BROKER_RETRIES: &str = "kafka_broker_retries_total";
/// The 99th percentile of a broker's round trips, seconds. Label `broker`.
pub const KAFKA_BROKER_ROUND_TRIP: &str = "kafka_broker_round_trip_seconds";
/// Events appended to the partitions of this process and not yet attributed.
pub const ATTRIBUTION_QUEUE: &str = "attribution_queue_size";
/// Seconds from reading a conversion to its decision being stored.
pub const ATTRIBUTION_LATENCY: &str = "attribution_latency_seconds";
/// Seconds by which the slowest partition of this process is behind the log.
pub const ATTRIBUTION_FRESHNESS: &str = "attribution_freshness_seconds";
/// The used share of a store's connections, 0 to 1. Label `store`.
pub const POOL_UTILIZATION: &str = "db_connection_pool_utilization";
/// Whether the cache answers, 0 or 1: without it repeats are found later, and quotas are not kept.
pub const CACHE_AVAILABLE: &str = "cache_available";
/// Seconds of one model call. Labels `model`, `version`.
pub const ML_INFERENCE: &str = "ml_inference_duration_seconds";
/// Requests and calls being worked on now: what `requests_in_flight_max` bounds.
pub const REQUESTS_IN_FLIGHT: &str = "requests_in_flight";
/// Calls that a model gave no score for. Labels `model`, `version`, `reason`.
pub const ML_FAILURES: &str = "ml_failures_total";
/// Rows of one model call. Labels `model`, `version`.
pub const ML_BATCH_ROWS: &str = "ml_batch_rows";
/// Calls that another version answered because this one failed. Labels `model`, `version`.
pub const ML_FALLBACKS: &str = "ml_fallbacks_total";
/// By how much a shadow's score differs from the one that was answered. Labels `model`, `version` of the shadow.
pub const ML_SHADOW_DIFFERENCE: &str = "ml_shadow_difference";
/// Population stability index of a window of rows against the training rows. Labels `model`, `version`, `input`.
pub const ML_DRIFT: &str = "ml_drift_psi";
/// Requests refused for want of a valid key. Label `reason`: `no_key`, `unknown_key`.
pub const AUTHENTICATION_FAILURES: &str = "authentication_failures_total";
/// Always 1. Labels `version`, `git`.
pub const BUILD_INFO: &str = "build_info";

/// The commit the binary was built from, where the build says so.
pub const GIT: &str = match option_env!("ATTRIBUTION_GIT_SHA") {
    Some(sha) => sha,
    None => "unknown",
};

/// Upper bounds of every latency histogram, seconds: from 100 µs, fine around the targets of 50 and 100 ms.
pub const LATENCY_BUCKETS_SECONDS: [f64; 17] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    30.0,
];

const SIZE_BUCKETS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

/// Of probabilities and of money.
const DIFFERENCE_BUCKETS: [f64; 11] = [0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0, 100.0, 1_000.0];

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
/// Held by who installs the recorder.
static INSTALLING: Mutex<()> = Mutex::new(());

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    Sizes,
    Differences,
}

/// Name, type, help: each is in `/metrics` from the start.
const ALL: [(&str, Kind, &str); 20] = [
    (HTTP_REQUESTS, Kind::Counter, "requests answered over REST"),
    (HTTP_DURATION, Kind::Histogram, "seconds from the head of a request to the head of its answer"),
    (GRPC_HANDLED, Kind::Counter, "calls answered over gRPC"),
    (GRPC_HANDLING, Kind::Histogram, "seconds from the head of a call to its trailers"),
    (INGESTION_EVENTS, Kind::Counter, "events by result"),
    (PRODUCER_QUEUE, Kind::Gauge, "events waiting for the log"),
    (ATTRIBUTION_QUEUE, Kind::Gauge, "events appended and not yet attributed"),
    (ATTRIBUTION_LATENCY, Kind::Histogram, "seconds from reading a conversion to its decision being stored"),
    (ATTRIBUTION_FRESHNESS, Kind::Gauge, "seconds by which attribution is behind the log"),
    (POOL_UTILIZATION, Kind::Gauge, "used share of a store's connections"),
    (CACHE_AVAILABLE, Kind::Gauge, "whether the cache answers: 0 or 1"),
    (ML_INFERENCE, Kind::Histogram, "seconds of one model call"),
    (REQUESTS_IN_FLIGHT, Kind::Gauge, "requests and calls being worked on now"),
    (ML_FAILURES, Kind::Counter, "calls that a model gave no score for"),
    (ML_BATCH_ROWS, Kind::Sizes, "rows of one model call"),
    (ML_FALLBACKS, Kind::Counter, "calls that another version answered because this one failed"),
    (ML_SHADOW_DIFFERENCE, Kind::Differences, "by how much a shadow's score differs from the answered one"),
    (ML_DRIFT, Kind::Gauge, "population stability index of the scored rows against the training rows"),
    (AUTHENTICATION_FAILURES, Kind::Counter, "requests refused for want of a valid key"),
    (BUILD_INFO, Kind::Gauge, "always 1; what was built"),
];

/// Installs the recorder of the process; the first call counts, later ones do nothing.
///
/// # Errors
/// [`Error::AlreadySet`] if another recorder is installed.
pub fn install() -> Result<(), Error> {
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if HANDLE.get().is_some() {
        return Ok(());
    }
    let mut builder = PrometheusBuilder::new();
    for (name, kind, _) in ALL {
        let buckets = match kind {
            Kind::Counter | Kind::Gauge => continue,
            Kind::Histogram => &LATENCY_BUCKETS_SECONDS[..],
            Kind::Sizes => &SIZE_BUCKETS,
            Kind::Differences => &DIFFERENCE_BUCKETS,
        };
        let matcher = Matcher::Full(name.into());
        builder = builder.set_buckets_for_metric(matcher, buckets).map_err(|_| Error::AlreadySet)?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| Error::AlreadySet)?;
    let _ = HANDLE.set(handle);
    for (name, kind, help) in ALL {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::Histogram | Kind::Sizes | Kind::Differences => metrics::describe_histogram!(name, help),
        }
    }
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "git" => GIT).set(1.0);
    Ok(())
}

/// The page of `/metrics`, in the Prometheus text format. A metric without a sample yet is there as its `# TYPE` line.
pub fn render() -> String {
    let mut page = HANDLE.get().map(PrometheusHandle::render).unwrap_or_default();
    for (name, kind, help) in ALL {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram | Kind::Sizes | Kind::Differences => "histogram",
        };
        let line = format!("# TYPE {name} {kind}\n");
        if !page.contains(&line) {
            page.push_str(&format!("# HELP {name} {help}\n{line}\n"));
        }
    }
    page
}

/// Folds the samples of histograms into their buckets. Until then each sample is kept, so call it about once a second.
pub fn upkeep() {
    if let Some(handle) = HANDLE.get() {
        handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_name_is_there_from_the_start_and_once() {
        install().unwrap();
        install().unwrap();
        metrics::counter!(INGESTION_EVENTS, "result" => "accepted").increment(3);
        metrics::histogram!(ATTRIBUTION_LATENCY).record(0.04);
        upkeep();
        let page = render();
        for (name, ..) in ALL {
            let types = page.lines().filter(|l| l.starts_with(&format!("# TYPE {name} "))).count();
            assert_eq!(types, 1, "{name} in\n{page}");
        }
        assert!(page.contains("ingestion_events_total{result=\"accepted\"} 3"), "{page}");
        assert!(page.contains("attribution_latency_seconds_bucket{le=\"0.025\"} 0"), "{page}");
        assert!(page.contains("attribution_latency_seconds_bucket{le=\"0.05\"} 1"), "{page}");
        assert!(page.contains("build_info{version="), "{page}");
    }
}

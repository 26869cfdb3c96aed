//! What librdkafka says of itself: its statistics as metrics, its errors and lines in our log.

use rdkafka::{
    Statistics,
    client::ClientContext,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use telemetry::metrics::{
    KAFKA_BROKER_RETRIES, KAFKA_BROKER_ROUND_TRIP, KAFKA_CLIENT_BYTES, KAFKA_CLIENT_RECORDS,
    KAFKA_CLIENT_SENT,
};
use tokio::sync::watch;

/// How often librdkafka tells its statistics.
pub(crate) const INTERVAL_MILLIS: &str = "1000";

/// A client whose statistics nobody needs.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tell(&error, reason);
    }
}

impl ConsumerContext for Quiet {}

/// The producer: its statistics are metrics, and whether any broker answers is known.
pub(crate) struct Producing {
    pub(crate) reachable: watch::Sender<bool>,
}

impl ClientContext for Producing {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.reachable.send_replace(false);
        }
        tell(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        metrics::gauge!(KAFKA_CLIENT_RECORDS).set(statistics.msg_cnt as f64);
        metrics::gauge!(KAFKA_CLIENT_BYTES).set(statistics.msg_size as f64);
        metrics::counter!(KAFKA_CLIENT_SENT).absolute(statistics.txmsgs.max(0) as u64);
        let mut up = false;
        for broker in statistics.brokers.values().filter(|broker| broker.nodeid >= 0) {
            up |= broker.state == "UP";
            let name = || broker.nodename.clone();
            metrics::counter!(KAFKA_BROKER_RETRIES, "broker" => name()).absolute(broker.txretries);
            if let Some(rtt) = &broker.rtt {
                metrics::gauge!(KAFKA_BROKER_ROUND_TRIP, "broker" => name()).set(rtt.p99 as f64 / 1e6);
            }
        }
        if up {
            self.reachable.send_replace(true);
        }
    }
}

/// A broker that is away is told of by what cannot be done; librdkafka mentions each of its tries.
pub(crate) fn tell(error: &KafkaError, reason: &str) {
    tracing::debug!(%error, reason, "librdkafka");
}

pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "librdkafka"),
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

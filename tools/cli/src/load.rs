//! `attribution load`: an open-loop load test.
//!
//! Every batch has a moment at which it is due, fixed before the first one is sent. Its latency is counted from that
//! moment: a platform that stalls is charged for everything that was due meanwhile.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use rand::RngExt;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::{
    client::{CallError, Client, Connection},
    out,
    progress::Progress,
    table::{Align, Table, thousands},
};

/// The most events that the platform takes in one batch.
const BATCH_EVENTS_MAX: u32 = 10_000;
const CONNECTIONS_MAX: u32 = 4_096;
const RATE_MAX: u32 = 10_000_000;

/// How long after the end what is due is still sent; what is left then is reported as unsent.
const OVERTIME: Duration = Duration::from_secs(10);

/// Latencies are kept to three digits, in microseconds, up to this one.
const LATENCY_MICROS_MAX: u64 = 600_000_000;

const PERCENTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];
const CHANNELS: [&str; 5] = ["search", "social", "email", "display", "direct"];

/// Send events at a fixed rate and measure the answers.
///
/// The rate does not follow the answers (open loop): latency counts from the moment at which a batch was due, so a
/// stall is not hidden by sending less. Only batches that were taken count in the percentiles.
/// Nine of ten events are clicks, one is a conversion, on a million random devices; they stay on the platform, so use a
/// data folder or a tenant of their own.
///
/// The exit code is not zero when a batch was refused, lost or not sent in time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution load --rate 10000 --duration 30s
  attribution load --rate 100000 --duration 5m --batch 1000 --connections 64 --json")]
pub(crate) struct Load {
    /// Events a second
    #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    rate: u32,
    /// For how long, such as 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    duration: Duration,
    /// Events in a batch
    #[arg(long, value_name = "EVENTS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_EVENTS_MAX)))]
    batch: u32,
    /// Connections: the most batches under way at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: u32,
    /// Answer in JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// When the batches are due.
struct Plan {
    start: Instant,
    batches: u64,
    events: u32,
    rate: u32,
    next: AtomicU64,
    answered: AtomicU64,
}

/// What came of them, in events but for the histogram.
struct Outcome {
    latency_micros: Histogram<u64>,
    sent: u64,
    accepted: u64,
    rejected: u64,
    refused: u64,
    failed: u64,
    first_failure: Option<String>,
}

#[derive(Deserialize)]
struct Taken {
    accepted: u64,
    rejected: u64,
}

// === impl Load ===

impl Load {
    pub(crate) async fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        client.reach().await?;
        let plan = Plan {
            start: Instant::now(),
            batches: batches(self.rate, self.duration, self.batch),
            events: self.batch,
            rate: self.rate,
            next: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        };
        let run_id: u32 = rand::random();
        let end = plan.start + self.duration + OVERTIME;
        let workers = join_all((0..self.connections).map(|_| plan.work(&client, run_id, end)));
        let progress = Progress::new("load", Some(plan.batches));
        let watched = async {
            let mut tick = tokio::time::interval(Duration::from_millis(200));
            let mut workers = std::pin::pin!(workers);
            loop {
                tokio::select! {
                    done = &mut workers => return done,
                    _ = tick.tick() => {
                        let answered = plan.answered.load(Ordering::Relaxed);
                        progress.at(answered, answered * u64::from(plan.events));
                    }
                }
            }
        };
        let outcomes = progress.during(watched).await;
        let time = progress.finish();
        let mut whole = Outcome::new()?;
        for outcome in outcomes {
            whole.add(outcome?)?;
        }
        let unsent = plan.batches * u64::from(plan.events) - whole.sent;
        out::data(
            if self.json { whole.json(&self, time, unsent) } else { whole.show(&self, time, unsent) }
                .as_bytes(),
        )?;
        whole.verdict(unsent)
    }
}

/// As many whole batches as are due in this time; at least one.
fn batches(rate: u32, duration: Duration, events: u32) -> u64 {
    let due = duration.as_millis() * u128::from(rate) / 1_000 / u128::from(events);
    u64::try_from(due).unwrap_or(u64::MAX).max(1)
}

// === impl Plan ===

impl Plan {
    fn due(&self, batch: u64) -> Instant {
        let nanos = u128::from(batch) * u128::from(self.events) * 1_000_000_000 / u128::from(self.rate);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes the next batch that is due, waits for its moment if that is still to come, and sends it.
    async fn work(&self, client: &Client, run_id: u32, end: Instant) -> Result<Outcome> {
        let mut outcome = Outcome::new()?;
        loop {
            let batch = self.next.fetch_add(1, Ordering::Relaxed);
            if batch >= self.batches || Instant::now() >= end {
                return Ok(outcome);
            }
            let due = self.due(batch);
            let body = body(run_id, batch, self.events);
            sleep_until(due).await;
            let result = client.call(client.post("/v1/events", body)).await;
            outcome.record(result, due.elapsed(), u64::from(self.events));
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn body(run_id: u32, batch: u64, events: u32) -> Bytes {
    let mut random = rand::rng();
    let now = jiff::Timestamp::now().as_millisecond();
    let mut json = String::with_capacity(events as usize * 160);
    for index in 0..events {
        json.push(if index == 0 { '[' } else { ',' });
        let device: u32 = random.random_range(0..1_000_000);
        let kind = if random.random_range(0..10) == 0 {
            format!(r#""conversion","value":"{}.99""#, random.random_range(1..200))
        } else {
            format!(r#""click","channel":"{}""#, CHANNELS[random.random_range(0..CHANNELS.len())])
        };
        json.push_str(&format!(
            r#"{{"event_id":"load-{run_id:08x}-{batch}-{index}","timestamp":{now},"device_id":"load-{device}","event_type":{kind}}}"#
        ));
    }
    json.push(']');
    Bytes::from(json)
}

// === impl Outcome ===

impl Outcome {
    fn new() -> Result<Self> {
        let latency_micros = Histogram::new_with_max(LATENCY_MICROS_MAX, 3).context("a histogram")?;
        Ok(Self {
            latency_micros,
            sent: 0,
            accepted: 0,
            rejected: 0,
            refused: 0,
            failed: 0,
            first_failure: None,
        })
    }

    fn record(&mut self, result: Result<crate::client::Answer, CallError>, latency: Duration, events: u64) {
        self.sent += events;
        let taken = result.map_err(anyhow::Error::from).and_then(|answer| answer.json::<Taken>());
        match taken {
            Ok(taken) => {
                self.accepted += taken.accepted;
                self.rejected += taken.rejected;
                self.latency_micros.saturating_record((latency.as_micros() as u64).min(LATENCY_MICROS_MAX));
            }
            Err(error) => {
                match error.downcast_ref::<CallError>().and_then(CallError::status) {
                    Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                        self.refused += events
                    }
                    _ => self.failed += events,
                }
                self.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }

    fn add(&mut self, other: Self) -> Result<()> {
        self.latency_micros.add(&other.latency_micros).context("histograms")?;
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.refused += other.refused;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        Ok(())
    }

    fn millis(&self, quantile: f64) -> f64 {
        self.latency_micros.value_at_quantile(quantile) as f64 / 1_000.0
    }

    fn json(&self, load: &Load, time: Duration, unsent: u64) -> String {
        let mut latency: serde_json::Map<_, _> = PERCENTILES
            .iter()
            .map(|&(name, quantile)| (name.to_owned(), self.millis(quantile).into()))
            .collect();
        latency.insert("max".to_owned(), self.millis(1.0).into());
        let whole = json!({
            "rate": load.rate, "batch": load.batch, "connections": load.connections, "seconds": time.as_secs_f64(),
            "sent": self.sent, "accepted": self.accepted, "rejected": self.rejected, "refused": self.refused,
            "failed": self.failed, "unsent": unsent,
            "accepted_per_second": self.accepted as f64 / time.as_secs_f64(), "latency_ms": latency,
        });
        format!("{whole}\n")
    }

    fn show(&self, load: &Load, time: Duration, unsent: u64) -> String {
        let mut events = Table::new([("events", Align::Left), ("", Align::Right)]);
        for (name, count) in [
            ("asked a second", u64::from(load.rate)),
            ("accepted a second", (self.accepted as f64 / time.as_secs_f64()) as u64),
            ("sent", self.sent),
            ("accepted", self.accepted),
            ("rejected", self.rejected),
            ("refused (429, 503)", self.refused),
            ("failed", self.failed),
            ("unsent", unsent),
        ] {
            events.row([name.to_owned(), thousands(&count.to_string())]);
        }
        let mut latency = Table::new([("latency from the due moment", Align::Left), ("ms", Align::Right)]);
        for (name, quantile) in PERCENTILES.into_iter().chain([("max", 1.0)]) {
            latency.row([name.to_owned(), format!("{:.2}", self.millis(quantile))]);
        }
        format!("{}\n{}", events.render(out::data_colours()), latency.render(out::data_colours()))
    }

    fn verdict(self, unsent: u64) -> Result<()> {
        let wrong = self.rejected + self.refused + self.failed + unsent;
        if wrong > 0 {
            let why = self.first_failure.unwrap_or_else(|| "see above".to_owned());
            bail!("{} events were not taken: {why}", thousands(&wrong.to_string()));
        }
        Ok(())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number with s, m or h, such as 30s or 5m".to_owned();
    let (number, seconds) = [("s", 1), ("m", 60), ("h", 3_600)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .ok_or_else(wrong)?;
    match number.parse::<u32>() {
        Ok(number) if (1..=86_400 / seconds).contains(&number) => {
            Ok(Duration::from_secs(u64::from(number * seconds)))
        }
        Ok(_) => Err("between 1s and 24h".to_owned()),
        Err(_) => Err(wrong()),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;

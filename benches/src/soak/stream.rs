//! Events whose report is known beforehand: each batch is ten persons with nine clicks and a conversion each, whose value
//! is the conversion's own, so that one lost and another counted twice do not add up to the right sum.

use std::{
    io::Write as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{child::Process, measure::Latencies, wire::Connection};

pub(crate) const PERSONS: u64 = 10;
const TOUCHES: u64 = 9;
/// Events of a batch.
pub(crate) const EVENTS: u64 = PERSONS * (TOUCHES + 1);

const CONNECTIONS: usize = 32;
const CHANNELS: [&str; 6] = ["search", "social", "email", "display", "affiliate", "direct"];
const REPORT_PATIENCE: Duration = Duration::from_secs(1_800);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The batches, numbered from 0.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    next: AtomicU64,
}

/// What came of asking for a while.
pub(crate) struct Asked {
    /// Batches.
    pub(crate) taken: u64,
    pub(crate) seconds: f64,
    pub(crate) latencies: Latencies,
}

// === impl Stream ===

impl Stream {
    /// A number that was not used before.
    pub(crate) fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The same, unless the next one is not wanted.
    pub(crate) fn take_unless(&self, unwanted: impl Fn(u64) -> bool) -> Option<u64> {
        let next = |number| (!unwanted(number)).then_some(number + 1);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()
    }

    /// How many were used.
    pub(crate) fn taken(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Sends batches as fast as they are taken for so long; each one that is refused is sent again until it is taken.
    pub(crate) fn ask(&self, platform: &Process, time: Duration) -> Result<Asked> {
        let began = Instant::now();
        self.ask_while(platform, || began.elapsed() < time)
    }

    /// The same as long as more are wanted.
    pub(crate) fn ask_while(&self, platform: &Process, wanted: impl Fn() -> bool + Sync) -> Result<Asked> {
        let (began, failed) = (Instant::now(), AtomicBool::new(false));
        let work = || -> Result<(u64, Latencies)> {
            let (mut connection, mut taken, mut latencies) = (platform.connect()?, 0, Latencies::new()?);
            while wanted() && !failed.load(Ordering::Relaxed) {
                let body = batch(self.take())?;
                loop {
                    let sent = Instant::now();
                    if post(&mut connection, &body).inspect_err(|_| failed.store(true, Ordering::Relaxed))? {
                        latencies.record(sent.elapsed());
                        break;
                    }
                    thread::sleep(BUSY_PAUSE);
                }
                taken += 1;
            }
            Ok((taken, latencies))
        };
        let outcomes = parallel(CONNECTIONS, work);
        let seconds = began.elapsed().as_secs_f64();
        let mut asked = Asked { seconds, ..Asked::nothing()? };
        for outcome in outcomes {
            let (taken, latencies) = outcome?;
            asked.taken += taken;
            asked.latencies.add(&latencies)?;
        }
        Ok(asked)
    }

    /// That the report is the one of `batches` batches, each once. Gives the seconds until it was to be had.
    pub(crate) fn check(&self, platform: &Process, batches: impl Iterator<Item = u64>) -> Result<f64> {
        let (mut count, mut cents) = (0, 0);
        for batch in batches {
            count += 1;
            cents += (0..PERSONS).map(|person| value_cents(batch, person)).sum::<u64>();
        }
        let began = Instant::now();
        let totals = report(&mut platform.connect()?)?;
        let found = |name: &str| totals.get(name).cloned().unwrap_or_default();
        let conversions = found("conversions").as_f64().context("no conversions")?;
        let touches = found("touches").as_u64().context("no touches")?;
        let value = found("value").as_str().context("no value")?.to_owned();
        let wanted = (
            (count * PERSONS) as f64,
            count * PERSONS * TOUCHES,
            format!("{}.{:02}0000", cents / 100, cents % 100),
        );
        ensure!(
            (conversions, touches, &value) == (wanted.0, wanted.1, &wanted.2),
            "reported: {conversions} conversions, {touches} touches, {value}; sent: {wanted:?}"
        );
        Ok(began.elapsed().as_secs_f64())
    }
}

// === impl Asked ===

impl Asked {
    pub(crate) fn nothing() -> Result<Self> {
        Ok(Self { taken: 0, seconds: 0.0, latencies: Latencies::new()? })
    }

    /// What came of asking again.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        self.taken += other.taken;
        self.seconds += other.seconds;
        self.latencies.add(&other.latencies)
    }

    pub(crate) fn events(&self) -> u64 {
        self.taken * EVENTS
    }
}

/// Runs the same work on so many threads.
pub(crate) fn parallel<T: Send>(threads: usize, work: impl Fn() -> Result<T> + Sync) -> Vec<Result<T>> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        let panicked = |_| Err(anyhow!("a connection's thread panicked"));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(panicked)).collect()
    })
}

/// Whether a batch was taken; an error is everything but that and a refusal for now.
pub(crate) fn post(connection: &mut Connection, body: &[u8]) -> Result<bool> {
    let answer = connection.call("POST", "/v1/events", body)?;
    match answer.status {
        200 => {
            let taken: Value = serde_json::from_slice(answer.body)?;
            ensure!(taken["rejected"] == 0, "rejected: {taken}");
            Ok(true)
        }
        429 | 503 => Ok(false),
        status => bail!("{status}: {}", String::from_utf8_lossy(answer.body)),
    }
}

/// A batch of events, now.
pub(crate) fn batch(number: u64) -> Result<Vec<u8>> {
    batch_of(number, PERSONS)
}

/// The first persons of a batch.
pub(crate) fn batch_of(number: u64, persons: u64) -> Result<Vec<u8>> {
    let now = Timestamp::now().as_millisecond();
    let mut body = Vec::with_capacity(EVENTS as usize * 190);
    for person in 0..persons {
        for touch in 0..TOUCHES {
            body.push(if body.is_empty() { b'[' } else { b',' });
            let channel = CHANNELS[((number + touch) % CHANNELS.len() as u64) as usize];
            write!(
                body,
                r#"{{"event_id":"soak-{number}-{person}-{touch}","event_type":"click","timestamp":{},"device_id":"soak-{number}-{person}","channel":"{channel}","campaign_id":"campaign-{}"}}"#,
                now - 60_000 + touch as i64,
                number % 40
            )?;
        }
        let cents = value_cents(number, person);
        write!(
            body,
            r#",{{"event_id":"soak-{number}-{person}-c","event_type":"conversion","timestamp":{now},"device_id":"soak-{number}-{person}","value":"{}.{:02}"}}"#,
            cents / 100,
            cents % 100
        )?;
    }
    body.push(b']');
    Ok(body)
}

/// The id of a conversion in a batch.
pub(crate) fn conversion_id(number: u64, person: u64) -> String {
    format!("soak-{number}-{person}-c")
}

/// Between 1 and 100, hardly ever the same twice.
fn value_cents(batch: u64, person: u64) -> u64 {
    100 + (batch * PERSONS + person).wrapping_mul(0x9E37_79B9_7F4A_7C15) % 9_900
}

/// The one row of a report of everything acknowledged, as soon as there is one.
fn report(connection: &mut Connection) -> Result<Value> {
    let day =
        |hours| anyhow::Ok(Timestamp::now().checked_add(SignedDuration::from_hours(hours))?.to_string());
    let question = json!({
        "from": day(-48)?, "to": day(48)?, "models": ["linear"], "dimensions": [],
        "measures": ["conversions", "value", "touches"],
    });
    let end = Instant::now() + REPORT_PATIENCE;
    loop {
        let question = question.to_string();
        let answer = connection.call("POST", "/v1/reports?consistency=acknowledged", question.as_bytes())?;
        match answer.status {
            200 => {
                let mut report: Value = serde_json::from_slice(answer.body)?;
                return Ok(report["rows"][0].take());
            }
            503 if Instant::now() < end => thread::sleep(BUSY_PAUSE),
            status => bail!("{status}: {}", String::from_utf8_lossy(answer.body)),
        }
    }
}

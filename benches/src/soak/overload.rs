//! Three and ten times what the platform sustains, by clients that do not wait for answers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{
    PEAK_BACKLOG, Peak, Verdict, conclude,
    stream::{EVENTS, Stream, batch, parallel, post},
};
use crate::{
    Bench,
    child::{Process, platform_program},
    measure::{self, Latencies},
    say,
};

/// As many as are under way at once: enough for ten times the peak while an answer takes tens of milliseconds.
const CONNECTIONS: usize = 128;
/// What is taken on, of the peak.
const GOODPUT_MIN: f64 = 0.9;
/// The latency of what is taken on, as a multiple of the peak's.
const LATENCY_MAX: f64 = 2.0;

#[derive(Debug, Args)]
pub(crate) struct Overload {
    /// Seconds for the peak, and for each flood
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[derive(Debug, Serialize)]
struct Flood {
    times: u32,
    asked_events_per_second: f64,
    taken_events_per_second: f64,
    refused_batches: u64,
    p99_millis: f64,
    platform_megabytes: f64,
}

#[derive(Serialize)]
struct Outcome<'a> {
    peak: &'a Peak,
    floods: &'a [Flood],
    verdicts: &'a [Verdict],
}

impl Overload {
    pub(crate) fn run(&self) -> Result<()> {
        let (bench, program, stream) = (Bench::new(1.0)?, platform_program()?, Stream::default());
        let data = bench.data("platform")?;
        let platform = Process::platform_with(&program, &data, &[PEAK_BACKLOG])?.ready(&data)?;
        let peak = Peak::measure(&platform, &stream, self.seconds)?;
        say(&format!("{peak:?}"));
        let mut taken: Vec<u64> = (0..stream.taken()).collect();
        let mut floods = Vec::new();
        for times in [3, 10] {
            let rate = peak.events_per_second * f64::from(times);
            let (flood, numbers) = self.flood(&platform, &stream, times, rate)?;
            say(&format!("{flood:?}"));
            floods.push(flood);
            taken.extend(numbers);
        }
        stream.check(&platform, taken.iter().copied())?;
        platform.stop()?;
        let mut verdicts = vec![Verdict {
            promise: "what was taken on under a flood is reported once, and nothing that was refused",
            measured: format!("{} events", taken.len() as u64 * EVENTS),
            // It would not have come here otherwise.
            kept: true,
        }];
        for flood in &floods {
            let share = flood.taken_events_per_second / peak.events_per_second;
            verdicts.push(Verdict {
                promise: "goodput under a flood is at least 90 % of the peak",
                measured: format!(
                    "{} times ({:.0} events/s asked): {:.0} of {:.0} events/s, {:.0} %",
                    flood.times,
                    flood.asked_events_per_second,
                    flood.taken_events_per_second,
                    peak.events_per_second,
                    share * 100.0
                ),
                kept: share >= GOODPUT_MIN,
            });
            verdicts.push(Verdict {
                promise: "what is taken on is answered within twice the time it takes at the peak",
                measured: format!(
                    "{} times: P99 {:.1} ms, at the peak {:.1} ms",
                    flood.times, flood.p99_millis, peak.p99_millis
                ),
                kept: flood.p99_millis <= LATENCY_MAX * peak.p99_millis,
            });
        }
        conclude("overload", &verdicts, &Outcome { peak: &peak, floods: &floods, verdicts: &verdicts })
    }

    /// Sends on a schedule, each batch once; the numbers of those that were taken.
    fn flood(&self, platform: &Process, stream: &Stream, times: u32, rate: f64) -> Result<(Flood, Vec<u64>)> {
        let (began, time) = (Instant::now(), Duration::from_secs(self.seconds));
        let (next, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = || -> Result<(Vec<u64>, Latencies)> {
            let (mut connection, mut taken, mut latencies) =
                (platform.connect()?, Vec::new(), Latencies::new()?);
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                let due = began + Duration::from_secs_f64((turn * EVENTS) as f64 / rate);
                if due.duration_since(began) >= time || began.elapsed() >= time {
                    return Ok((taken, latencies));
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let number = stream.take();
                let body = batch(number)?;
                // From here on: a client that is late itself is none of the platform's.
                let sent = Instant::now();
                if post(&mut connection, &body)? {
                    latencies.record(sent.elapsed());
                    taken.push(number);
                } else {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let outcomes = parallel(CONNECTIONS, work);
        let seconds = began.elapsed().as_secs_f64();
        let (mut numbers, mut latencies) = (Vec::new(), Latencies::new()?);
        for outcome in outcomes {
            let (taken, its) = outcome?;
            numbers.extend(taken);
            latencies.add(&its)?;
        }
        let refused_batches = refused.into_inner();
        let per_second = |batches: u64| (batches * EVENTS) as f64 / seconds;
        let flood = Flood {
            times,
            asked_events_per_second: per_second(numbers.len() as u64 + refused_batches),
            taken_events_per_second: per_second(numbers.len() as u64),
            refused_batches,
            p99_millis: latencies.micros(0.99) / 1e3,
            platform_megabytes: measure::resident_bytes(platform.pid())? as f64 / 1e6,
        };
        Ok((flood, numbers))
    }
}

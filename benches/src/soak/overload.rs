//! Three and ten times what the platform sustains, by clients that do not wait for answers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
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
    /// Seconds for each peak, and for each flood
    #[arg(long, default_value_t = 40)]
    seconds: u64,
}

/// Who runs where: a flood does not come from the platform's own cores.
struct Cores {
    platform: CpuSet,
    /// One; threads have that of the thread that starts them.
    generator: CpuSet,
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
    peaks: &'a [Peak],
    floods: &'a [Flood],
    verdicts: &'a [Verdict],
}

// === impl Cores ===

impl Cores {
    fn split() -> Result<Self> {
        let mut platform = sched_getaffinity(None)?;
        ensure!(platform.count() > 1, "platform and generator need a core each");
        let last = (0..CpuSet::MAX_CPU).rev().find(|core| platform.is_set(*core)).context("no core")?;
        platform.unset(last);
        let mut generator = CpuSet::new();
        generator.set(last);
        Ok(Self { platform, generator })
    }
}

// === impl Overload ===

impl Overload {
    pub(crate) fn run(&self) -> Result<()> {
        let (bench, program, stream) = (Bench::new(1.0)?, platform_program()?, Stream::default());
        let data = bench.data("platform")?;
        let cores = Cores::split()?;
        sched_setaffinity(None, &cores.platform)?;
        let platform = Process::platform_with(&program, &data, &[PEAK_BACKLOG])?.ready(&data)?;
        sched_setaffinity(None, &cores.generator)?;
        let mut taken = Vec::new();
        // Before and after each flood: an event costs more among many.
        let (mut peaks, mut floods) = (Vec::<Peak>::new(), Vec::new());
        let peak = || {
            let from = stream.taken();
            let peak = Peak::measure(&platform, &stream, self.seconds)?;
            say(&format!("{peak:?}"));
            anyhow::Ok((peak, from..stream.taken()))
        };
        let (first, numbers) = peak()?;
        taken.extend(numbers);
        peaks.push(first);
        for times in [3, 10] {
            let rate = peaks[peaks.len() - 1].events_per_second * f64::from(times);
            let (flood, numbers) = self.flood(&platform, &stream, times, rate)?;
            say(&format!("{flood:?}"));
            floods.push(flood);
            taken.extend(numbers);
            let (next, numbers) = peak()?;
            taken.extend(numbers);
            peaks.push(next);
        }
        stream.check(&platform, taken.iter().copied())?;
        platform.stop()?;
        let mut verdicts = vec![Verdict {
            promise: "what was taken on under a flood is reported once, and nothing that was refused",
            measured: format!("{} events", taken.len() as u64 * EVENTS),
            // It would not have come here otherwise.
            kept: true,
        }];
        for (flood, around) in floods.iter().zip(peaks.windows(2)) {
            let mean = |of: fn(&Peak) -> f64| around.iter().map(of).sum::<f64>() / around.len() as f64;
            let peak = Peak {
                events_per_second: mean(|peak| peak.events_per_second),
                p99_millis: mean(|peak| peak.p99_millis),
            };
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
        conclude("overload", &verdicts, &Outcome { peaks: &peaks, floods: &floods, verdicts: &verdicts })
    }

    /// Sends on a schedule; the numbers of those that were taken. A batch that was refused is the next one to be sent: to make
    /// another takes longer than to send it, and the generator has one core.
    fn flood(&self, platform: &Process, stream: &Stream, times: u32, rate: f64) -> Result<(Flood, Vec<u64>)> {
        let (began, time) = (Instant::now(), Duration::from_secs(self.seconds));
        let (next, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = || -> Result<(Vec<u64>, Latencies)> {
            let (mut connection, mut taken, mut latencies) =
                (platform.connect()?, Vec::new(), Latencies::new()?);
            let mut made = None;
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                let due = began + Duration::from_secs_f64((turn * EVENTS) as f64 / rate);
                if due.duration_since(began) >= time || began.elapsed() >= time {
                    return Ok((taken, latencies));
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let (number, body) = match made.take() {
                    Some(made) => made,
                    None => {
                        let number = stream.take();
                        (number, batch(number)?)
                    }
                };
                // From here on: a client that is late itself is none of the platform's.
                let sent = Instant::now();
                if post(&mut connection, &body)? {
                    latencies.record(sent.elapsed());
                    taken.push(number);
                } else {
                    refused.fetch_add(1, Ordering::Relaxed);
                    made = Some((number, body));
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

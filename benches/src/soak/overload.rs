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
    PEAK_BACKLOG, Taken, Verdict, ask_peak, conclude,
    stream::{Asked, EVENTS, Stream, batch, parallel, post},
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
    /// Events that are there before anything is measured: among few, each step of compaction is one of a kind
    #[arg(long, default_value_t = 4_000_000)]
    fill_events: u64,
    /// How often a peak and a flood take turns: so both meet the same compaction, and the same store
    #[arg(long, default_value_t = 6)]
    turns: u32,
    /// Seconds of a turn
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// Who runs where: a flood does not come from the platform's own cores.
struct Cores {
    platform: CpuSet,
    /// One; threads have that of the thread that starts them.
    generator: CpuSet,
}

/// All turns of a flood, and of the peaks between which it came.
#[derive(Debug, Serialize)]
struct Compared {
    times: u32,
    peak: Taken,
    flood: Taken,
    asked_events_per_second: f64,
    refused_batches: u64,
    platform_megabytes_max: f64,
}

/// What came of one turn of a flood.
struct Flooded {
    asked: Asked,
    /// The batches that were taken.
    numbers: Vec<u64>,
    refused: u64,
}

#[derive(Serialize)]
struct Outcome<'a> {
    compared: &'a [Compared],
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
        let filled = stream.ask_while(&platform, || stream.taken() * EVENTS < self.fill_events)?;
        say(&format!("{} events are there after {:.0} s", filled.events(), filled.seconds));
        let mut taken: Vec<_> = (0..stream.taken()).collect();
        let mut compared = Vec::new();
        for times in [3, 10] {
            compared.push(self.compare(&platform, &stream, times, &mut taken)?);
            say(&format!("{:?}", compared.last()));
        }
        stream.check(&platform, taken.iter().copied())?;
        platform.stop()?;
        let mut verdicts = vec![Verdict {
            promise: "what was taken on under a flood is reported once, and nothing that was refused",
            measured: format!("{} events", taken.len() as u64 * EVENTS),
            // It would not have come here otherwise.
            kept: true,
        }];
        for Compared { times, peak, flood, asked_events_per_second, .. } in &compared {
            let share = flood.events_per_second / peak.events_per_second;
            verdicts.push(Verdict {
                promise: "goodput under a flood is at least 90 % of the peak",
                measured: format!(
                    "{times} times ({asked_events_per_second:.0} events/s asked): {:.0} of {:.0} events/s, {:.0} %",
                    flood.events_per_second,
                    peak.events_per_second,
                    share * 100.0
                ),
                kept: share >= GOODPUT_MIN,
            });
            verdicts.push(Verdict {
                promise: "what is taken on is answered within twice the time it takes at the peak",
                measured: format!(
                    "{times} times: P99 {:.1} ms, at the peak {:.1} ms",
                    flood.p99_millis, peak.p99_millis
                ),
                kept: flood.p99_millis <= LATENCY_MAX * peak.p99_millis,
            });
        }
        conclude("overload", &verdicts, &Outcome { compared: &compared, verdicts: &verdicts })
    }

    /// A peak and a flood by turns; the numbers of all batches that were taken come to those in `taken`.
    fn compare(
        &self,
        platform: &Process,
        stream: &Stream,
        times: u32,
        taken: &mut Vec<u64>,
    ) -> Result<Compared> {
        let (mut peaks, mut floods, mut refused_batches) = (Asked::nothing()?, Asked::nothing()?, 0);
        let mut platform_megabytes_max = 0.0_f64;
        for turn in 1..=self.turns {
            let from = stream.taken();
            let peak = ask_peak(platform, stream, self.seconds)?;
            taken.extend(from..stream.taken());
            peaks.add(&peak)?;
            let peak = Taken::of(&peak);
            let flooded = self.flood(platform, stream, peak.events_per_second * f64::from(times))?;
            say(&format!("turn {turn}: {peak:?}, {times} times that: {:?}", Taken::of(&flooded.asked)));
            taken.extend(flooded.numbers);
            floods.add(&flooded.asked)?;
            refused_batches += flooded.refused;
            platform_megabytes_max =
                platform_megabytes_max.max(measure::anonymous_bytes(platform.pid())? as f64 / 1e6);
        }
        Ok(Compared {
            times,
            peak: Taken::of(&peaks),
            flood: Taken::of(&floods),
            asked_events_per_second: ((floods.taken + refused_batches) * EVENTS) as f64 / floods.seconds,
            refused_batches,
            platform_megabytes_max,
        })
    }

    /// Sends on a schedule. A batch that was refused is the next one to be sent: to make another takes longer than to send
    /// it, and the generator has one core.
    fn flood(&self, platform: &Process, stream: &Stream, rate: f64) -> Result<Flooded> {
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
        let mut asked = Asked { seconds: began.elapsed().as_secs_f64(), ..Asked::nothing()? };
        let mut numbers = Vec::new();
        for outcome in outcomes {
            let (taken, latencies) = outcome?;
            numbers.extend(taken);
            asked.latencies.add(&latencies)?;
        }
        asked.taken = numbers.len() as u64;
        Ok(Flooded { asked, numbers, refused: refused.into_inner() })
    }
}

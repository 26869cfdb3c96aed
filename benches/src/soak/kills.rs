//! At 70 % of the peak, killed every minute; half an hour with what comes before it.

use std::{
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde::Serialize;

use super::{
    PEAK_BACKLOG, Taken, Verdict, conclude,
    stream::{Asked, EVENTS, Stream, batch, parallel, post},
    trend,
};
use crate::{
    Bench,
    child::{Process, platform_program},
    measure::{self, Latencies},
    say,
    wire::Connection,
};

const CONNECTIONS: usize = 32;
/// What is due so soon after a start is not counted in its latencies, and what is used so soon not in its memory: what was
/// due while it was away comes with it.
const SETTLE: Duration = Duration::from_secs(15);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The failures of one batch, one after the other: more than a kill and a start can cause.
const FAILURES_MAX: u32 = 1_000;
/// How long a batch may wait already when a round ends: less than a start after a kill takes, so that what was due
/// while it was away is worked off.
const BEHIND_MAX_MILLIS: f64 = 1_000.0;
/// The most that memory may grow in ten minutes, as a share of it.
const MEMORY_GROWTH_MAX: f64 = 0.01;

#[derive(Debug, Args)]
pub(crate) struct Kills {
    /// Events that are there before the peak is measured: an event costs more among many, so what is sustained is less than
    /// what is taken at first
    #[arg(long, default_value_t = 18_000_000)]
    fill_events: u64,
    /// The rounds in which the peak is measured, as long as the others, each of them after a kill too
    #[arg(long, default_value_t = 2)]
    peak_rounds: u32,
    /// Between kills, seconds
    #[arg(long, default_value_t = 60)]
    period_seconds: u64,
    /// How often it is killed
    #[arg(long, default_value_t = 16)]
    kills: u32,
    /// The first rounds, in which caches fill: they count in nothing but the report
    #[arg(long, default_value_t = 5)]
    warm_up: u32,
    /// The share of the peak, percent
    #[arg(long, default_value_t = 70)]
    percent: u32,
}

/// From one start to the next kill.
#[derive(Debug, Serialize)]
struct Round {
    ready_seconds: f64,
    events: u64,
    p50_millis: f64,
    p99_millis: f64,
    /// How long the next batch waits already when the round ends.
    behind_millis: f64,
    /// Anonymous memory, the median of what was seen each second, and the most: what files are mapped to goes and comes as
    /// the system likes.
    platform_megabytes: f64,
    platform_megabytes_max: f64,
    engine_megabytes: f64,
    /// Of the processor, with what the start took.
    platform_cpu_micros_an_event: f64,
    engine_cpu_micros_an_event: f64,
}

#[derive(Serialize)]
struct Outcome<'a> {
    peak: &'a Taken,
    events_per_second: f64,
    events: u64,
    report_seconds: f64,
    disk_megabytes: f64,
    rounds: &'a [Round],
    verdicts: &'a [Verdict],
}

/// The platform that runs now, if one does; each one has a number.
struct Now {
    number: u32,
    since: Instant,
    platform: Option<Process>,
    latencies: Latencies,
    taken: u64,
}

/// What a process used, megabytes: once what comes with a start was over, and at most.
struct Memory {
    settled: f64,
    most: f64,
}

/// The batches on their schedule.
struct Schedule {
    began: Instant,
    first: u64,
    batches_per_second: f64,
    over: Instant,
}

// === impl Kills ===

impl Kills {
    pub(crate) fn run(&self) -> Result<()> {
        ensure!(self.kills >= self.warm_up + 3, "fewer than three rounds after the warm-up");
        ensure!(self.peak_rounds > 0, "a peak is measured in one round at least");
        let (bench, program, stream) = (Bench::new(1.0)?, platform_program()?, Stream::default());
        let data = bench.data("platform")?;
        let period = Duration::from_secs(self.period_seconds);
        let peak = self.peak(&program, &data, &stream, period)?;
        let rate = peak.events_per_second * f64::from(self.percent) / 100.0;
        say(&format!("peak {:.0} events/s, so {rate:.0} events/s", peak.events_per_second));

        let now = Mutex::new(Now {
            number: 0,
            since: Instant::now(),
            platform: None,
            latencies: Latencies::new()?,
            taken: 0,
        });
        let schedule = Schedule {
            began: Instant::now(),
            first: stream.taken(),
            batches_per_second: rate / EVENTS as f64,
            over: Instant::now() + period * (self.kills + 1),
        };
        let (rounds, clients) = thread::scope(|scope| {
            let clients = scope.spawn(|| parallel(CONNECTIONS, || client(&now, &stream, &schedule)));
            let rounds = self.rounds(&now, &program, &data, period, || schedule.behind(stream.taken()));
            (rounds, clients.join())
        });
        clients.map_err(|_| anyhow!("a client panicked"))?.into_iter().collect::<Result<Vec<()>>>()?;
        let rounds = rounds?;
        let platform = now.into_inner()?.platform.context("the last one was not killed")?;
        say("all is acknowledged; waiting for the report");
        let report_seconds = stream.check(&platform, 0..stream.taken())?;
        let disk_megabytes = measure::disk_bytes(&data) as f64 / 1e6;
        platform.stop()?;

        let events = stream.taken() * EVENTS;
        let verdicts = self.verdicts(&rounds, events);
        let outcome = Outcome {
            peak: &peak,
            events_per_second: rate,
            events,
            report_seconds,
            disk_megabytes,
            rounds: &rounds,
            verdicts: &verdicts,
        };
        say(&format!(
            "{events} events, {disk_megabytes:.0} MB; reported {report_seconds:.1} s after the last answer"
        ));
        conclude("kills", &verdicts, &outcome)
    }

    /// What is taken on at most, behind so many events and in rounds that are as long as those that follow and begin as
    /// they do: with what the last one had not done yet, and a start.
    fn peak(&self, program: &Path, data: &Path, stream: &Stream, period: Duration) -> Result<Taken> {
        let start = || Process::platform_with(program, data, &[PEAK_BACKLOG])?.ready(data);
        let mut platform = start()?;
        let filled = stream.ask_while(&platform, || stream.taken() * EVENTS < self.fill_events)?;
        say(&format!("{} events are there after {:.0} s", filled.events(), filled.seconds));
        let mut rounds = Asked::nothing()?;
        for _ in 0..self.peak_rounds {
            // Dropped, it is killed.
            drop(platform);
            let began = Instant::now();
            platform = start()?;
            let mut round = stream.ask_while(&platform, || began.elapsed() < period)?;
            round.seconds = began.elapsed().as_secs_f64();
            say(&format!("at most: {:?}", Taken::of(&round)));
            rounds.add(&round)?;
        }
        stream.check(&platform, 0..stream.taken())?;
        platform.stop()?;
        Ok(Taken::of(&rounds))
    }

    /// Starts it and kills it again and again; the last one is left running.
    fn rounds(
        &self,
        now: &Mutex<Now>,
        program: &Path,
        data: &Path,
        period: Duration,
        behind: impl Fn() -> Duration,
    ) -> Result<Vec<Round>> {
        let mut rounds = Vec::new();
        for number in 1..=self.kills + 1 {
            let began = Instant::now();
            let platform = Process::platform(program, data)?.ready(data)?;
            let ready_seconds = began.elapsed().as_secs_f64();
            let (pid, engine) = (platform.pid(), platform.engine()?);
            {
                let mut now = lock(now)?;
                (now.number, now.since, now.platform) = (number, Instant::now(), Some(platform));
            }
            let [platform, engine_memory] = memory([pid, engine], began + period)?;
            let behind_millis = behind().as_secs_f64() * 1e3;
            let cpu_seconds = [measure::cpu_seconds(pid)?, measure::cpu_seconds(engine)?];
            let (latencies, taken, killed) = {
                let mut now = lock(now)?;
                let killed = if number <= self.kills { now.platform.take() } else { None };
                let latencies = std::mem::replace(&mut now.latencies, Latencies::new()?);
                (latencies, std::mem::take(&mut now.taken), killed)
            };
            // Dropped, it is killed.
            drop(killed);
            let events = taken * EVENTS;
            let [platform_cpu_micros_an_event, engine_cpu_micros_an_event] =
                cpu_seconds.map(|seconds| seconds * 1e6 / events as f64);
            rounds.push(Round {
                ready_seconds,
                events,
                p50_millis: latencies.micros(0.5) / 1e3,
                p99_millis: latencies.micros(0.99) / 1e3,
                behind_millis,
                platform_megabytes: platform.settled,
                platform_megabytes_max: platform.most,
                engine_megabytes: engine_memory.settled,
                platform_cpu_micros_an_event,
                engine_cpu_micros_an_event,
            });
            say(&format!("round {number}: {:?}", rounds.last()));
        }
        Ok(rounds)
    }

    fn verdicts(&self, rounds: &[Round], events: u64) -> Vec<Verdict> {
        let warm = &rounds[self.warm_up as usize..];
        let series = |of: fn(&Round) -> f64| warm.iter().map(of).collect::<Vec<_>>();
        let per_ten_minutes = 600.0 / self.period_seconds as f64;
        let grown = |promise, unit, values: Vec<f64>| {
            let (slope, z) = (trend::slope(&values) * per_ten_minutes, trend::z(&values));
            let measured = format!(
                "median {:.1} {unit}, slope {:+.2} % in ten minutes, z {z:.1} of {:.1}",
                trend::median(values),
                slope * 100.0,
                trend::SIGNIFICANT_Z
            );
            (promise, measured, slope, z > trend::SIGNIFICANT_Z)
        };
        let memory = |promise, values| {
            let (promise, measured, slope, grows) = grown(promise, "MB", values);
            // A slope that the noise makes is none.
            Verdict { promise, measured, kept: slope < MEMORY_GROWTH_MAX || !grows }
        };
        // What is not answered has no latency yet, and counts as long as it waits.
        let latency = series(|round| round.p99_millis.max(round.behind_millis));
        let (promise, measured, _, grows) = grown("the P99 of acknowledgements does not grow", "ms", latency);
        let behind = warm.iter().map(|round| round.behind_millis).fold(0.0, f64::max);
        vec![
            Verdict {
                promise: "every acknowledged event is reported once",
                measured: format!("{events} events, {} kills", self.kills),
                // It would not have come here otherwise.
                kept: true,
            },
            memory(
                "the platform's memory grows by less than 1 % in ten minutes",
                series(|round| round.platform_megabytes),
            ),
            memory(
                "the warehouse's memory grows by less than 1 % in ten minutes",
                series(|round| round.engine_megabytes),
            ),
            Verdict { promise, measured, kept: !grows },
            Verdict {
                promise: "nothing has waited for a second when a round ends",
                measured: format!("{behind:.0} ms at most"),
                kept: behind <= BEHIND_MAX_MILLIS,
            },
        ]
    }
}

/// What processes use until then.
fn memory<const N: usize>(pids: [u32; N], until: Instant) -> Result<[Memory; N]> {
    let settled_from = Instant::now() + SETTLE;
    let (mut seen, mut unsettled) = ([(); N].map(|()| Vec::new()), 0);
    loop {
        for (pid, seen) in pids.iter().zip(&mut seen) {
            seen.push(measure::anonymous_bytes(*pid)? as f64 / 1e6);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(seen.map(|seen| Memory {
                settled: trend::median(seen[unsettled..].to_vec()),
                most: seen.into_iter().fold(0.0, f64::max),
            }));
        }
        unsettled += usize::from(Instant::now() < settled_from);
        thread::sleep(left.min(Duration::from_secs(1)));
    }
}

fn lock(now: &Mutex<Now>) -> Result<std::sync::MutexGuard<'_, Now>> {
    now.lock().map_err(|_| anyhow!("a client panicked"))
}

/// Sends each batch when it is due, again and again until it is acknowledged.
fn client(now: &Mutex<Now>, stream: &Stream, schedule: &Schedule) -> Result<()> {
    let mut connection: Option<(u32, Connection)> = None;
    loop {
        let number = stream.take_unless(|number| schedule.due(number) >= schedule.over);
        let Some(number) = number else { return Ok(()) };
        let due = schedule.due(number);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let body = batch(number)?;
        let mut failures = 0;
        loop {
            if connection.is_none() {
                let now = lock(now)?;
                connection =
                    now.platform.as_ref().and_then(|platform| Some((now.number, platform.connect().ok()?)));
            }
            let Some((to, open)) = &mut connection else {
                thread::sleep(RETRY_PAUSE);
                continue;
            };
            match post(open, &body) {
                Ok(true) => {
                    let mut now = lock(now)?;
                    now.taken += 1;
                    if now.number == *to && due > now.since + SETTLE {
                        now.latencies.record(due.elapsed());
                    }
                    break;
                }
                Ok(false) => thread::sleep(RETRY_PAUSE),
                // The kill, most likely.
                Err(error) => {
                    connection = None;
                    failures += 1;
                    ensure!(failures < FAILURES_MAX, "batch {number} fails again and again: {error:#}");
                    thread::sleep(RETRY_PAUSE);
                }
            }
        }
    }
}

// === impl Schedule ===

impl Schedule {
    /// How long it has been due, unless it is behind the end of the schedule.
    fn behind(&self, number: u64) -> Duration {
        Instant::now().min(self.over).saturating_duration_since(self.due(number))
    }

    fn due(&self, number: u64) -> Instant {
        self.began + Duration::from_secs_f64((number - self.first) as f64 / self.batches_per_second)
    }
}

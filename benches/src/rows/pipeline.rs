//! From end to end: events in over HTTP, until all of them are attributed and reported, and what grows with their number.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::platform::reported;
use crate::{
    Bench,
    child::{Process, platform_program},
    events::{Ids, Mix, Template},
    measure::{self, Rounds},
    table::Row,
    wire,
};

const CONNECTIONS: usize = 16;
const ROUNDS: usize = 3;
const TARGET_EVENTS_PER_SECOND: f64 = 100_000.0;
const MEGABYTE: f64 = 1e6;

/// The first million events, and half a million behind ten: each in turn with the sum of the parts. In between the last platform
/// goes on to ten millions, a million at a time.
pub(crate) fn pipeline(bench: &Bench) -> Result<Vec<Row>> {
    let scaled = |counts: [(u64, u64); 2]| counts.map(|(full, least)| bench.count(full, least));
    let [first, behind] = scaled([(1_000_000, 10_000), (500_000, 10_000)]);
    let totals = scaled([(3_000_000, 30_000), (10_000_000, 100_000)]);
    let program = platform_program()?;

    let (mut taken, mut last) = (Taken::default(), None);
    for _ in 0..ROUNDS {
        // The one of the round before is gone when its folder is emptied, and while the parts are measured.
        drop(last.take());
        let (parts, platform) = Load::new().through_parts(&program, &bench.data("parts")?, first)?;
        taken.parts.push(first as f64 / parts.as_secs_f64());
        platform.stop()?;
        let (mut load, data) = (Load::new(), bench.data("platform")?);
        let platform = Process::platform(&program, &data)?.ready(&data)?;
        taken.ours.push(load.through(&platform, first)?);
        last = Some((load, data, platform));
    }
    let mut rows = vec![taken.row(format!("the first {first} events"))];
    let (mut load, data, mut platform) = last.context("there was no round")?;

    rows.extend(sizes(&platform, &data, load.sent)?);
    for total in totals {
        let (from, mut taken) = (load.sent, Taken::default());
        while load.sent + load.template.events() as u64 <= total {
            taken.ours.push(load.through(&platform, first.min(total - load.sent))?);
        }
        rows.push(Row { key: "growth", ..taken.row(format!("from {from} to {total} events")) });
        rows.extend(sizes(&platform, &data, total)?);
    }

    let mut taken = Taken::default();
    for round in 0..ROUNDS {
        // An event costs more among more events, so they take turns in being first.
        for is_ours in [round % 2 == 0, round % 2 == 1] {
            if is_ours {
                taken.ours.push(load.through(&platform, behind)?);
            } else {
                platform.stop()?;
                let (parts, started) = load.through_parts(&program, &data, behind)?;
                taken.parts.push(behind as f64 / parts.as_secs_f64());
                platform = started;
            }
        }
    }
    rows.push(taken.row(format!("{behind} events behind {}", totals[1])));
    platform.stop()?;
    Ok(rows)
}

/// What is sent to one data folder.
struct Load {
    ids: Ids,
    template: Template,
    sent: u64,
}

/// Events of a time, and what they took.
#[derive(Default)]
struct Taken {
    ours: Vec<Through>,
    /// Events per second.
    parts: Rounds,
}

struct Through {
    events_per_second: f64,
    platform_cpu_micros_an_event: f64,
    engine_cpu_micros_an_event: f64,
}

// === impl Load ===

impl Load {
    fn new() -> Self {
        Self { ids: Ids::new(), template: Template::json(100, Mix::Journeys), sent: 0 }
    }

    /// Sends events to the platform, and waits until all of them are reported.
    fn through(&mut self, platform: &Process, events: u64) -> Result<Through> {
        let engine = platform.engine()?;
        let cpu_seconds = || Ok([platform.cpu_seconds()?, measure::cpu_seconds(engine)?]);
        let (before, began): ([f64; 2], _) = (cpu_seconds()?, Instant::now());
        self.send(platform, events)?;
        self.reported(platform)?;
        let (seconds, after): (_, Result<[f64; 2]>) = (began.elapsed().as_secs_f64(), cpu_seconds());
        let after = after?;
        let micros = |index: usize| (after[index] - before[index]) * 1e6 / events as f64;
        Ok(Through {
            events_per_second: events as f64 / seconds,
            platform_cpu_micros_an_event: micros(0),
            engine_cpu_micros_an_event: micros(1),
        })
    }

    /// The same, but each part has the machine to itself: a process that does nothing else takes the events in, then the
    /// platform, to which nothing comes in, attributes and reports them. The time of both together, and the platform.
    fn through_parts(&mut self, program: &Path, data: &Path, events: u64) -> Result<(Duration, Process)> {
        let ingestion = Process::server(&["ingestion"], Some(data))?;
        let began = Instant::now();
        self.send(&ingestion, events)?;
        let taken = began.elapsed();
        ingestion.stop()?;
        let began = Instant::now();
        let platform = Process::platform(program, data)?.ready(data)?;
        self.reported(&platform)?;
        Ok((taken + began.elapsed(), platform))
    }

    fn send(&mut self, to: &Process, events: u64) -> Result<()> {
        let each = self.template.events() as u64;
        let bodies = events / each;
        wire::load_count(to.address, &to.key, &self.template, &self.ids, CONNECTIONS, bodies)?;
        self.sent += bodies * each;
        Ok(())
    }

    /// Waits until every conversion, one of ten events, is reported.
    fn reported(&self, platform: &Process) -> Result<()> {
        let conversions = reported(&mut platform.connect()?)?;
        let sent = self.sent / 10;
        ensure!(conversions == sent, "{conversions} of {sent} conversions are reported");
        Ok(())
    }
}

// === impl Taken ===

impl Taken {
    fn row(&self, which: String) -> Row {
        let rounds = |of: fn(&Through) -> f64| {
            let mut rounds = Rounds::default();
            self.ours.iter().for_each(|through| rounds.push(of(through)));
            rounds
        };
        let ours = rounds(|through| through.events_per_second);
        let platform = rounds(|through| through.platform_cpu_micros_an_event).median();
        let engine = rounds(|through| through.engine_cpu_micros_an_event).median();
        let has_parts = !self.parts.is_empty();
        Row {
            key: "pipeline",
            what: format!("HTTP in → attributed → reported exactly, events/s: {which}"),
            ours: ours.median(),
            proxy: has_parts.then(|| self.parts.median()),
            ratio: has_parts.then(|| ours.ratio(&self.parts)),
            target: "≥ 100 000",
            met: Some(ours.median() >= TARGET_EVENTS_PER_SECOND),
            cpu_seconds_per_operation: Some((platform + engine) / 1e6),
            spread: ours.spread(),
            note: format!("{} rounds; CPU-µs: platform {platform:.1}, engine {engine:.1}", self.ours.len()),
        }
    }
}

fn sizes(platform: &Process, data: &Path, events: u64) -> Result<Vec<Row>> {
    let row = |key, what: String, ours| Row {
        key,
        what,
        ours,
        proxy: None,
        ratio: None,
        target: "–",
        met: None,
        cpu_seconds_per_operation: None,
        spread: 0.0,
        note: String::new(),
    };
    let mut rows = Vec::new();
    for (name, pid) in [("the platform", platform.pid()), ("the engine", platform.engine()?)] {
        let megabytes = measure::resident_bytes(pid)? as f64 / MEGABYTE;
        let anonymous = measure::anonymous_bytes(pid)? as f64 / MEGABYTE;
        rows.push(Row {
            note: format!("{anonymous:.0} MB without mapped files"),
            ..row("memory", format!("resident memory of {name} after {events} events, MB"), megabytes)
        });
    }
    for store in ["log", "journeys", "warehouse"] {
        let bytes = measure::disk_bytes(&data.join(store)) as f64 / events as f64;
        rows.push(row("disk", format!("bytes of an event in {store} at {events} events"), bytes));
    }
    Ok(rows)
}

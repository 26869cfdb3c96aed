//! Ingestion over HTTP, by the processor time of the process that takes the events.

use std::time::Duration;

use anyhow::Result;

use crate::{
    Bench,
    child::Process,
    events::{Ids, Mix, Template},
    measure::{Latencies, Rounds},
    table::Row,
    wire::{self, Loaded},
};

pub(crate) const CONNECTIONS: usize = 32;
pub(crate) const ROUNDS: usize = 5;
const ROUND_SECONDS: f64 = 4.0;

pub(crate) fn batch(bench: &Bench) -> Result<Vec<Row>> {
    let template = Template::json(100, Mix::Clicks);
    let taken = compare(bench, "http-parse", &template)?;
    Ok(vec![taken.row("http-batch", "HTTP JSON batches of 100 → durable log, events/CPU-s", "≥ 0.40", 0.4)])
}

pub(crate) fn single(bench: &Bench) -> Result<Vec<Row>> {
    let template = Template::json(1, Mix::Clicks);
    let taken = compare(bench, "http-noop", &template)?;
    Ok(vec![taken.row("http-single", "single-event POST, requests/CPU-s", "≥ 0.50", 0.5)])
}

/// What two servers did in turn.
#[derive(Default)]
pub(crate) struct Taken {
    /// Events per processor second.
    pub(crate) ours: Rounds,
    pub(crate) proxy: Rounds,
    /// Events per second of the clock.
    pub(crate) ours_clock: Rounds,
    pub(crate) p99_micros: f64,
}

impl Taken {
    /// Takes down what one server did in a round.
    pub(crate) fn note(&mut self, ours: bool, loaded: &Loaded, cpu_seconds: f64) {
        let per_cpu = loaded.events as f64 / cpu_seconds;
        if ours {
            self.ours.push(per_cpu);
            self.ours_clock.push(loaded.events as f64 / loaded.seconds);
        } else {
            self.proxy.push(per_cpu);
        }
    }

    pub(crate) fn row(&self, key: &'static str, what: &str, target: &'static str, least: f64) -> Row {
        let ratio = self.ours.ratio(&self.proxy);
        Row {
            key,
            what: what.to_owned(),
            ours: self.ours.median(),
            proxy: Some(self.proxy.median()),
            ratio: Some(ratio),
            target,
            met: Some(ratio >= least),
            cpu_seconds_per_operation: Some(1.0 / self.ours.median()),
            spread: self.ours.spread(),
            note: format!(
                "{:.0} a second of the clock, p99 {:.1} ms",
                self.ours_clock.median(),
                self.p99_micros / 1e3
            ),
        }
    }
}

/// Loads a server for a while; what came of it, and the processor time it took.
pub(crate) fn round(
    server: &Process,
    template: &Template,
    ids: &Ids,
    time: Duration,
) -> Result<(Loaded, f64)> {
    let before = server.cpu_seconds()?;
    let loaded = wire::load(server.address, &server.key, template, ids, CONNECTIONS, time)?;
    Ok((loaded, server.cpu_seconds()? - before))
}

fn compare(bench: &Bench, proxy: &str, template: &Template) -> Result<Taken> {
    let ours = Process::server(&["ingestion"], Some(&bench.data("ingestion")?))?;
    let proxy = Process::server(&[proxy], None)?;
    let (ids, mut taken, mut latencies) = (Ids::new(), Taken::default(), Latencies::new()?);
    let round = |server: &Process, time: Duration| round(server, template, &ids, time);
    // Warm: files, pools, the allocator.
    for server in [&ours, &proxy] {
        round(server, bench.time(1.0))?;
    }
    for _ in 0..ROUNDS {
        for (server, is_ours) in [(&ours, true), (&proxy, false)] {
            let (loaded, cpu_seconds) = round(server, bench.time(ROUND_SECONDS))?;
            taken.note(is_ours, &loaded, cpu_seconds);
            if is_ours {
                latencies.add(&loaded.latencies)?;
            }
        }
    }
    taken.p99_micros = latencies.micros(0.99);
    Ok(taken)
}

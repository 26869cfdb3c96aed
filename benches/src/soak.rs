//! `bench soak`: the platform under load and kills for half an hour, and under more load than it can take.
//!
//! Owns the verdicts. Each part prints its table, writes it as JSON, and fails when a promise is broken.

mod kills;
mod overload;
pub(crate) mod stream;
mod trend;

use std::{
    fs,
    io::{Write as _, stdout},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use serde::Serialize;

use self::stream::{Asked, Stream};
use crate::child::Process;

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// At a share of the peak, killed again and again: nothing lost, nothing twice, no growth of memory or latency
    Kills(kills::Kills),
    /// At three and ten times the peak: what is taken on is done, and as fast as before
    Overload(overload::Overload),
}

/// What a promise came to.
#[derive(Debug, Serialize)]
struct Verdict {
    promise: &'static str,
    measured: String,
    kept: bool,
}

/// What was taken on in a while.
#[derive(Debug, Serialize)]
struct Taken {
    events_per_second: f64,
    p99_millis: f64,
}

/// The backlog with which a peak is measured, events: so small that what is taken on is what is attributed.
const PEAK_BACKLOG: (&str, &str) = ("ATTRIBUTION_INGESTION__BACKLOG_EVENTS_MAX", "50000");

// === impl Part ===

impl Part {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Kills(kills) => kills.run(),
            Self::Overload(overload) => overload.run(),
        }
    }
}

// === impl Taken ===

impl Taken {
    fn of(asked: &Asked) -> Self {
        Self {
            events_per_second: asked.events() as f64 / asked.seconds,
            p99_millis: asked.latencies.micros(0.99) / 1e3,
        }
    }
}

/// Asks as much as is taken, a quarter of the time to warm up.
fn ask_peak(platform: &Process, stream: &Stream, seconds: u64) -> Result<Asked> {
    stream.ask(platform, Duration::from_secs(seconds / 4))?;
    stream.ask(platform, Duration::from_secs(seconds))
}

/// Prints the verdicts, writes the whole, and fails when a promise is broken.
fn conclude(name: &str, verdicts: &[Verdict], whole: &impl Serialize) -> Result<()> {
    let mut text = String::from("| promise | measured | kept |\n|---|---|---|\n");
    for verdict in verdicts {
        let kept = if verdict.kept { "yes" } else { "**no**" };
        text.push_str(&format!("| {} | {} | {kept} |\n", verdict.promise, verdict.measured));
    }
    stdout().write_all(text.as_bytes())?;
    let out = Path::new("target/soak").join(name).with_extension("json");
    fs::create_dir_all("target/soak")?;
    fs::write(&out, serde_json::to_vec_pretty(whole)?)
        .with_context(|| format!("cannot write {}", out.display()))?;
    let broken = verdicts.iter().filter(|verdict| !verdict.kept).count();
    ensure!(broken == 0, "promises broken: {broken}");
    Ok(())
}

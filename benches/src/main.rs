//! `make bench`: what the platform does, held against what the machine can do, in the same run.
//!
//! Owns the load, the limits and the table. It drives release binaries from outside; where it reaches into a library
//! the row says so. It must never be needed by anything else.

mod child;
mod engine;
mod events;
mod grpc_load;
mod measure;
mod profile;
mod rows;
mod serve;
mod soak;
mod table;
mod wire;

use std::{
    ffi::OsString,
    fs,
    io::{Write as _, stderr, stdout},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use tempfile::TempDir;
use tikv_jemallocator::Jemalloc;

use crate::table::{Report, Row};

// That of the platform: the limits must not be lower for another.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Measure the platform against the limits of the machine.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure rows, print the table, write the report
    Run {
        /// The rows, by their keys; unless said all of them but those that want real servers
        #[arg(long, env = "ROWS", value_delimiter = ',')]
        rows: Vec<String>,
        /// Sizes and times as a share of the full ones: 0.05 for a smoke run
        #[arg(long, env = "BENCH_SCALE", default_value_t = 1.0)]
        scale: f64,
        /// Where the report goes
        #[arg(long, default_value = "target/bench/report.json")]
        out: PathBuf,
    },
    /// Record a row's server under load with perf, and draw a flame graph
    Profile {
        /// http-batch, http-single, grpc-batch, pipeline or log-append
        row: String,
        /// Where the graph goes
        #[arg(long, default_value = "target/bench")]
        out: PathBuf,
    },
    /// Hold the platform against its promises under load for a long time
    #[command(subcommand)]
    Soak(soak::Part),
    /// A process under load
    #[command(hide = true, subcommand)]
    Serve(serve::Serve),
    /// The warehouse process that rows start for themselves
    #[command(name = "chdb-server", hide = true)]
    ChdbServer {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// What all rows share.
pub(crate) struct Bench {
    scale: f64,
    folder: TempDir,
}

// === impl Bench ===

impl Bench {
    pub(crate) fn new(scale: f64) -> Result<Self> {
        ensure!(scale > 0.0 && scale <= 1.0, "the scale is more than 0 and at most 1");
        // Beside the binaries: a temporary folder may be memory, and that syncs nothing.
        let place = std::env::current_exe()?.with_file_name("bench-data");
        fs::create_dir_all(&place)?;
        Ok(Self { scale, folder: tempfile::tempdir_in(place)? })
    }

    /// A time at this scale.
    pub(crate) fn time(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64((seconds * self.scale).max(0.2))
    }

    /// A count at this scale, at least `least`.
    pub(crate) fn count(&self, full: u64, least: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(least)
    }

    /// An empty folder.
    pub(crate) fn data(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(serve) => return serve.run(),
        Command::ChdbServer { .. } => chdb::child::main().map_err(Into::into),
        Command::Profile { row, out } => profile::run(&row, &out),
        Command::Soak(part) => part.run(),
        Command::Run { rows, scale, out } => run(&rows, scale, &out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(chosen: &[String], scale: f64, out: &std::path::Path) -> Result<()> {
    let known: Vec<_> = rows::ALL.iter().chain(rows::ON_SERVERS).map(|(name, _)| *name).collect();
    if let Some(unknown) = chosen.iter().find(|key| !known.contains(&key.as_str())) {
        bail!("there is no row {unknown:?}; there are {}", known.join(", "));
    }
    // What a build wrote would go to disk while the first rows wait for theirs.
    rustix::fs::sync();
    let (began, load_average_before) = (Instant::now(), measure::load_average());
    let mut measured: Vec<Row> = Vec::new();
    let mut failed = Vec::new();
    let named = |name: &str| chosen.iter().any(|key| key == name);
    let usual = rows::ALL.iter().filter(|(name, _)| chosen.is_empty() || named(name));
    for (name, measure) in usual.chain(rows::ON_SERVERS.iter().filter(|(name, _)| named(name))) {
        say(&format!("{:4.0} s  {name}", began.elapsed().as_secs_f64()));
        // A row that fails does not cost the others.
        match Bench::new(scale).and_then(|bench| measure(&bench)) {
            Ok(rows) => measured.extend(rows),
            Err(error) => {
                say(&format!("        {name} failed: {error:#}"));
                failed.push(*name);
            }
        }
    }
    let report = Report {
        at: jiff::Timestamp::now().to_string(),
        cores: std::thread::available_parallelism()?.get(),
        load_average_before,
        load_average_after: measure::load_average(),
        scale,
        seconds: began.elapsed().as_secs_f64(),
        rows: measured,
    };
    let mut text = table::markdown(&report.rows);
    if scale < 1.0 {
        text =
            format!("**A smoke run at scale {scale}: sizes and times are too small to compare.**\n\n{text}");
    }
    text.push_str(&format!(
        "\n{} cores, load average {:.1} before and {:.1} after, {:.0} s in all.\n",
        report.cores, report.load_average_before, report.load_average_after, report.seconds
    ));
    stdout().write_all(text.as_bytes())?;
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    let json = serde_json::to_vec_pretty(&report)?;
    fs::write(out, json).with_context(|| format!("cannot write {}", out.display()))?;
    ensure!(failed.is_empty(), "rows failed: {}", failed.join(", "));
    Ok(())
}

/// To standard error.
pub(crate) fn say(line: &str) {
    // Nobody is left to tell if it is closed.
    let _ = writeln!(stderr(), "{line}");
}

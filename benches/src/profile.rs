//! `make profile`: a server under a row's load, recorded with perf.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Bench,
    child::{Process, platform_program},
    events::{Ids, Mix, Template},
    grpc_load,
    rows::log,
    say, wire,
};

const SECONDS: u64 = 10;
const CONNECTIONS: usize = 32;

/// Writes `perf-ROW.txt`, where the time goes by function; with `inferno` installed also `flame-ROW.svg`.
pub(crate) fn run(row: &str, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let bench = Bench::new(1.0)?;
    let data = bench.data("platform")?;
    let server = match row {
        "http-batch" | "http-single" | "grpc-batch" => Some(Process::server(&["ingestion"], Some(&data))?),
        "pipeline" => Some(Process::platform(&platform_program()?, &data)?.ready(&data)?),
        "log-append" => None,
        other => bail!(
            "no profile of {other:?}; there are http-batch, http-single, grpc-batch, pipeline, log-append"
        ),
    };
    let pid = server.as_ref().map_or_else(std::process::id, Process::pid);
    let recorded = out.join(format!("perf-{row}.data"));
    let mut perf = Command::new("perf")
        .args(["record", "--freq", "499", "--call-graph", "dwarf,8192", "--pid", &pid.to_string()])
        .arg("--output")
        .arg(&recorded)
        .args(["--", "sleep", &SECONDS.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .context("perf cannot be started: install linux-perf")?;
    let (ids, time) = (Arc::new(Ids::new()), Duration::from_secs(SECONDS + 1));
    match &server {
        Some(server) if row == "grpc-batch" => {
            let template = Template::grpc(100, Mix::Clicks);
            let load = grpc_load::load(server.address, &server.key, &template, &ids, 4, 8, time);
            tokio::runtime::Runtime::new()?.block_on(load)?;
        }
        Some(server) => {
            let events = if row == "http-single" { 1 } else { 100 };
            let mix = if row == "pipeline" { Mix::Journeys } else { Mix::Clicks };
            let template = Template::json(events, mix);
            wire::load(server.address, &server.key, &template, &ids, CONNECTIONS, time)?;
        }
        // The log is a library: its load is in this process.
        None => log::load(&data, time)?,
    }
    ensure!(perf.wait()?.success(), "perf failed");
    let text = out.join(format!("perf-{row}.txt"));
    let report = Command::new("perf")
        .args([
            "report",
            "--stdio",
            "--no-children",
            "--call-graph",
            "none",
            "--sort",
            "comm,dso,symbol",
            "--percent-limit",
            "0.3",
            "--input",
        ])
        .arg(&recorded)
        .stdout(File::create(&text)?)
        .stderr(Stdio::null())
        .status()?;
    ensure!(report.success(), "perf report failed");
    say(&format!("written: {}", text.display()));
    let graph = out.join(format!("flame-{row}.svg"));
    match flame_graph(&recorded, &graph) {
        Ok(()) => say(&format!("written: {}", graph.display())),
        Err(error) => {
            say(&format!("no flame graph ({error:#}); scripts/install-inferno.sh brings what draws it"))
        }
    }
    Ok(())
}

fn flame_graph(recorded: &Path, graph: &Path) -> Result<()> {
    let mut script = Command::new("perf")
        // Inlined functions would be looked up one address at a time, which takes minutes.
        .args(["script", "--no-inline", "--input"])
        .arg(recorded)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let stacks = script.stdout.take().context("no standard output")?;
    let collapse = Command::new("inferno-collapse-perf").stdin(stacks).stdout(Stdio::piped()).spawn();
    let mut collapse = collapse.inspect_err(|_| drop(script.kill())).context("inferno-collapse-perf")?;
    let folded = collapse.stdout.take().context("no standard output")?;
    let drawn = Command::new("inferno-flamegraph").stdin(folded).stdout(File::create(graph)?).status();
    let drawn = drawn.context("inferno-flamegraph")?;
    ensure!(script.wait()?.success() && collapse.wait()?.success() && drawn.success(), "a step failed");
    Ok(())
}

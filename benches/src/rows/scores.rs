//! Scores of the committed fraud model: in process against onnxruntime from PyPI, and with calls joined or not.

mod protocol;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use ml_gateway::{Config, MlGateway};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use service::{Front, Limits, SettingsHandle, settings};
use telemetry::health::Health;
use tokio_util::sync::CancellationToken;

use crate::{
    Bench,
    measure::{Latencies, Rounds},
    table::Row,
};

pub(crate) use protocol::{grpc, rest};

const ROUNDS: usize = 7;
const SEED: u64 = 7;

/// Calls under way at once when it is saturated.
const CALLERS: usize = 64;

/// onnxruntime from PyPI on the same file and the same rows, one thread.
struct Onnxruntime {
    child: Child,
    answers: BufReader<ChildStdout>,
}

/// The folder of the committed models.
pub(super) fn models() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ml/models");
    folder.canonicalize().context("the committed models are not there")
}

/// The Python of the environment that the tests of peers have.
fn python() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/python-env.sh");
    let output = Command::new(script).arg("peer").stderr(Stdio::inherit()).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().into())
}

/// Rows within the ranges of the model's features, the same at every run.
fn rows(count: usize) -> Result<Vec<f32>> {
    let manifest: toml::Table = fs::read_to_string(models()?.join("fraud/1/model.toml"))?.parse()?;
    let inputs = manifest.get("inputs").and_then(toml::Value::as_array).context("no inputs")?;
    let number = |input: &toml::Value, name: &str| {
        let value = input.get(name).with_context(|| format!("an input without {name}"))?;
        value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64)).context("not a number")
    };
    let mut ranges = Vec::new();
    for input in inputs {
        ranges.push((number(input, "minimum")?, number(input, "maximum")?));
    }
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut value = |(least, most): &(f64, f64)| {
        // Small values are where the trees part.
        let share = random.random::<f64>().powi(6);
        (least + (most - least) * share) as f32
    };
    Ok((0..count).flat_map(|_| ranges.iter().map(&mut value).collect::<Vec<_>>()).collect())
}

/// The gateway in this process, its models loaded.
async fn gateway(bench: &Bench, change: impl FnOnce(&mut Config)) -> Result<MlGateway> {
    let data = bench.data("settings")?;
    settings::init_data_dir(&data)?;
    let health = Health::default();
    let front = Front::new(SettingsHandle::open(&data)?, Limits::default(), health.clone());
    let mut config = Config { models: format!("onnx://{}", models()?.display()), ..Config::default() };
    change(&mut config);
    let gateway = ml_gateway::start(&config, &front, &health, &CancellationToken::new())?;
    let end = Instant::now() + Duration::from_secs(60);
    while !health.is_ready() {
        if Instant::now() > end {
            bail!("no model could be loaded: {:?}", health.states());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(gateway)
}

/// One row and a thousand, one call at a time on one core.
pub(crate) fn in_process(bench: &Bench) -> Result<Vec<Row>> {
    let mut proxy = Onnxruntime::start(bench)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut measured = Vec::new();
    for (key, count, calls, target, most) in
        [("fraud-one", 1, 20_000, "≤ 1.0", 1.0), ("fraud-thousand", 1_000, 200, "≤ 1.5", 1.5)]
    {
        let (rows, calls) = (rows(count)?, bench.count(calls, 20));
        let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
        runtime.block_on(async {
            let gateway = gateway(bench, |_| {}).await?;
            for _ in 0..ROUNDS {
                let began = Instant::now();
                for _ in 0..calls {
                    std::hint::black_box(gateway.score("fraud", rows.clone()).await?);
                }
                ours.push(began.elapsed().as_secs_f64() * 1e6 / calls as f64);
                theirs.push(proxy.micros(count, calls)?);
            }
            anyhow::Ok(())
        })?;
        let ratio = ours.ratio(&theirs);
        measured.push(Row {
            key,
            what: format!(
                "fraud model, {count} row(s) in process, one core, µs (proxy: onnxruntime in Python)"
            ),
            ours: ours.median(),
            proxy: Some(theirs.median()),
            ratio: Some(ratio),
            target,
            met: Some(ratio <= most),
            cpu_seconds_per_operation: Some(ours.median() / 1e6),
            spread: ours.spread(),
            note: "checks, queue, calibration and drift included".to_owned(),
        });
    }
    Ok(measured)
}

/// Calls joined or not: one at a time, and many at once.
pub(crate) fn batching(bench: &Bench) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let row = rows(1)?;
    runtime.block_on(async {
        let joined = Arc::new(gateway(bench, |_| {}).await?);
        let alone = Arc::new(gateway(bench, |config| config.batch_calls_max = 1).await?);
        let (mut slow, mut slow_alone) = (Rounds::default(), Rounds::default());
        let (mut fast, mut fast_alone) = (Rounds::default(), Rounds::default());
        for _ in 0..ROUNDS {
            for (gateway, slow, fast) in
                [(&joined, &mut slow, &mut fast), (&alone, &mut slow_alone, &mut fast_alone)]
            {
                slow.push(p99_micros(gateway, &row, bench.count(20_000, 200)).await?);
                fast.push(rows_per_second(gateway, &row, bench.time(1.0)).await?);
            }
        }
        let row = |key, what: &str, ours: &Rounds, proxy: &Rounds, target, met: fn(f64) -> bool| Row {
            key,
            what: what.to_owned(),
            ours: ours.median(),
            proxy: Some(proxy.median()),
            ratio: Some(ours.ratio(proxy)),
            target,
            met: Some(met(ours.ratio(proxy))),
            cpu_seconds_per_operation: None,
            spread: ours.spread(),
            note: "in process; the proxy joins no calls".to_owned(),
        };
        Ok(vec![
            row("joined-idle", "one call at a time, P99 µs", &slow, &slow_alone, "≤ 1.05", |ratio| {
                ratio <= 1.05
            }),
            row("joined-busy", "64 calls at once, rows/s", &fast, &fast_alone, "≥ 1.5", |ratio| {
                ratio >= 1.5
            }),
        ])
    })
}

async fn p99_micros(gateway: &MlGateway, row: &[f32], calls: u64) -> Result<f64> {
    let mut latencies = Latencies::new()?;
    for _ in 0..calls {
        let sent = Instant::now();
        gateway.score("fraud", row.to_vec()).await?;
        latencies.record(sent.elapsed());
    }
    Ok(latencies.micros(0.99))
}

async fn rows_per_second(gateway: &Arc<MlGateway>, row: &[f32], time: Duration) -> Result<f64> {
    let began = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let (gateway, row) = (Arc::clone(gateway), row.to_vec());
        callers.spawn(async move {
            let mut scored = 0_u64;
            while began.elapsed() < time {
                gateway.score("fraud", row.clone()).await?;
                scored += 1;
            }
            anyhow::Ok(scored)
        });
    }
    let mut scored = 0;
    while let Some(caller) = callers.join_next().await {
        scored += caller??;
    }
    Ok(scored as f64 / began.elapsed().as_secs_f64())
}

// === impl Onnxruntime ===

impl Onnxruntime {
    fn start(bench: &Bench) -> Result<Self> {
        let file = bench.data("rows")?.join("rows.f32");
        let bytes: Vec<u8> = rows(1_000)?.iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(&file, bytes)?;
        let mut child = Command::new(python()?)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/onnxruntime_rows.py"))
            .arg(models()?.join("fraud/1/model.onnx"))
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, answers })
    }

    /// Microseconds of a call.
    fn micros(&mut self, rows: usize, calls: u64) -> Result<f64> {
        let questions = self.child.stdin.as_mut().context("no standard input")?;
        writeln!(questions, "{rows} {calls}")?;
        questions.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().context("onnxruntime did not answer")
    }
}

impl Drop for Onnxruntime {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

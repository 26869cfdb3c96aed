//! One row over the Open Inference Protocol, by the processor time of the server: ours, MLServer, and a handler that does
//! nothing.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use prost::Message;
use proto::inference::{InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor};
use serde_json::json;

use super::{models, python, rows};
use crate::{
    Bench,
    child::Process,
    grpc_load,
    measure::{self, Rounds},
    table::Row,
    wire::Connection,
};

const ROUNDS: usize = 5;
const ROUND_SECONDS: f64 = 3.0;
const CONNECTIONS: usize = 8;
const PATH: &str = "/v2/models/fraud/infer";
const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";
const START_PATIENCE: Duration = Duration::from_secs(120);

/// MLServer on the same file, with the runtime of the tests.
struct MlServer {
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
}

/// A server under load.
#[derive(Clone, Copy)]
struct Side<'a> {
    address: SocketAddr,
    key: &'a str,
}

pub(crate) fn rest(bench: &Bench) -> Result<Vec<Row>> {
    let row = rows(1)?;
    let input = json!({"name": "features", "datatype": "FP32", "shape": [1, row.len()], "data": row});
    let body = serde_json::to_vec(&json!({"inputs": [input]}))?;
    let load = |side: Side<'_>, time: Duration| {
        let work = || -> Result<u64> {
            let mut connection = Connection::open(side.address, side.key)?;
            let (began, mut requests) = (Instant::now(), 0);
            while began.elapsed() < time {
                let answer = connection.call("POST", PATH, &body)?;
                ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(answer.body));
                requests += 1;
            }
            Ok(requests)
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(work)).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, Result<u64>>| {
                worker.join().map_err(|_| anyhow::anyhow!("a connection's thread panicked"))?
            };
            workers.into_iter().map(join).sum::<Result<u64>>()
        })
    };
    compare(bench, ["v2-rest", "v2-rest-noop"], "REST", "http-noop", |server| server.http, load)
}

pub(crate) fn grpc(bench: &Bench) -> Result<Vec<Row>> {
    let row = rows(1)?;
    let shape = vec![1, row.len() as i64];
    let contents = InferTensorContents { fp32_contents: row, ..InferTensorContents::default() };
    let input = InferInputTensor {
        name: "features".into(),
        datatype: "FP32".into(),
        shape,
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    let request =
        ModelInferRequest { model_name: "fraud".into(), inputs: vec![input], ..ModelInferRequest::default() };
    let message = Bytes::from(request.encode_to_vec());
    let runtime = tokio::runtime::Runtime::new()?;
    let load = |side: Side<'_>, time: Duration| {
        runtime.block_on(async {
            let mut workers = tokio::task::JoinSet::new();
            for _ in 0..CONNECTIONS {
                let mut grpc = grpc_load::connect(side.address).await?;
                let (key, message) = (side.key.to_owned(), message.clone());
                workers.spawn(async move {
                    let (began, mut requests) = (Instant::now(), 0);
                    while began.elapsed() < time {
                        grpc_load::call(&mut grpc, &key, METHOD, message.clone()).await?;
                        requests += 1;
                    }
                    anyhow::Ok(requests)
                });
            }
            let mut requests = 0;
            while let Some(worker) = workers.join_next().await {
                requests += worker??;
            }
            Ok(requests)
        })
    };
    compare(bench, ["v2-grpc", "v2-grpc-noop"], "gRPC", "v2-noop", |server| server.grpc, load)
}

/// Requests per processor second of the three in turn.
fn compare(
    bench: &Bench,
    keys: [&'static str; 2],
    protocol: &str,
    noop: &str,
    place: impl Fn(&MlServer) -> SocketAddr,
    load: impl Fn(Side<'_>, Duration) -> Result<u64>,
) -> Result<Vec<Row>> {
    let models = models()?;
    let models = models.to_str().context("the folder of models has no name in UTF-8")?;
    let ours = Process::server(&["scores", "--models", models], Some(&bench.data("scores")?))?;
    let noop = Process::server(&[noop], None)?;
    let peer = MlServer::start(bench)?;
    let side = |process: &Process| (process.address, process.pid());
    let sides = [side(&ours), side(&noop), (place(&peer), peer.child.id())];
    let mut rounds = [Rounds::default(), Rounds::default(), Rounds::default()];
    for round in 0..=ROUNDS {
        for ((address, pid), rounds) in sides.into_iter().zip(&mut rounds) {
            let before = measure::cpu_seconds(pid)?;
            let requests = load(Side { address, key: &ours.key }, bench.time(ROUND_SECONDS))?;
            let per_cpu = requests as f64 / (measure::cpu_seconds(pid)? - before).max(0.01);
            // The first round warms them.
            if round > 0 {
                rounds.push(per_cpu);
            }
        }
    }
    let [ours, noop, peer] = rounds;
    let row = |key, proxy: &Rounds, name: &str, target, least: f64| Row {
        key,
        what: format!("V2 {protocol}, one row, requests/CPU-s (proxy: {name})"),
        ours: ours.median(),
        proxy: Some(proxy.median()),
        ratio: Some(ours.ratio(proxy)),
        target,
        met: Some(ours.ratio(proxy) >= least),
        cpu_seconds_per_operation: Some(1.0 / ours.median()),
        spread: ours.spread(),
        note: format!("{CONNECTIONS} connections"),
    };
    Ok(vec![
        row(keys[0], &peer, "MLServer on the same model", "≥ 20", 20.0),
        row(keys[1], &noop, "a handler that does nothing", "≥ 0.40", 0.4),
    ])
}

// === impl MlServer ===

impl MlServer {
    fn start(bench: &Bench) -> Result<Self> {
        let folder = bench.data("mlserver")?;
        let free = || anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?);
        let (http, grpc, metrics) = (free()?, free()?, free()?);
        let settings = json!({
            "host": "127.0.0.1", "http_port": http.port(), "grpc_port": grpc.port(),
            "metrics_port": metrics.port(), "parallel_workers": 0, "debug": false,
        });
        std::fs::write(folder.join("settings.json"), settings.to_string())?;
        std::fs::create_dir(folder.join("fraud"))?;
        let model = json!({
            "name": "fraud", "implementation": "runtime.Onnx",
            "parameters": {"version": "1", "uri": models()?.join("fraud/1/model.onnx")},
        });
        std::fs::write(folder.join("fraud/model-settings.json"), model.to_string())?;
        let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("../services/ml-gateway/tests/peer");
        let child = Command::new(python()?.with_file_name("mlserver"))
            .arg("start")
            .arg(&folder)
            .env("PYTHONPATH", runtime)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start mlserver")?;
        let server = Self { child, http, grpc };
        let end = Instant::now() + START_PATIENCE;
        loop {
            let ready = Connection::open(http, "none")
                .and_then(|mut connection| Ok(connection.call("GET", "/v2/models/fraud/ready", b"")?.status));
            match ready {
                Ok(200) => return Ok(server),
                _ if Instant::now() > end => {
                    bail!("MLServer is not ready after {} s", START_PATIENCE.as_secs())
                }
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for MlServer {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

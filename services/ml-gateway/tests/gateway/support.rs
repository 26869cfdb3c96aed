//! A gateway over a folder of models, and what tests say to it.

use std::{
    collections::HashMap,
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ml_gateway::{Config, MlGateway};
use proto::{
    inference::grpc_inference_service_client::GrpcInferenceServiceClient,
    ml::{Features, ScoreRequest, ScoreResponse, ml_gateway_service_client::MlGatewayServiceClient},
};
use service::{Front, Limits, Listeners, SettingsHandle};
use sha2::{Digest, Sha256};
use telemetry::health::Health;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

pub(crate) const KEY: &str = "a-key-of-the-tests";

/// What is waited for comes within this time, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

type Keyed = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) health: Health,
    channel: Channel,
    shutdown: CancellationToken,
    _data: TempDir,
}

/// A folder of models.
pub(crate) struct Models(TempDir);

/// Rows of the committed golden file: features by row, raw and calibrated scores as Python has them.
pub(crate) struct Golden {
    pub(crate) rows: Vec<Vec<f32>>,
    pub(crate) scores: Vec<f64>,
    pub(crate) calibrated: Vec<f64>,
}

impl Gateway {
    /// Serves a folder, looked at every 20 ms.
    pub(crate) async fn start(models: &Path) -> Self {
        Self::with(models, |_| {}).await
    }

    pub(crate) async fn with(models: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let hash: String = Sha256::digest(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
        let settings = format!(
            "version = 1\n[tenants.default]\n[[tenants.default.keys]]\nname = \"k\"\nsha256 = \"{hash}\"\nscopes = [\"read\"]\n"
        );
        fs::write(data.path().join("settings.toml"), settings).unwrap();
        let health = Health::default();
        let front = Front::new(SettingsHandle::open(data.path()).unwrap(), Limits::default(), health.clone());
        let mut config =
            Config { models: format!("onnx://{}", models.display()), reload_millis: 20, ..Config::default() };
        change(&mut config);
        let shutdown = CancellationToken::new();
        let MlGateway { routes, .. } = ml_gateway::start(&config, &front, &health, &shutdown).unwrap();
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = public.local_addr().unwrap();
        let listeners = Listeners { public, operations: None, tls: None };
        let stop = shutdown.clone();
        service::task::spawn("serve", async move { service::serve(listeners, &front, routes, stop).await });
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Self { address, health, channel, shutdown, _data: data }
    }

    /// As [`Gateway::start`], when a model is there.
    pub(crate) async fn ready(models: &Path) -> Self {
        let gateway = Self::start(models).await;
        gateway.becomes_ready().await;
        gateway
    }

    pub(crate) async fn becomes_ready(&self) {
        eventually("the gateway is ready", async || self.health.is_ready()).await;
    }

    pub(crate) fn client(&self) -> MlGatewayServiceClient<Keyed> {
        let client = MlGatewayServiceClient::with_interceptor(self.channel.clone(), with_key as fn(_) -> _);
        client.max_decoding_message_size(64 << 20)
    }

    pub(crate) fn open_client(&self) -> MlGatewayServiceClient<Channel> {
        MlGatewayServiceClient::new(self.channel.clone())
    }

    pub(crate) fn inference(&self) -> GrpcInferenceServiceClient<Keyed> {
        GrpcInferenceServiceClient::with_interceptor(self.channel.clone(), with_key as fn(_) -> _)
    }

    pub(crate) async fn score(&self, request: ScoreRequest) -> Result<ScoreResponse, Status> {
        self.client().score(request).await.map(tonic::Response::into_inner)
    }

    /// Scores one row of defaults and answers the version that did it.
    pub(crate) async fn version(&self, model: &str) -> Result<String, Status> {
        Ok(self.score(request(model, vec![HashMap::new()])).await?.version)
    }

    /// Why a version's files are not in use.
    pub(crate) async fn broken(&self, version: &str) -> String {
        let models = self.client().list_models(proto::ml::ListModelsRequest {}).await.unwrap().into_inner();
        let found = models.models.into_iter().find(|model| model.version == version);
        found.map(|model| model.broken).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn with_key(mut request: Request<()>) -> Result<Request<()>, Status> {
    let value: MetadataValue<_> = format!("Bearer {KEY}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

impl Models {
    /// The committed model of fraud as version 1.
    pub(crate) fn fraud() -> Self {
        let models = Self(tempfile::tempdir().unwrap());
        models.put(1, &manifest("fraud"), Some(&onnx("fraud")));
        models
    }

    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn folder(&self, version: u32) -> PathBuf {
        self.path().join("fraud").join(version.to_string())
    }

    /// Writes a version of the fraud model whole and moves it into its place.
    pub(crate) fn put(&self, version: u32, manifest: &str, onnx: Option<&[u8]>) {
        let aside = self.path().join(".aside");
        fs::create_dir_all(&aside).unwrap();
        let manifest = manifest.replacen("version = \"1\"", &format!("version = \"{version}\""), 1);
        fs::write(aside.join("model.toml"), manifest).unwrap();
        if let Some(onnx) = onnx {
            fs::write(aside.join("model.onnx"), onnx).unwrap();
        }
        let folder = self.folder(version);
        fs::create_dir_all(folder.parent().unwrap()).unwrap();
        fs::rename(&aside, &folder).unwrap();
    }
}

impl Golden {
    pub(crate) fn read() -> Self {
        let file = fs::File::open(ml().join("golden/fraud.gz")).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (rows, columns) = (word(0) as usize, word(4) as usize);
        let feature = |row: usize, column: usize| f32::from_bits(word(8 + 4 * (column * rows + row)));
        let float = |at: usize| f64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let scores = 8 + 4 * rows * columns;
        assert_eq!(bytes.len(), scores + 16 * rows);
        Self {
            rows: (0..rows).map(|row| (0..columns).map(|column| feature(row, column)).collect()).collect(),
            scores: (0..rows).map(|row| float(scores + 8 * row)).collect(),
            calibrated: (0..rows).map(|row| float(scores + 8 * (rows + row))).collect(),
        }
    }

    /// A row by the names of its features.
    pub(crate) fn named(&self, row: usize) -> HashMap<String, f64> {
        let values = self.rows[row].iter().map(|&value| f64::from(value));
        feature_names().into_iter().zip(values).collect()
    }
}

/// The folder of training.
pub(crate) fn ml() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ml")
}

pub(crate) fn manifest(model: &str) -> String {
    fs::read_to_string(ml().join("models").join(model).join("1/model.toml")).unwrap()
}

pub(crate) fn onnx(model: &str) -> Vec<u8> {
    fs::read(ml().join("models").join(model).join("1/model.onnx")).unwrap()
}

/// The names of the fraud model's features, in order.
pub(crate) fn feature_names() -> Vec<String> {
    let manifest: toml::Table = manifest("fraud").parse().unwrap();
    manifest["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|input| input["name"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) fn request(model: &str, rows: Vec<HashMap<String, f64>>) -> ScoreRequest {
    let rows = rows.into_iter().map(|values| Features { values }).collect();
    ScoreRequest { model: model.into(), rows, ..ScoreRequest::default() }
}

pub(crate) fn refused(answer: Result<ScoreResponse, Status>, code: Code, told: &str) {
    let status = answer.unwrap_err();
    let all = self::told(&status);
    assert!(status.code() == code && all.contains(told), "{told}: {all}");
}

/// All that a status says.
pub(crate) fn told(status: &Status) -> String {
    // Fields are in the details.
    format!("{status:?} {}", String::from_utf8_lossy(status.details()))
}

/// A sample of the metrics of this process; NaN when it is not there.
pub(crate) fn sample(name: &str) -> f64 {
    let page = telemetry::metrics::render();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(f64::NAN, |value| value.parse().unwrap())
}

/// The Python of an environment of scripts/python-env.sh.
pub(crate) fn python(environment: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/python-env.sh");
    let output = Command::new(script).arg(environment).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

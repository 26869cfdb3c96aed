//! A supervised warehouse over a temporary folder, and a plain HTTP client for it.

#![allow(clippy::unwrap_used, dead_code)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chdb::{Endpoint, Limits, Options, Supervisor};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The library, fetched when it is not on this machine yet.
pub(crate) fn lib() -> PathBuf {
    static LIB: OnceLock<PathBuf> = OnceLock::new();
    LIB.get_or_init(|| {
        chdb::find_library(None).unwrap_or_else(|_| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch-chdb.sh");
            let output = Command::new(script).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "scripts/fetch-chdb.sh failed: {said}");
            PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
        })
    })
    .clone()
}

pub(crate) fn options(folder: &std::path::Path) -> Options {
    let mut options = Options::new(folder.join("warehouse"), vec![env!("CARGO_BIN_EXE_chdb-server").into()]);
    options.lib = Some(lib());
    options
}

/// A warehouse and its folder, removed with it.
pub(crate) struct Warehouse {
    pub(crate) supervisor: Supervisor,
    pub(crate) endpoint: Endpoint,
    pub(crate) folder: tempfile::TempDir,
}

impl Warehouse {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        options.limits = limits;
        let supervisor = Supervisor::start(options).unwrap();
        supervisor.wait_ready(PATIENCE).await.unwrap();
        let endpoint = supervisor.endpoint();
        Self { supervisor, endpoint, folder }
    }

    pub(crate) fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default()
            .with_url(&self.endpoint.url)
            .with_user(&self.endpoint.user)
            .with_password(&self.endpoint.password)
    }

    pub(crate) fn request(&self, url: &str) -> http::request::Builder {
        Request::post(format!("{}/{url}", self.endpoint.url))
            .header("x-clickhouse-user", &self.endpoint.user)
            .header("x-clickhouse-key", &self.endpoint.password)
    }

    pub(crate) async fn post(&self, url: &str, body: impl Into<Bytes>) -> Answer {
        send(self.request(url).body(Full::new(body.into())).unwrap()).await
    }

    /// Runs a statement that must succeed and gives its text.
    pub(crate) async fn query(&self, sql: &str) -> String {
        let answer = self.post("", sql.to_owned()).await;
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        answer.text().trim_end().to_owned()
    }

    pub(crate) async fn stop(self) {
        self.supervisor.stop(Duration::from_secs(20)).await;
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body came to its proper end.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn code(&self) -> &str {
        self.headers.get("x-clickhouse-exception-code").map_or("", |v| v.to_str().unwrap())
    }
}

pub(crate) async fn send(request: Request<Full<Bytes>>) -> Answer {
    try_send(request).await.unwrap()
}

/// `None` when the connection breaks before the answer.
pub(crate) async fn try_send(request: Request<Full<Bytes>>) -> Option<Answer> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let (parts, mut incoming) = client.request(request).await.ok()?.into_parts();
    let (mut body, mut whole) = (Vec::new(), true);
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(frame.data_ref().unwrap()),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    let (status, headers, body) = (parts.status, parts.headers, body.into());
    Some(Answer { status, headers, body, whole })
}

/// Polls until `condition` gives something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

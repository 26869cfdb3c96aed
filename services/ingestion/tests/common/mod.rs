//! The service behind a real front, over a log and a cache that can be held up and made to fail.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    collections::HashSet,
    fs,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use bytes::Bytes;
use cache::{Cache, CacheError, Quota, Taken, key::Id};
use event_log::{Appended, End, Entry, EventLog, LogError};
use http_body_util::BodyExt;
use ingestion::{Attributed, Config, Deps};
use prost::Message;
use proto::{
    events::{Event, Frame},
    ingestion::ingestion_service_client::IngestionServiceClient,
};
use serde_json::Value;
use service::{Front, Limits, Peer, SettingsHandle};
use telemetry::health::Health;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// With the hashes of `key-acme`, `key-other` and `key-reader` in the place of their names.
const SETTINGS: &str = r#"
version = 1
[tenants.acme]
currency = "CHF"
[[tenants.acme.keys]]
name = "k"
sha256 = "ACME"
scopes = ["ingest"]
[[tenants.acme.keys]]
name = "r"
sha256 = "READER"
scopes = ["read"]
[tenants.other]
quota_events_per_second = 1
quota_burst_events = 3
[[tenants.other.keys]]
name = "k"
sha256 = "OTHER"
scopes = ["ingest"]
"#;

pub struct Sandbox {
    pub routes: Router,
    pub log: Arc<TestLog>,
    pub cache: Arc<TestCache>,
    /// Records before this one are attributed.
    pub attributed: Arc<AtomicU64>,
    pub shutdown: CancellationToken,
    pub front: Front,
    _folder: TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Sandbox {
    pub async fn new(partitions: u32) -> Self {
        Self::with(TestLog::new(partitions).await, Config::default(), Vec::new()).await
    }

    pub async fn with(log: Arc<TestLog>, config: Config, recover_from: Vec<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = SETTINGS
            .replace("ACME", &sha256("key-acme"))
            .replace("OTHER", &sha256("key-other"))
            .replace("READER", &sha256("key-reader"));
        fs::write(folder.path().join("settings.toml"), settings).unwrap();
        let settings = SettingsHandle::open(folder.path()).unwrap();
        let front = Front::new(settings, Limits::default(), Health::default());
        let cache = Arc::new(TestCache::default());
        let attributed = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&attributed);
        let shutdown = CancellationToken::new();
        let deps = Deps {
            log: Arc::clone(&log) as Arc<dyn EventLog>,
            cache: Arc::clone(&cache) as Arc<dyn Cache>,
            backlog: Some(Arc::new(move |_| Attributed {
                to: Some(told.load(Ordering::Relaxed)),
                ..Attributed::default()
            })),
            recover_from,
            health: front.health().clone(),
        };
        let routes = ingestion::start(&config, deps, &shutdown).await.unwrap();
        let routes = front.mount("ingestion", routes);
        Self { routes, log, cache, attributed, shutdown, front, _folder: folder }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, json }
    }

    pub async fn post(&self, body: impl Into<Body>) -> Answer {
        self.send(post("key-acme", "application/json").body(body.into()).unwrap()).await
    }

    /// Posts, and answers the statuses of the items.
    pub async fn statuses(&self, body: impl Into<Body>) -> Vec<String> {
        let answer = self.post(body).await;
        assert_eq!(answer.status, 200, "{}", answer.json);
        statuses(&answer.json)
    }

    pub fn client(&self) -> IngestionServiceClient<Peer> {
        self.client_of("acme")
    }

    pub fn client_of(&self, tenant: &str) -> IngestionServiceClient<Peer> {
        IngestionServiceClient::new(Peer::in_process(self.routes.clone()).for_tenant(tenant))
    }
}

pub fn statuses(json: &Value) -> Vec<String> {
    let items = json["items"].as_array().unwrap();
    items.iter().map(|item| item["status"].as_str().unwrap().to_owned()).collect()
}

pub fn post(key: &str, content_type: &str) -> axum::http::request::Builder {
    Request::post("/v1/events")
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", content_type)
}

/// A click that is valid.
pub fn click(event_id: &str, device_id: &str) -> String {
    format!(
        r#"{{"event_id":"{event_id}","event_type":"click","timestamp":1767225600000,"device_id":"{device_id}"}}"#
    )
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits until something holds, at most a minute.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// What the log does with appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    Held,
    Refuse,
    Unconfirmed,
    RefusePartition(u32),
}

/// A log in memory that can be held up and made to fail.
pub struct TestLog {
    inner: Arc<dyn EventLog>,
    mode: watch::Sender<Mode>,
    ailing: Mutex<Option<&'static str>>,
    pub asked: AtomicU64,
}

impl TestLog {
    pub async fn new(partitions: u32) -> Arc<Self> {
        let inner = event_log::open(&format!("memory://?partitions={partitions}")).await.unwrap();
        Arc::new(Self {
            inner,
            mode: watch::Sender::new(Mode::Open),
            ailing: Mutex::new(None),
            asked: AtomicU64::new(0),
        })
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// What is wrong with it, for readiness.
    pub fn ail(&self, reason: Option<&'static str>) {
        *self.ailing.lock().unwrap() = reason;
    }

    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Every frame with its bytes and partition.
    pub async fn frames(&self) -> Vec<(u32, usize, Frame)> {
        let mut frames = Vec::new();
        for partition in 0..self.partitions() {
            let end = self.end(partition).await.unwrap().offset;
            let mut at = 0;
            while at < end {
                for entry in self.read(partition, at, 1 << 20, Duration::ZERO).await.unwrap() {
                    let Entry::Record(record) = entry else { panic!("a gap in memory") };
                    at = record.offset + 1;
                    let decoded =
                        |frame: &Bytes| (partition, frame.len(), Frame::decode(frame.clone()).unwrap());
                    frames.extend(record.frames.iter().map(decoded));
                }
            }
        }
        frames
    }

    pub async fn events(&self) -> Vec<Event> {
        self.frames().await.into_iter().flat_map(|(_, _, frame)| frame.events).collect()
    }

    /// The ids in the log, sorted.
    pub async fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.events().await.into_iter().map(|event| event.event_id).collect();
        ids.sort();
        ids
    }
}

#[async_trait]
impl EventLog for TestLog {
    fn partitions(&self) -> u32 {
        self.inner.partitions()
    }

    fn id(&self) -> u128 {
        self.inner.id()
    }

    async fn append(&self, partition: u32, frame: Bytes) -> Result<Appended, LogError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut mode = self.mode.subscribe();
        let mode = *mode.wait_for(|mode| *mode != Mode::Held).await.unwrap();
        match mode {
            Mode::Refuse => Err(LogError::Unavailable("refused by the test".to_owned())),
            Mode::RefusePartition(refused) if refused == partition => {
                Err(LogError::Unavailable("refused by the test".to_owned()))
            }
            Mode::Unconfirmed => {
                self.inner.append(partition, frame).await?;
                Err(LogError::Indeterminate("not confirmed by the test".to_owned()))
            }
            _ => self.inner.append(partition, frame).await,
        }
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, LogError> {
        self.inner.read(partition, from, bytes_max, wait).await
    }

    async fn end(&self, partition: u32) -> Result<End, LogError> {
        self.inner.end(partition).await
    }

    async fn commit(&self, consumer: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        self.inner.commit(consumer, partition, offset).await
    }

    async fn committed(&self, consumer: &str, partition: u32) -> Result<Option<u64>, LogError> {
        self.inner.committed(consumer, partition).await
    }

    fn health(&self) -> Result<(), String> {
        self.ailing.lock().unwrap().map_or(Ok(()), |reason| Err(reason.to_owned()))
    }
}

/// A cache in memory that can be down, and counts what it was told.
pub struct TestCache {
    inner: Arc<dyn Cache>,
    marked: Mutex<HashSet<(String, String)>>,
    pub down: AtomicBool,
}

impl Default for TestCache {
    fn default() -> Self {
        let inner = cache::open("memory://").unwrap();
        Self { inner, marked: Mutex::default(), down: AtomicBool::new(false) }
    }
}

impl TestCache {
    pub fn marked(&self) -> usize {
        self.marked.lock().unwrap().len()
    }

    fn up(&self) -> Result<(), CacheError> {
        let name = "test".to_owned();
        let down = self.down.load(Ordering::Relaxed);
        if down { Err(CacheError::Parameter { name, reason: "down".to_owned() }) } else { Ok(()) }
    }
}

#[async_trait]
impl Cache for TestCache {
    async fn seen(&self, tenant: &str, ids: &[Id<'_>]) -> Result<Vec<bool>, CacheError> {
        self.up()?;
        tokio::task::yield_now().await;
        self.inner.seen(tenant, ids).await
    }

    async fn mark(&self, tenant: &str, ids: &[Id<'_>]) -> Result<(), CacheError> {
        self.up()?;
        tokio::task::yield_now().await;
        self.inner.mark(tenant, ids).await?;
        let mut marked = self.marked.lock().unwrap();
        marked.extend(ids.iter().map(|id| (tenant.to_owned(), id.text.to_owned())));
        Ok(())
    }

    async fn take(&self, tenant: &str, events: NonZeroU32, quota: Quota) -> Result<Taken, CacheError> {
        self.up()?;
        self.inner.take(tenant, events, quota).await
    }
}

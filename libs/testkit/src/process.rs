//! The real process on a data folder: started, spoken to over REST, killed, stopped.

use std::{
    ffi::OsString,
    ops::Deref,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use reqwest::{RequestBuilder, StatusCode, header::HeaderMap};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    sync::{Semaphore, SemaphorePermit, watch},
    task::JoinSet,
};

/// What is waited for comes within this time, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Each platform takes hundreds of megabytes: so many run at once in a process of tests.
const PLATFORMS_MAX: usize = 2;
static PLATFORMS: Semaphore = Semaphore::const_new(PLATFORMS_MAX);

const POLL: Duration = Duration::from_millis(20);

/// How to start a process of the platform on ports that are free: `attribution serve` on a folder, or one service.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// The folder of the file `api-key`.
    data: PathBuf,
    /// Whether it is a whole platform, of which only few run at once.
    whole: bool,
    wrapper: Vec<OsString>,
    environment: Vec<(String, OsString)>,
}

/// A running process, and a client of it; it is killed when it is dropped.
pub struct Platform {
    child: Child,
    data: PathBuf,
    log: watch::Receiver<Vec<String>>,
    client: Client,
    _reading: JoinSet<()>,
    _slot: Option<SemaphorePermit<'static>>,
}

/// A client with a key, of whatever answers at an address: one process, or several behind a gateway.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// An answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body; null when it is not JSON.
    pub body: Value,
}

// === impl Launch ===

impl Launch {
    /// The program is `env!("CARGO_BIN_EXE_attribution")`.
    pub fn new(program: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        let data = data.into();
        Self {
            program: program.into(),
            arguments: vec!["serve".into(), "--data".into(), data.clone().into()],
            data,
            whole: true,
            wrapper: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The program of one service, under the settings in a folder that has the file `api-key` too.
    pub fn service(program: impl Into<PathBuf>, settings: impl Into<PathBuf>) -> Self {
        let settings = settings.into();
        let launch = Self { arguments: Vec::new(), whole: false, ..Self::new(program, settings.clone()) };
        launch
            .env("ATTRIBUTION_SETTINGS__FILE", settings.join("settings.toml"))
            .env("ATTRIBUTION_SETTINGS__FOLDER", settings)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Ends the process at the `hit`th time it comes to a fail point, counted from 1.
    #[must_use]
    pub fn dies_at(self, point: &str, hit: u32) -> Self {
        self.env("FAILPOINTS", format!("{point}={}*off->panic", hit - 1))
    }

    /// A command that runs the program as its arguments.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(Into::into).collect();
        self
    }

    /// Starts it, and waits until it can be spoken to and says that it is ready.
    ///
    /// # Panics
    /// It ends, or is not ready in time.
    pub async fn ready(&self) -> Platform {
        let mut platform = self.spawn().await;
        assert!(platform.listens().await, "the platform ended:\n{}", platform.log());
        platform.becomes(true).await;
        platform
    }

    /// Starts it, a whole platform when fewer than the most run.
    ///
    /// # Panics
    /// The program cannot be run.
    pub async fn spawn(&self) -> Platform {
        let slot = match self.whole {
            // It is never closed.
            true => Some(PLATFORMS.acquire().await.expect("the semaphore is open")),
            false => None,
        };
        let mut words = self.wrapper.clone();
        words.push(self.program.clone().into());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(&self.arguments)
            .env("ATTRIBUTION_LISTEN", "127.0.0.1:0")
            .env("ATTRIBUTION_METRICS", "127.0.0.1:0")
            .env("ATTRIBUTION_LOG_FORMAT", "json")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {words:?}: {error}"));
        let (told, log) = watch::channel(Vec::new());
        let mut reading = JoinSet::new();
        if let Some(errors) = child.stderr.take() {
            reading.spawn(read(errors, told));
        }
        Platform {
            child,
            data: self.data.clone(),
            log,
            client: Client::new(String::new(), String::new()),
            _reading: reading,
            _slot: slot,
        }
    }
}

async fn read(errors: ChildStderr, told: watch::Sender<Vec<String>>) {
    let mut lines = BufReader::new(errors).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        told.send_modify(|known| known.push(line));
    }
}

// === impl Platform ===

impl Platform {
    /// Waits until it listens; false when it ended before.
    ///
    /// # Panics
    /// It does neither in time.
    pub async fn listens(&mut self) -> bool {
        let address = |lines: &Vec<String>| lines.iter().find_map(|line| listening(line, "address"));
        let mut log = self.log.clone();
        let found = tokio::time::timeout(PATIENCE, log.wait_for(|lines| address(lines).is_some())).await;
        match found {
            Ok(Ok(lines)) => {
                self.client.url = format!("http://{}", address(&lines).expect("it was just found"))
            }
            // Its standard error is closed.
            Ok(Err(_)) => return false,
            Err(_) => panic!("the platform does not listen:\n{}", self.log()),
        }
        let key = std::fs::read_to_string(self.data.join("api-key")).expect("listening, it has a key");
        key.trim().clone_into(&mut self.client.key);
        true
    }

    /// Waits until it says that it is ready, or that it is not.
    ///
    /// # Panics
    /// It does not in time.
    pub async fn becomes(&self, ready: bool) {
        let end = Instant::now() + PATIENCE;
        while self.readiness().await != Some(ready) {
            assert!(Instant::now() < end, "ready: {ready}, not within {PATIENCE:?}:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Its metrics, in the text format of Prometheus.
    ///
    /// # Panics
    /// It does not tell them.
    pub async fn metrics(&self) -> String {
        let operations = self.log.borrow().iter().find_map(|line| listening(line, "operations"));
        let url = format!("http://{}/metrics", operations.expect("it listens"));
        let answer = self.client.http.get(url).send().await.expect("an answer");
        answer.text().await.expect("a page of text")
    }

    /// Everything it has written to its log.
    pub fn log(&self) -> String {
        self.log.borrow().join("\n")
    }

    /// Waits until its log holds a text.
    pub async fn logs(&self, text: &str) {
        eventually(text, async || self.log.borrow().iter().any(|line| line.contains(text))).await;
    }

    /// Its process id.
    ///
    /// # Panics
    /// It has ended.
    pub fn pid(&self) -> Pid {
        let id = self.child.id().expect("it runs");
        Pid::from_raw(id.cast_signed()).expect("no process has the id 0")
    }

    /// The process of its embedded warehouse, when there is one.
    pub fn engine(&self) -> Option<Pid> {
        let parent = format!("PPid:\t{}", self.pid().as_raw_nonzero());
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let mut children = processes.filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            status.lines().any(|line| line == parent).then_some(id)
        });
        children.next().and_then(Pid::from_raw)
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// It has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a process of our own that was not waited for");
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Asks it to stop, and waits until it has, in order.
    ///
    /// # Panics
    /// It does not stop in time, or not in order.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let ended = self.ended().await;
        assert!(ended.success(), "{ended}:\n{}", self.log());
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.expect("a child of our own"),
            Err(_) => panic!("the platform does not end:\n{}", self.log()),
        }
    }

    /// How it ended, when it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of our own")
    }
}

impl Deref for Platform {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

// === impl Client ===

impl Client {
    /// A client of an address with a key.
    ///
    /// # Panics
    /// There are no certificates to trust.
    pub fn new(url: String, key: String) -> Self {
        Self { http: http(), url, key }
    }

    /// What it says of its readiness; `None`: it cannot be asked.
    pub async fn readiness(&self) -> Option<bool> {
        let answer = self.http.get(format!("{}/health/ready", self.url)).send().await.ok()?;
        Some(answer.status().is_success())
    }

    /// A GET with the key of the data folder.
    pub async fn get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.send(self.http.get(format!("{}{path}", self.url))).await
    }

    /// A POST of JSON with the key of the data folder.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, reqwest::Error> {
        self.send(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let answer = request.bearer_auth(&self.key).timeout(PATIENCE).send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
        Ok(Answer { status, headers, body })
    }

    /// A report in which everything acknowledged before is counted.
    ///
    /// # Panics
    /// There is none in time.
    pub async fn report(&self, question: &Value) -> Value {
        let mut report = Value::Null;
        eventually("a report of all that is acknowledged", async || {
            let answer =
                self.post("/v1/reports?consistency=acknowledged", question).await.expect("an answer");
            if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                return false;
            }
            assert_eq!(answer.status, 200, "{}", answer.body);
            report = answer.body;
            true
        })
        .await;
        report
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// `http://…` without a path.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// A client that uses no proxy.
pub(crate) fn http() -> reqwest::Client {
    // An error says that there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client without TLS files")
}

/// An address in the line of the log that tells it.
fn listening(line: &str, which: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")? != "listening" {
        return None;
    }
    Some(fields.get(which)?.as_str()?.to_owned())
}

/// Waits until something is so.
///
/// # Panics
/// It is not within [`PATIENCE`].
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Copies a folder with all that is in it, links as links.
///
/// # Panics
/// It cannot be copied.
pub fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", from.display());
}

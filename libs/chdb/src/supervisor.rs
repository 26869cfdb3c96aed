//! The parent's side: starts the child, keeps its port, restarts it, stops it.
//!
//! The supervisor has a thread of its own. The kernel ends the child with the thread that started
//! it, so that thread must live as long as the supervisor does.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::control::{LINE_BYTES_MAX, Report, Start};
use crate::{Error, Limits, library, outage};

const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A child that was ready this long starts the back-off anew.
const STEADY: Duration = Duration::from_secs(60);
/// What a child that closed its socket has to end, and its output to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);
const USER: &str = "attribution";
const LOG_LINE_BYTES_MAX: u64 = 4096;

/// How to run the embedded warehouse.
#[derive(Debug, Clone)]
pub struct Options {
    /// The library's file; `None` looks in the places of [`crate::find_library`].
    pub lib: Option<PathBuf>,
    /// The engine's own folder, made with mode 0700 when it is not there. Nothing else is in it.
    pub data: PathBuf,
    /// Program and arguments of the child, which calls [`crate::child::main`].
    pub command: Vec<OsString>,
    /// The loopback port; 0 takes a free one.
    pub port: u16,
    /// Bounds of the server in the child.
    pub limits: Limits,
    /// How long a child waits for the folder when another process has it, as when its
    /// predecessor is still stopping. The error [`Error::Locked`] comes after this.
    pub lock_wait: Duration,
}

/// Where and as whom to reach the warehouse; the same for the supervisor's whole life.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// ClickHouse user.
    pub user: String,
    /// ClickHouse password, random for each supervisor.
    pub password: String,
}

/// A running embedded warehouse. Dropping it stops the child without waiting.
pub struct Supervisor {
    endpoint: Endpoint,
    state: watch::Receiver<State>,
    stop: mpsc::UnboundedSender<Duration>,
}

#[derive(Debug, Clone)]
enum State {
    Starting,
    Ready {
        pid: u32,
    },
    /// The child said why it cannot start.
    Refused(Refusal),
    /// The child ended without a word; it is started again.
    Restarting(String),
    Stopped,
}

#[derive(Debug, Clone)]
enum Refusal {
    Locked(PathBuf),
    Failed(String),
}

// === impl Options ===

impl Options {
    /// Defaults with this folder and this command line.
    pub fn new(data: impl Into<PathBuf>, command: Vec<OsString>) -> Self {
        Self {
            lib: None,
            data: data.into(),
            command,
            port: 0,
            limits: Limits::default(),
            lock_wait: Duration::from_secs(10),
        }
    }
}

// === impl Endpoint ===

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).field("user", &self.user).finish_non_exhaustive()
    }
}

// === impl Supervisor ===

impl Supervisor {
    /// Finds the library, makes the folder, takes the port and starts the child. Returns before
    /// the child is ready; see [`Supervisor::wait_ready`].
    ///
    /// # Errors
    /// [`Error::LibraryMissing`], [`Error::NoCommand`], or [`Error::Io`] for folder and port.
    pub fn start(options: Options) -> Result<Self, Error> {
        let lib = library::find_library(options.lib)?;
        let (program, arguments) = options.command.split_first().ok_or(Error::NoCommand)?;
        let data = make_folder(&options.data)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        let listener = std::net::TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(io(&format!("listen on {address}")))?;
        let bound = listener.local_addr().map_err(io("read the port"))?;
        let endpoint = Endpoint {
            url: format!("http://{bound}"),
            user: USER.to_owned(),
            password: format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()),
        };
        let plan = Plan {
            program: program.clone(),
            arguments: arguments.to_vec(),
            start: Start {
                lib,
                data,
                user: endpoint.user.clone(),
                password: endpoint.password.clone(),
                limits: options.limits,
                lock_wait: options.lock_wait,
                drain: Duration::from_secs(5),
            },
        };
        let (state_sender, state) = watch::channel(State::Starting);
        let (stop, stops) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("chdb-supervisor".to_owned())
            .spawn(move || supervise(&plan, listener, &state_sender, stops))
            .map_err(io("start the supervisor's thread"))?;
        Ok(Self { endpoint, state, stop })
    }

    /// Where the warehouse is.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// Whether the child answers now.
    pub fn ready(&self) -> bool {
        matches!(*self.state.borrow(), State::Ready { .. })
    }

    /// The child's process id while it is ready.
    pub fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Ready { pid } => Some(pid),
            _ => None,
        }
    }

    /// Waits until the child is ready.
    ///
    /// # Errors
    /// At once when the child says why it cannot start ([`Error::Locked`], [`Error::Failed`]; it
    /// is tried again all the same) or the supervisor was stopped; [`Error::NotReady`] after
    /// `timeout`.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), Error> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Starting | State::Restarting(_)));
        let settled = match tokio::time::timeout(timeout, settled).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => State::Stopped,
            Err(_) => self.state.borrow().clone(),
        };
        match settled {
            State::Ready { .. } => Ok(()),
            State::Refused(Refusal::Locked(data)) => Err(Error::Locked { data }),
            State::Refused(Refusal::Failed(reason)) => Err(Error::Failed { reason }),
            State::Stopped => Err(Error::Stopped),
            State::Starting => Err(not_ready(timeout, "it is still starting".to_owned())),
            State::Restarting(last) => Err(not_ready(timeout, last)),
        }
    }

    /// Stops the child: it takes no new requests, ends the running ones and closes the folder;
    /// after `bound` it is killed. Calling it again waits for the same end.
    pub async fn stop(&self, bound: Duration) {
        // A closed channel means that the thread has ended already.
        let _ = self.stop.send(bound);
        let mut state = self.state.clone();
        // An error means the same.
        let _ = state.wait_for(|state| matches!(state, State::Stopped)).await;
    }
}

// === the thread ===

struct Plan {
    program: OsString,
    arguments: Vec<OsString>,
    start: Start,
}

/// How one child ended.
enum Ended {
    Stopped,
    Refused(Refusal),
    Died { how: String, ready_for: Duration },
}

fn supervise(
    plan: &Plan,
    listener: std::net::TcpListener,
    state: &watch::Sender<State>,
    mut stops: mpsc::UnboundedReceiver<Duration>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            if let Err(error) = runtime.block_on(keep_running(plan, &listener, state, &mut stops)) {
                tracing::error!(%error, "the warehouse's supervisor ends");
            }
        }
        Err(error) => tracing::error!(%error, "the warehouse's supervisor cannot run"),
    }
    state.send_replace(State::Stopped);
}

async fn keep_running(
    plan: &Plan,
    listener: &std::net::TcpListener,
    state: &watch::Sender<State>,
    stops: &mut mpsc::UnboundedReceiver<Duration>,
) -> std::io::Result<()> {
    let outage_listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
    let mut refused = JoinSet::new();
    let mut pause = BACK_OFF_FIRST;
    loop {
        let ended = run_child(plan, listener, &outage_listener, &mut refused, state, stops).await;
        match ended {
            Ok(Ended::Stopped) => return Ok(()),
            Ok(Ended::Refused(refusal)) => {
                tracing::error!(?refusal, ?pause, "the warehouse process cannot start; trying again");
                state.send_replace(State::Refused(refusal));
            }
            Ok(Ended::Died { how, ready_for }) => {
                if ready_for >= STEADY {
                    pause = BACK_OFF_FIRST;
                }
                tracing::warn!(%how, ?ready_for, ?pause, "the warehouse process ended; starting it again");
                state.send_replace(State::Restarting(how));
            }
            Err(error) => {
                tracing::error!(%error, ?pause, "the warehouse process cannot be started; trying again");
                let reason = format!("cannot run {}: {error}", Path::new(&plan.program).display());
                state.send_replace(State::Refused(Refusal::Failed(reason)));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stops.recv() => return Ok(()),
            never = outage::answer(&outage_listener, &mut refused) => match never {},
        }
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
}

async fn run_child(
    plan: &Plan,
    listener: &std::net::TcpListener,
    outage_listener: &tokio::net::TcpListener,
    refused: &mut JoinSet<()>,
    state: &watch::Sender<State>,
    stops: &mut mpsc::UnboundedReceiver<Duration>,
) -> std::io::Result<Ended> {
    let (mut child, control) = spawn(plan, listener)?;
    let mut logs = JoinSet::new();
    if let Some(errors) = child.stderr.take() {
        logs.spawn(log_lines(errors));
    }
    let (reading, mut writing) = control.into_split();
    let mut line = serde_json::to_vec(&plan.start)?;
    line.push(b'\n');
    // A child that is gone already has not read it; its end is seen below.
    let _ = writing.write_all(&line).await;

    let mut report = String::new();
    let mut reading = BufReader::new(reading).take(LINE_BYTES_MAX);
    let read = tokio::select! {
        // An error is the end of a child that left its line unread.
        read = reading.read_line(&mut report) => read.unwrap_or(0),
        bound = stops.recv() => return Ok(stop_child(child, writing, bound).await),
        never = outage::answer(outage_listener, refused) => match never {},
    };
    let report = if read == 0 { None } else { Some(serde_json::from_str(&report)?) };
    match report {
        Some(Report::Ready { version }) => {
            let pid = child.id().unwrap_or_default();
            tracing::info!(pid, %version, data = %plan.start.data.display(), "the warehouse process is ready");
            state.send_replace(State::Ready { pid });
        }
        Some(Report::Locked) => {
            return Ok(Ended::Refused(Refusal::Locked(plan.start.data.clone())));
        }
        Some(Report::Failed { reason }) => return Ok(Ended::Refused(Refusal::Failed(reason))),
        None => {
            let how = last_words(child, logs).await?;
            return Ok(Ended::Died { how, ready_for: Duration::ZERO });
        }
    }
    let since = Instant::now();
    tokio::select! {
        status = child.wait() => {
            let how = format!("it ended: {}", status?);
            Ok(Ended::Died { how, ready_for: since.elapsed() })
        }
        bound = stops.recv() => Ok(stop_child(child, writing, bound).await),
    }
}

/// The child with its control socket. The command is dropped with the child's ends of the sockets.
fn spawn(plan: &Plan, listener: &std::net::TcpListener) -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut command = Command::new(&plan.program);
    command
        .args(&plan.arguments)
        .current_dir(&plan.start.data)
        // Only what the engine needs: it would read settings and credentials from the rest.
        .env_clear()
        .env("HOME", &plan.start.data)
        .env("TZ", "UTC")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(OwnedFd::from(listener.try_clone()?)))
        .stderr(Stdio::piped())
        // An interrupt typed at the terminal is the parent's to handle: it drains first.
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn()?;
    drop(command);
    ours.set_nonblocking(true)?;
    Ok((child, UnixStream::from_std(ours)?))
}

/// `None` for the bound means that the supervisor was dropped.
async fn stop_child(
    mut child: Child,
    writing: tokio::net::unix::OwnedWriteHalf,
    bound: Option<Duration>,
) -> Ended {
    // The end of the socket is the word to stop.
    drop(writing);
    let bound = bound.unwrap_or(Duration::from_secs(5));
    match tokio::time::timeout(bound, child.wait()).await {
        Ok(Ok(status)) if status.success() => tracing::info!("the warehouse process has stopped"),
        Ok(status) => tracing::warn!(?status, "the warehouse process ended while stopping"),
        Err(_) => {
            tracing::warn!(?bound, "the warehouse process did not stop in time and is killed");
            // It may have ended in this moment.
            let _ = child.kill().await;
        }
    }
    Ended::Stopped
}

/// Logs what the child writes to standard error; gives the last line.
async fn log_lines(errors: tokio::process::ChildStderr) -> String {
    let mut lines = BufReader::new(errors);
    let mut last = String::new();
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(LOG_LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return last,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if !text.is_empty() {
                    tracing::warn!(target: "chdb::child", "{text}");
                    last = text;
                }
            }
        }
    }
}

/// How a child ended that closed its socket without a report.
async fn last_words(mut child: Child, mut logs: JoinSet<String>) -> std::io::Result<String> {
    let status = match tokio::time::timeout(LAST_WORDS, child.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            child.start_kill()?;
            child.wait().await?
        }
    };
    // A descendant could hold the pipe open.
    let last = tokio::time::timeout(LAST_WORDS, logs.join_next()).await;
    let last = last.ok().flatten().and_then(Result::ok).unwrap_or_default();
    Ok(format!("it ended while starting: {status} {last}"))
}

fn make_folder(path: &Path) -> Result<PathBuf, Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| path.canonicalize())
        .map_err(io(&format!("make the folder {}", path.display())))
}

fn io(doing: &str) -> impl FnOnce(std::io::Error) -> Error {
    let doing = doing.to_owned();
    move |source| Error::Io { doing, source }
}

fn not_ready(timeout: Duration, last: String) -> Error {
    Error::NotReady { waited_ms: timeout.as_millis(), last }
}

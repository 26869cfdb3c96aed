//! The process that hosts the engine: started by the supervisor, never by hand.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::control::{LINE_BYTES_MAX, Report, Start};
use crate::ffi::{self, Connection, Engine};
use crate::request::Credentials;
use crate::server::Server;

/// The file in the data path that the process which uses it keeps locked.
const LOCK_FILE: &str = "process.lock";
/// The file that the engine reads its settings from in the folder it starts in, which the supervisor makes the data path.
const CONFIG_FILE: &str = "config.xml";
const CONFIG: &str = include_str!("config.xml");
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Why the child could not start.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// Standard input and output are not the supervisor's sockets.
    #[error("this command is run by the supervisor of the embedded warehouse, not by hand: {0}")]
    NotSupervised(String),
    /// What the supervisor was told, too.
    #[error("{0}")]
    Start(String),
}

/// The whole life of the child process; the hidden subcommand of the platform's binary calls this
/// and nothing else, before anything writes to standard output.
///
/// Does not return after a clean stop: the process exits with code 0 then.
///
/// # Errors
/// When the process was not started by a [`crate::Supervisor`], or could not start; the supervisor
/// knows the reason already.
pub fn main() -> Result<(), ChildError> {
    let not_supervised = |error: &dyn std::fmt::Display| ChildError::NotSupervised(error.to_string());
    let (control, listener) = sockets().map_err(|error| not_supervised(&error))?;
    let mut lines = BufReader::new(control.try_clone().map_err(|error| not_supervised(&error))?);
    let start = read_start(&mut lines).map_err(|error| not_supervised(&error))?;
    ffi::terminate_with_parent();
    match host(start, &control, lines, listener) {
        Ok(()) => ffi::exit_now(0),
        Err(report) => {
            let reason = match &report {
                Report::Failed { reason } => reason.clone(),
                _ => "the data path is in use by another process".to_owned(),
            };
            // A parent that is gone needs no report.
            let _ = send(&control, &report);
            Err(ChildError::Start(reason))
        }
    }
}

fn sockets() -> std::io::Result<(UnixStream, TcpListener)> {
    let control = UnixStream::from(duplicate(std::io::stdin().as_fd())?);
    let listener = TcpListener::from(duplicate(std::io::stdout().as_fd())?);
    control.peer_addr()?;
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok((control, listener))
}

fn duplicate(descriptor: std::os::fd::BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    descriptor.try_clone_to_owned()
}

fn read_start(lines: &mut BufReader<UnixStream>) -> std::io::Result<Start> {
    let mut line = String::new();
    lines.take(LINE_BYTES_MAX).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn send(mut control: &UnixStream, report: &Report) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    control.write_all(&line)
}

/// Opens the data path, serves until told to stop, and closes it.
fn host(
    start: Start,
    control: &UnixStream,
    lines: BufReader<UnixStream>,
    listener: TcpListener,
) -> Result<(), Report> {
    let failed = |reason: String| Report::Failed { reason };
    let _lock = lock(&start.data, start.lock_wait)?;
    write_config(&start.data).map_err(failed)?;
    let engine = Engine::load(&start.lib, &start.data).map_err(failed)?;
    // After the engine has reset the handlers, and before a stop can be asked for.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(start.limits.running_queries_max + 8)
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let engine = Arc::new(engine);
    // Held to the end: the engine stops with its last session.
    let anchor = engine.connect().map_err(failed)?;
    let version = version(&anchor).map_err(failed)?;
    let credentials = Credentials { user: start.user, password: start.password };
    let server = Arc::new(Server::new(Arc::clone(&engine), credentials, version.clone(), start.limits));
    let drained = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed(error.to_string()))?;
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(|error| failed(error.to_string()))?;
        send(control, &Report::Ready { version }).map_err(|error| failed(error.to_string()))?;
        let (stopped, stop) = tokio::sync::watch::channel(false);
        let parent = parent_gone(lines);
        let serving = server.serve(listener, wait(stop));
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            () = &mut serving => return Ok(true),
            () = parent => {}
            _ = terminate.recv() => {}
        }
        stopped.send_replace(true);
        Ok(tokio::time::timeout(start.drain, serving).await.is_ok())
    })?;
    runtime.shutdown_background();
    if drained {
        drop(anchor);
    } else {
        // A session is still at work; what it has not finished is not in the store.
        std::mem::forget(anchor);
    }
    Ok(())
}

async fn wait(mut stop: tokio::sync::watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Completes with the parent's second line, or with its end. A thread of its own waits, because a
/// descriptor that was inherited must not be made non-blocking for everyone who has it.
async fn parent_gone(mut lines: BufReader<UnixStream>) {
    let (gone, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        // Data, end and error all mean stop.
        let _ = lines.read(&mut byte);
        let _ = gone.send(());
    });
    let _ = wait.await;
}

/// Locks the data path for this process.
fn lock(data: &Path, patience: Duration) -> Result<File, Report> {
    let path = data.join(LOCK_FILE);
    let open = || File::options().create(true).append(true).open(&path);
    let failed = |error: &dyn std::fmt::Display| Report::Failed {
        reason: format!("cannot lock {}: {error}", path.display()),
    };
    let file = open().map_err(|error| failed(&error))?;
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_POLL);
            }
            Err(TryLockError::WouldBlock) => return Err(Report::Locked),
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
    }
}

/// Only when it is another: a full disk takes no start away.
fn write_config(data: &Path) -> Result<(), String> {
    let path = data.join(CONFIG_FILE);
    if std::fs::read(&path).is_ok_and(|found| found == CONFIG.as_bytes()) {
        return Ok(());
    }
    std::fs::write(&path, CONFIG).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn version(connection: &Connection<'_>) -> Result<String, String> {
    let output = connection.query(b"SELECT version()", "TabSeparatedRaw")?;
    Ok(String::from_utf8_lossy(output.bytes()).trim().to_owned())
}

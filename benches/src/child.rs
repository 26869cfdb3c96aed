//! Processes under load. None outlives its handle.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{measure, wire::Connection};

const START_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);

/// A process that listens.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The key it takes.
    pub(crate) key: String,
}

// === impl Process ===

impl Process {
    /// This program again, as one of its servers.
    pub(crate) fn server(arguments: &[&str], data: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").args(arguments).args(data).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().context("cannot start this program again")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let port: u16 = line.trim().parse().context("the server did not say its port")?;
        let mut process = Self { child, address: ([127, 0, 0, 1], port).into(), key: "none".to_owned() };
        if let Some(data) = data {
            process.key = process.wait(data, is_ready)?;
        }
        Ok(process)
    }

    /// The platform as its users start it, on a data folder, its log beside it. It need not be ready.
    pub(crate) fn platform(program: &Path, data: &Path) -> Result<Self> {
        Self::platform_with(program, data, &[])
    }

    /// The same, with environment variables.
    pub(crate) fn platform_with(program: &Path, data: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let [address, metrics] = free_addresses()?;
        let log = File::options().create(true).append(true).open(data.with_extension("log"))?;
        let mut command = Command::new(program);
        command.envs(environment.iter().copied());
        command.arg("serve").arg("--data").arg(data);
        command.args(["--listen", &address.to_string(), "--metrics", &metrics.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, address, key: String::new() })
    }

    /// Waits until the platform is ready.
    pub(crate) fn ready(self, data: &Path) -> Result<Self> {
        self.when(data, is_ready)
    }

    /// Waits until the platform does something.
    pub(crate) fn when(mut self, data: &Path, done: impl FnMut(&mut Connection) -> bool) -> Result<Self> {
        self.key = self.wait(data, done)?;
        Ok(self)
    }

    /// Waits; gives the key.
    fn wait(&mut self, data: &Path, mut done: impl FnMut(&mut Connection) -> bool) -> Result<String> {
        let end = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the process ended: {status}");
            }
            if let Ok(key) = fs::read_to_string(data.join("api-key")) {
                let key = key.trim().to_owned();
                if Connection::open(self.address, &key).is_ok_and(|mut connection| done(&mut connection)) {
                    return Ok(key);
                }
            }
            if Instant::now() > end {
                bail!("not ready after {} s", START_PATIENCE.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::open(self.address, &self.key)
    }

    /// Of the process itself.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        measure::cpu_seconds(self.pid())
    }

    /// Of the warehouse's process.
    pub(crate) fn engine(&self) -> Result<u32> {
        measure::children(self.pid())?.first().copied().context("the platform has no child")
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let end = Instant::now() + STOP_PATIENCE;
        while Instant::now() < end {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("not stopped after {} s", STOP_PATIENCE.as_secs())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two addresses where nobody listens now.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let (first, second) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok([first.local_addr()?, second.local_addr()?])
}

fn is_ready(connection: &mut Connection) -> bool {
    connection.call("GET", "/health/ready", b"").is_ok_and(|answer| answer.status == 200)
}

/// Where the platform's program is: beside this one.
pub(crate) fn platform_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("attribution");
    if !program.is_file() {
        bail!("{} is not there: build it first (make bench does)", program.display());
    }
    Ok(program)
}

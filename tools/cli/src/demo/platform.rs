//! The platform that the demo starts: `attribution serve` as a process of its own, on free ports and a new folder.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use crate::{
    client::{self, Client},
    out,
};

/// How long the platform may take until it is ready, and until it has stopped in order.
const READY_PATIENCE: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Where models are, beside the data that the demo sends.
const MODELS: &str = "ml/models";

const POLL: Duration = Duration::from_millis(50);

/// The lines of its log that are shown when something fails.
const LOG_LINES_SHOWN: usize = 20;

/// A running platform; it does not outlive this.
pub(super) struct Platform {
    child: Child,
    url: String,
    data: PathBuf,
    log: PathBuf,
    stopped: bool,
}

// === impl Platform ===

impl Platform {
    /// Starts it in the folder, on `data` there, which is made anew.
    ///
    /// # Errors
    /// The folder cannot be made, or the program not be started.
    pub(super) fn launch(folder: &Path) -> Result<Self> {
        let (data, log) = (folder.join("data"), folder.join("serve.log"));
        clear(&data)?;
        let (listen, metrics) = free_addresses()?;
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg("--data")
            .arg(&data)
            .args(["--listen", &listen, "--metrics", &metrics])
            .env("ATTRIBUTION_ML__MODELS", models()?)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start `attribution serve`")?;
        Ok(Self { child, url: format!("http://{listen}"), data, log, stopped: false })
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// Waits until it is ready, and gives a client with its key.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub(super) async fn ready(&mut self) -> Result<Client> {
        let end = Instant::now() + READY_PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.stopped = true;
                bail!("the platform ended: {status}");
            }
            // The key is written first; until then there is nothing to ask with.
            if let Ok(key) = client::key_of(&self.data) {
                let client = Client::new(&self.url, &key)?;
                if client.call(client.get("/health/ready")).await.is_ok() {
                    return Ok(client);
                }
            }
            if Instant::now() > end {
                bail!("the platform is not ready after {} s", READY_PATIENCE.as_secs());
            }
            sleep(POLL).await;
        }
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// It did not stop in time, or not in order.
    pub(super) async fn stop(&mut self) -> Result<()> {
        if self.stopped {
            return Ok(());
        }
        self.signal(Signal::TERM);
        let end = Instant::now() + STOP_PATIENCE;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break Some(status),
                None if Instant::now() > end => break None,
                None => sleep(POLL).await,
            }
        };
        self.stopped = status.is_some();
        match status {
            Some(status) if ExitStatus::success(&status) => Ok(()),
            Some(status) => bail!("the platform did not stop in order: {status}"),
            None => bail!("the platform did not stop within {} s and was killed", STOP_PATIENCE.as_secs()),
        }
    }

    /// Shows the end of its log.
    pub(super) fn show_log(&self) {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        out::note(format!("the end of {}:", self.log.display()));
        for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
            out::note(format!("  {}", crate::table::plain(line)));
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It is a child that was not waited for, so the id is still its own; if it has ended there is nothing to do.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if !self.stopped {
            // Both fail only when it has ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub(super) async fn interrupted() -> Result<&'static str> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

/// Removes an earlier demo's data, and nothing else.
fn clear(data: &Path) -> Result<()> {
    let name = data.display();
    let mut entries = match fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
    };
    if entries.next().is_some() && !data.join(service::settings::SETTINGS_FILE).is_file() {
        bail!("{name} is not the data folder of a platform: remove it, or give another --out");
    }
    fs::remove_dir_all(data).with_context(|| format!("cannot remove {name}"))
}

/// The models of the repository that the demo runs in.
fn models() -> Result<String> {
    let folder = std::path::absolute(MODELS)?;
    Ok(if folder.is_dir() { format!("onnx://{}", folder.display()) } else { String::new() })
}

/// Two addresses where nobody listens now.
fn free_addresses() -> Result<(String, String)> {
    let (first, second) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((first.local_addr()?.to_string(), second.local_addr()?.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_a_platforms_folder_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        clear(&data).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(data.join("thesis.txt"), "").unwrap();
        assert!(clear(&data).unwrap_err().to_string().contains("--out"));
        assert!(data.join("thesis.txt").exists());
        fs::write(data.join("settings.toml"), "").unwrap();
        clear(&data).unwrap();
        assert!(!data.exists());
    }
}

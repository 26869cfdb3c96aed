//! The real binary on a data folder of its own and on free ports.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

use crate::client::Client;

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const ALL: &str = "scopes = [\"ingest\", \"read\", \"admin\"]";

/// What is asked for besides the defaults.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    /// The settings file.
    pub(crate) settings: String,
    /// The configuration file.
    pub(crate) config: &'a str,
    pub(crate) env: Vec<(&'a str, String)>,
    /// The limit of open files.
    pub(crate) files: Option<u32>,
}

pub(crate) struct Platform {
    child: Child,
    stderr: Option<JoinHandle<()>>,
    pub(crate) lines: Arc<Mutex<Vec<String>>>,
    pub(crate) public: SocketAddr,
    pub(crate) operations: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
}

/// One key of a tenant in a settings file.
pub(crate) fn key(tenant: &str, name: &str, key: &str, rest: &str) -> String {
    let hash: String = Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[[tenants.{tenant}.keys]]\nname = \"{name}\"\nsha256 = \"{hash}\"\n{rest}\n")
}

/// Tenants, each with one key of all scopes: `<tenant>-key`.
pub(crate) fn tenants(names: &[&str]) -> String {
    let keys = names.iter().map(|name| key(name, "all", &format!("{name}-key"), ALL));
    std::iter::once("version = 1\n".to_owned()).chain(keys).collect()
}

impl Platform {
    pub(crate) async fn start(setup: Setup<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("settings.toml"), setup.settings).unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, setup.config).unwrap();
        let program = env!("CARGO_BIN_EXE_attribution");
        let mut command = match setup.files {
            None => Command::new(program),
            Some(files) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), program]);
                shell
            }
        };
        command.args(["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        command.arg("--data").arg(&data).arg("--config").arg(&config);
        command.envs(setup.env).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let into = lines.clone();
        let stderr = std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                into.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        // Known once the process has told them.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut platform =
            Self { child, stderr: Some(stderr), lines, public: nowhere, operations: nowhere, folder };
        let told = platform.line("listening").await;
        platform.public = told["address"].as_str().unwrap().parse().unwrap();
        platform.operations = told["operations"].as_str().unwrap().parse().unwrap();
        // Never behind TLS.
        let client = Client::new(platform.operations, 1);
        eventually("ready", async || client.get("/health/ready", None).await.status == 200).await;
        platform
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.public, 1)
    }

    /// Waits for a line of the log.
    pub(crate) async fn line(&self, message: &str) -> serde_json::Value {
        let mut found = None;
        let has = async || {
            let lines = self.lines.lock().unwrap();
            let values = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            found = values.into_iter().find(|value| value["message"] == message);
            found.is_some()
        };
        eventually(message, has).await;
        found.unwrap()
    }

    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) async fn metrics(&self) -> String {
        Client::new(self.operations, 1).get("/metrics", None).await.text()
    }

    /// Stops in order; the log, whole.
    pub(crate) async fn stop(mut self) -> (Vec<String>, tempfile::TempDir) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(begin.elapsed() < PATIENCE, "it does not stop"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success(), "{status}");
        self.stderr.take().unwrap().join().unwrap();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        let lines = std::mem::take(&mut *self.lines.lock().unwrap());
        (lines, folder)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.lines.lock().unwrap().join("\n"));
        }
    }
}

/// Waits for something to become true, with a bound.
pub(crate) async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}

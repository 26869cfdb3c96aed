//! A CQL server for tests: Apache Cassandra, one node in a folder of its own, or whatever `SCYLLA_URL` names.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use crate::{
    ports,
    process::{copy, eventually},
    tls,
};

/// What a Cassandra does by default: what it acknowledged in the last seconds may be lost with it.
const PERIODIC: &str = "commitlog_sync: periodic\ncommitlog_sync_period: 10000ms";

/// Names a CQL server that runs already, with its parameters and without a keyspace: `scylla://host:9042?user=…`.
pub const URL_VARIABLE: &str = "SCYLLA_URL";

/// A server of our own; it ends, and its folder goes, with this value, and with this process, however that ends.
pub struct Cassandra {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Of its management, for `nodetool`.
    jmx: u16,
    running: Option<Running>,
}

struct Running {
    /// A shell that kills the server when our end of its input is closed, and removes the folder unless told to keep it.
    guard: Child,
    server: Pid,
}

/// Where tests find a CQL server.
pub enum CqlServer {
    /// One of our own.
    Own(Box<Cassandra>),
    /// One that runs already.
    Given(String),
}

// The server is a child of the shell, so that it is gone even when the tests are killed.
const GUARD: &str = r#"folder=$1; shift; "$@" </dev/null >>"$folder/log" 2>&1 & echo $!; read -r word; kill -9 $! 2>/dev/null; wait
[ "$word" = keep ] || rm -rf "$folder""#;

// === impl CqlServer ===

impl CqlServer {
    /// The server that `SCYLLA_URL` names, or a new one.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn start() -> Self {
        match std::env::var(URL_VARIABLE) {
            Ok(url) if !url.is_empty() => Self::Given(url),
            _ => Self::Own(Box::new(Cassandra::start().await)),
        }
    }

    /// The URL of a keyspace.
    pub fn url(&self, keyspace: &str) -> String {
        match self {
            Self::Own(cassandra) => format!("scylla://{}/{keyspace}", cassandra.address()),
            Self::Given(url) => match url.split_once('?') {
                Some((address, parameters)) => format!("{address}/{keyspace}?{parameters}"),
                None => format!("{url}/{keyspace}"),
            },
        }
    }

    /// The server, if it may be stopped.
    pub fn own(&mut self) -> Option<&mut Cassandra> {
        match self {
            Self::Own(cassandra) => Some(cassandra),
            Self::Given(_) => None,
        }
    }
}

// === impl Cassandra ===

impl Cassandra {
    /// Installs it where it is missing, and starts it on an empty folder. Killed, it may lose what it acknowledged within the
    /// last ten seconds, as servers do by default.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn start() -> Self {
        Self::with(PERIODIC, "AllowAllAuthenticator", false).await
    }

    /// The same, but what it acknowledged is durable.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn durable() -> Self {
        let sync = "commitlog_sync: group\ncommitlog_sync_group_window: 5ms";
        Self::with(sync, "AllowAllAuthenticator", false).await
    }

    /// Takes those alone who have a password, first of all `cassandra` with the password `cassandra`, over TLS with
    /// [`tls::CERTIFICATE`].
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn start_guarded() -> Self {
        Self::with(PERIODIC, "PasswordAuthenticator", true).await
    }

    async fn with(commitlog_sync: &str, authenticator: &str, over_tls: bool) -> Self {
        let program = install();
        let folder = tempfile::Builder::new().prefix("cassandra-").tempdir();
        let folder = folder.expect("a temporary folder").keep();
        fs::create_dir_all(folder.join("data/triggers")).expect("a writable folder");
        let [port, storage, storage_tls, jmx] = ports::free();
        let yaml = include_str!("cassandra.yaml")
            .replace("@FOLDER@", &folder.display().to_string())
            .replace("@COMMITLOG_SYNC@", commitlog_sync)
            .replace("@PORT@", &port.to_string())
            .replace("@STORAGE_PORT@", &storage.to_string())
            .replace("@STORAGE_TLS_PORT@", &storage_tls.to_string())
            .replace("@AUTHENTICATOR@", authenticator)
            .replace("@TLS@", &over_tls.to_string());
        tls::write_key_store(&folder.join("server.pem"));
        for (name, text) in [
            ("cassandra.yaml", yaml.as_str()),
            ("logback.xml", include_str!("logback.xml")),
            ("jvm.options", include_str!("jvm.options")),
        ] {
            fs::write(folder.join(name), text).expect("a writable folder");
        }
        let mut cassandra = Self { program, folder, port, jmx, running: None };
        cassandra.restart().await;
        cassandra
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same data, and waits until it listens.
    ///
    /// # Panics
    /// It runs, or does not listen in time.
    pub async fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let java = self.java();
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&self.folder)
            .arg(java.get_program())
            .args(java.get_args())
            .arg(format!("-javaagent:{}/libs/jamm-0.4.0.jar", self.program.display()))
            .arg(format!("-Dcassandra.jmx.local.port={}", self.jmx))
            .arg("org.apache.cassandra.service.CassandraDaemon")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let told = guard.stdout.take().expect("it is piped");
        BufReader::new(told).read_line(&mut line).expect("the process id of the server");
        let line = line.trim();
        let server = line.parse().ok().and_then(Pid::from_raw).expect("a process id");
        self.running = Some(Running { guard, server });
        let address = self.address();
        eventually("the CQL server listens", async || {
            assert!(Path::new(&format!("/proc/{line}")).exists(), "the CQL server ended:\n{}", self.log());
            TcpStream::connect(&address).await.is_ok()
        })
        .await;
    }

    fn java(&self) -> Command {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut java = Command::new("java");
        java.arg(format!("@{}", at("jvm.options")))
            .arg(format!("-Dcassandra.config=file://{}", at("cassandra.yaml")))
            .arg(format!("-Dlogback.configurationFile={}", at("logback.xml")))
            .arg(format!("-Dcassandra.storagedir={}", at("data")))
            .arg(format!("-Dcassandra.triggers_dir={}", at("data/triggers")))
            .args(["-cp", &format!("{}/libs/*", self.program.display())]);
        java
    }

    /// Copies what a keyspace holds on disk at this moment, as `nodetool snapshot` tells it, into a new folder.
    ///
    /// # Panics
    /// It does not run, or there is no such keyspace.
    pub fn snapshot(&self, keyspace: &str, into: &Path) {
        const TAG: &str = "drill";
        let output = self
            .java()
            .args(["-Xms32m", "-Xmx128m"])
            // It keeps a history in the user's folder.
            .arg(format!("-Duser.home={}", self.folder.display()))
            .args(["org.apache.cassandra.tools.NodeTool", "-h", "127.0.0.1", "-p", &self.jmx.to_string()])
            .args(["snapshot", "-t", TAG, keyspace])
            .output()
            .expect("java runs");
        let said = || String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        assert!(output.status.success(), "no snapshot of {keyspace}:\n{}", said());
        fs::create_dir_all(into).expect("a writable folder");
        for (table, folder) in self.tables(keyspace) {
            copy(&folder.join("snapshots").join(TAG), &into.join(table));
        }
    }

    /// Puts a snapshot in the place of a keyspace whose tables were just made and are empty; it restarts.
    ///
    /// # Panics
    /// The keyspace has other tables than the snapshot.
    pub async fn restore(&mut self, keyspace: &str, from: &Path) {
        for (table, folder) in self.tables(keyspace) {
            for file in fs::read_dir(from.join(&table)).expect("a table of the snapshot") {
                let file = file.expect("a file").path();
                let name = file.file_name().expect("a file has a name");
                if name != "manifest.json" && name != "schema.cql" {
                    fs::copy(&file, folder.join(name)).expect("a writable folder");
                }
            }
        }
        self.kill();
        self.restart().await;
    }

    /// Kills it, and everything that it ever held is gone.
    pub fn destroy(&mut self) {
        self.kill();
        let data = self.folder.join("data");
        fs::remove_dir_all(&data).expect("a folder of our own");
        fs::create_dir_all(data.join("triggers")).expect("a writable folder");
    }

    /// The folders of a keyspace's tables, by name.
    fn tables(&self, keyspace: &str) -> Vec<(String, PathBuf)> {
        let folders = fs::read_dir(self.folder.join("data/data").join(keyspace)).expect("a keyspace");
        let table = |path: PathBuf| {
            // The table's id follows its name.
            let (name, _) = path.file_name()?.to_str()?.rsplit_once('-')?;
            Some((name.to_owned(), path))
        };
        folders.filter_map(|entry| table(entry.ok()?.path())).collect()
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    pub fn kill(&mut self) {
        self.end("keep");
    }

    /// Stops it where it is.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Everything it has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn end(&mut self, word: &str) {
        if let Some(mut running) = self.running.take() {
            running.signal(Signal::KILL);
            let told = running.guard.stdin.take().map(|mut input| writeln!(input, "{word}"));
            // When the shell was killed there is nobody to tell.
            let _ = (told, running.guard.wait());
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = &self.running {
            running.signal(signal);
        }
    }
}

impl Drop for Cassandra {
    fn drop(&mut self) {
        self.end("remove");
    }
}

// === impl Running ===

impl Running {
    fn signal(&self, signal: Signal) {
        // It may have ended.
        let _ = kill_process(self.server, signal);
    }
}

fn install() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch-servers.sh");
    let output = Command::new(script).arg("cassandra").stderr(Stdio::inherit()).output();
    let output = output.expect("a shell");
    assert!(output.status.success(), "Cassandra is not there, see above");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

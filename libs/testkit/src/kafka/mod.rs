//! Kafka for tests: one broker or several, each in a folder of its own, or whatever `KAFKA_URL` names.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{ports, process::eventually, tls, wire::Wire};

/// Names a cluster that runs already, with its parameters and without a topic: `kafka://host:9092?replication=1`.
pub const URL_VARIABLE: &str = "KAFKA_URL";

/// Ids of the brokers' folders: any that are not reserved.
const FOLDERS: [&str; 3] = ["3Db5QLSqSZieL3rJBUUegA", "5Ej7QLSqSZieL3rJBUUegA", "7Ft9QLSqSZieL3rJBUUegA"];

/// Clusters that this process has started, each with an id of its own.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Who may log in at [`Cluster::login`] and [`Cluster::tls`].
pub const USER: &str = "attribution";
/// The user's password.
pub const PASSWORD: &str = "a-password-of-tests";

// The broker is a child of the shell, so that it is gone, and its folder too, even when the tests are killed.
const GUARD: &str = r#"folder=$1; shift; "$@" </dev/null >>"$folder/log" 2>&1 & echo $!; read -r word; kill -9 $! 2>/dev/null; wait
[ "$word" = keep ] || rm -rf "$folder""#;

/// Where tests find Kafka.
pub enum Kafka {
    /// Brokers of our own.
    Own(Cluster),
    /// A cluster that runs already.
    Given(String),
}

/// Brokers of our own; they end, and their folders go, with this value, and with this process, however that ends.
pub struct Cluster {
    program: PathBuf,
    brokers: Vec<Broker>,
    _logging: TempDir,
    logging: PathBuf,
}

struct Broker {
    folder: PathBuf,
    port: u16,
    /// Where clients are sent.
    advertised: u16,
    login_port: u16,
    tls_port: u16,
    running: Option<Running>,
}

struct Running {
    /// A shell that kills the broker when our end of its input is closed, and removes the folder unless told to keep it.
    guard: Child,
    broker: Pid,
}

// === impl Kafka ===

impl Kafka {
    /// The cluster that `KAFKA_URL` names, or one new broker.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn start() -> Self {
        match std::env::var(URL_VARIABLE) {
            Ok(url) if !url.is_empty() => Self::Given(url),
            _ => Self::Own(Cluster::start(1).await),
        }
    }

    /// The URL of a topic, which is made with so many partitions where it is missing.
    pub fn url(&self, topic: &str, partitions: u32) -> String {
        match self {
            Self::Own(cluster) => cluster.url(topic, partitions),
            Self::Given(url) => {
                let (address, parameters) = url.split_once('?').unwrap_or((url, "acks=all"));
                format!("{}/{topic}?partitions={partitions}&{parameters}", address.trim_end_matches('/'))
            }
        }
    }

    /// The brokers, if they may be stopped.
    pub fn own(&mut self) -> Option<&mut Cluster> {
        match self {
            Self::Own(cluster) => Some(cluster),
            Self::Given(_) => None,
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Installs Kafka where it is missing, and starts one broker or three on empty folders.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn start(brokers: usize) -> Self {
        assert!([1, FOLDERS.len()].contains(&brokers), "one broker, or three");
        let ports: [u16; 2 * FOLDERS.len()] = ports::free();
        let (ports, controllers) = ports[..2 * brokers].split_at(brokers);
        Self::advertised(ports, ports, controllers).await
    }

    /// One broker, to which clients find a wire that can be cut.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn behind_a_wire() -> (Self, Wire) {
        let [port, controller] = ports::free();
        let wire = Wire::to(&format!("127.0.0.1:{port}")).await;
        (Self::advertised(&[port], &[wire.address().port()], &[controller]).await, wire)
    }

    /// Brokers on these ports, which send clients to others.
    async fn advertised(ports: &[u16], advertised: &[u16], controllers: &[u16]) -> Self {
        let brokers = ports.len();
        let program = install();
        let logging = tempfile::tempdir().expect("a temporary folder");
        let log4j = logging.path().join("log4j2.properties");
        fs::write(&log4j, include_str!("log4j2.properties")).expect("a writable folder");
        let addresses: Vec<String> = controllers.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let guarded: [u16; 2 * FOLDERS.len()] = ports::free();
        let ports = ports.iter().zip(advertised).zip(controllers).zip(guarded.chunks_exact(2));
        let brokers = (1..).zip(ports).map(|(node, (((port, advertised), controller), guarded))| {
            let [login_port, tls_port] = [guarded[0], guarded[1]];
            let folder = tempfile::Builder::new().prefix("kafka-").tempdir();
            let folder = folder.expect("a temporary folder").keep();
            let properties = include_str!("server.properties")
                .replace("@NODE@", &node.to_string())
                .replace("@PORT@", &port.to_string())
                .replace("@ADVERTISED_PORT@", &advertised.to_string())
                .replace("@LOGIN_PORT@", &login_port.to_string())
                .replace("@TLS_PORT@", &tls_port.to_string())
                .replace("@USER@", USER)
                .replace("@PASSWORD@", PASSWORD)
                .replace("@CONTROLLER_PORT@", &controller.to_string())
                .replace("@CONTROLLERS@", &addresses.join(","))
                .replace("@FOLDER@", &folder.display().to_string())
                .replace("@REPLICAS@", &brokers.to_string())
                .replace("@IN_SYNC@", &brokers.div_ceil(2).to_string());
            fs::write(folder.join("server.properties"), properties).expect("a writable folder");
            tls::write_key_store(&folder.join("server.pem"));
            Broker { folder, port: *port, advertised: *advertised, login_port, tls_port, running: None }
        });
        let mut cluster = Self { program, brokers: brokers.collect(), _logging: logging, logging: log4j };
        cluster.format(&addresses);
        for broker in 0..cluster.brokers.len() {
            cluster.spawn(broker);
        }
        for broker in 0..cluster.brokers.len() {
            cluster.started(broker).await;
        }
        cluster
    }

    /// All brokers at once: each takes a second of a processor.
    fn format(&self, controllers: &[String]) {
        let voters: Vec<String> = (1..)
            .zip(controllers.iter().zip(FOLDERS))
            .map(|(node, (address, folder))| format!("{node}@{address}:{folder}"))
            .collect();
        let id = format!("MkU3OEVBNTcwNTJE{:05}A", CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let formatting: Vec<Child> = self
            .brokers
            .iter()
            .map(|broker| {
                self.java("-Xmx128m")
                    .args(["kafka.tools.StorageTool", "format", "-t", &id])
                    .args(["--initial-controllers", &voters.join(",")])
                    .args(["--add-scram", &format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]")])
                    .arg("-c")
                    .arg(broker.folder.join("server.properties"))
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("java runs")
            })
            .collect();
        for child in formatting {
            let output = child.wait_with_output().expect("a child of our own");
            let said = || [output.stdout.clone(), output.stderr.clone()].concat();
            assert!(
                output.status.success(),
                "a folder is not formatted:\n{}",
                String::from_utf8_lossy(&said())
            );
        }
    }

    fn java(&self, heap: &str) -> Command {
        let mut java = Command::new("java");
        java.arg(heap)
            .args(["-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg(format!("-Dlog4j2.configurationFile=file://{}", self.logging.display()))
            .args(["-cp", &format!("{}/libs/*", self.program.display())]);
        java
    }

    /// The URL of a topic that is made with so many partitions where it is missing, on all brokers.
    pub fn url(&self, topic: &str, partitions: u32) -> String {
        let brokers = self.brokers.len();
        let addresses: Vec<String> = (0..brokers).map(|broker| self.address(broker)).collect();
        format!(
            "kafka://{}/{topic}?acks=all&partitions={partitions}&replication={brokers}&min_insync_replicas={}",
            addresses.join(","),
            brokers.div_ceil(2)
        )
    }

    /// Where clients find a broker; the first is 0.
    pub fn address(&self, broker: usize) -> String {
        format!("127.0.0.1:{}", self.brokers[broker].advertised)
    }

    /// Where the first broker listens for those who log in by `PLAIN`, without TLS.
    pub fn login(&self) -> String {
        format!("127.0.0.1:{}", self.brokers[0].login_port)
    }

    /// Where the first broker listens for those who log in by `SCRAM-SHA-512`, over TLS with [`tls::CERTIFICATE`].
    pub fn tls(&self) -> String {
        format!("localhost:{}", self.brokers[0].tls_port)
    }

    /// Kills a broker, as `kill -9` does, and waits for its end.
    pub fn kill(&mut self, broker: usize) {
        self.brokers[broker].end("keep");
    }

    /// Starts a killed broker again on the same data, and waits until it listens.
    ///
    /// # Panics
    /// It runs, or does not start in time.
    pub async fn restart(&mut self, broker: usize) {
        self.spawn(broker);
        self.started(broker).await;
    }

    /// Stops a broker where it is.
    pub fn pause(&self, broker: usize) {
        self.brokers[broker].signal(Signal::STOP);
    }

    /// Lets a paused broker go on.
    pub fn resume(&self, broker: usize) {
        self.brokers[broker].signal(Signal::CONT);
    }

    fn spawn(&mut self, broker: usize) {
        let java = self.java("-Xmx320m");
        let broker = &mut self.brokers[broker];
        assert!(broker.running.is_none(), "it runs");
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&broker.folder)
            .arg(java.get_program())
            .args(java.get_args())
            .arg("kafka.Kafka")
            .arg(broker.folder.join("server.properties"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let told = guard.stdout.take().expect("it is piped");
        BufReader::new(told).read_line(&mut line).expect("the process id of the broker");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        broker.running = Some(Running { guard, broker: pid });
    }

    async fn started(&self, broker: usize) {
        let broker = &self.brokers[broker];
        let address = format!("127.0.0.1:{}", broker.port);
        let process = broker.running.as_ref().map(|running| running.broker.as_raw_nonzero());
        let process = format!("/proc/{}", process.expect("it was started"));
        eventually("the broker listens", async || {
            assert!(Path::new(&process).exists(), "the broker ended:\n{}", broker.log());
            TcpStream::connect(&address).await.is_ok()
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for broker in &mut self.brokers {
            broker.end("remove");
        }
    }
}

// === impl Broker ===

impl Broker {
    /// Everything it has written to its log.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn end(&mut self, word: &str) {
        let Some(mut running) = self.running.take() else {
            if word == "remove" {
                // What is left of a killed one; nothing more can be done about it here.
                let _ = fs::remove_dir_all(&self.folder);
            }
            return;
        };
        running.signal(Signal::KILL);
        let told = running.guard.stdin.take().map(|mut input| writeln!(input, "{word}"));
        // When the shell was killed there is nobody to tell.
        let _ = (told, running.guard.wait());
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = &self.running {
            running.signal(signal);
        }
    }
}

// === impl Running ===

impl Running {
    fn signal(&self, signal: Signal) {
        // It may have ended by itself; its parent, the shell, has not, so that the id is still its own.
        let _ = kill_process(self.broker, signal);
    }
}

/// The folder of Kafka's jars, fetched where it is missing.
fn install() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch-servers.sh");
    let output = Command::new(script).arg("kafka").stderr(Stdio::inherit()).output().expect("a shell");
    assert!(output.status.success(), "Kafka cannot be installed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

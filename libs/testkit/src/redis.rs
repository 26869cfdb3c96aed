//! A Redis for tests: one node or a cluster, in folders of their own, or whatever `REDIS_URL` names.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{ports, process::eventually, tls::Front};

/// Names a server that runs already: `redis://host:6379`.
pub const URL_VARIABLE: &str = "REDIS_URL";

const SLOTS: usize = 16_384;
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// One node of our own; it is killed, and its folder goes, with this value.
pub struct Node {
    folder: tempfile::TempDir,
    program: PathBuf,
    port: u16,
    cluster: bool,
    password: Option<String>,
    child: Child,
}

/// A few nodes of our own that share the slots evenly.
pub struct Cluster {
    nodes: Vec<Node>,
    /// One for each node, if clients are to come over TLS: then the nodes tell of these.
    fronts: Vec<Front>,
}

/// Where tests find a Redis.
pub enum Redis {
    /// One of our own.
    Own(Box<Node>),
    /// One that runs already.
    Given(String),
}

// === impl Redis ===

impl Redis {
    /// The server that `REDIS_URL` names, or a new one.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn start() -> Self {
        match std::env::var(URL_VARIABLE) {
            Ok(url) if !url.is_empty() => Self::Given(url),
            _ => Self::Own(Box::new(Node::start().await)),
        }
    }

    /// Its URL, without parameters.
    pub fn url(&self) -> String {
        match self {
            Self::Own(node) => format!("redis://{}", node.address()),
            Self::Given(url) => url.clone(),
        }
    }

    /// The server, if it may be stopped.
    pub fn own(&mut self) -> Option<&mut Node> {
        match self {
            Self::Own(node) => Some(node),
            Self::Given(_) => None,
        }
    }
}

// === impl Node ===

impl Node {
    /// Installs it where it is missing, and starts it on an empty folder.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn start() -> Self {
        Self::with(false, None).await
    }

    /// Takes commands of those alone who know the password.
    ///
    /// # Panics
    /// It cannot be installed or started.
    pub async fn start_with_password(password: &str) -> Self {
        Self::with(false, Some(password.to_owned())).await
    }

    async fn with(cluster: bool, password: Option<String>) -> Self {
        let program = install();
        let folder = tempfile::Builder::new().prefix("redis-").tempdir().expect("a temporary folder");
        let [port] = ports::free();
        let child = spawn(&program, folder.path(), port, cluster, password.as_deref());
        let node = Self { folder, program, port, cluster, password, child };
        node.answers().await;
        node
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends one command and gives the first line of the answer; `None`: it does not answer.
    pub fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE)).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        Some(answer.trim_end().to_owned())
    }

    /// Kills it, as `kill -9` does; what it held is gone.
    pub fn kill(&mut self) {
        // Both fail only when it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty.
    pub async fn restart(&mut self) {
        self.kill();
        self.child =
            spawn(&self.program, self.folder.path(), self.port, self.cluster, self.password.as_deref());
        self.answers().await;
    }

    /// Stops it where it is.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("no process has the id 0");
        kill_process(pid, signal).expect("a process of our own that was not waited for");
    }

    async fn answers(&self) {
        let expected = if self.password.is_some() { "-NOAUTH" } else { "+PONG" };
        eventually("the Redis answers", async || {
            self.ask("PING").is_some_and(|answer| answer.starts_with(expected))
        })
        .await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts three nodes, all of them masters, and waits until each knows the others.
    ///
    /// # Panics
    /// They cannot be installed or started.
    pub async fn start() -> Self {
        Self::with(false).await
    }

    /// The same for clients that come over TLS.
    ///
    /// # Panics
    /// They cannot be installed or started.
    pub async fn start_over_tls() -> Self {
        Self::with(true).await
    }

    async fn with(tls: bool) -> Self {
        let (mut nodes, mut fronts) = (Vec::new(), Vec::new());
        for index in 0..3 {
            let node = Node::with(true, None).await;
            let (from, to) = (SLOTS * index / 3, SLOTS * (index + 1) / 3 - 1);
            node.tell(&format!("CLUSTER ADDSLOTSRANGE {from} {to}"));
            if tls {
                let front = Front::start(&node.address()).await;
                let port = front.address().rsplit(':').next().expect("a port");
                node.tell(&format!("CONFIG SET cluster-announce-port {port}"));
                fronts.push(front);
            }
            nodes.push(node);
        }
        let cluster = Self { nodes, fronts };
        for other in &cluster.nodes[1..] {
            cluster.nodes[0].tell(&format!("CLUSTER MEET 127.0.0.1 {}", other.port));
        }
        let addresses = cluster.addresses();
        eventually("the nodes of the Redis cluster know each other", async || {
            cluster.nodes.iter().all(|node| node.knows(&addresses))
        })
        .await;
        cluster
    }

    /// Its URL, without parameters.
    pub fn url(&self) -> String {
        let scheme = if self.fronts.is_empty() { "redis-cluster" } else { "rediss-cluster" };
        format!("{scheme}://{}", self.addresses()[0])
    }

    /// Where clients find the nodes.
    fn addresses(&self) -> Vec<String> {
        if self.fronts.is_empty() {
            return self.nodes.iter().map(Node::address).collect();
        }
        self.fronts.iter().map(|front| front.address().to_owned()).collect()
    }
}

impl Node {
    fn tell(&self, command: &str) {
        assert_eq!(self.ask(command).as_deref(), Some("+OK"), "{command}");
    }

    /// Whether all slots are served, and by nodes at these addresses.
    fn knows(&self, addresses: &[String]) -> bool {
        let serves = self.text("CLUSTER INFO").is_some_and(|info| info.contains("cluster_state:ok"));
        let nodes = self.text("CLUSTER NODES").unwrap_or_default();
        let known = |address: &String| nodes.contains(&format!(" {address}@"));
        serves && nodes.lines().count() == addresses.len() && addresses.iter().all(known)
    }

    /// An answer of several lines.
    fn text(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE)).ok()?;
        stream.write_all(format!("{command}\r\n").as_bytes()).ok()?;
        let mut answer = BufReader::new(stream);
        let mut length = String::new();
        answer.read_line(&mut length).ok()?;
        let mut text = vec![0; length.trim_end().strip_prefix('$')?.parse().ok()?];
        answer.read_exact(&mut text).ok()?;
        String::from_utf8(text).ok()
    }
}

fn spawn(program: &Path, folder: &Path, port: u16, cluster: bool, password: Option<&str>) -> Child {
    let mut command = Command::new(program);
    command
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
        ])
        .arg(folder);
    if cluster {
        command.args(["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]);
    }
    if let Some(password) = password {
        command.args(["--requirepass", password]);
    }
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    started.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()))
}

fn install() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch-servers.sh");
    let output = Command::new(script).arg("redis").stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {script}: {error}"));
    assert!(output.status.success(), "{script} failed; set {URL_VARIABLE} to use a server that runs already");
    let folder = String::from_utf8(output.stdout).expect("a path of plain text");
    Path::new(folder.trim()).join("valkey-server")
}

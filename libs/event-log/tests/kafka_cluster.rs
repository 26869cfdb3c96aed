//! The log on three real brokers that die, stand still and come back, and its consumers that do.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use event_log::{Appended, Entry, EventLog, LogError, conformance::read_all};
use rustix::process::{Pid, Signal, kill_process};
use testkit::{
    kafka::Cluster,
    process::{PATIENCE, eventually},
};
use tokio::{sync::watch, task::JoinSet};

const PARTITIONS: u32 = 3;
const APPENDERS: u32 = 2;

/// Appends to all partitions until it is told to stop.
struct Load {
    acknowledged: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    appenders: JoinSet<Vec<(u32, Appended, Bytes)>>,
}

// === impl Load ===

impl Load {
    fn start(log: &Arc<dyn EventLog>, name: &str) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), watch::Sender::new(false));
        let mut appenders = JoinSet::new();
        for appender in 0..APPENDERS * PARTITIONS {
            let (log, name) = (Arc::clone(log), format!("{name} {appender}"));
            let (acknowledged, stop) = (Arc::clone(&acknowledged), stop.subscribe());
            let partition = appender % PARTITIONS;
            appenders.spawn(async move {
                let mut kept = Vec::new();
                // What was not acknowledged is not sent again: it may be there once, or not.
                for index in 0_u64.. {
                    if *stop.borrow() {
                        break;
                    }
                    let frame = Bytes::from(format!("{name}:{index}"));
                    match log.append(partition, frame.clone()).await {
                        Ok(at) => {
                            kept.push((partition, at, frame));
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(LogError::Indeterminate(_) | LogError::Unavailable(_)) => {}
                        Err(other) => panic!("{other}"),
                    }
                    // Some hundred a second: more would only make the test longer.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                kept
            });
        }
        Self { acknowledged, stop, appenders }
    }

    /// Waits until every appender could have gone on for a while.
    async fn goes_on(&self, what: &str) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually(what, async || self.acknowledged.load(Ordering::Relaxed) >= before + 300).await;
    }

    /// Stops, and checks that every acknowledged frame is read at its place, each once and in order.
    async fn check(self, log: &dyn EventLog) {
        self.stop.send_replace(true);
        let acknowledged: Vec<_> = self.appenders.join_all().await.into_iter().flatten().collect();
        let mut found: HashMap<(u32, Bytes), u64> = HashMap::new();
        for partition in 0..PARTITIONS {
            let records = read_all(log, partition, 0).await;
            assert!(records.is_sorted_by(|a, b| a.time_micros < b.time_micros), "times go on");
            let mut last: HashMap<String, u64> = HashMap::new();
            for record in records {
                for frame in record.frames {
                    let text = String::from_utf8(frame.to_vec()).unwrap();
                    let (appender, index) = text.split_once(':').unwrap();
                    let (appender, index) = (appender.to_owned(), index.parse::<u64>().unwrap());
                    assert!(
                        last.insert(appender, index).is_none_or(|last| last < index),
                        "{text}: in order, once"
                    );
                    assert_eq!(found.insert((partition, frame), record.offset), None, "{text}: twice");
                }
            }
        }
        for (partition, at, frame) in &acknowledged {
            let offset = found.get(&(*partition, frame.clone()));
            assert_eq!(offset, Some(&at.offset), "partition {partition}: {frame:?} was acknowledged");
        }
    }
}

async fn open(cluster: &Cluster, topic: &str) -> Arc<dyn EventLog> {
    let url = cluster.url(topic, PARTITIONS);
    event_log::open(&format!("{url}&delivery_millis_max=5000&session_millis=6000")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn acknowledged_records_outlive_brokers_and_consumers() {
    // This test starts itself as the other process.
    if let (Some(folder), Ok(url)) = (std::env::var_os(FOLDER), std::env::var(URL)) {
        return consume_and_stand_still(PathBuf::from(folder), &url).await;
    }
    let mut cluster = Cluster::start(3).await;
    let log = open(&cluster, "faults").await;
    let load = Load::start(&log, "load");
    load.goes_on("three brokers").await;

    cluster.kill(0);
    load.goes_on("one of three is down").await;
    cluster.kill(1);
    eventually("with two down an append is refused", async || {
        log.append(0, "refused:0".into()).await.is_err()
    })
    .await;
    assert!(log.health().unwrap_err().starts_with("kafka: "));
    cluster.restart(1).await;
    load.goes_on("the second is back").await;
    cluster.restart(0).await;
    load.goes_on("the first is back").await;
    eventually("it says that it is well", async || log.health() == Ok(())).await;

    // Longer than the session of a broker: its partitions are others' when it goes on.
    cluster.pause(2);
    let paused = tokio::time::Instant::now();
    load.goes_on("one stands still").await;
    tokio::time::sleep_until(paused + Duration::from_secs(8)).await;
    load.goes_on("one has stood still for longer than its session").await;
    cluster.resume(2);
    load.goes_on("it goes on").await;
    load.check(&*log).await;

    consumers_come_and_go(&cluster).await;
}

/// What a consumer does with a record: a file of its position's name, the same whoever writes it.
fn effect(folder: &Path, partition: u32, offset: u64, frames: &[Bytes]) {
    let own = folder.join(format!(".{partition}-{offset}-{}", std::process::id()));
    fs::write(&own, frames.concat()).unwrap();
    fs::rename(own, folder.join(format!("{partition}-{offset}"))).unwrap();
}

/// Consumes as a member: effects, then the position. `before_commit` is told how many records were consumed.
async fn consume(log: Arc<dyn EventLog>, folder: PathBuf, before_commit: impl Fn(u64) -> bool) {
    let mut assigned = log.join("worker").await.unwrap();
    let mut positions: BTreeMap<u32, u64> = BTreeMap::new();
    let mut consumed = 0;
    loop {
        let own: BTreeSet<u32> = assigned.borrow_and_update().clone();
        positions.retain(|partition, _| own.contains(partition));
        if own.is_empty() {
            let _ = tokio::time::timeout(Duration::from_millis(50), assigned.changed()).await;
        }
        for partition in own {
            let from = match positions.get(&partition) {
                Some(from) => *from,
                None => match log.committed("worker", partition).await {
                    Ok(committed) => committed.unwrap_or(0),
                    Err(_) => continue,
                },
            };
            let Ok(entries) = log.read(partition, from, 1 << 16, Duration::from_millis(20)).await else {
                continue;
            };
            let mut to = from;
            for entry in entries {
                let Entry::Record(record) = entry else { panic!("a gap: {entry:?}") };
                if !assigned.borrow().contains(&partition) {
                    break;
                }
                effect(&folder, partition, record.offset, &record.frames);
                (to, consumed) = (record.offset + 1, consumed + 1);
            }
            positions.insert(partition, to);
            if to > from {
                let was_stopped = before_commit(consumed);
                let committed = log.commit("worker", partition, to).await;
                if was_stopped {
                    fs::write(folder.join(".answer"), format!("{}", committed.is_ok())).unwrap();
                }
                if committed.is_err() {
                    positions.remove(&partition);
                }
            }
        }
    }
}

const FOLDER: &str = "KAFKA_CONSUMER_FOLDER";
const URL: &str = "KAFKA_CONSUMER_URL";

/// The process that becomes a zombie: it stops itself between an effect and its commit.
async fn consume_and_stand_still(folder: PathBuf, url: &str) {
    let log = event_log::open(url).await.unwrap();
    let stopped = std::cell::Cell::new(false);
    let stop = |consumed| {
        let stops = consumed >= 20 && !stopped.replace(consumed >= 20);
        if stops {
            fs::write(folder.join(".stopped"), "").unwrap();
            kill_process(rustix::process::getpid(), Signal::STOP).unwrap();
        }
        stops
    };
    consume(log, folder.clone(), stop).await;
}

/// Consumers join, leave and stand still during load; effects are complete, and a zombie changes nothing.
async fn consumers_come_and_go(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let log = open(cluster, "consumed").await;
    let load = Load::start(&log, "load");
    let url = format!("{}&session_millis=6000", cluster.url("consumed", PARTITIONS));

    let mut zombie = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "acknowledged_records_outlive_brokers_and_consumers", "--nocapture"])
        .env(FOLDER, &path)
        .env(URL, &url)
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&zombie);
    eventually("the process stands still", async || path.join(".stopped").exists()).await;

    let mut consumers = JoinSet::new();
    let first = consumers.spawn(consume(open(cluster, "consumed").await, path.clone(), |_| false));
    load.goes_on("one consumer").await;
    consumers.spawn(consume(open(cluster, "consumed").await, path.clone(), |_| false));
    load.goes_on("two consumers").await;
    first.abort();
    load.goes_on("the first has left").await;
    let reader = open(cluster, "consumed").await;
    load.stop.send_replace(true);
    let stopped = load.acknowledged.load(Ordering::Relaxed);
    assert!(stopped > 0);
    load.check(&*reader).await;

    let consumed = async || {
        for partition in 0..PARTITIONS {
            let committed = reader.committed("worker", partition).await.unwrap_or(None).unwrap_or(0);
            for offset in 0..committed {
                assert!(path.join(format!("{partition}-{offset}")).exists(), "effects come before positions");
            }
            if committed < reader.end(partition).await.unwrap().offset {
                return false;
            }
        }
        true
    };
    eventually("everything is consumed while one stands still", consumed).await;

    kill_process(pid, Signal::CONT).unwrap();
    eventually("the zombie has tried to commit", async || path.join(".answer").exists()).await;
    assert_eq!(fs::read_to_string(path.join(".answer")).unwrap(), "false", "what it held is another's");
    assert!(consumed().await, "it changed nothing");
    zombie.kill().unwrap();
    zombie.wait().unwrap();
    for partition in 0..PARTITIONS {
        for record in read_all(&*reader, partition, 0).await {
            let effect = fs::read(path.join(format!("{partition}-{}", record.offset))).unwrap();
            assert_eq!(effect, record.frames.concat(), "partition {partition}, record {}", record.offset);
        }
    }
    let _ = tokio::time::timeout(PATIENCE, consumers.shutdown()).await;
}

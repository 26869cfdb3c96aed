//! The child's life: killed, orphaned, locked out, stopped.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chdb::{Error, Supervisor};
use common::{PATIENCE, Warehouse, eventually, kill, options, send, try_send};
use http::Request;
use http_body_util::Full;

#[tokio::test]
async fn a_killed_child_comes_back_on_the_same_endpoint_with_every_finished_insert() {
    let w = Warehouse::start().await;
    w.query("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS fsync_after_insert = 1, fsync_part_directory = 1").await;
    for round in 1..=2_u64 {
        let insert = w.post("?query=INSERT+INTO+t+FORMAT+CSV", format!("{round}\n").repeat(500)).await;
        assert_eq!(insert.status, 200);
        let killed = w.supervisor.pid().unwrap();
        kill(killed);
        eventually("a new child", async || w.supervisor.pid().filter(|pid| *pid != killed)).await;
        assert_eq!(w.supervisor.endpoint(), w.endpoint);
        assert_eq!(w.query("SELECT count(), max(a) FROM t").await, format!("{}\t{round}", round * 500));
    }
    w.stop().await;
}

#[tokio::test]
async fn an_insert_cut_by_a_kill_leaves_nothing_or_all() {
    let w = Warehouse::start().await;
    w.query("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    let body: Vec<u8> = (0..1_500_000_u64).flat_map(u64::to_le_bytes).collect();
    let request = w.request("?query=INSERT+INTO+t+FORMAT+RowBinary").body(Full::from(body)).unwrap();
    let mut inserting = tokio::task::JoinSet::new();
    inserting.spawn(try_send(request));
    eventually("the insert to run", async || {
        let running =
            w.query("SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO t%'").await != "0";
        let written = w.query("SELECT count() FROM t").await != "0";
        (running || written).then_some(())
    })
    .await;
    let killed = w.supervisor.pid().unwrap();
    kill(killed);
    let answer = inserting.join_next().await.unwrap().unwrap();
    let acknowledged = answer.is_some_and(|answer| answer.status == 200);
    eventually("a new child", async || w.supervisor.pid().filter(|pid| *pid != killed)).await;
    let count = w.query("SELECT count() FROM t").await;
    assert!(count == "1500000" || (count == "0" && !acknowledged), "{count}, acknowledged: {acknowledged}");
    w.stop().await;
}

#[tokio::test]
async fn every_start_bounds_the_engines_merges() {
    const SETTINGS: &str = "SELECT groupArray(value) FROM (SELECT value FROM system.merge_tree_settings WHERE name IN \
        ('max_avg_part_size_for_too_many_parts', 'max_bytes_to_merge_at_max_space_in_pool') ORDER BY name)";
    let (w, bounds) = (Warehouse::start().await, format!("['{}','{}']", 32 << 20, 128 << 20));
    assert_eq!(w.query(SETTINGS).await, bounds);
    std::fs::write(w.folder.path().join("warehouse/config.xml"), "<clickhouse>").unwrap();
    let killed = w.supervisor.pid().unwrap();
    kill(killed);
    eventually("a new child", async || w.supervisor.pid().filter(|pid| *pid != killed)).await;
    assert_eq!(w.query(SETTINGS).await, bounds);
    w.stop().await;
}

#[tokio::test]
async fn the_child_does_not_outlive_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("warehouse");
    let mut parent = Command::new(env!("CARGO_BIN_EXE_chdb-server"))
        .arg(&path)
        .env("ATTRIBUTION_CHDB_LIB", common::lib())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split(' ').next().unwrap().trim_start_matches("http://").to_owned();
    std::net::TcpStream::connect(&address).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("the port to be free", async || std::net::TcpStream::connect(&address).err()).await;
    // The next owner of the folder only has to wait for its predecessor's end.
    let mut options = options(folder.path());
    options.data = path;
    let next = Supervisor::start(options).unwrap();
    next.wait_ready(PATIENCE).await.unwrap();
    next.stop(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn a_folder_in_use_is_refused_by_name() {
    let w = Warehouse::start().await;
    let mut second = options(w.folder.path());
    second.lock_wait = Duration::ZERO;
    let second = Supervisor::start(second).unwrap();
    let error = second.wait_ready(PATIENCE).await.unwrap_err();
    assert!(matches!(&error, Error::Locked { data } if data.ends_with("warehouse")), "{error}");
    // It is tried again, so the folder's next owner is whoever waits for it.
    w.supervisor.stop(Duration::from_secs(20)).await;
    eventually("the second to take over", async || second.ready().then_some(())).await;
    second.stop(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn a_child_that_cannot_start_says_why_and_its_port_answers_503() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("libchdb.so");
    std::fs::write(&broken, "not a library").unwrap();
    let mut bad_library = options(folder.path());
    bad_library.lib = Some(broken);
    let supervisor = Supervisor::start(bad_library).unwrap();
    let error = supervisor.wait_ready(PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, Error::Failed { reason } if reason.contains("cannot load the library")),
        "{error}"
    );
    let answer = send(Request::post(supervisor.endpoint().url).body(Full::from("SELECT 1")).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (503, "210"));
    assert!(answer.headers.contains_key("retry-after") && !supervisor.ready());
    supervisor.stop(Duration::from_secs(20)).await;

    let mut mute = options(folder.path());
    mute.command = ["/bin/sh", "-c", "echo out of luck >&2; exit 3"].map(Into::into).to_vec();
    let supervisor = Supervisor::start(mute).unwrap();
    eventually("the child's last words", async || {
        let error = supervisor.wait_ready(Duration::from_millis(10)).await.unwrap_err().to_string();
        (error.contains("exit status: 3") && error.contains("out of luck")).then_some(())
    })
    .await;
    supervisor.stop(Duration::from_secs(20)).await;
    let mut none = options(folder.path());
    none.command = Vec::new();
    assert!(matches!(Supervisor::start(none), Err(Error::NoCommand)));
}

#[tokio::test]
async fn a_stop_ends_in_time_and_the_folder_opens_again() {
    let w = Warehouse::start().await;
    w.query("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    w.query("INSERT INTO t SELECT number FROM numbers(1000)").await;
    w.supervisor.stop(Duration::from_secs(20)).await;
    assert!(matches!(w.supervisor.wait_ready(PATIENCE).await, Err(Error::Stopped)));
    assert!(w.supervisor.pid().is_none());
    let address = w.endpoint.url.trim_start_matches("http://").to_owned();
    eventually("the port to be free", async || std::net::TcpStream::connect(&address).err()).await;

    let again = Supervisor::start(options(w.folder.path())).unwrap();
    again.wait_ready(PATIENCE).await.unwrap();
    assert_ne!(again.endpoint().password, w.endpoint.password);
    let again = Warehouse { endpoint: again.endpoint(), supervisor: again, folder: w.folder };
    assert_eq!(again.query("SELECT count() FROM t").await, "1000");

    // A statement that would run for hours does not hold up the stop beyond its bound.
    let long = again
        .request("")
        .body(Full::from("SELECT count() FROM numbers_mt(1000000000000) WHERE sipHash64(number) = 1"))
        .unwrap();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(try_send(long));
    eventually("the statement to run", async || {
        (again.query("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%processes%'").await == "1").then_some(())
    })
    .await;
    let started = Instant::now();
    again.supervisor.stop(Duration::from_millis(300)).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(running.join_next().await.unwrap().unwrap().is_none());
}

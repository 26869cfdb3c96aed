//! The main path, the same in both modes: one process over embedded stores, and a process for each service over real
//! servers.

#![allow(clippy::unwrap_used)]

#[cfg(target_os = "linux")]
use std::collections::BTreeMap;

#[cfg(target_os = "linux")]
use rustix::process::{Pid, getpriority_process};
use serde_json::{Value, json};
use testkit::{
    cluster::{Programs, Servers},
    process::{Client, Launch, eventually},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_attribution");

#[tokio::test(flavor = "multi_thread")]
async fn one_process() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Launch::new(PROGRAM, folder.path().join("data")).ready().await;
    main_path(&platform).await;
    platform.stop().await;
}

/// Where cores are short, nobody who waits for an answer waits for work that nobody waits for.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_answers_no_request_gives_way_to_what_does() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Launch::new(PROGRAM, folder.path().join("data")).ready().await;
    main_path(&platform).await;
    let (process, engine) = (niceness(platform.pid()), niceness(platform.engine().unwrap()));
    let requests = process["tokio-rt-worker"][0];
    let expected = vec![requests + 5];
    for name in ["fjall:worker", "journey-flusher", "chdb-supervisor"] {
        assert_eq!(process[name], expected, "{name}: {process:?}");
    }
    // The first thread has the program's name too, which is that of attribution's.
    assert_eq!(process["attribution"], [requests, requests + 5], "{process:?}");
    assert_eq!(process["event-log-0"], [requests], "{process:?}");
    assert_eq!(engine["MergeMutate"], expected, "{engine:?}");
    platform.stop().await;
}

/// Of the threads of a process, by their names: each that occurs once.
#[cfg(target_os = "linux")]
fn niceness(process: Pid) -> BTreeMap<String, Vec<i32>> {
    let mut by_name = BTreeMap::<_, Vec<_>>::new();
    let folder = format!("/proc/{}/task", process.as_raw_nonzero());
    for thread in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let id = thread.file_name().into_string().unwrap().parse().unwrap();
        // It may have ended since.
        let Ok(name) = std::fs::read_to_string(thread.path().join("comm")) else { continue };
        let Ok(niceness) = getpriority_process(Pid::from_raw(id)) else { continue };
        by_name.entry(name.trim_end().to_owned()).or_default().push(niceness);
    }
    for values in by_name.values_mut() {
        values.sort_unstable();
        values.dedup();
    }
    by_name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_for_each_service() {
    let programs = Programs::beside(PROGRAM);
    let servers = Servers::start(&programs).await;
    let mut cluster = servers.cluster(&programs).await;
    main_path(cluster.client()).await;
    let report = cluster.client().report(&question()).await;

    // Somebody makes the journey store anew under a running cluster: who worked with the old one ends instead of going on
    // from its positions, and the next one makes everything again from the log.
    let outbox = journey_store::open(&servers.urls().journeys).await.unwrap().outbox;
    let generation = outbox.generation().await.unwrap().unwrap();
    outbox.reset(journey_store::Generation { id: !generation.id, ..generation }).await.unwrap();
    send(cluster.client(), &json!([order("o4", "2026-02-05T11:00:00Z", "u1", "4")])).await;
    let ended = cluster.attribution.ended().await;
    assert!(!ended.success(), "{ended}");
    cluster.attribution.logs("another process began a new generation").await;
    cluster.query.stop().await;
    cluster.ingestion.stop().await;
    let cluster = servers.cluster(&programs).await;
    let again = cluster.client().report(&question()).await;
    assert_eq!(again["rows"], report["rows"]);
    assert_eq!(cluster.client().get("/v1/conversions/o4").await.unwrap().status, 200);
    cluster.stop().await;
}

fn question() -> Value {
    json!({
        "from": "2026-01-01", "to": "2026-02-01", "models": ["last_touch", "linear"], "dimensions": ["channel"],
        "measures": ["conversions", "value"],
    })
}

fn touch(id: &str, at: &str, user: &str, channel: &str) -> Value {
    json!({"event_id": id, "event_type": "click", "timestamp": at, "user_id": user, "channel": channel})
}

fn order(id: &str, at: &str, user: &str, value: &str) -> Value {
    json!({"event_id": id, "event_type": "conversion", "timestamp": at, "user_id": user, "value": value})
}

async fn send(platform: &Client, events: &Value) -> Value {
    let answer = platform.post("/v1/events", events).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// Events in, repeated and late; conversions decided, restated and explained; reports of what was acknowledged.
async fn main_path(platform: &Client) {
    let first = json!([
        touch("t1", "2026-01-05T10:00:00Z", "u1", "search"),
        touch("t2", "2026-01-05T10:30:00Z", "u1", "email"),
        order("o1", "2026-01-05T11:00:00Z", "u1", "10.50"),
        touch("t3", "2026-01-06T10:00:00Z", "u2", "search"),
        order("o2", "2026-01-06T11:00:00Z", "u2", "4"),
        order("o3", "2026-01-06T12:00:00Z", "u3", "1"),
        {"event_id": "bad", "event_type": "click", "timestamp": "2026-01-05T10:00:00Z"},
    ]);
    let answer = send(platform, &first).await;
    assert_eq!([&answer["accepted"], &answer["duplicate"], &answer["rejected"]], [6, 0, 1], "{answer}");
    let again = send(platform, &first).await;
    assert_eq!([&again["accepted"], &again["duplicate"], &again["rejected"]], [0, 6, 1], "{again}");

    let question = question();
    let report = platform.report(&question).await;
    assert_eq!(
        rows(&report, "last_touch"),
        [("email", 1.0, "10.500000"), ("organic", 1.0, "1.000000"), ("search", 1.0, "4.000000")]
    );
    assert_eq!(
        rows(&report, "linear"),
        [("email", 0.5, "5.250000"), ("organic", 1.0, "1.000000"), ("search", 1.5, "9.250000")]
    );

    // A late touch restates what was decided.
    send(platform, &json!([touch("t4", "2026-01-05T10:45:00Z", "u1", "social")])).await;
    let report = platform.report(&question).await;
    assert_eq!(
        rows(&report, "last_touch"),
        [("organic", 1.0, "1.000000"), ("search", 1.0, "4.000000"), ("social", 1.0, "10.500000")]
    );
    eventually("the restated decision is told", async || {
        let decision = platform.get("/v1/conversions/o1").await.unwrap();
        assert_eq!(decision.status, 200, "{}", decision.body);
        decision.body.to_string().contains("t4")
    })
    .await;
    let journey = platform.get("/v1/journeys?user_id=u1").await.unwrap();
    assert_eq!(journey.status, 200, "{}", journey.body);
    for id in ["t1", "t2", "t4", "o1"] {
        assert!(journey.body.to_string().contains(&format!("\"{id}\"")), "{id}: {}", journey.body);
    }
    assert_eq!(platform.get("/v1/conversions/nothing").await.unwrap().status, 404);
}

fn rows<'a>(report: &'a Value, model: &str) -> Vec<(&'a str, f64, &'a str)> {
    let rows = report["rows"].as_array().unwrap().iter().filter(|row| row["model"] == model);
    rows.map(|row| {
        let (channel, value) = (row["channel"].as_str().unwrap(), row["value"].as_str().unwrap());
        (channel, row["conversions"].as_f64().unwrap(), value)
    })
    .collect()
}

//! The stores of a cluster are destroyed under load, and come back: from backups and the log, from the log alone, and from
//! backups over another log when the log is destroyed too.
//!
//! Real servers, and ingestion goes on all the time until its log is destroyed. What is printed is how long it took and what was lost; `make drill`
//! shows it, with `DRILL_PERSONS` persons before each step.

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{
    cluster::{Programs, Servers},
    kafka::Kafka,
    process::{Client, Launch, Platform, eventually},
};
use tokio::task::JoinSet;

const PROGRAM: &str = env!("CARGO_BIN_EXE_attribution");
const PERSONS_DEFAULT: usize = 25;
/// What `ops/restore.sh` does with a restored warehouse.
const WHOLE_BATCHES: &str = include_str!("../../../ops/whole-batches.sql");
/// Everything in the warehouse.
const TABLES: [&str; 6] = ["meta", "migrations", "progress", "touches", "conversions", "identities"];
/// The load: so many persons, a click and an order each, as often.
const BATCH_PERSONS: usize = 5;
const PACE: Duration = Duration::from_millis(400);
const ASKED_AT_ONCE: usize = 16;
/// How long to wait until everything is decided again, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(15);

/// A client that sends until it is stopped, and sends again what was not acknowledged.
struct Load {
    acknowledged: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    sending: JoinSet<()>,
}

/// What attributes, and what answers.
struct Readers {
    attribution: Platform,
    query: Platform,
}

#[tokio::test(flavor = "multi_thread")]
async fn destroyed_stores_come_back_from_backups_and_the_log_from_the_log_alone_and_over_another_log() {
    let persons = std::env::var("DRILL_PERSONS").map_or(PERSONS_DEFAULT, |number| number.parse().unwrap());
    let programs = Programs::beside(PROGRAM);
    let mut servers = Servers::start(&programs).await;
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("journeys");
    let ingestion = servers.ingestion(&programs, &servers.urls()).await;
    let mut readers = Readers::start(&servers, &programs).await;
    let mut all = Vec::new();
    for (round, from, restores) in [("a", "backups and the log", true), ("b", "the log alone", false)] {
        let load = Load::start(&ingestion, round);
        load.acknowledges(persons).await;
        if restores {
            back_up(&mut servers, &readers, &load, persons, &backup).await;
            load.acknowledges(persons).await;
        }
        let begin = Instant::now();
        destroy(&mut servers).await;
        load.acknowledges(persons).await;
        readers.stop().await;
        if restores {
            restore(&mut servers, &backup).await;
        } else {
            servers.cql.own().unwrap().restart().await;
        }
        readers = Readers::start(&servers, &programs).await;
        load.acknowledges(persons).await;
        all.extend(load.stop().await);
        let report = readers.report().await;
        let seconds = begin.elapsed().as_secs_f64();
        if restores {
            readers.attribution.logs("later batches were taken back").await;
        } else {
            readers.attribution.logs("a new journey store begins").await;
        }
        let lost = readers.lost(&all).await;
        println!(
            "from {from}: {} orders acknowledged, journey store, warehouse and cache destroyed, all back after {seconds:.1} s, {} lost",
            all.len(),
            lost.len()
        );
        assert_eq!(lost, [] as [&str; 0]);
        assert_eq!(report, expected(all.len()), "each counted once");
    }

    // The cache has forgotten most of them: they are taken, and recognised later.
    for names in all.chunks(100) {
        send(&ingestion, names).await;
    }
    assert_eq!(readers.report().await, expected(all.len()), "sent again, each counted once");
    println!("sent again, {} orders each counted once", all.len());
    let said = lose_region(
        &mut servers,
        &programs,
        ingestion,
        readers,
        persons,
        &mut all,
        &folder.path().join("region"),
    )
    .await;
    said.iter().for_each(|line| println!("{line}"));
}

/// Log, journey store, warehouse and cache are gone at once. Another region takes events, gets the backups, and goes on with
/// them in a log of its own; what was not reported when they were made is counted when clients send it again. What to say.
async fn lose_region(
    servers: &mut Servers,
    programs: &Programs,
    ingestion: Platform,
    readers: Readers,
    persons: usize,
    all: &mut Vec<String>,
    backup: &Path,
) -> [String; 2] {
    let load = Load::start(&ingestion, "c");
    load.acknowledges(persons).await;
    let reported = load.acknowledged();
    readers.report().await;
    back_up(servers, &readers, &load, persons, backup).await;
    load.acknowledges(persons).await;
    let sent = load.abort().await;
    let begin = Instant::now();
    readers.kill().await;
    ingestion.kill().await;
    destroy(servers).await;
    servers.kafka = Kafka::start().await;

    let urls = servers.urls();
    let ingestion = servers.ingestion(programs, &urls).await;
    let load = Load::start(&ingestion, "d");
    load.acknowledges(persons).await;
    restore(servers, backup).await;
    let launch = servers.attribution(programs, &urls);
    let stranger = launch.spawn().await;
    stranger.logs("belong to the event log").await;
    let lost_log = named_log(&stranger.log());
    stranger.stop().await;
    let readers = Readers::of(servers, programs, launch.env("ATTRIBUTION_CONTINUES", lost_log)).await;
    let new = load.stop().await;
    let report = readers.report().await;
    let seconds = begin.elapsed().as_secs_f64();
    readers.attribution.logs("the stores go on in another log").await;
    let before: Vec<String> = all.iter().chain(&reported).chain(&new).cloned().collect();
    assert_eq!(
        readers.lost(&before).await,
        [] as [&str; 0],
        "what was reported before the backup, and what came after the loss"
    );
    let lost = readers.lost(&sent).await.len();
    let back = format!(
        "region lost: log, journey store, warehouse and cache destroyed, {} of {} orders of before back from backups after \
         {seconds:.1} s; {lost} acknowledged after they were made are lost",
        all.len() + sent.len() - lost,
        all.len() + sent.len(),
    );
    all.extend(new);
    assert_eq!(report, expected(all.len() + sent.len() - lost));
    all.extend(sent);
    for names in all.chunks(100) {
        send(&ingestion, names).await;
    }
    assert_eq!(readers.report().await, expected(all.len()), "sent again, each counted once");
    assert_eq!(readers.lost(all).await, [] as [&str; 0]);
    readers.stop().await;
    ingestion.stop().await;
    [back, format!("sent again, {} orders each counted once", all.len())]
}

/// The id of the log that a process names to whom the stores belong.
fn named_log(log: &str) -> String {
    let (_, rest) = log.split_once("belong to the event log ").unwrap();
    rest[..rest.find(',').unwrap()].to_owned()
}

/// The journey store while attribution stands still, so that its tables are of one moment; the warehouse later, when it is
/// ahead of that. Events come in meanwhile.
async fn back_up(servers: &mut Servers, readers: &Readers, load: &Load, persons: usize, into: &Path) {
    let name = servers.name().to_owned();
    readers.attribution.signal(Signal::STOP);
    servers.cql.own().unwrap().snapshot(&name, into);
    readers.attribution.signal(Signal::CONT);
    load.acknowledges(persons).await;
    readers.report().await;
    // The embedded engine has no place for BACKUP, so what that would copy is copied by hand, table by table as it does.
    servers.warehouse(&format!("CREATE DATABASE IF NOT EXISTS {name}_backup")).await;
    for table in TABLES {
        servers.warehouse(&format!("CREATE TABLE {name}_backup.{table} AS {name}.{table}")).await;
        servers.warehouse(&format!("INSERT INTO {name}_backup.{table} SELECT * FROM {name}.{table}")).await;
    }
}

/// Journey store, warehouse and cache are gone, under the processes that work with them.
async fn destroy(servers: &mut Servers) {
    let name = servers.name().to_owned();
    servers.cql.own().unwrap().destroy();
    servers.warehouse(&format!("DROP DATABASE {name} SYNC")).await;
    assert_eq!(servers.redis.own().unwrap().ask("FLUSHALL").as_deref(), Some("+OK"));
}

async fn restore(servers: &mut Servers, from: &Path) {
    let (name, journeys) = (servers.name().to_owned(), servers.urls().journeys);
    servers.warehouse(&format!("CREATE DATABASE {name}")).await;
    for table in TABLES {
        servers.warehouse(&format!("RENAME TABLE {name}_backup.{table} TO {name}.{table}")).await;
    }
    for table in ["touches", "conversions", "identities"] {
        let sql = WHOLE_BATCHES.replace("attribution.TABLE", &format!("{name}.{table}"));
        servers.warehouse(&sql.replace("attribution.", &format!("{name}."))).await;
    }
    servers.cql.own().unwrap().restart().await;
    // It makes the tables.
    drop(journey_store::open(&journeys).await.unwrap());
    servers.cql.own().unwrap().restore(&name, from).await;
}

fn expected(orders: usize) -> Value {
    json!([{
        "model": "last_touch", "channel": "email", "currency": "EUR",
        "conversions": orders, "value": format!("{orders}.000000"),
    }])
}

/// Sends the events of persons until they are acknowledged.
async fn send(ingestion: &Client, names: &[String]) {
    let at = |time: &str| format!("2026-01-05T{time}:00Z");
    let events: Vec<Value> = names
        .iter()
        .flat_map(|name| {
            [
                json!({"event_id": format!("{name}-click"), "event_type": "click", "timestamp": at("10:00"),
                    "user_id": name, "channel": "email"}),
                json!({"event_id": name, "event_type": "conversion", "timestamp": at("11:00"),
                    "user_id": name, "value": "1", "currency": "EUR"}),
            ]
        })
        .collect();
    let events = Value::from(events);
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = ingestion.post("/v1/events", &events).await.unwrap();
        match answer.status {
            StatusCode::OK => return,
            StatusCode::SERVICE_UNAVAILABLE => {}
            status => panic!("{status}: {}", answer.body),
        }
        assert!(Instant::now() < end, "not taken within {PATIENCE:?}: {}", answer.body);
    }
}

// === impl Load ===

impl Load {
    fn start(ingestion: &Client, round: &'static str) -> Self {
        let (client, stop) = (ingestion.clone(), Arc::new(AtomicBool::new(false)));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let mut sending = JoinSet::new();
        let (known, stopped) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        sending.spawn(async move {
            let mut pace = tokio::time::interval(PACE);
            for batch in 0.. {
                pace.tick().await;
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let names: Vec<String> =
                    (0..BATCH_PERSONS).map(|person| format!("{round}-{batch}-{person}")).collect();
                send(&client, &names).await;
                known.lock().unwrap().extend(names);
            }
        });
        Self { acknowledged, stop, sending }
    }

    /// Waits until so many more were acknowledged.
    async fn acknowledges(&self, persons: usize) {
        let count = || self.acknowledged.lock().unwrap().len();
        let enough = count() + persons;
        eventually("orders are acknowledged", async || count() >= enough).await;
    }

    fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.lock().unwrap().clone()
    }

    /// What was acknowledged; one batch may be on its way.
    async fn abort(mut self) -> Vec<String> {
        self.sending.shutdown().await;
        self.acknowledged()
    }

    /// Everything that was sent: all of it was acknowledged.
    async fn stop(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.sending.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.acknowledged.lock().unwrap())
    }
}

// === impl Readers ===

impl Readers {
    async fn start(servers: &Servers, programs: &Programs) -> Self {
        Self::of(servers, programs, servers.attribution(programs, &servers.urls())).await
    }

    async fn of(servers: &Servers, programs: &Programs, attribution: Launch) -> Self {
        let attribution = attribution.ready().await;
        let query = servers.query(programs, &servers.urls(), &attribution).await;
        Self { attribution, query }
    }

    async fn kill(self) {
        self.query.kill().await;
        self.attribution.kill().await;
    }

    async fn stop(self) {
        self.query.stop().await;
        self.attribution.stop().await;
    }

    /// The rows of a report in which everything acknowledged before is counted.
    async fn report(&self) -> Value {
        let question = json!({
            "from": "2026-01-01", "to": "2026-02-01", "models": ["last_touch"], "dimensions": ["channel"],
            "measures": ["conversions", "value"],
        });
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.query.post("/v1/reports?consistency=acknowledged", &question).await.unwrap();
            if answer.status == StatusCode::OK {
                return answer.body["rows"].clone();
            }
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.body);
            assert!(
                Instant::now() < end,
                "not within {PATIENCE:?}: {}\n{}",
                answer.body,
                self.attribution.log()
            );
        }
    }

    /// Orders that nobody knows.
    async fn lost<'a>(&self, orders: &'a [String]) -> Vec<&'a str> {
        let is_lost = async |order: &'a String| {
            let answer = self.query.get(&format!("/v1/conversions/{order}")).await.unwrap();
            match answer.status {
                StatusCode::OK => None,
                StatusCode::NOT_FOUND => Some(order.as_str()),
                status => panic!("{order}: {status} {}", answer.body),
            }
        };
        let mut lost = Vec::new();
        for orders in orders.chunks(ASKED_AT_ONCE) {
            lost.extend(join_all(orders.iter().map(is_lost)).await.into_iter().flatten());
        }
        lost
    }
}

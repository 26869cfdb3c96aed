//! The warehouse on a cluster of two shards, as far as one engine can play it.
//!
//! The engine knows the cluster and takes the statements of its tables, but it listens for no other server, and its
//! replicas never start. So two addresses stand in front of it, a server for each shard, with a database of its own each.
//! What is said to all servers they tell both databases; replicated tables are plain ones that remember the tokens of their
//! INSERTs, and the tables over all shards are merges of both databases. The rest is the engine's own.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Query, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, task::JoinSet};
use warehouse::{Error, Facts, Progress, Warehouse};

use crate::{
    Engine, random,
    resume::{self, count, history},
    world::{HOUR, answered, click, conversion, known_as, progress, spec, touch},
};

const REPLICA: &str = "'/clickhouse/tables/main/{shard}/{database}/{table}', '{replica}'";

/// Both servers; they end with this value.
struct Servers {
    port: u16,
    state: Arc<Both>,
    _serving: JoinSet<()>,
}

struct Both {
    engine: Engine,
    client: reqwest::Client,
    heard: Mutex<Vec<Heard>>,
    plan: Mutex<Plan>,
}

/// What becomes of the INSERT after so many others.
#[derive(Default)]
struct Plan {
    after: usize,
    fate: Fate,
    /// One whose answer was given up, and that was not applied yet.
    under_way: Option<Said>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Fate {
    #[default]
    Answered,
    /// Applied, and the answer is lost.
    Lost,
    /// The connection breaks; it is applied later.
    UnderWay,
}

/// A statement, and who was told.
#[derive(Clone)]
struct Heard {
    server: usize,
    sql: String,
    settings: Vec<(String, String)>,
}

#[derive(Clone)]
struct Said {
    server: usize,
    parameters: Vec<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
}

// === impl Servers ===

impl Servers {
    async fn start(engine: &Engine) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let state = Arc::new(Both {
            engine: engine.clone(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            heard: Mutex::default(),
            plan: Mutex::default(),
        });
        // All servers of a cluster listen on one port.
        let (first, second) = loop {
            let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = first.local_addr().unwrap().port();
            if let Ok(second) = TcpListener::bind(("127.0.0.2", port)).await {
                break (first, second);
            }
        };
        let port = first.local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        for (server, listener) in [(1, first), (2, second)] {
            let router = Router::new()
                .fallback(answer)
                .layer(DefaultBodyLimit::disable())
                .with_state((server, Arc::clone(&state)));
            serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        }
        Self { port, state, _serving: serving }
    }

    fn open(&self, database: &str) -> Warehouse {
        let endpoint = &self.state.engine.endpoint;
        let (user, password, port) = (&endpoint.user, &endpoint.password, self.port);
        Warehouse::open(&format!("http://{user}:{password}@127.0.0.1:{port}/{database}?cluster=main"))
            .unwrap()
    }

    /// A warehouse of a generation.
    async fn warehouse(&self, database: &str) -> Warehouse {
        let warehouse = self.open(database);
        warehouse.migrate().await.unwrap();
        warehouse.reset(7).await.unwrap();
        warehouse
    }

    fn plan(&self, after: usize, fate: Fate) {
        *self.state.plan.lock().unwrap() = Plan { after, fate, under_way: None };
    }

    /// Applies what is under way.
    async fn arrive(&self) {
        let said = self.state.plan.lock().unwrap().under_way.take().expect("an INSERT is under way");
        assert!(self.state.tell(said.server, &said).await.status().is_success());
    }

    fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.state.heard.lock().unwrap())
    }
}

// === impl Both ===

impl Both {
    /// Says it to the database of a server.
    async fn tell(&self, server: usize, said: &Said) -> Response {
        let database = |name: &str| match name {
            "default" => name.to_owned(),
            name => format!("{name}_{server}"),
        };
        let named =
            said.parameters.iter().find(|(name, _)| name == "database").map(|(_, value)| value.as_str());
        let own = named.unwrap_or("default").to_owned();
        let parameters: Vec<(String, String)> = said
            .parameters
            .iter()
            .map(|(name, value)| {
                (name.clone(), if name == "database" { database(value) } else { value.clone() })
            })
            .collect();
        let is_insert = said.parameters.iter().any(|(name, _)| name == "query");
        let body = match std::str::from_utf8(&said.body) {
            Ok(sql) if !is_insert => Bytes::from(played(sql, server, &own)),
            _ => said.body.clone(),
        };
        let mut request = self.client.post(&self.engine.endpoint.url).query(&parameters).body(body);
        for name in ["x-clickhouse-user", "x-clickhouse-key"] {
            if let Some(value) = said.headers.get(name) {
                request = request.header(name, value.clone());
            }
        }
        let answer = request.send().await.unwrap();
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        for framing in ["transfer-encoding", "content-length", "connection"] {
            response.headers_mut().remove(framing);
        }
        *response.body_mut() = Body::from(answer.bytes().await.unwrap());
        response
    }

    fn fate(&self) -> Fate {
        let mut plan = self.plan.lock().unwrap();
        match plan.after.checked_sub(1) {
            Some(left) => {
                plan.after = left;
                Fate::Answered
            }
            None => std::mem::take(&mut plan.fate),
        }
    }
}

async fn answer(
    State((server, both)): State<(usize, Arc<Both>)>,
    Query(parameters): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let insert = parameters.iter().find(|(name, _)| name == "query").map(|(_, sql)| sql.clone());
    let is_insert = insert.is_some();
    let sql = insert.unwrap_or_else(|| String::from_utf8(body.to_vec()).unwrap());
    let settings = parameters.iter().filter(|(name, _)| name != "query").cloned().collect();
    both.heard.lock().unwrap().push(Heard { server, sql: sql.clone(), settings });
    let said = Said { server, parameters, headers, body };
    if sql.starts_with("SYSTEM SYNC REPLICA ") {
        return ().into_response();
    }
    if sql.contains(" ON CLUSTER main") {
        let other = both.tell(3 - server, &said).await;
        return if other.status().is_success() { both.tell(server, &said).await } else { other };
    }
    let fate = if is_insert { both.fate() } else { Fate::Answered };
    match fate {
        Fate::Answered => both.tell(server, &said).await,
        Fate::Lost => {
            assert!(both.tell(server, &said).await.status().is_success());
            broken()
        }
        Fate::UnderWay => {
            both.plan.lock().unwrap().under_way = Some(said);
            broken()
        }
    }
}

/// An answer that ends before its end.
fn broken() -> Response {
    let cut = Err::<Bytes, _>(std::io::Error::other("cut"));
    Response::new(Body::from_stream(tokio_stream::once(cut)))
}

/// A statement as the engine plays it for a server.
fn played(sql: &str, server: usize, database: &str) -> String {
    let sql = match sql.strip_prefix("CREATE DATABASE IF NOT EXISTS ") {
        Some(rest) => {
            format!("CREATE DATABASE IF NOT EXISTS {}_{server}", rest.replace(" ON CLUSTER main", ""))
        }
        None => sql.replace(" ON CLUSTER main", ""),
    };
    let over_all = format!("Distributed('main', '{database}', '");
    let sql = match sql.split_once(&over_all) {
        Some((before, table)) => {
            let table = table.trim_end_matches("')");
            format!("{before}Merge(REGEXP('^{database}_[12]$'), '^{table}$')")
        }
        None => sql,
    };
    let plain = sql
        .replace(&format!("ReplicatedMergeTree({REPLICA})"), "MergeTree")
        .replace(&format!("ReplicatedReplacingMergeTree({REPLICA}, "), "ReplacingMergeTree(");
    match plain == sql {
        true => sql,
        false => plain.replace("SETTINGS ", "SETTINGS non_replicated_deduplication_window = 100, "),
    }
}

fn of_partition(partition: u32, batch: u64) -> Progress {
    Progress { partition, ..progress(batch) }
}

pub(crate) async fn a_partition_is_on_its_shard_and_reports_read_all(engine: Engine) {
    let servers = Servers::start(&engine).await;
    let warehouse = servers.warehouse("sharded").await;
    assert_eq!(warehouse.generation().await.unwrap(), Some(7));
    for partition in 0..3 {
        let facts = Facts {
            touches: vec![touch("p", "email", HOUR)],
            conversions: vec![conversion(&partition.to_string(), "p", vec![click("email", HOUR)])],
            identities: vec![known_as("p", "q", false, 1)],
        };
        warehouse.write_batch(of_partition(partition, 1), 0, &facts).await.unwrap();
    }
    let parts = async |server: usize| -> Vec<u64> {
        let mut parts = Vec::new();
        for partition in 0..3 {
            for table in ["touches", "conversions", "identities", "progress"] {
                let rows = format!("{table}_local WHERE part = {partition}");
                parts.push(count(&engine, &format!("sharded_{server}"), &rows).await);
            }
        }
        parts
    };
    assert_eq!(parts(1).await, [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(parts(2).await, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
    let all: Vec<Progress> = (0..3).map(|partition| of_partition(partition, 1)).collect();
    assert_eq!(warehouse.progress().await.unwrap(), all);
    assert_eq!(answered(&warehouse, &spec()).await, ["last_touch email EUR 3.000000 30.000000"]);

    // Every INSERT was told to the server of its shard alone, to be taken by most replicas, and once.
    let heard = servers.heard();
    let inserts: Vec<&Heard> = heard.iter().filter(|heard| heard.sql.starts_with("INSERT INTO")).collect();
    let setting = |heard: &Heard, name: &str| {
        heard.settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    let tokens: BTreeSet<String> =
        inserts.iter().filter_map(|insert| setting(insert, "insert_deduplication_token")).collect();
    assert_eq!(tokens.len(), 3 * 4, "{tokens:?}");
    for insert in inserts {
        assert_eq!(setting(insert, "insert_quorum").as_deref(), Some("auto"), "{}", insert.sql);
        if let Some(token) = setting(insert, "insert_deduplication_token") {
            let partition: usize = token.split('/').nth(2).unwrap().parse().unwrap();
            assert_eq!(insert.server, partition % 2 + 1, "{token}");
        }
    }
    let near =
        heard.iter().any(|heard| setting(heard, "load_balancing").as_deref() == Some("nearest_hostname"));
    assert!(near);

    // A new generation empties every server, and the same facts may come again.
    servers.open("sharded").migrate().await.unwrap();
    warehouse.reset(8).await.unwrap();
    assert!(warehouse.progress().await.unwrap().is_empty());
    assert_eq!((parts(1).await, parts(2).await), (vec![0; 12], vec![0; 12]));
    let facts = Facts { touches: vec![touch("p", "email", HOUR)], ..Facts::default() };
    warehouse.resume_batch(of_partition(1, 1), 0, &facts).await.unwrap();
    assert_eq!(parts(2).await.iter().sum::<u64>(), 2);
}

pub(crate) async fn an_insert_whose_answer_is_lost_counts_once(engine: Engine) {
    let servers = Servers::start(&engine).await;
    let warehouse = servers.warehouse("lost").await;
    const MOMENTS: u64 = 5;
    let facts = history(MOMENTS as i64);
    // Identities, and months of touches and of conversions; then the progress.
    let inserts = {
        servers.heard();
        warehouse.write_batch(of_partition(1, 1), 0, &facts).await.unwrap();
        servers.heard().iter().filter(|heard| heard.sql.starts_with("INSERT INTO")).count()
    };
    assert!(inserts > 8);
    let mut batch = 1;
    for fate in [Fate::Lost, Fate::UnderWay] {
        for after in 0..inserts {
            batch += 1;
            servers.plan(after, fate);
            let written = warehouse.write_batch(of_partition(1, batch), 0, &facts).await;
            assert!(matches!(written, Err(Error::Indeterminate(_))), "{fate:?} {after}: {written:?}");
            servers.heard();
            warehouse.resume_batch(of_partition(1, batch), 0, &facts).await.unwrap();
            // Counted by a replica that has caught up, and not before.
            let heard = servers.heard();
            let first = heard.iter().position(|heard| heard.sql.contains("count() AS rows FROM touches"));
            let caught_up =
                heard.iter().position(|heard| heard.sql == "SYSTEM SYNC REPLICA touches_local LIGHTWEIGHT");
            if let Some(first) = first {
                assert!(caught_up.is_some_and(|caught_up| caught_up < first));
            }
            // One that was not counted, and comes after the batch was resumed.
            if fate == Fate::UnderWay {
                servers.arrive().await;
            }
            for table in ["touches", "conversions", "identities"] {
                let rows = format!("{table}_local WHERE part = 1 AND batch = {batch}");
                assert_eq!(count(&engine, "lost_2", &rows).await, MOMENTS, "{fate:?} {after}: {table}");
            }
            assert_eq!(warehouse.progress().await.unwrap(), [of_partition(1, batch)]);
        }
    }
}

/// Tokens of what was taken back are remembered.
pub(crate) async fn what_is_past_a_batch_is_taken_back_from_its_shard(engine: Engine) {
    let servers = Servers::start(&engine).await;
    let warehouse = servers.warehouse("taken_back").await;
    let rows = async |table: &str| {
        let table = format!("{table}_local");
        count(&engine, "taken_back_1", &table).await + count(&engine, "taken_back_2", &table).await
    };
    resume::taken_back(&warehouse, rows).await;
}

pub(crate) async fn reports_over_two_shards_equal_the_plain_model(engine: Engine) {
    let servers = Servers::start(&engine).await;
    let warehouse = servers.warehouse("halves").await;
    random::equal_the_plain_model(&warehouse, [0, 1]).await;
}

/// The statements that no stand-in has touched, as far as an engine without other servers takes them.
pub(crate) async fn the_engine_takes_replicated_tables_and_those_over_all_shards(engine: Engine) {
    let servers = Servers::start(&engine).await;
    servers.warehouse("said").await;
    let client = engine.client("default");
    client.query("CREATE DATABASE taken").execute().await.unwrap();
    let client = client.with_database("taken");
    let mut tables = 0;
    for heard in servers.heard() {
        let made = heard.sql.contains("CREATE TABLE") || heard.sql.contains("CREATE OR REPLACE TABLE");
        if made && heard.sql.contains(" ON CLUSTER main") {
            let sql = heard.sql.replace(" ON CLUSTER main", "").replace("'said'", "'taken'");
            client.query_raw(&sql).execute().await.unwrap();
            tables += 1;
        }
    }
    assert!(tables > 10, "{tables}");
    let engines = |engine: &str| format!("system.tables WHERE database = 'taken' AND engine = '{engine}'");
    assert_eq!(count(&engine, "default", &engines("ReplicatedMergeTree")).await, 5);
    assert_eq!(count(&engine, "default", &engines("ReplicatedReplacingMergeTree")).await, 1);
    assert_eq!(count(&engine, "default", &engines("Distributed")).await, 6);
}

pub(crate) async fn a_cluster_that_is_not_there_is_named(engine: Engine) {
    let servers = Servers::start(&engine).await;
    let endpoint = &engine.endpoint;
    let (user, password, port) = (&endpoint.user, &endpoint.password, servers.port);
    let url = format!("http://{user}:{password}@127.0.0.1:{port}/nowhere?cluster=other");
    let error = Warehouse::open(&url).unwrap().generation().await.unwrap_err();
    assert!(matches!(&error, Error::Config(text) if text.contains("no cluster other")), "{error}");
}

/// TLS and a password, to a server that has both.
pub(crate) async fn it_is_reached_over_tls_by_those_who_may(engine: Engine) {
    let endpoint = &engine.endpoint;
    let tls = testkit::tls::Front::start(endpoint.url.trim_start_matches("http://")).await;
    let url = |password: &str, ca: &str| {
        let (user, address) = (&endpoint.user, tls.address());
        Warehouse::open(&format!("https://{user}:{password}@{address}/over_tls?ca_file={ca}")).unwrap()
    };
    let warehouse = url(&endpoint.password, testkit::tls::CERTIFICATE);
    warehouse.migrate().await.unwrap();
    warehouse.reset(1).await.unwrap();
    assert_eq!(warehouse.generation().await.unwrap(), Some(1));
    let error = url("wrong-password", testkit::tls::CERTIFICATE).ping().await.unwrap_err().to_string();
    assert!(error.contains("warehouse") && error.contains("AUTHENTICATION_FAILED"), "{error}");
    assert!(!error.contains("wrong-password"), "{error}");
    let error = url(&endpoint.password, testkit::tls::OTHER_CERTIFICATE).ping().await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("certificate")), "{error}");
}

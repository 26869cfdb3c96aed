//! A process for each service over real servers, each of which goes away in its turn while events come in.
//!
//! Somebody says which one is away; when it is back, everything goes on without a restart of ours.

use std::time::Duration;

use rand::rngs::SmallRng;
use rustix::process::Signal;
use serde_json::json;
use testkit::{
    cluster::{Cluster, PARTITIONS, Programs, Servers, Wires},
    process::{Platform, eventually},
    redis::Node,
    wire::Cut,
};

use crate::{ledger::Ledger, load::Load, seeded};

/// After so long without a sign of life a process loses its partitions; Kafka takes no less.
const SESSION: Duration = Duration::from_secs(6);
/// Between two requests of a client: what comes in meanwhile has to be attributed afterwards.
const PAUSE: Duration = Duration::from_millis(50);

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Fault {
    BrokerKilled,
    BrokerPaused,
    /// The network is cut one way: appends arrive, and are not heard of again.
    BrokerUnheard,
    CqlKilled,
    /// The same: writes arrive.
    CqlUnheard,
    /// The network is cut the other way.
    CqlUnreached,
    RedisKilled,
    RedisFlushed,
    RedisPaused,
    WarehouseAway,
    /// An insert is applied, and its answer lost.
    InsertUnheard,
    AttributionKilled,
    /// It stands still until another has its partitions, and then goes on as a zombie.
    AttributionPaused,
    /// Another one joins and leaves.
    AttributionShared,
}

/// Who tells of it, beside requests that fail.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// Ingestion is not ready: the component and words of its reason.
    Ingestion(&'static str, &'static str),
    /// Attribution is not.
    Attribution(&'static str, &'static str),
    /// A metric of ingestion's.
    Cache,
    /// A report of everything acknowledged is refused.
    Report,
    /// Nobody needs to.
    Nobody,
}

const FAULTS: [(Fault, Told); 14] = [
    (Fault::BrokerKilled, Told::Ingestion("event log", "kafka")),
    (Fault::BrokerPaused, Told::Ingestion("event log", "kafka")),
    (Fault::BrokerUnheard, Told::Ingestion("event log", "kafka")),
    (Fault::CqlKilled, Told::Attribution("worker", "cql")),
    (Fault::CqlUnheard, Told::Attribution("worker", "cql")),
    (Fault::CqlUnreached, Told::Attribution("worker", "cql")),
    (Fault::RedisKilled, Told::Cache),
    (Fault::RedisFlushed, Told::Nobody),
    (Fault::RedisPaused, Told::Cache),
    (Fault::WarehouseAway, Told::Attribution("warehouse", "warehouse")),
    (Fault::InsertUnheard, Told::Attribution("warehouse", "warehouse")),
    (Fault::AttributionKilled, Told::Report),
    (Fault::AttributionPaused, Told::Nobody),
    (Fault::AttributionShared, Told::Nobody),
];

struct World {
    servers: Servers,
    wires: Wires,
    cluster: Cluster,
    /// The second one that attributes, when there is one.
    another: Option<Platform>,
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_server_goes_away_a_cluster_says_so_and_counts_everything_once() {
    let mut rng = seeded("cluster");
    let programs = Programs::beside(env!("CARGO_BIN_EXE_attribution"));
    let (servers, wires) = Servers::behind_wires(&programs).await;
    let mut urls = servers.urls().through(&wires);
    urls.log += &format!("&session_millis={}&delivery_millis_max=5000", SESSION.as_millis());
    urls.journeys += "&timeout_millis=5000";
    let cluster = servers.cluster_at(&programs, &urls).await;
    let mut world = World { servers, wires, cluster, another: None };
    let mut ledger = Ledger::default();
    for (fault, told) in FAULTS {
        let began = std::time::Instant::now();
        world.survives(fault, told, &mut ledger, &mut rng).await;
        println!("{fault:?}: {:.1} s", began.elapsed().as_secs_f64());
    }
    ledger.check_journeys(world.cluster.client()).await;
    world.cluster.stop().await;
}

impl World {
    async fn survives(&mut self, fault: Fault, told: Told, ledger: &mut Ledger, rng: &mut SmallRng) {
        let client = self.cluster.client().clone();
        let load = Load::paced(&client, &format!("{fault:?}"), rng, 0, PAUSE);
        load.goes_on(20).await;
        self.begin(fault).await;
        self.is_told(fault, told).await;
        self.end(fault).await;
        load.goes_on(40).await;
        ledger.merge(load.finish().await);

        for (name, process) in self.processes() {
            println!("{fault:?}: {name} becomes ready");
            process.becomes(true).await;
        }
        ledger.resend_forgotten(&client, rng).await;
        let wrong = ledger.wrong(&client).await;
        assert!(wrong.is_empty(), "{fault:?}:\n{}\n{}", wrong.join("\n"), self.logs());
    }

    async fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::BrokerKilled => self.servers.kafka.own().unwrap().kill(0),
            Fault::BrokerPaused => self.servers.kafka.own().unwrap().pause(0),
            Fault::BrokerUnheard => self.wires.log.cut(Cut::Answers),
            Fault::CqlKilled => self.servers.cql.own().unwrap().kill(),
            Fault::CqlUnheard => self.wires.journeys.cut(Cut::Answers),
            Fault::CqlUnreached => self.wires.journeys.cut(Cut::Requests),
            Fault::RedisKilled => self.redis().kill(),
            Fault::RedisFlushed => assert_eq!(self.redis().ask("FLUSHALL").as_deref(), Some("+OK")),
            Fault::RedisPaused => self.redis().pause(),
            Fault::WarehouseAway => self.wires.warehouse.cut(Cut::All),
            Fault::InsertUnheard => {
                self.wires.warehouse.cut(Cut::Answers);
                let before = self.servers.rows().await;
                eventually("an insert is applied", async || self.servers.rows().await > before).await;
            }
            Fault::AttributionKilled => {
                self.cluster.attribution.signal(Signal::KILL);
                self.cluster.attribution.ended().await;
            }
            Fault::AttributionPaused => {
                let another = self.another().await;
                self.cluster.attribution.signal(Signal::STOP);
                eventually("another has every partition", async || {
                    another.log().matches("attribution works on a partition").count() >= PARTITIONS as usize
                })
                .await;
                self.another = Some(another);
            }
            Fault::AttributionShared => self.another = Some(self.another().await),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::BrokerKilled => self.servers.kafka.own().unwrap().restart(0).await,
            Fault::BrokerPaused => {
                // The fault is that it is longer than a session.
                tokio::time::sleep(SESSION).await;
                self.servers.kafka.own().unwrap().resume(0);
            }
            Fault::BrokerUnheard => self.wires.log.mend(),
            Fault::CqlKilled => self.servers.cql.own().unwrap().restart().await,
            Fault::CqlUnheard | Fault::CqlUnreached => self.wires.journeys.mend(),
            Fault::RedisKilled => self.redis().restart().await,
            Fault::RedisFlushed => {}
            Fault::RedisPaused => self.redis().resume(),
            Fault::WarehouseAway | Fault::InsertUnheard => self.wires.warehouse.mend(),
            Fault::AttributionKilled => {
                let address = self.cluster.attribution.address().to_owned();
                let again = self.cluster.another.clone().env("ATTRIBUTION_LISTEN", address);
                self.cluster.attribution = again.ready().await;
            }
            Fault::AttributionPaused => {
                let taken = || self.cluster.attribution.log().matches("partitions are taken away").count();
                let before = taken();
                self.cluster.attribution.signal(Signal::CONT);
                eventually("it knows that it was a zombie", async || taken() > before).await;
                self.leaves().await;
            }
            Fault::AttributionShared => self.leaves().await,
        }
    }

    /// One more that attributes, and has partitions.
    async fn another(&self) -> Platform {
        let another = self.cluster.another.ready().await;
        another.logs("attribution works on a partition").await;
        another
    }

    async fn leaves(&mut self) {
        self.another.take().unwrap().stop().await;
    }

    async fn is_told(&self, fault: Fault, told: Told) {
        eventually(&format!("{fault:?} is told: {told:?}"), async || match told {
            Told::Ingestion(component, words) => says(&self.cluster.ingestion, component, words).await,
            Told::Attribution(component, words) => says(&self.cluster.attribution, component, words).await,
            Told::Cache => {
                let page = self.cluster.ingestion.metrics().await;
                page.lines().any(|line| line == "cache_available 0")
            }
            Told::Report => {
                let question = json!({"from": "2026-01-01", "to": "2026-02-01", "models": ["linear"]});
                let path = "/v1/reports?consistency=acknowledged";
                let answer = self.cluster.client().post(path, &question).await.unwrap();
                answer.status == 503 && answer.headers.contains_key("retry-after")
            }
            Told::Nobody => true,
        })
        .await;
    }

    fn redis(&mut self) -> &mut Node {
        self.servers.redis.own().unwrap()
    }

    fn processes(&self) -> [(&'static str, &Platform); 3] {
        let Cluster { ingestion, attribution, query, .. } = &self.cluster;
        [("ingestion", ingestion), ("attribution", attribution), ("query", query)]
    }

    fn logs(&self) -> String {
        let logs = self.processes().map(|(name, process)| format!("the log of {name}:\n{}\n", process.log()));
        logs.concat()
    }
}

/// Whether a component is not ready, for a reason with these words in it.
async fn says(process: &Platform, component: &str, words: &str) -> bool {
    let answer = process.get("/health/ready").await.unwrap();
    let components = answer.body["components"].as_array().unwrap();
    components.iter().any(|state| {
        state["component"] == component
            && state["ready"] == false
            && state["reason"].as_str().is_some_and(|reason| reason.contains(words))
    })
}

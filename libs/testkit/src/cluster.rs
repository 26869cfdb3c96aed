//! The platform as a cluster: a process for each service, over real servers, behind one address.

use std::path::{Path, PathBuf};

use chdb::Supervisor;
use tempfile::TempDir;

use crate::{
    cassandra::{Cassandra, CqlServer},
    gateway::{Gateway, Upstreams},
    kafka::{self, Kafka},
    process::{Client, Launch, Platform, http},
    redis::{Node, Redis},
    wire::Wire,
};

/// Partitions of the topic.
pub const PARTITIONS: u32 = 4;

/// The key that the services call each other with.
const PEER_KEY: &str = "a-key-between-services";

/// The servers under a cluster.
pub struct Servers {
    /// The log.
    pub kafka: Kafka,
    /// The journey store.
    pub cql: CqlServer,
    /// The cache.
    pub redis: Redis,
    warehouse: Supervisor,
    /// Of everything that has a name on a server which others may use too.
    name: String,
    folder: TempDir,
}

/// Wires between a cluster and its servers.
pub struct Wires {
    /// To the broker.
    pub log: Wire,
    /// To the CQL server.
    pub journeys: Wire,
    /// To the Redis.
    pub cache: Wire,
    /// To the engine.
    pub warehouse: Wire,
}

/// The URLs of the stores.
#[derive(Debug, Clone)]
pub struct Urls {
    /// Of the event log.
    pub log: String,
    /// Of the journey store.
    pub journeys: String,
    /// Of the cache.
    pub cache: String,
    /// Of the warehouse.
    pub warehouse: String,
}

/// A running cluster; its processes are killed when it is dropped.
pub struct Cluster {
    /// Takes events.
    pub ingestion: Platform,
    /// Attributes them.
    pub attribution: Platform,
    /// Answers.
    pub query: Platform,
    /// Starts one more that attributes, beside the one that the others call.
    pub another: Launch,
    client: Client,
    _gateway: Gateway,
}

/// Where the programs are: `attribution` and one for each service.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

// === impl Programs ===

impl Programs {
    /// The folder of a program that was just built.
    ///
    /// # Panics
    /// The others were not built.
    pub fn beside(program: impl AsRef<Path>) -> Self {
        let folder = program.as_ref().parent().expect("a program is in a folder");
        for name in ["attribution", "ingestion", "attribution-engine", "query-api"] {
            let built = folder.join(name).is_file();
            assert!(
                built,
                "there is no {name} in {}: cargo build -p attribution-cli -p ingestion -p attribution-service -p query-api",
                folder.display()
            );
        }
        Self(folder.to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

// === impl Servers ===

impl Servers {
    /// Starts what is not given by `KAFKA_URL`, `SCYLLA_URL` and `REDIS_URL`, and an engine for the warehouse.
    ///
    /// # Panics
    /// A server cannot be installed or started.
    pub async fn start(programs: &Programs) -> Self {
        let warehouse = engine(programs);
        let (kafka, cql, redis) = tokio::join!(Kafka::start(), CqlServer::start(), Redis::start());
        Self::of(kafka, cql, redis, warehouse)
    }

    /// Starts servers of our own, one of each, and wires to them.
    ///
    /// # Panics
    /// A server cannot be installed or started.
    pub async fn behind_wires(programs: &Programs) -> (Self, Wires) {
        let warehouse = engine(programs);
        let ((kafka, log), cassandra, node) =
            tokio::join!(kafka::Cluster::behind_a_wire(), Cassandra::durable(), Node::start());
        let wires = Wires {
            log,
            journeys: Wire::to(&cassandra.address()).await,
            cache: Wire::to(&node.address()).await,
            warehouse: Wire::to(warehouse.0.endpoint().url.trim_start_matches("http://")).await,
        };
        let (cql, redis) = (CqlServer::Own(Box::new(cassandra)), Redis::Own(Box::new(node)));
        (Self::of(Kafka::Own(kafka), cql, redis, warehouse), wires)
    }

    fn of(kafka: Kafka, cql: CqlServer, redis: Redis, (warehouse, folder): (Supervisor, TempDir)) -> Self {
        let name = format!("attribution_{}", std::process::id());
        Self { kafka, cql, redis, warehouse, name, folder }
    }

    /// The URLs of the stores.
    pub fn urls(&self) -> Urls {
        let journeys = self.cql.url(&self.name);
        let endpoint = self.warehouse.endpoint();
        let address = endpoint.url.trim_start_matches("http://");
        Urls {
            log: self.kafka.url(&self.name, PARTITIONS),
            // One node has one copy.
            journeys: match self.cql {
                CqlServer::Own(_) => format!("{journeys}?replicas=1"),
                CqlServer::Given(_) => journeys,
            },
            cache: format!("{}?prefix={}:", self.redis.url(), self.name),
            warehouse: format!("http://{}:{}@{address}/{}", endpoint.user, endpoint.password, self.name),
        }
    }

    /// The name of the journey store's keyspace and of the warehouse's database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends one statement to the warehouse, past any wire to it, and gives its answer.
    ///
    /// # Panics
    /// It is refused.
    pub async fn warehouse(&self, sql: &str) -> String {
        let endpoint = self.warehouse.endpoint();
        let request = http().post(endpoint.url).basic_auth(endpoint.user, Some(endpoint.password));
        let answer = request.body(sql.to_owned()).send().await.expect("the warehouse answers");
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        assert!(status.is_success(), "{sql}: {status} {text}");
        text
    }

    /// How many rows the warehouse holds.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn rows(&self) -> u64 {
        let sql = format!("SELECT sum(total_rows) FROM system.tables WHERE database = '{}'", self.name);
        self.warehouse(&sql).await.trim().parse().expect("a number")
    }

    /// The program of one service.
    fn launch(&self, programs: &Programs, name: &str) -> Launch {
        let settings = self.folder.path().join("settings");
        service::settings::init_data_dir(&settings).expect("a writable folder");
        Launch::service(programs.path(name), &settings)
    }

    /// Starts the process that takes events, and waits until it is ready.
    ///
    /// # Panics
    /// It ends, or is not ready in time.
    pub async fn ingestion(&self, programs: &Programs, urls: &Urls) -> Platform {
        let launch = self.launch(programs, "ingestion");
        launch.env("ATTRIBUTION_LOG", &urls.log).env("ATTRIBUTION_CACHE", &urls.cache).ready().await
    }

    /// The process that attributes them.
    pub fn attribution(&self, programs: &Programs, urls: &Urls) -> Launch {
        self.launch(programs, "attribution-engine")
            .env("ATTRIBUTION_LOG", &urls.log)
            .env("ATTRIBUTION_JOURNEYS", &urls.journeys)
            .env("ATTRIBUTION_WAREHOUSE", &urls.warehouse)
            .env("ATTRIBUTION_PEER_KEY", PEER_KEY)
    }

    /// Starts the process that answers, and waits until it is ready.
    ///
    /// # Panics
    /// It ends, or is not ready in time.
    pub async fn query(&self, programs: &Programs, urls: &Urls, attribution: &Platform) -> Platform {
        self.launch(programs, "query-api")
            .env("ATTRIBUTION_JOURNEYS", &urls.journeys)
            .env("ATTRIBUTION_WAREHOUSE", &urls.warehouse)
            .env("ATTRIBUTION_ATTRIBUTION__URL", format!("http://{}", attribution.address()))
            .env("ATTRIBUTION_ATTRIBUTION__KEY", PEER_KEY)
            .ready()
            .await
    }

    /// Starts a process for each service, and waits until all are ready.
    ///
    /// # Panics
    /// One ends, or is not ready in time.
    pub async fn cluster(&self, programs: &Programs) -> Cluster {
        self.cluster_at(programs, &self.urls()).await
    }

    /// The same, with stores at other URLs.
    ///
    /// # Panics
    /// One ends, or is not ready in time.
    pub async fn cluster_at(&self, programs: &Programs, urls: &Urls) -> Cluster {
        let another = self.attribution(programs, urls);
        let attribution = another.ready().await;
        let ingestion = self.ingestion(programs, urls).await;
        let query = self.query(programs, urls, &attribution).await;
        let gateway = Gateway::start(Upstreams {
            ingestion: ingestion.address().to_owned(),
            attribution: attribution.address().to_owned(),
            query: query.address().to_owned(),
        })
        .await;
        let client = Client::new(gateway.url(), query.key().to_owned());
        Cluster { ingestion, attribution, query, another, client, _gateway: gateway }
    }
}

/// An engine for the warehouse, and its folder.
fn engine(programs: &Programs) -> (Supervisor, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let command = vec![programs.path("attribution").into(), "chdb-server".into()];
    let options = chdb::Options::new(folder.path().join("warehouse"), command);
    (Supervisor::start(options).expect("an engine"), folder)
}

// === impl Urls ===

impl Urls {
    /// The same servers, at the other ends of wires. Kafka says itself where it is found.
    #[must_use]
    pub fn through(self, wires: &Wires) -> Self {
        let over = |url: &str, wire: &Wire| {
            let (_, rest) = url.split_once("://").expect("a URL");
            let rest = rest.rsplit('@').next().unwrap_or(rest);
            let server = rest.split(['/', '?']).next().unwrap_or(rest);
            url.replace(server, &wire.address().to_string())
        };
        Self {
            journeys: over(&self.journeys, &wires.journeys),
            cache: over(&self.cache, &wires.cache),
            warehouse: over(&self.warehouse, &wires.warehouse),
            log: self.log,
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// A client of the gateway.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks every process to stop, and waits until all have, in order.
    ///
    /// # Panics
    /// One does not stop in time, or not in order.
    pub async fn stop(self) {
        self.query.stop().await;
        self.ingestion.stop().await;
        self.attribution.stop().await;
    }
}

//! The platform as a cluster: a process for each service, over real servers, behind one address.

use std::path::{Path, PathBuf};

use chdb::Supervisor;
use tempfile::TempDir;

use crate::{
    cassandra::{Cassandra, CqlServer},
    gateway::{Gateway, Upstreams},
    kafka::Kafka,
    process::{Client, Launch, Platform},
    redis::{Node, Redis},
};

/// Partitions of the topic.
const PARTITIONS: u32 = 4;

/// The key that the services call each other with.
const PEER_KEY: &str = "a-key-between-services";

/// The servers under a cluster.
pub struct Servers {
    kafka: Kafka,
    cql: CqlServer,
    redis: Redis,
    warehouse: Supervisor,
    /// Of everything that has a name on a server which others may use too.
    name: String,
    folder: TempDir,
}

/// A running cluster; its processes are killed when it is dropped.
pub struct Cluster {
    /// Takes events.
    pub ingestion: Platform,
    /// Attributes them.
    pub attribution: Platform,
    /// Answers.
    pub query: Platform,
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
        let folder = tempfile::tempdir().expect("a temporary folder");
        let command = vec![programs.path("attribution").into(), "chdb-server".into()];
        let options = chdb::Options::new(folder.path().join("warehouse"), command);
        let warehouse = Supervisor::start(options).expect("an engine");
        let (kafka, cql, redis) = tokio::join!(Kafka::start(), CqlServer::start(), Redis::start());
        let name = format!("attribution_{}", std::process::id());
        Self { kafka, cql, redis, warehouse, name, folder }
    }

    /// The URL of the journey store.
    pub fn journeys(&self) -> String {
        let journeys = self.cql.url(&self.name);
        // One node has one copy.
        match self.cql {
            CqlServer::Own(_) => format!("{journeys}?replicas=1"),
            CqlServer::Given(_) => journeys,
        }
    }

    /// The name of the journey store's keyspace and of the warehouse's database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The CQL server, if it may be stopped.
    pub fn cql(&mut self) -> Option<&mut Cassandra> {
        self.cql.own()
    }

    /// The Redis, if it may be emptied.
    pub fn redis(&self) -> Option<&Node> {
        match &self.redis {
            Redis::Own(node) => Some(node),
            Redis::Given(_) => None,
        }
    }

    /// Sends one statement to the warehouse.
    ///
    /// # Panics
    /// It is refused.
    pub async fn warehouse(&self, sql: &str) {
        let endpoint = self.warehouse.endpoint();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS files");
        let request = http.post(endpoint.url).basic_auth(endpoint.user, Some(endpoint.password));
        let answer = request.body(sql.to_owned()).send().await.expect("the warehouse answers");
        let status = answer.status();
        assert!(status.is_success(), "{sql}: {status} {}", answer.text().await.unwrap_or_default());
    }

    /// The program of one service, with the variables of the stores that it has.
    fn launch(&self, programs: &Programs, name: &str, stores: &[&str]) -> Launch {
        let settings = self.folder.path().join("settings");
        service::settings::init_data_dir(&settings).expect("a writable folder");
        stores.iter().fold(Launch::service(programs.path(name), &settings), |launch, store| {
            let url = match *store {
                "LOG" => self.kafka.url(&self.name, PARTITIONS),
                "JOURNEYS" => self.journeys(),
                "CACHE" => format!("{}?prefix={}:", self.redis.url(), self.name),
                _ => {
                    let endpoint = self.warehouse.endpoint();
                    let address = endpoint.url.trim_start_matches("http://");
                    format!("http://{}:{}@{address}/{}", endpoint.user, endpoint.password, self.name)
                }
            };
            launch.env(&format!("ATTRIBUTION_{store}"), url)
        })
    }

    /// Starts the process that takes events, and waits until it is ready.
    ///
    /// # Panics
    /// It ends, or is not ready in time.
    pub async fn ingestion(&self, programs: &Programs) -> Platform {
        self.launch(programs, "ingestion", &["LOG", "CACHE"]).ready().await
    }

    /// Starts the process that attributes them, and waits until it is ready.
    ///
    /// # Panics
    /// It ends, or is not ready in time.
    pub async fn attribution(&self, programs: &Programs) -> Platform {
        self.launch(programs, "attribution-engine", &["LOG", "JOURNEYS", "WAREHOUSE"])
            .env("ATTRIBUTION_PEER_KEY", PEER_KEY)
            .ready()
            .await
    }

    /// Starts the process that answers, and waits until it is ready.
    ///
    /// # Panics
    /// It ends, or is not ready in time.
    pub async fn query(&self, programs: &Programs, attribution: &Platform) -> Platform {
        self.launch(programs, "query-api", &["JOURNEYS", "WAREHOUSE"])
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
        let attribution = self.attribution(programs).await;
        let ingestion = self.ingestion(programs).await;
        let query = self.query(programs, &attribution).await;
        let gateway = Gateway::start(Upstreams {
            ingestion: ingestion.address().to_owned(),
            attribution: attribution.address().to_owned(),
            query: query.address().to_owned(),
        })
        .await;
        let client = Client::new(gateway.url(), query.key().to_owned());
        Cluster { ingestion, attribution, query, client, _gateway: gateway }
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

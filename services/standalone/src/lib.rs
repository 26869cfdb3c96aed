//! All services in one process, over embedded stores, on one port and in one data folder.
//!
//! Owns the choice of stores and the order of start and stop. It must never do anything that a service does.

mod config;
mod seen;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use service::{Front, Listeners, Peer, SettingsHandle, settings};
use telemetry::health::Health;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use warehouse::Warehouse;

pub use config::Config;

/// How long the embedded warehouse has to close its folder.
const WAREHOUSE_STOP: Duration = Duration::from_secs(20);

/// What the command line says; `None` is not said.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Flags {
    /// The data folder.
    pub data: Option<PathBuf>,
    /// The address of gRPC and REST.
    pub listen: Option<String>,
    /// The address of metrics and health.
    pub metrics: Option<String>,
    /// A configuration file.
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Whether to print the configuration and stop.
    #[serde(skip)]
    pub print_config: bool,
}

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// Which of the two.
        what: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Settings that do not check.
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    /// The event log.
    #[error(transparent)]
    Log(#[from] event_log::LogError),
    /// The journey store.
    #[error(transparent)]
    Store(#[from] journey_store::StoreError),
    /// The embedded warehouse.
    #[error(transparent)]
    Engine(#[from] chdb::Error),
    /// The warehouse's client.
    #[error(transparent)]
    Warehouse(#[from] warehouse::Error),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] cache::CacheError),
    /// Ingestion.
    #[error(transparent)]
    Ingestion(#[from] ingestion::Error),
    /// Certificate and key.
    #[error(transparent)]
    Tls(#[from] service::TlsError),
    /// Anything of the system.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The whole process, as `attribution serve` runs it: configuration, telemetry, signals, services.
pub fn serve(flags: Flags) -> ExitCode {
    let (file, print_config) = (flags.config.clone(), flags.print_config);
    let env_ignored = &["URL", "KEY", "CHDB_LIB", "CHDB_DIR"];
    let sources = service::config::Sources { file, env_ignored, flags: Some(flags) };
    let config: Config = match service::config::load(sources) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if print_config {
        return match service::config::print_config(&config) {
            Ok(text) => match io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => refuse(&error),
            },
            Err(error) => refuse(&error),
        };
    }
    let log_format = match config.log_format.parse() {
        Ok(format) => format,
        Err(error) => return refuse(&error),
    };
    let telemetry = telemetry::Config {
        log_format,
        log_filter: config.log_filter.clone(),
        otlp_endpoint: Some(config.otlp_endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
        trace_sample_ratio: config.trace_sample_ratio,
        ..telemetry::Config::new("attribution")
    };
    service::run(telemetry, move |shutdown| start(config, shutdown))
}

/// Runs all services until the shutdown, then drains and closes the stores.
///
/// # Errors
/// What keeps the process from starting.
pub async fn start(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let listeners = bind(&config).await?;
    if settings::init_data_dir(&config.data)? == settings::FirstStart::Written {
        tracing::info!(data = %config.data.display(), "first start: settings.toml and api-key are written");
    }
    // The stores want absolute paths, whatever the working folder is.
    let data = config.data.canonicalize()?;
    let settings = SettingsHandle::open(&data)?;
    let health = Health::default();
    let front = Front::new(settings.clone(), config.limits.clone(), health.clone());

    let log_url = format!("file://{}?partitions={}", data.join("log").display(), config.log_partitions);
    let log = event_log::open(&log_url).await?;
    let stores = journey_store::open(&format!("file://{}", data.join("journeys").display())).await?;
    let engine = chdb::Supervisor::start(chdb::Options::new(data.join("warehouse"), engine_command()?))?;
    let endpoint = engine.endpoint();
    let warehouse = Warehouse::connect(&warehouse::Config {
        url: endpoint.url,
        user: endpoint.user,
        password: endpoint.password,
        database: "attribution".into(),
    })?;

    let rules = settings.clone();
    let attribution = attribution_service::start(
        &config.attribution,
        &attribution_service::Deps {
            log: Arc::clone(&log),
            journeys: Arc::clone(&stores.journeys),
            outbox: Arc::clone(&stores.outbox),
            warehouse: warehouse.clone(),
            rules: Arc::new(move |tenant, edition| rules.edition(tenant, edition)),
            worker_health: health.register(attribution_service::NAME, "worker"),
            fact_writer_health: health.register("fact writer", "warehouse"),
        },
        &shutdown,
    );
    let api = service::grpc_routes(Routes::new(attribution.api.clone()));
    let attribution_routes = front.mount("attribution", api);

    let mut recover_from = Vec::new();
    for partition in 0..log.partitions() {
        recover_from.push(stores.outbox.consumed_to(partition).await?);
    }
    let memory = cache::open(&format!("memory://?seen_max={}&seen_ttl=365d", config.seen_events_max))?;
    let progress = Arc::clone(&attribution.progress);
    let ingestion = ingestion::Deps {
        log: Arc::clone(&log),
        cache: Arc::new(seen::Seen { memory, journeys: Arc::clone(&stores.journeys) }),
        backlog: Arc::new(move || progress.queued_events()),
        recover_from,
        health: health.clone(),
    };
    let ingestion_routes =
        front.mount("ingestion", ingestion::start(&config.ingestion, ingestion, &shutdown).await?);

    let query = query_api::Deps {
        warehouse,
        journeys: stores.journeys,
        attribution: Peer::in_process(attribution_routes.clone()),
    };
    let routes =
        query_api::start(config.query, query, &front).merge(ingestion_routes).merge(attribution_routes);
    let watching = service::task::spawn("settings", settings.watch(shutdown.clone()));
    if let Some(tls) = tls(&config.tls_certificate, &config.tls_key)? {
        service::serve(Listeners { tls: Some(tls), ..listeners }, &front, routes, shutdown).await?;
    } else {
        service::serve(listeners, &front, routes, shutdown).await?;
    }
    attribution.stopped().await;
    // A panic in it was logged.
    let _ = watching.await;
    engine.stop(WAREHOUSE_STOP).await;
    tracing::info!("stopped");
    Ok(())
}

async fn bind(config: &Config) -> Result<Listeners, Error> {
    let listen = async |what, address: &str| {
        TcpListener::bind(address).await.map_err(|source| Error::Listen {
            what,
            address: address.to_owned(),
            source,
        })
    };
    let public = listen("listen", &config.listen).await?;
    let operations = Some(listen("metrics", &config.metrics).await?);
    Ok(Listeners { public, operations, tls: None })
}

fn tls(certificate: &Path, key: &Path) -> Result<Option<service::Tls>, Error> {
    if certificate.as_os_str().is_empty() && key.as_os_str().is_empty() {
        return Ok(None);
    }
    Ok(Some(service::Tls::open(certificate, key)?))
}

/// The embedded warehouse is this program again, with a word of its own.
fn engine_command() -> io::Result<Vec<OsString>> {
    Ok(vec![std::env::current_exe()?.into(), "chdb-server".into()])
}

fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

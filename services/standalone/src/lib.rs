//! All services in one process, over embedded stores, on one port and in one data folder.
//!
//! Owns the choice of stores and the order of start and stop. It must never do anything that a service does.

mod config;
mod seen;

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use cache::MemoryCache;
use serde::Serialize;
use service::{Front, Peer, Process, SettingsHandle, config::Sources, process, settings, task::Threads};
use telemetry::health::Health;
use tokio_util::sync::CancellationToken;
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

/// The whole process, as `attribution serve` runs it: configuration, telemetry, signals, services.
pub fn serve(flags: Flags) -> ExitCode {
    let (file, print_config) = (flags.config.clone(), flags.print_config);
    let sources = Sources { file, env_ignored: &process::ENV_IGNORED, flags: Some(flags) };
    process::run("attribution", sources, print_config, start)
}

/// Runs all services until the shutdown, then drains and closes the stores.
///
/// # Errors
/// What keeps the process from starting.
pub async fn start(process: Process, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listeners = process.bind().await?;
    if settings::init_data_dir(&config.data)? == settings::FirstStart::Written {
        tracing::info!(data = %config.data.display(), "first start: settings.toml and api-key are written");
    }
    // The stores want absolute paths, whatever the working folder is.
    let data = config.data.canonicalize()?;
    let health = Health::default();
    let front = Front::new(SettingsHandle::open(&data)?, process.limits, health.clone());

    let log_url = format!(
        "file://{}?partitions={}&segment_bytes_max={}",
        data.join("log").display(),
        config.log_partitions,
        config.log_segment_bytes_max
    );
    let journeys_url = format!("file://{}", data.join("journeys").display());
    // A store of a newer program is refused before the log is mended.
    journey_store::check(&journeys_url)?;
    let log = event_log::open(&log_url).await?;
    let threads = Threads::new("attribution")?;
    let engine = chdb::Options::new(data.join("warehouse"), engine_command()?);
    // There, so that compaction and the warehouse's process give way to requests, as attribution does.
    let open = {
        let log = Arc::clone(&log);
        async move {
            let stores = journey_store::open(&journeys_url).await?;
            attribution_service::claim(&*log, &*stores.outbox).await?;
            anyhow::Ok((stores, chdb::Supervisor::start(engine)?))
        }
    };
    let (stores, engine) = threads.enter(|| service::task::spawn("stores", open)).await??;
    let endpoint = engine.endpoint();
    let warehouse = Warehouse::connect(&warehouse::Config {
        url: endpoint.url,
        user: endpoint.user,
        password: endpoint.password,
        database: "attribution".into(),
    })?;

    // Scores are wanted, not needed: without a model the platform is ready all the same.
    let gateway = ml_gateway::start(&config.ml, &front, &Health::default(), &shutdown)?;
    let mut deps = attribution_service::Deps::new(
        Arc::clone(&log),
        stores.clone(),
        warehouse.clone(),
        front.settings().clone(),
        &health,
    );
    if !config.ml.models.is_empty() {
        deps = deps.with_gateway(Peer::in_process(gateway.routes.clone()));
    }
    let attribution = threads.enter(|| attribution_service::start(&config.attribution, &deps, &shutdown));
    let attribution_routes = attribution.routes(&front);

    let mut recover_from = Vec::new();
    for partition in 0..log.partitions() {
        recover_from.push(stores.outbox.consumed_to(partition).await?);
    }
    let memory = format!("?seen_max={}&seen_ttl=365d", config.seen_events_max);
    let memory = Arc::new(MemoryCache::open(&memory)?);
    let (known, ends) = (Arc::clone(&memory), shutdown.clone());
    let (its_log, progress) = (Arc::clone(&log), Arc::clone(&attribution.progress));
    let attributed = move || {
        let (log, progress) = (Arc::clone(&its_log), Arc::clone(&progress));
        async move { progress.wait_attributed(&*log).await }
    };
    threads.enter(|| {
        let forget = async move { seen::forget_attributed(&known, attributed).await };
        service::task::spawn("attributed ids", ends.run_until_cancelled_owned(forget))
    });
    let progress = Arc::clone(&attribution.progress);
    let ingestion = ingestion::Deps {
        log: Arc::clone(&log),
        cache: Arc::new(seen::Seen { memory, journeys: Arc::clone(&stores.journeys) }),
        backlog: Some(Arc::new(move |partition| ingestion::Attributed {
            to: progress.known_to(partition),
            events_ahead: progress.events_ahead(partition),
            record_events: progress.record_events(),
        })),
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
    let routes = query_api::start(config.query, query, &front)
        .merge(ingestion_routes)
        .merge(attribution_routes)
        .merge(gateway.routes.clone());
    service::serve(listeners, &front, routes, shutdown).await?;
    attribution.stopped().await?;
    gateway.stopped().await;
    engine.stop(WAREHOUSE_STOP).await;
    tracing::info!("stopped");
    Ok(())
}

/// The embedded warehouse is this program again, with a word of its own.
fn engine_command() -> io::Result<Vec<OsString>> {
    Ok(vec![std::env::current_exe()?.into(), "chdb-server".into()])
}

//! A machine: its disk, the tables of its journey store, its warehouse and its clock; and one process after the other
//! that runs on it until it is killed, or the power goes.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use attribution_service::{Attribution, Config, Deps};
use event_log::{
    EventLog, Host, LocalLog, Options, SEGMENT_BYTES_LEAST, Writers,
    simulated::{Plan, SimulatedDisk},
};
use journey_store::{
    Stores,
    simulated::{Backup, SimulatedTables},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use service::{Front, Limits, Peer, SettingsHandle};
use telemetry::health::Health;
use tempfile::TempDir;
use testkit::faults::{Faults, PLACES};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    client::Client, events::SETTINGS, shared::share, store::Faulty, trace::Trace, warehouse::ModelWarehouse,
};

/// The machine; clones are the same.
#[derive(Clone)]
pub struct World(Arc<Machine>);

pub struct Machine {
    pub trace: Trace,
    pub warehouse: ModelWarehouse,
    disk: SimulatedDisk,
    tables: SimulatedTables,
    /// Of the journey store, made at the end of a process.
    backup: Mutex<Option<Backup>>,
    /// How many stores were lost, and how many of them before the backup: one that is of another generation than the
    /// warehouse is of use with its log alone.
    lost: AtomicU64,
    lost_before_backup: AtomicU64,
    /// Logs that were lost.
    logs: AtomicU64,
    partitions: u32,
    /// What the clock said last.
    clock_micros: AtomicI64,
    dead: Mutex<CancellationToken>,
    /// Fail points passed by the process of now, and the one at which it dies.
    passed: AtomicU64,
    dies_at: Mutex<Death>,
    settings: SettingsHandle,
    _folder: TempDir,
}

/// When a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    Never,
    /// At the n-th fail point of any name.
    Point(u64),
    /// At the n-th time that a fail point of this name is passed.
    Place(&'static str, u64),
    /// After so many milliseconds.
    Millis(u64),
}

/// What is different from one process to the next.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    pub seed: u64,
    pub death: Death,
    /// Whether disk and warehouse fail.
    pub faults: bool,
}

/// What a process that came to its end leaves.
pub struct Finished {
    pub stores: Stores,
}

impl std::ops::Deref for World {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0
    }
}

// === impl World ===

impl World {
    pub fn new(seed: u64, partitions: u32, faults: &Faults) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("settings.toml"), SETTINGS).unwrap();
        let trace = Trace::default();
        let world = Self(Arc::new(Machine {
            warehouse: ModelWarehouse::new(seed, trace.clone()),
            trace,
            disk: SimulatedDisk::default(),
            tables: SimulatedTables::default(),
            backup: Mutex::default(),
            lost: AtomicU64::new(0),
            lost_before_backup: AtomicU64::new(0),
            logs: AtomicU64::new(0),
            partitions,
            // 2026-03-01: all events are in the past.
            clock_micros: AtomicI64::new(1_772_323_200_000_000),
            dead: Mutex::default(),
            passed: AtomicU64::new(0),
            dies_at: Mutex::new(Death::Never),
            settings: SettingsHandle::open(folder.path()).unwrap(),
            _folder: folder,
        }));
        for place in PLACES {
            let world = world.clone();
            faults.call(place, move || world.pass(place));
        }
        world
    }

    fn pass(&self, place: &'static str) {
        if self.is_dead() {
            return;
        }
        self.trace.note(place);
        let passed = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        let mut death = self.dies_at.lock().unwrap();
        let dies = match &mut *death {
            Death::Point(at) => passed == *at,
            Death::Place(name, left) if *name == place => {
                *left -= 1;
                *left == 0
            }
            _ => false,
        };
        drop(death);
        if dies {
            self.die();
        }
    }

    /// The process stops where it is: nothing it does from now on has an effect.
    fn die(&self) {
        self.trace.note("dies");
        self.disk.power_off();
        self.tables.power_off();
        self.warehouse.cut();
        self.dead.lock().unwrap().cancel();
    }

    pub fn is_dead(&self) -> bool {
        self.dead.lock().unwrap().is_cancelled()
    }

    /// The clock, milliseconds.
    pub fn millis(&self) -> i64 {
        self.clock_micros.load(Ordering::Relaxed) / 1_000
    }

    /// Runs one process until it dies, or until everything is sent and reported: then `finish` looks at what it left.
    pub fn run<T>(
        &self,
        boot: Boot,
        client: &Client,
        finish: impl AsyncFnOnce(Finished) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let mut rng = SmallRng::seed_from_u64(boot.seed);
        *self.dead.lock().unwrap() = CancellationToken::new();
        *self.dies_at.lock().unwrap() = boot.death;
        self.passed.store(0, Ordering::Relaxed);
        let chance = |rng: &mut SmallRng, percent: f64| boot.faults && rng.random_bool(percent);
        self.disk.plan(Plan {
            fail_sync: chance(&mut rng, 0.3).then(|| rng.random_range(1..30)),
            fail_write: chance(&mut rng, 0.2).then(|| rng.random_range(1..60)),
            ..Plan::default()
        });
        let percent = if boot.faults { rng.random_range(0..15) } else { 0 };
        self.warehouse.fail(percent, chance(&mut rng, 0.5));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let dead = self.dead.lock().unwrap().clone();
        let outcome = runtime.block_on(async {
            let life = async {
                if let Death::Millis(millis) = boot.death {
                    let world = self.clone();
                    service::task::spawn("death", async move {
                        tokio::time::sleep(Duration::from_millis(millis)).await;
                        world.die();
                    });
                }
                let stores = self.live(&mut rng, percent, client).await?;
                finish(Finished { stores }).await
            };
            tokio::select! {
                biased;
                () = dead.cancelled() => Ok(None),
                outcome = tokio::time::timeout(Duration::from_secs(3_600), life) => match outcome {
                    Ok(outcome) => outcome.map(Some),
                    Err(_) => Err("nothing moves any more".to_owned()),
                },
            }
        });
        drop(runtime);
        client.disconnected();
        if self.end(&mut rng) {
            client.send_all_again();
        }
        outcome
    }

    /// The machine after a process: it was killed, or the power went; and somebody may have removed a folder, or have brought
    /// back a journey store that is older than the warehouse; and its log may be lost with what came since. Whether it is.
    fn end(&self, rng: &mut SmallRng) -> bool {
        let after = rng.random_range(0..20);
        match after {
            0 => {
                self.trace.note("the journey store is gone");
                self.tables.lose();
            }
            1 => {
                self.trace.note("the warehouse is gone");
                self.warehouse.lose();
            }
            _ => {}
        }
        self.lost.fetch_add(u64::from(after < 2), Ordering::Relaxed);
        let lost = self.lost.load(Ordering::Relaxed);
        let mut backup = self.backup.lock().unwrap();
        if rng.random_bool(0.4) {
            self.disk.kill();
            self.tables.kill();
        } else {
            self.disk.crash(rng.random());
            self.tables.crash(rng.random());
        }
        match &*backup {
            Some(backup) if after < 5 => {
                self.trace.note("the journey store is set back");
                self.tables.restore(backup);
                self.warehouse.whole_batches();
                let fits = lost == self.lost_before_backup.load(Ordering::Relaxed) && self.fills_the_log();
                if fits && rng.random_bool(0.5) {
                    self.trace.note("the log is gone");
                    self.logs.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
            }
            Some(_) if after >= 10 => {}
            // The first one, and sometimes a later one.
            _ => {
                *backup = Some(self.tables.backup());
                self.lost_before_backup.store(lost, Ordering::Relaxed);
            }
        }
        false
    }

    /// Whether the journey store knows as many partitions as there are.
    fn fills_the_log(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outbox = journey_store::simulated::open(&self.tables).outbox;
        runtime.block_on(async { outbox.consumed_to(self.partitions - 1).await.unwrap() > 0 })
    }

    async fn live(&self, rng: &mut SmallRng, percent: u32, client: &Client) -> Result<Stores, String> {
        let started = Instant::now();
        let began = self.clock_micros.load(Ordering::Relaxed) + rng.random_range(-1_000_000..10_000_000);
        let clock = {
            let world = self.clone();
            move || {
                let now = began + started.elapsed().as_micros() as i64;
                world.clock_micros.store(now, Ordering::Relaxed);
                now
            }
        };
        let host =
            Host { disk: Arc::new(self.disk.clone()), clock: Arc::new(clock), writers: Writers::Manual };
        let options = Options {
            partitions: Some(self.partitions),
            segment_bytes_max: SEGMENT_BYTES_LEAST,
            ..Options::new(PathBuf::from(format!("/log{}", self.logs.load(Ordering::Relaxed))))
        };
        let log = match LocalLog::open_on(options, host) {
            Ok(log) => Arc::new(log),
            // It fails as planned: the process starts again.
            Err(error) => {
                self.trace.note(&format!("the log does not open: {error}"));
                self.die();
                std::future::pending().await
            }
        };
        for partition in 0..self.partitions {
            let (log, mut rng) = (Arc::clone(&log), SmallRng::seed_from_u64(rng.random()));
            service::task::spawn("log writer", async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(0..8))).await;
                    log.flush(partition);
                }
            });
        }
        let stores = journey_store::simulated::open(&self.tables);
        let shutdown = CancellationToken::new();
        // Sometimes two processes share the partitions.
        let views: Vec<Arc<dyn EventLog>> = match self.partitions > 1 && rng.random_bool(0.5) {
            true => {
                share(&log, SmallRng::seed_from_u64(rng.random())).map(|log| log as Arc<dyn EventLog>).into()
            }
            false => vec![Arc::clone(&log) as Arc<dyn EventLog>],
        };
        let mut attributions: Vec<Attribution> = Vec::new();
        for log in views {
            let log = self.continued(log, &stores).await?;
            attributions.push(self.attribution(rng, percent, log, &stores, &shutdown));
        }
        let log = self.continued(log, &stores).await?;
        let ingestion = self.ingestion(rng, &log, &stores, &shutdown).await?;
        client.run(self, &ingestion).await?;
        let mut last = 0;
        for partition in 0..self.partitions {
            last = last.max(log.end(partition).await.map_err(|error| error.to_string())?.time_micros);
        }
        for attribution in attributions {
            attribution.progress.wait_complete(last).await;
        }
        self.trace.note("complete");
        Ok(stores)
    }

    /// The log as the positions of the stores are in it, when the warehouse answers.
    async fn continued(&self, log: Arc<dyn EventLog>, stores: &Stores) -> Result<Arc<dyn EventLog>, String> {
        loop {
            let lost = stores.outbox.generation().await.map_err(|error| error.to_string())?;
            let lost = lost.map(|lost| lost.log);
            let (outbox, warehouse) = (&*stores.outbox, self.warehouse.connect());
            match attribution_service::continued(Arc::clone(&log), outbox, &warehouse, lost).await {
                Ok(log) => return Ok(log),
                Err(attribution_service::Error::Warehouse(_)) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn attribution(
        &self,
        rng: &mut SmallRng,
        failing_percent: u32,
        log: Arc<dyn EventLog>,
        stores: &Stores,
        shutdown: &CancellationToken,
    ) -> Attribution {
        let config = Config {
            worker_batch_bytes_max: rng.random_range(1..20_000),
            journeys_max: rng.random_range(1..8),
            fact_rows_max: rng.random_range(1..60),
            fact_touches_max: rng.random_range(1..400),
            fact_linger_millis: rng.random_range(0..60),
            ..Config::default()
        };
        let (health, rules) = (Health::default(), self.settings.clone());
        let deps = Deps {
            log,
            journeys: Faulty::wrap(Arc::clone(&stores.journeys), rng.random(), failing_percent),
            outbox: Arc::clone(&stores.outbox),
            scores: Arc::clone(&stores.scores),
            gateway: None,
            warehouse: self.warehouse.connect(),
            rules: Arc::new(move |tenant, edition| rules.edition(tenant, edition)),
            worker_health: health.register("attribution", "worker"),
            fact_writer_health: health.register("attribution", "fact writer"),
        };
        attribution_service::start(&config, &deps, shutdown)
    }

    /// Ingestion with a cache that forgets what was before the process, as a cluster's does after its window: then the
    /// worker has to recognise repeats. Sometimes it recovers what is not attributed yet.
    async fn ingestion(
        &self,
        rng: &mut SmallRng,
        log: &Arc<dyn EventLog>,
        stores: &Stores,
        shutdown: &CancellationToken,
    ) -> Result<Peer, String> {
        let mut recover_from = Vec::new();
        if rng.random_bool(0.5) {
            for partition in 0..self.partitions {
                let consumed = stores.outbox.consumed_to(partition).await;
                recover_from.push(consumed.map_err(|error| error.to_string())?);
            }
        }
        let front = Front::new(self.settings.clone(), Limits::default(), Health::default());
        let deps = ingestion::Deps {
            log: Arc::clone(log),
            cache: cache::open("memory://").map_err(|error| error.to_string())?,
            backlog: None,
            recover_from,
            health: front.health().clone(),
        };
        let routes = ingestion::start(&ingestion::Config::default(), deps, shutdown).await;
        Ok(Peer::in_process(front.mount("ingestion", routes.map_err(|error| error.to_string())?)))
    }
}

//! Which partitions this process works on: those that the log gives it, as long as it has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Deps, Made, Progress, fact_writer::FactWriter, generation, held::Held, scoring::Scorer,
    worker::Worker,
};

/// The name under which all processes of this service share the log's partitions.
const CONSUMER: &str = "attribution";

const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The partitions of this process, as they change.
pub(crate) type Assigned = watch::Receiver<BTreeSet<u32>>;

/// The work on one partition, and how it is stopped.
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Joins the others; tries again until the log is there. `None` at the shutdown.
pub(crate) async fn join(deps: &Deps, shutdown: &CancellationToken) -> Option<Assigned> {
    loop {
        match deps.log.join(CONSUMER).await {
            Ok(assigned) => return Some(assigned),
            Err(error) => {
                tracing::warn!(%error, "attribution waits for the event log");
                deps.worker_health.not_ready(error.to_string());
                shutdown.run_until_cancelled(tokio::time::sleep(RETRY_PAUSE)).await?;
            }
        }
    }
}

/// Works on the partitions of this process until the shutdown. One that is taken away is let go at once, and work on
/// new ones begins when that has ended.
pub(crate) async fn follow(
    config: &Config,
    deps: &Deps,
    mut assigned: Assigned,
    progress: &Arc<Progress>,
    decisions: &broadcast::Sender<Made>,
    shutdown: &CancellationToken,
) {
    let mut running: BTreeMap<u32, Running> = BTreeMap::new();
    let scorer = Scorer::new(config, deps).map(Arc::new);
    let (workers, writers) =
        (Held::new(deps.worker_health.clone()), Held::new(deps.fact_writer_health.clone()));
    while !shutdown.is_cancelled() {
        let now = assigned.borrow_and_update().clone();
        let gone: BTreeMap<u32, Running> =
            running.extract_if(.., |partition, _| !now.contains(partition)).collect();
        let numbers: Vec<u32> = gone.keys().copied().collect();
        end(gone).await;
        for partition in numbers {
            workers.goes_on(partition);
            writers.goes_on(partition);
        }
        if now.is_empty() {
            // Others have them all.
            deps.worker_health.ready();
            deps.fact_writer_health.ready();
        }
        for partition in now {
            running.entry(partition).or_insert_with(|| {
                tracing::info!(partition, "attribution works on a partition");
                let (stop, tasks) = (shutdown.child_token(), TaskTracker::new());
                let worker = Worker::new(
                    partition,
                    config,
                    deps,
                    Arc::clone(&workers),
                    Arc::clone(progress),
                    decisions.clone(),
                    scorer.clone(),
                );
                let writer =
                    FactWriter::new(partition, config, deps, Arc::clone(&writers), Arc::clone(progress));
                tasks.spawn({
                    let (deps, progress, workers) =
                        (deps.clone(), Arc::clone(progress), Arc::clone(&workers));
                    let (tasks, stop) = (tasks.clone(), stop.clone());
                    async move {
                        let taken = generation::take_over(partition, &deps, &workers, &progress);
                        if stop.run_until_cancelled(taken).await.is_some() {
                            tasks.spawn(worker.run(stop.clone()));
                            tasks.spawn(writer.run(stop));
                        }
                    }
                });
                tasks.close();
                Running { stop, tasks }
            });
        }
        let changed = async {
            if assigned.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        shutdown.run_until_cancelled(changed).await;
    }
    end(running).await;
}

async fn end(running: BTreeMap<u32, Running>) {
    for partition in running.values() {
        partition.stop.cancel();
    }
    for partition in running.into_values() {
        partition.tasks.wait().await;
    }
}

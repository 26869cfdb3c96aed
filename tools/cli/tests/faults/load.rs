//! Clients that send until they are stopped, or until nobody answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use testkit::process::{PATIENCE, Platform, eventually};
use tokio::task::JoinSet;

use crate::ledger::{Fate, Ledger, Request, acknowledged, requests};

const CLIENTS: u32 = 4;

/// Clients at work on a platform.
pub(crate) struct Load {
    clients: JoinSet<Ledger>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Load {
    /// Persons are named by the round; events carry `padding` bytes that do not compress.
    pub(crate) fn start(platform: &Arc<Platform>, round: &str, rng: &mut SmallRng, padding: usize) -> Self {
        let mut load = Self { clients: JoinSet::new(), stop: Arc::default(), acknowledged: Arc::default() };
        for client in 0..CLIENTS {
            let (platform, name) = (Arc::clone(platform), format!("{round}-{client}"));
            let (stop, acknowledged) = (Arc::clone(&load.stop), Arc::clone(&load.acknowledged));
            let rng = SmallRng::seed_from_u64(rng.random());
            load.clients.spawn(work(platform, name, stop, acknowledged, rng, padding));
        }
        load
    }

    /// Waits until so many requests were acknowledged, or until nobody answers.
    pub(crate) async fn acknowledges(&self, requests: usize) {
        eventually("requests are acknowledged", async || {
            // Every client at work holds the flag.
            self.acknowledged.load(Ordering::Relaxed) >= requests || Arc::strong_count(&self.stop) == 1
        })
        .await;
    }

    /// Ends when nobody answers the clients any more; what they know.
    pub(crate) async fn ended(self, platform: &Platform) -> Ledger {
        let Ok(all) = tokio::time::timeout(PATIENCE, self.clients.join_all()).await else {
            panic!("the platform does not end:\n{}", platform.log());
        };
        let mut ledger = Ledger::default();
        for known in all {
            ledger.merge(known);
        }
        ledger
    }

    /// Lets every client finish the person it is at.
    pub(crate) async fn stop(self, platform: &Platform) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.ended(platform).await
    }
}

async fn work(
    platform: Arc<Platform>,
    name: String,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    mut rng: SmallRng,
    padding: usize,
) -> Ledger {
    let mut ledger = Ledger::default();
    let mut answering = true;
    for number in 0.. {
        if !answering || stop.load(Ordering::Relaxed) {
            break;
        }
        let person = format!("{name}-{number}");
        for events in requests(&person, &mut rng, padding) {
            let answer = platform.post("/v1/events", &events).await;
            let fate = if answer.as_ref().is_ok_and(acknowledged) {
                count.fetch_add(1, Ordering::Relaxed);
                Fate::Acknowledged
            } else if rng.random() {
                Fate::Open
            } else {
                Fate::Abandoned
            };
            answering = answer.is_ok();
            ledger.add(person.clone(), Request { events, fate });
            if !answering {
                break;
            }
        }
    }
    ledger
}

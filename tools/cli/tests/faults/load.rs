//! Clients that send until they are stopped, or until nobody answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use testkit::process::{Client, PATIENCE, Platform, eventually};
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
    pub(crate) fn start(platform: &Client, round: &str, rng: &mut SmallRng, padding: usize) -> Self {
        Self::paced(platform, round, rng, padding, Duration::ZERO)
    }

    /// The same with a pause after each answer.
    pub(crate) fn paced(
        platform: &Client,
        round: &str,
        rng: &mut SmallRng,
        padding: usize,
        pause: Duration,
    ) -> Self {
        let mut load = Self { clients: JoinSet::new(), stop: Arc::default(), acknowledged: Arc::default() };
        for client in 0..CLIENTS {
            let work = Work {
                platform: platform.clone(),
                name: format!("{round}-{client}"),
                stop: Arc::clone(&load.stop),
                acknowledged: Arc::clone(&load.acknowledged),
                rng: SmallRng::seed_from_u64(rng.random()),
                padding,
                pause,
            };
            load.clients.spawn(work.run());
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

    /// Waits until so many more were.
    pub(crate) async fn goes_on(&self, requests: usize) {
        self.acknowledges(self.acknowledged.load(Ordering::Relaxed) + requests).await;
    }

    /// Ends when nobody answers the clients any more; what they know.
    pub(crate) async fn ended(self, platform: &Platform) -> Ledger {
        let ended = tokio::time::timeout(PATIENCE, self.known()).await;
        ended.unwrap_or_else(|_| panic!("the platform does not end:\n{}", platform.log()))
    }

    /// Lets every client finish the person it is at.
    pub(crate) async fn stop(self, platform: &Platform) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.ended(platform).await
    }

    /// The same, however long it takes.
    pub(crate) async fn finish(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.known().await
    }

    async fn known(self) -> Ledger {
        let mut ledger = Ledger::default();
        for known in self.clients.join_all().await {
            ledger.merge(known);
        }
        ledger
    }
}

/// One client.
struct Work {
    platform: Client,
    name: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    rng: SmallRng,
    padding: usize,
    pause: Duration,
}

impl Work {
    async fn run(mut self) -> Ledger {
        let mut ledger = Ledger::default();
        let mut answering = true;
        for number in 0.. {
            if !answering || self.stop.load(Ordering::Relaxed) {
                break;
            }
            let person = format!("{}-{number}", self.name);
            for events in requests(&person, &mut self.rng, self.padding) {
                let answer = self.platform.post("/v1/events", &events).await;
                let fate = if answer.as_ref().is_ok_and(acknowledged) {
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    Fate::Acknowledged
                } else if self.rng.random() {
                    Fate::Open
                } else {
                    Fate::Abandoned
                };
                answering = answer.is_ok();
                ledger.add(person.clone(), Request { events, fate });
                if !answering {
                    break;
                }
                tokio::time::sleep(self.pause).await;
            }
        }
        ledger
    }
}

//! One suite for every journey store, random events against a plain model, and what a folder promises on top.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod folder;
mod make;
mod plain;
mod properties;
mod suite;

use std::sync::atomic::{AtomicU32, Ordering};

use journey_store::{JourneyQuery, Position, Stores, open};
use make::{T, TENANT, click, conversion, of_tenant, seeds};
use properties::{CROWD, SMALL};

async fn memory() -> Stores {
    open("memory://").await.unwrap()
}

/// Opens one store after the other in a folder that goes with it.
struct Folder {
    folder: tempfile::TempDir,
    next: AtomicU32,
}

impl Folder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), next: AtomicU32::new(0) }
    }

    async fn open(&self) -> Stores {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        open(&format!("file://{}", self.folder.path().join(name).display())).await.unwrap()
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    suite::run(memory).await;
}

#[tokio::test]
async fn local_keeps_the_contract() {
    let folder = Folder::new();
    suite::run(async || folder.open().await).await;
}

#[tokio::test]
async fn memory_agrees_with_the_plain_model() {
    for seed in seeds(25) {
        properties::order_and_batches_do_not_matter(memory, &seed, SMALL).await;
        properties::editions_follow_their_causes(&memory().await, &seed).await;
    }
}

#[tokio::test]
async fn memory_agrees_with_the_plain_model_in_a_crowd() {
    for seed in seeds(3) {
        properties::order_and_batches_do_not_matter(memory, &seed, CROWD).await;
    }
}

#[tokio::test]
async fn local_agrees_with_the_plain_model() {
    let folder = Folder::new();
    for seed in seeds(3) {
        properties::order_and_batches_do_not_matter(async || folder.open().await, &seed, SMALL).await;
        properties::editions_follow_their_causes(&folder.open().await, &seed).await;
    }
}

/// Of two workers at the same moment at least one sees the other, whatever the threads do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_several_partitions_see_each_other() {
    let folder = Folder::new();
    for stores in [memory().await, folder.open().await] {
        for n in 0..60u64 {
            let at = |partition, index| Position { partition, offset: n, index };
            let home = format!("d:{n}");
            let touch = of_tenant(TENANT, at(0, 0), click(&format!("t{n}"), T, &format!("c:{n} u:{n}")));
            let made = of_tenant(TENANT, at(1, 0), conversion(&format!("c{n}"), "buy", T, &home));
            let link = of_tenant(TENANT, at(1, 1), make::activity(&format!("l{n}"), &format!("d:{n} u:{n}")));
            let (touches, made) = ([touch], [made, link]);
            let runtime = tokio::runtime::Handle::current();
            let (named, journey) = std::thread::scope(|scope| {
                let one =
                    scope.spawn(|| runtime.block_on(stores.journeys.record(0, &touches)).unwrap().affected);
                let two = scope.spawn(|| {
                    runtime.block_on(stores.journeys.record(1, &made)).unwrap();
                    let query = JourneyQuery { tenant: TENANT.into(), conversion_id: format!("c{n}") };
                    runtime.block_on(stores.journeys.journeys(&[query])).unwrap().remove(0).unwrap()
                });
                let named =
                    one.join().unwrap().iter().any(|affected| affected.conversion_id == format!("c{n}"));
                (named, two.join().unwrap())
            });
            assert!(named || journey.touches.len() == 1, "round {n}: neither saw the other");
        }
    }
}

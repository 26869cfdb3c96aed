//! One suite for every journey store, random events against a plain model, and what a folder promises on top.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod cql;
mod folder;
mod make;
mod plain;
mod properties;
mod scores;
mod suite;

use std::sync::atomic::{AtomicU32, Ordering};

use journey_store::{Stores, open};
use make::seeds;
use properties::{CROWD, SMALL};

/// More than past editions are kept of three conversions.
const COMMITS: u64 = 200;

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
        properties::editions_follow_their_causes(&memory().await, &seed, COMMITS).await;
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
        properties::editions_follow_their_causes(&folder.open().await, &seed, COMMITS).await;
    }
}

/// Of two workers at the same moment at least one sees the other, whatever the threads do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_several_partitions_see_each_other() {
    let folder = Folder::new();
    for stores in [memory().await, folder.open().await] {
        properties::two_workers_see_each_other([&stores, &stores], 60).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_side_by_side_agree_with_the_plain_model() {
    for seed in seeds(5) {
        let stores = memory().await;
        properties::workers_side_by_side([&stores, &stores, &stores], &seed, SMALL).await;
    }
}

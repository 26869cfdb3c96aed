//! A journey store or a warehouse that is gone, or is another log's, is rebuilt: told, with the same figures.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::rngs::SmallRng;
use testkit::process::copy;

use crate::{launch, ledger::Ledger, load::Load, seeded};

/// A data folder with a few persons in it.
async fn filled(data: &Path, name: &str, rng: &mut SmallRng) -> Ledger {
    let platform = launch(data).ready().await;
    let load = Load::start(&platform, name, rng, 0);
    load.acknowledges(30).await;
    let ledger = load.stop(&platform).await;
    ledger.check_report(&platform).await;
    platform.stop().await;
    ledger
}

fn replace(data: &Path, store: &str, by: Option<&PathBuf>) {
    fs::remove_dir_all(data.join(store)).unwrap();
    if let Some(other) = by {
        copy(&other.join(store), &data.join(store));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_foreign_store_is_rebuilt_with_the_same_figures() {
    let mut rng = seeded("stores that do not belong");
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) = (folder.path().join("ours"), folder.path().join("other"));
    let mut ledger = filled(&ours, "ours", &mut rng).await;
    let others = filled(&other, "other", &mut rng).await;
    for (stores, by, told) in [
        (&["warehouse"][..], None, "do not belong together"),
        (&["journeys"], None, "a new journey store begins"),
        (&["warehouse", "journeys"], None, "a new warehouse begins"),
        (&["warehouse"], Some(&other), "do not belong together"),
        (&["journeys"], Some(&other), "belongs to another event log"),
        (&["warehouse", "journeys"], Some(&other), "belongs to another event log"),
    ] {
        for store in stores {
            replace(&ours, store, by);
        }
        println!("{stores:?} by {by:?}");
        let platform = launch(&ours).ready().await;
        platform.logs(told).await;
        ledger.check_report(&platform).await;
        ledger.check_journeys(&platform).await;
        platform.stop().await;
    }

    // What only the other log has seen is new here, from the first request on.
    replace(&ours, "journeys", Some(&other));
    let mut platform = launch(&ours).spawn().await;
    assert!(platform.listens().await, "{}", platform.log());
    for request in others.persons.values().flatten() {
        let answer = platform.post("/v1/events", &request.events).await.unwrap();
        let events = request.events.as_array().unwrap().len();
        assert_eq!(answer.body["accepted"], events, "{}", answer.body);
    }
    ledger.merge(others);
    ledger.check_report(&platform).await;
    ledger.check_journeys(&platform).await;
    platform.stop().await;
}

//! The process, or its embedded warehouse, is killed while events come in.

use std::{os::unix::process::ExitStatusExt as _, path::Path, time::Duration};

use rand::RngExt as _;
use rustix::process::{Signal, kill_process};
use testkit::{
    faults::PLACES,
    process::{Platform, eventually},
};

use crate::{launch, ledger::Ledger, load::Load, rounds, seeded};

/// Places that this process never comes to: its consumers keep their positions in the journey store.
const ELSEWHERE: [&str; 2] = ["event_log::before_position_rename", "event_log::before_position_dir_sync"];

/// Places that it comes to when it makes its stores.
const AT_FIRST: [&str; 4] = [
    "event_log::before_rename",
    "event_log::before_dir_sync",
    "journey_store::before_clear",
    "journey_store::after_clear",
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_moments_it_loses_nothing_and_counts_nothing_twice() {
    let mut rng = seeded("kill -9");
    let folder = tempfile::tempdir().unwrap();
    let start = launch(folder.path());
    let mut ledger = Ledger::default();
    for round in 0..rounds(20) {
        if rng.random_ratio(1, 4) {
            // In the middle of its start, too.
            let platform = start.spawn().await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
            platform.kill().await;
        }
        let mut platform = start.ready().await;
        ledger.resend(&platform, &mut rng).await;
        ledger.check_report(&platform).await;
        let load = Load::start(&platform, &format!("r{round}"), &mut rng, 0);
        load.acknowledges(rng.random_range(1..150)).await;
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
        platform.signal(Signal::KILL);
        let known = load.ended(&platform).await;
        println!("round {round}: {} requests were acknowledged", known.acknowledged());
        ledger.merge(known);
        platform.ended().await;
    }
    let platform = start.ready().await;
    ledger.resend(&platform, &mut rng).await;
    ledger.check_report(&platform).await;
    ledger.check_journeys(&platform).await;
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_any_effect_and_its_commit_it_loses_nothing_and_counts_nothing_twice() {
    let mut rng = seeded("kill at every fail point");
    let folder = tempfile::tempdir().unwrap();
    let start = launch(folder.path())
        .env("ATTRIBUTION_LOG_PARTITIONS", "2")
        .env("ATTRIBUTION_LOG_SEGMENT_BYTES_MAX", (1 << 20).to_string());
    for point in AT_FIRST {
        let mut platform = start.clone().dies_at(point, 1).spawn().await;
        died_at(&mut platform, point).await;
    }
    let mut ledger = Ledger::default();
    for (round, point) in (0..rounds(1)).flat_map(|round| PLACES.map(|point| (round, point))) {
        if ELSEWHERE.contains(&point) || AT_FIRST[2..].contains(&point) {
            continue;
        }
        // A segment is made for a megabyte.
        let (hits, padding) = if AT_FIRST.contains(&point) { (1, 7_000) } else { (6, 0) };
        let hit = rng.random_range(1..=hits);
        println!("{point}, hit {hit}");
        let start = if point == "journey_store::before_scores" {
            start.clone().env("ATTRIBUTION_ML__MODELS", models())
        } else {
            start.clone()
        };
        let mut platform = start.dies_at(point, hit).spawn().await;
        if platform.listens().await {
            let load =
                Load::start(&platform, &format!("{}-{round}", point.replace("::", "-")), &mut rng, padding);
            ledger.merge(load.ended(&platform).await);
        }
        died_at(&mut platform, point).await;
    }
    let platform = start.ready().await;
    ledger.resend(&platform, &mut rng).await;
    ledger.check_report(&platform).await;
    ledger.check_journeys(&platform).await;
    platform.stop().await;
}

/// Where the models are that decisions are scored with.
fn models() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ml/models");
    format!("onnx://{}", folder.canonicalize().unwrap().display())
}

async fn died_at(platform: &mut Platform, point: &str) {
    let ended = platform.ended().await;
    platform.logs(&format!("failpoint {point} panic")).await;
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_warehouse_killed_it_takes_events_and_catches_up() {
    let mut rng = seeded("kill the warehouse");
    let folder = tempfile::tempdir().unwrap();
    let platform = launch(folder.path()).ready().await;
    let load = Load::start(&platform, "engine", &mut rng, 0);
    let mut last = None;
    for round in 0..rounds(5) {
        load.acknowledges(50 * (round as usize + 1)).await;
        eventually("another warehouse process runs", async || {
            platform.engine().is_some_and(|now| Some(now) != last)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..800))).await;
        last = platform.engine();
        if let Some(engine) = last {
            kill_process(engine, Signal::KILL).unwrap();
        }
    }
    let ledger = load.stop(&platform).await;
    assert_eq!(ledger.acknowledged(), ledger.persons.len() * 2, "no request was refused");
    ledger.check_report(&platform).await;
    ledger.check_journeys(&platform).await;
    platform.stop().await;
}

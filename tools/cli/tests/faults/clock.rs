//! The machine's clock jumps, an hour either way and backwards: ids stay unique, times of the log never run backwards, and
//! what was acknowledged is reported.

#![cfg(target_os = "linux")]

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::{Value, json};
use testkit::process::Platform;

use crate::{launch, ledger::Ledger, load::Load, seeded};

/// Builds the library that moves a process's clock.
fn clock(folder: &Path) -> std::path::PathBuf {
    let library = folder.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/clock.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(built.success());
    library
}

/// The clock is set by replacing the file, so that nobody reads half of it.
fn set(file: &Path, seconds: i64) {
    let next = file.with_extension("next");
    fs::write(&next, seconds.to_string()).unwrap();
    fs::rename(next, file).unwrap();
}

/// A touch and a conversion whose ids the platform makes; both ids.
async fn assigned(platform: &Platform, person: &str) -> [String; 2] {
    let events = json!([
        {"event_type": "click", "timestamp": "2026-01-06T10:00:00Z", "cookie_id": person},
        {"event_type": "conversion", "timestamp": "2026-01-06T11:00:00Z", "cookie_id": person, "conversion": "assigned"},
    ]);
    let answer = platform.post("/v1/events", &events).await.unwrap();
    assert_eq!(answer.body["accepted"], 2, "{}", answer.body);
    [0, 1].map(|item| answer.body["items"][item]["event_id"].as_str().unwrap().to_owned())
}

fn time(text: &Value) -> jiff::Timestamp {
    text.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_changes_no_figure_and_no_order() {
    let mut rng = seeded("clock");
    let folder = tempfile::tempdir().unwrap();
    let (library, file, data) =
        (clock(folder.path()), folder.path().join("seconds"), folder.path().join("data"));
    set(&file, 0);
    let start = launch(&data).env("LD_PRELOAD", library).env("CLOCK_FILE", &file);
    let mut platform = start.ready().await;
    let mut ledger = Ledger::default();
    let (mut ids, mut conversions) = (BTreeSet::new(), Vec::new());
    let mut complete = jiff::Timestamp::UNIX_EPOCH;
    for (round, seconds) in [0, 3_600, 0, -3_600, -7_200, 1, 0].into_iter().enumerate() {
        set(&file, seconds);
        if seconds == -7_200 {
            // Started again with a clock that is behind what is stored.
            platform.stop().await;
            platform = start.ready().await;
        }
        let load = Load::start(&platform, &format!("r{round}"), &mut rng, 0);
        for number in 0..5 {
            let [touch, conversion] = assigned(&platform, &format!("k{round}-{number}")).await;
            assert!(ids.insert(touch) && ids.insert(conversion.clone()), "an id is given once");
            conversions.push(conversion);
        }
        load.acknowledges(20).await;
        ledger.merge(load.stop(&platform).await);

        let question = json!({
            "from": "2026-01-06", "to": "2026-01-07", "models": ["decision"], "dimensions": ["conversion"],
            "measures": ["conversions", "touches"],
        });
        let report = platform.report(&question).await;
        let row = &report["rows"][0];
        assert_eq!(
            (&row["conversions"], &row["touches"]),
            (&json!(conversions.len()), &json!(conversions.len()))
        );
        let through = time(&report["method"]["complete_through"]);
        assert!(through >= complete, "{through} after {complete}, clock at {seconds} s");
        complete = through;
    }
    // One after the other by one client, in one partition: recorded in this order.
    let mut last = jiff::Timestamp::UNIX_EPOCH;
    for conversion in &conversions {
        let decision = platform.get(&format!("/v1/conversions/{conversion}")).await.unwrap().body;
        let recorded = time(&decision["editions"][0]["recorded_at"]);
        assert!(recorded >= last, "{recorded} after {last}");
        last = recorded;
    }
    ledger.check_journeys(&platform).await;
    platform.stop().await;
}

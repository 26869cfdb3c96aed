//! Fraud from beginning to end: shown by default, rejected when the settings say so.

#![allow(clippy::unwrap_used)]

use std::{fs::OpenOptions, io::Write};

use serde_json::{Value, json};
use testkit::process::{Client, Launch, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_attribution");

fn touch(id: &str, at: &str, user: &str, channel: &str) -> Value {
    json!({"event_id": id, "event_type": "click", "timestamp": at, "user_id": user, "channel": channel})
}

fn install(id: &str, user: &str) -> Value {
    json!({"event_id": id, "event_type": "conversion", "timestamp": "2026-01-05T12:00:00Z", "user_id": user,
        "conversion": "install"})
}

/// Two clicks, the second one two seconds before the install.
async fn send(platform: &Client, user: &str) -> Value {
    let events = json!([
        touch(&format!("{user}-early"), "2026-01-05T11:00:00Z", user, "email"),
        touch(&format!("{user}-late"), "2026-01-05T11:59:58Z", user, "network"),
        install(&format!("{user}-install"), user),
    ]);
    let answer = platform.post("/v1/events", &events).await.unwrap();
    assert_eq!(answer.body["accepted"], 3, "{}", answer.body);
    let path = format!("/v1/conversions/{user}-install");
    eventually("the install is decided", async || platform.get(&path).await.unwrap().status == 200).await;
    platform.get(&path).await.unwrap().body
}

async fn channels(platform: &Client) -> Value {
    let report = json!({"from": "2026-01-05", "to": "2026-01-06", "models": ["last_touch"],
        "dimensions": ["channel"], "measures": ["conversions"]});
    let answer = platform.report(&report).await;
    let rows = answer["rows"].as_array().unwrap();
    rows.iter().map(|row| json!([row["channel"], row["conversions"].as_f64()])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_that_the_settings_reject_leaves_the_next_one_to_win() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let platform = Launch::new(PROGRAM, &data).ready().await;
    let shown = send(&platform, "before").await;
    assert_eq!(shown["winner"]["event_id"], "before-late", "{shown}");
    assert_eq!(shown["candidates"][1]["verdict"], "eligible");
    assert_eq!(shown["candidates"][1]["fraud"], json!(["click_to_install"]));
    let reason = "a click less than 5 seconds before the install";
    assert_eq!(shown["fraud"], json!([{"rule": "click_to_install", "reason": reason}]));
    assert_eq!(shown["score"]["present"], false);
    assert_eq!(channels(&platform).await, json!([["network", 1.0]]));
    platform.stop().await;

    let mut file = OpenOptions::new().append(true).open(data.join("settings.toml")).unwrap();
    writeln!(file, "\n[tenants.default.fraud]\nreject = [\"click_to_install\"]").unwrap();
    drop(file);

    let platform = Launch::new(PROGRAM, &data).ready().await;
    let rejected = send(&platform, "after").await;
    assert_eq!(rejected["winner"]["event_id"], "after-early", "{rejected}");
    assert_eq!(rejected["candidates"][1]["verdict"], "fraud");
    let words = rejected["explanation"].as_str().unwrap();
    assert!(words.contains("1 was judged fraudulent (click_to_install)"), "{words}");
    assert_ne!(rejected["settings_edition"], shown["settings_edition"]);
    // What came in before keeps its edition, and its winner.
    let kept = platform.get("/v1/conversions/before-install").await.unwrap().body;
    assert_eq!(kept["winner"]["event_id"], "before-late");
    assert_eq!(channels(&platform).await, json!([["email", 1.0], ["network", 1.0]]));
    platform.stop().await;
}

//! Data folders of other programs: a released format opens with the same answers and is gone on with, a newer one is
//! refused untouched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use serde_json::{Value, json};
use testkit::process::{Platform, eventually};

use crate::launch;

/// Written by `scripts/golden.sh`, the oldest first.
const GOLDEN: [&str; 2] = ["1", "2"];

fn unpack(name: &str, into: &Path) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.tar.gz"));
    let unpacked = Command::new("tar").arg("-xzf").arg(golden).arg("-C").arg(into).status().unwrap();
    assert!(unpacked.success());
    into.join("data")
}

fn same(found: &Value, expected: &Value) -> bool {
    expected.as_object().unwrap().iter().all(|(name, value)| match value.as_f64() {
        Some(value) => found[name].as_f64() == Some(value),
        None => found[name] == *value,
    })
}

fn row(model: &str, channel: &str, conversions: f64, value: &str) -> Value {
    json!({"model": model, "channel": channel, "currency": "EUR", "conversions": conversions, "value": value})
}

/// Whether the report has these rows.
async fn reports(platform: &Platform, expected: &[Value]) -> Result<(), Value> {
    let question = json!({
        "from": "2026-01-01", "to": "2026-02-01", "models": ["linear", "decision"], "dimensions": ["channel"],
        "measures": ["conversions", "value"],
    });
    let report = platform.report(&question).await;
    let rows = report["rows"].as_array().unwrap();
    let all =
        rows.len() == expected.len() && rows.iter().zip(expected).all(|(row, wanted)| same(row, wanted));
    if all { Ok(()) } else { Err(report) }
}

async fn opens_and_goes_on(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let data = unpack(name, folder.path());
    let platform = launch(&data).ready().await;
    assert!(!platform.log().contains("rebuilt"), "{}", platform.log());
    // By hand, from tests/golden/events.ndjson.
    let expected = [
        row("linear", "email", 0.5, "5.000000"),
        row("linear", "organic", 1.0, "0.250000"),
        row("linear", "search", 0.5, "5.000000"),
        row("decision", "organic", 1.0, "0.250000"),
        row("decision", "search", 1.0, "10.000000"),
    ];
    reports(&platform, &expected).await.unwrap();
    let journey = platform.get("/v1/journeys?user_id=u1").await.unwrap().body;
    let ids: Vec<_> = journey["events"].as_array().unwrap().iter().map(|event| &event["event_id"]).collect();
    assert_eq!(ids, ["t1", "t2", "c1"]);
    let decision = platform.get("/v1/conversions/c1").await.unwrap().body;
    assert_eq!(decision["winner"]["event_id"], "t2", "{decision}");
    let again =
        json!({"event_id": "t1", "event_type": "click", "timestamp": 1_767_225_600_000_i64, "user_id": "u1"});
    assert_eq!(platform.post("/v1/events", &again).await.unwrap().body["duplicate"], 1);

    // What was decided then is taken back, after a start too.
    let late = json!({
        "event_id": "t3", "event_type": "click", "timestamp": "2026-01-05T11:30:00Z", "user_id": "u1", "channel": "email",
    });
    assert_eq!(platform.post("/v1/events", &late).await.unwrap().body["accepted"], 1);
    let expected = [
        row("linear", "email", 0.666667, "6.666667"),
        row("linear", "organic", 1.0, "0.250000"),
        row("linear", "search", 0.333333, "3.333333"),
        row("decision", "email", 1.0, "10.000000"),
        row("decision", "organic", 1.0, "0.250000"),
    ];
    eventually("the late touch has won", async || reports(&platform, &expected).await.is_ok()).await;
    platform.stop().await;
    let platform = launch(&data).ready().await;
    reports(&platform, &expected).await.unwrap();
    let decision = platform.get("/v1/conversions/c1").await.unwrap().body;
    assert_eq!(decision["winner"]["event_id"], "t3", "{decision}");
    let editions = decision["editions"].as_array().unwrap();
    assert_eq!(editions.len(), 2, "{decision}");
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_every_released_format_opens_with_the_same_answers_and_is_gone_on_with() {
    for name in GOLDEN {
        opens_and_goes_on(name).await;
    }
}

/// Content and time of every file.
fn stamps(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap();
        if kind.is_dir() {
            all.extend(stamps(&path));
        } else if kind.is_file() {
            all.insert(path.clone(), (fs::read(&path).unwrap(), kind.modified().unwrap()));
        }
    }
    all
}

/// Raises the version at byte 8 of what `bytes` begins with, under a checksum that holds.
fn raise(bytes: &mut [u8]) {
    bytes[8] += 1;
    let end = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&checksum);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_of_any_store_is_refused_before_a_byte_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = unpack(GOLDEN[GOLDEN.len() - 1], folder.path());
    let edition = fs::read_dir(data.join("editions")).unwrap().next().unwrap().unwrap().path();
    type Newer<'a> = (&'a Path, fn(&mut Vec<u8>), &'a str);
    let files: [Newer<'_>; 5] = [
        (Path::new("log/log.meta"), |bytes| raise(bytes), "newer program"),
        (
            Path::new("log/p0000/00000000000000000000.segment"),
            |bytes| raise(&mut bytes[..64]),
            "newer program",
        ),
        (
            Path::new("journeys/FORMAT"),
            |bytes| {
                let format = |text: &[u8]| -> u32 { String::from_utf8_lossy(text)[14..15].parse().unwrap() };
                let text = format!("journey-store {}", format(bytes) + 1);
                *bytes = format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes())).into_bytes();
            },
            "use the program that wrote it",
        ),
        (
            Path::new("settings.toml"),
            |bytes| {
                *bytes = String::from_utf8_lossy(bytes).replace("version = 1", "version = 2").into_bytes()
            },
            "this version reads version = 1",
        ),
        (
            &edition,
            |bytes| {
                *bytes =
                    String::from_utf8_lossy(bytes).replace("\"version\": 1", "\"version\": 2").into_bytes()
            },
            "newer program",
        ),
    ];
    for (file, change, says) in files {
        let path = data.join(file);
        let good = fs::read(&path).unwrap();
        let mut newer = good.clone();
        change(&mut newer);
        assert_ne!(newer, good, "{}", file.display());
        fs::write(&path, newer).unwrap();
        let before = stamps(&data);
        let mut platform = launch(&data).spawn().await;
        assert_eq!(platform.ended().await.code(), Some(1), "{}", file.display());
        platform.logs(says).await;
        assert!(stamps(&data) == before, "{}: something was written", file.display());
        fs::write(&path, good).unwrap();
    }
}

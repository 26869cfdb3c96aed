//! Keys go in and never come out.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use prost::Message;
use serde_json::json;
use testkit::otlp::Collector;

use crate::{
    client::Client,
    platform::{ALL, Platform, Setup, key},
};

/// Plain words that stand nowhere else. The last one is no key of anybody's.
const PLANTED: [&str; 4] = ["planted-heron", "planted-otter", "planted-lynx", "planted-stranger"];

fn tells(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_keys_are_in_no_log_no_trace_no_answer_and_no_file() {
    let collector = Collector::start().await;

    let settings = [
        "version = 1\n".to_owned(),
        key("acme", "all", PLANTED[0], ALL),
        key("acme", "read", PLANTED[1], "scopes = [\"read\"]"),
        key("rival", "old", PLANTED[2], &format!("{ALL}\nexpires = 2020-01-01T00:00:00Z")),
    ];
    // The most that can be logged.
    let env = vec![
        ("ATTRIBUTION_LOG_FILTER", "trace".to_owned()),
        ("ATTRIBUTION_OTLP_ENDPOINT", collector.endpoint().to_owned()),
        ("ATTRIBUTION_KEY", PLANTED[0].to_owned()),
    ];
    let platform = Platform::start(Setup { settings: settings.concat(), env, ..Setup::default() }).await;
    let client = platform.client();
    let mut answers = Vec::new();
    for (host, planted) in (2..).zip(PLANTED) {
        let client = Client::new(platform.public, host);
        for path in ["/v1/conversions/none", "/v1/settings/none", "/v1/journeys", "/nowhere"] {
            answers.push(client.get(path, Some(planted)).await);
        }
        for scheme in ["Basic", "Bearer:", "bearer  ", ""] {
            let request = client.request("GET", "/v1/settings/none", None);
            let request = request.header("authorization", format!("{scheme} {planted}"));
            answers.push(client.send(true, request, Vec::new()).await);
        }
        let event = json!([{"event_id": "c", "event_type": "conversion",
                            "timestamp": "2026-01-05T11:00:00Z", "user_id": "u"}]);
        answers.push(client.post("/v1/events", Some(planted), &event).await);
        answers.push(client.post("/v1/events", Some(planted), &json!({"event_type": "x"})).await);
        answers.push(client.post("/v1/reports", Some(planted), &json!({"from": "x"})).await);
        for path in ["/attribution.query.v1.QueryService/GetConversion", "/nowhere.v1.Service/Method"] {
            answers.push(client.grpc(path, Some(planted), b"\xff").await);
        }
    }
    assert!(answers.iter().any(|answer| answer.status == 200));
    assert_eq!(client.conversions(PLANTED[0]).await, 1.0);
    // Refusals are counted by their reason.
    let page = platform.metrics().await;
    for reason in ["no_key", "unknown_key"] {
        let wanted = format!("authentication_failures_total{{reason=\"{reason}\"}}");
        assert!(page.lines().any(|line| line.starts_with(&wanted)), "{wanted} in\n{page}");
    }
    // A key pasted where its hash belongs.
    let file = platform.data().join("settings.toml");
    let bad = format!("[[tenants.acme.keys]]\nname = \"new\"\nsha256 = \"{}\"\n{ALL}\n", PLANTED[3]);
    std::fs::write(&file, settings.concat() + &bad).unwrap();
    platform.line("the settings file is refused, the old one stays in force").await;
    std::fs::remove_file(&file).unwrap();

    let (lines, folder) = platform.stop().await;
    let traces: Vec<u8> = collector.requests().iter().flat_map(Message::encode_to_vec).collect();
    assert!(tells(&traces, "/v1/settings/{edition}"), "no traces came");
    assert!(lines.iter().any(|line| line.contains("\"TRACE\"")), "nothing was traced in the log");
    for planted in PLANTED {
        for line in &lines {
            assert!(!tells(line.as_bytes(), planted), "{line}");
        }
        for answer in &answers {
            assert!(!tells(&answer.everything(), planted), "{answer:?}");
        }
        assert!(!tells(&traces, planted), "a trace tells {planted}");
        assert!(!tells(page.as_bytes(), planted), "{page}");
        let files = in_files(folder.path(), planted);
        assert!(files.is_empty(), "{planted} is in {files:?}");
    }
}

fn in_files(folder: &Path, secret: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(in_files(&path, secret));
        } else if path.is_file() && tells(&std::fs::read(&path).unwrap(), secret) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_printed_configuration_tells_no_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("api-key"), PLANTED[0]).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_attribution"))
        .args(["serve", "--print-config", "--data"])
        .arg(folder.path())
        .env("ATTRIBUTION_KEY", PLANTED[1])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed = [output.stdout, output.stderr].concat();
    for named in ["connections_max", "header_read_seconds_max", "idle_seconds_max", "http2_streams_max"] {
        assert!(tells(&printed, named), "{named} has no key");
    }
    for planted in PLANTED {
        assert!(!tells(&printed, planted));
    }
}

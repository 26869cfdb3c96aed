//! One trace runs from a client's request over the append to the decision and the warehouse row, as a collector receives
//! it from the real process.

#![allow(clippy::unwrap_used)]

use serde_json::json;
use testkit::{otlp::Collector, process::Launch};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_runs_from_the_request_to_the_warehouse_row() {
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let platform = Launch::new(env!("CARGO_BIN_EXE_attribution"), folder.path().join("data"))
        .env("ATTRIBUTION_OTLP_ENDPOINT", collector.endpoint())
        .ready()
        .await;
    let answer = reqwest::Client::new()
        .post(format!("http://{}/v1/events", platform.address()))
        .bearer_auth(platform.key())
        .header("traceparent", format!("00-{TRACE_ID}-{CLIENT_SPAN}-01"))
        .json(&json!([
            {"event_id": "t", "event_type": "click", "timestamp": "2026-01-05T10:00:00Z", "user_id": "u", "channel": "c"},
            {"event_id": "o", "event_type": "conversion", "timestamp": "2026-01-05T11:00:00Z", "user_id": "u"},
        ]))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["traceparent"].to_str().unwrap().contains(TRACE_ID));
    let question = json!({"from": "2026-01-01", "to": "2026-02-01", "models": ["last_touch"], "dimensions": ["channel"]});
    let report = platform.report(&question).await;
    assert_eq!(report["rows"][0]["conversions"], 1, "{report}");
    // The stop alone must send every span.
    platform.stop().await;

    let spans = collector.spans();
    let trace: Vec<_> = spans.iter().filter(|span| hex(&span.trace_id) == TRACE_ID).collect();
    let one = |name: &str| {
        let found: Vec<_> = trace.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "{name} in {:?}", trace.iter().map(|span| &span.name).collect::<Vec<_>>());
        *found[0]
    };
    let (request, append) = (one("/v1/events"), one("append"));
    assert_eq!(hex(&request.parent_span_id), CLIENT_SPAN);
    assert_eq!(append.parent_span_id, request.span_id);
    for follower in [one("decide"), one("report")] {
        assert_eq!(follower.parent_span_id, append.span_id, "{}", follower.name);
        assert!(follower.end_time_unix_nano >= append.start_time_unix_nano);
    }
}

//! What clients, dashboards and probes rely on, literally.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::platform::{Platform, Setup, eventually, tenants};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Name, type, labels, as the contract lists them.
const METRICS: [(&str, &str, &[&str]); 12] = [
    ("http_requests_total", "counter", &["service", "method", "route", "status"]),
    ("http_request_duration_seconds", "histogram", &["service", "route"]),
    ("grpc_server_handled_total", "counter", &["service", "grpc_service", "grpc_method", "grpc_code"]),
    ("grpc_server_handling_seconds", "histogram", &["service", "grpc_service", "grpc_method"]),
    ("ingestion_events_total", "counter", &["result"]),
    ("kafka_producer_queue_size", "gauge", &[]),
    ("attribution_queue_size", "gauge", &[]),
    ("attribution_latency_seconds", "histogram", &[]),
    ("attribution_freshness_seconds", "gauge", &[]),
    ("db_connection_pool_utilization", "gauge", &["store"]),
    ("ml_inference_duration_seconds", "histogram", &["model", "version"]),
    ("build_info", "gauge", &["version", "git"]),
];

/// The label names of every sample of a metric (of a histogram without `le`).
fn labels(page: &str, name: &str, kind: &str) -> Vec<BTreeSet<String>> {
    let sample = if kind == "histogram" { format!("{name}_bucket") } else { name.to_owned() };
    let of = |line: &str| {
        let rest = line.strip_prefix(&sample)?;
        let labels = match rest.strip_prefix('{') {
            // A route has braces of its own.
            Some(rest) => rest.rsplit_once('}')?.0,
            None => rest.starts_with(' ').then_some("")?,
        };
        let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name);
        Some(names.filter(|name| *name != "le").map(str::to_owned).collect())
    };
    page.lines().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_from_the_start_and_its_labels_are_bounded() {
    let platform = Platform::start(Setup { settings: tenants(&["acme"]), ..Setup::default() }).await;
    let client = platform.client();
    let page = platform.metrics().await;
    for (name, kind, _) in METRICS {
        let lines = page.lines().filter(|line| *line == format!("# TYPE {name} {kind}")).count();
        assert_eq!(lines, 1, "{name} in\n{page}");
    }
    let series = |page: &str| page.lines().filter(|line| !line.starts_with('#')).count();
    let key = Some("acme-key");
    client.conversions("acme-key").await;
    client.grpc("/attribution.query.v1.QueryService/GetConversion", key, b"").await;
    let strange = async |index: usize| {
        let method = format!("M{index}");
        let request = client.request(&method, &format!("/unknown/{index}"), key);
        client.send(false, request, Vec::new()).await;
        client.get(&format!("/v1/conversions/unknown-{index}"), key).await;
        client.get(&format!("/v1/settings/{index}"), key).await;
        client.grpc(&format!("/attribution.query.v1.QueryService/Method{index}"), key, b"").await;
        client.grpc(&format!("/unknown.v{index}.Service/Method"), key, b"").await;
    };
    strange(0).await;
    let before = series(&platform.metrics().await);
    for index in 1..100 {
        strange(index).await;
    }
    let page = platform.metrics().await;
    assert_eq!(series(&page), before, "{page}");
    for (name, kind, wanted) in METRICS {
        for found in labels(&page, name, kind) {
            let wanted: BTreeSet<_> = wanted.iter().map(|label| (*label).to_owned()).collect();
            assert_eq!(found, wanted, "{name}");
        }
    }
    for name in ["http_requests_total", "grpc_server_handled_total", "build_info", "ingestion_events_total"] {
        assert!(!labels(&page, name, "counter").is_empty(), "no sample of {name}");
    }
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_share_one_port_and_probes_and_descriptions_need_no_key() {
    let platform = Platform::start(Setup { settings: tenants(&["acme"]), ..Setup::default() }).await;
    let client = platform.client();
    let operations = crate::client::Client::new(platform.operations, 1);
    for path in ["/health/live", "/health/ready"] {
        for http2 in [false, true] {
            for client in [&client, &operations] {
                let request = client.request("GET", path, None);
                assert_eq!(client.send(http2, request, Vec::new()).await.status, 200, "{path} {http2}");
            }
        }
    }
    let document = client.get("/openapi.json", None).await;
    let committed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi.json")).unwrap();
    let committed: Value = serde_json::from_slice(&committed).unwrap();
    assert_eq!((document.status, document.json()), (200, committed));

    // Each service says by itself whether it serves.
    for service in [
        "",
        "attribution.ingestion.v1.IngestionService",
        "attribution.attribution.v1.AttributionService",
        "attribution.query.v1.QueryService",
    ] {
        // HealthCheckRequest{service = 1}, HealthCheckResponse{status = 1}: SERVING is 1.
        let message = [&[0x0a, u8::try_from(service.len()).unwrap()][..], service.as_bytes()].concat();
        let serving = async || {
            let answer = client.grpc("/grpc.health.v1.Health/Check", None, &message).await;
            assert_eq!(answer.grpc_code(), 0, "{service}");
            answer.body == crate::client::frame(&[0x08, 1])
        };
        eventually(&format!("{service} serves"), serving).await;
    }
    let message = [&[0x0a, 1][..], b"x"].concat();
    assert_eq!(client.grpc("/grpc.health.v1.Health/Check", None, &message).await.grpc_code(), 5);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem_with_all_its_fields_and_the_callers_names() {
    let platform = Platform::start(Setup { settings: tenants(&["acme"]), ..Setup::default() }).await;
    let client = platform.client();
    let key = Some("acme-key");
    for (method, path, key, content_type, body, status, code, allow) in [
        ("GET", "/nowhere", None, "", "", 404, "unknown_route", ""),
        ("GET", "/v1/events", None, "", "", 401, "no_key", ""),
        ("GET", "/v1/events", Some("x"), "", "", 401, "unknown_key", ""),
        ("GET", "/v1/events", key, "", "", 405, "method_not_allowed", "POST"),
        ("POST", "/v1/journeys", key, "", "", 405, "method_not_allowed", "GET,HEAD"),
        ("POST", "/openapi.json", None, "", "", 405, "method_not_allowed", "GET,HEAD"),
        ("POST", "/v1/events", key, "text/plain", "{}", 415, "unsupported_media_type", ""),
        ("POST", "/v1/events", key, "application/json", "{", 400, "unreadable_body", ""),
        ("POST", "/v1/reports", key, "application/json", "{}", 400, "invalid", ""),
        ("GET", "/v1/conversions/none", key, "", "", 404, "not_found", ""),
        ("GET", "/v1/journeys", key, "", "", 400, "invalid", ""),
        ("GET", "/v1/journeys?limit=x&user_id=u", key, "", "", 400, "invalid", ""),
        (
            "POST",
            "/attribution.query.v1.QueryService/RunReport",
            key,
            "",
            "",
            415,
            "unsupported_media_type",
            "",
        ),
        (
            "GET",
            "/attribution.query.v1.QueryService/RunReport",
            key,
            "",
            "",
            405,
            "method_not_allowed",
            "POST",
        ),
        ("GET", "/attribution.query.v1.QueryService/RunReport", None, "", "", 401, "no_key", ""),
        ("GET", "/attribution.query.v1.QueryService/Nothing", key, "", "", 404, "unknown_route", ""),
    ] {
        let named = || client.request(method, path, key).header("content-type", content_type);
        let request = named().header("x-request-id", "order/4711==").header("traceparent", TRACEPARENT);
        let answer = client.send(false, request, body.as_bytes().to_vec()).await;
        let problem = answer.json();
        assert_eq!((answer.status, &problem["code"]), (status, &json!(code)), "{method} {path}: {problem}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        if status == 405 {
            assert_eq!(answer.header("allow"), allow, "{method} {path}");
        }
        let names: BTreeSet<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
        let wanted = ["code", "detail", "errors", "request_id", "status", "title", "type"];
        assert_eq!(names, BTreeSet::from(wanted), "{method} {path}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], "order/4711==");
        assert!(problem["type"].as_str().unwrap().starts_with("urn:attribution:error:"));
        let errors = problem["errors"].as_array().unwrap();
        assert!(errors.iter().all(|error| error["field"].is_string() && error["reason"].is_string()));
        assert_eq!(errors.is_empty(), code != "invalid", "{method} {path}: {problem}");
        assert_eq!(answer.header("x-request-id"), "order/4711==");
        assert_eq!(answer.header("traceparent"), TRACEPARENT);

        // Names that are none are replaced by real ones.
        let request = named().header("x-request-id", "a\"b").header("traceparent", "00-zz");
        let answer = client.send(false, request, body.as_bytes().to_vec()).await;
        assert_eq!(answer.json()["request_id"], answer.header("x-request-id"));
        assert_eq!(answer.header("x-request-id").len(), 32);
        assert_eq!(answer.header("traceparent").len(), TRACEPARENT.len());
    }
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_key_and_follows_its_tenants_edition() {
    use proto::ingestion::{StreamEventsRequest, ingestion_service_client::IngestionServiceClient};

    let platform = Platform::start(Setup { settings: tenants(&["acme"]), ..Setup::default() }).await;
    let client = platform.client();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", platform.public)).unwrap();
    let mut grpc = IngestionServiceClient::new(endpoint.connect().await.unwrap());
    let (batches, receiver) = tokio::sync::mpsc::channel(1);
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    request.metadata_mut().insert("authorization", "bearer   acme-key".parse().unwrap());
    let mut answers = grpc.stream_events(request).await.unwrap().into_inner();
    let event = |id: &str| proto::events::Event {
        event_id: id.into(),
        event_type: proto::events::EventType::Conversion.into(),
        timestamp: Some(prost_types::Timestamp { seconds: 1_767_610_800, nanos: 0 }),
        user_id: id.into(),
        ..Default::default()
    };
    let batch = |id: &str| StreamEventsRequest { sequence: 7, events: vec![event(id)] };
    batches.send(batch("first")).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.sequence, answer.accepted), (7, 1));

    let file = platform.data().join("settings.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}[tenants.acme.windows]\nclick = \"8d\"\n")).unwrap();
    platform.line("new settings are in force").await;
    batches.send(batch("second")).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().accepted, 1);
    assert_eq!(client.conversions("acme-key").await, 2.0);
    let edition = async |id: &str| {
        let decision = client.get(&format!("/v1/conversions/{id}"), Some("acme-key")).await.json();
        let edition = decision["settings_edition"].as_str().unwrap().to_owned();
        let rules = client.get(&format!("/v1/settings/{edition}"), Some("acme-key")).await;
        use sha2::Digest;
        let digest: String = sha2::Sha256::digest(&rules.body).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(edition, format!("sha256:{digest}"));
        rules.json()["windows"]["click"].as_i64().unwrap() / 86_400_000
    };
    assert_eq!((edition("first").await, edition("second").await), (7, 8));

    std::fs::write(&file, tenants(&["other"])).unwrap();
    let known = async || client.get("/v1/settings/none", Some("other-key")).await.status == 404;
    eventually("the key is gone", known).await;
    batches.send(batch("third")).await.unwrap();
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_serves_both_protocols_and_a_new_certificate_without_a_restart() {
    service::install_crypto_provider();
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let put = |pair: &str| {
        for end in ["key", "crt"] {
            let from = format!("{}/../../libs/service/tests/tls/{pair}.{end}", env!("CARGO_MANIFEST_DIR"));
            std::fs::copy(from, path(end)).unwrap();
        }
    };
    put("a");
    let config = format!("tls_certificate = {:?}\ntls_key = {:?}\n", path("crt"), path("key"));
    let setup = Setup { settings: tenants(&["acme"]), config: &config, ..Setup::default() };
    let platform = Platform::start(setup).await;
    let url = format!("https://localhost:{}/v1/settings/none", platform.public.port());
    // The version that was agreed on, and the certificate that was shown.
    let ask = async |http1: bool| {
        let client = reqwest::Client::builder().danger_accept_invalid_certs(true).tls_info(true);
        let client = if http1 { client.http1_only() } else { client };
        let answer = client.build().unwrap().get(&url).bearer_auth("acme-key").send().await.unwrap();
        assert_eq!(answer.status(), 404);
        let shown = answer.extensions().get::<reqwest::tls::TlsInfo>().unwrap().peer_certificate().unwrap();
        (answer.version(), shown.to_vec())
    };
    let (version, first) = ask(true).await;
    assert_eq!((version, ask(false).await), (http::Version::HTTP_11, (http::Version::HTTP_2, first.clone())));
    put("b");
    eventually("the new certificate is shown", async || ask(false).await.1 != first).await;
    platform.stop().await;
}

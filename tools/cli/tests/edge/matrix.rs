//! Every route and method by every kind of caller. The rows come from the OpenAPI file and the descriptor set, so a new
//! route fails here until it is told who may call it.

use prost::Message;
use prost_types::FileDescriptorSet;
use proto::{
    decisions::{DecideRequest, GetDecisionRequest},
    events::{Event, EventType},
    ingestion::IngestEventsRequest,
    query::{
        GetConversionRequest, GetJourneyRequest, LastTouchModel, Model, RunReportRequest,
        get_journey_request::Identity, model::Model::LastTouch,
    },
};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client},
    platform::{ALL, Platform, Setup, key},
};

const TENANTS: [&str; 2] = ["acme", "rival"];
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The scopes that open a REST route; none: open to all.
fn scopes_of_path(path: &str) -> &'static [&'static str] {
    match path {
        "/v1/events" => &["ingest"],
        "/v1/reports" | "/v1/conversions/{event_id}" | "/v1/journeys" => &["read"],
        "/v1/settings/{edition}" => &["read", "admin"],
        "/health/live" | "/health/ready" | "/openapi.json" => &[],
        other => panic!("who may call {other}?"),
    }
}

/// The scope that opens a gRPC method, and a message that asks for what only the first tenant has.
fn grpc_call(method: &str) -> (&'static str, Vec<u8>) {
    let id = || "only-acme".to_owned();
    match method {
        "IngestEvents" => ("ingest", IngestEventsRequest::default().encode_to_vec()),
        "RunReport" => ("read", report().encode_to_vec()),
        "GetConversion" => ("read", GetConversionRequest { event_id: id() }.encode_to_vec()),
        "GetDecision" => ("read", GetDecisionRequest { event_id: id() }.encode_to_vec()),
        "GetJourney" => {
            let identity = Some(Identity::UserId("acme-mark-user".into()));
            ("read", GetJourneyRequest { identity, ..Default::default() }.encode_to_vec())
        }
        "Decide" => ("read", decide().encode_to_vec()),
        "GetProgress" => ("read", Vec::new()),
        // Without an end: only their refusals are looked at here.
        "StreamEvents" => ("ingest", Vec::new()),
        "StreamDecisions" => ("read", Vec::new()),
        other => panic!("who may call {other}?"),
    }
}

fn report() -> RunReportRequest {
    RunReportRequest {
        from: "2026-01-01".into(),
        to: "2026-02-01".into(),
        models: vec![Model { model: Some(LastTouch(LastTouchModel {})) }],
        dimensions: vec!["channel".into(), "conversion".into()],
        ..Default::default()
    }
}

fn decide() -> DecideRequest {
    let timestamp = Some(prost_types::Timestamp { seconds: 1_767_610_800, nanos: 0 });
    let conversion = Event {
        event_type: EventType::Conversion.into(),
        timestamp,
        user_id: "u".into(),
        ..Default::default()
    };
    DecideRequest { conversion: Some(conversion), ..Default::default() }
}

/// Events in which every text of a tenant carries its mark.
fn events(tenant: &str) -> Value {
    let mark = |what: &str| format!("{tenant}-mark-{what}");
    json!([
        {"event_id": mark("touch"), "event_type": "click", "timestamp": "2026-01-05T10:00:00Z",
         "user_id": mark("user"), "device_id": "shared-device", "channel": mark("channel")},
        {"event_id": format!("only-{tenant}"), "event_type": "conversion", "timestamp": "2026-01-05T11:00:00Z",
         "user_id": mark("user"), "device_id": "shared-device", "conversion": mark("conversion"), "value": "1"},
        {"event_id": "both", "event_type": "conversion", "timestamp": "2026-01-05T12:00:00Z",
         "user_id": mark("user"), "device_id": "shared-device", "conversion": mark("conversion"), "value": "1"},
    ])
}

fn settings() -> String {
    let mut text = "version = 1\n".to_owned();
    for tenant in TENANTS {
        text += &key(tenant, "all", &format!("{tenant}-key"), ALL);
        for scope in ["ingest", "read", "admin"] {
            let rest = format!("scopes = [\"{scope}\"]");
            text += &key(tenant, scope, &format!("{tenant}-{scope}-key"), &rest);
        }
        let expired = format!("{ALL}\nexpires = 2020-01-01T00:00:00Z");
        text += &key(tenant, "expired", &format!("{tenant}-expired-key"), &expired);
        // An edition of its own.
        let click = if tenant == "acme" { "3d" } else { "4d" };
        text += &format!("[tenants.{tenant}.windows]\nclick = \"{click}\"\n");
    }
    text
}

async fn filled() -> Platform {
    let platform = Platform::start(Setup { settings: settings(), ..Setup::default() }).await;
    let client = platform.client();
    for tenant in TENANTS {
        let key = format!("{tenant}-key");
        let answer = client.post("/v1/events", Some(&key), &events(tenant)).await;
        assert_eq!(answer.json()["accepted"], 3, "ids of one tenant are free for another: {}", answer.text());
        assert_eq!(client.conversions(&key).await, 2.0);
    }
    platform
}

/// Nothing in an answer to the second tenant is of the first.
fn no_mark(answer: &Answer, what: &str) {
    let everything = String::from_utf8_lossy(&answer.everything()).into_owned();
    assert!(!everything.contains("acme-mark"), "{what} tells of another tenant: {everything}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rest_route_opens_to_the_right_key_alone() {
    let platform = filled().await;
    let document = platform.client().get("/openapi.json", None).await.json();
    let edition = |tenant: &'static str, client: Client| async move {
        let conversion = client.get("/v1/conversions/both", Some(&format!("{tenant}-key"))).await;
        conversion.json()["settings_edition"].as_str().unwrap().to_owned()
    };
    let acmes = edition("acme", platform.client()).await;
    assert_ne!(acmes, edition("rival", platform.client()).await);
    let mut host = 10;
    for (path, operations) in document["paths"].as_object().unwrap() {
        if path == "/metrics" {
            assert_eq!(
                platform.client().get(path, Some("acme-key")).await.status,
                404,
                "not on this listener"
            );
            continue;
        }
        let scopes = scopes_of_path(path);
        let target = path.replace("{event_id}", "only-acme").replace("{edition}", &acmes);
        let target = if path == "/v1/journeys" { format!("{path}?user_id=acme-mark-user") } else { target };
        let body = match path.as_str() {
            "/v1/reports" => json!({"from": "2026-01-01", "to": "2026-02-01", "models": ["last_touch"],
                                    "dimensions": ["channel", "conversion"]}),
            _ => json!([]),
        };
        for method in METHODS {
            // Failures are limited per address.
            host += 1;
            let client = Client::new(platform.public, host);
            let send = async |key: Option<&str>| {
                let request = client.request(method, &target, key).header("content-type", "application/json");
                let request = request.header("x-request-id", "same");
                client.send(false, request, body.to_string().into_bytes()).await
            };
            let documented = operations.get(method.to_lowercase()).is_some();
            let row = format!("{method} {path}");
            let own = send(Some("acme-key")).await;
            assert_eq!(own.status, if documented { 200 } else { 405 }, "{row}: {}", own.text());
            assert_eq!(own.headers.contains_key("allow"), !documented, "{row}");
            for stranger in [None, Some("unknown"), Some("acme-expired-key"), Some("")] {
                let wanted = if scopes.is_empty() { own.status } else { 401 };
                assert_eq!(send(stranger).await.status, wanted, "{row} with {stranger:?}");
            }
            for scope in ["ingest", "read", "admin"] {
                let fits = scopes.is_empty() || scopes.contains(&scope);
                let wanted = if fits || !documented { own.status } else { 403 };
                let key = format!("acme-{scope}-key");
                assert_eq!(send(Some(&key)).await.status, wanted, "{row} with {scope}");
            }
            let others = send(Some("rival-key")).await;
            no_mark(&others, &row);
            if documented && path.contains('{') {
                let unknown = target.replace("only-acme", "unknown-1").replace(&acmes, "sha256:00");
                let request = client.request(method, &unknown, Some("rival-key"));
                let unknown = client.send(false, request.header("x-request-id", "same"), Vec::new()).await;
                assert_eq!((others.status, others.text()), (404, unknown.text()), "{row}");
            }
        }
    }
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_grpc_method_opens_to_the_right_key_alone() {
    let platform = filled().await;
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let mut methods = 0;
    let mut host = 10;
    let ours = set
        .file
        .iter()
        .filter(|file| ["attribution.", "inference"].iter().any(|p| file.package().starts_with(p)));
    for (package, service) in ours.flat_map(|file| file.service.iter().map(move |s| (file.package(), s))) {
        for method in &service.method {
            host += 1;
            let client = Client::new(platform.public, host);
            let path = format!("/{package}.{}/{}", service.name(), method.name());
            methods += 1;
            // There is no model here, and that is all that the right key learns.
            let of_models = matches!(package, "attribution.ml.v1" | "inference");
            let (scope, message) = if of_models { ("read", Vec::new()) } else { grpc_call(method.name()) };
            let call = async |key: Option<&str>| client.grpc(&path, key, &message).await;
            for stranger in [None, Some("unknown"), Some("acme-expired-key"), Some("")] {
                assert_eq!(call(stranger).await.grpc_code(), 16, "{path} with {stranger:?}");
            }
            // What a server says of itself is for every key.
            let any_scope = package == "inference" && method.name().starts_with("Server");
            let others =
                ["ingest", "read", "admin"].into_iter().filter(|other| *other != scope && !any_scope);
            for other in others {
                let answer = call(Some(&format!("acme-{other}-key"))).await;
                assert_eq!(answer.grpc_code(), 7, "{path} with {other}");
            }
            if method.name() == "StreamDecisions" {
                continue;
            }
            for key in ["acme-key".to_owned(), format!("acme-{scope}-key")] {
                let own = call(Some(&key)).await;
                let code = own.grpc_code();
                let fits = if of_models { ![7, 12, 13, 16].contains(&code) } else { code == 0 };
                assert!(fits, "{path} with {key}: {own:?}");
            }
            let others = call(Some("rival-key")).await;
            no_mark(&others, &path);
            if matches!(method.name(), "GetConversion" | "GetDecision") {
                let unknown = GetConversionRequest { event_id: "unknown".into() }.encode_to_vec();
                let unknown = client.grpc(&path, Some("rival-key"), &unknown).await;
                assert_eq!((others.grpc_code(), unknown.grpc_code()), (5, 5), "{path}");
                let said = |answer: &Answer| {
                    ["grpc-message", "grpc-status-details-bin"].map(|name| answer.headers.get(name).cloned())
                };
                assert_eq!(said(&others), said(&unknown), "{path}");
            }
        }
    }
    assert!(methods >= 18, "{methods}");
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_decisions_tells_its_own_tenants_alone() {
    use proto::decisions::{StreamDecisionsRequest, attribution_service_client::AttributionServiceClient};

    let platform = Platform::start(Setup { settings: settings(), ..Setup::default() }).await;
    let client = platform.client();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", platform.public)).unwrap();
    let mut grpc = AttributionServiceClient::new(endpoint.connect().await.unwrap());
    let mut request = tonic::Request::new(StreamDecisionsRequest::default());
    request.metadata_mut().insert("authorization", "Bearer rival-read-key".parse().unwrap());
    let mut decisions = grpc.stream_decisions(request).await.unwrap().into_inner();
    // The other tenant's come first, and are decided before ours are sent.
    for tenant in TENANTS {
        let key = format!("{tenant}-key");
        assert_eq!(client.post("/v1/events", Some(&key), &events(tenant)).await.status, 200);
        assert_eq!(client.conversions(&key).await, 2.0);
    }
    for _ in 0..2 {
        let decision = decisions.message().await.unwrap().unwrap().decision.unwrap();
        let text = format!("{decision:?}");
        assert!(text.contains("rival-mark") && !text.contains("acme"), "{text}");
    }
    platform.stop().await;
}

//! What every request meets: names, keys, errors, limits, in both protocols.

#![allow(clippy::unwrap_used)]

mod support;

use http::StatusCode;
use prost::Message;
use proto::{
    events::Event,
    ingestion::{IngestEventsRequest, ingestion_service_client::IngestionServiceClient},
};
use service::{
    Limits, Peer,
    error::{Retry, TABLE},
};
use support::{EXPIRED_KEY, KEY, OTHER_KEY, READ_KEY, Server, client, eventually, read, send};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn channel(server: &Server) -> Channel {
    Channel::from_shared(server.url("")).unwrap().connect().await.unwrap()
}

fn ingest(event_id: &str, key: Option<&str>) -> Request<IngestEventsRequest> {
    let event = Event { event_id: event_id.into(), ..Event::default() };
    let mut request = Request::new(IngestEventsRequest { events: vec![event] });
    if let Some(key) = key {
        request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    }
    request
}

async fn call(server: &Server, event_id: &str, key: Option<&str>) -> Result<String, Status> {
    let mut client = IngestionServiceClient::new(channel(server).await);
    let answer = client.ingest_events(ingest(event_id, key)).await?;
    Ok(answer.into_inner().items[0].event_id.clone())
}

#[tokio::test]
async fn every_class_is_what_the_table_says_in_both_protocols() {
    let server = Server::start().await;
    // Written from the contract, not from the table.
    let contract = [
        ("invalid", Code::InvalidArgument, 400, Retry::No),
        ("unauthenticated", Code::Unauthenticated, 401, Retry::No),
        ("forbidden", Code::PermissionDenied, 403, Retry::No),
        ("not_found", Code::NotFound, 404, Retry::No),
        ("too_large", Code::OutOfRange, 413, Retry::No),
        ("over_quota", Code::ResourceExhausted, 429, Retry::After),
        ("timed_out", Code::DeadlineExceeded, 504, Retry::Yes),
        ("unavailable", Code::Unavailable, 503, Retry::After),
        ("internal", Code::Internal, 500, Retry::Yes),
    ];
    assert_eq!(contract.len(), TABLE.len());
    for ((class, code, status, retry), row) in contract.into_iter().zip(TABLE) {
        assert_eq!(row.class.row().name, class, "the table is in the order of the enum");
        assert_eq!(row.retry, retry, "{class}");
        let internal = class == "internal";

        let rest = send("GET", &server.url(&format!("/fail/{class}")), Some(KEY), &[], "").await;
        assert_eq!(rest.status, status, "{class}");
        assert_eq!(rest.header("content-type"), "application/problem+json");
        assert_eq!(rest.headers.contains_key("retry-after"), retry == Retry::After, "{class}");
        let problem = rest.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:attribution:error:{class}"));
        assert_eq!(problem["code"], if internal { "internal" } else { "a_code" });
        assert_eq!(problem["request_id"], rest.header("x-request-id"));
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        if !internal {
            let wanted = serde_json::json!([{"field": "the.field", "reason": "its reason"}]);
            assert_eq!(problem["errors"], wanted);
        }
        assert!(!rest.text().contains("hunter2"), "{class} leaks its source");

        let grpc = call(&server, class, Some(KEY)).await.unwrap_err();
        assert_eq!(grpc.code(), code, "{class}");
        let info = grpc.get_details_error_info().unwrap();
        assert_eq!(info.reason, if internal { "internal" } else { "a_code" });
        assert_eq!(info.domain, "attribution");
        assert_eq!(grpc.get_details_retry_info().is_some(), retry == Retry::After, "{class}");
        if !internal {
            let fields = grpc.get_details_bad_request().unwrap().field_violations;
            assert_eq!(
                (fields[0].field.as_str(), fields[0].description.as_str()),
                ("the.field", "its reason")
            );
        }
        assert!(!format!("{grpc:?}").contains("hunter2"), "{class} leaks its source");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_key_opens_its_tenant_and_its_scopes_alone() {
    let server = Server::start().await;
    for (key, status, code) in [
        (None, 401, Code::Unauthenticated),
        (Some("wrong"), 401, Code::Unauthenticated),
        (Some(""), 401, Code::Unauthenticated),
        (Some(EXPIRED_KEY), 401, Code::Unauthenticated),
        (Some(READ_KEY), 403, Code::PermissionDenied),
    ] {
        let rest = send("POST", &server.url("/ingest"), key, &[], "").await;
        assert_eq!(rest.status, status, "{key:?}");
        assert_eq!(rest.headers.contains_key("www-authenticate"), status == 401);
        assert_eq!(call(&server, "", key).await.unwrap_err().code(), code, "{key:?}");
    }
    for (key, tenant) in [(KEY, "acme"), (OTHER_KEY, "other")] {
        assert_eq!(send("POST", &server.url("/ingest"), Some(key), &[], "").await.status, 200);
        // Naming another tenant changes nothing.
        let spoof = [("x-tenant", "other"), ("x-tenant", "acme")];
        let whoami = send("GET", &server.url("/whoami"), Some(key), &spoof, "").await;
        assert_eq!(whoami.json()["tenant"], tenant);
        assert_eq!(call(&server, "", Some(key)).await.unwrap(), tenant);
    }
    // Nor does it open anything.
    let spoof = [("x-tenant", "acme")];
    assert_eq!(send("GET", &server.url("/whoami"), None, &spoof, "").await.status, 401);
    server.stop().await;
}

#[tokio::test]
async fn failed_authentications_are_limited_and_hold_up_no_valid_key() {
    let server = Server::start().await;
    let client = client(true);
    let mut statuses = Vec::new();
    for _ in 0..62 {
        let request = http::Request::get(server.url("/whoami")).header("authorization", "Bearer wrong");
        let request = request.body(axum::body::Body::empty()).unwrap();
        statuses.push(read(client.request(request).await.unwrap()).await);
    }
    assert!(statuses[..60].iter().all(|answer| answer.status == 401));
    assert!(statuses[60..].iter().all(|answer| answer.status == 429));
    assert_eq!(statuses[60].header("retry-after"), "60");
    assert_eq!(call(&server, "", None).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(send("GET", &server.url("/whoami"), Some(KEY), &[], "").await.status, 200);
    assert_eq!(call(&server, "", Some(KEY)).await.unwrap(), "acme");
    server.stop().await;
}

#[tokio::test]
async fn what_operators_ask_is_open_to_all() {
    let server = Server::start().await;
    let operations = |path: &str| format!("http://{}{path}", server.operations);
    for url in [
        server.url("/health/live"),
        server.url("/health/ready"),
        operations("/health/live"),
        operations("/health/ready"),
        operations("/metrics"),
    ] {
        assert_eq!(send("GET", &url, None, &[], "").await.status, 200, "{url}");
    }
    assert_eq!(send("GET", &server.url("/metrics"), None, &[], "").await.status, 404);
    let name = "attribution.ingestion.v1.IngestionService";
    let mut health = HealthClient::new(channel(&server).await);
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        health.check(request).await.map(|answer| answer.into_inner().status)
    };
    assert_eq!(check("").await.unwrap(), 1);
    assert_eq!(check(name).await.unwrap_err().code(), Code::NotFound);
    let log = server.front.health().register(name, "log");
    assert_eq!(check(name).await.unwrap(), 2);
    assert_eq!(check("").await.unwrap(), 2);
    let ready = send("GET", &operations("/health/ready"), None, &[], "").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("\"starting\""), "{}", ready.text());
    log.ready();
    assert_eq!(check(name).await.unwrap(), 1);
    server.stop().await;
}

#[tokio::test]
async fn reflection_tells_our_services_in_both_versions() {
    use tonic_reflection::pb;
    let server = Server::start().await;
    let channel = channel(&server).await;
    let names = |list: Vec<String>| {
        for name in [
            "attribution.ingestion.v1.IngestionService",
            "attribution.attribution.v1.AttributionService",
            "attribution.query.v1.QueryService",
            "attribution.ml.v1.MlGatewayService",
            "grpc.health.v1.Health",
        ] {
            assert!(list.iter().any(|known| known == name), "{name} in {list:?}");
        }
    };
    // Messages of every package, so that a client can write and read all of them.
    const SYMBOLS: [&str; 5] = [
        "attribution.events.v1.Event",
        "attribution.ingestion.v1.IngestEventsRequest",
        "attribution.attribution.v1.Decision",
        "attribution.query.v1.RunReportRequest",
        "attribution.ml.v1.ScoreRequest",
    ];
    {
        use pb::v1::{
            server_reflection_client::*, server_reflection_request::*, server_reflection_response::*, *,
        };
        let request = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..Default::default()
        };
        let symbols = SYMBOLS.map(|symbol| ServerReflectionRequest {
            message_request: Some(MessageRequest::FileContainingSymbol(symbol.into())),
            ..Default::default()
        });
        let requests = tokio_stream::iter([request].into_iter().chain(symbols));
        let mut client = ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                names(list.service.into_iter().map(|service| service.name).collect());
            }
            other => panic!("{other:?}"),
        }
        for symbol in SYMBOLS {
            match answers.message().await.unwrap().unwrap().message_response.unwrap() {
                MessageResponse::FileDescriptorResponse(found) => {
                    assert!(!found.file_descriptor_proto.is_empty(), "{symbol}");
                }
                other => panic!("{symbol}: {other:?}"),
            }
        }
    }
    {
        use pb::v1alpha::{
            server_reflection_client::*, server_reflection_request::*, server_reflection_response::*, *,
        };
        let request = ServerReflectionRequest {
            message_request: Some(MessageRequest::ListServices(String::new())),
            ..Default::default()
        };
        let symbols = SYMBOLS.map(|symbol| ServerReflectionRequest {
            message_request: Some(MessageRequest::FileContainingSymbol(symbol.into())),
            ..Default::default()
        });
        let requests = tokio_stream::iter([request].into_iter().chain(symbols));
        let mut client = ServerReflectionClient::new(channel);
        let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
        match answers.message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                names(list.service.into_iter().map(|service| service.name).collect());
            }
            other => panic!("{other:?}"),
        }
        for symbol in SYMBOLS {
            match answers.message().await.unwrap().unwrap().message_response.unwrap() {
                MessageResponse::FileDescriptorResponse(found) => {
                    assert!(!found.file_descriptor_proto.is_empty(), "{symbol}");
                }
                other => panic!("{symbol}: {other:?}"),
            }
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_request_keeps_its_name_and_trace_or_gets_them() {
    let server = Server::start().await;
    let url = server.url("/whoami");
    let longest = "x".repeat(service::REQUEST_ID_CHARS_MAX);
    let given = [("x-request-id", longest.as_str()), ("traceparent", TRACEPARENT)];
    let answer = send("GET", &url, Some(KEY), &given, "").await;
    assert_eq!(answer.header("x-request-id"), longest);
    assert_eq!(answer.header("traceparent"), TRACEPARENT);
    assert_eq!(answer.json()["traceparent"], TRACEPARENT, "handlers see the trace");

    let long = format!("{longest}x");
    for wrong in ["a b", "<script>", "", long.as_str()] {
        let given = [("x-request-id", wrong), ("traceparent", "nonsense")];
        let answer = send("GET", &url, Some(KEY), &given, "").await;
        assert_eq!(answer.header("x-request-id").len(), 32, "{wrong:?}");
        assert_eq!(answer.header("traceparent").len(), 55);
    }
    // On refusals and in gRPC too.
    let refused = send("GET", &server.url("/nowhere"), None, &given, "").await;
    assert_eq!((refused.header("x-request-id"), refused.header("traceparent")), (&*longest, TRACEPARENT));
    let mut request = ingest("", Some(KEY));
    request.metadata_mut().insert("x-request-id", "mine".parse().unwrap());
    request.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    let answer = IngestionServiceClient::new(channel(&server).await).ingest_events(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "mine");
    assert_eq!(answer.metadata().get("traceparent").unwrap(), TRACEPARENT);
    assert_eq!(answer.into_inner().items[0].reason, TRACEPARENT);
    server.stop().await;
}

#[tokio::test]
async fn what_the_router_refuses_is_a_problem_too() {
    let server = Server::start().await;
    let key = Some(KEY);
    let grpc_path = "/attribution.ingestion.v1.IngestionService/IngestEvents";
    for (method, path, key, status, code) in [
        ("GET", "/nowhere", None, 404, "unknown_route"),
        ("POST", "/nowhere", key, 404, "unknown_route"),
        ("DELETE", "/ingest", key, 405, "method_not_allowed"),
        ("GET", "/ingest", None, 401, "no_key"),
        ("POST", "/health/live", None, 405, "method_not_allowed"),
        ("GET", "/query?limit=x", key, 400, "invalid"),
        ("GET", "/query?limit=1&other=2", key, 400, "invalid"),
        ("POST", grpc_path, key, 415, "unsupported_media_type"),
    ] {
        let answer = send(method, &server.url(path), key, &[], "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        assert_eq!(answer.json()["code"], code, "{method} {path}");
    }
    let answer = send("DELETE", &server.url("/ingest"), key, &[], "").await;
    assert_eq!(answer.header("allow"), "POST");
    let answer = send("GET", &server.url("/query?limit=1&other=2"), key, &[], "").await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("other"), "{}", answer.text());
    let mut query = proto::query::query_service_client::QueryServiceClient::new(channel(&server).await);
    let unknown = query.run_report(proto::query::RunReportRequest::default()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    server.stop().await;
}

#[tokio::test]
async fn a_panic_costs_its_own_request() {
    let server = Server::start().await;
    let client = client(true);
    let get = |path: &str| {
        let request = http::Request::get(server.url(path)).header("authorization", format!("Bearer {KEY}"));
        client.request(request.body(axum::body::Body::empty()).unwrap())
    };
    let waiting = tokio::join!(get("/wait"), async {
        let panicked = read(get("/panic").await.unwrap()).await;
        assert_eq!(panicked.status, 500);
        assert!(!panicked.text().contains("hunter2"));
        server.gate.add_permits(1);
    });
    assert_eq!(waiting.0.unwrap().status(), StatusCode::OK);
    assert_eq!(call(&server, "panic", Some(KEY)).await.unwrap_err().code(), Code::Internal);
    server.stop().await;
}

#[tokio::test]
async fn bodies_are_taken_at_the_bound_and_refused_one_past_it() {
    let limits = Limits { body_bytes_max: 50_000, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let url = server.url("/echo");
    let exact = send("POST", &url, Some(KEY), &[], vec![b'x'; 50_000]).await;
    assert_eq!((exact.status, exact.body.len()), (200, 50_000));
    // Refused by what it declares, before it is read.
    assert_eq!(send("POST", &url, Some(KEY), &[], vec![b'x'; 50_001]).await.status, 413);
    // What declares nothing, or is compressed, is bounded while it is read (the handler's bound is 100,000).
    let stream = |bytes: usize| {
        let chunks = (0..bytes / 1_000).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1_000]));
        axum::body::Body::from_stream(tokio_stream::iter(chunks))
    };
    assert_eq!(send("POST", &url, Some(KEY), &[], stream(100_000)).await.status, 200);
    assert_eq!(send("POST", &url, Some(KEY), &[], stream(101_000)).await.status, 413);
    let encoded = |encoding| [("content-encoding", encoding)];
    let bomb = zstd::encode_all(&vec![0; 10_000_000][..], 19).unwrap();
    assert_eq!(send("POST", &url, Some(KEY), &encoded("zstd"), bomb).await.status, 413);
    assert_eq!(send("POST", &url, Some(KEY), &encoded("br"), "x").await.status, 415);
    assert_eq!(send("POST", &url, Some(KEY), &encoded("gzip"), "x").await.status, 400);
    server.stop().await;

    let server = Server::start().await;
    let too_long = "x".repeat(service::BODY_BYTES_MAX);
    assert_eq!(call(&server, &too_long, Some(KEY)).await.unwrap_err().code(), Code::OutOfRange);
    server.stop().await;
}

#[tokio::test]
async fn one_request_past_the_bound_is_shed_and_health_is_not() {
    let limits = Limits { requests_in_flight_max: 2, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let url = server.url("/wait");
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let url = url.clone();
            service::task::spawn("waiting", async move { send("GET", &url, Some(KEY), &[], "").await.status })
        })
        .collect();
    let whoami = server.url("/whoami");
    let mut shed = send("GET", &whoami, Some(KEY), &[], "").await;
    while shed.status == 200 {
        shed = send("GET", &whoami, Some(KEY), &[], "").await;
    }
    assert_eq!((shed.status, shed.header("retry-after")), (503, "1"));
    assert_eq!(shed.json()["code"], "overloaded");
    assert_eq!(call(&server, "", Some(KEY)).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(send("GET", &server.url("/health/live"), None, &[], "").await.status, 200);
    server.gate.add_permits(2);
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap(), 200);
    }
    assert_eq!(send("GET", &whoami, Some(KEY), &[], "").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn one_request_of_a_tenant_past_its_bound_is_shed_and_a_stream_counts_to_its_end() {
    let limits = Limits { tenant_requests_in_flight_max: 1, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let whoami = server.url("/whoami");
    let mut client = IngestionServiceClient::new(channel(&server).await);
    let (batches, receiver) = tokio::sync::mpsc::channel(1);
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    request.metadata_mut().insert("authorization", format!("Bearer {KEY}").parse().unwrap());
    let stream = client.stream_events(request).await.unwrap();
    let shed = send("GET", &whoami, Some(KEY), &[], "").await;
    assert_eq!((shed.status, shed.header("retry-after")), (429, "1"));
    assert_eq!(shed.json()["code"], "too_many_requests");
    assert_eq!(call(&server, "", Some(KEY)).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(send("GET", &whoami, Some(OTHER_KEY), &[], "").await.status, 200);
    drop((batches, stream, client));
    eventually("the stream has ended", || server.front.requests_in_flight() == 0).await;
    assert_eq!(send("GET", &whoami, Some(KEY), &[], "").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn nobody_waits_past_the_deadline() {
    let limits = Limits { request_seconds_max: 1, ..Limits::default() };
    let server = Server::with(limits, None).await;
    let answer = send("GET", &server.url("/wait"), Some(KEY), &[], "").await;
    assert_eq!(answer.status, 504);
    server.stop().await;

    // The caller's own deadline, kept by the server; a tonic client would keep it too and hide that.
    let server = Server::start().await;
    let message = ingest("forever", None).into_inner().encode_to_vec();
    let frame = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let path = "/attribution.ingestion.v1.IngestionService/IngestEvents";
    let request = http::Request::post(server.url(path))
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {KEY}"))
        .header("grpc-timeout", "50m");
    let answer = read(client(true).request(request.body(frame.into()).unwrap()).await.unwrap()).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "4"));
    server.stop().await;
}

#[tokio::test]
async fn requests_are_counted_under_bounded_names() {
    let server = Server::start().await;
    send("GET", &server.url("/fail/not_found"), Some(KEY), &[], "").await;
    send("BREW", &server.url("/nowhere/secret-path"), Some(KEY), &[], "").await;
    call(&server, "", Some(KEY)).await.unwrap();
    call(&server, "over_quota", Some(KEY)).await.unwrap_err();
    for wanted in [
        "http_requests_total{service=\"test\",method=\"GET\",route=\"/fail/{class}\",status=\"404\"}",
        "http_requests_total{service=\"operations\",method=\"other\",route=\"unknown\",status=\"404\"}",
        "http_request_duration_seconds_bucket{service=\"test\",route=\"/fail/{class}\",le=\"0.05\"}",
        "grpc_server_handled_total{service=\"test\",grpc_service=\"attribution.ingestion.v1.IngestionService\",grpc_method=\"IngestEvents\",grpc_code=\"OK\"}",
        "grpc_server_handled_total{service=\"test\",grpc_service=\"attribution.ingestion.v1.IngestionService\",grpc_method=\"IngestEvents\",grpc_code=\"ResourceExhausted\"}",
        "grpc_server_handling_seconds_count{service=\"test\",grpc_service=\"attribution.ingestion.v1.IngestionService\",grpc_method=\"IngestEvents\"}",
    ] {
        let mut page = String::new();
        let there = || {
            page = telemetry::metrics::render();
            page.contains(wanted)
        };
        eventually(wanted, there).await;
        assert!(!page.contains("secret-path"));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_peer_in_this_process_needs_a_tenant_and_no_key() {
    let server = Server::start().await;
    let peer = Peer::in_process(server.mounted.clone());
    let call = async |peer: Peer| {
        let mut client = IngestionServiceClient::new(peer);
        client.ingest_events(ingest("", None)).await.map(|answer| answer.into_inner().items[0].clone())
    };
    let item = call(peer.for_tenant("other")).await.unwrap();
    assert_eq!(item.event_id, "other");
    assert_eq!(call(peer.for_tenant("nobody")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(call(peer.clone()).await.unwrap_err().code(), Code::NotFound);
    // The trace goes along.
    let scope = telemetry::trace::Scope {
        traceparent: telemetry::trace::Traceparent::parse(TRACEPARENT).unwrap(),
        request_id: http::HeaderValue::from_static("r"),
    };
    let item = scope.run(call(peer.for_tenant("acme"))).await.unwrap();
    assert_eq!(item.reason, TRACEPARENT);
    // Elsewhere the same call needs a key.
    let elsewhere = Peer::channel(channel(&server).await).for_tenant("acme");
    assert_eq!(call(elsewhere).await.unwrap_err().code(), Code::Unauthenticated);
    server.stop().await;
}

//! One trace over every kind of hop, as a collector receives it.

#![allow(clippy::unwrap_used)]

use http::HeaderMap;
use telemetry::trace;
use testkit::otlp::Collector;
use tonic::metadata::MetadataMap;

fn service_names(collector: &Collector) -> Vec<String> {
    let resources = collector.requests().into_iter().flat_map(|request| request.resource_spans);
    let attributes = resources.flat_map(|of| of.resource.unwrap().attributes);
    attributes
        .filter(|attribute| attribute.key == "service.name")
        .map(|attribute| format!("{:?}", attribute.value))
        .collect()
}

/// A client calls over HTTP headers, the server appends a frame with the trace as a string, a worker reads it and
/// calls another service over gRPC metadata. A batch that works for all of it links to it.
fn the_way_of_an_event() -> String {
    let mut headers = HeaderMap::new();
    tracing::info_span!("client").in_scope(|| trace::inject(&mut headers));

    let server = tracing::debug_span!("server");
    trace::set_remote_parent(&server, trace::extract(&headers).unwrap());
    let frame = server.in_scope(trace::current_traceparent);

    let worker = tracing::debug_span!("worker");
    trace::set_parent(&worker, &frame);
    let mut metadata = MetadataMap::new();
    worker.in_scope(|| trace::inject_metadata(&mut metadata));

    let callee = tracing::debug_span!("callee");
    trace::set_remote_parent(&callee, trace::extract_metadata(&metadata).unwrap());
    callee.in_scope(|| tracing::info!("done"));

    let batch = tracing::info_span!("batch");
    trace::add_link(&batch, &frame);
    trace::set_parent(&tracing::info_span!("orphan"), "nonsense");
    // The exporter's own transport makes no spans.
    tracing::info_span!(target: "h2::client", "transport").in_scope(|| ());
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_runs_over_headers_strings_and_metadata() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint().to_owned();

    let config = telemetry::Config { otlp_endpoint: Some(endpoint), ..telemetry::Config::new("under-test") };
    let guard = telemetry::init(config.clone()).unwrap();
    assert!(matches!(telemetry::init(config), Err(telemetry::Error::AlreadySet)));
    let frame = the_way_of_an_event();
    // The shutdown alone must send everything.
    tokio::task::spawn_blocking(move || guard.shutdown()).await.unwrap();

    let spans = collector.spans();
    let one = |name: &str| {
        let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0]
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let way = [one("client"), one("server"), one("worker"), one("callee")];
    for (parent, child) in way.iter().zip(&way[1..]) {
        assert_eq!(child.trace_id, parent.trace_id, "{} and {}", parent.name, child.name);
        assert_eq!(child.parent_span_id, parent.span_id, "{} and {}", parent.name, child.name);
    }
    assert_eq!(frame, format!("00-{}-{}-01", hex(&way[1].trace_id), hex(&way[1].span_id)));
    assert_eq!(way[3].events.len(), 1);
    let batch = one("batch");
    assert_ne!(batch.trace_id, way[0].trace_id);
    assert_eq!(batch.links[0].trace_id, way[0].trace_id);
    assert_eq!(batch.links[0].span_id, way[1].span_id);
    assert_ne!(one("orphan").trace_id, way[0].trace_id);
    assert!(spans.iter().all(|span| span.name != "transport"));
    assert!(service_names(&collector).iter().all(|name| name.contains("under-test")));
    assert!(!service_names(&collector).is_empty());
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_its_reason() {
    let base = || telemetry::Config::new("x");
    let refused = |config| telemetry::init(config).map(|_| ()).unwrap_err().to_string();
    let endpoint = Some("localhost:4317".to_owned());
    assert!(refused(telemetry::Config { otlp_endpoint: endpoint, ..base() }).contains("otlp_endpoint"));
    assert!(refused(telemetry::Config { log_filter: "a=b=c".into(), ..base() }).contains("log_filter"));
    let endpoint = Some("http://127.0.0.1:4317".to_owned());
    let config = telemetry::Config { trace_sample_ratio: 1.1, otlp_endpoint: endpoint, ..base() };
    assert!(refused(config).contains("trace_sample_ratio"));
    assert!("yaml".parse::<telemetry::LogFormat>().unwrap_err().to_string().contains("log_format"));
}

//! Counts and times every request, under names of bounded number.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Frame, SizeHint};
use metrics::{Counter, Histogram, Label};
use parking_lot::RwLock;
use prost::Message;
use telemetry::metrics::{GRPC_HANDLED, GRPC_HANDLING, HTTP_DURATION, HTTP_REQUESTS};
use tonic::Code;

/// The label of a route or a method nobody serves.
const UNKNOWN: &str = "unknown";

/// The metrics of one service. Handles are kept, so that a request costs two look-ups and no allocation.
pub(crate) struct Observer {
    service: &'static str,
    rest: RwLock<HashMap<Box<str>, Series>>,
    grpc: RwLock<HashMap<Box<str>, Series>>,
}

struct Series {
    seconds: Histogram,
    /// By method and status, or by gRPC code: a handful, so a list.
    counts: Vec<(u32, Counter)>,
}

/// A gRPC body that counts its call when the trailers have passed, or when the caller has gone.
pub(crate) struct ObservedBody {
    body: Body,
    observation: Option<Observation>,
}

struct Observation {
    observer: Arc<Observer>,
    path: Box<str>,
    begin: Instant,
}

// === impl Observer ===

impl Observer {
    pub(crate) fn new(service: &'static str) -> Self {
        Self { service, rest: RwLock::default(), grpc: RwLock::default() }
    }

    /// A REST request was answered.
    pub(crate) fn rest(&self, method: &Method, route: Option<&str>, status: StatusCode, begin: Instant) {
        let route = route.unwrap_or(UNKNOWN);
        let (index, method) = method_label(method);
        let key = u32::from(status.as_u16()) << 8 | index;
        let seconds = begin.elapsed().as_secs_f64();
        if record(&self.rest, route, key, seconds) {
            return;
        }
        let service = Label::from_static_parts("service", self.service);
        let route_label = Label::new("route", route.to_owned());
        add(
            &self.rest,
            route,
            key,
            seconds,
            || {
                let labels = vec![service.clone(), route_label.clone()];
                metrics::histogram!(HTTP_DURATION, labels)
            },
            || {
                let method = Label::from_static_parts("method", method);
                let status = Label::new("status", status.as_str().to_owned());
                let labels = vec![service.clone(), method, route_label.clone(), status];
                metrics::counter!(HTTP_REQUESTS, labels)
            },
        );
    }

    /// A call was answered over gRPC.
    fn grpc(&self, path: &str, code: Code, begin: Instant) {
        let path = if is_method(path) { path } else { UNKNOWN };
        let key = code as u32;
        let seconds = begin.elapsed().as_secs_f64();
        if record(&self.grpc, path, key, seconds) {
            return;
        }
        let (grpc_service, grpc_method) =
            path.trim_start_matches('/').split_once('/').unwrap_or((UNKNOWN, UNKNOWN));
        let labels = vec![
            Label::from_static_parts("service", self.service),
            Label::new("grpc_service", grpc_service.to_owned()),
            Label::new("grpc_method", grpc_method.to_owned()),
        ];
        add(
            &self.grpc,
            path,
            key,
            seconds,
            || metrics::histogram!(GRPC_HANDLING, labels.clone()),
            || {
                let mut labels = labels.clone();
                labels.push(Label::from_static_parts("grpc_code", code_label(code)));
                metrics::counter!(GRPC_HANDLED, labels)
            },
        );
    }

    /// Counts the call now if its outcome stands in the headers, else when its trailers pass.
    pub(crate) fn watch(
        self: &Arc<Self>,
        path: &str,
        begin: Instant,
        response: http::Response<Body>,
    ) -> http::Response<Body> {
        if let Some(code) = code_of(response.headers()) {
            self.grpc(path, code, begin);
            return response;
        }
        let observation = Observation { observer: self.clone(), path: path.into(), begin };
        response.map(|body| Body::new(ObservedBody { body, observation: Some(observation) }))
    }
}

fn record(all: &RwLock<HashMap<Box<str>, Series>>, name: &str, key: u32, seconds: f64) -> bool {
    let all = all.read();
    let Some(series) = all.get(name) else { return false };
    let Some((_, count)) = series.counts.iter().find(|(of, _)| *of == key) else { return false };
    series.seconds.record(seconds);
    count.increment(1);
    true
}

fn add(
    all: &RwLock<HashMap<Box<str>, Series>>,
    name: &str,
    key: u32,
    seconds: f64,
    histogram: impl FnOnce() -> Histogram,
    counter: impl FnOnce() -> Counter,
) {
    let mut all = all.write();
    let series =
        all.entry(name.into()).or_insert_with(|| Series { seconds: histogram(), counts: Vec::new() });
    if !series.counts.iter().any(|(of, _)| *of == key) {
        series.counts.push((key, counter()));
    }
    series.seconds.record(seconds);
    for (_, count) in series.counts.iter().filter(|(of, _)| *of == key) {
        count.increment(1);
    }
}

// === impl ObservedBody ===

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let code = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().map(|t| code_of(t).unwrap_or(Code::Unknown)),
            Some(Err(_)) | None => Some(Code::Unknown),
        };
        if let Some(code) = code
            && let Some(observation) = self.observation.take()
        {
            observation.end(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        if let Some(observation) = self.observation.take() {
            observation.end(Code::Cancelled);
        }
    }
}

impl Observation {
    fn end(self, code: Code) {
        self.observer.grpc(&self.path, code, self.begin);
    }
}

/// The paths of all methods we could serve.
static METHODS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut paths = HashSet::new();
    for set in sets {
        // Generated with the code; a broken one would only cost labels.
        let set = prost_types::FileDescriptorSet::decode(set).unwrap_or_default();
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    let (package, service) = (file.package(), service.name());
                    paths.insert(format!("/{package}.{service}/{}", method.name()));
                }
            }
        }
    }
    paths
});

/// Whether a path is that of a gRPC method we could serve.
pub(crate) fn is_method(path: &str) -> bool {
    METHODS.contains(path)
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get(tonic::Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

fn method_label(method: &Method) -> (u32, &'static str) {
    const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other"];
    let index = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(7);
    (index as u32, METHODS[index])
}

/// As Prometheus interceptors of other languages write it, so that common dashboards fit.
fn code_label(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

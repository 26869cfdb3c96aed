//! What happens to every request, in order: the column of [`answer`] and [`admit`].

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
    routing::Route,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use telemetry::{
    health::Health,
    trace::{self, Scope, TRACEPARENT, Traceparent},
};
use tower::Service;
use tracing::{Instrument, Span, field::Empty};

use crate::{
    auth::{self, Failures, InProcess, PeerKey},
    body,
    config::Secret,
    deadline,
    error::{self, Error, PROBLEM_JSON, Result},
    hold::Hold,
    limits::Limits,
    load::Load,
    observe::{self, Observer},
    settings::SettingsHandle,
};

/// The header that names a request in answers and logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Characters of a request id taken over from a caller; a longer one is replaced.
pub const REQUEST_ID_CHARS_MAX: usize = 128;

/// Bytes of a plain-text refusal that go into a problem.
const REFUSAL_BYTES_MAX: usize = 1_024;

/// What all services of a process share at their front: settings, limits, health. Clones share it.
#[derive(Clone)]
pub struct Front(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) settings: SettingsHandle,
    pub(crate) limits: Limits,
    pub(crate) health: Health,
    peer_key: Option<PeerKey>,
    failures: Failures,
    load: Arc<Load>,
    pub(crate) body_bytes: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// A key is needed, and the load is bounded.
    Key,
    /// Open to all, also under load: health, reflection, descriptions.
    Open,
}

struct Mount {
    front: Front,
    observer: Arc<Observer>,
    access: Access,
}

#[derive(Clone)]
struct Mounted {
    mount: Arc<Mount>,
    route: Route,
}

/// What is known of a request once it has a name.
struct Call {
    /// The path of a gRPC call.
    grpc: Option<Box<str>>,
    method: Method,
    route: Option<MatchedPath>,
    begin: Instant,
    scope: Scope,
}

// === impl Front ===

impl Front {
    /// A front for the services of one process.
    pub fn new(settings: SettingsHandle, limits: Limits, health: Health) -> Self {
        Self::for_peers(settings, limits, health, None)
    }

    /// As [`Front::new`], for a process that other services call with this key.
    pub fn for_peers(
        settings: SettingsHandle,
        limits: Limits,
        health: Health,
        peer_key: Option<&Secret>,
    ) -> Self {
        Self(Arc::new(Shared {
            settings,
            limits,
            health,
            peer_key: peer_key.map(PeerKey::new),
            failures: Failures::new(),
            load: Arc::new(Load::new()),
            body_bytes: AtomicUsize::new(0),
        }))
    }

    /// The settings in force.
    pub fn settings(&self) -> &SettingsHandle {
        &self.0.settings
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Who is ready.
    pub fn health(&self) -> &Health {
        &self.0.health
    }

    /// Requests being worked on now, of all services behind this front.
    pub fn requests_in_flight(&self) -> usize {
        self.0.load.requests()
    }

    /// The bytes of their bodies read so far.
    pub fn body_bytes_held(&self) -> usize {
        self.0.body_bytes.load(Ordering::Relaxed)
    }

    /// Puts the routes of a service (REST, gRPC by [`crate::grpc_routes`], or both) behind the front.
    /// Handlers find a [`crate::Caller`] in the extensions. The name is the label `service` of the metrics.
    pub fn mount(&self, service: &'static str, router: Router) -> Router {
        self.layer(service, Access::Key, router)
    }

    /// As [`Front::mount`], open to all.
    pub fn mount_open(&self, service: &'static str, router: Router) -> Router {
        self.layer(service, Access::Open, router)
    }

    fn layer(&self, service: &'static str, access: Access, router: Router) -> Router {
        let observer = Arc::new(Observer::new(service));
        let mount = Arc::new(Mount { front: self.clone(), observer, access });
        router.layer(tower::layer::layer_fn(move |route| Mounted { mount: mount.clone(), route }))
    }
}

impl Service<Request> for Mounted {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { mount, route } = self.clone();
        // One allocation for the whole column.
        Box::pin(async move { Ok(answer(&mount, route, request).await) })
    }
}

/// The outer half of the column: every answer passes it, whatever happened inside.
async fn answer(mount: &Mount, route: Route, request: Request) -> Response {
    // A name first: everything after may fail, and failures are found by their names.
    // With it one span per request, the child of the caller's; it costs nothing unless somebody records it.
    let (call, span) = Call::identify(&request);
    // The name and the trace are at hand wherever the request is worked for: in errors, in the log's frames.
    let work = call.scope.clone().run(async {
        // Whatever went wrong is told in the caller's protocol.
        match admit(mount, &call, route, request).await {
            Ok(response) => own_refusals(&call, response).await,
            Err(error) => call.refuse(error),
        }
    });
    let response = work.instrument(span).await;
    // Counted after all is decided, under the route's pattern and never the raw path.
    let mut response = call.observe(&mount.observer, response);
    // The names go back to the caller, on success too.
    call.name(response.headers_mut());
    response
}

/// The inner half of the column: what a request must pass, cheapest first.
async fn admit(mount: &Mount, call: &Call, mut route: Route, mut request: Request) -> Result<Response> {
    let front = &*mount.front.0;
    // Load is shed before any work is done for it; in-process calls are part of a request already counted.
    let within = request.extensions().get::<InProcess>().is_some();
    let mut part = match mount.access {
        Access::Key if !within => Some(front.load.take(&front.limits)?),
        _ => None,
    };
    // Nobody without a key gets further; the wrong method of a known route is no exception.
    if mount.access == Access::Key {
        let (mut parts, body) = request.into_parts();
        let caller = auth::authenticate(
            &front.settings,
            front.peer_key.as_ref(),
            &front.failures,
            &mut parts.headers,
            &parts.extensions,
        )?;
        // Nor does one tenant take the room of the others.
        if let Some(part) = &mut part {
            part.of_tenant(caller.tenant_name(), &front.limits)?;
        }
        parts.extensions.insert(caller);
        request = Request::from_parts(parts, body);
    }
    // gRPC routes speak gRPC alone.
    if let Some(refused) = call.expect_protocol(request.uri().path())? {
        return Ok(refused);
    }
    // A body that says it is too large is not read at all; those that lie are caught while reading.
    if call.grpc.is_none() && body::declared_too_large(request.headers(), front.limits.body_bytes_max) {
        return Err(body::too_large(front.limits.body_bytes_max));
    }
    // Nor do all bodies together take more than there is, however slowly they come.
    let counts = mount.access == Access::Key && !http_body::Body::is_end_stream(request.body());
    let _hold = counts.then(|| Hold::of(&mount.front.0, request.body_mut()));
    // Nobody waits longer than they said, and nobody for ever.
    let patience = grpc_timeout(request.headers()).unwrap_or(Duration::MAX).min(front.limits.request());
    // A panic costs its own request, not the others of the connection.
    // Whatever is asked of others for it is asked in that time.
    let handled = deadline::within(patience, catch_panic(route.call(request)));
    let Ok(response) = tokio::time::timeout(patience, handled).await else {
        return Err(Error::timed_out("not done within the deadline; it may have happened").code("deadline"));
    };
    let response = response?;
    let Some(part) = part else { return Ok(response) };
    // It is one until its answer is read: streams last, and slow readers hold their answers in memory.
    Ok(response.map(|body| part.hold(body)))
}

// === impl Call ===

impl Call {
    fn identify(request: &Request) -> (Self, Span) {
        let headers = request.headers();
        let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let grpc = content_type.is_some_and(is_grpc).then(|| request.uri().path().into());
        let route = request.extensions().get::<MatchedPath>().cloned();
        let request_id = match headers.get(REQUEST_ID) {
            Some(id) if is_request_id(id.as_bytes()) => id.clone(),
            _ => fresh_request_id(),
        };
        let span = tracing::debug_span!(
            "request",
            otel.name = grpc.as_deref().or_else(|| route.as_ref().map(MatchedPath::as_str)).unwrap_or("unknown route"),
            otel.kind = "server",
            method = %request.method(),
            request_id = ?request_id,
            trace_id = Empty,
        );
        let theirs = trace::extract(headers);
        if let Some(theirs) = theirs {
            trace::set_remote_parent(&span, theirs);
        }
        let ours = || trace::of_span(&span).unwrap_or_else(Traceparent::fresh);
        let traceparent = theirs.unwrap_or_else(ours);
        if !span.is_disabled() {
            span.record("trace_id", traceparent.trace_id());
        }
        let scope = Scope { traceparent, request_id };
        (Self { grpc, method: request.method().clone(), route, begin: Instant::now(), scope }, span)
    }

    /// What a request of plain HTTP to a gRPC route is told.
    fn expect_protocol(&self, path: &str) -> Result<Option<Response>> {
        let is_grpc_route = self.route.as_ref().is_some_and(|route| route.as_str().ends_with("/{*rest}"));
        if !is_grpc_route || self.grpc.is_some() {
            return Ok(None);
        }
        if !observe::is_method(path) {
            return Err(unknown_route_error());
        }
        if self.method == Method::POST {
            return Err(Error::unsupported_media_type("this is a gRPC method; send application/grpc"));
        }
        let mut refused = Error::method_not_allowed().into_response();
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        Ok(Some(refused))
    }

    fn refuse(&self, error: Error) -> Response {
        if self.grpc.is_some() { error.into_status().into_http() } else { error.into_response() }
    }

    fn observe(&self, observer: &Arc<Observer>, response: Response) -> Response {
        if let Some(path) = &self.grpc {
            return observer.watch(path, self.begin, response);
        }
        let route = self.route.as_ref().map(MatchedPath::as_str);
        observer.rest(&self.method, route, response.status(), self.begin);
        response
    }

    fn name(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.scope.request_id.clone());
        headers.insert(TRACEPARENT, self.scope.traceparent.header());
    }
}

/// Turns the refusals of the router, its extractors and the transport of gRPC into those of the table.
async fn own_refusals(call: &Call, response: Response) -> Response {
    if call.grpc.is_some() {
        // Only a call that ended before it began has its status in the headers.
        return match tonic::Status::from_header_map(response.headers()) {
            Some(status) if status.code() != tonic::Code::Ok && status.details().is_empty() => {
                error::of_message(status).into_http()
            }
            _ => response,
        };
    }
    let status = response.status();
    let said = response.headers().get(header::CONTENT_TYPE);
    let plain = said.is_none_or(|value| value.as_bytes().starts_with(b"text/plain"));
    if !plain || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => Error::method_not_allowed(),
        StatusCode::NOT_FOUND => unknown_route_error(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Error::unsupported_media_type(said),
        StatusCode::PAYLOAD_TOO_LARGE => Error::too_large(said),
        _ if status.is_client_error() => Error::invalid(said),
        _ => Error::internal(said),
    };
    let mut problem = error.into_response();
    // `Allow` among them.
    for (name, value) in &parts.headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            problem.headers_mut().append(name, value.clone());
        }
    }
    debug_assert_eq!(problem.headers().get(header::CONTENT_TYPE), Some(&PROBLEM_JSON));
    problem
}

/// The answer to a route nobody serves.
pub(crate) async fn unknown_route(request: Request) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| is_grpc(value.as_bytes())) {
        return tonic::Status::unimplemented("no such method").into_http::<Body>();
    }
    unknown_route_error().into_response()
}

fn unknown_route_error() -> Error {
    Error::not_found("no such route").code("unknown_route")
}

async fn catch_panic<F>(future: F) -> Result<Response>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    let mut future = std::pin::pin!(future);
    let caught = std::future::poll_fn(|cx| {
        // The future is not polled again after a panic.
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Ready(Ok(response))) => Poll::Ready(Ok(response)),
            Ok(Poll::Ready(Err(never))) => match never {},
            Ok(Poll::Pending) => Poll::Pending,
            Err(panic) => Poll::Ready(Err(panic)),
        }
    });
    caught.await.map_err(|panic| {
        let message = crate::task::panic_message(&*panic);
        Error::internal(format!("a handler panicked: {message}"))
    })
}

fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn is_request_id(id: &[u8]) -> bool {
    let plain = |b: &u8| b.is_ascii_graphic() && !b"\"'`<>&\\".contains(b);
    !id.is_empty() && id.len() <= REQUEST_ID_CHARS_MAX && id.iter().all(plain)
}

fn fresh_request_id() -> HeaderValue {
    let mut text = uuid::Uuid::encode_buffer();
    let text = uuid::Uuid::now_v7().simple().encode_lower(&mut text);
    // Hex digits only, so this always holds.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unnamed"))
}

/// `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || digits.starts_with('+') {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

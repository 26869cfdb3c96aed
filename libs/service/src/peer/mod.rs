//! How one service calls another: through the generated client, wherever the other one is.

mod discover;
mod outlier;
mod retry;

use std::{
    error::Error as StdError,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use http::{HeaderValue, Request, Response, Uri, header};
use serde::{Deserialize, Serialize};
use telemetry::trace;
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{
    Service, ServiceBuilder, ServiceExt, balance::p2c::Balance, retry::RetryLayer, util::BoxCloneSyncService,
};

use crate::{
    auth::{InProcess, TENANT},
    config::Secret,
    deadline,
};
use retry::{Attempt, Retries};

/// Calls that wait for an address to take them; further ones wait before they are made.
const WAITING_CALLS_MAX: usize = 1_024;

/// Another service, in this process or elsewhere: `QueryServiceClient::new(peer.for_tenant("acme"))`.
///
/// In process a call is handed to the mounted routes; it needs no key, since only code of this process can make one.
/// Elsewhere it goes over a channel. Either way it carries the tenant and the trace.
#[derive(Clone)]
pub struct Peer {
    route: Route,
    key: Option<HeaderValue>,
    tenant: Option<HeaderValue>,
}

/// Where a peer is, and how it is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// `http://host:port`. Of a name with several addresses, such as that of a headless service, each gets its share.
    pub url: String,
    /// The key that services call each other with; the peer has the same one as its `peer_key`.
    pub key: Option<Secret>,
    /// How long a call may take, retries included; less where the request that it is made for has less time.
    pub timeout_millis: u64,
}

#[derive(Clone)]
enum Route {
    InProcess(Router),
    Elsewhere(BoxCloneSyncService<Request<Body>, Response<Body>, PeerError>),
}

/// Why a peer could not be reached.
pub type PeerError = Box<dyn StdError + Send + Sync>;

impl Peer {
    /// A service of this process, as mounted by [`crate::Front::mount`].
    pub fn in_process(mounted: Router) -> Self {
        Self { route: Route::InProcess(mounted.with_state(())), key: None, tenant: None }
    }

    /// A service elsewhere, which authenticates the call as any other: the channel brings the key.
    pub fn channel(channel: Channel) -> Self {
        let channel = BoxCloneSyncService::new(channel.map_err(Into::into));
        Self { route: Route::Elsewhere(channel), key: None, tenant: None }
    }

    /// A service elsewhere, looked up and connected to when it is called; on a runtime. `may_repeat` tells of the path of
    /// a method whether a call that did not get through may be sent again: it has one message and changes nothing.
    ///
    /// # Errors
    /// The address or the key cannot be used.
    pub fn connect(config: &PeerConfig, may_repeat: fn(&str) -> bool) -> Result<Self, PeerError> {
        let key = config.key.as_ref().map(|key| HeaderValue::try_from(format!("Bearer {}", key.reveal())));
        let mut key = key.transpose()?;
        key.iter_mut().for_each(|key| key.set_sensitive(true));
        let origin: Uri = config.url.parse()?;
        if origin.scheme_str() != Some("http") {
            return Err(format!("write http://host:port, not {:?}", config.url).into());
        }
        let patience = Duration::from_millis(config.timeout_millis);
        let column = ServiceBuilder::new()
            // Whoever calls has an end to their patience, and tells the peer, which then stops too.
            .layer_fn(move |inner| Bounded { inner, patience })
            // The body is kept for what may be sent again.
            .layer_fn(move |inner| Kept { inner, may_repeat })
            // What did not get through is sent again, to another address if there is one.
            .layer(RetryLayer::new(Retries::new()))
            .map_request(Attempt::into_request)
            // All clones share the addresses and what is known of them.
            .buffer(WAITING_CALLS_MAX)
            // Of two addresses by chance the one with fewer calls; those that fail again and again rest.
            .service(Balance::new(discover::discover(origin)?));
        Ok(Self { route: Route::Elsewhere(BoxCloneSyncService::new(column)), key, tenant: None })
    }

    /// The same peer, called for a tenant.
    pub fn for_tenant(&self, tenant: &str) -> Self {
        // Names of tenants are plain ASCII; any other belongs to nobody and is refused there.
        Self { tenant: HeaderValue::from_str(tenant).ok(), ..self.clone() }
    }
}

impl PeerConfig {
    /// A peer at an address, without a key.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), key: None, timeout_millis: 35_000 }
    }
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self::at("")
    }
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = PeerError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, PeerError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        match &mut self.route {
            Route::InProcess(_) => Poll::Ready(Ok(())),
            Route::Elsewhere(column) => column.poll_ready(cx),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        trace::inject(request.headers_mut());
        if let Some(tenant) = &self.tenant {
            request.headers_mut().insert(TENANT, tenant.clone());
        }
        if let Some(key) = &self.key {
            request.headers_mut().insert(header::AUTHORIZATION, key.clone());
        }
        match &mut self.route {
            Route::InProcess(router) => {
                request.extensions_mut().insert(InProcess);
                let answer = router.call(request);
                Box::pin(async move {
                    match answer.await {
                        Ok(response) => Ok(response.map(Body::new)),
                        Err(never) => match never {},
                    }
                })
            }
            Route::Elsewhere(column) => column.call(request),
        }
    }
}

/// Whether an answer says that the call may not have been worked on.
fn is_unavailable(answer: &Response<Body>) -> bool {
    let status = answer.headers().get("grpc-status").map(HeaderValue::as_bytes);
    status.is_some_and(|status| Code::from_bytes(status) == Code::Unavailable)
}

type Calling = Pin<Box<dyn Future<Output = Result<Response<Body>, PeerError>> + Send>>;

/// Ends a call after the patience, or when the request that it is made for ends.
#[derive(Clone)]
struct Bounded<S> {
    inner: S,
    patience: Duration,
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = PeerError, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = PeerError;
    type Future = Calling;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Calling {
        let left = deadline::left().unwrap_or(Duration::MAX).min(self.patience);
        // Eight digits are what the protocol allows: in milliseconds more than a day.
        let millis = left.as_millis().min(99_999_999);
        if let Ok(value) = HeaderValue::try_from(format!("{millis}m")) {
            request.headers_mut().insert("grpc-timeout", value);
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let late = |_| PeerError::from(Status::deadline_exceeded("the peer did not answer in time"));
            tokio::time::timeout(left, answer).await.map_err(late)?
        })
    }
}

/// Keeps the body of what may be sent again.
#[derive(Clone)]
struct Kept<S> {
    inner: S,
    may_repeat: fn(&str) -> bool,
}

impl<S> Service<Request<Body>> for Kept<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = PeerError, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = PeerError;
    type Future = Calling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        // Waited for in the call, where the patience counts.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Calling {
        let (inner, may_repeat) = (self.inner.clone(), self.may_repeat);
        Box::pin(async move {
            let may_repeat = may_repeat(request.uri().path());
            inner.oneshot(Attempt::of(request, may_repeat).await?).await
        })
    }
}

//! How one service calls another: through the generated client, wherever the other one is.

use std::{
    error::Error as StdError,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use axum::Router;
use http::{HeaderValue, Request, Response};
use telemetry::trace;
use tonic::{body::Body, transport::Channel};
use tower::Service;

use crate::auth::{InProcess, TENANT};

/// Another service, in this process or elsewhere: `QueryServiceClient::new(peer.for_tenant("acme"))`.
///
/// In process a call is handed to the mounted routes; it needs no key, since only code of this process can make one.
/// Elsewhere it goes over a channel. Either way it carries the tenant and the trace.
#[derive(Clone)]
pub struct Peer {
    route: Route,
    tenant: Option<HeaderValue>,
}

#[derive(Clone)]
enum Route {
    InProcess(Router),
    Channel(Channel),
}

/// Why a peer could not be reached.
pub type PeerError = Box<dyn StdError + Send + Sync>;

impl Peer {
    /// A service of this process, as mounted by [`crate::Front::mount`].
    pub fn in_process(mounted: Router) -> Self {
        Self { route: Route::InProcess(mounted.with_state(())), tenant: None }
    }

    /// A service elsewhere, which authenticates the call as any other: the channel brings the key.
    pub fn channel(channel: Channel) -> Self {
        Self { route: Route::Channel(channel), tenant: None }
    }

    /// The same peer, called for a tenant.
    pub fn for_tenant(&self, tenant: &str) -> Self {
        // Names of tenants are plain ASCII; any other belongs to nobody and is refused there.
        Self { route: self.route.clone(), tenant: HeaderValue::from_str(tenant).ok() }
    }
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = PeerError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, PeerError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        match &mut self.route {
            Route::InProcess(_) => Poll::Ready(Ok(())),
            Route::Channel(channel) => channel.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        trace::inject(request.headers_mut());
        if let Some(tenant) = &self.tenant {
            request.headers_mut().insert(TENANT, tenant.clone());
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
            Route::Channel(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(Into::into) })
            }
        }
    }
}

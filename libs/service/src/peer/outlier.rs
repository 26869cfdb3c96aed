//! An address that fails again and again gets no calls for a while.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use tokio::time::{Sleep, sleep};
use tonic::{body::Body, transport::Channel};
use tower::Service;

use super::{PeerError, is_unavailable};

/// Failures in a row after which an address rests.
pub(super) const FAILURES_MAX: usize = 5;

/// How long it rests.
const REST: Duration = Duration::from_secs(5);

/// How many addresses there are, and how many of them rest: never more than half, for then the fault is elsewhere.
#[derive(Debug, Default)]
pub(super) struct Outliers {
    all: AtomicUsize,
    resting: AtomicUsize,
}

/// An address under watch.
pub(super) struct Watched {
    channel: Channel,
    outliers: Arc<Outliers>,
    failures: Arc<Mutex<usize>>,
    rest: Option<Pin<Box<Sleep>>>,
}

// === impl Outliers ===

impl Outliers {
    fn may_rest(&self) -> bool {
        let all = self.all.load(Ordering::Relaxed);
        let rest = |resting: usize| ((resting + 1) * 2 <= all).then_some(resting + 1);
        self.resting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }

    fn rested(&self) {
        self.resting.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Watched ===

impl Watched {
    pub(super) fn new(channel: Channel, outliers: Arc<Outliers>) -> Self {
        outliers.all.fetch_add(1, Ordering::Relaxed);
        Self { channel, outliers, failures: Arc::default(), rest: None }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.outliers.all.fetch_sub(1, Ordering::Relaxed);
        if self.rest.is_some() {
            self.outliers.rested();
        }
    }
}

impl Service<Request<Body>> for Watched {
    type Response = Response<Body>;
    type Error = PeerError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, PeerError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PeerError>> {
        if self.rest.is_none() {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if *failures >= FAILURES_MAX && self.outliers.may_rest() {
                tracing::warn!("an address of a peer fails again and again; it rests");
                *failures = 0;
                self.rest = Some(Box::pin(sleep(REST)));
            }
        }
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(cx));
            self.rest = None;
            self.outliers.rested();
        }
        self.channel.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.channel.call(request);
        let failures = Arc::clone(&self.failures);
        Box::pin(async move {
            let answer = answer.await;
            // A refusal of the service itself, with its reason, is no fault of the address.
            let failed = match &answer {
                Ok(answer) => {
                    is_unavailable(answer) && !answer.headers().contains_key("grpc-status-details-bin")
                }
                Err(_) => true,
            };
            let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
            *failures = if failed { *failures + 1 } else { 0 };
            drop(failures);
            answer.map_err(Into::into)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_half_of_the_addresses_rest() {
        let outliers = Outliers { all: AtomicUsize::new(1), resting: AtomicUsize::new(0) };
        assert!(!outliers.may_rest(), "the only one");
        outliers.all.store(5, Ordering::Relaxed);
        assert!(outliers.may_rest() && outliers.may_rest());
        assert!(!outliers.may_rest());
        outliers.rested();
        assert!(outliers.may_rest());
    }
}

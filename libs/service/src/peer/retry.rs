//! What may be repeated is sent again when it did not get through, as long as the budget lasts.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use tonic::body::Body;
use tower::{
    BoxError,
    retry::{
        Policy,
        budget::{Budget, TpsBudget},
    },
};

use super::{PeerError, is_unavailable};
use crate::BODY_BYTES_MAX;

/// Attempts after the first one.
const RETRIES_MAX: u32 = 2;

/// The pause before the first of them; each next one is twice as long. Half of it is chance.
const BACK_OFF: Duration = Duration::from_millis(20);

/// Of the calls of the last ten seconds at most a fifth are sent again, and so many a second in any case.
const BUDGET_SECONDS: u64 = 10;
const BUDGET_SHARE: f32 = 0.2;
const BUDGET_LEAST_PER_SECOND: u32 = 1;

/// A request that is sent once, or one whose body is kept.
pub(super) enum Attempt {
    Once(Request<Body>),
    Again(Box<Parts>, Bytes),
}

#[derive(Clone)]
pub(super) struct Retries {
    budget: Arc<TpsBudget>,
    done: u32,
}

// === impl Attempt ===

impl Attempt {
    /// Reads the body when the call may be repeated: such are calls with one message.
    pub(super) async fn of(request: Request<Body>, may_repeat: bool) -> Result<Self, PeerError> {
        if !may_repeat {
            return Ok(Self::Once(request));
        }
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await?.to_bytes();
        Ok(Self::Again(Box::new(parts), body))
    }

    pub(super) fn into_request(self) -> Request<Body> {
        match self {
            Self::Once(request) => request,
            Self::Again(parts, body) => Request::from_parts(*parts, Body::new(Full::new(body))),
        }
    }
}

// === impl Retries ===

impl Retries {
    pub(super) fn new() -> Self {
        let budget =
            TpsBudget::new(Duration::from_secs(BUDGET_SECONDS), BUDGET_LEAST_PER_SECOND, BUDGET_SHARE);
        Self { budget: Arc::new(budget), done: 0 }
    }
}

impl Policy<Attempt, Response<Body>, BoxError> for Retries {
    type Future = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn retry(
        &mut self,
        _: &mut Attempt,
        result: &mut Result<Response<Body>, BoxError>,
    ) -> Option<Self::Future> {
        let failed = match result {
            Ok(answer) => is_unavailable(answer),
            Err(_) => true,
        };
        if !failed {
            self.budget.deposit();
            return None;
        }
        if self.done == RETRIES_MAX || !self.budget.withdraw() {
            return None;
        }
        // Another time of every clock: enough of chance for pods not to move in step.
        let chance = uuid::Uuid::new_v4().as_bytes()[0];
        let pause = BACK_OFF * 2_u32.pow(self.done);
        let pause = pause / 2 + pause / 2 * u32::from(chance) / 255;
        self.done += 1;
        Some(Box::pin(tokio::time::sleep(pause)))
    }

    fn clone_request(&mut self, attempt: &Attempt) -> Option<Attempt> {
        match attempt {
            Attempt::Once(_) => None,
            Attempt::Again(parts, body) => Some(Attempt::Again(parts.clone(), body.clone())),
        }
    }
}

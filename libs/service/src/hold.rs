//! The bytes of request bodies that a process holds at the same time: many slow clients together must not take more
//! memory than there is.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use axum::{BoxError, body::Body};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;

use crate::{error::Error, layers::Shared};

/// Of a request that is over: what comes later, as in a stream, is its handler's to bound.
const OVER: usize = usize::MAX;

/// What the body of one request has brought so far, until it is dropped.
pub(crate) struct Hold(Arc<Held>);

struct Held {
    front: Arc<Shared>,
    bytes: AtomicUsize,
}

struct Counted {
    body: Body,
    held: Arc<Held>,
}

/// There is no room for what a body brings.
pub(crate) fn no_room() -> Error {
    Error::unavailable("too many bodies at once; try again").code("overloaded")
}

// === impl Hold ===

impl Hold {
    /// Counts what a body brings; past the bound it ends with the [`Status`] of [`no_room`].
    pub(crate) fn of(front: &Arc<Shared>, body: &mut Body) -> Self {
        let held = Arc::new(Held { front: front.clone(), bytes: AtomicUsize::new(0) });
        *body = Body::new(Counted { body: std::mem::take(body), held: held.clone() });
        Self(held)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let bytes = self.0.bytes.swap(OVER, Relaxed);
        self.0.front.body_bytes.fetch_sub(bytes, Relaxed);
    }
}

impl Held {
    /// Whether there is room for more.
    fn take(&self, bytes: usize) -> bool {
        let (all, most) = (&self.front.body_bytes, self.front.limits.bodies_bytes_max);
        if all.fetch_add(bytes, Relaxed).saturating_add(bytes) > most {
            all.fetch_sub(bytes, Relaxed);
            return self.bytes.load(Relaxed) == OVER;
        }
        let held = self.bytes.fetch_update(Relaxed, Relaxed, |held| (held != OVER).then(|| held + bytes));
        if held.is_err() {
            all.fetch_sub(bytes, Relaxed);
        }
        true
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !self.held.take(data.len())
        {
            return Poll::Ready(Some(Err(Status::from(no_room()).into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::into_inner)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

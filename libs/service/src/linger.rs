//! Reads on what a client of HTTP/1 still sends when it has its answer already.
//!
//! Whoever is refused before the body was read, such as for its size, is still sending.
//! A connection closed on them there is reset, and the answer is lost with it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{runtime::Handle, time::timeout};

use crate::task;

/// The bytes of a body that are read for nothing; who sends more is cut off.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A body that is read to its end even if the handler does not.
pub(crate) struct Lingering {
    body: Option<Incoming>,
    patience: Duration,
}

// === impl Lingering ===

impl Lingering {
    /// The rest of the body may take this long.
    pub(crate) fn new(body: Incoming, patience: Duration) -> Self {
        Self { body: Some(body), patience }
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        // Without a runtime the connection is gone as well.
        if Handle::try_current().is_ok() {
            let patience = self.patience;
            drop(task::spawn("linger", async move { timeout(patience, read_off(body)).await }));
        }
    }
}

async fn read_off(mut body: Incoming) {
    let mut bytes = 0;
    while bytes <= LINGER_BYTES_MAX {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let Some(Ok(frame)) = frame else { return };
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

//! What one process takes on at most. Every limit is a configuration key.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The bytes of one request body, before and after decompression, and of one gRPC message: 8 MiB.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The limits of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections; one more is closed at once. Never more than three quarters of the files that the process
    /// may open: the stores need the rest.
    pub connections_max: usize,
    /// Requests at the same time, each until its answer is read or its stream has ended; one more is answered 503 with `Retry-After`.
    pub requests_in_flight_max: usize,
    /// The same of one tenant; one more is answered 429 with `Retry-After`, so that no
    /// tenant takes all the room there is.
    pub tenant_requests_in_flight_max: usize,
    /// Seconds until the head of an answer, unless `grpc-timeout` asks for less. Longer than the 30 seconds that a
    /// report may wait for acknowledged events.
    pub request_seconds_max: u64,
    /// Seconds for the TLS handshake, and again for the first and, over HTTP/1, for every further request head, and for
    /// the rest of a body that was not asked for.
    pub header_read_seconds_max: u64,
    /// Seconds that an HTTP/2 connection without a request stays open.
    pub idle_seconds_max: u64,
    /// Bytes of a request body, before and after decompression.
    pub body_bytes_max: usize,
    /// Bytes of the bodies of all requests being worked on, as sent; who comes with more is answered 503 with
    /// `Retry-After`.
    pub bodies_bytes_max: usize,
    /// Concurrent streams of one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// Streams reset by the peer and not yet seen by us (rapid reset) before the connection is closed.
    pub http2_pending_resets_max: usize,
    /// Streams reset by us for the peer's errors before the connection is closed.
    pub http2_error_resets_max: usize,
    /// Bytes of all header fields of an HTTP/2 request; an HTTP/1 head is bounded by 64 KiB.
    pub http2_header_bytes_max: u32,
    /// Seconds between pings on an idle HTTP/2 connection; a peer that does not answer is gone.
    pub http2_ping_seconds: u64,
    /// Seconds that requests have to end after the process was told to.
    pub drain_seconds_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            requests_in_flight_max: 4_096,
            tenant_requests_in_flight_max: 1_024,
            request_seconds_max: 35,
            header_read_seconds_max: 30,
            idle_seconds_max: 300,
            body_bytes_max: BODY_BYTES_MAX,
            bodies_bytes_max: 512 * 1024 * 1024,
            http2_streams_max: 256,
            http2_pending_resets_max: 64,
            http2_error_resets_max: 256,
            http2_header_bytes_max: 64 * 1024,
            http2_ping_seconds: 30,
            drain_seconds_max: 30,
        }
    }
}

impl Limits {
    pub(crate) fn request(&self) -> Duration {
        Duration::from_secs(self.request_seconds_max)
    }

    pub(crate) fn header_read(&self) -> Duration {
        Duration::from_secs(self.header_read_seconds_max)
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds_max)
    }

    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds_max)
    }
}

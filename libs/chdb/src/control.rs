//! What parent and child say to each other: one JSON line each way over a socket pair.
//!
//! The child's standard input is the control socket and its standard output the listening socket,
//! so that no secret is on a command line, the port outlives the child, and the end of the parent
//! is seen as the end of the control socket on every system.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::server::Limits;

/// The longest line either side reads.
pub(crate) const LINE_BYTES_MAX: u64 = 64 * 1024;

/// The parent's first line. Anything after it, or the end of the socket, means stop.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) lib: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) limits: Limits,
    /// How long to wait for another process to let go of the data path.
    pub(crate) lock_wait: Duration,
    /// How long statements may still run after a stop.
    pub(crate) drain: Duration,
}

/// The child's only line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Ready {
        version: String,
    },
    /// Another process has the data path.
    Locked,
    Failed {
        reason: String,
    },
}

//! The embedded warehouse: the ClickHouse engine as a library (`libchdb`), in a supervised child
//! process that speaks ClickHouse's own HTTP interface on a loopback port.
//!
//! Owns the library's binding, the server in the child ([`child::main`]) and the supervisor in the
//! parent ([`Supervisor`]). Knows nothing of tables and reports, never loads the engine into the
//! process that takes events, never listens on anything but loopback, and never answers a request
//! without the secret of its supervisor.

pub mod child;
mod control;
mod decode;
mod exception;
mod ffi;
mod format;
mod library;
mod outage;
mod request;
mod run;
mod server;
mod sql;
mod supervisor;
mod wire;

use std::path::PathBuf;

pub use library::{LIBRARY_VERSION, find_library};
pub use server::Limits;
pub use supervisor::{Endpoint, Options, Supervisor};

/// Why the embedded warehouse is not there. Nothing was written when one of these is given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine's library is not on this machine.
    #[error(
        "the warehouse library is not at {path}: run scripts/fetch-chdb.sh, or set ATTRIBUTION_CHDB_LIB to a libchdb.so"
    )]
    LibraryMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// One data path serves one process.
    #[error("the warehouse folder {data} is in use by another process: stop it, or choose another folder")]
    Locked {
        /// The folder.
        data: PathBuf,
    },
    /// The command line of the child is empty.
    #[error("the command of the warehouse process is empty: give the program and its subcommand")]
    NoCommand,
    /// A folder, a socket or a process could not be made.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The child said why it cannot start; it is tried again with growing pauses.
    #[error("the warehouse process cannot start: {reason}")]
    Failed {
        /// The child's reason.
        reason: String,
    },
    /// The time given was not enough.
    #[error("the warehouse process is not ready after {waited_ms} ms: {last}")]
    NotReady {
        /// The time given.
        waited_ms: u128,
        /// What is known of its state.
        last: String,
    },
    /// The supervisor was stopped.
    #[error("the warehouse process was stopped")]
    Stopped,
}

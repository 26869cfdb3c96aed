//! What the tests of all crates share: fail points, a plain model of the platform, the real process, a collector
//! of its traces, and real servers.
//!
//! A dev-dependency only: it turns on the feature of `fail` that makes fail points more than nothing, so no crate may
//! depend on it in any other way, and release builds name their package (`-p`), never the whole workspace.

pub mod cassandra;
pub mod cluster;
pub mod faults;
pub mod gateway;
pub mod kafka;
pub mod otlp;
pub mod plain;
pub mod ports;
pub mod process;
pub mod redis;
pub mod tls;
pub mod wire;

//! The rows of the table.

mod attribute;
mod cql;
mod http;
mod kafka;
pub(crate) mod log;
mod models;
mod pipeline;
mod platform;
mod report;
mod rpc;
mod scores;
mod servers;

use anyhow::Result;

use crate::{Bench, table::Row};

/// Measures a row, or a few that share their set-up.
type Measure = fn(&Bench) -> Result<Vec<Row>>;

/// The rows by their keys, in the order of the table.
pub(crate) const ALL: &[(&str, Measure)] = &[
    ("http-batch", http::batch),
    ("http-single", http::single),
    ("log-append", log::append),
    ("grpc-batch", rpc::batch),
    ("attribute", attribute::stored),
    ("decide", rpc::decide),
    ("freshness", platform::freshness),
    ("models", models::models),
    ("fraud", scores::in_process),
    ("joined", scores::batching),
    ("v2-rest", scores::rest),
    ("v2-grpc", scores::grpc),
    ("scored", platform::scored),
    ("report", report::ten_million),
    ("pipeline", pipeline::pipeline),
    ("start", platform::start),
];

/// Those that want real servers, and are measured only when they are named: see [`servers`].
pub(crate) const ON_SERVERS: &[(&str, Measure)] =
    &[("kafka", kafka::appended), ("redis", kafka::filtered), ("cql", cql::stored)];

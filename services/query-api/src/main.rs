//! The service as a process of its own.

service::main!("query-api", query_api::process);

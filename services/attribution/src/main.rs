//! The service as a process of its own.

service::main!("attribution-engine", attribution_service::process);

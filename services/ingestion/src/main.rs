//! The service as a process of its own.

service::main!("ingestion", ingestion::process);

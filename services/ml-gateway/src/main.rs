//! The service as a process of its own.

service::main!("ml-gateway", ml_gateway::process);

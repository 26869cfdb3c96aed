//! The gateway on a real listener: scores, the registry, faults, and peers of the Open Inference Protocol.

#![allow(clippy::unwrap_used)]

mod equality;
mod faults;
mod model_server;
mod peers;
mod registry;
mod scoring;
mod serving;
mod support;
mod traffic;

//! The real process as the network meets it: strangers, other tenants, floods, those who waste connections, and what it
//! tells about its keys.

#![allow(clippy::unwrap_used)]

mod client;
mod contract;
mod matrix;
mod overload;
mod platform;
mod quotas;
mod resources;
mod secrets;

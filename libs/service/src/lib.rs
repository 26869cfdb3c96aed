//! How a service starts and meets the network.
//!
//! Owns configuration, settings, the listener for gRPC and REST, authentication, limits, the table of errors, request
//! ids, peers, and the life of the process.
//! It must never know what a service does: no event, no report, no store.
//!
//! The way of a request: [`serve`] accepts it, [`Front`] puts it through the column of `layers`, the service's own
//! handler answers it with a value or an [`Error`].

pub mod auth;
pub mod body;
pub mod config;
pub mod error;
pub mod process;
pub mod settings;
pub mod task;

mod activity;
mod deadline;
mod guarded;
mod hold;
mod layers;
mod lifecycle;
mod limits;
mod linger;
mod load;
mod observe;
mod operations;
mod peer;
mod serve;
mod throttle;
mod tls;

pub use auth::Caller;
pub use config::{Secret, StoreUrl};
pub use error::{Class, Error, Result, Violation};
pub use layers::{Front, REQUEST_ID, REQUEST_ID_CHARS_MAX};
pub use lifecycle::{install_crypto_provider, run};
pub use limits::{BODY_BYTES_MAX, Limits};
pub use peer::{Peer, PeerConfig, PeerError};
pub use process::{BeginError, Process, SettingsPlace};
pub use serve::{Listeners, serve};
pub use settings::{Scope, Scopes, Settings, SettingsHandle, Tenant};
pub use tls::{Tls, TlsError};

/// The routes of gRPC services, ready to be merged with REST routes and mounted.
pub fn grpc_routes(routes: tonic::service::Routes) -> axum::Router {
    routes.into_axum_router().reset_fallback()
}

//! The contracts as Rust types, clients and servers, generated from `proto/`.
//!
//! Owns nothing but the generated code; no logic may live here.

#![allow(
    unreachable_pub,
    clippy::large_enum_variant,
    clippy::module_inception,
    clippy::doc_lazy_continuation
)]

/// Everything below `attribution.<area>.v1`.
pub mod attribution {
    /// Decisions.
    pub mod attribution {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("attribution.attribution.v1");
        }
    }
    /// Events and log frames.
    pub mod events {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("attribution.events.v1");
        }
    }
    /// How events come in.
    pub mod ingestion {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("attribution.ingestion.v1");
        }
    }
    /// Scores.
    pub mod ml {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("attribution.ml.v1");
        }
    }
    /// Questions and answers.
    pub mod query {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("attribution.query.v1");
        }
    }
}

/// The Open Inference Protocol.
pub mod inference {
    tonic::include_proto!("inference");
}

pub use attribution::attribution::v1 as decisions;
pub use attribution::events::v1 as events;
pub use attribution::ingestion::v1 as ingestion;
pub use attribution::ml::v1 as ml;
pub use attribution::query::v1 as query;

/// The encoded `FileDescriptorSet` of all packages, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

//! Who earned a conversion, how much of it, and why.
//!
//! Owns eligibility, precedence, credit, explanation, path transforms, Markov and Shapley.
//! It is pure: no async, no clock, no I/O, so it must never learn where its input comes from.

pub mod credit;
pub mod decide;
pub mod duration;
pub mod error;
pub mod explain;
pub mod features;
pub mod fraud;
pub mod ids;
pub mod journey;
pub mod markov;
pub mod money;
pub mod paths;
pub mod rules;
pub mod shapley;
pub mod traffic;

pub use credit::{CREDIT_MICROS, Model, PathTouch, Share, credit};
pub use decide::{Candidate, DecidedBy, Decision, Verdict, Winner, decide, decide_scored};
pub use error::Error;
pub use explain::explain;
pub use fraud::{FraudRule, FraudScores};
pub use ids::{EventHash, IdentityHash, IdentityKind};
pub use journey::{Conversion, JOURNEY_TOUCHES_MAX, Journey, Touch, TouchKind};
pub use paths::{PathCount, Transform};
pub use rules::Rules;

//! The crate from outside: examples checked by hand, properties, and real paths.
#![allow(clippy::unwrap_used)]

mod common;
mod credit;
mod decide;
mod explain;
mod features;
mod fraud;
mod markov;
mod pathdata;
mod paths;
mod shapley;

//! The real process under faults: killed, stopped, on damaged or strange folders, on a full disk, with a clock that jumps;
//! and a process for each service over real servers, when those go away.
//!
//! After each of them every acknowledged event counts exactly once, and no other event twice.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod clock;
mod cluster;
mod disk;
mod folders;
mod kill;
mod ledger;
mod load;
mod memory;
mod order;
mod stop;
mod upgrade;

use std::path::Path;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use testkit::process::Launch;

/// The platform on a data folder.
fn launch(data: &Path) -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_attribution"), data)
}

/// Randomness whose seed is printed; `FAULTS_SEED` repeats a run.
fn seeded(what: &str) -> SmallRng {
    let seed = match std::env::var("FAULTS_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::rng().random(),
    };
    println!("{what}: FAULTS_SEED={seed}");
    SmallRng::seed_from_u64(seed)
}

/// How many rounds: as many as in everyday tests, unless `FAULTS_ROUNDS` says more for a soak.
fn rounds(everyday: u32) -> u32 {
    std::env::var("FAULTS_ROUNDS").map_or(everyday, |rounds| rounds.parse().unwrap())
}

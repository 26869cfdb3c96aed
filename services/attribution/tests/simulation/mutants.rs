//! A broken promise is noticed.

use testkit::faults::{Faults, MUTANTS};

use crate::Scenario;

/// Seeds within which a mutant must be noticed.
const SEEDS: u64 = 40;

/// The first seed that notices a mutant, and how.
fn noticed(faults: &Faults, mutant: &str) -> Option<(u64, String)> {
    faults.set(mutant, "return");
    let found = (0..SEEDS).find_map(|seed| Some((seed, Scenario::of(seed).run(faults).err()?)));
    faults.clear(mutant);
    found
}

#[test]
fn every_mutant_is_noticed() {
    let faults = Faults::new();
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        match noticed(&faults, mutant) {
            Some((seed, how)) => println!("{mutant}: seed {seed}: {how:.300}"),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "{SEEDS} seeds pass in spite of {missed:?}");
    faults.done();
}

//! Any seed ends as the plain model says.

use testkit::faults::{Faults, PLACES};

use crate::{Scenario, events, number, world::Death};
use rand::{SeedableRng, rngs::SmallRng};

const SEEDS: u64 = 100;

#[test]
fn every_seed_ends_as_the_plain_model_says() {
    let faults = Faults::new();
    let first = number("SEED").unwrap_or(0);
    let count = number("SEEDS").unwrap_or_else(|| if number("SEED").is_some() { 1 } else { SEEDS });
    for seed in first..first + count {
        if let Err(error) = Scenario::of(seed).run(&faults) {
            panic!(
                "seed {seed}: {error}\nreplay it: SEED={seed} SIMULATION_TRACE=1 cargo test -p attribution-service \
                 --test simulation -- --nocapture --exact seeds::every_seed_ends_as_the_plain_model_says"
            );
        }
    }
    faults.done();
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let faults = Faults::new();
    for seed in 1_000..1_005 {
        let run = || Scenario::of(seed).run(&faults).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let (one, two) = (run(), run());
        assert_eq!(one.digest, two.digest, "seed {seed}");
        assert_eq!(one, two, "seed {seed}");
    }
    faults.done();
}

/// Nobody commits positions to the log itself while retention is off, and there are no models to score with.
const UNREACHED: [&str; 3] = [
    "event_log::before_position_rename",
    "event_log::before_position_dir_sync",
    "journey_store::before_scores",
];

#[test]
fn a_death_at_any_place_between_an_effect_and_its_commit_changes_nothing() {
    let faults = Faults::new();
    for (number, place) in PLACES.into_iter().filter(|place| !UNREACHED.contains(place)).enumerate() {
        for times in [1, 2] {
            let seed = number as u64;
            let scenario = Scenario {
                seed,
                events: events::random(&mut SmallRng::seed_from_u64(seed), 25),
                partitions: if times == 1 { 1 } else { 4 },
                deaths: vec![Death::Place(place, times), Death::Place(place, times)],
                faults: false,
                repeats_max: 3,
                all: false,
            };
            let outcome =
                scenario.run(&faults).unwrap_or_else(|error| panic!("dead at {place}, {times}: {error}"));
            assert!(outcome.deaths > 0 || times > 1, "{place} was never passed");
        }
    }
    faults.done();
}

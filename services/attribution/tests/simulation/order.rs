//! Decisions are a function of the set of accepted events.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use testkit::faults::Faults;

use crate::{
    Scenario,
    check::InForce,
    events::{self, Sent},
    number,
    world::Death,
};

const SETS: u64 = 5;

/// Sends the events in several ways, to one and four partitions, each of them held against the plain model; whether the
/// same bytes are in force after all of them.
fn hold(faults: &Faults, what: &str, seed: u64, events: &[Sent], ways: usize) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut first: Option<InForce> = None;
    for way in 0..ways {
        let deaths = (0..way).map(|_| Death::Point(rng.random_range(1..150))).collect();
        let scenario = Scenario {
            seed: rng.random(),
            events: events.to_vec(),
            partitions: if way % 2 == 0 { 1 } else { 4 },
            deaths,
            faults: way > 2,
            repeats_max: [1, 10, 10, 3, 2][way % 5],
            all: true,
        };
        let outcome =
            scenario.run(faults).unwrap_or_else(|error| panic!("{what}, seed {seed}, way {way}: {error}"));
        assert!(!outcome.in_force.is_empty());
        let first = first.get_or_insert_with(|| outcome.in_force.clone());
        assert!(first.keys().eq(outcome.in_force.keys()), "{what}, seed {seed}, way {way}");
        for (key, decision) in &outcome.in_force {
            assert!(first[key] == *decision, "{what}, seed {seed}, way {way}: {key:?} differs");
        }
    }
}

#[test]
fn order_repetition_batches_partitions_and_deaths_leave_the_same_bytes() {
    let faults = Faults::new();
    let first = number("SEED").unwrap_or(0);
    for seed in first..first + number("SEEDS").map_or(SETS, |seeds| seeds / 10) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let each = rng.random_range(20..60);
        let events = events::random(&mut rng, each);
        hold(&faults, "any events", seed, &events, 5);
    }
    faults.done();
}

#[test]
fn a_set_of_identities_about_its_limit_is_joined_or_not_whatever_the_order() {
    let faults = Faults::new();
    for (seed, links) in [(1, 99), (2, 100), (3, 110)] {
        let mut rng = SmallRng::seed_from_u64(seed);
        let events = events::kiosk(&mut rng, links);
        hold(&faults, &format!("{links} devices and a user"), seed, &events, 3);
    }
    faults.done();
}

#[test]
fn a_journey_past_its_limit_is_cut_the_same_way_whatever_the_order() {
    let faults = Faults::new();
    let events = events::long(&mut SmallRng::seed_from_u64(4));
    hold(&faults, "a long journey", 4, &events, 2);
    faults.done();
}

//! The platform from ingestion to the warehouse, simulated: the real log on a disk that forgets, the real worker and fact
//! writer, the real journey store over tables that forget, and a model of ClickHouse that fails; killed at any place.
//!
//! `SEEDS` says how many seeds to run and `SEED` with which one to begin; `SIMULATION_TRACE` prints what happens.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod check;
mod client;
mod events;
mod mutants;
mod order;
mod rowbinary;
mod seeds;
mod shared;
mod store;
mod trace;
mod warehouse;
mod world;

use std::env;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use testkit::faults::Faults;

use crate::{
    check::InForce,
    client::Client,
    events::Sent,
    world::{Boot, Death, World},
};

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Everything random but the events.
    pub seed: u64,
    pub events: Vec<Sent>,
    pub partitions: u32,
    /// How each process but the last dies.
    pub deaths: Vec<Death>,
    /// Whether disk and warehouse fail too.
    pub faults: bool,
    /// An event is sent at most so many times.
    pub repeats_max: usize,
    /// Whether the client sends again until everything is answered, and nothing is given up.
    pub all: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub in_force: InForce,
    /// How many processes died as they were to.
    pub deaths: usize,
    /// Of everything that happened.
    pub digest: String,
}

impl Scenario {
    /// Whatever the seed says.
    pub fn of(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let each = rng.random_range(20..70);
        let death = |rng: &mut SmallRng| match rng.random_bool(0.8) {
            true => Death::Point(rng.random_range(1..150)),
            false => Death::Millis(rng.random_range(1..1_500)),
        };
        Self {
            seed: rng.random(),
            events: events::random(&mut rng, each),
            partitions: if rng.random_bool(0.5) { 1 } else { 4 },
            deaths: (0..rng.random_range(0..6)).map(|_| death(&mut rng)).collect(),
            faults: rng.random_bool(0.7),
            repeats_max: rng.random_range(1..=10),
            all: false,
        }
    }

    /// Runs it; what went wrong, if anything.
    pub fn run(&self, faults: &Faults) -> Result<Outcome, String> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let world = World::new(rng.random(), self.partitions, faults);
        let client = Client::new(rng.random(), &self.events, self.repeats_max, self.all);
        let mut deaths = 0;
        for death in &self.deaths {
            let boot = Boot { seed: rng.random(), death: *death, faults: self.faults };
            // One that came to its end before it died is followed by the next all the same.
            deaths += usize::from(world.run(boot, &client, async |_| Ok(()))?.is_none());
        }
        let boot = Boot { seed: rng.random(), death: Death::Never, faults: false };
        let in_force = world.run(boot, &client, async |finished| {
            let mut platform = events::platform();
            let acknowledged = client.acknowledged();
            for (tenant, event) in &self.events {
                let stored = finished.stores.journeys.seen(tenant, &[&event.event_id]).await;
                let stored = stored.map_err(|error| error.to_string())?[0];
                // What was never answered may be there or not.
                if stored || acknowledged.contains(&(*tenant, event.event_id.clone())) {
                    platform.accept(tenant, event);
                }
            }
            let in_force = check::decisions(&platform, &finished.stores).await?;
            check::facts(&platform, &in_force, &world.warehouse)?;
            Ok(in_force)
        })?;
        for (key, decision) in in_force.iter().flatten() {
            world.trace.note(&format!("{key:?} {}", blake3::hash(decision).to_hex()));
        }
        Ok(Outcome { in_force: in_force.unwrap_or_default(), deaths, digest: world.trace.digest() })
    }
}

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

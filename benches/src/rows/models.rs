//! Markov and Shapley, in this process, against what they cannot do without.

use std::time::Instant;

use anyhow::Result;
use model::{
    PathCount, markov,
    shapley::{self, Worth},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{Bench, measure::Rounds, table::Row};

const CHANNELS: usize = 12;
const SHAPLEY_CHANNELS: usize = 20;
const ROUNDS: usize = 9;
const SEED: u64 = 5;

pub(crate) fn models(bench: &Bench) -> Result<Vec<Row>> {
    let paths = paths(bench.count(1_000_000, 1_000) as usize, CHANNELS);
    let markov = compare(|| markov::weights(CHANNELS, &paths), || count(&paths))?;
    let none: Vec<PathCount> = self::paths(1_000, SHAPLEY_CHANNELS);
    let mut worths: Vec<u64> = (0..1 << SHAPLEY_CHANNELS).map(|set| set % 7).collect();
    let shapley = compare(
        || shapley::exact(SHAPLEY_CHANNELS, &none, Worth::Conversions),
        || {
            // As the other does: from an array of its own.
            let mut worths = worths.clone();
            shapley::zeta(&mut worths);
            worths
        },
    )?;
    worths.clear();
    let what =
        format!("Markov of {} paths over {CHANNELS} channels, ms (proxy: one counting pass)", paths.len());
    let markov = row("markov", what, "≤ 2.0", 2.0, &markov);
    let what = format!("exact Shapley of {SHAPLEY_CHANNELS} channels, ms (proxy: the zeta transform)");
    let shapley = row("shapley", what, "≤ 1.3", 1.3, &shapley);
    Ok(vec![markov, shapley])
}

/// Milliseconds of both in turn.
fn compare<A, B>(
    ours: impl Fn() -> Result<A, model::Error>,
    proxy: impl Fn() -> B,
) -> Result<(Rounds, Rounds)> {
    let (mut our_millis, mut proxy_millis) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        std::hint::black_box(ours()?);
        our_millis.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        std::hint::black_box(proxy());
        proxy_millis.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok((our_millis, proxy_millis))
}

fn row(key: &'static str, what: String, target: &'static str, most: f64, rounds: &(Rounds, Rounds)) -> Row {
    let (ours, proxy) = rounds;
    let ratio = ours.ratio(proxy);
    Row {
        key,
        what,
        ours: ours.median(),
        proxy: Some(proxy.median()),
        ratio: Some(ratio),
        target,
        met: Some(ratio <= most),
        cpu_seconds_per_operation: Some(ours.median() / 1e3),
        spread: ours.spread(),
        note: "one thread".to_owned(),
    }
}

fn paths(count: usize, channels: usize) -> Vec<PathCount> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut path = |_| {
        let length = random.random_range(1..=10);
        let path = (0..length).map(|_| random.random_range(0..channels as u32)).collect();
        PathCount { path, conversions: random.random_range(0..5), nulls: random.random_range(0..50) }
    };
    (0..count).map(&mut path).collect()
}

/// The transitions of paths, counted and not checked.
fn count(paths: &[PathCount]) -> Vec<u64> {
    let width = CHANNELS + 2;
    let mut counts = vec![0_u64; width * width];
    for path in paths {
        let walks = path.conversions + path.nulls;
        let mut from = CHANNELS;
        for &channel in &path.path {
            counts[from * width + channel as usize] += walks;
            from = channel as usize;
        }
        counts[from * width + CHANNELS] += path.conversions;
        counts[from * width + CHANNELS + 1] += path.nulls;
    }
    counts
}

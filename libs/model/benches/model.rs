//! The pure parts of attribution, each at a usual size.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use model::{
    PathCount, markov, money,
    shapley::{self, Worth},
};

const CHANNELS: usize = 12;

/// Paths of one to six channels, each its own.
fn paths(count: u32, channels: u32) -> Vec<PathCount> {
    (0..count)
        .map(|number| PathCount {
            path: (0..=number % 6)
                .map(|step| (number.wrapping_mul(2_654_435_761) >> step) % channels)
                .collect(),
            conversions: u64::from(number % 3),
            nulls: 1,
        })
        .collect()
}

fn benches(criterion: &mut Criterion) {
    let many = paths(10_000, CHANNELS as u32);
    criterion.bench_function("markov_10k_paths", |bencher| {
        bencher.iter(|| markov::weights(CHANNELS, black_box(&many)));
    });
    criterion.bench_function("shapley_12_channels", |bencher| {
        bencher.iter(|| shapley::exact(CHANNELS, black_box(&many), Worth::Conversions));
    });
    criterion.bench_function("parse_money", |bencher| {
        bencher.iter(|| money::parse_micros(black_box("1234.567891")));
    });
    let weights: Vec<u64> = (1..=20).collect();
    criterion.bench_function("split_money_20", |bencher| {
        bencher.iter(|| money::split(black_box(99_990_001), &weights));
    });
}

criterion_group!(all, benches);
criterion_main!(all);

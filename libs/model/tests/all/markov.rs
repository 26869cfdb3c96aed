//! Markov: published examples, and the closed form against one naive solution for each removed channel.

use model::{
    Error, PathCount,
    markov::{CHANNELS_MAX, Chain, weights},
};
use proptest::prelude::*;

fn path(channels: &[u32], conversions: u64, nulls: u64) -> PathCount {
    PathCount { path: channels.to_vec(), conversions, nulls }
}

fn assert_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() < 1e-12, "{found:?}, not {expected:?}");
    }
}

fn shared(conversions: f64, weights: &[f64]) -> Vec<f64> {
    weights.iter().map(|weight| weight * conversions).collect()
}

#[test]
fn three_paths_of_which_one_converts() {
    let paths = [path(&[0, 1, 2], 1, 0), path(&[0], 0, 1), path(&[1, 2], 0, 1)];
    assert_near(&weights(3, &paths).unwrap(), &[0.2, 0.4, 0.4]);
}

#[test]
fn returning_to_a_channel() {
    let paths = [path(&[0, 1, 0, 1, 1, 0], 1, 0), path(&[0, 1, 1, 0, 0], 1, 0), path(&[0, 0], 1, 0)];
    assert_near(&shared(3.0, &weights(2, &paths).unwrap()), &[2.0, 1.0]);
}

#[test]
fn two_branches_with_null_paths() {
    let paths = [path(&[0, 1], 3, 1), path(&[0, 2], 1, 1)];
    assert_near(&shared(4.0, &weights(3, &paths).unwrap()), &[2.0, 1.5, 0.5]);
}

#[test]
fn removal_effects_are_shares_of_lost_conversions() {
    let mut chain = Chain::new(3).unwrap();
    chain.add(&[0, 1], 3, 1).unwrap();
    chain.add(&[0, 2], 1, 1).unwrap();
    assert_near(&chain.removal_effects(), &[1.0, 0.75, 0.25]);
}

#[test]
fn consecutive_repeats_are_counted_as_loops() {
    let mut chain = Chain::new(2).unwrap();
    chain.add(&[0, 0, 0, 1], 2, 1).unwrap();
    assert_eq!((chain.count(0, 0), chain.count(0, 1), chain.count(1, 0), chain.count(2, 0)), (6, 3, 0, 0));
}

#[test]
fn without_conversions_nobody_earns() {
    assert_eq!(weights(2, &[path(&[0, 1], 0, 9)]).unwrap(), [0.0, 0.0]);
    assert_eq!(weights(2, &[]).unwrap(), [0.0, 0.0]);
    assert_eq!(weights(0, &[path(&[], 3, 1)]).unwrap(), [0.0; 0]);
    assert_eq!(weights(1, &[path(&[], 3, 1), path(&[0], 1, 0)]).unwrap(), [1.0]);
}

#[test]
fn the_number_of_channels_is_bounded() {
    let mut chain = Chain::new(CHANNELS_MAX).unwrap();
    chain.add(&[999, 0, 500], 1, 1).unwrap();
    let effects = chain.removal_effects();
    assert_near(&[effects[0], effects[500], effects[999], effects[1]], &[1.0, 1.0, 1.0, 0.0]);
    let over = Chain::new(CHANNELS_MAX + 1).unwrap_err();
    assert_eq!(over, Error::TooManyChannels { given: CHANNELS_MAX + 1, max: CHANNELS_MAX });
    let unknown = chain.add(&[0, 1_000], 1, 0).unwrap_err();
    assert_eq!(unknown, Error::UnknownChannel { channel: 1_000, channels: 1_000 });
    assert_eq!(chain.count(500, 0), 0, "a refused path leaves nothing behind");
}

#[test]
fn counts_past_64_bits_are_refused() {
    let mut chain = Chain::new(1).unwrap();
    chain.add(&[0], u64::MAX / 2, 0).unwrap();
    assert_eq!(chain.add(&[0], 1, 0), Err(Error::TooManyCounts));
    assert_eq!(chain.add(&[0], u64::MAX, 1), Err(Error::TooManyCounts));
    assert_near(&chain.weights(), &[1.0]);
}

// Conversion probability of the chain in which traffic into `removed` is lost: states and steps spelled out, loops
// included, solved by elimination with partial pivoting.
fn conversion_probability(channels: usize, paths: &[PathCount], removed: Option<usize>) -> f64 {
    let (start, conversion) = (channels, channels);
    let mut steps = vec![vec![0.0; channels + 1]; channels + 1];
    let mut leaving = vec![0.0; channels + 1];
    for path in paths {
        let times = (path.conversions + path.nulls) as f64;
        let mut from = start;
        for &channel in &path.path {
            steps[from][channel as usize] += times;
            leaving[from] += times;
            from = channel as usize;
        }
        steps[from][conversion] += path.conversions as f64;
        leaving[from] += times;
    }
    // Row i: x_i - sum of step(i, j) x_j = step(i, conversion), over the channels and the start, which is last.
    let n = channels + 1;
    let mut system = vec![vec![0.0; n + 1]; n];
    for i in 0..n {
        system[i][i] = 1.0;
        if removed == Some(i) || leaving[i] == 0.0 {
            continue;
        }
        for j in (0..channels).filter(|&j| removed != Some(j)) {
            system[i][j] -= steps[i][j] / leaving[i];
        }
        if i != start {
            system[i][n] = steps[i][conversion] / leaving[i];
        }
    }
    solve(system)[start]
}

fn solve(mut a: Vec<Vec<f64>>) -> Vec<f64> {
    let n = a.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap();
        a.swap(k, pivot);
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            let above = a[k].clone();
            for (cell, above) in a[i].iter_mut().zip(above) {
                *cell -= factor * above;
            }
        }
    }
    let mut x = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i][j] * x[j]).sum();
        x[i] = (a[i][n] - known) / a[i][i];
    }
    x
}

fn counted() -> impl Strategy<Value = (usize, Vec<PathCount>)> {
    (1..7_usize).prop_flat_map(|channels| {
        let one = (prop::collection::vec(0..channels as u32, 1..8), 0..50_u64, 0..50_u64)
            .prop_map(|(path, conversions, nulls)| PathCount { path, conversions, nulls });
        (Just(channels), prop::collection::vec(one, 1..12))
    })
}

proptest! {
    #[test]
    fn the_closed_form_is_the_naive_solution((channels, paths) in counted()) {
        let whole = conversion_probability(channels, &paths, None);
        prop_assume!(whole > 0.0);
        let mut chain = Chain::new(channels).unwrap();
        for path in &paths {
            chain.add(&path.path, path.conversions, path.nulls).unwrap();
        }
        for (channel, effect) in chain.removal_effects().into_iter().enumerate() {
            let without = conversion_probability(channels, &paths, Some(channel));
            let naive = 1.0 - without / whole;
            prop_assert!((effect - naive).abs() < 1e-9, "channel {}: {} but {}", channel, effect, naive);
        }
        let sum: f64 = chain.weights().iter().sum();
        prop_assert!((sum - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_order_of_paths_changes_no_bit(
        ((channels, paths), shuffled) in counted().prop_flat_map(|(channels, paths)| {
            (Just((channels, paths.clone())), Just(paths).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(weights(channels, &paths).unwrap(), weights(channels, &shuffled).unwrap());
    }
}

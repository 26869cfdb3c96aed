//! Shapley: published examples, the definition over all orders, and the closed form.

use std::collections::BTreeMap;

use model::{
    Error, PathCount,
    shapley::{EXACT_CHANNELS_MAX, Ordered, PositionCredit, Simplified, Worth, exact, zeta},
};
use proptest::prelude::*;

fn path(channels: &[u32], conversions: u64, nulls: u64) -> PathCount {
    PathCount { path: channels.to_vec(), conversions, nulls }
}

fn simplified(channels: usize, paths: &[PathCount]) -> Simplified {
    let mut credit = Simplified::new(channels);
    for path in paths {
        credit.add(&path.path, i128::from(path.conversions)).unwrap();
    }
    credit
}

fn near(found: &[f64], expected: &[f64], within: f64) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= within)
}

#[test]
fn a_path_alone_and_one_with_another() {
    let paths = [path(&[0], 4, 0), path(&[0, 1], 6, 0)];
    assert_eq!(simplified(2, &paths).credit(), [7.0, 3.0]);
    assert!(near(&exact(2, &paths, Worth::Conversions).unwrap(), &[7.0, 3.0], 1e-12));
}

#[test]
fn repeats_count_once() {
    assert_eq!(simplified(2, &[path(&[0, 1, 0, 0], 1, 0)]).credit(), [0.5, 0.5]);
}

#[test]
fn thirds_sum_to_the_whole() {
    let credit = simplified(3, &[path(&[0, 1, 2], 1, 0)]);
    assert_eq!(credit.credit_e12(), [333_333_333_334, 333_333_333_333, 333_333_333_333]);
    let mut refund = Simplified::new(3);
    refund.add(&[0, 1, 2], -1).unwrap();
    assert_eq!(refund.credit_e12().iter().sum::<i128>(), -1_000_000_000_000);
    let thrice = simplified(3, &[path(&[0, 1, 2], 1, 0), path(&[1, 2, 0], 2, 0)]);
    assert_eq!(thrice.credit_e12(), [1_000_000_000_000; 3]);
}

#[test]
fn the_rate_of_a_coalition_can_make_a_channel_negative() {
    // a alone converts 1 of 2, with b 0 of 2: v(a) = 1/2, v(b) = 0, v(ab) = 1/4.
    let paths = [path(&[0], 1, 1), path(&[0, 1], 0, 2)];
    assert!(near(&exact(2, &paths, Worth::Rate).unwrap(), &[0.375, -0.125], 1e-15));
}

#[test]
fn ordered_tells_positions_apart() {
    let mut ordered = Ordered::new(2);
    ordered.add(&[0, 1], 6).unwrap();
    ordered.add(&[1, 0, 1], 4).unwrap();
    let credit = |channel, position, credit| PositionCredit { channel, position, credit };
    assert_eq!(
        ordered.credit(),
        [credit(0, 0, 3.0), credit(0, 1, 2.0), credit(1, 0, 1.0), credit(1, 1, 3.0), credit(1, 2, 1.0)]
    );
}

#[test]
fn the_number_of_channels_is_bounded() {
    let all: Vec<u32> = (0..EXACT_CHANNELS_MAX as u32).collect();
    let values =
        exact(EXACT_CHANNELS_MAX, &[path(&all, 40, 0), path(&[19], 1, 0)], Worth::Conversions).unwrap();
    let mut expected = [2.0; EXACT_CHANNELS_MAX];
    expected[19] = 3.0;
    assert!(near(&values, &expected, 1e-9), "{values:?}");
    let over = exact(EXACT_CHANNELS_MAX + 1, &[], Worth::Conversions).unwrap_err();
    assert_eq!(over, Error::TooManyChannels { given: 21, max: 20 });
}

#[test]
fn channels_and_counts_out_of_range_are_refused() {
    let unknown = Error::UnknownChannel { channel: 2, channels: 2 };
    assert_eq!(exact(2, &[path(&[0, 2], 1, 0)], Worth::Rate).unwrap_err(), unknown);
    assert_eq!(Simplified::new(2).add(&[0, 2], 1).unwrap_err(), unknown);
    assert_eq!(Ordered::new(2).add(&[0, 2], 1).unwrap_err(), unknown);
    let many = [path(&[0], u64::MAX, 0), path(&[0], 0, 1)];
    assert_eq!(exact(1, &many, Worth::Rate).unwrap_err(), Error::TooManyCounts);
    assert_eq!(exact(1, &many[..1], Worth::Rate).unwrap(), [1.0]);
}

#[test]
fn nothing_gives_nothing() {
    assert_eq!(exact(0, &[path(&[], 5, 5)], Worth::Rate).unwrap(), [0.0; 0]);
    assert_eq!(exact(2, &[path(&[], 5, 5)], Worth::Conversions).unwrap(), [0.0, 0.0]);
    assert_eq!(simplified(2, &[path(&[], 5, 5)]).credit_e12(), [0, 0]);
}

// The definition: over every order of the channels, what each adds to those before it.
fn over_all_orders(channels: usize, worth: impl Fn(usize) -> f64) -> Vec<f64> {
    fn visit(order: &mut Vec<usize>, channels: usize, each: &mut impl FnMut(&[usize])) {
        if order.len() == channels {
            return each(order);
        }
        for next in 0..channels {
            if !order.contains(&next) {
                order.push(next);
                visit(order, channels, each);
                order.pop();
            }
        }
    }
    let (mut sums, mut orders) = (vec![0.0; channels], 0.0);
    visit(&mut Vec::new(), channels, &mut |order| {
        orders += 1.0;
        let mut set = 0;
        for &channel in order {
            sums[channel] += worth(set | 1 << channel) - worth(set);
            set |= 1 << channel;
        }
    });
    sums.into_iter().map(|sum| sum / orders).collect()
}

fn within(paths: &[PathCount], set: usize) -> (f64, f64) {
    let inside = paths.iter().filter(|path| path.path.iter().all(|&channel| set & 1 << channel != 0));
    inside.fold((0.0, 0.0), |(c, n), path| (c + path.conversions as f64, n + path.nulls as f64))
}

fn counted(channels_max: usize) -> impl Strategy<Value = (usize, Vec<PathCount>)> {
    (1..=channels_max).prop_flat_map(|channels| {
        let one = (prop::collection::vec(0..channels as u32, 1..8), 0..50_u64, 0..50_u64)
            .prop_map(|(path, conversions, nulls)| PathCount { path, conversions, nulls });
        (Just(channels), prop::collection::vec(one, 1..12))
    })
}

proptest! {
    #[test]
    fn exact_is_the_definition((channels, paths) in counted(5)) {
        let found = exact(channels, &paths, Worth::Conversions).unwrap();
        let expected = over_all_orders(channels, |set| within(&paths, set).0);
        prop_assert!(near(&found, &expected, 1e-9), "{:?}, not {:?}", found, expected);
        let found = exact(channels, &paths, Worth::Rate).unwrap();
        let expected = over_all_orders(channels, |set| {
            let (conversions, nulls) = within(&paths, set);
            if conversions + nulls == 0.0 { 0.0 } else { conversions / (conversions + nulls) }
        });
        prop_assert!(near(&found, &expected, 1e-12), "{:?}, not {:?}", found, expected);
    }

    #[test]
    fn exact_over_conversions_is_the_simplified_form((channels, paths) in counted(13)) {
        let found = exact(channels, &paths, Worth::Conversions).unwrap();
        let simplified = simplified(channels, &paths).credit();
        prop_assert!(near(&found, &simplified, 1e-9), "{:?}, not {:?}", found, simplified);
    }

    #[test]
    fn simplified_credit_sums_exactly_and_in_any_order(
        ((channels, paths), shuffled) in counted(9).prop_flat_map(|(channels, paths)| {
            (Just((channels, paths.clone())), Just(paths).prop_shuffle())
        }),
    ) {
        let credit = simplified(channels, &paths).credit_e12();
        let total: u64 = paths.iter().map(|path| path.conversions).sum();
        prop_assert_eq!(credit.iter().sum::<i128>(), i128::from(total) * 1_000_000_000_000);
        prop_assert_eq!(&credit, &simplified(channels, &shuffled).credit_e12());
        for (channel, credit) in credit.into_iter().enumerate() {
            let mut plain = 0.0;
            for path in paths.iter().filter(|path| path.path.contains(&(channel as u32))) {
                let distinct: std::collections::BTreeSet<&u32> = path.path.iter().collect();
                plain += path.conversions as f64 / distinct.len() as f64;
            }
            prop_assert!((credit as f64 / 1e12 - plain).abs() < 1e-9);
        }
    }

    #[test]
    fn ordered_sums_to_simplified((channels, paths) in counted(6)) {
        let mut ordered = Ordered::new(channels);
        for path in &paths {
            ordered.add(&path.path, i128::from(path.conversions)).unwrap();
        }
        let mut sums = BTreeMap::<u32, f64>::new();
        for credit in ordered.credit() {
            *sums.entry(credit.channel).or_default() += credit.credit;
        }
        for (channel, expected) in simplified(channels, &paths).credit().into_iter().enumerate() {
            let found = sums.get(&(channel as u32)).copied().unwrap_or(0.0);
            prop_assert!((found - expected).abs() < 1e-9);
        }
    }

    #[test]
    fn zeta_sums_over_subsets(values in (0..7_u32).prop_flat_map(|n| prop::collection::vec(0..1000_u64, 1 << n))) {
        let mut sums = values.clone();
        zeta(&mut sums);
        for (set, &sum) in sums.iter().enumerate() {
            let subsets = values.iter().enumerate().filter(|(subset, _)| subset & set == *subset);
            prop_assert_eq!(sum, subsets.map(|(_, value)| value).sum::<u64>());
        }
    }
}

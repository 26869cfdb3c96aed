//! Credit of single paths: by hand, against plain restatements, and exact sums.

use super::common::{DAY, HOUR, paths};
use model::{
    Model, PathTouch, Share,
    credit::{CREDIT_E12, credit, values_e12, weights, weights_e12},
    rules::WINDOW_MILLIS_MAX,
};
use proptest::prelude::*;

fn path(ages: &[i64]) -> Vec<PathTouch> {
    ages.iter().map(|&age_millis| PathTouch { age_millis, direct: false, rank: 0 }).collect()
}

fn position(first: f64, last: f64) -> Model {
    Model::PositionBased { first, last }
}

fn decay(half_life_millis: i64) -> Model {
    Model::TimeDecay { half_life_millis }
}

fn share(touch: usize, conversion_micros: i64, value_micros: i64) -> Share {
    Share { touch, conversion_micros, value_micros }
}

#[test]
fn linear_leaves_the_rest_to_the_earlier() {
    assert_eq!(
        credit(Model::Linear, &path(&[3, 2, 1]), 20_000_000),
        [share(0, 333_334, 6_666_667), share(1, 333_333, 6_666_667), share(2, 333_333, 6_666_666)]
    );
    assert_eq!(
        credit(Model::Linear, &path(&[3, 2, 1]), -5),
        [share(0, 333_334, -2), share(1, 333_333, -2), share(2, 333_333, -1)]
    );
}

#[test]
fn position_based_by_length() {
    let of = |first, last, n: usize| weights_e12(position(first, last), &path(&vec![1; n]));
    assert_eq!(of(0.4, 0.4, 1), [CREDIT_E12]);
    assert_eq!(of(0.4, 0.4, 2), [CREDIT_E12 / 2; 2]);
    assert_eq!(of(0.3, 0.1, 2), [CREDIT_E12 * 3 / 4, CREDIT_E12 / 4]);
    assert_eq!(of(0.0, 0.0, 2), [CREDIT_E12 / 2; 2]);
    assert_eq!(of(0.4, 0.4, 3), [400_000_000_000, 200_000_000_000, 400_000_000_000]);
    assert_eq!(of(0.4, 0.4, 4), [400_000_000_000, 100_000_000_000, 100_000_000_000, 400_000_000_000]);
    assert_eq!(of(0.9, 0.1, 3), [900_000_000_000, 0, 100_000_000_000]);
    assert_eq!(of(0.0, 0.0, 4), [0, CREDIT_E12 / 2, CREDIT_E12 / 2, 0]);
    let shares = credit(position(0.4, 0.4), &path(&[1; 4]), 7);
    assert_eq!(
        shares,
        [share(0, 400_000, 3), share(1, 100_000, 1), share(2, 100_000, 0), share(3, 400_000, 3)]
    );
}

#[test]
fn time_decay_halves_with_each_half_life() {
    let weights = weights_e12(decay(DAY), &path(&[3 * DAY, 2 * DAY, DAY]));
    assert_eq!(weights, [142_857_142_857, 285_714_285_714, 571_428_571_429]);
}

#[test]
fn time_decay_does_not_underflow() {
    assert_eq!(weights(decay(1), &path(&[90 * DAY, 90 * DAY - 1, 89 * DAY])), [0.0, 0.0, 1.0]);
    assert_eq!(credit(decay(1), &path(&[90 * DAY, 89 * DAY]), 5), [share(1, 1_000_000, 5)]);
}

#[test]
fn single_touch_models() {
    let path: Vec<PathTouch> = [(4, false, 1), (3, true, 0), (2, false, 0), (1, false, 2), (0, true, 1)]
        .into_iter()
        .map(|(age, direct, rank)| PathTouch { age_millis: age * HOUR, direct, rank })
        .collect();
    let taker = |model| credit(model, &path, 9)[0];
    assert_eq!(taker(Model::Decision), share(2, 1_000_000, 9));
    assert_eq!(taker(Model::FirstTouch), share(0, 1_000_000, 9));
    assert_eq!(taker(Model::LastTouch), share(4, 1_000_000, 9));
    assert_eq!(taker(Model::LastNonDirect), share(3, 1_000_000, 9));
    let direct: Vec<PathTouch> = path.iter().map(|touch| PathTouch { direct: true, ..*touch }).collect();
    assert_eq!(credit(Model::LastNonDirect, &direct, 9), [share(4, 1_000_000, 9)]);
}

#[test]
fn the_empty_path_has_no_credit() {
    for model in Model::DEFAULTS {
        assert!(credit(model, &[], 5).is_empty() && weights(model, &[]).is_empty(), "{}", model.name());
    }
}

#[test]
fn the_largest_value_is_shared_exactly() {
    let most = model::money::VALUE_UNITS_MAX * 1_000_000;
    for value in [most, -most, i64::MIN, i64::MAX, 1, -1, 0] {
        for model in Model::DEFAULTS {
            let shares = credit(model, &path(&[5 * DAY, 3 * DAY, DAY]), value);
            assert_eq!(shares.iter().map(|s| i128::from(s.value_micros)).sum::<i128>(), i128::from(value));
        }
    }
}

#[test]
fn even_parts_of_the_largest_value_are_exact() {
    use model::credit::even_value_e12;
    let most = model::money::VALUE_UNITS_MAX * 1_000_000;
    for (value, count, part) in [
        (most, 3, 3_000_000_000_000_000_000_000_000),
        (most - 1, 3, 2_999_999_999_999_999_999_666_667),
        (1 - most, 3, -2_999_999_999_999_999_999_666_667),
        (1, 1_000, 1_000),
        (1, 3, 333_333),
        (-2, 3, -666_667),
        (0, 7, 0),
        (5, 0, 5_000_000),
    ] {
        assert_eq!(even_value_e12(value, count), part, "{value} / {count}");
    }
    // Half a unit each away from zero, however many share: the sum is the value once it is rounded to micros.
    for count in 1..=1_000 {
        let sum = even_value_e12(most - 1, count) * count as i128;
        assert_eq!((sum + 500_000) / 1_000_000, i128::from(most - 1), "{count}");
    }
}

#[test]
fn parameters_are_checked_at_their_bounds() {
    for ok in [position(0.0, 0.0), position(1.0, 0.0), position(0.9, 0.1), decay(1), decay(WINDOW_MILLIS_MAX)]
    {
        assert_eq!(ok.check(), Ok(()), "{ok:?}");
    }
    let nan = f64::NAN;
    for bad in
        [position(-0.1, 0.4), position(0.6, 0.41), position(1.1, 0.0), position(nan, 0.4), position(0.4, nan)]
    {
        assert!(bad.check().is_err(), "{bad:?}");
    }
    for bad in [decay(0), decay(-1), decay(WINDOW_MILLIS_MAX + 1)] {
        assert!(bad.check().is_err(), "{bad:?}");
        // Whatever was passed unchecked, the sums hold.
        assert_eq!(credit(bad, &path(&[2, 1]), 9).iter().map(|s| s.value_micros).sum::<i64>(), 9);
    }
}

#[test]
fn models_are_found_by_name() {
    let names = "decision first_touch last_touch last_non_direct linear position_based time_decay";
    assert_eq!(Model::DEFAULTS.map(Model::name).join(" "), names);
    for name in names.split(' ') {
        assert_eq!(Model::from_name(name).unwrap().name(), name);
    }
    assert_eq!(Model::from_name("markov"), None);
}

proptest! {
    #[test]
    fn credit_sums_exactly_and_stays_within_a_micro_of_its_weight(path in paths(), value: i64, model in models()) {
        let shares = credit(model, &path, value);
        prop_assert_eq!(shares.iter().map(|s| s.conversion_micros).sum::<i64>(), 1_000_000);
        prop_assert_eq!(shares.iter().map(|s| i128::from(s.value_micros)).sum::<i128>(), i128::from(value));
        let weights = weights(model, &path);
        let mut conversions = vec![0; path.len()];
        for share in &shares {
            conversions[share.touch] = share.conversion_micros;
            prop_assert!(share.value_micros == 0 || (share.value_micros < 0) == (value < 0));
        }
        for (weight, micros) in weights.iter().zip(conversions) {
            prop_assert!((weight * 1e6 - micros as f64).abs() < 1.0 + 1e-6, "{} for {}", micros, weight);
        }
    }

    #[test]
    fn weights_are_not_negative_and_sum_to_one(path in paths(), model in models()) {
        let e12 = weights_e12(model, &path);
        prop_assert!(e12.iter().all(|&w| w >= 0));
        prop_assert!((e12.iter().sum::<i64>() - CREDIT_E12).abs() <= path.len() as i64);
    }

    #[test]
    fn values_follow_the_weights(path in paths(), value in -1_000_000_000_000_i64..1_000_000_000_000, model in models()) {
        for (credited, weight) in values_e12(model, &path, value).into_iter().zip(weights(model, &path)) {
            let expected = weight * value as f64 * 1e6;
            prop_assert!((credited as f64 - expected).abs() <= 0.5 + expected.abs() * 1e-15);
        }
    }

    #[test]
    fn time_decay_depends_on_differences_of_age_alone(path in paths(), shift in 0..DAY, half_life in HOUR..30 * DAY) {
        let shifted: Vec<PathTouch> =
            path.iter().map(|touch| PathTouch { age_millis: touch.age_millis + shift, ..*touch }).collect();
        prop_assert_eq!(weights(decay(half_life), &path), weights(decay(half_life), &shifted));
        let plain: Vec<f64> = path.iter().map(|t| 2_f64.powf(-(t.age_millis as f64) / half_life as f64)).collect();
        let sum: f64 = plain.iter().sum();
        if sum > 1e-200 {
            for (weight, plain) in weights(decay(half_life), &path).iter().zip(plain) {
                prop_assert!((weight - plain / sum).abs() < 1e-12);
            }
        }
    }
}

fn models() -> impl Strategy<Value = Model> {
    let position = (0.0..=0.5, 0.0..=0.5).prop_map(|(first, last)| Model::PositionBased { first, last });
    let decay = (1..90 * DAY).prop_map(|half_life_millis| Model::TimeDecay { half_life_millis });
    prop_oneof![prop::sample::select(Model::DEFAULTS.to_vec()), position, decay]
}

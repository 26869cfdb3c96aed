//! Credit of one path under the rule models.
//!
//! The same formulas in two precisions. The decision gives exact integers: micros of one conversion that sum to one
//! million, micros of the currency that sum to the value. Reports give each row the weight, rounded to 10⁻¹² of a conversion
//! (and of the currency's unit), to be summed as 128-bit integers. The operations of [`weights`] are
//! documented one by one, so that another implementation can be held equal to the last bit.

use std::iter;

use crate::{Error, money, rules::WINDOW_MILLIS_MAX};

/// One whole conversion.
pub const CREDIT_MICROS: i64 = 1_000_000;

/// One whole conversion in the units of reports.
pub const CREDIT_E12: i64 = 1_000_000_000_000;

/// A rule model with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Model {
    /// The winner of the decision.
    Decision,
    /// The first eligible touch.
    FirstTouch,
    /// The last eligible touch.
    LastTouch,
    /// The last eligible touch that is not direct, or the last.
    LastNonDirect,
    /// Evenly.
    Linear,
    /// Fixed shares to the ends, the rest evenly between; two touches share in proportion, one takes all.
    PositionBased {
        /// 0 to 1.
        first: f64,
        /// 0 to 1.
        last: f64,
    },
    /// Weight `2^(-age/half_life)`.
    TimeDecay {
        /// Milliseconds, positive.
        half_life_millis: i64,
    },
}

/// What credit depends on, of one eligible touch. A path is ordered by time, then by event id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathTouch {
    /// Conversion time minus touch time, milliseconds, not negative.
    pub age_millis: i64,
    /// Whether its channel is one of the direct channels.
    pub direct: bool,
    /// The place of its kind in the precedence, 0 the best.
    pub rank: u8,
}

/// What one touch earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Index of the touch.
    pub touch: usize,
    /// Micros of one conversion.
    pub conversion_micros: i64,
    /// Micros of the currency.
    pub value_micros: i64,
}

/// The exact credit of a path: one share for each touch that earned any, in path order.
///
/// The weights as 62-bit fixed point share the conversion and the value by largest remainder, of equal remainders the
/// earlier touch first. A negative value is shared as its magnitude is. The empty path has no shares.
pub fn credit(model: Model, path: &[PathTouch], value_micros: i64) -> Vec<Share> {
    if let Some(touch) = single(model, path) {
        return vec![Share { touch, conversion_micros: CREDIT_MICROS, value_micros }];
    }
    // A power of two scales without rounding, and `as` takes anything outside of 0 to 2^64 to the nearest end.
    let fixed: Vec<u64> =
        weights(model, path).into_iter().map(|w| (w * (1_u64 << 62) as f64) as u64).collect();
    let conversions = money::split(CREDIT_MICROS, &fixed);
    let values = money::split(value_micros, &fixed);
    iter::zip(conversions, values)
        .enumerate()
        .filter(|(_, (conversion, value))| *conversion != 0 || *value != 0)
        .map(|(touch, (conversion_micros, value_micros))| Share { touch, conversion_micros, value_micros })
        .collect()
}

/// The weights of a path's touches: not negative, of sum 1 but for rounding; none for the empty path.
///
/// With `n` touches at the positions 0 to n − 1, all operations on `f64`, from left to right:
///
/// - `decision`: 1 at the last of the positions with the least rank.
/// - `first_touch`: 1 at 0. `last_touch`: 1 at n − 1.
/// - `last_non_direct`: 1 at the last position that is not direct, or at n − 1.
/// - `linear`: `1 / n`.
/// - `position_based`: n = 1: 1. n = 2: `first / (first + last)` and `last / (first + last)`; if that sum is 0, `0.5`
///   each. n ≥ 3: `first`, then `max(0, 1 - first - last) / (n - 2)`, and `last`.
/// - `time_decay`: `d = exp2(-((age - least age) / half_life))`, ages and half-life converted from integers after the
///   subtraction; `d / sum`, where the sum starts at 0 and adds the `d` in path order. Subtracting the least age changes
///   no quotient and keeps the newest touch at 1, so that nothing underflows to 0 / 0.
pub fn weights(model: Model, path: &[PathTouch]) -> Vec<f64> {
    let n = path.len();
    if let Some(touch) = single(model, path) {
        let mut weights = vec![0.0; n];
        weights[touch] = 1.0;
        return weights;
    }
    match model {
        Model::PositionBased { first, last } if n >= 2 => position_based(first, last, n),
        Model::TimeDecay { half_life_millis } => time_decay(half_life_millis, path),
        _ => vec![1.0 / n as f64; n],
    }
}

/// The weights in units of 10⁻¹² of a conversion: `w * 1e12` rounded to the nearest integer, halves to even.
pub fn weights_e12(model: Model, path: &[PathTouch]) -> Vec<i64> {
    weights(model, path).into_iter().map(|w| (w * CREDIT_E12 as f64).round_ties_even() as i64).collect()
}

/// The value in units of 10⁻¹² of the currency's unit: all of it, or an even part of it, in whole numbers
/// ([`even_value_e12`]); otherwise `w * value_micros * 1e6`, multiplied in this order and rounded to the nearest integer,
/// halves to even, which is off by at most 2⁻⁵¹ of the value.
pub fn values_e12(model: Model, path: &[PathTouch], value_micros: i64) -> Vec<i128> {
    let value = value_micros as f64;
    let credited = |weight: f64| match model {
        _ if weight == 1.0 => even_value_e12(value_micros, 1),
        Model::Linear => even_value_e12(value_micros, path.len()),
        _ => (weight * value * 1e6).round_ties_even() as i128,
    };
    weights(model, path).into_iter().map(credited).collect()
}

/// One of `count` even parts of a value, in units of 10⁻¹² of the currency's unit; halves go away from zero.
pub fn even_value_e12(value_micros: i64, count: usize) -> i128 {
    let count = count.max(1) as i128;
    let half = if value_micros < 0 { -count } else { count };
    (i128::from(value_micros) * 2_000_000 + half) / (2 * count)
}

// === impl Model ===

impl Model {
    /// Every rule model with its default parameters, in the order they are documented.
    pub const DEFAULTS: [Self; 7] = [
        Self::Decision,
        Self::FirstTouch,
        Self::LastTouch,
        Self::LastNonDirect,
        Self::Linear,
        Self::PositionBased { first: 0.4, last: 0.4 },
        Self::TimeDecay { half_life_millis: 7 * 24 * 60 * 60 * 1000 },
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::FirstTouch => "first_touch",
            Self::LastTouch => "last_touch",
            Self::LastNonDirect => "last_non_direct",
            Self::Linear => "linear",
            Self::PositionBased { .. } => "position_based",
            Self::TimeDecay { .. } => "time_decay",
        }
    }

    /// The rule model of a name, with its default parameters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::DEFAULTS.into_iter().find(|model| model.name() == name)
    }

    /// Checks the parameters: shares from 0 to 1 and at most 1 together, a half-life of 1 ms to 90 days.
    /// Credit under parameters that do not pass is of no meaning, but no panic.
    pub fn check(self) -> Result<(), Error> {
        match self {
            Self::PositionBased { first, last } => {
                let share = |x: f64| (0.0..=1.0).contains(&x);
                // Shares such as 0.9 and 0.1 may add up to a little more than 1 as binary fractions.
                let ok = share(first) && share(last) && first + last <= 1.0 + 1e-12;
                if ok { Ok(()) } else { Err(Error::Position) }
            }
            Self::TimeDecay { half_life_millis } if !(1..=WINDOW_MILLIS_MAX).contains(&half_life_millis) => {
                Err(Error::HalfLife { max_millis: WINDOW_MILLIS_MAX })
            }
            _ => Ok(()),
        }
    }
}

// The touch that takes all, where the model or the path's length leaves but one.
fn single(model: Model, path: &[PathTouch]) -> Option<usize> {
    let last = path.len().checked_sub(1)?;
    match model {
        _ if last == 0 => Some(0),
        Model::Decision => {
            let best = path.iter().map(|touch| touch.rank).min()?;
            path.iter().rposition(|touch| touch.rank == best)
        }
        Model::FirstTouch => Some(0),
        Model::LastTouch => Some(last),
        Model::LastNonDirect => Some(path.iter().rposition(|touch| !touch.direct).unwrap_or(last)),
        Model::Linear | Model::PositionBased { .. } | Model::TimeDecay { .. } => None,
    }
}

fn position_based(first: f64, last: f64, n: usize) -> Vec<f64> {
    if n == 2 {
        let ends = first + last;
        return if ends == 0.0 { vec![0.5, 0.5] } else { vec![first / ends, last / ends] };
    }
    let mut weights = vec![(1.0 - first - last).max(0.0) / (n - 2) as f64; n];
    weights[0] = first;
    weights[n - 1] = last;
    weights
}

fn time_decay(half_life_millis: i64, path: &[PathTouch]) -> Vec<f64> {
    let least = path.iter().map(|touch| touch.age_millis).min().unwrap_or(0);
    let half_life = half_life_millis as f64;
    let mut weights: Vec<f64> = path
        .iter()
        .map(|touch| (-(touch.age_millis.saturating_sub(least) as f64 / half_life)).exp2())
        .collect();
    let mut sum = 0.0;
    for weight in &weights {
        sum += weight;
    }
    for weight in &mut weights {
        *weight /= sum;
    }
    weights
}

//! Money as integers: micros of the currency's unit.

use std::cmp::Reverse;

use thiserror::Error;

/// The largest magnitude of a value, in the currency's unit.
pub const VALUE_UNITS_MAX: i64 = 9_000_000_000_000;

/// Why a value could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MoneyError {
    /// Not a decimal number.
    #[error("not a decimal number such as 12.34")]
    Malformed,
    /// More than six decimals that matter.
    #[error("at most 6 decimals")]
    TooPrecise,
    /// Past [`VALUE_UNITS_MAX`].
    #[error("at most 9000000000000 in magnitude")]
    OutOfRange,
}

/// Reads a plain decimal number into micros. `-0` is 0; an exponent, a sign `+`, spaces and digits other than ASCII are
/// malformed, also in the text of a JSON number.
pub fn parse_micros(text: &str) -> Result<i64, MoneyError> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return Err(MoneyError::Malformed);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 6 {
        return Err(MoneyError::TooPrecise);
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > 13 {
        return Err(MoneyError::OutOfRange);
    }
    let number = |s: &str| s.bytes().fold(0_i64, |n, b| n * 10 + i64::from(b - b'0'));
    let micros = number(whole) * 1_000_000 + number(fraction) * 10_i64.pow(6 - fraction.len() as u32);
    if micros > VALUE_UNITS_MAX * 1_000_000 {
        return Err(MoneyError::OutOfRange);
    }
    Ok(if negative { -micros } else { micros })
}

/// Shares a total in proportion to the weights by largest remainder: the shares sum to exactly the total, and each is
/// less than one micro from its exact part. Of equal remainders the earlier weight comes first.
///
/// A negative total is shared as its magnitude is. If all weights are 0 they count as equal. No weights, no shares.
pub fn split(total_micros: i64, weights: &[u64]) -> Vec<i64> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    if sum == 0 || weights.iter().all(|&weight| weight == weights[0]) {
        return split_evenly(total_micros, weights.len() as u64).collect();
    }
    let total = u128::from(total_micros.unsigned_abs());
    let mut left = total;
    let mut shares = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    for &weight in weights {
        // At most 2^63 times 2^64, so this cannot overflow.
        let product = total * u128::from(weight);
        left -= product / sum;
        shares.push(product / sum);
        remainders.push((Reverse(product % sum), shares.len() - 1));
    }
    remainders.sort_unstable();
    for &(_, index) in remainders.iter().take(left as usize) {
        shares[index] += 1;
    }
    shares.into_iter().map(|share| signed(share, total_micros < 0)).collect()
}

/// Shares a total into `count` equal parts; what does not divide goes to the first ones, a micro each.
pub fn split_evenly(total_micros: i64, count: u64) -> impl Iterator<Item = i64> {
    let total = total_micros.unsigned_abs();
    let (each, more) = (total / count.max(1), total % count.max(1));
    (0..count).map(move |index| signed(u128::from(each + u64::from(index < more)), total_micros < 0))
}

/// Writes micros with exactly six decimals.
pub fn format_micros(micros: i128) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let magnitude = micros.unsigned_abs();
    format!("{sign}{}.{:06}", magnitude / 1_000_000, magnitude % 1_000_000)
}

// A magnitude of at most 2^63, which only a negative total reaches: the one value whose negation wraps to itself.
fn signed(magnitude: u128, negative: bool) -> i64 {
    if negative { (magnitude as i64).wrapping_neg() } else { magnitude as i64 }
}

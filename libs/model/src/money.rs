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
/// malformed.
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

/// Reads the text of a JSON number into micros. It may have an exponent: many serializers write 0.000001 as `1e-06`.
pub fn parse_json_micros(number: &str) -> Result<i64, MoneyError> {
    let Some((mantissa, exponent)) = number.split_once(['e', 'E']) else { return parse_micros(number) };
    let magnitude = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, "0"));
    let power = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if ![whole, fraction, power].into_iter().all(plain) {
        return Err(MoneyError::Malformed);
    }
    let digits = [whole, fraction].concat();
    let significant = digits.trim_start_matches('0');
    let leading_zeros = digits.len() - significant.len();
    let significant = significant.trim_end_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    // Past 64 bits it is far past every bound, whatever the digits.
    let power = power.parse().unwrap_or(i64::MAX / 2);
    let power = if exponent.starts_with('-') { -power } else { power };
    // The magnitude is 0.significant times ten to this power.
    let point = (whole.len() as i64 - leading_zeros as i64).saturating_add(power);
    let decimals = (significant.len() as i64).saturating_sub(point);
    if decimals > 6 {
        return Err(MoneyError::TooPrecise);
    }
    if point > 13 {
        return Err(MoneyError::OutOfRange);
    }
    // At most 19 digits, and as many with the zeros behind them, so this fits.
    let number = significant.bytes().fold(0_u64, |n, b| n * 10 + u64::from(b - b'0'));
    let micros = number * 10_u64.pow((6 - decimals) as u32);
    if micros > VALUE_UNITS_MAX as u64 * 1_000_000 {
        return Err(MoneyError::OutOfRange);
    }
    Ok(if mantissa.starts_with('-') { -(micros as i64) } else { micros as i64 })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const MOST: i64 = VALUE_UNITS_MAX * 1_000_000;

    #[test]
    fn values_are_read_at_their_bounds_and_refused_past_them() {
        for (text, micros) in [
            ("0", 0),
            ("-0", 0),
            ("-0.000000", 0),
            ("12.34", 12_340_000),
            ("0.000001", 1),
            ("-0.000001", -1),
            ("1.2300000000", 1_230_000),
            ("000012", 12_000_000),
            ("9000000000000", MOST),
            ("-9000000000000.000000", -MOST),
        ] {
            assert_eq!(parse_micros(text), Ok(micros), "{text}");
        }
        for text in [
            "", "-", ".", "1.", ".5", "+1", "1e3", "1E3", "1.5e-2", "NaN", "inf", " 1", "1 ", "1,5", "1_0",
            "--1", "0x1", "\u{0661}",
        ] {
            assert_eq!(parse_micros(text), Err(MoneyError::Malformed), "{text}");
        }
        assert_eq!(parse_micros("0.0000001"), Err(MoneyError::TooPrecise));
        for text in
            ["9000000000000.000001", "-9000000000000.000001", "99999999999999", "1000000000000000000000"]
        {
            assert_eq!(parse_micros(text), Err(MoneyError::OutOfRange), "{text}");
        }
    }

    #[test]
    fn a_json_number_may_have_an_exponent() {
        for (text, micros) in [
            ("12.34", 12_340_000),
            ("1e3", 1_000_000_000),
            ("1E+3", 1_000_000_000),
            ("1e-06", 1),
            ("-1e-6", -1),
            ("12.5e-1", 1_250_000),
            ("0.0000012e1", 12),
            ("1000000e-12", 1),
            ("-0e5", 0),
            ("0.0e-99999999999999999999", 0),
            ("0e99999999999999999999", 0),
            ("9e12", MOST),
            ("-9.000000000000e12", -MOST),
            ("8999999999999999999e-6", MOST - 1),
        ] {
            assert_eq!(parse_json_micros(text), Ok(micros), "{text}");
        }
        for (text, error) in [
            ("1e-7", MoneyError::TooPrecise),
            ("12.34e-5", MoneyError::TooPrecise),
            ("1e-99999999999999999999", MoneyError::TooPrecise),
            ("9000000000000000001e-6", MoneyError::OutOfRange),
            ("1e13", MoneyError::OutOfRange),
            ("-1e308", MoneyError::OutOfRange),
            ("1e99999999999999999999", MoneyError::OutOfRange),
            ("1e", MoneyError::Malformed),
            ("e1", MoneyError::Malformed),
            ("1.e1", MoneyError::Malformed),
            ("1e1.0", MoneyError::Malformed),
            ("+1e1", MoneyError::Malformed),
            ("1e1e1", MoneyError::Malformed),
        ] {
            assert_eq!(parse_json_micros(text), Err(error), "{text}");
        }
    }

    #[test]
    fn splits_by_hand() {
        assert_eq!(split(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(split(-10, &[1, 1, 1]), [-4, -3, -3]);
        assert_eq!(split(10, &[1, 2, 3]), [2, 3, 5]);
        assert_eq!(split(5, &[0, 0]), [3, 2]);
        assert_eq!(split(1, &[1, 2]), [0, 1]);
        assert_eq!(split(5, &[]), [0; 0]);
        assert_eq!(split(i64::MIN, &[1, 0]), [i64::MIN, 0]);
        assert_eq!(split(i64::MAX, &[u64::MAX, 1]), [i64::MAX, 0]);
        assert_eq!(split_evenly(244_000, 3).collect::<Vec<_>>(), [81_334, 81_333, 81_333]);
        assert_eq!(split_evenly(5, 0).count(), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(micros in -MOST..=MOST) {
            prop_assert_eq!(parse_micros(&format_micros(i128::from(micros))), Ok(micros));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9.eE ]{0,24}") {
            if let Ok(micros) = parse_micros(&text) {
                prop_assert!((-MOST..=MOST).contains(&micros));
                prop_assert!((text.parse::<f64>().unwrap() * 1e6 - micros as f64).abs() <= 1.0 + micros.abs() as f64 * 1e-15);
            }
        }

        #[test]
        fn an_exponent_only_moves_the_point(
            whole in 0..10_i64.pow(15),
            fraction in "[0-9]{0,6}",
            negative: bool,
            power in -24..24_i32,
        ) {
            let sign = if negative { "-" } else { "" };
            let point = if fraction.is_empty() { "" } else { "." };
            let text = format!("{sign}{whole}{point}{fraction}e{power}");
            // Exactly: all digits as an integer, times ten to the power of what is left of the exponent.
            let digits: i128 = format!("{sign}{whole}{fraction}").parse().unwrap();
            let power = power - fraction.len() as i32 + 6;
            let shift = 10_i128.pow(power.unsigned_abs().min(36));
            let (micros, exact) = match power {
                0.. => (digits.saturating_mul(shift), true),
                _ => (digits / shift, digits % shift == 0),
            };
            let expected = match i64::try_from(micros) {
                _ if !exact => Err(MoneyError::TooPrecise),
                Ok(micros) if (-MOST..=MOST).contains(&micros) => Ok(micros),
                _ => Err(MoneyError::OutOfRange),
            };
            prop_assert_eq!(parse_json_micros(&text), expected, "{}", text);
        }

        #[test]
        fn any_text_of_a_json_number_is_read_or_refused(text in "-?[0-9.eE+-]{0,24}") {
            if let Ok(micros) = parse_json_micros(&text) {
                prop_assert!((-MOST..=MOST).contains(&micros));
            }
        }

        #[test]
        fn shares_sum_to_the_total_and_keep_the_proportions(
            total: i64,
            weights in prop::collection::vec(prop_oneof![0..5_u64, any::<u64>()], 1..20),
        ) {
            let shares = split(total, &weights);
            prop_assert_eq!(shares.iter().map(|&share| i128::from(share)).sum::<i128>(), i128::from(total));
            let sum: i128 = weights.iter().map(|&weight| i128::from(weight)).sum();
            prop_assume!(sum > 0);
            for (&share, &weight) in shares.iter().zip(&weights) {
                // |share - total * weight / sum| < 1, without a fraction; i128 holds total * weight, and share * sum.
                let exact = i128::from(total) * i128::from(weight);
                prop_assert!((exact / sum - i128::from(share)).abs() <= 1);
            }
            let negated = split(total.saturating_neg(), &weights);
            prop_assume!(total != i64::MIN);
            prop_assert_eq!(negated, shares.iter().map(|share| -share).collect::<Vec<_>>());
        }
    }
}

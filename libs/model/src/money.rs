//! Money as integers: micros of the currency's unit.

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

/// Reads a plain decimal number, without exponent, into micros. `-0` is 0.
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

/// Writes micros with exactly six decimals.
pub fn format_micros(micros: i128) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let magnitude = micros.unsigned_abs();
    format!("{sign}{}.{:06}", magnitude / 1_000_000, magnitude % 1_000_000)
}

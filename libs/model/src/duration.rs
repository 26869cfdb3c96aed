//! Durations as people write them: `90d`, `24h`, `30m`, `0m`.

use thiserror::Error;

/// Why a duration could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DurationError {
    /// Not a whole number followed by `m`, `h` or `d`.
    #[error("write a whole number of m, h or d, such as 24h: {0:?}")]
    Malformed(String),
    /// Past the bound.
    #[error("at most {max}: {given:?}")]
    TooLong {
        /// What was given.
        given: String,
        /// The bound, as one would write it.
        max: &'static str,
    },
}

/// Reads a duration of 0 minutes to 90 days into milliseconds.
pub fn parse_millis(text: &str) -> Result<i64, DurationError> {
    let malformed = || DurationError::Malformed(text.chars().take(32).collect());
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(malformed)?;
    let unit_millis: i64 = match unit {
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(malformed()),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    let too_long = || DurationError::TooLong { given: text.chars().take(32).collect(), max: "90d" };
    let count: i64 = digits.parse().map_err(|_| too_long())?;
    let millis = count.checked_mul(unit_millis).ok_or_else(too_long)?;
    if millis > crate::rules::WINDOW_MILLIS_MAX { Err(too_long()) } else { Ok(millis) }
}

/// Writes milliseconds in the largest unit that divides them.
pub fn format_millis(millis: i64) -> String {
    for (unit, name) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m")] {
        if millis != 0 && millis % unit == 0 {
            return format!("{}{name}", millis / unit);
        }
    }
    if millis == 0 { "0m".into() } else { format!("{millis}ms") }
}

/// Says a length of time in its two largest units, such as `2 hours 5 minutes`; of a negative one the magnitude.
pub fn words(millis: i64) -> String {
    const UNITS: [(u64, &str); 5] =
        [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second"), (1, "millisecond")];
    let mut rest = millis.unsigned_abs();
    let Some(first) = UNITS.iter().position(|(unit, _)| rest >= *unit) else { return "0 milliseconds".into() };
    let mut said = String::new();
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        let count = rest / unit;
        rest %= unit;
        if count > 0 {
            let space = if said.is_empty() { "" } else { " " };
            let plural = if count == 1 { "" } else { "s" };
            said.push_str(&format!("{space}{count} {name}{plural}"));
        }
    }
    said
}

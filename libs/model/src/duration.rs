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
    let Some(first) = UNITS.iter().position(|(unit, _)| rest >= *unit) else {
        return "0 milliseconds".into();
    };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn durations_are_read_at_their_bounds_and_refused_past_them() {
        for (text, millis) in [
            ("0m", 0),
            ("1m", 60_000),
            ("30m", 1_800_000),
            ("24h", 86_400_000),
            ("007d", 604_800_000),
            ("90d", 7_776_000_000),
            ("2160h", 7_776_000_000),
            ("129600m", 7_776_000_000),
        ] {
            assert_eq!(parse_millis(text), Ok(millis), "{text}");
        }
        for text in ["91d", "2161h", "129601m", "99999999999999999999d", "9223372036854775807d"] {
            assert!(matches!(parse_millis(text), Err(DurationError::TooLong { max: "90d", .. })), "{text}");
        }
        for text in [
            "",
            "d",
            "7",
            "7 d",
            "-1d",
            "+1d",
            "1.5h",
            "7D",
            "7s",
            "7w",
            "\u{0667}d",
            "7\u{00e9}",
            "\u{1f600}",
        ] {
            assert!(matches!(parse_millis(text), Err(DurationError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_the_largest_unit() {
        for text in ["0m", "1m", "90m", "1h", "25h", "1d", "90d"] {
            assert_eq!(format_millis(parse_millis(text).unwrap()), text);
        }
        assert_eq!((format_millis(86_400_000), format_millis(1)), ("1d".into(), "1ms".into()));
    }

    #[test]
    fn lengths_are_said_in_their_two_largest_units() {
        for (millis, said) in [
            (0, "0 milliseconds"),
            (1, "1 millisecond"),
            (999, "999 milliseconds"),
            (1_001, "1 second 1 millisecond"),
            (7_500_000, "2 hours 5 minutes"),
            (-7_500_000, "2 hours 5 minutes"),
            (3_600_001, "1 hour"),
            (90_061_001, "1 day 1 hour"),
            (86_400_000 * 3, "3 days"),
            (i64::MIN, "106751991167 days 7 hours"),
        ] {
            assert_eq!(words(millis), said);
        }
    }
}

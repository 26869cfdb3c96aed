//! Reads the two forms of a time: RFC 3339 and Unix milliseconds.

/// The seconds of a day.
const DAY_SECONDS: i64 = 86_400;

/// Why a time could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeError {
    /// It is none.
    Malformed,
    /// It does not fit 64 bits of milliseconds.
    Overflow,
}

/// Reads an integer of Unix milliseconds, as JSON writes it.
pub(crate) fn unix_millis(number: &str) -> Result<i64, TimeError> {
    let digits = number.strip_prefix('-').unwrap_or(number);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TimeError::Malformed);
    }
    number.parse().map_err(|_| TimeError::Overflow)
}

/// Reads RFC 3339 into Unix milliseconds; what is finer is cut off. A leap second is read as the second before it, as
/// Unix time has none.
pub(crate) fn rfc3339_millis(text: &str) -> Result<i64, TimeError> {
    read(text.as_bytes()).ok_or(TimeError::Malformed)
}

fn read(text: &[u8]) -> Option<i64> {
    let (head, rest) = text.split_at_checked(19)?;
    let shaped = head[4] == b'-'
        && head[7] == b'-'
        && matches!(head[10], b'T' | b't' | b' ')
        && head[13] == b':'
        && head[16] == b':';
    if !shaped {
        return None;
    }
    let (year, month, day) = (number(&head[..4])?, number(&head[5..7])?, number(&head[8..10])?);
    let (hour, minute, second) = (number(&head[11..13])?, number(&head[14..16])?, number(&head[17..19])?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !in_range {
        return None;
    }
    let (millis, rest) = fraction(rest)?;
    let offset_minutes = offset(rest)?;
    let seconds = days(year, month, day) * DAY_SECONDS + hour * 3_600 + minute * 60 + second.min(59);
    Some((seconds - offset_minutes * 60) * 1_000 + millis)
}

fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else { return Some((0, text)) };
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(count);
    let millis = (0..3).fold(0, |n, i| n * 10 + digits.get(i).map_or(0, |byte| i64::from(byte - b'0')));
    (count > 0).then_some((millis, rest))
}

fn offset(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            let offset = hours * 60 + minutes;
            (hours <= 23 && minutes <= 59).then_some(if *sign == b'-' { -offset } else { offset })
        }
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, byte| byte.is_ascii_digit().then(|| n * 10 + i64::from(byte - b'0')))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar. Years begin in March here, so that the leap day is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_year = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let before_month = (153 * month + 2) / 5;
    // From 0000-03-01 to 1970-01-01.
    const EPOCH_DAYS: i64 = 719_468;
    before_year + before_month + day - 1 - EPOCH_DAYS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn oracle(text: &str) -> i64 {
        let at: jiff::Timestamp = text.parse().unwrap();
        at.as_nanosecond().div_euclid(1_000_000) as i64
    }

    #[test]
    fn the_forms_of_rfc_3339_are_read() {
        for text in [
            "2026-01-01T00:00:00Z",
            "2026-01-01t00:00:00z",
            "2026-01-01 00:00:00Z",
            "2024-02-29T23:59:60Z",
            "2000-01-01T00:00:00.1Z",
            "2000-01-01T00:00:00.123456789+05:30",
            "1999-12-31T23:59:59.999-23:59",
            "1900-03-01T00:00:00-00:00",
            "0001-01-02T00:00:00Z",
        ] {
            assert_eq!(rfc3339_millis(text), Ok(oracle(text)), "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "2026",
            "2026-01-01",
            "2026-01-01T00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+01:60",
            "2026-01-01T00:00:00Z ",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2026-1-01T00:00:000Z",
            "+026-01-01T00:00:00Z",
            "2026-01-01T00:00:00Z[UTC]",
            "２026-01-01T00:00:00Z",
            "1767225600000",
        ] {
            assert_eq!(rfc3339_millis(text), Err(TimeError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_number_is_an_integer() {
        assert_eq!(unix_millis("1767225600000"), Ok(1_767_225_600_000));
        assert_eq!(unix_millis("-1"), Ok(-1));
        assert_eq!(unix_millis("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(unix_millis("9223372036854775808"), Err(TimeError::Overflow));
        for number in ["1.5", "1.0", "1e12", "-", ""] {
            assert_eq!(unix_millis(number), Err(TimeError::Malformed), "{number}");
        }
    }

    proptest! {
        #[test]
        fn any_time_reads_as_jiff_reads_it(
            nanos in -30_000_000_000_000_000_000_i128..80_000_000_000_000_000_000,
            offset in -1439_i64..1440,
        ) {
            let at = jiff::Timestamp::from_nanosecond(nanos).unwrap();
            prop_assert_eq!(rfc3339_millis(&at.to_string()), Ok(oracle(&at.to_string())));
            // The local time written with its offset, built without the parser under test.
            let local = at + jiff::SignedDuration::from_mins(offset);
            let sign = if offset < 0 { '-' } else { '+' };
            let (hours, minutes) = (offset.abs() / 60, offset.abs() % 60);
            let text = local.to_string().replace('Z', &format!("{sign}{hours:02}:{minutes:02}"));
            prop_assert_eq!(rfc3339_millis(&text), Ok(oracle(&at.to_string())), "{}", text);
        }

        #[test]
        fn arbitrary_text_does_not_panic(text in "\\PC{0,40}") {
            let _ = rfc3339_millis(&text);
            let _ = unix_millis(&text);
        }
    }
}

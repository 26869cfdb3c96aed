//! Times that never run backwards, from times that may.
//!
//! Kafka stamps records with the leader's clock in milliseconds. Of a partition's records up to one, the greatest such
//! time counts, and within it the number of records since the first that had it, as microseconds. Both are functions of
//! the log's content, so every reader finds the same time, wherever it begins. More than a thousand records under one
//! greatest time, as after a clock was set back, share its last microsecond.

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};

use super::{REQUEST_WAIT, Topic, ask, away};
use crate::{LogError, memory::unix_micros};

/// The last microsecond of a millisecond.
const LAST: u64 = 999;

/// What the times of a partition come to at some place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The greatest append time so far, Unix milliseconds.
    pub(crate) millis: i64,
    /// The first offset that has it.
    pub(crate) since: u64,
}

/// The time of the next record, whose append time is given; moves the mark.
pub(crate) fn next_time(mark: &mut Option<Mark>, offset: u64, millis: i64) -> i64 {
    let greatest = match *mark {
        Some(mark) if mark.millis >= millis => mark,
        _ => *mark.insert(Mark { millis, since: offset }),
    };
    at(greatest, offset)
}

/// A time after those of all records before an offset, and not after that of the record there.
pub(crate) fn last_time(mark: Option<Mark>, offset: u64) -> Option<i64> {
    let last = offset.checked_sub(1)?;
    let mark = mark?;
    Some(at(mark, last) + i64::from(last.saturating_sub(mark.since) < LAST))
}

fn at(mark: Mark, offset: u64) -> i64 {
    mark.millis * 1_000 + offset.saturating_sub(mark.since).min(LAST) as i64
}

/// The mark before an offset, by asking which record is the first at or past a time: `least` is a time that some record
/// before the offset has, or 0.
pub(crate) fn mark_before(
    topic: &Topic,
    partition: u32,
    offset: u64,
    least: i64,
) -> Result<Option<Mark>, LogError> {
    search(offset, least, unix_micros() / 1_000, |millis| first_at(topic, partition, millis))
}

fn search(
    offset: u64,
    least: i64,
    now: i64,
    first_at: impl Fn(i64) -> Result<Option<u64>, LogError>,
) -> Result<Option<Mark>, LogError> {
    let before = |millis: i64| Ok(first_at(millis)?.filter(|first| *first < offset));
    let Some(mut since) = before(least)? else { return Ok(None) };
    // Some record before the offset is at or past `low`, the first of them `since`; none is at or past `high`.
    let (mut low, mut high, mut step) = (least, now.max(least + 1), 1);
    while let Some(first) = before(high)? {
        (low, since) = (high, first);
        high += step;
        step *= 2;
    }
    // Most questions are about the newest record: from the present backwards, in growing steps.
    step = 1;
    while high - low > step {
        match before(high - step)? {
            Some(first) => {
                (low, since) = (high - step, first);
                break;
            }
            None => high -= step,
        }
        step *= 2;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match before(middle)? {
            Some(first) => (low, since) = (middle, first),
            None => high = middle,
        }
    }
    Ok(Some(Mark { millis: low, since }))
}

/// The first record whose append time is at or past one.
fn first_at(topic: &Topic, partition: u32, millis: i64) -> Result<Option<u64>, LogError> {
    let mut asked = TopicPartitionList::new();
    asked
        .add_partition_offset(&topic.name, partition as i32, Offset::Offset(millis))
        .map_err(|error| away(&error))?;
    let found = ask(REQUEST_WAIT, || {
        let found = topic.client.offsets_for_times(asked.clone(), REQUEST_WAIT)?;
        let Some(found) = found.find_partition(&topic.name, partition as i32) else {
            return Ok(Offset::Invalid);
        };
        found.error().map(|()| found.offset())
    })?;
    match found {
        Offset::Offset(offset) => Ok(u64::try_from(offset).ok()),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

    use super::*;

    /// Times of a reader that begins at the first record.
    fn times(millis: &[i64]) -> Vec<i64> {
        let mut mark = None;
        (0..).zip(millis).map(|(offset, millis)| next_time(&mut mark, offset, *millis)).collect()
    }

    #[test]
    fn times_never_run_backwards_and_are_found_from_anywhere() {
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut clock = 1_000_000;
            let millis: Vec<i64> = (0..rng.random_range(1..80))
                .map(|_| {
                    // The clock stands still, goes on, and is set back or forth.
                    clock += match rng.random_range(0..10) {
                        0 => rng.random_range(-500..500),
                        1..4 => rng.random_range(0..3),
                        _ => 0,
                    };
                    clock
                })
                .collect();
            let all = times(&millis);
            assert!(all.is_sorted_by(|a, b| a < b), "seed {seed}: {all:?}");
            let first_at =
                |at: i64| Ok(millis.iter().position(|millis| *millis >= at).map(|offset| offset as u64));
            for from in 0..millis.len() {
                let now = clock + rng.random_range(-1_000..1_000);
                let mut mark = search(from as u64, 0, now, first_at).unwrap();
                let end = last_time(mark, from as u64);
                assert!(from == 0 || all[from - 1] < end.unwrap(), "seed {seed}: after what is before");
                let time = next_time(&mut mark, from as u64, millis[from]);
                assert_eq!(time, all[from], "seed {seed}: from {from} of {millis:?}");
                assert!(end.is_none_or(|end| end <= time), "seed {seed}: not after what comes");
            }
        }
    }

    #[test]
    fn a_thousand_records_fit_a_millisecond_and_more_share_its_end() {
        let all = times(&[5; 1_002]);
        assert!(all[..1_000].is_sorted_by(|a, b| a < b));
        assert_eq!((all[999], all[1_000], all[1_001]), (5_999, 5_999, 5_999));
        let mark = Some(Mark { millis: 5, since: 0 });
        assert_eq!((last_time(mark, 999), last_time(mark, 1_000)), (Some(5_999), Some(5_999)));
        assert_eq!(times(&[5, 4, 6]), [5_000, 5_001, 6_000]);
    }
}

//! What every implementation refuses, in the same words.

use crate::{FRAME_BYTES_MAX, LogError};

/// The most partitions of a log.
pub(crate) const PARTITIONS_MAX: u64 = 1024;

/// The most bytes of a consumer's name.
pub(crate) const CONSUMER_BYTES_MAX: usize = 64;

pub(crate) fn check_partition(asked: u32, partitions: usize) -> Result<(), LogError> {
    if (asked as usize) < partitions {
        return Ok(());
    }
    Err(LogError::NoSuchPartition { asked, last: partitions as u32 - 1 })
}

pub(crate) fn check_frame(frame: &[u8]) -> Result<(), LogError> {
    if frame.len() <= FRAME_BYTES_MAX { Ok(()) } else { Err(LogError::FrameTooLarge(frame.len())) }
}

/// A consumer's name is also a file's: a closed alphabet keeps it one path component everywhere.
pub(crate) fn check_consumer(name: &str) -> Result<(), LogError> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if (1..=CONSUMER_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(LogError::Unavailable(format!(
        "a consumer's name is 1 to {CONSUMER_BYTES_MAX} of a-z, 0-9, - and _, not {name:?}"
    )))
}

/// A position past the end belongs to another log, or to records that are lost: never to be waited for.
pub(crate) fn check_within(asked: u64, end: u64) -> Result<(), LogError> {
    if asked <= end {
        return Ok(());
    }
    Err(LogError::Corrupt(format!(
        "offset {asked} lies past the end, {end}: the position belongs to another log, or the log's last files are missing"
    )))
}

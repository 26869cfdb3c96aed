//! Why a computation over paths was refused.

use thiserror::Error;

/// Parameters or counts that a model does not take.
#[derive(Debug, Clone, Copy, Error, PartialEq)]
pub enum Error {
    /// Past the channels that an exact solution is computed for.
    #[error("at most {max} channels, not {given}: choose a coarser dimension or filter the conversions")]
    TooManyChannels {
        /// What was given.
        given: usize,
        /// The bound.
        max: usize,
    },
    /// A path names a channel past the number that was announced.
    #[error("channel {channel} of a path is not one of {channels}")]
    UnknownChannel {
        /// The channel of the path.
        channel: u32,
        /// How many there are.
        channels: usize,
    },
    /// The counts do not fit 64 bits.
    #[error("the paths count more than 2^64 transitions: choose a shorter interval")]
    TooManyCounts,
    /// Shares of `position_based`.
    #[error("first and last must be from 0 to 1, and at most 1 together")]
    Position,
    /// The half-life of `time_decay`.
    #[error("the half-life must be from 1 millisecond to {}", crate::duration::format_millis(*max_millis))]
    HalfLife {
        /// The bound, milliseconds.
        max_millis: i64,
    },
}

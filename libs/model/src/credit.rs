//! Credit of one path under the rule models, as exact integers.

/// One whole conversion.
pub const CREDIT_MICROS: i64 = 1_000_000;

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

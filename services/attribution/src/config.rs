//! The service's limits.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// Limits of the worker and the fact writer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// About how many bytes of records the worker reads at once.
    pub worker_batch_bytes_max: usize,
    /// Journeys read at once.
    pub journeys_max: usize,
    /// Rows of one fact batch; a single record may go past it.
    pub fact_rows_max: usize,
    /// Touches carried by the rows of one fact batch; a single record may go past it.
    pub fact_touches_max: usize,
    /// How long the fact writer waits for a batch to fill.
    pub fact_linger_millis: u64,
    /// Decisions a slow reader of the stream may be behind.
    pub stream_decisions_max: usize,
    /// The model that is asked for the probability of fraud.
    pub score_model: String,
    /// The model that is asked for the lifetime value; none when empty.
    pub value_model: String,
    /// How long the decisions of one batch wait for their scores; 1 to [`SCORE_DEADLINE_MILLIS_MAX`].
    #[serde(deserialize_with = "score_deadline")]
    pub score_deadline_millis: u64,
    /// How long the model gateway is not asked after it failed.
    pub score_pause_millis: u64,
    /// Touches of one conversion that are scored where the settings reject above a probability, the first to win first.
    pub score_touches_max: usize,
    /// Clicks and impressions that are kept in memory to count those of a device, an address or a sub-publisher.
    pub traffic_touches_max: usize,
}

/// The longest that decisions may wait for scores.
pub const SCORE_DEADLINE_MILLIS_MAX: u64 = 1_000;

impl Default for Config {
    fn default() -> Self {
        Self {
            worker_batch_bytes_max: 1024 * 1024,
            journeys_max: 512,
            fact_rows_max: 25_000,
            fact_touches_max: 100_000,
            fact_linger_millis: 250,
            stream_decisions_max: 1_024,
            score_model: "fraud".into(),
            value_model: "value".into(),
            score_deadline_millis: 20,
            score_pause_millis: 1_000,
            score_touches_max: 10,
            traffic_touches_max: 200_000,
        }
    }
}

fn score_deadline<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let millis = u64::deserialize(from)?;
    if (1..=SCORE_DEADLINE_MILLIS_MAX).contains(&millis) {
        return Ok(millis);
    }
    Err(D::Error::custom(format!("score_deadline_millis is 1 to {SCORE_DEADLINE_MILLIS_MAX}: {millis}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn decisions_wait_for_scores_within_bounds() {
        let read = |millis: u64| {
            serde_json::from_value::<Config>(serde_json::json!({ "score_deadline_millis": millis }))
        };
        for millis in [1, 20, 1_000] {
            assert_eq!(read(millis).unwrap().score_deadline_millis, millis);
        }
        for millis in [0, 1_001] {
            assert!(read(millis).unwrap_err().to_string().contains("1 to 1000"), "{millis}");
        }
    }
}

//! Scores of touches, each made once, and conversions that are still owed one.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use fail::fail_point;
use model::EventHash;
use prost::Message;

use crate::{
    JourneyQuery, Position, StoreError,
    kv::{Batch, Kv, Reader, Table, damaged},
    rows::PositionRow,
    store::{Store, blocking},
};

/// What a model said of one touch of one conversion.
#[derive(Debug, Clone, PartialEq)]
pub struct TouchScore {
    /// The event id of the touch.
    pub touch_id: String,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The probability of fraud, 0 to 1.
    pub probability: f64,
    /// Reasons, the strongest first.
    pub reasons: Vec<String>,
}

/// Scores to store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewScores {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The event id of the conversion.
    pub conversion_id: String,
    /// What led to the decision that they were made for.
    pub cause: Position,
    /// The scores.
    pub scores: Vec<TouchScore>,
}

/// A conversion that was decided without a score that it should have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owed {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The event id of the conversion.
    pub conversion_id: String,
    /// What led to that decision.
    pub cause: Position,
}

/// Scores and what is owed of them.
///
/// Written by the worker of the conversion's partition alone, before it commits the decision that they are part of; every
/// write is idempotent under the same positions, and durable as those of [`crate::JourneyStore`] are.
#[async_trait]
pub trait Scores: Send + Sync + 'static {
    /// The scores of each conversion, ordered by touch id; none of one that is not known.
    async fn scores(&self, queries: &[JourneyQuery]) -> Result<Vec<Vec<TouchScore>>, StoreError>;

    /// Stores scores, and what is owed; a touch of a conversion that has a score keeps it.
    async fn put_scores(&self, partition: u32, scores: &[NewScores], owed: &[Owed])
    -> Result<(), StoreError>;

    /// Conversions of a partition that are owed a score, at most so many.
    async fn owed(&self, partition: u32, limit: usize) -> Result<Vec<Owed>, StoreError>;

    /// Forgets what was owed up to these causes.
    async fn settle(&self, partition: u32, owed: &[Owed]) -> Result<(), StoreError>;
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ScoreRow {
    #[prost(string, tag = "1")]
    pub(crate) touch_id: String,
    #[prost(string, tag = "2")]
    pub(crate) model: String,
    #[prost(string, tag = "3")]
    pub(crate) version: String,
    #[prost(double, tag = "4")]
    pub(crate) probability: f64,
    #[prost(string, repeated, tag = "5")]
    pub(crate) reasons: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OwedRow {
    #[prost(string, tag = "1")]
    pub(crate) tenant: String,
    #[prost(string, tag = "2")]
    pub(crate) conversion_id: String,
    #[prost(message, required, tag = "3")]
    pub(crate) cause: PositionRow,
}

// === impl Store ===

impl<K: Kv> Store<K> {
    /// See [`Scores::scores`].
    pub(crate) fn scores_now(&self, queries: &[JourneyQuery]) -> Result<Vec<Vec<TouchScore>>, StoreError> {
        let reader = Reader::new(self.kv.view());
        let of = |query: &JourneyQuery| {
            let keys = score_keys(EventHash::new(&query.tenant, &query.conversion_id));
            let rows = reader.range(Table::Scores, keys);
            in_order(rows.map(|pair| pair?.1.decode::<ScoreRow>(Table::Scores)))
        };
        queries.iter().map(of).collect()
    }

    /// See [`Scores::put_scores`].
    pub(crate) fn put_scores_now(
        &self,
        partition: u32,
        scores: &[NewScores],
        owed: &[Owed],
    ) -> Result<(), StoreError> {
        let mut cache = self.writer.lock();
        let reader = Reader::new(self.kv.view());
        let mut batch = Batch::default();
        for new in scores {
            let conversion = EventHash::new(&new.tenant, &new.conversion_id);
            for score in &new.scores {
                let key = score_key(conversion, EventHash::new(&new.tenant, &score.touch_id));
                if !reader.contains(Table::Scores, &key)? {
                    batch.put(Table::Scores, key, &ScoreRow::from(score.clone()));
                }
            }
        }
        for owed in owed {
            batch.put(Table::Owed, owed_key(partition, owed), &OwedRow::from(owed));
        }
        drop(reader);
        fail_point!("journey_store::before_scores");
        self.write(batch).inspect_err(|_| cache.clear())
    }

    /// See [`Scores::owed`].
    pub(crate) fn owed_now(&self, partition: u32, limit: usize) -> Result<Vec<Owed>, StoreError> {
        let reader = Reader::new(self.kv.view());
        let end =
            partition.checked_add(1).map_or_else(|| vec![u8::MAX; 5], |next| next.to_be_bytes().to_vec());
        let rows = reader.range(Table::Owed, partition.to_be_bytes().to_vec()..end).take(limit);
        rows.map(|pair| Ok(pair?.1.decode::<OwedRow>(Table::Owed)?.into())).collect()
    }

    /// See [`Scores::settle`].
    pub(crate) fn settle_now(&self, partition: u32, owed: &[Owed]) -> Result<(), StoreError> {
        let mut cache = self.writer.lock();
        let reader = Reader::new(self.kv.view());
        let mut batch = Batch::default();
        for owed in owed {
            let key = owed_key(partition, owed);
            let stored: Option<OwedRow> = reader.get(Table::Owed, &key)?;
            if stored.is_some_and(|stored| Position::from(stored.cause) <= owed.cause) {
                batch.remove(Table::Owed, key);
            }
        }
        drop(reader);
        self.write(batch).inspect_err(|_| cache.clear())
    }
}

#[async_trait]
impl<K: Kv> Scores for Store<K> {
    async fn scores(&self, queries: &[JourneyQuery]) -> Result<Vec<Vec<TouchScore>>, StoreError> {
        blocking(|| self.scores_now(queries))
    }

    async fn put_scores(
        &self,
        partition: u32,
        scores: &[NewScores],
        owed: &[Owed],
    ) -> Result<(), StoreError> {
        blocking(|| self.put_scores_now(partition, scores, owed))
    }

    async fn owed(&self, partition: u32, limit: usize) -> Result<Vec<Owed>, StoreError> {
        blocking(|| self.owed_now(partition, limit))
    }

    async fn settle(&self, partition: u32, owed: &[Owed]) -> Result<(), StoreError> {
        blocking(|| self.settle_now(partition, owed))
    }
}

// === rows ===

impl From<TouchScore> for ScoreRow {
    fn from(score: TouchScore) -> Self {
        let TouchScore { touch_id, model, version, probability, reasons } = score;
        Self { touch_id, model, version, probability, reasons }
    }
}

impl From<ScoreRow> for TouchScore {
    fn from(row: ScoreRow) -> Self {
        let ScoreRow { touch_id, model, version, probability, reasons } = row;
        Self { touch_id, model, version, probability, reasons }
    }
}

impl From<&Owed> for OwedRow {
    fn from(owed: &Owed) -> Self {
        Self {
            tenant: owed.tenant.to_string(),
            conversion_id: owed.conversion_id.clone(),
            cause: owed.cause.into(),
        }
    }
}

impl From<OwedRow> for Owed {
    fn from(row: OwedRow) -> Self {
        Self { tenant: row.tenant.into(), conversion_id: row.conversion_id, cause: row.cause.into() }
    }
}

/// Rows as scores, ordered by touch id; one that is no probability is damaged.
pub(crate) fn in_order(
    rows: impl Iterator<Item = Result<ScoreRow, StoreError>>,
) -> Result<Vec<TouchScore>, StoreError> {
    let mut scores = Vec::new();
    for row in rows {
        let row = row?;
        if !(0.0..=1.0).contains(&row.probability) {
            return Err(damaged(Table::Scores));
        }
        scores.push(TouchScore::from(row));
    }
    scores.sort_by(|one, other| one.touch_id.cmp(&other.touch_id));
    Ok(scores)
}

fn score_key(conversion: EventHash, touch: EventHash) -> Vec<u8> {
    [conversion.0, touch.0].concat()
}

fn score_keys(conversion: EventHash) -> Range<Vec<u8>> {
    conversion.0.to_vec()..[&conversion.0[..], &[u8::MAX; 17]].concat()
}

fn owed_key(partition: u32, owed: &Owed) -> Vec<u8> {
    let conversion = EventHash::new(&owed.tenant, &owed.conversion_id);
    [&partition.to_be_bytes()[..], &conversion.0].concat()
}

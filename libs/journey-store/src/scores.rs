//! Scores of touches and predicted values, each made once, and conversions that are still owed one.

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

/// What a model said a conversion's person will spend.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueScore {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The predicted value, in the currency of the conversion.
    pub value: f64,
    /// The lower end of its interval.
    pub lower: f64,
    /// The upper end.
    pub upper: f64,
    /// The share of such persons whose value is within it.
    pub level: f64,
}

/// What is stored of one conversion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConversionScores {
    /// Scores of its touches, ordered by touch id.
    pub touches: Vec<TouchScore>,
    /// The predicted value of its person.
    pub value: Option<ValueScore>,
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
    /// The scores, in any order.
    pub scores: ConversionScores,
}

/// What a model is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScoreKind {
    /// The probability that a touch is fraudulent.
    Fraud,
    /// What the person will spend.
    Value,
}

/// A conversion that was decided without a score that it should have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owed {
    /// What is owed.
    pub kind: ScoreKind,
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
    /// The scores of each conversion; none of one that is not known.
    async fn scores(&self, queries: &[JourneyQuery]) -> Result<Vec<ConversionScores>, StoreError>;

    /// Stores scores, and what is owed; a touch of a conversion that has a score keeps it, and so does a conversion that has
    /// a value.
    async fn put_scores(&self, partition: u32, scores: &[NewScores], owed: &[Owed])
    -> Result<(), StoreError>;

    /// Conversions of a partition that are owed a score of a kind, at most so many.
    async fn owed(&self, partition: u32, kind: ScoreKind, limit: usize) -> Result<Vec<Owed>, StoreError>;

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

/// Its numbers do not meet those of a score: a program from before there were values takes it for one of no touch.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueRow {
    #[prost(string, tag = "2")]
    model: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(double, tag = "6")]
    value: f64,
    #[prost(double, tag = "7")]
    lower: f64,
    #[prost(double, tag = "8")]
    upper: f64,
    #[prost(double, tag = "9")]
    level: f64,
}

/// A row of one conversion.
pub(crate) enum Stored {
    Touch(ScoreRow),
    Value(ValueRow),
}

/// Where a value stands among the scores of a conversion, which stand at the hashes of touches.
pub(crate) const VALUE_AT: [u8; 1] = [0];

/// Values that are owed stand beside a partition's scores, as those of a partition that no log has.
const VALUES_BESIDE: u32 = 1 << 31;

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
    pub(crate) fn scores_now(&self, queries: &[JourneyQuery]) -> Result<Vec<ConversionScores>, StoreError> {
        let reader = Reader::new(self.kv.view());
        let of = |query: &JourneyQuery| {
            let conversion = EventHash::new(&query.tenant, &query.conversion_id);
            let value_key = score_key(conversion, &VALUE_AT);
            let rows = reader.range(Table::Scores, score_keys(conversion));
            collected(rows.map(|pair| {
                let (key, payload) = pair?;
                Ok(match key[..] == value_key[..] {
                    true => Stored::Value(payload.decode(Table::Scores)?),
                    false => Stored::Touch(payload.decode(Table::Scores)?),
                })
            }))
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
            for score in &new.scores.touches {
                let key = score_key(conversion, &EventHash::new(&new.tenant, &score.touch_id).0);
                if !reader.contains(Table::Scores, &key)? {
                    batch.put(Table::Scores, key, &ScoreRow::from(score.clone()));
                }
            }
            if let Some(value) = &new.scores.value {
                let key = score_key(conversion, &VALUE_AT);
                if !reader.contains(Table::Scores, &key)? {
                    batch.put(Table::Scores, key, &ValueRow::from(value.clone()));
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
    pub(crate) fn owed_now(
        &self,
        partition: u32,
        kind: ScoreKind,
        limit: usize,
    ) -> Result<Vec<Owed>, StoreError> {
        let reader = Reader::new(self.kv.view());
        let first = owed_of(partition, kind);
        let end = [&first[..], &[u8::MAX; 17]].concat();
        let rows = reader.range(Table::Owed, first.to_vec()..end).take(limit);
        rows.map(|pair| Ok(pair?.1.decode::<OwedRow>(Table::Owed)?.owed(kind))).collect()
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
    async fn scores(&self, queries: &[JourneyQuery]) -> Result<Vec<ConversionScores>, StoreError> {
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

    async fn owed(&self, partition: u32, kind: ScoreKind, limit: usize) -> Result<Vec<Owed>, StoreError> {
        blocking(|| self.owed_now(partition, kind, limit))
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

impl From<ValueScore> for ValueRow {
    fn from(score: ValueScore) -> Self {
        let ValueScore { model, version, value, lower, upper, level } = score;
        Self { model, version, value, lower, upper, level }
    }
}

impl From<ValueRow> for ValueScore {
    fn from(row: ValueRow) -> Self {
        let ValueRow { model, version, value, lower, upper, level } = row;
        Self { model, version, value, lower, upper, level }
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

impl OwedRow {
    pub(crate) fn owed(self, kind: ScoreKind) -> Owed {
        let Self { tenant, conversion_id, cause } = self;
        Owed { kind, tenant: tenant.into(), conversion_id, cause: cause.into() }
    }
}

/// Rows of a conversion as its scores; one that is no probability, or no value within an interval, is damaged.
pub(crate) fn collected(
    rows: impl Iterator<Item = Result<Stored, StoreError>>,
) -> Result<ConversionScores, StoreError> {
    let mut scores = ConversionScores::default();
    for row in rows {
        match row? {
            Stored::Touch(row) if (0.0..=1.0).contains(&row.probability) => scores.touches.push(row.into()),
            Stored::Value(row) if row.lower <= row.value && row.value <= row.upper => {
                scores.value = Some(row.into());
            }
            Stored::Touch(_) | Stored::Value(_) => return Err(damaged(Table::Scores)),
        }
    }
    scores.touches.sort_by(|one, other| one.touch_id.cmp(&other.touch_id));
    Ok(scores)
}

/// The partition that what is owed stands under.
pub(crate) fn owed_of(partition: u32, kind: ScoreKind) -> [u8; 4] {
    match kind {
        ScoreKind::Fraud => partition.to_be_bytes(),
        ScoreKind::Value => (partition | VALUES_BESIDE).to_be_bytes(),
    }
}

fn score_key(conversion: EventHash, at: &[u8]) -> Vec<u8> {
    [&conversion.0[..], at].concat()
}

fn score_keys(conversion: EventHash) -> Range<Vec<u8>> {
    conversion.0.to_vec()..[&conversion.0[..], &[u8::MAX; 17]].concat()
}

fn owed_key(partition: u32, owed: &Owed) -> Vec<u8> {
    let conversion = EventHash::new(&owed.tenant, &owed.conversion_id);
    [&owed_of(partition, owed.kind)[..], &conversion.0].concat()
}

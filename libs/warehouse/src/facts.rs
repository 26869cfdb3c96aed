//! What is written: facts, append-only.

use model::{IdentityHash, TouchKind, Verdict};

/// Facts of one batch, in the order in which they are inserted. The same batch must always be made of the same facts in
/// the same order: resuming skips as many of each table and month as are there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Touches.
    pub touches: Vec<TouchFact>,
    /// Conversions asserted and retracted; a retraction next to the assertion that takes its place.
    pub conversions: Vec<ConversionFact>,
    /// Identities whose person changed.
    pub identities: Vec<IdentityFact>,
}

/// A touch. Absent strings are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchFact {
    /// The tenant.
    pub tenant: String,
    /// The advertised app.
    pub app_id: String,
    /// Its `event_id`.
    pub touch_id: String,
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// Append time of its record, Unix microseconds.
    pub recorded_at_micros: i64,
    /// The person key of its event.
    pub identity: IdentityHash,
    /// Its kind.
    pub kind: TouchKind,
    /// The channel.
    pub channel: String,
    /// The partner.
    pub partner: String,
    /// The campaign.
    pub campaign_id: String,
    /// The ad group.
    pub ad_group_id: String,
    /// The creative.
    pub creative_id: String,
    /// The keyword.
    pub keyword: String,
    /// The platform.
    pub platform: String,
    /// The country.
    pub country: String,
}

/// Whether an edition comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Sign {
    /// The edition came in force.
    Assert = 1,
    /// The edition was in force and no longer is: all else as it was asserted, but `recorded_at_micros`.
    Retract = -1,
}

/// One edition of a conversion's decision, asserted or retracted. Absent strings are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversionFact {
    /// The tenant.
    pub tenant: String,
    /// The app it happened in.
    pub app_id: String,
    /// Its `event_id`.
    pub conversion_id: String,
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// Append time of the record that caused the edition, Unix microseconds; of a retraction, of the record that caused
    /// the edition that took its place.
    pub recorded_at_micros: i64,
    /// Comes or goes.
    pub sign: Sign,
    /// The identity that the conversion is stored under.
    pub identity: IdentityHash,
    /// The platform.
    pub platform: String,
    /// The country.
    pub country: String,
    /// Its name.
    pub conversion: String,
    /// ISO 4217.
    pub currency: String,
    /// Micros of the currency.
    pub value_micros: i64,
    /// Every candidate in path order (time, then event id); at most [`model::JOURNEY_TOUCHES_MAX`].
    pub candidates: Vec<CandidateFact>,
    /// Index of the winner into the candidates; `None`: organic.
    pub winner: Option<u16>,
}

/// A touch that was considered for a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateFact {
    /// Its `event_id`.
    pub touch_id: String,
    /// Its kind.
    pub kind: TouchKind,
    /// Event time, Unix milliseconds.
    pub time_millis: i64,
    /// The channel.
    pub channel: String,
    /// The partner.
    pub partner: String,
    /// The campaign.
    pub campaign_id: String,
    /// The ad group.
    pub ad_group_id: String,
    /// The creative.
    pub creative_id: String,
    /// The keyword.
    pub keyword: String,
    /// How it was matched.
    pub match_type: MatchType,
    /// What became of it.
    pub verdict: Verdict,
}

/// How a touch was matched; the numbers are those of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum MatchType {
    /// By an identity.
    Identity = 1,
    /// Reserved: by the network's click id.
    ClickId = 2,
    /// Reserved: by the store's install referrer.
    InstallReferrer = 3,
    /// Reserved: by likeness.
    Probabilistic = 4,
}

/// An identity that belongs to another person than before, or that turned out to be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFact {
    /// The tenant.
    pub tenant: String,
    /// The identity.
    pub identity: IdentityHash,
    /// The person it belongs to now.
    pub person: IdentityHash,
    /// Whether its set is shared.
    pub shared: bool,
    /// Append time of the record that told, Unix microseconds.
    pub recorded_at_micros: i64,
}

/// A batch of a partition of the log, and how far the warehouse is with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: u32,
    /// 1 for the first batch of a partition, then one more each.
    pub batch: u64,
    /// The offset behind its last record.
    pub to: u64,
    /// Append time of its last record, Unix microseconds.
    pub time_micros: i64,
}

// === impl Facts ===

impl Facts {
    /// How many rows they are.
    pub fn rows(&self) -> usize {
        self.touches.len() + self.conversions.len() + self.identities.len()
    }
}

//! How keys and values are laid out. Every layout here is format version 1.
//!
//! Times are keyed with the sign bit turned, so that their bytes sort as the numbers do.

use std::ops::Range;

use model::{EventHash, IdentityHash, IdentityKind};
use prost::{Message, encoding};
use prost_types::Timestamp;
use proto::events::Event;

use crate::{
    Generation, Plan, Position, StoreError, StoredConversion,
    continuation::Continuations,
    kv::{Table, damaged},
};

/// Where an event was met first; of a conversion also where it is stored.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SeenRow {
    #[prost(message, required, tag = "1")]
    pub(crate) position: PositionRow,
    /// Empty unless the event is a conversion.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) home: Vec<u8>,
    #[prost(sint64, tag = "3")]
    pub(crate) time_millis: i64,
    /// Whether the event joined persons; only a store without transactions has to know.
    #[prost(bool, tag = "4")]
    pub(crate) joined: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct PositionRow {
    #[prost(uint32, tag = "1")]
    partition: u32,
    #[prost(uint64, tag = "2")]
    offset: u64,
    #[prost(uint32, tag = "3")]
    index: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct IdentityRow {
    #[prost(string, tag = "1")]
    pub(crate) tenant: String,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(string, tag = "3")]
    pub(crate) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PersonRow {
    /// Empty: the identity itself.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) person: Vec<u8>,
    #[prost(bool, tag = "2")]
    pub(crate) shared: bool,
    /// The time of the latest conversion stored under this identity.
    #[prost(sint64, optional, tag = "3")]
    pub(crate) latest_conversion_millis: Option<i64>,
    /// How many conversions are stored under this identity.
    #[prost(uint64, tag = "4")]
    pub(crate) conversions: u64,
    /// Whether touches are.
    #[prost(bool, tag = "5")]
    pub(crate) touched: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MembersRow {
    /// Hashes, one after the other.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) members: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConversionRow {
    #[prost(string, tag = "1")]
    pub(crate) tenant: String,
    #[prost(message, required, tag = "2")]
    pub(crate) position: PositionRow,
    #[prost(string, tag = "3")]
    pub(crate) settings_edition: String,
    #[prost(int64, tag = "4")]
    pub(crate) recorded_at_micros: i64,
    /// Without what the key says.
    #[prost(message, required, tag = "5")]
    pub(crate) event: Event,
}

/// A row that only its key says something.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EmptyRow {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EditionRow {
    /// 1 for the first edition of a conversion, then one more each.
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) cause: PositionRow,
    #[prost(int32, tag = "3")]
    pub(crate) reason: i32,
    #[prost(int64, tag = "4")]
    pub(crate) recorded_at_micros: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) digest: Vec<u8>,
    /// Empty in a past edition, and where decisions are in a table of their own.
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) decision: bytes::Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct IdentityEffectRow {
    #[prost(string, tag = "1")]
    pub(crate) tenant: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) person: Vec<u8>,
    #[prost(bool, tag = "3")]
    pub(crate) shared: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EditionEffectRow {
    #[prost(string, tag = "1")]
    pub(crate) tenant: String,
    #[prost(message, required, tag = "2")]
    pub(crate) cause: PositionRow,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) home: Vec<u8>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) retracted: Option<bytes::Bytes>,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) asserted: bytes::Bytes,
    /// The keys of those of the two that are in a table of their own.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub(crate) retracted_key: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(crate) asserted_key: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GenerationRow {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) log: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) id: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) continuations: Vec<ContinuationRow>,
}

/// The keys of the hash of keys, where [`Table::Met`] has all that were written.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetRow {
    #[prost(fixed64, tag = "1")]
    pub(crate) first: u64,
    #[prost(fixed64, tag = "2")]
    pub(crate) second: u64,
}

/// A log that was lost, and where positions go on.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContinuationRow {
    #[prost(uint64, tag = "1")]
    pub(crate) first: u64,
    /// By partition, as the next.
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) reported: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    pub(crate) consumed: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OffsetRow {
    #[prost(uint64, tag = "1")]
    pub(crate) offset: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PlanRow {
    #[prost(uint64, tag = "1")]
    batch: u64,
    #[prost(uint64, tag = "2")]
    from: u64,
    #[prost(uint64, tag = "3")]
    to: u64,
    #[prost(fixed64, tag = "4")]
    stamp: u64,
}

/// What an effect's key names besides its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EffectKey {
    Repeat(u32),
    Identity(IdentityHash),
    Edition(u32, EventHash),
}

const HASH_BYTES: usize = 16;
const TIMELINE_HEAD_BYTES: usize = HASH_BYTES + 8;

// === keys ===

/// The key of a home's touch or conversion; with an empty id the first key of that time.
pub(crate) fn timeline_key(home: IdentityHash, time_millis: i64, event_id: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(TIMELINE_HEAD_BYTES + event_id.len());
    key.extend_from_slice(&home.0);
    push_time(&mut key, time_millis);
    key.extend_from_slice(event_id.as_bytes());
    key
}

/// The first key of a home behind `time_millis`, and behind all its times if that is the last there is.
pub(crate) fn timeline_end(home: IdentityHash, time_millis: i64) -> Vec<u8> {
    match time_millis.checked_add(1) {
        Some(next) => timeline_key(home, next, ""),
        None => [&home.0[..], &[u8::MAX; 9]].concat(),
    }
}

/// The home of a timeline key.
pub(crate) fn timeline_home(key: &[u8]) -> Option<IdentityHash> {
    key.first_chunk().copied().map(IdentityHash)
}

/// What a timeline key sorts by within its home: (time, event id).
pub(crate) fn timeline_order(key: &[u8]) -> &[u8] {
    key.get(HASH_BYTES..).unwrap_or_default()
}

/// The time and the event id in a timeline key, or in a name key without its name.
pub(crate) fn timeline_parts(table: Table, order: &[u8]) -> Result<(i64, String), StoreError> {
    let (time, id) = order.split_first_chunk::<8>().ok_or_else(|| damaged(table))?;
    let id = std::str::from_utf8(id).map_err(|_| damaged(table))?;
    Ok(((u64::from_be_bytes(*time) ^ (1 << 63)) as i64, id.to_owned()))
}

/// The start of the keys of one conversion name of a home.
pub(crate) fn name_prefix(home: IdentityHash, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 * HASH_BYTES + 8 + 64);
    key.extend_from_slice(&home.0);
    key.extend_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..HASH_BYTES]);
    key
}

/// The key of a conversion of a name; with an empty id the first key of that time.
pub(crate) fn name_key(home: IdentityHash, name: &str, time_millis: i64, event_id: &str) -> Vec<u8> {
    let mut key = name_prefix(home, name);
    push_time(&mut key, time_millis);
    key.extend_from_slice(event_id.as_bytes());
    key
}

/// The first key of a name behind `time_millis`.
pub(crate) fn name_end(home: IdentityHash, name: &str, time_millis: i64) -> Vec<u8> {
    match time_millis.checked_add(1) {
        Some(next) => name_key(home, name, next, ""),
        None => [&name_prefix(home, name)[..], &[u8::MAX; 9]].concat(),
    }
}

/// What a name key sorts by within its name: (time, event id).
pub(crate) fn name_order(key: &[u8]) -> &[u8] {
    key.get(2 * HASH_BYTES..).unwrap_or_default()
}

/// The key of the edition in force.
pub(crate) fn edition_key(conversion: EventHash) -> Vec<u8> {
    [&conversion.0[..], &[0]].concat()
}

/// The key of a past edition: its slot is taken again after as many editions as are kept.
pub(crate) fn past_edition_key(conversion: EventHash, number: u64) -> Vec<u8> {
    let slot = (number % crate::EDITIONS_MAX as u64) as u8;
    [&conversion.0[..], &[1, slot]].concat()
}

/// The range of all past editions.
pub(crate) fn past_editions(conversion: EventHash) -> Range<Vec<u8>> {
    [&conversion.0[..], &[1]].concat()..[&conversion.0[..], &[2]].concat()
}

/// The key of an edition's decision. They are written in about this order.
pub(crate) fn decision_key(conversion: EventHash, edition: &EditionRow) -> Vec<u8> {
    let mut key = Vec::with_capacity(HASH_BYTES + 16);
    push_time(&mut key, edition.recorded_at_micros);
    key.extend_from_slice(&conversion.0);
    key.extend_from_slice(&edition.number.to_be_bytes());
    key
}

/// The first key of a record's effects.
pub(crate) fn effects_key(partition: u32, offset: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    key.extend_from_slice(&partition.to_be_bytes());
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// The key of one effect.
pub(crate) fn effect_key(partition: u32, offset: u64, effect: EffectKey) -> Vec<u8> {
    let mut key = effects_key(partition, offset);
    match effect {
        EffectKey::Repeat(index) => {
            key.push(0);
            key.extend_from_slice(&index.to_be_bytes());
        }
        EffectKey::Identity(identity) => {
            key.push(1);
            key.extend_from_slice(&identity.0);
        }
        EffectKey::Edition(index, conversion) => {
            key.push(2);
            key.extend_from_slice(&index.to_be_bytes());
            key.extend_from_slice(&conversion.0);
        }
    }
    key
}

/// The offset and the rest of an effect's key.
pub(crate) fn effect_parts(key: &[u8]) -> Result<(u64, EffectKey), StoreError> {
    let parse = || {
        let (_, key) = key.split_first_chunk::<4>()?;
        let (offset, key) = key.split_first_chunk::<8>()?;
        let (kind, key) = key.split_first()?;
        let effect = match kind {
            0 => EffectKey::Repeat(u32::from_be_bytes(key.try_into().ok()?)),
            1 => EffectKey::Identity(IdentityHash(key.try_into().ok()?)),
            2 => {
                let (index, hash) = key.split_first_chunk::<4>()?;
                EffectKey::Edition(u32::from_be_bytes(*index), EventHash(hash.try_into().ok()?))
            }
            _ => return None,
        };
        Some((u64::from_be_bytes(*offset), effect))
    };
    parse().ok_or_else(|| damaged(Table::Effects))
}

/// The key of the generation.
pub(crate) fn generation_key() -> Vec<u8> {
    vec![1]
}

/// The key of what keys are hashed with.
pub(crate) fn met_key() -> Vec<u8> {
    vec![4]
}

/// The key of a partition's consumed offset.
pub(crate) fn consumed_key(partition: u32) -> Vec<u8> {
    [&[2][..], &partition.to_be_bytes()].concat()
}

/// The key of a partition's plan.
pub(crate) fn plan_key(partition: u32) -> Vec<u8> {
    [&[3][..], &partition.to_be_bytes()].concat()
}

fn push_time(key: &mut Vec<u8>, time: i64) {
    key.extend_from_slice(&((time as u64) ^ (1 << 63)).to_be_bytes());
}

// === values ===

impl From<Position> for PositionRow {
    fn from(position: Position) -> Self {
        Self { partition: position.partition, offset: position.offset, index: position.index }
    }
}

impl From<PositionRow> for Position {
    fn from(row: PositionRow) -> Self {
        Self { partition: row.partition, offset: row.offset, index: row.index }
    }
}

impl IdentityRow {
    pub(crate) fn new(tenant: &str, kind: IdentityKind, value: &str) -> Self {
        Self { tenant: tenant.to_owned(), kind: kind as u32, value: value.to_owned() }
    }

    pub(crate) fn kind(&self) -> Result<IdentityKind, StoreError> {
        [IdentityKind::Device, IdentityKind::Cookie, IdentityKind::User]
            .into_iter()
            .find(|kind| *kind as u32 == self.kind)
            .ok_or_else(|| damaged(Table::Identities))
    }
}

impl MembersRow {
    pub(crate) fn new(members: &[IdentityHash]) -> Self {
        Self { members: members.iter().flat_map(|member| member.0).collect() }
    }

    pub(crate) fn hashes(&self) -> Result<Vec<IdentityHash>, StoreError> {
        let (hashes, rest) = self.members.as_chunks::<HASH_BYTES>();
        if hashes.is_empty() || !rest.is_empty() {
            return Err(damaged(Table::Members));
        }
        Ok(hashes.iter().map(|hash| IdentityHash(*hash)).collect())
    }
}

impl ConversionRow {
    pub(crate) fn into_stored(
        self,
        home: IdentityHash,
        time_millis: i64,
        event_id: String,
    ) -> StoredConversion {
        StoredConversion {
            position: self.position.into(),
            settings_edition: self.settings_edition.into(),
            recorded_at_micros: self.recorded_at_micros,
            home,
            event: restored(self.event, time_millis, event_id),
        }
    }
}

impl GenerationRow {
    pub(crate) fn new(generation: Generation, continuations: &Continuations) -> Self {
        Self {
            log: generation.log.to_be_bytes().to_vec(),
            id: generation.id.to_be_bytes().to_vec(),
            continuations: continuations.0.iter().map(ContinuationRow::from).collect(),
        }
    }

    /// What stands in it, which is then gone from it.
    pub(crate) fn take_continuations(&mut self) -> Continuations {
        Continuations(std::mem::take(&mut self.continuations).into_iter().map(Into::into).collect())
    }
}

impl TryFrom<GenerationRow> for Generation {
    type Error = StoreError;

    fn try_from(row: GenerationRow) -> Result<Self, StoreError> {
        let number =
            |bytes: Vec<u8>| bytes.try_into().map(u128::from_be_bytes).map_err(|_| damaged(Table::Meta));
        Ok(Self { log: number(row.log)?, id: number(row.id)? })
    }
}

impl From<Plan> for PlanRow {
    fn from(plan: Plan) -> Self {
        Self { batch: plan.batch, from: plan.from, to: plan.to, stamp: plan.stamp }
    }
}

impl From<PlanRow> for Plan {
    fn from(row: PlanRow) -> Self {
        Self { batch: row.batch, from: row.from, to: row.to, stamp: row.stamp }
    }
}

/// A hash out of a row.
pub(crate) fn identity(table: Table, bytes: &[u8]) -> Result<IdentityHash, StoreError> {
    bytes.try_into().map(IdentityHash).map_err(|_| damaged(table))
}

/// The time of an event, Unix milliseconds.
pub(crate) fn time_millis(event: &Event) -> Option<i64> {
    let time = event.timestamp?;
    time.seconds.checked_mul(1_000)?.checked_add(i64::from(time.nanos).div_euclid(1_000_000))
}

/// An event without what its key says.
pub(crate) fn stripped(event: &Event) -> Event {
    Event { event_id: String::new(), timestamp: None, ..event.clone() }
}

/// [`stripped`], encoded, without a copy of each of the event's texts.
pub(crate) fn encode_stripped(event: &Event) -> Vec<u8> {
    let mut bytes = event.encode_to_vec();
    // Fields are written in the order of their numbers: the id is the first, the time the third.
    let id = match &event.event_id[..] {
        "" => 0,
        _ => encoding::string::encoded_len(1, &event.event_id),
    };
    let kind = match event.event_type {
        0 => 0,
        _ => encoding::int32::encoded_len(2, &event.event_type),
    };
    let time = event.timestamp.map_or(0, |time| encoding::message::encoded_len(3, &time));
    bytes.drain(id + kind..id + kind + time);
    bytes.drain(..id);
    bytes
}

/// An event with what its key says.
pub(crate) fn restored(event: Event, time_millis: i64, event_id: String) -> Event {
    let timestamp = Timestamp {
        seconds: time_millis.div_euclid(1_000),
        // Below 1,000 million.
        nanos: (time_millis.rem_euclid(1_000) * 1_000_000) as i32,
    };
    Event { event_id, timestamp: Some(timestamp), ..event }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_event_is_encoded_without_what_its_key_says() {
        let times = [None, Some(0), Some(1_767_225_600_123), Some(-1)];
        for (id, kind, time) in ["", "e", &"i".repeat(200)]
            .into_iter()
            .flat_map(|id| [0, 1, 5].map(|kind| (id, kind)))
            .flat_map(|(id, kind)| times.map(|time| (id, kind, time)))
        {
            let event =
                Event { event_type: kind, device_id: "d".into(), ip: "::1".into(), ..Event::default() };
            let event = match time {
                Some(time) => restored(event, time, id.to_owned()),
                None => Event { event_id: id.to_owned(), ..event },
            };
            assert_eq!(encode_stripped(&event), stripped(&event).encode_to_vec(), "{event:?}");
        }
    }
}

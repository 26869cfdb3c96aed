//! Where each row is: its table, its partition, and its place in it; and which of two writes to one row counts.
//!
//! The key of a row as the embedded store has it is cut in two: what a query names goes into the partition, what it sorts by
//! comes after. Values are the rows of the embedded store, sealed with the same checksum over the whole key.

use model::{EventHash, IdentityHash};
use prost::Message;

use crate::{
    Position, StoreError,
    kv::{self, Table, damaged},
    rows::{self, EditionEffectRow, EditionRow, EffectKey, EmptyRow},
};

/// A partition of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) table: Table,
    pub(crate) key: Vec<u8>,
    /// Keeps partitions small: a span of time and a slice of it, or some records of the log.
    pub(crate) bucket: i64,
}

/// Asks for rows of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) place: Place,
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    /// Whether the last rows come first.
    pub(crate) newest: bool,
    pub(crate) limit: usize,
}

/// A verified row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) at: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// A row to write.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) place: Place,
    pub(crate) at: Vec<u8>,
    /// Sealed.
    pub(crate) value: Vec<u8>,
    /// Of two writes to one row the one with the higher stamp counts, whenever they come; of equal stamps the greater value.
    pub(crate) stamp: i64,
}

/// An edition in force and what the warehouse is owed for it. They are one value, here and among the effects, so that of two
/// writes under one cause the same one counts in both places.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InForceRow {
    #[prost(message, required, tag = "1")]
    pub(crate) effect: EditionEffectRow,
    /// Without the decision: it is what the effect asserts.
    #[prost(message, required, tag = "2")]
    pub(crate) edition: EditionRow,
}

/// What a timeline is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    Touches = 0,
    Conversions = 1,
}

/// What a row of the table `persons` says of its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Shared,
    Link(IdentityHash),
    /// There are rows of this kind and span; a marked one stands for [`MARKED_ONE_IN`] of them.
    Span {
        kind: Kind,
        span: i64,
        marked: bool,
    },
}

/// Behind every place in a partition.
pub(crate) const END: [u8; 17] = [u8::MAX; 17];

/// The length of a span of time is two to this, in milliseconds: 24.9 days. A journey reaches over at most five.
const SPAN_BITS: u32 = 31;
const SLICE_BITS: u32 = 16;
/// One event in so many, chosen by its hash, is marked in its home's row, so that the number of events can be told from
/// the marks: a counter could not be written twice.
pub(crate) const MARKED_ONE_IN: u32 = 1_024;
/// A span is cut into twice the slices when there are so many marks for each: a partition holds some 16,000 events.
const SLICE_MARKS: u32 = 8;
const SLICES_MAX: u32 = 1 << 15;
/// Records whose effects are in one partition are two to this.
const EFFECT_RECORD_BITS: u32 = 4;

// === what counts ===

/// The later position counts.
///
/// Offsets rise, so what a partition's worker writes for a later record counts whatever the clocks say, and what a worker
/// writes that has lost the partition does not come back. All stamps are below zero: a server refuses those of a far future.
pub(crate) fn last(offset: u64, index: u32) -> i64 {
    order(offset, index) + i64::MIN / 2
}

/// The earlier position counts.
pub(crate) fn first(position: Position) -> i64 {
    -1 - order(position.offset, position.index)
}

/// For rows that are only added, and whose value is always the same.
pub(crate) const ADDED: i64 = -1;

fn order(offset: u64, index: u32) -> i64 {
    let offset = offset.min((1 << 42) - 1);
    let index = index.min((1 << 20) - 1);
    // Below 2^62.
    (offset << 20 | u64::from(index)).cast_signed()
}

// === impl Place ===

impl Place {
    pub(crate) fn new(table: Table, key: Vec<u8>) -> Self {
        Self { table, key, bucket: 0 }
    }

    pub(crate) fn seen(hash: EventHash) -> Self {
        Self::new(Table::Seen, hash.0.to_vec())
    }

    pub(crate) fn identity(identity: IdentityHash) -> Self {
        Self::new(Table::Identities, identity.0.to_vec())
    }

    pub(crate) fn person(identity: IdentityHash) -> Self {
        Self::new(Table::Persons, identity.0.to_vec())
    }

    /// Of two partitions of the log that decide one event id, each has editions of its own.
    pub(crate) fn editions(conversion: EventHash, partition: u32) -> Self {
        Self::new(Table::Editions, [&conversion.0[..], &partition.to_be_bytes()].concat())
    }

    pub(crate) fn meta(partition: u32) -> Self {
        Self::new(Table::Meta, partition.to_be_bytes().to_vec())
    }

    pub(crate) fn effects(partition: u32, bucket: i64) -> Self {
        Self { table: Table::Effects, key: partition.to_be_bytes().to_vec(), bucket }
    }

    /// A slice of a span of a home's touches or conversions, or with a longer key of its conversions of one name.
    pub(crate) fn timeline(table: Table, key: Vec<u8>, span: i64, slice: u32) -> Self {
        Self { table, key, bucket: span << SLICE_BITS | i64::from(slice) }
    }

    /// Everything in it.
    pub(crate) fn all(self) -> Read {
        self.range(Vec::new(), END.to_vec())
    }

    /// What stands there.
    pub(crate) fn one(self, at: Vec<u8>) -> Read {
        let to = [&at[..], &[0]].concat();
        self.range(at, to)
    }

    pub(crate) fn range(self, from: Vec<u8>, to: Vec<u8>) -> Read {
        Read { place: self, from, to, newest: false, limit: usize::MAX }
    }

    /// A row in it.
    pub(crate) fn write(self, at: Vec<u8>, message: &impl Message, stamp: i64) -> Write {
        let value = kv::sealed(self.table, &[&self.key[..], &at].concat(), message);
        Write { place: self, at, value, stamp }
    }
}

// === impl Row ===

impl Row {
    pub(crate) fn decode<M: Message + Default>(&self, table: Table) -> Result<M, StoreError> {
        M::decode(&self.value[..]).map_err(|_| damaged(table))
    }
}

// === impl Kind ===

impl Kind {
    pub(crate) fn table(self) -> Table {
        match self {
            Self::Touches => Table::Touches,
            Self::Conversions => Table::Conversions,
        }
    }
}

// === impl Told ===

impl Told {
    pub(crate) fn write(self, of: IdentityHash, event: Option<EventHash>) -> Write {
        let at = match self {
            Self::Shared => vec![0],
            Self::Link(other) => [&[1][..], &other.0].concat(),
            Self::Span { kind, span, .. } => {
                let mark = event.map_or_else(Vec::new, |event| event.0.to_vec());
                [&[2, kind as u8][..], &turned(span), &mark].concat()
            }
        };
        Place::person(of).write(at, &EmptyRow {}, ADDED)
    }

    pub(crate) fn read(row: &Row) -> Result<Self, StoreError> {
        row.decode::<EmptyRow>(Table::Persons)?;
        let parse = || match row.at.split_first()? {
            (0, []) => Some(Self::Shared),
            (1, other) => Some(Self::Link(IdentityHash(other.try_into().ok()?))),
            (2, [kind, rest @ ..]) => {
                let (span, mark) = rest.split_first_chunk()?;
                let kind = match kind {
                    0 => Kind::Touches,
                    1 => Kind::Conversions,
                    _ => return None,
                };
                Some(Self::Span { kind, span: unturned(*span), marked: !mark.is_empty() })
            }
            _ => None,
        };
        parse().ok_or_else(|| damaged(Table::Persons))
    }
}

// === time ===

/// The span that a time is in.
pub(crate) fn span(time_millis: i64) -> i64 {
    time_millis >> SPAN_BITS
}

/// Whether an event is one that is marked.
pub(crate) fn is_marked(event: EventHash) -> bool {
    number(event, 0).is_multiple_of(MARKED_ONE_IN)
}

/// Into how many slices a span with so many marks is cut: a power of two that never shrinks.
pub(crate) fn slices(marks: u32) -> u32 {
    (marks / SLICE_MARKS).max(1).next_power_of_two().min(SLICES_MAX)
}

/// The slice of an event among so many.
pub(crate) fn slice(event: EventHash, slices: u32) -> u32 {
    number(event, 4) % slices
}

/// Every slice an event may have been put in while there were at most so many.
pub(crate) fn possible_slices(event: EventHash, slices: u32) -> Vec<u32> {
    let mut possible: Vec<u32> = (0..=slices.ilog2()).map(|bits| slice(event, 1 << bits)).collect();
    possible.dedup();
    possible.sort_unstable();
    possible.dedup();
    possible
}

fn number(event: EventHash, from: usize) -> u32 {
    event.0[from..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Sorts as the number does.
fn turned(number: i64) -> [u8; 8] {
    (number.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn unturned(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

// === what the warehouse is owed ===

/// The partition of a record's effects.
pub(crate) fn effect_bucket(offset: u64) -> i64 {
    (offset >> EFFECT_RECORD_BITS).cast_signed()
}

/// Where an effect stands in its partition.
pub(crate) fn effect_at(offset: u64, effect: EffectKey) -> Vec<u8> {
    rows::effect_key(0, offset, effect).split_off(size_of::<u32>())
}

/// Where it stands that an identity belongs to a person. It is part of the place, so that what is told twice of one record is
/// both kept: workers of several partitions tell what they see, and the smallest person counts.
pub(crate) fn identity_at(
    offset: u64,
    identity: IdentityHash,
    person: IdentityHash,
    shared: bool,
) -> Vec<u8> {
    let mut at = effect_at(offset, EffectKey::Identity(identity));
    at.extend_from_slice(&person.0);
    at.push(u8::from(shared));
    at
}

/// The first place of a record's effects.
pub(crate) fn effects_from(offset: u64) -> Vec<u8> {
    offset.to_be_bytes().to_vec()
}

/// The offset and the key of an effect that stands there.
pub(crate) fn effect_parts(at: &[u8]) -> Result<(u64, EffectKey), StoreError> {
    const IDENTITY_BYTES: usize = 8 + 1 + 16;
    let at = if at.get(8) == Some(&1) { at.get(..IDENTITY_BYTES).unwrap_or(at) } else { at };
    rows::effect_parts(&[&[0; size_of::<u32>()][..], at].concat())
}

/// Where the bookkeeping of a partition stands.
pub(crate) mod meta {
    pub(crate) const CONSUMED: [u8; 1] = [2];

    /// Says that there are effects in a bucket.
    pub(crate) fn effects(bucket: i64) -> Vec<u8> {
        [&[4][..], &bucket.to_be_bytes()].concat()
    }

    /// The bucket that a row of the effects names.
    pub(crate) fn bucket(at: &[u8]) -> Option<i64> {
        let (4, bucket) = at.split_first()? else { return None };
        Some(i64::from_be_bytes(bucket.try_into().ok()?))
    }
}

//! The seam between what is stored and where: ordered tables of bytes, one atomic write, one durable point.
//!
//! Owns the checksum on every value. A back-end knows nothing of events and persons.

use std::{
    ops::{Deref, Range},
    sync::Arc,
};

use bytes::Bytes;
use model::IdentityHash;

use crate::{
    StoreError,
    met::Met,
    recent::{Recent, Writes},
};

/// The tables. The number is part of the checksum, the name part of the files: neither ever changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Table {
    /// Generation, consumed offsets, plans.
    Meta = 0,
    /// Event hash → first position, and where a conversion is.
    Seen = 1,
    /// Identity → tenant, kind and value, for display.
    Identities = 2,
    /// Identity → its person, whether it is shared, its latest conversion.
    Persons = 3,
    /// Person → its identities, if there is more than one.
    Members = 4,
    /// Home, time, event id → touch.
    Touches = 5,
    /// Home, time, event id → conversion.
    Conversions = 6,
    /// Home, conversion name, time, event id → nothing.
    Names = 7,
    /// Event hash, slot → edition.
    Editions = 8,
    /// Partition, offset, kind, … → effect.
    Effects = 9,
    /// Conversion hash, touch hash → score; conversion hash, 0 → predicted value.
    Scores = 10,
    /// Partition, conversion hash → a score that is owed.
    Owed = 11,
    /// Number → hashes of keys that were written to tables of single keys.
    Met = 12,
    /// Time of the cause, conversion hash, number of the edition → decision.
    Decisions = 13,
}

/// How many tables there are.
pub(crate) const TABLES: usize = 14;

/// A key and a value as a view yields them.
pub(crate) type Pair<S> = (S, S);

/// A back-end.
pub(crate) trait Kv: Send + Sync + 'static {
    /// A consistent state, as after the last write.
    type View<'a>: View
    where
        Self: 'a;

    /// Reads.
    fn view(&self) -> Self::View<'_>;

    /// Applies all of a batch or nothing; later views see it. Not durable yet, but a crash keeps a prefix of the writes.
    fn write(&self, batch: Batch) -> Result<(), StoreError>;

    /// Makes every write before it durable.
    fn persist(&self) -> Result<(), StoreError>;

    /// Empties every table; not atomic.
    fn clear(&self) -> Result<(), StoreError>;
}

/// A consistent state of all tables.
pub(crate) trait View {
    /// Bytes as the back-end holds them.
    type Slice: Deref<Target = [u8]>;

    /// The value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Self::Slice>, StoreError>;

    /// Keys and values of a range, from either end. A range that runs backwards is empty.
    fn range(
        &self,
        table: Table,
        keys: Range<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair<Self::Slice>, StoreError>>;
}

/// Writes that happen together. Of several writes to one key the last counts.
#[derive(Default, Clone)]
pub(crate) struct Batch {
    /// Table, key, sealed value; no value: removed.
    pub(crate) writes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

/// A view that verifies what it reads.
pub(crate) struct Reader<V> {
    view: V,
    met: Option<Arc<Met>>,
    /// With the writes that there were when the view was taken.
    recent: Option<(Arc<Recent>, Writes)>,
}

/// Bytes of a view, or kept in memory.
pub(crate) enum Slice<S> {
    Stored(S),
    Kept(Bytes),
}

/// A verified value, without its checksum.
pub(crate) struct Payload<S>(S);

/// A key and its verified value.
pub(crate) type Verified<S> = (S, Payload<S>);

const CHECKSUM_BYTES: usize = 4;

// === impl Table ===

impl Table {
    /// Its name in files and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Seen => "seen",
            Self::Identities => "identities",
            Self::Persons => "persons",
            Self::Members => "members",
            Self::Touches => "touches",
            Self::Conversions => "conversions",
            Self::Names => "names",
            Self::Editions => "editions",
            Self::Effects => "effects",
            Self::Scores => "scores",
            Self::Owed => "owed",
            Self::Met => "met",
            Self::Decisions => "decisions",
        }
    }
}

// === impl Batch ===

impl Batch {
    /// With place for this many writes.
    pub(crate) fn with_capacity(writes: usize) -> Self {
        Self { writes: Vec::with_capacity(writes) }
    }

    /// Writes a message.
    pub(crate) fn put(&mut self, table: Table, key: Vec<u8>, value: &impl prost::Message) {
        let bytes = sealed(table, &key, value);
        self.writes.push((table, key, Some(bytes)));
    }

    /// Writes an encoded message.
    pub(crate) fn put_encoded(&mut self, table: Table, key: Vec<u8>, mut bytes: Vec<u8>) {
        bytes.extend_from_slice(&checksum(table, &key, &bytes).to_le_bytes());
        self.writes.push((table, key, Some(bytes)));
    }

    /// Removes a key.
    pub(crate) fn remove(&mut self, table: Table, key: Vec<u8>) {
        self.writes.push((table, key, None));
    }
}

// === impl Reader ===

impl<V: View> Reader<V> {
    pub(crate) fn new(view: V) -> Self {
        Self { view, met: None, recent: None }
    }

    /// One that does not ask for what certainly is not there, nor for touches that are in memory.
    pub(crate) fn knowing(view: V, met: &Arc<Met>, (recent, writes): (&Arc<Recent>, Writes)) -> Self {
        Self { view, met: Some(Arc::clone(met)), recent: Some((Arc::clone(recent), writes)) }
    }

    /// The message of a key.
    pub(crate) fn get<M: prost::Message + Default>(
        &self,
        table: Table,
        key: &[u8],
    ) -> Result<Option<M>, StoreError> {
        match self.stored(table, key)? {
            Some(value) => Payload::verify(table, key, value)?.decode(table).map(Some),
            None => Ok(None),
        }
    }

    /// The bytes of a key.
    pub(crate) fn get_encoded(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Some(value) = self.stored(table, key)? else { return Ok(None) };
        Ok(Some(Bytes::copy_from_slice(opened(table, key, &value)?)))
    }

    /// Whether there is a key; its value is verified as well.
    pub(crate) fn contains(&self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        match self.stored(table, key)? {
            Some(value) => Payload::verify(table, key, value).map(|_| true),
            None => Ok(false),
        }
    }

    /// Verified pairs of a range, from either end.
    pub(crate) fn range(
        &self,
        table: Table,
        keys: Range<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Verified<V::Slice>, StoreError>> {
        self.view.range(table, keys).map(move |pair| {
            let (key, value) = pair?;
            let payload = Payload::verify(table, &key, value)?;
            Ok((key, payload))
        })
    }

    /// The touches of a home in a range of their keys, from either end.
    pub(crate) fn touches(
        &self,
        home: IdentityHash,
        keys: Range<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Verified<Slice<V::Slice>>, StoreError>> {
        let kept = self.recent.as_ref().and_then(|(recent, writes)| recent.touches(home, &keys, *writes));
        let stored = kept.is_none().then(|| self.range(Table::Touches, keys)).into_iter().flatten();
        let stored = stored.map(|pair| {
            let (key, Payload(value)) = pair?;
            Ok((Slice::Stored(key), Payload(Slice::Stored(value))))
        });
        let kept = kept.into_iter().flatten();
        stored.chain(kept.map(|(key, value)| Ok((Slice::Kept(key), Payload(Slice::Kept(value))))))
    }

    fn stored(&self, table: Table, key: &[u8]) -> Result<Option<V::Slice>, StoreError> {
        match self.met.as_ref().is_none_or(|met| met.may_have(table, key)) {
            true => self.view.get(table, key),
            false => Ok(None),
        }
    }
}

// === impl Slice ===

impl<S: Deref<Target = [u8]>> Deref for Slice<S> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Kept(bytes) => bytes,
        }
    }
}

// === impl Payload ===

impl<S: Deref<Target = [u8]>> Payload<S> {
    fn verify(table: Table, key: &[u8], value: S) -> Result<Self, StoreError> {
        opened(table, key, &value)?;
        Ok(Self(value))
    }

    /// The message in it.
    pub(crate) fn decode<M: prost::Message + Default>(&self, table: Table) -> Result<M, StoreError> {
        let payload = &self.0[..self.0.len() - CHECKSUM_BYTES];
        M::decode(payload).map_err(|_| damaged(table))
    }
}

/// The error for a value that is not what was written.
pub(crate) fn damaged(table: Table) -> StoreError {
    StoreError::Corrupt(format!("in table {}", table.name()))
}

/// A message with the checksum over its table, its key and itself.
pub(crate) fn sealed(table: Table, key: &[u8], value: &impl prost::Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.encoded_len() + CHECKSUM_BYTES);
    value.encode_raw(&mut bytes);
    bytes.extend_from_slice(&checksum(table, key, &bytes).to_le_bytes());
    bytes
}

/// What was sealed, without its checksum.
pub(crate) fn opened<'a>(table: Table, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], StoreError> {
    value
        .split_last_chunk::<CHECKSUM_BYTES>()
        .filter(|(payload, sum)| checksum(table, key, payload) == u32::from_le_bytes(**sum))
        .map(|(payload, _)| payload)
        .ok_or_else(|| damaged(table))
}

fn checksum(table: Table, key: &[u8], payload: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&[table as u8]);
    let sum = crc32c::crc32c_append(sum, &(key.len() as u32).to_le_bytes());
    let sum = crc32c::crc32c_append(sum, key);
    crc32c::crc32c_append(sum, payload)
}

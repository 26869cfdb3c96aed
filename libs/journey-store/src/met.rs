//! Which keys certainly are not there: a filter in memory over all keys of the tables that are asked for single ones.
//!
//! Nearly every id that comes in is new, nearly every person has one identity, and nearly every conversion is decided for
//! the first time. "It is not there" is the answer for which ordered tables in many parts take longest. The filter may
//! take an absent key for a present one, and then the table is asked; never the other way round.
//! The hashes of all keys are written with them, one behind the other. Until it has read those of before a start, a piece
//! with every batch that is recorded, it excludes nothing. Stores that were begun before there were any have their tables
//! read instead.

use std::{
    hash::{BuildHasher, Hasher},
    hint::black_box,
    sync::{
        OnceLock,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use parking_lot::Mutex;

use crate::{
    StoreError,
    folding::Folding,
    kv::{self, Batch, Kv, Reader, Table, View},
    rows::{self, MetRow},
};

/// Keys, of which some absent ones may be taken for present.
///
/// Whoever reads after a write sees what was added before it: the tables' own locks see to that.
#[derive(Default)]
pub(crate) struct Met {
    /// Set by the first who reads or writes.
    folding: OnceLock<Folding>,
    parts: [OnceLock<Box<[Block]>>; PARTS_MAX],
    /// How many of [`READ`] are known completely.
    known: AtomicUsize,
    /// For the one who writes.
    filling: Mutex<Filling>,
}

#[derive(Default)]
struct Filling {
    /// The number of the next row of hashes, which is how many are in those before it; nothing: the store has none.
    next: Option<u64>,
    /// From where on the hashes, or the first table not known, are to be read.
    from: Vec<u8>,
    /// The part that takes keys, and how many more it has place for.
    part: usize,
    room: usize,
}

/// Bits in one cache line, changed by nobody but who holds [`Filling`].
#[repr(align(64))]
#[derive(Default)]
struct Block([AtomicU64; BLOCK_WORDS]);

/// The tables, those with small values first.
const READ: [Table; 4] = [Table::Seen, Table::Persons, Table::Members, Table::Editions];
const BLOCK_WORDS: usize = 8;
/// Keys of one block: 16 bits each, so that less than one in 100 absent ones is taken for present.
const BLOCK_KEYS: usize = 32;
/// Keys of the first part; each one more has place for four times as many.
const FIRST_KEYS: usize = if cfg!(test) { 1 << 7 } else { 1 << 17 };
/// The last one is sixteen times as large as the one before, so that a store of many keys has all the memory that it will
/// take at once. 277 MiB for 145 million keys; beyond, it takes more and more absent ones for present.
const LAST_KEYS: usize = FIRST_KEYS << 10;
const PARTS_MAX: usize = 5;
const HASH_BYTES: usize = 8;
/// Hashes whose blocks are asked for together: one by one the processor would wait for memory for each.
const HASHES_TOGETHER: usize = 64;
/// Hashes read with a batch of few events, and with each event of a larger one.
const READ_HASHES_MIN: usize = if cfg!(test) { 100 } else { 1 << 18 };
const READ_HASHES_EACH: usize = 1 << 10;
/// Stored rows read with a batch of few events, and their bytes.
const READ_ROWS_MIN: usize = if cfg!(test) { 100 } else { 20_000 };
const READ_BYTES_MIN: usize = 4 << 20;
/// The same with each event of a larger batch: under load batches are large and few, and that is when it is needed.
const READ_ROWS_EACH: usize = 96;
const READ_BYTES_EACH: usize = 6 << 10;

// === impl Met ===

impl Met {
    /// Whether there may be such a key.
    pub(crate) fn may_have(&self, table: Table, key: &[u8]) -> bool {
        let known = self.known.load(Acquire);
        let Some(folding) = self.folding.get() else { return true };
        !READ[..known].contains(&table) || self.has(hash(folding, table, key))
    }

    /// Adds what is about to be written, and its hashes to that.
    pub(crate) fn add(&self, kv: &impl Kv, batch: &mut Batch) -> Result<(), StoreError> {
        let folding = match self.folding.get() {
            Some(folding) => folding,
            None => self.begun(kv, &mut self.filling.lock())?,
        };
        let written = batch.writes.iter().filter(|(table, _, value)| value.is_some() && READ.contains(table));
        let hashes: Vec<_> = written.map(|(table, key, _)| hash(folding, *table, key)).collect();
        if hashes.is_empty() {
            // It waits for nobody who reads.
            return Ok(());
        }
        let filling = &mut *self.filling.lock();
        self.add_hashes(filling, &hashes);
        if let Some(next) = &mut filling.next {
            // Also what seems to be there: another process may take it for what it is, new.
            let bytes = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            batch.put_encoded(Table::Met, next.to_be_bytes().to_vec(), bytes);
            *next += hashes.len() as u64;
        }
        Ok(())
    }

    /// Goes on in a store that was emptied: from this batch on it has the hashes of all its keys.
    pub(crate) fn begin_again(&self, batch: &mut Batch) {
        let mut filling = self.filling.lock();
        let [first, second] = self.folding.get_or_init(Folding::default).keys();
        batch.put(Table::Meta, rows::met_key(), &MetRow { first, second });
        // Before it is written: hashes without that row are never read, and such a row without hashes must never be.
        filling.next.get_or_insert(0);
        self.known.store(READ.len(), Release);
    }

    /// Reads on in what was stored before, with a batch of so many events.
    pub(crate) fn read_on(&self, kv: &impl Kv, events: usize) -> Result<(), StoreError> {
        let known = self.known.load(Relaxed);
        let Some(&table) = READ.get(known) else { return Ok(()) };
        let filling = &mut *self.filling.lock();
        let folding = self.begun(kv, filling)?;
        let all = std::mem::take(&mut filling.from)..vec![u8::MAX; 64];
        let view = kv.view();
        if filling.next.is_some() {
            let (most, mut read) = (READ_HASHES_MIN.max(READ_HASHES_EACH * events), 0);
            for pair in view.range(Table::Met, all) {
                let (key, value) = pair?;
                let (hashes, _) = kv::opened(Table::Met, &key, &value)?.as_chunks::<HASH_BYTES>();
                let hashes: Vec<_> = hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
                self.add_hashes(filling, &hashes);
                read += hashes.len();
                if read >= most {
                    filling.from = [&key[..], &[0]].concat();
                    return Ok(());
                }
            }
            self.known.store(READ.len(), Release);
            return Ok(());
        }
        let rows_max = READ_ROWS_MIN.max(READ_ROWS_EACH * events);
        let bytes_max = READ_BYTES_MIN.max(READ_BYTES_EACH * events);
        let (mut rows, mut bytes) = (0, 0);
        for pair in view.range(table, all) {
            // Whoever asks for a value that is damaged is told; here its key is enough.
            let (key, value) = pair?;
            self.add_hashes(filling, &[hash(folding, table, &key)]);
            (rows, bytes) = (rows + 1, bytes + value.len());
            if rows == rows_max || bytes >= bytes_max {
                filling.from = [&key[..], &[0]].concat();
                return Ok(());
            }
        }
        self.known.store(known + 1, Release);
        Ok(())
    }

    /// How keys are hashed; the first time it is read how they were before, and whether all hashes are there.
    fn begun(&self, kv: &impl Kv, filling: &mut Filling) -> Result<&Folding, StoreError> {
        if let Some(folding) = self.folding.get() {
            return Ok(folding);
        }
        let reader = Reader::new(kv.view());
        let stored: Option<MetRow> = reader.get(Table::Meta, &rows::met_key())?;
        if stored.is_some() {
            let last = kv.view().range(Table::Met, Vec::new()..vec![u8::MAX; 64]).next_back().transpose()?;
            let mut next = 0;
            if let Some((key, value)) = last {
                let hashes = kv::opened(Table::Met, &key, &value)?.len() / HASH_BYTES;
                let number = key.first_chunk().ok_or_else(|| kv::damaged(Table::Met))?;
                // Rows were numbered one by one before: then there are more hashes than this.
                next = u64::from_be_bytes(*number) + hashes.max(1) as u64;
            }
            filling.next = Some(next);
            // One part for all of them: an absent key is looked up in each.
            let parts = (0..PARTS_MAX).find(|part| part_keys(*part) as u64 >= next);
            filling.part = parts.unwrap_or(PARTS_MAX - 1);
        }
        let folding = stored.map_or_else(Folding::default, |row| Folding::from([row.first, row.second]));
        Ok(self.folding.get_or_init(|| folding))
    }

    fn add_hashes(&self, filling: &mut Filling, hashes: &[u64]) {
        for together in hashes.chunks(HASHES_TOGETHER) {
            let blocks = |hash| self.parts().map(move |blocks| place(blocks, hash).0);
            let words = together.iter().flat_map(|hash| blocks(*hash)).map(|block| block.0[0].load(Relaxed));
            black_box(words.fold(0, |all, word| all ^ word));
            together.iter().for_each(|hash| self.add_hash(filling, *hash));
        }
    }

    fn add_hash(&self, filling: &mut Filling, hash: u64) {
        if self.has(hash) {
            return;
        }
        if filling.room == 0 && self.parts[filling.part].get().is_some() && filling.part + 1 < PARTS_MAX {
            filling.part += 1;
        }
        let blocks = self.parts[filling.part].get_or_init(|| {
            filling.room = part_keys(filling.part);
            (0..filling.room / BLOCK_KEYS).map(|_| Block::default()).collect()
        });
        let (block, bits) = place(blocks, hash);
        for (word, bit) in block.0.iter().zip(bits) {
            // Not at once: nobody else writes, and to see to that for each word would take longer than all the rest.
            word.store(word.load(Relaxed) | bit, Relaxed);
        }
        filling.room = filling.room.saturating_sub(1);
    }

    fn has(&self, hash: u64) -> bool {
        self.parts().any(|blocks| {
            let (block, bits) = place(blocks, hash);
            block.0.iter().zip(bits).all(|(word, bit)| word.load(Relaxed) & bit != 0)
        })
    }

    /// Those there are.
    fn parts(&self) -> impl Iterator<Item = &[Block]> {
        self.parts.iter().filter_map(|part| part.get().map(Box::as_ref))
    }
}

fn hash(folding: &Folding, table: Table, key: &[u8]) -> u64 {
    let mut hasher = folding.build_hasher();
    hasher.write(&[table as u8]);
    hasher.write(key);
    hasher.finish()
}

/// How many keys a part has place for.
fn part_keys(part: usize) -> usize {
    if part + 1 < PARTS_MAX { FIRST_KEYS << (2 * part) } else { LAST_KEYS }
}

/// A block, and one bit of each of its words.
fn place(blocks: &[Block], hash: u64) -> (&Block, [u64; BLOCK_WORDS]) {
    let at = ((hash >> 32) * blocks.len() as u64) >> 32;
    // The high half chose the block. Multiplied by an odd number, the rest gives bits of its own.
    let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (&blocks[at as usize], std::array::from_fn(|word| 1 << ((mixed >> (word * 6 + 16)) & 63)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{memory::Memory, rows::EmptyRow};

    /// As many as all parts have place for.
    fn keys_max() -> usize {
        (0..PARTS_MAX).map(part_keys).sum()
    }

    fn key(number: usize) -> Vec<u8> {
        blake3::hash(&number.to_le_bytes()).as_bytes()[..16].to_vec()
    }

    fn rows(table: Table, numbers: std::ops::Range<usize>) -> Batch {
        let mut batch = Batch::default();
        numbers.for_each(|number| batch.put(table, key(number), &EmptyRow {}));
        batch
    }

    /// Writes as the store does.
    fn write(met: &Met, kv: &Memory, mut batch: Batch) {
        met.add(kv, &mut batch).unwrap();
        kv.write(batch).unwrap();
    }

    /// A filter of tables with nothing in them.
    fn of_nothing() -> (Memory, Met) {
        let (kv, met) = (Memory::default(), Met::default());
        READ.iter().for_each(|_| met.read_on(&kv, 0).unwrap());
        (kv, met)
    }

    fn bytes(met: &Met) -> usize {
        met.parts().map(size_of_val).sum()
    }

    #[test]
    fn what_was_added_is_never_excluded_and_nearly_all_else_is() {
        let ((kv, met), keys_max) = (of_nothing(), keys_max());
        for from in (0..keys_max).step_by(1_000) {
            met.add(&kv, &mut rows(Table::Seen, from..(from + 1_000).min(keys_max))).unwrap();
            assert!((0..from).step_by(7).all(|number| met.may_have(Table::Seen, &key(number))), "{from}");
        }
        let taken = |table, numbers: std::ops::Range<usize>| {
            numbers.filter(|number| met.may_have(table, &key(*number))).count()
        };
        for (table, numbers) in [
            (Table::Seen, keys_max..2 * keys_max),
            (Table::Persons, keys_max..2 * keys_max),
            // Keys of another table.
            (Table::Members, 0..keys_max),
        ] {
            let wrong = taken(table, numbers);
            assert!(wrong * 50 < keys_max, "{wrong} of {keys_max} keys of {table:?}");
        }
        assert!(met.may_have(Table::Touches, &key(0)), "of tables that are read in order nothing is known");
    }

    #[test]
    fn with_more_than_it_has_place_for_it_excludes_less_and_does_not_grow() {
        let ((kv, met), keys_max) = (of_nothing(), keys_max());
        met.add(&kv, &mut rows(Table::Seen, 0..keys_max)).unwrap();
        // What is taken for present needs no place.
        met.add(&kv, &mut rows(Table::Seen, keys_max..keys_max + keys_max / 10)).unwrap();
        let full = bytes(&met);
        assert_eq!(full, keys_max * 2);
        met.add(&kv, &mut rows(Table::Seen, keys_max..2 * keys_max)).unwrap();
        assert_eq!(bytes(&met), full);
        assert!((0..2 * keys_max).all(|number| met.may_have(Table::Seen, &key(number))));
    }

    #[test]
    fn of_a_table_that_is_not_read_to_its_end_nothing_is_excluded() {
        for stored in [0, 1, READ_ROWS_MIN - 1, READ_ROWS_MIN, READ_ROWS_MIN + 1, 3 * READ_ROWS_MIN] {
            let (tables, met) = (Memory::default(), Met::default());
            tables.write(rows(Table::Seen, 0..stored)).unwrap();
            for _ in 0..=stored / READ_ROWS_MIN {
                assert!((1_000..1_100).all(|number| met.may_have(Table::Seen, &key(number))));
                met.read_on(&tables, 0).unwrap();
            }
            assert!((0..stored).all(|number| met.may_have(Table::Seen, &key(number))));
            let wrong = (1_000..2_000).filter(|number| met.may_have(Table::Seen, &key(*number))).count();
            assert!(wrong < 50, "{wrong} of 1,000 absent keys are not excluded, with {stored}");
            assert!(met.may_have(Table::Persons, &key(0)), "the next table is not read yet");
        }
    }

    #[test]
    fn with_many_events_more_is_read() {
        let events = READ_ROWS_MIN;
        let most = events * READ_ROWS_EACH;
        for (stored, known) in [(most - 1, true), (most, false)] {
            let (tables, met) = (Memory::default(), Met::default());
            tables.write(rows(Table::Seen, 0..stored)).unwrap();
            met.read_on(&tables, events).unwrap();
            let excluded = (stored..stored + 1_000).any(|number| !met.may_have(Table::Seen, &key(number)));
            assert_eq!(excluded, known, "{stored}");
        }
    }

    #[test]
    fn after_every_start_all_that_was_ever_written_is_known_by_its_hashes() {
        let (kv, first) = (Memory::default(), Met::default());
        let mut batch = Batch::default();
        first.begin_again(&mut batch);
        write(&first, &kv, batch);
        let (keys, each) = (keys_max(), READ_HASHES_MIN / 2);
        let mut met = first;
        for (start, from) in (0..keys).step_by(each).enumerate() {
            // One process after another, each of which writes before it has read everything.
            if start % 7 == 0 {
                met = Met::default();
            }
            write(&met, &kv, rows(Table::Seen, from..(from + each).min(keys)));
            met.read_on(&kv, 0).unwrap();
        }
        let met = Met::default();
        for _ in 0..=keys / READ_HASHES_MIN {
            assert!((keys..keys + 100).all(|number| met.may_have(Table::Seen, &key(number))), "not read yet");
            met.read_on(&kv, 0).unwrap();
        }
        assert_eq!(bytes(&met), part_keys(PARTS_MAX - 1) * 2, "one part, the largest");
        let missing = (0..keys).filter(|number| !met.may_have(Table::Seen, &key(*number))).count();
        assert_eq!(missing, 0, "of {keys} keys that are there");
        let wrong = (keys..2 * keys).filter(|number| met.may_have(Table::Seen, &key(*number))).count();
        assert!(wrong * 50 < keys, "{wrong} of {keys} absent keys");
    }

    #[test]
    fn with_many_events_more_hashes_are_read() {
        let (kv, first) = (Memory::default(), Met::default());
        let mut batch = Batch::default();
        first.begin_again(&mut batch);
        write(&first, &kv, batch);
        let most = READ_HASHES_EACH;
        for from in (0..most).step_by(64) {
            write(&first, &kv, rows(Table::Seen, from..from + 64));
        }
        for (events, known) in [(1, false), (2, true)] {
            let met = Met::default();
            met.read_on(&kv, events).unwrap();
            let excluded = (most..most + 1_000).any(|number| !met.may_have(Table::Seen, &key(number)));
            assert_eq!(excluded, known, "{events}");
        }
    }
}

//! Which keys certainly are not there: a filter in memory over all keys of the tables that are asked for single ones.
//!
//! Nearly every id that comes in is new, nearly every person has one identity, and nearly every conversion is decided for
//! the first time. "It is not there" is the answer for which ordered tables in many parts take longest. The filter may
//! take an absent key for a present one, and then the table is asked; never the other way round.
//! Until it has read what was stored before it was made, a piece with every batch that is recorded, it excludes nothing.

use std::{
    hash::{BuildHasher, Hasher},
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
    kv::{Batch, Table, View},
};

/// Keys, of which some absent ones may be taken for present.
///
/// Whoever reads after a write sees what was added before it: the tables' own locks see to that.
#[derive(Default)]
pub(crate) struct Met {
    folding: Folding,
    parts: [OnceLock<Box<[Block]>>; PARTS_MAX],
    /// How many of [`READ`] are known completely.
    known: AtomicUsize,
    /// For the one who writes.
    filling: Mutex<Filling>,
}

#[derive(Default)]
struct Filling {
    /// From where on the first table not known is to be read.
    from: Vec<u8>,
    /// The part that takes keys, and how many more it has place for.
    part: usize,
    room: usize,
}

/// Bits in one cache line.
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
/// 85 MiB for 44 million keys. Beyond, the last part takes more and more absent ones for present.
const PARTS_MAX: usize = 5;
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
        !READ[..known].contains(&table) || self.has(self.hash(table, key))
    }

    /// Adds what is about to be written.
    pub(crate) fn add(&self, batch: &Batch) {
        let mut filling = self.filling.lock();
        for (table, key, value) in &batch.writes {
            if value.is_some() && READ.contains(table) {
                self.add_key(&mut filling, *table, key);
            }
        }
    }

    /// Reads on in what was stored before, with a batch of so many events.
    pub(crate) fn read_on(&self, view: &impl View, events: usize) -> Result<(), StoreError> {
        let known = self.known.load(Relaxed);
        let Some(&table) = READ.get(known) else { return Ok(()) };
        let filling = &mut *self.filling.lock();
        let rows_max = READ_ROWS_MIN.max(READ_ROWS_EACH * events);
        let bytes_max = READ_BYTES_MIN.max(READ_BYTES_EACH * events);
        let (mut rows, mut bytes) = (0, 0);
        let all = std::mem::take(&mut filling.from)..vec![u8::MAX; 64];
        for pair in view.range(table, all) {
            // Whoever asks for a value that is damaged is told; here its key is enough.
            let (key, value) = pair?;
            self.add_key(filling, table, &key);
            (rows, bytes) = (rows + 1, bytes + value.len());
            if rows == rows_max || bytes >= bytes_max {
                filling.from = [&key[..], &[0]].concat();
                return Ok(());
            }
        }
        self.known.store(known + 1, Release);
        Ok(())
    }

    fn add_key(&self, filling: &mut Filling, table: Table, key: &[u8]) {
        let hash = self.hash(table, key);
        if self.has(hash) {
            return;
        }
        if filling.room == 0 && self.parts[filling.part].get().is_some() && filling.part + 1 < PARTS_MAX {
            filling.part += 1;
        }
        let blocks = self.parts[filling.part].get_or_init(|| {
            filling.room = FIRST_KEYS << (2 * filling.part);
            (0..filling.room / BLOCK_KEYS).map(|_| Block::default()).collect()
        });
        let (block, bits) = place(blocks, hash);
        for (word, bit) in block.0.iter().zip(bits) {
            word.fetch_or(bit, Relaxed);
        }
        filling.room = filling.room.saturating_sub(1);
    }

    fn has(&self, hash: u64) -> bool {
        self.parts.iter().map_while(OnceLock::get).any(|blocks| {
            let (block, bits) = place(blocks, hash);
            block.0.iter().zip(bits).all(|(word, bit)| word.load(Relaxed) & bit != 0)
        })
    }

    fn hash(&self, table: Table, key: &[u8]) -> u64 {
        let mut hasher = self.folding.build_hasher();
        hasher.write(&[table as u8]);
        hasher.write(key);
        hasher.finish()
    }
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
    use crate::{kv::Kv, memory::Memory, rows::EmptyRow};

    /// As many as all parts have place for.
    const KEYS_MAX: usize = FIRST_KEYS * ((1 << (2 * PARTS_MAX)) - 1) / 3;

    fn key(number: usize) -> Vec<u8> {
        blake3::hash(&number.to_le_bytes()).as_bytes()[..16].to_vec()
    }

    fn rows(table: Table, numbers: std::ops::Range<usize>) -> Batch {
        let mut batch = Batch::default();
        numbers.for_each(|number| batch.put(table, key(number), &EmptyRow {}));
        batch
    }

    /// A filter of tables with nothing in them.
    fn of_nothing() -> Met {
        let met = Met::default();
        READ.iter().for_each(|_| met.read_on(&Memory::default().view(), 0).unwrap());
        met
    }

    fn bytes(met: &Met) -> usize {
        met.parts.iter().filter_map(OnceLock::get).map(|blocks| size_of_val(&blocks[..])).sum()
    }

    #[test]
    fn what_was_added_is_never_excluded_and_nearly_all_else_is() {
        let met = of_nothing();
        for from in (0..KEYS_MAX).step_by(1_000) {
            met.add(&rows(Table::Seen, from..(from + 1_000).min(KEYS_MAX)));
            assert!((0..from).step_by(7).all(|number| met.may_have(Table::Seen, &key(number))), "{from}");
        }
        let wrong = |table| {
            (KEYS_MAX..2 * KEYS_MAX).filter(|number| met.may_have(table, &key(*number))).count() * 100
                / KEYS_MAX
        };
        assert_eq!((wrong(Table::Seen), wrong(Table::Persons)), (0, 0), "% of absent keys");
        let other = (0..KEYS_MAX).filter(|number| met.may_have(Table::Members, &key(*number))).count();
        assert!(other * 100 < KEYS_MAX, "{other} keys are taken for those of another table");
        assert!(met.may_have(Table::Touches, &key(0)), "of tables that are read in order nothing is known");
    }

    #[test]
    fn with_more_than_it_has_place_for_it_excludes_less_and_does_not_grow() {
        let met = of_nothing();
        met.add(&rows(Table::Seen, 0..KEYS_MAX));
        let full = bytes(&met);
        assert_eq!(full, KEYS_MAX * 2);
        met.add(&rows(Table::Seen, KEYS_MAX..2 * KEYS_MAX));
        assert_eq!(bytes(&met), full);
        assert!((0..2 * KEYS_MAX).all(|number| met.may_have(Table::Seen, &key(number))));
    }

    #[test]
    fn of_a_table_that_is_not_read_to_its_end_nothing_is_excluded() {
        for stored in [0, 1, READ_ROWS_MIN - 1, READ_ROWS_MIN, READ_ROWS_MIN + 1, 3 * READ_ROWS_MIN] {
            let (tables, met) = (Memory::default(), Met::default());
            tables.write(rows(Table::Seen, 0..stored)).unwrap();
            for _ in 0..=stored / READ_ROWS_MIN {
                assert!((1_000..1_100).all(|number| met.may_have(Table::Seen, &key(number))));
                met.read_on(&tables.view(), 0).unwrap();
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
            met.read_on(&tables.view(), events).unwrap();
            let excluded = (stored..stored + 1_000).any(|number| !met.may_have(Table::Seen, &key(number)));
            assert_eq!(excluded, known, "{stored}");
        }
    }
}

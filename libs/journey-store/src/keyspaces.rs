//! The keyspaces of the database: which table is in which, their tuning, and when their memtables become tables of fjall's.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    compaction::Leveled,
    config::{
        BlockSizePolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy,
        PinningPolicy,
    },
};

use crate::kv::Table;

/// The tables, each key behind the number of its table. The keyspaces share a journal, so a batch over all is atomic.
/// Every keyspace more costs 60 ms when a store is made.
#[derive(Clone)]
pub(crate) struct Keyspaces {
    pub(crate) database: Database,
    /// Tables that are asked for single keys.
    points: Keyspace,
    /// Tables that are read in order.
    orders: Keyspace,
    /// The table that is written in the order of its keys, so that compaction has nothing to merge: most of all bytes.
    decisions: Keyspace,
}

/// A thread that writes full memtables to tables, so that nobody waits for a step of compaction, which takes fjall's own
/// thread ten seconds among many events. It ends with this.
pub(crate) struct Flusher {
    /// To wake it; nothing while it ends.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Journal on disk before fjall moves the oldest writes into tables. A start after a kill reads all of it.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// Bytes from which on a memtable is full.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Bytes from which on a memtable holds up writes.
const MEMTABLE_BYTES_MAX: u64 = 4 * MEMTABLE_BYTES;
/// Bytes of a table. A step of compaction merges one or two with those of the next level that they overlap.
const TABLE_BYTES: u64 = 16 << 20;
/// Tables that memtables were written to, before they are merged with the next level: a single key is looked up in them
/// without reading any that has not got it, while a range has to be read in each.
const POINT_TABLES: u8 = 8;
const ORDER_TABLES: u8 = 4;
/// How many times as large a level is as the one before, beginning with the second; the last counts for all further ones.
/// The first level is not compressed, so in rows the second is ten times as large too.
const LEVEL_RATIOS: [f32; 2] = [4.0, 10.0];
/// Bytes from which on a block is full. What a block has beside rows makes it up to an eighth larger, and the cache counts
/// what it holds, not what the allocator gives for it: with these nearly all fit in 4, 8 and 16 KiB, and leave little of it;
/// from 4, 8 and 16 KiB on they would take 5, 10 and 20.
const POINT_BLOCK_BYTES: u32 = 3_500;
/// Of tables that are read in order. A range is looked for in a block of every level, mostly in vain.
const ORDER_BLOCK_BYTES: u32 = 8_000;
/// Of decisions, which are larger than what else is read in order.
const DECISION_BLOCK_BYTES: u32 = 15_000;

// === impl Keyspaces ===

impl Keyspaces {
    pub(crate) fn open(
        folder: &Path,
        cache_bytes_max: u64,
        files_max: usize,
        worker_threads: usize,
    ) -> Result<Self, fjall::Error> {
        let database = Database::builder(folder)
            .cache_size(cache_bytes_max)
            .max_cached_files(Some(files_max))
            .max_journaling_size(JOURNAL_BYTES_MAX)
            // It is short-lived: to compress a decision of many touches takes longer than to write it.
            .journal_compression(CompressionType::None)
            .worker_threads_unchecked(worker_threads)
            .open()?;
        let points = database.keyspace("points", point_options)?;
        let orders = database.keyspace("orders", order_options)?;
        let decisions = database.keyspace("decisions", decision_options)?;
        Ok(Self { database, points, orders, decisions })
    }

    /// The one that a table is in.
    pub(crate) fn of(&self, table: Table) -> &Keyspace {
        match table {
            Table::Touches | Table::Names | Table::Effects | Table::Met => &self.orders,
            Table::Decisions => &self.decisions,
            _ => &self.points,
        }
    }

    pub(crate) fn clear(&self) -> Result<(), fjall::Error> {
        self.all().into_iter().try_for_each(Keyspace::clear)
    }

    /// Has full memtables written to tables: later, or at once if they are so large that writes have to wait.
    pub(crate) fn flush_full(&self, flusher: &Flusher) -> Result<(), fjall::Error> {
        if self.all().into_iter().any(|keyspace| is_larger(keyspace, MEMTABLE_BYTES)) {
            flusher.wake();
        }
        self.flush(MEMTABLE_BYTES_MAX)
    }

    /// Writes memtables of more bytes to tables.
    ///
    /// fjall is kept from doing so itself: each write to a full one then puts a message into a queue of 1,000, from which its
    /// worker takes them, and into which the worker puts what follows from one. The queue fills while the worker compacts,
    /// and then it waits for itself for ever, while memtables and journal grow (fjall-rs/fjall#323).
    fn flush(&self, bytes_max: u64) -> Result<(), fjall::Error> {
        for keyspace in self.all() {
            if !is_larger(keyspace, bytes_max) {
                continue;
            }
            // Held from the sealing on: nobody writes the memtable to a table before the journal, of which what is in the
            // other keyspaces is a part, is on disk.
            let flushing = keyspace.tree.get_flush_lock();
            if is_larger(keyspace, bytes_max) {
                // It also tells fjall's worker, which has nothing left to write then, but shortens journals and compacts.
                keyspace.rotate_memtable()?;
                self.database.persist(PersistMode::SyncAll)?;
                let unread = self.database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
                keyspace.tree.flush(&flushing, unread)?;
            }
        }
        Ok(())
    }

    fn all(&self) -> [&Keyspace; 3] {
        [&self.points, &self.orders, &self.decisions]
    }
}

// === impl Flusher ===

impl Flusher {
    /// Starts it; `failed` tells when it could not write.
    pub(crate) fn new(keyspaces: Keyspaces, failed: Arc<AtomicBool>) -> io::Result<Self> {
        // One is enough: whoever wakes it while it writes wants it to look again.
        let (wake, woken): (_, Receiver<()>) = sync_channel(1);
        let thread = thread::Builder::new().name("journey-flusher".to_owned()).spawn(move || {
            while woken.recv().is_ok() {
                if keyspaces.flush(MEMTABLE_BYTES).is_err() {
                    failed.store(true, Ordering::Release);
                }
            }
        })?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    fn wake(&self) {
        // It is awake already, or has panicked; then memtables are written where writes have to wait for it.
        let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        drop(self.wake.take());
        // The folder can be opened again once it has let go of it.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn is_larger(keyspace: &Keyspace, bytes: u64) -> bool {
    keyspace.tree.active_memtable().size() > bytes
}

/// Filters and indices of the first two levels, which are of one size, stay in memory: a look-up asks one of every table on
/// its way, and would read a megabyte again that was dropped for other blocks. Further down they grow with what is stored, so
/// they are in pieces, which the cache keeps or drops.
fn point_options() -> KeyspaceCreateOptions {
    options(POINT_TABLES)
        .data_block_size_policy(BlockSizePolicy::all(POINT_BLOCK_BYTES))
        .filter_block_pinning_policy(PinningPolicy::all(true))
        .index_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_partitioning_policy(in_pieces())
        .index_block_partitioning_policy(in_pieces())
}

/// Larger blocks, and no filter: it would never be asked.
fn order_options() -> KeyspaceCreateOptions {
    options(ORDER_TABLES)
        .data_block_size_policy(BlockSizePolicy::all(ORDER_BLOCK_BYTES))
        .index_block_pinning_policy(PinningPolicy::all(true))
        .index_block_partitioning_policy(in_pieces())
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::None))
}

/// Its tables are moved from level to level as they are, so from the first on they are compressed, and their indices in
/// pieces.
fn decision_options() -> KeyspaceCreateOptions {
    order_options()
        .data_block_size_policy(BlockSizePolicy::all(DECISION_BLOCK_BYTES))
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
}

fn options(first_tables: u8) -> KeyspaceCreateOptions {
    let compaction = Leveled::default()
        .with_table_target_size(TABLE_BYTES)
        .with_l0_threshold(first_tables)
        .with_level_ratio_policy(LEVEL_RATIOS.to_vec());
    KeyspaceCreateOptions::default()
        // See `Keyspaces::flush`.
        .max_memtable_size(u64::MAX)
        .compaction_strategy(Arc::new(compaction))
}

/// From the third level on.
fn in_pieces() -> PartitioningPolicy {
    PartitioningPolicy::new([false, false, true])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::{Duration, Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const VALUE_BYTES: usize = 200;
    const LARGE_ROWS: u64 = 10_000;
    const CACHE_BYTES: u64 = 1 << 20;
    const FILES_MAX: usize = 8;
    /// One of each keyspace.
    const TABLE: [Table; 3] = [Table::Editions, Table::Touches, Table::Decisions];

    fn open(folder: &Path, worker_threads: usize) -> (Keyspaces, Flusher) {
        let keyspaces = Keyspaces::open(folder, CACHE_BYTES, FILES_MAX, worker_threads).unwrap();
        let flusher = Flusher::new(keyspaces.clone(), Arc::default()).unwrap();
        (keyspaces, flusher)
    }

    /// Writes rows that were not written before.
    fn write(keyspaces: &Keyspaces, flusher: &Flusher, table: Table, written: &mut u64, rows: u64) {
        let mut batch = keyspaces.database.batch().durability(Some(PersistMode::Buffer));
        for number in *written..*written + rows {
            let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            batch.insert(keyspaces.of(table), key, [1; VALUE_BYTES]);
        }
        batch.commit().unwrap();
        keyspaces.flush_full(flusher).unwrap();
        *written += rows;
    }

    #[test]
    fn full_memtables_are_written_to_disk_however_often_is_written_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let (keyspaces, flusher) = open(folder.path(), 1);
        for table in TABLE {
            let tree = &keyspaces.of(table).tree;
            let mut written = 0;
            write(&keyspaces, &flusher, table, &mut written, LARGE_ROWS);
            // Not more: then writes would wait for what this test holds.
            let fill_two = 1 + 2 * MEMTABLE_BYTES / tree.active_memtable().size();
            for round in 0..10 {
                // While the first memtable cannot be written, many writes find it full.
                let held = tree.get_flush_lock();
                (0..fill_two).for_each(|_| write(&keyspaces, &flusher, table, &mut written, LARGE_ROWS));
                (0..2_000).for_each(|_| write(&keyspaces, &flusher, table, &mut written, 1));
                drop(held);
                let begin = Instant::now();
                while tree.active_memtable().size() > MEMTABLE_BYTES || tree.sealed_memtable_count() > 0 {
                    assert!(
                        begin.elapsed() < PATIENCE,
                        "{table:?}, round {round}: memtables are not written"
                    );
                    write(&keyspaces, &flusher, table, &mut written, 1);
                }
            }
        }
    }

    #[test]
    fn writes_wait_for_no_compaction_and_memtables_stay_bounded() {
        let folder = tempfile::tempdir().unwrap();
        // Without a worker it is as if compaction never came to an end.
        let (keyspaces, flusher) = open(folder.path(), 0);
        for table in TABLE {
            let keyspace = keyspaces.of(table);
            let mut written = 0;
            while written * (VALUE_BYTES as u64) < 20 * MEMTABLE_BYTES {
                write(&keyspaces, &flusher, table, &mut written, LARGE_ROWS);
                let memtable = keyspace.tree.active_memtable().size();
                assert!(memtable <= MEMTABLE_BYTES_MAX, "{table:?}: {memtable} bytes after {written} rows");
                assert!(keyspace.tree.sealed_memtable_count() <= 1);
            }
            assert_eq!(keyspace.iter().count() as u64, written, "{table:?}");
        }
    }
    #[test]
    fn no_more_tables_are_open_than_files_are_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let (keyspaces, flusher) = open(folder.path(), 0);
        let mut written = 0;
        for _ in 0..3 * FILES_MAX {
            write(&keyspaces, &flusher, Table::Touches, &mut written, 1_000);
            keyspaces.flush(0).unwrap();
        }
        let keyspace = keyspaces.of(Table::Touches);
        assert_eq!(keyspace.tree.table_count(), 3 * FILES_MAX);
        assert_eq!(keyspace.iter().count() as u64, written);
        let files = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|file| file.unwrap().path().read_link().ok());
        let tables = files.filter(|file| file.starts_with(folder.path()) && file.extension().is_none());
        let open = tables.filter(|file| file.parent().unwrap().ends_with("tables")).count();
        assert!((1..=FILES_MAX).contains(&open), "{open}");
    }
}

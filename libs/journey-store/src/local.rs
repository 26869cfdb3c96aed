//! Tables in a folder of files, by fjall.
//!
//! Owns the folder: its format, its version, the tuning of its tables. Writes reach the operating system when they return
//! and the disk at [`Kv::persist`], or when fjall moves them out of memory, which happens journal first: a crash of the
//! process loses nothing, a loss of power keeps a prefix of the writes. The prefix never ends before the last durable point:
//! a witness beside the database tells when it does, and the folder is refused as damaged.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
    Readable, Snapshot, UserKey,
    compaction::Leveled,
    config::{BlockSizePolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy, PinningPolicy},
};
use parking_lot::{Mutex, RwLock};

use crate::{
    StoreError,
    kv::{Batch, Kv, Pair, Reader, Table, View},
    rows::OffsetRow,
    witness::Witness,
};

/// A folder with a database, opened again after a write to it failed: fjall takes no more writes then.
pub(crate) struct Local {
    path: PathBuf,
    cache_bytes_max: u64,
    /// Nothing after a failure, until it can be opened again.
    tables: RwLock<Option<Arc<Tables>>>,
    witness: Mutex<Witness>,
    /// Held from the choice of a durable point to its witness.
    persisting: Mutex<()>,
}

/// The tables in two keyspaces of one database, each key behind the number of its table. They share a journal, so a batch
/// over both is atomic. Every keyspace more costs 60 ms when a store is made.
struct Tables {
    keyspaces: Keyspaces,
    flusher: Flusher,
    /// Whether a write failed.
    failed: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Keyspaces {
    database: Database,
    /// Tables that are asked for single keys.
    points: Keyspace,
    /// Tables that are read in order.
    orders: Keyspace,
}

/// A thread that writes full memtables to tables, so that nobody waits for a step of compaction, which takes fjall's own
/// thread ten seconds among many events. It ends with this.
struct Flusher {
    /// To wake it; nothing while it ends.
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A snapshot of both keyspaces; nothing while the database is not open.
pub(crate) struct LocalView(Option<(Snapshot, Arc<Tables>)>);

/// Bytes in a block of fjall's cache.
pub(crate) struct Stored {
    bytes: fjall::Slice,
    /// The number of the table, in front of a key.
    skip: usize,
}

/// The version of everything in the folder.
const FORMAT: u32 = 2;
const FORMAT_FILE: &str = "FORMAT";
const WITNESS_FILE: &str = "DURABLE";
const DATABASE_FOLDER: &str = "tables";
/// Journal on disk before fjall moves the oldest writes into tables. A start after a kill reads all of it.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
/// Bytes from which on a memtable is full.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Bytes from which on a memtable holds up writes.
const MEMTABLE_BYTES_MAX: u64 = 4 * MEMTABLE_BYTES;
/// Bytes of a table. A step of compaction merges one with about ten of the next level.
const TABLE_BYTES: u64 = 32 << 20;
/// Blocks of tables that are read in order.
const ORDER_BLOCK_BYTES: u32 = 16 << 10;
/// Keys with their prefix that are made without an allocation: all but those of long event ids.
const SHORT_KEY_BYTES_MAX: usize = 64;
/// With more threads fjall's first one hands the others' work back and forth as long as there is any.
const WORKER_THREADS: usize = 1;
/// Where the number of the last durable point is, in `meta`.
const POINT_KEY: &[u8] = &[0];

// === impl Local ===

impl Local {
    /// Opens or makes the folder.
    pub(crate) fn open(path: &Path, cache_bytes_max: u64) -> Result<Self, StoreError> {
        if !has_known_format(path)? {
            make(path, &marker(FORMAT)).map_err(|error| unusable(path, &error))?;
        }
        let witness = path.join(WITNESS_FILE);
        if !witness.exists() {
            // It is made last: what a making that was cut short has left holds nothing, and cannot be opened.
            discard(&path.join(DATABASE_FOLDER)).map_err(|error| unusable(path, &error))?;
        }
        let tables = Tables::open(path, cache_bytes_max, WORKER_THREADS)?;
        let witness = Witness::open(&witness)?;
        // Names made by a process that was killed before it synced the folder are seen and may not survive.
        File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| unusable(path, &error))?;
        let tables = tables.check(path, &witness)?;
        Ok(Self {
            path: path.to_owned(),
            cache_bytes_max,
            tables: RwLock::new(Some(tables)),
            witness: Mutex::new(witness),
            persisting: Mutex::default(),
        })
    }

    /// Writes, and remembers a failure. What was cached of a database that is opened again here must be dropped, so the
    /// write that finds it so fails.
    fn try_write<T>(&self, write: impl FnOnce(&Tables) -> Result<T, fjall::Error>) -> Result<T, StoreError> {
        let tables = self.tables.read().clone().filter(|tables| !tables.failed.load(Ordering::Acquire));
        let Some(tables) = tables else {
            self.reopen()?;
            return Err(StoreError::Unavailable("it was opened again after a failed write".to_owned()));
        };
        write(&tables).map_err(|error| {
            tables.failed.store(true, Ordering::Release);
            indeterminate(error)
        })
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.tables.write();
        if let Some(failed) = slot.take() {
            // Its lock on the folder goes with it, and with everyone who still reads.
            if let Err(read) = Arc::try_unwrap(failed).map(drop) {
                *slot = Some(read);
                return Err(StoreError::Unavailable("a write failed, and somebody still reads".to_owned()));
            }
        }
        let tables = Tables::open(&self.path, self.cache_bytes_max, WORKER_THREADS)?;
        *slot = Some(tables.check(&self.path, &self.witness.lock())?);
        Ok(())
    }
}

// === impl Tables ===

impl Tables {
    fn open(path: &Path, cache_bytes_max: u64, worker_threads: usize) -> Result<Self, StoreError> {
        let database = Database::builder(path.join(DATABASE_FOLDER))
            .cache_size(cache_bytes_max)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            // It is short-lived: to compress a decision of many touches takes longer than to write it.
            .journal_compression(CompressionType::None)
            .worker_threads_unchecked(worker_threads)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => {
                    StoreError::Unavailable(format!("{} is in use by another process", path.display()))
                }
                error => determinate(error),
            })?;
        let keyspace = |name, options: fn() -> KeyspaceCreateOptions| database.keyspace(name, options);
        let points = keyspace("points", point_options).map_err(determinate)?;
        let orders = keyspace("orders", order_options).map_err(determinate)?;
        let keyspaces = Keyspaces { database, points, orders };
        let failed = Arc::new(AtomicBool::new(false));
        let flusher = Flusher::new(keyspaces.clone(), Arc::clone(&failed))
            .map_err(|error| StoreError::Unavailable(format!("no thread for {}: {error}", path.display())))?;
        Ok(Self { keyspaces, flusher, failed })
    }

    /// Refuses a database that is behind its witness.
    fn check(self, path: &Path, witness: &Witness) -> Result<Arc<Self>, StoreError> {
        let tables = Arc::new(self);
        let point: Option<OffsetRow> = Reader::new(LocalView::of(&tables)).get(Table::Meta, POINT_KEY)?;
        if point.map_or(0, |row| row.offset) < witness.point() {
            return Err(StoreError::Corrupt(format!(
                "{} lost writes that were durable: move it away, and it is made again from the log",
                path.display(),
            )));
        }
        Ok(tables)
    }

    /// Has full memtables written to tables: later, or at once if they are so large that writes have to wait.
    fn flush_full(&self) -> Result<(), fjall::Error> {
        if self.keyspaces.largest_memtable() > MEMTABLE_BYTES {
            self.flusher.wake();
        }
        self.keyspaces.flush(MEMTABLE_BYTES_MAX)
    }
}

impl Deref for Tables {
    type Target = Keyspaces;

    fn deref(&self) -> &Keyspaces {
        &self.keyspaces
    }
}

// === impl Keyspaces ===

impl Keyspaces {
    fn largest_memtable(&self) -> u64 {
        [&self.points, &self.orders]
            .map(|keyspace| keyspace.tree.active_memtable().size())
            .into_iter()
            .fold(0, u64::max)
    }

    /// Writes memtables of more bytes to tables.
    ///
    /// fjall is kept from doing so itself: each write to a full one then puts a message into a queue of 1,000, from which its
    /// worker takes them, and into which the worker puts what follows from one. The queue fills while the worker compacts,
    /// and then it waits for itself for ever, while memtables and journal grow (fjall-rs/fjall#323).
    fn flush(&self, bytes_max: u64) -> Result<(), fjall::Error> {
        for keyspace in [&self.points, &self.orders] {
            let is_full = || keyspace.tree.active_memtable().size() > bytes_max;
            if !is_full() {
                continue;
            }
            // Held from the sealing on: nobody writes the memtable to a table before the journal, of which what is in the
            // other keyspace is a part, is on disk.
            let flushing = keyspace.tree.get_flush_lock();
            if is_full() {
                // It also tells fjall's worker, which has nothing left to write then, but shortens journals and compacts.
                keyspace.rotate_memtable()?;
                self.database.persist(PersistMode::SyncAll)?;
                let unread = self.database.supervisor.snapshot_tracker.get_seqno_safe_to_gc();
                keyspace.tree.flush(&flushing, unread)?;
            }
        }
        Ok(())
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        match table {
            Table::Touches | Table::Names | Table::Effects | Table::Met => &self.orders,
            _ => &self.points,
        }
    }
}

// === impl Flusher ===

impl Flusher {
    fn new(keyspaces: Keyspaces, failed: Arc<AtomicBool>) -> std::io::Result<Self> {
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

impl Kv for Local {
    type View<'a> = LocalView;

    fn view(&self) -> LocalView {
        self.tables.read().as_ref().map_or(LocalView(None), LocalView::of)
    }

    fn write(&self, mut batch: Batch) -> Result<(), StoreError> {
        // Neighbours are found on the way from one to the next: in random order every insert misses the
        // processor's cache. The first bytes are enough for that, and compared without following a pointer.
        // A stable sort: of several writes to one key the last counts.
        batch.writes.sort_by_cached_key(|(table, key, _)| (*table as u8, head(key)));
        self.try_write(|tables| {
            let writes = OwnedWriteBatch::with_capacity(tables.database.clone(), batch.writes.len());
            // With the operating system when it returns.
            let mut writes = writes.durability(Some(PersistMode::Buffer));
            for (table, key, value) in batch.writes {
                let (keyspace, key) =
                    (tables.keyspace(table), with_prefix(table, &key, |key| UserKey::from(key)));
                match value {
                    Some(value) => writes.insert(keyspace, key, value),
                    None => writes.remove(keyspace, key),
                }
            }
            writes.commit()?;
            tables.flush_full()
        })
    }

    fn persist(&self) -> Result<(), StoreError> {
        let _persisting = self.persisting.lock();
        let point = self.witness.lock().point() + 1;
        let mut batch = Batch::default();
        batch.put(Table::Meta, POINT_KEY.to_vec(), &OffsetRow { offset: point });
        self.write(batch)?;
        self.try_write(|tables| tables.database.persist(PersistMode::SyncAll))?;
        self.witness.lock().advance(point)
    }

    fn clear(&self) -> Result<(), StoreError> {
        // What is thrown away was durable.
        self.witness.lock().forget()?;
        self.try_write(|tables| tables.points.clear().and_then(|()| tables.orders.clear()))
    }
}

// === impl LocalView ===

impl LocalView {
    fn of(tables: &Arc<Tables>) -> Self {
        Self(Some((tables.database.snapshot(), Arc::clone(tables))))
    }
}

impl View for LocalView {
    type Slice = Stored;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let (snapshot, tables) = self.0.as_ref().ok_or_else(not_open)?;
        let value = with_prefix(table, key, |key| snapshot.get(tables.keyspace(table), key));
        let value = value.map_err(determinate)?;
        Ok(value.map(|bytes| Stored { bytes, skip: 0 }))
    }

    fn range(
        &self,
        table: Table,
        keys: Range<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair<Stored>, StoreError>> {
        let keys = prefixed(table, &keys.start)..prefixed(table, &keys.end.max(keys.start));
        let closed = self.0.is_none().then(|| Err(not_open()));
        let open = self.0.iter().flat_map(move |(snapshot, tables)| {
            snapshot.range(tables.keyspace(table), keys.clone()).map(|guard| {
                let (key, value) = guard.into_inner().map_err(determinate)?;
                Ok((Stored { bytes: key, skip: 1 }, Stored { bytes: value, skip: 0 }))
            })
        });
        closed.into_iter().chain(open)
    }
}

// === impl Stored ===

impl Deref for Stored {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.skip..).unwrap_or_default()
    }
}

fn prefixed(table: Table, key: &[u8]) -> Vec<u8> {
    with_prefix(table, key, <[u8]>::to_vec)
}

/// Hands on the key behind the number of its table: on the stack, unless it is long.
fn with_prefix<T>(table: Table, key: &[u8], take: impl FnOnce(&[u8]) -> T) -> T {
    let mut short = [0; SHORT_KEY_BYTES_MAX];
    match short.get_mut(..=key.len()) {
        Some(prefixed) => {
            prefixed[0] = table as u8;
            prefixed[1..].copy_from_slice(key);
            take(prefixed)
        }
        None => take(&[&[table as u8][..], key].concat()),
    }
}

/// What keys sort by first.
fn head(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    let len = key.len().min(head.len());
    head[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(head)
}

/// Filters and indices of the first two levels, which are of one size, stay in memory: a look-up asks one of every table on
/// its way, and would read a megabyte again that was dropped for other blocks. Further down they grow with what is stored, so
/// they are in pieces, which the cache keeps or drops.
fn point_options() -> KeyspaceCreateOptions {
    options()
        .filter_block_pinning_policy(PinningPolicy::all(true))
        .index_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_partitioning_policy(in_pieces())
        .index_block_partitioning_policy(in_pieces())
}

/// Larger blocks, and no filter: it would never be asked.
fn order_options() -> KeyspaceCreateOptions {
    options()
        .data_block_size_policy(BlockSizePolicy::all(ORDER_BLOCK_BYTES))
        .index_block_pinning_policy(PinningPolicy::all(true))
        .index_block_partitioning_policy(in_pieces())
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::None))
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // See `Keyspaces::flush`.
        .max_memtable_size(u64::MAX)
        .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)))
}

/// From the third level on.
fn in_pieces() -> PartitioningPolicy {
    PartitioningPolicy::new([false, false, true])
}

fn marker(format: u32) -> String {
    let text = format!("journey-store {format}");
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// Whether a folder is marked as a store of this format; false where there is nothing yet, an error for anything else that
/// is in the way. Writes nothing.
pub(crate) fn has_known_format(path: &Path) -> Result<bool, StoreError> {
    let file = path.join(FORMAT_FILE);
    match fs::read_to_string(&file) {
        Ok(text) if text == marker(FORMAT) => Ok(true),
        Ok(text) => {
            let format = text.split(' ').nth(1).and_then(|format| format.parse().ok());
            match format.filter(|format| text == marker(*format)) {
                Some(format) => Err(StoreError::Unavailable(format!(
                    "{} has format {format}, this program reads {FORMAT}: use the program that wrote it, or move the \
                     folder away, and it is made again from the log",
                    path.display(),
                ))),
                None => Err(StoreError::Corrupt(format!("{} cannot be read", file.display()))),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::read_dir(path)
                .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|e| !is_draft(&e))))
            {
                return Err(StoreError::Unavailable(format!(
                    "{} is not empty and not a journey store: name another folder",
                    path.display(),
                )));
            }
            Ok(false)
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(StoreError::Corrupt(format!("{} cannot be read", file.display())))
        }
        Err(error) => Err(unusable(path, &error)),
    }
}

// Left behind by a crash while the folder was made.
fn is_draft(entry: &fs::DirEntry) -> bool {
    entry.file_name() == draft_name().as_str()
}

fn draft_name() -> String {
    format!("{FORMAT_FILE}.new")
}

fn discard(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make(path: &Path, marker: &str) -> std::io::Result<()> {
    fs::create_dir_all(path)?;
    let draft = path.join(draft_name());
    let mut file = File::create(&draft)?;
    file.write_all(marker.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{} cannot be used: {error}", path.display()))
}

fn determinate(error: fjall::Error) -> StoreError {
    match is_damage(&error) {
        true => StoreError::Corrupt(error.to_string()),
        false => StoreError::Unavailable(error.to_string()),
    }
}

fn not_open() -> StoreError {
    StoreError::Unavailable("it could not be opened again yet after a failed write".to_owned())
}

fn indeterminate(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Poisoned => StoreError::Unavailable("a write failed before".to_owned()),
        error if is_damage(&error) => StoreError::Corrupt(error.to_string()),
        error => StoreError::Indeterminate(error.to_string()),
    }
}

fn is_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Storage(error) => !matches!(error, fjall::LsmError::Io(_)),
        fjall::Error::JournalRecovery(_)
        | fjall::Error::InvalidVersion(_)
        | fjall::Error::Decompress(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Unrecoverable => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::{Duration, Instant};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const VALUE_BYTES: usize = 200;
    const LARGE_ROWS: u64 = 10_000;

    /// Writes rows that were not written before.
    fn write(local: &Local, written: &mut u64, rows: u64) {
        let writes = (*written..*written + rows).map(|number| {
            let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec();
            (Table::Editions, key, Some(vec![1; VALUE_BYTES]))
        });
        local.write(Batch { writes: writes.collect() }).unwrap();
        *written += rows;
    }

    #[test]
    fn full_memtables_are_written_to_disk_however_often_is_written_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::open(folder.path(), 1 << 20).unwrap();
        let mut written = 0;
        let tables = local.tables.read().as_ref().unwrap().clone();
        write(&local, &mut written, LARGE_ROWS);
        // Not more: then writes would wait for what this test holds.
        let fill_two = 1 + 2 * MEMTABLE_BYTES / tables.points.tree.active_memtable().size();
        for round in 0..10 {
            // While the first memtable cannot be written, many writes find it full.
            let held = tables.points.tree.get_flush_lock();
            (0..fill_two).for_each(|_| write(&local, &mut written, LARGE_ROWS));
            (0..2_000).for_each(|_| write(&local, &mut written, 1));
            drop(held);
            let begin = Instant::now();
            while tables.points.tree.active_memtable().size() > MEMTABLE_BYTES
                || tables.points.sealed_memtable_count() > 0
            {
                assert!(begin.elapsed() < PATIENCE, "round {round}: full memtables are not written to disk");
                write(&local, &mut written, 1);
            }
        }
    }

    #[test]
    fn writes_wait_for_no_compaction_and_memtables_stay_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::open(folder.path(), 1 << 20).unwrap();
        // Without a worker it is as if compaction never came to an end.
        *local.tables.write() = None;
        let tables = Arc::new(Tables::open(folder.path(), 1 << 20, 0).unwrap());
        *local.tables.write() = Some(Arc::clone(&tables));
        let mut written = 0;
        while written * (VALUE_BYTES as u64) < 20 * MEMTABLE_BYTES {
            write(&local, &mut written, LARGE_ROWS);
            let memtable = tables.points.tree.active_memtable().size();
            assert!(memtable <= MEMTABLE_BYTES_MAX, "{memtable} bytes after {written} rows");
            assert!(tables.points.sealed_memtable_count() <= 1);
        }
        let stored =
            local.view().range(Table::Editions, Vec::new()..vec![u8::MAX; 9]).map(Result::unwrap).count();
        assert_eq!(stored as u64, written);
    }
}

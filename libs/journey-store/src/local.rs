//! Tables in a folder of files, by fjall.
//!
//! Owns the folder: its format and its version. Writes reach the operating system when they return
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
    },
};

use fjall::{OwnedWriteBatch, PersistMode, Readable, Snapshot, UserKey};
use parking_lot::{Mutex, RwLock};
use rustix::process::{Resource, getrlimit};

use crate::{
    StoreError,
    keyspaces::{Flusher, Keyspaces},
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

struct Tables {
    keyspaces: Keyspaces,
    flusher: Flusher,
    /// Whether a write failed.
    failed: Arc<AtomicBool>,
}

/// A snapshot of all keyspaces; nothing while the database is not open.
pub(crate) struct LocalView(Option<(Snapshot, Arc<Tables>)>);

/// Bytes in a block of fjall's cache.
pub(crate) struct Stored {
    bytes: fjall::Slice,
    /// The number of the table, in front of a key.
    skip: usize,
}

/// The version of everything in the folder.
const FORMAT: u32 = 3;
/// The oldest one that can be gone on with: decisions were in their editions and effects, and are read from there.
const FORMAT_MIN: u32 = 2;
const FORMAT_FILE: &str = "FORMAT";
const WITNESS_FILE: &str = "DURABLE";
const DATABASE_FOLDER: &str = "tables";
/// Keys with their prefix that are made without an allocation: all but those of long event ids.
const SHORT_KEY_BYTES_MAX: usize = 64;
/// With more threads fjall's first one hands the others' work back and forth as long as there is any.
const WORKER_THREADS: usize = 1;
/// Bounds of the tables' files that are kept open; one that is not is opened for each block that is read.
const OPEN_FILES_MIN: usize = 32;
const OPEN_FILES_MAX: usize = 4_096;
/// Where the number of the last durable point is, in `meta`.
const POINT_KEY: &[u8] = &[0];

// === impl Local ===

impl Local {
    /// Opens or makes the folder.
    pub(crate) fn open(path: &Path, cache_bytes_max: u64) -> Result<Self, StoreError> {
        let format = known_format(path)?;
        let mark = || make(path, &marker(FORMAT)).map_err(|error| unusable(path, &error));
        if format.is_none() {
            mark()?;
        }
        let witness = path.join(WITNESS_FILE);
        if !witness.exists() {
            // It is made last: what a making that was cut short has left holds nothing, and cannot be opened.
            discard(&path.join(DATABASE_FOLDER)).map_err(|error| unusable(path, &error))?;
        }
        let tables = Tables::open(path, cache_bytes_max)?;
        let witness = Witness::open(&witness)?;
        // Names made by a process that was killed before it synced the folder are seen and may not survive.
        File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| unusable(path, &error))?;
        let tables = tables.check(path, &witness)?;
        if format.is_some_and(|format| format < FORMAT) {
            // Not before it is certain that no program of that format is at work in it.
            mark()?;
        }
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
        let tables = Tables::open(&self.path, self.cache_bytes_max)?;
        *slot = Some(tables.check(&self.path, &self.witness.lock())?);
        Ok(())
    }
}

// === impl Tables ===

impl Tables {
    fn open(path: &Path, cache_bytes_max: u64) -> Result<Self, StoreError> {
        let folder = path.join(DATABASE_FOLDER);
        let keyspaces = Keyspaces::open(&folder, cache_bytes_max, files_max(), WORKER_THREADS);
        let keyspaces = keyspaces.map_err(|error| match error {
            fjall::Error::Locked => {
                StoreError::Unavailable(format!("{} is in use by another process", path.display()))
            }
            error => determinate(error),
        })?;
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
            let writes =
                OwnedWriteBatch::with_capacity(tables.keyspaces.database.clone(), batch.writes.len());
            // With the operating system when it returns.
            let mut writes = writes.durability(Some(PersistMode::Buffer));
            for (table, key, value) in batch.writes {
                let (keyspace, key) =
                    (tables.keyspaces.of(table), with_prefix(table, &key, |key| UserKey::from(key)));
                match value {
                    Some(value) => writes.insert(keyspace, key, value),
                    None => writes.remove(keyspace, key),
                }
            }
            writes.commit()?;
            tables.keyspaces.flush_full(&tables.flusher)
        })
    }

    fn persist(&self) -> Result<(), StoreError> {
        let _persisting = self.persisting.lock();
        let point = self.witness.lock().point() + 1;
        let mut batch = Batch::default();
        batch.put(Table::Meta, POINT_KEY.to_vec(), &OffsetRow { offset: point });
        self.write(batch)?;
        self.try_write(|tables| tables.keyspaces.database.persist(PersistMode::SyncAll))?;
        self.witness.lock().advance(point)
    }

    fn clear(&self) -> Result<(), StoreError> {
        // What is thrown away was durable.
        self.witness.lock().forget()?;
        self.try_write(|tables| tables.keyspaces.clear())
    }
}

// === impl LocalView ===

impl LocalView {
    fn of(tables: &Arc<Tables>) -> Self {
        Self(Some((tables.keyspaces.database.snapshot(), Arc::clone(tables))))
    }
}

impl View for LocalView {
    type Slice = Stored;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let (snapshot, tables) = self.0.as_ref().ok_or_else(not_open)?;
        let value = with_prefix(table, key, |key| snapshot.get(tables.keyspaces.of(table), key));
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
            snapshot.range(tables.keyspaces.of(table), keys.clone()).map(|guard| {
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

/// How many files of tables are kept open: of what this process may open, three quarters are for connections.
fn files_max() -> usize {
    let limit = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    limit.map_or(OPEN_FILES_MAX, |files| (files / 8).clamp(OPEN_FILES_MIN, OPEN_FILES_MAX))
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

fn marker(format: u32) -> String {
    let text = format!("journey-store {format}");
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// The format that a folder is marked with, if it can be gone on with; nothing where there is nothing yet, an error for
/// anything else that is in the way. Writes nothing.
pub(crate) fn known_format(path: &Path) -> Result<Option<u32>, StoreError> {
    let file = path.join(FORMAT_FILE);
    match fs::read_to_string(&file) {
        Ok(text) => {
            let format = text.split(' ').nth(1).and_then(|format| format.parse().ok());
            match format.filter(|format| text == marker(*format)) {
                Some(format @ FORMAT_MIN..=FORMAT) => Ok(Some(format)),
                Some(format) => Err(StoreError::Unavailable(format!(
                    "{} has format {format}, this program reads {FORMAT_MIN} to {FORMAT}: use the program that wrote it, \
                     or move the folder away, and it is made again from the log",
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
            Ok(None)
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

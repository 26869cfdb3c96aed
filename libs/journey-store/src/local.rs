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
    path::Path,
};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot,
    config::{BlockSizePolicy, FilterPolicy, FilterPolicyEntry},
};
use parking_lot::Mutex;

use crate::{
    StoreError,
    kv::{Batch, Kv, Pair, Reader, Table, View},
    rows::OffsetRow,
    witness::Witness,
};

/// The tables in two keyspaces of one database, each key behind the number of its table. They share a journal, so a batch
/// over both is atomic. Every keyspace more costs 60 ms when a store is made.
pub(crate) struct Local {
    database: Database,
    /// Tables that are asked for single keys.
    points: Keyspace,
    /// Tables that are read in order.
    orders: Keyspace,
    witness: Mutex<Witness>,
}

/// A snapshot of both keyspaces.
pub(crate) struct LocalView<'a> {
    local: &'a Local,
    snapshot: Snapshot,
}

/// Bytes in a block of fjall's cache.
pub(crate) struct Stored {
    bytes: fjall::Slice,
    /// The number of the table, in front of a key.
    skip: usize,
}

/// The version of everything in the folder.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const WITNESS_FILE: &str = "DURABLE";
const DATABASE_FOLDER: &str = "tables";
/// Journal on disk before fjall moves the oldest writes into tables.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// Blocks of tables that are read in order.
const ORDER_BLOCK_BYTES: u32 = 16 << 10;
/// Where the number of the last durable point is, in `meta`.
const POINT_KEY: &[u8] = &[0];

// === impl Local ===

impl Local {
    /// Opens or makes the folder.
    pub(crate) fn open(path: &Path, cache_bytes_max: u64) -> Result<Self, StoreError> {
        check_format(path)?;
        let database = Database::builder(path.join(DATABASE_FOLDER))
            .cache_size(cache_bytes_max)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => {
                    StoreError::Unavailable(format!("{} is in use by another process", path.display()))
                }
                error => determinate(error),
            })?;
        let keyspace = |name, options: fn() -> KeyspaceCreateOptions| database.keyspace(name, options);
        let points = keyspace("points", KeyspaceCreateOptions::default).map_err(determinate)?;
        let orders = keyspace("orders", order_options).map_err(determinate)?;
        let witness = Witness::open(&path.join(WITNESS_FILE))?;
        let seen = witness.point();
        let local = Self { database, points, orders, witness: Mutex::new(witness) };
        let point: Option<OffsetRow> = Reader::new(local.view()).get(Table::Meta, POINT_KEY)?;
        if point.map_or(0, |row| row.offset) < seen {
            return Err(StoreError::Corrupt(format!(
                "{} lost writes that were durable: move it away, and it is made again from the log",
                path.display(),
            )));
        }
        Ok(local)
    }

    fn keyspace(&self, table: Table) -> &Keyspace {
        match table {
            Table::Touches | Table::Names | Table::Effects => &self.orders,
            _ => &self.points,
        }
    }
}

impl Kv for Local {
    type View<'a> = LocalView<'a>;

    fn view(&self) -> LocalView<'_> {
        LocalView { local: self, snapshot: self.database.snapshot() }
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writes = self.database.batch();
        for (table, key, value) in batch.writes {
            let (keyspace, key) = (self.keyspace(table), prefixed(table, &key));
            match value {
                Some(value) => writes.insert(keyspace, key, value),
                None => writes.remove(keyspace, key),
            }
        }
        writes.commit().map_err(indeterminate)
    }

    fn persist(&self) -> Result<(), StoreError> {
        let mut witness = self.witness.lock();
        let point = witness.point() + 1;
        let mut batch = Batch::default();
        batch.put(Table::Meta, POINT_KEY.to_vec(), &OffsetRow { offset: point });
        self.write(batch)?;
        self.database.persist(PersistMode::SyncAll).map_err(indeterminate)?;
        witness.advance(point)
    }

    fn clear(&self) -> Result<(), StoreError> {
        // What is thrown away was durable.
        self.witness.lock().forget()?;
        self.points.clear().and_then(|()| self.orders.clear()).map_err(indeterminate)
    }
}

// === impl LocalView ===

impl View for LocalView<'_> {
    type Slice = Stored;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let value =
            self.snapshot.get(self.local.keyspace(table), prefixed(table, key)).map_err(determinate)?;
        Ok(value.map(|bytes| Stored { bytes, skip: 0 }))
    }

    fn range(
        &self,
        table: Table,
        keys: Range<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair<Stored>, StoreError>> {
        let keys = prefixed(table, &keys.start)..prefixed(table, &keys.end.max(keys.start));
        self.snapshot.range(self.local.keyspace(table), keys).map(|guard| {
            let (key, value) = guard.into_inner().map_err(determinate)?;
            Ok((Stored { bytes: key, skip: 1 }, Stored { bytes: value, skip: 0 }))
        })
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
    let mut prefixed = Vec::with_capacity(1 + key.len());
    prefixed.push(table as u8);
    prefixed.extend_from_slice(key);
    prefixed
}

/// Larger blocks, and no filter: it would never be asked.
fn order_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .data_block_size_policy(BlockSizePolicy::all(ORDER_BLOCK_BYTES))
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::None))
}

/// Checks the version of a folder, or marks a new one; anything else in the way is left alone.
fn check_format(path: &Path) -> Result<(), StoreError> {
    let file = path.join(FORMAT_FILE);
    let marker = |format: u32| {
        let text = format!("journey-store {format}");
        format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
    };
    match fs::read_to_string(&file) {
        Ok(text) if text == marker(FORMAT) => Ok(()),
        Ok(text) => {
            let format = text.split(' ').nth(1).and_then(|format| format.parse().ok());
            match format.filter(|format| text == marker(*format)) {
                Some(format) => Err(StoreError::Unavailable(format!(
                    "{} has format {format}, this program reads {FORMAT}: use the program that wrote it",
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
            make(path, &marker(FORMAT)).map_err(|error| unusable(path, &error))
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

// After a failed write fjall refuses all further ones until it is opened again.
fn indeterminate(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Poisoned => {
            StoreError::Unavailable("a write failed before; restart on a healthy disk".to_owned())
        }
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

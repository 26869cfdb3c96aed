//! Tables in a folder of files, by fjall.
//!
//! Owns the folder: its format, its version and the tuning of each table. Writes reach the operating system when they
//! return and the disk at [`Kv::persist`], or when fjall moves them out of memory, which happens journal first: a crash of the
//! process loses nothing, a loss of power keeps a prefix of the writes.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot,
    config::{BlockSizePolicy, FilterPolicy, FilterPolicyEntry},
};

use crate::{
    StoreError,
    kv::{Batch, Kv, Pair, TABLES, Table, View},
};

/// The tables as keyspaces of one database: they share its journal, so a batch over several of them is atomic.
pub(crate) struct Local {
    database: Database,
    tables: Vec<Keyspace>,
}

/// A snapshot of all keyspaces.
pub(crate) struct LocalView<'a> {
    tables: &'a [Keyspace],
    snapshot: Snapshot,
}

/// The version of every layout in `rows.rs`.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const DATABASE_FOLDER: &str = "tables";
/// Journal on disk before fjall moves the oldest writes into tables.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// Blocks of tables that are read in order.
const TIMELINE_BLOCK_BYTES: u32 = 16 << 10;

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
        let tables = TABLES
            .iter()
            .map(|table| database.keyspace(table.name(), || options(*table)))
            .collect::<Result<_, _>>()
            .map_err(determinate)?;
        Ok(Self { database, tables })
    }
}

impl Kv for Local {
    type View<'a> = LocalView<'a>;

    fn view(&self) -> LocalView<'_> {
        LocalView { tables: &self.tables, snapshot: self.database.snapshot() }
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writes = self.database.batch();
        for (table, key, value) in batch.writes {
            let table = &self.tables[table as usize];
            match value {
                Some(value) => writes.insert(table, key, value),
                None => writes.remove(table, key),
            }
        }
        writes.commit().map_err(indeterminate)
    }

    fn persist(&self) -> Result<(), StoreError> {
        self.database.persist(PersistMode::SyncAll).map_err(indeterminate)
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.tables.iter().try_for_each(Keyspace::clear).map_err(indeterminate)
    }
}

// === impl LocalView ===

impl View for LocalView<'_> {
    type Slice = fjall::Slice;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<fjall::Slice>, StoreError> {
        self.snapshot.get(&self.tables[table as usize], key).map_err(determinate)
    }

    fn range(
        &self,
        table: Table,
        from: Vec<u8>,
        to: Vec<u8>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair<fjall::Slice>, StoreError>> {
        let to = to.max(from.clone());
        self.snapshot
            .range(&self.tables[table as usize], from..to)
            .map(|guard| guard.into_inner().map_err(determinate))
    }
}

fn options(table: Table) -> KeyspaceCreateOptions {
    let options = KeyspaceCreateOptions::default();
    match table {
        // Read in order only: a filter would never be asked.
        Table::Touches | Table::Names | Table::Effects => options
            .data_block_size_policy(BlockSizePolicy::all(TIMELINE_BLOCK_BYTES))
            .filter_policy(FilterPolicy::all(FilterPolicyEntry::None)),
        _ => options,
    }
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
    if is_damage(&error) {
        return StoreError::Corrupt(error.to_string());
    }
    StoreError::Unavailable(error.to_string())
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

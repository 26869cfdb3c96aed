//! A disk in memory that forgets what was not synced, and fails when told to. For tests and simulations.
//!
//! The same calls and the same seed give the same files.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::disk::{Disk, DiskFile};

/// A write reaches the disk in pieces of so many bytes, each whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What is to go wrong. Counts are of calls from now on, the next one being 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// The sync of a file that fails, and forgets what it was to keep.
    pub fail_sync: Option<u64>,
    /// Whether every later sync fails too.
    pub fail_syncs_after: bool,
    /// The write that fails after half of its bytes.
    pub fail_write: Option<u64>,
    /// The changing call at which the power goes: it and everything after it fails.
    pub power_off: Option<u64>,
    /// Bytes of all files together; past it there is no place.
    pub bytes_max: Option<u64>,
    /// Syncs succeed and keep nothing: a mutant that tests must notice.
    pub lying_syncs: bool,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<u64, Content>,
    /// Names as the running system sees them, and as they were when last synced.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since, in order.
    renames: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    next_file: u64,
    /// Counts the restarts: what was open before fails.
    boot: u64,
    off: bool,
    plan: Plan,
    syncs: u64,
    writes: u64,
    changes: u64,
}

#[derive(Default, Clone)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Len(usize),
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

struct SimulatedFile {
    state: Arc<Mutex<State>>,
    file: u64,
    boot: u64,
}

struct Lock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    boot: u64,
}

// === impl SimulatedDisk ===

impl SimulatedDisk {
    /// Says what is to go wrong from now on.
    pub fn plan(&self, plan: Plan) {
        let mut state = self.0.lock();
        state.plan = plan;
        (state.syncs, state.writes, state.changes) = (0, 0, 0);
    }

    /// How many changing calls there were since the plan was set.
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// The process stops where it is: everything fails until [`Self::kill`] or [`Self::crash`].
    pub fn power_off(&self) {
        self.0.lock().off = true;
    }

    /// The process is killed: what it wrote stays as it was seen, what it had open is closed.
    pub fn kill(&self) {
        let mut state = self.0.lock();
        state.boot += 1;
        state.off = false;
        state.plan = Plan::default();
        state.locked.clear();
    }

    /// The power goes and comes back: of what was not synced, the seed decides which sectors and names are kept.
    pub fn crash(&self, seed: u64) {
        self.kill();
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut state = self.0.lock();
        let state = &mut *state;
        for content in state.files.values_mut() {
            content.crash(&mut rng);
        }
        let kept = rng.random_range(0..=state.renames.len());
        let mut names = std::mem::take(&mut state.durable_names);
        for change in state.renames.drain(..).take(kept) {
            apply(&mut names, change);
        }
        state.names = names.clone();
        state.durable_names = names;
        let used: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|file, _| used.contains(file));
    }

    /// Every file's path.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.lock().names.keys().cloned().collect()
    }

    /// A file's bytes.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        state.names.get(path).and_then(|file| state.files.get(file)).map(|content| content.seen.clone())
    }

    /// Puts bytes in place of a file's, or makes it, durably: damage, or a copy from elsewhere.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        let file = state.names.get(path).copied().unwrap_or(state.next_file);
        state.next_file = state.next_file.max(file + 1);
        state.names.insert(path.to_owned(), file);
        state.durable_names.insert(path.to_owned(), file);
        state.files.insert(file, Content { seen: bytes.clone(), durable: bytes, pending: Vec::new() });
    }

    /// Removes a file durably: damage.
    pub fn lose(&self, path: &Path) {
        let mut state = self.0.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    /// A copy as it is seen now, without anything open.
    pub fn snapshot(&self) -> Self {
        let copy = Self::default();
        for path in self.files() {
            copy.put(&path, self.bytes(&path).unwrap_or_default());
        }
        copy.0.lock().dirs = self.0.lock().dirs.clone();
        copy
    }

    fn open_file(&self, file: u64, boot: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimulatedFile { state: self.0.clone(), file, boot })
    }
}

impl Disk for SimulatedDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        for ancestor in dir.ancestors() {
            state.dirs.insert(ancestor.to_owned());
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        state.running()?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = |path: &&PathBuf| path.parent() == Some(dir);
        let names = state.names.keys().chain(&state.dirs).filter(inside);
        let names = names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock();
        state.running()?;
        let file = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.open_file(file, state.boot))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.change()?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content::default());
        state.name(NameChange::Link(path.to_owned(), file));
        Ok(self.open_file(file, state.boot))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.name(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        if !state.plan.lying_syncs {
            // Names are one journal: syncing a folder makes every earlier change of names durable.
            state.durable_names = state.names.clone();
            state.renames.clear();
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.0.lock();
        state.running()?;
        if !state.locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock { state: self.0.clone(), path: path.to_owned(), boot: state.boot }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.boot == self.boot {
            state.locked.remove(&self.path);
        }
    }
}

// === impl State ===

impl State {
    fn running(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        self.off |= self.plan.power_off.is_some_and(|at| self.changes >= at);
        self.running()
    }

    fn name(&mut self, change: NameChange) {
        apply(&mut self.names, change.clone());
        self.renames.push(change);
    }

    fn room(&self, more: usize) -> io::Result<()> {
        let used: usize = self
            .names
            .values()
            .filter_map(|file| self.files.get(file))
            .map(|content| content.seen.len())
            .sum();
        match self.plan.bytes_max {
            Some(most) if (used + more) as u64 > most => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, change: NameChange) {
    match change {
        NameChange::Link(path, file) => {
            names.insert(path, file);
        }
        NameChange::Rename(from, to) => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
        NameChange::Remove(path) => {
            names.remove(&path);
        }
    }
}

// === impl Content ===

impl Content {
    fn change(&mut self, change: Change) {
        write(&mut self.seen, &change);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            write(&mut self.durable, &change);
        }
    }

    fn crash(&mut self, rng: &mut SmallRng) {
        // Some crashes keep nearly everything, some nearly nothing.
        let share = f64::from(rng.random_range(0..=4_u32)) / 4.0;
        for change in self.pending.drain(..) {
            match change {
                Change::Len(_) => {
                    if rng.random_bool(share) {
                        write(&mut self.durable, &change);
                    }
                }
                Change::Write { at, bytes } => {
                    let mut done = 0;
                    while done < bytes.len() {
                        let end = (SECTOR_BYTES - (at + done) % SECTOR_BYTES + done).min(bytes.len());
                        if rng.random_bool(share) {
                            write(
                                &mut self.durable,
                                &Change::Write { at: at + done, bytes: bytes[done..end].to_vec() },
                            );
                        }
                        done = end;
                    }
                }
            }
        }
        self.seen = self.durable.clone();
    }
}

fn write(to: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Len(len) => to.resize(*len, 0),
        Change::Write { at, bytes } => {
            if to.len() < at + bytes.len() {
                to.resize(at + bytes.len(), 0);
            }
            to[*at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

// === impl SimulatedFile ===

impl SimulatedFile {
    fn with<T>(&self, work: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.boot != self.boot {
            return Err(io::Error::other("the process was killed"));
        }
        state.running()?;
        work(&mut state, self.file)
    }
}

fn content(state: &mut State, file: u64) -> io::Result<&mut Content> {
    state.files.get_mut(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl DiskFile for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|state, file| Ok(content(state, file)?.seen.len() as u64))
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|state, file| {
            let seen = &content(state, file)?.seen;
            let rest = seen.get(at as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.with(|state, file| {
            let change = |bytes: &[u8]| Change::Write { at: at as usize, bytes: bytes.to_vec() };
            let on = state.change();
            state.writes += 1;
            let fails = state.plan.fail_write == Some(state.writes);
            let grows = (at as usize + bytes.len()).saturating_sub(content(state, file)?.seen.len());
            state.room(grows)?;
            if fails || on.is_err() {
                content(state, file)?.change(change(&bytes[..bytes.len() / 2]));
                on?;
                return Err(io::Error::other("the write failed, as planned"));
            }
            content(state, file)?.change(change(bytes));
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, file| {
            state.change()?;
            content(state, file)?.change(Change::Len(len as usize));
            Ok(())
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|state, file| {
            state.change()?;
            let held = content(state, file)?.seen.len();
            if held < len as usize {
                state.room(len as usize - held)?;
                content(state, file)?.change(Change::Len(len as usize));
            }
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, file| {
            state.change()?;
            state.syncs += 1;
            let Plan { fail_sync, fail_syncs_after, lying_syncs, .. } = state.plan;
            let fails =
                fail_sync.is_some_and(|at| state.syncs == at || (fail_syncs_after && state.syncs > at));
            let content = content(state, file)?;
            if fails {
                // As systems do: the pages count as written though they are not.
                content.pending.clear();
                return Err(io::Error::other("the sync failed, as planned"));
            }
            if !lying_syncs {
                content.sync();
            }
            Ok(())
        })
    }
}

//! How far each consumer has come: one small file per consumer and partition, `positions/<consumer>.<partition>`.
//!
//! A file is made with its first slot and has two, in two sectors, written in turn and not synced at once: whatever a crash leaves, one of them is
//! intact, and a position may only go back by what was committed last. Retention syncs before it removes anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fail::fail_point;
use parking_lot::Mutex;

use crate::{
    LogError,
    disk::{Disk, DiskFile},
    limits::check_consumer,
    sealed,
    segment::Owner,
};

const MAGIC: &[u8; 8] = b"EVTLOGPS";
/// Two slots never share a sector, so a torn write of one leaves the other.
const SLOT_BYTES: u64 = 512;
const VALUE_BYTES: usize = 36;
const SEALED_BYTES: usize = 8 + 4 + VALUE_BYTES + 4;

pub(crate) struct Positions {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    log: u128,
    known: Mutex<BTreeMap<(String, u32), Position>>,
}

struct Position {
    file: Arc<dyn DiskFile>,
    offset: u64,
    /// Counts the commits; the slot is its parity.
    count: u64,
}

impl Positions {
    /// Reads every position; also the paths of those that are damaged, which start over from 0.
    pub(crate) fn read(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        log: u128,
    ) -> Result<(Self, Vec<PathBuf>), LogError> {
        let names = match disk.list(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|error| sealed::cannot("list", &dir, &error))?,
        };
        let mut known = BTreeMap::new();
        let mut damaged = Vec::new();
        for name in names {
            let Some((consumer, partition)) = parse(&name) else { continue };
            let path = dir.join(&name);
            let owner = Owner { log, partition };
            let file = disk.open(&path).map_err(|error| sealed::cannot("open", &path, &error))?;
            let newest = newest(&*file, owner, &path)?;
            if newest.is_none() {
                damaged.push(path);
            }
            let (count, offset) = newest.unwrap_or((0, 0));
            known.insert((consumer, partition), Position { file, offset, count });
        }
        Ok((Self { disk, dir, log, known: Mutex::new(known) }, damaged))
    }

    pub(crate) fn get(&self, consumer: &str, partition: u32) -> Option<u64> {
        self.known.lock().get(&(consumer.to_owned(), partition)).map(|position| position.offset)
    }

    pub(crate) fn set(&self, consumer: &str, partition: u32, offset: u64) -> io::Result<()> {
        let mut known = self.known.lock();
        let owner = Owner { log: self.log, partition };
        let Some(position) = known.get_mut(&(consumer.to_owned(), partition)) else {
            let file = self.create(&format!("{consumer}.{partition}"), &encode(owner, 0, offset))?;
            known.insert((consumer.to_owned(), partition), Position { file, offset, count: 0 });
            return Ok(());
        };
        let count = position.count + 1;
        position.file.write_at(&encode(owner, count, offset), count % 2 * SLOT_BYTES)?;
        position.offset = offset;
        position.count = count;
        Ok(())
    }

    /// Makes a file with its first slot, whole or not at all.
    fn create(&self, name: &str, slot: &[u8]) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let temporary = self.dir.join(format!("{name}.tmp"));
        self.disk.create_dir(&self.dir)?;
        let file = self.disk.create(&temporary)?;
        file.write_at(slot, 0)?;
        file.sync()?;
        fail_point!("event_log::before_position_rename");
        self.disk.rename(&temporary, &path)?;
        fail_point!("event_log::before_position_dir_sync");
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    /// What some consumer says it has read of a partition was durable.
    pub(crate) fn most(&self, partition: u32) -> u64 {
        let known = self.known.lock();
        known
            .iter()
            .filter(|((_, of), _)| *of == partition)
            .map(|(_, position)| position.offset)
            .max()
            .unwrap_or(0)
    }

    /// The offset below which no consumer needs a partition any more, made durable; nothing if there is no consumer.
    /// A consumer that is known from any partition counts, with 0 where it has not committed.
    pub(crate) fn least_durable(&self, partition: u32) -> io::Result<Option<u64>> {
        let known = self.known.lock();
        let consumers: BTreeSet<&String> = known.keys().map(|(consumer, _)| consumer).collect();
        let mut least = None;
        for consumer in consumers {
            let position = known.get(&(consumer.clone(), partition));
            if let Some(position) = position {
                position.file.sync()?;
            }
            let offset = position.map_or(0, |position| position.offset);
            least = Some(least.map_or(offset, |least: u64| least.min(offset)));
        }
        Ok(least)
    }
}

fn parse(name: &str) -> Option<(String, u32)> {
    let (consumer, partition) = name.rsplit_once('.')?;
    check_consumer(consumer).ok()?;
    Some((consumer.to_owned(), partition.parse().ok()?))
}

fn encode(owner: Owner, count: u64, offset: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE_BYTES);
    value.extend_from_slice(&owner.log.to_le_bytes());
    value.extend_from_slice(&owner.partition.to_le_bytes());
    value.extend_from_slice(&count.to_le_bytes());
    value.extend_from_slice(&offset.to_le_bytes());
    sealed::seal(MAGIC, &value)
}

/// Count and offset of the newest intact slot.
fn newest(file: &dyn DiskFile, owner: Owner, path: &Path) -> Result<Option<(u64, u64)>, LogError> {
    let mut newest = None;
    for slot in 0..2 {
        let mut bytes = [0; SEALED_BYTES];
        let read = file
            .read_at(&mut bytes, slot * SLOT_BYTES)
            .map_err(|error| sealed::cannot("read", path, &error))?;
        let Some(value) = sealed::unseal(MAGIC, &bytes[..read])? else { continue };
        let Ok(value) = <[u8; VALUE_BYTES]>::try_from(value) else { continue };
        let mut words = value[20..].chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        let (count, offset) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        if bytes[..] == encode(owner, count, offset)[..] {
            newest = newest.max(Some((count, offset)));
        }
    }
    Ok(newest)
}

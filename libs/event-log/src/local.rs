//! The log in a folder of this machine: it survives the process and power loss.
//!
//! One thread per partition writes; appends that wait while it syncs are confirmed together by the next sync.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Appended, End, Entry, EventLog, FRAME_BYTES_MAX, LogError,
    damage::{Damage, Reports},
    disk::{Disk, RealDisk},
    limits::{PARTITIONS_MAX, check_consumer, check_frame, check_partition, check_within},
    memory::unix_micros,
    partition::{Partition, segment_name},
    positions::Positions,
    recovery::{self, Shared},
    sealed::{self, Sealed, cannot},
    segment::{Owner, SEGMENT_HEAD},
    url::LogUrl,
    writer::make_segment,
};

const META: &str = "log.meta";
const META_MAGIC: &[u8; 8] = b"EVTLOGMT";

/// Bytes of a segment's file where nothing else is asked for.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// The smallest that `segment_bytes_max` may be: a record of the largest frame and its neighbours must fit.
pub const SEGMENT_BYTES_LEAST: u64 = 1 << 20;
/// Bytes of frames that may wait in a partition where nothing else is asked for.
pub const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Frames that may wait in a partition where nothing else is asked for.
pub const QUEUE_FRAMES_MAX: usize = 64 * 1024;

/// Where a log is and what it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The folder; made if it is not there.
    pub dir: PathBuf,
    /// How many partitions, 1 to 1024; of an existing log the same or nothing, of a new one 1 if nothing.
    pub partitions: Option<u32>,
    /// Bytes of a segment's file, at least [`SEGMENT_BYTES_LEAST`].
    pub segment_bytes_max: u64,
    /// Bytes of frames in a partition that are not durable yet, at least [`FRAME_BYTES_MAX`]; past it appends are refused.
    pub queue_bytes_max: usize,
    /// Frames in a partition that are not durable yet; past it appends are refused.
    pub queue_frames_max: usize,
    /// Past so many bytes of records in a partition, its oldest segments go; never without it.
    pub retention_bytes: Option<u64>,
    /// Segments whose last record is older than so many seconds go; never without it.
    pub retention_seconds: Option<u64>,
}

/// The clock, Unix microseconds; it may jump either way.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What the log stands on: a simulation brings its own.
#[derive(Clone)]
pub struct Host {
    /// Where the files are.
    pub disk: Arc<dyn Disk>,
    /// Where times come from.
    pub clock: Clock,
    /// Who writes.
    pub writers: Writers,
}

/// Who writes what was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// A thread per partition; reads use the runtime's blocking threads.
    Threads,
    /// Only [`LocalLog::flush`], on the caller's thread, and reads run where they are awaited: the same calls give the
    /// same files.
    Manual,
}

/// A log in a folder.
pub struct LocalLog {
    id: u128,
    partitions: Vec<Arc<Partition>>,
    positions: Arc<Positions>,
    reports: Arc<Reports>,
    writers: Writers,
    threads: Vec<JoinHandle<()>>,
    _lock: Box<dyn Send + Sync>,
}

// === impl Options ===

impl Options {
    /// A log in a folder, with the usual limits and no retention.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            partitions: None,
            segment_bytes_max: SEGMENT_BYTES_MAX,
            queue_bytes_max: QUEUE_BYTES_MAX,
            queue_frames_max: QUEUE_FRAMES_MAX,
            retention_bytes: None,
            retention_seconds: None,
        }
    }

    pub(crate) fn from_url(mut url: LogUrl) -> Result<Self, LogError> {
        if url.path.is_empty() {
            return Err(LogError::Url("name a folder: file:///folder".to_owned()));
        }
        let mut options = Self::new(url.path.clone());
        options.partitions = url.number("partitions", 1, PARTITIONS_MAX)?.map(|partitions| partitions as u32);
        if let Some(bytes) = url.number("segment_bytes_max", SEGMENT_BYTES_LEAST, 1 << 40)? {
            options.segment_bytes_max = bytes;
        }
        if let Some(bytes) = url.number("queue_bytes_max", FRAME_BYTES_MAX as u64, 1 << 40)? {
            options.queue_bytes_max = bytes as usize;
        }
        if let Some(frames) = url.number("queue_frames_max", 1, 1 << 32)? {
            options.queue_frames_max = frames as usize;
        }
        options.retention_bytes = url.number("retention_bytes", 0, u64::MAX)?;
        options.retention_seconds = url.number("retention_seconds", 0, u64::MAX)?;
        url.finish(
            "partitions, segment_bytes_max, queue_bytes_max, queue_frames_max, retention_bytes, retention_seconds",
        )?;
        Ok(options)
    }
}

// === impl Host ===

impl Host {
    /// The machine's own disk, clock and threads.
    pub fn real() -> Self {
        Self { disk: Arc::new(RealDisk), clock: Arc::new(unix_micros), writers: Writers::Threads }
    }
}

// === impl LocalLog ===

impl LocalLog {
    /// Opens the log in the folder, or makes it. Recovery reads the last segment of each partition whole and the headers
    /// of all records before; call it where blocking is allowed.
    pub fn open(options: Options) -> Result<Self, LogError> {
        Self::open_on(options, Host::real())
    }

    /// Opens the log on another disk, by another clock.
    pub fn open_on(options: Options, host: Host) -> Result<Self, LogError> {
        let disk = &*host.disk;
        let dir = options.dir.clone();
        disk.create_dir(&dir).map_err(|error| cannot("make", &dir, &error))?;
        let lock = lock(disk, &dir)?;
        let (id, partitions) = match sealed::read(disk, &dir.join(META), META_MAGIC)? {
            Sealed::Value(value) => {
                // It may have been named by a process that was killed before it synced the folder.
                disk.sync_dir(&dir).map_err(|error| cannot("sync", &dir, &error))?;
                existing(&value, &options)?
            }
            Sealed::Missing => make(disk, &options)?,
            Sealed::Damaged => {
                return Err(LogError::Corrupt(format!("{META} is damaged: restore it from a copy")));
            }
        };
        let inspected: Result<Vec<_>, _> = (0..partitions)
            .map(|partition| {
                recovery::inspect(disk, &partition_dir(&dir, partition), Owner { log: id, partition })
            })
            .collect();
        let inspected = inspected?;
        let (positions, damaged) = Positions::read(host.disk.clone(), dir.join("positions"), id)?;
        let positions = Arc::new(positions);
        let reports = Arc::new(Reports::new(dir.join("quarantine")));
        for path in damaged {
            let reason = format!("{}: the position is damaged and starts over from 0", path.display());
            reports.add(Damage { partition: None, from: 0, to: 0, reason, quarantined: None });
        }
        let writers = host.writers;
        let options = Arc::new(options);
        let shared = Shared { host, options, positions: positions.clone(), reports: reports.clone() };
        let partitions: Result<Vec<_>, LogError> = inspected
            .into_iter()
            .map(|inspected| Ok(Arc::new(recovery::open(inspected, &shared)?)))
            .collect();
        let mut log = Self {
            id,
            partitions: partitions?,
            positions,
            reports,
            writers,
            threads: Vec::new(),
            _lock: lock,
        };
        if writers == Writers::Threads {
            log.start().map_err(|error| LogError::Unavailable(format!("cannot start a thread: {error}")))?;
        }
        Ok(log)
    }

    /// What was found damaged, since the log was opened and while it was read.
    pub fn damage(&self) -> Vec<Damage> {
        self.reports.found()
    }

    /// Writes one flush of what waits in a partition, on this thread, and mends it first if it is broken; whether
    /// anything was waiting. For [`Writers::Manual`].
    pub fn flush(&self, partition: u32) -> bool {
        self.partitions.get(partition as usize).is_some_and(|partition| partition.flush())
    }

    fn start(&mut self) -> io::Result<()> {
        for partition in &self.partitions {
            let name = format!("event-log-{}", partition.owner.partition);
            let partition = partition.clone();
            self.threads.push(std::thread::Builder::new().name(name).spawn(move || partition.run())?);
        }
        Ok(())
    }

    fn partition(&self, partition: u32) -> Result<&Arc<Partition>, LogError> {
        check_partition(partition, self.partitions.len())?;
        Ok(&self.partitions[partition as usize])
    }

    /// Runs what blocks where it may.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        match self.writers {
            Writers::Manual => work(),
            Writers::Threads => tokio::task::spawn_blocking(work)
                .await
                .unwrap_or_else(|error| Err(LogError::Unavailable(format!("the runtime stops: {error}")))),
        }
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        for partition in &self.partitions {
            partition.queue.lock().closed = true;
            partition.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A writer that panicked has already left its appends undecided.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl EventLog for LocalLog {
    fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    fn id(&self) -> u128 {
        self.id
    }

    async fn append(&self, partition: u32, frame: Bytes) -> Result<Appended, LogError> {
        let partition = self.partition(partition)?;
        check_frame(&frame)?;
        let answer = partition.enqueue(frame)?;
        answer.await.unwrap_or_else(|_| Err(LogError::Indeterminate("its writer stopped".to_owned())))
    }

    async fn read(
        &self,
        partition: u32,
        from: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, LogError> {
        let partition = self.partition(partition)?.clone();
        let mut end = partition.end.subscribe();
        check_within(from, *end.borrow())?;
        if from >= *end.borrow() {
            let ready = tokio::time::timeout(wait, end.wait_for(|end| from < *end)).await;
            if !matches!(ready, Ok(Ok(_))) {
                return Ok(Vec::new());
            }
        }
        self.blocking(move || partition.read(from, bytes_max)).await
    }

    async fn end(&self, partition: u32) -> Result<End, LogError> {
        Ok(self.partition(partition)?.end())
    }

    async fn commit(&self, consumer: &str, partition: u32, offset: u64) -> Result<(), LogError> {
        check_consumer(consumer)?;
        let partition = self.partition(partition)?.clone();
        check_within(offset, *partition.end.borrow())?;
        let (positions, consumer) = (self.positions.clone(), consumer.to_owned());
        self.blocking(move || {
            positions
                .set(&consumer, partition.owner.partition, offset)
                .map_err(|error| LogError::Unavailable(format!("cannot store a position: {error}")))?;
            partition.retain();
            Ok(())
        })
        .await
    }

    async fn committed(&self, consumer: &str, partition: u32) -> Result<Option<u64>, LogError> {
        check_consumer(consumer)?;
        self.partition(partition)?;
        Ok(self.positions.get(consumer, partition))
    }

    fn health(&self) -> Result<(), String> {
        for partition in &self.partitions {
            if let Some(reason) = &partition.queue.lock().failed {
                return Err(format!("partition {}: {reason}", partition.owner.partition));
            }
        }
        Ok(())
    }

    fn queue_depth(&self) -> usize {
        self.partitions.iter().map(|partition| partition.queue.lock().frames).sum()
    }
}

fn partition_dir(dir: &Path, partition: u32) -> PathBuf {
    dir.join(format!("p{partition:04}"))
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn Send + Sync>, LogError> {
    let path = dir.join("lock");
    disk.lock(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => LogError::Unavailable(format!(
            "another process has {} open: stop it, or use another folder",
            dir.display()
        )),
        _ => cannot("lock", &path, &error),
    })
}

/// Identity and partitions of a log that is there.
fn existing(value: &[u8], options: &Options) -> Result<(u128, u32), LogError> {
    let (Some(partitions), Some(id)) = (value.first_chunk::<4>(), value.last_chunk::<16>()) else {
        return Err(LogError::Corrupt(format!("{META} is damaged: restore it from a copy")));
    };
    let partitions = u32::from_le_bytes(*partitions);
    match options.partitions.filter(|asked| *asked != partitions) {
        Some(asked) => Err(LogError::Url(format!(
            "the log was made with partitions={partitions}, which cannot change to {asked}"
        ))),
        None => Ok((u128::from_le_bytes(*id), partitions)),
    }
}

/// Makes the log: segments first, then the file that says there is a log.
fn make(disk: &dyn Disk, options: &Options) -> Result<(u128, u32), LogError> {
    let dir = &options.dir;
    refuse_orphans(disk, dir)?;
    let (id, partitions) = (rand::random::<u128>(), options.partitions.unwrap_or(1));
    for partition in 0..partitions {
        let home = partition_dir(dir, partition);
        disk.create_dir(&home)
            .and_then(|()| {
                make_segment(disk, &home, Owner { log: id, partition }, options.segment_bytes_max, 0)
            })
            .map_err(|error| cannot("make", &home, &error))?;
    }
    let value = [&partitions.to_le_bytes()[..], &id.to_le_bytes()].concat();
    sealed::write(disk, &dir.join(META), META_MAGIC, &value).map_err(|error| cannot("make", dir, &error))?;
    Ok((id, partitions))
}

/// Without its meta file a folder may hold what a making cut short left, but no records.
fn refuse_orphans(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    let list = |dir: &Path| disk.list(dir).map_err(|error| cannot("list", dir, &error));
    let homes =
        list(dir)?.into_iter().filter(|name| name.starts_with('p') && name[1..].parse::<u32>().is_ok());
    for home in homes.map(|name| dir.join(name)) {
        for name in list(&home)?.iter().filter(|name| name.ends_with(".segment")) {
            let path = home.join(name);
            let mut start = [0; 64];
            let read = disk
                .open(&path)
                .and_then(|file| file.read_at(&mut start, SEGMENT_HEAD))
                .map_err(|error| cannot("read", &path, &error))?;
            if *name != segment_name(0) || start[..read].iter().any(|byte| *byte != 0) {
                return Err(LogError::Corrupt(format!(
                    "{META} is missing, but {} holds records: restore {META} from a copy",
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

//! A log on a simulated disk, driven on the test's own thread.
#![allow(clippy::unwrap_used, dead_code)]

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use event_log::{
    Appended, Entry, EventLog, Host, LocalLog, LogError, Options, Record, SEGMENT_BYTES_LEAST, Writers,
    simulated::SimulatedDisk,
};

pub(crate) type Append<'a> = std::pin::Pin<Box<dyn Future<Output = Result<Appended, LogError>> + Send + 'a>>;

pub(crate) const DIR: &str = "/log";

pub(crate) struct World {
    pub(crate) disk: SimulatedDisk,
    pub(crate) time: Arc<AtomicI64>,
    pub(crate) options: Options,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut options = Options::new(DIR);
        options.segment_bytes_max = SEGMENT_BYTES_LEAST;
        Self { disk: SimulatedDisk::default(), time: Arc::new(AtomicI64::new(1_000_000)), options }
    }

    pub(crate) fn open(&self) -> Result<LocalLog, LogError> {
        Self::open_disk(&self.disk, &self.options, &self.time)
    }

    pub(crate) fn open_disk(
        disk: &SimulatedDisk,
        options: &Options,
        time: &Arc<AtomicI64>,
    ) -> Result<LocalLog, LogError> {
        let time = time.clone();
        let clock = Arc::new(move || time.load(Ordering::Relaxed));
        LocalLog::open_on(
            options.clone(),
            Host { disk: Arc::new(disk.clone()), clock, writers: Writers::Manual },
        )
    }

    /// The path of the partition's segment that begins at an offset.
    pub(crate) fn segment(&self, partition: u32, first: u64) -> PathBuf {
        Path::new(DIR).join(format!("p{partition:04}/{first:020}.segment"))
    }

    pub(crate) fn flip(&self, path: &Path, at: usize) {
        let mut bytes = self.disk.bytes(path).unwrap();
        bytes[at] ^= 0x10;
        self.disk.put(path, bytes);
    }
}

/// The answer of a future that needs no other thread.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match poll(&mut Box::pin(future)) {
        Some(answer) => answer,
        None => panic!("the future waits for something"),
    }
}

pub(crate) fn poll<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T> + ?Sized>>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Appends that wait for the next flush.
pub(crate) fn queue<'a>(
    log: &'a LocalLog,
    partition: u32,
    frames: impl IntoIterator<Item = Bytes>,
) -> Vec<Append<'a>> {
    frames
        .into_iter()
        .map(|frame| {
            let mut append: Append<'a> = Box::pin(async move { log.append(partition, frame).await });
            if let Some(answer) = poll(&mut append) {
                return Box::pin(async { answer }) as Append<'a>;
            }
            append
        })
        .collect()
}

/// Appends in one flush (or the fewest), and what became of each.
pub(crate) fn append(
    log: &LocalLog,
    partition: u32,
    frames: impl IntoIterator<Item = Bytes>,
) -> Vec<Result<Appended, LogError>> {
    let waiting = queue(log, partition, frames);
    while log.queue_depth() > 0 {
        log.flush(partition);
    }
    waiting.into_iter().map(now).collect()
}

/// Everything there is from an offset on, gaps included.
pub(crate) fn entries(log: &LocalLog, partition: u32, from: u64) -> Vec<Entry> {
    let end = now(log.end(partition)).unwrap().offset;
    let mut all = Vec::new();
    let mut at = from;
    while at < end {
        for entry in now(log.read(partition, at, 1 << 16, Duration::ZERO)).unwrap() {
            let (from, to) = match &entry {
                Entry::Record(record) => (record.offset, record.offset + 1),
                Entry::Gap { from, to, .. } => (*from, *to),
            };
            assert_eq!(from, at, "entries follow each other");
            assert!(to > from, "an entry moves on");
            at = to;
            all.push(entry);
        }
    }
    assert_eq!(at, end);
    all
}

pub(crate) fn records(entries: &[Entry]) -> Vec<&Record> {
    entries
        .iter()
        .filter_map(|entry| if let Entry::Record(record) = entry { Some(record) } else { None })
        .collect()
}

pub(crate) fn gaps(entries: &[Entry]) -> Vec<(u64, u64)> {
    let gap = |entry: &Entry| if let Entry::Gap { from, to, .. } = entry { Some((*from, *to)) } else { None };
    entries.iter().filter_map(gap).collect()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(bytes: usize, seed: u64) -> Bytes {
    use rand::{RngExt as _, SeedableRng as _};
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    (0..bytes).map(|_| rng.random::<u8>()).collect()
}

//! One partition: what it holds, what waits to be written, and how it is read.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use zstd::bulk::Decompressor;

use crate::{
    Appended, End, Entry, LogError, Record,
    damage::Reports,
    local::{Host, Options},
    positions::Positions,
    scan::{Hole, Walk, Window},
    segment::{Owner, RECORD_HEAD, RecordHead},
    writer::Writer,
};

/// A partition, shared by its writer, its readers and its appenders.
pub(crate) struct Partition {
    pub(crate) owner: Owner,
    pub(crate) dir: PathBuf,
    pub(crate) host: Host,
    pub(crate) options: Arc<Options>,
    pub(crate) positions: Arc<Positions>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) wake: Condvar,
    pub(crate) clock: Mutex<Times>,
    pub(crate) map: RwLock<Map>,
    /// The durable end; changed only under `clock`.
    pub(crate) end: watch::Sender<u64>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) cursors: Mutex<HashMap<u64, (u64, u64)>>,
}

/// Frames that wait, and those being written.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) waiting: VecDeque<Waiting>,
    /// Bytes and frames that wait or are being written.
    pub(crate) bytes: usize,
    pub(crate) frames: usize,
    pub(crate) failed: Option<String>,
    pub(crate) closed: bool,
}

pub(crate) struct Waiting {
    pub(crate) frame: Bytes,
    pub(crate) reply: oneshot::Sender<Result<Appended, LogError>>,
}

/// What keeps times from running backwards.
pub(crate) struct Times {
    pub(crate) last: i64,
    /// The time of the flush that is being written.
    pub(crate) in_flight: Option<i64>,
}

/// Which segments there are.
pub(crate) struct Map {
    /// Retention removed everything below.
    pub(crate) floor: u64,
    pub(crate) segments: VecDeque<Segment>,
}

/// A segment, as far as it is durable.
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// One more than the last offset, holes included.
    pub(crate) next: u64,
    /// Where the last record ends.
    pub(crate) end: u64,
    pub(crate) last_micros: i64,
    pub(crate) index: Vec<(u64, u64)>,
    pub(crate) holes: Vec<Hole>,
}

/// Where to start reading.
enum Place {
    Gap { to: u64, reason: String },
    Records { segment: u64, at: u64, stop: u64, limit: u64 },
}

/// Why a stretch of records could not be read to its end.
enum Trouble {
    Damaged,
    Error(LogError),
}

impl Partition {
    pub(crate) fn path(&self, first: u64) -> PathBuf {
        self.dir.join(segment_name(first))
    }

    /// Queues a frame, if there is room.
    pub(crate) fn enqueue(
        &self,
        frame: Bytes,
    ) -> Result<oneshot::Receiver<Result<Appended, LogError>>, LogError> {
        let mut queue = self.queue.lock();
        if let Some(reason) = &queue.failed {
            return Err(LogError::Unavailable(reason.clone()));
        }
        if queue.closed {
            return Err(LogError::Unavailable("it is closed".to_owned()));
        }
        let (bytes, frames) = (queue.bytes + frame.len(), queue.frames + 1);
        if bytes > self.options.queue_bytes_max || frames > self.options.queue_frames_max {
            return Err(LogError::Unavailable(
                "too much waits to become durable: append again later".to_owned(),
            ));
        }
        (queue.bytes, queue.frames) = (bytes, frames);
        let (reply, answer) = oneshot::channel();
        queue.waiting.push_back(Waiting { frame, reply });
        if queue.waiting.len() == 1 {
            self.wake.notify_one();
        }
        Ok(answer)
    }

    pub(crate) fn end(&self) -> End {
        let mut times = self.clock.lock();
        let time_micros = match times.in_flight {
            Some(time) => time,
            None => times.now(&self.host),
        };
        End { offset: *self.end.borrow(), time_micros }
    }

    /// Entries from an offset on; the caller knows that there is a durable one.
    pub(crate) fn read(&self, from: u64, bytes_max: usize) -> Result<Vec<Entry>, LogError> {
        let end = *self.end.borrow();
        let mut unpacker =
            Decompressor::new().map_err(|error| LogError::Unavailable(format!("no memory: {error}")))?;
        let mut reading = Reading { entries: Vec::new(), at: from, bytes: 0, bytes_max };
        let mut mended = None;
        while reading.at < end && reading.wants_more() {
            let at = reading.at;
            match self.locate(at) {
                Place::Gap { to, reason } => {
                    reading.entries.push(Entry::Gap { from: at, to: to.min(end), reason });
                    reading.at = to.min(end);
                }
                Place::Records { segment, at: place, stop, limit } => {
                    match self.read_stretch(&mut reading, segment, place, stop.min(end), limit, &mut unpacker)
                    {
                        Ok(()) => {}
                        Err(Trouble::Error(error)) => return Err(error),
                        // Looked through once, the damage is a hole, and the next turn goes over it.
                        Err(Trouble::Damaged) if mended != Some(reading.at) => {
                            mended = Some(reading.at);
                            self.look_through(segment)?;
                        }
                        Err(Trouble::Damaged) => {
                            return Err(LogError::Unavailable(format!(
                                "offset {} reads differently each time",
                                reading.at
                            )));
                        }
                    }
                }
            }
        }
        Ok(reading.entries)
    }

    fn locate(&self, at: u64) -> Place {
        let map = self.map.read();
        let after = map.segments.partition_point(|segment| segment.first <= at);
        let Some(segment) = after.checked_sub(1).and_then(|index| map.segments.get(index)) else {
            let first = map.segments.front().map_or(map.floor, |segment| segment.first);
            return if at < map.floor {
                Place::Gap { to: map.floor.min(first), reason: "removed by retention".to_owned() }
            } else {
                Place::Gap { to: first, reason: "the segments are missing".to_owned() }
            };
        };
        if let Some(hole) = segment.holes.iter().find(|hole| (hole.from..hole.to).contains(&at)) {
            return Place::Gap { to: hole.to, reason: hole.reason.to_owned() };
        }
        let stop = segment.holes.iter().map(|hole| hole.from).find(|from| *from > at).unwrap_or(segment.next);
        let known =
            self.cursors.lock().get(&at).filter(|(of, _)| *of == segment.first).map(|(_, place)| *place);
        let place = known.or_else(|| {
            let after = segment.index.partition_point(|(offset, _)| *offset <= at);
            segment.index.get(after.checked_sub(1)?).map(|(_, place)| *place)
        });
        match place {
            Some(place) => Place::Records { segment: segment.first, at: place, stop, limit: segment.end },
            None => Place::Gap { to: stop, reason: "the records are not in the file".to_owned() },
        }
    }

    fn read_stretch(
        &self,
        reading: &mut Reading,
        segment: u64,
        mut place: u64,
        stop: u64,
        limit: u64,
        unpacker: &mut Decompressor<'_>,
    ) -> Result<(), Trouble> {
        let path = self.path(segment);
        let file = match self.host.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.has(segment) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Trouble::Damaged),
            Err(error) => return Err(Trouble::Error(unreadable(&path, &error))),
        };
        let mut window = Window::new(&*file, limit);
        while reading.at < stop && reading.wants_more() {
            let bytes = window.get(place, RECORD_HEAD).map_err(Trouble::Error)?;
            let head = RecordHead::decode(self.owner, place, bytes).map_err(Trouble::Error)?;
            let Some(head) = head.filter(|head| head.offset <= reading.at && place + head.len() <= limit)
            else {
                return Err(Trouble::Damaged);
            };
            let body = place + RECORD_HEAD as u64;
            place += head.len();
            if head.offset < reading.at {
                continue;
            }
            let body = window.get(body, head.len() as usize - RECORD_HEAD).map_err(Trouble::Error)?;
            let frames = head.frames(body, unpacker).ok_or(Trouble::Damaged)?;
            reading.push(Record { offset: head.offset, time_micros: head.time_micros, frames });
        }
        self.remember(reading.at, segment, place);
        Ok(())
    }

    /// A reader asks next for what follows: it starts there without walking.
    fn remember(&self, offset: u64, segment: u64, place: u64) {
        const CURSORS_MAX: usize = 64;
        let mut cursors = self.cursors.lock();
        if cursors.len() >= CURSORS_MAX {
            cursors.clear();
        }
        cursors.insert(offset, (segment, place));
    }

    fn has(&self, first: u64) -> bool {
        self.map.read().segments.iter().any(|segment| segment.first == first)
    }

    /// Walks a segment in which a reader met damage, and notes and reports its holes.
    fn look_through(&self, first: u64) -> Result<(), LogError> {
        let Some((next, limit)) = self
            .map
            .read()
            .segments
            .iter()
            .find(|segment| segment.first == first)
            .map(|found| (found.next, found.end))
        else {
            return Ok(());
        };
        let path = self.path(first);
        let (scan, file) = match self.host.disk.open(&path) {
            Ok(file) => {
                let walk =
                    Walk { file: &*file, owner: self.owner, first, stop: Some(next), limit, bodies: true };
                (walk.run()?, Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hole =
                    Hole { from: first, to: next, bytes: 0..0, reason: "the segment's file is missing" };
                (crate::scan::Scan { holes: vec![hole], ..Default::default() }, None)
            }
            Err(error) => return Err(unreadable(&path, &error)),
        };
        let mut map = self.map.write();
        let Some(segment) = map.segments.iter_mut().find(|segment| segment.first == first) else {
            return Ok(());
        };
        let fresh: Vec<Hole> =
            scan.holes.iter().filter(|hole| !segment.holes.contains(hole)).cloned().collect();
        let mut index = scan.index;
        // What was appended since the walk began is behind it.
        index.extend(segment.index.iter().filter(|(offset, _)| *offset >= next));
        segment.index = index;
        segment.holes = scan.holes;
        drop(map);
        for hole in fresh {
            self.reports.hole(&*self.host.disk, self.owner.partition, first, file.as_deref(), &hole);
        }
        Ok(())
    }
}

impl Times {
    /// The clock's time, but always past an earlier answer, so that a moment tells two records apart.
    pub(crate) fn now(&mut self, host: &Host) -> i64 {
        self.last = (self.last + 1).max((host.clock)());
        self.last
    }
}

/// What a read has gathered.
struct Reading {
    entries: Vec<Entry>,
    at: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Reading {
    fn wants_more(&self) -> bool {
        self.entries.is_empty() || self.bytes < self.bytes_max
    }

    fn push(&mut self, record: Record) {
        self.at = record.offset + 1;
        self.bytes += record.frames.iter().map(Bytes::len).sum::<usize>();
        self.entries.push(Entry::Record(record));
    }
}

pub(crate) fn segment_name(first: u64) -> String {
    format!("{first:020}.segment")
}

fn unreadable(path: &Path, error: &io::Error) -> LogError {
    LogError::Unavailable(format!("cannot read {}: {error}", path.display()))
}

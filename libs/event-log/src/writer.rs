//! The one writer of a partition: everything queued becomes records, one write, one sync, and then the answers.

use std::{io, path::Path, sync::Arc, time::Duration};

use fail::fail_point;

use crate::{
    Appended, LogError, RECORD_BYTES_MAX,
    disk::{Disk, DiskFile},
    local::Options,
    partition::{Partition, Segment, Waiting, segment_name},
    scan,
    segment::{FRAME_HEAD, Owner, Packer, SEGMENT_HEAD, Stamp},
};

/// The most bytes of frames in one flush: more would make the first of them wait for the last.
const FLUSH_BYTES_MAX: usize = 8 << 20;

/// A failed partition tries to recover this often.
const RETRY: Duration = Duration::from_millis(250);

/// The compressor's level: a third of the bytes, at a cost that only a writer with time to spare can pay.
const LEVEL: i32 = 1;

/// A flush of more bytes of frames is stored plain: the writer is behind, and compressing would make it, not the disk,
/// the limit.
const COMPRESS_BYTES_MAX: u64 = RECORD_BYTES_MAX as u64;

/// The segment being written.
pub(crate) struct Writer {
    /// Nothing where the next segment could not be made yet.
    pub(crate) file: Arc<dyn DiskFile>,
    /// The offset of its first record.
    pub(crate) first: u64,
    /// Where the next record goes; all before is durable.
    pub(crate) at: u64,
    /// Bytes of the file whose place on the disk is taken.
    pub(crate) capacity: u64,
    pub(crate) packer: Packer,
    pub(crate) buffer: Vec<u8>,
    pub(crate) broken: Option<Broken>,
}

/// What has to be mended before anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The next segment could not be made; nothing was written.
    NoSegment,
    /// Bytes past the durable end are in an unknown state.
    Tail,
}

/// A flush that did not succeed.
enum Failure {
    /// Nothing of it can ever be read.
    Refused(String),
    /// It may have reached the disk.
    Unsure(String),
}

impl Writer {
    pub(crate) fn new(file: Arc<dyn DiskFile>, first: u64, at: u64, capacity: u64) -> Self {
        Self { file, first, at, capacity, packer: Packer::new(LEVEL), buffer: Vec::new(), broken: None }
    }
}

impl Partition {
    /// Flushes until the log is closed and nothing waits.
    pub(crate) fn run(&self) {
        loop {
            {
                let mut queue = self.queue.lock();
                while queue.waiting.is_empty() && !queue.closed {
                    if queue.failed.is_none() {
                        self.wake.wait(&mut queue);
                    } else if self.wake.wait_for(&mut queue, RETRY).timed_out() {
                        break;
                    }
                }
                if queue.closed && queue.waiting.is_empty() {
                    return;
                }
            }
            self.flush();
        }
    }

    /// One flush of what waits, after mending what is broken; whether anything was waiting.
    pub(crate) fn flush(&self) -> bool {
        let mut writer = self.writer.lock();
        if writer.broken.is_some() {
            if let Err(error) = self.mend(&mut writer) {
                self.fail(&format!("it could not recover yet: {error}"));
                return false;
            }
            self.queue.lock().failed = None;
            tracing::info!(partition = self.owner.partition, "the event log takes appends again");
        }
        let batch = self.take();
        if batch.is_empty() {
            return false;
        }
        let (bytes, frames) = (batch.iter().map(|waiting| waiting.frame.len()).sum::<usize>(), batch.len());
        match self.write(&mut writer, &batch) {
            Ok(times) => {
                for (waiting, at) in batch.into_iter().zip(times) {
                    // Nobody waits for an append whose future was dropped.
                    let _ = waiting.reply.send(Ok(at));
                }
            }
            Err(Failure::Refused(reason)) => {
                self.fail(&reason);
                refuse(batch, |_| LogError::Unavailable(reason.clone()));
            }
            Err(Failure::Unsure(reason)) => {
                self.fail(&reason);
                refuse(batch, |_| LogError::Indeterminate(reason.clone()));
            }
        }
        let mut queue = self.queue.lock();
        queue.bytes -= bytes;
        queue.frames -= frames;
        true
    }

    fn take(&self) -> Vec<Waiting> {
        let most = FLUSH_BYTES_MAX.min(self.options.segment_bytes_max as usize / 2);
        let mut queue = self.queue.lock();
        let mut bytes = 0;
        let count = queue.waiting.iter().take_while(|waiting| {
            bytes += waiting.frame.len() + FRAME_HEAD;
            bytes <= most
        });
        let count = count.count().max(1).min(queue.waiting.len());
        queue.waiting.drain(..count).collect()
    }

    /// Refuses from now on, what waits included, until it is mended.
    fn fail(&self, reason: &str) {
        let waiting = {
            let mut queue = self.queue.lock();
            if queue.failed.is_none() {
                tracing::error!(partition = self.owner.partition, "the event log refuses appends: {reason}");
            }
            queue.failed = Some(reason.to_owned());
            let waiting: Vec<Waiting> = queue.waiting.drain(..).collect();
            queue.bytes -= waiting.iter().map(|waiting| waiting.frame.len()).sum::<usize>();
            queue.frames -= waiting.len();
            waiting
        };
        refuse(waiting, |_| LogError::Unavailable(reason.to_owned()));
    }

    fn write(&self, writer: &mut Writer, batch: &[Waiting]) -> Result<Vec<Appended>, Failure> {
        let time_micros = {
            let mut times = self.clock.lock();
            let now = times.now(&self.host);
            times.in_flight = Some(now);
            now
        };
        let written = self.write_at(writer, batch, time_micros);
        let mut times = self.clock.lock();
        times.in_flight = None;
        let (appended, next) = written?;
        self.end.send_replace(next);
        Ok(appended)
    }

    fn write_at(
        &self,
        writer: &mut Writer,
        batch: &[Waiting],
        time_micros: i64,
    ) -> Result<(Vec<Appended>, u64), Failure> {
        let durable_to = *self.end.borrow();
        // What compression saves is not known before: the room asked for is that of the plain frames.
        let most = batch.iter().map(|waiting| waiting.frame.len() + FRAME_HEAD).sum::<usize>() as u64;
        let heads = (most / (RECORD_BYTES_MAX as u64 / 2) + 2) * 64;
        if writer.at + most + heads > writer.capacity {
            self.roll(writer, durable_to).map_err(|error| {
                writer.broken.get_or_insert(Broken::NoSegment);
                Failure::Refused(format!("no place for another segment: {error}"))
            })?;
        }
        writer.buffer.clear();
        let mut appended = Vec::with_capacity(batch.len());
        let mut places = Vec::new();
        let mut next = durable_to;
        let mut rest = batch;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(record_frames(rest));
            let at = writer.at + writer.buffer.len() as u64;
            let compress = most <= COMPRESS_BYTES_MAX;
            let stamp = Stamp { owner: self.owner, at, offset: next, time_micros, durable_to, compress };
            writer.packer.pack(&stamp, now.iter().map(|waiting| &waiting.frame), &mut writer.buffer);
            appended.resize(appended.len() + now.len(), Appended { offset: next, time_micros });
            places.push((next, at));
            next += 1;
            rest = later;
        }
        if let Err(error) = put(&*writer.file, &writer.buffer, writer.at) {
            writer.broken = Some(Broken::Tail);
            return Err(Failure::Unsure(format!("writing failed: {error}")));
        }
        writer.at += writer.buffer.len() as u64;
        self.publish(writer, &places, next, time_micros);
        // After a burst the memory is given back, but not between the flushes of one.
        if writer.buffer.capacity() > 2 << 20 && writer.buffer.len() < writer.buffer.capacity() / 8 {
            writer.buffer = Vec::new();
        }
        Ok((appended, next))
    }

    fn publish(&self, writer: &Writer, places: &[(u64, u64)], next: u64, time_micros: i64) {
        let mut map = self.map.write();
        let Some(segment) = map.segments.back_mut() else { return };
        for (offset, at) in places {
            scan::index(&mut segment.index, &segment.holes, *offset, *at);
        }
        segment.next = next;
        segment.end = writer.at;
        segment.last_micros = time_micros;
    }

    /// Ends the segment and begins the next, whose first record has the offset.
    fn roll(&self, writer: &mut Writer, first: u64) -> io::Result<()> {
        let file = self.make_segment(first)?;
        // What was preallocated and is not needed is given back; not synced, for zeros at the end do no harm.
        if let Err(error) = writer.file.set_len(writer.at) {
            tracing::warn!(%error, "cannot shorten a finished segment");
        }
        self.begin(writer, file, first);
        self.retain();
        Ok(())
    }

    /// Makes everything as it was at the last durable record: what lies behind is cut off, and a fresh segment begun,
    /// for after a failed sync the pages of the old file cannot be trusted to be written again.
    fn mend(&self, writer: &mut Writer) -> io::Result<()> {
        if writer.broken == Some(Broken::Tail) {
            writer.file.set_len(writer.at)?;
            writer.file.sync()?;
            writer.broken = Some(Broken::NoSegment);
        }
        let first = *self.end.borrow();
        let file = self.make_segment(first)?;
        self.begin(writer, file, first);
        writer.broken = None;
        Ok(())
    }

    fn begin(&self, writer: &mut Writer, file: Arc<dyn DiskFile>, first: u64) {
        writer.file = file;
        writer.first = first;
        writer.at = SEGMENT_HEAD;
        writer.capacity = self.options.segment_bytes_max;
        let mut map = self.map.write();
        // A segment without records is replaced by its namesake.
        if map.segments.back().is_some_and(|last| last.first == first) {
            map.segments.pop_back();
        }
        let last_micros = map.segments.back().map_or(i64::MIN, |last| last.last_micros);
        map.segments.push_back(Segment::empty(first, last_micros));
        drop(map);
        self.cursors.lock().retain(|_, (segment, _)| *segment != first);
    }

    fn make_segment(&self, first: u64) -> io::Result<Arc<dyn DiskFile>> {
        let disk = &*self.host.disk;
        make_segment(disk, &self.dir, self.owner, self.options.segment_bytes_max, first).inspect_err(|_| {
            // It took what place there was; a leftover is removed on start too.
            let _ = disk.remove(&self.dir.join(TEMPORARY));
        })
    }

    /// Removes the oldest segments past what retention keeps, as far as no consumer needs them.
    pub(crate) fn retain(&self) {
        let Options { retention_bytes, retention_seconds, .. } = *self.options;
        if retention_bytes.is_none() && retention_seconds.is_none() {
            return;
        }
        if let Err(error) = self.try_retain(retention_bytes, retention_seconds) {
            tracing::warn!(partition = self.owner.partition, %error, "cannot remove old segments");
        }
    }

    fn try_retain(&self, bytes_max: Option<u64>, seconds_max: Option<u64>) -> io::Result<()> {
        let oldest = seconds_max.map(|seconds| {
            (self.host.clock)()
                .saturating_sub(i64::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX))
        });
        let too_many = |map: &crate::partition::Map| {
            let mut held: u64 = map.segments.iter().map(|segment| segment.end).sum();
            let mut count = 0;
            for segment in map.segments.iter().take(map.segments.len() - 1) {
                let large = bytes_max.is_some_and(|most| held > most);
                let old = oldest.is_some_and(|oldest| segment.last_micros < oldest);
                if !large && !old {
                    break;
                }
                held -= segment.end;
                count += 1;
            }
            count
        };
        if too_many(&self.map.read()) == 0 {
            return Ok(());
        }
        let Some(least) = self.positions.least_durable(self.owner.partition)? else { return Ok(()) };
        let mut map = self.map.write();
        let consumed = map.segments.partition_point(|segment| segment.next <= least);
        let count = too_many(&map).min(consumed);
        let Some(floor) = count.checked_sub(1).and_then(|last| map.segments.get(last)).map(|last| last.next)
        else {
            return Ok(());
        };
        // First the floor: what lies below it and is still there after a crash is removed then.
        crate::recovery::write_floor(&*self.host.disk, &self.dir, self.owner, floor)?;
        map.floor = floor;
        let removed: Vec<Segment> = map.segments.drain(..count).collect();
        drop(map);
        for segment in removed {
            self.host.disk.remove(&self.path(segment.first))?;
        }
        self.host.disk.sync_dir(&self.dir)
    }
}

pub(crate) const TEMPORARY: &str = "next.tmp";

/// Makes an empty segment under its name, durably.
pub(crate) fn make_segment(
    disk: &dyn Disk,
    dir: &Path,
    owner: Owner,
    bytes: u64,
    first: u64,
) -> io::Result<Arc<dyn DiskFile>> {
    let temporary = dir.join(TEMPORARY);
    let file = disk.create(&temporary)?;
    file.allocate(bytes)?;
    file.write_at(&owner.segment_head(first), 0)?;
    file.sync()?;
    fail_point!("event_log::before_rename");
    disk.rename(&temporary, &dir.join(segment_name(first)))?;
    fail_point!("event_log::before_dir_sync");
    disk.sync_dir(dir)?;
    Ok(file)
}

impl Segment {
    pub(crate) fn empty(first: u64, last_micros: i64) -> Self {
        Self { first, next: first, end: SEGMENT_HEAD, last_micros, index: Vec::new(), holes: Vec::new() }
    }
}

/// Writes durably.
fn put(file: &dyn DiskFile, bytes: &[u8], at: u64) -> io::Result<()> {
    fail_point!("event_log::before_write");
    file.write_at(bytes, at)?;
    fail_point!("event_log::before_sync");
    fail_point!("mutant::skip_fdatasync", |_| Ok(()));
    file.sync()?;
    fail_point!("event_log::after_sync");
    Ok(())
}

/// How many of the frames fit into one record; at least one.
fn record_frames(batch: &[Waiting]) -> usize {
    let mut bytes = 0;
    let fitting = batch.iter().take_while(|waiting| {
        bytes += waiting.frame.len() + FRAME_HEAD;
        bytes <= RECORD_BYTES_MAX
    });
    fitting.count().max(1)
}

fn refuse(batch: Vec<Waiting>, error: impl Fn(()) -> LogError) {
    for waiting in batch {
        let _ = waiting.reply.send(Err(error(())));
    }
}

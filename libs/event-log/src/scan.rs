//! Walks the records of a segment and finds what is damaged.

use std::{io, ops::Range};

use crate::{
    LogError,
    disk::DiskFile,
    segment::{ALIGN, Owner, RECORD_HEAD, RecordHead, SEGMENT_HEAD},
};

/// Between two entries of the index lie about so many bytes.
const INDEX_BYTES: u64 = 64 * 1024;
const WINDOW_BYTES: usize = 256 * 1024;
pub(crate) const END_MISSING: &str = "the end of the segment, or the segment after it, is missing";
const PAGE: usize = 4096;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// Records that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Where they were in the file; empty if there is no trace of them.
    pub(crate) bytes: Range<u64>,
    pub(crate) reason: &'static str,
}

/// What a walk over a segment found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Offset and place of some records: of the first, of the first after each hole, and of one in each stretch between.
    pub(crate) index: Vec<(u64, u64)>,
    pub(crate) holes: Vec<Hole>,
    /// One more than the last record's offset.
    pub(crate) next: u64,
    /// Where the last record ends.
    pub(crate) end: u64,
    pub(crate) last_micros: i64,
    /// Every offset below was durable when the last intact record was written.
    pub(crate) proven: u64,
    /// Where the flush begins that nothing proves durable.
    pub(crate) unproven: u64,
    /// Bytes after the last record that are not zero.
    pub(crate) garbage: Option<Range<u64>>,
}

/// What to walk, and how.
pub(crate) struct Walk<'a> {
    pub(crate) file: &'a dyn DiskFile,
    pub(crate) owner: Owner,
    pub(crate) first: u64,
    /// The offset where the next segment begins, if there is one.
    pub(crate) stop: Option<u64>,
    /// Bytes of the file to look at.
    pub(crate) limit: u64,
    /// Whether bodies are checked too.
    pub(crate) bodies: bool,
}

impl Walk<'_> {
    /// Walks to the end, over whatever is damaged. Fails where the disk does, or where a newer version wrote.
    pub(crate) fn run(&self) -> Result<Scan, LogError> {
        let mut window = Window::new(self.file, self.limit);
        let mut scan = Scan {
            next: self.first,
            end: SEGMENT_HEAD,
            proven: self.first,
            unproven: SEGMENT_HEAD,
            ..Scan::default()
        };
        let mut at = SEGMENT_HEAD;
        let ended = |scan: &Scan| self.stop.is_some_and(|stop| scan.next >= stop);
        while !ended(&scan) {
            let head = RecordHead::decode(self.owner, at, window.get(at, RECORD_HEAD)?)?;
            let Some(head) = head.filter(|head| self.fits(head, scan.next, at)) else {
                let (found, garbage) = self.resync(&mut window, at, scan.next)?;
                let Some((place, head)) = found else {
                    scan.garbage = garbage;
                    break;
                };
                scan.hole(scan.next, head.offset, at..place, "the bytes of the records are damaged");
                at = place;
                scan.end = place;
                continue;
            };
            if head.offset > scan.next {
                scan.hole(scan.next, head.offset, at..at, "the records are not in the file");
            }
            let after = at + head.len();
            let intact = !self.bodies
                || head
                    .body_intact(window.get(at + RECORD_HEAD as u64, (head.len() as usize) - RECORD_HEAD)?);
            if intact {
                scan.record(&head, at);
            } else {
                scan.prove(&head, at);
                scan.hole(
                    head.offset,
                    head.offset + 1,
                    at..after,
                    "the record's bytes do not match its checksum",
                );
            }
            at = after;
            scan.end = after;
        }
        if let Some(stop) = self.stop.filter(|stop| scan.next < *stop) {
            let bytes = scan.garbage.take().unwrap_or(scan.end..scan.end);
            scan.hole(scan.next, stop, bytes, END_MISSING);
        }
        Ok(scan)
    }

    fn fits(&self, head: &RecordHead, next: u64, at: u64) -> bool {
        head.offset >= next
            && self.stop.is_none_or(|stop| head.offset < stop)
            && at + head.len() <= self.limit
    }

    /// The next intact header past a place where there is none, and the bytes up to the end that are not zero.
    #[allow(clippy::type_complexity)]
    fn resync(
        &self,
        window: &mut Window<'_>,
        bad: u64,
        next: u64,
    ) -> Result<(Option<(u64, RecordHead)>, Option<Range<u64>>), LogError> {
        let mut garbage: Option<Range<u64>> = None;
        let mut at = bad;
        while at < self.limit {
            let page = window.get(at, PAGE)?;
            if page == &ZEROS[..page.len()] {
                at += PAGE as u64;
                continue;
            }
            let bytes = window.get(at, RECORD_HEAD)?;
            if let Some(head) =
                RecordHead::decode(self.owner, at, bytes)?.filter(|head| self.fits(head, next, at))
            {
                return Ok((Some((at, head)), None));
            }
            let step = bytes.len().min(ALIGN as usize);
            if bytes[..step].iter().any(|byte| *byte != 0) {
                let end = at + step as u64;
                garbage = Some(garbage.map_or(at..end, |range| range.start..end));
            }
            at += ALIGN;
        }
        Ok((None, garbage))
    }
}

impl Scan {
    fn record(&mut self, head: &RecordHead, at: u64) {
        self.prove(head, at);
        index(&mut self.index, &self.holes, head.offset, at);
        self.last_micros = self.last_micros.max(head.time_micros);
        self.next = head.offset + 1;
    }

    fn prove(&mut self, head: &RecordHead, at: u64) {
        if head.durable_to > self.proven {
            self.proven = head.durable_to;
            self.unproven = at;
        }
    }

    fn hole(&mut self, from: u64, to: u64, bytes: Range<u64>, reason: &'static str) {
        self.next = to;
        match self.holes.last_mut() {
            Some(last) if last.to == from && last.bytes.end == bytes.start => {
                last.to = to;
                last.bytes.end = bytes.end;
            }
            _ => self.holes.push(Hole { from, to, bytes, reason }),
        }
    }
}

/// Adds an entry where the last one is far, or behind a hole.
pub(crate) fn index(index: &mut Vec<(u64, u64)>, holes: &[Hole], offset: u64, at: u64) {
    let after_hole = holes.last().is_some_and(|hole| hole.to == offset);
    if after_hole || index.last().is_none_or(|(_, last)| at - last >= INDEX_BYTES) {
        index.push((offset, at));
    }
}

/// Bytes of a file, read ahead in large pieces.
pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    limit: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, limit: u64) -> Self {
        Self { file, limit, start: 0, bytes: Vec::new() }
    }

    /// So many bytes from a place on, fewer at the end of the file.
    pub(crate) fn get(&mut self, at: u64, len: usize) -> Result<&[u8], LogError> {
        let wanted = self.limit.saturating_sub(at).min(len as u64) as usize;
        let held = at >= self.start && at + wanted as u64 <= self.start + self.bytes.len() as u64;
        if !held {
            let ahead = self.limit.saturating_sub(at).min(wanted.max(WINDOW_BYTES) as u64) as usize;
            self.fill(at, ahead)
                .map_err(|error| LogError::Unavailable(format!("cannot read a segment: {error}")))?;
        }
        let from = (at - self.start) as usize;
        let to = (from + wanted).min(self.bytes.len());
        Ok(&self.bytes[from.min(to)..to])
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        self.bytes.resize(len, 0);
        self.start = at;
        let read = self.file.read_at(&mut self.bytes, at)?;
        self.bytes.truncate(read);
        Ok(())
    }
}

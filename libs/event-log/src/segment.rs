//! The format of a segment: a header, then records one after another, then zeros.
//!
//! All numbers are little-endian. A record's checksum is seeded with the log, the partition and its place in the file,
//! so that a record found anywhere else (inside a frame, in a copied file, left from before) is not taken for one.

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use crate::{LogError, RECORD_BYTES_MAX, sealed};

/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEAD: u64 = 64;
/// Bytes of a record's header.
pub(crate) const RECORD_HEAD: usize = 56;
/// Records start at multiples of it.
pub(crate) const ALIGN: u64 = 8;
/// Bytes that each frame takes in a record besides its own.
pub(crate) const FRAME_HEAD: usize = 4;

const SEGMENT_MAGIC: &[u8; 8] = b"EVTLOGSG";
const RECORD_MAGIC: [u8; 4] = *b"RcD1";
const RECORD_VERSION: u8 = 1;
const COMPRESSED: u8 = 1;

/// Which log and partition a segment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) log: u128,
    pub(crate) partition: u32,
}

/// What a segment's header says.
pub(crate) enum Head {
    Ours,
    /// Intact, but of another log, partition or offset.
    Foreign,
    Damaged,
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) compressed: bool,
    /// Bytes of the body as stored, without padding.
    pub(crate) stored: u32,
    /// Bytes of the body before compression.
    pub(crate) raw: u32,
    pub(crate) frames: u32,
    pub(crate) offset: u64,
    pub(crate) time_micros: i64,
    /// Every record before this offset was durable when this one was written.
    pub(crate) durable_to: u64,
    body_crc: u32,
}

impl Owner {
    pub(crate) fn segment_head(self, first: u64) -> [u8; SEGMENT_HEAD as usize] {
        let mut value = Vec::with_capacity(48);
        value.extend_from_slice(&self.log.to_le_bytes());
        value.extend_from_slice(&self.partition.to_le_bytes());
        value.extend_from_slice(&first.to_le_bytes());
        value.resize(48, 0);
        let mut head = [0; SEGMENT_HEAD as usize];
        head.copy_from_slice(&sealed::seal(SEGMENT_MAGIC, &value));
        head
    }

    pub(crate) fn check_segment_head(self, first: u64, head: &[u8]) -> Result<Head, LogError> {
        Ok(match sealed::unseal(SEGMENT_MAGIC, head)? {
            None => Head::Damaged,
            Some(_) if head == self.segment_head(first) => Head::Ours,
            Some(_) => Head::Foreign,
        })
    }

    /// What a record's checksum starts from.
    fn seed(self, at: u64) -> u32 {
        let mut seed = [0; 28];
        seed[..16].copy_from_slice(&self.log.to_le_bytes());
        seed[16..20].copy_from_slice(&self.partition.to_le_bytes());
        seed[20..].copy_from_slice(&at.to_le_bytes());
        crc32c::crc32c(&seed)
    }
}

impl RecordHead {
    /// Bytes of header, body and padding.
    pub(crate) fn len(&self) -> u64 {
        RECORD_HEAD as u64 + padded(u64::from(self.stored))
    }

    fn encode(&self, owner: Owner, at: u64) -> [u8; RECORD_HEAD] {
        let mut head = [0; RECORD_HEAD];
        head[..4].copy_from_slice(&RECORD_MAGIC);
        head[4] = RECORD_VERSION;
        head[5] = if self.compressed { COMPRESSED } else { 0 };
        head[8..12].copy_from_slice(&self.stored.to_le_bytes());
        head[12..16].copy_from_slice(&self.raw.to_le_bytes());
        head[16..20].copy_from_slice(&self.frames.to_le_bytes());
        head[24..32].copy_from_slice(&self.offset.to_le_bytes());
        head[32..40].copy_from_slice(&self.time_micros.to_le_bytes());
        head[40..48].copy_from_slice(&self.durable_to.to_le_bytes());
        head[48..52].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(owner.seed(at), &head[..52]);
        head[52..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    /// The header at this place if it is intact; an error if a newer version wrote it.
    pub(crate) fn decode(owner: Owner, at: u64, bytes: &[u8]) -> Result<Option<Self>, LogError> {
        let Some(head) = bytes.first_chunk::<RECORD_HEAD>() else { return Ok(None) };
        if head[..4] != RECORD_MAGIC || crc32c::crc32c_append(owner.seed(at), &head[..52]) != u32_at(head, 52)
        {
            return Ok(None);
        }
        if head[4] > RECORD_VERSION {
            return Err(sealed::newer(u32::from(head[4])));
        }
        let decoded = Self {
            compressed: head[5] == COMPRESSED,
            stored: u32_at(head, 8),
            raw: u32_at(head, 12),
            frames: u32_at(head, 16),
            offset: u64_at(head, 24),
            time_micros: u64_at(head, 32) as i64,
            durable_to: u64_at(head, 40),
            body_crc: u32_at(head, 48),
        };
        let sane = decoded.raw as usize <= RECORD_BYTES_MAX && decoded.stored <= decoded.raw;
        Ok(sane.then_some(decoded))
    }

    /// Whether the stored body, padding included, is what was written.
    pub(crate) fn body_intact(&self, body: &[u8]) -> bool {
        body.len() as u64 == self.len() - RECORD_HEAD as u64 && crc32c::crc32c(body) == self.body_crc
    }

    /// The frames of the body, or nothing if it is damaged.
    pub(crate) fn frames(&self, body: &[u8], unpacker: &mut Decompressor<'_>) -> Option<Vec<Bytes>> {
        if !self.body_intact(body) {
            return None;
        }
        let stored = &body[..self.stored as usize];
        let raw = if self.compressed {
            unpacker.decompress(stored, self.raw as usize).ok()?
        } else {
            stored.to_vec()
        };
        if raw.len() != self.raw as usize || raw.len() < self.frames as usize * FRAME_HEAD {
            return None;
        }
        let mut rest = Bytes::from(raw);
        let mut frames = Vec::with_capacity(self.frames as usize);
        for _ in 0..self.frames {
            let head = rest.first_chunk::<FRAME_HEAD>()?;
            let end = FRAME_HEAD.checked_add(u32::from_le_bytes(*head) as usize)?;
            if end > rest.len() {
                return None;
            }
            frames.push(rest.split_to(end).slice(FRAME_HEAD..));
        }
        rest.is_empty().then_some(frames)
    }
}

/// Turns frames into records.
pub(crate) struct Packer {
    compressor: Option<Compressor<'static>>,
    packed: Vec<u8>,
}

/// A record to be written.
pub(crate) struct Stamp {
    pub(crate) owner: Owner,
    /// Its place in the file.
    pub(crate) at: u64,
    pub(crate) offset: u64,
    pub(crate) time_micros: i64,
    pub(crate) durable_to: u64,
    /// Whether to compress the body, where that makes it smaller.
    pub(crate) compress: bool,
}

impl Packer {
    /// Compresses at this level; where the compressor cannot be made, records are stored as they are.
    pub(crate) fn new(level: i32) -> Self {
        Self { compressor: Compressor::new(level).ok(), packed: Vec::new() }
    }

    /// Appends a record of the frames, at most [`RECORD_BYTES_MAX`] with [`FRAME_HEAD`] each, to the buffer.
    pub(crate) fn pack<'a>(
        &mut self,
        stamp: &Stamp,
        frames: impl Iterator<Item = &'a Bytes>,
        into: &mut Vec<u8>,
    ) {
        let start = into.len();
        let body = start + RECORD_HEAD;
        into.resize(body, 0);
        let mut count = 0;
        for frame in frames {
            into.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            into.extend_from_slice(frame);
            count += 1;
        }
        let raw = into.len() - body;
        let compressed = stamp.compress && self.compress(&into[body..]);
        if compressed {
            into.truncate(body);
            into.extend_from_slice(&self.packed);
        }
        let stored = into.len() - body;
        into.resize(body + padded(stored as u64) as usize, 0);
        let head = RecordHead {
            compressed,
            stored: stored as u32,
            raw: raw as u32,
            frames: count,
            offset: stamp.offset,
            time_micros: stamp.time_micros,
            durable_to: stamp.durable_to,
            body_crc: crc32c::crc32c(&into[body..]),
        };
        into[start..body].copy_from_slice(&head.encode(stamp.owner, stamp.at));
    }

    /// Whether `packed` now holds the body, smaller than it is.
    fn compress(&mut self, raw: &[u8]) -> bool {
        let Some(compressor) = &mut self.compressor else { return false };
        // A buffer shorter than the body makes the compressor give up where it would not pay.
        self.packed.resize(raw.len().saturating_sub(1), 0);
        match compressor.compress_to_buffer(raw, &mut self.packed[..]) {
            Ok(bytes) => {
                self.packed.truncate(bytes);
                true
            }
            Err(_) => false,
        }
    }
}

pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

fn u32_at(bytes: &[u8; RECORD_HEAD], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; RECORD_HEAD], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

//! The frames of one record as the bytes of a Kafka record: a version, then each frame with its length before it.

use bytes::{Buf, Bytes};

use crate::RECORD_BYTES_MAX;

const VERSION: u8 = 1;

/// The length of a frame stands before it.
const FRAME_HEAD: usize = 4;

/// How many of the frames, from the first on, fit one record; at least one.
pub(crate) fn fitting<'a>(frames: impl Iterator<Item = &'a Bytes>) -> usize {
    let mut bytes = 1;
    let fits = |frame: &&Bytes| {
        bytes += frame.len() + FRAME_HEAD;
        bytes <= RECORD_BYTES_MAX
    };
    frames.take_while(fits).count().max(1)
}

pub(crate) fn pack<'a>(frames: impl Iterator<Item = &'a Bytes> + Clone) -> Vec<u8> {
    let bytes = frames.clone().map(|frame| frame.len() + FRAME_HEAD).sum::<usize>();
    let mut packed = Vec::with_capacity(1 + bytes);
    packed.push(VERSION);
    for frame in frames {
        // A frame is far below 4 GiB.
        packed.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        packed.extend_from_slice(frame);
    }
    packed
}

/// The frames of a record, or why it is none of this log.
pub(crate) fn unpack(payload: &[u8]) -> Result<Vec<Bytes>, &'static str> {
    let mut rest = Bytes::copy_from_slice(payload);
    match rest.try_get_u8() {
        Ok(VERSION) => {}
        Ok(0) | Err(_) => return Err("it is not a record of this log"),
        Ok(_) => return Err("its format is newer than this program, or it is not a record of this log"),
    }
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = rest.try_get_u32_le().map_err(|_| "it ends within a length")? as usize;
        if length > rest.len() {
            return Err("it ends within a frame");
        }
        frames.push(rest.split_to(length));
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::FRAME_BYTES_MAX;

    #[test]
    fn a_record_is_unpacked_as_it_was_packed_or_refused() {
        let frames = [Bytes::new(), Bytes::from_static(b"one"), Bytes::from(vec![7; 1000])];
        let packed = pack(frames.iter());
        assert_eq!(unpack(&packed).unwrap(), frames);
        for len in 0..packed.len() {
            let cut = unpack(&packed[..len]);
            assert!(cut.is_err() || cut.unwrap().len() < frames.len(), "cut to {len}");
        }
        assert!(unpack(&[]).is_err());
        assert!(unpack(&[2]).unwrap_err().contains("newer"));
    }

    #[test]
    fn a_record_holds_frames_up_to_its_limit() {
        let fitting = |frames: &[usize]| {
            let frames: Vec<Bytes> = frames.iter().map(|bytes| Bytes::from(vec![0; *bytes])).collect();
            let count = super::fitting(frames.iter());
            assert!(pack(frames[..count].iter()).len() <= RECORD_BYTES_MAX);
            count
        };
        let half = (RECORD_BYTES_MAX - 1) / 2 - FRAME_HEAD;
        assert_eq!(fitting(&[half, half]), 2);
        assert_eq!(fitting(&[half, half + 2]), 1, "one past the limit");
        assert_eq!(fitting(&[FRAME_BYTES_MAX]), 1);
    }
}

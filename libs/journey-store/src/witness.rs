//! A small file that remembers the last durable point of the database beside it.
//!
//! A database that is behind its witness was cut: by a disk that lied, or by damage that it took for an unfinished write.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use crate::StoreError;

/// The file: two slots written in turn, so that a crash in the middle of a write leaves the other.
pub(crate) struct Witness {
    file: File,
    point: u64,
}

/// A number and its checksum.
const SLOT_BYTES: usize = 12;
/// Slots are apart, so that no write of the disk touches both.
const SLOT_DISTANCE_BYTES: u64 = 4_096;

// === impl Witness ===

impl Witness {
    /// Opens the file, or makes an empty one, which knows of no point.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let unusable = |error| StoreError::Unavailable(format!("{} cannot be used: {error}", path.display()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(unusable)?;
        let length = file.metadata().map_err(unusable)?.len();
        let (mut point, mut damaged) = (0, 0);
        for slot in [0, 1] {
            let mut bytes = [0; SLOT_BYTES];
            if length >= slot * SLOT_DISTANCE_BYTES + SLOT_BYTES as u64 {
                file.read_exact_at(&mut bytes, slot * SLOT_DISTANCE_BYTES).map_err(unusable)?;
            }
            match decode(slot, bytes) {
                Some(found) => point = point.max(found),
                None if bytes == [0; SLOT_BYTES] => {}
                None => damaged += 1,
            }
        }
        if point == 0 && damaged > 0 {
            return Err(StoreError::Corrupt(format!("{} cannot be read", path.display())));
        }
        Ok(Self { file, point })
    }

    /// The last durable point; 0 if there was none.
    pub(crate) fn point(&self) -> u64 {
        self.point
    }

    /// Remembers a point, durably.
    pub(crate) fn advance(&mut self, point: u64) -> Result<(), StoreError> {
        let slot = point % 2;
        self.file
            .write_all_at(&encode(slot, point), slot * SLOT_DISTANCE_BYTES)
            .and_then(|()| self.file.sync_data())
            .map_err(indeterminate)?;
        self.point = point;
        Ok(())
    }

    /// Forgets every point, durably.
    pub(crate) fn forget(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).and_then(|()| self.file.sync_all()).map_err(indeterminate)?;
        self.point = 0;
        Ok(())
    }
}

fn encode(slot: u64, point: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&point.to_le_bytes());
    let sum = crc32c::crc32c_append(slot as u32, &bytes[..8]);
    bytes[8..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(slot: u64, bytes: [u8; SLOT_BYTES]) -> Option<u64> {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[..8]);
    let point = u64::from_le_bytes(number);
    (point > 0 && encode(slot, point) == bytes).then_some(point)
}

fn indeterminate(error: std::io::Error) -> StoreError {
    StoreError::Indeterminate(format!("a durable point: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_damaged_slot_leaves_the_other_and_two_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("witness");
        let mut witness = Witness::open(&path).unwrap();
        assert_eq!(witness.point(), 0);
        for point in 1..=5 {
            witness.advance(point).unwrap();
        }
        assert_eq!(Witness::open(&path).unwrap().point(), 5);
        let good = std::fs::read(&path).unwrap();
        for (slot, left) in [(0, 5), (1, 4)] {
            for at in 0..SLOT_BYTES {
                let mut bytes = good.clone();
                bytes[slot * SLOT_DISTANCE_BYTES as usize + at] ^= 4;
                std::fs::write(&path, &bytes).unwrap();
                assert_eq!(Witness::open(&path).unwrap().point(), left);
                bytes[(1 - slot) * SLOT_DISTANCE_BYTES as usize + at] ^= 4;
                std::fs::write(&path, &bytes).unwrap();
                assert!(matches!(Witness::open(&path), Err(StoreError::Corrupt(_))));
            }
        }
        std::fs::write(&path, &good).unwrap();
        Witness::open(&path).unwrap().forget().unwrap();
        assert_eq!(Witness::open(&path).unwrap().point(), 0);
    }
}

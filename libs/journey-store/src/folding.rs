//! A hash for keys that are hashes already.
//!
//! Ids are known to those who send events, so the keys of this process are folded in: nobody can choose ids that meet in
//! one place of a table.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Hashes the 16 bytes of a hash.
#[derive(Clone)]
pub(crate) struct Folding {
    keys: [u64; 2],
}

pub(crate) struct Folder {
    keys: [u64; 2],
    folded: u64,
}

impl Default for Folding {
    fn default() -> Self {
        let random = RandomState::new();
        // Odd: not a bit of the other half is lost.
        Self { keys: [random.hash_one(0), random.hash_one(1) | 1] }
    }
}

impl Folding {
    /// What makes the same one again.
    pub(crate) fn keys(&self) -> [u64; 2] {
        self.keys
    }
}

impl From<[u64; 2]> for Folding {
    fn from(keys: [u64; 2]) -> Self {
        Self { keys }
    }
}

impl BuildHasher for Folding {
    type Hasher = Folder;

    fn build_hasher(&self) -> Folder {
        Folder { keys: self.keys, folded: 0 }
    }
}

impl Hasher for Folder {
    fn write(&mut self, bytes: &[u8]) {
        for half in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..half.len()].copy_from_slice(half);
            let product =
                u128::from(self.folded ^ u64::from_le_bytes(word) ^ self.keys[0]) * u128::from(self.keys[1]);
            self.folded = (product as u64) ^ ((product >> 64) as u64);
        }
    }

    // The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.folded
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use model::EventHash;

    use super::*;

    #[test]
    fn every_byte_counts_and_no_two_tables_agree() {
        let folding = Folding::default();
        let mut all = HashSet::from([folding.hash_one(EventHash([0; 16]))]);
        for at in 0..16 {
            for value in 1..=255 {
                let mut hash = [0; 16];
                hash[at] = value;
                assert!(all.insert(folding.hash_one(EventHash(hash))), "{hash:?}");
            }
        }
        assert_ne!(folding.hash_one(EventHash([7; 16])), Folding::default().hash_one(EventHash([7; 16])));
    }
}

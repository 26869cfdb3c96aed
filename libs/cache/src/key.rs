//! Event ids of a tenant as numbers of 128 bits, for tables of many.

use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// A (tenant, event id).
pub type Key = (u64, u64);

/// An event id with its key, which is made once for every table that the id is looked up in.
#[derive(Debug, Clone, Copy)]
pub struct Id<'a> {
    /// The id.
    pub text: &'a str,
    /// The key of its tenant and text.
    pub key: Key,
}

/// For tables of [`Key`]s, which are hashes already.
pub type KeyHasher = BuildHasherDefault<KeyIsTheHash>;

/// Makes keys. Two secrets make a hash of 128 bits: ids that meet in it are not to be found, by chance or by design.
#[derive(Debug, Default)]
pub struct Keys([RandomState; 2]);

impl Keys {
    /// The key of an id, the same for as long as these secrets live.
    pub fn key(&self, tenant: &str, id: &str) -> Key {
        // Each text ends with a byte that no text has: the boundary counts.
        self.0.each_ref().map(|secret| secret.hash_one((tenant, id))).into()
    }

    /// Ids with their keys.
    pub fn ids<'a>(&self, tenant: &str, ids: impl IntoIterator<Item = &'a str>) -> Vec<Id<'a>> {
        ids.into_iter().map(|text| Id { text, key: self.key(tenant, text) }).collect()
    }
}

/// Hashes a [`Key`] as itself.
#[derive(Default)]
pub struct KeyIsTheHash(u64);

impl Hasher for KeyIsTheHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, part: u64) {
        self.0 ^= part;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Keys are numbers; whatever else may come is still told apart.
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_id_and_the_boundary_between_them_count() {
        let keys = Keys::default();
        assert_ne!(keys.key("ab", "c"), keys.key("a", "bc"));
        assert_ne!(keys.key("a", "c"), keys.key("b", "c"));
        assert_eq!(keys.key("ab", "c"), keys.key("ab", "c"));
    }
}

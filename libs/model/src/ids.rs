//! The 128-bit hashes under which identities, persons and events are known.

use std::fmt;

/// The three kinds of identity, in the order of the person key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IdentityKind {
    /// A device.
    Device = 1,
    /// A browser.
    Cookie = 2,
    /// A user as the client knows them.
    User = 3,
}

/// The hash of (tenant, kind, value). A person's id is the smallest of its members' hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityHash(pub [u8; 16]);

/// The hash of (tenant, event id).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventHash(pub [u8; 16]);

// === impl IdentityKind ===

impl IdentityKind {
    /// The field of an event that carries it.
    pub fn field(self) -> &'static str {
        match self {
            Self::Device => "device_id",
            Self::Cookie => "cookie_id",
            Self::User => "user_id",
        }
    }
}

// === impl IdentityHash ===

impl IdentityHash {
    /// Hashes an identity; the bytes of the value count as sent.
    pub fn new(tenant: &str, kind: IdentityKind, value: &str) -> Self {
        Self(hash(b'i', tenant, &[kind as u8], value))
    }

    /// The partition of the event log that the identity's events live in.
    pub fn partition(self, partitions: u32) -> u32 {
        let head = u64::from_le_bytes([
            self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5], self.0[6], self.0[7],
        ]);
        (head % u64::from(partitions.max(1))) as u32
    }
}

impl fmt::Display for IdentityHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(self.0, f)
    }
}

impl fmt::Debug for IdentityHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(self.0, f)
    }
}

// === impl EventHash ===

impl EventHash {
    /// Hashes an event id.
    pub fn new(tenant: &str, event_id: &str) -> Self {
        Self(hash(b'e', tenant, &[], event_id))
    }
}

impl fmt::Display for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(self.0, f)
    }
}

impl fmt::Debug for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(self.0, f)
    }
}

fn hex(bytes: [u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{:032x}", u128::from_be_bytes(bytes))
}

// The tenant's length comes first, so that no two (tenant, value) pairs run into each other.
fn hash(domain: u8, tenant: &str, kind: &[u8], value: &str) -> [u8; 16] {
    fail::fail_point!("mutant::drop_tenant", |_| keyed(domain, "", kind, value));
    keyed(domain, tenant, kind, value)
}

fn keyed(domain: u8, tenant: &str, kind: &[u8], value: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[domain]);
    hasher.update(&(tenant.len() as u32).to_le_bytes());
    hasher.update(tenant.as_bytes());
    hasher.update(kind);
    hasher.update(value.as_bytes());
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    // Stored hashes and partitions depend on these values: they never change.
    #[test]
    fn hashes_are_stable() {
        let device = IdentityHash::new("default", IdentityKind::Device, "d");
        assert_eq!(device.to_string(), "5d528c7a5da1ccd957c55da15a6c27a0");
        assert_eq!(device.0, blake3::hash(b"i\x07\0\0\0default\x01d").as_bytes()[..16]);
        assert_eq!(EventHash::new("default", "d").0, blake3::hash(b"e\x07\0\0\0defaultd").as_bytes()[..16]);
        assert_eq!([1, 2, 4, 150].map(|partitions| device.partition(partitions)), [0, 1, 1, 77]);
    }

    #[test]
    fn tenant_kind_value_and_purpose_are_told_apart() {
        let mut seen = HashSet::new();
        for (tenant, value) in [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("b", "bc")] {
            for kind in [IdentityKind::Device, IdentityKind::Cookie, IdentityKind::User] {
                assert!(
                    seen.insert(IdentityHash::new(tenant, kind, value).0),
                    "{tenant:?} {kind:?} {value:?}"
                );
            }
            assert!(seen.insert(EventHash::new(tenant, value).0), "{tenant:?} {value:?}");
        }
    }

    #[test]
    fn partitions_are_evenly_met() {
        let mut met = [0; 4];
        for n in 0..4_000 {
            met[IdentityHash::new("t", IdentityKind::User, &n.to_string()).partition(4) as usize] += 1;
        }
        assert!(met.iter().all(|count| (850..1_150).contains(count)), "{met:?}");
        assert_eq!(IdentityHash([255; 16]).partition(0), 0);
    }

    #[test]
    fn text_is_32_hexadecimal_digits() {
        let mut bytes = [0; 16];
        bytes[1] = 0xab;
        assert_eq!(EventHash(bytes).to_string(), "00ab0000000000000000000000000000");
        assert_eq!(format!("{:?}", IdentityHash(bytes)), "00ab0000000000000000000000000000");
    }
}

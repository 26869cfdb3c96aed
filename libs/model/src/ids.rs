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

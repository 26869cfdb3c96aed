//! The settings file: tenants, their keys, quotas and rules.
//!
//! `file` and `fraud` say what may stand in it and check it, `handle` keeps the one in force and every edition that ever was,
//! `first_start` writes the first one.

mod file;
mod first_start;
mod fraud;
mod handle;

use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};
use model::Rules;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use file::parse;
pub use first_start::{FirstStart, init_data_dir};
pub use handle::SettingsHandle;

/// The bytes of a settings file.
pub const SETTINGS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The name of the settings file in a data folder.
pub const SETTINGS_FILE: &str = "settings.toml";

/// The name of the file with the key of the first start in a data folder.
pub const API_KEY_FILE: &str = "api-key";

/// A settings file that checked, all of it.
#[derive(Debug, Default)]
pub struct Settings {
    tenants: HashMap<Arc<str>, Arc<Tenant>>,
    /// By the first eight bytes of the key's hash; the rest is compared in constant time.
    keys: HashMap<u64, Arc<Key>>,
}

/// One tenant's settings in force.
#[derive(Debug)]
pub struct Tenant {
    /// Its name, 1 to 64 of `[A-Za-z0-9_.-]`.
    pub name: Arc<str>,
    /// `sha256:…`: the digest of `rules`.
    pub edition: Arc<str>,
    /// What affects decisions.
    pub rules: Arc<Rules>,
    /// The zone that `rules.time_zone` names.
    pub time_zone: TimeZone,
    /// Events it may send; absent: as many as it likes.
    pub quota: Option<Quota>,
}

/// How many events a tenant may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// In the long run.
    pub events_per_second: NonZeroU32,
    /// At once; the events per second unless the file says otherwise.
    pub burst_events: NonZeroU32,
}

/// One key of a tenant; the key itself is nowhere.
#[derive(Debug)]
pub struct Key {
    /// Its name in the file.
    pub name: Arc<str>,
    /// What it may do.
    pub scopes: Scopes,
    /// From when on it is nobody's.
    pub expires: Option<Timestamp>,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    hash: [u8; 32],
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Read reports, decisions, journeys, settings.
    Read,
    /// Change what is stored: replays, deletions.
    Admin,
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

/// Why a settings file was refused.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Something in it is wrong.
    #[error("settings line {line}: {reason}")]
    Invalid {
        /// The first line is 1.
        line: usize,
        /// What is wrong and what to write instead.
        reason: String,
    },
    /// It cannot be read, or an edition cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A stored edition is not what its name says.
    #[error("{path} is damaged: its content does not match its name; restore it from a backup")]
    DamagedEdition {
        /// Which file.
        path: String,
    },
    /// A stored edition of a newer program.
    #[error(
        "{path} has format {version}, this program knows formats up to {known}: use the newer program that wrote it"
    )]
    NewerEdition {
        /// Which file.
        path: String,
        /// Its format.
        version: u32,
        /// The newest that is known.
        known: u32,
    },
}

// === impl Key ===

impl Key {
    pub(crate) fn made(tenant: Arc<Tenant>, name: &str, scopes: Scopes) -> Self {
        Self { name: name.into(), scopes, expires: None, tenant, hash: [0; 32] }
    }

    fn is_of(&self, hash: &[u8; 32]) -> bool {
        self.hash.ct_eq(hash).into()
    }

    fn is_in_time(&self) -> bool {
        self.expires.is_none_or(|expires| Timestamp::now() < expires)
    }
}

// === impl Scopes ===

impl Scopes {
    /// Every scope.
    pub const ALL: Self = Self(0b111);

    /// This set and one more scope.
    pub fn with(self, scope: Scope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// Whether the scope is in the set.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }
}

impl Scope {
    /// As it stands in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

// === impl Settings ===

impl Settings {
    /// A tenant by name.
    pub fn tenant(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.tenants.get(name)
    }

    /// All tenants, in no order.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.tenants.values()
    }

    /// Whose key this is, if it is one that has not expired.
    pub fn authenticate(&self, key: &[u8]) -> Option<&Arc<Key>> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let found = self.keys.get(&prefix(&hash))?;
        (found.is_of(&hash) && found.is_in_time()).then_some(found)
    }

    /// A key as it stands here, if it does and has not expired.
    pub(crate) fn same_key(&self, key: &Key) -> Option<&Arc<Key>> {
        let found = self.keys.get(&prefix(&key.hash))?;
        (found.is_of(&key.hash) && found.is_in_time()).then_some(found)
    }
}

fn prefix(hash: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    u64::from_be_bytes(first)
}

/// The edition of rules: `sha256:` and the SHA-256 of their JSON with sorted keys, in hex.
pub fn edition_of(rules: &Rules) -> String {
    format!("sha256:{}", hex(&Sha256::digest(canonical_json(rules))))
}

/// The JSON with sorted keys that an edition is the digest of.
pub fn canonical_json(rules: &Rules) -> Vec<u8> {
    // Plain data with string keys, so it always serializes.
    let value = serde_json::to_value(rules).unwrap_or_default();
    serde_json::to_vec(&sorted(value)).unwrap_or_default()
}

fn sorted(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

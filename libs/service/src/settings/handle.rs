//! The settings in force, and every edition that ever was.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use model::Rules;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{SETTINGS_BYTES_MAX, SETTINGS_FILE, Settings, SettingsError, edition_of, hex, parse};

/// How often the file is looked at, seconds.
const POLL_SECONDS: u64 = 1;

/// The folder of editions in a data folder.
const EDITIONS_FOLDER: &str = "editions";

/// The settings in force. Clones share them.
#[derive(Clone)]
pub struct SettingsHandle(Arc<Inner>);

struct Inner {
    current: ArcSwap<Settings>,
    file: PathBuf,
    editions: RwLock<HashMap<String, Edition>>,
    folder: PathBuf,
    /// The text last tried, so that a bad file is reported once; also keeps reloads one after the other.
    tried: Mutex<Vec<u8>>,
}

/// The version of an edition's file.
const EDITION_VERSION: u32 = 1;

/// The rules of an edition and whose they are or were: one file of the folder.
/// The rules are held to the file's name, the tenants to a checksum of their own.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edition {
    version: u32,
    tenants: Vec<String>,
    tenants_sha256: String,
    #[serde(with = "shared")]
    rules: Arc<Rules>,
}

/// What every version of an edition's file has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Edition {
    fn new(tenants: Vec<String>, rules: Arc<Rules>) -> Self {
        Self { version: EDITION_VERSION, tenants_sha256: checksum(&tenants), tenants, rules }
    }

    fn is_whole(&self, id: &str) -> bool {
        self.version == EDITION_VERSION
            && self.tenants_sha256 == checksum(&self.tenants)
            && edition_of(&self.rules) == id
    }
}

/// Names have no line breaks, so joined by them they are told apart.
fn checksum(tenants: &[String]) -> String {
    hex(&Sha256::digest(tenants.join("\n")))
}

/// A shared value is written as the value it shares.
mod shared {
    use std::sync::Arc;

    use model::Rules;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(rules: &Arc<Rules>, to: S) -> Result<S::Ok, S::Error> {
        rules.as_ref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Rules>, D::Error> {
        Rules::deserialize(from).map(Arc::new)
    }
}

impl SettingsHandle {
    /// Opens `<data>/settings.toml`, and the editions in `<data>/editions`.
    ///
    /// # Errors
    /// The file does not check, a stored edition is damaged, or the folder cannot be written.
    pub fn open(data: &Path) -> Result<Self, SettingsError> {
        Self::open_file(&data.join(SETTINGS_FILE), data)
    }

    /// As [`SettingsHandle::open`], with the file elsewhere (a ConfigMap).
    ///
    /// # Errors
    /// As there.
    pub fn open_file(file: &Path, data: &Path) -> Result<Self, SettingsError> {
        let folder = data.join(EDITIONS_FOLDER);
        fs::create_dir_all(&folder).map_err(|source| io(&folder, source))?;
        sync_folder(data)?;
        let handle = Self(Arc::new(Inner {
            current: ArcSwap::default(),
            file: file.to_owned(),
            editions: RwLock::new(read_editions(&folder)?),
            folder,
            tried: Mutex::default(),
        }));
        handle.reload()?;
        Ok(handle)
    }

    /// What is in force now. Cheap; take it once per request.
    pub fn load(&self) -> Guard<Arc<Settings>> {
        self.0.current.load()
    }

    /// The rules of an edition, this tenant's alone: another's, or an unknown one, is `None`.
    pub fn edition(&self, tenant: &str, edition: &str) -> Option<Arc<Rules>> {
        let editions = self.0.editions.read();
        let found = editions.get(edition)?;
        found.tenants.iter().any(|name| name == tenant).then(|| found.rules.clone())
    }

    /// Looks at the file; true if it changed and is in force now.
    ///
    /// # Errors
    /// The file does not check: the old settings stay in force as a whole. A file already refused is no error again.
    pub fn reload(&self) -> Result<bool, SettingsError> {
        let mut tried = self.0.tried.lock();
        let text = read_bounded(&self.0.file)?;
        if *tried == text {
            return Ok(false);
        }
        tried.clone_from(&text);
        let text = String::from_utf8(text).map_err(|error| SettingsError::Invalid {
            line: 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
                .iter()
                .filter(|&&b| b == b'\n')
                .count(),
            reason: "the file must be UTF-8".into(),
        })?;
        let settings = parse(&text)?;
        for tenant in settings.tenants() {
            if let Err(error) = self.keep(&tenant.edition, &tenant.name, &tenant.rules) {
                // Not the file's fault: try the same text again.
                tried.clear();
                return Err(error);
            }
        }
        self.0.current.store(Arc::new(settings));
        Ok(true)
    }

    /// Reloads the file whenever it changes, until the shutdown.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(POLL_SECONDS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut silent = false;
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let handle = self.clone();
            let result = tokio::task::spawn_blocking(move || handle.reload()).await;
            let io = matches!(result, Ok(Err(SettingsError::Io { .. })));
            match result {
                Ok(Ok(true)) => tracing::info!("new settings are in force"),
                Ok(Ok(false)) => {}
                // A missing file would be reported every second.
                Ok(Err(_)) if io && silent => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the settings file is refused, the old one stays in force");
                }
                Err(error) => tracing::error!(%error, "looking at the settings file panicked"),
            }
            silent = io;
        }
    }

    /// Makes an edition durable before it is first used.
    fn keep(&self, edition: &str, tenant: &str, rules: &Arc<Rules>) -> Result<(), SettingsError> {
        let mut tenants = match self.0.editions.read().get(edition) {
            Some(known) => known.tenants.clone(),
            None => Vec::new(),
        };
        if tenants.iter().any(|name| name == tenant) {
            return Ok(());
        }
        tenants.push(tenant.to_owned());
        let entry = Edition::new(tenants, rules.clone());
        let name = edition.trim_start_matches("sha256:");
        // Plain data with string keys, so it always serializes.
        let json = serde_json::to_vec_pretty(&entry).unwrap_or_default();
        write_durably(&self.0.folder.join(format!("{name}.json")), &json, 0o644)?;
        self.0.editions.write().insert(edition.to_owned(), entry);
        Ok(())
    }
}

/// Writes a file so that it is there whole, or not at all, whatever happens.
pub(super) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SettingsError> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("tmp");
    let write = || {
        // A left-over of a crash may have another mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| io(path, source))?;
    sync_folder(path.parent().unwrap_or_else(|| Path::new(".")))
}

fn sync_folder(folder: &Path) -> Result<(), SettingsError> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| io(folder, source))
}

fn read_editions(folder: &Path) -> Result<HashMap<String, Edition>, SettingsError> {
    let mut editions = HashMap::new();
    for entry in fs::read_dir(folder).map_err(|source| io(folder, source))? {
        let path = entry.map_err(|source| io(folder, source))?.path();
        let Some(hex) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".json")) else {
            continue;
        };
        let damaged = || SettingsError::DamagedEdition { path: path.display().to_string() };
        let text = read_bounded(&path)?;
        let Versioned { version } = serde_json::from_slice(&text).map_err(|_| damaged())?;
        if version > EDITION_VERSION {
            let (path, known) = (path.display().to_string(), EDITION_VERSION);
            return Err(SettingsError::NewerEdition { path, version, known });
        }
        let edition: Edition = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let id = format!("sha256:{hex}");
        if !edition.is_whole(&id) {
            return Err(damaged());
        }
        editions.insert(id, edition);
    }
    Ok(editions)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, SettingsError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(SETTINGS_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| io(path, source))?;
    if bytes.len() > SETTINGS_BYTES_MAX {
        let reason = format!("at most {SETTINGS_BYTES_MAX} bytes");
        return Err(SettingsError::Invalid { line: 1, reason });
    }
    Ok(bytes)
}

fn io(path: &Path, source: std::io::Error) -> SettingsError {
    SettingsError::Io { path: path.display().to_string(), source }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;

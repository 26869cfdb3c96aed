//! The folder of models, `model/version/{model.toml,model.onnx}`, and what of it is in use.
//!
//! It is looked at again and again. A version whose files changed is loaded aside and run once before it takes the place
//! of the one before; if that fails, the one before goes on, and the reason is kept. Calls under way keep what they began
//! with.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use service::{Error, Result};
use sha2::{Digest, Sha256};
use telemetry::health::Component;
use tokio_util::sync::CancellationToken;

use crate::{
    Config, backend,
    manifest::{MANIFEST_BYTES_MAX, Manifest},
    model::{Model, Route, TRAFFIC_BYTES_MAX, Traffic, version_number},
    version::Version,
};

/// Models of a folder, and versions of a model; more are not looked at.
const ENTRIES_MAX: usize = 1_000;

/// The models in use, and who keeps them fresh.
pub(crate) struct Registry {
    /// `None`: no models are served.
    folder: Option<PathBuf>,
    config: Config,
    models: ArcSwap<Models>,
    /// Whether the folder was read: before it was, nobody knows what is not there.
    read: AtomicBool,
}

/// By name.
pub(crate) type Models = BTreeMap<String, Arc<Model>>;

/// A version, as far as it can be used.
#[derive(Clone)]
pub(crate) struct Entry {
    stamp: Stamp,
    /// What answers: the files as they are, or as they were when they were good.
    pub(crate) version: Option<Arc<Version>>,
    /// Why the files as they are do not.
    pub(crate) broken: Option<String>,
}

/// What changes when a file is written.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// Why there is no registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Not a folder's URL.
    #[error("models: {0:?} is not onnx:///path/of/a/folder")]
    Url(String),
}

// === impl Registry ===

impl Registry {
    /// A registry of `onnx:///folder`, or of nothing; nothing is loaded yet.
    ///
    /// # Errors
    /// Another URL.
    pub(crate) fn open(config: &Config) -> Result<Self, RegistryError> {
        if config.models.is_empty() {
            return Ok(Self {
                folder: None,
                config: config.clone(),
                models: ArcSwap::default(),
                read: AtomicBool::new(false),
            });
        }
        let folder = config.models.strip_prefix("onnx://").filter(|path| path.starts_with('/'));
        let folder = folder.filter(|path| !path.contains('?'));
        let folder = folder.ok_or_else(|| RegistryError::Url(config.models.clone()))?;
        Ok(Self {
            folder: Some(folder.into()),
            config: config.clone(),
            models: ArcSwap::default(),
            read: AtomicBool::new(false),
        })
    }

    /// Looks into the folder at once and then again and again until the shutdown.
    pub(crate) async fn watch(self: Arc<Self>, health: Component, shutdown: CancellationToken) {
        let Some(folder) = &self.folder else {
            return health.not_ready("ml.models names no folder of models");
        };
        loop {
            match self.refresh(folder).await {
                Ok(()) if self.is_ready() => health.ready(),
                Ok(()) => health.not_ready("no model could be loaded"),
                // What was loaded goes on.
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "the folder of models cannot be read");
                    if self.models.load().is_empty() {
                        health.not_ready("the folder of models cannot be read");
                    }
                }
            }
            let pause = Duration::from_millis(self.config.reload_millis.max(1));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Takes over what has changed in the folder.
    ///
    /// # Errors
    /// A folder that cannot be read; then nothing changes.
    async fn refresh(&self, folder: &Path) -> io::Result<()> {
        let before = self.models.load_full();
        let mut after = Models::new();
        for (model, path) in folders(folder)? {
            let known = before.get(&model).map(|known| Model::clone(known)).unwrap_or_default();
            let mut found = known.with_traffic(&model, &path.join("traffic.toml"));
            for (number, path) in folders(&path)? {
                let Some(number) = version_number(&number) else { continue };
                let entry = self.entry(&model, number, &path, known.versions.get(&number)).await;
                found.versions.insert(number, entry);
            }
            after.insert(model, Arc::new(found));
        }
        self.models.store(Arc::new(after));
        self.read.store(true, Ordering::Release);
        Ok(())
    }

    /// The models in use.
    pub(crate) fn models(&self) -> Arc<Models> {
        self.models.load_full()
    }

    /// Whether a model can answer.
    pub(crate) fn is_ready(&self) -> bool {
        self.models.load().values().any(|model| model.in_service().is_some())
    }

    /// A version by name, the one that answers most when none is named.
    ///
    /// # Errors
    /// 404 for what is not there, 400 when no model is named and there is more than one, 503 for one that is broken and before
    /// the folder was read.
    pub(crate) fn find(&self, model: &str, version: &str) -> Result<Arc<Version>> {
        let model = self.model(model)?;
        let found = match version {
            "" => model.in_service(),
            named => model.entry(named)?.version.as_ref(),
        };
        found.cloned().ok_or_else(|| broken(&model.name))
    }

    /// The versions for a call: the one that is named alone, or those that the traffic of the model says.
    ///
    /// # Errors
    /// As [`Registry::find`].
    pub(crate) fn route(&self, model: &str, version: &str, tenant: &str) -> Result<Route> {
        if !version.is_empty() {
            return Ok(Route { first: self.find(model, version)?, spare: None, shadows: Vec::new() });
        }
        let model = self.model(model)?;
        model.route(tenant).ok_or_else(|| broken(&model.name))
    }

    fn model(&self, model: &str) -> Result<Arc<Model>> {
        if self.folder.is_some() && !self.read.load(Ordering::Acquire) {
            return Err(Error::unavailable("the models are not loaded yet").code("models_not_loaded"));
        }
        let models = self.models.load();
        let found = match (model, models.len()) {
            ("", 1) => models.values().next(),
            ("", 0) => None,
            ("", _) => {
                let names: Vec<_> = models.keys().map(String::as_str).collect();
                let reason = format!("name one of {}", names.join(", "));
                return Err(Error::invalid("there is more than one model").field("model", reason));
            }
            _ => models.get(model),
        }
        .ok_or_else(|| Error::not_found("no such model"))?;
        Ok(Arc::clone(found))
    }

    async fn entry(&self, model: &str, number: u32, path: &Path, known: Option<&Entry>) -> Entry {
        let stamp = [stamp(&path.join("model.toml")), stamp(&path.join("model.onnx"))];
        if let Some(known) = known.filter(|known| known.stamp == stamp && !known.away()) {
            return known.clone();
        }
        match self.load(model, number, path).await {
            Ok(version) => {
                tracing::info!(model, version = number, "a model was loaded");
                Entry { stamp, version: Some(Arc::new(version)), broken: None }
            }
            Err(reason) => {
                if known.and_then(|known| known.broken.as_ref()) != Some(&reason) {
                    tracing::error!(model, version = number, reason, "a model could not be loaded");
                }
                let version = known.and_then(|known| known.version.clone());
                Entry { stamp, version, broken: Some(reason) }
            }
        }
    }

    async fn load(&self, model: &str, number: u32, path: &Path) -> Result<Version, String> {
        let config = self.config.clone();
        let (name, path) = (model.to_owned(), path.to_owned());
        let open = move || -> Result<Version, String> {
            let text = read(&path.join("model.toml"), MANIFEST_BYTES_MAX)?;
            let text = String::from_utf8(text).map_err(|_| "model.toml: not UTF-8".to_owned())?;
            let manifest = Manifest::parse(&text, &name, &number.to_string());
            let manifest = manifest.map_err(|error| format!("model.toml: {error}"))?;
            let mut model = Vec::new();
            if manifest.backend.is_none() {
                model = read(&path.join("model.onnx"), config.model_bytes_max)?;
                let digest: String =
                    Sha256::digest(&model).iter().map(|byte| format!("{byte:02x}")).collect();
                if digest != manifest.sha256 {
                    return Err(format!("model.onnx: its SHA-256 is {digest}, not the one of model.toml"));
                }
            }
            let (url, output) = (manifest.backend.as_deref(), &manifest.output.name);
            let backend = backend::open(url, &model, output, config.calls_per_version_max);
            let backend = backend.map_err(|error| error.to_string())?;
            Ok(Version::new(manifest, backend, &config))
        };
        // A channel of a remote model is made here, and wants the runtime: blocking threads have it too.
        let version = tokio::task::spawn_blocking(open).await.map_err(|error| error.to_string())??;
        version.warm_up().await?;
        Ok(version)
    }
}

// === impl Model ===

impl Model {
    /// A model without versions yet, whose traffic is that of the file; if that cannot be used, as it was before.
    fn with_traffic(&self, model: &str, path: &Path) -> Self {
        let stamp = stamp(path);
        let mut after =
            Self { name: model.to_owned(), versions: BTreeMap::new(), traffic_stamp: stamp, ..self.clone() };
        if stamp == self.traffic_stamp {
            return after;
        }
        let text = match stamp {
            Some(_) => read(path, TRAFFIC_BYTES_MAX),
            None => Ok(Vec::new()),
        };
        let text = text.and_then(|text| String::from_utf8(text).map_err(|_| "not UTF-8".to_owned()));
        match text.and_then(|text| Traffic::parse(&text)) {
            Ok(traffic) => {
                tracing::info!(model, ?traffic, "traffic was read");
                after.traffic = Arc::new(traffic);
                after.traffic_broken = None;
            }
            Err(reason) => {
                tracing::error!(model, reason, "traffic.toml cannot be used; traffic goes on as before");
                after.traffic_broken = Some(format!("traffic.toml: {reason}"));
            }
        }
        after
    }

    fn entry(&self, version: &str) -> Result<&Entry> {
        let entry = version_number(version).and_then(|number| self.versions.get(&number));
        entry.ok_or_else(|| Error::not_found("no such version of this model"))
    }
}

// === impl Entry ===

impl Entry {
    /// A model served elsewhere may have come back although no file has changed.
    fn away(&self) -> bool {
        self.broken.is_some() && self.stamp[1].is_none()
    }
}

fn broken(model: &str) -> Error {
    Error::unavailable(format!("no version of {model} that was asked for could be loaded"))
        .code("model_broken")
}

/// Folders with names in UTF-8 that do not begin with a dot.
fn folders(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or(".").to_owned();
        if path.is_dir() && !name.starts_with('.') && found.len() < ENTRIES_MAX {
            found.push((name, path));
        }
    }
    Ok(found)
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let name = path.file_name().unwrap_or_default().display();
    let length = fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.len();
    if length > bytes_max {
        return Err(format!("{name}: {length} bytes, at most {bytes_max} are read"));
    }
    fs::read(path).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn that_a_model_is_not_there_is_said_once_the_folder_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let models = format!("onnx://{}", folder.path().display());
        let registry = Registry::open(&Config { models, ..Config::default() }).unwrap();
        let code = || registry.find("fraud", "").err().map(|error| error.into_status().code());
        assert_eq!(code(), Some(tonic::Code::Unavailable));
        assert!(registry.refresh(&folder.path().join("missing")).await.is_err());
        assert_eq!(code(), Some(tonic::Code::Unavailable));
        registry.refresh(folder.path()).await.unwrap();
        assert_eq!(code(), Some(tonic::Code::NotFound));
    }
}

//! Models in process: ONNX Runtime, its library loaded at run time.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use ort::{
    environment::Environment,
    session::{Session, builder::GraphOptimizationLevel},
    value::{Tensor as OrtTensor, TensorElementType},
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::{Backend, BackendError, INPUT, Rows, Tensor};

/// The pinned version of the library.
const LIBRARY_VERSION: &str = "1.31.1";

/// Up to this many rows are run where they come in, more on the pool for blocking work.
const ROWS_IN_PLACE_MAX: usize = 64;

/// A model of this process. A session runs one call at a time, so there is one for each call that may run at once.
pub(crate) struct Onnx {
    pool: Arc<Pool>,
    output: String,
}

struct Pool {
    sessions: Mutex<Vec<Session>>,
    free: Arc<Semaphore>,
}

/// A session out of the pool; it goes back whatever happens.
struct Lease {
    pool: Arc<Pool>,
    session: Option<Session>,
    _free: OwnedSemaphorePermit,
}

// === impl Onnx ===

impl Onnx {
    pub(crate) fn open(model: &[u8], output: &str, calls_max: usize) -> Result<Self, BackendError> {
        let environment = environment()?;
        let load = || -> Result<Session, ort::Error> {
            let builder = Session::builder(environment)?;
            let builder = builder.with_optimization_level(GraphOptimizationLevel::All)?;
            let mut builder = builder.with_intra_threads(1)?.with_inter_threads(1)?;
            builder.commit_from_memory(model)
        };
        let mut sessions = Vec::new();
        for _ in 0..calls_max.max(1) {
            sessions.push(load().map_err(|error| BackendError::Refused(format!("model.onnx: {error}")))?);
        }
        check(&sessions[0], output)?;
        let free = Arc::new(Semaphore::new(sessions.len()));
        let pool = Arc::new(Pool { sessions: Mutex::new(sessions), free });
        Ok(Self { pool, output: output.to_owned() })
    }
}

#[async_trait]
impl Backend for Onnx {
    async fn infer(&self, rows: Rows) -> Result<Tensor, BackendError> {
        let free = Arc::clone(&self.pool.free).acquire_owned().await;
        let gone = |error: &dyn std::fmt::Display| BackendError::Away(error.to_string());
        let mut lease = Lease::new(&self.pool, free.map_err(|error| gone(&error))?);
        if rows.count() <= ROWS_IN_PLACE_MAX {
            return lease.run(&self.output, rows);
        }
        let output = self.output.clone();
        let done = tokio::task::spawn_blocking(move || lease.run(&output, rows)).await;
        done.map_err(|error| gone(&error))?
    }

    fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }
}

impl Lease {
    fn new(pool: &Arc<Pool>, free: OwnedSemaphorePermit) -> Self {
        let session = pool.sessions.lock().pop();
        Self { pool: Arc::clone(pool), session, _free: free }
    }

    fn run(&mut self, output: &str, rows: Rows) -> Result<Tensor, BackendError> {
        // There is one for every permit.
        let session = self.session.as_mut().ok_or_else(|| BackendError::Away("no session".into()))?;
        let failed = |error: ort::Error| BackendError::Wrong(error.to_string());
        let input = OrtTensor::from_array((rows.shape(), rows.values)).map_err(failed)?;
        let outputs = session.run(ort::inputs![INPUT => input]).map_err(failed)?;
        let answer = outputs.get(output).ok_or_else(|| BackendError::Wrong(format!("no output {output}")))?;
        let (shape, values) = answer.try_extract_tensor::<f32>().map_err(failed)?;
        Ok(Tensor { shape: shape.to_vec(), values: values.to_vec() })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.pool.sessions.lock().push(session);
        }
    }
}

/// The model takes what we give and answers what we read.
fn check(session: &Session, output: &str) -> Result<(), BackendError> {
    let float = |kind: Option<TensorElementType>| kind == Some(TensorElementType::Float32);
    let inputs = session.inputs();
    if inputs.len() != 1 || inputs[0].name() != INPUT || !float(inputs[0].dtype().tensor_type()) {
        return Err(BackendError::Refused(format!(
            "model.onnx: its one input must be {INPUT}, of 32-bit floats"
        )));
    }
    let found = session.outputs().iter().find(|found| found.name() == output);
    if !found.is_some_and(|found| float(found.dtype().tensor_type())) {
        return Err(BackendError::Refused(format!("model.onnx: it has no output {output} of 32-bit floats")));
    }
    Ok(())
}

/// The library, loaded once in the life of the process.
fn environment() -> Result<&'static Environment, BackendError> {
    static ENVIRONMENT: OnceLock<Result<Environment, BackendError>> = OnceLock::new();
    let load = || {
        let path = library(&|name| std::env::var_os(name));
        let refused = |error: &dyn std::fmt::Display| {
            let path = path.display();
            BackendError::Refused(format!(
                "{path}: {error}; scripts/fetch-onnxruntime.sh fetches the library"
            ))
        };
        if !Path::new(&path).is_file() {
            return Err(refused(&"there is no such file"));
        }
        let builder = ort::init_from(&path).map_err(|error| refused(&error))?;
        builder.with_telemetry(false).build().map_err(|error| refused(&error))
    };
    ENVIRONMENT.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// `ATTRIBUTION_ONNXRUNTIME_LIB` (a file), else `ATTRIBUTION_ONNXRUNTIME_DIR` (a folder), else the cache that the script
/// fills.
fn library(variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    const FILE: &str = "libonnxruntime.so";
    let variable = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = || {
        variable("XDG_CACHE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(|| PathBuf::from(".cache"))
            .join("attribution/onnxruntime")
            .join(LIBRARY_VERSION)
            .join(FILE)
    };
    variable("ATTRIBUTION_ONNXRUNTIME_LIB")
        .or_else(|| variable("ATTRIBUTION_ONNXRUNTIME_DIR").map(|folder| folder.join(FILE)))
        .unwrap_or_else(cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_place_wins() {
        let mut set = vec![("HOME", "/h")];
        let chosen = |set: &[(&str, &str)]| {
            library(&|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        let cached = format!("attribution/onnxruntime/{LIBRARY_VERSION}/libonnxruntime.so");
        assert_eq!(chosen(&set), PathBuf::from(format!("/h/.cache/{cached}")));
        set.push(("XDG_CACHE_HOME", "/x"));
        assert_eq!(chosen(&set), PathBuf::from(format!("/x/{cached}")));
        set.push(("ATTRIBUTION_ONNXRUNTIME_DIR", "/d"));
        assert_eq!(chosen(&set), PathBuf::from("/d/libonnxruntime.so"));
        set.push(("ATTRIBUTION_ONNXRUNTIME_LIB", "/l/x.so"));
        assert_eq!(chosen(&set), PathBuf::from("/l/x.so"));
    }

    #[test]
    fn the_script_fetches_the_version_that_is_looked_for() {
        let script = include_str!("../../../scripts/fetch-onnxruntime.sh");
        assert!(script.contains(&format!("version={LIBRARY_VERSION}\n")));
    }
}

//! What every process has in common, whatever runs in it: where it listens, what it tells of itself, how it begins.

use std::{
    fmt::Display,
    future::Future,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use telemetry::health::Component;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use tikv_jemallocator::Jemalloc as Allocator;

use crate::{
    Limits, Listeners, SettingsHandle, Tls, TlsError,
    config::{self, Sources},
    settings::SettingsError,
};

/// How long a process waits before it tries again to open a store that is away.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What can be set of any process, beside what its services want.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// The address of gRPC and REST.
    pub listen: String,
    /// The address of metrics and health.
    pub metrics: String,
    /// `auto`, `json` or `pretty`.
    pub log_format: String,
    /// Such as `info,ingestion=debug`; empty: the default.
    pub log_filter: String,
    /// Where traces go, OTLP over gRPC: `http://127.0.0.1:4317`; empty: nowhere.
    pub otlp_endpoint: String,
    /// The share of traces kept, 0 to 1.
    pub trace_sample_ratio: f64,
    /// The certificate chain (PEM) of the public listener; empty: plain.
    pub tls_certificate: PathBuf,
    /// Its key (PEM).
    pub tls_key: PathBuf,
    /// Limits of the listener.
    pub limits: Limits,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            metrics: "127.0.0.1:9090".into(),
            log_format: "auto".into(),
            log_filter: String::new(),
            otlp_endpoint: String::new(),
            trace_sample_ratio: 1.0,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            limits: Limits::default(),
        }
    }
}

/// Where the settings of a service's process are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsPlace {
    /// The settings file.
    pub file: PathBuf,
    /// The folder that keeps every edition ever in force. All processes of an installation share it: an event is decided
    /// under the edition it came in with.
    pub folder: PathBuf,
}

impl Default for SettingsPlace {
    fn default() -> Self {
        Self { file: "settings/settings.toml".into(), folder: "settings".into() }
    }
}

/// Why a process cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// An address that cannot be listened on.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// Which of the two.
        what: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Certificate and key.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The command line of a service's binary.
#[derive(Debug, Parser)]
struct Arguments {
    /// A configuration file in TOML; environment variables take precedence over it
    #[arg(long, value_name = "FILE", env = "ATTRIBUTION_CONFIG")]
    config: Option<PathBuf>,
    /// Print the configuration and stop
    #[arg(long)]
    print_config: bool,
}

/// Variables with the prefix of configuration that belong to others.
pub const ENV_IGNORED: [&str; 7] =
    ["URL", "KEY", "CHDB_LIB", "CHDB_DIR", "ONNXRUNTIME_LIB", "ONNXRUNTIME_DIR", "CONFIG"];

/// The main function of a service's binary: `service::main!("ingestion", ingestion::process);`.
#[macro_export]
macro_rules! main {
    ($name:literal, $body:path) => {
        #[global_allocator]
        static ALLOCATOR: $crate::process::Allocator = $crate::process::Allocator;

        fn main() -> std::process::ExitCode {
            $crate::process::main($name, $body)
        }
    };
}

/// The whole of a service's binary, from its command line to its exit code.
pub fn main<T, F, Fut, E>(name: &'static str, body: F) -> ExitCode
where
    T: DeserializeOwned + Serialize + Default,
    F: FnOnce(Process, T, CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    use clap::{CommandFactory, FromArgMatches};
    let matches = Arguments::command().name(name).version(env!("CARGO_PKG_VERSION")).get_matches();
    let Arguments { config, print_config } = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let sources = Sources { file: config, env_ignored: &ENV_IGNORED, flags: None::<()> };
    run(name, sources, print_config, body)
}

/// As [`main`], with the command line read already.
pub fn run<T, Flags, F, Fut, E>(
    name: &str,
    sources: Sources<'_, Flags>,
    print_config: bool,
    body: F,
) -> ExitCode
where
    T: DeserializeOwned + Serialize + Default,
    Flags: Serialize,
    F: FnOnce(Process, T, CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    let _faults = faults();
    let (process, own): (Process, T) = match config::load_both(sources) {
        Ok(both) => both,
        Err(error) => return refuse(&error),
    };
    if print_config {
        let printed = config::print_both(&process, &own).map_err(|error| error.to_string());
        return match printed
            .and_then(|text| io::stdout().write_all(text.as_bytes()).map_err(|e| e.to_string()))
        {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&error),
        };
    }
    match process.telemetry(name) {
        Ok(telemetry) => crate::run(telemetry, move |shutdown| body(process, own, shutdown)),
        Err(error) => refuse(&error),
    }
}

/// Opens a store, again and again while it is away; what can never succeed is an error. `None` after the shutdown.
///
/// # Errors
/// Those that are final.
pub async fn open_store<T, E: Display>(
    health: &Component,
    shutdown: &CancellationToken,
    is_final: impl Fn(&E) -> bool,
    mut open: impl AsyncFnMut() -> Result<T, E>,
) -> Result<Option<T>, E> {
    loop {
        match open().await {
            Ok(store) => {
                health.ready();
                return Ok(Some(store));
            }
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a store is away; trying on");
                health.not_ready(error.to_string());
            }
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(STORE_PAUSE)).await.is_none() {
            return Ok(None);
        }
    }
}

/// Only a build for tests has fail points: they are set by `FAILPOINTS`, and any panic then ends the process at once.
fn faults() -> Option<fail::FailScenario<'static>> {
    if !fail::has_failpoints() || std::env::var_os("FAILPOINTS").is_none() {
        return None;
    }
    std::panic::set_hook(Box::new(|panic| {
        // It is about to end, however this goes.
        let _ = writeln!(io::stderr(), "{panic}");
        std::process::abort()
    }));
    Some(fail::FailScenario::setup())
}

fn refuse(error: &dyn Display) -> ExitCode {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

// === impl Process ===

impl Process {
    /// Binds the listeners.
    ///
    /// # Errors
    /// An address is taken, or certificate and key cannot be used.
    pub async fn bind(&self) -> Result<Listeners, BeginError> {
        let listen = async |what, address: &str| {
            TcpListener::bind(address).await.map_err(|source| BeginError::Listen {
                what,
                address: address.to_owned(),
                source,
            })
        };
        let public = listen("listen", &self.listen).await?;
        let operations = Some(listen("metrics", &self.metrics).await?);
        Ok(Listeners { public, operations, tls: tls(&self.tls_certificate, &self.tls_key)? })
    }

    fn telemetry(&self, name: &str) -> Result<telemetry::Config, telemetry::Error> {
        Ok(telemetry::Config {
            log_format: self.log_format.parse()?,
            log_filter: self.log_filter.clone(),
            otlp_endpoint: Some(self.otlp_endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            trace_sample_ratio: self.trace_sample_ratio,
            ..telemetry::Config::new(name)
        })
    }
}

fn tls(certificate: &Path, key: &Path) -> Result<Option<Tls>, TlsError> {
    if certificate.as_os_str().is_empty() && key.as_os_str().is_empty() {
        return Ok(None);
    }
    Ok(Some(Tls::open(certificate, key)?))
}

// === impl SettingsPlace ===

impl SettingsPlace {
    /// Opens them.
    ///
    /// # Errors
    /// The file does not check, or the folder cannot be used.
    pub fn open(&self) -> Result<SettingsHandle, SettingsError> {
        SettingsHandle::open_file(&self.file, &self.folder)
    }
}

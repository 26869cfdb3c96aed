//! TLS from a certificate and a key file, read again when they change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at, seconds.
const POLL_SECONDS: u64 = 1;

/// A certificate and its key. Clones share them.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
    /// The bytes last tried, so that a bad pair is reported once.
    tried: Mutex<(Vec<u8>, Vec<u8>)>,
}

/// Why a certificate or key was refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{path} must be PEM with {wanted}")]
    Pem {
        /// Which file.
        path: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The two do not fit.
    #[error("certificate and key cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

impl Tls {
    /// Reads both files.
    ///
    /// # Errors
    /// They cannot be read, are no PEM, or do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let texts = (read(certificate)?, read(key)?);
        let config = server_config(certificate, key, &texts)?;
        Ok(Self(Arc::new(Inner {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: ArcSwap::from_pointee(config),
            tried: Mutex::new(texts),
        })))
    }

    /// Looks at the files; true if a new pair is in use now.
    ///
    /// # Errors
    /// As [`Tls::open`]; the old pair stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let mut tried = self.0.tried.lock();
        let texts = (read(&self.0.certificate)?, read(&self.0.key)?);
        if *tried == texts {
            return Ok(false);
        }
        tried.clone_from(&texts);
        let config = server_config(&self.0.certificate, &self.0.key, &texts)?;
        self.0.current.store(Arc::new(config));
        Ok(true)
    }

    /// Reloads the files whenever they change, until the shutdown.
    pub(crate) async fn watch(self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_secs(POLL_SECONDS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = String::new();
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            match self.reload() {
                Ok(true) => tracing::info!("a new certificate is in use"),
                Ok(false) => {}
                Err(error) if error.to_string() == last => {}
                Err(error) => {
                    tracing::error!(%error, "the new certificate is refused, the old one stays in use");
                    last = error.to_string();
                }
            }
        }
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.0.current.load_full().into()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Io { path: path.display().to_string(), source })
}

fn server_config(
    certificate: &Path,
    key: &Path,
    texts: &(Vec<u8>, Vec<u8>),
) -> Result<ServerConfig, TlsError> {
    let pem = |path: &Path, wanted| TlsError::Pem { path: path.display().to_string(), wanted };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&texts.0)
        .collect::<Result<_, _>>()
        .map_err(|_| pem(certificate, "certificates"))?;
    if chain.is_empty() {
        return Err(pem(certificate, "at least one certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(&texts.1).map_err(|_| pem(key, "a private key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

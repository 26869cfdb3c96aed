//! TLS in front of a server that has none.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// The certificate of test servers, for `localhost` and `127.0.0.1`.
pub const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../service/tests/tls/a.crt");
/// One that no server has, for the same names.
pub const OTHER_CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../service/tests/tls/b.crt");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../service/tests/tls/a.key");

/// Takes connections over TLS and passes them on without; it ends with this value.
pub struct Front {
    address: String,
    _serving: JoinSet<()>,
}

// === impl Front ===

impl Front {
    /// On a free port, for a server at `host:port`.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(upstream: &str) -> Self {
        let certificates = CertificateDer::pem_file_iter(CERTIFICATE).expect("a certificate");
        let certificates = certificates.map(|certificate| certificate.expect("a certificate")).collect();
        let key = PrivateKeyDer::from_pem_file(KEY).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions of the provider")
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .expect("a key of the certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port").to_string();
        let upstream = upstream.to_owned();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
                open.spawn(async move {
                    // Who does not trust the certificate goes away, and so does the server when it is killed.
                    let Ok(mut near) = acceptor.accept(near).await else { return };
                    let Ok(mut far) = TcpStream::connect(&upstream).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, _serving: serving }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Writes the key and the certificate of test servers as one PEM file, as servers in Java take them.
///
/// # Panics
/// The file cannot be written.
pub fn write_key_store(path: &Path) {
    let read = |path| fs::read_to_string(path).expect("a file of the repository");
    fs::write(path, format!("{}{}", read(KEY), read(CERTIFICATE))).expect("a writable folder");
}

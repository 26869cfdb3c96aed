//! TLS to stores: whom a client trusts.
//!
//! Owns the one way in which the clients of stores check servers. It knows no store, and no server's side of TLS.

use std::{fmt::Display, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Trusts the certificates of a PEM file, and those that they have signed.
///
/// # Errors
/// Why the file cannot be used; it names the file.
pub fn client(ca_file: &Path) -> Result<ClientConfig, String> {
    let unusable = |what: &dyn Display| format!("{}: {what}", ca_file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| unusable(&error))? {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|error| unusable(&error))?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let here = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        assert!(client(&here("../service/tests/tls/a.crt")).is_ok());
        for (name, says) in [("nowhere.pem", "nowhere.pem"), ("Cargo.toml", "no certificate")] {
            let error = client(&here(name)).err().unwrap_or_default();
            assert!(error.contains(name) && error.contains(says), "{error}");
        }
    }
}

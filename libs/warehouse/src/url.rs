//! The URL that names a warehouse.

use std::{path::Path, time::Duration};

use clickhouse::Client;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use rustls::ClientConfig;

use crate::{Config, Error};

const FORM: &str = "http://user:password@host:8123/database";

/// Servers close what is idle for 3 seconds.
const IDLE_CONNECTION: Duration = Duration::from_secs(2);

/// What a URL says.
pub(crate) struct Place {
    pub(crate) config: Config,
    pub(crate) cluster: Option<String>,
    /// A client that speaks to nobody yet.
    pub(crate) transport: Client,
}

// === impl Place ===

impl Place {
    /// See [`crate::Warehouse::open`]. Messages never show a password.
    pub(crate) fn from_url(url: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Err(Error::Config(what.to_owned()));
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = match address.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            _ => return wrong(&format!("write {FORM}, or https://")),
        };
        let (mut cluster, mut ca_file) = (None, None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let place = match name {
                "cluster" => &mut cluster,
                "ca_file" => &mut ca_file,
                _ => {
                    return wrong(&format!("unknown parameter {name}; there are cluster= and ca_file="));
                }
            };
            if value.is_empty() || place.is_some() {
                return wrong(&format!("give {name} once, and with a value"));
            }
            *place = Some(decoded(name, value)?);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if cluster.as_ref().is_some_and(|name| name.len() > 64 || !name.chars().all(plain)) {
            return wrong("cluster is 1 to 64 of [A-Za-z0-9_]");
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if host.is_empty() {
            return wrong(&format!("the host is missing: {FORM}"));
        }
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let config = Config {
            url: format!("{scheme}://{host}"),
            user: decoded("user", user)?,
            password: decoded("password", password)?,
            database: if database.is_empty() { "attribution".to_owned() } else { database.to_owned() },
        };
        let transport = match (scheme, ca_file) {
            ("https", Some(file)) => {
                let tls = tls::client(Path::new(&file));
                over_tls(tls.map_err(|error| Error::Config(format!("ca_file {error}")))?)
            }
            ("https", None) => {
                return wrong("https:// needs ca_file=, the certificates that servers are checked against");
            }
            (_, Some(_)) => return wrong("ca_file is for https://"),
            (_, None) => Client::default(),
        };
        Ok(Self { config, cluster, transport })
    }
}

/// As the client's own transport, and over TLS alone.
fn over_tls(tls: ClientConfig) -> Client {
    let mut connector = HttpConnector::new();
    connector.set_keepalive(Some(Duration::from_secs(60)));
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .enable_http1()
        .wrap_connector(connector);
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_CONNECTION)
        .build(connector);
    Client::with_http_client(client)
}

fn decoded(name: &str, text: &str) -> Result<String, Error> {
    let wrong = || Error::Config(format!("write % followed by two hexadecimal digits in {name}"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(wrong)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../service/tests/tls/a.crt");

    fn place(url: &str) -> Place {
        Place::from_url(url).unwrap()
    }

    #[test]
    fn a_url_is_read_whole() {
        let Place { config, cluster, .. } = place("http://app:p%40s%2fs@ch:8123/facts?cluster=main");
        assert_eq!((config.url.as_str(), config.user.as_str()), ("http://ch:8123", "app"));
        assert_eq!((config.password.as_str(), config.database.as_str()), ("p@s/s", "facts"));
        assert_eq!(cluster.as_deref(), Some("main"));
        let Place { config, cluster, .. } = place("http://ch:8123");
        assert_eq!((config.user.as_str(), config.database.as_str()), ("", "attribution"));
        assert_eq!(cluster, None);
        let over_tls = place(&format!("https://ch:8443/facts?ca_file={CERTIFICATE}"));
        assert_eq!(over_tls.config.url, "https://ch:8443");
    }

    #[test]
    fn what_is_unknown_is_named_and_no_password_is_told() {
        let long = "c".repeat(65);
        for (url, named) in [
            ("ftp://u:secret@ch", "http://"),
            ("ch:8123", "http://"),
            ("http:///facts", "host"),
            ("http://u:secret@ch/facts?clusters=2", "clusters"),
            ("http://ch?cluster=", "cluster"),
            ("http://ch?cluster=a&cluster=b", "cluster"),
            ("http://ch?cluster=a-b", "cluster"),
            (&format!("http://ch?cluster={long}"), "cluster"),
            ("http://u:secret@ch?ca_file=/ca.pem", "https://"),
            ("https://u:secret@ch", "ca_file"),
            ("https://ch?ca_file=/nowhere/ca.pem", "/nowhere/ca.pem"),
            (concat!("https://ch?ca_file=", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "no certificate"),
            ("http://secret:%zz@ch", "hexadecimal digits in password"),
        ] {
            let error = Place::from_url(url).err().unwrap().to_string();
            assert!(error.contains(named) && !error.contains("secret"), "{url}: {error}");
        }
        assert!(Place::from_url(&format!("http://ch?cluster={}", &long[1..])).is_ok());
    }
}

//! What the URL of a CQL store says.

use std::{path::PathBuf, sync::Arc, time::Duration};

use scylla::client::session::TlsContext;

use crate::StoreError;

/// A keyspace, and how to reach it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `host:port`; any of the cluster will do.
    pub(crate) hosts: Vec<String>,
    pub(crate) keyspace: String,
    /// Requests go to this datacenter alone.
    pub(crate) datacenter: Option<String>,
    /// Copies in each datacenter, of a keyspace that has to be made.
    pub(crate) replicas: u32,
    pub(crate) credentials: Option<(String, String)>,
    /// Certificates that servers are checked against; `None`: no TLS.
    pub(crate) tls_ca: Option<PathBuf>,
    /// The most requests under way at once.
    pub(crate) in_flight_max: usize,
    pub(crate) timeout: Duration,
}

const PORT: u16 = 9042;
const REPLICAS_DEFAULT: u32 = 3;
const IN_FLIGHT_DEFAULT: usize = 256;
/// A connection has 32,768 streams.
const IN_FLIGHT_MAX: usize = 16_384;
const TIMEOUT_MILLIS_DEFAULT: u64 = 10_000;
/// Where user and password come from when the URL has none.
pub(crate) const USER_VARIABLE: &str = "SCYLLA_USER";
pub(crate) const PASSWORD_VARIABLE: &str = "SCYLLA_PASSWORD";

// === impl Settings ===

impl Settings {
    /// Reads what comes after `scylla://`. Messages name what is wrong and never show a password.
    pub(crate) fn parse(
        address: &str,
        query: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StoreError> {
        let refuse = |what: String| Err(StoreError::Url(what));
        let Some((hosts, keyspace)) = address.split_once('/') else {
            return refuse("write scylla://host,host/keyspace".to_owned());
        };
        let hosts: Vec<String> = hosts.split(',').map(with_port).collect();
        if hosts.iter().any(|host| host.starts_with(':') || host.contains('@')) {
            return refuse(
                "write scylla://host,host/keyspace, and user and password as parameters".to_owned(),
            );
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if !keyspace.starts_with(|first: char| first.is_ascii_lowercase())
            || !keyspace.bytes().all(plain)
            || keyspace.len() > 48
        {
            return refuse(format!("a keyspace has 1 to 48 of a-z, 0-9 and _, a letter first: {keyspace:?}"));
        }
        let (mut user, mut password) = (environment(USER_VARIABLE), environment(PASSWORD_VARIABLE));
        let mut settings = Self {
            hosts,
            keyspace: keyspace.to_owned(),
            datacenter: None,
            replicas: REPLICAS_DEFAULT,
            credentials: None,
            tls_ca: None,
            in_flight_max: IN_FLIGHT_DEFAULT,
            timeout: Duration::from_millis(TIMEOUT_MILLIS_DEFAULT),
        };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value =
                decoded(value).ok_or_else(|| StoreError::Url(format!("{name} is not percent-encoded")))?;
            match name {
                "user" => user = Some(value),
                "password" => password = Some(value),
                "datacenter" if !value.is_empty() => settings.datacenter = Some(value),
                "tls_ca" if !value.is_empty() => settings.tls_ca = Some(value.into()),
                "replicas" => settings.replicas = number(name, &value, 1, 9)?,
                "in_flight_max" => settings.in_flight_max = number(name, &value, 1, IN_FLIGHT_MAX)?,
                "timeout_millis" => {
                    settings.timeout = Duration::from_millis(number(name, &value, 100, 600_000)?);
                }
                _ => {
                    return refuse(format!(
                        "scylla knows user=, password=, datacenter=, tls_ca=, replicas=, in_flight_max= and \
                         timeout_millis= only, each with a value: {name}"
                    ));
                }
            }
        }
        settings.credentials = match (user, password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some((user, password)),
            _ => return refuse("give both user and password, or neither".to_owned()),
        };
        Ok(settings)
    }

    /// How connections are encrypted.
    pub(crate) fn tls_context(&self) -> Result<Option<TlsContext>, StoreError> {
        let Some(path) = &self.tls_ca else { return Ok(None) };
        let config = tls::client(path).map_err(|error| StoreError::Url(format!("tls_ca {error}")))?;
        Ok(Some(TlsContext::from(Arc::new(config))))
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("keyspace", &self.keyspace)
            .finish_non_exhaustive()
    }
}

fn with_port(host: &str) -> String {
    let after_address = host.rsplit(']').next().unwrap_or(host);
    if after_address.contains(':') { host.to_owned() } else { format!("{host}:{PORT}") }
}

fn number<N: std::str::FromStr + PartialOrd + std::fmt::Display>(
    name: &str,
    value: &str,
    min: N,
    max: N,
) -> Result<N, StoreError> {
    match value.parse() {
        Ok(number) if number >= min && number <= max => Ok(number),
        _ => Err(StoreError::Url(format!("{name} is a number from {min} to {max}: {value}"))),
    }
}

fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte == b'%' {
            let (digits, tail) = rest.split_first_chunk::<2>()?;
            let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(address: &str, query: &str) -> Result<Settings, StoreError> {
        Settings::parse(address, query, |_| None)
    }

    #[test]
    fn what_a_url_says_is_taken_and_what_is_unknown_is_named() {
        let settings = parse(
            "a,b:1,[::1]:2,[::2]/k_1",
            "user=u&password=p%26%3d&datacenter=dc&replicas=9&in_flight_max=16384",
        );
        let settings = settings.unwrap();
        assert_eq!(settings.hosts, ["a:9042", "b:1", "[::1]:2", "[::2]:9042"]);
        assert_eq!(settings.credentials, Some(("u".to_owned(), "p&=".to_owned())));
        assert_eq!((settings.replicas, settings.in_flight_max), (9, 16_384));
        assert_eq!(settings.datacenter.as_deref(), Some("dc"));
        let long = "k".repeat(49);
        for (address, query, named) in [
            ("a", "", "keyspace"),
            ("a/", "", "keyspace"),
            ("a/K", "", "keyspace"),
            ("a/1k", "", "keyspace"),
            (&format!("a/{long}"), "", "keyspace"),
            ("/k", "", "host"),
            ("u:p@a/k", "", "parameters"),
            ("a/k", "user=u", "both"),
            ("a/k", "consistency=ONE", "consistency"),
            ("a/k", "datacenter=", "datacenter"),
            ("a/k", "replicas=10", "replicas"),
            ("a/k", "replicas=0", "replicas"),
            ("a/k", "in_flight_max=16385", "in_flight_max"),
            ("a/k", "timeout_millis=99", "timeout_millis"),
            ("a/k", "password=secret%2", "password"),
        ] {
            let error = parse(address, query).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("secret"), "{address}?{query}: {error}");
        }
        assert!(parse(&format!("a/{}", "k".repeat(48)), "timeout_millis=100").is_ok());
    }

    #[test]
    fn user_and_password_come_from_the_environment_too() {
        let environment = |name: &str| Some(format!("{name}'s"));
        let settings = Settings::parse("a/k", "user=mine", environment).unwrap();
        assert_eq!(settings.credentials, Some(("mine".to_owned(), "SCYLLA_PASSWORD's".to_owned())));
        assert!(!format!("{settings:?}").contains("SCYLLA_PASSWORD"));
    }

    #[test]
    fn certificates_that_cannot_be_read_are_named() {
        let settings = parse("a/k", "tls_ca=/nowhere/ca.pem").unwrap();
        let error = settings.tls_context().err().unwrap().to_string();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }
}

//! The URL that names a warehouse.

use crate::{Config, Error};

impl Config {
    /// Reads `http://user:password@host:8123/database`; user and password may be left out, and are percent-encoded.
    ///
    /// # Errors
    /// [`Error::Config`] for another form, and for any parameter.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Err(Error::Config(what.to_owned()));
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let Some(rest) = address.strip_prefix("http://") else {
            return wrong("write http://user:password@host:8123/database");
        };
        if let Some(parameter) = query.split('&').find(|parameter| !parameter.is_empty()) {
            let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
            return Err(Error::Config(format!("unknown parameter {name}; there is none")));
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if host.is_empty() {
            return wrong("the host is missing: http://user:password@host:8123/database");
        }
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        Ok(Self {
            url: format!("http://{host}"),
            user: decoded(user)?,
            password: decoded(password)?,
            database: if database.is_empty() { "attribution".to_owned() } else { database.to_owned() },
        })
    }
}

fn decoded(text: &str) -> Result<String, Error> {
    let wrong =
        || Error::Config("write % followed by two hexadecimal digits in user and password".to_owned());
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

    #[test]
    fn a_url_is_read_whole() {
        let config = Config::from_url("http://app:p%40s%2fs@ch:8123/facts").unwrap();
        assert_eq!((config.url.as_str(), config.user.as_str()), ("http://ch:8123", "app"));
        assert_eq!((config.password.as_str(), config.database.as_str()), ("p@s/s", "facts"));
        let config = Config::from_url("http://ch:8123").unwrap();
        assert_eq!((config.user.as_str(), config.database.as_str()), ("", "attribution"));
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (url, named) in [
            ("ftp://ch", "http://"),
            ("http:///facts", "host"),
            ("http://ch/facts?clusters=2", "clusters"),
            ("http://a:%zz@ch", "hexadecimal"),
        ] {
            let error = Config::from_url(url).unwrap_err().to_string();
            assert!(error.contains(named), "{url}: {error}");
        }
    }
}

//! Reads the URL of a store.

use std::path::PathBuf;

use crate::{StoreError, scylla::settings::Settings};

/// Where a store is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Memory,
    File { path: PathBuf, cache_bytes_max: u64 },
    Scylla(Settings),
}

/// The block cache unless the URL says otherwise.
const CACHE_BYTES_DEFAULT: u64 = 128 << 20;
/// The smallest block cache.
const CACHE_BYTES_MIN: u64 = 1 << 20;

/// Reads a URL; an unknown scheme or parameter is an error that names it.
pub(crate) fn parse(url: &str) -> Result<Location, StoreError> {
    let refuse = |what: String| Err(StoreError::Url(what));
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    if let Some(path) = address.strip_prefix("file://") {
        if !path.starts_with('/') || path.len() < 2 {
            return refuse(format!("write file:///path with an absolute path: {url}"));
        }
        let mut cache_bytes_max = CACHE_BYTES_DEFAULT;
        for parameter in parameters {
            match parameter.split_once('=') {
                Some(("cache_bytes_max", value)) => match value.parse() {
                    Ok(bytes) if bytes >= CACHE_BYTES_MIN => cache_bytes_max = bytes,
                    _ => {
                        return refuse(format!(
                            "cache_bytes_max is a number from {CACHE_BYTES_MIN} on: {value}"
                        ));
                    }
                },
                _ => return refuse(format!("file knows cache_bytes_max=… only: {parameter}")),
            }
        }
        return Ok(Location::File { path: PathBuf::from(path), cache_bytes_max });
    }
    if let Some(address) = address.strip_prefix("scylla://") {
        return Settings::parse(address, query, |name| std::env::var(name).ok()).map(Location::Scylla);
    }
    if address == "memory://" {
        return match parameters.into_iter().next() {
            Some(parameter) => refuse(format!("memory has no parameters: {parameter}")),
            None => Ok(Location::Memory),
        };
    }
    refuse(format!("use memory://, file:///path or scylla://host/keyspace: {url}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn urls_are_read_and_what_is_unknown_is_named() {
        assert_eq!(parse("memory://").unwrap(), Location::Memory);
        let file = |path: &str, cache_bytes_max| Location::File { path: path.into(), cache_bytes_max };
        assert_eq!(parse("file:///a/b c").unwrap(), file("/a/b c", CACHE_BYTES_DEFAULT));
        assert_eq!(parse("file:///a?cache_bytes_max=1048576").unwrap(), file("/a", CACHE_BYTES_MIN));
        for (url, named) in [
            ("memory://?x=1", "x=1"),
            ("file:///a?cache_bytes_max=1048575", "1048575"),
            ("file:///a?cache_bytes_max=", "number"),
            ("file:///a?cache=1", "cache=1"),
            ("file://a", "absolute"),
            ("file:///", "absolute"),
            ("scylla://host", "keyspace"),
            ("scylla://host/k?x=1", "x"),
            ("redis://host", "redis://host"),
            ("", "memory://"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(named), "{url}: {error}");
        }
    }
}

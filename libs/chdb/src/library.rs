//! Where the engine's library is found.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::Error;

/// The pinned version of the library's package.
pub const LIBRARY_VERSION: &str = "26.7.3-stable.1";
const FILE: &str = "libchdb.so";

/// Finds the library: the path given, else `ATTRIBUTION_CHDB_LIB` (a file), else
/// `ATTRIBUTION_CHDB_DIR` (a folder), else the cache that `scripts/fetch-chdb.sh` fills.
///
/// # Errors
/// [`Error::LibraryMissing`] when there is no file at that place.
pub fn find_library(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    let path = choose(given, &|name| std::env::var_os(name));
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        _ => Err(Error::LibraryMissing { path }),
    }
}

fn choose(given: Option<PathBuf>, variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let variable = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    given
        .or_else(|| variable("ATTRIBUTION_CHDB_LIB"))
        .or_else(|| variable("ATTRIBUTION_CHDB_DIR").map(|folder| folder.join(FILE)))
        .unwrap_or_else(|| {
            variable("XDG_CACHE_HOME")
                .or_else(|| variable("HOME").map(|home| home.join(".cache")))
                .unwrap_or_else(|| PathBuf::from(".cache"))
                .join("attribution/chdb")
                .join(LIBRARY_VERSION)
                .join(FILE)
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_nearest_place_wins() {
        let mut set = vec![("HOME", "/h")];
        let chosen = |given: Option<&str>, set: &[(&str, &str)]| {
            choose(given.map(PathBuf::from), &|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            })
        };
        let cached = format!("attribution/chdb/{LIBRARY_VERSION}/libchdb.so");
        assert_eq!(chosen(None, &set), PathBuf::from(format!("/h/.cache/{cached}")));
        set.push(("XDG_CACHE_HOME", "/x"));
        assert_eq!(chosen(None, &set), PathBuf::from(format!("/x/{cached}")));
        set.push(("ATTRIBUTION_CHDB_DIR", "/d"));
        assert_eq!(chosen(None, &set), PathBuf::from("/d/libchdb.so"));
        set.push(("ATTRIBUTION_CHDB_LIB", "/l/x.so"));
        assert_eq!(chosen(None, &set), PathBuf::from("/l/x.so"));
        assert_eq!(chosen(Some("/g.so"), &set), PathBuf::from("/g.so"));
    }

    #[test]
    fn a_missing_library_names_the_script_that_fetches_it() {
        let error = find_library(Some("/nowhere/libchdb.so".into())).unwrap_err().to_string();
        assert!(error.contains("/nowhere/libchdb.so") && error.contains("scripts/fetch-chdb.sh"), "{error}");
    }

    #[test]
    fn servers_are_of_the_engines_release() {
        let release: Vec<&str> = LIBRARY_VERSION.split('.').take(2).collect();
        let release = release.join(".");
        for file in [
            include_str!("../../../docker-compose.yml"),
            include_str!("../../../k8s/components/clickhouse/installation.yaml"),
            include_str!("../../../k8s/components/clickhouse/keeper.yaml"),
            include_str!("../../../k8s/components/backups/clickhouse.yaml"),
        ] {
            let images: Vec<&str> = file.lines().filter(|line| line.contains("image: clickhouse/")).collect();
            assert!(!images.is_empty());
            assert!(images.iter().all(|image| image.ends_with(&format!(":{release}"))), "{images:?}");
        }
    }

    #[test]
    fn the_script_fetches_the_version_that_is_looked_for() {
        let script = include_str!("../../../scripts/fetch-chdb.sh");
        assert!(script.contains(&format!("version={LIBRARY_VERSION}\n")));
    }
}

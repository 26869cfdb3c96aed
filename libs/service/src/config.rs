//! Configuration: defaults, then a TOML file, then the environment, then flags.

use std::{fmt, path::PathBuf};

use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// The prefix of environment variables; `__` parts the levels: `ATTRIBUTION_LIMITS__CONNECTIONS_MAX=100`.
pub const ENV_PREFIX: &str = "ATTRIBUTION_";

/// What a [`Secret`] looks like from outside.
const REDACTED: &str = "[redacted]";

/// Where a configuration comes from.
#[derive(Debug, Default)]
pub struct Sources<'a, Flags> {
    /// A TOML file that must exist.
    pub file: Option<PathBuf>,
    /// Variables with the prefix that belong to something else, without the prefix: `["URL", "KEY"]`.
    pub env_ignored: &'a [&'a str],
    /// What the command line says: any serde map; a `None` is not said.
    pub flags: Option<Flags>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there.
    #[error("the configuration file {0} cannot be read")]
    NoFile(PathBuf),
    /// Keys or values are wrong: one line each, with key and source.
    #[error("{0}")]
    Wrong(String),
}

/// A value that never shows itself: not in `Debug`, not when serialized, so not in logs or printed configurations.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// The address of a store: it is printed without its passwords.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(String);

/// Loads a configuration over the defaults of `T`, which must `deny_unknown_fields` at every level.
///
/// # Errors
/// Unknown keys and wrong values, each with its key and source.
pub fn load<T, Flags>(sources: Sources<'_, Flags>) -> Result<T, ConfigError>
where
    T: DeserializeOwned + Serialize + Default,
    Flags: Serialize,
{
    extract(&merge(Figment::from(Serialized::defaults(T::default())), sources)?)
}

/// Loads two configurations whose keys stand side by side, as [`load`] does one. At the first level they must not
/// `deny_unknown_fields`: each would refuse the other's.
///
/// # Errors
/// As there.
pub fn load_both<A, B, Flags>(sources: Sources<'_, Flags>) -> Result<(A, B), ConfigError>
where
    A: DeserializeOwned + Serialize + Default,
    B: DeserializeOwned + Serialize + Default,
    Flags: Serialize,
{
    let defaults =
        Figment::from(Serialized::defaults(A::default())).merge(Serialized::defaults(B::default()));
    let figment = merge(defaults, sources)?;
    let (a, b) = (extract(&figment)?, extract(&figment)?);
    refuse_unknown(&figment, &a, &b)?;
    Ok((a, b))
}

fn merge<Flags: Serialize>(
    mut figment: Figment,
    sources: Sources<'_, Flags>,
) -> Result<Figment, ConfigError> {
    if let Some(file) = sources.file {
        if !file.is_file() {
            return Err(ConfigError::NoFile(file));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    let env = Env::prefixed(ENV_PREFIX).ignore(sources.env_ignored).split("__");
    figment = figment.merge(env);
    if let Some(flags) = sources.flags {
        figment = figment.merge(Serialized::defaults(WithoutNone(flags)));
    }
    Ok(figment)
}

fn extract<T: DeserializeOwned>(figment: &Figment) -> Result<T, ConfigError> {
    figment.extract().map_err(|errors| {
        let lines: Vec<_> = errors.into_iter().map(|error| line(&error)).collect();
        ConfigError::Wrong(lines.join("\n"))
    })
}

/// What is said beside the keys of both, which neither of them would notice alone.
fn refuse_unknown<A: Serialize, B: Serialize>(figment: &Figment, a: &A, b: &B) -> Result<(), ConfigError> {
    let mut known = table(a)?;
    known.extend(table(b)?);
    let said = extract::<figment::value::Dict>(figment)?;
    let unknown: Vec<_> = said.keys().filter(|key| !known.contains_key(key.as_str())).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let known = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let line = |key: &String| {
        let source = figment.find_metadata(key).map_or_else(String::new, source_of);
        format!("{key}: unknown key; known are {known}{source}")
    };
    Err(ConfigError::Wrong(unknown.into_iter().map(line).collect::<Vec<_>>().join("\n")))
}

fn table<T: Serialize>(config: &T) -> Result<serde_json::Map<String, serde_json::Value>, ConfigError> {
    match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(table)) => Ok(table),
        Ok(_) => Ok(serde_json::Map::new()),
        Err(error) => Err(ConfigError::Wrong(error.to_string())),
    }
}

/// The configuration as TOML, secrets redacted.
///
/// # Errors
/// A configuration that TOML cannot express.
pub fn print_config<T: Serialize>(config: &T) -> Result<String, ConfigError> {
    toml::to_string_pretty(config).map_err(|error| ConfigError::Wrong(error.to_string()))
}

/// Two configurations as one, as [`print_config`] does it.
///
/// # Errors
/// As there.
pub fn print_both<A: Serialize, B: Serialize>(a: &A, b: &B) -> Result<String, ConfigError> {
    let mut both = table(a)?;
    both.extend(table(b)?);
    // TOML has no null: what is not set is not shown.
    both.retain(|_, value| !value.is_null());
    // Plain keys first: after the first table every key would belong to it.
    let (tables, plain): (Vec<_>, Vec<_>) = both.into_iter().partition(|(_, value)| value.is_object());
    let ordered: serde_json::Map<_, _> = plain.into_iter().chain(tables).collect();
    print_config(&WithoutNone(serde_json::Value::Object(ordered)))
}

fn line(error: &figment::Error) -> String {
    let key = error.path.join(".");
    let reason = match &error.kind {
        Kind::UnknownField(_, known) => format!("unknown key; known are {}", known.join(", ")),
        other => other.to_string(),
    };
    let source = error.metadata.as_ref().map_or_else(String::new, source_of);
    format!("{key}: {reason}{source}")
}

fn source_of(metadata: &figment::Metadata) -> String {
    let place = metadata.source.as_ref().map(|source| format!(" {source}")).unwrap_or_default();
    format!(" (from {}{place})", metadata.name)
}

/// Leaves out what was not said, so that it does not cover what was said elsewhere.
struct WithoutNone<T>(T);

impl<T: Serialize> Serialize for WithoutNone<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        let mut value = serde_json::to_value(&self.0).map_err(S::Error::custom)?;
        strip(&mut value);
        value.serialize(serializer)
    }
}

fn strip(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(map) = value {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(strip);
    }
}

// === impl Secret ===

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: only where it is used.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// A redacted value is refused: it was printed, not meant. Defaults and flags are therefore never secrets.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(deserializer)?;
        if text == REDACTED {
            return Err(D::Error::custom("a redacted secret; give the real one by file or environment"));
        }
        Ok(Self(text))
    }
}

// === impl StoreUrl ===

impl StoreUrl {
    /// The whole of it: only where the store is opened.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for StoreUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, query) = self.0.split_once('?').unwrap_or((&self.0, ""));
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        if !scheme.is_empty() {
            write!(f, "{scheme}://")?;
        }
        match rest.rsplit_once('@') {
            Some((user, hosts)) => {
                let user = user.split_once(':').map_or(user, |(user, _)| user);
                write!(f, "{user}:{REDACTED}@{hosts}")?;
            }
            None => f.write_str(rest)?,
        }
        for (index, parameter) in query.split('&').filter(|parameter| !parameter.is_empty()).enumerate() {
            let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
            let mark = if index == 0 { '?' } else { '&' };
            match name.contains("password") {
                true => write!(f, "{mark}{name}={REDACTED}")?,
                false => write!(f, "{mark}{parameter}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for StoreUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_url_is_shown_without_its_passwords() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://user:p@ss@host/1?x=1", "redis://user:[redacted]@host/1?x=1"),
            ("redis://:secret@host", "redis://:[redacted]@host"),
            (
                "kafka://a,b/t?acks=all&sasl_password=s&x=1",
                "kafka://a,b/t?acks=all&sasl_password=[redacted]&x=1",
            ),
            ("memory://?seen_max=1", "memory://?seen_max=1"),
        ] {
            let url = StoreUrl::from(url);
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("ss@") && !format!("{url:?}").contains("secret"));
        }
    }
}

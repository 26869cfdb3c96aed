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

/// Loads a configuration over the defaults of `T`, which must `deny_unknown_fields` at every level.
///
/// # Errors
/// Unknown keys and wrong values, each with its key and source.
pub fn load<T, Flags>(sources: Sources<'_, Flags>) -> Result<T, ConfigError>
where
    T: DeserializeOwned + Serialize + Default,
    Flags: Serialize,
{
    let mut figment = Figment::from(Serialized::defaults(T::default()));
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
    figment.extract().map_err(|errors| {
        let lines: Vec<_> = errors.into_iter().map(|error| line(&error)).collect();
        ConfigError::Wrong(lines.join("\n"))
    })
}

/// The configuration as TOML, secrets redacted.
///
/// # Errors
/// A configuration that TOML cannot express.
pub fn print_config<T: Serialize>(config: &T) -> Result<String, ConfigError> {
    toml::to_string_pretty(config).map_err(|error| ConfigError::Wrong(error.to_string()))
}

fn line(error: &figment::Error) -> String {
    let key = error.path.join(".");
    let reason = match &error.kind {
        Kind::UnknownField(_, known) => format!("unknown key; known are {}", known.join(", ")),
        other => other.to_string(),
    };
    let source = error.metadata.as_ref().map_or_else(String::new, |metadata| {
        let place = metadata.source.as_ref().map(|source| format!(" {source}")).unwrap_or_default();
        format!(" (from {}{place})", metadata.name)
    });
    format!("{key}: {reason}{source}")
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

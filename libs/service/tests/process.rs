//! Two configurations side by side: that of any process, and that of its services.

#![allow(clippy::unwrap_used)]

use serde::{Deserialize, Serialize};
use service::{
    Process, StoreUrl,
    config::{ConfigError, Sources, load_both, print_both},
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Own {
    log: StoreUrl,
    limits_of_its_own: Inner,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Inner {
    events_max: u32,
}

impl Default for Own {
    fn default() -> Self {
        Self { log: "memory://".into(), limits_of_its_own: Inner::default() }
    }
}

fn load(text: &str) -> Result<(Process, Own), ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    load_both(Sources { file: Some(file), env_ignored: &[], flags: None::<()> })
}

#[test]
fn each_takes_its_own_keys() {
    let (process, own) = load(
        "listen = \"0.0.0.0:80\"\nlog = \"kafka://u:secret@b/t?sasl_password=secret\"\n\
         [limits]\nconnections_max = 7\n[limits_of_its_own]\nevents_max = 3\n",
    )
    .unwrap();
    assert_eq!((process.listen.as_str(), process.limits.connections_max), ("0.0.0.0:80", 7));
    assert_eq!(own.limits_of_its_own.events_max, 3);
    assert_eq!(own.log.reveal(), "kafka://u:secret@b/t?sasl_password=secret");
    // What is printed can be read again, and tells no password.
    let printed = print_both(&process, &own).unwrap();
    assert!(!printed.contains("secret"), "{printed}");
    let (again, _) = load(&printed).unwrap();
    assert_eq!(again.limits, process.limits);
}

#[test]
fn a_key_that_neither_knows_is_refused_by_its_name_and_place() {
    for (text, named) in [
        ("lisen = \"a\"", "lisen: unknown key"),
        ("[limits]\nconnections = 1", "limits.connections: unknown key"),
        ("[limits_of_its_own]\nevents = 1", "limits_of_its_own.events: unknown key"),
        ("listen = 3", "listen"),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("config.toml"), "{text}: {error}");
    }
}

//! Where a configuration comes from, and what is refused.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use service::{
    Limits, Secret,
    config::{Sources, load, print_config},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    listen: String,
    workers: u32,
    password: Option<Secret>,
    limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: "default".into(), workers: 1, password: None, limits: Limits::default() }
    }
}

#[derive(Serialize, Default)]
struct Flags {
    listen: Option<String>,
    limits: Option<LimitFlags>,
}

#[derive(Serialize)]
struct LimitFlags {
    connections_max: Option<usize>,
    drain_seconds_max: Option<u64>,
}

/// Runs in a process of its own, since the environment is shared: this test's binary, asked to load once.
fn load_in(env: &[(&str, &str)], file: Option<&str>, flags: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "loaded_once", "--nocapture"]).env_clear();
    for (name, value) in env {
        command.env(name, value);
    }
    if let Some(text) = file {
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        command.env("TEST_FILE", path);
    }
    if flags {
        command.env("TEST_FLAGS", "1");
    }
    command.env("TEST_CHILD", "1");
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// Does nothing unless [`load_in`] runs it.
#[test]
fn loaded_once() {
    if std::env::var_os("TEST_CHILD").is_none() {
        return;
    }
    let flags = std::env::var_os("TEST_FLAGS").map(|_| Flags {
        listen: Some("flag".into()),
        limits: Some(LimitFlags { connections_max: None, drain_seconds_max: Some(4) }),
    });
    let file = std::env::var_os("TEST_FILE").map(PathBuf::from);
    match load::<Config, _>(Sources { file, env_ignored: &["URL", "KEY"], flags }) {
        Ok(config) => println!("{}\n{config:?}", print_config(&config).unwrap()),
        Err(error) => println!("ERROR {error}"),
    }
}

#[test]
fn flags_go_over_environment_over_file_over_defaults() {
    let file = "listen = \"file\"\nworkers = 2\n[limits]\nconnections_max = 2\ndrain_seconds_max = 2\n";
    let env = [
        ("ATTRIBUTION_WORKERS", "3"),
        ("ATTRIBUTION_LIMITS__CONNECTIONS_MAX", "3"),
        ("ATTRIBUTION_LIMITS__DRAIN_SECONDS_MAX", "3"),
    ];
    let has = |out: String, lines: &[&str]| {
        for line in lines {
            assert!(out.lines().any(|found| found == *line), "{line} in\n{out}");
        }
    };
    has(load_in(&[], None, false), &["listen = \"default\"", "workers = 1"]);
    has(load_in(&[], Some(file), false), &["listen = \"file\"", "workers = 2", "connections_max = 2"]);
    has(load_in(&env, Some(file), false), &["listen = \"file\"", "workers = 3", "connections_max = 3"]);
    has(
        load_in(&env, Some(file), true),
        &["listen = \"flag\"", "workers = 3", "connections_max = 3", "drain_seconds_max = 4"],
    );
}

#[test]
fn an_unknown_key_is_an_error_that_names_it_and_where_it_stands() {
    let out = load_in(&[], Some("listne = \"x\"\n"), false);
    assert!(out.contains("ERROR listne: unknown key") && out.contains("config.toml"), "{out}");
    let out = load_in(&[], Some("[limits]\nconnections = 1\n"), false);
    assert!(out.contains("limits.connections: unknown key") && out.contains("config.toml"), "{out}");
    let out = load_in(&[("ATTRIBUTION_LIMITS__CONNECTIONS", "1")], None, false);
    assert!(out.contains("limits.connections: unknown key") && out.contains("ATTRIBUTION_"), "{out}");
    let out = load_in(&[], Some("workers = \"many\"\n"), false);
    assert!(out.contains("ERROR workers") && out.contains("config.toml"), "{out}");
}

#[test]
fn variables_of_the_command_line_are_not_ours() {
    let out = load_in(&[("ATTRIBUTION_URL", "x"), ("ATTRIBUTION_KEY", "y")], None, false);
    assert!(out.contains("listen = \"default\""), "{out}");
}

#[test]
fn a_secret_is_used_and_never_shown() {
    let out = load_in(&[], Some("password = \"hunter2\"\n"), false);
    assert!(out.contains("[redacted]") && !out.contains("hunter2"), "{out}");
    let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
    assert_eq!(secret.reveal(), "hunter2");
    assert!(!format!("{secret:?}").contains("hunter2"));
    // What was printed is not taken for the secret.
    let out = load_in(&[], Some("password = \"[redacted]\"\n"), false);
    assert!(out.contains("ERROR password"), "{out}");
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let sources =
        Sources { file: Some("/nowhere/config.toml".into()), env_ignored: &[], flags: None::<Flags> };
    assert!(load::<Config, _>(sources).unwrap_err().to_string().contains("/nowhere/config.toml"));
}

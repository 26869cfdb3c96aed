//! `attribution check`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use reqwest::StatusCode;

use crate::{
    client::{Client, Connection},
    out,
};

/// Check a settings file, the connection and the key.
///
/// With --settings the file is checked as the platform would, line and reason included, and the platform is asked only
/// when --url is given too.
/// The scope `admin` cannot be seen from outside.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution check
  attribution check --settings ./data/settings.toml
  attribution check --url https://attribution.example.com --key \"$KEY\"")]
pub(crate) struct Check {
    /// A settings file
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

impl Check {
    pub(crate) async fn run(self) -> Result<()> {
        if let Some(path) = &self.settings {
            check_settings(path)?;
            if self.connection.url.is_none() {
                return Ok(());
            }
        }
        let client = self.connection.client()?;
        client.reach().await?;
        out::line(format!("{}: answers", client.url()))?;
        client.call(client.get("/health/ready")).await.context("the platform is not ready")?;
        out::line(format!("{}: ready", client.url()))?;
        check_key(&client).await
    }
}

fn check_settings(path: &PathBuf) -> Result<()> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    if text.len() > service::settings::SETTINGS_BYTES_MAX {
        bail!("{name}: at most {} bytes", service::settings::SETTINGS_BYTES_MAX);
    }
    let settings = service::settings::parse(&text).with_context(|| name.to_string())?;
    let mut tenants: Vec<_> = settings.tenants().collect();
    tenants.sort_unstable_by_key(|tenant| tenant.name.clone());
    for tenant in tenants {
        out::line(format!("{name}: tenant {}, edition {}", tenant.name, tenant.edition))?;
    }
    Ok(())
}

/// Nothing is changed: no events are sent, and no conversion has this name.
async fn check_key(client: &Client) -> Result<()> {
    let ingest = client.call(client.post("/v1/events", Bytes::from_static(b"[]"))).await.map(drop);
    let read = client.call(client.get("/v1/conversions/no-such-conversion")).await.map(drop);
    let mut scopes = Vec::new();
    for (scope, result) in [("ingest", ingest), ("read", read)] {
        match result {
            Ok(()) => scopes.push(scope),
            Err(error) => match error.status() {
                Some(StatusCode::NOT_FOUND) => scopes.push(scope),
                Some(StatusCode::FORBIDDEN) => {}
                _ => return Err(error).context("the key does not work"),
            },
        }
    }
    if scopes.is_empty() {
        bail!("the key is known and may neither ingest nor read: give it a scope in the settings file");
    }
    out::line(format!("{}: the key may {}", client.url(), scopes.join(" and ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_wrong_settings_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        std::fs::write(&path, "version = 1\n[tenants.default]\ncurency = \"EUR\"\n").unwrap();
        let error = format!("{:#}", check_settings(&path).unwrap_err());
        assert!(
            error.contains("settings.toml") && error.contains("line 3") && error.contains("curency"),
            "{error}"
        );
    }
}

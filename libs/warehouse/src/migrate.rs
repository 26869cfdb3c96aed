//! The schema, by numbered migrations.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use crate::{Error, Warehouse, cluster::Home};

/// The migrations in their order; the number is the place from 1. One statement each, that may be repeated: the record
/// of it comes after it.
pub(crate) const MIGRATIONS: [(&str, &str); 12] = [
    ("meta", include_str!("../migrations/0001_meta.sql")),
    ("progress", include_str!("../migrations/0002_progress.sql")),
    ("touches", include_str!("../migrations/0003_touches.sql")),
    ("conversions", include_str!("../migrations/0004_conversions.sql")),
    ("identities", include_str!("../migrations/0005_identities.sql")),
    ("paths", include_str!("../migrations/0006_paths.sql")),
    ("by_hour", include_str!("../migrations/0007_by_hour.sql")),
    ("fill_by_hour", include_str!("../migrations/0008_fill_by_hour.sql")),
    ("replaced_progress", include_str!("../migrations/0009_replaced_progress.sql")),
    ("replaced_touches", include_str!("../migrations/0010_replaced_touches.sql")),
    ("replaced_conversions", include_str!("../migrations/0011_replaced_conversions.sql")),
    ("replaced_identities", include_str!("../migrations/0012_replaced_identities.sql")),
];

pub(crate) const RECORD: &str = "CREATE TABLE IF NOT EXISTS migrations (version UInt32, name String, checksum String) \
    ENGINE = MergeTree ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1";

#[derive(Debug, Row, Serialize, Deserialize)]
struct Applied {
    version: u32,
    name: String,
    checksum: String,
}

impl Warehouse {
    /// Brings the schema up to this program's, and makes the database if it is not there; does nothing when all is done.
    ///
    /// Errors: [`Error::Schema`] for a schema that is newer than this program or was made by other migrations.
    pub async fn migrate(&self) -> Result<(), Error> {
        let outside = self.client.clone().with_database("default");
        let make = format!("CREATE DATABASE IF NOT EXISTS {}", self.database_everywhere());
        outside.query_raw(&make).execute().await?;
        for statement in self.statements(RECORD) {
            self.client.query_raw(&statement).execute().await?;
        }
        let home = self.home(0).await?;
        home.heard(self.migrate_from(&home).await)
    }

    async fn migrate_from(&self, home: &Home) -> Result<(), Error> {
        home.settle("migrations").await?;
        let select =
            format!("SELECT version, name, checksum FROM {} ORDER BY version", home.table("migrations"));
        let applied = home.client.query_raw(&select).fetch_all::<Applied>().await?;
        check(&applied)?;
        for (index, (name, sql)) in MIGRATIONS.iter().enumerate() {
            let version = index as u32 + 1;
            if applied.iter().any(|done| done.version == version) {
                continue;
            }
            for statement in self.statements(sql) {
                self.client.query_raw(&statement).execute().await?;
            }
            let done = Applied { version, name: (*name).to_owned(), checksum: checksum(sql) };
            let mut insert = home.insert::<Applied>("migrations").await?;
            insert.write(&done).await?;
            insert.end().await?;
        }
        Ok(())
    }
}

fn check(applied: &[Applied]) -> Result<(), Error> {
    for done in applied {
        let Some((name, sql)) = (done.version as usize).checked_sub(1).and_then(|i| MIGRATIONS.get(i)) else {
            let (found, known) = (done.version, MIGRATIONS.len());
            return Err(Error::Schema(format!(
                "it has version {found} and this program knows {known}: use a newer program"
            )));
        };
        if done.checksum != checksum(sql) || done.name != *name {
            let version = done.version;
            return Err(Error::Schema(format!(
                "migration {version} ({name}) was another when it was applied: start with an empty warehouse"
            )));
        }
    }
    Ok(())
}

fn checksum(sql: &str) -> String {
    blake3::hash(sql.as_bytes()).to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn applied(version: u32) -> Applied {
        let (name, sql) = MIGRATIONS[version as usize - 1];
        Applied { version, name: name.into(), checksum: checksum(sql) }
    }

    #[test]
    fn a_newer_or_another_schema_is_refused() {
        let all: Vec<Applied> = (1..=MIGRATIONS.len() as u32).map(applied).collect();
        check(&all).unwrap();
        let newer = Applied { version: MIGRATIONS.len() as u32 + 1, ..applied(1) };
        assert!(check(&[newer]).unwrap_err().to_string().contains("newer program"));
        let zero = Applied { version: 0, ..applied(1) };
        check(&[zero]).unwrap_err();
        let other = Applied { checksum: "0".repeat(32), ..applied(2) };
        assert!(check(&[other]).unwrap_err().to_string().contains("migration 2 (progress)"));
    }
}

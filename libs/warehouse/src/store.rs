//! The connection, the generation and the progress.

use std::sync::Arc;

use clickhouse::{Client, Compression, Row};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Progress,
    cluster::{Cluster, Home},
    url::Place,
};

/// Where the warehouse is.
#[derive(Debug, Clone)]
pub struct Config {
    /// `http://host:port` of ClickHouse's HTTP interface.
    pub url: String,
    /// Empty: the server's default user.
    pub user: String,
    /// Empty: none.
    pub password: String,
    /// 1 to 64 of `[A-Za-z0-9_]`; made by [`Warehouse::migrate`] if it is not there.
    pub database: String,
}

/// A warehouse. Clones share its connections.
#[derive(Clone)]
pub struct Warehouse {
    /// Of the server that is named: the only one, or any of a cluster.
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) database: String,
    pub(crate) cluster: Option<Arc<Cluster>>,
}

#[derive(Row, Serialize, Deserialize)]
struct GenerationRow {
    generation: u128,
}

#[derive(Row, Deserialize)]
struct ProgressRow {
    part: u32,
    batch: u64,
    to_offset: u64,
    time_micros: i64,
}

// === impl Warehouse ===

impl Warehouse {
    /// The warehouse that a URL names; nothing is sent yet.
    ///
    /// `http://user:password@host:8123/database`, or `https://`; user and password may be left out, and are
    /// percent-encoded. `cluster=NAME`: the host is any of that cluster, as `system.clusters` has it. `ca_file=PATH`: the
    /// certificates that servers are checked against over TLS, PEM.
    ///
    /// # Errors
    /// [`Error::Config`] for another form, and for any other parameter.
    pub fn open(url: &str) -> Result<Self, Error> {
        let Place { config, cluster, transport } = Place::from_url(url)?;
        let warehouse = Self::connect_with(transport, &config)?;
        Ok(Self { cluster: cluster.map(|name| Arc::new(Cluster::new(name))), ..warehouse })
    }

    /// A warehouse at an address; nothing is sent yet.
    pub fn connect(config: &Config) -> Result<Self, Error> {
        Self::connect_with(Client::default(), config)
    }

    /// A warehouse that is reached by a client with a transport of its own.
    pub fn connect_with(client: Client, config: &Config) -> Result<Self, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = &config.database;
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(Error::Config("name the database with 1 to 64 of [A-Za-z0-9_]".into()));
        }
        let mut client = client.with_url(&config.url).with_compression(Compression::None);
        if !config.user.is_empty() {
            client = client.with_user(&config.user);
        }
        if !config.password.is_empty() {
            client = client.with_password(&config.password);
        }
        let client = client.with_database(name);
        Ok(Self { client, url: config.url.clone(), database: name.clone(), cluster: None })
    }

    /// Whether the engine answers.
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(self.client.query("SELECT 1").fetch_one::<u8>().await.map(|_| ())?)
    }

    /// The generation of the facts; `None`: none was set, or a reset was not finished.
    pub async fn generation(&self) -> Result<Option<u128>, Error> {
        let home = self.home(0).await?;
        let read = async {
            home.settle("meta").await?;
            let sql = format!("SELECT generation FROM {}", home.table("meta"));
            Ok(home.client.query(&sql).fetch_all::<GenerationRow>().await?)
        };
        let mut rows = home.heard(read.await)?;
        // Two rows come of two resets at once; neither may be trusted.
        let generation = if rows.len() == 1 { rows.pop().map(|row| row.generation) } else { None };
        self.remember(generation);
        Ok(generation)
    }

    /// Empties everything and starts a generation. After a failure [`Warehouse::generation`] says `None` or the old one.
    pub async fn reset(&self, generation: u128) -> Result<(), Error> {
        for table in ["meta", "progress", "touches", "conversions", "identities"] {
            let empty = format!("TRUNCATE TABLE {} SYNC", self.table_everywhere(table));
            self.client.query(&empty).execute().await?;
        }
        let home = self.home(0).await?;
        let write = async {
            let mut insert = home.insert::<GenerationRow>("meta").await?;
            insert.write(&GenerationRow { generation }).await?;
            Ok(insert.end().await?)
        };
        home.heard(write.await)?;
        self.remember(Some(generation));
        Ok(())
    }

    /// Takes back what a partition of the log wrote after a batch, which is then its last one again. The stamp is one that
    /// no batch had.
    pub async fn cut(&self, last: Progress, stamp: u64) -> Result<(), Error> {
        let home = self.home(last.partition).await?;
        home.heard(self.cut_at(&home, last, stamp).await)
    }

    async fn cut_at(&self, home: &Home, last: Progress, stamp: u64) -> Result<(), Error> {
        // Progress goes last: as long as it says that there is more, this is tried again.
        for table in ["touches", "conversions", "identities", "progress"] {
            let sql = format!(
                "ALTER TABLE {} DELETE WHERE part = ? AND batch > ? SETTINGS mutations_sync = 2",
                home.table(table)
            );
            home.client.query(&sql).bind(last.partition).bind(last.batch).execute().await?;
        }
        // The engine keeps the newest row of a partition alone, so the one of this batch may be gone.
        self.write_progress(home, last, stamp).await
    }

    /// The last finished batch of every partition that has one, by partition.
    pub async fn progress(&self) -> Result<Vec<Progress>, Error> {
        progress(&self.client, "progress").await
    }
}

/// The last finished batch of every partition that a table of progress has.
pub(crate) async fn progress(client: &Client, table: &str) -> Result<Vec<Progress>, Error> {
    let sql = format!(
        "SELECT part, max(p.batch) AS batch, argMax(p.to_offset, p.batch) AS to_offset, \
         toUnixTimestamp64Micro(argMax(p.time, p.batch)) AS time_micros \
         FROM {table} AS p GROUP BY part ORDER BY part"
    );
    let rows = client.query(&sql).fetch_all::<ProgressRow>().await?;
    let progress = |row: ProgressRow| Progress {
        partition: row.part,
        batch: row.batch,
        to: row.to_offset,
        time_micros: row.time_micros,
    };
    Ok(rows.into_iter().map(progress).collect())
}

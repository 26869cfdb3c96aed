//! A ClickHouse cluster: the schema on all of its servers, and which of them has the rows of a partition.
//!
//! The rows of a partition of the log are on one shard, number partition mod shards, in tables that end in `_local` and are
//! replicated among its servers. A table of the plain name has no rows of its own: it reads those of all shards.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use clickhouse::{Client, Row, insert::Insert};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::{Error, Progress, Warehouse};

/// How long a quorum may take to have a block.
const QUORUM_MILLIS_MAX: &str = "60000";

pub(crate) struct Cluster {
    name: String,
    /// Asked for once: a process lives with the shards that it found.
    shards: OnceCell<Vec<Arc<Shard>>>,
    /// That of the facts, as it was last read or set.
    generation: Mutex<Option<u128>>,
}

/// The servers that have the same rows; one of them is spoken to until it fails.
struct Shard {
    replicas: Vec<Client>,
    turn: AtomicUsize,
}

/// The server that has the rows of a partition, and what its tables are called.
pub(crate) struct Home {
    pub(crate) client: Client,
    /// Its shard, and whose turn it was; `None`: it is the only server.
    shard: Option<(Arc<Shard>, usize)>,
}

#[derive(Row, Deserialize)]
struct Replica {
    shard_num: u32,
    host_name: String,
}

// === impl Cluster ===

impl Cluster {
    pub(crate) fn new(name: String) -> Self {
        Self { name, shards: OnceCell::new(), generation: Mutex::default() }
    }

    /// The shard of a partition. All servers listen on the port of the one that is asked.
    async fn shard(&self, warehouse: &Warehouse, partition: u32) -> Result<&Arc<Shard>, Error> {
        let shards = self.shards.get_or_try_init(async || {
            let sql = "SELECT shard_num, host_name FROM system.clusters WHERE cluster = ? ORDER BY shard_num, replica_num";
            // The database may not be there yet.
            let client = warehouse.client.clone().with_database("default");
            let replicas = client.query(sql).bind(&self.name).fetch_all::<Replica>().await?;
            let mut shards: Vec<(u32, Vec<Client>)> = Vec::new();
            for Replica { shard_num, host_name } in replicas {
                let client = warehouse.client.clone().with_url(beside(&warehouse.url, &host_name));
                match shards.last_mut() {
                    Some((last, replicas)) if *last == shard_num => replicas.push(client),
                    _ => shards.push((shard_num, vec![client])),
                }
            }
            if shards.is_empty() {
                let name = &self.name;
                return Err(Error::Config(format!("the server knows no cluster {name}; system.clusters has those it knows")));
            }
            let shard = |(_, replicas)| Arc::new(Shard { replicas, turn: AtomicUsize::new(0) });
            Ok(shards.into_iter().map(shard).collect())
        });
        let shards = shards.await?;
        Ok(&shards[partition as usize % shards.len()])
    }
}

// === impl Warehouse ===

impl Warehouse {
    /// Where the rows of a partition are.
    pub(crate) async fn home(&self, partition: u32) -> Result<Home, Error> {
        let Some(cluster) = &self.cluster else {
            return Ok(Home { client: self.client.clone(), shard: None });
        };
        let shard = cluster.shard(self, partition).await?;
        let turn = shard.turn.load(Ordering::Relaxed);
        let client = shard.replicas[turn % shard.replicas.len()].clone();
        Ok(Home { client, shard: Some((Arc::clone(shard), turn)) })
    }

    /// A migration's statements here.
    pub(crate) fn statements(&self, sql: &str) -> Vec<String> {
        statements(sql, self.cluster.as_ref().map(|cluster| (cluster.name.as_str(), self.database.as_str())))
    }

    /// The name of a database for a statement that is about all servers.
    pub(crate) fn database_everywhere(&self) -> String {
        match &self.cluster {
            Some(cluster) => format!("{} ON CLUSTER {}", self.database, cluster.name),
            None => self.database.clone(),
        }
    }

    /// The name of a table for a statement that is about its rows on all servers.
    pub(crate) fn table_everywhere(&self, table: &str) -> String {
        match &self.cluster {
            Some(cluster) => format!("{table}_local ON CLUSTER {}", cluster.name),
            None => table.to_owned(),
        }
    }

    /// Tells one INSERT of a batch from any other; `None` on one server, which is asked what it has instead.
    ///
    /// Errors: [`Error::Rejected`] while the generation is not known.
    pub(crate) fn token(
        &self,
        table: &str,
        Progress { partition, batch, .. }: Progress,
        stamp: u64,
        (month, place): (u32, usize),
    ) -> Result<Option<String>, Error> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        let generation = *cluster.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(generation) = generation else {
            return Err(Error::Rejected("its facts have no generation yet".into()));
        };
        Ok(Some(format!("{generation:032x}/{table}/{partition}/{batch}/{month}/{place}/{stamp:016x}")))
    }

    pub(crate) fn remember(&self, generation: Option<u128>) {
        if let Some(cluster) = &self.cluster {
            *cluster.generation.lock().unwrap_or_else(PoisonError::into_inner) = generation;
        }
    }
}

// === impl Home ===

impl Home {
    /// What a table with rows is called.
    pub(crate) fn table(&self, name: &str) -> String {
        if self.shard.is_some() { format!("{name}_local") } else { name.to_owned() }
    }

    /// Waits until this server has every row of a table that any replica has taken.
    pub(crate) async fn settle(&self, table: &str) -> Result<(), Error> {
        if self.shard.is_none() {
            return Ok(());
        }
        let sql = format!("SYSTEM SYNC REPLICA {} LIGHTWEIGHT", self.table(table));
        Ok(self.client.query_raw(&sql).execute().await?)
    }

    /// An INSERT that ends when most replicas have it.
    pub(crate) async fn insert<T: Row>(&self, table: &str) -> Result<Insert<T>, Error> {
        let insert = self.client.insert::<T>(&self.table(table)).await?;
        Ok(match self.shard {
            Some(_) => insert
                .with_setting("insert_quorum", "auto")
                .with_setting("insert_quorum_timeout", QUORUM_MILLIS_MAX),
            None => insert,
        })
    }

    /// Passes on how it went; after a failure the next replica is spoken to.
    pub(crate) fn heard<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let (Err(_), Some((shard, turn))) = (&outcome, &self.shard) {
            // Of several that failed at once, one moves on.
            let _ = shard.turn.compare_exchange(*turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
        outcome
    }
}

/// A migration as it is run: on one server to the letter, on a cluster about a replicated table on every server, and then
/// about the table over all shards, which is made anew where the columns may be others.
fn statements(sql: &str, cluster: Option<(&str, &str)>) -> Vec<String> {
    let Some((cluster, database)) = cluster else { return vec![sql.to_owned()] };
    for (verb, over_all) in [
        ("CREATE TABLE IF NOT EXISTS ", "CREATE TABLE IF NOT EXISTS"),
        ("ALTER TABLE ", "CREATE OR REPLACE TABLE"),
    ] {
        let Some((comment, rest)) = sql.split_once(verb) else { continue };
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (table, rest) = rest.split_at(end);
        let replica =
            format!("'/clickhouse/tables/{cluster}/{{shard}}/{{database}}/{{table}}', '{{replica}}'");
        let rest =
            rest.replace("ENGINE = MergeTree", &format!("ENGINE = ReplicatedMergeTree({replica})")).replace(
                "ENGINE = ReplacingMergeTree(",
                &format!("ENGINE = ReplicatedReplacingMergeTree({replica}, "),
            );
        return vec![
            format!("{comment}{verb}{table}_local ON CLUSTER {cluster}{rest}"),
            format!(
                "{over_all} {table} ON CLUSTER {cluster} AS {table}_local \
                 ENGINE = Distributed('{cluster}', '{database}', '{table}_local')"
            ),
        ];
    }
    vec![sql.to_owned()]
}

/// The address of another server, with the scheme and port of this one.
fn beside(url: &str, host: &str) -> String {
    let (scheme, address) = url.split_once("://").unwrap_or(("http", url));
    let after_host = address.rsplit_once(']').map_or(address, |(_, rest)| rest);
    let port = after_host.rsplit_once(':').map_or(String::new(), |(_, port)| format!(":{port}"));
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("{scheme}://{host}{port}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::migrate::{MIGRATIONS, RECORD};

    #[test]
    fn one_server_is_told_every_migration_to_the_letter() {
        for (_, sql) in MIGRATIONS {
            assert_eq!(statements(sql, None), [sql]);
        }
    }

    #[test]
    fn a_cluster_is_told_of_a_replicated_table_and_of_one_over_all_shards() {
        let rendered = |sql| statements(sql, Some(("main", "facts")));
        let replica = "'/clickhouse/tables/main/{shard}/{database}/{table}', '{replica}'";
        for (name, sql) in MIGRATIONS.into_iter().chain([("migrations", RECORD)]) {
            let [local, over_all] = rendered(sql).try_into().unwrap();
            let altered = sql.split("ALTER TABLE ").nth(1).and_then(|rest| rest.split_whitespace().next());
            let table = altered.unwrap_or(name);
            // Nothing else of it is changed: what was added goes, and the rest is the migration.
            let undone = local
                .replace(&format!("ReplicatedMergeTree({replica})"), "MergeTree")
                .replace(&format!("ReplicatedReplacingMergeTree({replica}, "), "ReplacingMergeTree(")
                .replace(&format!(" {table}_local ON CLUSTER main"), &format!(" {table}"));
            assert_eq!(undone, sql);
            assert_eq!(local.matches("ON CLUSTER main").count(), 1, "{local}");
            assert_eq!(local.contains("ENGINE"), local.contains(&format!("MergeTree({replica}")), "{local}");
            let verb =
                if sql.contains("ALTER") { "CREATE OR REPLACE TABLE" } else { "CREATE TABLE IF NOT EXISTS" };
            let expected = format!(
                "{verb} {table} ON CLUSTER main AS {table}_local ENGINE = Distributed('main', 'facts', '{table}_local')"
            );
            assert_eq!(over_all, expected);
        }
        let [local, _] = rendered(MIGRATIONS[1].1).try_into().unwrap();
        assert!(
            local
                .contains(&format!("ENGINE = ReplicatedReplacingMergeTree({replica}, batch)\nORDER BY part")),
            "{local}"
        );
    }

    #[test]
    fn servers_share_scheme_and_port() {
        for (url, host, expected) in [
            ("http://any:8123", "ch-1", "http://ch-1:8123"),
            ("https://any:8443", "::1", "https://[::1]:8443"),
            ("http://[::1]:8123", "a.b", "http://a.b:8123"),
            ("http://[::1]", "a", "http://a"),
            ("http://any", "a", "http://a"),
        ] {
            assert_eq!(beside(url, host), expected);
        }
    }
}

//! The tables, and how they come to be: migrations in order, each by one process at a time.

use std::time::{Duration, Instant};

use scylla::{
    client::session::Session,
    errors::{DbError, ExecutionError, RequestAttemptError},
    response::query_result::QueryResult,
    statement::Statement,
    value::Row as CqlRow,
};

use super::{
    cql::{refused, unconfirmed},
    settings::Settings,
};
use crate::{StoreError, kv::TABLES};

/// The tables in the order of [`crate::kv::Table`]; `members`, `met` and `decisions` of the embedded store have
/// no use here.
pub(crate) const TABLE_NAMES: [&str; TABLES] = [
    "meta",
    "seen",
    "identities",
    "persons",
    "persons",
    "touches",
    "conversions",
    "names",
    "editions",
    "effects",
    "scores",
    "owed",
    "meta",
    "editions",
];

/// What was ever needed, in order; an entry never changes once it was released. Each runs whole, again where it was cut short.
const MIGRATIONS: [&[&str]; 2] = [FIRST, SCORES];

const FIRST: &[&str] = &[
    // What processes race for, by conditional writes alone: the generation, pending or in force, and the plan of each partition
    // of the log.
    "CREATE TABLE IF NOT EXISTS raced (name text PRIMARY KEY, value blob)",
    // By partition of the log: consumed offset, where effects are.
    "CREATE TABLE IF NOT EXISTS meta (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // By event hash, at the partition of the log: its first position.
    "CREATE TABLE IF NOT EXISTS seen (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // By identity: tenant, kind and value.
    "CREATE TABLE IF NOT EXISTS identities (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // By identity, rows that are only added: shared, links to others, spans of time in which it has touches or conversions.
    "CREATE TABLE IF NOT EXISTS persons (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // By home and slice of a span of time, at time and event id.
    "CREATE TABLE IF NOT EXISTS touches (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // As touches.
    "CREATE TABLE IF NOT EXISTS conversions (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // By home, conversion name and slice of a span of time, at time and event id: nothing.
    "CREATE TABLE IF NOT EXISTS names (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // By event hash and partition of the log, at 0: the one in force; at 1 and slot: past ones.
    "CREATE TABLE IF NOT EXISTS editions (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // By partition of the log and some records, at offset and what it is about. Removed whole behind the plan; what would
    // come back of them is not read, so their tombstones need not be kept longer than hints are.
    "CREATE TABLE IF NOT EXISTS effects (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at)) \
     WITH gc_grace_seconds = 10800",
];

const SCORES: &[&str] = &[
    // By conversion hash, at touch hash: its score.
    "CREATE TABLE IF NOT EXISTS scores (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at))",
    // By partition of the log, at conversion hash: that it is owed a score. Removed row by row, as effects are.
    "CREATE TABLE IF NOT EXISTS owed (key blob, bucket bigint, at blob, value blob, PRIMARY KEY ((key, bucket), at)) \
     WITH gc_grace_seconds = 10800",
];

/// Nobody migrates longer than this; after it another process takes over.
const MIGRATION_SECONDS_MAX: u64 = 60;
const POLL: Duration = Duration::from_millis(200);

/// Makes keyspace and tables where they are missing. A keyspace of a newer program is refused.
pub(crate) async fn migrate(session: &Session, settings: &Settings) -> Result<(), StoreError> {
    let keyspace = &settings.keyspace;
    if session.get_cluster_state().get_keyspace(keyspace).is_none() {
        let replicas = settings.replicas;
        let replication = match &settings.datacenter {
            Some(datacenter) => format!("'{}': {replicas}", datacenter.replace('\'', "''")),
            None => format!("'replication_factor': {replicas}"),
        };
        let make = format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', {replication}}}"
        );
        run(session, &make).await?;
    }
    let done_table = format!("{keyspace}.migrations");
    let known = session.get_cluster_state();
    let exists =
        known.get_keyspace(keyspace).is_some_and(|keyspace| keyspace.tables.contains_key("migrations"));
    if !exists {
        run(
            session,
            &format!("CREATE TABLE IF NOT EXISTS {done_table} (number int PRIMARY KEY, done boolean)"),
        )
        .await?;
    }
    if done(session, &done_table, MIGRATIONS.len() as i32 + 1).await? {
        return Err(StoreError::Unavailable(format!(
            "keyspace {keyspace} is of a newer version of this program"
        )));
    }
    for (number, statements) in (1..).zip(MIGRATIONS) {
        one_at_a_time(session, keyspace, number, statements).await?;
    }
    Ok(())
}

/// Tables that are made by two processes at once may differ in their ids, so one takes the migration and others wait.
async fn one_at_a_time(
    session: &Session,
    keyspace: &str,
    number: i32,
    statements: &[&str],
) -> Result<(), StoreError> {
    let table = format!("{keyspace}.migrations");
    let take = format!(
        "INSERT INTO {table} (number, done) VALUES ({number}, false) IF NOT EXISTS USING TTL {MIGRATION_SECONDS_MAX}"
    );
    loop {
        if done(session, &table, number).await? {
            return Ok(());
        }
        let taken = asked(session, &take).await.map_err(unconfirmed)?;
        let taken =
            taken.into_rows_result().map_err(unconfirmed)?.first_row::<CqlRow>().map_err(unconfirmed)?;
        if taken.columns.first().and_then(Option::as_ref).and_then(|value| value.as_boolean()) == Some(true) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    for statement in statements {
        run(session, &statement.replacen("EXISTS ", &format!("EXISTS {keyspace}."), 1)).await?;
    }
    // The row that was taken ends after a while; this one does not.
    let finish = format!("INSERT INTO {table} (number, done) VALUES ({number}, true)");
    run(session, &finish).await
}

async fn done(session: &Session, table: &str, number: i32) -> Result<bool, StoreError> {
    let result = asked(session, &format!("SELECT done FROM {table} WHERE number = {number}"))
        .await
        .map_err(refused)?;
    let result = result.into_rows_result().map_err(refused)?;
    Ok(result.maybe_first_row::<(Option<bool>,)>().map_err(refused)?.and_then(|(done,)| done) == Some(true))
}

/// Asks a table that another process may be making: a server names it before it can be asked, and says of itself then that
/// it is broken or that there is no such table.
async fn asked(session: &Session, text: &str) -> Result<QueryResult, ExecutionError> {
    let end = Instant::now() + Duration::from_secs(MIGRATION_SECONDS_MAX);
    loop {
        match session.query_unpaged(text, ()).await {
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                DbError::Invalid | DbError::ServerError,
                _,
            ))) if Instant::now() < end => tokio::time::sleep(POLL).await,
            result => return result,
        }
    }
}

async fn run(session: &Session, statement: &str) -> Result<(), StoreError> {
    let mut statement = Statement::new(statement);
    statement.set_request_timeout(Some(Duration::from_secs(MIGRATION_SECONDS_MAX)));
    session.query_unpaged(statement, ()).await.map(drop).map_err(unconfirmed)
}

//! The session with the server: prepared statements, how many run at once, what is tried again.
//!
//! Every table has the same four columns, so one set of statements serves all. Reads and writes ask for `LOCAL_QUORUM`, and
//! nothing ever asks for less: of a write and a later read at least one replica knows both.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use scylla::{
    client::{
        execution_profile::{ExecutionProfile, ExecutionProfileBuilder, ExecutionProfileHandle},
        session::Session,
        session_builder::SessionBuilder,
    },
    errors::{DbError, RequestAttemptError},
    policies::{
        load_balancing::DefaultPolicy,
        retry::{RequestInfo, RetryDecision, RetryPolicy, RetrySession},
        speculative_execution::SimpleSpeculativeExecutionPolicy,
    },
    response::{PagingState, PagingStateResponse},
    statement::{
        Consistency, SerialConsistency,
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
    value::Row as CqlRow,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    schema,
    settings::Settings,
    tables::{Place, Read, Row, Write},
};
use crate::{StoreError, kv, metrics};

/// A session, shared by everybody who uses the store.
pub(crate) struct Cql {
    session: Session,
    tables: Vec<Statements>,
    raced: RacedStatements,
    permits: Semaphore,
    in_flight_max: usize,
}

/// What is asked of one table.
struct Statements {
    oldest: PreparedStatement,
    newest: PreparedStatement,
    put: PreparedStatement,
    drop: PreparedStatement,
    cut: PreparedStatement,
    truncate: PreparedStatement,
}

/// What is asked of the rows that processes race for.
struct RacedStatements {
    get: PreparedStatement,
    first: PreparedStatement,
    swap: PreparedStatement,
    remove: PreparedStatement,
}

/// Tries a request again, elsewhere where there is an elsewhere, and never asks for less than before.
#[derive(Debug)]
struct SameConsistency;

struct Attempts {
    left: u8,
}

const RETRIES_MAX: u8 = 2;
/// A read that takes longer is asked of another replica as well.
const SPECULATIVE_DELAY: Duration = Duration::from_millis(30);
/// The servers have to be all there for it.
const TRUNCATE_TIMEOUT: Duration = Duration::from_secs(120);
const PAGE_ROWS_MAX: i32 = 1_000;
/// Rows of one partition that are written as one mutation.
const MUTATION_ROWS_MAX: usize = 64;

// === impl Cql ===

impl Cql {
    /// Connects, brings the schema up to date, and prepares every statement.
    pub(crate) async fn connect(settings: &Settings) -> Result<Self, StoreError> {
        let mut builder = SessionBuilder::new()
            .known_nodes(&settings.hosts)
            .default_execution_profile_handle(profile(settings).build().into_handle())
            .schema_agreement_interval(Duration::from_millis(20))
            .tls_context(settings.tls_context()?)
            .fetch_schema_metadata(true)
            .keyspaces_to_fetch([settings.keyspace.clone()]);
        if let Some((user, password)) = &settings.credentials {
            builder = builder.user(user, password);
        }
        let session = builder.build().await.map_err(refused)?;
        schema::migrate(&session, settings).await?;
        session.use_keyspace(&settings.keyspace, false).await.map_err(refused)?;

        let speculative =
            SimpleSpeculativeExecutionPolicy { max_retry_count: 1, retry_interval: SPECULATIVE_DELAY };
        let reading = profile(settings).speculative_execution_policy(Some(Arc::new(speculative))).build();
        let reading = reading.into_handle();
        let tables = schema::TABLE_NAMES.map(|name| Statements::prepare(&session, name, &reading));
        let tables = futures_util::future::try_join_all(tables).await?;
        let raced = RacedStatements::prepare(&session).await?;
        let in_flight_max = settings.in_flight_max;
        Ok(Self { session, tables, raced, permits: Semaphore::new(in_flight_max), in_flight_max })
    }

    /// Runs reads at once; rows come verified, without their checksums, and in the order of the reads.
    pub(crate) async fn read(&self, epoch: &[u8], reads: Vec<Read>) -> Result<Vec<Vec<Row>>, StoreError> {
        let reads = reads.into_iter().map(|read| self.read_one(epoch, read));
        stream::iter(reads).buffered(self.in_flight_max).try_collect().await
    }

    /// Runs writes at once. Those of one partition that stand one after the other are one mutation, of which either all or
    /// nothing is seen; of the rest some may have happened when one fails.
    pub(crate) async fn write(&self, epoch: &[u8], mut writes: Vec<Write>) -> Result<(), StoreError> {
        writes.sort_by(|a, b| a.place.cmp(&b.place));
        let mut mutations: Vec<Vec<Write>> = Vec::new();
        for write in writes {
            match mutations.last_mut() {
                Some(rows) if rows[0].place == write.place && rows.len() < MUTATION_ROWS_MAX => {
                    rows.push(write)
                }
                _ => mutations.push(vec![write]),
            }
        }
        let mutations = mutations.into_iter().map(|rows| self.mutate(epoch, rows));
        stream::iter(mutations).buffer_unordered(self.in_flight_max).try_collect().await
    }

    /// Removes whole partitions, as far as they were written with timestamps up to this one.
    pub(crate) async fn drop(&self, epoch: &[u8], places: Vec<Place>, stamp: i64) -> Result<(), StoreError> {
        let drops = places.into_iter().map(async |place| {
            let _permit = self.permit().await;
            let values = (stamp, epoch_key(epoch, &place.key), place.bucket);
            let statement = &self.tables[place.table as usize].drop;
            self.session.execute_unpaged(statement, values).await.map(drop).map_err(unconfirmed)
        });
        stream::iter(drops).buffer_unordered(self.in_flight_max).try_collect().await
    }

    /// Removes rows of a partition from one place to another.
    pub(crate) async fn cut(
        &self,
        epoch: &[u8],
        place: &Place,
        from: Vec<u8>,
        to: Vec<u8>,
        stamp: i64,
    ) -> Result<(), StoreError> {
        let _permit = self.permit().await;
        let values = (stamp, epoch_key(epoch, &place.key), place.bucket, from, to);
        let statement = &self.tables[place.table as usize].cut;
        self.session.execute_unpaged(statement, values).await.map(drop).map_err(unconfirmed)
    }

    /// Empties every table, of all epochs.
    pub(crate) async fn truncate(&self) -> Result<(), StoreError> {
        let truncate =
            async |table: &Statements| self.session.execute_unpaged(&table.truncate, ()).await.map(drop);
        futures_util::future::try_join_all(self.tables.iter().map(truncate)).await.map_err(unconfirmed)?;
        Ok(())
    }

    /// The value of a row that processes race for.
    pub(crate) async fn raced(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let _permit = self.permit().await;
        let result = self.session.execute_unpaged(&self.raced.get, (name,)).await.map_err(refused)?;
        let result = result.into_rows_result().map_err(refused)?;
        let row = result.maybe_first_row::<(Option<Vec<u8>>,)>().map_err(refused)?;
        Ok(row.and_then(|(value,)| value))
    }

    /// Puts a value in the place of another one; false when another one is there by now.
    pub(crate) async fn swap(
        &self,
        name: &str,
        from: Option<Vec<u8>>,
        to: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let result = match from {
            Some(from) => self.session.execute_unpaged(&self.raced.swap, (to, name, from)).await,
            None => self.session.execute_unpaged(&self.raced.first, (name, to)).await,
        };
        let result = result.map_err(unconfirmed)?.into_rows_result().map_err(unconfirmed)?;
        // The columns after the first differ between servers and outcomes.
        let row = result.first_row::<CqlRow>().map_err(unconfirmed)?;
        let applied = row.columns.first().and_then(Option::as_ref).and_then(|value| value.as_boolean());
        applied.ok_or_else(|| unconfirmed("an answer without [applied]"))
    }

    /// Takes such a row away, whatever it says.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), StoreError> {
        self.session.execute_unpaged(&self.raced.remove, (name,)).await.map(drop).map_err(unconfirmed)
    }

    async fn read_one(&self, epoch: &[u8], read: Read) -> Result<Vec<Row>, StoreError> {
        let Read { place, from, to, newest, limit } = read;
        let statements = &self.tables[place.table as usize];
        let statement = if newest { &statements.newest } else { &statements.oldest };
        let limit_rows = i32::try_from(limit).unwrap_or(i32::MAX);
        let key = epoch_key(epoch, &place.key);
        let mut rows = Vec::new();
        let mut paging = PagingState::start();
        loop {
            let permit = self.permit().await;
            let values = (&key, place.bucket, &from, &to, limit_rows);
            let page = self.session.execute_single_page(statement, values, paging).await;
            drop(permit);
            let (page, next) = page.map_err(refused)?;
            let page = page.into_rows_result().map_err(refused)?;
            for row in page.rows::<(&[u8], &[u8])>().map_err(refused)? {
                let (at, value) = row.map_err(refused)?;
                let value = kv::opened(place.table, &[&place.key[..], at].concat(), value)?;
                rows.push(Row { at: at.to_vec(), value: value.to_vec() });
            }
            match next {
                PagingStateResponse::HasMorePages { state } if rows.len() < limit => paging = state,
                _ => return Ok(rows),
            }
        }
    }

    async fn mutate(&self, epoch: &[u8], mut rows: Vec<Write>) -> Result<(), StoreError> {
        let Some(Write { place, .. }) = rows.first() else { return Ok(()) };
        let (key, statement) = (epoch_key(epoch, &place.key), &self.tables[place.table as usize].put);
        let values = |row: Write| (key.clone(), row.place.bucket, row.at, row.value, row.stamp);
        let _permit = self.permit().await;
        let written = if rows.len() == 1 {
            self.session.execute_unpaged(statement, values(rows.remove(0))).await.map(drop)
        } else {
            let mut batch = Batch::new(BatchType::Unlogged);
            batch.set_is_idempotent(true);
            rows.iter().for_each(|_| batch.append_statement(statement.clone()));
            self.session.batch(&batch, rows.into_iter().map(values).collect::<Vec<_>>()).await.map(drop)
        };
        written.map_err(unconfirmed)
    }

    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        let permit = self.permits.acquire().await.ok();
        metrics::in_flight(self.in_flight_max - self.permits.available_permits(), self.in_flight_max);
        permit
    }
}

// === impl Statements ===

impl Statements {
    async fn prepare(
        session: &Session,
        name: &str,
        reading: &ExecutionProfileHandle,
    ) -> Result<Self, StoreError> {
        let range = format!(
            "SELECT at, value FROM {name} WHERE key = ? AND bucket = ? AND at >= ? AND at < ? ORDER BY at"
        );
        let delete = format!("DELETE FROM {name} USING TIMESTAMP ? WHERE key = ? AND bucket = ?");
        let put =
            format!("INSERT INTO {name} (key, bucket, at, value) VALUES (?, ?, ?, ?) USING TIMESTAMP ?");
        let (mut oldest, mut newest, put, drop, cut, mut truncate) = tokio::try_join!(
            prepare(session, format!("{range} ASC LIMIT ?")),
            prepare(session, format!("{range} DESC LIMIT ?")),
            prepare(session, put),
            prepare(session, delete.clone()),
            prepare(session, format!("{delete} AND at >= ? AND at < ?")),
            prepare(session, format!("TRUNCATE {name}")),
        )?;
        for statement in [&mut oldest, &mut newest] {
            statement.set_execution_profile_handle(Some(reading.clone()));
        }
        truncate.set_request_timeout(Some(TRUNCATE_TIMEOUT));
        Ok(Self { oldest, newest, put, drop, cut, truncate })
    }
}

impl RacedStatements {
    async fn prepare(session: &Session) -> Result<Self, StoreError> {
        let [get, first, swap, remove] = [
            "SELECT value FROM raced WHERE name = ?",
            "INSERT INTO raced (name, value) VALUES (?, ?) IF NOT EXISTS",
            "UPDATE raced SET value = ? WHERE name = ? IF value = ?",
            "DELETE FROM raced WHERE name = ? IF EXISTS",
        ]
        .map(|text| prepare(session, text.to_owned()));
        let (get, mut first, mut swap, mut remove) = tokio::try_join!(get, first, swap, remove)?;
        for statement in [&mut first, &mut swap, &mut remove] {
            statement.set_is_idempotent(false);
        }
        Ok(Self { get, first, swap, remove })
    }
}

/// Every statement but conditional ones may be repeated: a value is a function of its key and its timestamp.
async fn prepare(session: &Session, text: String) -> Result<PreparedStatement, StoreError> {
    let mut statement = session.prepare(text).await.map_err(refused)?;
    statement.set_is_idempotent(true);
    statement.set_page_size(PAGE_ROWS_MAX);
    Ok(statement)
}

impl Drop for Cql {
    fn drop(&mut self) {
        metrics::in_flight(0, self.in_flight_max);
    }
}

fn profile(settings: &Settings) -> ExecutionProfileBuilder {
    // Each request goes to a replica of its token, and on ScyllaDB to the shard that owns it.
    let mut balancing = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = &settings.datacenter {
        balancing = balancing.prefer_datacenter(datacenter.clone()).permit_dc_failover(false);
    }
    ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .request_timeout(Some(settings.timeout))
        .load_balancing_policy(balancing.build())
        .retry_policy(Arc::new(SameConsistency))
}

fn epoch_key(epoch: &[u8], key: &[u8]) -> Vec<u8> {
    [epoch, key].concat()
}

/// The error of what only reads, or was not sent.
pub(crate) fn refused(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("cql: {error}"))
}

/// The error of what may have happened.
pub(crate) fn unconfirmed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Indeterminate(format!("cql: {error}"))
}

// === impl SameConsistency ===

impl RetryPolicy for SameConsistency {
    fn new_session(&self) -> Box<dyn RetrySession> {
        Box::new(Attempts { left: RETRIES_MAX })
    }
}

impl RetrySession for Attempts {
    fn decide_should_retry(&mut self, request: RequestInfo<'_>) -> RetryDecision {
        if !request.is_idempotent || request.consistency.is_serial() || self.left == 0 {
            return RetryDecision::DontRetry;
        }
        self.left -= 1;
        match request.error {
            RequestAttemptError::BrokenConnectionError(_)
            | RequestAttemptError::UnableToAllocStreamId
            | RequestAttemptError::DbError(
                DbError::Unavailable { .. }
                | DbError::Overloaded
                | DbError::IsBootstrapping
                | DbError::ServerError
                | DbError::ReadTimeout { .. }
                | DbError::WriteTimeout { .. },
                _,
            ) => RetryDecision::RetryNextTarget(None),
            _ => RetryDecision::DontRetry,
        }
    }

    fn reset(&mut self) {
        self.left = RETRIES_MAX;
    }
}

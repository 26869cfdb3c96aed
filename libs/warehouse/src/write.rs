//! Writing batches of facts, and resuming them.
//!
//! An INSERT goes to one table and one month and is one block, which the engine writes as a whole or not at all. Blocks
//! come in the order of the facts. So whatever is there of a batch is a beginning of each (table, month), and what is
//! missing is the rest. On a cluster an INSERT also has a token, so that one which is still under way when its batch is
//! resumed, and comes after all, is not taken twice.

use std::collections::BTreeMap;

use clickhouse::{Row, RowWrite, insert::Insert};
use fail::fail_point;
use serde::{Deserialize, Serialize};

use crate::{
    CandidateFact, ConversionFact, Error, Facts, IdentityFact, Progress, TouchFact, Warehouse, cluster::Home,
    store,
};

/// Rows of one INSERT at most.
pub(crate) const INSERT_ROWS_MAX: usize = 50_000;
/// Nested touches of one INSERT at most, so that its block stays within some 200 MB.
const INSERT_CANDIDATES_MAX: usize = 1_000_000;

#[derive(Row, Serialize)]
struct TouchRow<'a> {
    tenant: &'a str,
    app_id: &'a str,
    touch_id: &'a str,
    time: i64,
    recorded_at: i64,
    identity: u128,
    kind: i8,
    channel: &'a str,
    partner: &'a str,
    campaign_id: &'a str,
    ad_group_id: &'a str,
    creative_id: &'a str,
    keyword: &'a str,
    platform: &'a str,
    country: &'a str,
    part: u32,
    batch: u64,
}

#[derive(Row, Serialize)]
struct ConversionRow<'a> {
    tenant: &'a str,
    app_id: &'a str,
    conversion_id: &'a str,
    time: i64,
    recorded_at: i64,
    sign: i8,
    identity: u128,
    platform: &'a str,
    country: &'a str,
    conversion: &'a str,
    currency: &'a str,
    value_micros: i64,
    winner: u16,
    #[serde(rename = "touch.id")]
    ids: Vec<&'a str>,
    #[serde(rename = "touch.kind")]
    kinds: Vec<i8>,
    #[serde(rename = "touch.millis")]
    millis: Vec<i64>,
    #[serde(rename = "touch.channel")]
    channels: Vec<&'a str>,
    #[serde(rename = "touch.partner")]
    partners: Vec<&'a str>,
    #[serde(rename = "touch.campaign_id")]
    campaign_ids: Vec<&'a str>,
    #[serde(rename = "touch.ad_group_id")]
    ad_group_ids: Vec<&'a str>,
    #[serde(rename = "touch.creative_id")]
    creative_ids: Vec<&'a str>,
    #[serde(rename = "touch.keyword")]
    keywords: Vec<&'a str>,
    #[serde(rename = "touch.match_type")]
    match_types: Vec<i8>,
    #[serde(rename = "touch.verdict")]
    verdicts: Vec<i8>,
    part: u32,
    batch: u64,
}

#[derive(Row, Serialize)]
struct IdentityRow<'a> {
    tenant: &'a str,
    identity: u128,
    person: u128,
    shared: bool,
    recorded_at: i64,
    part: u32,
    batch: u64,
}

#[derive(Row, Serialize, Deserialize)]
struct ProgressRow {
    part: u32,
    batch: u64,
    to_offset: u64,
    time: i64,
}

#[derive(Row, Deserialize)]
struct MonthCount {
    month: u32,
    rows: u64,
}

// How many rows of each month are already there.
type Counts = BTreeMap<u32, u64>;

// Facts of one INSERT, and where they are in their batch.
#[derive(Debug, PartialEq)]
struct Chunk<'a, T> {
    month: u32,
    // Of the first fact among those of its month.
    place: usize,
    facts: Vec<&'a T>,
}

// === impl Warehouse ===

impl Warehouse {
    /// Inserts the facts of a batch that was never tried before, one INSERT for each table and month, and then its
    /// progress. After any failure the batch must be resumed, with the same stamp: that tells it from one of the same number
    /// that was taken back.
    pub async fn write_batch(&self, progress: Progress, stamp: u64, facts: &Facts) -> Result<(), Error> {
        let home = self.home(progress.partition).await?;
        let none = Counts::new();
        home.heard(self.insert_missing(&home, progress, stamp, facts, [&none, &none, &none]).await)
    }

    /// Inserts what is missing of a batch that may have been tried before, and its progress if that is missing.
    ///
    /// Errors: [`Error::Rejected`] when there are more rows than facts.
    pub async fn resume_batch(&self, progress: Progress, stamp: u64, facts: &Facts) -> Result<(), Error> {
        let home = self.home(progress.partition).await?;
        home.heard(self.resume_at(&home, progress, stamp, facts).await)
    }

    async fn resume_at(
        &self,
        home: &Home,
        progress: Progress,
        stamp: u64,
        facts: &Facts,
    ) -> Result<(), Error> {
        for table in ["progress", "touches", "conversions", "identities"] {
            home.settle(table).await?;
        }
        let written = store::progress(&home.client, &home.table("progress")).await?;
        let last = written.into_iter().find(|p| p.partition == progress.partition);
        if last.is_some_and(|last| last.batch >= progress.batch) {
            return Ok(());
        }
        let touches = months_of(facts.touches.iter().map(|f| f.time_millis));
        let touches = months(home, progress, "touches", touches).await?;
        let conversions = months_of(facts.conversions.iter().map(|f| f.time_millis));
        let conversions = months(home, progress, "conversions", conversions).await?;
        let identities = identities(home, progress).await?;
        self.insert_missing(home, progress, stamp, facts, [&touches, &conversions, &identities]).await
    }

    async fn insert_missing(
        &self,
        home: &Home,
        progress: Progress,
        stamp: u64,
        facts: &Facts,
        [touches, conversions, identities]: [&Counts; 3],
    ) -> Result<(), Error> {
        let Progress { partition: part, batch, .. } = progress;
        for chunk in chunks(&facts.identities, identities, |_| None, |_| 0)? {
            let at = chunk.at();
            let rows: Vec<_> = chunk.facts.into_iter().map(|fact| identity_row(fact, part, batch)).collect();
            let insert = self.insert::<IdentityRow<'static>>(home, "identities", progress, stamp, at).await?;
            send(insert, rows).await?;
            fail_point!("warehouse::after_identities");
        }
        for chunk in chunks(&facts.touches, touches, |f| Some(f.time_millis), |_| 0)? {
            let at = chunk.at();
            let rows: Vec<_> = chunk.facts.into_iter().map(|fact| touch_row(fact, part, batch)).collect();
            let insert = self.insert::<TouchRow<'static>>(home, "touches", progress, stamp, at).await?;
            send(insert, rows).await?;
            fail_point!("warehouse::after_touches");
        }
        let weight = |f: &ConversionFact| f.candidates.len();
        for chunk in chunks(&facts.conversions, conversions, |f| Some(f.time_millis), weight)? {
            let at = chunk.at();
            let rows: Vec<_> =
                chunk.facts.into_iter().map(|fact| conversion_row(fact, part, batch)).collect();
            let insert =
                self.insert::<ConversionRow<'static>>(home, "conversions", progress, stamp, at).await?;
            send(insert, rows).await?;
            fail_point!("warehouse::after_conversions");
        }
        fail_point!("warehouse::before_progress");
        self.write_progress(home, progress, stamp).await?;
        fail_point!("warehouse::after_progress");
        Ok(())
    }

    pub(crate) async fn write_progress(
        &self,
        home: &Home,
        progress: Progress,
        stamp: u64,
    ) -> Result<(), Error> {
        let Progress { partition: part, batch, to: to_offset, time_micros: time } = progress;
        let done = ProgressRow { part, batch, to_offset, time };
        send(self.insert::<ProgressRow>(home, "progress", progress, stamp, (0, 0)).await?, [done]).await
    }

    async fn insert<T: Row>(
        &self,
        home: &Home,
        table: &str,
        progress: Progress,
        stamp: u64,
        at: (u32, usize),
    ) -> Result<Insert<T>, Error> {
        let insert = home.insert::<T>(table).await?;
        let insert = insert
            .with_setting("async_insert", "0")
            .with_setting("max_insert_threads", "1")
            .with_setting("input_format_parallel_parsing", "0");
        Ok(match self.token(table, progress, stamp, at)? {
            Some(token) => insert.with_setting("insert_deduplication_token", token),
            None => insert,
        })
    }
}

fn months_of(times: impl Iterator<Item = i64>) -> Vec<u32> {
    let mut months: Vec<u32> = times.map(month_of).collect();
    months.sort_unstable();
    months.dedup();
    months
}

async fn months(home: &Home, progress: Progress, table: &str, months: Vec<u32>) -> Result<Counts, Error> {
    let sql = format!(
        "SELECT toUInt32(toYYYYMM(time)) AS month, count() AS rows FROM {} \
         WHERE toYYYYMM(time) IN ? AND part = ? AND batch = ? GROUP BY month",
        home.table(table)
    );
    // One month at a time would be as many queries; all at once is one, whatever their number.
    if months.is_empty() {
        return Ok(Counts::new());
    }
    let query = home.client.query(&sql).bind(months).bind(progress.partition).bind(progress.batch);
    let rows = query.fetch_all::<MonthCount>().await?;
    Ok(rows.into_iter().map(|row| (row.month, row.rows)).collect())
}

async fn identities(home: &Home, progress: Progress) -> Result<Counts, Error> {
    let sql = format!(
        "SELECT toUInt32(0) AS month, count() AS rows FROM {} WHERE part = ? AND batch = ?",
        home.table("identities")
    );
    let query = home.client.query(&sql).bind(progress.partition).bind(progress.batch);
    let rows = query.fetch_all::<MonthCount>().await?;
    Ok(rows.into_iter().map(|row| (row.month, row.rows)).collect())
}

async fn send<'a, T>(mut insert: Insert<T>, rows: impl IntoIterator<Item = T::Value<'a>>) -> Result<(), Error>
where
    T: Row + RowWrite,
{
    for row in rows {
        insert.write(&row).await?;
    }
    Ok(insert.end().await?)
}

// The facts that are missing, by month, cut into INSERTs. The same facts are always cut at the same places.
fn chunks<'a, T>(
    facts: &'a [T],
    there: &Counts,
    time: impl Fn(&T) -> Option<i64>,
    weight: impl Fn(&T) -> usize,
) -> Result<Vec<Chunk<'a, T>>, Error> {
    let mut months: BTreeMap<u32, Vec<&T>> = BTreeMap::new();
    for fact in facts {
        months.entry(time(fact).map_or(0, month_of)).or_default().push(fact);
    }
    let mut chunks = Vec::new();
    for (month, facts) in months {
        let skip = there.get(&month).copied().unwrap_or(0) as usize;
        if skip > facts.len() {
            let len = facts.len();
            return Err(Error::Rejected(format!(
                "it holds {skip} rows of month {month} where the batch has {len}: empty and refill it"
            )));
        }
        let mut chunk = Chunk { month, place: skip, facts: Vec::new() };
        let mut weights = 0;
        for (place, fact) in facts.iter().enumerate().skip(skip) {
            if chunk.facts.len() == INSERT_ROWS_MAX || weights + weight(fact) > INSERT_CANDIDATES_MAX {
                chunks.push(std::mem::replace(&mut chunk, Chunk { month, place, facts: Vec::new() }));
                weights = 0;
            }
            weights += weight(fact);
            chunk.facts.push(*fact);
        }
        if !chunk.facts.is_empty() {
            chunks.push(chunk);
        }
    }
    Ok(chunks)
}

impl<T> Chunk<'_, T> {
    fn at(&self) -> (u32, usize) {
        (self.month, self.place)
    }
}

// As `toYYYYMM` in UTC.
fn month_of(millis: i64) -> u32 {
    let moment = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let date = moment.to_zoned(jiff::tz::TimeZone::UTC).date();
    u32::from(date.year().unsigned_abs()) * 100 + u32::from(date.month().unsigned_abs())
}

fn touch_row(fact: &TouchFact, part: u32, batch: u64) -> TouchRow<'_> {
    TouchRow {
        tenant: &fact.tenant,
        app_id: &fact.app_id,
        touch_id: &fact.touch_id,
        time: fact.time_millis,
        recorded_at: fact.recorded_at_micros,
        identity: u128::from_be_bytes(fact.identity.0),
        kind: kind(fact.kind),
        channel: &fact.channel,
        partner: &fact.partner,
        campaign_id: &fact.campaign_id,
        ad_group_id: &fact.ad_group_id,
        creative_id: &fact.creative_id,
        keyword: &fact.keyword,
        platform: &fact.platform,
        country: &fact.country,
        part,
        batch,
    }
}

fn conversion_row(fact: &ConversionFact, part: u32, batch: u64) -> ConversionRow<'_> {
    fn each<'a, T>(fact: &'a ConversionFact, value: impl Fn(&'a CandidateFact) -> T) -> Vec<T> {
        fact.candidates.iter().map(value).collect()
    }
    ConversionRow {
        tenant: &fact.tenant,
        app_id: &fact.app_id,
        conversion_id: &fact.conversion_id,
        time: fact.time_millis,
        recorded_at: fact.recorded_at_micros,
        sign: fact.sign as i8,
        identity: u128::from_be_bytes(fact.identity.0),
        platform: &fact.platform,
        country: &fact.country,
        conversion: &fact.conversion,
        currency: &fact.currency,
        value_micros: fact.value_micros,
        winner: fact.winner.map_or(0, |index| index + 1),
        ids: each(fact, |touch| touch.touch_id.as_str()),
        kinds: each(fact, |touch| kind(touch.kind)),
        millis: each(fact, |touch| touch.time_millis),
        channels: each(fact, |touch| touch.channel.as_str()),
        partners: each(fact, |touch| touch.partner.as_str()),
        campaign_ids: each(fact, |touch| touch.campaign_id.as_str()),
        ad_group_ids: each(fact, |touch| touch.ad_group_id.as_str()),
        creative_ids: each(fact, |touch| touch.creative_id.as_str()),
        keywords: each(fact, |touch| touch.keyword.as_str()),
        match_types: each(fact, |touch| touch.match_type as i8),
        verdicts: each(fact, |touch| touch.verdict as i8),
        part,
        batch,
    }
}

fn identity_row(fact: &IdentityFact, part: u32, batch: u64) -> IdentityRow<'_> {
    IdentityRow {
        tenant: &fact.tenant,
        identity: u128::from_be_bytes(fact.identity.0),
        person: u128::from_be_bytes(fact.person.0),
        shared: fact.shared,
        recorded_at: fact.recorded_at_micros,
        part,
        batch,
    }
}

fn kind(kind: model::TouchKind) -> i8 {
    match kind {
        model::TouchKind::Impression => 1,
        model::TouchKind::Click => 2,
        model::TouchKind::Visit => 3,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn months_are_those_of_utc() {
        for (text, month) in [
            ("2000-01-01T00:00:00Z", 200_001),
            ("2026-01-31T23:59:59.999Z", 202_601),
            ("2026-02-01T00:00:00Z", 202_602),
            ("2024-02-29T12:00:00Z", 202_402),
        ] {
            assert_eq!(month_of(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()), month);
        }
    }

    #[test]
    fn an_insert_has_its_bound_of_rows_and_touches() {
        let whole = |n: usize, weight: usize| -> Vec<usize> {
            let facts = vec![0_u8; n];
            let cut = chunks(&facts, &Counts::new(), |_| None, |_| weight).unwrap();
            // Each begins where the one before it ended.
            assert!(cut.windows(2).all(|pair| pair[0].place + pair[0].facts.len() == pair[1].place));
            cut.iter().map(|chunk| chunk.facts.len()).collect()
        };
        assert_eq!(whole(0, 0), [] as [usize; 0]);
        assert_eq!(whole(INSERT_ROWS_MAX, 0), [INSERT_ROWS_MAX]);
        assert_eq!(whole(INSERT_ROWS_MAX + 1, 0), [INSERT_ROWS_MAX, 1]);
        assert_eq!(whole(INSERT_CANDIDATES_MAX / 1_000, 1_000), [1_000]);
        assert_eq!(whole(INSERT_CANDIDATES_MAX / 1_000 + 1, 1_000), [1_000, 1]);
    }

    #[test]
    fn what_is_there_is_skipped_and_more_is_refused() {
        let facts = [1_u8, 2, 3];
        let cut = |there: u64| chunks(&facts, &Counts::from([(0, there)]), |_| None, |_| 0);
        assert_eq!(cut(1).unwrap(), [Chunk { month: 0, place: 1, facts: vec![&2, &3] }]);
        assert!(cut(3).unwrap().is_empty());
        assert!(matches!(cut(4), Err(Error::Rejected(_))));
    }
}

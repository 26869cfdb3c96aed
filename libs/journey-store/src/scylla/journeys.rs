//! Reading persons. A query takes a few rounds of its own, and queries run side by side.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use model::{EventHash, IdentityHash, JOURNEY_TOUCHES_MAX, rules::WINDOW_MILLIS_MAX};
use proto::events::Event;

use super::{
    Scylla, Tables,
    affected::{between, conversion, named, one, ordered},
    persons::{Graph, Person},
    tables::{self, Kind, Place, Read, Row},
};
use crate::{
    JourneyQuery, Page, PastConversion, StoreError, StoredConversion, StoredJourney,
    journeys::PAGE_EVENTS_MAX,
    kv::{Table, damaged},
    rows::{self, ConversionRow, EmptyRow, IdentityRow, SeenRow},
};

/// Queries under way at once: each holds at most a journey for every slice of time that it reads.
const QUERIES_MAX: usize = 64;

/// Where a conversion is.
pub(super) struct Found {
    pub(super) partition: u32,
    home: IdentityHash,
    time_millis: i64,
}

// === impl Scylla ===

impl Scylla {
    /// See [`crate::JourneyStore::journeys`].
    pub(super) async fn journeys_now(
        &self,
        queries: &[JourneyQuery],
        conversions_max: usize,
    ) -> Result<Vec<Option<StoredJourney>>, StoreError> {
        let tables = self.tables();
        let queries = queries.iter().cloned().map(|query| journey(tables, query, conversions_max));
        stream::iter(queries).buffered(QUERIES_MAX).try_collect().await
    }

    /// See [`crate::JourneyStore::page`].
    pub(super) async fn page_now(
        &self,
        tenant: &str,
        identity: IdentityHash,
        after: Option<(i64, String)>,
        limit: usize,
    ) -> Result<Option<Page>, StoreError> {
        let (tables, _) = self.in_force().await?;
        let known = identity_rows(tables, &[identity]).await?;
        if known.first().and_then(Option::as_ref).is_none_or(|row| row.tenant != tenant) {
            return Ok(None);
        }
        let mut graph = Graph::default();
        graph.load(tables, [identity]).await?;
        let Person { id: person, shared, members } = graph.person(identity);
        let mut identities = Vec::with_capacity(members.len());
        for row in identity_rows(tables, &members).await? {
            let row = row.ok_or_else(|| damaged(Table::Identities))?;
            identities.push((row.kind()?, row.value));
        }
        identities.sort();
        let limit = limit.min(PAGE_EVENTS_MAX);
        let mut events = page_events(tables, &graph, &members, after, limit + 1).await?;
        let more = events.len() > limit;
        events.truncate(limit);
        Ok(Some(Page { person, shared, identities, events, more }))
    }
}

/// Where a conversion is; of one that several partitions took for new, the one at the smallest position.
pub(super) async fn find(tables: Tables<'_>, hash: EventHash) -> Result<Option<Found>, StoreError> {
    let mut found = Vec::new();
    for row in tables.read(vec![Place::seen(hash).all()]).await?.into_iter().flatten() {
        let row: SeenRow = row.decode(Table::Seen)?;
        if !row.home.is_empty() {
            let position = crate::Position::from(row.position);
            found.push((position, rows::identity(Table::Seen, &row.home)?, row.time_millis));
        }
    }
    let first = found.into_iter().min_by_key(|(position, ..)| *position);
    Ok(first.map(|(position, home, time_millis)| Found { partition: position.partition, home, time_millis }))
}

/// The conversion that was found, whose home is in the graph.
pub(super) async fn stored(
    tables: Tables<'_>,
    graph: &Graph,
    found: &Found,
    tenant: &str,
    id: &str,
) -> Result<StoredConversion, StoreError> {
    let reads = conversion(graph, found.home, EventHash::new(tenant, id), found.time_millis, id);
    let row = one(tables.read(reads).await?)?;
    if row.tenant != tenant {
        return Err(damaged(Table::Conversions));
    }
    Ok(row.into_stored(found.home, found.time_millis, id.to_owned()))
}

/// The persons around a conversion that was found.
pub(super) async fn around(tables: Tables<'_>, found: &Found) -> Result<Graph, StoreError> {
    let mut graph = Graph::default();
    graph.load(tables, [found.home]).await?;
    Ok(graph)
}

async fn journey(
    tables: Tables<'_>,
    query: JourneyQuery,
    conversions_max: usize,
) -> Result<Option<StoredJourney>, StoreError> {
    let JourneyQuery { tenant, conversion_id } = &query;
    let Some(found) = find(tables, EventHash::new(tenant, conversion_id)).await? else { return Ok(None) };
    let graph = around(tables, &found).await?;
    let Person { id: person, shared, members } = graph.person(found.home);
    let (from, to) = (found.time_millis.saturating_sub(WINDOW_MILLIS_MAX), found.time_millis);
    let touches = members.iter().flat_map(|home| between(&graph, *home, Kind::Touches, from, to));
    let limit = JOURNEY_TOUCHES_MAX + 1;
    let touches = touches.map(|read| Read { newest: true, limit, ..read }).collect();
    let (conversion, touches, conversions) = tokio::try_join!(
        stored(tables, &graph, &found, tenant, conversion_id),
        tables.read(touches),
        past_conversions(tables, &graph, &members, to, conversions_max)
    )?;
    let mut touches = ordered(touches.into_iter().flatten().collect(), true);
    touches.truncate(limit);
    touches.reverse();
    let touches = touches.iter().map(|row| event(Table::Touches, row)).collect::<Result<_, _>>()?;

    let name = &conversion.event.conversion;
    let reads = members.iter().flat_map(|home| {
        let first = rows::name_key(*home, name, from, "");
        let end = rows::name_key(*home, name, to, conversion_id);
        named(&graph, *home, name, (from, to), (rows::name_order(&first), rows::name_order(&end)), true)
    });
    let mut previous_conversion_millis = None;
    for row in tables.read(reads.collect()).await?.into_iter().flatten() {
        row.decode::<EmptyRow>(Table::Names)?;
        let (time, _) = rows::timeline_parts(Table::Names, &row.at)?;
        previous_conversion_millis = previous_conversion_millis.max(Some(time));
    }
    Ok(Some(StoredJourney { conversion, person, shared, touches, previous_conversion_millis, conversions }))
}

/// The newest conversions of a person up to a moment.
async fn past_conversions(
    tables: Tables<'_>,
    graph: &Graph,
    members: &[IdentityHash],
    to: i64,
    limit: usize,
) -> Result<Vec<PastConversion>, StoreError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let reads = members.iter().flat_map(|home| between(graph, *home, Kind::Conversions, i64::MIN, to));
    let reads = reads.map(|read| Read { newest: true, limit, ..read }).collect();
    let mut rows = ordered(tables.read(reads).await?.into_iter().flatten().collect(), true);
    rows.truncate(limit);
    rows.iter().rev().map(|row| Ok(PastConversion::new(&event(Table::Conversions, row)?))).collect()
}

/// The first events of a person: spans are read in order, twice as many each round.
async fn page_events(
    tables: Tables<'_>,
    graph: &Graph,
    members: &[IdentityHash],
    after: Option<(i64, String)>,
    limit: usize,
) -> Result<Vec<Event>, StoreError> {
    let (time, first) = match &after {
        Some((time, id)) => {
            let mut key = rows::timeline_key(IdentityHash([0; 16]), *time, id);
            key.push(0);
            (*time, rows::timeline_order(&key).to_vec())
        }
        None => (i64::MIN, Vec::new()),
    };
    let kinds = [Kind::Touches, Kind::Conversions];
    let spans_of = |home: &IdentityHash| kinds.map(|kind| graph.spans_between(*home, kind, time, i64::MAX));
    let spans = members.iter().flat_map(spans_of).flat_map(std::collections::BTreeMap::into_keys);
    let spans: Vec<i64> = spans.collect::<BTreeSet<_>>().into_iter().collect();
    let (mut events, mut rest, mut round) = (Vec::new(), &spans[..], 1);
    while events.len() < limit && !rest.is_empty() {
        let (now, later) = rest.split_at(round.min(rest.len()));
        (rest, round) = (later, round * 2);
        let (Some(from), Some(to)) = (now.first(), now.last()) else { break };
        for (kind, rows) in page_rows(tables, graph, members, &first, (*from, *to), limit).await? {
            events.extend(rows.into_iter().map(|row| (kind, row)));
        }
    }
    events.sort_by(|(_, a), (_, b)| a.at.cmp(&b.at));
    events.truncate(limit);
    events.into_iter().map(|(kind, row)| event(kind.table(), &row)).collect()
}

/// The first rows of each kind in some spans.
async fn page_rows(
    tables: Tables<'_>,
    graph: &Graph,
    members: &[IdentityHash],
    first: &[u8],
    (from, to): (i64, i64),
    limit: usize,
) -> Result<Vec<(Kind, Vec<Row>)>, StoreError> {
    let mut found = Vec::new();
    for kind in [Kind::Touches, Kind::Conversions] {
        for home in members {
            let spans = graph.spans(*home, kind).into_iter().filter(|(span, _)| (from..=to).contains(span));
            let reads = spans.flat_map(|(span, marks)| {
                let place = |slice| Place::timeline(kind.table(), home.0.to_vec(), span, slice);
                let slices = (0..tables::slices(marks)).map(place).collect::<Vec<_>>();
                slices
                    .into_iter()
                    .map(|place| Read { limit, ..place.range(first.to_vec(), tables::END.to_vec()) })
            });
            found.push((kind, reads.collect::<Vec<_>>()));
        }
    }
    let reads = found.iter().flat_map(|(_, reads)| reads.clone()).collect();
    let mut rows = tables.read(reads).await?.into_iter();
    let found = found.into_iter().map(|(kind, reads)| {
        let rows = rows.by_ref().take(reads.len()).flatten().collect();
        (kind, ordered(rows, false))
    });
    Ok(found.collect())
}

async fn identity_rows(
    tables: Tables<'_>,
    identities: &[IdentityHash],
) -> Result<Vec<Option<IdentityRow>>, StoreError> {
    let reads = identities.iter().map(|identity| Place::identity(*identity).all()).collect();
    let rows = tables.read(reads).await?.into_iter();
    rows.map(|rows| rows.first().map(|row| row.decode(Table::Identities)).transpose()).collect()
}

fn event(table: Table, row: &Row) -> Result<Event, StoreError> {
    let (time, id) = rows::timeline_parts(table, &row.at)?;
    let event = match table {
        Table::Conversions => row.decode::<ConversionRow>(table)?.event,
        _ => row.decode(table)?,
    };
    Ok(rows::restored(event, time, id))
}

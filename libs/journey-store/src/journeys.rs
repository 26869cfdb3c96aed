//! Reading persons: the journey of a conversion, and the pages of everything a person did.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    iter::Peekable,
    ops::{Deref, Range},
};

use model::{EventHash, IdentityHash, JOURNEY_TOUCHES_MAX, rules::WINDOW_MILLIS_MAX};
use proto::events::Event;

use crate::{
    JourneyQuery, Page, PastConversion, StoreError, StoredConversion, StoredJourney,
    kv::{Kv, Payload, Reader, Table, View, damaged},
    persons::{self, State},
    rows::{self, ConversionRow, EmptyRow, IdentityRow, SeenRow},
    store::Store,
};

/// The most events of one page.
pub(crate) const PAGE_EVENTS_MAX: usize = 1_000;

/// Which end of the timelines a merge starts from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Oldest,
    Newest,
}

/// A verified row of one timeline.
struct Row<S> {
    table: Table,
    key: S,
    payload: Payload<S>,
}

/// Who an identity is.
struct Person {
    id: IdentityHash,
    shared: bool,
    /// The identities that count as the person, each with what is known of it.
    members: Vec<(IdentityHash, State)>,
}

// === impl Store ===

impl<K: Kv> Store<K> {
    /// See [`crate::JourneyStore::journeys`].
    pub(crate) fn journeys_now(
        &self,
        queries: &[JourneyQuery],
        conversions_max: usize,
    ) -> Result<Vec<Option<StoredJourney>>, StoreError> {
        let reader = self.reader();
        queries.iter().map(|query| journey(&reader, query, conversions_max)).collect()
    }

    /// See [`crate::JourneyStore::page`].
    pub(crate) fn page_now(
        &self,
        tenant: &str,
        identity: IdentityHash,
        after: Option<(i64, String)>,
        limit: usize,
    ) -> Result<Option<Page>, StoreError> {
        let reader = self.reader();
        let known: Option<IdentityRow> = reader.get(Table::Identities, &identity.0)?;
        if known.is_none_or(|row| row.tenant != tenant) {
            return Ok(None);
        }
        let Person { id: person, shared, members } = person(&reader, identity)?;
        let mut identities = Vec::with_capacity(members.len());
        for (member, _) in &members {
            let row: Option<IdentityRow> = reader.get(Table::Identities, &member.0)?;
            let row = row.ok_or_else(|| damaged(Table::Identities))?;
            identities.push((row.kind()?, row.value));
        }
        identities.sort();
        let limit = limit.min(PAGE_EVENTS_MAX);
        let mut events = page_events(&reader, &members, after, limit + 1)?;
        let more = events.len() > limit;
        events.truncate(limit);
        Ok(Some(Page { person, shared, identities, events, more }))
    }
}

// === impl Row ===

impl<S: Deref<Target = [u8]>> Row<S> {
    fn event(&self) -> Result<Event, StoreError> {
        let (time, id) = rows::timeline_parts(self.table, rows::timeline_order(&self.key))?;
        let event = match self.table {
            Table::Conversions => self.payload.decode::<ConversionRow>(self.table)?.event,
            _ => self.payload.decode(self.table)?,
        };
        Ok(rows::restored(event, time, id))
    }
}

// === impl PastConversion ===

impl PastConversion {
    /// What is told of an event.
    pub(crate) fn new(event: &Event) -> Self {
        Self {
            time_millis: crate::event_millis(event),
            app_id: event.app_id.clone(),
            value: event.value.clone(),
            currency: event.currency.clone(),
        }
    }
}

/// A stored conversion, found by its event id.
pub(crate) fn conversion<V: View>(
    reader: &Reader<V>,
    tenant: &str,
    conversion_id: &str,
) -> Result<Option<StoredConversion>, StoreError> {
    let hash = EventHash::new(tenant, conversion_id);
    let seen: Option<SeenRow> = reader.get(Table::Seen, &hash.0)?;
    let Some(seen) = seen.filter(|seen| !seen.home.is_empty()) else {
        return Ok(None);
    };
    let home = rows::identity(Table::Seen, &seen.home)?;
    let key = rows::timeline_key(home, seen.time_millis, conversion_id);
    let row: Option<ConversionRow> = reader.get(Table::Conversions, &key)?;
    let row = row.filter(|row| row.tenant == tenant).ok_or_else(|| damaged(Table::Conversions))?;
    Ok(Some(row.into_stored(home, seen.time_millis, conversion_id.to_owned())))
}

fn journey<V: View>(
    reader: &Reader<V>,
    query: &JourneyQuery,
    conversions_max: usize,
) -> Result<Option<StoredJourney>, StoreError> {
    let Some(conversion) = conversion(reader, &query.tenant, &query.conversion_id)? else {
        return Ok(None);
    };
    let time = rows::time_millis(&conversion.event).ok_or_else(|| damaged(Table::Conversions))?;
    let from = time.saturating_sub(WINDOW_MILLIS_MAX);
    let Person { id: person, shared, members } = person(reader, conversion.home)?;

    // Most identities of a person are never first in an event, and most have no second conversion: a range costs more than
    // to know that.
    let (mut timelines, mut previous_conversion_millis) = (Vec::new(), None);
    for (home, state) in &members {
        if state.touched {
            let keys = rows::timeline_key(*home, from, "")..rows::timeline_end(*home, time);
            let rows = reader
                .touches(*home, keys)
                .map(|pair| pair.map(|(key, payload)| Row { table: Table::Touches, key, payload }));
            timelines.push(rows.rev());
        }
        if state.conversions > u64::from(*home == conversion.home) {
            let name = &conversion.event.conversion;
            let keys = rows::name_key(*home, name, from, "")
                ..rows::name_key(*home, name, time, &query.conversion_id);
            if let Some(pair) = reader.range(Table::Names, keys).next_back() {
                let (key, payload) = pair?;
                payload.decode::<EmptyRow>(Table::Names)?;
                let (time, _) = rows::timeline_parts(Table::Names, rows::name_order(&key))?;
                previous_conversion_millis = previous_conversion_millis.max(Some(time));
            }
        }
    }
    let mut touches = merge(timelines, Direction::Newest, JOURNEY_TOUCHES_MAX + 1)?;
    touches.reverse();
    let conversions = past_conversions(reader, &members, &conversion.event, time, conversions_max)?;
    Ok(Some(StoredJourney { conversion, person, shared, touches, previous_conversion_millis, conversions }))
}

/// The newest conversions of a person up to one of them.
fn past_conversions<V: View>(
    reader: &Reader<V>,
    members: &[(IdentityHash, State)],
    conversion: &Event,
    time: i64,
    limit: usize,
) -> Result<Vec<PastConversion>, StoreError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let all: u64 = members.iter().map(|(_, state)| state.conversions).sum();
    if all == 1 {
        return Ok(vec![PastConversion::new(conversion)]);
    }
    let timelines = members
        .iter()
        .filter(|(_, state)| state.conversions > 0)
        .map(|(home, _)| rows::timeline_key(*home, i64::MIN, "")..rows::timeline_end(*home, time))
        .map(|keys| timeline(reader, Table::Conversions, keys).rev())
        .collect();
    let events = merge(timelines, Direction::Newest, limit)?;
    Ok(events.iter().rev().map(PastConversion::new).collect())
}

fn person<V: View>(reader: &Reader<V>, identity: IdentityHash) -> Result<Person, StoreError> {
    // Every event stores the state of its identities.
    let stored = |identity| persons::stored_state(reader, identity)?.ok_or_else(|| damaged(Table::Persons));
    let state = stored(identity)?;
    if state.shared {
        return Ok(Person { id: identity, shared: true, members: vec![(identity, state)] });
    }
    let members = persons::stored_members(reader, state.person)?.into_iter().map(|member| match member {
        member if member == identity => Ok((member, state)),
        member => Ok((member, stored(member)?)),
    });
    Ok(Person { id: state.person, shared: false, members: members.collect::<Result<_, StoreError>>()? })
}

fn page_events<V: View>(
    reader: &Reader<V>,
    members: &[(IdentityHash, State)],
    after: Option<(i64, String)>,
    limit: usize,
) -> Result<Vec<Event>, StoreError> {
    let first = |home| match &after {
        Some((time, id)) => {
            let mut key = rows::timeline_key(home, *time, id);
            key.push(0);
            key
        }
        None => rows::timeline_key(home, i64::MIN, ""),
    };
    let timelines = members
        .iter()
        .flat_map(|(home, _)| [(Table::Touches, *home), (Table::Conversions, *home)])
        .map(|(table, home)| timeline(reader, table, first(home)..rows::timeline_end(home, i64::MAX)))
        .collect();
    merge(timelines, Direction::Oldest, limit)
}

fn timeline<V: View>(
    reader: &Reader<V>,
    table: Table,
    keys: Range<Vec<u8>>,
) -> impl DoubleEndedIterator<Item = Result<Row<V::Slice>, StoreError>> {
    reader.range(table, keys).map(move |pair| pair.map(|(key, payload)| Row { table, key, payload }))
}

/// The first events of several ordered timelines, ordered by (time, event id). Reads one row ahead in each.
fn merge<S, I>(timelines: Vec<I>, direction: Direction, limit: usize) -> Result<Vec<Event>, StoreError>
where
    S: Deref<Target = [u8]>,
    I: Iterator<Item = Result<Row<S>, StoreError>>,
{
    if let [_] = timelines[..] {
        let rows = timelines.into_iter().flatten().take(limit);
        return rows.map(|row| row?.event()).collect();
    }
    let mut timelines: Vec<Peekable<I>> = timelines.into_iter().map(Iterator::peekable).collect();
    let mut heads = Heads { direction, oldest: BinaryHeap::new(), newest: BinaryHeap::new() };
    for (index, timeline) in timelines.iter_mut().enumerate() {
        heads.push(index, timeline);
    }
    let mut events = Vec::new();
    while events.len() < limit {
        let Some(index) = heads.pop() else { break };
        // A head is pushed only for a row that is there.
        let Some(row) = timelines[index].next() else { break };
        events.push(row?.event()?);
        heads.push(index, &mut timelines[index]);
    }
    Ok(events)
}

/// The next row of every timeline, by what it sorts by. A damaged one comes first, so that it is not overlooked.
struct Heads {
    direction: Direction,
    oldest: BinaryHeap<Reverse<(Option<Vec<u8>>, usize)>>,
    newest: BinaryHeap<(Reverse<bool>, Vec<u8>, usize)>,
}

// === impl Heads ===

impl Heads {
    fn push<S, I>(&mut self, index: usize, timeline: &mut Peekable<I>)
    where
        S: Deref<Target = [u8]>,
        I: Iterator<Item = Result<Row<S>, StoreError>>,
    {
        let Some(row) = timeline.peek() else { return };
        let order = row.as_ref().ok().map(|row| rows::timeline_order(&row.key).to_vec());
        match self.direction {
            Direction::Oldest => self.oldest.push(Reverse((order, index))),
            Direction::Newest => {
                self.newest.push((Reverse(order.is_some()), order.unwrap_or_default(), index))
            }
        }
    }

    fn pop(&mut self) -> Option<usize> {
        match self.direction {
            Direction::Oldest => self.oldest.pop().map(|Reverse((_, index))| index),
            Direction::Newest => self.newest.pop().map(|(_, _, index)| index),
        }
    }
}

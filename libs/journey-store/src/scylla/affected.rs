//! Which stored conversions a batch could change, read after it was written.

use std::collections::{BTreeMap, BTreeSet};

use model::{EventHash, IdentityHash, rules::WINDOW_MILLIS_MAX};
use proto::events::DecisionReason;

use super::{
    Tables,
    persons::Graph,
    tables::{self, Kind, Place, Read, Row},
};
use crate::{
    Affected, StoreError,
    affected::merged,
    kv::{Table, damaged},
    rows::{self, ConversionRow, EmptyRow},
};

/// Where to look, in terms of identities; persons are looked up in what was read after the write.
#[derive(Default)]
pub(crate) struct Wishes {
    /// Identities that were linked: everything of their persons.
    pub(crate) linked: BTreeSet<IdentityHash>,
    /// Identities that turned shared: everything of their own.
    pub(crate) left: BTreeSet<IdentityHash>,
    /// Times of touches by home.
    pub(crate) touched: BTreeMap<IdentityHash, Vec<i64>>,
    pub(crate) converted: Vec<Converted>,
}

/// A conversion that may come before another one of its name.
pub(crate) struct Converted {
    pub(crate) home: IdentityHash,
    pub(crate) tenant: std::sync::Arc<str>,
    pub(crate) name: String,
    pub(crate) time_millis: i64,
    pub(crate) event_id: String,
}

/// Rows of one identity that could change for one reason.
struct Scan {
    home: IdentityHash,
    reason: DecisionReason,
    reads: Vec<Read>,
}

/// See [`crate::affected::find`]: the same conversions in the same order.
pub(crate) async fn find(
    tables: Tables<'_>,
    graph: &Graph,
    wishes: Wishes,
) -> Result<Vec<Affected>, StoreError> {
    let mut scans = scans(graph, &wishes);
    scans.extend(earlier(tables, graph, &wishes.converted).await?);
    let reads: Vec<Read> = scans.iter().flat_map(|scan| scan.reads.iter().cloned()).collect();
    let mut found = tables.read(reads).await?.into_iter();
    let (mut affected, mut keys) = (Vec::new(), BTreeSet::new());
    for Scan { home, reason, reads } in scans {
        let rows: Vec<Row> = found.by_ref().take(reads.len()).flatten().collect();
        for row in ordered(rows, false) {
            if keys.insert((home, row.at.clone())) {
                let (_, conversion_id) = rows::timeline_parts(Table::Conversions, &row.at)?;
                let row: ConversionRow = row.decode(Table::Conversions)?;
                let (tenant, position) = (row.tenant.into(), row.position.into());
                affected.push(Affected { tenant, conversion_id, home, position, reason });
            }
        }
    }
    Ok(affected)
}

/// Rows of several slices in one order, each once: an event that was written twice may be in two slices.
pub(crate) fn ordered(mut rows: Vec<Row>, newest: bool) -> Vec<Row> {
    rows.sort_by(|a, b| if newest { b.at.cmp(&a.at) } else { a.at.cmp(&b.at) });
    rows.dedup_by(|a, b| a.at == b.at);
    rows
}

/// Reads of all slices of an identity's events of a kind between two times, both included.
pub(crate) fn between(graph: &Graph, home: IdentityHash, kind: Kind, from: i64, to: i64) -> Vec<Read> {
    let (first, end) = (rows::timeline_key(home, from, ""), rows::timeline_end(home, to));
    let (first, end) = (rows::timeline_order(&first), rows::timeline_order(&end));
    let spans = graph.spans_between(home, kind, from, to).into_iter();
    let places = spans.flat_map(|(span, marks)| {
        let slices = 0..tables::slices(marks);
        slices.map(move |slice| Place::timeline(kind.table(), home.0.to_vec(), span, slice))
    });
    places.map(|place| place.range(first.to_vec(), end.to_vec())).collect()
}

/// Reads of every slice that a conversion may be in.
pub(crate) fn conversion(
    graph: &Graph,
    home: IdentityHash,
    hash: EventHash,
    time_millis: i64,
    event_id: &str,
) -> Vec<Read> {
    let span = tables::span(time_millis);
    let at = rows::timeline_key(home, time_millis, event_id);
    let at = rows::timeline_order(&at);
    let marks = graph.spans(home, Kind::Conversions).get(&span).copied().unwrap_or(0);
    let slices = tables::possible_slices(hash, tables::slices(marks)).into_iter();
    slices
        .map(|slice| Place::timeline(Table::Conversions, home.0.to_vec(), span, slice).one(at.to_vec()))
        .collect()
}

/// Reads of the slices of a home's conversions of a name, each up to its first row from one end.
pub(crate) fn named(
    graph: &Graph,
    home: IdentityHash,
    name: &str,
    (from, to): (i64, i64),
    (first, end): (&[u8], &[u8]),
    newest: bool,
) -> Vec<Read> {
    let key = rows::name_prefix(home, name);
    let spans = graph.spans_between(home, Kind::Conversions, from, to).into_iter();
    let places = spans.flat_map(|(span, marks)| {
        let key = key.clone();
        (0..tables::slices(marks)).map(move |slice| Place::timeline(Table::Names, key.clone(), span, slice))
    });
    places.map(|place| Read { newest, limit: 1, ..place.range(first.to_vec(), end.to_vec()) }).collect()
}

fn scans(graph: &Graph, wishes: &Wishes) -> Vec<Scan> {
    let mut linked = wishes.left.clone();
    linked.extend(wishes.linked.iter().flat_map(|identity| graph.person(*identity).members));
    let mut touched: BTreeMap<IdentityHash, Vec<i64>> = BTreeMap::new();
    for (home, times) in &wishes.touched {
        for member in graph.person(*home).members {
            touched.entry(member).or_default().extend(times);
        }
    }
    touched.retain(|home, _| !linked.contains(home));
    let mut scans = Vec::new();
    for home in linked {
        let reads = between(graph, home, Kind::Conversions, i64::MIN, i64::MAX);
        scans.push(Scan { home, reason: DecisionReason::Link, reads });
    }
    for (home, times) in touched {
        for (from, to) in merged(times) {
            let reads = between(graph, home, Kind::Conversions, from, to);
            scans.push(Scan { home, reason: DecisionReason::LateTouch, reads });
        }
    }
    scans.retain(|scan| !scan.reads.is_empty());
    scans
}

/// Later ones of the name keep the previous conversion they have, so the next of each identity is enough.
async fn earlier(
    tables: Tables<'_>,
    graph: &Graph,
    converted: &[Converted],
) -> Result<Vec<Scan>, StoreError> {
    let (mut asked, mut reads) = (Vec::new(), Vec::new());
    for conversion in converted {
        let Converted { home, name, time_millis, event_id, .. } = conversion;
        let until = time_millis.saturating_add(WINDOW_MILLIS_MAX);
        for member in graph.person(*home).members {
            let mut first = rows::name_key(member, name, *time_millis, event_id);
            first.push(0);
            let end = rows::name_end(member, name, until);
            let bounds = (rows::name_order(&first), rows::name_order(&end));
            let of = named(graph, member, name, (*time_millis, until), bounds, false);
            asked.push((member, conversion, of.len()));
            reads.extend(of);
        }
    }
    let mut found = tables.read(reads).await?.into_iter();
    let mut scans = Vec::new();
    for (member, conversion, count) in asked {
        let rows = found.by_ref().take(count).flatten().collect();
        let Some(next) = ordered(rows, false).into_iter().next() else { continue };
        next.decode::<EmptyRow>(Table::Names)?;
        let (time, event_id) = rows::timeline_parts(Table::Names, &next.at)?;
        let hash = EventHash::new(&conversion.tenant, &event_id);
        let reads = self::conversion(graph, member, hash, time, &event_id);
        scans.push(Scan { home: member, reason: DecisionReason::EarlierConversion, reads });
    }
    Ok(scans)
}

/// The one row of a conversion in what its reads found.
pub(crate) fn one(rows: impl IntoIterator<Item = Vec<Row>>) -> Result<ConversionRow, StoreError> {
    let row = rows.into_iter().flatten().next().ok_or_else(|| damaged(Table::Conversions))?;
    row.decode(Table::Conversions)
}

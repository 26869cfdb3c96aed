//! Which stored conversions a touch, a link or a conversion could change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use model::{IdentityHash, rules::WINDOW_MILLIS_MAX};
use proto::events::DecisionReason;

use crate::{
    Affected, Position, StoreError,
    folding::Folding,
    kv::{Reader, Table, View},
    rows::{self, ConversionRow, EmptyRow},
};

/// What to look through. Every conversion is read at most once for each kind of reason, however many events ask for it.
#[derive(Debug, Default)]
pub(crate) struct Scans {
    /// Identities whose conversions could all change.
    pub(crate) linked: BTreeSet<IdentityHash>,
    /// Times of touches: conversions of the identity up to 90 days after could change.
    pub(crate) touched: BTreeMap<IdentityHash, Vec<i64>>,
    /// Conversions by name, time and event id: the next one of the identity with the same name could change.
    pub(crate) converted: Vec<(IdentityHash, String, i64, String)>,
    /// Identities whose conversions are all of this call, as most are that have one: nothing has to be read of them.
    pub(crate) new: NewConversions,
}

/// Conversions by home and timeline key.
pub(crate) type NewConversions = HashMap<IdentityHash, BTreeMap<Vec<u8>, NewConversion>, Folding>;

/// What is told of a conversion.
#[derive(Debug)]
pub(crate) struct NewConversion {
    pub(crate) tenant: Arc<str>,
    pub(crate) position: Position,
    pub(crate) name: String,
}

/// What was found, each conversion once.
struct Found<'a, V> {
    reader: &'a Reader<V>,
    new: NewConversions,
    affected: Vec<Affected>,
    keys: BTreeSet<Vec<u8>>,
}

/// The conversions to look through, ordered by identity, time and event id within each reason.
pub(crate) fn find<V: View>(reader: &Reader<V>, scans: Scans) -> Result<Vec<Affected>, StoreError> {
    let mut found = Found { reader, new: scans.new, affected: Vec::new(), keys: BTreeSet::new() };
    for home in &scans.linked {
        found.between(*home, i64::MIN, i64::MAX, DecisionReason::Link)?;
    }
    for (home, times) in scans.touched {
        if !scans.linked.contains(&home) {
            for (from, to) in merged(times) {
                found.between(home, from, to, DecisionReason::LateTouch)?;
            }
        }
    }
    for (home, name, time_millis, event_id) in scans.converted {
        found.next_of_name(home, &name, time_millis, &event_id)?;
    }
    Ok(found.affected)
}

// === impl Found ===

impl<V: View> Found<'_, V> {
    fn between(
        &mut self,
        home: IdentityHash,
        from: i64,
        to: i64,
        reason: DecisionReason,
    ) -> Result<(), StoreError> {
        let keys = rows::timeline_key(home, from, "")..rows::timeline_end(home, to);
        if let Some(new) = self.new.get(&home) {
            for (key, conversion) in new.range(keys) {
                let (tenant, position) = (Arc::clone(&conversion.tenant), conversion.position);
                add(&mut self.affected, &mut self.keys, home, key, (tenant, position), reason)?;
            }
            return Ok(());
        }
        for pair in self.reader.range(Table::Conversions, keys) {
            let (key, payload) = pair?;
            let row: ConversionRow = payload.decode(Table::Conversions)?;
            let told = (row.tenant.into(), row.position.into());
            add(&mut self.affected, &mut self.keys, home, &key, told, reason)?;
        }
        Ok(())
    }

    /// Later ones of the name keep the previous conversion they have, so one is enough.
    fn next_of_name(
        &mut self,
        home: IdentityHash,
        name: &str,
        time: i64,
        event_id: &str,
    ) -> Result<(), StoreError> {
        let last = time.saturating_add(WINDOW_MILLIS_MAX);
        let (key, told) = if let Some(new) = self.new.get(&home) {
            let mut from = rows::timeline_key(home, time, event_id);
            from.push(0);
            let mut later = new.range(from..rows::timeline_end(home, last));
            let Some((key, next)) = later.find(|(_, conversion)| conversion.name == name) else {
                return Ok(());
            };
            (key.clone(), (Arc::clone(&next.tenant), next.position))
        } else {
            let mut from = rows::name_key(home, name, time, event_id);
            from.push(0);
            let to = rows::name_end(home, name, last);
            let Some(pair) = self.reader.range(Table::Names, from..to).next() else {
                return Ok(());
            };
            let (name_key, payload) = pair?;
            payload.decode::<EmptyRow>(Table::Names)?;
            let key = [&home.0[..], rows::name_order(&name_key)].concat();
            let row: Option<ConversionRow> = self.reader.get(Table::Conversions, &key)?;
            let row = row.ok_or_else(|| crate::kv::damaged(Table::Conversions))?;
            (key, (row.tenant.into(), row.position.into()))
        };
        add(&mut self.affected, &mut self.keys, home, &key, told, DecisionReason::EarlierConversion)
    }
}

fn add(
    affected: &mut Vec<Affected>,
    keys: &mut BTreeSet<Vec<u8>>,
    home: IdentityHash,
    key: &[u8],
    (tenant, position): (Arc<str>, Position),
    reason: DecisionReason,
) -> Result<(), StoreError> {
    if keys.insert(key.to_vec()) {
        let (_, conversion_id) = rows::timeline_parts(Table::Conversions, rows::timeline_order(key))?;
        affected.push(Affected { tenant, conversion_id, home, position, reason });
    }
    Ok(())
}

/// The times from each touch to 90 days after it (both included), as few ranges as possible.
pub(crate) fn merged(mut times: Vec<i64>) -> Vec<(i64, i64)> {
    times.sort_unstable();
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for from in times {
        let to = from.saturating_add(WINDOW_MILLIS_MAX);
        match ranges.last_mut() {
            Some(last) if from <= last.1 => last.1 = to,
            _ => ranges.push((from, to)),
        }
    }
    ranges
}

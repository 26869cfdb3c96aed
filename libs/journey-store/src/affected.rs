//! Which stored conversions a touch, a link or a conversion could change.

use std::collections::{BTreeMap, BTreeSet};

use model::{IdentityHash, rules::WINDOW_MILLIS_MAX};
use proto::events::DecisionReason;

use crate::{
    Affected, StoreError,
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
}

/// What was found, each conversion once.
struct Found<'a, V> {
    reader: &'a Reader<V>,
    affected: Vec<Affected>,
    keys: BTreeSet<Vec<u8>>,
}

/// The conversions to look through, ordered by identity, time and event id within each reason.
pub(crate) fn find<V: View>(reader: &Reader<V>, scans: Scans) -> Result<Vec<Affected>, StoreError> {
    let mut found = Found { reader, affected: Vec::new(), keys: BTreeSet::new() };
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
        for pair in self.reader.range(Table::Conversions, keys) {
            let (key, payload) = pair?;
            self.add(home, &key, payload.decode(Table::Conversions)?, reason)?;
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
        let mut from = rows::name_key(home, name, time, event_id);
        from.push(0);
        let to = rows::name_end(home, name, time.saturating_add(WINDOW_MILLIS_MAX));
        let Some(pair) = self.reader.range(Table::Names, from..to).next() else {
            return Ok(());
        };
        let (name_key, payload) = pair?;
        payload.decode::<EmptyRow>(Table::Names)?;
        let key = [&home.0[..], rows::name_order(&name_key)].concat();
        let row = self.reader.get(Table::Conversions, &key)?;
        let row = row.ok_or_else(|| crate::kv::damaged(Table::Conversions))?;
        self.add(home, &key, row, DecisionReason::EarlierConversion)
    }

    fn add(
        &mut self,
        home: IdentityHash,
        key: &[u8],
        row: ConversionRow,
        reason: DecisionReason,
    ) -> Result<(), StoreError> {
        if self.keys.insert(key.to_vec()) {
            let (_, conversion_id) = rows::timeline_parts(Table::Conversions, rows::timeline_order(key))?;
            let (tenant, position) = (row.tenant.into(), row.position.into());
            self.affected.push(Affected { tenant, conversion_id, home, position, reason });
        }
        Ok(())
    }
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

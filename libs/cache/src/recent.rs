//! The newest ids, each for its time: what is oldest goes first.
//!
//! Every event looks its id up once and adds it once, and both mostly miss the processor's cache. So nothing is kept of
//! how often an id was asked for, and the ids of one batch that share a table are worked on under one lock: between locks
//! the processor waits for memory once for all of them.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::key::{Id, Key, KeyHasher};

/// From so many ids on they are spread over tables of their own: one that grows holds up few.
const SPREAD_FROM_IDS: u64 = 1 << 16;
const TABLES: usize = 16;

/// Ids that were marked.
pub(crate) struct Recent {
    tables: Vec<Mutex<Table>>,
    ids_per_table_max: usize,
    time_to_live: Duration,
}

#[derive(Default)]
struct Table {
    ids: HashSet<Key, KeyHasher>,
    /// The same, oldest first, with when they were marked.
    order: VecDeque<(Key, Instant)>,
}

// === impl Recent ===

impl Recent {
    pub(crate) fn new(ids_max: u64, time_to_live: Duration) -> Self {
        let tables = if ids_max < SPREAD_FROM_IDS { 1 } else { TABLES };
        let ids_per_table_max = usize::try_from(ids_max.div_ceil(tables as u64)).unwrap_or(usize::MAX);
        let tables = (0..tables).map(|_| Mutex::default()).collect();
        Self { tables, ids_per_table_max, time_to_live }
    }

    /// Which of the ids are remembered.
    pub(crate) fn contains(&self, ids: &[Id<'_>]) -> Vec<bool> {
        let mut contains = vec![false; ids.len()];
        self.each_table(ids, |table, asked| {
            for &(_, key, index) in asked {
                contains[index] = table.ids.contains(&key);
            }
        });
        contains
    }

    /// Remembers ids.
    pub(crate) fn insert(&self, ids: &[Id<'_>]) {
        let now = Instant::now();
        self.each_table(ids, |table, marked| {
            for &(_, key, _) in marked {
                table.insert(key, now, self.ids_per_table_max);
            }
        });
    }

    /// Hands each table its part of the ids, as (table, key, index), once what is over its time is gone.
    fn each_table(&self, ids: &[Id<'_>], mut work: impl FnMut(&mut Table, &[(usize, Key, usize)])) {
        let now = Instant::now();
        let place = |(index, id): (usize, &Id<'_>)| (id.key.1 as usize % self.tables.len(), id.key, index);
        let mut places: Vec<_> = ids.iter().enumerate().map(place).collect();
        // Sorted, not picked out table by table: branches that cannot be foretold would end what waits for memory together.
        places.sort_unstable_by_key(|&(table, _, index)| (table, index));
        for part in places.chunk_by(|one, other| one.0 == other.0) {
            let table = self.tables[part[0].0].lock();
            // Nothing under the lock can leave a table half done.
            let mut table = table.unwrap_or_else(PoisonError::into_inner);
            table.forget(now, self.time_to_live);
            work(&mut table, part);
        }
    }
}

// === impl Table ===

impl Table {
    fn insert(&mut self, key: Key, now: Instant, ids_max: usize) {
        if !self.ids.insert(key) {
            return;
        }
        self.order.push_back((key, now));
        if self.order.len() > ids_max
            && let Some((oldest, _)) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    fn forget(&mut self, now: Instant, time_to_live: Duration) {
        while let Some(&(oldest, marked)) = self.order.front()
            && now.saturating_duration_since(marked) >= time_to_live
        {
            self.order.pop_front();
            self.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Keys;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    fn kept(recent: &Recent) -> usize {
        let count = |table: &Mutex<Table>| {
            let table = table.lock().unwrap_or_else(PoisonError::into_inner);
            assert_eq!(table.ids.len(), table.order.len());
            table.ids.len()
        };
        recent.tables.iter().map(count).sum()
    }

    fn insert(recent: &Recent, keys: &Keys, numbers: std::ops::Range<u64>) {
        let ids: Vec<String> = numbers.map(|number| number.to_string()).collect();
        recent.insert(&keys.ids("t", ids.iter().map(String::as_str)));
    }

    #[test]
    fn the_newest_are_kept_and_no_more() {
        let (recent, keys) = (Recent::new(100, YEAR), Keys::default());
        insert(&recent, &keys, 0..100);
        // Marked again, it is not younger for it, and not there twice.
        insert(&recent, &keys, 0..1);
        insert(&recent, &keys, 100..101);
        assert_eq!(kept(&recent), 100);
        assert_eq!(recent.contains(&keys.ids("t", ["0", "1", "100"])), [false, true, true]);
    }

    #[test]
    fn spread_over_tables_about_as_many_are_kept() {
        let most = 2 * SPREAD_FROM_IDS;
        let (recent, keys) = (Recent::new(most, YEAR), Keys::default());
        assert_eq!(recent.tables.len(), TABLES);
        insert(&recent, &keys, 0..3 * most);
        assert!(kept(&recent) as u64 <= most.next_multiple_of(TABLES as u64));
        // A table's share of the ids is off by a few hundredths at most.
        let ids: Vec<String> = (2 * most + most / 10..3 * most).map(|number| number.to_string()).collect();
        let ids = keys.ids("t", ids.iter().map(String::as_str));
        assert!(recent.contains(&ids).into_iter().all(|seen| seen));
    }

    #[test]
    fn what_is_over_its_time_is_gone() {
        let mut table = Table::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        table.insert((1, 1), start, 10);
        table.insert((2, 2), after(5), 10);
        table.forget(after(9), Duration::from_secs(10));
        assert_eq!(table.ids.len(), 2);
        table.forget(after(10), Duration::from_secs(10));
        assert!(!table.ids.contains(&(1, 1)) && table.ids.contains(&(2, 2)));
        assert_eq!(table.order.len(), 1);
    }
}

//! The newest ids, each for its time: what is oldest goes first.
//!
//! Every event looks its id up once and adds it once, and both mostly miss the processor's cache. So nothing is kept of
//! how often an id was asked for, and the ids of one batch that share a table are worked on under one lock: between locks
//! the processor waits for memory once for all of them.

use std::{
    collections::{HashSet, VecDeque},
    hint::black_box,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::key::{Id, Key, KeyHasher};

/// From so many ids on they are spread over tables of their own: one that grows holds up few.
const SPREAD_FROM_IDS: u64 = 1 << 16;
const TABLES: usize = 16;
/// Ids are marked as of about the same time within this one, and within this share of the time that they are kept for: a time
/// for each would take as much memory as the ids.
const SPAN_MAX: Duration = Duration::from_secs(1);
const SPANS_OF_TIME_TO_LIVE_MIN: u32 = 100;

/// A table that has place for many times its ids gives it back: for so many times, and so many ids at least, that it does
/// not grow and shrink by turns.
const SPARE_IDS_MIN: usize = 1 << 10;
const SPARE_SHARE: usize = 8;

/// Ids that were marked.
pub(crate) struct Recent {
    tables: Vec<Mutex<Table>>,
    ids_per_table_max: usize,
    time_to_live: Duration,
    span: Duration,
}

#[derive(Default)]
struct Table {
    ids: HashSet<Key, KeyHasher>,
    /// The same, oldest first.
    order: VecDeque<Key>,
    /// When they were marked, those of about the same time as one.
    spans: VecDeque<Span>,
    /// How many are gone from the front of the order.
    gone: u64,
}

/// Ids that were marked one after the other.
struct Span {
    first: Instant,
    last: Instant,
    /// How many were marked before its end, from the beginning of the table.
    end: u64,
}

// === impl Recent ===

impl Recent {
    pub(crate) fn new(ids_max: u64, time_to_live: Duration) -> Self {
        let tables = if ids_max < SPREAD_FROM_IDS { 1 } else { TABLES };
        let ids_per_table_max = usize::try_from(ids_max.div_ceil(tables as u64)).unwrap_or(usize::MAX);
        let tables = (0..tables).map(|_| Mutex::default()).collect();
        let span = SPAN_MAX.min(time_to_live / SPANS_OF_TIME_TO_LIVE_MIN);
        Self { tables, ids_per_table_max, time_to_live, span }
    }

    /// Which of the ids are remembered.
    pub(crate) fn contains(&self, ids: &[Id<'_>]) -> Vec<bool> {
        let mut contains = vec![false; ids.len()];
        self.each_table(ids, |table, asked| {
            for &index in asked {
                contains[index] = table.ids.contains(&ids[index].key);
            }
        });
        contains
    }

    /// Remembers ids.
    pub(crate) fn insert(&self, ids: &[Id<'_>]) {
        let now = Instant::now();
        self.each_table(ids, |table, marked| {
            table.fetch_oldest(marked.len(), self.ids_per_table_max);
            table.insert(marked.iter().map(|&index| ids[index].key), now, self.span, self.ids_per_table_max);
        });
    }

    /// Forgets the ids that were marked up to a moment.
    pub(crate) fn forget(&self, marked_until: Instant) {
        for table in &self.tables {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.forget(|last| last <= marked_until);
            table.give_back();
        }
    }

    /// Hands each table the indices of its part of the ids, once what is over its time is gone.
    fn each_table(&self, ids: &[Id<'_>], mut work: impl FnMut(&mut Table, &[usize])) {
        let now = Instant::now();
        let table_of = |id: &Id<'_>| id.key.1 as usize % self.tables.len();
        // Sorted by counting, not picked out table by table nor compared: branches that cannot be foretold would end what
        // waits for memory together.
        let mut ends = [0; TABLES];
        ids.iter().for_each(|id| ends[table_of(id)] += 1);
        let mut end = 0;
        for count in &mut ends {
            end += *count;
            *count = end;
        }
        let (mut starts, mut sorted) = (ends, vec![0; ids.len()]);
        for (index, id) in ids.iter().enumerate().rev() {
            let start = &mut starts[table_of(id)];
            *start -= 1;
            sorted[*start] = index;
        }
        for (table, (start, end)) in self.tables.iter().zip(starts.into_iter().zip(ends)) {
            if start == end {
                continue;
            }
            // Nothing under the lock can leave a table half done.
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.forget(|last| now.saturating_duration_since(last) >= self.time_to_live);
            work(&mut table, &sorted[start..end]);
        }
    }
}

// === impl Table ===

impl Table {
    fn insert(&mut self, keys: impl Iterator<Item = Key>, now: Instant, span: Duration, ids_max: usize) {
        let end_before = self.end();
        for key in keys {
            if self.ids.insert(key) {
                self.order.push_back(key);
                if self.order.len() > ids_max {
                    self.forget_oldest();
                }
            }
        }
        let end = self.end();
        if end == end_before {
            return;
        }
        while self.spans.front().is_some_and(|oldest| oldest.end <= self.gone) {
            self.spans.pop_front();
        }
        match self.spans.back_mut() {
            Some(newest) if now.saturating_duration_since(newest.first) < span => {
                (newest.last, newest.end) = (newest.last.max(now), end);
            }
            _ => self.spans.push_back(Span { first: now, last: now, end }),
        }
    }

    /// Brings near what will have to go for so many new ids: looked at right after each other, the processor waits for memory
    /// once for all of them.
    fn fetch_oldest(&self, new: usize, ids_max: usize) {
        let too_many = (self.order.len() + new).saturating_sub(ids_max);
        black_box(self.order.iter().take(too_many).filter(|id| self.ids.contains(*id)).count());
    }

    /// Forgets the ids of spans that ended at such moments.
    fn forget(&mut self, is_over: impl Fn(Instant) -> bool) {
        while let Some(oldest) = self.spans.front()
            && is_over(oldest.last)
        {
            let end = oldest.end;
            while self.gone < end {
                self.forget_oldest();
            }
            self.spans.pop_front();
        }
    }

    /// Gives back the memory of many more ids than there are.
    fn give_back(&mut self) {
        let ids = self.order.len();
        if self.ids.capacity() > SPARE_SHARE * (ids + SPARE_IDS_MIN) {
            self.ids.shrink_to(2 * ids);
            self.order.shrink_to(2 * ids);
        }
    }

    /// How many ids were ever marked.
    fn end(&self) -> u64 {
        self.gone + self.order.len() as u64
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.ids.remove(&oldest);
        }
        self.gone += 1;
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
        let (mut table, start, second) = (Table::default(), Instant::now(), Duration::from_secs(1));
        let after = |seconds| start + second * seconds;
        let insert = |table: &mut Table, keys: [u64; 2], seconds| {
            table.insert(keys.into_iter().map(|key| (key, key)), after(seconds), second, 5);
        };
        insert(&mut table, [1, 2], 0);
        insert(&mut table, [3, 4], 5);
        let forget = |table: &mut Table, now| {
            table.forget(|last| after(now).saturating_duration_since(last) >= 10 * second);
        };
        forget(&mut table, 9);
        assert_eq!(table.ids.len(), 4);
        // The oldest goes for want of place before its time is over.
        insert(&mut table, [5, 6], 9);
        assert!(!table.ids.contains(&(1, 1)) && table.ids.contains(&(2, 2)));
        forget(&mut table, 10);
        assert!(!table.ids.contains(&(2, 2)) && table.ids.contains(&(3, 3)));
        assert_eq!((table.order.len(), table.spans.len()), (4, 2));
        forget(&mut table, 19);
        assert_eq!((table.ids.len(), table.order.len(), table.spans.len()), (0, 0, 0));
    }

    #[test]
    fn what_was_marked_up_to_a_moment_is_forgotten_and_its_memory_given_back() {
        const IDS: u64 = 400_000;
        let (recent, keys) = (Recent::new(4 * IDS, YEAR), Keys::default());
        let places = || {
            let places = |table: &Mutex<Table>| {
                let table = table.lock().unwrap_or_else(PoisonError::into_inner);
                table.ids.capacity().max(table.order.capacity())
            };
            recent.tables.iter().map(places).sum::<usize>() as u64
        };
        let before = Instant::now();
        insert(&recent, &keys, 0..IDS);
        assert!(places() >= IDS);
        let marked_until = Instant::now();
        // Of another span.
        for table in &recent.tables {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.insert(std::iter::once((0, 0)), marked_until + 2 * SPAN_MAX, SPAN_MAX, usize::MAX);
        }
        recent.forget(before);
        assert_eq!(kept(&recent), IDS as usize + TABLES);
        recent.forget(marked_until);
        assert_eq!(kept(&recent), TABLES, "what was marked later stays");
        assert!(places() < IDS / SPARE_SHARE as u64, "{} places", places());
        assert!(!recent.contains(&keys.ids("t", ["0"]))[0]);
        insert(&recent, &keys, 0..1);
        assert!(recent.contains(&keys.ids("t", ["0"]))[0]);
    }

    #[test]
    fn what_is_marked_within_a_span_is_kept_for_its_time_and_at_most_a_span_more() {
        const IDS: u32 = 200;
        let (mut table, start) = (Table::default(), Instant::now());
        let (span, time_to_live) = (Duration::from_secs(1), Duration::from_secs(100));
        let marked = |id: u32| start + id * span / 7;
        for id in 0..IDS {
            table.insert(std::iter::once((0, id.into())), marked(id), span, usize::MAX);
        }
        assert!(table.spans.len() <= IDS as usize / 7 + 1, "{} spans", table.spans.len());
        for step in 0..=IDS + 7 {
            let now = marked(step) + time_to_live;
            table.forget(|last| now.saturating_duration_since(last) >= time_to_live);
            for id in 0..IDS {
                let (over, kept) = (marked(id) + time_to_live, table.ids.contains(&(0, id.into())));
                assert!(kept || over <= now, "{id} is gone before its time");
                assert!(!kept || now < over + span, "{id} is kept for more than a span beyond its time");
            }
        }
        assert_eq!((table.ids.len(), table.spans.len()), (0, 0));
    }
}

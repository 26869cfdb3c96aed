//! How much may wait for attribution, and how much of it may be one tenant's.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use crate::{config::BATCH_EVENTS_MAX, error};

/// How far attribution of one partition has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributed {
    /// The offset up to which all is attributed; nothing before it is learned.
    pub to: Option<u64>,
    /// Events from there on that are attributed too, as far as can be told.
    pub events_ahead: u64,
    /// Events in a record, where they were not counted.
    pub record_events: u64,
}

/// Tells how far attribution of a partition has come.
pub type Backlog = Arc<dyn Fn(u32) -> Attributed + Send + Sync>;

/// What waits of one tenant may be so many times what is left for all.
const SHARE_OF_LEFT: u64 = 3;

/// The bound of the backlog: of what is taken on and not attributed yet, counted by event.
///
/// What waits of a tenant is at most three times what is left for all: one that floods leaves a quarter of the bound, of
/// which the next one may take three quarters, so another always finds room. It is the dynamic threshold of shared
/// buffers (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998) with the factor 3. A tenant of which
/// nothing waits may take whatever is left.
pub(crate) struct Bound {
    attributed: Backlog,
    events_max: u64,
    waiting: Mutex<Waiting>,
}

/// Events that were taken on, until it is known what became of them.
pub(crate) struct Place<'b> {
    bound: &'b Bound,
    tenant: &'b Arc<str>,
    events: u64,
}

struct Waiting {
    /// Not in the log yet.
    under_way: u64,
    partitions: Vec<Partition>,
    /// Of each tenant what was taken on, less its part of what was attributed.
    of_tenants: HashMap<Arc<str>, u64>,
}

/// What of a partition is not attributed.
#[derive(Default)]
struct Partition {
    /// Records before this one were not counted.
    first: u64,
    /// Offset and events of those that were, in order.
    records: VecDeque<(u64, u64)>,
    /// The sum of them.
    events: u64,
}

/// What waits at a moment.
struct Level {
    /// Without what was attributed ahead.
    all: u64,
    ahead: u64,
}

// === impl Bound ===

impl Bound {
    /// The offsets are those from which on records are counted, partition by partition.
    pub(crate) fn new(attributed: Backlog, events_max: u64, first: impl Iterator<Item = u64>) -> Self {
        let partitions = first.map(|first| Partition { first, ..Partition::default() }).collect();
        let waiting = Waiting { under_way: 0, partitions, of_tenants: HashMap::new() };
        Self { attributed, events_max, waiting: Mutex::new(waiting) }
    }

    /// Whether a batch of a tenant may be taken on. It is asked before a body is parsed: under a flood most of what comes in
    /// would be parsed to be refused. Its events are counted only where not every batch would find place. The last thousandth
    /// of the bound counts as full.
    ///
    /// # Errors
    /// The backlog, or the tenant's part of it, is full.
    pub(crate) fn open(&self, tenant: &str, events: impl FnOnce() -> usize) -> Result<(), service::Error> {
        if self.room(tenant, BATCH_EVENTS_MAX as u64).is_ok() {
            return Ok(());
        }
        let least = self.events_max / 1_000 + 1;
        // A batch that is larger is refused for that, with its reason.
        let most = self.events_max.min(BATCH_EVENTS_MAX as u64).max(least);
        self.room(tenant, (events() as u64).clamp(least, most)).map(drop)
    }

    /// Takes events of a tenant on.
    ///
    /// # Errors
    /// The backlog, or the tenant's part of it, is full.
    pub(crate) fn take<'b>(&'b self, tenant: &'b Arc<str>, events: u64) -> Result<Place<'b>, service::Error> {
        let mut waiting = self.room(tenant, events)?;
        waiting.under_way += events;
        match waiting.of_tenants.get_mut(tenant) {
            Some(own) => *own += events,
            None => drop(waiting.of_tenants.insert(Arc::clone(tenant), events)),
        }
        Ok(Place { bound: self, tenant, events })
    }

    /// Counts events that the log holds.
    pub(crate) fn found(&self, partition: u32, offset: u64, events: u64) {
        let mut waiting = self.waiting.lock();
        waiting.partitions[partition as usize].add(offset, events);
    }

    fn room(&self, tenant: &str, events: u64) -> Result<MutexGuard<'_, Waiting>, service::Error> {
        let mut waiting = self.waiting.lock();
        let level = waiting.level(&self.attributed);
        let waits = level.all - level.ahead;
        let left = self.events_max.saturating_sub(waits);
        if events > left {
            return Err(error::backlog_full());
        }
        let own = waiting.of_tenants.get(tenant).map_or(0, |own| part(*own, waits, level.all));
        if own > 0 && own + events > (left - events).saturating_mul(SHARE_OF_LEFT) {
            return Err(error::backlog_full_of_tenant());
        }
        Ok(waiting)
    }
}

// === impl Place ===

impl Place<'_> {
    /// So many are in the log.
    pub(crate) fn appended(&mut self, partition: u32, offset: u64, events: u64) {
        self.events -= events;
        let mut waiting = self.bound.waiting.lock();
        waiting.under_way -= events;
        waiting.partitions[partition as usize].add(offset, events);
    }

    /// So many will not be.
    pub(crate) fn given_back(&mut self, events: u64) {
        self.events -= events;
        let mut waiting = self.bound.waiting.lock();
        waiting.under_way -= events;
        waiting.forget(self.tenant, events);
    }
}

impl Drop for Place<'_> {
    /// Whoever sent the rest did not wait for it, and the log may hold it: it counts with the last record that is known.
    fn drop(&mut self) {
        if self.events > 0 {
            let mut waiting = self.bound.waiting.lock();
            waiting.under_way -= self.events;
            let last = waiting.partitions.iter_mut().max_by_key(|partition| partition.records.len());
            if let Some(partition) = last
                && let Some((_, events)) = partition.records.back_mut()
            {
                *events += self.events;
                partition.events += self.events;
            } else {
                waiting.forget(self.tenant, self.events);
            }
        }
    }
}

// === impl Waiting ===

impl Waiting {
    /// They do not wait any more, and were not attributed.
    fn forget(&mut self, tenant: &str, events: u64) {
        if let Some(own) = self.of_tenants.get_mut(tenant) {
            *own = own.saturating_sub(events);
        }
    }

    /// Lets go what is attributed; what it was is every tenant's by what it had waiting.
    fn level(&mut self, attributed: &Backlog) -> Level {
        let counted = self.under_way + self.partitions.iter().map(|partition| partition.events).sum::<u64>();
        let (mut gone, mut level) = (0, Level { all: self.under_way, ahead: 0 });
        for (number, partition) in (0..).zip(&mut self.partitions) {
            let attributed = attributed(number);
            let to = attributed.to.unwrap_or(partition.first);
            gone += partition.let_go(to);
            let uncounted = partition.first.saturating_sub(to) * attributed.record_events;
            level.all += partition.events + uncounted;
            level.ahead += attributed.events_ahead.min(partition.events + uncounted);
        }
        if gone > 0 {
            self.of_tenants.retain(|_, own| {
                *own = part(*own, counted - gone, counted);
                *own > 0
            });
        }
        level
    }
}

// === impl Partition ===

impl Partition {
    /// Requests are answered in any order, so a record may be told of after the next one.
    fn add(&mut self, offset: u64, events: u64) {
        self.events += events;
        let behind = self.records.iter().rev().take_while(|(known, _)| *known > offset).count();
        let at = self.records.len() - behind;
        match self.records.get_mut(at.wrapping_sub(1)) {
            Some((known, its)) if *known == offset => *its += events,
            _ => self.records.insert(at, (offset, events)),
        }
    }

    /// Forgets records up to an offset; how many events they had.
    fn let_go(&mut self, to: u64) -> u64 {
        let mut gone = 0;
        while let Some((_, events)) = self.records.pop_front_if(|(offset, _)| *offset < to) {
            gone += events;
        }
        self.events -= gone;
        gone
    }
}

/// A number in the proportion of two others; nothing of nothing.
fn part(number: u64, of: u64, whole: u64) -> u64 {
    // Not more than it was, as `of` is not more than `whole`.
    (u128::from(number) * u128::from(of)).checked_div(u128::from(whole)).unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A bound of 1,000 events over two partitions, and how far they are attributed.
    fn bound() -> (Bound, Arc<Mutex<[Attributed; 2]>>) {
        bound_from([0, 0])
    }

    fn bound_from(first: [u64; 2]) -> (Bound, Arc<Mutex<[Attributed; 2]>>) {
        let attributed = Arc::new(Mutex::new([Attributed::default(); 2]));
        let told = Arc::clone(&attributed);
        let bound =
            Bound::new(Arc::new(move |partition| told.lock()[partition as usize]), 1_000, first.into_iter());
        (bound, attributed)
    }

    /// Takes events on and appends them.
    fn append(bound: &Bound, tenant: &str, partition: u32, offset: u64, events: u64) -> bool {
        let tenant = tenant.into();
        let place = bound.take(&tenant, events);
        place.map(|mut place| place.appended(partition, offset, events)).is_ok()
    }

    /// How many are taken one by one, all into one record.
    fn flood(bound: &Bound, tenant: &str, offset: u64) -> u64 {
        (0..).take_while(|_| append(bound, tenant, 0, offset, 1)).count() as u64
    }

    fn waits(bound: &Bound) -> u64 {
        let level = bound.waiting.lock().level(&bound.attributed);
        level.all - level.ahead
    }

    #[test]
    fn a_tenant_that_floods_leaves_room_for_every_other() {
        let (bound, _attributed) = bound();
        assert_eq!(["a", "b", "c", "d", "a"].map(|tenant| flood(&bound, tenant, 0)), [750, 187, 47, 12, 0]);
    }

    #[test]
    fn what_is_under_way_waits() {
        let (bound, _attributed) = bound();
        let (a, b) = ("a".into(), "b".into());
        let place = bound.take(&a, 700).unwrap();
        assert!(bound.take(&a, 51).is_err());
        assert!(bound.take(&b, 301).is_err());
        let mut other = bound.take(&b, 300).unwrap();
        assert_eq!(waits(&bound), 1_000);
        // Half were met before, and none of the rest could be appended.
        other.given_back(150);
        other.given_back(150);
        assert_eq!(waits(&bound), 700);
        drop((place, other));
        assert_eq!(waits(&bound), 0, "there is no record that it could be in");
    }

    #[test]
    fn places_come_free_as_records_are_attributed_and_as_a_batch_is_worked_on() {
        let (bound, attributed) = bound();
        for offset in 5..10 {
            assert!(append(&bound, "a", 0, offset, 100));
        }
        assert!(append(&bound, "b", 1, 3, 200));
        assert_eq!(waits(&bound), 700);
        attributed.lock()[0].to = Some(7);
        assert_eq!(waits(&bound), 500);
        attributed.lock()[0].events_ahead = 120;
        assert_eq!(waits(&bound), 380);
        // An estimate is never more than there is.
        attributed.lock()[1].events_ahead = 1_000;
        assert_eq!(waits(&bound), 180);
        let [first, second] = [10, 4].map(|to| Attributed { to: Some(to), ..Attributed::default() });
        *attributed.lock() = [first, second];
        assert_eq!(waits(&bound), 0);
        assert!(bound.waiting.lock().of_tenants.is_empty());
    }

    #[test]
    fn what_is_attributed_was_every_tenants_by_what_it_had() {
        let (bound, attributed) = bound();
        assert!(append(&bound, "a", 0, 0, 200));
        assert!(append(&bound, "a", 0, 1, 200));
        assert!(append(&bound, "b", 1, 0, 200));
        attributed.lock()[0].to = Some(1);
        assert_eq!(waits(&bound), 400);
        let own = |tenant| bound.waiting.lock().of_tenants.get(tenant).copied();
        assert_eq!(["a", "b", "c"].map(own), [Some(266), Some(133), None]);
        // 600 are left: 266 and 383 are just not more than three times 600 less 383.
        assert!(bound.take(&"a".into(), 384).is_err());
        assert!(append(&bound, "a", 0, 2, 383));
    }

    #[test]
    fn records_are_told_of_in_any_order() {
        let (bound, attributed) = bound();
        for (offset, events) in [(4, 10), (2, 20), (3, 30), (2, 1), (4, 2), (9, 5), (1, 7)] {
            bound.found(0, offset, events);
        }
        for (to, left) in [(0, 75), (2, 68), (3, 47), (4, 17), (5, 5), (9, 5), (10, 0)] {
            attributed.lock()[0].to = Some(to);
            assert_eq!(waits(&bound), left, "{to}");
        }
        // One that is attributed already goes with the next look.
        bound.found(0, 6, 3);
        assert_eq!(waits(&bound), 0);
    }

    #[test]
    fn what_a_client_did_not_wait_for_counts_until_the_last_record_is_attributed() {
        let (bound, attributed) = bound();
        assert!(append(&bound, "a", 1, 8, 10));
        drop(bound.take(&"a".into(), 100).unwrap());
        assert_eq!(waits(&bound), 110);
        attributed.lock()[1].to = Some(9);
        assert_eq!(waits(&bound), 0);
    }

    #[test]
    fn stores_that_are_made_again_have_what_they_lost_before_them() {
        let (bound, attributed) = bound_from([50, 0]);
        bound.found(0, 50, 100);
        assert_eq!(waits(&bound), 100);
        attributed.lock()[0] = Attributed { to: Some(0), events_ahead: 0, record_events: 16 };
        assert_eq!(waits(&bound), 900);
        attributed.lock()[0].to = Some(49);
        assert_eq!(waits(&bound), 116);
    }

    #[test]
    fn nothing_is_read_from_the_last_thousandth_on() {
        let (bound, _attributed) = bound();
        let mut found = 0;
        for (waiting, open) in [(998, true), (999, false), (1_000, false), (1_001, false)] {
            bound.found(0, 0, waiting - found);
            found = waiting;
            assert_eq!(bound.open("a", || 1).is_ok(), open, "{waiting}");
        }
        let small = |waiting| {
            let bound = Bound::new(Arc::new(|_| Attributed::default()), 10, [0].into_iter());
            bound.found(0, 0, waiting);
            bound.open("a", || 1)
        };
        small(9).unwrap();
        assert_eq!(small(10).unwrap_err().code_str(), "backlog_full");
    }

    #[test]
    fn nothing_is_read_of_a_tenant_that_has_its_part() {
        let (bound, _attributed) = bound();
        for (taken, open) in [(748, true), (1, false), (1, false)] {
            assert!(append(&bound, "a", 0, 0, taken));
            assert_eq!(bound.open("a", || 1).is_ok(), open, "{taken}");
        }
        assert_eq!(bound.take(&"a".into(), 1).err().unwrap().code_str(), "backlog_full");
        bound.open("b", || 1).unwrap();
    }

    #[test]
    fn nothing_is_read_of_a_batch_that_would_not_find_place() {
        let (bound, attributed) = bound();
        bound.found(0, 0, 900);
        for (events, open) in [(1, true), (100, true), (101, false), (1_000_000, false)] {
            assert_eq!(bound.open("a", || events).is_ok(), open, "{events}");
        }
        // One that is larger than the bound is read when nothing waits.
        attributed.lock()[0].to = Some(1);
        bound.open("a", || 1_000_000).unwrap();
        // Where every batch finds place nothing is counted.
        let large = Bound::new(Arc::new(|_| Attributed::default()), 1_000_000, [0].into_iter());
        large.open("a", || panic!("counted")).unwrap();
    }

    #[test]
    fn a_batch_as_large_as_the_bound_is_taken_on_when_nothing_waits() {
        let (bound, attributed) = bound();
        assert!(!append(&bound, "a", 0, 0, 1_001));
        assert!(append(&bound, "a", 0, 0, 1_000));
        assert!(!append(&bound, "a", 0, 1, 1));
        assert!(!append(&bound, "b", 0, 1, 1));
        attributed.lock()[0].to = Some(1);
        assert!(append(&bound, "a", 0, 1, 1_000));
    }
}

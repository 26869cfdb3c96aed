//! Touches of identities whose first one came lately, so that nothing is read for their journeys.
//!
//! To find a range fjall looks into every table of the first level and one of each other, however new it is what is there;
//! and of a session, an upload or a replay most conversions come soon after the first touch. An identity that had no touch
//! before comes in here with its first one, so until it is dropped all its touches are here.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Range,
};

use bytes::Bytes;
use model::IdentityHash;
use parking_lot::Mutex;

use crate::{
    folding::Folding,
    kv::{Batch, Table},
    rows,
};

/// Touches by home, bounded to [`BYTES_MAX`].
#[derive(Default)]
pub(crate) struct Recent(Mutex<Homes>);

#[derive(Default)]
struct Homes {
    writes: Writes,
    /// Of each home in the order of their keys.
    touches: HashMap<IdentityHash, Vec<Touch>, Folding>,
    /// Homes as they came in, also those that were dropped since.
    order: VecDeque<IdentityHash>,
    /// What all of it takes, about.
    bytes: usize,
}

/// A row that is stored, or is about to be.
struct Touch {
    /// The key and, behind it, the value with its checksum.
    row: Bytes,
    key_bytes: usize,
    /// The number of its write.
    write: u64,
}

/// Writes of touches by number: those up to `done` are in the tables, those up to `begun` may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Writes {
    pub(crate) done: u64,
    pub(crate) begun: u64,
}

const BYTES_MAX: usize = if cfg!(test) { 1 << 14 } else { 16 << 20 };
/// Touches of one home: with more it is dropped.
const TOUCHES_MAX: usize = 64;
/// What a home and a touch take beside the bytes of rows.
const HOME_BYTES: usize = 120;
const TOUCH_BYTES: usize = 100;

// === impl Recent ===

impl Recent {
    /// Which writes there were.
    pub(crate) fn writes(&self) -> Writes {
        self.0.lock().writes
    }

    /// Adds the touches of a batch that is about to be written; these are the homes that have none yet.
    pub(crate) fn begin(&self, batch: &Batch, first: &HashSet<IdentityHash, Folding>) {
        let homes = &mut *self.0.lock();
        if homes.writes.begun > homes.writes.done {
            // Whoever began has not come to an end.
            homes.clear();
        }
        homes.writes.begun += 1;
        for home in first {
            homes.touches.insert(*home, Vec::new());
            homes.order.push_back(*home);
            homes.bytes += HOME_BYTES;
        }
        for (table, key, value) in &batch.writes {
            if let (Table::Touches, Some(value)) = (table, value) {
                homes.add(key, value);
            }
        }
        homes.shrink();
    }

    /// What was begun is in the tables.
    pub(crate) fn done(&self) {
        let mut homes = self.0.lock();
        homes.writes.done = homes.writes.begun;
    }

    /// Forgets all touches: what was begun may be in the tables or not.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// All touches of a home with such keys, in their order, keys and values, as a view sees them that was taken when there
    /// were such writes; nothing if they have to be read.
    pub(crate) fn touches(
        &self,
        home: IdentityHash,
        keys: &Range<Vec<u8>>,
        seen: Writes,
    ) -> Option<Vec<(Bytes, Bytes)>> {
        let homes = self.0.lock();
        let touches = homes.touches.get(&home)?;
        let unclear = seen.done + 1..=seen.begun;
        if touches.iter().any(|touch| unclear.contains(&touch.write)) {
            return None;
        }
        let seen = touches.iter().filter(|touch| touch.write <= seen.done);
        let seen = seen.filter(|touch| keys.start[..] <= *touch.key() && *touch.key() < keys.end[..]);
        Some(seen.map(Touch::parts).collect())
    }
}

// === impl Homes ===

impl Homes {
    fn clear(&mut self) {
        let writes = Writes { done: self.writes.begun, ..self.writes };
        *self = Self { writes, ..Self::default() };
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        let Some(home) = rows::timeline_home(key) else { return };
        let Some(touches) = self.touches.get_mut(&home) else { return };
        if touches.len() == TOUCHES_MAX {
            self.drop_touches(home);
            return;
        }
        let row = Bytes::from([key, value].concat());
        let touch = Touch { row, key_bytes: key.len(), write: self.writes.begun };
        self.bytes += touch.bytes();
        let at = touches.partition_point(|other| other.key() < touch.key());
        touches.insert(at, touch);
    }

    /// Drops those that came in first.
    fn shrink(&mut self) {
        while self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.drop_touches(oldest);
            self.bytes -= HOME_BYTES;
        }
    }

    fn drop_touches(&mut self, home: IdentityHash) {
        let dropped = self.touches.remove(&home).unwrap_or_default();
        self.bytes -= dropped.iter().map(Touch::bytes).sum::<usize>();
    }
}

// === impl Touch ===

impl Touch {
    fn key(&self) -> &[u8] {
        &self.row[..self.key_bytes]
    }

    fn parts(&self) -> (Bytes, Bytes) {
        (self.row.slice(..self.key_bytes), self.row.slice(self.key_bytes..))
    }

    fn bytes(&self) -> usize {
        TOUCH_BYTES + self.row.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use proto::events::{Event, EventType};
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        Generation, Incoming, JourneyQuery, Position, StoreError,
        kv::Kv,
        memory::{Memory, MemoryView},
        store::Store,
    };

    const ALL: Writes = Writes { done: u64::MAX - 1, begun: u64::MAX - 1 };
    const KEY_BYTES: usize = 25;
    const CHECKSUM_BYTES: usize = 4;

    fn home(number: u8) -> IdentityHash {
        IdentityHash([number; 16])
    }

    /// Writes touches of one home at these times, each with so many bytes.
    fn write(recent: &Recent, number: u8, times: Range<i64>, bytes: usize) {
        begin(recent, number, times, bytes);
        recent.done();
    }

    fn begin(recent: &Recent, number: u8, times: Range<i64>, bytes: usize) {
        let mut batch = Batch::default();
        let first = if times.start == 0 { HashSet::from_iter([home(number)]) } else { HashSet::default() };
        for time in times {
            batch.put_encoded(Table::Touches, rows::timeline_key(home(number), time, "e"), vec![0; bytes]);
        }
        recent.begin(&batch, &first);
    }

    fn kept(recent: &Recent, number: u8, seen: Writes) -> Option<usize> {
        let keys = rows::timeline_key(home(number), i64::MIN, "")..rows::timeline_end(home(number), i64::MAX);
        recent.touches(home(number), &keys, seen).map(|touches| touches.len())
    }

    #[test]
    fn a_home_is_there_with_all_its_touches_or_not_at_all() {
        let recent = Recent::default();
        write(&recent, 1, 0..3, 9);
        write(&recent, 2, 5..9, 9);
        assert_eq!(kept(&recent, 1, ALL), Some(3));
        assert_eq!(kept(&recent, 2, ALL), None, "it had touches before");
        write(&recent, 1, 3..TOUCHES_MAX as i64, 9);
        assert_eq!(kept(&recent, 1, ALL), Some(TOUCHES_MAX));
        write(&recent, 1, 1_000..1_001, 9);
        assert_eq!(kept(&recent, 1, ALL), None);
        write(&recent, 1, 1_001..1_002, 9);
        assert_eq!(kept(&recent, 1, ALL), None, "what was dropped does not come back");
    }

    #[test]
    fn it_takes_no_more_bytes_than_its_bound_and_what_came_first_goes_first() {
        let recent = Recent::default();
        let rest = HOME_BYTES + TOUCH_BYTES + KEY_BYTES + CHECKSUM_BYTES;
        write(&recent, 1, 0..1, BYTES_MAX / 2 - rest);
        write(&recent, 2, 0..1, BYTES_MAX / 2 - rest);
        assert_eq!(recent.0.lock().bytes, BYTES_MAX);
        assert_eq!([1, 2].map(|number| kept(&recent, number, ALL)), [Some(1), Some(1)]);
        write(&recent, 3, 0..0, 0);
        assert_eq!([1, 2, 3].map(|number| kept(&recent, number, ALL)), [None, Some(1), Some(0)]);
        // One that was dropped for itself still has its place in the order.
        write(&recent, 3, 1..2 + TOUCHES_MAX as i64, 0);
        assert_eq!([2, 3].map(|number| kept(&recent, number, ALL)), [Some(1), None]);
        for number in 4..=u8::MAX {
            write(&recent, number, 0..1, 0);
            assert!(recent.0.lock().bytes <= BYTES_MAX);
        }
        let homes = recent.0.lock();
        assert!(homes.order.len() * HOME_BYTES <= BYTES_MAX && homes.touches.len() <= homes.order.len());
    }

    #[test]
    fn a_view_sees_what_was_written_when_it_was_taken() {
        let recent = Recent::default();
        write(&recent, 1, 0..1, 9);
        let before = recent.writes();
        begin(&recent, 1, 1..2, 9);
        let between = recent.writes();
        write(&recent, 9, 0..1, 9);
        assert_eq!(kept(&recent, 1, ALL), None, "the write before did not come to an end");

        write(&recent, 2, 0..1, 9);
        let one = recent.writes();
        begin(&recent, 2, 1..2, 9);
        let begun = recent.writes();
        assert_eq!(kept(&recent, 2, one), Some(1));
        assert_eq!(kept(&recent, 2, begun), None, "the tables may have it or not");
        recent.done();
        assert_eq!(
            [one, begun, recent.writes()].map(|seen| kept(&recent, 2, seen)),
            [Some(1), None, Some(2)]
        );
        assert_eq!(kept(&recent, 2, before), Some(0));
        assert_eq!((before.begun, between.begun), (1, 2));
        recent.clear();
        assert_eq!(kept(&recent, 2, ALL), None);
    }

    fn incoming(rng: &mut StdRng, offset: u64) -> Incoming {
        let touch = rng.random_bool(0.8);
        let seconds = 1_700_000_000 + rng.random_range(0..8_000_000);
        let user_id = if rng.random_bool(0.1) { rng.random_range(0..20).to_string() } else { String::new() };
        Incoming {
            position: Position { partition: 0, offset, index: 0 },
            tenant: "acme".into(),
            settings_edition: "sha256:0".into(),
            recorded_at_micros: 5,
            event: Event {
                event_id: format!("event-{offset}"),
                event_type: if touch { EventType::Click } else { EventType::Conversion }.into(),
                timestamp: Some(prost_types::Timestamp { seconds, nanos: 0 }),
                device_id: format!("device-{}", offset / 30 * 5 + rng.random_range(0..8)),
                user_id,
                ..Event::default()
            },
        }
    }

    /// Those of all conversions, in words.
    fn journeys(store: &Store<Memory>, events: u64) -> Vec<String> {
        let query = |n| JourneyQuery { tenant: "acme".into(), conversion_id: format!("event-{n}") };
        let queries: Vec<_> = (0..events).map(query).collect();
        store.journeys_now(&queries, 0).unwrap().iter().map(|journey| format!("{journey:?}")).collect()
    }

    #[test]
    fn journeys_are_the_same_as_with_nothing_in_memory() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut store = Store::new(Memory::default());
        store.reset_now(Generation { log: 1, id: 2 }).unwrap();
        let (mut events, mut most) = (0, 0);
        while events < 1_000 {
            let batch: Vec<_> =
                (events..events + rng.random_range(1..20)).map(|offset| incoming(&mut rng, offset)).collect();
            events += batch.len() as u64;
            store.record_now(0, &batch).unwrap();
            most = most.max(store.recent.0.lock().touches.len());
            let found = journeys(&store, events);
            let Store { kv, recent, .. } = store;
            let empty = Store::new(kv);
            assert_eq!(found, journeys(&empty, events));
            store = Store { recent, ..empty };
        }
        assert!(most > 20, "{most} homes at most");
    }

    /// Tables that take no writes once they are told so.
    #[derive(Default)]
    struct Refusing {
        tables: Memory,
        refuses: AtomicBool,
    }

    impl Kv for Refusing {
        type View<'a> = MemoryView<'a>;

        fn view(&self) -> MemoryView<'_> {
            self.tables.view()
        }

        fn write(&self, batch: Batch) -> Result<(), StoreError> {
            match self.refuses.load(Relaxed) {
                true => Err(StoreError::Indeterminate("refused".to_owned())),
                false => self.tables.write(batch),
            }
        }

        fn persist(&self) -> Result<(), StoreError> {
            self.tables.persist()
        }

        fn clear(&self) -> Result<(), StoreError> {
            self.tables.clear()
        }
    }

    #[test]
    fn nothing_is_kept_over_a_write_that_failed_nor_over_a_new_generation() {
        let store = Store::new(Refusing::default());
        let generation = Generation { log: 1, id: 2 };
        let homes = || store.recent.0.lock().touches.len();
        store.reset_now(generation).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let events: Vec<_> = (0..50).map(|offset| incoming(&mut rng, offset)).collect();
        store.record_now(0, &events).unwrap();
        assert!(homes() > 0);
        store.kv.refuses.store(true, Relaxed);
        store.commit_now(0, &[], 50).unwrap_err();
        assert_eq!(homes(), 0);
        store.kv.refuses.store(false, Relaxed);
        let events: Vec<_> = (50..100).map(|offset| incoming(&mut rng, offset)).collect();
        store.record_now(0, &events).unwrap();
        assert!(homes() > 0);
        store.reset_now(generation).unwrap();
        assert_eq!(homes(), 0);
    }
}

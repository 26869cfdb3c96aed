//! The event ids that are on their way into the log.
//!
//! Of two requests with the same id at the same moment one carries it, the other waits for that one's outcome.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use cache::key::{Key, KeyHasher};
use tokio::sync::Notify;

/// The ids in flight of one process.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    by_id: Mutex<ById>,
}

type ById = HashMap<Key, Arc<Flight>, KeyHasher>;

/// One request's ids on their way.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// Whether its ids became durable, once that is decided.
    durable: OnceLock<bool>,
    landed: Notify,
}

/// Who carries an id already.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// This request, for an event before.
    Own,
    /// Another request.
    Other(Arc<Flight>),
}

/// The ids that a request carries. Dropped before it landed, it has failed.
#[derive(Debug)]
pub(crate) struct Boarding<'a> {
    flights: &'a Flights,
    flight: Arc<Flight>,
    keys: Vec<Key>,
}

// === impl Flights ===

impl Flights {
    /// Takes on the ids, each with its slot, that nobody carries yet; answers the slots of the others, and who does.
    pub(crate) fn board(&self, ids: impl Iterator<Item = (u32, Key)>) -> (Boarding<'_>, Vec<(u32, Carrier)>) {
        let flight = Arc::<Flight>::default();
        let mut keys = Vec::with_capacity(ids.size_hint().1.unwrap_or_default());
        let mut repeats = Vec::new();
        let mut by_id = self.lock();
        for (slot, key) in ids {
            match by_id.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(Arc::clone(&flight));
                    keys.push(key);
                }
                Entry::Occupied(entry) if Arc::ptr_eq(entry.get(), &flight) => {
                    repeats.push((slot, Carrier::Own));
                }
                Entry::Occupied(entry) => repeats.push((slot, Carrier::Other(Arc::clone(entry.get())))),
            }
        }
        drop(by_id);
        (Boarding { flights: self, flight, keys }, repeats)
    }

    fn lock(&self) -> MutexGuard<'_, ById> {
        // Nothing under the lock can leave the map half done.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Flight ===

impl Flight {
    /// Waits for the outcome: whether its ids are durable.
    pub(crate) async fn landed(&self) -> bool {
        // From here on no landing is missed.
        let landed = self.landed.notified();
        if self.durable.get().is_none() {
            landed.await;
        }
        self.durable.get().copied().unwrap_or_default()
    }
}

// === impl Boarding ===

impl Boarding<'_> {
    /// The ids are durable, and marked as seen.
    pub(crate) fn durable(mut self) {
        self.land(true);
    }

    fn land(&mut self, durable: bool) {
        if !self.keys.is_empty() {
            let mut by_id = self.flights.lock();
            self.keys.drain(..).for_each(|key| drop(by_id.remove(&key)));
        }
        // The first outcome is the one that counts.
        if self.flight.durable.set(durable).is_ok() {
            self.flight.landed.notify_waiters();
        }
    }
}

impl Drop for Boarding<'_> {
    fn drop(&mut self) {
        self.land(false);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(id: &str) -> Key {
        (0, u64::from(id.as_bytes()[0]))
    }

    fn board<'f>(flights: &'f Flights, ids: &[&str]) -> (Boarding<'f>, Vec<(u32, Carrier)>) {
        flights.board((0..).zip(ids.iter().map(|id| key(id))))
    }

    #[tokio::test]
    async fn one_carries_and_the_others_share_its_outcome() {
        let flights = Flights::default();
        let (first, repeats) = board(&flights, &["a", "b", "a"]);
        assert!(matches!(repeats[..], [(2, Carrier::Own)]), "{repeats:?}");
        let (second, repeats) = board(&flights, &["b", "c"]);
        let [(0, Carrier::Other(flight))] = &repeats[..] else { panic!("{repeats:?}") };
        first.durable();
        assert!(flight.landed().await);
        // What is over is over: the id is free again, and the other request keeps its own.
        let (third, repeats) = board(&flights, &["a", "b", "c"]);
        let [(2, Carrier::Other(flight))] = &repeats[..] else { panic!("{repeats:?}") };
        drop(second);
        assert!(!flight.landed().await);
        drop(third);
        assert!(flights.lock().is_empty());
    }
}

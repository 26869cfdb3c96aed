//! The event ids that are on their way into the log.
//!
//! Of two requests with the same id at the same moment one carries it, the other waits for that one's outcome.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use cache::key::{Key, KeyHasher, Keys};
use tokio::sync::Notify;

/// The ids in flight of one process.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    by_id: Mutex<ById>,
    keys: Keys,
}

type ById = HashMap<Key, Arc<Flight>, KeyHasher>;

/// One request's ids on their way.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// Whether its ids became durable, once that is decided.
    durable: OnceLock<bool>,
    landed: Notify,
}

/// Who carries an id.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// This request.
    Own,
    /// This request already, for an event before.
    Repeat,
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
    /// Takes on what nobody carries yet; answers for each id who does.
    pub(crate) fn board<'a>(
        &self,
        tenant: &str,
        ids: impl Iterator<Item = &'a str>,
    ) -> (Boarding<'_>, Vec<Carrier>) {
        let asked: Vec<Key> = ids.map(|id| self.keys.key(tenant, id)).collect();
        let flight = Arc::<Flight>::default();
        let mut keys = Vec::with_capacity(asked.len());
        let mut by_id = self.lock();
        let carriers = asked
            .into_iter()
            .map(|key| match by_id.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(Arc::clone(&flight));
                    keys.push(key);
                    Carrier::Own
                }
                Entry::Occupied(entry) if Arc::ptr_eq(entry.get(), &flight) => Carrier::Repeat,
                Entry::Occupied(entry) => Carrier::Other(Arc::clone(entry.get())),
            })
            .collect();
        drop(by_id);
        (Boarding { flights: self, flight, keys }, carriers)
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

    fn other(carrier: &Carrier) -> Arc<Flight> {
        let Carrier::Other(flight) = carrier else { panic!("{carrier:?}") };
        Arc::clone(flight)
    }

    #[tokio::test]
    async fn one_carries_and_the_others_share_its_outcome() {
        let flights = Flights::default();
        let (first, carriers) = flights.board("t", ["a", "b", "a"].into_iter());
        assert!(matches!(carriers[..], [Carrier::Own, Carrier::Own, Carrier::Repeat]));
        let (second, carriers) = flights.board("t", ["b", "c"].into_iter());
        assert!(matches!(carriers[1], Carrier::Own));
        let flight = other(&carriers[0]);
        first.durable();
        assert!(flight.landed().await);
        // What is over is over: the id is free again, and the other request keeps its own.
        let (third, carriers) = flights.board("t", ["a", "b", "c"].into_iter());
        assert!(matches!(carriers[..2], [Carrier::Own, Carrier::Own]));
        let flight = other(&carriers[2]);
        drop(second);
        assert!(!flight.landed().await);
        drop(third);
        assert!(flights.lock().is_empty());
    }

    #[test]
    fn tenants_do_not_meet() {
        let flights = Flights::default();
        let (_first, _) = flights.board("t", ["a"].into_iter());
        let (_second, carriers) = flights.board("u", ["a"].into_iter());
        assert!(matches!(carriers[..], [Carrier::Own]));
    }
}

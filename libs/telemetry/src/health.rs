//! Who is ready: components report, probes read.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// The registry of a process. Clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    states: Arc<watch::Sender<States>>,
}

/// What one component says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whether it can do its work.
    pub ready: bool,
    /// Why not; empty when ready.
    pub reason: Cow<'static, str>,
}

/// The voice of one component; it is not ready until it says so.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    key: Key,
}

/// (service, component). The service is its gRPC name, such as `attribution.ingestion.v1.IngestionService`.
pub type Key = (&'static str, &'static str);

/// All components.
pub type States = BTreeMap<Key, State>;

// === impl Health ===

impl Default for Health {
    fn default() -> Self {
        Self { states: Arc::new(watch::channel(States::new()).0) }
    }
}

impl Health {
    /// Adds a component, not ready yet.
    pub fn register(&self, service: &'static str, component: &'static str) -> Component {
        let component = Component { health: self.clone(), key: (service, component) };
        component.not_ready("starting");
        component
    }

    /// What every component says now.
    pub fn states(&self) -> States {
        self.states.borrow().clone()
    }

    /// Whether all components are ready.
    pub fn is_ready(&self) -> bool {
        self.states.borrow().values().all(|state| state.ready)
    }

    /// Whether all components of one service are ready; `None` for a service without any.
    pub fn service_is_ready(&self, service: &str) -> Option<bool> {
        let states = self.states.borrow();
        let mut of_service = states.iter().filter(|((name, _), _)| *name == service).peekable();
        of_service.peek()?;
        Some(of_service.all(|(_, state)| state.ready))
    }

    /// Wakes at every change.
    pub fn subscribe(&self) -> watch::Receiver<States> {
        self.states.subscribe()
    }

    fn set(&self, key: Key, state: State) {
        self.states.send_if_modified(|states| {
            if states.get(&key) == Some(&state) {
                return false;
            }
            states.insert(key, state);
            true
        });
    }
}

// === impl Component ===

impl Component {
    /// It can do its work.
    pub fn ready(&self) {
        self.health.set(self.key, State { ready: true, reason: Cow::Borrowed("") });
    }

    /// It cannot, and why: shown to anyone who asks, so no internals.
    pub fn not_ready(&self, reason: impl Into<Cow<'static, str>>) {
        self.health.set(self.key, State { ready: false, reason: reason.into() });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_service_is_ready_when_all_its_components_are() {
        let health = Health::default();
        assert!(health.is_ready());
        let log = health.register("a", "log");
        let store = health.register("a", "store");
        let other = health.register("b", "warehouse");
        assert!(!health.is_ready());
        log.ready();
        assert_eq!(health.service_is_ready("a"), Some(false));
        store.ready();
        assert_eq!(health.service_is_ready("a"), Some(true));
        assert_eq!(health.service_is_ready("b"), Some(false));
        assert_eq!(health.service_is_ready("c"), None);
        other.ready();
        assert!(health.is_ready());
        log.not_ready("the disk is full");
        assert_eq!(health.states()[&("a", "log")].reason, "the disk is full");
        assert!(!health.is_ready());
    }

    #[test]
    fn only_a_change_wakes() {
        let health = Health::default();
        let log = health.register("a", "log");
        let mut changes = health.subscribe();
        changes.mark_unchanged();
        log.not_ready("starting");
        assert!(!changes.has_changed().unwrap());
        log.ready();
        assert!(changes.has_changed().unwrap());
    }
}

//! The health of work on several partitions: what holds up one of them is told until that one goes on.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use telemetry::health::Component;

/// Which partitions are held up, and why.
pub(crate) struct Held {
    component: Component,
    partitions: Mutex<BTreeMap<u32, String>>,
}

impl Held {
    pub(crate) fn new(component: Component) -> Arc<Self> {
        Arc::new(Self { component, partitions: Mutex::default() })
    }

    /// A partition does not go on, and why not.
    pub(crate) fn up(&self, partition: u32, reason: impl Into<String>) {
        self.change(|partitions| drop(partitions.insert(partition, reason.into())));
    }

    /// A partition goes on, or is not this process's any more.
    pub(crate) fn goes_on(&self, partition: u32) {
        self.change(|partitions| drop(partitions.remove(&partition)));
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, String>)) {
        let mut partitions = self.partitions.lock();
        change(&mut partitions);
        match partitions.values().next() {
            Some(reason) => self.component.not_ready(reason.clone()),
            None => self.component.ready(),
        }
    }
}

#[cfg(test)]
mod tests {
    use telemetry::health::Health;

    use super::*;

    #[test]
    fn one_partition_that_goes_on_does_not_hide_another() {
        let health = Health::default();
        let held = Held::new(health.register("a", "worker"));
        let told = || health.states()[&("a", "worker")].reason.clone();
        held.goes_on(1);
        assert!(health.is_ready());
        held.up(1, "the store is away");
        held.up(2, "the log is away");
        held.goes_on(3);
        assert_eq!(told(), "the store is away");
        held.goes_on(1);
        assert_eq!(told(), "the log is away");
        held.goes_on(2);
        assert!(health.is_ready());
    }
}

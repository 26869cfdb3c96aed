//! How much may wait for attribution, and how much of it may be one tenant's.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::error;

/// Tells how many events are appended and not yet attributed.
pub type Backlog = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The bound of the backlog.
///
/// From the half of it on, a tenant may take no more than what is still left for all: one that floods leaves as much as
/// it has, so another always finds room. It is the dynamic threshold of shared buffers (Choudhury and Hahne,
/// IEEE/ACM Transactions on Networking 6(2), 1998) with the factor 1.
pub(crate) struct Bound {
    queued: Backlog,
    events_max: u64,
    /// What each tenant has taken since the backlog was last below its half.
    taken: Mutex<HashMap<Arc<str>, u64>>,
}

impl Bound {
    pub(crate) fn new(queued: Backlog, events_max: u64) -> Self {
        Self { queued, events_max, taken: Mutex::default() }
    }

    /// Whether anything of a tenant may be taken on. It is asked before a body is parsed: under a flood most of what comes in
    /// would be parsed to be refused. The last thousandth of the bound counts as full, since what waits goes down in steps.
    ///
    /// # Errors
    /// The backlog, or the tenant's part of it, is full.
    pub(crate) fn open(&self, tenant: &Arc<str>) -> Result<(), service::Error> {
        let least = self.events_max / 1_000 + 1;
        let left = self.left();
        if left < least {
            return Err(error::backlog_full());
        }
        if self.is_open_to_all(left) {
            return Ok(());
        }
        let own = self.taken.lock().get(tenant).copied().unwrap_or(0);
        if own + least > left { Err(error::backlog_full_of_tenant()) } else { Ok(()) }
    }

    /// Takes events of a tenant on.
    ///
    /// # Errors
    /// The backlog, or the tenant's part of it, is full.
    pub(crate) fn take(&self, tenant: &Arc<str>, events: u64) -> Result<(), service::Error> {
        let left = self.left();
        if events > left {
            return Err(error::backlog_full());
        }
        let mut taken = self.taken.lock();
        if self.is_open_to_all(left) {
            taken.clear();
            return Ok(());
        }
        let own = taken.entry(tenant.clone()).or_default();
        if *own + events > left {
            return Err(error::backlog_full_of_tenant());
        }
        *own += events;
        Ok(())
    }

    fn left(&self) -> u64 {
        self.events_max.saturating_sub((self.queued)())
    }

    fn is_open_to_all(&self, left: u64) -> bool {
        left > self.events_max / 2
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A bound of 1,000 events, and the backlog that it sees.
    fn bound() -> (Bound, Arc<AtomicU64>) {
        let queued = Arc::new(AtomicU64::new(0));
        let seen = queued.clone();
        (Bound::new(Arc::new(move || seen.load(Ordering::Relaxed)), 1_000), queued)
    }

    #[test]
    fn a_tenant_that_floods_leaves_room_for_every_other() {
        let (bound, queued) = bound();
        let mut flood = |tenant: &str| {
            let mut taken = 0;
            while bound.take(&tenant.into(), 1).is_ok() {
                queued.fetch_add(1, Ordering::Relaxed);
                taken += 1;
            }
            taken
        };
        // Up to the half all of it is anybody's; then half of what is left, and at the end nothing is.
        assert_eq!(["a", "b", "c", "d", "a"].map(&mut flood), [750, 125, 63, 31, 0]);
    }

    #[test]
    fn nothing_is_read_from_the_last_thousandth_on() {
        let (bound, queued) = bound();
        for (waiting, open) in [(998, true), (999, false), (1_000, false), (1_001, false)] {
            queued.store(waiting, Ordering::Relaxed);
            assert_eq!(bound.open(&"a".into()).is_ok(), open, "{waiting}");
        }
        let small = |waiting| Bound::new(Arc::new(move || waiting), 10).open(&"a".into());
        small(9).unwrap();
        assert_eq!(small(10).unwrap_err().code_str(), "backlog_full");
    }

    #[test]
    fn nothing_is_read_of_a_tenant_that_has_its_part() {
        let (bound, queued) = bound();
        let (flood, other) = (Arc::from("a"), Arc::from("b"));
        queued.store(600, Ordering::Relaxed);
        for (taken, open) in [(398, true), (1, false), (1, false)] {
            bound.take(&flood, taken).unwrap();
            assert_eq!(bound.open(&flood).is_ok(), open, "{taken}");
        }
        bound.open(&other).unwrap();
        queued.store(499, Ordering::Relaxed);
        bound.open(&flood).unwrap();
    }

    #[test]
    fn below_the_half_nothing_is_held_against_a_tenant() {
        let (bound, queued) = bound();
        let tenant = Arc::from("a");
        queued.store(600, Ordering::Relaxed);
        bound.take(&tenant, 400).unwrap();
        assert_eq!(bound.take(&tenant, 1).unwrap_err().code_str(), "backlog_full");
        queued.store(499, Ordering::Relaxed);
        bound.take(&tenant, 501).unwrap();
        queued.store(600, Ordering::Relaxed);
        bound.take(&tenant, 400).unwrap();
    }

    #[test]
    fn the_whole_is_bounded() {
        let (bound, queued) = bound();
        queued.store(990, Ordering::Relaxed);
        assert!(bound.take(&"a".into(), 11).is_err());
        bound.take(&"a".into(), 10).unwrap();
        queued.store(1_001, Ordering::Relaxed);
        assert!(bound.take(&"b".into(), 1).is_err());
    }
}

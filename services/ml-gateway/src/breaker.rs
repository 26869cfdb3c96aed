//! Refuses the calls of a model that fails, for a while.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::Config;

/// Refuses calls at once after failures in a row, until a pause has passed.
pub(crate) struct Breaker {
    failures_max: u32,
    pause: Duration,
    failures: AtomicU32,
    refused_until: Mutex<Option<Instant>>,
}

// === impl Breaker ===

impl Breaker {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            failures_max: config.failures_in_a_row_max.max(1),
            pause: Duration::from_millis(config.failures_pause_millis),
            failures: AtomicU32::new(0),
            refused_until: Mutex::new(None),
        }
    }

    /// Whether calls are refused now. After the pause one call is let through, and the pause begins anew for the others.
    pub(crate) fn refuses(&self) -> bool {
        let mut until = self.refused_until.lock();
        match *until {
            Some(moment) if Instant::now() < moment => true,
            Some(_) => {
                *until = Some(Instant::now() + self.pause);
                false
            }
            None => false,
        }
    }

    pub(crate) fn note(&self, done: bool) {
        if done {
            self.failures.store(0, Ordering::Relaxed);
            *self.refused_until.lock() = None;
        } else if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= self.failures_max {
            *self.refused_until.lock() = Some(Instant::now() + self.pause);
        }
    }
}

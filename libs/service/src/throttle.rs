//! How often the same thing may be logged.

use std::{
    sync::LazyLock,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Lets through so many a second; what it holds back is counted. A flood of refusals must not become one of log lines.
pub(crate) struct Throttle {
    lines_per_second_max: u64,
    second: AtomicU64,
    in_second: AtomicU64,
    left_out: AtomicU64,
}

impl Throttle {
    pub(crate) const fn new(lines_per_second_max: u64) -> Self {
        Self {
            lines_per_second_max,
            second: AtomicU64::new(0),
            in_second: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// How many were left out since the last line, when there may be one now.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(BEGIN.elapsed().as_secs())
    }

    /// Two calls at the turn of a second may let one too many through.
    fn pass_at(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.in_second.store(0, Ordering::Relaxed);
        }
        if self.in_second.fetch_add(1, Ordering::Relaxed) < self.lines_per_second_max {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_pass_in_a_second_and_the_next_says_how_many_did_not() {
        let throttle = Throttle::new(2);
        let pass = |second| throttle.pass_at(second);
        assert_eq!([pass(0), pass(0), pass(0), pass(0)], [Some(0), Some(0), None, None]);
        assert_eq!([pass(1), pass(1), pass(1)], [Some(2), Some(0), None]);
        assert_eq!([pass(7), pass(7)], [Some(1), Some(0)]);
    }
}

//! What a connection is doing: how many requests it has, and since when none.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::guarded::Guarded;

/// The requests of one connection.
#[derive(Default)]
pub(crate) struct Activity(Mutex<State>);

#[derive(Default)]
struct State {
    requests: usize,
    /// When the last one ended; absent: there was none yet.
    ended: Option<Instant>,
}

/// One request, until it is answered to the last byte or given up.
pub(crate) struct Active(Arc<Activity>);

// === impl Activity ===

impl Activity {
    pub(crate) fn begin(self: &Arc<Self>) -> Active {
        self.0.lock().requests += 1;
        Active(self.clone())
    }

    /// When to look again whether the connection has been idle for so long; `None` if it has, or had no request at all.
    pub(crate) fn idle_again_at(&self, now: Instant, idle: Duration) -> Option<Instant> {
        let state = self.0.lock();
        let moment = if state.requests > 0 { now } else { state.ended? } + idle;
        (moment > now).then_some(moment)
    }
}

// === impl Active ===

impl Active {
    /// The body of its answer, which keeps it active.
    pub(crate) fn until_read(self, body: Body) -> Guarded<Self> {
        Guarded::new(body, self)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.requests -= 1;
        state.ended = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_connection_is_idle_from_the_end_of_its_last_answer_on() {
        const IDLE: Duration = Duration::from_secs(1_000);
        let activity = Arc::new(Activity::default());
        let now = Instant::now();
        assert_eq!(activity.idle_again_at(now, IDLE), None, "no request at all");
        let (first, second) = (activity.begin(), activity.begin());
        drop(first);
        let later = Instant::now() + 2 * IDLE;
        assert_eq!(activity.idle_again_at(later, IDLE), Some(later + IDLE), "one is not answered yet");
        let body = second.until_read(Body::from("x"));
        assert_eq!(activity.idle_again_at(later, IDLE), Some(later + IDLE), "its answer is not read yet");
        let before = Instant::now();
        drop(body);
        let after = Instant::now();
        let end = activity.idle_again_at(after, IDLE).unwrap();
        assert!((before + IDLE..=after + IDLE).contains(&end));
        assert_eq!(activity.idle_again_at(end, IDLE), None);
        assert_eq!(activity.idle_again_at(end - Duration::from_nanos(1), IDLE), Some(end));
    }
}

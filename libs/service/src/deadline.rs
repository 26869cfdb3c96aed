//! Until when a request is worked on: known to whatever works for it, so that calls to peers don't outlive it.

use std::{
    future::Future,
    time::{Duration, Instant},
};

tokio::task_local! {
    static DEADLINE: Instant;
}

/// Works with a deadline this far from now; one that was set before and is earlier stays.
pub(crate) async fn within<F: Future>(patience: Duration, work: F) -> F::Output {
    let Some(mut deadline) = Instant::now().checked_add(patience) else { return work.await };
    if let Ok(before) = DEADLINE.try_with(|deadline| *deadline) {
        deadline = deadline.min(before);
    }
    DEADLINE.scope(deadline, work).await
}

/// The time that is left of the request being worked on; `None`: there is none.
pub(crate) fn left() -> Option<Duration> {
    DEADLINE.try_with(|deadline| deadline.saturating_duration_since(Instant::now())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_earlier_deadline_stays() {
        assert_eq!(left(), None);
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
        within(minute, async {
            assert!(left().is_some_and(|left| left <= minute));
            within(hour, async { assert!(left().is_some_and(|left| left <= minute)) }).await;
            within(Duration::ZERO, async { assert_eq!(left(), Some(Duration::ZERO)) }).await;
        })
        .await;
    }
}

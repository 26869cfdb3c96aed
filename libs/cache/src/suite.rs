//! What every implementation of [`Cache`] must do. Run it in the tests of each.

// A failing check is a failing test.
#![allow(clippy::unwrap_used)]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use crate::{Cache, CacheError, IDS_MAX, Quota, Taken, key::Keys};

/// Runs the suite; `open` makes an empty cache each time, with default parameters.
///
/// # Panics
/// On the first thing that is not as the contract says.
pub async fn run(open: impl Fn() -> Arc<dyn Cache>) {
    ids_are_seen_once_marked_and_only_then(&*open()).await;
    tenants_share_nothing(&*open()).await;
    a_call_takes_the_largest_batch_and_no_more(&*open()).await;
    a_quota_gives_its_burst_and_then_asks_to_wait(&*open()).await;
    a_refusal_takes_nothing(&*open()).await;
    a_changed_quota_counts_at_once(&*open()).await;
    many_takers_get_no_more_than_the_burst(open()).await;
}

async fn ids_are_seen_once_marked_and_only_then(cache: &dyn Cache) {
    let keys = Keys::default();
    let ids = |texts: &[&'static str]| keys.ids("t", texts.iter().copied());
    assert_eq!(cache.seen("t", &[]).await.unwrap(), [false; 0]);
    assert_eq!(cache.seen("t", &ids(&["a", "b"])).await.unwrap(), [false, false]);
    cache.mark("t", &ids(&["b"])).await.unwrap();
    cache.mark("t", &ids(&["b"])).await.unwrap();
    cache.mark("t", &[]).await.unwrap();
    assert_eq!(cache.seen("t", &ids(&["a", "b", "a", "b"])).await.unwrap(), [false, true, false, true]);
    assert_eq!(cache.seen("t", &ids(&["B", "b ", ""])).await.unwrap(), [false; 3]);
}

async fn tenants_share_nothing(cache: &dyn Cache) {
    let keys = Keys::default();
    cache.mark("t", &keys.ids("t", ["a"])).await.unwrap();
    assert_eq!(cache.seen("u", &keys.ids("u", ["a"])).await.unwrap(), [false]);
    cache.mark("ab", &keys.ids("ab", ["c"])).await.unwrap();
    assert_eq!(cache.seen("a", &keys.ids("a", ["bc"])).await.unwrap(), [false]);
    assert_eq!(cache.take("t", count(10), slow(10)).await.unwrap(), Taken::Yes);
    assert_ne!(cache.take("t", count(10), slow(10)).await.unwrap(), Taken::Yes);
    assert_eq!(cache.take("u", count(10), slow(10)).await.unwrap(), Taken::Yes);
}

async fn a_call_takes_the_largest_batch_and_no_more(cache: &dyn Cache) {
    let ids: Vec<String> = (0..=IDS_MAX).map(|i| i.to_string()).collect();
    let ids = Keys::default().ids("t", ids.iter().map(String::as_str));
    let (full, past) = (&ids[..IDS_MAX], &ids[..]);
    cache.mark("t", full).await.unwrap();
    assert!(cache.seen("t", full).await.unwrap().into_iter().all(|seen| seen));
    assert!(matches!(cache.mark("t", past).await, Err(CacheError::TooManyIds(_))));
    assert!(matches!(cache.seen("t", past).await, Err(CacheError::TooManyIds(_))));
}

async fn a_quota_gives_its_burst_and_then_asks_to_wait(cache: &dyn Cache) {
    for _ in 0..10 {
        assert_eq!(cache.take("t", count(1), slow(10)).await.unwrap(), Taken::Yes);
    }
    match cache.take("t", count(1), slow(10)).await.unwrap() {
        Taken::After(wait) => {
            assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        }
        other => panic!("past the burst: {other:?}"),
    }
    assert_eq!(cache.take("u", count(11), slow(10)).await.unwrap(), Taken::Never);
}

async fn a_refusal_takes_nothing(cache: &dyn Cache) {
    assert_eq!(cache.take("t", count(5), slow(10)).await.unwrap(), Taken::Yes);
    for _ in 0..100 {
        assert_ne!(cache.take("t", count(10), slow(10)).await.unwrap(), Taken::Yes);
    }
    assert_eq!(cache.take("t", count(5), slow(10)).await.unwrap(), Taken::Yes);
}

async fn a_changed_quota_counts_at_once(cache: &dyn Cache) {
    assert_eq!(cache.take("t", count(10), slow(10)).await.unwrap(), Taken::Yes);
    assert_eq!(cache.take("t", count(20), slow(20)).await.unwrap(), Taken::Yes);
    assert_ne!(cache.take("t", count(1), slow(20)).await.unwrap(), Taken::Yes);
}

async fn many_takers_get_no_more_than_the_burst(cache: Arc<dyn Cache>) {
    let takers: Vec<_> = (0..8)
        .map(|_| {
            let cache = cache.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let takes = (0..200).filter(|_| {
                    let taken = runtime.block_on(cache.take("t", count(1), slow(100)));
                    taken.unwrap() == Taken::Yes
                });
                takes.count()
            })
        })
        .collect();
    let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
    // One a second comes back while the test runs.
    assert!((100..110).contains(&taken), "{taken}");
}

/// One event a second, so that a test sees the burst alone.
fn slow(burst: u32) -> Quota {
    Quota { events_per_second: count(1), burst_events: count(burst) }
}

fn count(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

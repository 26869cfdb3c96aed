//! The shared cache on real servers: one node, a cluster of three, and nodes that go away.

#![allow(clippy::unwrap_used)]

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use cache::{
    Cache, Quota, Taken,
    key::{Id, Keys},
    suite,
};
use testkit::{
    process::eventually,
    redis::{Cluster, Node, Redis},
    tls::{CERTIFICATE, Front, OTHER_CERTIFICATE},
};

/// Longer than anything takes on a busy machine.
const PATIENT: &str = "timeout_millis=60000";

/// A cache of its own on a server that others use too.
fn fresh(url: &str) -> Arc<dyn Cache> {
    static PREFIX: AtomicU32 = AtomicU32::new(0);
    let prefix = PREFIX.fetch_add(1, Ordering::Relaxed);
    cache::open(&format!("{url}?{PATIENT}&prefix=test-{}-{prefix}:", std::process::id())).unwrap()
}

/// Ids as a pod hands them over: the secrets of its keys are its own, and mean nothing to the server.
fn ids<const N: usize>(texts: [&str; N]) -> Vec<Id<'_>> {
    Keys::default().ids("t", texts)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_passes_the_suite() {
    let redis = Redis::start().await;
    let url = redis.url();
    suite::run(move || fresh(&url)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_passes_the_suite() {
    let cluster = Cluster::start().await;
    let url = cluster.url();
    suite::run(move || fresh(&url)).await;
}

/// Every node is reached over TLS, the ones too that the first one tells of.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_over_tls_is_used_by_those_who_trust_it() {
    let cluster = Cluster::start_over_tls().await;
    let open = |ca: &str, millis: u32| {
        cache::open(&format!("{}?ca_file={ca}&timeout_millis={millis}", cluster.url())).unwrap()
    };
    let texts: Vec<String> = (0..100).map(|id| id.to_string()).collect();
    let ids = Keys::default().ids("t", texts.iter().map(String::as_str));
    let cache = open(CERTIFICATE, 60_000);
    cache.mark("t", &ids[1..]).await.unwrap();
    let seen: Vec<bool> = (0..100).map(|id| id > 0).collect();
    assert_eq!(cache.seen("t", &ids).await.unwrap(), seen);
    let cache = open(OTHER_CERTIFICATE, 2_000);
    eventually("it is not trusted", async || {
        cache.seen("t", &ids).await.unwrap_err().to_string().contains("UnknownIssuer")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_share_what_was_seen_and_what_was_taken() {
    let redis = Redis::start().await;
    let url = format!("{}?{PATIENT}&prefix=shared-{}:", redis.url(), std::process::id());
    let [one, other] = [cache::open(&url).unwrap(), cache::open(&url).unwrap()];
    one.mark("t", &ids(["a"])).await.unwrap();
    assert_eq!(other.seen("t", &ids(["a", "b"])).await.unwrap(), [true, false]);
    let quota = Quota { events_per_second: NonZeroU32::MIN, burst_events: NonZeroU32::new(10).unwrap() };
    let ten = NonZeroU32::new(10).unwrap();
    assert_eq!(one.take("t", ten, quota).await.unwrap(), Taken::Yes);
    assert!(matches!(other.take("t", ten, quota).await.unwrap(), Taken::After(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_forgotten_after_its_time() {
    let redis = Redis::start().await;
    let url = format!("{}?{PATIENT}&seen_ttl=1s&prefix=ttl-{}:", redis.url(), std::process::id());
    let cache = cache::open(&url).unwrap();
    cache.mark("t", &ids(["a"])).await.unwrap();
    eventually("it is forgotten", async || cache.seen("t", &ids(["a"])).await.unwrap() == [false]).await;
}

/// Restarted, flushed and paused: calls fail or forget, none says yes to what was not marked, and afterwards all is
/// well again without a new connection of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_used_again_when_it_is_back() {
    let mut node = Node::start().await;
    let cache = cache::open(&format!("redis://{}?timeout_millis=200", node.address())).unwrap();
    let works = async |id: &str| {
        eventually("it is used again", async || {
            cache.mark("t", &ids([id])).await.is_ok()
                && cache.seen("t", &ids([id])).await.is_ok_and(|seen| seen == [true])
        })
        .await;
    };
    let quota = Quota { events_per_second: NonZeroU32::MIN, burst_events: NonZeroU32::MIN };
    let took = async || {
        eventually("a quota is kept", async || cache.take("t", NonZeroU32::MIN, quota).await.is_ok()).await;
    };
    works("first").await;
    took().await;

    node.kill();
    eventually("it is away", async || cache.seen("t", &ids(["first"])).await.is_err()).await;
    // It comes back empty, and without the script.
    node.restart().await;
    works("second").await;
    assert_ne!(cache.seen("t", &ids(["first"])).await.unwrap_or_default(), [true]);
    took().await;

    assert_eq!(node.ask("FLUSHALL").as_deref(), Some("+OK"));
    assert_eq!(node.ask("SCRIPT FLUSH").as_deref(), Some("+OK"));
    assert_ne!(cache.seen("t", &ids(["second"])).await.unwrap_or_default(), [true]);
    works("third").await;
    took().await;

    node.pause();
    eventually("it is away", async || cache.seen("t", &ids(["third"])).await.is_err()).await;
    node.resume();
    works("fourth").await;
}

/// TLS and a password, of a server that asks for both.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_tls_with_a_password_is_used_by_those_who_know_it() {
    let node = Node::start_with_password("p@ss").await;
    let tls = Front::start(&node.address()).await;
    let url = |password: &str, ca: &str, millis: u32| {
        let address = tls.address();
        cache::open(&format!("rediss://:{password}@{address}?timeout_millis={millis}&ca_file={ca}")).unwrap()
    };
    let cache = url("p%40ss", CERTIFICATE, 60_000);
    cache.mark("t", &ids(["a"])).await.unwrap();
    assert_eq!(cache.seen("t", &ids(["a", "b"])).await.unwrap(), [true, false]);
    // Whose password is wrong, and who does not trust the server, is told so, and nothing of the password.
    for (password, ca, says) in
        [("wr%6Fng", CERTIFICATE, "WRONGPASS"), ("p%40ss", OTHER_CERTIFICATE, "UnknownIssuer")]
    {
        let cache = url(password, ca, 2_000);
        eventually(says, async || {
            let error = cache.seen("t", &ids(["a"])).await.unwrap_err().to_string();
            assert!(
                error.contains("cache") && !error.contains("wrong") && !error.contains("p@ss"),
                "{error}"
            );
            error.contains(says)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_at_first_is_found_later() {
    let mut node = Node::start().await;
    node.kill();
    let cache = cache::open(&format!("redis://{}?timeout_millis=200", node.address())).unwrap();
    assert!(cache.seen("t", &ids(["a"])).await.is_err());
    node.restart().await;
    eventually("it is found", async || cache.mark("t", &ids(["a"])).await.is_ok()).await;
}

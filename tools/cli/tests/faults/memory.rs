//! The process gets no more memory from the system.

use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::{launch, ledger::Ledger, load::Load, seeded};

/// Requests of 7 KB events: more than what is free within what the process has.
const REQUESTS: usize = 3_000;
const PADDING: usize = 7_000;

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_it_refuses_or_dies_and_loses_nothing() {
    let mut rng = seeded("no memory");
    let folder = tempfile::tempdir().unwrap();
    let start = launch(folder.path());
    let mut platform = start.ready().await;
    let mut ledger = Ledger::default();
    let load = Load::start(&platform, "before", &mut rng, 0);
    load.acknowledges(30).await;
    ledger.merge(load.stop(&platform).await);

    // It keeps what it has.
    let none = Rlimit { current: Some(0), maximum: None };
    prlimit(Some(platform.pid()), Resource::As, none).unwrap();
    let load = Load::start(&platform, "without", &mut rng, PADDING);
    load.acknowledges(REQUESTS).await;
    let known = load.stop(&platform).await;
    println!("{} requests were acknowledged without new memory", known.acknowledged());
    assert!(known.acknowledged() < REQUESTS, "it never wanted memory");
    ledger.merge(known);
    match platform.has_ended() {
        Some(ended) => println!("it ended: {ended}"),
        None => platform.signal(Signal::KILL),
    }
    platform.ended().await;

    let platform = start.ready().await;
    ledger.resend(&platform, &mut rng).await;
    ledger.check_report(&platform).await;
    ledger.check_journeys(&platform).await;
    platform.stop().await;
}

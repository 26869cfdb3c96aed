//! Stopped under load, it drains: what it answered is kept, and it ends in order.

use rand::RngExt as _;
use rustix::process::Signal;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{launch, ledger::Ledger, load::Load, rounds, seeded};

#[tokio::test(flavor = "multi_thread")]
async fn stopped_under_load_it_drains_and_ends_in_order() {
    let mut rng = seeded("stop under load");
    let folder = tempfile::tempdir().unwrap();
    let start = launch(folder.path());
    let mut ledger = Ledger::default();
    for round in 0..rounds(10) {
        let mut platform = start.ready().await;
        ledger.resend(&platform, &mut rng).await;
        ledger.check_report(&platform).await;
        let load = Load::start(&platform, &format!("r{round}"), &mut rng, 0);
        load.acknowledges(rng.random_range(1..150)).await;
        platform.signal(Signal::TERM);
        ledger.merge(load.ended(&platform).await);
        let ended = platform.ended().await;
        assert!(ended.success(), "{ended}:\n{}", platform.log());
        assert!(!platform.log().contains("cut after the drain limit"), "{}", platform.log());
    }
    let platform = start.ready().await;
    ledger.resend(&platform, &mut rng).await;
    ledger.check_report(&platform).await;
    ledger.check_journeys(&platform).await;
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once_though_a_request_is_not_over() {
    let folder = tempfile::tempdir().unwrap();
    let start = launch(folder.path());
    let mut platform = start.ready().await;
    let touch =
        json!({"event_id": "t", "event_type": "click", "timestamp": "2026-01-05T10:00:00Z", "user_id": "u"});
    assert_eq!(platform.post("/v1/events", &touch).await.unwrap().status, 200);

    let mut unfinished = TcpStream::connect(platform.address()).await.unwrap();
    let head = format!("POST /v1/events HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\n", platform.key());
    unfinished.write_all(format!("{head}content-length: 100\r\n\r\n{{").as_bytes()).await.unwrap();
    // Answered after the request above was begun.
    assert_eq!(platform.readiness().await, Some(true));
    platform.signal(Signal::TERM);
    platform.logs("draining").await;
    assert_eq!(platform.has_ended(), None, "it waits for the request");
    platform.signal(Signal::TERM);
    assert_eq!(platform.ended().await.code(), Some(130));

    let platform = start.ready().await;
    let again = platform.post("/v1/events", &touch).await.unwrap();
    assert_eq!(again.body["duplicate"], 1, "{}", again.body);
    platform.stop().await;
}

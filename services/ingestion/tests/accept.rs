//! What is acknowledged is durable, once; what is not acknowledged can be sent again.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, atomic::Ordering};

use common::{Mode, Sandbox, TestLog, click, eventually, post, statuses};
use ingestion::Config;
use proptest::prelude::*;
use serde_json::json;

async fn sandbox() -> Arc<Sandbox> {
    Arc::new(Sandbox::new(1).await)
}

/// Sends on a task of its own.
fn send(sandbox: &Arc<Sandbox>, body: String) -> tokio::task::JoinHandle<common::Answer> {
    let sandbox = Arc::clone(sandbox);
    service::task::spawn("a client", async move { sandbox.post(body).await })
}

#[tokio::test]
async fn an_event_is_acknowledged_and_marked_only_once_it_is_durable() {
    let sandbox = sandbox().await;
    sandbox.log.set(Mode::Held);
    let answer = send(&sandbox, click("a", "d"));
    eventually("the append is asked for", || sandbox.log.asked() == 1).await;
    assert!(!answer.is_finished());
    assert_eq!(sandbox.cache.marked(), 0);
    sandbox.log.set(Mode::Open);
    let answer = answer.await.unwrap();
    assert_eq!(statuses(&answer.json), ["accepted"]);
    assert_eq!(sandbox.cache.marked(), 1);
    assert_eq!(sandbox.log.ids().await, ["a"]);
}

#[tokio::test]
async fn what_the_log_refuses_is_503_and_can_be_sent_again() {
    for mode in [Mode::Refuse, Mode::Unconfirmed] {
        let sandbox = sandbox().await;
        sandbox.log.set(mode);
        let answer = sandbox.post(click("a", "d")).await;
        assert_eq!(answer.status, 503);
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(!answer.json.to_string().contains("test"), "internals leak: {}", answer.json);
        assert_eq!(sandbox.cache.marked(), 0);
        sandbox.log.set(Mode::Open);
        assert_eq!(sandbox.statuses(click("a", "d")).await, ["accepted"]);
        assert_eq!(sandbox.statuses(click("a", "d")).await, ["duplicate"]);
    }
}

#[tokio::test]
async fn a_repeat_is_a_duplicate_with_any_content_and_in_the_same_batch() {
    let sandbox = sandbox().await;
    let batch = format!("[{},{},{}]", click("a", "d"), click("b", "d"), click("a", "other"));
    assert_eq!(sandbox.statuses(batch).await, ["accepted", "accepted", "duplicate"]);
    let batch = format!("[{},{}]", click("b", "another"), click("c", "d"));
    assert_eq!(sandbox.statuses(batch).await, ["duplicate", "accepted"]);
    assert_eq!(sandbox.log.ids().await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_rejected_event_does_not_take_its_id() {
    let sandbox = sandbox().await;
    let bad = click("a", "d").replace("click", "clack");
    let batch = format!("[{bad},{}]", click("a", "d"));
    assert_eq!(sandbox.statuses(batch).await, ["rejected", "accepted"]);
}

#[tokio::test]
async fn a_repeat_in_flight_waits_and_shares_the_outcome() {
    for (mode, expected) in [(Mode::Open, 200), (Mode::Refuse, 503)] {
        let sandbox = sandbox().await;
        sandbox.log.set(Mode::Held);
        let first = send(&sandbox, click("a", "d"));
        eventually("the first is in flight", || sandbox.log.asked() == 1).await;
        let second = send(&sandbox, format!("[{},{}]", click("b", "d"), click("a", "d")));
        eventually("the second carries what is new", || sandbox.log.asked() == 2).await;
        assert!(!first.is_finished() && !second.is_finished());
        sandbox.log.set(mode);
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!((first.status.as_u16(), second.status.as_u16()), (expected, expected));
        if expected == 200 {
            assert_eq!(statuses(&first.json), ["accepted"]);
            assert_eq!(statuses(&second.json), ["accepted", "duplicate"]);
        }
    }
}

#[tokio::test]
async fn batches_that_carry_each_others_events_do_not_wait_for_ever() {
    let sandbox = sandbox().await;
    sandbox.log.set(Mode::Held);
    let first = send(&sandbox, format!("[{},{}]", click("a", "d"), click("b", "d")));
    eventually("the first is in flight", || sandbox.log.asked() == 1).await;
    let second = send(&sandbox, format!("[{},{}]", click("c", "d"), click("a", "d")));
    eventually("the second is in flight", || sandbox.log.asked() == 2).await;
    let third = send(&sandbox, format!("[{},{},{}]", click("c", "d"), click("b", "d"), click("e", "d")));
    eventually("the third is in flight", || sandbox.log.asked() == 3).await;
    sandbox.log.set(Mode::Open);
    assert_eq!(statuses(&first.await.unwrap().json), ["accepted", "accepted"]);
    assert_eq!(statuses(&second.await.unwrap().json), ["accepted", "duplicate"]);
    assert_eq!(statuses(&third.await.unwrap().json), ["duplicate", "duplicate", "accepted"]);
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_ids() {
    let sandbox = sandbox().await;
    sandbox.log.set(Mode::Held);
    let first = send(&sandbox, click("a", "d"));
    eventually("the first is in flight", || sandbox.log.asked() == 1).await;
    let waiting = send(&sandbox, click("a", "d"));
    first.abort();
    assert_eq!(waiting.await.unwrap().status, 503);
    sandbox.log.set(Mode::Open);
    assert_eq!(sandbox.statuses(click("a", "d")).await, ["accepted"]);
}

#[tokio::test]
async fn of_a_batch_that_is_durable_in_part_nothing_is_acknowledged_and_the_rest_can_be_sent_again() {
    let sandbox = Sandbox::new(4).await;
    let batch = (0..40).map(|i| click(&format!("e{i}"), &format!("d{i}"))).collect::<Vec<_>>().join("\n");
    let lines = |body: &str| post("key-acme", "application/x-ndjson").body(body.to_owned().into()).unwrap();
    sandbox.log.set(Mode::RefusePartition(2));
    let answer = sandbox.send(lines(&batch)).await;
    assert_eq!(answer.status, 503);
    let durable = sandbox.log.ids().await;
    assert!(!durable.is_empty() && durable.len() < 40, "{}", durable.len());
    assert_eq!(sandbox.cache.marked(), durable.len());
    sandbox.log.set(Mode::Open);
    let answer = sandbox.send(lines(&batch)).await;
    assert_eq!(answer.json["duplicate"], json!(durable.len()));
    assert_eq!(answer.json["accepted"], json!(40 - durable.len()));
    assert_eq!(sandbox.log.ids().await.len(), 40);
}

#[tokio::test]
async fn an_assigned_id_is_known_when_it_comes_back() {
    let sandbox = sandbox().await;
    let event = click("x", "d").replace(r#""event_id":"x","#, "");
    let answer = sandbox.post(format!("[{event},{event}]")).await;
    assert_eq!(statuses(&answer.json), ["accepted", "accepted"]);
    let id = answer.json["items"][0]["event_id"].as_str().unwrap();
    assert_ne!(answer.json["items"][1]["event_id"], id);
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 7);
    assert_eq!(sandbox.statuses(click(id, "d")).await, ["duplicate"]);
}

#[tokio::test]
async fn two_tenants_may_use_the_same_id() {
    let sandbox = sandbox().await;
    assert_eq!(sandbox.statuses(click("a", "d")).await, ["accepted"]);
    let other = post("key-other", "application/json").body(click("a", "d").into()).unwrap();
    assert_eq!(statuses(&sandbox.send(other).await.json), ["accepted"]);
}

#[tokio::test]
async fn a_quota_is_kept_before_anything_is_appended() {
    let sandbox = sandbox().await;
    let send = |ids: &[&str]| {
        let body = ids.iter().map(|id| click(id, "d")).collect::<Vec<_>>().join("\n");
        let request = post("key-other", "application/x-ndjson").body(body.into()).unwrap();
        sandbox.send(request)
    };
    assert_eq!(send(&["a", "b", "c"]).await.status, 200);
    let refused = send(&["d"]).await;
    assert_eq!((refused.status.as_u16(), refused.headers["retry-after"].as_bytes()), (429, &b"1"[..]));
    let never = send(&["e", "f", "g", "h"]).await;
    assert_eq!((never.status.as_u16(), never.json["code"].as_str()), (429, Some("batch_over_quota")));
    assert_eq!(sandbox.log.ids().await, ["a", "b", "c"]);
    // A tenant without a quota is not held up.
    assert_eq!(sandbox.statuses(click("e", "d")).await, ["accepted"]);
}

#[tokio::test]
async fn an_event_counts_for_the_quota_whatever_becomes_of_it() {
    let sandbox = sandbox().await;
    let send = |body: &str| {
        sandbox.send(post("key-other", "application/x-ndjson").body(body.to_owned().into()).unwrap())
    };
    assert_eq!(send("1\n2\n3\n").await.status, 400);
    assert_eq!(send("4\n").await.status, 429);
    assert_eq!(send("").await.status, 200);
}

#[tokio::test]
async fn the_backlog_is_bounded() {
    let config = Config { backlog_events_max: 4, ..Config::default() };
    let sandbox = Sandbox::with(TestLog::new(1).await, config, Vec::new()).await;
    for id in ["a", "b"] {
        assert_eq!(sandbox.statuses(click(id, "d")).await, ["accepted"]);
    }
    // Repeats do not wait for anything, and find room.
    assert_eq!(sandbox.statuses(click("b", "d")).await, ["duplicate"]);
    let both = format!("[{},{}]", click("c", "d"), click("d", "d"));
    let refused = sandbox.post(both.clone()).await;
    assert_eq!((refused.status.as_u16(), refused.json["code"].as_str()), (503, Some("backlog_full")));
    assert!(refused.headers.contains_key("retry-after"));
    let cut = |events: usize| format!("[{}", [r#"{"event_type":0}"#].repeat(events).join(","));
    assert_eq!(sandbox.post(cut(1)).await.status, 400);
    assert_eq!(sandbox.post(cut(2)).await.status, 503, "what would not find place is not read");
    sandbox.attributed.store(1, Ordering::Relaxed);
    assert_eq!(sandbox.statuses(both).await, ["accepted", "accepted"]);
    assert_eq!(sandbox.log.ids().await, ["a", "b", "c", "d"]);
    assert_eq!(sandbox.post("no JSON".to_owned()).await.status, 503, "what is not taken on is not read");
    sandbox.attributed.store(3, Ordering::Relaxed);
    assert_eq!(sandbox.post("no JSON".to_owned()).await.status, 400);
}

#[tokio::test]
async fn what_the_log_holds_at_the_start_waits_too() {
    let log = TestLog::new(1).await;
    let before = Sandbox::with(Arc::clone(&log), Config::default(), Vec::new()).await;
    for id in ["a", "b", "c"] {
        before.statuses(click(id, "d")).await;
    }
    let config = Config { backlog_events_max: 3, ..Config::default() };
    let after = Sandbox::with(log, config, vec![1]).await;
    after.attributed.store(1, Ordering::Relaxed);
    assert_eq!(after.statuses(click("d", "d")).await, ["accepted"]);
    assert_eq!(after.post(click("e", "d")).await.status, 503);
}

#[tokio::test]
async fn what_cannot_be_appended_does_not_wait() {
    let config = Config { backlog_events_max: 1, ..Config::default() };
    let sandbox = Sandbox::with(TestLog::new(1).await, config, Vec::new()).await;
    for _ in 0..2 {
        sandbox.log.set(Mode::Refuse);
        let refused = sandbox.post(click("a", "d")).await;
        assert_eq!(refused.json["code"].as_str(), Some("log_unavailable"), "{}", refused.json);
    }
    sandbox.log.set(Mode::Open);
    assert_eq!(sandbox.statuses(click("a", "d")).await, ["accepted"]);
}

#[tokio::test]
async fn without_the_cache_events_are_still_taken() {
    let sandbox = sandbox().await;
    sandbox.cache.down.store(true, Ordering::Relaxed);
    assert_eq!(sandbox.statuses(click("a", "d")).await, ["accepted"]);
    let other = post("key-other", "application/json").body(click("a", "d").into()).unwrap();
    assert_eq!(sandbox.send(other).await.status, 200);
}

#[tokio::test]
async fn on_start_the_ids_from_the_given_offsets_on_are_known() {
    let before = Sandbox::new(4).await;
    for i in 0..40 {
        before.statuses(click(&format!("e{i}"), &format!("d{}", i % 8))).await;
    }
    // One record of each partition is the worker's already, one partition is not asked for.
    let log = Arc::clone(&before.log);
    let after = Sandbox::with(Arc::clone(&log), Config::default(), vec![1, 1, 1]).await;
    let mut known = Vec::new();
    for (partition, _, frame) in log.frames().await {
        known.extend(frame.events.into_iter().map(|event| (partition, event)));
    }
    let mut met = std::collections::HashSet::new();
    for (partition, event) in known {
        let first = met.insert(partition);
        let expected = if first || partition == 3 { "accepted" } else { "duplicate" };
        assert_eq!(after.statuses(click(&event.event_id, &event.device_id)).await, [expected]);
    }
}

#[tokio::test]
async fn what_is_no_frame_does_not_keep_the_service_from_starting() {
    let before = sandbox().await;
    let log = Arc::clone(&before.log);
    before.statuses(click("a", "d")).await;
    for bytes in [&b""[..], b"\xff\xff\xff", b"\x3a\x02\x0a", &[0x08; 100]] {
        event_log::EventLog::append(log.as_ref(), 0, bytes.to_vec().into()).await.unwrap();
    }
    before.statuses(click("b", "d")).await;
    let after = Sandbox::with(log, Config::default(), vec![0]).await;
    assert_eq!(after.statuses(click("a", "d")).await, ["duplicate"]);
    assert_eq!(after.statuses(click("b", "d")).await, ["duplicate"]);
}

#[tokio::test]
async fn the_service_is_ready_while_the_log_is() {
    let sandbox = sandbox().await;
    let health = sandbox.front.health();
    eventually("ready", || health.is_ready()).await;
    sandbox.log.ail(Some("the disk is full"));
    eventually("not ready", || !health.is_ready()).await;
    let states = health.states();
    let reason = &states[&("attribution.ingestion.v1.IngestionService", "event log")].reason;
    assert_eq!(reason, "the disk is full");
    sandbox.log.ail(None);
    eventually("ready again", || health.is_ready()).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Any requests at once, over a log that answers in any order: each id is accepted exactly once and stored once.
    #[test]
    fn an_id_is_accepted_once(requests in prop::collection::vec(prop::collection::vec(0..12_u8, 1..6), 1..8)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let sandbox = Arc::new(Sandbox::new(4).await);
            let sent: Vec<_> = requests.iter().map(|ids| {
                let events: Vec<_> = ids.iter().map(|id| click(&format!("e{id}"), &format!("d{id}"))).collect();
                send(&sandbox, format!("[{}]", events.join(",")))
            }).collect();
            let mut accepted = Vec::new();
            for answer in sent {
                let answer = answer.await.unwrap();
                assert_eq!(answer.status, 200);
                for item in answer.json["items"].as_array().unwrap() {
                    if item["status"] == "accepted" {
                        accepted.push(item["event_id"].as_str().unwrap().to_owned());
                    }
                }
            }
            accepted.sort();
            let mut asked: Vec<_> = requests.concat().iter().map(|id| format!("e{id}")).collect();
            asked.sort();
            asked.dedup();
            assert_eq!(accepted, asked);
            assert_eq!(sandbox.log.ids().await, asked);
        });
    }
}

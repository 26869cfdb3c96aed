//! A model server that fails: every way of it is told, and none outlasts its cause.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tonic::Code;

use crate::{
    model_server::{ModelServer, Mood, served_at},
    support::{Gateway, eventually, refused, request},
};

fn one() -> proto::ml::ScoreRequest {
    request("fraud", vec![HashMap::new()])
}

#[tokio::test]
async fn an_answer_that_cannot_be_is_no_score() {
    let (server, models) = ModelServer::with_models().await;
    let gateway = Gateway::with(models.path(), |config| config.failures_in_a_row_max = 1_000).await;
    gateway.becomes_ready().await;
    assert_eq!(gateway.score(one()).await.unwrap().rows[0].score, 0.75);
    for mood in [Mood::NaN, Mood::OutOfRange, Mood::TooFewRows, Mood::OtherOutput, Mood::OtherType] {
        server.is(mood);
        refused(gateway.score(one()).await, Code::Unavailable, "model_wrong_answer");
    }
    server.is(Mood::Away);
    refused(gateway.score(one()).await, Code::Unavailable, "model_away");
    server.is(Mood::Good);
    gateway.score(one()).await.unwrap();
}

#[tokio::test]
async fn a_model_that_hangs_is_given_up_at_the_deadline() {
    let (server, models) = ModelServer::with_models().await;
    let gateway = Gateway::with(models.path(), |config| config.inference_millis_max = 200).await;
    // On a busy machine the first run may take longer than that: it is tried again until it does not.
    gateway.becomes_ready().await;
    server.is(Mood::Hangs);
    refused(gateway.score(one()).await, Code::DeadlineExceeded, "model_deadline");
}

#[tokio::test]
async fn after_failures_in_a_row_calls_are_refused_at_once_until_it_is_back() {
    let (server, models) = ModelServer::with_models().await;
    let gateway = Gateway::with(models.path(), |config| {
        config.failures_in_a_row_max = 3;
        config.failures_pause_millis = 3_600_000;
    })
    .await;
    gateway.becomes_ready().await;
    server.is(Mood::Away);
    for _ in 0..3 {
        refused(gateway.score(one()).await, Code::Unavailable, "model_away");
    }
    let calls = server.runs().len();
    refused(gateway.score(one()).await, Code::Unavailable, "model_paused");
    assert_eq!(server.runs().len(), calls, "it was not asked");

    let brief = Gateway::with(models.path(), |config| {
        config.failures_in_a_row_max = 1;
        config.failures_pause_millis = 1;
    })
    .await;
    server.is(Mood::Good);
    brief.becomes_ready().await;
    server.is(Mood::Away);
    assert!(brief.score(one()).await.is_err());
    server.is(Mood::Good);
    eventually("it is asked again", async || brief.score(one()).await.is_ok()).await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_who_goes_away_leaves_their_place() {
    let (server, models) = ModelServer::with_models().await;
    let gateway = Gateway::with(models.path(), |config| {
        config.calls_per_version_max = 1;
        config.queue_calls_max = 1;
        config.inference_millis_max = 600_000;
    })
    .await;
    let gateway = Arc::new(gateway);
    gateway.becomes_ready().await;
    let before = server.runs().len();
    server.is(Mood::Hangs);
    let mut waiting = tokio::task::JoinSet::new();
    let mut begin = || {
        let gateway = Arc::clone(&gateway);
        // Again if the one below was first.
        waiting.spawn(async move { while gateway.score(one()).await.is_err() {} });
    };
    begin();
    eventually("the first one is at work", async || server.runs().len() == before + 1).await;
    begin();
    // It waits; when it is there the third has no place.
    let full = async || {
        let third = tokio::time::timeout(Duration::from_millis(200), gateway.score(one())).await;
        third.is_ok_and(|answer| answer.is_err_and(|status| status.code() == Code::Unavailable))
    };
    eventually("the queue is full", full).await;
    assert_eq!(server.runs().len(), before + 1, "one at a time");
    waiting.shutdown().await;
    server.is(Mood::Good);
    eventually("there is room again", async || gateway.score(one()).await.is_ok()).await;
}

#[tokio::test]
async fn a_server_that_comes_later_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let models = served_at(&format!("kserve+grpc://{address}/fraud"));
    let gateway = Gateway::start(models.path()).await;
    eventually("it says why", async || !gateway.broken("1").await.is_empty()).await;
    assert!(!gateway.health.is_ready());
    let listener = TcpListener::bind(address).await.unwrap();
    let _server = ModelServer::on(listener);
    gateway.becomes_ready().await;
}

#[tokio::test]
async fn a_backend_that_is_none_is_named() {
    for url in ["ftp://x/y", "kserve+grpc://x", "kserve+http://x/m/versions/"] {
        let models = served_at(url);
        let gateway = Gateway::start(models.path()).await;
        eventually(url, async || gateway.broken("1").await.contains("backend")).await;
    }
}

//! Who runs when: calls that wait are joined up to the limits, the urgent ones first, and nobody pays for another's rows.

use std::{collections::HashMap, sync::Arc, time::Duration};

use proto::ml::{ScoreRequest, ScoreResponse};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::{
    model_server::{ModelServer, Mood},
    support::{Gateway, eventually, feature_names, refused, request, told},
};

fn rows(count: usize) -> ScoreRequest {
    request("fraud", vec![HashMap::new(); count])
}

/// A gateway that runs one call at a time on a server that holds its first run, which has one row.
async fn held(queue: usize, batch_calls: usize, batch_rows: usize) -> (ModelServer, Arc<Gateway>, Calls) {
    let (server, models) = ModelServer::with_models().await;
    let gateway = Gateway::with(models.path(), |config| {
        config.calls_per_version_max = 1;
        config.queue_calls_max = queue;
        config.batch_calls_max = batch_calls;
        config.batch_rows_max = batch_rows;
        config.inference_millis_max = 600_000;
    });
    let gateway = Arc::new(gateway.await);
    gateway.becomes_ready().await;
    server.is(Mood::Holds);
    let mut calls = Calls::default();
    calls.begin(&gateway, rows(1));
    // The first run was that of the warm-up.
    eventually("it is held", async || server.runs() == [1, 1]).await;
    (server, gateway, calls)
}

#[derive(Default)]
struct Calls(JoinSet<Result<ScoreResponse, Status>>);

impl Calls {
    fn begin(&mut self, gateway: &Arc<Gateway>, request: ScoreRequest) {
        let gateway = Arc::clone(gateway);
        self.0.spawn(async move {
            loop {
                match gateway.score(request.clone()).await {
                    // One of those that look whether the queue is full was first.
                    Err(status) if told(&status).contains("model_queue_full") => {}
                    answer => return answer,
                }
            }
        });
    }

    /// Waits until the queue of a gateway is full: then all that was begun is in it.
    async fn fill(&self, gateway: &Gateway) {
        let full = async || {
            let another = tokio::time::timeout(Duration::from_millis(200), gateway.score(rows(1))).await;
            another.is_ok_and(|answer| answer.is_err_and(|status| status.code() == Code::Unavailable))
        };
        eventually("the queue is full", full).await;
    }

    async fn answers(self) -> Vec<Result<ScoreResponse, Status>> {
        self.0.join_all().await
    }
}

#[tokio::test]
async fn calls_that_wait_are_joined_as_many_as_a_run_has_calls() {
    let (server, gateway, mut calls) = held(7, 3, 512).await;
    for _ in 0..7 {
        calls.begin(&gateway, rows(1));
    }
    calls.fill(&gateway).await;
    server.is(Mood::Good);
    for answer in calls.answers().await {
        assert_eq!(answer.unwrap().rows[0].score, 0.75);
    }
    assert_eq!(server.runs(), [1, 1, 3, 3, 1]);
}

#[tokio::test]
async fn calls_that_wait_are_joined_as_long_as_their_rows_fit() {
    let (server, gateway, mut calls) = held(5, 64, 4).await;
    for _ in 0..5 {
        calls.begin(&gateway, rows(2));
    }
    calls.fill(&gateway).await;
    server.is(Mood::Good);
    for answer in calls.answers().await {
        let answer = answer.unwrap();
        assert!([1, 2].contains(&answer.rows.len()) && answer.rows.iter().all(|row| row.score == 0.75));
    }
    assert_eq!(server.runs(), [1, 1, 4, 4, 2], "four rows are a run, a fifth is not in it");
}

#[tokio::test]
async fn without_batching_every_call_runs_alone() {
    let (server, gateway, mut calls) = held(3, 1, 512).await;
    for _ in 0..3 {
        calls.begin(&gateway, rows(1));
    }
    calls.fill(&gateway).await;
    server.is(Mood::Good);
    assert!(calls.answers().await.iter().all(Result::is_ok));
    assert_eq!(server.runs(), [1, 1, 1, 1, 1]);
}

#[tokio::test]
async fn a_long_call_runs_in_parts_and_lets_the_urgent_ones_between() {
    let (server, models) = ModelServer::with_models().await;
    let gateway = Gateway::with(models.path(), |config| {
        config.calls_per_version_max = 1;
        config.queue_calls_max = 1;
        config.batch_rows_max = 4;
        config.inference_millis_max = 600_000;
    });
    let gateway = Arc::new(gateway.await);
    gateway.becomes_ready().await;
    server.is(Mood::Holds);
    let mut calls = Calls::default();
    calls.begin(&gateway, rows(9));
    eventually("its first part is held", async || server.runs() == [1, 4]).await;
    calls.begin(&gateway, rows(3));
    calls.fill(&gateway).await;
    server.is(Mood::Good);
    let mut answered: Vec<_> =
        calls.answers().await.into_iter().map(|answer| answer.unwrap().rows.len()).collect();
    answered.sort_unstable();
    assert_eq!(answered, [3, 9]);
    assert_eq!(server.runs(), [1, 4, 3, 4, 1]);
}

#[tokio::test]
async fn a_row_that_the_model_cannot_answer_is_no_matter_to_others_in_its_run() {
    let (server, gateway, mut calls) = held(4, 64, 512).await;
    let first = feature_names().swap_remove(0);
    for value in [1.0, 2.0, 77.0, 3.0] {
        calls.begin(&gateway, request("fraud", vec![HashMap::from([(first.clone(), value)])]));
    }
    calls.fill(&gateway).await;
    server.is(Mood::NaNFor(77.0));
    let (good, mut bad): (Vec<_>, Vec<_>) = calls.answers().await.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (4, 1));
    refused(bad.swap_remove(0), Code::Unavailable, "model_wrong_answer");
    assert_eq!(server.runs(), [1, 1, 4, 1, 1, 1, 1]);
}

#[tokio::test]
async fn a_run_goes_on_when_one_of_its_callers_goes_away_and_ends_when_all_have() {
    let (server, gateway, first) = held(2, 64, 512).await;
    let (mut stays, mut goes) = (Calls::default(), Calls::default());
    stays.begin(&gateway, rows(1));
    goes.begin(&gateway, rows(1));
    stays.fill(&gateway).await;
    drop(first);
    eventually("both are in one run", async || server.runs() == [1, 1, 2]).await;
    drop(goes);
    server.is(Mood::Good);
    assert!(stays.answers().await[0].is_ok());

    server.is(Mood::Hangs);
    let mut all = Calls::default();
    all.begin(&gateway, rows(1));
    eventually("it hangs", async || server.runs().len() == 4).await;
    drop(all);
    server.is(Mood::Good);
    // There is one turn, and it is free again.
    gateway.score(rows(1)).await.unwrap();
}

#[tokio::test]
async fn as_many_runs_as_a_version_may_have_and_no_more() {
    let (server, models) = ModelServer::with_models().await;
    let gateway = Gateway::with(models.path(), |config| {
        config.calls_per_version_max = 3;
        config.queue_calls_max = 2;
        config.batch_calls_max = 1;
        config.inference_millis_max = 600_000;
    });
    let gateway = Arc::new(gateway.await);
    gateway.becomes_ready().await;
    server.is(Mood::Holds);
    let mut calls = Calls::default();
    for _ in 0..5 {
        calls.begin(&gateway, rows(1));
    }
    calls.fill(&gateway).await;
    server.is(Mood::Good);
    assert!(calls.answers().await.iter().all(Result::is_ok));
    assert_eq!(server.working_most(), 3);
}

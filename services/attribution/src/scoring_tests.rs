//! Decisions with a gateway that answers, is away, is late, or talks nonsense.
#![allow(clippy::unwrap_used)]

use std::sync::{
    Mutex as StdMutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use event_log::EventLog;
use journey_store::Stores;
use prost::Message;
use proto::{
    decisions::{Decision, Verdict},
    events::{DecisionReason, Event, EventType, Frame, FrameKind},
    ml::{
        Contribution, GetModelRequest, GetModelResponse, Interval, ListModelsRequest, ListModelsResponse,
        RowScore, ScoreRequest, ScoreResponse,
        ml_gateway_service_server::{MlGatewayService, MlGatewayServiceServer},
    },
};
use service::Peer;
use telemetry::health::Health;
use tokio::sync::broadcast;
use tonic::{Request, Response, Status, service::Routes};
use warehouse::Warehouse;

use super::*;
use crate::{Progress, gateway::ROWS_MAX, held::Held, worker::Worker};

#[path = "value_tests.rs"]
mod values;

const TENANT: &str = "t";
/// 2026-01-31T00:00:00Z.
const AT: i64 = 1_769_817_600;

/// What the gateway does.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    /// Says this of every row, or 0.1 more of each further one of a call.
    Says(f64),
    Away,
    Refusing,
    /// Never answers.
    Silent,
    /// Answers so many calls.
    SilentAfter(usize),
    OneRowTooFew,
    OneRowTooMany,
    WithoutModel,
    /// Says 20, and this as the ends of its interval.
    Between(f64, f64),
    WithoutInterval,
}

/// What was asked is told of the model of fraud alone, unless it is said otherwise.
struct Fake {
    mood: StdMutex<Mood>,
    calls: AtomicUsize,
    rows: StdMutex<Vec<usize>>,
    asked: StdMutex<Vec<ScoreRequest>>,
    /// Of the model of values.
    value_mood: StdMutex<Mood>,
    values_asked: StdMutex<Vec<ScoreRequest>>,
}

#[derive(Clone)]
struct FakeGateway(Arc<Fake>);

#[tonic::async_trait]
impl MlGatewayService for FakeGateway {
    async fn score(&self, request: Request<ScoreRequest>) -> Result<Response<ScoreResponse>, Status> {
        let request = request.into_inner();
        if request.model == "value" {
            return self.value(request).await;
        }
        let rows = request.rows.len();
        let before = self.0.calls.fetch_add(1, SeqCst);
        self.0.rows.lock().unwrap().push(rows);
        self.0.asked.lock().unwrap().push(request);
        let mood = *self.0.mood.lock().unwrap();
        let row = |calibrated| RowScore {
            score: calibrated,
            calibrated,
            contributions: vec![Contribution { feature: "hour_of_day".into(), contribution: 0.25 }],
            ..RowScore::default()
        };
        let (rows, model) = match mood {
            Mood::Refusing => return Err(Status::invalid_argument("row 0: too much")),
            Mood::Away => return Err(Status::unavailable("away")),
            Mood::SilentAfter(calls) if before < calls => (vec![row(0.5); rows], "fraud"),
            Mood::Silent | Mood::SilentAfter(_) => std::future::pending().await,
            Mood::Says(probability) => {
                ((0..rows).map(|n| row(probability + n as f64 / 10.0)).collect(), "fraud")
            }
            Mood::OneRowTooFew => (vec![row(0.5); rows - 1], "fraud"),
            Mood::OneRowTooMany => (vec![row(0.5); rows + 1], "fraud"),
            Mood::WithoutModel => (vec![row(0.5); rows], ""),
            Mood::Between(..) | Mood::WithoutInterval => unreachable!("a model of fraud has no interval"),
        };
        let (model, version) = (model.to_owned(), "7".to_owned());
        Ok(Response::new(ScoreResponse { model, version, rows, inference_ms: 0.1 }))
    }

    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn get_model(&self, _: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

impl FakeGateway {
    async fn value(&self, request: ScoreRequest) -> Result<Response<ScoreResponse>, Status> {
        let rows = request.rows.len();
        self.0.values_asked.lock().unwrap().push(request);
        let mood = *self.0.value_mood.lock().unwrap();
        let row = |value: f64, lower: f64, upper: f64| RowScore {
            score: value,
            calibrated: value,
            interval: Some(Interval { lower, upper, level: 0.8 }),
            ..RowScore::default()
        };
        let (rows, model) = match mood {
            Mood::Refusing => return Err(Status::invalid_argument("row 0: too much")),
            Mood::Away => return Err(Status::unavailable("away")),
            Mood::Silent | Mood::SilentAfter(_) => std::future::pending().await,
            Mood::Says(value) => (
                (0..rows).map(|n| value + n as f64).map(|value| row(value, 0.0, 2.0 * value)).collect(),
                "value",
            ),
            Mood::OneRowTooFew => (vec![row(20.0, 0.0, 40.0); rows - 1], "value"),
            Mood::OneRowTooMany => (vec![row(20.0, 0.0, 40.0); rows + 1], "value"),
            Mood::WithoutModel => (vec![row(20.0, 0.0, 40.0); rows], ""),
            Mood::Between(lower, upper) => (vec![row(20.0, lower, upper); rows], "value"),
            Mood::WithoutInterval => {
                (vec![RowScore { interval: None, ..row(20.0, 0.0, 40.0) }; rows], "value")
            }
        };
        let (model, version) = (model.to_owned(), "3".to_owned());
        Ok(Response::new(ScoreResponse { model, version, rows, inference_ms: 0.1 }))
    }
}

/// One worker over stores in memory.
struct World {
    log: Arc<dyn EventLog>,
    stores: Stores,
    fake: Arc<Fake>,
    deps: Deps,
    config: Config,
    worker: Worker,
}

impl World {
    async fn new(mood: Mood, rules: Rules) -> Self {
        let log = event_log::open("memory://").await.unwrap();
        let stores = journey_store::open("memory://").await.unwrap();
        let fake = Arc::new(Fake {
            mood: StdMutex::new(mood),
            calls: AtomicUsize::new(0),
            rows: StdMutex::default(),
            asked: StdMutex::default(),
            value_mood: StdMutex::new(Mood::Says(20.0)),
            values_asked: StdMutex::default(),
        });
        let routes = Routes::new(MlGatewayServiceServer::new(FakeGateway(Arc::clone(&fake))));
        let (health, rules) = (Health::default(), Arc::new(rules));
        let deps = Deps {
            log: Arc::clone(&log),
            journeys: Arc::clone(&stores.journeys),
            outbox: Arc::clone(&stores.outbox),
            scores: Arc::clone(&stores.scores),
            gateway: Some(Peer::in_process(service::grpc_routes(routes))),
            warehouse: Warehouse::open("http://127.0.0.1:9/nowhere").unwrap(),
            rules: Arc::new(move |_, _| Some(Arc::clone(&rules))),
            worker_health: health.register("attribution", "worker"),
            fact_writer_health: health.register("attribution", "fact writer"),
        };
        // Only a silent gateway lets the time run out; a loaded machine needs more of it than the default.
        let deadline = if mood == Mood::Silent { 20 } else { 1_000 };
        let config = Config { score_deadline_millis: deadline, score_pause_millis: 0, ..Config::default() };
        let worker = Self::start(&config, &deps, 0);
        Self { log, stores, fake, deps, config, worker }
    }

    fn start(config: &Config, deps: &Deps, from: u64) -> Worker {
        let (decisions, _) = broadcast::channel(1);
        let progress = Arc::new(Progress::new(1));
        progress.start_at(0, from, 0);
        Worker::new(
            0,
            config,
            deps,
            Held::new(deps.worker_health.clone()),
            progress,
            decisions,
            Scorer::new(config, deps).map(Arc::new),
        )
    }

    /// Another process goes on where the last one stopped.
    async fn restart(&mut self) {
        let consumed = self.stores.outbox.consumed_to(0).await.unwrap();
        self.worker = Self::start(&self.config, &self.deps, consumed);
    }

    fn says(&self, mood: Mood) {
        *self.fake.mood.lock().unwrap() = mood;
    }

    fn value_says(&self, mood: Mood) {
        *self.fake.value_mood.lock().unwrap() = mood;
    }

    fn values_asked(&self) -> usize {
        self.fake.values_asked.lock().unwrap().len()
    }

    async fn owed(&self, kind: ScoreKind) -> Vec<String> {
        let owed = self.stores.scores.owed(0, kind, 10).await.unwrap();
        owed.into_iter().map(|owed| owed.conversion_id).collect()
    }

    fn calls(&self) -> usize {
        self.fake.calls.load(SeqCst)
    }

    async fn send(&self, events: Vec<Event>) {
        let frame = Frame {
            version: 1,
            kind: FrameKind::Events.into(),
            tenant: TENANT.into(),
            settings_edition: "edition".into(),
            events,
            ..Frame::default()
        };
        self.log.append(0, frame.encode_to_vec().into()).await.unwrap();
        self.worker.step().await.unwrap();
    }

    async fn decision(&self, id: &str) -> Decision {
        journey_store::explained(&*self.stores.journeys, TENANT, id).await.unwrap().unwrap()
    }

    fn reasons(decision: &Decision) -> Vec<DecisionReason> {
        decision.editions.iter().map(|edition| edition.reason()).collect()
    }
}

fn click(id: &str, seconds_before: i64) -> Event {
    let timestamp = Some(prost_types::Timestamp { seconds: AT - seconds_before, nanos: 0 });
    Event {
        event_id: id.into(),
        event_type: EventType::Click.into(),
        timestamp,
        device_id: "d".into(),
        app_id: "default".into(),
        partner: "p".into(),
        ..Event::default()
    }
}

fn conversion(id: &str) -> Event {
    Event {
        event_type: EventType::Conversion.into(),
        conversion: "install".into(),
        currency: "EUR".into(),
        partner: String::new(),
        ..click(id, 0)
    }
}

/// A conversion with a value.
fn purchase(id: &str, days_before: i64, value: &str) -> Event {
    let timestamp = Some(prost_types::Timestamp { seconds: AT - days_before * 86_400, nanos: 0 });
    Event { conversion: "purchase".into(), value: value.into(), timestamp, ..conversion(id) }
}

fn rejecting(above_micros: u32) -> Rules {
    let mut rules = Rules::default();
    rules.fraud.reject_above_micros = Some(above_micros);
    rules
}

#[tokio::test]
async fn a_decision_has_the_score_of_its_winner() {
    let world = World::new(Mood::Says(0.25), Rules::default()).await;
    world.send(vec![click("early", 7_200), click("late", 3_600), conversion("c")]).await;
    let decision = world.decision("c").await;
    let score = decision.score.unwrap();
    assert!(score.present);
    assert_eq!((score.fraud_probability, &score.event_id[..]), (0.25, "late"));
    assert_eq!((&score.model[..], &score.version[..]), ("fraud", "7"));
    assert_eq!(score.reasons, ["hour_of_day +0.250"]);
    let shown: Vec<Option<f64>> = decision.candidates.iter().map(|one| one.fraud_probability).collect();
    assert_eq!(shown, [None, Some(0.25)], "only what can win is scored");
    let asked = world.fake.asked.lock().unwrap();
    assert_eq!((asked.len(), asked[0].rows.len(), &asked[0].model[..]), (1, 1, "fraud"));
    assert_eq!(asked[0].rows[0].values["click_to_conversion"], 3_600.0);
    assert_eq!(asked[0].rows[0].values["device_clicks_24h"], 2.0);
}

/// A batch with more than can be answered in time gets what can, so that what is owed becomes less.
#[tokio::test]
async fn a_batch_with_too_many_rows_has_the_first_scores_and_is_owed_the_others() {
    let world = World::new(Mood::SilentAfter(2), Rules::default()).await;
    let ids: Vec<String> = (0..2 * ROWS_MAX + 3).map(|n| format!("c{n:04}")).collect();
    let conversions = ids.iter().map(|id| conversion(id));
    world.send(std::iter::once(click("t", 60)).chain(conversions).collect()).await;
    assert_eq!(*world.fake.rows.lock().unwrap(), [ROWS_MAX, ROWS_MAX, 3]);
    let owed = world.stores.scores.owed(0, ScoreKind::Fraud, 1_000).await.unwrap();
    let owed: BTreeSet<&str> = owed.iter().map(|owed| owed.conversion_id.as_str()).collect();
    assert!(owed.into_iter().eq(&ids[2 * ROWS_MAX..]));
    for (index, id) in ids.iter().enumerate() {
        let score = world.decision(id).await.score.unwrap();
        assert_eq!(score.present, index < 2 * ROWS_MAX, "{id}: {score:?}");
    }
}

#[tokio::test]
async fn the_conversions_of_a_batch_are_one_call() {
    let world = World::new(Mood::Says(0.1), Rules::default()).await;
    world.send(vec![click("t", 60), conversion("c1"), conversion("c2"), conversion("c3")]).await;
    assert_eq!(*world.fake.rows.lock().unwrap(), [3]);
    for (id, probability) in [("c1", 0.1), ("c2", 0.2), ("c3", 0.3)] {
        let score = world.decision(id).await.score.unwrap();
        assert!((score.fraud_probability - probability).abs() < 1e-9, "each row has its own answer");
    }
}

#[tokio::test]
async fn a_touch_above_the_threshold_leaves_the_pool_and_the_next_wins() {
    let world = World::new(Mood::Says(0.9), rejecting(1_000_000)).await;
    let touches = vec![click("first", 300), click("second", 200), conversion("c")];
    world.send(touches.clone()).await;
    // The first row is the one that would win: 0.9, then 1.0, and nothing is above 1.
    assert_eq!(world.decision("c").await.winner.unwrap().event_id, "second");

    let world = World::new(Mood::Says(0.8), rejecting(850_000)).await;
    world.send(touches.clone()).await;
    let decision = world.decision("c").await;
    assert_eq!(decision.winner.unwrap().event_id, "second", "0.8 is not above 0.85");
    assert_eq!(decision.candidates[0].verdict(), Verdict::Fraud, "0.9 is");

    let world = World::new(Mood::Says(0.9), rejecting(850_000)).await;
    world.send(touches).await;
    let decision = world.decision("c").await;
    assert_eq!(decision.winner.unwrap().decided_by, "organic");
    let score = decision.score.unwrap();
    assert_eq!((score.present, &score.event_id[..]), (true, "second"), "what would have won");
}

#[tokio::test]
async fn so_many_touches_are_scored_and_not_the_next() {
    let world = World::new(Mood::Says(0.0), rejecting(0)).await;
    let max = Config::default().score_touches_max;
    let mut events: Vec<Event> = (0..=max).map(|n| click(&format!("u{n}"), n as i64 + 60)).collect();
    events.push(conversion("c"));
    world.send(events).await;
    assert_eq!(*world.fake.rows.lock().unwrap(), [max]);
}

#[tokio::test]
async fn a_score_is_made_once_and_taken_by_every_later_edition() {
    let mut world = World::new(Mood::Says(0.25), Rules::default()).await;
    world.send(vec![click("t", 60), conversion("c")]).await;
    world.says(Mood::Says(0.75));
    // A late touch that does not win.
    world.send(vec![click("older", 3_600)]).await;
    world.worker.step().await.unwrap();
    world.restart().await;
    world.send(vec![click("oldest", 7_200)]).await;
    world.worker.step().await.unwrap();
    let decision = world.decision("c").await;
    assert_eq!(
        World::reasons(&decision),
        [DecisionReason::LateTouch, DecisionReason::LateTouch, DecisionReason::Conversion]
    );
    assert_eq!(decision.score.unwrap().fraud_probability, 0.25);
    assert_eq!(world.calls(), 1);
    // A new winner is another touch.
    world.send(vec![click("newer", 30)]).await;
    world.worker.step().await.unwrap();
    assert_eq!(world.decision("c").await.score.unwrap().fraud_probability, 0.75);
    assert_eq!(world.calls(), 2);
}

#[tokio::test]
async fn a_batch_that_is_read_again_takes_the_scores_that_were_stored() {
    let mut world = World::new(Mood::Says(0.25), Rules::default()).await;
    world.send(vec![click("t", 60), conversion("c")]).await;
    world.says(Mood::Says(0.75));
    // As after a kill between the scores and the position.
    world.worker = World::start(&world.config, &world.deps, 0);
    world.worker.step().await.unwrap();
    let decision = world.decision("c").await;
    assert_eq!(World::reasons(&decision), [DecisionReason::Conversion]);
    assert_eq!((world.calls(), decision.score.unwrap().fraud_probability), (1, 0.25));
}

#[tokio::test]
async fn whatever_the_gateway_does_the_decision_is_made_and_scored_later() {
    for (mood, why) in [
        (Mood::Away, "the model gateway did not take the call"),
        (Mood::Silent, "the model gateway did not answer within 20 ms"),
        (Mood::Says(f64::NAN), "the model gateway's answer was no probability for each touch"),
        (Mood::Says(f64::INFINITY), "the model gateway's answer was no probability for each touch"),
        (Mood::Says(1.000_001), "the model gateway's answer was no probability for each touch"),
        (Mood::Says(-0.000_001), "the model gateway's answer was no probability for each touch"),
        (Mood::OneRowTooFew, "the model gateway's answer was no probability for each touch"),
        (Mood::OneRowTooMany, "the model gateway's answer was no probability for each touch"),
        (Mood::WithoutModel, "the model gateway's answer was no probability for each touch"),
    ] {
        let mut world = World::new(mood, Rules::default()).await;
        world.send(vec![click("t", 60), conversion("c")]).await;
        let decision = world.decision("c").await;
        let score = decision.score.unwrap();
        assert!(!score.present && score.event_id.is_empty(), "{why}");
        assert_eq!(score.reasons, [why]);
        assert_eq!(decision.winner.unwrap().event_id, "t", "{why}");

        // It is owed over a restart, and while the gateway has nothing to say it is not asked for again.
        world.restart().await;
        world.worker.step().await.unwrap();
        let end = world.log.end(0).await.unwrap().offset;
        assert_eq!(end, 1, "no re-decide while there is no score to be had");

        world.says(Mood::Says(0.5));
        world.config.score_deadline_millis = 1_000;
        world.restart().await;
        world.worker.step().await.unwrap();
        world.worker.step().await.unwrap();
        let decision = world.decision("c").await;
        assert_eq!(World::reasons(&decision), [DecisionReason::Score, DecisionReason::Conversion], "{why}");
        let score = decision.score.unwrap();
        assert_eq!((score.present, score.fraud_probability), (true, 0.5), "{why}");
        assert!(world.owed(ScoreKind::Fraud).await.is_empty(), "{why}");
    }
}

#[tokio::test]
async fn a_gateway_that_failed_is_left_alone_for_a_while() {
    let world = World::new(Mood::Away, Rules::default()).await;
    let config = Config { score_pause_millis: 1_000_000, ..world.config.clone() };
    let world = World { worker: World::start(&config, &world.deps, 0), ..world };
    world.send(vec![click("t", 60), conversion("c1")]).await;
    world.send(vec![conversion("c2")]).await;
    assert_eq!(world.calls(), 1);
    let score = world.decision("c2").await.score.unwrap();
    assert_eq!(score.reasons, ["the model gateway failed a moment ago and was not asked"]);
    assert_eq!(world.owed(ScoreKind::Fraud).await.len(), 2);
}

#[tokio::test]
async fn what_the_gateway_cannot_score_is_not_owed() {
    let world = World::new(Mood::Refusing, Rules::default()).await;
    world.send(vec![click("t", 60), conversion("c")]).await;
    let score = world.decision("c").await.score.unwrap();
    assert_eq!(score.reasons, ["the model gateway cannot score what was asked"]);
    assert!(world.owed(ScoreKind::Fraud).await.is_empty());
}

#[test]
fn what_does_not_come_is_asked_for_less_and_less_often() {
    let mut look = Look { at: Instant::now(), pause: OWED_PAUSE, brought: true };
    let mut pauses = Vec::new();
    for (nothing, brought) in
        [(false, true), (false, false), (false, false), (false, true), (false, false), (true, false)]
    {
        look.brought = brought;
        look.looked(nothing);
        pauses.push(look.pause.as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 1, 2, 1]);
    for _ in 0..20 {
        look.looked(false);
    }
    assert_eq!(look.pause, OWED_PAUSE_MAX);
}

#[tokio::test]
async fn what_has_no_touch_to_score_says_so_and_is_not_asked_for() {
    let world = World::new(Mood::Says(0.5), Rules::default()).await;
    let mut visit = click("v", 60);
    visit.set_event_type(EventType::Visit);
    world.send(vec![conversion("organic")]).await;
    assert_eq!(world.decision("organic").await.score.unwrap().reasons, ["no touch is to be scored"]);
    world.send(vec![visit, conversion("visited")]).await;
    assert_eq!(world.decision("visited").await.score.unwrap().reasons, ["a visit is not scored"]);
    assert_eq!(world.calls(), 0);
    assert!(world.owed(ScoreKind::Fraud).await.is_empty());
}

#[tokio::test]
async fn counts_of_traffic_that_was_not_seen_are_not_told() {
    let mut world = World::new(Mood::Says(0.5), Rules::default()).await;
    world.send(vec![click("t", 60)]).await;
    // Another process did not see that click: it only counts from here on, and its windows begin long before.
    world.restart().await;
    world.send(vec![conversion("c")]).await;
    let asked = world.fake.asked.lock().unwrap();
    let values = &asked[0].rows[0].values;
    assert_eq!(values["click_to_conversion"], 60.0);
    assert!(
        !values.contains_key("device_clicks_1h") && !values.contains_key("partner_deviation"),
        "{values:?}"
    );
}

//! Whatever is asked: no panic, and over REST what gRPC answers.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;

use jiff::tz::TimeZone;
use proptest::{collection::vec, option, prelude::*, sample::select, test_runner::TestRunner};
use proto::query::{Model, model::Model as Kind};
use serde_json::{Map, Value, json};
use service::Tenant;

use super::*;
use crate::spec::{self, Question};

fn tenant() -> Tenant {
    let rules = ::model::Rules { time_zone: "America/St_Johns".into(), ..::model::Rules::default() };
    Tenant {
        name: "t".into(),
        edition: service::settings::edition_of(&rules).into(),
        time_zone: TimeZone::get(&rules.time_zone).unwrap(),
        rules: rules.into(),
        quota: None,
    }
}

fn over_rest(body: &[u8]) -> Result<Question, Error> {
    spec::check(&report(body)?, &tenant())
}

// === a message, as a client of REST writes it ===

fn written(request: &RunReportRequest) -> Value {
    let mut out = Map::new();
    let scalars = [
        ("from", &request.from),
        ("to", &request.to),
        ("lookback", &request.lookback),
        ("as_of", &request.as_of),
    ];
    for (name, text) in scalars {
        if !text.is_empty() {
            out.insert(name.into(), json!(text));
        }
    }
    out.insert("models".into(), request.models.iter().map(written_model).collect());
    out.insert("dimensions".into(), json!(request.dimensions));
    out.insert("measures".into(), json!(request.measures));
    let filters = request.filters.iter().map(|f| json!({ "dimension": f.dimension, "in": f.r#in }));
    out.insert("filters".into(), filters.collect());
    let transforms = request.path_transforms.iter().map(written_transform);
    out.insert("path_transforms".into(), transforms.collect());
    let order = request.order_by.iter().map(|o| json!({ "field": o.field, "descending": o.descending }));
    out.insert("order_by".into(), order.collect());
    if let Some(limit) = request.limit {
        out.insert("limit".into(), json!(limit));
    }
    Value::Object(out)
}

fn written_model(model: &Model) -> Value {
    let with = |name: &str, parameters: &[(&str, Option<Value>)]| {
        let given = parameters.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
        json!({ name: given.collect::<Map<_, _>>() })
    };
    match &model.model {
        None => json!({}),
        Some(Kind::Decision(_)) => json!("decision"),
        Some(Kind::FirstTouch(_)) => json!("first_touch"),
        Some(Kind::LastTouch(_)) => json!("last_touch"),
        Some(Kind::LastNonDirect(_)) => json!({ "last_non_direct": {} }),
        Some(Kind::Linear(_)) => json!("linear"),
        Some(Kind::PositionBased(shares)) => {
            // JSON has no NaN.
            let share = |share: Option<f64>| share.map(|s| if s.is_nan() { json!("NaN") } else { json!(s) });
            with("position_based", &[("first", share(shares.first)), ("last", share(shares.last))])
        }
        Some(Kind::TimeDecay(decay)) => {
            let half_life = Some(&decay.half_life).filter(|text| !text.is_empty());
            with("time_decay", &[("half_life", half_life.map(|text| json!(text)))])
        }
        Some(Kind::Markov(chain)) => with("markov", &[("order", chain.order.map(|order| json!(order)))]),
        Some(Kind::Shapley(_)) => json!("shapley"),
    }
}

fn written_transform(transform: &PathTransform) -> Value {
    match &transform.transform {
        None => json!({}),
        Some(Transform::Exposure(true)) => json!("exposure"),
        Some(Transform::First(true)) => json!("first"),
        Some(Transform::Exposure(false)) => json!({ "exposure": false }),
        Some(Transform::First(false)) => json!({ "first": false }),
        Some(Transform::RemoveIfNotAll(value)) => json!({ "remove_if_not_all": value }),
        Some(Transform::RemoveIfLastAndNotAll(value)) => json!({ "remove_if_last_and_not_all": value }),
    }
}

// === questions, right and wrong ===

/// Mostly right, at times wrong, or anything.
fn mostly(
    right: &'static [&'static str],
    wrong: &'static [&'static str],
) -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        90 => select(right).prop_map(str::to_owned),
        2 => select(wrong).prop_map(str::to_owned),
        1 => ".{0,6}",
    ]
}

const DIMENSIONS: &[&str] = &[
    "channel",
    "partner",
    "campaign_id",
    "ad_group_id",
    "creative_id",
    "keyword",
    "event_type",
    "app_id",
    "platform",
    "country",
    "conversion",
    "currency",
    "day",
    "week",
    "month",
    "hour",
];
const MEASURES: &[&str] = &["conversions", "value", "touches", "persons"];
const DURATIONS: &[&str] = &["1m", "24h", "7d", "90d", ""];
const NO_DURATIONS: &[&str] = &["0m", "91d", "7", "-1d", "1.5h"];

fn any_model() -> impl Strategy<Value = Model> {
    let share = || option::of(prop_oneof![9 => 0.0..=0.5, 1 => select(vec![0.0, 1.0, -0.0, 1.5, f64::NAN])]);
    let kind = prop_oneof![
        Just(Kind::Decision(DecisionModel {})),
        Just(Kind::FirstTouch(FirstTouchModel {})),
        Just(Kind::LastTouch(LastTouchModel {})),
        Just(Kind::LastNonDirect(LastNonDirectModel {})),
        Just(Kind::Linear(LinearModel {})),
        Just(Kind::Shapley(ShapleyModel {})),
        (share(), share()).prop_map(|(first, last)| Kind::PositionBased(PositionBasedModel { first, last })),
        mostly(DURATIONS, NO_DURATIONS).prop_map(|half_life| Kind::TimeDecay(TimeDecayModel { half_life })),
        option::of(0..3_u32).prop_map(|order| Kind::Markov(MarkovModel { order })),
    ];
    option::weighted(0.98, kind).prop_map(|model| Model { model })
}

fn any_transform() -> impl Strategy<Value = PathTransform> {
    let value = || prop_oneof![9 => "[a-z(' )]{1,9}", 1 => ".{0,300}"];
    let transform = prop_oneof![
        prop::bool::weighted(0.95).prop_map(Transform::Exposure),
        prop::bool::weighted(0.95).prop_map(Transform::First),
        value().prop_map(Transform::RemoveIfNotAll),
        value().prop_map(Transform::RemoveIfLastAndNotAll),
    ];
    option::weighted(0.98, transform).prop_map(|transform| PathTransform { transform })
}

fn any_request() -> impl Strategy<Value = RunReportRequest> {
    let from = mostly(
        &["2026-01-01", "2026-03-29", "2026-02-01T00:00:00Z", "2026-01-01T00:00:00.5+05:30"],
        &["2026-02-30", ""],
    );
    let to = mostly(
        &["2026-04-01", "2027-01-01T00:00:00-03:30", "9999-12-30"],
        &["2026-13-01", "2026-04-01 00:00", "2020-01-01"],
    );
    let filter = (mostly(DIMENSIONS, &["chanel", ""]), vec("[a-zA-Z(]{1,4}", 1..4))
        .prop_map(|(dimension, r#in)| Filter { dimension, r#in });
    let field = mostly(&["model", "conversions", "channel", "value"], DIMENSIONS);
    let order = (field, any::<bool>()).prop_map(|(field, descending)| OrderBy { field, descending });
    let lists = (
        prop_oneof![20 => vec(any_model(), 1..3), 1 => vec(any_model(), 0..20)],
        vec(mostly(DIMENSIONS, &["chanel", ""]), 0..3),
        vec(mostly(MEASURES, &["revenue"]), 0..3),
        vec(filter, 0..2),
        vec(any_transform(), 0..3),
        vec(order, 0..2),
    );
    let limit = option::of(prop_oneof![20 => 1..=100_000_u32, 1 => select(vec![0, 100_001, u32::MAX])]);
    let as_of = mostly(&["", "2026-05-01T00:00:00Z"], &["2026-05-01"]);
    (from, to, mostly(DURATIONS, NO_DURATIONS), as_of, limit, lists).prop_map(
        |(
            from,
            to,
            lookback,
            as_of,
            limit,
            (models, dimensions, measures, filters, path_transforms, order_by),
        )| {
            RunReportRequest {
                from,
                to,
                lookback,
                as_of,
                limit,
                models,
                dimensions,
                measures,
                filters,
                path_transforms,
                order_by,
                consistency: String::new(),
            }
        },
    )
}

fn any_json() -> impl Strategy<Value = Value> {
    let names = || {
        select(
            [
                &FIELDS[..],
                &MODELS,
                &TRANSFORMS,
                &["in", "dimension", "field", "descending", "first", "half_life"],
            ]
            .concat(),
        )
        .prop_map(str::to_owned)
    };
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        names().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let name = prop_oneof![9 => names(), 1 => ".{0,8}"];
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((name, inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

#[test]
fn a_question_is_the_same_over_both_protocols() {
    let passed = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(2_000));
    let outcome = runner.run(&any_request(), |request| {
        let rest = over_rest(written(&request).to_string().as_bytes());
        match (rest, spec::check(&request, &tenant())) {
            (Ok(rest), Ok(grpc)) => {
                prop_assert_eq!(&rest, &grpc);
                passed.set(passed.get() + 1);
            }
            (Err(rest), Err(grpc)) => {
                prop_assert_eq!((rest.status(), rest.code_str()), (grpc.status(), grpc.code_str()));
                prop_assert!(!rest.violations().is_empty() && !grpc.violations().is_empty());
            }
            (rest, grpc) => prop_assert!(false, "REST {rest:?}, gRPC {grpc:?}"),
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(passed.get() > 100, "too few questions were right to say anything: {}", passed.get());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_json_is_read_or_refused_by_name(body in any_json()) {
        if let Err(error) = over_rest(body.to_string().as_bytes()) {
            prop_assert_eq!(error.status(), 400);
            prop_assert!(error.code_str() == "unreadable_body" || !error.violations().is_empty());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        request in any_request(),
        cut in any::<prop::sample::Index>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        noise in vec(any::<u8>(), 0..40),
    ) {
        if let Err(error) = over_rest(&noise) {
            prop_assert_eq!(error.status(), 400);
        }
        let mut body = written(&request).to_string().into_bytes();
        for (place, byte) in changes {
            let place = place.index(body.len());
            body[place] = byte;
        }
        body.truncate(cut.index(body.len() * 2));
        if let Err(error) = over_rest(&body) {
            prop_assert_eq!(error.status(), 400);
        }
    }
}

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn tenant(zone: &str) -> Tenant {
    let rules = model::Rules { time_zone: zone.into(), ..model::Rules::default() };
    Tenant {
        name: "t".into(),
        edition: service::settings::edition_of(&rules).into(),
        rules: rules.into(),
        time_zone: TimeZone::get(zone).unwrap(),
        quota: None,
    }
}

fn valid() -> Value {
    json!({ "from": "2026-01-01", "to": "2026-02-01", "models": ["linear"] })
}

fn with(change: Value) -> Value {
    let mut report = valid();
    report.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    report
}

fn ask(report: &Value) -> Result<Question, Error> {
    check(&parse::report(report.to_string().as_bytes())?, &tenant("UTC"))
}

fn passes(change: Value) -> Question {
    ask(&with(change.clone())).unwrap_or_else(|error| panic!("{change}: {error}"))
}

/// Refused, and the first field named is this one.
fn refused(change: Value, field: &str) -> String {
    let shown: String = change.to_string().chars().take(200).collect();
    let error = ask(&with(change)).err().unwrap_or_else(|| panic!("{shown} passes"));
    assert_eq!(error.status(), 400, "{shown}");
    assert_eq!(error.violations()[0].field, field, "{shown}: {error}");
    error.violations()[0].reason.clone()
}

fn many(count: usize, item: Value) -> Value {
    Value::Array(vec![item; count])
}

#[test]
fn what_is_absent_takes_its_default() {
    let question = passes(json!({}));
    let spec = &question.spec;
    assert_eq!(spec.measures, [Measure::Conversions, Measure::Value]);
    assert_eq!((spec.limit, spec.lookback_millis, question.as_of), (1_000, None, None));
    assert!(spec.dimensions.is_empty() && spec.filters.is_empty() && !question.acknowledged);
    let nulls = json!({ "lookback": null, "as_of": null, "limit": null, "filters": null });
    assert_eq!(passes(nulls), question);
    let within = |null: Value, absent: Value| assert_eq!(passes(null), passes(absent));
    within(
        json!({ "models": [{ "time_decay": { "half_life": null } }, { "position_based": { "first": null } }] }),
        json!({ "models": ["time_decay", "position_based"] }),
    );
    within(
        json!({ "order_by": [{ "field": "value", "descending": null }] }),
        json!({ "order_by": [{ "field": "value" }] }),
    );
    refused(json!({ "filters": [{ "dimension": null, "in": ["a"] }] }), "filters[0].dimension");
    refused(json!({ "models": [{ "linear": { "share": null } }] }), "models[0].linear.share");
}

#[test]
fn the_example_of_the_contract_is_read_as_it_says() {
    let question = passes(json!({
        "models": ["last_touch", "markov"], "dimensions": ["channel"], "measures": ["conversions", "value"],
        "filters": [{ "dimension": "conversion", "in": ["purchase"] }], "lookback": "30d",
        "path_transforms": ["exposure"], "order_by": [{ "field": "conversions", "descending": true }], "limit": 1000,
    }));
    let spec = question.spec;
    assert_eq!(spec.from_millis, 1_767_225_600_000);
    assert_eq!(spec.to_millis, 1_769_904_000_000);
    assert_eq!(spec.models, [ModelSpec::Rule(RuleModel::LastTouch), ModelSpec::Markov]);
    assert_eq!(spec.dimensions, [Dimension::Channel]);
    assert_eq!(spec.filters, [Filter { dimension: Dimension::Conversion, values: vec!["purchase".into()] }]);
    assert_eq!(spec.lookback_millis, Some(30 * 86_400_000));
    assert_eq!(spec.transforms, [Transform::Exposure]);
    let key = OrderBy { field: OrderField::Measure(Measure::Conversions), descending: true };
    assert_eq!(spec.order_by, [key]);
}

#[test]
fn bodies_that_are_no_report_are_unreadable() {
    for body in ["", "{", "[]", "null", "1", "\"report\"", "{\"from\":\"2026-01-01\"} x", "\u{feff}{}"] {
        let error = parse::report(body.as_bytes()).unwrap_err();
        assert_eq!((error.status().as_u16(), error.code_str()), (400, "unreadable_body"), "{body:?}");
    }
    assert!(parse::report(b"{\"from\":\"\xff\"}").is_err());
    assert!(parse::report(format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)).as_bytes()).is_err());
}

#[test]
fn unknown_names_and_wrong_types_are_named_where_they_stand() {
    for (change, field) in [
        (json!({ "form": "2026-01-01" }), "form"),
        (json!({ "unknown": null }), "unknown"),
        (json!({ "consistency": "acknowledged" }), "consistency"),
        (json!({ "from": 20260101 }), "from"),
        (json!({ "models": "linear" }), "models"),
        (json!({ "models": [7] }), "models[0]"),
        (json!({ "models": [""] }), "models[0]"),
        (json!({ "models": ["linear", "first"] }), "models[1]"),
        (json!({ "models": [{}] }), "models[0]"),
        (json!({ "models": [{ "linear": {}, "markov": {} }] }), "models[0]"),
        (json!({ "models": [{ "linear": { "share": 1 } }] }), "models[0].linear.share"),
        (json!({ "models": [{ "markov": 1 }] }), "models[0].markov"),
        (json!({ "models": [{ "markov": { "depth": 1 } }] }), "models[0].markov.depth"),
        (json!({ "models": [{ "markov": { "order": "1" } }] }), "models[0].markov.order"),
        (json!({ "models": [{ "position_based": { "first": "0.4" } }] }), "models[0].position_based.first"),
        (json!({ "models": [{ "time_decay": { "half_life": 7 } }] }), "models[0].time_decay.half_life"),
        (json!({ "dimensions": ["channel", 1] }), "dimensions[1]"),
        (json!({ "dimensions": ["chanel"] }), "dimensions[0]"),
        (json!({ "measures": ["revenue"] }), "measures[0]"),
        (json!({ "filters": {} }), "filters"),
        (json!({ "filters": ["channel"] }), "filters[0]"),
        (json!({ "filters": [{ "in": ["a"] }] }), "filters[0].dimension"),
        (json!({ "filters": [{ "dimension": "channel" }] }), "filters[0].in"),
        (json!({ "filters": [{ "dimension": "channel", "in": "a" }] }), "filters[0].in"),
        (json!({ "filters": [{ "dimension": "channel", "in": ["a", 1] }] }), "filters[0].in[1]"),
        (json!({ "filters": [{ "dimension": "channel", "in": ["a"], "not": 1 }] }), "filters[0].not"),
        (json!({ "filters": [{ "dimension": "chanel", "in": ["a"] }] }), "filters[0].dimension"),
        (json!({ "path_transforms": ["exposed"] }), "path_transforms[0]"),
        (json!({ "path_transforms": [{ "exposure": true }] }), "path_transforms[0]"),
        (json!({ "path_transforms": ["remove_if_not_all"] }), "path_transforms[0]"),
        (json!({ "path_transforms": [{ "remove_if_not_all": 1 }] }), "path_transforms[0].remove_if_not_all"),
        (json!({ "order_by": [{ "descending": true }] }), "order_by[0].field"),
        (json!({ "order_by": [{ "field": "model", "descending": 1 }] }), "order_by[0].descending"),
        (json!({ "order_by": [{ "field": "model", "asc": true }] }), "order_by[0].asc"),
        (json!({ "limit": "10" }), "limit"),
        (json!({ "limit": 10.5 }), "limit"),
        (json!({ "limit": -1 }), "limit"),
        (json!({ "as_of": 1 }), "as_of"),
        (json!({ "lookback": "" }), "lookback"),
    ] {
        refused(change, field);
    }
}

#[test]
fn each_list_holds_at_its_bound_and_not_one_past_it() {
    let decays = |count: usize| -> Value {
        (1..=count).map(|hours| json!({ "time_decay": { "half_life": format!("{hours}h") } })).collect()
    };
    passes(json!({ "models": decays(MODELS_MAX) }));
    refused(json!({ "models": decays(MODELS_MAX + 1) }), "models");
    refused(json!({ "models": [] }), "models");

    let names = |count: usize| -> Value { Dimension::ALL[..count].iter().map(|d| json!(d.name())).collect() };
    passes(json!({ "dimensions": names(DIMENSIONS_MAX) }));
    refused(json!({ "dimensions": names(DIMENSIONS_MAX + 1) }), "dimensions");

    passes(json!({ "measures": ["conversions", "value", "touches", "persons"] }));
    refused(json!({ "measures": ["conversions", "value", "touches", "persons", "value"] }), "measures");

    let filter = json!({ "dimension": "channel", "in": ["a"] });
    passes(json!({ "filters": many(FILTERS_MAX, filter.clone()) }));
    refused(json!({ "filters": many(FILTERS_MAX + 1, filter) }), "filters");
    let values =
        |count: usize| json!({ "filters": [{ "dimension": "channel", "in": many(count, json!("a")) }] });
    passes(values(FILTER_VALUES_MAX));
    refused(values(FILTER_VALUES_MAX + 1), "filters[0].in");
    refused(values(0), "filters[0].in");

    passes(json!({ "path_transforms": many(TRANSFORMS_MAX, json!("first")) }));
    refused(json!({ "path_transforms": many(TRANSFORMS_MAX + 1, json!("first")) }), "path_transforms");

    let keys = |count: usize| -> Value {
        Dimension::ALL[..count].iter().map(|d| json!({ "field": d.name() })).collect()
    };
    passes(json!({ "dimensions": names(DIMENSIONS_MAX), "order_by": keys(ORDER_KEYS_MAX) }));
    let past = many(ORDER_KEYS_MAX + 1, json!({ "field": "model" }));
    refused(json!({ "order_by": past }), "order_by");
}

#[test]
fn each_number_holds_at_its_bound_and_not_one_past_it() {
    for limit in [1, u64::from(ROWS_MAX)] {
        assert_eq!(u64::from(passes(json!({ "limit": limit })).spec.limit), limit);
    }
    for limit in [0, u64::from(ROWS_MAX) + 1, 1 << 32, u64::MAX] {
        refused(json!({ "limit": limit }), "limit");
    }
    for (lookback, millis) in
        [("0m", 0), ("90d", 7_776_000_000_i64), ("2160h", 7_776_000_000), ("1m", 60_000)]
    {
        assert_eq!(passes(json!({ "lookback": lookback })).spec.lookback_millis, Some(millis));
    }
    for lookback in
        ["91d", "2161h", "129601m", "30", "d", "-1d", "1.5d", "30 d", "1w", "99999999999999999999d"]
    {
        refused(json!({ "lookback": lookback }), "lookback");
    }
    let value =
        |length: usize| json!({ "filters": [{ "dimension": "channel", "in": ["v".repeat(length)] }] });
    passes(value(FILTER_VALUE_BYTES_MAX));
    refused(value(FILTER_VALUE_BYTES_MAX + 1), "filters[0].in[0]");
    let removed = |length: usize| json!({ "path_transforms": [{ "remove_if_not_all": "v".repeat(length) }] });
    passes(removed(FILTER_VALUE_BYTES_MAX));
    refused(removed(FILTER_VALUE_BYTES_MAX + 1), "path_transforms[0].remove_if_not_all");
}

#[test]
fn parameters_of_models_hold_at_their_bounds_and_not_past_them() {
    let model = |model: Value| json!({ "models": [model] });
    let position =
        |first: f64, last: f64| model(json!({ "position_based": { "first": first, "last": last } }));
    for (first, last) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.9, 0.1), (0.5, 0.5)] {
        passes(position(first, last));
    }
    refused(position(1.1, 0.0), "models[0].position_based.first");
    refused(position(0.0, -0.1), "models[0].position_based.last");
    refused(position(0.6, 0.5), "models[0].position_based");
    // The other one keeps its default.
    passes(model(json!({ "position_based": { "first": 0.6 } })));
    refused(model(json!({ "position_based": { "first": 0.61 } })), "models[0].position_based");

    let decay = |half_life: &str| model(json!({ "time_decay": { "half_life": half_life } }));
    passes(decay("1m"));
    passes(decay("90d"));
    refused(decay("0m"), "models[0].time_decay.half_life");
    refused(decay("91d"), "models[0].time_decay.half_life");

    let markov =
        |order: u64| json!({ "models": [{ "markov": { "order": order } }], "dimensions": ["channel"] });
    passes(markov(1));
    for order in [0, 2, u64::MAX] {
        let reason = refused(markov(order), "models[0].markov.order");
        assert!(reason.starts_with("markov of order"), "{reason}");
    }
}

#[test]
fn markov_and_shapley_take_the_dimensions_they_can() {
    let by =
        |model: &str, dimensions: &[&str]| json!({ "models": ["linear", model], "dimensions": dimensions });
    for name in Dimension::ALL.into_iter().filter(|d| d.of_touch()).map(Dimension::name) {
        passes(by("markov", &[name]));
        passes(by("shapley", &["day", name, "country"]));
    }
    for wrong in [&[][..], &["day"], &["channel", "partner"], &["channel", "day"]] {
        let reason = refused(by("markov", wrong), "dimensions");
        assert!(reason.starts_with("markov"), "{reason}");
    }
    for wrong in [&[][..], &["day"], &["channel", "partner"]] {
        let reason = refused(by("shapley", wrong), "dimensions");
        assert!(reason.starts_with("shapley"), "{reason}");
    }
}

#[test]
fn nothing_is_named_twice_and_order_keys_are_asked_for() {
    refused(json!({ "models": ["linear", "linear"] }), "models[1]");
    refused(json!({ "models": ["time_decay", { "time_decay": { "half_life": "7d" } }] }), "models[1]");
    refused(json!({ "dimensions": ["channel", "day", "channel"] }), "dimensions[2]");
    refused(json!({ "measures": ["value", "value"] }), "measures[1]");
    refused(
        json!({ "order_by": [{ "field": "value" }, { "field": "value", "descending": true }] }),
        "order_by[1].field",
    );
    for field in ["model", "conversions", "value", "currency"] {
        passes(json!({ "order_by": [{ "field": field }] }));
    }
    refused(json!({ "order_by": [{ "field": "persons" }] }), "order_by[0].field");
    refused(json!({ "order_by": [{ "field": "channel" }] }), "order_by[0].field");
    refused(json!({ "measures": ["touches"], "order_by": [{ "field": "currency" }] }), "order_by[0].field");
}

#[test]
fn times_are_dates_in_the_tenants_zone_or_rfc_3339() {
    let bounds = |zone: &str, from: &str, to: &str| {
        let request = RunReportRequest {
            from: from.into(),
            to: to.into(),
            ..parse::report(valid().to_string().as_bytes()).unwrap()
        };
        check(&request, &tenant(zone)).map(|question| (question.spec.from_millis, question.spec.to_millis))
    };
    let utc = bounds("UTC", "2026-01-01", "2026-01-02").unwrap();
    assert_eq!(utc, (1_767_225_600_000, 1_767_312_000_000));
    let berlin = bounds("Europe/Berlin", "2026-01-01", "2026-01-02").unwrap();
    assert_eq!(berlin, (utc.0 - 3_600_000, utc.1 - 3_600_000));
    // The day on which clocks go forward has 23 hours.
    let short = bounds("Europe/Berlin", "2026-03-29", "2026-03-30").unwrap();
    assert_eq!(short.1 - short.0, 23 * 3_600_000);
    let offset = bounds("UTC", "2026-01-01T01:00:00+01:00", "2026-01-02t00:00:00z").unwrap();
    assert_eq!(offset, utc);
    // Half-open on whole milliseconds: half of one later is the next one.
    let fine = bounds("UTC", "2026-01-01T00:00:00.0005Z", "2026-01-02T00:00:00.001Z").unwrap();
    assert_eq!(fine, (utc.0 + 1, utc.1 + 1));
    // Far away bounds mean everything.
    let all = bounds("UTC", "0001-01-01", "9999-12-30").unwrap();
    assert_eq!(all, (0, TIME_MILLIS_MAX));

    for (from, to, field) in [
        ("", "2026-02-01", "from"),
        ("2026-02-01", "", "to"),
        ("2026-02-01", "2026-02-01", "to"),
        ("2026-02-02", "2026-02-01", "to"),
        ("2026-02-30", "2026-04-01", "from"),
        ("2026-13-01", "2027-04-01", "from"),
        ("20260101", "2026-02-01", "from"),
        ("2026-01-01T00:00", "2026-02-01", "from"),
        ("2026-01-01 00:00:00Z", "2026-02-01", "from"),
        ("2026-01-01T00:00:00", "2026-02-01", "from"),
        ("2026-01-01T00:00:00.Z", "2026-02-01", "from"),
        ("2026-01-01T00:00:00Z[UTC]", "2026-02-01", "from"),
        ("2026-01-01T24:00:00Z", "2026-02-01", "from"),
        ("yesterday", "2026-02-01", "from"),
        ("1767225600000", "2026-02-01", "from"),
        ("2026-01-01", "２０２６-02-01", "to"),
    ] {
        let error = bounds("UTC", from, to).unwrap_err();
        assert_eq!(error.violations()[0].field, field, "{from:?} {to:?}");
    }
    refused(json!({ "as_of": "2026-01-01" }), "as_of");
    passes(json!({ "as_of": "2026-01-01T00:00:00Z" }));
}

#[test]
fn all_fields_that_are_wrong_are_named_as_many_as_an_error_holds() {
    let error =
        ask(&json!({ "limit": 0, "lookback": "1y", "models": ["linear"], "dimensions": ["x"] })).unwrap_err();
    let mut fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["dimensions[0]", "from", "limit", "lookback", "to"]);
    let error = ask(&with(json!({ "models": many(1_000, json!("x")) }))).unwrap_err();
    assert_eq!(error.violations().len(), crate::fault::FAULTS_MAX);
    // What a client sent does not come back at length.
    let error = ask(&with(json!({ "x".repeat(100_000): 1 }))).unwrap_err();
    assert!(error.detail().len() < 1_000, "{}", error.detail().len());
}

#[test]
fn every_model_of_the_parser_is_one_of_the_warehouse_and_is_shown_with_its_parameters() {
    for name in parse::MODELS {
        assert_eq!(ModelSpec::from_name(name).unwrap().name(), name);
        let question = passes(json!({ "models": [name], "dimensions": ["channel"] }));
        let shown = crate::answer::model(&question.models[0]);
        // What is shown asks the same again.
        let again = passes(json!({ "models": [shown], "dimensions": ["channel"] }));
        assert_eq!(again, question, "{name}");
    }
}

#[test]
fn grpc_absences_are_refused_too() {
    let request = |change: fn(&mut RunReportRequest)| {
        let mut request = parse::report(valid().to_string().as_bytes()).unwrap();
        change(&mut request);
        check(&request, &tenant("UTC")).unwrap_err().violations()[0].field.clone()
    };
    assert_eq!(request(|r| r.models = vec![query::Model { model: None }]), "models[0]");
    assert_eq!(
        request(|r| r.path_transforms = vec![PathTransform { transform: None }]),
        "path_transforms[0]"
    );
    let no = PathTransform { transform: Some(path_transform::Transform::Exposure(false)) };
    let mut given = parse::report(valid().to_string().as_bytes()).unwrap();
    given.path_transforms = vec![no];
    assert_eq!(check(&given, &tenant("UTC")).unwrap_err().violations()[0].field, "path_transforms[0]");
    assert_eq!(request(|r| r.consistency = "eventual".into()), "consistency");
    assert_eq!(request(|r| r.filters = vec![query::Filter::default()]), "filters[0].dimension");
    let mut nan = parse::report(valid().to_string().as_bytes()).unwrap();
    let shares = query::PositionBasedModel { first: Some(f64::NAN), last: None };
    nan.models = vec![query::Model { model: Some(Model::PositionBased(shares)) }];
    assert_eq!(
        check(&nan, &tenant("UTC")).unwrap_err().violations()[0].field,
        "models[0].position_based.first"
    );
}

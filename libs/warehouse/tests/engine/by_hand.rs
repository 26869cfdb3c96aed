//! Reports computed by hand.

use model::{Model, TouchKind, Transform, Verdict};
use warehouse::{Dimension, Error, Facts, Filter, IdentityFact, Measure, ModelSpec, ReportSpec};

use crate::{
    Engine,
    world::{
        DAY, HOUR, MINUTE, NOON, answered, click, conversion, identity, known_as, progress, retraction,
        shown, spec, touch, written,
    },
};

fn rule(model: Model) -> ModelSpec {
    ModelSpec::Rule(model)
}

pub(crate) async fn one_decision_under_every_rule_model(engine: Engine) {
    let warehouse = engine.warehouse("rules").await;
    let mut shown_only = click("display", 8 * DAY);
    shown_only.kind = TouchKind::Impression;
    let mut late = click("late", -HOUR);
    late.verdict = Verdict::AfterConversion;
    let mut old = click("old", 20 * DAY);
    old.verdict = Verdict::OutsideWindow;
    let path = vec![old, shown_only, click("search", 7 * DAY), click("direct", 0), late];
    let mut fact = conversion("c", "p", path);
    fact.winner = Some(2);
    written(&warehouse, vec![fact]).await;
    let models = Model::DEFAULTS.map(rule).to_vec();
    let mut spec = ReportSpec { models, measures: vec![Measure::Conversions, Measure::Touches], ..spec() };
    // Time decay: 2^(-8/7), 2^-1 and 2^0 of their sum.
    let d = [(-8.0_f64 / 7.0).exp2(), 0.5, 1.0];
    let share = |k: usize| format!("{:.6}", d[k] / d.iter().sum::<f64>());
    let expected = vec![
        "decision direct 0.000000 1".to_owned(),
        "decision display 0.000000 1".into(),
        "decision search 1.000000 1".into(),
        "first_touch direct 0.000000 1".into(),
        "first_touch display 1.000000 1".into(),
        "first_touch search 0.000000 1".into(),
        "last_touch direct 1.000000 1".into(),
        "last_touch display 0.000000 1".into(),
        "last_touch search 0.000000 1".into(),
        "last_non_direct direct 0.000000 1".into(),
        "last_non_direct display 0.000000 1".into(),
        "last_non_direct search 1.000000 1".into(),
        "linear direct 0.333333 1".into(),
        "linear display 0.333333 1".into(),
        "linear search 0.333333 1".into(),
        "position_based direct 0.400000 1".into(),
        "position_based display 0.400000 1".into(),
        "position_based search 0.200000 1".into(),
        format!("time_decay direct {} 1", share(2)),
        format!("time_decay display {} 1", share(0)),
        format!("time_decay search {} 1", share(1)),
    ];
    assert_eq!(answered(&warehouse, &spec).await, expected);

    // A look-back takes the place of the windows, and the winner is the one of the path so made.
    spec.measures = vec![Measure::Conversions];
    spec.models = vec![rule(Model::Decision), rule(Model::FirstTouch)];
    spec.lookback_millis = Some(20 * DAY);
    assert_eq!(answered(&warehouse, &spec).await, ["decision direct 1.000000", "first_touch old 1.000000"]);
    spec.lookback_millis = Some(20 * DAY - 1);
    assert_eq!(
        answered(&warehouse, &spec).await,
        ["decision direct 1.000000", "first_touch display 1.000000"]
    );
    spec.lookback_millis = Some(0);
    assert_eq!(
        answered(&warehouse, &spec).await,
        ["decision direct 1.000000", "first_touch direct 1.000000"]
    );
    spec.lookback_millis = None;
    spec.transforms = vec![Transform::RemoveIfLastAndNotAll("direct".into())];
    assert_eq!(
        answered(&warehouse, &spec).await,
        ["decision search 1.000000", "first_touch display 1.000000"]
    );
}

pub(crate) async fn a_restated_decision_counts_once_and_is_known_as_of_its_moments(engine: Engine) {
    let warehouse = engine.warehouse("restated").await;
    let first = conversion("c", "p", vec![click("email", HOUR)]);
    let later = first.recorded_at_micros + 1_000;
    let mut second = conversion("c", "p", vec![click("search", 2 * HOUR), click("email", HOUR)]);
    second.recorded_at_micros = later;
    let facts = vec![first.clone(), retraction(&first, later), second];
    written(&warehouse, facts).await;
    let measures = vec![Measure::Conversions, Measure::Touches, Measure::Persons];
    let mut spec = ReportSpec { measures, models: vec![rule(Model::Linear)], ..spec() };
    assert_eq!(
        answered(&warehouse, &spec).await,
        ["linear email 0.500000 1 1", "linear search 0.500000 1 1"]
    );
    spec.models = vec![rule(Model::FirstTouch)];
    assert_eq!(
        answered(&warehouse, &spec).await,
        ["first_touch email 0.000000 1 0", "first_touch search 1.000000 1 1"]
    );
    spec.measures = vec![Measure::Conversions, Measure::Persons];
    assert_eq!(answered(&warehouse, &spec).await, ["first_touch search 1.000000 1"]);
    let totals = warehouse.report(&spec).await.unwrap().totals;
    assert_eq!((totals.len(), totals[0].conversions, totals[0].persons), (1, 1, 1));
    spec.as_of_micros = later;
    assert_eq!(answered(&warehouse, &spec).await, ["first_touch email 1.000000 1"]);
    spec.as_of_micros = first.recorded_at_micros;
    assert!(answered(&warehouse, &spec).await.is_empty());
    assert_eq!(warehouse.report(&spec).await.unwrap().totals[0].conversions, 0);
}

pub(crate) async fn currencies_are_never_mixed(engine: Engine) {
    let warehouse = engine.warehouse("currencies").await;
    let euros = conversion("a", "p", vec![click("email", HOUR)]);
    let mut dollars = conversion("b", "p", vec![click("email", HOUR), click("search", MINUTE)]);
    (dollars.currency, dollars.value_micros) = ("USD".into(), 5_000_001);
    let mut refund = conversion("r", "q", vec![click("email", HOUR)]);
    (refund.conversion, refund.value_micros) = ("refund".into(), -12_000_000);
    written(&warehouse, vec![euros, dollars, refund]).await;
    let mut spec = ReportSpec { models: vec![rule(Model::Linear)], ..spec() };
    let expected = [
        "linear email EUR 2.000000 -2.000000",
        "linear email USD 0.500000 2.500001",
        "linear search USD 0.500000 2.500001",
    ];
    assert_eq!(answered(&warehouse, &spec).await, expected);
    let totals = warehouse.report(&spec).await.unwrap().totals;
    let totals: Vec<_> =
        totals.iter().map(|t| (t.currency.as_str(), t.conversions, t.value_micros)).collect();
    assert_eq!(totals, [("EUR", 2, -2_000_000), ("USD", 1, 5_000_001)]);
    spec.measures = vec![Measure::Conversions];
    spec.dimensions = vec![Dimension::Currency];
    assert_eq!(answered(&warehouse, &spec).await, ["linear EUR 2.000000", "linear USD 1.000000"]);
    // Without a dimension, conversions alone are one row.
    spec.dimensions = Vec::new();
    assert_eq!(answered(&warehouse, &spec).await, ["linear 3.000000"]);
}

pub(crate) async fn nothing_is_organic_and_empty_is_not_set(engine: Engine) {
    let warehouse = engine.warehouse("organic").await;
    let mut outside = click("email", 30 * DAY);
    outside.verdict = Verdict::OutsideWindow;
    let mut named = conversion("n", "s", vec![click("organic", HOUR), click("(not set)", MINUTE)]);
    named.country = "DE".into();
    let facts = vec![
        conversion("o", "p", Vec::new()),
        conversion("w", "p", vec![outside]),
        conversion("e", "q", vec![click("", HOUR)]),
        named,
    ];
    written(&warehouse, facts).await;
    let models = vec![rule(Model::Linear), ModelSpec::Shapley, ModelSpec::Markov];
    let measures = vec![Measure::Conversions, Measure::Touches, Measure::Persons];
    let mut spec = ReportSpec { models, measures, ..spec() };
    // A channel of that name is shown under it, too; Markov shares two conversions evenly: the chain is organic to
    // (not set), and (not set) alone, so that all is lost without (not set), and half without organic.
    let expected = [
        "linear (not set) 1.500000 2 2",
        "linear organic 2.500000 1 2",
        "shapley (not set) 1.500000 2 2",
        "shapley organic 2.500000 1 2",
        "markov (not set) 1.333333 2 2",
        "markov organic 2.666667 1 2",
    ];
    assert_eq!(answered(&warehouse, &spec).await, expected);
    spec.models = vec![rule(Model::Linear)];
    spec.measures = vec![Measure::Conversions];
    spec.dimensions = vec![Dimension::Country, Dimension::EventType, Dimension::CampaignId];
    let expected = [
        "linear (not set) click (not set) 1.000000",
        "linear (not set) organic organic 2.000000",
        "linear DE click (not set) 1.000000",
    ];
    assert_eq!(answered(&warehouse, &spec).await, expected);
    spec.filters = vec![Filter { dimension: Dimension::Country, values: vec!["(not set)".into()] }];
    assert_eq!(answered(&warehouse, &spec).await, expected[..2]);
}

pub(crate) async fn filters_select_conversions_before_and_rows_after(engine: Engine) {
    let warehouse = engine.warehouse("filters").await;
    let mut install = conversion("i", "p", vec![click("email", HOUR)]);
    install.conversion = "install".into();
    let mut bought = conversion("b", "p", vec![click("email", HOUR), click("search", MINUTE)]);
    bought.candidates[0].campaign_id = "spring".into();
    written(&warehouse, vec![install, bought]).await;
    let filter = |dimension, value: &str| Filter { dimension, values: vec![value.into()] };
    let mut spec =
        ReportSpec { models: vec![rule(Model::Linear)], measures: vec![Measure::Conversions], ..spec() };
    spec.filters = vec![filter(Dimension::Conversion, "purchase")];
    assert_eq!(answered(&warehouse, &spec).await, ["linear email 0.500000", "linear search 0.500000"]);
    spec.filters.push(filter(Dimension::Channel, "search"));
    assert_eq!(answered(&warehouse, &spec).await, ["linear search 0.500000"]);
    assert_eq!(warehouse.report(&spec).await.unwrap().totals[0].conversions, 1);
    // On a dimension of the touch that is not shown.
    spec.filters[1] = filter(Dimension::CampaignId, "spring");
    assert_eq!(answered(&warehouse, &spec).await, ["linear email 0.500000"]);
    spec.dimensions = Vec::new();
    assert_eq!(answered(&warehouse, &spec).await, ["linear 0.500000"]);
    spec.filters =
        vec![filter(Dimension::Day, "2026-01-10"), filter(Dimension::Hour, "2026-01-10T12:00:00Z")];
    assert_eq!(answered(&warehouse, &spec).await, ["linear 2.000000"]);
    spec.filters.push(filter(Dimension::Month, "2026-02"));
    assert!(answered(&warehouse, &spec).await.is_empty());
}

pub(crate) async fn days_weeks_months_are_the_tenants_and_hours_are_utc(engine: Engine) {
    let warehouse = engine.warehouse("zones").await;
    let at = |id: &str, millis: i64| {
        let mut fact = conversion(id, "p", Vec::new());
        fact.time_millis = millis;
        fact
    };
    // Sunday 2026-02-01T18:29:59.999Z, and one millisecond later Monday in India.
    let monday = 1_769_970_600_000;
    written(&warehouse, vec![at("a", monday - 1), at("b", monday)]).await;
    let mut spec = ReportSpec { measures: vec![Measure::Conversions], to_millis: NOON + 60 * DAY, ..spec() };
    spec.dimensions = vec![Dimension::Day, Dimension::Week, Dimension::Month, Dimension::Hour];
    spec.rules.time_zone = "Asia/Kolkata".into();
    let expected = [
        "last_touch 2026-02-01 2026-01-26 2026-02 2026-02-01T18:00:00Z 1.000000",
        "last_touch 2026-02-02 2026-02-02 2026-02 2026-02-01T18:00:00Z 1.000000",
    ];
    assert_eq!(answered(&warehouse, &spec).await, expected);
    spec.rules.time_zone = "UTC".into();
    assert_eq!(
        answered(&warehouse, &spec).await,
        ["last_touch 2026-02-01 2026-01-26 2026-02 2026-02-01T18:00:00Z 2.000000"]
    );
}

pub(crate) async fn persons_are_who_they_were_known_to_be(engine: Engine) {
    let warehouse = engine.warehouse("persons").await;
    let path = || vec![click("email", HOUR)];
    let at = NOON * 1_000;
    // The smallest identity names the person.
    let mut names = ["a", "b", "c"];
    names.sort_by_key(|name| identity(name));
    let [least, middle, most] = names;
    let facts = Facts {
        conversions: names.iter().map(|who| conversion(&format!("of {who}"), who, path())).collect(),
        identities: vec![
            known_as(most, middle, false, at + 10),
            known_as(most, least, false, at + 20),
            known_as(middle, least, false, at + 20),
            known_as(middle, least, true, at + 30),
        ],
        ..Facts::default()
    };
    warehouse.write_batch(progress(1), 0, &facts).await.unwrap();
    let mut spec = ReportSpec { measures: vec![Measure::Persons], ..spec() };
    for (as_of, persons) in [(at + 10, 3), (at + 11, 2), (at + 21, 1), (at + 31, 2)] {
        spec.as_of_micros = as_of;
        let answer = warehouse.report(&spec).await.unwrap();
        assert_eq!(shown(&spec, &answer), [format!("last_touch email {persons}")]);
        assert_eq!(answer.totals[0].persons, persons);
    }
}

pub(crate) async fn the_published_markov_example_with_its_null_paths(engine: Engine) {
    let warehouse = engine.warehouse("markov").await;
    let path = |who: &str, channels: &[&str]| -> Vec<_> {
        (1..).zip(channels.iter().rev()).map(|(k, channel)| touch(who, channel, k * HOUR)).collect()
    };
    let mut touches = path("p", &["C1", "C2", "C3"]);
    touches.extend(path("q", &["C1"]));
    touches.extend(path("r", &["C2", "C3"]));
    let converted = vec![click("C1", 3 * HOUR), click("C2", 2 * HOUR), click("C3", HOUR)];
    let mut fact = conversion("c", "p", converted);
    fact.value_micros = 100_000_000;
    let facts = Facts { touches, conversions: vec![fact], ..Facts::default() };
    warehouse.write_batch(progress(1), 0, &facts).await.unwrap();
    let mut spec = ReportSpec { models: vec![ModelSpec::Markov], ..spec() };
    let expected = [
        "markov C1 EUR 0.200000 20.000000",
        "markov C2 EUR 0.400000 40.000000",
        "markov C3 EUR 0.400000 40.000000",
    ];
    assert_eq!(answered(&warehouse, &spec).await, expected);
    spec.filters = vec![Filter { dimension: Dimension::Channel, values: vec!["C2".into()] }];
    assert_eq!(answered(&warehouse, &spec).await, expected[1..2]);
    // A conversion that does not pass leaves its person without one.
    spec.filters = vec![Filter { dimension: Dimension::Conversion, values: vec!["install".into()] }];
    assert!(answered(&warehouse, &spec).await.is_empty());
}

pub(crate) async fn null_paths_look_back_from_their_last_touch(engine: Engine) {
    let warehouse = engine.warehouse("nulls").await;
    // An old click of `a`, and a `b`, a week and a millisecond later; and the two devices of one person.
    let touches = vec![
        touch("q", "a", 7 * DAY + 2 * HOUR + 1),
        touch("q", "b", 2 * HOUR),
        touch("r1", "a", 3 * HOUR),
        touch("r2", "b", 2 * HOUR),
    ];
    let conversions =
        vec![conversion("ca", "p", vec![click("a", HOUR)]), conversion("cb", "s", vec![click("b", HOUR)])];
    let at = NOON * 1_000;
    let least = std::cmp::min_by_key("r1", "r2", |who| identity(who));
    let identities: Vec<IdentityFact> = ["r1", "r2"].map(|who| known_as(who, least, false, at)).to_vec();
    let facts = Facts { touches, conversions, identities };
    warehouse.write_batch(progress(1), 0, &facts).await.unwrap();
    let mut spec =
        ReportSpec { models: vec![ModelSpec::Markov], measures: vec![Measure::Conversions], ..spec() };
    // Paths a (1, 0), b (1, 1), a>b (0, 1). Of 2 steps from a one converts and one goes to b, of 3 from b one converts:
    // from a 1/2 + 1/2 * 1/3 = 2/3, from b 1/3; starts 2 : 2, in all 1/2. Over a 1/2 * 2/3 = 1/3 is lost: 2/3; b is
    // visited with 1/2 + 1/2 * 1/2 = 3/4, so 1/4 is lost: 1/2. Weights 4/7 and 3/7.
    assert_eq!(answered(&warehouse, &spec).await, ["markov a 1.142857", "markov b 0.857143"]);
    // A millisecond more of look-back: a (1, 0), b (1, 0), a>b (0, 2). From a 1/3 + 2/3 * 1/3 = 5/9, from b 1/3; starts
    // 3 : 1, in all 3/4 * 5/9 + 1/4 * 1/3 = 1/2. Over a 3/4 * 5/9 = 5/12 is lost: 5/6; b is visited with
    // 3/4 * 2/3 + 1/4 = 3/4, so 1/4 is lost: 1/2. Weights 5/8 and 3/8.
    spec.lookback_millis = Some(7 * DAY + 1);
    assert_eq!(answered(&warehouse, &spec).await, ["markov a 1.250000", "markov b 0.750000"]);
}

pub(crate) async fn markov_shares_every_currency_by_the_same_weights(engine: Engine) {
    let warehouse = engine.warehouse("markov_currencies").await;
    let euros = conversion("a", "p", vec![click("email", HOUR)]);
    let mut dollars = conversion("b", "q", vec![click("search", HOUR)]);
    dollars.currency = "USD".into();
    written(&warehouse, vec![euros, dollars]).await;
    let mut spec = ReportSpec { models: vec![ModelSpec::Markov], ..spec() };
    let expected = [
        "markov email EUR 0.500000 5.000000",
        "markov email USD 0.500000 5.000000",
        "markov search EUR 0.500000 5.000000",
        "markov search USD 0.500000 5.000000",
    ];
    assert_eq!(answered(&warehouse, &spec).await, expected);
    spec.filters = vec![Filter { dimension: Dimension::Channel, values: vec!["search".into()] }];
    assert_eq!(answered(&warehouse, &spec).await, expected[2..]);
}

pub(crate) async fn tenants_do_not_see_each_other_and_values_are_no_sql(engine: Engine) {
    let warehouse = engine.warehouse("tenants").await;
    let evil = "x') OR 1 = 1 -- ?{a:String}\\";
    let mut other = conversion("c", "p", vec![click("theirs", HOUR)]);
    other.tenant = evil.into();
    let ours = conversion("c", "p", vec![click(evil, HOUR), click("email", MINUTE)]);
    written(&warehouse, vec![other, ours]).await;
    let mut spec =
        ReportSpec { measures: vec![Measure::Conversions], models: vec![rule(Model::Linear)], ..spec() };
    let both = ["linear email 0.500000".to_owned(), format!("linear {evil} 0.500000")];
    assert_eq!(answered(&warehouse, &spec).await, both);
    spec.filters = vec![Filter { dimension: Dimension::Channel, values: vec![evil.into()] }];
    assert_eq!(answered(&warehouse, &spec).await, both[1..]);
    spec.filters = vec![Filter { dimension: Dimension::Conversion, values: vec![evil.into()] }];
    assert!(answered(&warehouse, &spec).await.is_empty());
    spec.filters = Vec::new();
    spec.transforms = vec![Transform::RemoveIfNotAll(evil.into())];
    assert_eq!(answered(&warehouse, &spec).await, ["linear email 1.000000"]);
    spec.transforms = Vec::new();
    spec.rules.precedence.direct_channels = vec![evil.into(), "email".into()];
    spec.models = vec![rule(Model::LastNonDirect)];
    assert_eq!(answered(&warehouse, &spec).await, ["last_non_direct email 1.000000"]);
    spec.tenant = evil.into();
    assert_eq!(answered(&warehouse, &spec).await, ["last_non_direct theirs 1.000000"]);
    spec.rules.time_zone = evil.into();
    spec.dimensions = vec![Dimension::Day];
    assert!(matches!(warehouse.report(&spec).await, Err(Error::Rejected(_))));
}

pub(crate) async fn the_largest_values_are_exact(engine: Engine) {
    let warehouse = engine.warehouse("largest").await;
    let path = || vec![click("email", HOUR), click("search", 2 * MINUTE), click("social", MINUTE)];
    let facts = (0..20).map(|n| {
        let mut fact = conversion(&format!("c{n}"), "p", path());
        fact.value_micros = 9_000_000_000_000_000_000 - 1;
        fact
    });
    written(&warehouse, facts.collect()).await;
    let mut spec = ReportSpec { measures: vec![Measure::Value], ..spec() };
    assert_eq!(answered(&warehouse, &spec).await, ["last_touch social EUR 179999999999999.999980"]);
    let total = warehouse.report(&spec).await.unwrap().totals[0].value_micros;
    assert_eq!(total, 20 * (9_000_000_000_000_000_000_i128 - 1));
    // A third of it is 59,999,999,999,999.999993333…
    spec.models = vec![rule(Model::Linear), ModelSpec::Shapley];
    let third = |model: &str| {
        ["email", "search", "social"].map(|to| format!("{model} {to} EUR 59999999999999.999993"))
    };
    assert_eq!(answered(&warehouse, &spec).await, [third("linear"), third("shapley")].concat());
    spec.transforms = vec![Transform::RemoveIfNotAll("email".into())];
    let half = |model: &str| ["search", "social"].map(|to| format!("{model} {to} EUR 89999999999999.999990"));
    assert_eq!(answered(&warehouse, &spec).await, [half("linear"), half("shapley")].concat());
}

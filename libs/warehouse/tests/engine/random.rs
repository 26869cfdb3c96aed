//! Random journeys and random questions: the engine's answer is the plain model's.

use std::collections::BTreeSet;

use model::{
    Conversion, Decision, Journey, Model, Rules, Touch, TouchKind, Transform, Verdict, decide,
    rules::ConversionRules,
};
use warehouse::{
    CandidateFact, ConversionFact, Dimension, Facts, Filter, IdentityFact, MatchType, Measure, ModelSpec,
    OrderBy, OrderField, Progress, ReportRow, ReportSpec, Sign, TouchFact, Warehouse,
};

use crate::{
    Engine,
    oracle::{self, Row},
    world::{DAY, HOUR, MINUTE, NOON, identity, progress},
};

const PERSONS: u64 = 60;
const QUESTIONS: usize = 60;
/// Facts are recorded over four hours.
const RECORDED_MICROS: i64 = HOUR;
const CHANNELS: [&str; 7] = ["direct", "email", "search", "", "organic", "(not set)", "a'b\\?"];
const TENANTS: [&str; 2] = ["default", "other'; --"];

// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }

    fn some<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        all.iter().filter(|_| self.below(3) == 0).cloned().collect()
    }

    fn maybe<T>(&mut self, value: T) -> Option<T> {
        (self.below(2) == 0).then_some(value)
    }
}

pub(crate) async fn reports_equal_the_plain_model(engine: Engine) {
    equal_the_plain_model(&engine.warehouse("random").await, [0, 0]).await;
}

/// With the facts of two batches, of these partitions. `WAREHOUSE_SEED` asks the same again.
pub(crate) async fn equal_the_plain_model(warehouse: &Warehouse, partitions: [u32; 2]) {
    let seed = std::env::var("WAREHOUSE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let elapsed = std::time::UNIX_EPOCH.elapsed().unwrap();
        elapsed.as_nanos() as u64
    });
    eprintln!("WAREHOUSE_SEED={seed}");
    let mut random = Random(seed);
    let facts = facts(&mut random);
    // In two batches, so that editions and their retractions are in several parts.
    let (early, late) = halves(&facts);
    for ((batch, partition), facts) in (1..).zip(partitions).zip([early, late]) {
        let batch = Progress { partition, ..progress(batch) };
        warehouse.write_batch(batch, 0, &facts).await.unwrap();
    }
    let mut rows = 0;
    for question in 0..QUESTIONS {
        let spec = question_of(&mut random);
        let answer =
            warehouse.report(&spec).await.unwrap_or_else(|error| panic!("{question} {spec:?}: {error}"));
        let mut expected = oracle::report(&spec, &facts);
        for row in &answer.rows {
            let key = (row.model, row.dimensions.clone(), row.currency.clone());
            let plain = expected.remove(&key).unwrap_or_default();
            assert!(same(&spec, row, &plain), "question {question}: {row:?} is {plain:?}: {spec:?}");
            rows += 1;
        }
        for (key, plain) in expected {
            let nothing = ReportRow {
                model: key.0,
                dimensions: key.1,
                currency: key.2,
                conversions_micros: 0,
                value_micros: 0,
                touches: 0,
                persons: 0,
            };
            assert!(
                same(&spec, &nothing, &plain),
                "question {question}: no row for {nothing:?}, {plain:?}: {spec:?}"
            );
        }
        totals(&spec, &facts, &answer.totals);
        first_rows(&mut random, warehouse, &spec, &answer.rows).await;
        if question % 10 == 0 {
            assert_eq!(warehouse.report(&spec).await.unwrap(), answer, "asked again: {spec:?}");
        }
    }
    assert!(rows > QUESTIONS, "too few rows to say anything: {rows}");
}

// Of all rows the first in some order.
async fn first_rows(random: &mut Random, warehouse: &Warehouse, spec: &ReportSpec, all: &[ReportRow]) {
    let mut fields: Vec<OrderField> = vec![OrderField::Model];
    fields.extend(spec.dimensions.iter().map(|d| OrderField::Dimension(*d)));
    fields.extend(spec.measures.iter().map(|m| OrderField::Measure(*m)));
    let order_by: Vec<OrderBy> = random
        .some(&fields)
        .into_iter()
        .map(|field| OrderBy { field, descending: random.below(2) == 0 })
        .collect();
    let limit = 1 + random.below(6) as u32;
    let asked = ReportSpec { order_by, limit, ..spec.clone() };
    let answer = warehouse.report(&asked).await.unwrap();
    assert_eq!(answer.truncated, all.len() > limit as usize, "{asked:?}");
    let mut expected = all.to_vec();
    // From the least key to the first: each sort keeps the order of the one before.
    expected
        .sort_by(|a, b| (a.model, &a.dimensions, &a.currency).cmp(&(b.model, &b.dimensions, &b.currency)));
    for OrderBy { field, descending } in asked.order_by.iter().rev() {
        let place = |d: Dimension| asked.dimensions.iter().position(|one| *one == d).unwrap();
        expected.sort_by(|a, b| {
            let (a, b) = if *descending { (b, a) } else { (a, b) };
            match *field {
                OrderField::Model => asked.models[a.model].name().cmp(asked.models[b.model].name()),
                OrderField::Dimension(d) => a.dimensions[place(d)].cmp(&b.dimensions[place(d)]),
                OrderField::Measure(Measure::Conversions) => a.conversions_micros.cmp(&b.conversions_micros),
                OrderField::Measure(Measure::Value) => a.value_micros.cmp(&b.value_micros),
                OrderField::Measure(Measure::Touches) => a.touches.cmp(&b.touches),
                OrderField::Measure(Measure::Persons) => a.persons.cmp(&b.persons),
            }
        });
    }
    expected.truncate(limit as usize);
    assert_eq!(answer.rows, expected, "{asked:?}");
}

fn totals(spec: &ReportSpec, facts: &Facts, totals: &[warehouse::ReportTotal]) {
    let selected = oracle::in_force(spec, facts);
    let currencies: BTreeSet<&str> = if spec.measures(Measure::Value) {
        selected.iter().map(|f| f.currency.as_str()).collect()
    } else {
        BTreeSet::from([""])
    };
    assert_eq!(totals.len(), currencies.len() * spec.models.len(), "{spec:?}");
    for total in totals {
        let mine = |f: &&ConversionFact| total.currency.is_empty() || f.currency == total.currency;
        let mine: Vec<&ConversionFact> = selected.iter().filter(mine).collect();
        if spec.measures(Measure::Conversions) {
            assert_eq!(total.conversions, mine.len() as i64);
        }
        if spec.measures(Measure::Value) {
            assert_eq!(total.value_micros, mine.iter().map(|f| i128::from(f.value_micros)).sum::<i128>());
        }
        if spec.measures(Measure::Persons) {
            let persons: BTreeSet<_> = mine.iter().map(|f| oracle::person(spec, facts, f.identity)).collect();
            assert_eq!(total.persons, persons.len() as u64);
        }
    }
}

// Equal to the micro, with two allowances. The engine converts a float past 2^64 with an error of some 10⁻²⁰ of it. And
// 2^x may differ in its last bit between libraries, which a large value shows.
fn same(spec: &ReportSpec, row: &ReportRow, plain: &Row) -> bool {
    let model = spec.models[row.model];
    let decay = matches!(model, ModelSpec::Rule(Model::TimeDecay { .. }));
    let float = decay || matches!(model, ModelSpec::Markov | ModelSpec::Rule(Model::PositionBased { .. }));
    let near = |mine: i128, e12: i128| {
        if !float {
            let rounded = (e12.unsigned_abs() + 500_000) as i128 / 1_000_000 * e12.signum();
            return mine == rounded;
        }
        let of_size = if decay { e12.abs() / 1_000_000_000_000_000_000_000 } else { e12.abs() >> 83 };
        let tolerance = i128::from(decay || e12.abs() >> 64 > 0) + of_size;
        let rounded = (e12.unsigned_abs() + 500_000) as i128 / 1_000_000 * e12.signum();
        (mine - rounded).abs() <= tolerance
    };
    (!spec.measures(Measure::Conversions) || near(row.conversions_micros, plain.conversions))
        && (!spec.measures(Measure::Value) || near(row.value_micros, plain.value))
        && (!spec.measures(Measure::Touches) || row.touches == plain.touches)
        && (!spec.measures(Measure::Persons) || row.persons == plain.persons.len() as u64)
}

// === questions ===

fn question_of(random: &mut Random) -> ReportSpec {
    use Dimension::{
        AppId, CampaignId, Channel, Conversion, Country, Currency, Day, Hour, Month, Platform, Week,
    };
    let of_touch: Vec<Dimension> = Dimension::ALL.into_iter().filter(|d| d.of_touch()).collect();
    let path = random.of(&of_touch);
    let of_conversion =
        random.some(&[AppId, Platform, Country, Conversion, Currency, Day, Week, Month, Hour]);
    // Three kinds of report: what Markov takes, what Shapley takes, what the rest takes.
    let kind = random.below(3);
    let (mut dimensions, extra) = match kind {
        0 => (vec![path], vec![ModelSpec::Markov, ModelSpec::Shapley]),
        1 => ([vec![path], of_conversion].concat(), vec![ModelSpec::Shapley]),
        _ => ([random.some(&of_touch), of_conversion].concat(), Vec::new()),
    };
    dimensions.truncate(6);
    if random.below(2) == 0 {
        dimensions.reverse();
    }
    let mut filters = Vec::new();
    if random.below(3) == 0 {
        filters.push(Filter { dimension: Country, values: vec!["DE".into(), "(not set)".into()] });
    }
    if random.below(3) == 0 {
        filters
            .push(Filter { dimension: Conversion, values: vec![random.of(&["purchase", "install"]).into()] });
    }
    if random.below(6) == 0 {
        filters.push(Filter { dimension: Month, values: vec!["2025-12".into(), "2026-01".into()] });
    }
    if random.below(3) == 0 {
        let on = if kind == 2 { random.of(&[Channel, CampaignId]) } else { path };
        let values =
            ["email", "organic", "(not set)", "click", "c1", "p1", "a'b\\?"].map(str::to_owned).to_vec();
        filters.push(Filter { dimension: on, values });
    }
    let mut measures = random.some(&Measure::ALL);
    if measures.is_empty() {
        measures = Measure::ALL.to_vec();
    }
    let rule_models = rules_of_thumb(random);
    let mut models = [random.some(&rule_models), extra].concat();
    if models.is_empty() {
        models.push(ModelSpec::Rule(Model::Linear));
    }
    let transforms: Vec<Transform> = (0..random.below(4)).map(|_| transform(random)).collect();
    let from_millis = NOON - random.below(60) as i64 * DAY;
    let spec = ReportSpec {
        tenant: random.of(&TENANTS).into(),
        from_millis,
        to_millis: from_millis + (1 + random.below(90) as i64) * DAY,
        models,
        dimensions,
        measures,
        filters,
        lookback_millis: {
            let lookback = random.of(&[0, HOUR, DAY, 7 * DAY, 30 * DAY, 90 * DAY]);
            random.maybe(lookback)
        },
        transforms,
        order_by: Vec::new(),
        limit: warehouse::ROWS_MAX,
        as_of_micros: if random.below(3) == 0 {
            random.below(4_000) as i64 * RECORDED_MICROS
        } else {
            i64::MAX
        },
        rules: rules(random),
    };
    if random.below(3) == 0 { by_channel(random, spec) } else { spec }
}

// What the projection by the hour can serve, and sometimes just not.
fn by_channel(random: &mut Random, spec: ReportSpec) -> ReportSpec {
    use Dimension::{AppId, Channel, Conversion, Currency, Day, Hour, Month, Week};
    let models = [Model::Decision, Model::FirstTouch, Model::LastTouch, Model::Linear].map(ModelSpec::Rule);
    let measures = [Measure::Conversions, Measure::Value, Measure::Touches];
    let whole = random.below(8) > 0;
    ReportSpec {
        from_millis: if whole { spec.from_millis } else { spec.from_millis - MINUTE },
        models: models[random.below(4) as usize..].to_vec(),
        dimensions: [
            random.some(&[Hour, Day, Week, Month]),
            vec![Channel],
            random.some(&[AppId, Conversion, Currency]),
        ]
        .concat(),
        measures: measures[random.below(3) as usize..].to_vec(),
        filters: spec
            .filters
            .into_iter()
            .filter(|filter| [Channel, Conversion].contains(&filter.dimension))
            .collect(),
        lookback_millis: None,
        transforms: Vec::new(),
        ..spec
    }
}

fn rules_of_thumb(random: &mut Random) -> Vec<ModelSpec> {
    let half_life_millis = random.of(&[1, HOUR, 7 * DAY, 90 * DAY]);
    let (first, last) = random.of(&[(0.4, 0.4), (0.0, 0.0), (1.0, 0.0), (0.3, 0.1), (0.9, 0.1), (0.0, 0.5)]);
    let mut models: Vec<ModelSpec> = Model::DEFAULTS.into_iter().map(ModelSpec::Rule).collect();
    models.push(ModelSpec::Rule(Model::PositionBased { first, last }));
    models.push(ModelSpec::Rule(Model::TimeDecay { half_life_millis }));
    models
}

fn transform(random: &mut Random) -> Transform {
    let value = random.of(&["direct", "email", "(not set)", "click", "a'b\\?"]).to_owned();
    match random.below(4) {
        0 => Transform::Exposure,
        1 => Transform::First,
        2 => Transform::RemoveIfNotAll(value),
        _ => Transform::RemoveIfLastAndNotAll(value),
    }
}

fn rules(random: &mut Random) -> Rules {
    use TouchKind::{Click, Impression, Visit};
    let time_zone = random.of(&["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kolkata"]).into();
    let mut rules = Rules { time_zone, ..Rules::default() };
    rules.precedence.order =
        random.of(&[vec![Click, Impression, Visit], vec![], vec![Visit], vec![Impression, Click]]);
    let direct: [&[&str]; 4] = [&["direct"], &[], &["direct", "a'b\\?"], &[""]];
    for name in ["purchase", "install"] {
        let cut_at_previous = random.below(2) == 0;
        rules.conversions.insert(name.into(), ConversionRules { cut_at_previous });
    }
    rules.precedence.direct_channels = random.of(&direct).iter().map(|s| (*s).to_owned()).collect();
    rules
}

// === facts ===

fn facts(random: &mut Random) -> Facts {
    let mut facts = Facts::default();
    for who in 0..PERSONS {
        person(random, who, &mut facts);
    }
    // In the order of recording, as the log has it.
    facts.touches.sort_by_key(|f| f.recorded_at_micros);
    facts.conversions.sort_by_key(|f| f.recorded_at_micros);
    facts
}

fn person(random: &mut Random, who: u64, facts: &mut Facts) {
    let tenant = random.of(&TENANTS);
    let names: Vec<String> = (0..1 + random.below(3)).map(|n| format!("{who}-{n}")).collect();
    let mut hashes: Vec<_> = names.iter().map(|name| identity(name)).collect();
    hashes.sort_unstable();
    for hash in &hashes {
        if random.below(3) > 0 {
            let recorded_at_micros = random.below(4_000) as i64 * RECORDED_MICROS;
            let shared = random.below(8) == 0;
            let tenant = tenant.to_owned();
            let (identity, person) = (*hash, hashes[0]);
            facts.identities.push(IdentityFact { tenant, identity, person, shared, recorded_at_micros });
        }
    }
    let touches: Vec<Touch> = (0..random.below(9)).map(|n| touch(random, who, n)).collect();
    for touch in &touches {
        facts.touches.push(touch_fact(random, tenant, &random_name(&names, touch), touch));
    }
    for n in 0..random.below(4) {
        let conversion = Conversion {
            id: format!("{who}-c{n}"),
            name: random.of(&["purchase", "install"]).into(),
            time_millis: NOON - random.below(90 * 24) as i64 * HOUR / 2,
            app_id: random.of(&["app", "app", "other"]).into(),
            value_micros: random.of(&[0, 1, 10_000_000, 33_333_333, -7_000_001, 9_000_000_000_000_000_000]),
            currency: random.of(&["EUR", "USD"]).into(),
            install_begin_millis: None,
        };
        let country = random.of(&["", "DE", "US"]);
        let platform = random.of(&["", "ios"]);
        let mut recorded = random.below(2_000) as i64;
        let mut standing: Option<ConversionFact> = None;
        for _ in 0..1 + random.below(3) {
            // Each edition knows some of the touches, under some rules.
            let known: Vec<Touch> = touches.iter().filter(|_| random.below(4) > 0).cloned().collect();
            let previous = conversion.time_millis - random.of(&[0, DAY, 20 * DAY]);
            let journey = Journey {
                conversion: conversion.clone(),
                touches: known,
                previous_conversion_millis: random.maybe(previous),
            };
            let decision = decide(journey, &rules(random));
            let mut fact = conversion_fact(tenant, &names[0], country, &decision);
            fact.platform = platform.into();
            // Whoever won is no fraud.
            let others = fact
                .candidates
                .iter_mut()
                .enumerate()
                .filter(|(index, _)| fact.winner != Some(*index as u16));
            for (_, candidate) in others {
                if random.below(12) == 0 {
                    candidate.verdict = Verdict::Fraud;
                }
            }
            fact.recorded_at_micros = recorded;
            if let Some(old) = standing.take() {
                let retraction = ConversionFact { sign: Sign::Retract, recorded_at_micros: recorded, ..old };
                facts.conversions.push(retraction);
            }
            facts.conversions.push(fact.clone());
            standing = Some(fact);
            recorded += 1 + random.below(900) as i64;
        }
    }
}

fn random_name(names: &[String], touch: &Touch) -> String {
    names[touch.time_millis.unsigned_abs() as usize / MINUTE as usize % names.len()].clone()
}

fn touch(random: &mut Random, who: u64, n: u64) -> Touch {
    Touch {
        id: format!("{who}-t{n}"),
        kind: random.of(&[TouchKind::Click, TouchKind::Impression, TouchKind::Visit]),
        // Often at the same moment as another.
        time_millis: NOON - random.below(60 * 24) as i64 * HOUR / 2,
        app_id: random.of(&["app", "app", "app", "other"]).into(),
        channel: random.of(&CHANNELS).into(),
        partner: random.of(&["", "p1"]).into(),
        campaign_id: random.of(&["", "c1", "c2"]).into(),
        ad_group_id: random.of(&["", "g1"]).into(),
        creative_id: random.of(&["", "v1", "v2"]).into(),
        keyword: random.of(&["", "shoes", "Schuhe ä"]).into(),
    }
}

fn touch_fact(random: &mut Random, tenant: &str, name: &str, touch: &Touch) -> TouchFact {
    TouchFact {
        tenant: tenant.into(),
        app_id: touch.app_id.clone(),
        touch_id: touch.id.clone(),
        time_millis: touch.time_millis,
        recorded_at_micros: random.below(4_000) as i64 * RECORDED_MICROS,
        identity: identity(name),
        kind: touch.kind,
        channel: touch.channel.clone(),
        partner: touch.partner.clone(),
        campaign_id: touch.campaign_id.clone(),
        ad_group_id: touch.ad_group_id.clone(),
        creative_id: touch.creative_id.clone(),
        keyword: touch.keyword.clone(),
        platform: String::new(),
        country: String::new(),
    }
}

fn conversion_fact(tenant: &str, name: &str, country: &str, decision: &Decision) -> ConversionFact {
    let candidate = |candidate: &model::Candidate| CandidateFact {
        touch_id: candidate.touch.id.clone(),
        kind: candidate.touch.kind,
        time_millis: candidate.touch.time_millis,
        channel: candidate.touch.channel.clone(),
        partner: candidate.touch.partner.clone(),
        campaign_id: candidate.touch.campaign_id.clone(),
        ad_group_id: candidate.touch.ad_group_id.clone(),
        creative_id: candidate.touch.creative_id.clone(),
        keyword: candidate.touch.keyword.clone(),
        match_type: MatchType::Identity,
        verdict: candidate.verdict,
    };
    let conversion = &decision.conversion;
    let eligible = decision.candidates.iter().filter(|c| c.verdict == Verdict::Eligible).count();
    assert_eq!(eligible > 0, decision.winner.is_some());
    ConversionFact {
        tenant: tenant.into(),
        app_id: conversion.app_id.clone(),
        conversion_id: conversion.id.clone(),
        time_millis: conversion.time_millis,
        recorded_at_micros: 0,
        sign: Sign::Assert,
        identity: identity(name),
        platform: String::new(),
        country: country.into(),
        conversion: conversion.name.clone(),
        currency: conversion.currency.clone(),
        value_micros: conversion.value_micros,
        winner: decision.winner.as_ref().map(|winner| winner.candidate as u16),
        candidates: decision.candidates.iter().map(candidate).collect(),
    }
}

fn halves(facts: &Facts) -> (Facts, Facts) {
    fn half<T: Clone>(all: &[T]) -> (Vec<T>, Vec<T>) {
        let (early, late) = all.split_at(all.len() / 2);
        (early.to_vec(), late.to_vec())
    }
    let (touches, conversions, identities) =
        (half(&facts.touches), half(&facts.conversions), half(&facts.identities));
    (
        Facts { touches: touches.0, conversions: conversions.0, identities: identities.0 },
        Facts { touches: touches.1, conversions: conversions.1, identities: identities.1 },
    )
}

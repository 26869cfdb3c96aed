//! The plain model: reports over facts in memory, conversion by conversion, without SQL.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    IdentityHash, Model, PathCount, PathTouch, TouchKind, Verdict,
    credit::{CREDIT_E12, values_e12, weights_e12},
    markov, paths,
};
use warehouse::{
    CandidateFact, ConversionFact, Dimension, Facts, IdentityFact, Measure, ModelSpec, NOT_SET, ORGANIC,
    ReportSpec, Sign, TouchFact,
};

/// (model, dimensions, currency) to conversions and value in 10⁻¹², touches and persons.
pub(crate) type Rows = BTreeMap<(usize, Vec<String>, String), Row>;

#[derive(Debug, Default, Clone)]
pub(crate) struct Row {
    pub(crate) conversions: i128,
    pub(crate) value: i128,
    pub(crate) touches: i64,
    pub(crate) persons: BTreeSet<IdentityHash>,
}

pub(crate) fn report(spec: &ReportSpec, facts: &Facts) -> Rows {
    let mut rows = Rows::new();
    for fact in in_force(spec, facts) {
        let path = path(spec, &fact);
        for (m, model) in spec.models.iter().enumerate() {
            add(spec, facts, &mut rows, m, *model, &fact, &path);
        }
    }
    for (m, model) in spec.models.iter().enumerate() {
        if *model == ModelSpec::Markov {
            solve(spec, facts, &mut rows, m);
        }
    }
    rows.retain(|(_, dimensions, _), row| {
        let empty = row.conversions == 0 && row.value == 0 && row.touches == 0 && row.persons.is_empty();
        !empty && touch_filters(spec, dimensions)
    });
    shown(spec, rows)
}

/// The conversions selected, each with the edition in force at the moment asked.
pub(crate) fn in_force(spec: &ReportSpec, facts: &Facts) -> Vec<ConversionFact> {
    let mut standing: Vec<&ConversionFact> = Vec::new();
    for fact in facts.conversions.iter().filter(|f| f.recorded_at_micros < spec.as_of_micros) {
        let same = |f: &&ConversionFact| f.tenant == fact.tenant && f.conversion_id == fact.conversion_id;
        match fact.sign {
            Sign::Assert => standing.push(fact),
            Sign::Retract => standing.retain(|f| !same(f)),
        }
    }
    let selected = |fact: &&ConversionFact| {
        fact.tenant == spec.tenant
            && (spec.from_millis..spec.to_millis).contains(&fact.time_millis)
            && spec.filters.iter().filter(|f| !f.dimension.of_touch()).all(|f| {
                let value = of_conversion(spec, f.dimension, fact);
                f.values.contains(&value)
            })
    };
    standing.into_iter().filter(selected).cloned().collect()
}

pub(crate) fn person(spec: &ReportSpec, facts: &Facts, identity: IdentityHash) -> IdentityHash {
    let told = |f: &&IdentityFact| {
        f.tenant == spec.tenant && f.identity == identity && f.recorded_at_micros < spec.as_of_micros
    };
    let told: Vec<&IdentityFact> = facts.identities.iter().filter(told).collect();
    if told.iter().any(|f| f.shared) {
        identity
    } else {
        told.iter().map(|f| f.person).min().unwrap_or(identity)
    }
}

fn add(
    spec: &ReportSpec,
    facts: &Facts,
    rows: &mut Rows,
    m: usize,
    model: ModelSpec,
    fact: &ConversionFact,
    path: &[&CandidateFact],
) {
    let who = person(spec, facts, fact.identity);
    let one = i128::from(CREDIT_E12);
    // Without a dimension of the touch every model gives the row whole conversions.
    let of_touch = spec.dimensions.iter().chain(&hidden(spec)).any(|d| d.of_touch());
    if path.is_empty() || !of_touch {
        let row = rows.entry(key(spec, m, fact, None)).or_default();
        row.conversions += one;
        row.value += i128::from(fact.value_micros) * 1_000_000;
        row.touches += path.len() as i64;
        row.persons.insert(who);
        return;
    }
    let (conversions, values) = match model {
        ModelSpec::Rule(model) => rule(spec, model, fact, path),
        ModelSpec::Shapley => shapley(spec, fact, path),
        ModelSpec::Markov => (vec![0; path.len()], vec![0; path.len()]),
    };
    for (index, touch) in path.iter().enumerate() {
        let row = rows.entry(key(spec, m, fact, Some(touch))).or_default();
        row.conversions += i128::from(conversions[index]);
        row.value += values[index];
        row.touches += 1;
        if conversions[index] != 0 || model == ModelSpec::Markov {
            row.persons.insert(who);
        }
    }
}

fn rule(
    spec: &ReportSpec,
    model: Model,
    fact: &ConversionFact,
    path: &[&CandidateFact],
) -> (Vec<i64>, Vec<i128>) {
    let precedence = &spec.rules.precedence;
    let seen: Vec<PathTouch> = path
        .iter()
        .map(|touch| PathTouch {
            age_millis: fact.time_millis - touch.time_millis,
            direct: precedence.is_direct(&touch.channel),
            rank: precedence.rank(touch.kind),
        })
        .collect();
    let mut conversions = weights_e12(model, &seen);
    let mut values = values_e12(model, &seen, fact.value_micros);
    if model == Model::Decision && spec.lookback_millis.is_none() && spec.transforms.is_empty() {
        let winner = &fact.candidates[usize::from(fact.winner.unwrap())];
        for (index, touch) in path.iter().enumerate() {
            let won = touch.touch_id == winner.touch_id;
            conversions[index] = i64::from(won) * CREDIT_E12;
            values[index] = i128::from(won) * i128::from(fact.value_micros) * 1_000_000;
        }
    }
    (conversions, values)
}

fn shapley(spec: &ReportSpec, fact: &ConversionFact, path: &[&CandidateFact]) -> (Vec<i64>, Vec<i128>) {
    let labels: Vec<String> = path.iter().map(|touch| of_candidate(spec.path_dimension(), touch)).collect();
    let distinct: BTreeSet<&String> = labels.iter().collect();
    let share = 1.0 / distinct.len() as f64;
    let first = |index: usize| !labels[..index].contains(&labels[index]);
    let weight = |index: usize| if first(index) { share } else { 0.0 };
    let conversions = (0..path.len()).map(|i| (weight(i) * 1e12).round_ties_even() as i64);
    // The nearest whole number: the remainder of one part is less than half of one either way.
    let exact = i128::from(fact.value_micros) * 1_000_000;
    let count = distinct.len() as i128;
    let part = (exact.abs() + count / 2) / count * exact.signum();
    let values = (0..path.len()).map(|i| if first(i) { part } else { 0 });
    (conversions.collect(), values.collect())
}

fn solve(spec: &ReportSpec, facts: &Facts, rows: &mut Rows, m: usize) {
    let dimension = spec.path_dimension();
    let labels =
        |path: &[&CandidateFact]| path.iter().map(|t| of_candidate(dimension, t)).collect::<Vec<_>>();
    let mut walked: Vec<(Vec<String>, bool)> = Vec::new();
    let mut totals: BTreeMap<String, (i128, i128)> = BTreeMap::new();
    let mut converted = BTreeSet::new();
    for fact in in_force(spec, facts) {
        converted.insert(person(spec, facts, fact.identity));
        let path = path(spec, &fact);
        if !path.is_empty() {
            walked.push((labels(&path), true));
            let total = totals.entry(currency(spec, &fact)).or_default();
            total.0 += 1;
            total.1 += i128::from(fact.value_micros);
        }
    }
    walked.extend(nulls(spec, facts, &converted).into_iter().map(|path| (path, false)));
    let names: BTreeSet<String> = walked.iter().flat_map(|(path, _)| path.iter().cloned()).collect();
    let names: Vec<String> = names.into_iter().collect();
    let number = |label: &String| names.binary_search(label).unwrap() as u32;
    let counts: Vec<PathCount> = walked
        .iter()
        .map(|(path, converted)| PathCount {
            path: path.iter().map(number).collect(),
            conversions: u64::from(*converted),
            nulls: u64::from(!*converted),
        })
        .collect();
    for (name, weight) in names.iter().zip(markov::weights(names.len(), &counts).unwrap()) {
        for (currency, (conversions, value)) in &totals {
            let row = rows.entry((m, vec![name.clone()], currency.clone())).or_default();
            row.conversions += (weight * *conversions as f64 * 1e12).round_ties_even() as i128;
            row.value += (weight * *value as f64 * 1e6).round_ties_even() as i128;
        }
    }
}

fn nulls(spec: &ReportSpec, facts: &Facts, converted: &BTreeSet<IdentityHash>) -> Vec<Vec<String>> {
    let mut touched: BTreeMap<IdentityHash, Vec<&TouchFact>> = BTreeMap::new();
    for touch in &facts.touches {
        let known = touch.tenant == spec.tenant && touch.recorded_at_micros < spec.as_of_micros;
        if known && (spec.from_millis..spec.to_millis).contains(&touch.time_millis) {
            touched.entry(person(spec, facts, touch.identity)).or_default().push(touch);
        }
    }
    touched.retain(|who, _| !converted.contains(who));
    let windows = &spec.rules.windows;
    let window = |kind| match kind {
        TouchKind::Click => windows.click,
        TouchKind::Impression => windows.impression,
        TouchKind::Visit => windows.visit,
    };
    let mut paths = Vec::new();
    for (_, mut touches) in touched {
        touches.sort_by(|a, b| (a.time_millis, &a.touch_id).cmp(&(b.time_millis, &b.touch_id)));
        let newest = touches.last().unwrap().time_millis;
        touches.retain(|t| newest - t.time_millis <= spec.lookback_millis.unwrap_or_else(|| window(t.kind)));
        let labels: Vec<String> = touches.iter().map(|t| of_touch(spec.path_dimension(), t)).collect();
        let kept = paths::apply(&spec.transforms, &labels);
        paths.push(kept.into_iter().map(|index| labels[index].clone()).collect());
    }
    paths
}

fn path<'a>(spec: &ReportSpec, fact: &'a ConversionFact) -> Vec<&'a CandidateFact> {
    let eligible = |touch: &&CandidateFact| match spec.lookback_millis {
        None => touch.verdict == Verdict::Eligible,
        Some(lookback) => {
            let age = fact.time_millis - touch.time_millis;
            let judged = matches!(touch.verdict, Verdict::Eligible | Verdict::OutsideWindow);
            judged && (0..=lookback).contains(&age)
        }
    };
    let path: Vec<&CandidateFact> = fact.candidates.iter().filter(eligible).collect();
    let labels: Vec<String> = path.iter().map(|touch| of_candidate(spec.path_dimension(), touch)).collect();
    paths::apply(&spec.transforms, &labels).into_iter().map(|index| path[index]).collect()
}

fn key(
    spec: &ReportSpec,
    m: usize,
    fact: &ConversionFact,
    touch: Option<&&CandidateFact>,
) -> (usize, Vec<String>, String) {
    let value = |d: Dimension| match touch {
        _ if !d.of_touch() => of_conversion(spec, d, fact),
        Some(touch) => of_candidate(d, touch),
        None => ORGANIC.to_owned(),
    };
    // The values that are only filtered on come after those that are shown.
    let hidden = hidden(spec);
    let values = spec.dimensions.iter().chain(&hidden).map(|d| value(*d)).collect();
    (m, values, currency(spec, fact))
}

fn hidden(spec: &ReportSpec) -> Vec<Dimension> {
    let filtered = spec.filters.iter().map(|f| f.dimension);
    filtered.filter(|d| d.of_touch() && !spec.dimensions.contains(d)).collect()
}

fn touch_filters(spec: &ReportSpec, values: &[String]) -> bool {
    let hidden = hidden(spec);
    let dimensions: Vec<&Dimension> = spec.dimensions.iter().chain(&hidden).collect();
    let place = |d: Dimension| dimensions.iter().position(|one| **one == d).unwrap();
    let mut filters = spec.filters.iter().filter(|f| f.dimension.of_touch());
    filters.all(|f| f.values.contains(&values[place(f.dimension)]))
}

// Without what is hidden.
fn shown(spec: &ReportSpec, rows: Rows) -> Rows {
    let mut shown = Rows::new();
    for ((m, mut dimensions, currency), row) in rows {
        dimensions.truncate(spec.dimensions.len());
        let sum = shown.entry((m, dimensions, currency)).or_default();
        sum.conversions += row.conversions;
        sum.value += row.value;
        sum.touches += row.touches;
        sum.persons.extend(row.persons);
    }
    shown
}

fn currency(spec: &ReportSpec, fact: &ConversionFact) -> String {
    if spec.measures(Measure::Value) { fact.currency.clone() } else { String::new() }
}

fn or_not_set(value: &str) -> String {
    if value.is_empty() { NOT_SET.into() } else { value.into() }
}

fn of_candidate(dimension: Dimension, touch: &CandidateFact) -> String {
    or_not_set(match dimension {
        Dimension::Channel => &touch.channel,
        Dimension::Partner => &touch.partner,
        Dimension::CampaignId => &touch.campaign_id,
        Dimension::AdGroupId => &touch.ad_group_id,
        Dimension::CreativeId => &touch.creative_id,
        Dimension::Keyword => &touch.keyword,
        Dimension::EventType => touch.kind.name(),
        other => panic!("{other:?} is of the conversion"),
    })
}

fn of_touch(dimension: Dimension, touch: &TouchFact) -> String {
    or_not_set(match dimension {
        Dimension::Channel => &touch.channel,
        Dimension::Partner => &touch.partner,
        Dimension::CampaignId => &touch.campaign_id,
        Dimension::AdGroupId => &touch.ad_group_id,
        Dimension::CreativeId => &touch.creative_id,
        Dimension::Keyword => &touch.keyword,
        Dimension::EventType => touch.kind.name(),
        other => panic!("{other:?} is of the conversion"),
    })
}

fn of_conversion(spec: &ReportSpec, dimension: Dimension, fact: &ConversionFact) -> String {
    let at = jiff::Timestamp::from_millisecond(fact.time_millis).unwrap();
    let date = at.in_tz(&spec.rules.time_zone).unwrap().date();
    match dimension {
        Dimension::Day => date.to_string(),
        Dimension::Month => date.strftime("%Y-%m").to_string(),
        Dimension::Week => {
            let since = i64::from(date.weekday().since(jiff::civil::Weekday::Monday));
            (date - jiff::Span::new().days(since)).to_string()
        }
        Dimension::Hour => at.strftime("%Y-%m-%dT%H:00:00Z").to_string(),
        Dimension::AppId => or_not_set(&fact.app_id),
        Dimension::Platform => or_not_set(&fact.platform),
        Dimension::Country => or_not_set(&fact.country),
        Dimension::Conversion => or_not_set(&fact.conversion),
        Dimension::Currency => or_not_set(&fact.currency),
        other => panic!("{other:?} is of the touch"),
    }
}

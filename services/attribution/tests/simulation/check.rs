//! What a world must be like when everything is sent and reported: as the plain model says.

use std::collections::{BTreeMap, BTreeSet};

use journey_store::Stores;
use prost::Message;
use proto::decisions::{Decision, Verdict};
use testkit::plain::{self, Model, Platform};

use crate::{
    rowbinary::Value,
    warehouse::{ModelWarehouse, Row},
};

/// Tenant, conversion id and the encoded decision in force of every conversion of the model.
pub type InForce = BTreeMap<(String, String), Vec<u8>>;

/// The decisions in force, each as the model says.
pub async fn decisions(platform: &Platform, stores: &Stores) -> Result<InForce, String> {
    let mut in_force = InForce::new();
    let mut persons: BTreeMap<String, (String, plain::Person)> = BTreeMap::new();
    for (tenant, id) in platform.conversions() {
        let place = |what: String| format!("conversion {id} of {tenant}: {what}");
        let stored =
            stores.journeys.conversion(&tenant, &id).await.map_err(|error| place(error.to_string()))?;
        let Some(edition) = stored.and_then(|stored| stored.editions.into_iter().next()) else {
            return Err(place("it is not decided".to_owned()));
        };
        let decision =
            Decision::decode(edition.decision.clone()).map_err(|error| place(error.to_string()))?;
        let expected = platform.decision(&tenant, &id).ok_or_else(|| place("unknown".to_owned()))?;
        same(&expected, &decision).map_err(place)?;
        credit(platform, &tenant, &expected, &decision).map_err(place)?;
        // The id of a person stands for the same person everywhere.
        let person = (tenant.clone(), expected.person.clone());
        let known = persons.entry(decision.person_id.clone()).or_insert_with(|| person.clone());
        equal("person of an id", &person, known).map_err(place)?;
        in_force.insert((tenant.clone(), id.clone()), edition.decision.to_vec());
    }
    if persons.values().collect::<BTreeSet<_>>().len() != persons.len() {
        return Err("one person has two ids".to_owned());
    }
    Ok(in_force)
}

fn same(expected: &plain::Decision, actual: &Decision) -> Result<(), String> {
    let names = |verdict: Verdict| verdict.as_str_name().trim_start_matches("VERDICT_").to_lowercase();
    let candidate = |candidate: &proto::decisions::Candidate| {
        let id = candidate.touch.as_ref().map(|touch| touch.event_id.clone()).unwrap_or_default();
        (id, names(candidate.verdict()), candidate.age_millis, candidate.window_millis)
    };
    let actual_path: Vec<_> = actual.candidates.iter().map(candidate).collect();
    let expected_path: Vec<_> = expected
        .candidates
        .iter()
        .map(|c| (c.touch.event_id.clone(), c.verdict.to_owned(), c.age_millis, c.window_millis))
        .collect();
    equal("candidates", &expected_path, &actual_path)?;
    equal("truncated", &expected.truncated, &actual.truncated)?;
    equal("shared", &expected.person.shared, &actual.shared)?;
    let winner = actual.winner.clone().unwrap_or_default();
    let place = |place: usize| expected.ranking.get(place).cloned().unwrap_or_default();
    equal("winner", &place(0), &winner.event_id)?;
    equal("runner-up", &place(1), &winner.runner_up)?;
    let conversion = actual.conversion.clone().unwrap_or_default();
    equal("value", &expected.conversion.value, &conversion.value)?;
    equal("currency", &expected.conversion.currency, &conversion.currency)
}

fn credit(
    platform: &Platform,
    tenant: &str,
    expected: &plain::Decision,
    actual: &Decision,
) -> Result<(), String> {
    let models = [
        ("decision", Model::Decision),
        ("first_touch", Model::FirstTouch),
        ("last_touch", Model::LastTouch),
        ("last_non_direct", Model::LastNonDirect),
        ("linear", Model::Linear),
        ("position_based", Model::PositionBased(0.4, 0.4)),
        ("time_decay", Model::TimeDecay(7.0 * plain::DAY as f64)),
    ];
    let value_micros =
        expected.conversion.value.parse::<i64>().map_err(|error| error.to_string())? * 1_000_000;
    equal("models", &models.len(), &actual.credit.len())?;
    for ((name, model), actual) in models.into_iter().zip(&actual.credit) {
        equal("model", &name, &actual.model.as_str())?;
        equal(name, &1_000_000, &actual.touches.iter().map(|touch| touch.conversion_micros).sum())?;
        equal(name, &value_micros, &actual.touches.iter().map(|touch| touch.value_micros).sum())?;
        let shares = platform.credit(tenant, expected, model);
        let share = |id: &str| shares.iter().filter(|(of, _)| of == id).map(|(_, share)| share).sum::<f64>();
        for touch in &actual.touches {
            let expected = share(&touch.event_id) * 1e6;
            // Largest remainder moves a share by less than one micro.
            if (touch.conversion_micros as f64 - expected).abs() > 1.0 {
                return Err(format!("{name} gives {touch:?}, not {expected} micros"));
            }
        }
    }
    Ok(())
}

/// The facts, each once and as the model says.
pub fn facts(platform: &Platform, in_force: &InForce, warehouse: &ModelWarehouse) -> Result<(), String> {
    touches(platform, &warehouse.rows("touches"))?;
    conversions(in_force, &warehouse.rows("conversions"))?;
    identities(platform, &warehouse.rows("identities"))
}

fn touches(platform: &Platform, rows: &[Row]) -> Result<(), String> {
    let fact = |row: &Row| {
        let text = |name: &str| row[name].text().to_owned();
        (text("tenant"), text("touch_id"), row["time"].number(), text("channel"), text("app_id"))
    };
    let mut actual: Vec<_> = rows.iter().map(fact).collect();
    actual.sort();
    let expected = |(tenant, touch): (String, proto::events::Event)| {
        let time = i128::from(plain::millis(&touch));
        (tenant, touch.event_id, time, touch.channel, touch.app_id)
    };
    let expected: Vec<_> = platform.touches().into_iter().map(expected).collect();
    equal_lists("touches of the warehouse", &expected, &actual)
}

/// What is asserted and not retracted is what is in force.
fn conversions(in_force: &InForce, rows: &[Row]) -> Result<(), String> {
    let mut sums: BTreeMap<(String, String), BTreeMap<Vec<Value>, i128>> = BTreeMap::new();
    for row in rows {
        let key = (row["tenant"].text().to_owned(), row["conversion_id"].text().to_owned());
        let same =
            row.iter().filter(|(name, _)| !["sign", "recorded_at", "part", "batch"].contains(&name.as_str()));
        let same: Vec<Value> = same.map(|(_, value)| value.clone()).collect();
        *sums.entry(key).or_default().entry(same).or_default() += row["sign"].number();
    }
    for (key, sums) in &mut sums {
        sums.retain(|_, sum| *sum != 0);
        if sums.len() != 1 || sums.values().any(|sum| *sum != 1) {
            return Err(format!("the warehouse has {key:?} {:?} times", sums.values()));
        }
    }
    let (decided, reported): (Vec<_>, Vec<_>) = (in_force.keys().collect(), sums.keys().collect());
    equal_lists("conversions of the warehouse", &decided, &reported)?;
    for (key, bytes) in in_force {
        let decision = Decision::decode(&bytes[..]).map_err(|error| error.to_string())?;
        let winner = decision.winner.unwrap_or_default().event_id;
        let ids: Vec<String> =
            decision.candidates.iter().filter_map(|c| Some(c.touch.as_ref()?.event_id.clone())).collect();
        let verdicts: Vec<i128> = decision.candidates.iter().map(|c| i128::from(c.verdict)).collect();
        let winner = ids.iter().position(|id| *id == winner).map_or(0, |at| at as i128 + 1);
        let of = |row: &&Row| row["tenant"].text() == key.0 && row["conversion_id"].text() == key.1;
        let stands = |row: &&Row| {
            row["sign"].number() == 1
                && row["winner"].number() == winner
                && row["touch.id"].list().iter().map(Value::text).eq(ids.iter().map(String::as_str))
                && row["touch.verdict"].list().iter().map(Value::number).eq(verdicts.iter().copied())
        };
        // Of the rows that are left, all are the same: so one that says it is enough.
        if !rows.iter().filter(of).any(|row| stands(&row)) {
            return Err(format!("the warehouse does not have {key:?} as it is in force"));
        }
    }
    Ok(())
}

fn identities(platform: &Platform, rows: &[Row]) -> Result<(), String> {
    let mut joined: BTreeMap<i128, (bool, u128)> = BTreeMap::new();
    for row in rows {
        let (shared, person) = (row["shared"].number() != 0, row["person"].number() as u128);
        let known = joined.entry(row["identity"].number()).or_insert((shared, person));
        *known = (known.0 || shared, known.1.min(person));
    }
    let person = |identity: i128| match joined.get(&identity) {
        Some((false, person)) => *person,
        _ => identity as u128,
    };
    let mut names: BTreeMap<(String, u128), plain::Person> = BTreeMap::new();
    let mut persons: BTreeMap<(String, plain::Person), u128> = BTreeMap::new();
    for (tenant, event) in platform.touches() {
        let Some((kind, value)) = plain::identities(&event).into_iter().next() else { continue };
        let kind = match kind {
            "device_id" => model::IdentityKind::Device,
            "cookie_id" => model::IdentityKind::Cookie,
            _ => model::IdentityKind::User,
        };
        let identity = i128::from_be_bytes(model::IdentityHash::new(&tenant, kind, &value).0);
        let (id, expected) = (person(identity), platform.person(&tenant, &event));
        let name = names.entry((tenant.clone(), id)).or_insert_with(|| expected.clone());
        equal("person of the warehouse", &expected, name)?;
        let known = *persons.entry((tenant, expected)).or_insert(id);
        equal("id of a person of the warehouse", &known, &id)?;
    }
    Ok(())
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, actual: &T) -> Result<(), String> {
    if expected == actual { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {actual:?}")) }
}

/// As [`equal`], of sorted lists; says only where they differ.
fn equal_lists<T: Ord + std::fmt::Debug>(what: &str, expected: &[T], actual: &[T]) -> Result<(), String> {
    let differs = expected.iter().zip(actual).position(|(expected, actual)| expected != actual);
    let at = differs.unwrap_or_else(|| expected.len().min(actual.len()));
    match (expected.get(at), actual.get(at)) {
        (None, None) => Ok(()),
        (expected, actual) => Err(format!("{what}, at {at}: expected {expected:?}, found {actual:?}")),
    }
}

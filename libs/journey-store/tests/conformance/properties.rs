//! Random events in random order and batches, against the plain model.

use std::collections::{BTreeMap, BTreeSet};

use journey_store::{Edition, Incoming, JourneyQuery, Outcome, Position, Stores};
use proto::events::{Event, EventType};
use rand::{RngExt, rngs::StdRng, seq::SliceRandom};

use crate::{
    make::{DAY, Seed, T, TENANT, conversion, edition, event, incoming, of_tenant, place},
    plain::{Plain, PlainJourney, persons_told},
};

/// What to make events of.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub events: usize,
    /// Values of each kind of identity.
    pub values: u32,
    /// Of 100 events, how many name more than one identity.
    pub links_percent: u32,
}

/// Few identities, joined in many ways.
pub const SMALL: Shape = Shape { events: 70, values: 5, links_percent: 25 };
/// Sets that grow past the limit of a person.
pub const CROWD: Shape = Shape { events: 320, values: 70, links_percent: 75 };

/// The state is a function of the set of events; what changes is named; replays change nothing.
pub async fn order_and_batches_do_not_matter(open: impl AsyncFn() -> Stores, seed: &Seed, shape: Shape) {
    let mut rng = seed.rng();
    let events = random_events(&mut rng, shape);
    let mut ends = Vec::new();
    for _ in 0..2 {
        let mut order = events.clone();
        order.shuffle(&mut rng);
        for _ in 0..events.len() / 8 {
            let again = order[rng.random_range(0..order.len())].clone();
            order.insert(rng.random_range(0..=order.len()), again);
        }
        ends.push(run(&open().await, &mut rng, order).await);
    }
    assert_eq!(ends[0], ends[1], "two orders of the same events");
    let shared = ends[0].0.values().filter(|journey| journey.shared).count();
    assert_eq!(shared > 0, shape.values > 50, "the shape makes shared sets or not");
}

type End = (BTreeMap<(String, String), PlainJourney>, Vec<Vec<Event>>);

async fn run(stores: &Stores, rng: &mut StdRng, order: Vec<(&'static str, Event)>) -> End {
    let mut plain = Plain::default();
    let mut offset = 0;
    let mut rest = &order[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rng.random_range(1..=rest.len().min(12)));
        rest = later;
        let mut call: Vec<Incoming> = Vec::new();
        for (tenant, event) in now {
            // Several records in a call, and now and then a record over two calls.
            let index = call.last().map_or(20, |last| last.position.index + 1);
            let (at, index) = if rng.random_ratio(1, 4) { (offset + 1, 0) } else { (offset, index) };
            offset = at;
            call.push(of_tenant(tenant, place(at, index), event.clone()));
        }
        step(stores, rng, &mut plain, &call).await;
        offset += u64::from(rng.random_ratio(3, 4));
        offset += u64::from(call.last().is_some_and(|last| last.position.index >= 20));
    }
    let journeys = journeys(&plain);
    check_all(stores, &plain, &journeys).await;
    let pages = plain.identities().into_iter().map(|identity| plain.events(identity)).collect();
    (journeys, pages)
}

async fn step(stores: &Stores, rng: &mut StdRng, plain: &mut Plain, call: &[Incoming]) {
    let before = journeys(plain);
    let expected: Vec<Outcome> = call.iter().map(|incoming| plain.record(incoming)).collect();
    let recorded = stores.journeys.record(0, call).await.unwrap();
    assert_eq!(recorded.outcomes, expected);

    let named: BTreeSet<(String, String)> =
        recorded.affected.iter().map(|a| (a.tenant.to_string(), a.conversion_id.clone())).collect();
    assert_eq!(named.len(), recorded.affected.len(), "each conversion is named once");
    let after = journeys(plain);
    for (conversion, journey) in &before {
        assert!(named.contains(conversion) || after[conversion] == *journey, "{conversion:?} changed unsaid");
    }
    for affected in &recorded.affected {
        let stored =
            stores.journeys.conversion(&affected.tenant, &affected.conversion_id).await.unwrap().unwrap();
        assert_eq!((stored.conversion.home, stored.conversion.position), (affected.home, affected.position));
    }

    if rng.random_ratio(1, 3) {
        let effects = stores.outbox.effects(0, 0, u64::MAX).await.unwrap();
        let again = stores.journeys.record(0, call).await.unwrap();
        assert_eq!(again.outcomes, expected, "a replay finds the same");
        let again: BTreeSet<_> =
            again.affected.into_iter().map(|a| (a.tenant.to_string(), a.conversion_id)).collect();
        assert!(again.is_superset(&named), "a replay names what the first time named");
        assert_eq!(stores.outbox.effects(0, 0, u64::MAX).await.unwrap(), effects);
        check_journeys(stores, &after).await;
    }
}

fn journeys(plain: &Plain) -> BTreeMap<(String, String), PlainJourney> {
    let conversions = plain.conversions().into_iter();
    conversions
        .map(|(tenant, id)| {
            let journey = plain.journey(&tenant, &id).unwrap();
            ((tenant.to_string(), id), journey)
        })
        .collect()
}

async fn check_journeys(stores: &Stores, expected: &BTreeMap<(String, String), PlainJourney>) {
    let queries: Vec<JourneyQuery> = expected
        .keys()
        .map(|(tenant, id)| JourneyQuery { tenant: tenant.as_str().into(), conversion_id: id.clone() })
        .collect();
    let found = stores.journeys.journeys(&queries).await.unwrap();
    for ((conversion, expected), found) in expected.iter().zip(found) {
        assert_eq!(PlainJourney::from(found.unwrap()), *expected, "journey of {conversion:?}");
    }
}

async fn check_all(stores: &Stores, plain: &Plain, expected: &BTreeMap<(String, String), PlainJourney>) {
    check_journeys(stores, expected).await;
    let effects = stores.outbox.effects(0, 0, u64::MAX).await.unwrap();
    assert!(effects.is_sorted_by(|a, b| a.offset < b.offset), "one entry for each offset");
    let repeats: BTreeMap<u64, BTreeSet<u32>> = effects
        .iter()
        .filter(|effects| !effects.repeats.is_empty())
        .map(|effects| (effects.offset, effects.repeats.iter().copied().collect()))
        .collect();
    assert_eq!(repeats, plain.repeats);
    let told = persons_told(&effects);
    for identity in plain.identities() {
        let (person, shared, _) = plain.person(identity).unwrap();
        assert_eq!(told.get(&identity).copied().unwrap_or((identity, false)), (person, shared), "{identity}");
        let tenants = [TENANT, OTHER];
        let mut pages = Vec::new();
        for tenant in tenants {
            pages.extend(stores.journeys.page(tenant, identity, None, 1_000).await.unwrap());
        }
        let [page] = &pages[..] else { panic!("one tenant knows {identity}") };
        assert_eq!((page.person, page.shared, page.more), (person, shared, false));
        assert_eq!(page.identities, plain.names(identity));
        assert_eq!(page.events, plain.events(identity));
    }
}

const OTHER: &str = "other";

fn random_events(rng: &mut StdRng, shape: Shape) -> Vec<(&'static str, Event)> {
    let types = [
        EventType::Click,
        EventType::Impression,
        EventType::Visit,
        EventType::Conversion,
        EventType::Conversion,
        EventType::Activity,
    ];
    (0..shape.events)
        .map(|n| {
            let mut kinds = ["d", "c", "u"];
            kinds.shuffle(rng);
            let links = rng.random_range(0..100) < shape.links_percent;
            let count = if links { rng.random_range(2..=3) } else { 1 };
            let identities: Vec<String> = kinds[..count]
                .iter()
                .map(|kind| format!("{kind}:{}", rng.random_range(0..shape.values)))
                .collect();
            // Coarse, so that times are often equal and often exactly 90 days apart.
            let time = T + rng.random_range(0..40) * 5 * DAY + rng.random_range(0..2);
            let name = ["install", "purchase"][rng.random_range(0..2)];
            let id = format!("{:02x}-{n}", rng.random_range(0..256));
            let identities = identities.join(" ");
            let event = match types[rng.random_range(0..types.len())] {
                EventType::Conversion => conversion(&id, name, time, &identities),
                event_type => event(&id, event_type, time, &identities),
            };
            (if rng.random_ratio(1, 10) { OTHER } else { TENANT }, event)
        })
        .collect()
}

/// Editions are stored by cause and digest, and what goes out of force is retracted.
pub async fn editions_follow_their_causes(stores: &Stores, seed: &Seed) {
    let mut rng = seed.rng();
    let ids = ["a", "b", "c"];
    let events = ids.iter().map(|id| conversion(id, "install", T, "d:x"));
    let call: Vec<_> = events.enumerate().map(|(n, event)| incoming(0, n as u32, event)).collect();
    stores.journeys.record(0, &call).await.unwrap();
    let mut lists: BTreeMap<&str, Vec<Edition>> = BTreeMap::new();
    let mut owed: BTreeMap<Position, (Option<bytes::Bytes>, bytes::Bytes)> = BTreeMap::new();
    for consumed in 1..200u64 {
        let mut editions = Vec::new();
        let mut expected = Vec::new();
        let mut causes: Vec<Position> = (0..rng.random_range(0..6))
            .map(|_| place(consumed + rng.random_range(0..4), rng.random_range(0..ids.len() as u32)))
            .collect();
        causes.sort_unstable();
        for cause in causes {
            let which = cause.index as usize;
            let new = edition(ids[which], cause, rng.random_range(0..4));
            let list = lists.entry(ids[which]).or_default();
            let last = list.last();
            let stored = last.is_none_or(|last| cause > last.cause && new.digest != last.digest);
            if stored {
                owed.insert(cause, (last.map(|last| last.decision.clone()), new.decision.clone()));
                let (reason, recorded_at_micros) = (new.reason, new.recorded_at_micros);
                let (digest, decision) = (new.digest, new.decision.clone());
                list.push(Edition { cause, reason, recorded_at_micros, digest, decision });
            }
            expected.push(stored);
            editions.push(new);
        }
        assert_eq!(stores.journeys.commit(0, &editions, consumed).await.unwrap(), expected);
        assert_eq!(stores.outbox.consumed_to(0).await.unwrap(), consumed);
        let again = stores.journeys.commit(0, &editions, consumed).await.unwrap();
        assert!(!again.contains(&true), "a commit made again stores nothing");
    }
    for (id, list) in lists {
        let found = stores.journeys.conversion(TENANT, id).await.unwrap().unwrap();
        let in_force = list.len() - 1;
        let expected: Vec<Edition> = (0..list.len())
            .rev()
            .take(101)
            .map(|n| match n == in_force {
                true => list[n].clone(),
                false => Edition { decision: bytes::Bytes::new(), ..list[n].clone() },
            })
            .collect();
        assert_eq!(found.editions, expected, "{id}");
    }
    let told: BTreeMap<_, _> = stores
        .outbox
        .effects(0, 0, u64::MAX)
        .await
        .unwrap()
        .into_iter()
        .flat_map(|effects| effects.editions)
        .map(|change| (change.cause, (change.retracted, change.asserted)))
        .collect();
    assert_eq!(told, owed);
}

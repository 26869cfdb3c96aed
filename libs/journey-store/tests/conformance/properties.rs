//! Random events in random order and batches, against the plain model.

use std::collections::{BTreeMap, BTreeSet};

use journey_store::{Edition, Incoming, JourneyQuery, Outcome, Plan, Position, Stores};
use proto::events::{Event, EventType};
use rand::{RngExt, rngs::StdRng, seq::SliceRandom};
use tokio::sync::Mutex;

use crate::{
    make::{DAY, Seed, T, TENANT, activity, click, conversion, edition, event, incoming, of_tenant, place},
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
        let replayed = expected.iter().map(|outcome| match outcome {
            Outcome::Repeat => Outcome::Repeat,
            Outcome::First | Outcome::Replayed => Outcome::Replayed,
        });
        assert!(replayed.eq(again.outcomes), "a replay finds the same");
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

fn queries<'a>(conversions: impl Iterator<Item = &'a (String, String)>) -> Vec<JourneyQuery> {
    let query = |(tenant, id): &(String, String)| JourneyQuery {
        tenant: tenant.as_str().into(),
        conversion_id: id.clone(),
    };
    conversions.map(query).collect()
}

async fn check_journeys(stores: &Stores, expected: &BTreeMap<(String, String), PlainJourney>) {
    let queries = queries(expected.keys());
    let found = stores.journeys.journeys(&queries, 0).await.unwrap();
    for ((conversion, expected), found) in expected.iter().zip(found) {
        assert_eq!(PlainJourney::from(found.unwrap()), *expected, "journey of {conversion:?}");
    }
}

async fn check_all(stores: &Stores, plain: &Plain, expected: &BTreeMap<(String, String), PlainJourney>) {
    check_journeys(stores, expected).await;
    for max in [1, 4, usize::MAX] {
        let found = stores.journeys.journeys(&queries(expected.keys()), max).await.unwrap();
        for ((tenant, id), found) in expected.keys().zip(found) {
            let past = plain.past_conversions(tenant, id, max);
            assert_eq!(found.unwrap().conversions, past, "at most {max} conversions up to {id}");
        }
    }
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

/// Editions are stored by cause and digest, and what goes out of force is retracted, wherever plans stand.
pub async fn editions_follow_their_causes(stores: &Stores, seed: &Seed, commits: u64) {
    let mut rng = seed.rng();
    let ids = ["a", "b", "c"];
    let events = ids.iter().map(|id| conversion(id, "install", T, "d:x"));
    let call: Vec<_> = events.enumerate().map(|(n, event)| incoming(0, n as u32, event)).collect();
    stores.journeys.record(0, &call).await.unwrap();
    let mut lists: BTreeMap<&str, Vec<Edition>> = BTreeMap::new();
    let mut owed: BTreeMap<Position, (Option<bytes::Bytes>, bytes::Bytes)> = BTreeMap::new();
    let mut plan = Plan { batch: 0, from: 0, to: 0, stamp: 1 };
    for consumed in 1..=commits {
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
        if rng.random_ratio(1, 5) {
            plan = Plan { batch: plan.batch + 1, from: plan.to, to: consumed + 1, stamp: 1 };
            stores.outbox.put_plan(0, plan).await.unwrap();
        }
    }
    owed.retain(|cause, _| cause.offset >= plan.from);
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
        .effects(0, plan.from, u64::MAX)
        .await
        .unwrap()
        .into_iter()
        .flat_map(|effects| effects.editions)
        .map(|change| (change.cause, (change.retracted, change.asserted)))
        .collect();
    assert_eq!(told, owed);
}

/// Of a touch with a link and a conversion with another link, recorded at the same moment, one call sees the other.
pub async fn two_workers_see_each_other([one, two]: [&Stores; 2], rounds: u64) {
    for n in 0..rounds {
        let at = |partition, index| Position { partition, offset: n, index };
        let touch = of_tenant(TENANT, at(0, 0), click(&format!("t{n}"), T, &format!("c:{n} u:{n}")));
        let made = of_tenant(TENANT, at(1, 0), conversion(&format!("c{n}"), "buy", T, &format!("d:{n}")));
        let link = of_tenant(TENANT, at(1, 1), activity(&format!("l{n}"), &format!("d:{n} u:{n}")));
        let (touches, made) = ([touch], [made, link]);
        let runtime = tokio::runtime::Handle::current();
        let (named, journey) = std::thread::scope(|scope| {
            let one = scope.spawn(|| runtime.block_on(one.journeys.record(0, &touches)).unwrap().affected);
            let two = scope.spawn(|| {
                runtime.block_on(two.journeys.record(1, &made)).unwrap();
                let query = JourneyQuery { tenant: TENANT.into(), conversion_id: format!("c{n}") };
                runtime.block_on(two.journeys.journeys(&[query], 0)).unwrap().remove(0).unwrap()
            });
            let named = one.join().unwrap().iter().any(|affected| affected.conversion_id == format!("c{n}"));
            (named, two.join().unwrap())
        });
        assert!(named || journey.touches.len() == 1, "round {n}: neither saw the other");
    }
}

/// Workers of three partitions that record side by side, each reading the journeys of what is new or named, leave what the
/// plain model says; and whoever reads a journey last has read it as it is in the end.
pub async fn workers_side_by_side(stores: [&Stores; 3], seed: &Seed, shape: Shape) {
    let mut rng = seed.rng();
    let mut plain = Plain::default();
    let mut calls: [Vec<Vec<Incoming>>; 3] = [const { Vec::new() }; 3];
    for (tenant, event) in random_events(&mut rng, shape) {
        let home = crate::plain::identities(&of_tenant(tenant, place(0, 0), event.clone()))[0].0;
        let partition = home.partition(3);
        let calls = &mut calls[partition as usize];
        if calls.is_empty() || rng.random_ratio(1, 4) {
            calls.push(Vec::new());
        }
        let offset = calls.len() as u64;
        let call = calls.last_mut().unwrap();
        let position = Position { partition, offset, index: call.len() as u32 };
        let incoming = of_tenant(tenant, position, event);
        plain.record(&incoming);
        call.push(incoming);
    }
    let read: Mutex<BTreeMap<(String, String), PlainJourney>> = Mutex::default();
    let work = |partition: usize| {
        let (read, calls) = (&read, &calls[partition]);
        async move {
            for call in calls {
                let recorded = stores[partition].journeys.record(partition as u32, call).await.unwrap();
                let new = call.iter().filter(|incoming| incoming.event.event_type() == EventType::Conversion);
                let new = new.map(|incoming| (incoming.tenant.to_string(), incoming.event.event_id.clone()));
                let named = recorded.affected.into_iter().map(|a| (a.tenant.to_string(), a.conversion_id));
                for (tenant, conversion_id) in new.chain(named).collect::<BTreeSet<_>>() {
                    // What is kept was read last.
                    let mut read = read.lock().await;
                    let query = JourneyQuery { tenant: tenant.as_str().into(), conversion_id };
                    let queries = std::slice::from_ref(&query);
                    let journeys = stores[partition].journeys.journeys(queries, 0).await;
                    let journey = journeys.unwrap().remove(0).unwrap().into();
                    read.insert((tenant, query.conversion_id), journey);
                }
            }
        }
    };
    tokio::join!(work(0), work(1), work(2));
    let expected = journeys(&plain);
    for stores in stores {
        check_journeys(stores, &expected).await;
    }
    assert_eq!(read.into_inner(), expected, "what was read last");
    let mut effects = Vec::new();
    for partition in 0..3 {
        effects.extend(stores[0].outbox.effects(partition, 0, u64::MAX).await.unwrap());
    }
    let told = persons_told(&effects);
    for identity in plain.identities() {
        let (person, shared, _) = plain.person(identity).unwrap();
        assert_eq!(told.get(&identity).copied().unwrap_or((identity, false)), (person, shared), "{identity}");
    }
}

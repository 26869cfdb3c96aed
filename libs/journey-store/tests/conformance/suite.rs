//! What every journey store keeps, case by case. Each case gets an empty store.

use std::sync::Arc;

use journey_store::{
    Affected, Continuation, ConversionScores, Effects, Generation, JourneyQuery, JourneyStore, Left, Outcome,
    PastConversion, Plan, ScoreKind, StoreError, StoredJourney, Stores,
};
use proto::events::{DecisionReason, Event};

use crate::make::{
    DAY, T, TENANT, activity, click, conversion, edition, event, identity, identity_of, incoming, of_tenant,
    place, record,
};

/// Runs every case.
pub async fn run(open: impl AsyncFn() -> Stores) {
    a_new_store_is_empty(open().await).await;
    the_first_position_counts(open().await).await;
    a_refused_call_leaves_nothing(open().await).await;
    a_hundred_identities_are_a_person_and_one_more_is_shared(open().await).await;
    a_large_set_that_joins_another_shares_both(open().await).await;
    the_newest_touches_are_read_and_one_more(open().await).await;
    a_journey_holds_ninety_days_both_ends_included(open().await).await;
    the_previous_conversion_is_the_latest_before_of_its_name(open().await).await;
    the_newest_conversions_of_a_person_are_read_as_many_as_asked(open().await).await;
    what_could_change_is_named(open().await).await;
    a_replay_names_the_members_of_a_set_that_turned_shared(open().await).await;
    editions_need_a_later_cause_and_another_digest(open().await).await;
    a_hundred_past_editions_are_kept(open().await).await;
    pages_join_without_gap_or_overlap(open().await).await;
    tenants_do_not_meet(open().await).await;
    effects_of_one_offset_come_together_and_go_with_the_plan(open().await).await;
    a_reset_empties_everything(open().await).await;
    a_lost_log_is_gone_on_from(open().await).await;
    crate::scores::run(open).await;
}

async fn journey(store: &Arc<dyn JourneyStore>, id: &str) -> StoredJourney {
    let query = JourneyQuery { tenant: TENANT.into(), conversion_id: id.to_owned() };
    store.journeys(&[query], usize::MAX).await.unwrap().remove(0).unwrap()
}

fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.event_id.as_str()).collect()
}

fn named(affected: &[Affected]) -> Vec<(&str, DecisionReason)> {
    affected.iter().map(|affected| (affected.conversion_id.as_str(), affected.reason)).collect()
}

async fn a_new_store_is_empty(Stores { journeys, outbox, scores }: Stores) {
    assert_eq!(outbox.generation().await.unwrap(), None);
    assert_eq!(outbox.consumed_to(3).await.unwrap(), 0);
    assert_eq!(outbox.plan(3).await.unwrap(), None);
    assert_eq!(outbox.effects(0, 0, u64::MAX).await.unwrap(), []);
    assert_eq!(journeys.seen(TENANT, &["a", "b"]).await.unwrap(), [false, false]);
    assert!(journeys.conversion(TENANT, "a").await.unwrap().is_none());
    assert!(journeys.page(TENANT, identity("d:a"), None, 10).await.unwrap().is_none());
    let query = JourneyQuery { tenant: TENANT.into(), conversion_id: "a".into() };
    assert!(journeys.journeys(&[query], 9).await.unwrap()[0].is_none());
    let recorded = journeys.record(0, &[]).await.unwrap();
    assert!(recorded.outcomes.is_empty() && recorded.affected.is_empty());
    assert_eq!(crate::scores::of(&scores, TENANT, "a").await, ConversionScores::default());
    for kind in [ScoreKind::Fraud, ScoreKind::Value] {
        assert_eq!(scores.owed(0, kind, 10).await.unwrap(), []);
    }
}

async fn the_first_position_counts(Stores { journeys, outbox, .. }: Stores) {
    use Outcome::{First, Repeat, Replayed};
    let call = record(7, [click("a", T, "d:1"), click("a", T + 1, "d:2"), click("b", T, "d:1")]);
    for first in [First, Replayed] {
        assert_eq!(journeys.record(0, &call).await.unwrap().outcomes, [first, Repeat, first]);
    }
    let later = record(8, [click("b", T, "d:3 u:3"), click("c", T, "d:1")]);
    for first in [First, Replayed] {
        assert_eq!(journeys.record(0, &later).await.unwrap().outcomes, [Repeat, first]);
    }
    assert_eq!(journeys.seen(TENANT, &["c", "x", "a"]).await.unwrap(), [true, false, true]);
    let page = journeys.page(TENANT, identity("d:1"), None, 10).await.unwrap().unwrap();
    assert_eq!(ids(&page.events), ["a", "b", "c"]);
    // A repeat changes nothing: not even its identities are known.
    for identity in [identity("d:2"), identity("d:3"), identity("u:3")] {
        assert!(journeys.page(TENANT, identity, None, 10).await.unwrap().is_none());
    }
    let repeats = |offset, index| Effects { offset, repeats: vec![index], ..Effects::default() };
    assert_eq!(outbox.effects(0, 0, 99).await.unwrap(), [repeats(7, 1), repeats(8, 0)]);
}

async fn a_refused_call_leaves_nothing(Stores { journeys, .. }: Stores) {
    let good = incoming(0, 0, click("good", T, "d:1"));
    let mut untimed = click("bad", T, "d:1");
    untimed.timestamp = None;
    let bad = [
        incoming(0, 1, click("bad", T, "")),
        incoming(0, 1, untimed),
        incoming(0, 1, click("", T, "d:1")),
        of_tenant(
            TENANT,
            journey_store::Position { partition: 1, offset: 0, index: 1 },
            click("bad", T, "d:1"),
        ),
    ];
    for bad in bad {
        let refused = journeys.record(0, &[good.clone(), bad]).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        assert_eq!(journeys.seen(TENANT, &["good"]).await.unwrap(), [false]);
    }
}

/// Devices 0 to `count` in one set, joined one by one.
fn chain(count: usize, name: &str, offset: u64) -> Vec<journey_store::Incoming> {
    let links = (1..count).map(|n| match n {
        1 => activity(&format!("{name}{n}"), &format!("d:{name}0 u:{name}")),
        n => activity(&format!("{name}{n}"), &format!("d:{name}{} u:{name}", n - 1)),
    });
    record(offset, links)
}

async fn a_hundred_identities_are_a_person_and_one_more_is_shared(Stores { journeys, outbox, .. }: Stores) {
    // 99 devices and a user.
    journeys.record(0, &chain(100, "k", 0)).await.unwrap();
    let made = [click("t", T, "d:k5"), conversion("c", "install", T + 1, "d:k7")];
    journeys.record(0, &record(1, made)).await.unwrap();
    let mut members: Vec<_> = (0..99).map(|n| identity(&format!("d:k{n}"))).collect();
    members.push(identity("u:k"));
    let smallest = *members.iter().min().unwrap();
    let found = journey(&journeys, "c").await;
    assert_eq!((found.person, found.shared, ids(&found.touches)), (smallest, false, vec!["t"]));
    let page = journeys.page(TENANT, identity("u:k"), None, 10).await.unwrap().unwrap();
    assert_eq!(page.identities.len(), 100);

    let recorded = journeys.record(0, &record(2, [activity("one more", "d:k99 u:k")])).await.unwrap();
    assert_eq!(named(&recorded.affected), [("c", DecisionReason::Link)]);
    members.push(identity("d:k99"));
    let mut told: Vec<_> = outbox.effects(0, 2, 3).await.unwrap().remove(0).identities;
    told.sort_by_key(|change| change.identity);
    members.sort();
    assert_eq!(told.iter().map(|change| change.identity).collect::<Vec<_>>(), members);
    assert!(told.iter().all(|change| change.shared && change.person == change.identity));
    let found = journey(&journeys, "c").await;
    assert_eq!((found.person, found.shared, ids(&found.touches)), (identity("d:k7"), true, vec![]));

    // For ever: what joins it later stands alone as well.
    journeys.record(0, &record(3, [click("late", T, "d:k7 u:new")])).await.unwrap();
    let found = journey(&journeys, "c").await;
    assert_eq!((found.person, found.shared, ids(&found.touches)), (identity("d:k7"), true, vec!["late"]));
    let page = journeys.page(TENANT, identity("u:new"), None, 10).await.unwrap().unwrap();
    assert_eq!((page.shared, page.identities.len(), page.events.len()), (true, 1, 0));
}

async fn a_large_set_that_joins_another_shares_both(Stores { journeys, .. }: Stores) {
    journeys.record(0, &chain(60, "a", 0)).await.unwrap();
    journeys.record(0, &chain(41, "b", 1)).await.unwrap();
    let made = [conversion("in a", "install", T, "d:a9"), conversion("in b", "install", T, "u:b")];
    journeys.record(0, &record(2, made)).await.unwrap();
    let recorded = journeys.record(0, &record(3, [click("join", T - 1, "d:a3 u:b")])).await.unwrap();
    let mut affected = named(&recorded.affected);
    affected.sort();
    assert_eq!(affected, [("in a", DecisionReason::Link), ("in b", DecisionReason::Link)]);
    for id in ["in a", "in b"] {
        let found = journey(&journeys, id).await;
        assert!(found.shared && found.touches.is_empty());
    }
}

async fn the_newest_touches_are_read_and_one_more(Stores { journeys, .. }: Stores) {
    let homes = ["d:1", "d:2", "d:3"];
    let touches =
        |from: i64, to: i64| (from..to).map(|n| click(&format!("t{n:04}"), T + n, homes[n as usize % 3]));
    let links = [activity("l1", "d:1 u:u"), activity("l2", "d:2 u:u"), activity("l3", "d:3 u:u")];
    let rest = touches(0, 1_000).chain([conversion("c", "install", T + 10_000, "u:u")]).chain(links);
    journeys.record(0, &record(0, rest)).await.unwrap();
    let names = |from: i64, to: i64| (from..to).map(|n| format!("t{n:04}")).collect::<Vec<_>>();
    assert_eq!(ids(&journey(&journeys, "c").await.touches), names(0, 1_000));
    journeys.record(0, &record(1, touches(1_000, 1_001))).await.unwrap();
    assert_eq!(ids(&journey(&journeys, "c").await.touches), names(0, 1_001));
    journeys.record(0, &record(2, touches(1_001, 1_002))).await.unwrap();
    assert_eq!(ids(&journey(&journeys, "c").await.touches), names(1, 1_002));
}

async fn a_journey_holds_ninety_days_both_ends_included(Stores { journeys, .. }: Stores) {
    let made = [
        click("too old", T - 90 * DAY - 1, "d:1"),
        click("oldest", T - 90 * DAY, "d:1"),
        event("no touch", proto::events::EventType::Activity, T - 5, "d:1"),
        click("z at the same time", T, "d:1"),
        conversion("c", "install", T, "d:1"),
        click("after", T + 1, "d:1"),
    ];
    journeys.record(0, &record(4, made.clone())).await.unwrap();
    let found = journey(&journeys, "c").await;
    assert_eq!(found.touches, [made[1].clone(), made[3].clone()]);
    assert_eq!(found.conversion.event, made[4]);
    assert_eq!((found.conversion.position, found.conversion.home), (place(4, 4), identity("d:1")));
    assert_eq!(
        (&*found.conversion.settings_edition, found.conversion.recorded_at_micros),
        ("sha256:0", 1_004)
    );
}

async fn the_previous_conversion_is_the_latest_before_of_its_name(Stores { journeys, .. }: Stores) {
    let made = [
        conversion("m", "buy", T, "d:1"),
        conversion("n", "buy", T, "u:1"),
        conversion("other", "install", T + 5, "d:1"),
        conversion("later", "buy", T + 90 * DAY, "c:1"),
        conversion("much later", "buy", T + 180 * DAY + 1, "c:1"),
        activity("link", "d:1 c:1 u:1"),
    ];
    journeys.record(0, &record(0, made)).await.unwrap();
    let mut previous = Vec::new();
    for id in ["m", "n", "other", "later", "much later"] {
        previous.push(journey(&journeys, id).await.previous_conversion_millis);
    }
    // By (time, event id); more than 90 days before there is nothing left to cut.
    assert_eq!(previous, [None, Some(T), None, Some(T), None]);
}

async fn the_newest_conversions_of_a_person_are_read_as_many_as_asked(Stores { journeys, .. }: Stores) {
    // Over years, and under identities that are joined.
    let made = (0..12_i64).map(|n| Event {
        value: format!("{n}.25"),
        currency: "EUR".to_owned(),
        ..conversion(&format!("c{n:02}"), "buy", T + n * 200 * DAY, ["d:1", "u:1", "c:1"][n as usize % 3])
    });
    let others = [
        conversion("at the same time", "install", T + 1_000 * DAY, "u:1"),
        conversion("of another person", "buy", T, "d:2"),
        click("t", T, "d:1"),
        activity("link", "d:1 c:1 u:1"),
    ];
    journeys.record(0, &record(0, made.chain(others))).await.unwrap();
    let read = async |id: &str, max: usize| {
        let query = JourneyQuery { tenant: TENANT.into(), conversion_id: id.to_owned() };
        journeys.journeys(&[query], max).await.unwrap().remove(0).unwrap().conversions
    };
    let values =
        |conversions: &[PastConversion]| conversions.iter().map(|one| one.value.clone()).collect::<Vec<_>>();
    assert_eq!(read("c03", 0).await, []);
    let all = read("c05", usize::MAX).await;
    assert_eq!(values(&all), ["0.25", "1.25", "2.25", "3.25", "4.25", "1.5", "5.25"], "by time and id");
    let newest = PastConversion {
        time_millis: T + 1_000 * DAY,
        app_id: "default".to_owned(),
        value: "5.25".to_owned(),
        currency: "EUR".to_owned(),
    };
    assert_eq!(all.last(), Some(&newest));
    assert_eq!(read("c05", 3).await, all[4..]);
    assert_eq!(values(&read("c00", 5).await), ["0.25"]);
    assert_eq!(values(&read("of another person", 5).await), ["1.5"]);
    assert_eq!(read("c11", 13).await.len(), 13);
}

async fn what_could_change_is_named(Stores { journeys, .. }: Stores) {
    let made = [
        conversion("c1", "buy", T, "d:1"),
        conversion("c2", "buy", T + 90 * DAY, "d:1"),
        conversion("c3", "install", T + 91 * DAY, "d:1"),
        conversion("c4", "buy", T + 92 * DAY, "u:1"),
    ];
    let recorded = journeys.record(0, &record(0, made)).await.unwrap();
    assert!(recorded.affected.iter().all(|affected| affected.reason == DecisionReason::EarlierConversion));
    let late = async |offset, event| {
        let recorded = journeys.record(0, &record(offset, [event])).await.unwrap();
        recorded.affected.into_iter().map(|a| (a.conversion_id, a.reason)).collect::<Vec<_>>()
    };
    let touch = |id: &str| (id.to_owned(), DecisionReason::LateTouch);
    assert_eq!(late(1, click("t1", T, "d:1")).await, [touch("c1"), touch("c2")]);
    assert_eq!(late(2, click("t2", T + DAY, "d:1")).await, [touch("c2"), touch("c3")]);
    assert_eq!(late(3, click("t3", T + 91 * DAY + 1, "d:1")).await, []);
    assert_eq!(late(4, click("t4", T - 90 * DAY, "d:1")).await, [touch("c1")]);
    assert_eq!(late(5, click("t5", T - 90 * DAY - 1, "d:1")).await, []);
    assert_eq!(late(6, activity("a", "d:1")).await, []);
    let earlier = late(7, conversion("c0", "buy", T - 1, "d:1")).await;
    assert_eq!(earlier, [("c1".to_owned(), DecisionReason::EarlierConversion)]);
    let mut linked = late(8, activity("link", "d:1 u:1")).await;
    linked.sort();
    assert_eq!(linked.iter().map(|(id, _)| &id[..]).collect::<Vec<_>>(), ["c0", "c1", "c2", "c3", "c4"]);
    assert!(linked.iter().all(|(_, reason)| *reason == DecisionReason::Link));
    // The link is known now; a touch that carries it again says only what it is.
    assert_eq!(late(9, click("t6", T + 92 * DAY, "d:1 u:1")).await, [touch("c4")]);
}

async fn a_replay_names_the_members_of_a_set_that_turned_shared(Stores { journeys, .. }: Stores) {
    journeys.record(0, &chain(100, "k", 0)).await.unwrap();
    journeys.record(0, &record(1, [conversion("c", "install", T, "d:k7")])).await.unwrap();
    let call = record(2, [activity("one more", "d:k99 u:k")]);
    let first = journeys.record(0, &call).await.unwrap().affected;
    assert_eq!(named(&first), [("c", DecisionReason::Link)]);
    assert_eq!(journeys.record(0, &call).await.unwrap().affected, first);
}

async fn editions_need_a_later_cause_and_another_digest(Stores { journeys, outbox, .. }: Stores) {
    let call = record(0, [conversion("c", "install", T, "d:1"), click("t", T, "d:1")]);
    journeys.record(0, &call).await.unwrap();
    assert!(journeys.conversion(TENANT, "c").await.unwrap().unwrap().editions.is_empty());
    assert!(journeys.conversion(TENANT, "t").await.unwrap().is_none());
    let commit = async |id, cause, digest| {
        let stored = journeys.commit(0, &[edition(id, cause, digest)], 9).await.unwrap();
        stored[0]
    };
    assert!(!commit("no such conversion", place(1, 0), 1).await);
    assert!(!commit("t", place(1, 0), 1).await);
    assert!(commit("c", place(5, 3), 1).await);
    assert!(!commit("c", place(5, 3), 2).await, "the same cause");
    assert!(!commit("c", place(5, 2), 2).await, "an earlier cause");
    assert!(!commit("c", place(6, 0), 1).await, "the same digest");
    assert!(commit("c", place(5, 4), 2).await);
    assert!(commit("c", place(8, 0), 1).await, "a digest from before");
    let found = journeys.conversion(TENANT, "c").await.unwrap().unwrap();
    let causes: Vec<_> = found.editions.iter().map(|edition| edition.cause).collect();
    assert_eq!(causes, [place(8, 0), place(5, 4), place(5, 3)]);
    let decisions: Vec<_> = found.editions.iter().map(|edition| !edition.decision.is_empty()).collect();
    assert_eq!(decisions, [true, false, false]);

    let effects = outbox.effects(0, 0, 99).await.unwrap();
    let text = |cause, digest| edition("c", cause, digest).decision;
    let told = effects.iter().flat_map(|e| &e.editions).map(|e| (e.retracted.clone(), e.asserted.clone()));
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [
            (None, text(place(5, 3), 1)),
            (Some(text(place(5, 3), 1)), text(place(5, 4), 2)),
            (Some(text(place(5, 4), 2)), text(place(8, 0), 1)),
        ]
    );
    assert_eq!(effects.iter().map(|e| e.offset).collect::<Vec<_>>(), [5, 8]);
    assert!(effects[0].editions.iter().all(|e| e.home == identity("d:1") && &*e.tenant == TENANT));

    // Two editions of one conversion in one call.
    let both = [edition("c", place(9, 0), 3), edition("c", place(9, 1), 4)];
    assert_eq!(journeys.commit(0, &both, 10).await.unwrap(), [true, true]);
    assert_eq!(journeys.conversion(TENANT, "c").await.unwrap().unwrap().editions.len(), 5);
}

async fn a_hundred_past_editions_are_kept(Stores { journeys, .. }: Stores) {
    journeys.record(0, &record(0, [conversion("c", "install", T, "d:1")])).await.unwrap();
    let count = async |from: u64, to: u64| {
        for n in from..to {
            assert!(journeys.commit(0, &[edition("c", place(n, 0), n as u8)], n).await.unwrap()[0]);
        }
        let found = journeys.conversion(TENANT, "c").await.unwrap().unwrap().editions;
        (found.len(), found[0].cause.offset, found[found.len() - 1].cause.offset)
    };
    assert_eq!(count(1, 102).await, (101, 101, 1));
    assert_eq!(count(102, 103).await, (101, 102, 2));
    assert_eq!(count(103, 250).await, (101, 249, 149));
}

async fn pages_join_without_gap_or_overlap(Stores { journeys, .. }: Stores) {
    let made = (0..25i64).map(|n| match n % 5 {
        0 => conversion(&format!("e{:02}", 25 - n), "buy", T + n / 4, "u:1"),
        _ => click(&format!("e{:02}", 25 - n), T + n / 4, ["d:1", "c:1"][n as usize % 2]),
    });
    let made: Vec<_> = made.chain([activity("link", "d:1 c:1 u:1")]).collect();
    journeys.record(0, &record(0, made)).await.unwrap();
    let all = journeys.page(TENANT, identity("c:1"), None, 1_000).await.unwrap().unwrap();
    assert!(!all.more && all.events.len() == 25);
    assert!(all.events.is_sorted_by(|a, b| crate::plain::order(a) < crate::plain::order(b)));
    let named: Vec<_> = all.identities.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(named, ["1", "1", "1"]);
    for limit in [1, 2, 7, 24, 25, 26] {
        let (mut joined, mut after) = (Vec::new(), None);
        loop {
            let page = journeys.page(TENANT, identity("u:1"), after, limit).await.unwrap().unwrap();
            assert!(page.events.len() <= limit && page.person == all.person);
            joined.extend(page.events);
            if !page.more {
                break;
            }
            let last = joined.last().unwrap();
            after = Some((crate::plain::time(last), last.event_id.clone()));
        }
        assert_eq!(joined, all.events, "pages of {limit}");
    }
    let touches = (0..1_001).map(|n| click(&format!("many{n}"), T + n, "d:many"));
    journeys.record(0, &record(1, touches)).await.unwrap();
    for limit in [1_000, 1_001] {
        let page = journeys.page(TENANT, identity("d:many"), None, limit).await.unwrap().unwrap();
        assert_eq!((page.events.len(), page.more), (1_000, true), "a page has at most 1,000");
    }
}

async fn tenants_do_not_meet(Stores { journeys, .. }: Stores) {
    let of = |tenant: &str, index: u32, event| of_tenant(tenant, place(0, index), event);
    let call = [
        of("one", 0, click("t", T - 1, "d:1 u:1")),
        of("two", 1, click("t", T - 2, "d:1")),
        of("one", 2, conversion("c", "buy", T, "d:1")),
        of("two", 3, conversion("c", "buy", T + 1, "d:1")),
        of("one", 4, conversion("only one", "buy", T + 2, "u:1")),
    ];
    let recorded = journeys.record(0, &call).await.unwrap();
    assert_eq!(recorded.outcomes, [Outcome::First; 5]);
    for (tenant, time) in [("one", T - 1), ("two", T - 2)] {
        let query = JourneyQuery { tenant: tenant.into(), conversion_id: "c".into() };
        let found = journeys.journeys(&[query], 9).await.unwrap().remove(0).unwrap();
        assert_eq!(found.touches.iter().map(crate::plain::time).collect::<Vec<_>>(), [time]);
        assert_eq!(found.previous_conversion_millis, None);
    }
    assert!(journeys.conversion("two", "only one").await.unwrap().is_none());
    assert_eq!(journeys.seen("two", &["only one", "c"]).await.unwrap(), [false, true]);
    // Another tenant's identity is as one that was never met.
    assert!(journeys.page("two", identity_of("one", "d:1"), None, 9).await.unwrap().is_none());
    assert!(journeys.page("two", identity_of("two", "u:1"), None, 9).await.unwrap().is_none());
}

async fn effects_of_one_offset_come_together_and_go_with_the_plan(Stores { journeys, outbox, .. }: Stores) {
    for offset in 0..6 {
        let id = |name: &str| format!("{name}{offset}");
        let made = [
            conversion(&id("c"), "buy", T, &format!("d:{offset}")),
            conversion(&id("c"), "buy", T, "d:x"),
            activity(&id("l"), &format!("d:{offset} u:{offset}")),
        ];
        journeys.record(0, &record(offset, made)).await.unwrap();
    }
    let editions: Vec<_> = (0..6).map(|n| edition(&format!("c{n}"), place(n, 0), 1)).collect();
    journeys.commit(0, &editions, 6).await.unwrap();
    let offsets = async |from, to| {
        let effects = outbox.effects(0, from, to).await.unwrap();
        let whole = |e: &Effects| e.repeats == [1] && e.identities.len() == 1 && e.editions.len() == 1;
        assert!(effects.iter().all(whole), "{effects:?}");
        effects.iter().map(|effects| effects.offset).collect::<Vec<_>>()
    };
    assert_eq!(offsets(0, 6).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(offsets(2, 5).await, [2, 3, 4]);
    assert_eq!(offsets(5, 2).await, [0; 0]);
    assert_eq!(outbox.effects(1, 0, 6).await.unwrap(), [], "another partition");
    let smaller = identity("d:2").min(identity("u:2"));
    let change = &outbox.effects(0, 2, 3).await.unwrap()[0].identities[0];
    assert_eq!((change.person, change.shared, &*change.tenant), (smaller, false, TENANT));
    assert_ne!(change.identity, smaller);

    let plans =
        [Plan { batch: 1, from: 0, to: 3, stamp: 7 }, Plan { batch: 2, from: 3, to: 4, stamp: u64::MAX }];
    for (plan, left) in plans.into_iter().zip([vec![0, 1, 2, 3, 4, 5], vec![3, 4, 5]]) {
        outbox.put_plan(0, plan).await.unwrap();
        assert_eq!(outbox.plan(0).await.unwrap(), Some(plan));
        assert_eq!(offsets(0, 6).await, left);
    }
    outbox.put_plan(0, plans[1]).await.unwrap();
    for (batch, from, to) in
        [(2, 3, 4), (2, 3, 5), (2, 2, 4), (1, 0, 3), (3, 3, 5), (4, 4, 5), (3, 4, 4), (3, 5, 4)]
    {
        let refused = outbox.put_plan(0, Plan { batch, from, to, stamp: 0 }).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{batch} {from} {to}: {refused:?}");
        assert_eq!(outbox.plan(0).await.unwrap(), Some(plans[1]));
        assert_eq!(offsets(0, 6).await, [3, 4, 5]);
    }
    let refused = outbox.put_plan(1, plans[1]).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "not the first of its partition: {refused:?}"
    );
    assert_eq!(outbox.plan(1).await.unwrap(), None);
    assert_eq!((outbox.consumed_to(0).await.unwrap(), outbox.consumed_to(1).await.unwrap()), (6, 0));
}

async fn a_reset_empties_everything(Stores { journeys, outbox, .. }: Stores) {
    let generation = |id| Generation { log: u128::MAX - 5, id };
    outbox.reset(generation(1)).await.unwrap();
    let made = [conversion("c", "buy", T, "d:1 u:1"), click("t", T, "u:1")];
    for id in [2, 3] {
        journeys.record(0, &record(3, made.clone())).await.unwrap();
        journeys.commit(0, &[edition("c", place(3, 0), 1)], 4).await.unwrap();
        outbox.put_plan(0, Plan { batch: 1, from: 0, to: 4, stamp: 0 }).await.unwrap();
        assert_eq!(outbox.generation().await.unwrap(), Some(generation(id - 1)));
        outbox.reset(generation(id)).await.unwrap();
        assert_eq!(outbox.generation().await.unwrap(), Some(generation(id)));
        assert_eq!(journeys.seen(TENANT, &["c", "t"]).await.unwrap(), [false, false]);
        assert!(journeys.page(TENANT, identity("d:1"), None, 10).await.unwrap().is_none());
        assert_eq!(outbox.effects(0, 0, 99).await.unwrap(), []);
        assert_eq!((outbox.plan(0).await.unwrap(), outbox.consumed_to(0).await.unwrap()), (None, 0));
    }
    // As new: the same ids at other positions come first again, the link is told again.
    let recorded = journeys.record(0, &record(0, made)).await.unwrap();
    assert_eq!(recorded.outcomes, [Outcome::First; 2]);
    assert_eq!(outbox.effects(0, 0, 1).await.unwrap()[0].identities.len(), 1);
}

/// One event each that was reported, that was consumed and not reported, and that was on its way.
async fn a_lost_log_is_gone_on_from(Stores { journeys, outbox, .. }: Stores) {
    use Outcome::{First, Repeat, Replayed};
    let generation = |log| Generation { log, id: 11 };
    outbox.reset(generation(1)).await.unwrap();
    let reported = [click("t0", T - 9, "u:1"), conversion("c0", "buy", T, "u:1")];
    let consumed = [click("t1", T - 8, "d:1 u:1"), conversion("c1", "buy", T + 1, "u:1")];
    let flying = [click("t2", T - 7, "d:2 u:1")];
    journeys.record(0, &record(0, reported.clone())).await.unwrap();
    journeys.commit(0, &[edition("c0", place(0, 1), 1)], 1).await.unwrap();
    outbox.put_plan(0, Plan { batch: 1, from: 0, to: 1, stamp: 0 }).await.unwrap();
    journeys.record(0, &record(1, consumed.clone())).await.unwrap();
    journeys.commit(0, &[edition("c1", place(1, 1), 1)], 2).await.unwrap();
    journeys.record(0, &record(2, flying.clone())).await.unwrap();
    let ids = ["t0", "c0", "t1", "c1", "t2"];
    assert_eq!(journeys.seen(TENANT, &ids).await.unwrap(), [true; 5]);

    let first = 1 << 32;
    let left = vec![Left { reported: 1, consumed: 2 }];
    let on = Continuation { first, left: left.clone() };
    for (log, first) in [(1, first), (7, 1)] {
        let refused = outbox.continue_in(log, Continuation { first, left: left.clone() }).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{log} {first}: {refused:?}");
    }
    assert_eq!(outbox.continuations().await.unwrap(), []);
    outbox.continue_in(7, on.clone()).await.unwrap();
    for log in [7, 8] {
        let refused = outbox.continue_in(log, on.clone()).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "once: {refused:?}");
    }
    assert_eq!(outbox.generation().await.unwrap(), Some(generation(7)));
    assert_eq!(outbox.continuations().await.unwrap(), std::slice::from_ref(&on));
    assert_eq!(outbox.consumed_to(0).await.unwrap(), first);
    assert_eq!(journeys.seen(TENANT, &ids).await.unwrap(), [true, true, false, false, false]);
    // What was decided and not reported still is to be.
    let effects = outbox.effects(0, 1, first).await.unwrap();
    assert_eq!(effects.iter().map(|effects| effects.editions.len()).sum::<usize>(), 1);

    let again: Vec<Event> = reported.iter().chain(&consumed).chain(&flying).cloned().collect();
    let recorded = journeys.record(0, &record(first, again.clone())).await.unwrap();
    assert_eq!(recorded.outcomes, [Repeat, Repeat, Replayed, Replayed, Replayed]);
    let mut affected: Vec<&str> = recorded.affected.iter().map(|one| one.conversion_id.as_str()).collect();
    affected.sort_unstable();
    assert_eq!(affected, ["c0", "c1"], "what was to be decided again is asked for again");
    // The same position again, as after a death, and later ones.
    let replayed = journeys.record(0, &record(first, again.clone())).await.unwrap();
    assert_eq!(replayed.outcomes, recorded.outcomes);
    let repeated = journeys.record(0, &record(first + 1, again)).await.unwrap();
    assert_eq!(repeated.outcomes, [Repeat; 5]);
    assert_eq!(journeys.seen(TENANT, &ids).await.unwrap(), [true; 5]);
    let stored = journeys.commit(0, &[edition("c1", place(first, 3), 1)], first + 2).await.unwrap();
    assert_eq!(stored, [false], "it is decided as it was");
    let new = journeys.record(0, &record(first + 2, [click("t3", T, "u:3")])).await.unwrap();
    assert_eq!(new.outcomes, [First]);
    outbox.put_plan(0, Plan { batch: 2, from: 1, to: first + 2, stamp: 0 }).await.unwrap();

    // Emptied for the same log it is made again from where that goes on, for another one from its beginning.
    outbox.reset(Generation { id: 12, ..generation(7) }).await.unwrap();
    assert_eq!(outbox.continuations().await.unwrap(), [on]);
    outbox.reset(Generation { id: 13, ..generation(9) }).await.unwrap();
    assert_eq!(outbox.continuations().await.unwrap(), []);
}

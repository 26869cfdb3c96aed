//! The store in a cluster, on a real CQL server: one for all tests here, each with keyspaces of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use journey_store::{
    Continuation, Generation, Incoming, JourneyQuery, Left, Outcome, Plan, Position, StoreError, Stores, open,
};
use scylla::client::{session::Session, session_builder::SessionBuilder};
use testkit::{
    cassandra::{Cassandra, CqlServer},
    process::eventually,
    tls::{CERTIFICATE, OTHER_CERTIFICATE},
};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard};

use crate::{
    make::{T, TENANT, click, conversion, edition, event, identity, of_tenant, place, record, seeds},
    properties::{self, CROWD, SMALL},
    suite,
};

static SERVER: OnceCell<RwLock<CqlServer>> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(0);

async fn server() -> &'static RwLock<CqlServer> {
    SERVER.get_or_init(async || RwLock::new(CqlServer::start().await)).await
}

/// A server that nobody stops meanwhile.
async fn running() -> RwLockReadGuard<'static, CqlServer> {
    server().await.read().await
}

fn keyspace_name() -> String {
    format!("journeys_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn url(server: &CqlServer, keyspace: &str) -> String {
    let url = server.url(keyspace);
    let sign = if url.contains('?') { '&' } else { '?' };
    // A loaded machine is slow, not broken.
    format!("{url}{sign}replicas=1&timeout_millis=90000")
}

/// A store in a keyspace that is not there yet.
async fn new(server: &CqlServer) -> Stores {
    open(&url(server, &keyspace_name())).await.unwrap()
}

/// The same store as other processes have it.
async fn processes<const N: usize>(server: &CqlServer) -> [Stores; N] {
    let url = url(server, &keyspace_name());
    let opened = futures_util::future::join_all((0..N).map(|_| open(&url))).await;
    opened.into_iter().map(Result::unwrap).collect::<Vec<_>>().try_into().ok().unwrap()
}

/// A row of any table: key, bucket, at, value.
type Stored = (Vec<u8>, i64, Vec<u8>, Vec<u8>);

/// What statements of the tests themselves go to.
async fn session(server: &CqlServer) -> Session {
    let address = server.url("");
    let host = address.trim_start_matches("scylla://").split(['/', ',', '?']).next().unwrap();
    SessionBuilder::new().known_node(host).build().await.unwrap()
}

#[tokio::test]
async fn cql_keeps_the_contract() {
    let server = running().await;
    // One keyspace for all cases: tables are what a small server has least room for.
    let stores = new(&server).await;
    let cases = AtomicU32::new(0);
    let empty = async || {
        let case = cases.fetch_add(1, Ordering::Relaxed);
        if case > 0 {
            stores.outbox.reset(Generation { log: 1, id: case.into() }).await.unwrap();
        }
        stores.clone()
    };
    suite::run(empty).await;
}

#[tokio::test]
async fn cql_agrees_with_the_plain_model() {
    let server = running().await;
    for seed in seeds(1) {
        properties::order_and_batches_do_not_matter(async || new(&server).await, &seed, SMALL).await;
        properties::editions_follow_their_causes(&new(&server).await, &seed, 30).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_workers_of_several_partitions_see_each_other() {
    let server = running().await;
    let [one, two] = &processes(&server).await;
    properties::two_workers_see_each_other([one, two], 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_workers_side_by_side_agree_with_the_plain_model() {
    let server = running().await;
    for shape in [SMALL, CROWD] {
        for seed in seeds(1) {
            let [one, two, three] = &processes(&server).await;
            properties::workers_side_by_side([one, two, three], &seed, shape).await;
        }
    }
}

/// Many events of many persons, some of them linked, and a conversion for each tenth.
fn batch(offset: u64, count: u32) -> Vec<Incoming> {
    let made = (0..count).map(|n| match n % 10 {
        0 => conversion(&format!("c{offset}-{n}"), "buy", T + 1, &format!("d:{offset}-{n}")),
        1 => event(
            &format!("l{offset}-{n}"),
            proto::events::EventType::Activity,
            T,
            &format!("d:{offset}-{} u:{n}", n - 1),
        ),
        _ => click(&format!("t{offset}-{n}"), T, &format!("u:{}", n - n % 10 + 1)),
    });
    record(offset, made)
}

/// The server is killed while a batch is written, and started again: the call says that it is not sure, or that it is done,
/// and the same call made again leaves what the memory store holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_a_batch_cut_short_by_a_killed_server_is_done_by_its_repeat() {
    let mut server = server().await.write().await;
    let stores = open(&format!("{}&in_flight_max=8", url(&server, &keyspace_name()))).await.unwrap();
    let expected = crate::memory().await;
    let Some(cassandra) = server.own() else {
        eprintln!("not run: the server is not ours to kill");
        return;
    };
    for round in 0..2 {
        let call = batch(round, 1_000);
        let last = call[999].event.event_id.clone();
        let recording = {
            let (stores, call) = (stores.clone(), call.clone());
            tokio::task::JoinSet::from_iter([async move { stores.journeys.record(0, &call).await }])
        };
        let some = call.iter().map(|incoming| incoming.event.event_id.as_str()).collect::<Vec<_>>();
        eventually("some of the batch is written", async || {
            stores.journeys.seen(TENANT, &some).await.unwrap().contains(&true)
        })
        .await;
        cassandra.kill();
        let cut = recording.join_all().await.remove(0);
        assert!(matches!(cut, Ok(_) | Err(StoreError::Indeterminate(_))), "{cut:?}");
        assert!(stores.journeys.seen(TENANT, &[&last]).await.is_err(), "the server is away");
        cassandra.restart().await;

        let mut again = None;
        eventually("the repeat is done", async || {
            again = stores.journeys.record(0, &call).await.ok();
            again.is_some()
        })
        .await;
        let told = expected.journeys.record(0, &call).await.unwrap();
        let named = |recorded: &journey_store::Recorded| {
            recorded
                .affected
                .iter()
                .map(|a| a.conversion_id.clone())
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert!(named(&again.unwrap()).is_superset(&named(&told)));
        for store in [&stores, &expected] {
            let editions: Vec<_> = call
                .iter()
                .filter(|incoming| !incoming.event.conversion.is_empty())
                .map(|incoming| edition(&incoming.event.event_id, incoming.position, round as u8))
                .collect();
            let committed = store.journeys.commit(0, &editions, round + 1).await.unwrap();
            assert!(!committed.contains(&false));
        }
        same(&stores, &expected, &call).await;
    }
}

/// Journeys, editions, pages and the position are those of another store; of effects, who is told to belong to whom.
async fn same(stores: &Stores, expected: &Stores, call: &[Incoming]) {
    for incoming in call.iter().step_by(10) {
        let id = &incoming.event.event_id;
        let query = journey_store::JourneyQuery { tenant: TENANT.into(), conversion_id: id.clone() };
        let mut found = Vec::new();
        for store in [stores, expected] {
            let journey =
                store.journeys.journeys(std::slice::from_ref(&query), 9).await.unwrap().remove(0).unwrap();
            let decided = store.journeys.conversion(TENANT, id).await.unwrap().unwrap();
            let page =
                store.journeys.page(TENANT, decided.conversion.home, None, 100).await.unwrap().unwrap();
            found.push((
                crate::plain::PlainJourney::from(journey),
                decided.editions,
                page.identities,
                page.events,
            ));
        }
        assert_eq!(found[0], found[1], "{id}");
    }
    let mut found = Vec::new();
    for store in [stores, expected] {
        let effects = store.outbox.effects(0, 0, u64::MAX).await.unwrap();
        let editions: Vec<_> = effects.iter().flat_map(|effects| effects.editions.clone()).collect();
        let consumed = store.outbox.consumed_to(0).await.unwrap();
        found.push((crate::plain::persons_told(&effects), editions, consumed));
    }
    assert!(found[0] == found[1], "what the warehouse is owed");
}

/// A process that has not heard of a new generation writes nothing into it, and says so until it asks.
#[tokio::test]
async fn cql_a_process_of_another_generation_is_refused() {
    let server = running().await;
    let [old, new] = &processes(&server).await;
    let generation = |id| Generation { log: 1, id };
    old.outbox.reset(generation(1)).await.unwrap();
    assert_eq!(new.outbox.generation().await.unwrap(), Some(generation(1)));
    new.outbox.reset(generation(2)).await.unwrap();
    let call = record(0, [conversion("c", "buy", T, "d:1")]);
    for _ in 0..2 {
        let refused = old.journeys.record(0, &call).await;
        assert!(matches!(refused, Err(StoreError::Superseded)), "{refused:?}");
        let refused = old.outbox.consumed_to(0).await;
        assert!(matches!(refused, Err(StoreError::Superseded)), "{refused:?}");
    }
    assert_eq!(new.journeys.seen(TENANT, &["c"]).await.unwrap(), [false]);
    new.journeys.record(0, &call).await.unwrap();
    for stores in [old, new] {
        assert!(stores.journeys.conversion(TENANT, "c").await.unwrap().is_some(), "read, whoever wrote it");
        assert!(stores.journeys.page(TENANT, identity("d:1"), None, 10).await.unwrap().is_some());
    }
    let refused = old.journeys.record(0, &call).await;
    assert!(matches!(refused, Err(StoreError::Superseded)), "reading is not working on: {refused:?}");
    assert_eq!(old.outbox.generation().await.unwrap(), Some(generation(2)));
    old.journeys.record(0, &call).await.unwrap();
    assert_eq!(new.journeys.seen(TENANT, &["c"]).await.unwrap(), [true]);
}

/// What a worker writes late, which has lost its partition, takes nothing back: not the position, not an edition.
#[tokio::test]
async fn cql_a_late_write_of_an_earlier_position_changes_nothing() {
    let server = running().await;
    let [late, now] = &processes(&server).await;
    let call = record(0, [conversion("c", "buy", T, "d:1")]);
    late.journeys.record(0, &call).await.unwrap();
    for (cause, digest) in [(3, 1), (5, 2)] {
        assert!(
            now.journeys.commit(0, &[edition("c", place(cause, 0), digest)], cause + 1).await.unwrap()[0]
        );
    }
    assert!(!late.journeys.commit(0, &[edition("c", place(4, 0), 3)], 5).await.unwrap()[0]);
    assert_eq!(now.outbox.consumed_to(0).await.unwrap(), 6);
    assert_eq!(now.journeys.conversion(TENANT, "c").await.unwrap().unwrap().editions[0].cause, place(5, 0));
}

/// A call that was cut short stored an edition and told the warehouse nothing of it; made again it has read more, and decides
/// under a later cause, the same or something else. The warehouse is owed both.
#[tokio::test]
async fn cql_what_a_call_cut_short_did_not_tell_is_told_by_a_later_cause() {
    let server = running().await;
    let keyspace = keyspace_name();
    let stores = open(&url(&server, &keyspace)).await.unwrap();
    stores.journeys.record(0, &record(0, [conversion("c", "buy", T, "d:1")])).await.unwrap();
    assert!(stores.journeys.commit(0, &[edition("c", place(0, 0), 1)], 1).await.unwrap()[0]);
    let session = session(&server).await;
    for (cut, later, digest) in [(2, 3, 2), (5, 6, 3)] {
        // As far as it came: the edition, not the effect, not the position.
        let before = stores.outbox.consumed_to(0).await.unwrap();
        assert!(stores.journeys.commit(0, &[edition("c", place(cut, 0), digest)], before).await.unwrap()[0]);
        session.query_unpaged(format!("TRUNCATE {keyspace}.effects"), ()).await.unwrap();
        let again = if later == 3 { digest } else { digest + 10 };
        let stored =
            stores.journeys.commit(0, &[edition("c", place(later, 0), again)], later + 1).await.unwrap();
        assert_eq!(stored, [again != digest]);
        let effects = stores.outbox.effects(0, before, later + 1).await.unwrap();
        let told: Vec<u64> =
            effects.iter().filter(|at| !at.editions.is_empty()).map(|at| at.offset).collect();
        let owed = if again == digest { vec![cut] } else { vec![cut, later] };
        assert_eq!(told, owed);
    }
}

/// A log is lost with a batch whose editions were stored, and neither what the warehouse is owed for them nor the position.
#[tokio::test]
async fn cql_an_edition_of_a_batch_that_was_lost_half_done_does_not_count() {
    let server = running().await;
    let [stores, reader] = &processes(&server).await;
    stores.outbox.reset(Generation { log: 1, id: 2 }).await.unwrap();
    let call = record(0, [conversion("c", "buy", T, "d:1")]);
    let later = record(2, [conversion("new", "buy", T, "d:2")]);
    stores.journeys.record(0, &call).await.unwrap();
    assert_eq!(stores.journeys.commit(0, &[edition("c", place(0, 0), 1)], 1).await.unwrap(), [true]);
    stores.journeys.record(0, &later).await.unwrap();
    let half = [edition("c", place(1, 0), 2), edition("new", place(2, 0), 3)];
    assert_eq!(stores.journeys.commit(0, &half, 1).await.unwrap(), [true; 2]);
    let digests = async |id: &str| {
        let decided = reader.journeys.conversion(TENANT, id).await.unwrap().unwrap();
        let decisions: Vec<bool> =
            decided.editions.iter().map(|edition| !edition.decision.is_empty()).collect();
        assert!(decisions.iter().enumerate().all(|(index, given)| *given == (index == 0)), "{decided:?}");
        decided.editions.iter().map(|edition| edition.digest[0]).collect::<Vec<_>>()
    };
    assert_eq!((digests("c").await, digests("new").await), (vec![2, 1], vec![3]));

    let first = 1 << 32;
    let left = vec![Left { reported: 1, consumed: 1 }];
    stores.outbox.continue_in(7, Continuation { first, left }).await.unwrap();
    assert_eq!((digests("c").await, digests("new").await), (vec![1], vec![]));

    let again = record(first, [conversion("new", "buy", T, "d:2")]);
    assert_eq!(stores.journeys.record(0, &again).await.unwrap().outcomes, [Outcome::Replayed]);
    let editions = [edition("new", place(first, 0), 3)];
    assert_eq!(stores.journeys.commit(0, &editions, first + 1).await.unwrap(), [true]);
    assert_eq!((digests("c").await, digests("new").await), (vec![1], vec![3]));
}

/// A link is two rows, one from each side, and a process may die between them.
#[tokio::test]
async fn cql_whichever_row_of_a_link_was_not_written_is_there_after_the_repeat() {
    let server = running().await;
    let keyspace = keyspace_name();
    let url = url(&server, &keyspace);
    let events = [
        click("t", T, "d:1 u:1"),
        conversion("of the device", "buy", T + 1, "d:1"),
        conversion("of the user", "buy", T + 1, "u:1"),
    ];
    let call = record(0, events);
    open(&url).await.unwrap().journeys.record(0, &call).await.unwrap();
    let session = session(&server).await;
    let rows =
        session.query_unpaged(format!("SELECT key, bucket, at, value FROM {keyspace}.persons"), ()).await;
    let rows = rows.unwrap().into_rows_result().unwrap();
    let rows: Vec<Stored> = rows.rows().unwrap().map(Result::unwrap).collect();
    assert!(rows.len() > 2, "{rows:?}");
    for missing in 0..rows.len() {
        session.query_unpaged(format!("TRUNCATE {keyspace}.persons"), ()).await.unwrap();
        for (_, row) in rows.iter().enumerate().filter(|(index, _)| *index != missing) {
            let insert = "(key, bucket, at, value) VALUES (?, ?, ?, ?) USING TIMESTAMP -1";
            session.query_unpaged(format!("INSERT INTO {keyspace}.persons {insert}"), row).await.unwrap();
        }
        // Another process: this one knows what it wrote.
        let stores = open(&url).await.unwrap();
        let recorded = stores.journeys.record(0, &call).await.unwrap();
        assert_eq!(recorded.outcomes, [Outcome::Replayed; 3]);
        let asked = ["of the device", "of the user"]
            .map(|id| JourneyQuery { tenant: TENANT.into(), conversion_id: id.to_owned() });
        for (query, journey) in asked.iter().zip(stores.journeys.journeys(&asked, 0).await.unwrap()) {
            let touches = journey.unwrap().touches;
            let id = &query.conversion_id;
            assert_eq!(touches.len(), 1, "{id}, without row {missing} of {rows:?}");
        }
    }
}

/// Of processes that plan the same batch with other ends one has its way, also over one that slept through a new generation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_one_plan_of_a_batch_wins() {
    let server = running().await;
    let stores: [Stores; 3] = processes(&server).await;
    let mut last = None;
    for batch in 1..=5 {
        let planned = stores.iter().zip(0..).map(async |(stores, n)| {
            let plan = Plan { batch, from: batch * 10, to: batch * 10 + n + 1, stamp: 0 };
            stores.outbox.put_plan(7, plan).await.map(|()| plan)
        });
        let planned = futures_util::future::join_all(planned).await;
        let won: Vec<_> = planned.iter().flatten().collect();
        let [won] = won[..] else { panic!("one wins: {planned:?}") };
        for stores in &stores {
            assert_eq!(stores.outbox.plan(7).await.unwrap(), Some(*won));
        }
        last = Some(*won);
    }
    let [old, new, _] = &stores;
    new.outbox.reset(Generation { log: 1, id: 2 }).await.unwrap();
    assert_eq!(new.outbox.plan(7).await.unwrap(), None);
    let next = Plan { batch: 6, from: 60, to: 61, stamp: 0 };
    for plan in [last.unwrap(), next] {
        let late = old.outbox.put_plan(7, plan).await;
        assert!(plan == last.unwrap() || matches!(late, Err(StoreError::Superseded)), "{late:?}");
        assert_eq!(new.outbox.plan(7).await.unwrap(), None);
    }
    let first = Plan { batch: 1, from: 0, to: 1, stamp: 0 };
    new.outbox.put_plan(7, first).await.unwrap();
    let late = old.outbox.put_plan(7, next).await;
    assert!(matches!(late, Err(StoreError::Superseded)), "{late:?}");
    assert_eq!(new.outbox.plan(7).await.unwrap(), Some(first));
}

/// An id under another person key comes to another partition, and is a repeat there.
#[tokio::test]
async fn cql_an_id_met_in_another_partition_is_a_repeat() {
    let server = running().await;
    let [one, two] = &processes(&server).await;
    let at = |partition| Position { partition, offset: 0, index: 0 };
    let first = [of_tenant(TENANT, at(0), conversion("c", "buy", T, "d:1"))];
    let again = [of_tenant(TENANT, at(1), conversion("c", "buy", T, "d:2"))];
    one.journeys.record(0, &first).await.unwrap();
    for _ in 0..2 {
        assert_eq!(two.journeys.record(1, &again).await.unwrap().outcomes, [Outcome::Repeat]);
    }
    assert_eq!(one.journeys.record(0, &first).await.unwrap().outcomes, [Outcome::Replayed]);
    assert_eq!(two.journeys.conversion(TENANT, "c").await.unwrap().unwrap().conversion.home, identity("d:1"));
}

/// Where both partitions read an id before either has written it, it counts in both: each row has one writer, and nobody is
/// asked who was first. It is lost in none, who counted it stays with it, and from then on it is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cql_an_id_that_comes_to_two_partitions_at_once_is_counted_by_one_or_both_and_never_lost() {
    const IDS: u32 = 50;
    let server = running().await;
    let [one, two] = &processes(&server).await;
    let call = |partition: u32, person: &str| -> Vec<Incoming> {
        let event = |index| {
            let position = Position { partition, offset: 0, index };
            of_tenant(TENANT, position, conversion(&format!("c{index}"), "buy", T, person))
        };
        (0..IDS).map(event).collect()
    };
    let (mine, theirs) = (call(0, "d:1"), call(1, "d:2"));
    let (first, second) = tokio::join!(one.journeys.record(0, &mine), two.journeys.record(1, &theirs));
    let (first, second) = (first.unwrap().outcomes, second.unwrap().outcomes);
    let counts = |outcome: &Outcome| u32::from(*outcome == Outcome::First);
    let counted: Vec<u32> = first.iter().zip(&second).map(|(a, b)| counts(a) + counts(b)).collect();
    assert!(counted.iter().all(|count| [1, 2].contains(count)), "{counted:?}");
    println!("{} of {IDS} ids were counted twice", counted.iter().filter(|count| **count == 2).count());

    let later = one.journeys.record(2, &call(2, "d:3")).await.unwrap().outcomes;
    assert!(later.iter().all(|outcome| *outcome == Outcome::Repeat), "{later:?}");
    for (stores, partition, call, before) in [(one, 0, &mine, &first), (two, 1, &theirs, &second)] {
        let again = stores.journeys.record(partition, call).await.unwrap().outcomes;
        for (before, again) in before.iter().zip(again) {
            let stays = if *before == Outcome::First { Outcome::Replayed } else { Outcome::Repeat };
            assert_eq!(again, stays);
        }
    }
}

#[tokio::test]
async fn cql_a_damaged_value_is_never_served() {
    let server = running().await;
    let keyspace = keyspace_name();
    let stores = open(&url(&server, &keyspace)).await.unwrap();
    stores.journeys.record(0, &record(0, [click("t", T, "d:1")])).await.unwrap();
    let address = server.url("");
    let host = address.trim_start_matches("scylla://").split(['/', ',', '?']).next().unwrap();
    let session = SessionBuilder::new().known_node(host).build().await.unwrap();
    let rows =
        session.query_unpaged(format!("SELECT key, bucket, at, value FROM {keyspace}.touches"), ()).await;
    let rows = rows.unwrap().into_rows_result().unwrap();
    let (key, bucket, at, value) = rows.single_row::<(Vec<u8>, i64, Vec<u8>, Vec<u8>)>().unwrap();
    for bit in [0, value.len() * 4, value.len() * 8 - 1] {
        let mut damaged = value.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let put = format!("INSERT INTO {keyspace}.touches (key, bucket, at, value) VALUES (?, ?, ?, ?)");
        session.query_unpaged(put, (&key, bucket, &at, damaged)).await.unwrap();
        let page = stores.journeys.page(TENANT, identity("d:1"), None, 10).await;
        assert!(matches!(page, Err(StoreError::Corrupt(_))), "bit {bit}: {page:?}");
    }
}

/// TLS and a password, of a server that asks for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cql_a_server_over_tls_with_a_password_is_used_by_those_who_know_it() {
    let server = Cassandra::start_guarded().await;
    let opened = async |password: &str, ca: &str| {
        let login = format!("user=cassandra&password={password}&tls_ca={ca}");
        let url = format!("scylla://{}/guarded?replicas=1&timeout_millis=90000&{login}", server.address());
        open(&url).await
    };
    // The server makes its first user a moment after it listens.
    eventually("the first user is there", async || opened("cassandra", CERTIFICATE).await.is_ok()).await;
    let stores = opened("cassandra", CERTIFICATE).await.unwrap();
    stores.outbox.reset(Generation { log: 1, id: 2 }).await.unwrap();
    assert_eq!(stores.outbox.generation().await.unwrap(), Some(Generation { log: 1, id: 2 }));
    for (password, ca, says) in
        [("wr%6Fng", CERTIFICATE, "password"), ("cassandra", OTHER_CERTIFICATE, "certificate")]
    {
        let error = opened(password, ca).await.err().unwrap();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        let error = error.to_string();
        assert!(
            error.contains("journey store") && error.contains(says) && !error.contains("wrong"),
            "{error}"
        );
    }
}

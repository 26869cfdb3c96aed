//! The log in Kafka, on one real broker.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use event_log::{Entry, EventLog, LogError, conformance};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{FutureProducer, FutureRecord},
};
use testkit::{
    kafka::{Cluster, Kafka, PASSWORD, USER},
    process::{PATIENCE, eventually},
};
use tokio::sync::OnceCell;

/// One for all tests that leave it running.
async fn kafka() -> &'static Kafka {
    static KAFKA: OnceCell<Kafka> = OnceCell::const_new();
    KAFKA.get_or_init(Kafka::start).await
}

/// A name that no test has used, of this run or of an earlier one.
fn topic(what: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("{what}.{:08x}.{}", rand::random::<u32>(), MADE.fetch_add(1, Ordering::Relaxed))
}

async fn open(kafka: &Kafka, what: &str, partitions: u32) -> Arc<dyn EventLog> {
    event_log::open(&kafka.url(&topic(what), partitions)).await.unwrap()
}

fn client(kafka: &Kafka) -> ClientConfig {
    let url = kafka.url("x", 1);
    let address = url.trim_start_matches("kafka://").split('/').next().unwrap();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_in_kafka_keeps_every_promise() {
    let kafka = kafka().await;
    conformance::suite(|partitions| open(kafka, "suite", partitions)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_opened_again_is_the_same() {
    let kafka = kafka().await;
    let name = topic("again");
    let log = event_log::open(&kafka.url(&name, 2)).await.unwrap();
    for index in 0..20 {
        log.append(1, Bytes::from(format!("frame {index}"))).await.unwrap();
    }
    log.commit("worker", 1, 7).await.unwrap();
    let (id, records) = (log.id(), conformance::read_all(&*log, 1, 0).await);
    drop(log);
    let log = event_log::open(&kafka.url(&name, 2)).await.unwrap();
    assert_eq!((log.id(), log.partitions()), (id, 2));
    // Times too, from wherever the reading begins.
    for from in [0, 7, 19] {
        assert_eq!(conformance::read_all(&*log, 1, from).await, records[from as usize..]);
    }
    assert_eq!(log.committed("worker", 1).await.unwrap(), Some(7));
    let other = event_log::open(&kafka.url(&name, 3)).await.err().unwrap();
    assert!(other.to_string().contains("partitions=2"), "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_breaks_a_promise_is_refused() {
    let kafka = kafka().await;
    let admin: AdminClient<DefaultClientContext> = client(kafka).create().unwrap();
    for (key, value, says) in [
        ("message.timestamp.type", "CreateTime", "LogAppendTime"),
        ("cleanup.policy", "compact", "cleanup.policy"),
        ("unclean.leader.election.enable", "true", "unclean.leader.election.enable"),
    ] {
        let name = topic("refused");
        let mut made = NewTopic::new(&name, 1, TopicReplication::Fixed(1));
        if key != "message.timestamp.type" {
            made = made.set("message.timestamp.type", "LogAppendTime");
        }
        let options = AdminOptions::new();
        admin.create_topics([&made.set(key, value)], &options).await.unwrap().remove(0).unwrap();
        let refused = event_log::open(&kafka.url(&name, 1)).await.err().unwrap();
        assert!(matches!(&refused, LogError::Url(text) if text.contains(says)), "{refused}");
    }
    let url = kafka.url(&topic("missing"), 1).replace("partitions=1", "min_insync_replicas=1");
    let (address, parameters) = url.split_once('?').unwrap();
    let without: Vec<&str> = parameters.split('&').filter(|pair| pair.starts_with("acks")).collect();
    let missing = event_log::open(&format!("{address}?{}", without.join("&"))).await.err().unwrap();
    assert!(missing.to_string().contains("there is no topic"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_is_told_as_a_gap() {
    let kafka = kafka().await;
    let name = topic("foreign");
    let log = event_log::open(&kafka.url(&name, 1)).await.unwrap();
    log.append(0, Bytes::from_static(b"ours")).await.unwrap();
    let producer: FutureProducer = client(kafka).create().unwrap();
    for payload in ["", "text", "\u{1}\u{5}\u{0}\u{0}\u{0}cut"] {
        let foreign: FutureRecord<'_, (), str> = FutureRecord::to(&name).partition(0).payload(payload);
        producer.send(foreign, PATIENCE).await.unwrap();
    }
    log.append(0, Bytes::from_static(b"ours too")).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.len() < 5 {
        for entry in log.read(0, kinds.len() as u64, 1 << 20, PATIENCE).await.unwrap() {
            kinds.push(match entry {
                Entry::Record(record) => Some(record.frames),
                Entry::Gap { from, to, .. } => {
                    assert_eq!((from, to), (kinds.len() as u64, kinds.len() as u64 + 1));
                    None
                }
            });
        }
    }
    let ours = |text: &'static str| Some(vec![Bytes::from_static(text.as_bytes())]);
    assert_eq!(kinds, [ours("ours"), None, None, None, ours("ours too")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stands_still_holds_up_packs_bounds_and_fails_appends() {
    // Of its own: it is paused.
    let cluster = Cluster::start(1).await;
    let frame = |index: usize| Bytes::from(format!("frame {index}"));
    let open = async |what: &str, parameters: &str| {
        let url = format!("{}{parameters}", cluster.url(&topic(what), 1));
        let log = event_log::open(&url).await.unwrap();
        // What is slow at first is not what is meant to fail.
        let first = Bytes::from_static(b"first");
        eventually("an append", async || log.append(0, first.clone()).await.is_ok()).await;
        log
    };
    let packing = open("packing", "").await;
    let bounded = open("bounded", "&queue_frames_max=3").await;
    let failing = open("failing", "&delivery_millis_max=1000").await;

    cluster.pause(0);
    let many = futures_util::future::join_all((0..100).map(|index| packing.append(0, frame(index))));
    let few = async {
        let mut waiting = futures_util::future::join_all((0..3).map(|index| bounded.append(0, frame(index))));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(bounded.queue_depth(), 3);
        let past = bounded.append(0, frame(3)).await;
        assert!(matches!(past, Err(LogError::Unavailable(_))), "one past the limit: {past:?}");
        waiting.await
    };
    let fail = async {
        let failed = failing.append(0, frame(0)).await;
        assert!(matches!(failed, Err(LogError::Indeterminate(_))), "{failed:?}");
        assert!(failing.health().unwrap_err().contains("kafka"));
        cluster.resume(0);
    };
    let (many, few, ()) = tokio::join!(many, few, fail);
    let last = many.into_iter().map(|appended| appended.unwrap().offset).max().unwrap();
    assert!(last <= 2, "what waits for one flush is packed: {last} records");
    assert!(few.iter().all(Result::is_ok), "{few:?}");
    let frames: Vec<Bytes> =
        conformance::read_all(&*packing, 0, 1).await.into_iter().flat_map(|record| record.frames).collect();
    assert_eq!(frames, (0..100).map(frame).collect::<Vec<_>>());
    eventually("it takes appends again", async || failing.append(0, frame(1)).await.is_ok()).await;
    assert_eq!(failing.health(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_the_partitions_and_one_takes_over() {
    let kafka = kafka().await;
    let url = format!("{}&session_millis=6000", kafka.url(&topic("shared"), 4));
    let (one, other) = (event_log::open(&url).await.unwrap(), event_log::open(&url).await.unwrap());
    let mut first = one.join("worker").await.unwrap();
    let all = tokio::time::timeout(PATIENCE, first.wait_for(|own| own.len() == 4)).await;
    drop(all.unwrap().unwrap());
    let second = other.join("worker").await.unwrap();
    eventually("each has two", async || {
        let (first, second) = (first.borrow().clone(), second.borrow().clone());
        assert!(first.is_disjoint(&second), "nobody has what another has: {first:?} {second:?}");
        first.len() == 2 && second.len() == 2
    })
    .await;
    let theirs = *second.borrow().first().unwrap();
    let not_mine = one.commit("worker", theirs, 0).await;
    assert!(matches!(not_mine, Err(LogError::Unavailable(_))), "{not_mine:?}");
    drop(second);
    let all = tokio::time::timeout(PATIENCE, first.wait_for(|own| own.len() == 4)).await;
    drop(all.unwrap().unwrap());
    one.commit("worker", theirs, 0).await.unwrap();
}

#[tokio::test]
async fn a_kafka_url_says_everything_or_what_is_wrong_with_it() {
    for (url, says) in [
        ("kafka://broker", "/topic"),
        ("kafka:///topic", "/topic"),
        ("kafka://broker/to/pic", "topic's name"),
        ("kafka://broker/topic?acks=1", "acks is all"),
        ("kafka://broker/topic?linger=1", "no parameter linger"),
        ("kafka://broker/topic?partitions=1025", "1 to 1024"),
        ("kafka://broker/topic?queue_bytes_max=524223", "from 524224"),
        ("kafka://broker/topic?delivery_millis_max=999", "from 1000"),
        ("kafka://broker/topic?session_millis=5999", "from 6000"),
        ("kafka://broker/topic?ca_file=x", "tls=true"),
        ("kafka://broker/topic?sasl=plain&user=x", "go together"),
        ("kafka://broker/topic?sasl=plain&user=x&password_file=/no/such", "/no/such"),
        ("kafka://broker/topic?sasl=gssapi", "scram-sha-512"),
    ] {
        let refused = event_log::open(url).await.err();
        let text = refused.as_ref().map(LogError::to_string).unwrap_or_default();
        assert!(
            matches!(refused, Some(LogError::Url(_))) && text.contains(says),
            "{url}: {text:?}, not {says:?}"
        );
    }
    let away =
        tokio::time::timeout(Duration::from_secs(60), event_log::open("kafka://127.0.0.1:1/topic")).await;
    assert!(matches!(away.unwrap(), Err(LogError::Unavailable(_))), "nobody is there");
}

/// A log at another address of the same brokers, by a login.
async fn logged_in(
    address: &str,
    topic: &str,
    password: &str,
    parameters: &str,
) -> Result<Arc<dyn EventLog>, LogError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, password).unwrap();
    let made = "partitions=1&replication=1&min_insync_replicas=1";
    let login = format!("user={USER}&password_file={}", file.display());
    event_log::open(&format!("kafka://{address}/{topic}?{made}&{login}&{parameters}")).await
}

/// Appends, reads and commits by a login; another password is refused, and said to be, and is not told.
async fn a_login_is_checked(address: &str, what: &str, parameters: &str) {
    let name = topic(what);
    let log = logged_in(address, &name, PASSWORD, parameters).await.unwrap();
    log.append(0, Bytes::from_static(b"by a login")).await.unwrap();
    let entries = log.read(0, 0, 1 << 20, PATIENCE).await.unwrap();
    assert!(
        matches!(&entries[..], [Entry::Record(record)] if record.frames == [Bytes::from_static(b"by a login")]),
        "{entries:?}"
    );
    log.commit("worker", 0, 1).await.unwrap();
    assert_eq!(log.committed("worker", 0).await.unwrap(), Some(1));
    let refused = logged_in(address, &name, "another-password", parameters).await.err().unwrap().to_string();
    assert!(
        refused.contains("kafka: the login is refused") && !refused.contains("another-password"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_password_is_checked() {
    let Kafka::Own(cluster) = kafka().await else {
        eprintln!("not run: the brokers are not ours to ask for a login");
        return;
    };
    a_login_is_checked(&cluster.login(), "login", "sasl=plain").await;
}

#[cfg(feature = "kafka-tls")]
#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_scram_over_tls_is_checked_and_so_is_the_broker() {
    let Kafka::Own(cluster) = kafka().await else {
        eprintln!("not run: the brokers are not ours to ask for a login");
        return;
    };
    let trusting = |ca: &str| format!("tls=true&ca_file={ca}&sasl=scram-sha-512");
    a_login_is_checked(&cluster.tls(), "tls", &trusting(testkit::tls::CERTIFICATE)).await;
    let other = trusting(testkit::tls::OTHER_CERTIFICATE);
    let refused = logged_in(&cluster.tls(), &topic("tls"), PASSWORD, &other).await.err().unwrap();
    assert!(matches!(&refused, LogError::Unavailable(text) if text.contains("kafka")), "{refused}");
}

//! Schema, generations, and batches that were tried before.

use clickhouse::Row;
use serde::{Deserialize, Serialize};
use warehouse::{Config, Error, Facts, Measure, Progress, ReportSpec, Warehouse};

use crate::{
    Engine,
    world::{DAY, HOUR, NOON, answered, click, conversion, identity, known_as, progress, spec, touch},
};

/// 2000-01-15T00:00:00Z.
const Y2K: i64 = 947_894_400_000;

#[derive(Row, Serialize)]
struct Migration {
    version: u32,
    name: String,
    checksum: String,
}

#[derive(Debug, PartialEq, Row, Deserialize)]
struct Count {
    rows: u64,
}

pub(crate) async fn count(engine: &Engine, database: &str, what: &str) -> u64 {
    let sql = format!("SELECT count() AS rows FROM {what}");
    engine.client(database).query(&sql).fetch_one::<Count>().await.unwrap().rows
}

pub(crate) async fn migrating_twice_changes_nothing_and_a_newer_schema_is_refused(engine: Engine) {
    let database = "migrated";
    let warehouse = engine.connect(database);
    warehouse.migrate().await.unwrap();
    let applied = count(&engine, database, "migrations").await;
    warehouse.migrate().await.unwrap();
    assert_eq!(count(&engine, database, "migrations").await, applied);
    assert!(applied > 0);
    let newer = Migration { version: applied as u32 + 1, name: "next".into(), checksum: "0".into() };
    let mut insert = engine.client(database).insert::<Migration>("migrations").await.unwrap();
    insert.write(&newer).await.unwrap();
    insert.end().await.unwrap();
    assert!(matches!(warehouse.migrate().await, Err(Error::Schema(_))));
}

pub(crate) async fn generations_empty_everything(engine: Engine) {
    let database = "generations";
    let warehouse = engine.warehouse(database).await;
    assert_eq!(warehouse.generation().await.unwrap(), None);
    warehouse.reset(u128::MAX).await.unwrap();
    assert_eq!(warehouse.generation().await.unwrap(), Some(u128::MAX));
    let facts = Facts {
        touches: vec![touch("p", "email", HOUR)],
        conversions: vec![conversion("c", "p", Vec::new())],
        identities: vec![known_as("p", "q", false, 1)],
    };
    warehouse.write_batch(progress(1), 0, &facts).await.unwrap();
    assert_eq!(warehouse.progress().await.unwrap(), [progress(1)]);
    warehouse.reset(7).await.unwrap();
    assert_eq!(warehouse.generation().await.unwrap(), Some(7));
    assert!(warehouse.progress().await.unwrap().is_empty());
    for table in ["touches", "conversions", "identities"] {
        assert_eq!(count(&engine, database, table).await, 0, "{table}");
    }
    // What was there before does not keep the same facts from coming again.
    warehouse.resume_batch(progress(1), 0, &facts).await.unwrap();
    for table in ["touches", "conversions", "identities"] {
        assert_eq!(count(&engine, database, table).await, 1, "{table}");
    }
}

// Conversions and touches 20 days apart, one of each a month or more, and identities.
pub(crate) fn history(moments: i64) -> Facts {
    let mut facts = Facts::default();
    for n in 0..moments {
        let time = Y2K + n * 20 * DAY;
        let mut fact = conversion(&format!("c{n}"), "p", vec![click("email", HOUR)]);
        fact.time_millis = time;
        facts.conversions.push(fact);
        let mut before = touch("p", "email", n);
        before.time_millis = time - HOUR;
        facts.touches.push(before);
        facts.identities.push(known_as(&format!("i{n}"), "p", false, n));
    }
    facts
}

pub(crate) async fn more_than_a_hundred_months_come_in_one_batch(engine: Engine) {
    let database = "months";
    let warehouse = engine.warehouse(database).await;
    let facts = history(160);
    warehouse.write_batch(progress(1), 0, &facts).await.unwrap();
    let months = "(SELECT DISTINCT toYYYYMM(time) FROM conversions)";
    assert!(count(&engine, database, months).await > 100);
    let measures = vec![Measure::Conversions];
    let spec = ReportSpec { from_millis: Y2K, to_millis: NOON, measures, ..spec() };
    assert_eq!(answered(&warehouse, &spec).await, ["last_touch email 160.000000"]);
    warehouse.resume_batch(progress(1), 0, &facts).await.unwrap();
    assert_eq!(answered(&warehouse, &spec).await, ["last_touch email 160.000000"]);
}

pub(crate) async fn whatever_is_there_the_rest_is_inserted_once(engine: Engine) {
    let database = "resumed";
    let warehouse = engine.warehouse(database).await;
    let whole = history(12);
    let tables = ["identities", "touches", "conversions"];
    // Beginnings of what an interrupted batch leaves: some INSERTs of some tables, in their order.
    let mut beginnings = vec![(0, 0, 0), (12, 0, 0), (12, 5, 0), (12, 12, 0), (12, 12, 7), (12, 12, 12)];
    beginnings.push((3, 4, 5));
    for (batch, (identities, touches, conversions)) in (1..).zip(beginnings) {
        let part = Facts {
            identities: whole.identities[..identities].into(),
            touches: whole.touches[..touches].into(),
            conversions: whole.conversions[..conversions].into(),
        };
        let batch = Progress { partition: 3, ..progress(batch) };
        warehouse.write_batch(batch, 0, &part).await.unwrap();
        // As if it had ended before the progress.
        let forget =
            format!("ALTER TABLE progress DELETE WHERE batch = {} SETTINGS mutations_sync = 2", batch.batch);
        engine.client(database).query(&forget).execute().await.unwrap();
        warehouse.resume_batch(batch, 0, &whole).await.unwrap();
        for table in tables {
            let of_batch = format!("{table} WHERE part = 3 AND batch = {}", batch.batch);
            assert_eq!(count(&engine, database, &of_batch).await, 12, "{table} {batch:?}");
        }
        assert_eq!(warehouse.progress().await.unwrap(), [batch]);
        warehouse.resume_batch(batch, 0, &whole).await.unwrap();
        assert_eq!(count(&engine, database, "conversions").await, 12 * batch.batch);
    }
    // A batch that holds more than it was made of is not resumed.
    let forget = "ALTER TABLE progress DELETE WHERE batch = 7 SETTINGS mutations_sync = 2";
    engine.client(database).query(forget).execute().await.unwrap();
    let less = history(11);
    let batch = Progress { partition: 3, ..progress(7) };
    assert!(matches!(warehouse.resume_batch(batch, 0, &less).await, Err(Error::Rejected(_))));
}

pub(crate) async fn what_is_past_a_batch_is_taken_back(engine: Engine) {
    let warehouse = engine.warehouse("cut").await;
    taken_back(&warehouse, async |table| count(&engine, "cut", table).await).await;
}

/// Of two partitions one is taken back, told by the rows that are there of a table, and others come in their place.
pub(crate) async fn taken_back(warehouse: &Warehouse, rows: impl AsyncFn(&str) -> u64) {
    let facts = |name: &str, channel: &str| Facts {
        touches: vec![touch(name, channel, HOUR)],
        conversions: vec![conversion(name, name, vec![click(channel, HOUR)])],
        identities: vec![known_as(name, name, false, 1)],
    };
    let other = Progress { partition: 1, ..progress(9) };
    warehouse.write_batch(other, 0, &facts("other", "social")).await.unwrap();
    for batch in 1..=4 {
        warehouse.write_batch(progress(batch), 0, &facts(&format!("p{batch}"), "email")).await.unwrap();
    }
    // By the tables, and by the sums that the engine keeps with them.
    let check = async |batch: u64| {
        for table in ["touches", "conversions", "identities"] {
            assert_eq!(rows(table).await, batch + 1, "{table}");
        }
        assert_eq!(warehouse.progress().await.unwrap(), [progress(batch), other]);
        let expected = [format!("last_touch email {batch}.000000"), "last_touch social 1.000000".to_owned()];
        let measures = vec![Measure::Conversions];
        assert_eq!(answered(warehouse, &ReportSpec { measures, ..spec() }).await, expected);
    };
    check(4).await;
    for stamp in [1, 2] {
        warehouse.cut(progress(2), stamp).await.unwrap();
        check(2).await;
    }
    // Other facts under the same number come in as if the first had never been there.
    warehouse.write_batch(progress(3), 3, &facts("p5", "email")).await.unwrap();
    check(3).await;
}

pub(crate) async fn an_insert_of_the_largest_batch_is_one_part(engine: Engine) {
    let database = "blocks";
    let warehouse = engine.warehouse(database).await;
    engine.client(database).query("SYSTEM STOP MERGES").execute().await.unwrap();
    let path: Vec<_> = (0..20).map(|n| click("a channel with a name of some length", n * HOUR)).collect();
    let mut facts = Facts::default();
    for n in 0..50_000_u32 {
        let mut fact = conversion(&n.to_string(), "p", path.clone());
        fact.identity = identity(&n.to_string());
        facts.conversions.push(fact);
    }
    warehouse.write_batch(progress(1), 0, &facts).await.unwrap();
    let parts = format!("system.parts WHERE active AND database = '{database}' AND table = 'conversions'");
    assert_eq!(count(&engine, database, &parts).await, 1);
    engine.client(database).query("SYSTEM START MERGES").execute().await.unwrap();
}

pub(crate) async fn an_unreachable_warehouse_is_unavailable(_engine: Engine) {
    let [port] = testkit::ports::free();
    let url = format!("http://127.0.0.1:{port}");
    let database = "nowhere".to_owned();
    let config = Config { url, user: String::new(), password: String::new(), database };
    let warehouse = Warehouse::connect(&config).unwrap();
    let error = warehouse.write_batch(progress(1), 0, &Facts::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(matches!(warehouse.report(&spec()).await, Err(Error::Unavailable(_))));
    let wrong = Config { database: "a`b".into(), ..config };
    assert!(matches!(Warehouse::connect(&wrong), Err(Error::Config(_))));
}

//! The `clickhouse` crate against the embedded engine, unchanged and with its own defaults.

#![allow(clippy::unwrap_used)]

mod common;

use clickhouse::{Compression, Row};
use common::Warehouse;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Fact {
    id: u64,
    at: i64,
    sign: i8,
    channel: String,
    weights: Vec<f64>,
    keywords: Vec<String>,
    note: Option<String>,
}

fn fact(id: u64) -> Fact {
    Fact {
        id,
        at: 1_767_225_600_000 + id as i64,
        sign: if id.is_multiple_of(7) { -1 } else { 1 },
        channel: format!("channel {}", id % 5),
        weights: (0..id % 4).map(|n| n as f64 / 3.0).collect(),
        keywords: (0..id % 3).map(|n| format!("ключ '{n}' \\ \t\n")).collect(),
        note: id.is_multiple_of(2).then(|| "note".to_owned()),
    }
}

const FACTS: &str = "CREATE TABLE facts (id UInt64, at DateTime64(3, 'UTC'), sign Int8, \
    channel LowCardinality(String), weights Array(Float64), keywords Array(String), note Nullable(String)) \
    ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY id \
    SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 600";

#[tokio::test]
async fn rows_come_back_as_they_were_written() {
    let warehouse = Warehouse::start().await;
    let default = warehouse.client();
    default.query(FACTS).execute().await.unwrap();
    let plain = default.clone().with_compression(Compression::None).with_validation(false);
    for (client, ids) in [(&default, 0..1_000), (&plain, 1_000..2_000)] {
        let mut insert =
            client.clone().with_setting("async_insert", "0").insert::<Fact>("facts").await.unwrap();
        for id in ids {
            insert.write(&fact(id)).await.unwrap();
        }
        insert.end().await.unwrap();
    }
    let expected: Vec<_> = (0..2_000).map(fact).collect();
    for client in [&default, &plain] {
        let rows = client.query("SELECT ?fields FROM facts ORDER BY id").fetch_all::<Fact>().await.unwrap();
        assert!(rows == expected);
    }
    let one = default
        .query("SELECT ?fields FROM facts WHERE channel = ? AND id = ?")
        .bind("channel 3")
        .bind(1_003_u64)
        .fetch_one::<Fact>()
        .await
        .unwrap();
    assert_eq!(one, fact(1_003));
    warehouse.stop().await;
}

#[tokio::test]
async fn a_long_result_is_streamed_without_a_seam() {
    let warehouse = Warehouse::start().await;
    for validation in [true, false] {
        let client = warehouse.client().with_validation(validation);
        let mut rows = client.query("SELECT number FROM numbers(400000)").fetch::<u64>().unwrap();
        let mut expected = 0;
        while let Some(number) = rows.next().await.unwrap() {
            assert_eq!(number, expected);
            expected += 1;
        }
        assert_eq!(expected, 400_000);
    }
    warehouse.stop().await;
}

#[tokio::test]
async fn errors_carry_the_engines_code_also_half_way() {
    let warehouse = Warehouse::start().await;
    let client = warehouse.client();
    let unknown = client.query("SELECT number FROM nope").fetch_one::<u64>().await.unwrap_err().to_string();
    assert!(unknown.contains("Code: 60.") && unknown.contains("UNKNOWN_TABLE"), "{unknown}");
    let syntax = client.query("SELEC 1").execute().await.unwrap_err().to_string();
    assert!(syntax.contains("Code: 62."), "{syntax}");
    // One row at a time, so that the failure is on its way alone.
    let mut rows = client
        .query("SELECT number + throwIf(number = 20) AS n FROM numbers(1000) WHERE sleepEachRow(0.005) = 0")
        .with_setting("max_threads", "1")
        .with_setting("max_block_size", "1")
        .fetch::<u64>()
        .unwrap();
    let mut read = 0_u64;
    let error = loop {
        match rows.next().await {
            Ok(Some(_)) => read += 1,
            Ok(None) => panic!("the result ended as if it were whole"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(read > 0 && error.contains("Code: 395."), "{read} {error}");
    warehouse.stop().await;
}

#[tokio::test]
async fn settings_and_parameters_last_for_one_query() {
    let warehouse = Warehouse::start().await;
    let client = warehouse.client();
    const THREADS: &str = "SELECT toUInt64(getSetting('max_threads'))";
    let before = client.query(THREADS).fetch_one::<u64>().await.unwrap();
    let set = client.query(THREADS).with_setting("max_threads", "7").fetch_one::<u64>().await.unwrap();
    assert_eq!(set, 7);
    let unknown = client.query(THREADS).with_setting("nope", "7").fetch_one::<u64>().await.unwrap_err();
    assert!(unknown.to_string().contains("Code: 115."), "{unknown}");
    for text in ["plain", "it's; -- \"quoted\" \\ ", "tab\tline\nend", "ключ", ""] {
        let echoed =
            client.query("SELECT {text: String}").param("text", text).fetch_one::<String>().await.unwrap();
        assert_eq!(echoed, text);
        let bound = client.query("SELECT ?").bind(text).fetch_one::<String>().await.unwrap();
        assert_eq!(bound, text);
    }
    for _ in 0..8 {
        let leaked = client.query("SELECT {text: String}").fetch_one::<String>().await.unwrap_err();
        assert!(leaked.to_string().contains("Code: 456."), "{leaked}");
        assert_eq!(client.query(THREADS).fetch_one::<u64>().await.unwrap(), before);
    }
    client.query("CREATE DATABASE other").execute().await.unwrap();
    let other = client.clone().with_database("other");
    const DATABASE: &str = "SELECT currentDatabase()";
    assert_eq!(other.query(DATABASE).fetch_one::<String>().await.unwrap(), "other");
    assert_eq!(client.query(DATABASE).fetch_one::<String>().await.unwrap(), "default");
    let missing = client.with_database("missing").query(DATABASE).fetch_one::<String>().await.unwrap_err();
    assert!(missing.to_string().contains("Code: 81."), "{missing}");
    warehouse.stop().await;
}

#[tokio::test]
async fn inserts_and_reads_run_side_by_side() {
    let warehouse = Warehouse::start().await;
    let client = warehouse.client();
    client.query(FACTS).execute().await.unwrap();
    let (writers, batches, rows) = (3_u64, 6_u64, 200_u64);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let client = client.clone();
        tasks.spawn(async move {
            for batch in 0..batches {
                let mut insert = client.insert::<Fact>("facts").await.unwrap();
                for row in 0..rows {
                    insert.write(&fact((writer * batches + batch) * rows + row)).await.unwrap();
                }
                insert.end().await.unwrap();
            }
        });
    }
    for _ in 0..6 {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                let count = client.query("SELECT count() FROM facts").fetch_one::<u64>().await.unwrap();
                assert!(count.is_multiple_of(rows), "a reader saw half an insert: {count}");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let all =
        client.query("SELECT count(), uniqExact(id) FROM facts").fetch_one::<(u64, u64)>().await.unwrap();
    assert_eq!(all, (writers * batches * rows, writers * batches * rows));
    warehouse.stop().await;
}

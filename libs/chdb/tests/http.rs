//! The HTTP interface as any ClickHouse client sees it: status, headers, atomic inserts, bounds.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use chdb::Limits;
use common::{Warehouse, send};
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn statements_come_in_the_url_in_the_body_or_in_both() {
    let w = Warehouse::start().await;
    assert_eq!(w.query("SELECT 1").await, "1");
    assert_eq!(w.post("?query=SELECT+2", "").await.text(), "2\n");
    assert_eq!(w.post("?query=SELECT+number", "FROM numbers(2)").await.text(), "0\n1\n");
    assert_eq!(w.post("?default_format=JSONEachRow", "SELECT 3 AS a").await.text(), "{\"a\":3}\n");
    w.query("CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a").await;
    for (url, body) in [
        ("?query=INSERT+INTO+t+FORMAT+CSV", "1,one\n2,two\n"),
        ("", "INSERT INTO t FORMAT CSV\n3,three\n"),
        ("", "INSERT INTO t (a, b) VALUES (4, 'FORMAT CSV'), (2 + 3, upper('five'));"),
        ("?query=INSERT+INTO+t+VALUES", "(6, 'six')"),
        ("?query=INSERT+INTO+t+VALUES+(7,+'seven')", ""),
        ("", "INSERT INTO t SETTINGS max_threads = 1 FORMAT JSONEachRow {\"a\":8,\"b\":\"eight\"}"),
        ("", "INSERT INTO t SELECT 9, 'nine'"),
    ] {
        let answer = w.post(url, body).await;
        assert_eq!(answer.status, 200, "{url} {body}: {}", answer.text());
        assert_eq!(answer.text(), "");
    }
    assert_eq!(
        w.query("SELECT groupArray((a, b)) FROM (SELECT * FROM t ORDER BY a)").await,
        "[(1,'one'),(2,'two'),(3,'three'),(4,'FORMAT CSV'),(5,'FIVE'),(6,'six'),(7,'seven'),(8,'eight'),(9,'nine')]"
    );
    w.stop().await;
}

#[tokio::test]
async fn every_format_has_the_bytes_of_the_whole_result() {
    let w = Warehouse::start().await;
    const SQL: &str = "SELECT number, toString(number) AS s, [number, 1] AS a FROM numbers(150000)";
    for format in [
        "TabSeparated",
        "TabSeparatedWithNamesAndTypes",
        "CSV",
        "CSVWithNames",
        "JSONEachRow",
        "JSONCompactEachRow",
        "RowBinary",
        "RowBinaryWithNamesAndTypes",
        "Native",
        "MsgPack",
        "Values",
    ] {
        let streamed = w.post(&format!("?default_format={format}&max_threads=1"), SQL).await;
        let whole = w.post(&format!("?default_format={format}&max_threads=1&wait_end_of_query=1"), SQL).await;
        assert_eq!((streamed.status.as_u16(), whole.status.as_u16()), (200, 200), "{format}");
        assert!(streamed.body == whole.body && streamed.body.len() > 1_000_000, "{format}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&w.post("", format!("{SQL} FORMAT JSON")).await.body).unwrap();
    assert_eq!(json["rows"], 150_000);
    let array = w.post("?output_format_json_array_of_rows=1&default_format=JSONEachRow", SQL).await;
    assert_eq!(serde_json::from_slice::<Vec<serde_json::Value>>(&array.body).unwrap().len(), 150_000);
    w.stop().await;
}

#[tokio::test]
async fn answers_say_what_a_clickhouse_server_says() {
    let w = Warehouse::start().await;
    let ping = send(Request::get(format!("{}/ping", w.endpoint.url)).body(Full::default()).unwrap()).await;
    assert_eq!((ping.status.as_u16(), ping.text().as_str()), (200, "Ok.\n"));
    for (url, body, status, code) in [
        ("", "SELECT * FROM nope", 404, "60"),
        ("?database=nope", "SELECT 1", 404, "81"),
        ("?nope=1", "SELECT 1", 404, "115"),
        ("?default_format=Nope", "SELECT 1", 404, "73"),
        ("", "SELEC 1", 400, "62"),
        ("", "", 400, "62"),
        ("", "SELECT 1; SELECT 2", 400, "62"),
        ("?compress=1", "SELECT 1", 501, "48"),
        ("?session_id=a", "SELECT 1", 501, "48"),
        ("", "SELECT throwIf(1)", 500, "395"),
        ("?query=INSERT+INTO+nope+FORMAT+CSV", "1\n", 404, "60"),
        ("?max_threads=1')--", "SELECT 1", 400, "27"),
    ] {
        let answer = w.post(url, body).await;
        let text = answer.text();
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{url} {body}: {text}");
        assert!(text.starts_with(&format!("Code: {code}. DB::")) && text.contains("(version "), "{text}");
    }
    w.query("CREATE TABLE t (a UInt64) ENGINE = Memory").await;
    let insert = w.post("?query_id=mine&query=INSERT+INTO+t+FORMAT+CSV", "1\n2\n3\n").await;
    assert_eq!(insert.headers["x-clickhouse-query-id"], "mine");
    let summary: serde_json::Value =
        serde_json::from_str(insert.headers["x-clickhouse-summary"].to_str().unwrap()).unwrap();
    assert_eq!(summary["written_rows"], "3");
    let read = w.post("", "SELECT * FROM t").await;
    assert!(read.headers["x-clickhouse-summary"].to_str().unwrap().contains("\"read_rows\":\"3\""));
    // Far enough from the start that the engine, which works ahead, has not met it at the first chunk.
    let broken = w.post("?max_threads=1", "SELECT throwIf(number = 3000000) FROM numbers(4000000)").await;
    assert_eq!(
        (broken.status.as_u16(), broken.whole, broken.text().contains("Code: 395.")),
        (200, false, true),
        "{} bytes",
        broken.body.len()
    );
    let get = Request::get(format!(
        "{}/?query=INSERT+INTO+t+VALUES+(4)&user={}&password={}",
        w.endpoint.url, w.endpoint.user, w.endpoint.password
    ));
    assert_eq!(send(get.body(Full::default()).unwrap()).await.code(), "164");
    assert_eq!(w.query("SELECT count() FROM t").await, "3");
    w.stop().await;
}

#[tokio::test]
async fn strangers_read_nothing() {
    let w = Warehouse::start().await;
    for (user, password) in
        [(w.endpoint.user.as_str(), "wrong"), ("default", ""), ("default", w.endpoint.password.as_str())]
    {
        let request = Request::post(&w.endpoint.url)
            .header("x-clickhouse-user", user)
            .header("x-clickhouse-key", password);
        let answer = send(request.body(Full::from("SELECT 1")).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (403, "516"));
    }
    let nobody = send(Request::post(&w.endpoint.url).body(Full::from("SELECT 1")).unwrap()).await;
    assert_eq!((nobody.status.as_u16(), nobody.code()), (401, "194"));
    assert!(!format!("{:?}", w.endpoint).contains(&w.endpoint.password));
    w.stop().await;
}

#[tokio::test]
async fn a_broken_body_inserts_nothing_and_a_whole_one_is_one_part() {
    let w = Warehouse::with(Limits { running_queries_max: 1, ..Limits::default() }).await;
    w.query("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    // More rows than the engine puts into one block by itself.
    let body: Vec<u8> = (0..1_200_000_u64).flat_map(u64::to_le_bytes).collect();
    const INSERT: &str = "?query=INSERT+INTO+t+FORMAT+RowBinary";
    let broken = w.post(INSERT, body[..body.len() - 3].to_vec()).await;
    assert_eq!(broken.code(), "33", "{}", broken.text());

    // A client that is lost before the end of its body; the one turn is free when it is undone.
    let mut lost = TcpStream::connect(w.endpoint.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /{INSERT} HTTP/1.1\r\nhost: x\r\nx-clickhouse-user: {}\r\nx-clickhouse-key: {}\r\ncontent-length: {}\r\n\r\n",
        w.endpoint.user,
        w.endpoint.password,
        body.len()
    );
    lost.write_all(head.as_bytes()).await.unwrap();
    lost.write_all(&body[..body.len() - 8]).await.unwrap();
    drop(lost);

    let damaged = w.post("?query=INSERT+INTO+t+FORMAT+CSV", "1\n2\nthree\n").await;
    assert_eq!(damaged.status, 400, "{}", damaged.text());
    assert_eq!(w.query("SELECT count() FROM t").await, "0");

    let whole = w.post(INSERT, body).await;
    assert_eq!(whole.status, 200);
    const PARTS: &str = "SELECT groupArray(rows) FROM system.parts WHERE table = 't' AND active";
    assert_eq!(w.query(PARTS).await, "[1200000]");
    w.stop().await;
}

#[tokio::test]
async fn a_batch_of_wide_rows_is_one_part_per_month() {
    let w = Warehouse::start().await;
    w.query(
        "CREATE TABLE wide (id UInt64, day Date, touch Nested(id String, at DateTime64(3), channel LowCardinality(String), weight Float64)) \
         ENGINE = MergeTree PARTITION BY toYYYYMM(day) ORDER BY id \
         SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 600",
    )
    .await;
    let batch = |day: &str| {
        let sql = format!(
            "SELECT number, toDate('{day}'), \
             arrayMap(i -> concat('touch-', toString(number), '-', toString(i)), range(40)), \
             arrayMap(i -> toDateTime64(i, 3), range(40)), arrayMap(i -> concat('c', toString(i)), range(40)), \
             arrayMap(i -> i / 7, range(40)) FROM numbers(20000) FORMAT RowBinary"
        );
        let w = &w;
        async move { w.post("", sql).await.body }
    };
    let january = batch("2026-01-05").await;
    assert!(january.len() > 20_000_000, "{}", january.len());
    let url = "?query=INSERT+INTO+wide+FORMAT+RowBinary&async_insert=0&insert_deduplicate=0";
    let started = std::time::Instant::now();
    let answer = w.post(url, january.clone()).await;
    eprintln!("20,000 wide rows, {} bytes: {:?}", january.len(), started.elapsed());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let both = [january, batch("2026-02-05").await].concat();
    assert_eq!(w.post(url, both).await.status, 200);
    // The log of the table, so that a merge in between does not change the answer.
    let parts = w.query("SELECT partition, groupArray(rows) FROM system.parts WHERE table = 'wide' AND level = 0 GROUP BY partition ORDER BY partition").await;
    assert_eq!(parts, "202601\t[20000,20000]\n202602\t[20000]");
    w.stop().await;
}

#[tokio::test]
async fn encoded_bodies_are_decoded_or_refused_by_name() {
    let w = Warehouse::start().await;
    w.query("CREATE TABLE t (a UInt64) ENGINE = Memory").await;
    let rows = "1\n2\n3\n".repeat(1_000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(rows.as_bytes()).unwrap();
    let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    deflate.write_all(rows.as_bytes()).unwrap();
    let zstd = zstd::encode_all(rows.as_bytes(), 3).unwrap();
    let cut = zstd[..zstd.len() - 4].to_vec();
    for (encoding, body, status) in [
        ("gzip", gzip.finish().unwrap(), 200),
        ("deflate", deflate.finish().unwrap(), 200),
        ("zstd", zstd, 200),
        ("zstd", cut, 500),
        ("lz4", rows.clone().into_bytes(), 501),
        ("br", rows.clone().into_bytes(), 501),
    ] {
        let request = w.request("?query=INSERT+INTO+t+FORMAT+CSV").header("content-encoding", encoding);
        let answer = send(request.body(Full::new(Bytes::from(body))).unwrap()).await;
        assert_eq!(answer.status, status, "{encoding}: {}", answer.text());
        assert!(status != 501 || answer.text().contains(encoding));
    }
    let blocks = w.post("?query=INSERT+INTO+t+FORMAT+CSV&decompress=1", "not a block at all, whatever").await;
    assert!(!blocks.status.is_success(), "{}", blocks.text());
    assert_eq!(w.query("SELECT count() FROM t").await, "9000");
    w.stop().await;
}

#[tokio::test]
async fn bodies_statements_and_results_are_bounded() {
    let w =
        Warehouse::with(Limits { body_bytes_max: 300_000, result_bytes_max: 1_000_000, ..Limits::default() })
            .await;
    w.query("CREATE TABLE t (a String) ENGINE = Memory").await;
    let insert = "?query=INSERT+INTO+t+FORMAT+LineAsString";
    assert_eq!(w.post(insert, "x".repeat(300_000)).await.status, 200);
    let past = w.post(insert, "x".repeat(300_001)).await;
    assert_eq!((past.status.as_u16(), past.code()), (413, "307"));
    assert_eq!(w.query("SELECT count() FROM t").await, "1");
    let statement = |bytes: usize| format!("SELECT 1{}", " ".repeat(bytes - 8));
    assert_eq!(w.post("", statement(262_144)).await.text(), "1\n");
    let past = w.post("", statement(262_145)).await;
    assert_eq!((past.status.as_u16(), past.code()), (413, "177"));
    assert_eq!(w.post("", "SELECT number FROM numbers(60000) FORMAT JSON").await.status, 200);
    assert_eq!(w.post("", "SELECT number FROM numbers(200000) FORMAT JSON").await.code(), "396");
    assert_eq!(w.post("", "SELECT number FROM numbers(200000) FORMAT CSV").await.status, 200);
    w.stop().await;
}

/// Begins an insert and returns once its statement runs: the server asks for the body only then.
async fn hold_a_turn(w: &Warehouse) -> TcpStream {
    let mut stream = TcpStream::connect(w.endpoint.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /?query=INSERT+INTO+t+FORMAT+CSV HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-clickhouse-user: {}\r\nx-clickhouse-key: {}\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n",
        w.endpoint.user, w.endpoint.password
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 25];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[tokio::test]
async fn statements_wait_up_to_the_bound_and_are_refused_past_it() {
    let w =
        Warehouse::with(Limits { running_queries_max: 1, waiting_queries_max: 2, ..Limits::default() }).await;
    w.query("CREATE TABLE t (a UInt64) ENGINE = Memory").await;
    let mut held = hold_a_turn(&w).await;
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let request = w.request("").body(Full::from("SELECT count() FROM t")).unwrap();
        answers.spawn(send(request));
    }
    let refused = answers.join_next().await.unwrap().unwrap();
    assert_eq!((refused.status.as_u16(), refused.code()), (503, "202"));
    assert!(refused.headers.contains_key("retry-after"));
    let ping = send(Request::get(format!("{}/ping", w.endpoint.url)).body(Full::default()).unwrap()).await;
    assert_eq!(ping.status, 200);
    assert!(answers.try_join_next().is_none());
    held.write_all(b"7\n").await.unwrap();
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap().text(), "1\n");
    }
    w.stop().await;
}

#[tokio::test]
async fn a_body_that_stands_still_gives_its_turn_back() {
    let w = Warehouse::with(Limits { running_queries_max: 1, body_idle_seconds_max: 1, ..Limits::default() })
        .await;
    w.query("CREATE TABLE t (a UInt64) ENGINE = Memory").await;
    let mut held = hold_a_turn(&w).await;
    held.write_all(b"7").await.unwrap();
    assert_eq!(w.query("SELECT count() FROM t").await, "0");
    w.stop().await;
}

#[tokio::test]
async fn connections_past_the_bound_wait_to_be_accepted() {
    let w = Warehouse::with(Limits { http_connections_max: 1, ..Limits::default() }).await;
    let address = w.endpoint.url.trim_start_matches("http://").to_owned();
    let connect = || async {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /ping HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        stream
    };
    let mut answer = [0; 15];
    let mut first = connect().await;
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let mut second = connect().await;
    let early = tokio::time::timeout(Duration::from_millis(200), second.read_exact(&mut answer)).await;
    assert!(early.is_err());
    drop(first);
    second.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    drop(second);
    w.stop().await;
}

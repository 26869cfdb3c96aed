//! A model of ClickHouse that speaks its HTTP interface over connections in memory, and fails per table and month.
//!
//! An INSERT is one block: all of it or nothing. What was answered is durable; what was not, may be.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    rt::{Read, ReadBufCursor, Write},
    service::service_fn,
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::io::DuplexStream;
use warehouse::Warehouse;

use crate::{
    rowbinary::{self, Column, Value},
    trace::Trace,
};

/// The warehouse; clones are the same.
#[derive(Clone)]
pub struct ModelWarehouse(Arc<Mutex<State>>);

struct State {
    tables: BTreeMap<String, Table>,
    rng: SmallRng,
    trace: Trace,
    /// How many of a hundred requests fail.
    failing_percent: u32,
    /// A table and month that takes nothing for so many INSERTs.
    closed: Option<(String, i128, u32)>,
    /// Whether the process that calls is dead.
    cut: bool,
}

#[derive(Default)]
struct Table {
    columns: Vec<Column>,
    rows: Vec<Row>,
}

/// A row by its columns' names.
pub type Row = BTreeMap<String, Value>;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// An exception; nothing happens.
    Refused,
    /// The connection breaks before it happens.
    LostBefore,
    /// It happens, and the answer is lost.
    LostAfter,
}

// === impl ModelWarehouse ===

impl ModelWarehouse {
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(State {
            tables: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            trace,
            failing_percent: 0,
            closed: None,
            cut: false,
        })))
    }

    /// How it behaves towards the next process.
    pub fn fail(&self, percent: u32, close: bool) {
        let mut state = self.0.lock().unwrap();
        state.failing_percent = percent;
        state.cut = false;
        let table = ["touches", "conversions", "identities"][state.rng.random_range(0..3)].to_owned();
        let month = if table == "identities" { 0 } else { state.rng.random_range(202_601..=202_602) };
        let times = state.rng.random_range(1..4);
        state.closed = close.then_some((table, month, times));
    }

    /// The process that calls stops where it is.
    pub fn cut(&self) {
        self.0.lock().unwrap().cut = true;
    }

    /// Everything is gone.
    pub fn lose(&self) {
        self.0.lock().unwrap().tables.clear();
    }

    /// What is past the last whole batch of its partition goes, as `ops/whole-batches.sql` does it after a restore.
    pub fn whole_batches(&self) {
        let mut state = self.0.lock().unwrap();
        let mut last = BTreeMap::new();
        for row in state.tables.get("progress").into_iter().flat_map(|table| &table.rows) {
            let batch = last.entry(row["part"].number()).or_insert(0);
            *batch = row["batch"].number().max(*batch);
        }
        for table in ["touches", "conversions", "identities"] {
            if let Some(table) = state.tables.get_mut(table) {
                table.rows.retain(|row| {
                    row["batch"].number() <= last.get(&row["part"].number()).copied().unwrap_or(0)
                });
            }
        }
    }

    pub fn rows(&self, table: &str) -> Vec<Row> {
        self.0.lock().unwrap().tables.get(table).map_or_else(Vec::new, |table| table.rows.clone())
    }

    /// A client as a process that starts makes it.
    pub fn connect(&self) -> Warehouse {
        let model = self.clone();
        let connector = tower::service_fn(move |_: hyper::Uri| {
            let model = model.clone();
            let connecting: Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>> = Box::pin(async move {
                let (near, far) = tokio::io::duplex(64 * 1024);
                service::task::spawn("model warehouse", model.serve(far));
                Ok(Wire(TokioIo::new(near)))
            });
            connecting
        });
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let config = warehouse::Config {
            url: "http://model".into(),
            user: String::new(),
            password: String::new(),
            database: "attribution".into(),
        };
        Warehouse::connect_with(clickhouse::Client::with_http_client(client), &config).unwrap()
    }

    async fn serve(self, stream: DuplexStream) {
        let service = service_fn(move |request: Request<Incoming>| {
            let model = self.clone();
            async move { model.answer(request).await }
        });
        // A connection that breaks is part of the game.
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
        let in_url = statement(request.uri().query().unwrap_or_default());
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let (sql, data) = match in_url {
            Some(sql) => (sql, body),
            None => (String::from_utf8_lossy(&body).into_owned(), Bytes::new()),
        };
        let pause = self.0.lock().unwrap().rng.random_range(0..20);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let mut state = self.0.lock().unwrap();
        if state.cut {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let insert = insert(&sql, &data);
        let fault = state.fault(insert.as_ref());
        if let Some((table, month, rows)) = &insert {
            state.trace.note(&format!("insert {table} {month} {} {fault:?}", rows.len()));
        }
        match fault {
            Fault::Refused => return Ok(exception("it is planned to fail")),
            Fault::LostBefore => return Err(io::ErrorKind::ConnectionReset.into()),
            Fault::None | Fault::LostAfter => {}
        }
        let answer = match insert {
            Some((table, _, rows)) => {
                state.tables.entry(table).or_default().rows.extend(rows);
                Vec::new()
            }
            None => match state.execute(&sql) {
                Ok(answer) => answer,
                Err(error) => return Ok(exception(&error)),
            },
        };
        if fault == Fault::LostAfter {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(Response::new(Full::new(answer.into())))
    }
}

fn exception(text: &str) -> Response<Full<Bytes>> {
    let body = format!("Code: 999. DB::Exception: {text}");
    Response::builder()
        .status(500)
        .header("X-ClickHouse-Exception-Code", "999")
        .body(Full::from(body))
        .unwrap()
}

/// The `query` parameter.
fn statement(query: &str) -> Option<String> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix("query="))?.replace('+', " ");
    let mut bytes = Vec::new();
    let mut rest = raw.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| std::str::from_utf8(&after[..2]).unwrap());
        bytes.push(escaped.map_or(first, |digits| u8::from_str_radix(digits, 16).unwrap()));
        rest = if first == b'%' { &after[2..] } else { after };
    }
    Some(String::from_utf8(bytes).unwrap())
}

/// Table, month and rows of an INSERT; 0 for a table without months.
fn insert(sql: &str, data: &[u8]) -> Option<(String, i128, Vec<Row>)> {
    let table = sql.strip_prefix("INSERT INTO ")?.split('(').next()?.trim().trim_matches('`').to_owned();
    let (names, rows) = rowbinary::decode(data);
    let rows: Vec<Row> = rows.into_iter().map(|row| names.iter().cloned().zip(row).collect()).collect();
    let months: Vec<i128> = rows.iter().map(|row| month(&table, row)).collect();
    assert!(
        months.windows(2).all(|pair| pair[0] == pair[1]),
        "an INSERT into {table} has one month: {months:?}"
    );
    Some((table, months.first().copied().unwrap_or(0), rows))
}

fn number(word: &str) -> Result<i128, String> {
    word.parse().map_err(|_| format!("not a number: {word}"))
}

fn month(table: &str, row: &Row) -> i128 {
    if !["touches", "conversions"].contains(&table) {
        return 0;
    }
    let at = jiff::Timestamp::from_millisecond(row["time"].number() as i64).unwrap();
    let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
    i128::from(date.year()) * 100 + i128::from(date.month())
}

// === impl State ===

impl State {
    fn fault(&mut self, insert: Option<&(String, i128, Vec<Row>)>) -> Fault {
        if let (Some((table, month, times)), Some((into, of, _))) = (&mut self.closed, insert)
            && table == into
            && month == of
            && *times > 0
        {
            *times -= 1;
            return Fault::Refused;
        }
        if self.rng.random_range(0..100) >= self.failing_percent {
            return Fault::None;
        }
        [Fault::Refused, Fault::LostBefore, Fault::LostAfter][self.rng.random_range(0..3)]
    }

    fn execute(&mut self, sql: &str) -> Result<Vec<u8>, String> {
        let words: Vec<&str> = sql.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|known| *known == word);
            at.and_then(|at| words.get(at + 1)).map_or("", |name| name.trim_matches('`'))
        };
        match words[..] {
            ["CREATE", "DATABASE", ..] => Ok(Vec::new()),
            ["TRUNCATE", ..] => {
                self.trace.note(sql);
                self.tables.entry(after("TABLE").to_owned()).or_default().rows.clear();
                Ok(Vec::new())
            }
            ["DESCRIBE", ..] => Ok(self.describe(after("TABLE"))),
            ["SELECT", ..] => self.select(sql, after("FROM")),
            _ if sql.contains("CREATE TABLE") => {
                let table = self.tables.entry(after("EXISTS").to_owned()).or_default();
                table.columns = rowbinary::columns(sql);
                Ok(Vec::new())
            }
            [
                "ALTER",
                "TABLE",
                table,
                "DELETE",
                "WHERE",
                "part",
                "=",
                part,
                "AND",
                "batch",
                ">",
                batch,
                ..,
            ] => {
                self.trace.note(sql);
                let (part, batch) = (number(part)?, number(batch)?);
                let rows = &mut self.tables.entry(table.to_owned()).or_default().rows;
                rows.retain(|row| row["part"].number() != part || row["batch"].number() <= batch);
                Ok(Vec::new())
            }
            // Of columns and sums that the engine makes by itself.
            _ if sql.contains("ALTER TABLE") => Ok(Vec::new()),
            _ => Err(format!("the model does not know {sql}")),
        }
    }

    fn describe(&self, table: &str) -> Vec<u8> {
        const NAMES: [&str; 7] = [
            "name",
            "type",
            "default_type",
            "default_expression",
            "comment",
            "codec_expression",
            "ttl_expression",
        ];
        let empty = || Value::Text(String::new());
        let row = |(name, kind): &Column| {
            let mut row = vec![Value::Text(name.clone()), Value::Text(kind.clone())];
            row.resize_with(NAMES.len(), empty);
            row
        };
        let rows: Vec<_> =
            self.tables.get(table).map_or_else(Vec::new, |table| table.columns.iter().map(row).collect());
        rowbinary::encode(&NAMES.map(|name| (name, "String")), &rows)
    }

    fn select(&self, sql: &str, from: &str) -> Result<Vec<u8>, String> {
        let rows = self.tables.get(from).map_or(&[][..], |table| &table.rows[..]);
        let plain = |columns: &[(&str, &str)]| {
            let row = |row: &Row| columns.iter().map(|(name, _)| row[*name].clone()).collect();
            rowbinary::encode(columns, &rows.iter().map(row).collect::<Vec<_>>())
        };
        match from {
            "migrations" => Ok(plain(&[("version", "UInt32"), ("name", "String"), ("checksum", "String")])),
            "meta" => Ok(plain(&[("generation", "UInt128")])),
            "progress" => {
                let mut last: BTreeMap<i128, &Row> = BTreeMap::new();
                for row in rows {
                    let known = last.entry(row["part"].number()).or_insert(row);
                    if row["batch"].number() >= known["batch"].number() {
                        *known = row;
                    }
                }
                let columns = [
                    ("part", "UInt32"),
                    ("batch", "UInt64"),
                    ("to_offset", "UInt64"),
                    ("time_micros", "Int64"),
                ];
                let names = ["part", "batch", "to_offset", "time"];
                let rows: Vec<_> =
                    last.values().map(|row| names.map(|name| row[name].clone()).to_vec()).collect();
                Ok(rowbinary::encode(&columns, &rows))
            }
            "touches" | "conversions" | "identities" => {
                let bound = |name: &str| {
                    let rest = sql.split(&format!("{name} = ")).nth(1).unwrap_or_default();
                    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse::<i128>()
                };
                let (Ok(part), Ok(batch)) = (bound("part"), bound("batch")) else {
                    return Err(format!("no partition and batch in {sql}"));
                };
                let mut counts: BTreeMap<i128, i128> = BTreeMap::new();
                for row in rows.iter().filter(|r| r["part"].number() == part && r["batch"].number() == batch)
                {
                    *counts.entry(month(from, row)).or_default() += 1;
                }
                if from == "identities" {
                    counts.entry(0).or_default();
                }
                let rows: Vec<_> =
                    counts.into_iter().map(|(m, n)| vec![Value::Number(m), Value::Number(n)]).collect();
                Ok(rowbinary::encode(&[("month", "UInt32"), ("rows", "UInt64")], &rows))
            }
            other => Err(format!("the model has no table {other}")),
        }
    }
}

/// A connection in memory.
struct Wire(TokioIo<DuplexStream>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

//! One request on the engine, from session to last row. Runs on a thread that may block.
//!
//! Every request has a session of its own, so that settings, database and parameters of one can
//! never be seen by another; opening one costs a third of a millisecond.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::decode::{self, Piece};
use crate::exception::{Exception, code};
use crate::ffi::{Connection, Counts, Engine, Output};
use crate::format::{self, Joining};
use crate::request::Request;
use crate::sql::{self, Statement};

/// The text of a statement without its data, as in ClickHouse's own `max_query_size`.
pub(crate) const QUERY_BYTES_MAX: usize = 256 * 1024;
/// What is handed to the engine at once.
const APPEND_BYTES: usize = 256 * 1024;
/// More rows and bytes than any body can hold, so that the engine makes one block of an insert.
const WHOLE_BODY: &str = "1000000000000";
const DEFAULT_FORMAT: &str = "TabSeparated";

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) body_bytes_max: u64,
    pub(crate) result_bytes_max: u64,
}

/// What is known when the first rows are.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) counts: Counts,
    pub(crate) format: String,
}

/// Where the answer goes.
pub(crate) struct Answer {
    pub(crate) head: oneshot::Sender<Result<Head, Exception>>,
    /// Chunks of the body; an exception ends it.
    pub(crate) chunks: mpsc::Sender<Result<Bytes, Exception>>,
}

/// The statement and, for an `INSERT`, its data.
struct Job<'r> {
    sql: Cow<'r, [u8]>,
    statement: Statement,
    data: Box<dyn Read>,
}

/// Runs `request` and answers it. A client that went away cancels what can be cancelled.
pub(crate) fn run(
    engine: &Engine,
    mut request: Request,
    pieces: mpsc::Receiver<Piece>,
    bounds: Bounds,
    answer: Answer,
) {
    let mut answer = Some(answer);
    if let Err(exception) = try_run(engine, &mut request, pieces, bounds, &mut answer)
        && let Some(answer) = answer
    {
        // The client may be gone; then nobody needs the answer.
        let _ = answer.head.send(Err(exception));
    }
}

fn try_run(
    engine: &Engine,
    request: &mut Request,
    pieces: mpsc::Receiver<Piece>,
    bounds: Bounds,
    answer: &mut Option<Answer>,
) -> Result<(), Exception> {
    let mut body = decode::reader(
        pieces,
        request.encoding.unwrap_or(decode::Encoding::Identity),
        request.compressed_blocks,
        bounds.body_bytes_max,
    )
    .map_err(Exception::from_io)?;
    if let Some(boundary) = request.boundary.take() {
        let form = read_text(&mut *body, 2 * QUERY_BYTES_MAX)?;
        request.set_fields(&boundary, &form)?;
        body = Box::new(std::io::empty());
    }
    let query = std::mem::take(&mut request.query);
    let job = job(&query, body)?;
    let default_format = request.default_format.as_deref().unwrap_or(DEFAULT_FORMAT);
    let connection = engine.connect().map_err(Exception::from_engine)?;
    match job.statement {
        Statement::Insert { head, format, .. } => {
            prepare(&connection, request, None)?;
            let format = format.as_deref().unwrap_or("Values");
            let counts = insert(&connection, &job.sql[..head], format, job.data)?;
            send_whole(answer, counts, default_format, Bytes::new());
        }
        Statement::Select { format } => {
            let format = format.as_deref().unwrap_or(default_format);
            let joining = if streams(request, &job.sql) { format::joining(format) } else { Joining::Never };
            if joining == Joining::Never {
                prepare(&connection, request, Some(bounds.result_bytes_max))?;
                query_whole(&connection, &job.sql, default_format, format, answer)?;
            } else {
                prepare(&connection, request, None)?;
                select(&connection, &job.sql, default_format, format, joining, answer)?;
            }
        }
        Statement::Other { format } => {
            prepare(&connection, request, Some(bounds.result_bytes_max))?;
            let format = format.as_deref().unwrap_or(default_format);
            query_whole(&connection, &job.sql, default_format, format, answer)?;
        }
    }
    Ok(())
}

/// Finds the statement: in the URL, in the body, or begun in the one and ended in the other.
fn job(query: &str, mut body: Box<dyn Read>) -> Result<Job<'_>, Exception> {
    let complete = (!query.trim().is_empty()).then(|| sql::classify(query.as_bytes())).transpose()?;
    if let Some(statement @ Statement::Insert { data, .. }) = complete {
        let inline = query.as_bytes()[data..].to_vec();
        return Ok(Job {
            sql: Cow::Borrowed(query.as_bytes()),
            statement,
            data: Box::new(Cursor::new(inline).chain(body)),
        });
    }
    let mut text = query.as_bytes().to_vec();
    if !text.is_empty() {
        text.push(b'\n');
    }
    let start = text.len();
    text.resize(start + QUERY_BYTES_MAX + 1, 0);
    let read = decode::fill(&mut *body, &mut text[start..]).map_err(Exception::from_io)?;
    text.truncate(start + read);
    let statement = sql::classify(&text)?;
    match statement {
        Statement::Insert { head, data, .. } if head <= QUERY_BYTES_MAX => {
            let inline = text.split_off(data);
            Ok(Job { sql: Cow::Owned(text), statement, data: Box::new(Cursor::new(inline).chain(body)) })
        }
        _ if read <= QUERY_BYTES_MAX => Ok(Job { sql: Cow::Owned(text), statement, data: body }),
        _ => Err(too_large()),
    }
}

fn read_text(body: &mut dyn Read, bytes_max: usize) -> Result<Vec<u8>, Exception> {
    let mut text = Vec::new();
    body.take(bytes_max as u64 + 1).read_to_end(&mut text).map_err(Exception::from_io)?;
    if text.len() > bytes_max {
        return Err(too_large());
    }
    Ok(text)
}

fn too_large() -> Exception {
    Exception::new(
        code::QUERY_IS_TOO_LARGE,
        format_args!("the statement is larger than {QUERY_BYTES_MAX} bytes"),
    )
}

/// Gives the session the settings, parameters and database of the request.
///
/// An insert is made one block: the engine then writes it after its last row, as one part per
/// partition, and a body that breaks before its end leaves nothing behind. With the engine's own
/// block sizes the blocks before the damage are written, some of them after the error was given.
fn prepare(
    connection: &Connection<'_>,
    request: &Request,
    result_bytes_max: Option<u64>,
) -> Result<(), Exception> {
    let mut settings = BTreeMap::from([
        ("async_insert", Cow::Borrowed("0")),
        ("max_insert_block_size", Cow::Borrowed(WHOLE_BODY)),
        ("min_insert_block_size_rows", Cow::Borrowed(WHOLE_BODY)),
        ("min_insert_block_size_bytes", Cow::Borrowed(WHOLE_BODY)),
    ]);
    if let Some(bytes) = result_bytes_max {
        settings.insert("max_result_bytes", Cow::Owned(bytes.to_string()));
    }
    for (name, value) in &request.settings {
        settings.insert(name, Cow::Borrowed(value));
    }
    let mut statement = "SET ".to_owned();
    for (name, value) in &settings {
        statement.push_str(name);
        statement.push('=');
        statement.push_str(&sql::literal(value));
        statement.push(',');
    }
    // After the others, which it would forbid.
    if request.read_only && !request.settings.contains_key("readonly") {
        statement.push_str("readonly='2'");
    }
    let statement = statement.trim_end_matches(',');
    execute(connection, statement)?;
    if let Some(database) = request.database.as_deref().filter(|name| !name.is_empty()) {
        execute(connection, &format!("USE {}", sql::identifier(database)))?;
    }
    Ok(())
}

fn execute(connection: &Connection<'_>, statement: &str) -> Result<(), Exception> {
    connection.query(statement.as_bytes(), "Null").map(drop).map_err(Exception::from_engine)
}

/// Whether nothing in the request changes how rows of a chunk are framed.
fn streams(request: &Request, sql: &[u8]) -> bool {
    const ARRAY: &[u8] = b"json_array_of_rows";
    !request.wait_end
        && !request.settings.keys().any(|name| name.ends_with("json_array_of_rows"))
        && !sql.windows(ARRAY.len()).any(|window| window == ARRAY)
}

fn insert(
    connection: &Connection<'_>,
    sql: &[u8],
    format: &str,
    mut data: Box<dyn Read>,
) -> Result<Counts, Exception> {
    let mut stream = connection.insert(sql, format).map_err(Exception::from_engine)?;
    let mut buffer = vec![0; APPEND_BYTES];
    loop {
        // An error here drops the stream, which cancels the insert.
        let read = decode::fill(&mut *data, &mut buffer).map_err(Exception::from_io)?;
        if read == 0 {
            return stream.finish().map_err(Exception::from_engine);
        }
        if stream.append(&buffer[..read]).is_err() {
            // The engine stopped reading; the end of the insert says why.
            let error = stream.finish().err();
            return Err(Exception::from_engine(
                error.unwrap_or_else(|| "the engine stopped reading the insert".to_owned()),
            ));
        }
    }
}

fn query_whole(
    connection: &Connection<'_>,
    sql: &[u8],
    default_format: &str,
    format: &str,
    answer: &mut Option<Answer>,
) -> Result<(), Exception> {
    let output = connection.query(sql, default_format).map_err(Exception::from_engine)?;
    let (counts, bytes) = (output.counts(), Bytes::copy_from_slice(output.bytes()));
    send_whole(answer, counts, format, bytes);
    Ok(())
}

fn send_whole(answer: &mut Option<Answer>, counts: Counts, format: &str, bytes: Bytes) {
    if let Some(Answer { head, chunks }) = answer.take() {
        let known = Head { counts, format: format.to_owned() };
        if head.send(Ok(known)).is_ok() && !bytes.is_empty() {
            // The client may have gone meanwhile; the result has no other taker.
            let _ = chunks.blocking_send(Ok(bytes));
        }
    }
}

fn select(
    connection: &Connection<'_>,
    sql: &[u8],
    default_format: &str,
    format: &str,
    joining: Joining,
    answer: &mut Option<Answer>,
) -> Result<(), Exception> {
    let mut stream = match connection.stream(sql, default_format) {
        Ok(stream) => stream,
        // Some statements that begin like a query are none.
        Err(error) if error.contains("Streaming query is not supported") => {
            return query_whole(connection, sql, default_format, format, answer);
        }
        Err(error) => return Err(Exception::from_engine(error)),
    };
    let first = stream.next().map_err(Exception::from_engine)?;
    let counts = first.as_ref().map(Output::counts).unwrap_or_default();
    let first = first.map(|output| Bytes::copy_from_slice(output.bytes()));
    let header_bytes = match (joining, &first) {
        (Joining::BinaryHeader, Some(chunk)) => format::binary_header_bytes(chunk).unwrap_or_default(),
        _ => 0,
    };
    let Some(Answer { head, chunks }) = answer.take() else {
        return Ok(());
    };
    let known = Head { counts, format: format.to_owned() };
    if head.send(Ok(known)).is_err() {
        return Ok(());
    }
    let mut next = first;
    while let Some(chunk) = next {
        // The receiver is dropped with the client's connection; dropping the stream cancels.
        if chunks.blocking_send(Ok(chunk)).is_err() {
            return Ok(());
        }
        next = match stream.next() {
            Ok(output) => output.map(|output| {
                Bytes::copy_from_slice(&output.bytes()[header_bytes.min(output.bytes().len())..])
            }),
            Err(error) => {
                let _ = chunks.blocking_send(Err(Exception::from_engine(error)));
                return Ok(());
            }
        };
    }
    Ok(())
}

//! ClickHouse's HTTP interface over the engine: one listener, a bounded number of statements at a
//! time, a bounded number waiting, and a refusal beyond.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Request as HttpRequest, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::decode::Piece;
use crate::exception::{Exception, code};
use crate::ffi::Engine;
use crate::format;
use crate::request::{Credentials, Request};
use crate::run::{self, Answer, Bounds, Head};
use crate::wire::{Flushes, Wire};

/// Bounds of the server, each with its unit in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Statements that run at the same time.
    pub running_queries_max: usize,
    /// Statements that wait for their turn; the next one is refused with 503.
    pub waiting_queries_max: usize,
    /// Open connections; more wait to be accepted.
    pub http_connections_max: usize,
    /// One request's body, decoded.
    pub body_bytes_max: u64,
    /// A result that cannot be sent in chunks (JSON, Parquet, …), before formatting.
    pub result_bytes_max: u64,
    /// A body that stands still this long is given up, and its insert cancelled.
    pub body_idle_seconds_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            running_queries_max: 4,
            waiting_queries_max: 64,
            http_connections_max: 256,
            body_bytes_max: 1 << 30,
            result_bytes_max: 1 << 29,
            body_idle_seconds_max: 30,
        }
    }
}

/// After an early refusal, how much of the body is still read so that the client sees the answer.
const DRAIN_BYTES_MAX: usize = 64 << 20;
const DRAIN_SECONDS_MAX: u64 = 5;
const HEADER_SECONDS_MAX: u64 = 30;

/// The engine and everything the requests share.
pub(crate) struct Server {
    engine: Arc<Engine>,
    credentials: Credentials,
    version: String,
    pub(crate) limits: Limits,
    /// Running and waiting statements together.
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

type Reply = Response<ReplyBody>;

/// The body of an answer.
pub(crate) struct ReplyBody {
    source: Source,
    version: Option<Arc<Server>>,
    tag: String,
    flushes: Arc<Flushes>,
}

enum Source {
    Whole(Option<Bytes>),
    Chunks(mpsc::Receiver<Result<Bytes, Exception>>),
    /// The exception was written and must reach the wire before the connection is cut.
    Broken {
        since: u64,
    },
}

// === impl Server ===

impl Server {
    pub(crate) fn new(
        engine: Arc<Engine>,
        credentials: Credentials,
        version: String,
        limits: Limits,
    ) -> Self {
        Self {
            engine,
            credentials,
            version,
            limits,
            admitted: Arc::new(Semaphore::new(limits.running_queries_max + limits.waiting_queries_max)),
            running: Arc::new(Semaphore::new(limits.running_queries_max)),
        }
    }

    /// Serves until `stop` completes, then lets open requests end.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(self.limits.http_connections_max));
        let mut tasks = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let accepted = async {
                let permit = Arc::clone(&connections).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, stream) = tokio::select! {
                () = &mut stop => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                (permit, accepted) = accepted => match accepted {
                    Ok((stream, _)) => (permit, stream),
                    Err(_) => {
                        // Out of descriptors: give the others time to free some.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            // An answer must not wait for more bytes to travel with.
            let _ = stream.set_nodelay(true);
            let server = Arc::clone(&self);
            let flushes = Arc::new(Flushes::default());
            let wire = Wire { stream, flushes: Arc::clone(&flushes) };
            let service = service_fn(move |request| {
                let (server, flushes) = (Arc::clone(&server), Arc::clone(&flushes));
                async move {
                    let mut reply = server.answer(request).await;
                    reply.body_mut().flushes = flushes;
                    Ok::<_, Infallible>(reply)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(HEADER_SECONDS_MAX))
                .serve_connection(TokioIo::new(wire), service);
            let connection = graceful.watch(connection);
            tasks.spawn(async move {
                // A broken connection is the client's matter.
                let _ = connection.await;
                drop(permit);
            });
        }
        drop(listener);
        graceful.shutdown().await;
        while tasks.join_next().await.is_some() {}
    }

    async fn answer(self: Arc<Self>, request: HttpRequest<Incoming>) -> Reply {
        let bare_root = request.uri().path() == "/" && request.uri().query().is_none();
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/ping" | "/replicas_status") => return ok(),
            (&Method::GET | &Method::HEAD, _) if bare_root => return ok(),
            (&Method::GET | &Method::POST, "/") => {}
            (_, "/") => return plain(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST\n"),
            (_, path) => {
                let text = format!("There is no handle {path}\n\nUse / or /ping.\n");
                return plain(StatusCode::NOT_FOUND, text);
            }
        }
        let (parts, mut body) = request.into_parts();
        let url_query = parts.uri.query().unwrap_or_default();
        let read_only = parts.method == Method::GET;
        let id = random_id();
        let read = self
            .credentials
            .check(url_query, &parts.headers)
            .and_then(|()| Request::read(url_query, &parts.headers, read_only, id.clone()));
        let (query_id, result) = match read {
            Ok(request) => {
                let query_id = request.query_id.clone();
                (query_id, self.execute(request, &mut body).await)
            }
            Err(exception) => (id, Err(exception)),
        };
        let mut reply = match result {
            Ok(reply) => reply,
            Err(exception) => {
                drain(&mut body).await;
                self.refusal(&exception)
            }
        };
        set(&mut reply, "x-clickhouse-query-id", &query_id);
        set(&mut reply, "x-clickhouse-server-display-name", "attribution");
        set(&mut reply, "x-clickhouse-timezone", "UTC");
        reply
    }

    async fn execute(self: &Arc<Self>, request: Request, body: &mut Incoming) -> Result<Reply, Exception> {
        let Ok(admitted) = Arc::clone(&self.admitted).try_acquire_owned() else {
            return Err(Exception::new(
                code::TOO_MANY_SIMULTANEOUS_QUERIES,
                format_args!(
                    "Too many simultaneous queries: {} run and {} wait, try again later",
                    self.limits.running_queries_max, self.limits.waiting_queries_max
                ),
            ));
        };
        let Ok(turn) = Arc::clone(&self.running).acquire_owned().await else {
            return Err(Exception::new(code::LOGICAL_ERROR, "the server is stopping"));
        };
        let started = std::time::Instant::now();
        let (piece_sender, pieces) = mpsc::channel(4);
        let (head_sender, mut head) = oneshot::channel();
        let (chunk_sender, chunks) = mpsc::channel(2);
        let server = Arc::clone(self);
        let bounds = Bounds {
            body_bytes_max: self.limits.body_bytes_max,
            result_bytes_max: self.limits.result_bytes_max,
        };
        // Detached on purpose: it ends with its channels, and holds its turn until then.
        drop(tokio::task::spawn_blocking(move || {
            let answer = Answer { head: head_sender, chunks: chunk_sender };
            run::run(&server.engine, request, pieces, bounds, answer);
            drop((admitted, turn));
        }));
        let idle = Duration::from_secs(self.limits.body_idle_seconds_max);
        let head = {
            let mut pump = pin!(pump(body, piece_sender, idle));
            let mut pumped = false;
            loop {
                tokio::select! {
                    head = &mut head => break head,
                    () = &mut pump, if !pumped => pumped = true,
                }
            }
        };
        match head {
            Ok(Ok(head)) => Ok(self.rows(&head, chunks, started.elapsed())),
            Ok(Err(exception)) => Err(exception),
            Err(_) => Err(Exception::new(code::LOGICAL_ERROR, "the statement was not run to its end")),
        }
    }

    fn rows(
        self: &Arc<Self>,
        head: &Head,
        chunks: mpsc::Receiver<Result<Bytes, Exception>>,
        elapsed: Duration,
    ) -> Reply {
        let counts = head.counts;
        let summary = format!(
            "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\"total_rows_to_read\":\"0\",\"result_rows\":\"{}\",\"result_bytes\":\"{}\",\"elapsed_ns\":\"{}\"}}",
            counts.read_rows,
            counts.read_bytes,
            counts.written_rows,
            counts.written_bytes,
            counts.result_rows,
            counts.result_bytes,
            elapsed.as_nanos(),
        );
        let tag: String = random_id().chars().filter(char::is_ascii_hexdigit).take(16).collect();
        let mut reply = Response::new(ReplyBody {
            source: Source::Chunks(chunks),
            version: Some(Arc::clone(self)),
            tag: tag.clone(),
            flushes: Arc::default(),
        });
        set(&mut reply, CONTENT_TYPE.as_str(), format::content_type(&head.format));
        set(&mut reply, "x-clickhouse-summary", &summary);
        set(&mut reply, "x-clickhouse-format", &head.format);
        set(&mut reply, "x-clickhouse-exception-tag", &tag);
        reply
    }

    fn refusal(&self, exception: &Exception) -> Reply {
        let status = exception.status();
        let mut reply = plain(status, exception.text(&self.version));
        set(&mut reply, "x-clickhouse-exception-code", &exception.code.to_string());
        if status == StatusCode::UNAUTHORIZED {
            set(&mut reply, WWW_AUTHENTICATE.as_str(), "Basic realm=\"ClickHouse server HTTP API\"");
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            set(&mut reply, RETRY_AFTER.as_str(), "1");
        }
        reply
    }
}

// === impl ReplyBody ===

impl ReplyBody {
    /// The end of a result that broke, in the form clients of ClickHouse look for.
    fn exception_frame(&self, exception: &Exception) -> Bytes {
        let version = self.version.as_ref().map_or("", |server| &server.version);
        let (tag, text) = (&self.tag, exception.text(version));
        Bytes::from(format!("\r\n__exception__\r\n{tag}\r\n{text}{} {tag}\r\n__exception__\r\n", text.len()))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        match &mut this.source {
            Source::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Chunks(chunks) => match chunks.poll_recv(context) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Poll::Ready(Some(Err(exception))) => {
                    let frame = this.exception_frame(&exception);
                    this.source = Source::Broken { since: this.flushes.count() };
                    Poll::Ready(Some(Ok(Frame::data(frame))))
                }
            },
            Source::Broken { since } => this
                .flushes
                .poll_past(*since, context)
                .map(|()| Some(Err(std::io::Error::other("the query failed half-way")))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            _ => SizeHint::default(),
        }
    }
}

// === helpers ===

/// An answer of plain text.
pub(crate) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(ReplyBody {
        source: Source::Whole(Some(text.into())),
        version: None,
        tag: String::new(),
        flushes: Arc::default(),
    });
    *reply.status_mut() = status;
    set(&mut reply, CONTENT_TYPE.as_str(), "text/plain; charset=UTF-8");
    reply
}

/// Sets a header; a value that cannot be one (a query id with a line break) is left out.
pub(crate) fn set(reply: &mut Reply, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

fn ok() -> Reply {
    plain(StatusCode::OK, "Ok.\n")
}

/// Hands the body to the engine's thread, and its end or failure.
async fn pump(body: &mut Incoming, pieces: mpsc::Sender<Piece>, idle: Duration) {
    loop {
        let piece = match tokio::time::timeout(idle, body.frame()).await {
            Ok(None) => Piece::End,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Piece::Data(data),
                Err(_) => continue,
            },
            Ok(Some(Err(error))) => Piece::Failed(Exception::new(
                code::CANNOT_READ_ALL_DATA,
                format_args!("the body broke off: {error}"),
            )),
            Err(_) => Piece::Failed(Exception::new(
                code::CANNOT_READ_ALL_DATA,
                format_args!("no byte of the body came for {} s", idle.as_secs()),
            )),
        };
        let last = !matches!(piece, Piece::Data(_));
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// Reads what is left of a body, within bounds.
async fn drain(body: &mut Incoming) {
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DRAIN_BYTES_MAX {
                return;
            }
        }
    };
    // A client that is slower than this sees its connection closed instead of the answer.
    let _ = tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), all).await;
}

/// A random id in the form of a UUID, as ClickHouse gives its queries.
fn random_id() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

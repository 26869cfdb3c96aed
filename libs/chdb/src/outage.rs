//! The answer on the child's port while the child is away: 503 with `Retry-After`, at once.
//!
//! Without it a client would hang in the listening socket's queue until the child is back.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const CONNECTIONS_MAX: usize = 64;
const CONNECTION_SECONDS_MAX: u64 = 2;

/// Answers until it is dropped. Connections in `open` are served on by whoever polls it later.
pub(crate) async fn answer(listener: &TcpListener, open: &mut JoinSet<()>) -> Infallible {
    loop {
        tokio::select! {
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    open.spawn(async move {
                        let connection = hyper::server::conn::http1::Builder::new()
                            .timer(TokioTimer::new())
                            .keep_alive(false)
                            .serve_connection(TokioIo::new(stream), service_fn(refuse));
                        // A client that does not finish its request in time is cut off.
                        let _ = tokio::time::timeout(
                            Duration::from_secs(CONNECTION_SECONDS_MAX),
                            connection,
                        )
                        .await;
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn refuse(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = "Code: 210. DB::NetException: the warehouse process is starting, try again shortly. (NETWORK_ERROR)\n";
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert("x-clickhouse-exception-code", HeaderValue::from_static("210"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    Ok(response)
}

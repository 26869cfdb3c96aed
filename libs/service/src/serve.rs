//! Serves routes on listeners until the shutdown, then drains.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use crate::{
    Front, Tls, activity::Activity, auth::RemoteAddress, layers::unknown_route, limits::Limits,
    linger::Lingering, operations, task,
};

/// The bytes of a read buffer of an HTTP/1 connection, and so of a request head.
const HTTP1_BUFFER_BYTES: usize = 128 * 1024;

/// The HTTP/2 windows, bytes: large enough that a batch does not wait for a round trip.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Connections of the operations listener; it is to answer however many the public one has.
const OPERATIONS_CONNECTIONS_MAX: usize = 64;

/// How long accepting rests after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often the samples of histograms are folded.
const UPKEEP: Duration = Duration::from_secs(1);

/// Bound listeners; binding is the caller's, so that port 0 and inherited sockets work.
pub struct Listeners {
    /// gRPC and REST.
    pub public: TcpListener,
    /// Metrics and health, always plain; absent: not served.
    pub operations: Option<TcpListener>,
    /// For the public listener; absent: plain, HTTP/1.1 and h2c.
    pub tls: Option<Tls>,
}

/// Serves mounted routes, health, reflection and metrics until the shutdown, under the settings in force; then stops
/// accepting, lets requests end for at most `drain_seconds_max`, and cuts what is left.
///
/// Streams without an end do not end by themselves: handlers of such should watch the shutdown too.
///
/// # Errors
/// A listener whose address cannot be told.
pub async fn serve(
    listeners: Listeners,
    front: &Front,
    mounted: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let process = front.health().register("process", "accepting");
    let public_address = listeners.public.local_addr()?;
    let open =
        operations::health(front.health()).merge(operations::grpc(front.health())).fallback(unknown_route);
    let public = mounted.merge(front.mount_open("operations", open));

    let cut = CancellationToken::new();
    let connections = TaskTracker::new();
    let acceptor = |listener, router: Router, tls, connections_max| Acceptor {
        listener,
        router: router.with_state(()),
        tls,
        limits: Arc::new(front.limits().clone()),
        builder: Arc::new(protocols(front.limits())),
        slots: Arc::new(Semaphore::new(connections_max)),
        connections: connections.clone(),
        shutdown: shutdown.clone(),
        cut: cut.clone(),
    };
    let mut background = Vec::new();
    if let Some(tls) = &listeners.tls {
        background.push(task::spawn("tls files", tls.clone().watch(shutdown.clone())));
    }
    background.push(task::spawn("metrics upkeep", upkeep(shutdown.clone())));
    background.push(task::spawn("settings", front.settings().clone().watch(shutdown.clone())));
    let mut operations_address = None;
    if let Some(listener) = listeners.operations {
        operations_address = Some(tracing::field::display(listener.local_addr()?));
        let routes = operations::health(front.health()).merge(operations::metrics()).fallback(unknown_route);
        let operations = acceptor(
            listener,
            front.mount_open("operations", routes),
            None,
            OPERATIONS_CONNECTIONS_MAX.min(share_of_files(1, 8)),
        );
        background.push(task::spawn("accept operations", operations.run()));
    }
    let connections_max = front.limits().connections_max.min(share_of_files(3, 4));
    if connections_max < front.limits().connections_max {
        tracing::warn!(connections_max, "fewer connections than configured: raise the limit of open files");
    }
    let accept =
        task::spawn("accept", acceptor(listeners.public, public, listeners.tls, connections_max).run());
    process.ready();
    tracing::info!(address = %public_address, operations = operations_address, "listening");

    shutdown.cancelled().await;
    process.not_ready("shutting down");
    tracing::info!(connections = connections.len(), "draining");
    for task in background.into_iter().chain([accept]) {
        // A panic in one was logged by its name.
        let _ = task.await;
    }
    connections.close();
    if timeout(front.limits().drain(), connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cut after the drain limit");
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

struct Acceptor {
    listener: TcpListener,
    router: Router,
    tls: Option<Tls>,
    limits: Arc<Limits>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    shutdown: CancellationToken,
    cut: CancellationToken,
}

impl Acceptor {
    async fn run(self) {
        let mut failing = false;
        while let Some(accepted) = self.shutdown.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((stream, address)) => {
                    failing = false;
                    self.accept(stream, address);
                }
                // Of the peer alone: it has gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot accept connections; trying on");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept(&self, stream: TcpStream, address: SocketAddr) {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            tracing::debug!(%address, "closed: too many connections");
            return;
        };
        // Answers are written whole; waiting for more to send would only delay them.
        let _ = stream.set_nodelay(true);
        let tls = self.tls.as_ref().map(Tls::acceptor);
        let connection = Connection {
            router: self.router.clone(),
            address,
            limits: self.limits.clone(),
            builder: self.builder.clone(),
            shutdown: self.shutdown.clone(),
        };
        let header_read = self.limits.header_read();
        let work = async move {
            match tls {
                None => connection.run(stream).await,
                Some(tls) => match timeout(header_read, tls.accept(stream)).await {
                    Ok(Ok(stream)) => connection.run(stream).await,
                    Ok(Err(error)) => tracing::debug!(%address, %error, "no TLS"),
                    Err(_) => tracing::debug!(%address, "the TLS handshake took too long"),
                },
            }
            drop(slot);
        };
        let cut = self.cut.clone();
        self.connections.spawn(async move { cut.run_until_cancelled(work).await });
    }
}

struct Connection {
    router: Router,
    address: SocketAddr,
    limits: Arc<Limits>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let Self { router, address, limits, builder, shutdown } = self;
        let activity = Arc::new(Activity::default());
        let remote = RemoteAddress(address.ip());
        let patience = limits.header_read();
        let service = {
            let activity = activity.clone();
            service_fn(move |mut request: Request<Incoming>| {
                let active = activity.begin();
                request.extensions_mut().insert(remote);
                let answer = router.clone().call(request_body(request, patience));
                async move { answer.await.map(|answer| answer.map(|body| active.until_read(body))) }
            })
        };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        // Whoever connects and asks nothing holds a slot that others could use.
        let mut patience = pin!(tokio::time::sleep(limits.header_read()));
        let mut draining = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%address, %error, "connection ended");
                    }
                    return;
                }
                () = &mut patience => match activity.idle_again_at(Instant::now(), limits.idle()) {
                    Some(moment) => patience.as_mut().reset(moment),
                    None if draining => {
                        tracing::debug!(%address, "closed: no request came");
                        return;
                    }
                    // A request that is under way meets a goodbye and not a cut.
                    None => {
                        draining = true;
                        connection.as_mut().graceful_shutdown();
                        patience.as_mut().reset(Instant::now() + limits.header_read());
                    }
                },
                () = shutdown.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Over HTTP/1 a client that has not sent all is heard out. One that waits to be asked for its body is not asked, and
/// HTTP/2 ends a single stream.
fn request_body(request: Request<Incoming>, patience: Duration) -> Request<Body> {
    let linger = request.version() < Version::HTTP_2 && !request.headers().contains_key(header::EXPECT);
    request.map(|body| if linger { Body::new(Lingering::new(body, patience)) } else { Body::new(body) })
}

fn protocols(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read())
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams_max)
        .max_pending_accept_reset_streams(limits.http2_pending_resets_max)
        .max_local_error_reset_streams(limits.http2_error_resets_max)
        .max_header_list_size(limits.http2_header_bytes_max)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(Duration::from_secs(limits.http2_ping_seconds))
        .keep_alive_timeout(limits.header_read());
    builder
}

/// A part of the files that this process may open.
fn share_of_files(numerator: usize, denominator: usize) -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(Semaphore::MAX_PERMITS);
    (files / denominator * numerator).clamp(1, Semaphore::MAX_PERMITS)
}

async fn upkeep(shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        telemetry::metrics::upkeep();
    }
}

//! Calls between services over the network: to real servers in this process, found by name.

#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use proto::decisions::{
    DecideRequest, DecideResponse, GetDecisionRequest, GetDecisionResponse, GetProgressRequest,
    GetProgressResponse, StreamDecisionsRequest, StreamDecisionsResponse,
    attribution_service_client::AttributionServiceClient,
    attribution_service_server::{AttributionService, AttributionServiceServer},
};
use service::{Caller, Front, Limits, Listeners, Peer, PeerConfig, Scope, Secret, SettingsHandle};
use telemetry::health::Health;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, service::Routes};

mod support;

const PEER_KEY: &str = "key-between-services";

/// Counts its calls, and fails those that it is told to.
#[derive(Default)]
struct Attribution {
    calls: AtomicU32,
    unavailable: AtomicU32,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AttributionService for Attribution {
    type StreamDecisionsStream = tokio_stream::Pending<Result<StreamDecisionsResponse, Status>>;

    async fn get_progress(&self, request: Request<GetProgressRequest>) -> Answer<GetProgressResponse> {
        let caller = Caller::of(request.extensions())?;
        caller.require(Scope::Read)?;
        assert!(caller.require(Scope::Ingest).is_err(), "a peer reads");
        assert_eq!(&**caller.tenant_name(), "acme");
        self.calls.fetch_add(1, Ordering::Relaxed);
        let fail = self.unavailable.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if fail.is_ok() {
            return Err(Status::unavailable("told to"));
        }
        if request.get_ref().wait_for.is_some() {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(GetProgressResponse::default()))
    }

    async fn decide(&self, _: Request<DecideRequest>) -> Answer<DecideResponse> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Err(Status::unavailable("never"))
    }

    async fn get_decision(&self, _: Request<GetDecisionRequest>) -> Answer<GetDecisionResponse> {
        Err(Status::unimplemented(""))
    }

    async fn stream_decisions(
        &self,
        _: Request<StreamDecisionsRequest>,
    ) -> Answer<Self::StreamDecisionsStream> {
        Err(Status::unimplemented(""))
    }
}

struct Server {
    attribution: Arc<Attribution>,
    address: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
    _data: tempfile::TempDir,
}

impl Server {
    async fn at(address: impl tokio::net::ToSocketAddrs) -> Self {
        telemetry::metrics::install().unwrap();
        let data = tempfile::tempdir().unwrap();
        std::fs::write(data.path().join("settings.toml"), support::settings_text()).unwrap();
        let settings = SettingsHandle::open(data.path()).unwrap();
        let key = Secret::new(PEER_KEY);
        let front = Front::for_peers(settings, Limits::default(), Health::default(), Some(&key));
        let attribution = Arc::new(Attribution::default());
        let routes = Routes::new(AttributionServiceServer::from_arc(Arc::clone(&attribution)));
        let mounted = front.mount("attribution", service::grpc_routes(routes));
        let public = TcpListener::bind(address).await.unwrap();
        let address = public.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = service::task::spawn("serve", {
            let (listeners, shutdown) = (Listeners { public, operations: None, tls: None }, shutdown.clone());
            async move { service::serve(listeners, &front, mounted, shutdown).await }
        });
        Self { attribution, address, shutdown, served, _data: data }
    }

    fn calls(&self) -> u32 {
        self.attribution.calls.load(Ordering::Relaxed)
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap().unwrap();
    }
}

fn peer(url: &str, key: &str, timeout_millis: u64) -> AttributionServiceClient<Peer> {
    let config = PeerConfig { key: Some(Secret::new(key)), timeout_millis, ..PeerConfig::at(url) };
    let peer = Peer::connect(&config, |path| path.ends_with("/GetProgress")).unwrap();
    AttributionServiceClient::new(peer.for_tenant("acme"))
}

async fn progress(client: &mut AttributionServiceClient<Peer>) -> Result<(), Status> {
    client.get_progress(GetProgressRequest::default()).await.map(drop)
}

#[tokio::test]
async fn a_peer_is_known_by_its_key_and_reads_for_a_tenant() {
    let server = Server::at("127.0.0.1:0").await;
    let url = format!("http://{}", server.address);
    progress(&mut peer(&url, PEER_KEY, 30_000)).await.unwrap();
    let refused = progress(&mut peer(&url, "another", 30_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    server.stop().await;
}

#[tokio::test]
async fn what_may_be_repeated_is_sent_again_and_nothing_else_is() {
    let server = Server::at("127.0.0.1:0").await;
    let mut client = peer(&format!("http://{}", server.address), PEER_KEY, 30_000);
    server.attribution.unavailable.store(2, Ordering::Relaxed);
    progress(&mut client).await.unwrap();
    assert_eq!(server.calls(), 3);
    // Three times unavailable is once too often.
    server.attribution.unavailable.store(3, Ordering::Relaxed);
    assert_eq!(progress(&mut client).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.calls(), 6);
    let refused = client.decide(DecideRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), server.calls()), (Code::Unavailable, 7));
    server.stop().await;
}

#[tokio::test]
async fn retries_end_with_their_budget() {
    let server = Server::at("127.0.0.1:0").await;
    let mut client = peer(&format!("http://{}", server.address), PEER_KEY, 30_000);
    server.attribution.unavailable.store(1_000, Ordering::Relaxed);
    for _ in 0..50 {
        progress(&mut client).await.unwrap_err();
    }
    // Without a budget there would be 150; ten are free in ten seconds, and no call succeeded that would add to them.
    assert!((60..=75).contains(&server.calls()), "{}", server.calls());
    server.stop().await;
}

#[tokio::test]
async fn a_call_ends_with_its_patience() {
    let server = Server::at("127.0.0.1:0").await;
    let mut client = peer(&format!("http://{}", server.address), PEER_KEY, 200);
    let wait_for = Some(prost_types::Timestamp::default());
    let late = client.get_progress(GetProgressRequest { wait_for }).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_comes_later_or_comes_back_is_found() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut client = peer(&format!("http://{address}"), PEER_KEY, 1_000);
    progress(&mut client).await.unwrap_err();
    for _ in 0..2 {
        let server = Server::at(address).await;
        let found = async {
            while progress(&mut client).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), found).await.expect("it is found");
        server.stop().await;
        progress(&mut client).await.unwrap_err();
    }
}

#[tokio::test]
async fn an_address_that_is_no_name_is_refused() {
    for url in ["", "localhost:80", "https://a", "ftp://a"] {
        assert!(Peer::connect(&PeerConfig::at(url), |_| false).is_err(), "{url}");
    }
}

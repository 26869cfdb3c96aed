//! One address for the services of a cluster, as the API gateway in front of them gives it: by path, and nothing else.

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, Uri, header, uri::PathAndQuery},
    response::{IntoResponse, Response},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, task::JoinSet};

/// Addresses (`host:port`) of the services.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// Of `/v1/events`, and of its gRPC service.
    pub ingestion: String,
    /// Of its gRPC service.
    pub attribution: String,
    /// Of everything else.
    pub query: String,
}

/// It ends with this value.
pub struct Gateway {
    address: String,
    _serving: JoinSet<()>,
}

impl Gateway {
    /// Serves HTTP/1.1 and gRPC without TLS on a free port.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(upstreams: Upstreams) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port").to_string();
        let rest = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let grpc = Client::builder(TokioExecutor::new()).http2_only(true).build(HttpConnector::new());
        let router = Router::new().fallback(move |request| {
            let (rest, grpc) = (rest.clone(), grpc.clone());
            let upstreams = upstreams.clone();
            async move {
                let is_grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
                let grpc_call = Request::headers(&request).get(header::CONTENT_TYPE).is_some_and(is_grpc);
                forward(&upstreams, if grpc_call { &grpc } else { &rest }, request).await
            }
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // It never ends by itself.
            let _ = axum::serve(listener, router).await;
        });
        Self { address, _serving: serving }
    }

    /// `http://…` without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn forward(
    upstreams: &Upstreams,
    client: &Client<HttpConnector, Body>,
    mut request: Request,
) -> Response {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    let upstream = if path.starts_with("/v1/events") || path.starts_with("/attribution.ingestion.v1.") {
        &upstreams.ingestion
    } else if path.starts_with("/attribution.attribution.v1.") {
        &upstreams.attribution
    } else {
        &upstreams.query
    };
    match Uri::try_from(format!("http://{upstream}{path}")) {
        Ok(uri) => *request.uri_mut() = uri,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
    match client.request(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

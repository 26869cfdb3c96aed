//! A client without opinions: both protocols, any header, any source address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::body::Body;
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::platform::PATIENCE;

#[derive(Clone)]
pub(crate) struct Client {
    http1: legacy::Client<HttpConnector, Body>,
    http2: legacy::Client<HttpConnector, Body>,
    address: SocketAddr,
}

/// An answer that was read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl Client {
    /// From 127.0.0.`host`, so that failures of one test do not limit another part of it.
    pub(crate) fn new(address: SocketAddr, host: u8) -> Self {
        let build = |http2| {
            let mut connector = HttpConnector::new();
            connector.set_local_address(Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host))));
            legacy::Client::builder(TokioExecutor::new()).http2_only(http2).build(connector)
        };
        Self { http1: build(false), http2: build(true), address }
    }

    pub(crate) async fn send(&self, http2: bool, request: http::request::Builder, body: Vec<u8>) -> Answer {
        self.try_send(http2, request, body).await.unwrap()
    }

    pub(crate) async fn try_send(
        &self,
        http2: bool,
        request: http::request::Builder,
        body: Vec<u8>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let client = if http2 { &self.http2 } else { &self.http1 };
        let answer = async {
            let response = client.request(request.body(Body::from(body))?).await?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            let body = body.to_bytes().to_vec();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
        };
        tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")
    }

    /// Sends a body as it comes; the status of the answer.
    pub(crate) fn stream(&self, request: http::request::Builder, body: Body) -> JoinHandle<u16> {
        let answer = self.http2.request(request.body(body).unwrap());
        service::task::spawn("stream", async move { answer.await.unwrap().status().as_u16() })
    }

    pub(crate) fn request(&self, method: &str, path: &str, key: Option<&str>) -> http::request::Builder {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        match key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str, key: Option<&str>) -> Answer {
        self.send(false, self.request("GET", path, key), Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> Answer {
        let request = self.request("POST", path, key).header("content-type", "application/json");
        self.send(false, request, body.to_string().into_bytes()).await
    }

    /// One message to a gRPC method, answered to the end.
    pub(crate) async fn grpc(&self, path: &str, key: Option<&str>, message: &[u8]) -> Answer {
        let request = self.request("POST", path, key);
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        self.send(true, request.header("x-request-id", "same"), frame(message)).await
    }

    /// How many conversions of January 2026 a tenant has, of everything acknowledged.
    pub(crate) async fn conversions(&self, key: &str) -> f64 {
        let question = json!({"from": "2026-01-01", "to": "2026-02-01", "models": ["last_touch"]});
        let report = self.post("/v1/reports?consistency=acknowledged", Some(key), &question).await;
        assert_eq!(report.status, 200, "{}", report.text());
        report.json()["totals"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["conversions"].as_f64().unwrap())
            .sum()
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The gRPC status, wherever it stands.
    pub(crate) fn grpc_code(&self) -> i32 {
        let code = self.headers.get("grpc-status").or_else(|| self.trailers.get("grpc-status"));
        code.unwrap_or_else(|| panic!("no grpc-status in {self:?}")).to_str().unwrap().parse().unwrap()
    }

    /// Everything that was said, to be searched.
    pub(crate) fn everything(&self) -> Vec<u8> {
        [self.body.clone(), format!("{:?}{:?}", self.headers, self.trailers).into_bytes()].concat()
    }
}

/// A message as gRPC frames it.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// Conversions of January 2026 with these ids.
pub(crate) fn conversions(ids: impl Iterator<Item = String>) -> Value {
    let event = |id: String| json!({"event_id": id, "event_type": "conversion", "timestamp": "2026-01-05T11:00:00Z", "user_id": id});
    Value::Array(ids.map(event).collect())
}

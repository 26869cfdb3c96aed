//! The load over gRPC: encoded requests handed on as they are.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::Endpoint,
};

use crate::{
    events::{Ids, Template},
    measure::Latencies,
    wire::Loaded,
};

const INGEST: &str = "/attribution.ingestion.v1.IngestionService/IngestEvents";

/// Messages as bytes.
#[derive(Debug, Default)]
pub(crate) struct Raw;

// === impl Raw ===

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Calls a method once with a message that is encoded already.
pub(crate) async fn call(
    grpc: &mut Grpc<tonic::transport::Channel>,
    key: &str,
    path: &'static str,
    message: Bytes,
) -> Result<Bytes> {
    grpc.ready().await?;
    let mut request = Request::new(message);
    let bearer: MetadataValue<_> = format!("Bearer {key}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    Ok(grpc.unary(request, PathAndQuery::from_static(path), Raw).await?.into_inner())
}

/// A connection.
pub(crate) async fn connect(address: SocketAddr) -> Result<Grpc<tonic::transport::Channel>> {
    Ok(Grpc::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?))
}

/// Sends batches over so many connections, with so many calls under way on each, for a time.
pub(crate) async fn load(
    address: SocketAddr,
    key: &str,
    template: &Template,
    ids: &Arc<Ids>,
    connections: usize,
    calls: usize,
    time: Duration,
) -> Result<Loaded> {
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let grpc = connect(address).await?;
        for _ in 0..calls {
            let (mut grpc, key, ids) = (grpc.clone(), key.to_owned(), Arc::clone(ids));
            let mut template = template.clone();
            workers.spawn(async move {
                let (mut requests, mut latencies) = (0, Latencies::new()?);
                while began.elapsed() < time {
                    let message = Bytes::copy_from_slice(template.fill(&ids));
                    let sent = Instant::now();
                    call(&mut grpc, &key, INGEST, message).await?;
                    latencies.record(sent.elapsed());
                    requests += 1;
                }
                anyhow::Ok((requests, latencies))
            });
        }
    }
    let mut loaded = Loaded { requests: 0, events: 0, seconds: 0.0, latencies: Latencies::new()? };
    while let Some(outcome) = workers.join_next().await {
        let (requests, latencies) = outcome??;
        loaded.requests += requests;
        loaded.latencies.add(&latencies)?;
    }
    loaded.seconds = began.elapsed().as_secs_f64();
    loaded.events = loaded.requests * template.events() as u64;
    Ok(loaded)
}

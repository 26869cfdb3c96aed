//! A collector of traces: it receives real OTLP over gRPC and keeps it.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A running collector; it stops when it is dropped.
pub struct Collector {
    endpoint: String,
    received: Received,
    _serving: JoinSet<Result<(), tonic::transport::Error>>,
}

#[derive(Default, Clone)]
struct Received(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

// === impl Collector ===

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// There is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let received = Received::default();
        let serve = Server::builder()
            .add_service(TraceServiceServer::new(received.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        Self { endpoint, received, _serving: JoinSet::from_iter([serve]) }
    }

    /// Where it takes traces.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Everything it was sent.
    ///
    /// # Panics
    /// Receiving did.
    pub fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.received.0.lock().expect("no panic before").clone()
    }

    /// The spans in it.
    pub fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().expect("no panic before").push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

//! A server of the Open Inference Protocol that does as it is told: it answers, fails in every way, or holds its answers.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    model_infer_response::InferOutputTensor,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::{Models, manifest};

/// What it answers for every row.
pub(crate) const SCORE: f32 = 0.75;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mood {
    Good,
    NaN,
    /// NaN for a row whose first feature has this value.
    NaNFor(f32),
    OutOfRange,
    TooFewRows,
    OtherOutput,
    OtherType,
    Away,
    /// Answers when the mood is another one.
    Holds,
    Hangs,
}

#[derive(Clone)]
pub(crate) struct ModelServer {
    mood: Arc<watch::Sender<Mood>>,
    /// The rows of every run, in order.
    runs: Arc<Mutex<Vec<usize>>>,
    working: Arc<AtomicUsize>,
    working_most: Arc<AtomicUsize>,
}

struct Working<'a>(&'a AtomicUsize);

#[tonic::async_trait]
impl GrpcInferenceService for ModelServer {
    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let input = &request.get_ref().inputs[0];
        let (mut rows, width) = (input.shape[0], input.shape[1] as usize);
        let features = &input.contents.as_ref().unwrap().fp32_contents;
        self.runs.lock().push(rows as usize);
        let working = self.working.fetch_add(1, Ordering::SeqCst) + 1;
        let _working = Working(&self.working);
        self.working_most.fetch_max(working, Ordering::SeqCst);
        let mood = *self.mood.subscribe().wait_for(|mood| *mood != Mood::Holds).await.unwrap();
        let mut values = [1.0 - SCORE, SCORE].repeat(rows as usize);
        match mood {
            Mood::NaN => values[1] = f32::NAN,
            Mood::NaNFor(value) => {
                for row in (0..rows as usize).filter(|row| features[row * width] == value) {
                    values[2 * row + 1] = f32::NAN;
                }
            }
            Mood::OutOfRange => values[1] = 1.5,
            Mood::TooFewRows => rows = 0,
            Mood::Away => return Err(Status::unavailable("not now")),
            Mood::Hangs => std::future::pending().await,
            Mood::Good | Mood::OtherOutput | Mood::OtherType | Mood::Holds => {}
        }
        let tensor = InferOutputTensor {
            name: if mood == Mood::OtherOutput { "other" } else { "probabilities" }.into(),
            datatype: if mood == Mood::OtherType { "INT64" } else { "FP32" }.into(),
            shape: vec![rows, 2],
            contents: Some(InferTensorContents { fp32_contents: values, ..Default::default() }),
            ..InferOutputTensor::default()
        };
        Ok(Response::new(ModelInferResponse { outputs: vec![tensor], ..ModelInferResponse::default() }))
    }

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn model_ready(
        &self,
        _: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn model_metadata(
        &self,
        _: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

impl ModelServer {
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self::on(listener), address)
    }

    pub(crate) fn on(listener: TcpListener) -> Self {
        let server = Self {
            mood: Arc::new(watch::channel(Mood::Good).0),
            runs: Arc::default(),
            working: Arc::default(),
            working_most: Arc::default(),
        };
        let service = GrpcInferenceServiceServer::new(server.clone());
        let serving = tonic::transport::Server::builder().add_service(service);
        service::task::spawn("model server", serving.serve_with_incoming(TcpListenerStream::new(listener)));
        server
    }

    /// Serves the fraud model as version 1 of a folder.
    pub(crate) async fn with_models() -> (Self, Models) {
        let (server, address) = Self::start().await;
        (server, served_at(&format!("kserve+grpc://{address}/fraud")))
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn runs(&self) -> Vec<usize> {
        self.runs.lock().clone()
    }

    /// How many runs there were at the same time, at most.
    pub(crate) fn working_most(&self) -> usize {
        self.working_most.load(Ordering::SeqCst)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The fraud model as version 1, served elsewhere.
pub(crate) fn served_at(url: &str) -> Models {
    let models = Models::empty();
    models.put(1, &manifest_at(url), None);
    models
}

/// The manifest of the fraud model, served elsewhere.
pub(crate) fn manifest_at(url: &str) -> String {
    manifest("fraud").replacen("owner = ", &format!("backend = \"{url}\"\nowner = "), 1)
}

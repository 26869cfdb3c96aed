//! The Open Inference Protocol over gRPC.

use proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::GrpcInferenceService, model_infer_response::InferOutputTensor,
    model_metadata_response::TensorMetadata,
};
use service::{Caller, Class, Result, Scope};
use tonic::{Request, Response, Status};

use crate::{
    score::Api,
    tensor,
    v2::{self, Data, Described, InputTensor, OutputTensor},
};

#[tonic::async_trait]
impl GrpcInferenceService for Api {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        Caller::of(request.extensions())?.require(Scope::Read)?;
        let asked = request.get_ref();
        let ready = match self.registry.find(&asked.name, &asked.version) {
            Ok(_) => true,
            Err(error) if error.class() == Class::Unavailable => false,
            Err(error) => return Err(error.into()),
        };
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: v2::SERVER.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        Caller::of(request.extensions())?.require(Scope::Read)?;
        let asked = request.get_ref();
        let version = self.registry.find(&asked.name, &asked.version)?;
        let told = |tensors: Vec<Described>| {
            let tensor = |Described { name, datatype, shape }| TensorMetadata {
                name,
                datatype: str::to_owned(datatype),
                shape,
            };
            tensors.into_iter().map(tensor).collect()
        };
        Ok(Response::new(ModelMetadataResponse {
            name: version.manifest.name.clone(),
            versions: self.versions(&version.manifest.name),
            platform: version.platform().into(),
            inputs: told(v2::inputs(&version)),
            outputs: told(v2::outputs(&version)),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        caller.require(Scope::Read)?;
        let request = request.into_inner();
        let route = self.registry.route(&request.model_name, &request.model_version, caller.tenant_name())?;
        let raw = !request.raw_input_contents.is_empty();
        let inputs = inputs(&request)?;
        let wanted: Vec<_> = request.outputs.into_iter().map(|output| output.name).collect();
        let (version, outputs) = self.infer(route, inputs, &wanted).await?;
        let raw_output_contents =
            if raw { outputs.iter().map(|output| output.data.bytes()).collect() } else { Vec::new() };
        Ok(Response::new(ModelInferResponse {
            model_name: version.manifest.name.clone(),
            model_version: version.manifest.version.clone(),
            id: request.id,
            outputs: outputs.into_iter().map(|output| output_of(output, raw)).collect(),
            raw_output_contents,
            ..ModelInferResponse::default()
        }))
    }
}

// === impl Api ===

impl Api {
    pub(crate) fn is_ready(&self) -> bool {
        self.registry.is_ready()
    }

    pub(crate) fn versions(&self, model: &str) -> Vec<String> {
        let models = self.registry.models();
        let versions = models.get(model).into_iter().flat_map(|model| &model.versions);
        versions.filter(|(_, entry)| entry.version.is_some()).map(|(number, _)| number.to_string()).collect()
    }
}

/// The data as it came: answered in the way it was asked.
fn inputs(request: &ModelInferRequest) -> Result<Vec<InputTensor>> {
    let raw = &request.raw_input_contents;
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        return Err(v2::invalid("raw_input_contents", "must be one for each input".into()));
    }
    let read = |(index, input): (usize, &proto::inference::model_infer_request::InferInputTensor)| {
        let values = match raw.get(index) {
            Some(bytes) => tensor::floats_of_bytes(&input.datatype, bytes),
            None => tensor::floats_of_contents(&input.datatype, input.contents.as_ref()),
        };
        let values = values.map_err(|reason| v2::invalid(&input.name, reason))?;
        Ok(InputTensor { name: input.name.clone(), shape: input.shape.clone(), values })
    };
    request.inputs.iter().enumerate().map(read).collect()
}

fn output_of(output: OutputTensor, raw: bool) -> InferOutputTensor {
    let datatype = output.data.datatype().into();
    let contents = (!raw).then(|| match output.data {
        Data::Fp32(values) => InferTensorContents { fp32_contents: values, ..InferTensorContents::default() },
        Data::Fp64(values) => InferTensorContents { fp64_contents: values, ..InferTensorContents::default() },
    });
    InferOutputTensor {
        name: output.name,
        datatype,
        shape: output.shape,
        contents,
        ..InferOutputTensor::default()
    }
}

//! Models on another server: the client of the Open Inference Protocol, over gRPC and REST.

use async_trait::async_trait;
use proto::inference::{
    InferTensorContents, ModelInferRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

use crate::{
    backend::{Backend, BackendError, INPUT, Rows, Tensor},
    tensor::{self, FP32},
};

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A model behind `kserve+grpc://host:port/model[/versions/version]`.
pub(crate) struct Grpc {
    client: GrpcInferenceServiceClient<Channel>,
    place: Place,
    output: String,
}

/// A model behind `kserve+http://host:port/model[/versions/version]`.
pub(crate) struct Http {
    client: reqwest::Client,
    url: String,
    output: String,
}

#[derive(Debug, PartialEq)]
struct Place {
    server: String,
    model: String,
    version: String,
}

#[derive(Serialize)]
struct Request<'a> {
    inputs: [Input<'a>; 1],
    outputs: [Wanted<'a>; 1],
}

#[derive(Serialize)]
struct Input<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: [i64; 2],
    data: &'a [f32],
}

#[derive(Serialize)]
struct Wanted<'a> {
    name: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    // NaN and infinity are no JSON; some servers send null for them.
    data: Vec<Option<f32>>,
}

// === impl Grpc ===

impl Grpc {
    pub(crate) fn open(rest: &str, output: &str) -> Result<Self, BackendError> {
        let place = Place::parse(rest)?;
        let endpoint = Endpoint::from_shared(format!("http://{}", place.server))
            .map_err(|error| BackendError::Refused(format!("backend {rest:?}: {error}")))?;
        let client = GrpcInferenceServiceClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { client, place, output: output.to_owned() })
    }
}

#[async_trait]
impl Backend for Grpc {
    async fn infer(&self, rows: Rows) -> Result<Tensor, BackendError> {
        let shape = rows.shape().to_vec();
        let contents = InferTensorContents { fp32_contents: rows.values, ..InferTensorContents::default() };
        let request = ModelInferRequest {
            model_name: self.place.model.clone(),
            model_version: self.place.version.clone(),
            inputs: vec![InferInputTensor {
                name: INPUT.into(),
                datatype: FP32.into(),
                shape,
                contents: Some(contents),
                ..InferInputTensor::default()
            }],
            outputs: vec![InferRequestedOutputTensor {
                name: self.output.clone(),
                ..InferRequestedOutputTensor::default()
            }],
            ..ModelInferRequest::default()
        };
        let answer = self.client.clone().model_infer(request).await;
        let answer = answer.map_err(|status| BackendError::Away(status.to_string()))?.into_inner();
        let found = answer.outputs.iter().position(|tensor| tensor.name == self.output);
        let index = found.ok_or_else(|| no_output(&self.output))?;
        let tensor = &answer.outputs[index];
        let values = match answer.raw_output_contents.get(index) {
            Some(raw) => tensor::floats_of_bytes(&tensor.datatype, raw),
            None => tensor::floats_of_contents(&tensor.datatype, tensor.contents.as_ref()),
        };
        Ok(Tensor { shape: tensor.shape.clone(), values: values.map_err(BackendError::Wrong)? })
    }

    fn platform(&self) -> &'static str {
        "kserve_grpc"
    }
}

// === impl Http ===

impl Http {
    pub(crate) fn open(rest: &str, output: &str) -> Result<Self, BackendError> {
        let Place { server, model, version } = Place::parse(rest)?;
        let version = if version.is_empty() { String::new() } else { format!("/versions/{version}") };
        // Even a client that never meets TLS wants a provider for it.
        service::install_crypto_provider();
        let client = reqwest::Client::builder().build();
        let client = client.map_err(|error| BackendError::Refused(error.to_string()))?;
        let url = format!("http://{server}/v2/models/{model}{version}/infer");
        Ok(Self { client, url, output: output.to_owned() })
    }
}

#[async_trait]
impl Backend for Http {
    async fn infer(&self, rows: Rows) -> Result<Tensor, BackendError> {
        let away = |error: reqwest::Error| BackendError::Away(service::error::chain(&error));
        let input = Input { name: INPUT, datatype: FP32, shape: rows.shape(), data: &rows.values };
        let request = Request { inputs: [input], outputs: [Wanted { name: &self.output }] };
        let mut answer = self.client.post(&self.url).json(&request).send().await.map_err(away)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(away)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(BackendError::Wrong(format!("an answer of more than {ANSWER_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let told = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
            return Err(BackendError::Away(format!("{status}: {told}")));
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
            BackendError::Wrong(format!("the answer is not what the protocol says: {error}"))
        })?;
        let tensor = answer.outputs.into_iter().find(|tensor| tensor.name == self.output);
        let tensor = tensor.ok_or_else(|| no_output(&self.output))?;
        if tensor.datatype != FP32 && tensor.datatype != tensor::FP64 {
            return Err(BackendError::Wrong(format!("{} is of type {}", self.output, tensor.datatype)));
        }
        let values = tensor.data.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect();
        Ok(Tensor { shape: tensor.shape, values })
    }

    fn platform(&self) -> &'static str {
        "kserve_http"
    }
}

fn no_output(name: &str) -> BackendError {
    BackendError::Wrong(format!("the answer has no output {name}"))
}

// === impl Place ===

impl Place {
    fn parse(rest: &str) -> Result<Self, BackendError> {
        let parts: Vec<_> = rest.split('/').collect();
        let (server, model, version) = match parts[..] {
            [server, model] => (server, model, ""),
            [server, model, "versions", version] if !version.is_empty() => (server, model, version),
            _ => ("", "", ""),
        };
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if server.is_empty() || model.is_empty() || !plain(model) || !plain(version) {
            return Err(BackendError::Refused(format!(
                "backend {rest:?}: after the scheme comes host:port/model or host:port/model/versions/version"
            )));
        }
        Ok(Self { server: server.into(), model: model.into(), version: version.into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_place_has_a_server_a_model_and_perhaps_a_version() {
        let place = |rest| Place::parse(rest).map(|place| (place.server, place.model, place.version));
        assert_eq!(place("h:1/m").unwrap(), ("h:1".into(), "m".into(), String::new()));
        assert_eq!(place("h:1/m/versions/3").unwrap(), ("h:1".into(), "m".into(), "3".into()));
        for wrong in
            ["", "h:1", "h:1/", "/m", "h:1/m/3", "h:1/m/versions/", "h:1/m?x=1", "h:1/m/versions/3/infer"]
        {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}

//! The Open Inference Protocol over REST, with its extension for binary tensors: `Inference-Header-Content-Length` says
//! how many bytes of a body are JSON, and the data of tensors follows.

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use service::{Caller, Error, Result, Scope};

use crate::{
    score::Api,
    tensor,
    v2::{self, Data, Described, InputTensor, OutputTensor},
};

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

#[derive(Clone)]
struct Rest {
    api: Api,
    body_bytes_max: usize,
}

/// An error in the words of the protocol: `{"error": "..."}`.
struct Refused(Error);

#[derive(Deserialize)]
struct Asked {
    model: String,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
struct InferRequest {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<InferInput>,
    #[serde(default)]
    outputs: Vec<Wanted>,
}

#[derive(Deserialize)]
struct InferInput {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Option<Value>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

#[derive(Serialize)]
struct InferAnswer {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    outputs: Vec<Value>,
}

/// The routes that want a key.
pub(crate) fn routes(api: Api, body_bytes_max: usize) -> Router {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/models/{model}", get(model))
        .route("/v2/models/{model}/versions/{version}", get(model))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .with_state(Rest { api, body_bytes_max })
}

/// The routes open to all.
pub(crate) fn open_routes(api: Api) -> Router {
    let ready = async |State(api): State<Api>| {
        let status = if api.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(json!({"ready": api.is_ready()})))
    };
    Router::new()
        .route("/v2/health/live", get(async || Json(json!({"live": true}))))
        .route("/v2/health/ready", get(ready))
        .with_state(api)
}

async fn server(caller: Caller) -> Result<Response, Refused> {
    caller.require(Scope::Read)?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(Json(json!({"name": v2::SERVER, "version": version, "extensions": v2::EXTENSIONS})).into_response())
}

async fn model(
    State(rest): State<Rest>,
    Path(asked): Path<Asked>,
    caller: Caller,
) -> Result<Response, Refused> {
    caller.require(Scope::Read)?;
    let version = rest.api.registry.find(&asked.model, &asked.version)?;
    let told = |tensors: Vec<Described>| -> Vec<Value> {
        let tensor =
            |Described { name, datatype, shape }| json!({"name": name, "datatype": datatype, "shape": shape});
        tensors.into_iter().map(tensor).collect()
    };
    let body = json!({
        "name": version.manifest.name,
        "versions": rest.api.versions(&version.manifest.name),
        "platform": version.platform(),
        "inputs": told(v2::inputs(&version)),
        "outputs": told(v2::outputs(&version)),
    });
    Ok(Json(body).into_response())
}

async fn model_ready(
    State(rest): State<Rest>,
    Path(asked): Path<Asked>,
    caller: Caller,
) -> Result<Response, Refused> {
    caller.require(Scope::Read)?;
    let version = rest.api.registry.find(&asked.model, &asked.version)?;
    Ok(Json(json!({"name": version.manifest.name, "ready": true})).into_response())
}

async fn infer(
    State(rest): State<Rest>,
    Path(asked): Path<Asked>,
    request: Request,
) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let caller = Caller::of(&parts.extensions)?;
    caller.require(Scope::Read)?;
    let route = rest.api.registry.route(&asked.model, &asked.version, caller.tenant_name())?;
    let body = service::body::read(&parts.headers, body, rest.body_bytes_max).await?;
    let (head, rest_of_body) = split(&parts.headers, &body)?;
    let request: InferRequest = serde_json::from_slice(head)
        .map_err(|error| Error::invalid(format!("the body is not what the protocol says: {error}")))?;
    let binary: Vec<_> =
        request.outputs.iter().map(|output| is_true(&output.parameters, "binary_data")).collect();
    let all_binary = is_true(&request.parameters, "binary_data_output");
    let wanted: Vec<_> = request.outputs.into_iter().map(|output| output.name).collect();
    let inputs = inputs(request.inputs, rest_of_body)?;
    let (version, outputs) = rest.api.infer(route, inputs, &wanted).await?;
    let mut answer = InferAnswer {
        model_name: version.manifest.name.clone(),
        model_version: version.manifest.version.clone(),
        id: request.id,
        outputs: Vec::new(),
    };
    let mut blobs = Vec::new();
    for output in outputs {
        let asked = wanted.iter().position(|name| *name == output.name).and_then(|index| binary[index]);
        let (described, blob) = described(output, asked.or(all_binary).unwrap_or(false));
        answer.outputs.push(described);
        blobs.extend(blob);
    }
    respond(&answer, &blobs)
}

fn is_true(parameters: &Map<String, Value>, name: &str) -> Option<bool> {
    parameters.get(name).and_then(Value::as_bool)
}

/// JSON and what follows it.
fn split<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<(&'a [u8], &'a [u8])> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok((body, &[])) };
    let length = value.to_str().ok().and_then(|text| text.parse::<usize>().ok());
    length.and_then(|length| body.split_at_checked(length)).ok_or_else(|| {
        let reason = format!("must be a number of bytes, at most the {} of the body", body.len());
        v2::invalid(HEADER_LENGTH.as_str(), reason)
    })
}

fn inputs(inputs: Vec<InferInput>, mut blobs: &[u8]) -> Result<Vec<InputTensor>> {
    let mut read = Vec::with_capacity(inputs.len());
    for InferInput { name, datatype, shape, parameters, data } in inputs {
        let size = parameters.get("binary_data_size").map(|size| size.as_u64().unwrap_or(u64::MAX));
        let values = match (size, data) {
            (Some(size), None) => {
                let taken = usize::try_from(size).ok().and_then(|size| blobs.split_at_checked(size));
                let (own, others) = taken
                    .ok_or_else(|| v2::invalid(&name, "binary_data_size is more than there is".into()))?;
                blobs = others;
                tensor::floats_of_bytes(&datatype, own)
            }
            (None, Some(data)) => floats_of_json(&datatype, &data),
            _ => Err("has data either as JSON or as bytes".to_owned()),
        };
        let values = values.map_err(|reason| v2::invalid(&name, reason))?;
        read.push(InputTensor { name, shape, values });
    }
    if blobs.is_empty() {
        return Ok(read);
    }
    Err(v2::invalid("inputs", format!("{} bytes belong to none of them", blobs.len())))
}

/// Data may be flat, or nested as its shape is.
fn floats_of_json(datatype: &str, data: &Value) -> Result<Vec<f32>, String> {
    fn flatten(data: &Value, values: &mut Vec<f32>) -> Result<(), String> {
        match data {
            Value::Array(items) => items.iter().try_for_each(|item| flatten(item, values)),
            Value::Number(number) => {
                values.push(number.as_f64().unwrap_or(f64::NAN) as f32);
                Ok(())
            }
            _ => Err("data must be numbers".into()),
        }
    }
    if datatype != tensor::FP32 && datatype != tensor::FP64 {
        return Err(tensor::wrong_type(datatype));
    }
    let mut values = Vec::new();
    flatten(data, &mut values)?;
    Ok(values)
}

fn described(output: OutputTensor, binary: bool) -> (Value, Vec<u8>) {
    let mut described = json!({
        "name": output.name,
        "datatype": output.data.datatype(),
        "shape": output.shape,
    });
    if binary {
        let blob = output.data.bytes();
        described["parameters"] = json!({"binary_data_size": blob.len()});
        return (described, blob);
    }
    described["data"] = match output.data {
        Data::Fp32(values) => json!(values),
        Data::Fp64(values) => json!(values),
    };
    (described, Vec::new())
}

fn respond(answer: &InferAnswer, blobs: &[u8]) -> Result<Response, Refused> {
    let mut body = serde_json::to_vec(answer).map_err(Error::internal)?;
    let length = body.len();
    body.extend_from_slice(blobs);
    let mut response = Body::from(body).into_response();
    let headers = response.headers_mut();
    if blobs.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    Ok(response)
}

// === impl Refused ===

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut told = self.0.detail().to_owned();
        for violation in self.0.violations() {
            let line = format!("{}: {}", violation.field, violation.reason);
            if !told.contains(&line) {
                told = format!("{told}; {line}");
            }
        }
        // Status, `Retry-After` and the log are those of any error.
        let mut response = self.0.into_response();
        *response.body_mut() = Body::from(json!({"error": told}).to_string());
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

//! Real peers of the Open Inference Protocol: MLServer behind our client, and Triton's Python client before our server.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use serde_json::json;
use tempfile::TempDir;
use testkit::ports;

use crate::{
    model_server::served_at,
    support::{Gateway, Golden, KEY, Models, eventually, feature_names, ml, python, request},
};

const ROWS: usize = 200;

/// MLServer, serving the fraud model from its file with onnxruntime; it is killed when it is dropped.
struct MlServer {
    child: Child,
    http: u16,
    grpc: u16,
    _folder: TempDir,
}

impl MlServer {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [http, grpc, metrics] = ports::free();
        let settings = json!({
            "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics,
            "parallel_workers": 0,
        });
        fs::write(folder.path().join("settings.json"), settings.to_string()).unwrap();
        let model = folder.path().join("fraud");
        fs::create_dir(&model).unwrap();
        let settings = json!({
            "name": "fraud", "implementation": "runtime.Onnx",
            "parameters": {"version": "1", "uri": ml().join("models/fraud/1/model.onnx").canonicalize().unwrap()},
        });
        fs::write(model.join("model-settings.json"), settings.to_string()).unwrap();
        let python = python("peer");
        let child = Command::new(python.with_file_name("mlserver"))
            .arg("start")
            .arg(folder.path())
            .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { child, http, grpc, _folder: folder }
    }
}

impl Drop for MlServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn scores_as_here(golden: &Golden, models: &Models) {
    let gateway = Gateway::start(models.path()).await;
    gateway.becomes_ready().await;
    let rows = (0..ROWS).map(|row| golden.named(row)).collect();
    let answer = gateway.score(request("fraud", rows)).await.unwrap();
    assert_eq!(answer.rows.len(), ROWS);
    for (row, scored) in answer.rows.iter().enumerate() {
        assert!((scored.score - golden.scores[row]).abs() < 1e-5, "row {row}");
        assert!((scored.calibrated - golden.calibrated[row]).abs() < 1e-5, "row {row}");
    }
}

#[tokio::test]
async fn mlserver_scores_for_us_over_both_protocols() {
    let server = MlServer::start().await;
    let golden = Golden::read();
    scores_as_here(&golden, &served_at(&format!("kserve+http://127.0.0.1:{}/fraud", server.http))).await;
    scores_as_here(&golden, &served_at(&format!("kserve+grpc://127.0.0.1:{}/fraud", server.grpc))).await;
    scores_as_here(&golden, &served_at(&format!("kserve+grpc://127.0.0.1:{}/fraud/versions/1", server.grpc)))
        .await;
    for (scheme, port) in [("http", server.http), ("grpc", server.grpc)] {
        for place in ["nobody", "fraud/versions/7"] {
            let models = served_at(&format!("kserve+{scheme}://127.0.0.1:{port}/{place}"));
            let gateway = Gateway::start(models.path()).await;
            eventually("what is not there is told", async || gateway.broken("1").await.contains("not found"))
                .await;
        }
    }
}

#[tokio::test]
async fn tritons_client_scores_with_us_over_both_protocols() {
    let gateway = Gateway::ready(&ml().join("models")).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer/client.py");
    let mut command = tokio::process::Command::new(python("peer"));
    command.arg(script).arg(gateway.address.to_string()).arg(KEY).arg(ml().join("golden/fraud.gz"));
    let output = command.env("PYTHONDONTWRITEBYTECODE", "1").output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("12 checks passed"), "{told}");
}

#[tokio::test]
async fn typed_data_is_answered_as_typed_data() {
    let golden = Golden::read();
    let gateway = Gateway::ready(&ml().join("models")).await;
    let width = feature_names().len() as i64;
    let contents = proto::inference::InferTensorContents {
        fp64_contents: golden.rows[0].iter().map(|&value| f64::from(value)).collect(),
        ..Default::default()
    };
    let request = ModelInferRequest {
        model_name: "fraud".into(),
        id: "mine".into(),
        inputs: vec![InferInputTensor {
            name: "features".into(),
            datatype: "FP64".into(),
            shape: vec![1, width],
            contents: Some(contents),
            ..InferInputTensor::default()
        }],
        ..ModelInferRequest::default()
    };
    let answer = gateway.inference().model_infer(request).await.unwrap().into_inner();
    assert_eq!((answer.id.as_str(), answer.model_version.as_str()), ("mine", "1"));
    assert!(answer.raw_output_contents.is_empty());
    let names: Vec<_> = answer.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["probabilities", "calibrated"]);
    let score = answer.outputs[0].contents.as_ref().unwrap().fp32_contents[1];
    assert!((f64::from(score) - golden.scores[0]).abs() < 1e-5);
}

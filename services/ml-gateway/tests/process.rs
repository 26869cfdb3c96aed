//! The service as a process of its own: with the library of ONNX Runtime, without it, and without models.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use serde_json::json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use testkit::process::Launch;

const KEY: &str = "a-key-of-the-tests";

fn launch(models: &str) -> (Launch, TempDir) {
    let settings = tempfile::tempdir().unwrap();
    let hash: String = Sha256::digest(KEY).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "version = 1\n[tenants.default]\n[[tenants.default.keys]]\nname = \"k\"\nsha256 = \"{hash}\"\nscopes = [\"read\"]\n"
    );
    fs::write(settings.path().join("settings.toml"), text).unwrap();
    fs::write(settings.path().join("api-key"), KEY).unwrap();
    let launch = Launch::service(env!("CARGO_BIN_EXE_ml-gateway"), settings.path());
    (launch.env("ATTRIBUTION_ML__MODELS", models), settings)
}

fn committed() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ml/models").canonicalize().unwrap();
    format!("onnx://{}", folder.display())
}

#[tokio::test]
async fn it_serves_the_committed_models() {
    let (launch, _settings) = launch(&committed());
    let gateway = launch.ready().await;
    let told = gateway.get("/v2/models/fraud").await.unwrap();
    assert_eq!(told.status, 200, "{}", told.body);
    let width = told.body["inputs"][0]["shape"][1].as_u64().unwrap();
    let input = json!({"name": "features", "datatype": "FP32", "shape": [1, width], "data": vec![0.0; 17]});
    let answer = gateway.post("/v2/models/fraud/infer", &json!({"inputs": [input]})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    gateway.stop().await;
}

#[tokio::test]
async fn without_the_library_it_says_so_and_is_not_ready() {
    let (launch, _settings) = launch(&committed());
    let mut gateway = launch.env("ATTRIBUTION_ONNXRUNTIME_LIB", "/nowhere/libonnxruntime.so").spawn().await;
    assert!(gateway.listens().await, "{}", gateway.log());
    gateway.logs("/nowhere/libonnxruntime.so: there is no such file; scripts/fetch-onnxruntime.sh").await;
    gateway.becomes(false).await;
    assert_eq!(gateway.get("/v2/health/live").await.unwrap().status, 200);
    assert_eq!(gateway.get("/v2/models/fraud").await.unwrap().status, 503);
    gateway.stop().await;
}

#[tokio::test]
async fn without_models_it_is_not_ready_and_another_url_is_refused() {
    let (launch, _settings) = launch("");
    let mut gateway = launch.spawn().await;
    assert!(gateway.listens().await, "{}", gateway.log());
    gateway.becomes(false).await;
    assert_eq!(gateway.get("/v2/models/fraud").await.unwrap().status, 404);
    gateway.stop().await;

    for url in ["s3://bucket", "onnx://relative", "onnx:///folder?reload=1"] {
        let (launch, _settings) = self::launch(url);
        let mut gateway = launch.spawn().await;
        assert!(!gateway.ended().await.success());
        gateway.logs("is not onnx:///path/of/a/folder").await;
    }
}

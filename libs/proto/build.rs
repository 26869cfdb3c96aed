//! Generates types, clients, servers and the descriptor set from `proto/`, without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 7] = [
    "attribution/events/v1/event.proto",
    "attribution/ingestion/v1/ingestion_service.proto",
    "attribution/attribution/v1/decision.proto",
    "attribution/attribution/v1/attribution_service.proto",
    "attribution/query/v1/query_service.proto",
    "attribution/ml/v1/ml_gateway_service.proto",
    "inference/grpc_inference_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

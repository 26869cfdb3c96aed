//! New versions take over when they are good, and only then.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use proto::ml::ScoreRequest;
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::support::{Gateway, Models, eventually, manifest, onnx, refused, request};

/// The manifest of the fraud model with the digest of other bytes.
fn manifest_of(onnx: &[u8]) -> String {
    let digest: String = Sha256::digest(onnx).iter().map(|byte| format!("{byte:02x}")).collect();
    let lines = manifest("fraud");
    let lines = lines.lines().map(|line| match line.starts_with("sha256 = ") {
        true => format!("sha256 = \"{digest}\""),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The graph with another word of the same length in place of one.
fn with_word(mut graph: Vec<u8>, word: &str, other: &str) -> Vec<u8> {
    assert_eq!(word.len(), other.len());
    let places: Vec<_> =
        (0..=graph.len() - word.len()).filter(|at| graph[*at..].starts_with(word.as_bytes())).collect();
    assert!(!places.is_empty());
    for at in places {
        graph[at..at + word.len()].copy_from_slice(other.as_bytes());
    }
    graph
}

#[tokio::test]
async fn the_newest_good_version_answers_and_rolling_back_is_taking_it_away() {
    let models = Models::fraud();
    let gateway = Gateway::ready(models.path()).await;
    models.put(2, &manifest("fraud"), Some(&onnx("fraud")));
    models.put(10, &manifest("fraud"), Some(&onnx("fraud")));
    eventually("version 10 answers", async || gateway.version("fraud").await.unwrap() == "10").await;
    let old = ScoreRequest { version: "1".into(), ..request("fraud", vec![HashMap::new()]) };
    assert_eq!(gateway.score(old).await.unwrap().version, "1", "an older one is there for who names it");
    fs::rename(models.folder(10), models.path().join(".gone")).unwrap();
    eventually("version 2 answers", async || gateway.version("fraud").await.unwrap() == "2").await;
}

#[tokio::test]
async fn a_broken_version_never_answers_and_says_why() {
    let models = Models::fraud();
    let gateway = Gateway::ready(models.path()).await;
    let good = onnx("fraud");
    let cut = &good[..good.len() / 2];
    let operator = with_word(good.clone(), "TreeEnsembleClassifier", "TreeEnsembleClassifies");
    let other_output = manifest("fraud").replace("name = \"probabilities\"", "name = \"certainties\"");
    let no_column = manifest("fraud").replace("column = 1", "column = 2");
    let cases: [(u32, String, Option<&[u8]>, &str); 7] = [
        (2, manifest("fraud"), Some(cut), "its SHA-256 is"),
        (3, manifest_of(cut), Some(cut), "model.onnx"),
        (4, manifest_of(&operator), Some(&operator), "TreeEnsembleClassifies"),
        (5, other_output, Some(&good), "no output certainties"),
        (6, no_column, Some(&good), "answered a tensor of shape"),
        (7, "name = 1".into(), Some(&good), "model.toml"),
        (8, manifest("fraud"), None, "model.onnx"),
    ];
    for (version, manifest, onnx, _) in &cases {
        models.put(*version, manifest, *onnx);
    }
    for (version, _, _, told) in &cases {
        let number = version.to_string();
        eventually(told, async || gateway.broken(&number).await.contains(told)).await;
        let named = ScoreRequest { version: number, ..request("fraud", vec![HashMap::new()]) };
        refused(gateway.score(named).await, Code::Unavailable, "model_broken");
    }
    assert_eq!(gateway.version("fraud").await.unwrap(), "1");
}

#[tokio::test]
async fn a_version_whose_files_break_goes_on_as_it_was() {
    let models = Models::fraud();
    let gateway = Gateway::ready(models.path()).await;
    let before = gateway.score(request("fraud", vec![HashMap::new()])).await.unwrap();
    fs::write(models.folder(1).join("model.onnx"), b"rubbish").unwrap();
    eventually("it is known", async || gateway.broken("1").await.contains("its SHA-256 is")).await;
    let after = gateway.score(request("fraud", vec![HashMap::new()])).await.unwrap();
    assert_eq!(before.rows, after.rows);
    fs::write(models.folder(1).join("model.onnx"), onnx("fraud")).unwrap();
    eventually("it is mended", async || gateway.broken("1").await.is_empty()).await;
}

#[tokio::test]
async fn no_call_fails_while_versions_are_replaced() {
    let models = Models::fraud();
    let gateway = Arc::new(Gateway::ready(models.path()).await);
    let (done, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (gateway, done, calls) = (Arc::clone(&gateway), Arc::clone(&done), Arc::clone(&calls));
        callers.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                gateway.version("fraud").await.unwrap();
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for version in 2..8 {
        models.put(version, &manifest("fraud"), Some(&onnx("fraud")));
        let number = version.to_string();
        eventually("the new one answers", async || gateway.version("fraud").await.unwrap() == number).await;
        fs::remove_dir_all(models.folder(version - 1)).unwrap();
    }
    done.store(true, Ordering::Relaxed);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
    assert!(calls.load(Ordering::Relaxed) > 0);
}

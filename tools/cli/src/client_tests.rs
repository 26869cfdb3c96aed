#![allow(clippy::unwrap_used)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{Router, http::HeaderMap, response::IntoResponse};

use super::*;

/// A platform that answers what it is told, one after the other, and keeps what it was asked.
struct Scripted {
    client: Client,
    asked: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

type Said = (u16, &'static [(&'static str, &'static str)], &'static str);

async fn platform(answers: &[Said]) -> Scripted {
    service::install_crypto_provider();
    let answers = Arc::new(Mutex::new(answers.iter().copied().collect::<VecDeque<Said>>()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let app = Router::new().fallback(move |headers: HeaderMap, body: Bytes| async move {
        seen.lock().unwrap().push((headers, body));
        let (status, headers, body) = answers.lock().unwrap().pop_front().unwrap();
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    service::task::spawn("scripted", async move { axum::serve(listener, app).await.unwrap() });
    Scripted { client: Client::new(&url, "ak_test").unwrap(), asked }
}

impl Scripted {
    async fn persist(&self, patience: Duration) -> Result<Answer, CallError> {
        let body = Bytes::from_static(b"[1]");
        self.client.persist(patience, |_| false, || self.client.post("/v1/events", body.clone())).await
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_busy_platform_is_asked_again_after_the_time_it_names() {
    let platform = platform(&[(429, &[("retry-after", "1")], ""), (503, &[], ""), (200, &[], "done")]).await;
    let started = Instant::now();
    let answer = platform.persist(MINUTE).await.unwrap();
    assert_eq!((answer.body.as_ref(), platform.asked()), (&b"done"[..], 3));
    assert!(started.elapsed() >= Duration::from_secs(1), "it did not wait");
    for (headers, body) in platform.asked.lock().unwrap().iter() {
        assert_eq!((headers["authorization"].to_str().unwrap(), body.as_ref()), ("Bearer ak_test", &b"[1]"[..]));
    }
}

#[tokio::test]
async fn a_wait_past_the_patience_is_not_begun() {
    let platform = platform(&[(503, &[("retry-after", "61")], r#"{"title":"not available now"}"#)]).await;
    let started = Instant::now();
    let error = platform.persist(MINUTE).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), platform.asked()), ("not available now (503)", 1));
    assert!(started.elapsed() < MINUTE / 2);
}

#[tokio::test]
async fn what_would_fail_again_is_asked_once_and_every_field_is_named() {
    let problem = r#"{"title":"invalid request","detail":"the report cannot be read","status":400,
        "errors":[{"field":"models[0]","reason":"unknown"},{"field":"from","reason":"is missing"}]}"#;
    let platform = platform(&[(400, &[], problem), (401, &[], ""), (500, &[], r#"{"title":"t","request_id":"r-1"}"#)]).await;
    let error = platform.persist(MINUTE).await.unwrap_err().to_string();
    assert_eq!(error, "the report cannot be read (400)\n  models[0]: unknown\n  from: is missing");
    assert_eq!(platform.asked(), 1);
    let error = platform.persist(MINUTE).await.unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("--key"), "{error}");
    let error = platform.persist(MINUTE).await.unwrap_err().to_string();
    assert!(error.contains("request id r-1"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_fix() {
    service::install_crypto_provider();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::new(&url, "k").unwrap().reach().await.unwrap_err().to_string();
    assert!(error.contains(&url) && error.contains("--url") && error.contains("refused"), "{error}");
}

#[test]
fn the_key_comes_from_the_flag_or_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let connection = |key: Option<&str>| Connection {
        url: None,
        key: key.map(str::to_owned),
        data: folder.path().to_owned(),
    };
    let error = connection(None).find_key().unwrap_err().to_string();
    assert!(error.contains("--key") && error.contains("api-key"), "{error}");
    fs::write(folder.path().join("api-key"), "ak_file\n").unwrap();
    assert_eq!(connection(None).find_key().unwrap(), "ak_file");
    assert_eq!(connection(Some("ak_flag")).find_key().unwrap(), "ak_flag");
}

#[test]
fn wrong_urls_and_keys_are_named() {
    service::install_crypto_provider();
    assert!(Client::new("127.0.0.1:8080", "k").unwrap_err().to_string().contains("--url"));
    assert!(Client::new("http://a", "k\n").unwrap_err().to_string().contains("--key"));
    assert_eq!(Client::new("http://a/", "k").unwrap().url(), "http://a");
}

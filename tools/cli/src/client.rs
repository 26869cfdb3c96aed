//! The public API over HTTP: the key, the retries and the errors that every command shares.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use reqwest::{RequestBuilder, StatusCode, header};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

/// Where the platform listens unless something else is said.
pub(crate) const URL_DEFAULT: &str = "http://127.0.0.1:8080";

/// How long one request may take, answer included; a report may wait half of it for what was acknowledged.
const REQUEST_SECONDS_MAX: u64 = 90;

/// The first pause before a retry, and the longest one that is not asked for by the server.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// Which platform to ask, and as whom.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Where the platform listens [default: http://127.0.0.1:8080]
    #[arg(long, env = "ATTRIBUTION_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The key to use
    #[arg(long, env = "ATTRIBUTION_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// The data folder whose file api-key is used where no key is given
    #[arg(long, value_name = "FOLDER", default_value = "./data")]
    pub(crate) data: PathBuf,
}

/// A client with one key.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// An answer that was given; what it means depends on the call.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: header::HeaderMap,
    pub(crate) body: Bytes,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No answer came; the request may have been carried out.
    #[error("no answer from {url}: {reason}; see that `attribution serve` runs there, or give another --url")]
    Unreachable { url: String, reason: String },
    /// The platform refused.
    #[error("{0}")]
    Refused(Box<Refusal>),
}

/// A refusal, as the platform put it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    retry_after: Option<Duration>,
    problem: Problem,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    errors: Vec<Violation>,
    request_id: String,
}

#[derive(Debug, Deserialize)]
struct Violation {
    #[serde(default)]
    field: String,
    #[serde(default)]
    reason: String,
}

// === impl Connection ===

impl Connection {
    /// A client of this platform with this key.
    ///
    /// # Errors
    /// There is no key, or it cannot be sent.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Client::new(self.url.as_deref().unwrap_or(URL_DEFAULT), &self.find_key()?)
    }

    fn find_key(&self) -> anyhow::Result<String> {
        if let Some(key) = &self.key {
            return Ok(key.trim().to_owned());
        }
        key_of(&self.data)
    }
}

/// The key that the first start wrote into a data folder.
pub(crate) fn key_of(data: &Path) -> anyhow::Result<String> {
    let path = data.join(service::settings::API_KEY_FILE);
    let key = fs::read_to_string(&path).with_context(|| {
        format!(
            "no key: give --key, set ATTRIBUTION_KEY, or give --data with the folder of `attribution serve` ({})",
            path.display()
        )
    })?;
    Ok(key.trim().to_owned())
}

// === impl Client ===

impl Client {
    pub(crate) fn new(url: &str, key: &str) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/');
        if !url.starts_with("http://") && !url.starts_with("https://") {
            bail!("--url: must begin with http:// or https://, not {url:?}");
        }
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            bail!("--key: the key is empty or has characters that no key has");
        }
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(REQUEST_SECONDS_MAX))
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("attribution/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()?;
        Ok(Self { http, url: url.to_owned(), key: key.to_owned() })
    }

    /// Whom it asks.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// A JSON body to be sent.
    pub(crate) fn post(&self, path: &str, body: Bytes) -> RequestBuilder {
        self.http
            .post(format!("{}{path}", self.url))
            .bearer_auth(&self.key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
    }

    /// Sends once, and takes any answer.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Answer, CallError> {
        let lost = |error| CallError::Unreachable { url: self.url.clone(), reason: root(&error) };
        let response = request.send().await.map_err(lost)?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await.map_err(lost)? })
    }

    /// Sends once; an answer that is no success is an error.
    pub(crate) async fn call(&self, request: RequestBuilder) -> Result<Answer, CallError> {
        self.send(request).await?.success()
    }

    /// Sends until the platform takes it: over the quota, unavailable or lost is tried again after the time it asks for,
    /// or with growing pauses, for as long as the patience lasts. The request must be one that may be repeated.
    /// `fine` says which other answers are no errors.
    pub(crate) async fn persist(
        &self,
        patience: Duration,
        fine: impl Fn(&Answer) -> bool,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Answer, CallError> {
        let end = Instant::now() + patience;
        let mut back_off = BACK_OFF_FIRST;
        loop {
            let failed = match self.send(request()).await {
                Ok(answer) if fine(&answer) => return Ok(answer),
                Ok(answer) => match answer.success() {
                    Ok(answer) => return Ok(answer),
                    Err(failed) => failed,
                },
                Err(failed) => failed,
            };
            let Some(asked) = failed.retry_after() else { return Err(failed) };
            // Not all at the same moment, and never sooner than asked.
            let pause = asked.max(back_off.mul_f64(rand::random_range(0.5..1.0)));
            if Instant::now() + pause > end {
                return Err(failed);
            }
            sleep(pause).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Whether anybody answers there at all.
    pub(crate) async fn reach(&self) -> Result<(), CallError> {
        self.call(self.get("/health/live")).await.map(drop)
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn success(self) -> Result<Self, CallError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let seconds =
            self.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        // A body of another form comes from something in between, such as a proxy; the status says enough then.
        let problem = serde_json::from_slice(&self.body).unwrap_or_default();
        let retry_after = seconds.map(Duration::from_secs);
        Err(CallError::Refused(Box::new(Refusal { status: self.status, retry_after, problem })))
    }

    /// The body as JSON.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body)
            .context("the answer is not what the API documents; see that --url is the platform's")
    }
}

// === impl CallError ===

impl CallError {
    /// How long to wait before the same request may be sent again; none when it would fail again.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unreachable { .. } => Some(Duration::ZERO),
            Self::Refused(refusal) => match refusal.status {
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
                | StatusCode::BAD_GATEWAY => Some(refusal.retry_after.unwrap_or_default()),
                _ => None,
            },
        }
    }

    /// The status of a refusal.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Unreachable { .. } => None,
            Self::Refused(refusal) => Some(refusal.status),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, problem, .. } = self;
        let said = [&problem.detail, &problem.title].into_iter().find(|text| !text.is_empty());
        match said {
            Some(said) => write!(f, "{said} ({})", status.as_u16())?,
            None => write!(f, "the platform answered {status}")?,
        }
        match *status {
            StatusCode::UNAUTHORIZED => {
                write!(f, "; give a key of this platform with --key or ATTRIBUTION_KEY")?
            }
            StatusCode::FORBIDDEN => write!(f, "; give a key with this scope")?,
            _ => {}
        }
        for Violation { field, reason } in &problem.errors {
            let line = if field.is_empty() { reason.clone() } else { format!("{field}: {reason}") };
            // A single violation is often all of the detail.
            if !problem.detail.contains(&line) {
                write!(f, "\n  {line}")?;
            }
        }
        if status.is_server_error() && !problem.request_id.is_empty() {
            write!(f, "\n  request id {}", problem.request_id)?;
        }
        Ok(())
    }
}

/// The innermost reason: what is around it says only that there was an error.
fn root(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("it took longer than {REQUEST_SECONDS_MAX} s");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

//! Fraud in the demo: a small simulated stream for a tenant of its own, whose settings reject.

use std::{
    fs,
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reqwest::{
    StatusCode,
    header::{self, HeaderValue},
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;

use crate::{client::Client, explain, out, progress::Progress, report, table::thousands};

/// Made by `make train` with the models: touches, and installs with the fraud of every kind that the simulation knows.
const STREAM: &str = "ml/golden/features.ndjson.gz";
const TENANT: &str = "simulated";
/// A day before it begins, and one when it is over.
const SPAN: (&str, &str) = ("2026-01-01", "2026-02-01");
/// From which probability on the tenant rejects.
const REJECT_ABOVE: f64 = 0.5;

const SETTINGS_PATIENCE: Duration = Duration::from_secs(60);
const SCORES_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
struct Event {
    event_id: String,
    event_type: String,
}

#[derive(Debug, Deserialize)]
struct Decision {
    candidates: Vec<Candidate>,
    winner: Winner,
    score: Score,
}

#[derive(Debug, Deserialize)]
struct Winner {
    event_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Candidate {
    verdict: String,
    fraud: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Score {
    present: bool,
    fraud_probability: Option<f64>,
    reasons: Vec<String>,
}

/// Sends the stream for a tenant that rejects fraud, and shows what became of it.
///
/// # Errors
/// It is not taken, not scored though there is a model, or nothing of it is rejected.
pub(super) async fn show(platform: &Client, data: &Path) -> Result<()> {
    let packed = fs::read(STREAM).with_context(|| format!("cannot read {STREAM}"))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text)?;
    let events: Vec<Event> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let conversions: Vec<&str> =
        events.iter().filter(|e| e.event_type == "conversion").map(|e| e.event_id.as_str()).collect();

    let client = tenant(platform, data).await?;
    let served = client.send(client.get("/v2/models/fraud/ready")).await?.status == StatusCode::OK;
    let lines = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CONTENT_ENCODING, "gzip")];
    let headers = lines.map(|(name, value)| (name, HeaderValue::from_static(value))).into_iter().collect();
    client.call(client.post("/v1/events", Bytes::from(packed)).headers(headers)).await?;
    let question =
        json!({ "from": SPAN.0, "to": SPAN.1, "models": ["decision"], "measures": ["conversions"] });
    report::ask(&client, "/v1/reports?consistency=acknowledged", &question, SCORES_PATIENCE).await?;

    let progress = Progress::new("asking for decisions", None);
    let decisions = progress.during(scored(&client, &conversions, served)).await;
    progress.finish();
    let decisions = decisions?;
    let count = |of: &dyn Fn(&Decision) -> bool| decisions.iter().filter(|decision| of(decision)).count();
    let rejected = |decision: &Decision| decision.candidates.iter().any(|c| c.verdict == "fraud");
    let with_score = count(&|decision| decision.score.present);
    out::line(format!(
        "\nFraud: a simulated stream of {} events, for a tenant whose settings reject it\n",
        thousands(&events.len().to_string())
    ))?;
    if !served {
        let reason = decisions.iter().find_map(|decision| decision.score.reasons.first());
        out::line(format!("no scores: {}", reason.map_or("no model is served", |reason| reason)))?;
    }
    for (low, high) in [(0.0, 0.01), (0.01, 0.1), (0.1, REJECT_ABOVE), (REJECT_ABOVE, 1.0)] {
        // Each bound belongs to the span below it, as `reject_above` says.
        let within = |p: f64| p <= high && (p > low || low == 0.0);
        let installs = count(&|decision| decision.score.fraud_probability.is_some_and(within));
        if served {
            out::line(format!("{installs:>5} installs with a probability of fraud up to {high}"))?;
        }
    }
    let organic = count(&|decision| rejected(decision) && decision.winner.event_id.is_none());
    let others = count(&|decision| rejected(decision) && decision.winner.event_id.is_some());
    out::line(format!(
        "{:>5} installs, {with_score} scored; of {} a touch was rejected: {others} went to the next touch, {organic} are organic",
        conversions.len(),
        others + organic
    ))?;
    ensure!(!served || with_score > 0, "there is a model, and no decision has a score");
    let shown = conversions.iter().zip(&decisions).filter(|(_, decision)| rejected(decision));
    // Best one that the score alone rejected, with another touch that won.
    let shown = shown.max_by_key(|(_, decision)| {
        let by_score = decision.candidates.iter().any(|c| c.verdict == "fraud" && c.fraud.is_empty());
        (by_score == served, decision.winner.event_id.is_some())
    });
    let Some((id, _)) = shown else { bail!("nothing of a stream with fraud in it was rejected") };
    let words = explain::in_words(&client, id, out::data_colours()).await?;
    out::line(format!("\nOne of them explained:\n\n{}", words.trim_end()))
}

/// Adds a tenant to the settings, and waits until the platform knows its key.
async fn tenant(platform: &Client, data: &Path) -> Result<Client> {
    let key = format!("ak_{:032x}", rand::random::<u128>());
    let sha256: String = Sha256::digest(&key).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = data.join(service::settings::SETTINGS_FILE);
    let settings = fs::read_to_string(&file)?;
    let own = format!(
        r#"
# The demo's simulated stream of fraud.
[tenants.{TENANT}]
currency = "EUR"

[[tenants.{TENANT}.keys]]
name = "demo"
sha256 = "{sha256}"
scopes = ["ingest", "read"]

[tenants.{TENANT}.fraud]
reject = ["click_to_install", "after_install_begin"]
reject_above = {REJECT_ABOVE}
"#
    );
    // In one step, so that nobody reads half of it.
    let new = file.with_extension("new");
    fs::write(&new, settings + &own)?;
    fs::rename(&new, &file)?;
    let client = Client::new(platform.url(), &key)?;
    let end = Instant::now() + SETTINGS_PATIENCE;
    while client.send(client.get("/v1/conversions/none")).await?.status == StatusCode::UNAUTHORIZED {
        ensure!(Instant::now() < end, "the platform does not take up its settings");
        sleep(POLL).await;
    }
    Ok(client)
}

/// Every decision, as soon as none is still owed its score.
async fn scored(client: &Client, conversions: &[&str], served: bool) -> Result<Vec<Decision>> {
    let end = Instant::now() + SCORES_PATIENCE;
    let mut decisions = Vec::with_capacity(conversions.len());
    for id in conversions {
        loop {
            let answer = client.call(client.get(&format!("/v1/conversions/{id}"))).await?;
            let decision: Decision = answer.json()?;
            let owed = served && !decision.score.present && !decision.candidates.is_empty();
            if !owed || Instant::now() > end {
                decisions.push(decision);
                break;
            }
            sleep(POLL).await;
        }
    }
    Ok(decisions)
}

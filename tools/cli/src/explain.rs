//! `attribution explain`.

use anyhow::{Result, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    client::{Client, Connection},
    out,
    table::{Align, Table, plain, thousands},
};

/// Say why a conversion was credited as it was.
///
/// The decision in force in words, every touch that was considered with its verdict, the credit under each model, and
/// the editions of the decision.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution explain order-4711
  attribution explain order-4711 --json")]
pub(crate) struct Explain {
    /// The event id of the conversion
    #[arg(value_name = "EVENT_ID", value_parser = event_id)]
    event_id: String,
    /// Answer in JSON, as the API gives it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Deserialize)]
struct Decision {
    conversion: Option<Map<String, Value>>,
    candidates: Vec<Candidate>,
    winner: Option<Winner>,
    credit: Vec<Credit>,
    editions: Vec<Edition>,
    settings_edition: String,
    explanation: String,
    score: Option<Score>,
    lifetime_value: Option<LifetimeValue>,
}

#[derive(Debug, Deserialize)]
struct LifetimeValue {
    value: Option<f64>,
    lower: Option<f64>,
    upper: Option<f64>,
    level: Option<f64>,
    currency: Option<String>,
    horizon_weeks: Option<u32>,
    model: Option<String>,
    version: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Score {
    fraud_probability: Option<f64>,
    reasons: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Winner {
    event_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Candidate {
    touch: Option<Map<String, Value>>,
    verdict: String,
    age_millis: i64,
    window_millis: i64,
    #[serde(default)]
    fraud: Vec<String>,
    fraud_probability: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Credit {
    model: String,
    touches: Vec<Share>,
}

#[derive(Debug, Deserialize)]
struct Share {
    event_id: Option<String>,
    conversions: f64,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Edition {
    reason: String,
    recorded_at: String,
    in_force: bool,
}

impl Explain {
    pub(crate) async fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        if self.json {
            let answer = client.call(client.get(&path(&self.event_id))).await?;
            return out::line(String::from_utf8_lossy(&answer.body).trim_end());
        }
        out::data(in_words(&client, &self.event_id, out::data_colours()).await?.as_bytes())
    }
}

/// A decision as text.
///
/// # Errors
/// There is no such conversion, or no answer.
pub(crate) async fn in_words(client: &Client, event_id: &str, colours: bool) -> Result<String> {
    let answer = client.call(client.get(&path(event_id))).await?;
    Ok(answer.json::<Decision>()?.show(event_id, colours))
}

fn path(event_id: &str) -> String {
    format!("/v1/conversions/{event_id}")
}

fn event_id(text: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) || matches!(text, "." | "..") {
        bail!("an event id has 1 to 64 of [A-Za-z0-9_.:-]");
    }
    Ok(text.to_owned())
}

// === impl Score ===

impl Score {
    fn show(&self) -> String {
        let reasons = plain(&self.reasons.join("; "));
        match self.fraud_probability {
            Some(probability) if reasons.is_empty() => format!("probability of fraud {probability:.3}\n"),
            Some(probability) => format!("probability of fraud {probability:.3}: {reasons}\n"),
            None => format!("no score: {reasons}\n"),
        }
    }
}

// === impl LifetimeValue ===

impl LifetimeValue {
    fn show(&self) -> String {
        let text = |text: &Option<String>| text.as_deref().map(plain).unwrap_or_default();
        let money = |value: Option<f64>| thousands(&format!("{:.2}", value.unwrap_or_default()));
        if self.value.is_none() {
            return format!("no lifetime value: {}\n", text(&self.reason));
        }
        format!(
            "lifetime value {} {} in {} weeks; of such persons {:.0} % from {} to {} ({} {})\n",
            money(self.value),
            text(&self.currency),
            self.horizon_weeks.unwrap_or_default(),
            self.level.unwrap_or_default() * 100.0,
            money(self.lower),
            money(self.upper),
            text(&self.model),
            text(&self.version),
        )
    }
}

// === impl Decision ===

impl Decision {
    fn show(&self, event_id: &str, colours: bool) -> String {
        let mut parts = vec![self.head(event_id), format!("{}\n", plain(&self.explanation))];
        if !self.candidates.is_empty() {
            parts.push(self.candidates().render(colours));
        }
        if let Some(score) = &self.score {
            parts.push(score.show());
        }
        if let Some(value) = &self.lifetime_value {
            parts.push(value.show());
        }
        if !self.credit.is_empty() {
            parts.push(self.credit().render(colours));
        }
        parts.push(self.editions().render(colours));
        parts.push(format!("settings {}\n", plain(&self.settings_edition)));
        parts.join("\n")
    }

    fn head(&self, event_id: &str) -> String {
        let Some(conversion) = &self.conversion else { return format!("{event_id}\n") };
        let field = |name| conversion.get(name).and_then(Value::as_str).unwrap_or_default();
        let head = format!("{event_id}: {} at {}", field("conversion"), field("timestamp"));
        match field("value") {
            "" => format!("{}\n", plain(&head)),
            value => format!("{}\n", plain(&format!("{head}, {} {}", thousands(value), field("currency")))),
        }
    }

    fn candidates(&self) -> Table {
        use Align::{Left, Right};
        let suspected = |candidate: &Candidate| {
            let probability = candidate.fraud_probability.map(|probability| format!("{probability:.3}"));
            probability.into_iter().chain(candidate.fraud.iter().cloned()).collect::<Vec<_>>().join(", ")
        };
        let any = self.candidates.iter().any(|candidate| !suspected(candidate).is_empty());
        let mut heads = vec![
            ("touch", Left),
            ("kind", Left),
            ("channel", Left),
            ("campaign", Left),
            ("time", Left),
            ("before", Right),
            ("window", Right),
            ("verdict", Left),
        ];
        if any {
            heads.push(("fraud", Left));
        }
        let mut table = Table::new(heads);
        let winner = self.winner.as_ref().and_then(|winner| winner.event_id.as_deref());
        for candidate in &self.candidates {
            let field = |name| {
                let touch = candidate.touch.as_ref();
                touch.and_then(|touch| touch.get(name)).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let mut verdict = candidate.verdict.replace('_', " ");
            if winner == Some(field("event_id").as_str()) {
                verdict.push_str(", the winner");
            }
            let sign = if candidate.age_millis < 0 { "-" } else { "" };
            let before = format!("{sign}{}", model::duration::words(candidate.age_millis));
            let window = model::duration::words(candidate.window_millis);
            let fields = ["event_id", "event_type", "channel", "campaign_id", "timestamp"].map(field);
            let fraud = any.then(|| suspected(candidate));
            table.row(fields.into_iter().chain([before, window, verdict]).chain(fraud));
        }
        table
    }

    fn credit(&self) -> Table {
        // In the order of the path; organic, and what is no candidate, after it.
        let ids = self.candidates.iter().map(|candidate| candidate.touch.as_ref()?.get("event_id")?.as_str());
        let credited = |id: &Option<&str>| {
            self.credit
                .iter()
                .flat_map(|credit| &credit.touches)
                .any(|share| share.event_id.as_deref() == *id)
        };
        let mut touches: Vec<Option<&str>> = ids.filter(|id| id.is_some() && credited(id)).collect();
        for share in self.credit.iter().flat_map(|credit| &credit.touches) {
            if !touches.contains(&share.event_id.as_deref()) {
                touches.push(share.event_id.as_deref());
            }
        }
        let models = self.credit.iter().map(|credit| (credit.model.clone(), Align::Right));
        let mut table = Table::new(std::iter::once(("credit".to_owned(), Align::Left)).chain(models));
        for touch in touches {
            let share = |credit: &Credit| {
                let share = credit.touches.iter().find(|share| share.event_id.as_deref() == touch);
                share.map_or_else(String::new, |share| {
                    let value = share.value.parse::<f64>().unwrap_or_default();
                    match value == 0.0 {
                        true => format!("{:.4}", share.conversions),
                        false => format!("{:.4} ({value:.2})", share.conversions),
                    }
                })
            };
            let name = touch.unwrap_or("organic").to_owned();
            table.row(std::iter::once(name).chain(self.credit.iter().map(share)));
        }
        table
    }

    fn editions(&self) -> Table {
        let mut table = Table::new([
            ("edition", Align::Right),
            ("recorded at", Align::Left),
            ("because of", Align::Left),
            ("", Align::Left),
        ]);
        for (index, edition) in self.editions.iter().enumerate() {
            let in_force = if edition.in_force { "in force" } else { "" };
            table.row([
                (index + 1).to_string(),
                edition.recorded_at.clone(),
                edition.reason.replace('_', " "),
                in_force.to_owned(),
            ]);
        }
        table
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;

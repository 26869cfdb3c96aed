//! `attribution report`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    client::{Client, Connection},
    out,
    table::{Align, Table, thousands},
};

/// How long a report is asked for again when the platform is busy, or not yet as far as it was asked to be.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a row can be measured in; everything else of a row is its model, its currency or a dimension.
const MEASURES: [&str; 4] = ["conversions", "value", "touches", "persons"];

/// Ask for a report: conversions and value by any dimension, under any models.
///
/// Models: decision, first_touch, last_touch, last_non_direct, linear, position_based, time_decay, markov, shapley; or
/// JSON with parameters, such as '{"time_decay":{"half_life":"3d"}}'.
///
/// Dimensions of the touch: channel, partner, campaign_id, ad_group_id, creative_id, keyword, event_type; of the
/// conversion: app_id, platform, country, conversion, currency, day, week, month, hour.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution report --from 2026-01-01 --to 2026-02-01 --models last_touch,linear,markov --by channel
  attribution report --from 2026-01-01 --to 2026-02-01 --models linear --by channel,week --measures conversions,persons
  attribution report --from 2026-01-01 --to 2026-02-01 --by campaign_id --filter country=DE --filter country=FR --csv
  attribution report --from 2026-01-01 --to 2026-02-01 --lookback 30d --transform remove_if_not_all=direct --json")]
pub(crate) struct Report {
    /// The first day, or a moment as 2026-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: String,
    /// The day after the last one, or a moment
    #[arg(long, value_name = "TIME")]
    to: String,
    /// The models, with commas between them, or in JSON
    #[arg(long, value_name = "MODELS", default_value = "last_touch")]
    models: Vec<String>,
    /// The dimensions, with commas between them
    #[arg(long, value_name = "DIMENSIONS", value_delimiter = ',')]
    by: Vec<String>,
    /// The measures: conversions, value, touches, persons
    #[arg(long, value_name = "MEASURES", value_delimiter = ',', default_value = "conversions,value")]
    measures: Vec<String>,
    /// Only these: a dimension and a value; several values of one dimension are alternatives
    #[arg(long, value_name = "DIMENSION=VALUE", value_parser = pair)]
    filter: Vec<(String, String)>,
    /// How old a touch may be, such as 30d; without it as it was decided
    #[arg(long, value_name = "DURATION")]
    lookback: Option<String>,
    /// Changes to the paths, in order: exposure, first, remove_if_not_all=CHANNEL, remove_if_last_and_not_all=CHANNEL
    #[arg(long, value_name = "TRANSFORM")]
    transform: Vec<String>,
    /// As it was known at this moment
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// The most rows, 1 to 100000 [default: 1000]
    #[arg(long, value_name = "ROWS")]
    limit: Option<u32>,
    /// Wait until everything acknowledged before is in the report
    #[arg(long, value_name = "WHICH", value_parser = ["acknowledged"])]
    consistency: Option<String>,
    /// Answer in JSON, as the API gives it
    #[arg(long)]
    json: bool,
    /// Answer in CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    connection: Connection,
}

/// The answer, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(crate) struct Reported {
    pub(crate) rows: Vec<Map<String, Value>>,
    pub(crate) totals: Vec<Map<String, Value>>,
    method: Method,
    truncated: bool,
    pub(crate) query_ms: f64,
}

#[derive(Debug, Deserialize)]
struct Method {
    complete_through: String,
    #[serde(default)]
    notes: Vec<String>,
}

// === impl Report ===

impl Report {
    pub(crate) async fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        let mut path = String::from("/v1/reports?format=");
        path.push_str(if self.csv { "csv" } else { "json" });
        if let Some(consistency) = &self.consistency {
            path.extend(["&consistency=", consistency]);
        }
        let answer = ask(&client, &path, &self.question()?, PATIENCE).await?;
        if self.csv {
            if answer.headers.get("x-truncated").is_some_and(|value| value == "true") {
                out::note("there are more rows: give a greater --limit");
            }
            return out::data(&answer.body);
        }
        let reported: Reported = answer.json()?;
        if self.json {
            out::line(String::from_utf8_lossy(&answer.body).trim_end())?;
        } else {
            out::data(reported.show(&self.by, out::data_colours()).as_bytes())?;
        }
        reported.notes();
        Ok(())
    }

    fn question(&self) -> Result<Value> {
        let mut question = json!({ "from": self.from, "to": self.to, "measures": self.measures });
        let mut models = Vec::new();
        for text in &self.models {
            models.extend(read_models(text)?);
        }
        question["models"] = models.into();
        if !self.by.is_empty() {
            question["dimensions"] = json!(self.by);
        }
        let mut filters: Vec<(&str, Vec<&str>)> = Vec::new();
        for (dimension, value) in &self.filter {
            match filters.iter_mut().find(|(name, _)| name == dimension) {
                Some((_, values)) => values.push(value),
                None => filters.push((dimension, vec![value])),
            }
        }
        if !filters.is_empty() {
            let filter = |(name, values): &(&str, Vec<&str>)| json!({ "dimension": name, "in": values });
            question["filters"] = filters.iter().map(filter).collect();
        }
        if !self.transform.is_empty() {
            let transform = |text: &String| match text.split_once('=') {
                Some((name, value)) => json!({ name: value }),
                None => json!(text),
            };
            question["path_transforms"] = self.transform.iter().map(transform).collect();
        }
        for (name, value) in [("lookback", &self.lookback), ("as_of", &self.as_of)] {
            if let Some(value) = value {
                question[name] = json!(value);
            }
        }
        if let Some(limit) = self.limit {
            question["limit"] = limit.into();
        }
        Ok(question)
    }
}

/// Asks for a report until it is answered; the path may carry parameters.
///
/// # Errors
/// The question is refused, or there is no answer within the patience.
pub(crate) async fn ask(
    client: &Client,
    path: &str,
    question: &Value,
    patience: Duration,
) -> Result<crate::client::Answer> {
    let body = Bytes::from(question.to_string());
    Ok(client.persist(patience, |_| false, || client.post(path, body.clone())).await?)
}

// === impl Reported ===

impl Reported {
    fn notes(&self) {
        if self.truncated {
            out::note("there are more rows: give a greater --limit");
        }
        for note in &self.method.notes {
            out::note(crate::table::plain(note));
        }
        out::note(format!("complete through {}, {:.1} ms", self.method.complete_through, self.query_ms));
    }

    /// A table for each measure with the models side by side where there are several and one dimension; otherwise the
    /// rows as they are.
    fn show(&self, by: &[String], colours: bool) -> String {
        let Some(first) = self.rows.first() else { return "no rows: no conversion fits\n".to_owned() };
        let models = self.models();
        if by.len() == 1 && models.len() > 1 {
            let measures = MEASURES.iter().filter(|measure| first.contains_key(**measure));
            let tables = measures.map(|measure| self.side_by_side(&by[0], measure, &models).render(colours));
            return tables.collect::<Vec<_>>().join("\n");
        }
        let columns = first.keys().map(|name| (name.as_str(), align(name)));
        let mut table = Table::new(columns);
        for row in &self.rows {
            table.row(first.keys().map(|name| shown(name, row.get(name))));
        }
        table.rule();
        for total in &self.totals {
            let cell = |(index, name): (usize, &String)| match total.get(name) {
                None if index == 1 => "total".to_owned(),
                found => shown(name, found),
            };
            table.row(first.keys().enumerate().map(cell));
        }
        table.render(colours)
    }

    /// The models in the order in which their totals, or else their rows, come.
    pub(crate) fn models(&self) -> Vec<&str> {
        let mut models: Vec<&str> = Vec::new();
        for row in self.totals.iter().chain(&self.rows) {
            let model = text(row, "model");
            if !models.contains(&model) {
                models.push(model);
            }
        }
        models
    }

    fn side_by_side(&self, dimension: &str, measure: &str, models: &[&str]) -> Table {
        let key = |row| (text(row, dimension), text(row, "currency"));
        let mut keys: Vec<(&str, &str)> = Vec::new();
        for row in &self.rows {
            if !keys.contains(&key(row)) {
                keys.push(key(row));
            }
        }
        let mut currencies: Vec<&str> = Vec::new();
        for row in &self.totals {
            if !currencies.contains(&text(row, "currency")) {
                currencies.push(text(row, "currency"));
            }
        }
        let name = match (dimension, currencies.as_slice()) {
            ("currency", _) | (_, []) | (_, [""]) => measure.to_owned(),
            (_, [currency]) if measure == "value" => format!("{measure}, {currency}"),
            _ => measure.to_owned(),
        };
        let label = |value: &str, currency: &str| match currencies.len() > 1 && dimension != "currency" {
            true => format!("{value} {currency}"),
            false => value.to_owned(),
        };
        let models_right = models.iter().map(|model| ((*model).to_owned(), Align::Right));
        let mut table = Table::new(std::iter::once((name, Align::Left)).chain(models_right));
        for (value, currency) in keys {
            let cell = |model: &&str| {
                let found = self
                    .rows
                    .iter()
                    .find(|row| text(row, "model") == *model && key(row) == (value, currency));
                shown(measure, found.and_then(|row| row.get(measure)))
            };
            table.row(std::iter::once(label(value, currency)).chain(models.iter().map(cell)));
        }
        table.rule();
        for &currency in &currencies {
            let cell = |model: &&str| {
                let fits = |row: &&Map<String, Value>| {
                    text(row, "model") == *model && text(row, "currency") == currency
                };
                shown(measure, self.totals.iter().find(fits).and_then(|row| row.get(measure)))
            };
            table.row(std::iter::once(label("total", currency)).chain(models.iter().map(cell)));
        }
        table
    }
}

fn text<'a>(row: &'a Map<String, Value>, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn align(name: &str) -> Align {
    if MEASURES.contains(&name) { Align::Right } else { Align::Left }
}

/// Figures for people have two decimals; --json and --csv have all of them.
fn shown(name: &str, value: Option<&Value>) -> String {
    let number = match value {
        None | Some(Value::Null) => return String::new(),
        Some(Value::String(text)) if !MEASURES.contains(&name) => return text.clone(),
        Some(Value::String(text)) => text.parse::<f64>().ok(),
        Some(other) => other.as_f64(),
    };
    match (number, name) {
        (Some(number), "conversions" | "value") => thousands(&format!("{number:.2}")),
        (Some(number), _) => thousands(&format!("{number:.0}")),
        (None, _) => value.map(Value::to_string).unwrap_or_default(),
    }
}

fn read_models(text: &str) -> Result<Vec<Value>> {
    let text = text.trim();
    if text.starts_with(['{', '[']) {
        let value: Value = serde_json::from_str(text).context("--models: not JSON")?;
        return Ok(match value {
            Value::Array(models) => models,
            model => vec![model],
        });
    }
    let names: Vec<Value> = text.split(',').map(|name| json!(name.trim())).collect();
    if names.iter().any(|name| name == "") {
        bail!("--models: a name is empty in {text:?}");
    }
    Ok(names)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((dimension, value)) if !dimension.is_empty() => Ok((dimension.to_owned(), value.to_owned())),
        _ => Err("write DIMENSION=VALUE, such as country=DE".to_owned()),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;

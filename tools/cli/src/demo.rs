//! `attribution demo`: the whole way of 88,387 real journeys, on a platform of its own, against published figures.

mod compare;
mod fraud;
mod platform;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::{Client, Connection},
    explain,
    import::{Imported, send_table},
    out,
    paths::{BASE_TIME_DEFAULT, Counts, PathTable},
    progress::{Progress, rate},
    report::{self, Reported},
    table::thousands,
};
use compare::Expected;
use platform::Platform;

const MODELS: [&str; 7] =
    ["first_touch", "last_touch", "linear", "position_based", "time_decay", "markov", "shapley"];

/// How long the report may be behind what was sent.
const REPORTED_PATIENCE: Duration = Duration::from_secs(900);

/// Attribute 88,387 real journeys from beginning to end, and compare with published figures.
///
/// Starts a platform on a new data folder, sends the journeys through the public API, waits until they are reported,
/// compares seven models on twelve channels with the expected figures, explains one conversion, shows what becomes of a
/// small simulated stream with fraud in it, and stops what it started. The data stay to be explored. With --running it does the same on a platform that runs already, which must
/// hold no other events of the tenant at that time.
///
/// The exit code is not zero when a figure is off.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution demo
  attribution demo --out /tmp/demo
  attribution demo --running --url https://attribution.example --key ak_…")]
pub(crate) struct Demo {
    /// The journeys: a table path,conversions,value,nulls
    #[arg(long, value_name = "FILE", default_value = "libs/model/tests/data/pathdata.csv")]
    data_file: PathBuf,
    /// The expected figures: model,channel,conversions,value
    #[arg(long, value_name = "FILE", default_value = "libs/model/tests/data/pathdata_expected.csv")]
    expected: PathBuf,
    /// The folder for report.json, the log and the data, which are made anew
    #[arg(long, value_name = "FOLDER", default_value = "target/demo")]
    out: PathBuf,
    /// Use the platform at --url instead of starting one
    #[arg(long)]
    running: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<()> {
        let base = BASE_TIME_DEFAULT.parse()?;
        let open =
            |path: &Path| fs::File::open(path).with_context(|| format!("cannot open {}", path.display()));
        let table = PathTable::read(open(&self.data_file)?, base)
            .with_context(|| self.data_file.display().to_string())?;
        let expected =
            Expected::read(open(&self.expected)?).with_context(|| self.expected.display().to_string())?;
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        if self.running {
            return self.steps(&self.connection.client()?, &table, &expected).await;
        }
        let mut platform = Platform::launch(&self.out)?;
        // Whatever happens, the platform is stopped before anything is said of it.
        let result = tokio::select! {
            result = self.start_and_take(&mut platform, &table, &expected) => result,
            signal = platform::interrupted() => signal.and_then(|name| bail!("stopped by {name}")),
        };
        let stopped = platform.stop().await;
        if result.is_err() {
            platform.show_log();
        }
        result?;
        stopped?;
        out::line(format!(
            "\nEvery figure agrees. To explore further:\n  {} serve --data {}",
            program(),
            platform.data().display()
        ))
    }

    async fn start_and_take(
        &self,
        platform: &mut Platform,
        table: &PathTable,
        expected: &Expected,
    ) -> Result<()> {
        let progress = Progress::new("starting", None);
        let client = progress.during(platform.ready()).await?;
        let started = progress.finish();
        out::line(format!("started in {:.1} s at {}", started.as_secs_f64(), client.url()))?;
        self.steps(&client, table, expected).await?;
        fraud::show(&client, platform.data()).await
    }

    async fn steps(&self, client: &Client, table: &PathTable, expected: &Expected) -> Result<()> {
        let counts = table.counts();
        send(client, table, counts).await?;
        let (from, to) = table.span();
        let span = (from.to_string(), to.to_string());
        wait(client, &span, counts).await?;
        let (reported, time) = run_report(client, &span).await?;
        out::line(format!(
            "reported {} models in {:.0} ms ({:.0} ms in the platform)\n",
            MODELS.len(),
            time.as_secs_f64() * 1_000.0,
            reported.query_ms
        ))?;
        let compared = expected.compare(&reported, &MODELS)?;
        out::data(compared.show(out::data_colours()).as_bytes())?;
        write_report(&self.out.join("report.json"), &compared)?;
        check_totals(&reported, counts)?;
        compared.verdict()?;
        let Some(conversion) = table.conversion_with_touches(4) else { return Ok(()) };
        let words = explain::in_words(client, &conversion, out::data_colours()).await?;
        out::line(format!(
            "\nOne conversion explained (attribution explain {conversion}):\n\n{}",
            words.trim_end()
        ))
    }
}

async fn send(client: &Client, table: &PathTable, counts: Counts) -> Result<()> {
    let mut imported = Imported::default();
    let result = send_table(client, table, &mut imported).await;
    let Imported { tally, time } = imported;
    if let Some(first) = tally.rejections.first() {
        bail!("{} events were rejected, the first of row {}: {}", tally.rejected, first.place, first.reason);
    }
    result?;
    let events = counts.touches + counts.conversions;
    if tally.accepted != events {
        bail!("{} of {events} events were accepted", tally.accepted);
    }
    let count = |n: u64| thousands(&n.to_string());
    out::line(format!(
        "sent {} journeys ({} touches, {} conversions) in {:.1} s, {} events",
        count(counts.journeys),
        count(counts.touches),
        count(counts.conversions),
        time.as_secs_f64(),
        rate(events, time),
    ))
}

/// Waits until everything sent is in the reports.
async fn wait(client: &Client, span: &(String, String), counts: Counts) -> Result<()> {
    let question = json!({ "from": span.0, "to": span.1, "models": ["last_touch"], "dimensions": ["channel"], "measures": ["conversions"] });
    let progress = Progress::new("waiting until all of it is reported", None);
    let path = "/v1/reports?consistency=acknowledged";
    let answer = progress.during(report::ask(client, path, &question, REPORTED_PATIENCE)).await;
    let time = progress.finish();
    answer?;
    let count = thousands(&counts.conversions.to_string());
    out::line(format!("{count} conversions decided and reported after {:.1} s more", time.as_secs_f64()))
}

async fn run_report(client: &Client, span: &(String, String)) -> Result<(Reported, Duration)> {
    let question = json!({
        "from": span.0, "to": span.1, "models": MODELS, "dimensions": ["channel"],
        "measures": ["conversions", "value"], "lookback": "90d",
    });
    let progress = Progress::new("reporting", None);
    let answer =
        progress.during(report::ask(client, "/v1/reports", &question, Duration::from_secs(60))).await;
    let time = progress.finish();
    Ok((answer?.json()?, time))
}

/// Each model must credit every conversion, and all of the value, exactly.
fn check_totals(reported: &Reported, counts: Counts) -> Result<()> {
    let value = model::money::format_micros(counts.value_micros);
    for model in MODELS {
        let found = reported.totals.iter().find(|row| row.get("model").is_some_and(|name| name == model));
        let total = found.with_context(|| format!("no total of {model} in the report"))?;
        let conversions = total.get("conversions").and_then(Value::as_f64);
        let given = total.get("value").and_then(Value::as_str);
        if conversions != Some(counts.conversions as f64) || given != Some(&value) {
            bail!(
                "the total of {model} is {conversions:?} conversions and {given:?}, not {} and {value}",
                counts.conversions
            );
        }
    }
    let conversions = thousands(&counts.conversions.to_string());
    out::line(format!("\ntotals of every model: {conversions} conversions, {} EUR: exact", thousands(&value)))
}

fn write_report(path: &Path, compared: &compare::Compared) -> Result<()> {
    let rows: Vec<Value> = compared
        .figures()
        .map(|(model, channel, figures)| {
            json!({ "model": model, "channel": channel, "conversions": figures.conversions, "value": figures.value })
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&rows)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "attribution".to_owned())
}

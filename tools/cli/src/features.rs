//! `attribution features`.

use anyhow::{Context, Result, bail};
use attribution_service::features::{EXPORT_EVENTS_MAX, export, export_values};
use clap::{Args, Subcommand, ValueEnum};
use ingestion::{
    encode::{self, Stamp},
    event::EventRef,
    parse::{self, Items},
    validate,
};
use jiff::Timestamp;
use model::{
    Rules,
    features::{NAMES, VALUE_NAMES},
};
use prost::Message;
use proto::events::Event;

use crate::{
    out,
    source::{Format, Item, Source},
};

/// What the models of fraud and of lifetime value look at.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution features export events.ndjson.gz > features.csv
  attribution features export --of value events.ndjson.gz > values.csv")]
pub(crate) struct Features {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compute the features of past conversions, to train a model with
    Export(Export),
}

/// Compute the features of past conversions, to train a model with.
///
/// Reads events from files, such as those that were imported, and writes for the model of fraud a line for each
/// conversion that a touch won under the default rules: `conversion_id`, `touch_id`, then the features by name. A cell is
/// empty where a feature is not known. For the model of lifetime value it writes a line for each conversion whose person
/// had bought something by then: `conversion_id`, then the features by name. They are computed by the same code as when a
/// decision asks for a score.
///
/// All events are kept in memory, at most 10,000,000. A single one that breaks the rules ends the command.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution features export events.ndjson.gz > features.csv
  attribution features export --of value events.ndjson.gz > values.csv")]
struct Export {
    /// The files; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// How the files are written, whatever their ending
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The model that looks at them
    #[arg(long, value_enum, default_value_t = Of::Fraud)]
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    Fraud,
    Value,
}

impl Features {
    pub(crate) async fn run(self) -> Result<()> {
        let Command::Export(Export { files, format, of }) = self.command;
        let mut events = Vec::new();
        for file in &files {
            read(file, format, &mut events)?;
        }
        let mut table = String::new();
        match of {
            Of::Fraud => {
                table.push_str(&format!("conversion_id,touch_id,{}\n", NAMES.join(",")));
                for example in export(events, &Rules::default()).await? {
                    let ids = format!("{},{}", example.conversion_id, example.touch_id);
                    add_line(&mut table, ids, example.features);
                }
            }
            Of::Value => {
                table.push_str(&format!("conversion_id,{}\n", VALUE_NAMES.join(",")));
                for example in export_values(events).await? {
                    add_line(&mut table, example.conversion_id, example.features.map(Some));
                }
            }
        }
        out::data(table.as_bytes())
    }
}

fn read(file: &str, format: Option<Format>, events: &mut Vec<Event>) -> Result<()> {
    let now_millis = Timestamp::now().as_millisecond();
    for item in Source::open(file, format)?.into_items()? {
        match item? {
            Item::Event { place, json } => {
                if events.len() == EXPORT_EVENTS_MAX {
                    bail!("{file}: more than {EXPORT_EVENTS_MAX} events");
                }
                let event = event(&json, now_millis).with_context(|| format!("{file}, {place}"))?;
                events.push(event);
            }
            Item::Bad { place, reason } => bail!("{file}, {place}: {reason}"),
        }
    }
    Ok(())
}

/// An event as ingestion would have taken it in.
fn event(json: &str, now_millis: i64) -> Result<Event> {
    let unreadable = |error: parse::Unreadable| anyhow::anyhow!("{}", error.reason);
    let rejected = |why: ingestion::event::Rejection| anyhow::anyhow!("{}", why.reason);
    let mut items = Items::new(json.as_bytes(), parse::Format::Json).map_err(unreadable)?;
    let mut event = EventRef::default();
    let form = items.next(&mut event).map_err(unreadable)?.context("there is no event")?;
    form.map_err(rejected)?;
    let checked = validate::validate(&event, now_millis).map_err(rejected)?;
    let event_id = event.text(ingestion::event::Field::EventId).unwrap_or_default();
    let mut encoded = Vec::new();
    let currency = Rules::default().currency;
    encode::event(&mut encoded, &event, &checked, &Stamp { event_id, currency: &currency });
    Ok(Event::decode(encoded.as_slice())?)
}

/// Ids have no comma and no quote, so nothing needs a quote.
fn add_line<const N: usize>(table: &mut String, ids: String, features: [Option<f64>; N]) {
    table.push_str(&ids);
    for value in features {
        table.push(',');
        if let Some(value) = value {
            table.push_str(&value.to_string());
        }
    }
    table.push('\n');
}

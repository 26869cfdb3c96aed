//! `attribution import`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use jiff::Timestamp;

use crate::{
    client::{Client, Connection},
    out,
    paths::{BASE_TIME_DEFAULT, PathTable},
    progress::{self, Progress},
    send::{Tally, send_all},
    source::{Format, Item, Source},
    table::{plain, thousands},
};

/// Send events from files: NDJSON, JSON, CSV, or a table of paths.
///
/// The format follows the ending (.ndjson, .jsonl, .json, .csv, each also with .gz) or the first byte.
/// A CSV file has a header with the names of the fields; an empty cell is an absent field.
/// An event without an event_id gets one that follows from its content and its line, so importing a file twice, or
/// again after an interruption, counts nothing twice.
///
/// With --paths a file is a table `path,conversions,value,nulls`, a path being `first > second > third`: each
/// conversion and each null becomes a person with these touches, one hour apart, the last one an hour before the
/// conversion.
///
/// The exit code is not zero when an event was rejected.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  attribution import events.ndjson.gz more.csv
  zcat events.gz | attribution import - --format ndjson
  attribution import --paths paths.csv --base-time 2026-03-10T00:00:00Z")]
pub(crate) struct Import {
    /// The files; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
    /// How the files are written, whatever their ending
    #[arg(long, value_enum, conflicts_with = "paths")]
    format: Option<Format>,
    /// The files are tables of paths
    #[arg(long)]
    paths: bool,
    /// With --paths: the moment of the first conversion; the others follow a second apart
    #[arg(long, value_name = "TIME", default_value = BASE_TIME_DEFAULT)]
    base_time: Timestamp,
    #[command(flatten)]
    connection: Connection,
}

/// What became of a file.
#[derive(Default)]
pub(crate) struct Imported {
    pub(crate) tally: Tally,
    pub(crate) time: Duration,
}

impl Import {
    pub(crate) async fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        client.reach().await?;
        let mut rejected = 0;
        for file in &self.files {
            let mut imported = Imported::default();
            let result = if self.paths {
                import_paths(&client, file, self.base_time, &mut imported).await
            } else {
                import_events(&client, file, self.format, &mut imported).await
            };
            report(file, self.paths, &imported)?;
            result.with_context(|| {
                format!("{file}: not all of it was sent; once that is put right, the same command sends the rest and counts nothing twice")
            })?;
            rejected += imported.tally.rejected;
        }
        if rejected > 0 {
            bail!("rejected events: {}", thousands(&rejected.to_string()));
        }
        Ok(())
    }
}

/// Sends a table of paths.
///
/// # Errors
/// Not all of it could be sent.
pub(crate) async fn send_table(client: &Client, table: &PathTable, imported: &mut Imported) -> Result<()> {
    let counts = table.counts();
    let progress = Progress::new("sending", Some(counts.touches + counts.conversions));
    let made = Arc::new(AtomicU64::new(0));
    let counter = made.clone();
    let items = table.events().map(move |(place, json)| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(Item::Event { place, json })
    });
    let position = move || made.load(Ordering::Relaxed);
    let result = send_all(client, items, position, &progress, &mut imported.tally).await;
    imported.time = progress.finish();
    result
}

async fn import_paths(client: &Client, file: &str, base: Timestamp, imported: &mut Imported) -> Result<()> {
    let table = PathTable::read(Source::open(file, None)?.into_reader(), base)?;
    let counts = table.counts();
    out::note(format!(
        "{file}: {} journeys, {} touches, {} conversions",
        thousands(&counts.journeys.to_string()),
        thousands(&counts.touches.to_string()),
        thousands(&counts.conversions.to_string()),
    ));
    send_table(client, &table, imported).await?;
    let (from, to) = table.span();
    out::note(format!(
        "To see them: attribution report --from {from} --to {to} --lookback 90d --models linear,markov --by channel"
    ));
    Ok(())
}

async fn import_events(
    client: &Client,
    file: &str,
    format: Option<Format>,
    imported: &mut Imported,
) -> Result<()> {
    let source = Source::open(file, format)?;
    let progress = Progress::new(&source.name, source.bytes);
    let read = source.read.clone();
    let position = move || read.load(Ordering::Relaxed);
    let result = send_all(client, source.into_items()?, position, &progress, &mut imported.tally).await;
    imported.time = progress.finish();
    result
}

fn report(file: &str, paths: bool, imported: &Imported) -> Result<()> {
    let Imported { tally, time } = imported;
    let word = if paths { "row" } else { "line" };
    for rejection in &tally.rejections {
        out::note(format!("{file}: {word} {}: {}", rejection.place, plain(&rejection.reason)));
    }
    let more = tally.rejected - tally.rejections.len() as u64;
    if more > 0 {
        out::note(format!("{file}: and {} more", thousands(&more.to_string())));
    }
    let count = |n: u64| thousands(&n.to_string());
    out::line(format!(
        "{file}: {} accepted, {} duplicate, {} rejected in {:.1} s ({})",
        count(tally.accepted),
        count(tally.duplicate),
        count(tally.rejected),
        time.as_secs_f64(),
        progress::rate(tally.events(), *time),
    ))
}

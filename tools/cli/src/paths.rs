//! A table of paths as events: `path,conversions,value,nulls`, a path being `first > second > third`.
//!
//! Each conversion and each null of a row is a person of its own with the row's touches, one hour apart, the last one
//! an hour before the conversion, or before where it would be. Persons follow each other by a second. Ids follow from
//! the row's number and path, so the same table again names the same events.

use std::{io::Read, iter, sync::Arc};

use anyhow::{Context, Result, bail};
use jiff::{Timestamp, ToSpan, civil, tz::TimeZone};
use model::money;

use crate::{rows::Rows, source::quoted};

/// The conversion of the first person, unless another moment is given: so late in the month that paths of up to 96
/// touches lie wholly within it.
pub(crate) const BASE_TIME_DEFAULT: &str = "2026-01-05T00:00:00Z";

/// The longest path: of more touches only the newest would count.
pub(crate) const PATH_TOUCHES_MAX: usize = 1_000;

/// The longest name of a channel.
const CHANNEL_BYTES_MAX: usize = 256;

/// Conversions lie within this time after the first one; further persons begin from the front again.
const SPREAD_SECONDS: u64 = 20 * 86_400;

const HOUR_MILLIS: i64 = 3_600_000;
const CURRENCY: &str = "EUR";
const COLUMNS: [&str; 4] = ["path", "conversions", "value", "nulls"];

/// A table, read and checked.
#[derive(Debug, Clone)]
pub(crate) struct PathTable {
    rows: Vec<Arc<Row>>,
    base_millis: i64,
}

#[derive(Debug)]
struct Row {
    /// What the ids of its events begin with.
    id: String,
    /// As strings of JSON.
    channels: Vec<String>,
    conversions: u64,
    value_micros: i64,
    nulls: u64,
}

/// What a table amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) journeys: u64,
    pub(crate) touches: u64,
    pub(crate) conversions: u64,
    pub(crate) value_micros: i128,
}

// === impl PathTable ===

impl PathTable {
    /// Reads a table whose first conversion is at the base time.
    ///
    /// # Errors
    /// A column is missing or a row is wrong; the line and the column are named.
    pub(crate) fn read(reader: impl Read, base: Timestamp) -> Result<Self> {
        let mut table = Rows::new(reader);
        let names = table.names()?;
        let column = |name| {
            let found = names.iter().position(|given| given == name);
            found.with_context(|| {
                format!("line 1: no column {name}; a table of paths has {}", COLUMNS.join(","))
            })
        };
        let [path, conversions, value, nulls] = COLUMNS.map(column);
        let columns = [path?, conversions?, value?, nulls?];
        let mut rows = Vec::new();
        for (number, row) in (1_u64..).zip(table) {
            let row = row?;
            let line = row.position().map_or(0, csv::Position::line);
            let cells = columns.map(|column| row.get(column).unwrap_or_default().trim());
            rows.push(Arc::new(Row::read(number, cells).with_context(|| format!("line {line}"))?));
        }
        Ok(Self { rows, base_millis: base.as_millisecond() })
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for row in &self.rows {
            let persons = row.conversions + row.nulls;
            counts.journeys += persons;
            counts.touches += persons * row.channels.len() as u64;
            counts.conversions += row.conversions;
            counts.value_micros += i128::from(row.value_micros);
        }
        counts
    }

    /// All events as JSON, person by person, with the number of the row.
    pub(crate) fn events(&self) -> impl Iterator<Item = (u64, String)> + Send + use<> {
        let base_millis = self.base_millis;
        let persons = (1_u64..).zip(self.rows.clone()).flat_map(|(number, row)| {
            let values = money::split_evenly(row.value_micros, row.conversions).map(Some);
            let all = values.chain(iter::repeat_n(None, row.nulls as usize));
            (1_u64..).zip(all).map(move |(nth, value)| {
                let person = match value {
                    Some(_) => format!("{}-c{nth}", row.id),
                    None => format!("{}-n{}", row.id, nth - row.conversions),
                };
                (number, row.clone(), person, value)
            })
        });
        (0_u64..).zip(persons).flat_map(move |(nth, (number, row, person, value))| {
            let moment = base_millis + (nth % SPREAD_SECONDS) as i64 * 1_000;
            row.events(&person, value, moment).into_iter().map(move |json| (number, json))
        })
    }

    /// The dates from and to which a report shows every conversion with its whole path, in UTC.
    pub(crate) fn span(&self) -> (civil::Date, civil::Date) {
        let longest = self.rows.iter().map(|row| row.channels.len()).max().unwrap_or_default() as i64;
        let persons = self.counts().journeys.clamp(1, SPREAD_SECONDS) as i64;
        let date = |millis| {
            let moment = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
            moment.to_zoned(TimeZone::UTC).date()
        };
        let last = date(self.base_millis + (persons - 1) * 1_000);
        (date(self.base_millis - longest * HOUR_MILLIS), last.saturating_add(1.day()))
    }

    /// A conversion that at least so many touches led to.
    pub(crate) fn conversion_with_touches(&self, touches: usize) -> Option<String> {
        let row = self.rows.iter().find(|row| row.conversions > 0 && row.channels.len() >= touches)?;
        Some(format!("{}-c1", row.id))
    }
}

// === impl Row ===

impl Row {
    fn read(number: u64, [path, conversions, value, nulls]: [&str; 4]) -> Result<Self> {
        let count = |name: &str, text: &str| {
            let count = text.parse::<u32>().map(u64::from);
            count.with_context(|| format!("{name}: must be a whole number up to {}, not {text:?}", u32::MAX))
        };
        let channels: Vec<&str> = path.split('>').map(str::trim).collect();
        if channels.iter().any(|channel| channel.is_empty() || channel.len() > CHANNEL_BYTES_MAX) {
            bail!("path: between two \">\" stands a channel of 1 to {CHANNEL_BYTES_MAX} bytes, not {path:?}");
        }
        if channels.len() > PATH_TOUCHES_MAX {
            bail!("path: {} touches; at most {PATH_TOUCHES_MAX} count", channels.len());
        }
        let conversions = count("conversions", conversions)?;
        let nulls = count("nulls", nulls)?;
        let value_micros = money::parse_micros(value).with_context(|| format!("value: {value:?}"))?;
        if value_micros != 0 && conversions == 0 {
            bail!("value: {value} without a conversion to carry it");
        }
        let digest = blake3::hash(channels.join(" > ").as_bytes()).to_hex();
        let id = format!("p{number}-{}", &digest[..8]);
        let channels = channels.into_iter().map(quoted).collect();
        Ok(Self { id, channels, conversions, value_micros, nulls })
    }

    /// One person's events: the touches, then the conversion if there is one.
    fn events(&self, person: &str, value: Option<i64>, moment_millis: i64) -> Vec<String> {
        let touches = self.channels.len() as i64;
        let touch = |(nth, channel): (i64, &String)| {
            let timestamp = moment_millis - (touches + 1 - nth) * HOUR_MILLIS;
            format!(
                r#"{{"event_id":"{person}-t{nth}","event_type":"click","timestamp":{timestamp},"device_id":"{person}","channel":{channel}}}"#
            )
        };
        let conversion = value.map(|micros| {
            let value = money::format_micros(i128::from(micros));
            format!(
                r#"{{"event_id":"{person}","event_type":"conversion","timestamp":{moment_millis},"device_id":"{person}","value":"{value}","currency":"{CURRENCY}"}}"#
            )
        });
        (1..).zip(&self.channels).map(touch).chain(conversion).collect()
    }
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;

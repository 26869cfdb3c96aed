//! Events out of files: NDJSON, JSON and CSV, one JSON object each, with the place it came from.
//!
//! What an event may hold is the platform's to judge; here an object is only cut out, and named if it has no name.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::rows::Rows;

/// The longest line: far past the largest event, so that the platform says what is wrong with one that is too large.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// The largest document of JSON, which is read as a whole.
const DOCUMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The byte order mark that some programs begin a text with.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The columns that a CSV file may have: the fields of an event.
#[rustfmt::skip]
const FIELDS: [&str; 24] = [
    "event_id", "event_type", "timestamp", "device_id", "cookie_id", "user_id", "click_id", "app_id", "platform",
    "channel", "partner", "campaign_id", "ad_group_id", "creative_id", "keyword", "sub_publisher", "country",
    "conversion", "value", "currency", "install_begin", "ip", "user_agent", "properties",
];

/// How the events of a file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One object a line
    Ndjson,
    /// One object, or an array of objects
    Json,
    /// A header with the names of the fields, then a line for each event
    Csv,
}

/// What stands at one place of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// An event as JSON, with an id.
    Event { place: u64, json: String },
    /// Nothing that could be sent.
    Bad { place: u64, reason: String },
}

/// The items of a file, in order.
pub(crate) type Items = Box<dyn Iterator<Item = Result<Item>> + Send>;

/// A file, or standard input.
pub(crate) struct Source {
    /// How it is called in messages.
    pub(crate) name: String,
    /// Its size, if it has one.
    pub(crate) bytes: Option<u64>,
    /// How much of it was read so far.
    pub(crate) read: Arc<AtomicU64>,
    reader: Box<dyn BufRead + Send>,
    format: Option<Format>,
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

// === impl Source ===

impl Source {
    /// Opens a file; `-` is standard input. What ends in `.gz` is unpacked. The format follows the ending unless given.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(crate) fn open(path: &str, format: Option<Format>) -> Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        if path == "-" {
            let reader = Box::new(BufReader::new(Counted { inner: io::stdin(), read: read.clone() }));
            return Ok(Self { name: "standard input".to_owned(), bytes: None, read, reader, format });
        }
        let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
        let meta = file.metadata().with_context(|| format!("cannot open {path}"))?;
        if meta.is_dir() {
            bail!("{path} is a folder: name its files");
        }
        let plain = BufReader::with_capacity(256 * 1024, Counted { inner: file, read: read.clone() });
        let lower = path.to_ascii_lowercase();
        let (stem, reader): (_, Box<dyn BufRead + Send>) = match lower.strip_suffix(".gz") {
            Some(stem) => (stem, Box::new(BufReader::with_capacity(256 * 1024, MultiGzDecoder::new(plain)))),
            None => (lower.as_str(), Box::new(plain)),
        };
        let by_name = match Path::new(stem).extension().and_then(|ending| ending.to_str()) {
            Some("csv") => Some(Format::Csv),
            Some("ndjson" | "jsonl") => Some(Format::Ndjson),
            _ => None,
        };
        let bytes = meta.is_file().then_some(meta.len());
        Ok(Self { name: path.to_owned(), bytes, read, reader, format: format.or(by_name) })
    }

    /// The content itself.
    pub(crate) fn into_reader(self) -> Box<dyn BufRead + Send> {
        self.reader
    }

    /// The events.
    ///
    /// # Errors
    /// The file cannot be read, is no JSON, or its header is wrong.
    pub(crate) fn into_items(mut self) -> Result<Items> {
        skip_mark(&mut self.reader)?;
        let format = match self.format {
            Some(format) => format,
            None => guess(&mut self.reader)?,
        };
        match format {
            Format::Ndjson => Ok(Box::new(Lines { reader: self.reader, place: 0 })),
            Format::Csv => table(self.reader),
            Format::Json => document(self.reader, DOCUMENT_BYTES_MAX),
        }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

struct Lines<R> {
    reader: R,
    place: u64,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.place += 1;
            let place = self.place;
            match self.reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line) {
                Err(error) => return Some(Err(error).with_context(|| format!("cannot read line {place}"))),
                Ok(0) => return None,
                Ok(_) => {}
            }
            let long = line.last() != Some(&b'\n') && line.len() as u64 > LINE_BYTES_MAX;
            if long {
                if let Err(error) = self.reader.skip_until(b'\n') {
                    return Some(Err(error).with_context(|| format!("cannot read line {place}")));
                }
                return Some(Ok(Item::Bad { place, reason: format!("longer than {LINE_BYTES_MAX} bytes") }));
            }
            let text = line.trim_ascii();
            if !text.is_empty() {
                return Some(Ok(named(place, text)));
            }
        }
    }
}

/// Without an ending that says it: `[` begins an array, `{` lines, anything else a CSV header.
fn guess(reader: &mut impl BufRead) -> Result<Format> {
    loop {
        let head = reader.fill_buf()?;
        if head.is_empty() {
            return Ok(Format::Ndjson);
        }
        let blanks = head.iter().take_while(|b| b.is_ascii_whitespace()).count();
        match head.get(blanks) {
            None => reader.consume(blanks),
            Some(b'[') => return Ok(Format::Json),
            // An object may be written over several lines.
            Some(b'{') => {
                let first = head[blanks..].split(|&b| b == b'\n').next().unwrap_or_default();
                let whole = serde_json::from_slice::<&RawValue>(first).is_ok();
                return Ok(if whole { Format::Ndjson } else { Format::Json });
            }
            Some(_) => return Ok(Format::Csv),
        }
    }
}

/// Skips the mark, if the text begins with it.
fn skip_mark(reader: &mut impl BufRead) -> io::Result<()> {
    if reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
        reader.consume(BYTE_ORDER_MARK.len());
    }
    Ok(())
}

/// An array, or objects one after the other. It is read as a whole.
fn document(reader: impl Read, bytes_max: u64) -> Result<Items> {
    let mut text = Vec::new();
    reader.take(bytes_max + 1).read_to_end(&mut text)?;
    if text.len() as u64 > bytes_max {
        bail!(
            "one document of JSON has at most {bytes_max} bytes; write one object a line (.ndjson) instead"
        );
    }
    let wrong = "not JSON (for one object a line, give --format ndjson)";
    let items: Vec<Item> = if text.trim_ascii_start().first() == Some(&b'[') {
        let objects: Vec<&RawValue> = serde_json::from_slice(&text).context(wrong)?;
        (1..).zip(objects).map(|(place, object)| named(place, object.get().as_bytes())).collect()
    } else {
        let objects = serde_json::Deserializer::from_slice(&text).into_iter::<Box<RawValue>>();
        let named =
            |(place, object): (u64, Result<Box<RawValue>, _>)| Ok(named(place, object?.get().as_bytes()));
        (1..).zip(objects).map(named).collect::<Result<_, serde_json::Error>>().context(wrong)?
    };
    Ok(Box::new(items.into_iter().map(Ok)))
}

fn table(reader: Box<dyn BufRead + Send>) -> Result<Items> {
    let mut rows = Rows::new(reader);
    let names = rows.names()?;
    for (index, name) in names.iter().enumerate() {
        if !FIELDS.contains(&name.as_str()) {
            let known = FIELDS.join(", ");
            bail!("line 1, column {}: {name:?} is no field of an event; the fields are {known}", index + 1);
        }
        if names[..index].contains(name) {
            bail!("line 1, column {}: {name} stands there twice", index + 1);
        }
    }
    let items = rows.map(move |row| match row {
        Ok(row) => {
            let place = row.position().map_or(0, csv::Position::line);
            Ok(match object(&names, &row) {
                Ok(json) => named(place, json.as_bytes()),
                Err(reason) => Item::Bad { place, reason },
            })
        }
        Err(error) => match (error.position().map(csv::Position::line), error.kind()) {
            (Some(place), csv::ErrorKind::UnequalLengths { expected_len, len, .. }) => {
                let reason = format!("{len} cells where the header has {expected_len}");
                Ok(Item::Bad { place, reason })
            }
            (Some(place), csv::ErrorKind::Utf8 { .. }) => {
                Ok(Item::Bad { place, reason: "not UTF-8".to_owned() })
            }
            _ => Err(error.into()),
        },
    });
    Ok(Box::new(items))
}

/// A line of a table as an object: an empty cell is an absent field.
fn object(names: &[String], row: &csv::StringRecord) -> Result<String, String> {
    let mut json = String::from("{");
    for (name, cell) in names.iter().zip(row).filter(|(_, cell)| !cell.is_empty()) {
        if json.len() > 1 {
            json.push(',');
        }
        json.extend(["\"", name, "\":"]);
        match name.as_str() {
            "timestamp" | "install_begin" if cell.parse::<i64>().is_ok_and(|n| n.to_string() == *cell) => {
                json.push_str(cell);
            }
            "properties" => {
                let value: &RawValue = serde_json::from_str(cell)
                    .map_err(|error| format!("properties: write a JSON object ({error})"))?;
                json.push_str(value.get());
            }
            _ => json.push_str(&quoted(cell)),
        }
    }
    json.push('}');
    Ok(json)
}

/// A string of JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An object with an id: where it has none, one that follows from what it says and where it stands, so that the same
/// file read again names the same events.
fn named(place: u64, text: &[u8]) -> Item {
    // An array would do for the probe, its first element being the id.
    let probe: Probe<'_> = match serde_json::from_slice(text) {
        Ok(probe) if text.first() == Some(&b'{') => probe,
        Ok(_) => return Item::Bad { place, reason: "not an object".to_owned() },
        Err(error) => return Item::Bad { place, reason: format!("not an object in JSON: {error}") },
    };
    // The parser has read all of it as UTF-8.
    let text = String::from_utf8_lossy(text);
    if probe.event_id.is_some() {
        return Item::Event { place, json: text.into_owned() };
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&place.to_be_bytes());
    hasher.update(text.as_bytes());
    let digest = hasher.finalize().to_hex();
    let rest = &text[1..];
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    Item::Event { place, json: format!("{{\"event_id\":\"i-{}\"{comma}{rest}", &digest[..32]) }
}

#[derive(Deserialize)]
struct Probe<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    event_id: Option<&'a RawValue>,
}

// An id that is `null` is the platform's to judge.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;

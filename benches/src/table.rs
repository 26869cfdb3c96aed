//! What was measured, as a table and as `target/bench/report.json`.

use std::fmt::Write as _;

use serde::Serialize;

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What `ROWS` calls it.
    pub(crate) key: &'static str,
    /// What is measured, with its unit.
    pub(crate) what: String,
    pub(crate) ours: f64,
    /// The limit, measured in the same run.
    pub(crate) proxy: Option<f64>,
    /// Ours by the proxy's.
    pub(crate) ratio: Option<f64>,
    pub(crate) target: &'static str,
    /// Whether the target is met; nothing where the row has none.
    pub(crate) met: Option<bool>,
    /// Processor seconds of one operation, in all processes of ours.
    pub(crate) cpu_seconds_per_operation: Option<f64>,
    /// The distance between the largest and the smallest round of ours, as a share of the median.
    pub(crate) spread: f64,
    /// Whatever else is worth knowing.
    pub(crate) note: String,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) at: String,
    pub(crate) cores: usize,
    /// The machine's one-minute load before the run.
    pub(crate) load_average_before: f64,
    /// The same behind it.
    pub(crate) load_average_after: f64,
    /// Sizes and times as a share of the full ones; 1 is the full run.
    pub(crate) scale: f64,
    pub(crate) seconds: f64,
    pub(crate) rows: Vec<Row>,
}

/// The rows as a table in Markdown.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = "| row | measured | ours | proxy | ratio | target | met | CPU-µs/op | spread | note |\n\
         |---|---|---:|---:|---:|---|---|---:|---:|---|\n"
        .to_owned();
    for row in rows {
        let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
        let met = row.met.map(|met| if met { "yes" } else { "**no**" }.to_owned());
        // A string takes whatever is written.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.0} % | {} |",
            row.key,
            row.what,
            number(row.ours),
            or_dash(row.proxy.map(number)),
            or_dash(row.ratio.map(|ratio| format!("{ratio:.2}"))),
            row.target,
            or_dash(met),
            or_dash(row.cpu_seconds_per_operation.map(|seconds| number(seconds * 1e6))),
            row.spread * 100.0,
            row.note,
        );
    }
    text
}

/// Three digits that count, thousands apart.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        below if below < 10.0 => 2,
        below if below < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) =
        text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut apart = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            apart.push(' ');
        }
        apart.push(digit);
    }
    match rest {
        Some(rest) => format!("{apart}.{rest}"),
        None => apart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.126, "0.13"), (12.34, "12.3"), (123.4, "123"), (1_234_567.8, "1 234 568")] {
            assert_eq!(number(value), text);
        }
    }
}

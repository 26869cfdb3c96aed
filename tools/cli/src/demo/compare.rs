//! A report against expected figures.

use std::{collections::BTreeMap, io::Read};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    report::Reported,
    table::{Align, Table, thousands},
};

/// How far a figure may be off.
const CONVERSIONS_OFF_MAX: f64 = 1e-5;
const VALUE_OFF_MAX: f64 = 1e-3;

/// Credited conversions and value of a model and a channel.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Figures {
    pub(super) conversions: f64,
    pub(super) value: f64,
}

/// The expected figures by model and channel.
#[derive(Debug)]
pub(super) struct Expected(BTreeMap<(String, String), Figures>);

/// Both, side by side; what one of them does not have is 0 there.
#[derive(Debug)]
pub(super) struct Compared {
    models: Vec<String>,
    channels: Vec<String>,
    /// Found and expected.
    figures: BTreeMap<(String, String), (Figures, Figures)>,
}

// === impl Expected ===

impl Expected {
    /// Reads `model,channel,conversions,value`.
    ///
    /// # Errors
    /// A row is wrong, or there is none.
    pub(super) fn read(reader: impl Read) -> Result<Self> {
        let mut figures = BTreeMap::new();
        for row in csv::Reader::from_reader(reader).into_deserialize() {
            let (model, channel, conversions, value): (String, String, f64, f64) = row?;
            figures.insert((model, channel), Figures { conversions, value });
        }
        if figures.is_empty() {
            bail!("no row");
        }
        Ok(Self(figures))
    }

    /// Puts a report beside the figures.
    ///
    /// # Errors
    /// The report has no such columns.
    pub(super) fn compare(&self, reported: &Reported, models: &[&str]) -> Result<Compared> {
        let mut figures: BTreeMap<_, _> =
            self.0.iter().map(|(key, expected)| (key.clone(), (Figures::default(), *expected))).collect();
        for row in &reported.rows {
            let text =
                |name| row.get(name).and_then(Value::as_str).with_context(|| format!("no {name} in {row:?}"));
            let conversions = row.get("conversions").and_then(Value::as_f64);
            let found = Figures {
                conversions: conversions.with_context(|| format!("no conversions in {row:?}"))?,
                value: text("value")?.parse()?,
            };
            figures.entry((text("model")?.to_owned(), text("channel")?.to_owned())).or_default().0 = found;
        }
        let mut channels: Vec<String> = figures.keys().map(|(_, channel)| channel.clone()).collect();
        channels.sort_unstable();
        channels.dedup();
        Ok(Compared { models: models.iter().map(|&model| model.to_owned()).collect(), channels, figures })
    }
}

// === impl Compared ===

impl Compared {
    /// What was found, in the order of models and channels.
    pub(super) fn figures(&self) -> impl Iterator<Item = (&str, &str, Figures)> {
        let pairs =
            self.models.iter().flat_map(|model| self.channels.iter().map(move |channel| (model, channel)));
        pairs.map(|(model, channel)| (model.as_str(), channel.as_str(), self.of(model, channel).0))
    }

    /// For each measure the figures, and under them how far each is from the expected one.
    pub(super) fn show(&self, colours: bool) -> String {
        type Measure = fn(&Figures) -> f64;
        let measures: [(&str, Measure); 2] =
            [("conversions", |figures| figures.conversions), ("value, EUR", |figures| figures.value)];
        let mut parts = Vec::new();
        for (name, measure) in measures {
            let mut table = self.table(name);
            for channel in &self.channels {
                let cell = |model: &String| thousands(&format!("{:.2}", measure(&self.of(model, channel).0)));
                table.row(std::iter::once(channel.clone()).chain(self.models.iter().map(cell)));
            }
            table.rule();
            let sum = |model: &String| {
                let all: f64 = self.channels.iter().map(|channel| measure(&self.of(model, channel).0)).sum();
                thousands(&format!("{all:.2}"))
            };
            table.row(std::iter::once("total".to_owned()).chain(self.models.iter().map(sum)));
            parts.push(table.render(colours));
            let mut table = self.table("difference");
            for channel in &self.channels {
                let cell = |model: &String| {
                    let (found, expected) = self.of(model, channel);
                    difference(measure(&found) - measure(&expected))
                };
                table.row(std::iter::once(channel.clone()).chain(self.models.iter().map(cell)));
            }
            parts.push(format!("{name}: difference to the published figures\n\n{}", table.render(colours)));
        }
        parts.join("\n")
    }

    /// # Errors
    /// A figure is further off than it may be; each is named.
    pub(super) fn verdict(&self) -> Result<()> {
        let mut off = Vec::new();
        for ((model, channel), (found, expected)) in &self.figures {
            // Negated, so that what is no number is off too.
            let close = |a: f64, b: f64, most: f64| (a - b).abs() <= most;
            if !close(found.conversions, expected.conversions, CONVERSIONS_OFF_MAX)
                || !close(found.value, expected.value, VALUE_OFF_MAX)
            {
                off.push(format!("{model} {channel}: {found:?}, not {expected:?}"));
            }
        }
        if !off.is_empty() {
            bail!("{} of {} rows are off:\n  {}", off.len(), self.figures.len(), off.join("\n  "));
        }
        Ok(())
    }

    fn of(&self, model: &str, channel: &str) -> (Figures, Figures) {
        self.figures.get(&(model.to_owned(), channel.to_owned())).copied().unwrap_or_default()
    }

    fn table(&self, name: &str) -> Table {
        let models = self.models.iter().map(|model| (model.clone(), Align::Right));
        Table::new(std::iter::once((name.to_owned(), Align::Left)).chain(models))
    }
}

/// Short, with its order of magnitude.
fn difference(off: f64) -> String {
    if off.abs() < 5e-10 { "0".to_owned() } else { format!("{off:+.0e}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn compared(conversions: f64, value: &str) -> Compared {
        let expected =
            Expected::read(&b"model,channel,conversions,value\nlinear,a,10,20\nlinear,b,0,0\n"[..]).unwrap();
        let reported: Reported = serde_json::from_value(json!({
            "rows": [{"model": "linear", "channel": "a", "currency": "EUR", "conversions": conversions, "value": value}],
            "totals": [], "method": {"complete_through": ""}, "truncated": false, "query_ms": 1.0,
        }))
        .unwrap();
        expected.compare(&reported, &["linear"]).unwrap()
    }

    #[test]
    fn a_figure_may_be_off_by_its_bound_and_no_more() {
        compared(10.000_009, "20.000999").verdict().unwrap();
        for wrong in [compared(10.000_011, "20"), compared(10.0, "20.0011")] {
            let error = wrong.verdict().unwrap_err().to_string();
            assert!(error.contains("1 of 2 rows") && error.contains("linear a"), "{error}");
        }
    }

    #[test]
    fn a_row_that_nobody_expected_is_off() {
        let expected = Expected::read(&b"model,channel,conversions,value\nlinear,b,0,0\n"[..]).unwrap();
        let reported = serde_json::from_value(json!({
            "rows": [{"model": "linear", "channel": "a", "conversions": 1, "value": "0"}],
            "totals": [], "method": {"complete_through": ""}, "truncated": false, "query_ms": 1.0,
        }))
        .unwrap();
        assert!(expected.compare(&reported, &["linear"]).unwrap().verdict().is_err());
    }

    #[test]
    fn every_model_and_channel_is_in_the_figures() {
        let compared = compared(10.0, "20");
        let figures: Vec<_> =
            compared.figures().map(|(model, channel, f)| (model, channel, f.conversions)).collect();
        assert_eq!(figures, [("linear", "a", 10.0), ("linear", "b", 0.0)]);
        let text = compared.show(false);
        assert!(text.contains("conversions: difference") && text.contains("10.00"), "{text}");
    }

    #[test]
    fn differences_show_their_magnitude() {
        for (off, text) in [(0.0, "0"), (-4e-10, "0"), (3.2e-7, "+3e-7"), (-0.5, "-5e-1")] {
            assert_eq!(difference(off), text);
        }
    }
}

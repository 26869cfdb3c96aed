//! Paths as the engine counted them, and the Markov model over them.

use std::collections::{BTreeMap, HashMap};

use clickhouse::Row;
use model::markov::Chain;
use serde::Deserialize;

use crate::Error;

/// Distinct paths of one report at most.
const PATHS_MAX: usize = 5_000_000;

/// A path that converted, of one currency.
#[derive(Row, Deserialize)]
pub(crate) struct Converting {
    path: Vec<String>,
    currency: String,
    conversions: i64,
    value: i128,
}

/// A path that did not convert.
#[derive(Row, Deserialize)]
pub(crate) struct Null {
    path: Vec<String>,
    persons: u64,
}

/// Collects paths.
#[derive(Default)]
pub(crate) struct Solver {
    // By name, in the order met.
    values: HashMap<String, u32>,
    // Values, conversions, nulls.
    paths: Vec<(Vec<u32>, u64, u64)>,
    totals: BTreeMap<String, (i128, i128)>,
}

/// Each value's share, and what is shared: conversions and micros by currency.
#[derive(Debug)]
pub(crate) struct Solution {
    weights: BTreeMap<String, f64>,
    totals: BTreeMap<String, (i128, i128)>,
}

// === impl Solver ===

impl Solver {
    pub(crate) fn converted(&mut self, row: Converting) -> Result<(), Error> {
        let total = self.totals.entry(row.currency).or_default();
        total.0 += i128::from(row.conversions);
        total.1 += row.value;
        // Never negative where each retraction has its assertion.
        self.push(row.path, row.conversions.max(0).unsigned_abs(), 0)
    }

    pub(crate) fn did_not(&mut self, row: Null) -> Result<(), Error> {
        self.push(row.path, 0, row.persons)
    }

    pub(crate) fn solve(self) -> Result<Solution, Error> {
        // By name, so that the order in which the engine answered changes no bit.
        let mut names: Vec<(String, u32)> = self.values.into_iter().collect();
        names.sort_unstable();
        let mut place = vec![0; names.len()];
        for (sorted, (_, met)) in names.iter().enumerate() {
            place[*met as usize] = sorted as u32;
        }
        let refuse = |error: model::Error| Error::spec("dimensions", format!("markov: {error}"));
        let mut chain = Chain::new(names.len()).map_err(refuse)?;
        for (mut path, conversions, nulls) in self.paths {
            path.iter_mut().for_each(|value| *value = place[*value as usize]);
            chain.add(&path, conversions, nulls).map_err(refuse)?;
        }
        let weights = names.into_iter().map(|(name, _)| name).zip(chain.weights()).collect();
        Ok(Solution { weights, totals: self.totals })
    }

    fn push(&mut self, path: Vec<String>, conversions: u64, nulls: u64) -> Result<(), Error> {
        if self.paths.len() == PATHS_MAX {
            let reason =
                format!("markov takes at most {PATHS_MAX} different paths: choose a coarser one, or filter");
            return Err(Error::spec("dimensions", reason));
        }
        let values = path.into_iter().map(|name| {
            let next = self.values.len() as u32;
            *self.values.entry(name).or_insert(next)
        });
        let values = values.collect();
        self.paths.push((values, conversions, nulls));
        Ok(())
    }
}

// === impl Solution ===

impl Solution {
    /// (value, currency, conversions, money), in 10⁻¹².
    pub(crate) fn shares(&self) -> impl Iterator<Item = (&str, &str, i128, i128)> {
        let share =
            |weight: f64, total: i128, unit: f64| (weight * total as f64 * unit).round_ties_even() as i128;
        self.weights.iter().flat_map(move |(name, weight)| {
            self.totals.iter().map(move |(currency, (conversions, micros))| {
                (
                    name.as_str(),
                    currency.as_str(),
                    share(*weight, *conversions, 1e12),
                    share(*weight, *micros, 1e6),
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('>').map(str::to_owned).collect()
    }

    #[test]
    fn the_published_example_is_shared_in_any_order() {
        let rows = [("C1>C2>C3", true), ("C1", false), ("C2>C3", false)];
        let solved = |rows: &[(&str, bool)]| -> Vec<(String, i128)> {
            let mut solver = Solver::default();
            for (text, converted) in rows {
                if *converted {
                    let row =
                        Converting { path: path(text), currency: "EUR".into(), conversions: 10, value: 5 };
                    solver.converted(row).unwrap();
                } else {
                    solver.did_not(Null { path: path(text), persons: 10 }).unwrap();
                }
            }
            let solution = solver.solve().unwrap();
            solution.shares().map(|(name, _, conversions, _)| (name.to_owned(), conversions)).collect()
        };
        let found = solved(&rows);
        assert_eq!(found, solved(&[rows[2], rows[1], rows[0]]));
        let expected = [("C1", 2.0), ("C2", 4.0), ("C3", 4.0)];
        for ((name, conversions), (channel, share)) in found.iter().zip(expected) {
            assert_eq!(name, channel);
            assert!((*conversions as f64 / 1e12 - share).abs() < 1e-9, "{name}: {conversions}");
        }
    }
}

//! Reports: what is asked of the engine, and what is made of its answers.

use std::collections::BTreeMap;

use clickhouse::Row;
use serde::Deserialize;

use crate::{
    Error, Filter, Measure, ModelSpec, ReportSpec, Warehouse,
    chain::{Converting, Null, Solution, Solver},
    compile::{self, GROUPS_MAX},
    nulls, order, paths,
};

/// The longest time of one statement of a report.
const REPORT_SECONDS_MAX: &str = "60";

/// A report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportAnswer {
    /// In the order asked, at most as many as the limit.
    pub rows: Vec<ReportRow>,
    /// The conversions selected, before any filter on touches: one for each model, and each currency where `value` is
    /// measured.
    pub totals: Vec<ReportTotal>,
    /// Whether there were more rows.
    pub truncated: bool,
}

/// A row. Measures that were not asked are 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportRow {
    /// Index into the models asked.
    pub model: usize,
    /// The values of the dimensions asked, in their order.
    pub dimensions: Vec<String>,
    /// ISO 4217; empty unless `value` is measured.
    pub currency: String,
    /// Credited conversions, micros of one.
    pub conversions_micros: i128,
    /// Credited value, micros of the currency.
    pub value_micros: i128,
    /// Eligible touches.
    pub touches: i64,
    /// Distinct persons with credit.
    pub persons: u64,
}

/// A total. Measures that were not asked are 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportTotal {
    /// Index into the models asked.
    pub model: usize,
    /// ISO 4217; empty unless `value` is measured.
    pub currency: String,
    /// Conversions.
    pub conversions: i64,
    /// Their value, micros of the currency.
    pub value_micros: i128,
    /// Eligible touches in their paths.
    pub touches: i64,
    /// Their distinct persons.
    pub persons: u64,
}

#[derive(Row, Deserialize)]
struct Group {
    dims: Vec<String>,
    currency: String,
    conversions: Vec<i128>,
    value: Vec<i128>,
    touches: i64,
    persons: Vec<u64>,
}

#[derive(Row, Deserialize)]
struct Total {
    currency: String,
    conversions: i64,
    value: i128,
    touches: i64,
}

#[derive(Row, Deserialize)]
struct TotalPersons {
    currency: String,
    persons: u64,
}

// What is known of each (dimensions, currency); credit in 10⁻¹², by model.
struct Rows<'a> {
    spec: &'a ReportSpec,
    groups: BTreeMap<(Vec<String>, String), Group>,
}

// === impl Warehouse ===

impl Warehouse {
    /// Answers a report. The same facts give the same bytes.
    ///
    /// Errors: [`Error::Spec`] where the question is out of bounds or its answer has too many groups.
    pub async fn report(&self, spec: &ReportSpec) -> Result<ReportAnswer, Error> {
        spec.check()?;
        let (groups, totals, persons, markov) = tokio::try_join!(
            self.groups(spec),
            self.totals(spec),
            self.total_persons(spec),
            self.markov(spec)
        )?;
        let mut rows = Rows::new(spec);
        for group in groups {
            rows.add_group(group);
        }
        if let Some(markov) = markov {
            rows.add_solution(&markov);
        }
        let (rows, truncated) = order::ordered(spec, rows.finish());
        Ok(ReportAnswer { rows, totals: all_totals(spec, totals, persons), truncated })
    }

    async fn groups(&self, spec: &ReportSpec) -> Result<Vec<Group>, Error> {
        let groups = self.select(&compile::rows(spec)).fetch_all::<Group>().await?;
        if groups.len() > GROUPS_MAX {
            return Err(Error::spec(
                "dimensions",
                format!("make more than {GROUPS_MAX} rows: ask fewer, or filter"),
            ));
        }
        Ok(groups)
    }

    async fn totals(&self, spec: &ReportSpec) -> Result<Vec<Total>, Error> {
        Ok(self.select(&compile::totals(spec)).fetch_all::<Total>().await?)
    }

    async fn total_persons(&self, spec: &ReportSpec) -> Result<Vec<TotalPersons>, Error> {
        if !spec.measures(Measure::Persons) {
            return Ok(Vec::new());
        }
        Ok(self.select(&compile::total_persons(spec)).fetch_all::<TotalPersons>().await?)
    }

    async fn markov(&self, spec: &ReportSpec) -> Result<Option<Solution>, Error> {
        if !spec.models.contains(&ModelSpec::Markov) {
            return Ok(None);
        }
        let mut solver = Solver::default();
        let mut converting = self.select(&paths::converting(spec)).fetch::<Converting>()?;
        while let Some(path) = converting.next().await? {
            solver.converted(path)?;
        }
        let mut nulls = self.select(&nulls::nulls(spec)).fetch::<Null>()?;
        while let Some(path) = nulls.next().await? {
            solver.did_not(path)?;
        }
        solver.solve().map(Some)
    }

    fn select(&self, sql: &str) -> clickhouse::query::Query {
        let query = self
            .client
            .query_raw(sql)
            .with_setting("max_execution_time", REPORT_SECONDS_MAX)
            .with_setting("join_use_nulls", "0");
        // Of the servers of other shards the nearest; of its own shard a server is the nearest itself.
        match self.cluster {
            Some(_) => query.with_setting("load_balancing", "nearest_hostname"),
            None => query,
        }
    }
}

// === impl Group ===

impl Group {
    fn empty(models: usize) -> Self {
        Self {
            dims: Vec::new(),
            currency: String::new(),
            conversions: vec![0; models],
            value: vec![0; models],
            touches: 0,
            persons: vec![0; models],
        }
    }
}

// === impl Rows ===

impl<'a> Rows<'a> {
    fn new(spec: &'a ReportSpec) -> Self {
        Self { spec, groups: BTreeMap::new() }
    }

    fn add_group(&mut self, mut group: Group) {
        let models = self.spec.models.len();
        group.conversions.resize(models, 0);
        group.value.resize(models, 0);
        group.persons.resize(models, 0);
        self.groups.insert((std::mem::take(&mut group.dims), std::mem::take(&mut group.currency)), group);
    }

    // A value has a share in every currency, also in those that none of its own paths earned.
    fn add_solution(&mut self, solution: &Solution) {
        let filters: Vec<&Filter> = self.spec.filters.iter().filter(|f| f.dimension.of_touch()).collect();
        for (label, currency, conversions, value) in solution.shares() {
            if !filters.iter().all(|filter| filter.values.iter().any(|v| v == label)) {
                continue;
            }
            let models = self.spec.models.len();
            let key = (vec![label.to_owned()], currency.to_owned());
            let group = self.groups.entry(key).or_insert_with(|| Group::empty(models));
            for (m, model) in self.spec.models.iter().enumerate() {
                if *model == ModelSpec::Markov {
                    group.conversions[m] += conversions;
                    group.value[m] += value;
                }
            }
        }
    }

    fn finish(self) -> Vec<ReportRow> {
        let spec = self.spec;
        let mut rows = Vec::with_capacity(self.groups.len() * spec.models.len());
        for ((dimensions, currency), group) in self.groups {
            for model in 0..spec.models.len() {
                let row = ReportRow {
                    model,
                    dimensions: dimensions.clone(),
                    currency: currency.clone(),
                    conversions_micros: micros(spec, Measure::Conversions, group.conversions[model]),
                    value_micros: micros(spec, Measure::Value, group.value[model]),
                    touches: if spec.measures(Measure::Touches) { group.touches } else { 0 },
                    persons: group.persons[model],
                };
                let empty = row.conversions_micros == 0 && row.value_micros == 0 && row.touches == 0;
                if !empty || row.persons != 0 {
                    rows.push(row);
                }
            }
        }
        rows
    }
}

// One rounding, half away from zero.
fn micros(spec: &ReportSpec, measure: Measure, e12: i128) -> i128 {
    if !spec.measures(measure) {
        return 0;
    }
    let rounded = (e12.unsigned_abs() + 500_000) / 1_000_000;
    if e12 < 0 { -(rounded as i128) } else { rounded as i128 }
}

fn all_totals(spec: &ReportSpec, mut totals: Vec<Total>, persons: Vec<TotalPersons>) -> Vec<ReportTotal> {
    totals.retain(|total| total.conversions != 0 || total.value != 0);
    totals.sort_unstable_by(|a, b| a.currency.cmp(&b.currency));
    if totals.is_empty() && !spec.measures(Measure::Value) {
        totals.push(Total { currency: String::new(), conversions: 0, value: 0, touches: 0 });
    }
    let persons: BTreeMap<String, u64> = persons.into_iter().map(|row| (row.currency, row.persons)).collect();
    let total = |model: usize, total: &Total| ReportTotal {
        model,
        currency: total.currency.clone(),
        conversions: if spec.measures(Measure::Conversions) { total.conversions } else { 0 },
        value_micros: if spec.measures(Measure::Value) { total.value } else { 0 },
        touches: total.touches,
        persons: persons.get(&total.currency).copied().unwrap_or(0),
    };
    let models = 0..spec.models.len();
    models.flat_map(|model| totals.iter().map(move |one| total(model, one)).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    #[test]
    fn one_rounding_goes_half_away_from_zero() {
        let spec = spec();
        for (e12, expected) in [
            (0, 0),
            (499_999, 0),
            (500_000, 1),
            (1_499_999, 1),
            (-499_999, 0),
            (-500_000, -1),
            (-1_500_000, -2),
        ] {
            assert_eq!(micros(&spec, Measure::Conversions, e12), expected, "{e12}");
        }
    }
}

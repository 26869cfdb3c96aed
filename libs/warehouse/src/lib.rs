//! The warehouse: facts in ClickHouse, and reports over them.
//!
//! Owns the schema and its migrations, the writing of facts, and the SQL of reports.
//! It never decides and never updates a fact: a restated decision is a retraction and an assertion.
//! It never sees an address or a user agent, and no value reaches SQL but quoted by one function or bound by the client.

mod chain;
mod cluster;
mod compile;
mod credit;
mod error;
mod facts;
mod migrate;
mod nulls;
mod order;
mod paths;
mod report;
mod rolled;
mod spec;
mod sql;
mod store;
mod url;
mod write;

pub use error::Error;
pub use facts::{CandidateFact, ConversionFact, Facts, IdentityFact, MatchType, Progress, Sign, TouchFact};
pub use report::{ReportAnswer, ReportRow, ReportTotal};
pub use spec::{
    DIMENSIONS_MAX, Dimension, FILTER_VALUES_MAX, FILTERS_MAX, Filter, MODELS_MAX, Measure, ModelSpec,
    NOT_SET, ORDER_KEYS_MAX, ORGANIC, OrderBy, OrderField, ROWS_MAX, ReportSpec, TRANSFORMS_MAX,
};
pub use store::{Config, Warehouse};

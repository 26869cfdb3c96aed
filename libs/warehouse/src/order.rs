//! The order of rows: the same question gets the same rows.

use std::cmp::Ordering;

use crate::{Dimension, Measure, OrderField, ReportRow, ReportSpec};

/// The rows in the order asked, at most as many as the limit, and whether there were more.
pub(crate) fn ordered(spec: &ReportSpec, mut rows: Vec<ReportRow>) -> (Vec<ReportRow>, bool) {
    let limit = spec.limit as usize;
    let truncated = rows.len() > limit;
    if truncated {
        rows.select_nth_unstable_by(limit, |a, b| compare(spec, a, b));
        rows.truncate(limit);
    }
    rows.sort_unstable_by(|a, b| compare(spec, a, b));
    (rows, truncated)
}

fn compare(spec: &ReportSpec, a: &ReportRow, b: &ReportRow) -> Ordering {
    for key in &spec.order_by {
        let order = by(spec, key.field, a, b);
        let order = if key.descending { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    (a.model.cmp(&b.model))
        .then_with(|| a.dimensions.cmp(&b.dimensions))
        .then_with(|| a.currency.cmp(&b.currency))
}

fn by(spec: &ReportSpec, field: OrderField, a: &ReportRow, b: &ReportRow) -> Ordering {
    match field {
        OrderField::Model => spec.models[a.model].name().cmp(spec.models[b.model].name()),
        OrderField::Measure(Measure::Conversions) => a.conversions_micros.cmp(&b.conversions_micros),
        OrderField::Measure(Measure::Value) => a.value_micros.cmp(&b.value_micros),
        OrderField::Measure(Measure::Touches) => a.touches.cmp(&b.touches),
        OrderField::Measure(Measure::Persons) => a.persons.cmp(&b.persons),
        OrderField::Dimension(dimension) => match spec.dimensions.iter().position(|d| *d == dimension) {
            Some(place) => a.dimensions[place].cmp(&b.dimensions[place]),
            None if dimension == Dimension::Currency => a.currency.cmp(&b.currency),
            None => Ordering::Equal,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelSpec, OrderBy, spec::tests::spec};

    fn row(model: usize, channel: &str, conversions: i128) -> ReportRow {
        ReportRow {
            model,
            dimensions: vec![channel.into()],
            currency: String::new(),
            conversions_micros: conversions,
            value_micros: 0,
            touches: 0,
            persons: 0,
        }
    }

    fn shown(rows: &[ReportRow]) -> Vec<(usize, &str)> {
        rows.iter().map(|row| (row.model, row.dimensions[0].as_str())).collect()
    }

    #[test]
    fn ties_go_to_the_model_asked_first_then_to_bytes() {
        let mut spec = spec();
        spec.models = vec![ModelSpec::Markov, ModelSpec::Rule(model::Model::Linear)];
        let rows = vec![row(1, "b", 5), row(0, "b", 5), row(0, "Z", 5), row(1, "a", 9)];
        let (plain, _) = ordered(&spec, rows.clone());
        assert_eq!(shown(&plain), [(0, "Z"), (0, "b"), (1, "a"), (1, "b")]);
        spec.order_by = vec![OrderBy { field: OrderField::Measure(Measure::Conversions), descending: true }];
        let (largest, _) = ordered(&spec, rows.clone());
        assert_eq!(shown(&largest), [(1, "a"), (0, "Z"), (0, "b"), (1, "b")]);
        spec.order_by = vec![OrderBy { field: OrderField::Model, descending: false }];
        let (named, _) = ordered(&spec, rows);
        assert_eq!(shown(&named), [(1, "a"), (1, "b"), (0, "Z"), (0, "b")]);
    }

    #[test]
    fn the_limit_keeps_the_first_and_says_that_there_were_more() {
        let mut spec = spec();
        let rows = vec![row(0, "c", 1), row(0, "a", 1), row(0, "b", 1)];
        spec.limit = 3;
        assert!(!ordered(&spec, rows.clone()).1);
        spec.limit = 2;
        let (kept, truncated) = ordered(&spec, rows);
        assert_eq!(shown(&kept), [(0, "a"), (0, "b")]);
        assert!(truncated);
    }
}

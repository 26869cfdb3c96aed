//! A report as REST writes it: JSON or CSV, from the message that gRPC sends.

use proto::query::{Method, Model, PathTransform, Row, RunReportResponse, model, path_transform::Transform};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value, json};
use service::Error;

use crate::render;

/// What a row shows besides its model, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    /// The dimensions asked.
    pub(crate) dimensions: Vec<String>,
    /// The measures asked; with `value` among them each row has its currency.
    pub(crate) measures: Vec<String>,
}

/// The whole answer in JSON.
pub(crate) fn json(answer: &RunReportResponse, columns: &Columns) -> Result<Vec<u8>, Error> {
    let whole = Whole {
        rows: Rows { rows: &answer.rows, columns, totals: false },
        totals: Rows { rows: &answer.totals, columns, totals: true },
        method: answer.method.as_ref().map(method),
        truncated: answer.truncated,
        query_ms: render::number(answer.query_ms),
    };
    serde_json::to_vec(&whole).map_err(Error::internal)
}

/// The rows in CSV: a line of names, then a line for each row; quoted as RFC 4180 says, lines end with a line feed.
pub(crate) fn csv(answer: &RunReportResponse, columns: &Columns) -> Result<Vec<u8>, Error> {
    let currency = columns.currency();
    let mut out = csv::Writer::from_writer(Vec::new());
    let mut names = vec!["model"];
    names.extend(columns.dimensions.iter().map(String::as_str));
    names.extend(currency.then_some("currency"));
    names.extend(columns.measures.iter().map(String::as_str));
    out.write_record(&names).map_err(Error::internal)?;
    for row in &answer.rows {
        let mut line = vec![row.model.clone()];
        line.extend(columns.dimensions.iter().map(|name| dimension(row, name).to_owned()));
        line.extend(currency.then(|| row.currency.clone()));
        line.extend(columns.measures.iter().map(|name| match measure(row, name) {
            Value::String(text) => text,
            other => other.to_string(),
        }));
        out.write_record(&line).map_err(Error::internal)?;
    }
    out.into_inner().map_err(Error::internal)
}

/// A model as a request would write it, with the parameters used.
pub(crate) fn model(model: &Model) -> Value {
    use model::Model as Kind;
    match &model.model {
        None => Value::Null,
        Some(Kind::Decision(_)) => json!("decision"),
        Some(Kind::FirstTouch(_)) => json!("first_touch"),
        Some(Kind::LastTouch(_)) => json!("last_touch"),
        Some(Kind::LastNonDirect(_)) => json!("last_non_direct"),
        Some(Kind::Linear(_)) => json!("linear"),
        Some(Kind::PositionBased(shares)) => {
            json!({ "position_based": { "first": shares.first.map(render::number), "last": shares.last.map(render::number) } })
        }
        Some(Kind::TimeDecay(decay)) => json!({ "time_decay": { "half_life": decay.half_life } }),
        Some(Kind::Markov(chain)) => json!({ "markov": { "order": chain.order } }),
        Some(Kind::Shapley(_)) => json!("shapley"),
    }
}

/// A transform as a request would write it.
pub(crate) fn transform(transform: &PathTransform) -> Value {
    match &transform.transform {
        None => Value::Null,
        Some(Transform::Exposure(_)) => json!("exposure"),
        Some(Transform::First(_)) => json!("first"),
        Some(Transform::RemoveIfNotAll(value)) => json!({ "remove_if_not_all": value }),
        Some(Transform::RemoveIfLastAndNotAll(value)) => json!({ "remove_if_last_and_not_all": value }),
    }
}

#[derive(Serialize)]
struct Whole<'a> {
    rows: Rows<'a>,
    totals: Rows<'a>,
    method: Option<Value>,
    truncated: bool,
    query_ms: Value,
}

struct Rows<'a> {
    rows: &'a [Row],
    columns: &'a Columns,
    totals: bool,
}

struct OneRow<'a> {
    row: &'a Row,
    columns: &'a Columns,
    totals: bool,
}

// === impl Columns ===

impl Columns {
    // Where the currency is a dimension asked, it stands there and not a second time.
    fn currency(&self) -> bool {
        self.measures.iter().any(|name| name == "value")
            && !self.dimensions.iter().any(|name| name == "currency")
    }
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let &Self { rows, columns, totals } = self;
        serializer.collect_seq(rows.iter().map(|row| OneRow { row, columns, totals }))
    }
}

impl Serialize for OneRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { row, columns, totals } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("model", &row.model)?;
        if !totals {
            for name in &columns.dimensions {
                map.serialize_entry(name, dimension(row, name))?;
            }
        }
        if !row.currency.is_empty() && (*totals || columns.currency()) {
            map.serialize_entry("currency", &row.currency)?;
        }
        for name in &columns.measures {
            map.serialize_entry(name, &measure(row, name))?;
        }
        map.end()
    }
}

fn method(method: &Method) -> Value {
    let mut out = Map::new();
    out.insert("models".into(), method.models.iter().map(model).collect());
    let lookback = (!method.lookback.is_empty()).then_some(method.lookback.as_str());
    out.insert("lookback".into(), lookback.into());
    out.insert("path_transforms".into(), method.path_transforms.iter().map(transform).collect());
    out.insert("settings_edition".into(), method.settings_edition.as_str().into());
    out.insert("as_of".into(), render::time(method.as_of.as_ref()).into());
    out.insert("complete_through".into(), render::time(method.complete_through.as_ref()).into());
    if !method.notes.is_empty() {
        out.insert("notes".into(), method.notes.iter().map(String::as_str).collect());
    }
    Value::Object(out)
}

fn dimension<'a>(row: &'a Row, name: &str) -> &'a str {
    row.dimensions.get(name).map_or("", String::as_str)
}

fn measure(row: &Row, name: &str) -> Value {
    match name {
        "conversions" => render::number(row.conversions),
        "value" => Value::from(row.value.as_str()),
        "touches" => Value::from(row.touches),
        _ => Value::from(row.persons),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proto::query::{LastTouchModel, MarkovModel, PositionBasedModel, TimeDecayModel};

    use super::*;

    fn columns(dimensions: &[&str], measures: &[&str]) -> Columns {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Columns { dimensions: owned(dimensions), measures: owned(measures) }
    }

    fn row(channel: &str) -> Row {
        Row {
            model: "last_touch".into(),
            dimensions: [("channel".into(), channel.into()), ("currency".into(), "EUR".into())].into(),
            currency: "EUR".into(),
            conversions: 12.333333,
            value: "123.450000".into(),
            touches: 3,
            persons: 2,
        }
    }

    fn answer() -> RunReportResponse {
        let total = Row { dimensions: [].into(), conversions: 20.0, value: "200.000000".into(), ..row("") };
        let at = Some(prost_types::Timestamp { seconds: 1_769_904_000, nanos: 0 });
        RunReportResponse {
            rows: vec![row("email")],
            totals: vec![total],
            method: Some(Method {
                models: vec![Model { model: Some(model::Model::LastTouch(LastTouchModel {})) }],
                lookback: "30d".into(),
                path_transforms: vec![],
                settings_edition: "sha256:00".into(),
                as_of: at,
                complete_through: at,
                notes: vec![],
            }),
            truncated: false,
            query_ms: 3.1,
        }
    }

    #[test]
    fn an_answer_has_the_names_and_the_order_of_the_contract() {
        let text = json(&answer(), &columns(&["channel"], &["conversions", "value"])).unwrap();
        let expected = concat!(
            r#"{"rows":[{"model":"last_touch","channel":"email","currency":"EUR","conversions":12.333333,"value":"123.450000"}],"#,
            r#""totals":[{"model":"last_touch","currency":"EUR","conversions":20,"value":"200.000000"}],"#,
            r#""method":{"models":["last_touch"],"lookback":"30d","path_transforms":[],"settings_edition":"sha256:00","as_of":"2026-02-01T00:00:00Z","complete_through":"2026-02-01T00:00:00Z"},"#,
            r#""truncated":false,"query_ms":3.1}"#,
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn only_what_was_asked_is_in_a_row() {
        let mut answer = answer();
        answer.totals.clear();
        answer.method = None;
        let shown = |columns: &Columns| {
            let text = json(&answer, columns).unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()["rows"][0].to_string()
        };
        assert_eq!(
            shown(&columns(&[], &["persons", "touches"])),
            r#"{"model":"last_touch","persons":2,"touches":3}"#
        );
        assert_eq!(
            shown(&columns(&["currency", "channel"], &["value"])),
            r#"{"model":"last_touch","currency":"EUR","channel":"email","value":"123.450000"}"#
        );
    }

    #[test]
    fn csv_quotes_what_would_be_misread() {
        let mut answer = answer();
        answer.rows = ["a,b", "say \"hi\"", "two\nlines", "", "plain"].map(row).into();
        let text = csv(&answer, &columns(&["channel"], &["conversions", "value", "touches"])).unwrap();
        let expected = concat!(
            "model,channel,currency,conversions,value,touches\n",
            "last_touch,\"a,b\",EUR,12.333333,123.450000,3\n",
            "last_touch,\"say \"\"hi\"\"\",EUR,12.333333,123.450000,3\n",
            "last_touch,\"two\nlines\",EUR,12.333333,123.450000,3\n",
            "last_touch,,EUR,12.333333,123.450000,3\n",
            "last_touch,plain,EUR,12.333333,123.450000,3\n",
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn the_method_says_models_as_a_request_would() {
        let written = |kind| model(&Model { model: Some(kind) }).to_string();
        assert_eq!(
            written(model::Model::PositionBased(PositionBasedModel { first: Some(0.4), last: Some(0.4) })),
            r#"{"position_based":{"first":0.4,"last":0.4}}"#
        );
        assert_eq!(
            written(model::Model::TimeDecay(TimeDecayModel { half_life: "7d".into() })),
            r#"{"time_decay":{"half_life":"7d"}}"#
        );
        assert_eq!(
            written(model::Model::Markov(MarkovModel { order: Some(1) })),
            r#"{"markov":{"order":1}}"#
        );
        assert_eq!(
            transform(&PathTransform { transform: Some(Transform::RemoveIfNotAll("direct".into())) })
                .to_string(),
            r#"{"remove_if_not_all":"direct"}"#
        );
    }
}

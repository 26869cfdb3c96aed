//! Reports in the description.

use serde_json::{Value, json};
use warehouse::{
    DIMENSIONS_MAX, Dimension, FILTER_VALUES_MAX, FILTERS_MAX, MODELS_MAX, Measure, ORDER_KEYS_MAX, ROWS_MAX,
    TRANSFORMS_MAX,
};

use super::{body_description, json_content, reference, responses};
use crate::{
    parse::MODELS,
    spec::{CONSISTENCY_ACKNOWLEDGED, FILTER_VALUE_BYTES_MAX, MEASURES_DEFAULT, ROWS_DEFAULT},
};

pub(super) fn paths() -> Value {
    let question = json!({
        "from": "2026-01-01", "to": "2026-02-01", "models": ["last_touch", "markov"], "dimensions": ["channel"],
        "measures": ["conversions", "value"], "filters": [{ "dimension": "conversion", "in": ["purchase"] }],
        "lookback": "30d", "path_transforms": ["exposure"],
        "order_by": [{ "field": "conversions", "descending": true }], "limit": 1000,
    });
    let answer = json!({
        "rows": [{ "model": "last_touch", "channel": "email", "currency": "EUR", "conversions": 12.333333, "value": "123.450000" }],
        "totals": [{ "model": "last_touch", "currency": "EUR", "conversions": 20, "value": "200.000000" }],
        "method": {
            "models": ["last_touch"], "lookback": "30d", "path_transforms": [], "settings_edition": "sha256:…",
            "as_of": "2026-02-01T00:00:00Z", "complete_through": "2026-02-01T00:00:00Z",
        },
        "truncated": false, "query_ms": 3.1,
    });
    let mut content = json_content("ReportAnswer", answer);
    content["text/csv"] = json!({
        "schema": { "type": "string" },
        "example": "model,channel,currency,conversions,value\nlast_touch,email,EUR,12.333333,123.450000\n",
    });
    let ok = json!({ "200": {
        "description": "The report; as CSV the rows alone.",
        "headers": { "x-truncated": {
            "description": "With CSV: whether there were more rows than the limit.",
            "schema": { "enum": ["true", "false"] },
        } },
        "content": content,
    } });
    json!({ "/v1/reports": { "post": {
        "tags": ["reports"],
        "operationId": "runReport",
        "summary": "Credited conversions and value by model and dimension. Scope `read`.",
        "parameters": [
            { "name": "format", "in": "query", "schema": { "enum": ["json", "csv"] },
              "description": "Absent: as `Accept` says, `text/csv` or JSON." },
            { "name": "consistency", "in": "query", "schema": { "const": CONSISTENCY_ACKNOWLEDGED },
              "description": "Wait until every event acknowledged before the call is in the answer: at most 30 s, then 503 with `Retry-After`." },
            { "$ref": "#/components/parameters/RequestId" },
        ],
        "requestBody": {
            "required": true,
            "description": body_description("The question. An unknown field is an error that names it."),
            "content": json_content("Report", question),
        },
        "responses": responses(ok, &[400, 401, 403, 405, 413, 415, 429, 500, 503, 504]),
    } } })
}

pub(super) fn schemas() -> Value {
    json!({
        "Report": report(),
        "Moment": {
            "type": "string",
            "description": "A date (its midnight in the tenant's time zone), or RFC 3339.",
            "examples": ["2026-01-01", "2026-01-01T00:00:00Z"],
        },
        "Duration": {
            "type": "string",
            "pattern": "^[0-9]+[mhd]$",
            "description": "A whole number of minutes, hours or days, at most 90 days.",
        },
        "Model": model(),
        "PathTransform": transform(),
        "Dimension": { "enum": Dimension::ALL.map(Dimension::name), "description": dimension_description() },
        "Measure": {
            "enum": Measure::ALL.map(Measure::name),
            "description": "`conversions`: credited. `value`: credited, in the row's currency, which is then part of \
                every row. `touches`: eligible touches of the row in the paths. `persons`: distinct persons with credit.",
        },
        "ReportAnswer": answer(),
        "ReportRow": row(),
    })
}

fn report() -> Value {
    let value = json!({ "type": "string", "minLength": 1, "maxLength": FILTER_VALUE_BYTES_MAX });
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["from", "to", "models"],
        "properties": {
            "from": { "$ref": "#/components/schemas/Moment", "description": "The first conversion time." },
            "to": { "$ref": "#/components/schemas/Moment", "description": "The first conversion time that is no longer part of it; after `from`." },
            "models": { "type": "array", "items": reference("Model"), "minItems": 1, "maxItems": MODELS_MAX, "uniqueItems": true },
            "dimensions": {
                "type": "array", "items": reference("Dimension"), "maxItems": DIMENSIONS_MAX, "uniqueItems": true,
                "description": "`markov` takes exactly one, of the touch; `shapley` one of the touch and any of the conversion.",
            },
            "measures": {
                "type": "array", "items": reference("Measure"), "uniqueItems": true,
                "default": MEASURES_DEFAULT.map(Measure::name),
            },
            "filters": {
                "type": "array", "maxItems": FILTERS_MAX,
                "description": "All of them hold. On a dimension of the conversion they select conversions, on one of \
                    the touch they select rows after credit was given on the whole path; `markov` and `shapley` take \
                    none on another touch dimension than theirs.",
                "items": {
                    "type": "object", "additionalProperties": false, "required": ["dimension", "in"],
                    "properties": {
                        "dimension": reference("Dimension"),
                        "in": { "type": "array", "items": value, "minItems": 1, "maxItems": FILTER_VALUES_MAX },
                    },
                },
            },
            "lookback": { "$ref": "#/components/schemas/Duration", "description": "Touches older than this before the \
                conversion are not eligible. Absent: the windows that each conversion was decided under." },
            "path_transforms": { "type": "array", "items": reference("PathTransform"), "maxItems": TRANSFORMS_MAX },
            "order_by": {
                "type": "array", "maxItems": ORDER_KEYS_MAX,
                "description": "Then by model as asked, by the bytes of the dimensions, by currency.",
                "items": {
                    "type": "object", "additionalProperties": false, "required": ["field"],
                    "properties": {
                        "field": { "type": "string", "description": "`model`, or a dimension or measure of this report." },
                        "descending": { "type": "boolean", "default": false },
                    },
                },
            },
            "limit": { "type": "integer", "minimum": 1, "maximum": ROWS_MAX, "default": ROWS_DEFAULT },
            "as_of": { "type": "string", "format": "date-time", "description": "The report as it was known then; a \
                moment past `complete_through` is set back to it, and `method` says so." },
        },
    })
}

fn model() -> Value {
    let one = |name: &str, parameters: Value| {
        json!({
            "type": "object", "additionalProperties": false, "required": [name],
            "properties": { name: { "type": "object", "additionalProperties": false, "properties": parameters } },
        })
    };
    let share = json!({ "type": "number", "minimum": 0, "maximum": 1, "default": 0.4 });
    let half_life = json!({ "$ref": "#/components/schemas/Duration", "default": "7d" });
    json!({
        "description": "A name, or an object with the name and its parameters; `first` and `last` are at most 1 together, \
            a half-life is at least 1m.",
        "oneOf": [
            { "enum": MODELS },
            one("position_based", json!({ "first": share, "last": share })),
            one("time_decay", json!({ "half_life": half_life })),
            one("markov", json!({ "order": { "const": 1 } })),
        ],
        "examples": ["linear", { "time_decay": { "half_life": "7d" } }],
    })
}

fn transform() -> Value {
    let removal = |name: &str| {
        json!({
            "type": "object", "additionalProperties": false, "required": [name],
            "properties": { name: { "type": "string", "minLength": 1, "maxLength": FILTER_VALUE_BYTES_MAX } },
        })
    };
    json!({
        "description": "Applied in order to the eligible path before credit, on the first touch dimension (`channel` with \
            none). `exposure`: of consecutive repeats keep the first touch. `first`: keep the first occurrence of each. \
            `remove_if_not_all`: drop the value unless the path has nothing else. `remove_if_last_and_not_all`: drop \
            every one at the end unless the path has nothing else.",
        "oneOf": [
            { "enum": ["exposure", "first"] },
            removal("remove_if_not_all"),
            removal("remove_if_last_and_not_all"),
        ],
    })
}

fn dimension_description() -> String {
    let list = |of_touch: bool| {
        let names = Dimension::ALL.into_iter().filter(|d| d.of_touch() == of_touch).map(Dimension::name);
        names.collect::<Vec<_>>().join(", ")
    };
    format!(
        "Of the credited touch: {}. Of the conversion: {}. Without a value: `(not set)`; without an eligible touch: \
         `organic` in every touch dimension.",
        list(true),
        list(false)
    )
}

fn answer() -> Value {
    json!({
        "type": "object",
        "required": ["rows", "totals", "method", "truncated", "query_ms"],
        "properties": {
            "rows": { "type": "array", "items": reference("ReportRow") },
            "totals": {
                "type": "array", "items": reference("ReportRow"),
                "description": "The conversions selected, before any touch filter: one for each model and currency.",
            },
            "method": {
                "type": "object",
                "required": ["models", "lookback", "path_transforms", "settings_edition", "as_of", "complete_through"],
                "properties": {
                    "models": { "type": "array", "items": reference("Model") },
                    "lookback": { "type": ["string", "null"] },
                    "path_transforms": { "type": "array", "items": reference("PathTransform") },
                    "settings_edition": { "type": "string" },
                    "as_of": { "type": "string", "format": "date-time", "description": "What was recorded before \
                        this moment is in the answer. Not asked: the latest that is known, not before `complete_through`." },
                    "complete_through": { "type": "string", "format": "date-time", "description": "Every event \
                        acknowledged before this moment, and every re-decision it caused, is in the answer." },
                    "notes": { "type": "array", "items": { "type": "string" }, "description": "What was changed in the question." },
                },
            },
            "truncated": { "type": "boolean", "description": "Whether there were more rows than the limit." },
            "query_ms": { "type": "number" },
        },
    })
}

fn row() -> Value {
    json!({
        "type": "object",
        "description": "The model, each dimension asked under its own name, and the measures asked. \
            Rows whose measures are all zero are left out.",
        "required": ["model"],
        "properties": {
            "model": { "enum": MODELS },
            "currency": { "type": "string", "description": "When `value` or the dimension is asked." },
            "conversions": { "type": "number", "description": "Rounded to 6 decimals." },
            "value": reference("Money"),
            "touches": { "type": "integer" },
            "persons": { "type": "integer" },
        },
        "additionalProperties": { "type": "string" },
    })
}

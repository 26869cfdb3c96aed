//! The description of the public REST API, OpenAPI 3.1: all of it, also what other services answer.
//!
//! Limits and names of reports, conversions and journeys come from the code that checks them.

mod events;
mod reports;
mod stored;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use service::{BODY_BYTES_MAX, REQUEST_ID_CHARS_MAX, error::TABLE};

static TEXT: LazyLock<String> = LazyLock::new(|| {
    // Strings, numbers and lists only, so this always serializes.
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
});

/// The document as it is served and committed.
pub(crate) fn text() -> &'static str {
    &TEXT
}

/// The document.
pub fn document() -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for (part, routes) in [
        (events::schemas(), events::paths()),
        (reports::schemas(), reports::paths()),
        (stored::schemas(), stored::paths()),
        (shared_schemas(), operations()),
    ] {
        extend(&mut schemas, part);
        extend(&mut paths, routes);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Attribution",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Events in, every conversion credited and explained, reports under any model.",
            "description": "Every route but health, metrics and this document needs a key. Errors are problems \
                (RFC 9457). The same content is served over gRPC on the same port, with server reflection.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:8080", "description": "the default listener" }],
        "security": [{ "bearer": [] }],
        "tags": [
            { "name": "events", "description": "Sending events." },
            { "name": "reports", "description": "Credit by model and dimension." },
            { "name": "decisions", "description": "Single conversions and journeys, and the rules they were decided by." },
            { "name": "operations", "description": "Health, metrics and this document." },
        ],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "A key of a tenant, with scopes out of `ingest`, `read` and `admin`. \
                    Failed authentications are limited per address: from 60 a minute on they are answered 429.",
            } },
            "parameters": { "RequestId": {
                "name": "x-request-id",
                "in": "header",
                "description": "Names the request in the answer and in logs; made up when absent.",
                "schema": { "type": "string", "maxLength": REQUEST_ID_CHARS_MAX },
            } },
            "responses": problems(),
            "schemas": schemas,
        },
    })
}

/// The answers to an operation: its own, then the problems by status.
fn responses(own: Value, statuses: &[u16]) -> Value {
    let mut all = Map::new();
    extend(&mut all, own);
    for status in statuses {
        all.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/Problem{status}") }));
    }
    Value::Object(all)
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn json_content(schema: &str, example: Value) -> Value {
    json!({ "application/json": { "schema": reference(schema), "example": example } })
}

fn extend(into: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        into.extend(more);
    }
}

fn problems() -> Map<String, Value> {
    let mut all = Map::new();
    let statuses = TABLE.iter().map(|row| (row.http, row.title));
    for (status, title) in
        statuses.chain([(405, "another method, see Allow"), (415, "unsupported media type")])
    {
        let mut response = json!({
            "description": title,
            "content": { "application/problem+json": { "schema": reference("Problem") } },
        });
        if matches!(status, 429 | 503) {
            response["headers"] = json!({ "Retry-After": { "description": "Seconds to wait.", "schema": { "type": "integer", "minimum": 1 } } });
        }
        if status == 405 {
            response["headers"] = json!({ "Allow": { "schema": { "type": "string" } } });
        }
        all.insert(format!("Problem{status}"), response);
    }
    all
}

fn shared_schemas() -> Value {
    json!({
        "Problem": {
            "type": "object",
            "description": "An error (RFC 9457).",
            "required": ["type", "title", "status", "detail", "code", "request_id", "errors"],
            "properties": {
                "type": { "type": "string", "description": "The class of the error, a URN." },
                "title": { "type": "string", "description": "The class in words." },
                "status": { "type": "integer", "description": "The HTTP status." },
                "detail": { "type": "string", "description": "What is wrong and what to do." },
                "code": { "type": "string", "description": "A stable name for programs." },
                "request_id": { "type": "string", "description": "Names the request in the log." },
                "errors": {
                    "type": "array",
                    "description": "The fields that are wrong.",
                    "items": {
                        "type": "object",
                        "required": ["field", "reason"],
                        "properties": { "field": { "type": "string" }, "reason": { "type": "string" } },
                    },
                },
            },
            "examples": [{
                "type": "urn:attribution:error:invalid", "title": "invalid request", "status": 400,
                "detail": "limit: must be a whole number from 1 to 100000", "code": "invalid",
                "request_id": "01988f5e-8f2b-7c3a-9d55-0f6f5a3c2b11",
                "errors": [{ "field": "limit", "reason": "must be a whole number from 1 to 100000" }],
            }],
        },
        "Money": {
            "type": "string",
            "pattern": "^-?[0-9]+\\.[0-9]{6}$",
            "description": "A decimal number of the currency's unit, six decimals.",
        },
        "Health": {
            "type": "object",
            "required": ["ready", "components"],
            "properties": {
                "ready": { "type": "boolean" },
                "components": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["service", "component", "ready"],
                        "properties": {
                            "service": { "type": "string" },
                            "component": { "type": "string" },
                            "ready": { "type": "boolean" },
                            "reason": { "type": "string", "description": "Why not." },
                        },
                    },
                },
            },
        },
    })
}

fn operations() -> Value {
    let open = |summary: &str, id: &str, responses: Value| json!({ "get": { "tags": ["operations"], "summary": summary, "operationId": id, "security": [], "responses": responses } });
    let ready = |description: &str, ready: bool| json!({ "description": description, "content": json_content("Health", json!({ "ready": ready, "components": [] })) });
    let live = json!({ "200": {
        "description": "It runs.",
        "content": { "application/json": { "schema": { "type": "object", "properties": { "live": { "const": true } } } } },
    } });
    let metrics =
        json!({ "200": { "description": "The Prometheus text format.", "content": { "text/plain": {} } } });
    let mut metrics =
        open("Metrics; on the operations listener only (`--metrics`, 127.0.0.1:9090).", "metrics", metrics);
    metrics["servers"] =
        json!([{ "url": "http://127.0.0.1:9090", "description": "the operations listener" }]);
    let document = json!({ "200": { "description": "OpenAPI 3.1.", "content": { "application/json": { "schema": { "type": "object" } } } } });
    json!({
        "/health/live": open("Whether the process runs.", "live", live),
        "/health/ready": open(
            "Whether every component can do its work.",
            "ready",
            json!({ "200": ready("Ready.", true), "503": ready("Not ready; the components say why.", false) }),
        ),
        "/metrics": metrics,
        "/openapi.json": open("This document.", "openapi", document),
    })
}

/// The sentence on compression and size that holds for every body.
fn body_description(what: &str) -> String {
    format!(
        "{what} At most {BODY_BYTES_MAX} bytes, decompressed too; `Content-Encoding` may be `gzip` or `zstd`."
    )
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;

//! Conversions, journeys and settings editions in the description.

use journey_store::EVENT_ID_BYTES_MAX;
use model::{DecidedBy, FraudRule, JOURNEY_TOUCHES_MAX, Verdict};
use serde_json::{Value, json};

use super::{json_content, reference, responses};
use crate::journey::{IDENTITY_BYTES_MAX, PAGE_EVENTS_DEFAULT, PAGE_EVENTS_MAX, PAGE_TOKEN_BYTES_MAX};

pub(super) fn paths() -> Value {
    let request_id = json!({ "$ref": "#/components/parameters/RequestId" });
    let identity = |name: &str| {
        json!({
            "name": name, "in": "query", "description": "Exactly one of the three identities.",
            "schema": { "type": "string", "minLength": 1, "maxLength": IDENTITY_BYTES_MAX },
        })
    };
    let statuses = [400, 401, 403, 404, 405, 429, 500, 503, 504];
    let decision = json!({ "200": { "description": "The decision in force.", "content": json_content("Decision", decision_example()) } });
    let journey = json!({ "200": { "description": "A page, the oldest first.", "content": json_content("Journey", journey_example()) } });
    let rules = json!({ "200": {
        "description": "The rules, keys sorted: the SHA-256 of these bytes is the edition.",
        "content": { "application/json": { "schema": reference("Rules") } },
    } });
    json!({
        "/v1/conversions/{event_id}": { "get": {
            "tags": ["decisions"],
            "operationId": "getConversion",
            "summary": "One conversion and why it was credited as it was. Scope `read`.",
            "parameters": [
                { "name": "event_id", "in": "path", "required": true, "schema": { "type": "string", "maxLength": EVENT_ID_BYTES_MAX } },
                request_id,
            ],
            "responses": responses(decision, &statuses),
        } },
        "/v1/journeys": { "get": {
            "tags": ["decisions"],
            "operationId": "getJourney",
            "summary": "One person's touches, conversions and identities. Scope `read`.",
            "parameters": [
                identity("device_id"), identity("cookie_id"), identity("user_id"),
                { "name": "limit", "in": "query", "schema": {
                    "type": "integer", "minimum": 1, "maximum": PAGE_EVENTS_MAX, "default": PAGE_EVENTS_DEFAULT } },
                { "name": "page_token", "in": "query", "description": "`next_page_token` of the page before.",
                  "schema": { "type": "string", "maxLength": PAGE_TOKEN_BYTES_MAX } },
                request_id,
            ],
            "responses": responses(journey, &statuses),
        } },
        "/v1/settings/{edition}": { "get": {
            "tags": ["decisions"],
            "operationId": "getSettingsEdition",
            "summary": "The rules of a settings edition of this tenant, past ones too. Scope `read` or `admin`.",
            "parameters": [
                { "name": "edition", "in": "path", "required": true, "schema": { "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" } },
                request_id,
            ],
            "responses": responses(rules, &[401, 403, 404, 405, 429, 500, 503, 504]),
        } },
    })
}

pub(super) fn schemas() -> Value {
    json!({
        "Decision": decision(),
        "Candidate": candidate(),
        "Journey": {
            "type": "object",
            "required": ["person_id", "identities", "shared", "events"],
            "properties": {
                "person_id": { "type": "string" },
                "identities": { "type": "array", "items": {
                    "type": "object",
                    "required": ["kind", "value"],
                    "properties": { "kind": { "enum": ["device_id", "cookie_id", "user_id"] }, "value": { "type": "string" } },
                } },
                "shared": { "type": "boolean", "description": "More than 100 identities in one set: they are not joined." },
                "events": { "type": "array", "items": reference("StoredEvent") },
                "next_page_token": { "type": "string", "description": "When there is more." },
            },
        },
        "StoredEvent": {
            "type": "object",
            "description": "An event as it was accepted, without address and user agent; times in RFC 3339, UTC.",
            "required": ["event_id", "event_type", "timestamp"],
            "properties": { "event_id": { "type": "string" }, "event_type": { "type": "string" },
                "timestamp": { "type": "string", "format": "date-time" }, "value": { "type": "string" } },
        },
        "Rules": {
            "type": "object",
            "description": "Windows in milliseconds.",
            "required": ["currency", "time_zone", "windows", "precedence", "conversions"],
            "properties": {
                "currency": { "type": "string" },
                "time_zone": { "type": "string" },
                "windows": { "type": "object" },
                "precedence": { "type": "object" },
                "conversions": { "type": "object" },
                "fraud": { "type": "object", "description": "Absent where nothing of it is set." },
            },
        },
    })
}

fn decision() -> Value {
    let text = json!({ "type": "string" });
    let maybe_text = json!({ "type": ["string", "null"] });
    let decided_by =
        [DecidedBy::Kind, DecidedBy::Time, DecidedBy::EventId, DecidedBy::OnlyCandidate].map(DecidedBy::name);
    let decided_by: Vec<_> = decided_by.into_iter().chain(["organic"]).collect();
    json!({
        "type": "object",
        "required": ["conversion_id", "conversion", "person_id", "shared", "settings_edition", "candidates", "truncated",
            "winner", "credit", "score", "lifetime_value", "editions", "explanation", "fraud"],
        "properties": {
            "conversion_id": text,
            "conversion": reference("StoredEvent"),
            "person_id": text,
            "shared": { "type": "boolean", "description": "The person's identities are more than 100 and were not joined." },
            "settings_edition": text,
            "candidates": {
                "type": "array", "items": reference("Candidate"), "maxItems": JOURNEY_TOUCHES_MAX,
                "description": "The person's touches from 90 days before the conversion on, in path order.",
            },
            "truncated": { "type": "boolean", "description": "Older touches were left out." },
            "winner": {
                "type": "object",
                "required": ["event_id", "reason", "runner_up", "decided_by", "margin_millis"],
                "properties": {
                    "event_id": { "type": ["string", "null"], "description": "None: organic." },
                    "reason": text,
                    "runner_up": maybe_text,
                    "decided_by": { "enum": decided_by },
                    "margin_millis": { "type": "integer" },
                },
            },
            "credit": { "type": "array", "description": "Under each rule model with its default parameters.", "items": {
                "type": "object",
                "required": ["model", "touches"],
                "properties": {
                    "model": { "enum": model::Model::DEFAULTS.map(model::Model::name) },
                    "touches": { "type": "array", "items": {
                        "type": "object",
                        "required": ["event_id", "conversions", "value"],
                        "properties": {
                            "event_id": { "type": ["string", "null"], "description": "None: organic." },
                            "conversions": { "type": "number", "description": "They sum to 1." },
                            "value": reference("Money"),
                        },
                    } },
                },
            } },
            "score": {
                "type": "object",
                "description": "Of the winner, or of the touch that would have won if it had not been rejected.",
                "required": ["present", "fraud_probability", "reasons", "event_id", "model", "version"],
                "properties": {
                    "present": { "type": "boolean" },
                    "fraud_probability": { "type": ["number", "null"], "minimum": 0, "maximum": 1 },
                    "reasons": { "type": "array", "items": text, "description": "Of the score, or of its absence." },
                    "event_id": { "type": ["string", "null"], "description": "The touch that the score is of." },
                    "model": maybe_text,
                    "version": maybe_text,
                },
            },
            "lifetime_value": lifetime_value(),
            "editions": { "type": "array", "items": edition(), "description": "The one in force, then the newest." },
            "explanation": { "type": "string", "description": "The decision in words." },
            "fraud": {
                "type": "array", "description": "Each rule of fraud that a candidate breaks, once.",
                "items": {
                    "type": "object",
                    "required": ["rule", "reason"],
                    "properties": { "rule": { "enum": FraudRule::ALL.map(FraudRule::name) }, "reason": text },
                },
            },
        },
    })
}

fn lifetime_value() -> Value {
    let maybe_number = json!({ "type": ["number", "null"] });
    let maybe_text = json!({ "type": ["string", "null"] });
    json!({
        "type": ["object", "null"],
        "description": "What the person is predicted to spend from the conversion on; none where no model of it was asked.",
        "required": ["present", "value", "lower", "upper", "level", "currency", "horizon_weeks", "model", "version", "reason"],
        "properties": {
            "present": { "type": "boolean" },
            "value": maybe_number,
            "lower": maybe_number,
            "upper": maybe_number,
            "level": { "type": ["number", "null"], "minimum": 0, "maximum": 1,
                "description": "The share of such persons whose value is from `lower` to `upper`." },
            "currency": { "type": ["string", "null"], "description": "The conversion's." },
            "horizon_weeks": { "type": ["integer", "null"] },
            "model": maybe_text,
            "version": maybe_text,
            "reason": { "type": ["string", "null"], "description": "Why there is no prediction." },
        },
    })
}

fn edition() -> Value {
    let whole = json!({ "type": "integer", "minimum": 0 });
    json!({
        "type": "object",
        "required": ["cause", "reason", "recorded_at", "digest", "in_force"],
        "properties": {
            "cause": {
                "type": "object",
                "description": "The place in the event log of the record that led to it.",
                "properties": { "partition": whole, "offset": whole, "index": whole },
            },
            "reason": { "enum": ["conversion", "late_touch", "link", "earlier_conversion", "score", "settings"] },
            "recorded_at": { "type": "string", "format": "date-time" },
            "digest": { "type": "string", "description": "Over everything it was decided from." },
            "in_force": { "type": "boolean" },
        },
    })
}

fn candidate() -> Value {
    json!({
        "type": "object",
        "required": ["touch", "verdict", "match_type", "age_millis", "window_millis", "fraud", "fraud_probability"],
        "properties": {
            "touch": reference("StoredEvent"),
            "verdict": { "enum": Verdict::ALL.map(Verdict::name) },
            "match_type": { "enum": ["identity", "click_id", "install_referrer", "probabilistic"],
                "description": "Always `identity` for now." },
            "age_millis": { "type": "integer", "description": "Conversion time minus touch time; negative after the conversion." },
            "window_millis": { "type": "integer", "description": "The look-back window applied; 0 after the conversion." },
            "fraud": {
                "type": "array", "items": { "enum": FraudRule::ALL.map(FraudRule::name) },
                "description": "The rules of fraud that it breaks, whether or not the settings reject for them.",
            },
            "fraud_probability": { "type": ["number", "null"], "minimum": 0, "maximum": 1,
                "description": "The model's; none unless the touch was scored." },
        },
    })
}

fn touch_example() -> Value {
    json!({ "event_id": "t-1", "event_type": "click", "timestamp": "2026-01-01T00:00:00Z", "device_id": "d",
        "app_id": "default", "channel": "email" })
}

fn conversion_example() -> Value {
    json!({ "event_id": "c-1", "event_type": "conversion", "timestamp": "2026-01-01T01:00:00Z", "device_id": "d",
        "app_id": "default", "conversion": "purchase", "value": "10", "currency": "EUR" })
}

fn decision_example() -> Value {
    json!({
        "conversion_id": "c-1",
        "conversion": conversion_example(),
        "person_id": "5d1f0c0e6f6e4f0f8a2b7c9d3e4f5a6b",
        "shared": false,
        "settings_edition": "sha256:…",
        "candidates": [{ "touch": touch_example(), "verdict": "eligible", "match_type": "identity",
            "age_millis": 3_600_000, "window_millis": 604_800_000, "fraud": [], "fraud_probability": null }],
        "truncated": false,
        "winner": { "event_id": "t-1", "reason": "…", "runner_up": null, "decided_by": "only_candidate", "margin_millis": 0 },
        "credit": [{ "model": "last_touch", "touches": [{ "event_id": "t-1", "conversions": 1, "value": "10.000000" }] }],
        "score": { "present": false, "fraud_probability": null, "reasons": ["no model gateway is configured"],
            "event_id": null, "model": null, "version": null },
        "lifetime_value": null,
        "editions": [{ "cause": { "partition": 0, "offset": 7, "index": 1 }, "reason": "conversion",
            "recorded_at": "2026-01-01T01:00:01Z", "digest": "0f8a2b7c9d3e4f5a6b5d1f0c0e6f6e4f", "in_force": true }],
        "explanation": "…",
        "fraud": [],
    })
}

fn journey_example() -> Value {
    json!({
        "person_id": "5d1f0c0e6f6e4f0f8a2b7c9d3e4f5a6b",
        "identities": [{ "kind": "device_id", "value": "d" }],
        "shared": false,
        "events": [touch_example(), conversion_example()],
    })
}

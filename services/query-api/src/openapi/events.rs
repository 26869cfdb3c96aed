//! Events in the description. Ingestion checks them; its rules are written out here.

use serde_json::{Map, Value, json};

use super::{body_description, json_content, reference, responses};

/// Events of one batch.
const BATCH_EVENTS_MAX: usize = 10_000;

/// Bytes of one event.
const EVENT_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the optional strings.
const LABEL_BYTES_MAX: usize = 256;

/// The optional strings that touches and conversions have alike.
const LABELS: [&str; 10] = [
    "click_id",
    "app_id",
    "platform",
    "channel",
    "partner",
    "campaign_id",
    "ad_group_id",
    "creative_id",
    "keyword",
    "sub_publisher",
];

/// What a body is, and what becomes of one that is none.
const BODY: &str = "One event, a list of events, or one event a line; JSON in UTF-8, without a byte order mark. \
    Blank lines count for nothing, and so does a `charset`. Without a `Content-Type` it is read as `application/json`. \
    What is not well-formed is refused as a whole with the place; what is wrong within an event rejects that event alone. \
    Of several mistakes of an event one is reported: its size first, then in the order of the body a name that is \
    unknown or given twice or a value of another type, then the fields in the order listed here.";

pub(super) fn paths() -> Value {
    let event = json!({
        "event_type": "click", "timestamp": 1_767_225_600_000_i64, "device_id": "d", "campaign_id": "c",
        "user_agent": "Mozilla/5.0", "ip": "1.2.3.4",
    });
    let answer = json!({
        "accepted": 2, "duplicate": 1, "rejected": 1,
        "items": [
            { "index": 0, "event_id": "a", "status": "accepted" },
            { "index": 1, "event_id": "b", "status": "duplicate" },
            { "index": 2, "event_id": "c", "status": "accepted" },
            { "index": 3, "status": "rejected", "code": "invalid_value", "field": "currency",
              "reason": "not an ISO 4217 code: \"EURO\"" },
        ],
    });
    let refused = json!({
        "accepted": 0, "duplicate": 0, "rejected": 1,
        "items": [{ "index": 0, "status": "rejected", "code": "missing_field", "field": "device_id", "reason": "…" }],
    });
    let mut bad = json_content("EventsAnswer", refused);
    bad["application/problem+json"] = json!({ "schema": reference("Problem") });
    let ok = json!({
        "200": {
            "description": "Every accepted event is durable. An empty list is answered with zeros.",
            "content": json_content("EventsAnswer", answer),
        },
    });
    let mut responses = responses(ok, &[401, 403, 405, 413, 415, 429, 500, 503, 504]);
    responses["400"] = json!({
        "description": "Every item was rejected, or (a problem) the body cannot be read at all.",
        "content": bad,
    });
    json!({ "/v1/events": { "post": {
        "tags": ["events"],
        "operationId": "ingestEvents",
        "summary": "Sends events. Scope `ingest`.",
        "parameters": [{ "$ref": "#/components/parameters/RequestId" }],
        "requestBody": {
            "required": true,
            "description": body_description(BODY),
            "content": {
                "application/json": {
                    "schema": { "oneOf": [
                        reference("Event"),
                        { "type": "array", "items": reference("Event"), "maxItems": BATCH_EVENTS_MAX },
                    ] },
                    "example": event,
                },
                "application/x-ndjson": { "schema": { "type": "string" } },
            },
        },
        "responses": responses,
    } } })
}

pub(super) fn schemas() -> Value {
    let answer = json!({
        "type": "object",
        "required": ["accepted", "duplicate", "rejected", "items"],
        "properties": {
            "accepted": { "type": "integer" },
            "duplicate": { "type": "integer", "description": "Known by their `event_id` already; they change nothing." },
            "rejected": { "type": "integer" },
            "items": { "type": "array", "items": {
                "type": "object",
                "required": ["index", "status"],
                "properties": {
                    "index": { "type": "integer", "description": "Which event of the body, from 0; blank lines do not count." },
                    "event_id": { "type": "string", "description": "Given or assigned; absent if it was rejected without a valid one." },
                    "status": { "enum": ["accepted", "duplicate", "rejected"] },
                    "code": { "enum": ["missing_field", "unknown_field", "invalid_value", "too_long", "out_of_range", "too_large"] },
                    "field": { "type": "string", "description": "Absent where it is the event as a whole." },
                    "reason": { "type": "string" },
                },
            } },
        },
    });
    json!({ "Event": event(), "EventsAnswer": answer })
}

fn event() -> Value {
    let time = |description: &str| {
        json!({
            "description": description,
            "oneOf": [
                { "type": "integer", "description": "Unix milliseconds, written without a fraction or an exponent." },
                { "type": "string", "format": "date-time", "description": "RFC 3339 with any offset; what is finer than a millisecond is cut off, a leap second is the second before it." },
            ],
        })
    };
    let identity = |of: &str| json!({ "type": "string", "minLength": 1, "maxLength": 128, "description": format!("{of}; at least one of the three identities is required.") });
    let mut fields = Map::new();
    let mut add = |name: &str, schema: Value| fields.insert(name.to_owned(), schema);
    add(
        "event_id",
        json!({
            "type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,64}$",
            "description": "The idempotency key; assigned (UUIDv7) and returned when absent.",
        }),
    );
    add(
        "event_type",
        json!({
            "enum": ["impression", "click", "visit", "activity", "conversion"],
            "description": "The first three are touches; `activity` only links identities.",
        }),
    );
    add("timestamp", time("Event time, from 2000-01-01 to 24 h ahead of the server."));
    add("device_id", identity("A device"));
    add("cookie_id", identity("A browser"));
    add("user_id", identity("A user"));
    for name in LABELS {
        add(name, json!({ "type": "string", "maxLength": LABEL_BYTES_MAX }));
    }
    add(
        "country",
        json!({ "type": "string", "pattern": "^[A-Z]{2}$", "description": "ISO 3166-1 alpha-2." }),
    );
    add(
        "conversion",
        json!({
            "type": "string", "maxLength": 128, "default": "conversion", "description": "Conversions only: its name.",
        }),
    );
    add(
        "value",
        json!({
            "description": "Conversions only: up to 6 decimals, at most 9e12 in magnitude; a refund is negative. Absent: 0. \
                A number may have an exponent, a string may not.",
            "oneOf": [{ "type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?$", "maxLength": 64 }, { "type": "number" }],
        }),
    );
    add(
        "currency",
        json!({
            "type": "string", "pattern": "^[A-Z]{3}$", "description": "Conversions only: ISO 4217; the tenant's when absent.",
        }),
    );
    add("install_begin", time("Conversions only: when the store's download began."));
    add(
        "ip",
        json!({ "type": "string", "description": "IPv4 or IPv6, without port or zone; never shown again." }),
    );
    add("user_agent", json!({ "type": "string", "maxLength": 1024, "description": "Never shown again." }));
    add(
        "properties",
        json!({
            "type": "object", "maxProperties": 64,
            "description": "At most 8 KiB, written as JSON without spaces, each character as itself. Numbers are doubles.",
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        }),
    );
    json!({
        "type": "object",
        "additionalProperties": false,
        "description": format!("At most {EVENT_BYTES_MAX} bytes. An unknown field is an error that names it, and so is \
            a field of the other kind of event. `sub_publisher` is for touches only."),
        "required": ["event_type", "timestamp"],
        "anyOf": [{ "required": ["device_id"] }, { "required": ["cookie_id"] }, { "required": ["user_id"] }],
        "properties": fields,
    })
}

//! The description of the public REST API, OpenAPI 3.1.

use serde_json::{Value, json};

/// The document.
pub fn document() -> Value {
    json!({})
}

pub(crate) fn text() -> &'static str {
    ""
}

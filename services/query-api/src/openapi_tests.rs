#![allow(clippy::unwrap_used)]

use std::{env, fs, path::PathBuf};

use super::*;

fn committed() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json")
}

fn walk(value: &Value, visit: &mut impl FnMut(&Value)) {
    visit(value);
    match value {
        Value::Object(object) => object.values().for_each(|value| walk(value, visit)),
        Value::Array(items) => items.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

#[test]
fn the_committed_document_is_the_generated_one() {
    if env::var_os("UPDATE_OPENAPI").is_some_and(|value| value == "1") {
        fs::write(committed(), text()).unwrap();
    }
    let committed = fs::read_to_string(committed()).unwrap_or_default();
    assert!(
        committed == text(),
        "openapi.json is stale: refresh it with UPDATE_OPENAPI=1 cargo test -p query-api openapi, and commit it"
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_its_own_name() {
    let document = document();
    let mut names = Vec::new();
    walk(&document, &mut |value| {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        names.extend(value.get("operationId").and_then(Value::as_str).map(str::to_owned));
    });
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert_eq!(count, document["paths"].as_object().unwrap().len());
}

#[test]
fn the_example_of_a_report_passes_the_rules() {
    let example = document()
        .pointer("/paths/~1v1~1reports/post/requestBody/content/application~1json/example")
        .unwrap()
        .to_string();
    crate::parse::report(example.as_bytes()).unwrap();
}

#[test]
fn the_fields_of_the_description_are_those_that_are_read() {
    let document = document();
    let described = document.pointer("/components/schemas/Report/properties").unwrap().as_object().unwrap();
    let described: Vec<_> = described.keys().map(String::as_str).collect();
    assert_eq!(described, crate::parse::FIELDS);
    let parameters = document.pointer("/paths/~1v1~1journeys/get/parameters").unwrap().as_array().unwrap();
    let parameters: Vec<_> = parameters.iter().filter_map(|parameter| parameter["name"].as_str()).collect();
    assert_eq!(parameters, crate::journey::PARAMETERS);
}

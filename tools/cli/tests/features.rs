//! `attribution features export`: the features of training, computed by what serves.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use flate2::read::GzDecoder;

/// Both round to this.
const GRID: f64 = 1e-3;

/// Names of columns; by what the line is of the cells.
type Table = (Vec<String>, BTreeMap<Vec<String>, Vec<Option<f64>>>);

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ml/golden").join(name)
}

fn export(of: &str, file: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_attribution");
    Command::new(program).args(["features", "export", "--of", of]).arg(file).output().unwrap()
}

/// A table whose first columns are ids, so many.
fn table(ids: usize, text: &str) -> Table {
    let mut lines = text.lines();
    let names = lines.next().unwrap().split(',').skip(ids).map(str::to_owned).collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let values =
            cells[ids..].iter().map(|cell| (!cell.is_empty()).then(|| cell.parse().unwrap())).collect();
        (cells[..ids].iter().map(|&id| id.to_owned()).collect(), values)
    };
    (names, lines.map(row).collect())
}

#[test]
fn features_are_those_of_the_definition_that_the_model_of_fraud_is_trained_with() {
    same_as_defined("fraud", 2, "features");
}

#[test]
fn features_are_those_of_the_definition_that_the_model_of_values_is_trained_with() {
    same_as_defined("value", 1, "values");
}

fn same_as_defined(of: &str, ids: usize, files: &str) {
    let output = export(of, &golden(&format!("{files}.ndjson.gz")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut expected = String::new();
    let file = File::open(golden(&format!("{files}.csv.gz"))).unwrap();
    GzDecoder::new(file).read_to_string(&mut expected).unwrap();
    let (expected_names, expected) = table(ids, &expected);
    let (names, rows) = table(ids, std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(names, expected_names);
    assert!(expected.len() > 200, "{}", expected.len());
    assert_eq!(rows.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let mut distinct = vec![std::collections::BTreeSet::new(); names.len()];
    for (key, expected) in &expected {
        for (column, (value, expected)) in rows[key].iter().zip(expected).enumerate() {
            let (value, expected) = (value.unwrap(), expected.unwrap());
            // Half a step to either side may be rounded away from each other.
            let name = &names[column];
            assert!((value - expected).abs() < GRID * 1.01, "{name} of {key:?}: {value}, not {expected}");
            distinct[column].insert(value.to_bits());
        }
    }
    for (name, values) in names.iter().zip(distinct) {
        assert!(values.len() > 1, "{name} is always the same: nothing is compared");
    }
}

#[test]
fn what_is_not_known_is_an_empty_cell() {
    let mut file = tempfile::Builder::new().suffix(".ndjson").tempfile().unwrap();
    let touch = r#"{"event_id":"t","event_type":"click","timestamp":"2026-01-05T06:00:00Z","device_id":"d"}"#;
    let conversion =
        r#"{"event_id":"c","event_type":"conversion","timestamp":"2026-01-05T06:01:40Z","device_id":"d"}"#;
    // What is in the file need not be in order.
    writeln!(file, "{conversion}\n{touch}").unwrap();
    let output = export("fraud", file.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (names, rows) = table(2, std::str::from_utf8(&output.stdout).unwrap());
    let row = &rows[&vec!["c".to_owned(), "t".to_owned()]];
    let known: Vec<(&str, f64)> =
        names.iter().zip(row).filter_map(|(name, value)| Some((name.as_str(), (*value)?))).collect();
    let expected = [
        ("click_to_conversion", 100.0),
        ("device_clicks_1h", 1.0),
        ("device_clicks_24h", 1.0),
        ("device_impressions_24h", 0.0),
        ("hour_of_day", 6.0),
    ];
    assert_eq!(known, expected);
}

#[test]
fn an_event_that_could_not_be_accepted_ends_the_command_and_is_named() {
    let mut file = tempfile::Builder::new().suffix(".ndjson").tempfile().unwrap();
    writeln!(file, r#"{{"event_id":"t","event_type":"click","timestamp":"2026-01-05T06:00:00Z"}}"#).unwrap();
    let output = export("fraud", file.path());
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("identity") || said.contains("device_id"), "{said}");
    assert!(output.stdout.is_empty());
}

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

/// Names of columns; by conversion and touch the cells.
type Table = (Vec<String>, BTreeMap<(String, String), Vec<Option<f64>>>);

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ml/golden").join(name)
}

fn export(file: &Path) -> Output {
    let program = env!("CARGO_BIN_EXE_attribution");
    Command::new(program).args(["features", "export"]).arg(file).output().unwrap()
}

fn table(text: &str) -> Table {
    let mut lines = text.lines();
    let names = lines.next().unwrap().split(',').map(str::to_owned).collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let values =
            cells[2..].iter().map(|cell| (!cell.is_empty()).then(|| cell.parse().unwrap())).collect();
        ((cells[0].to_owned(), cells[1].to_owned()), values)
    };
    (names, lines.map(row).collect())
}

#[test]
fn features_are_those_of_the_definition_that_models_are_trained_with() {
    let output = export(&golden("features.ndjson.gz"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut expected = String::new();
    GzDecoder::new(File::open(golden("features.csv.gz")).unwrap()).read_to_string(&mut expected).unwrap();
    let (expected_names, expected) = table(&expected);
    let (names, rows) = table(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(names, expected_names);
    assert!(expected.len() > 200, "{}", expected.len());
    assert_eq!(rows.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let mut distinct = vec![std::collections::BTreeSet::new(); names.len() - 2];
    for (key, expected) in &expected {
        for (column, (value, expected)) in rows[key].iter().zip(expected).enumerate() {
            let (value, expected) = (value.unwrap(), expected.unwrap());
            // Half a step to either side may be rounded away from each other.
            let name = &names[column + 2];
            assert!((value - expected).abs() < GRID * 1.01, "{name} of {key:?}: {value}, not {expected}");
            distinct[column].insert(value.to_bits());
        }
    }
    for (name, values) in names[2..].iter().zip(distinct) {
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
    let output = export(file.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (names, rows) = table(std::str::from_utf8(&output.stdout).unwrap());
    let row = &rows[&("c".to_owned(), "t".to_owned())];
    let known: Vec<(&str, f64)> =
        names[2..].iter().zip(row).filter_map(|(name, value)| Some((name.as_str(), (*value)?))).collect();
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
    let output = export(file.path());
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("identity") || said.contains("device_id"), "{said}");
    assert!(output.stdout.is_empty());
}

#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const REAL: &[u8] = include_bytes!("../../../libs/model/tests/data/pathdata.csv");

#[derive(serde::Deserialize)]
struct Event<'a> {
    event_id: &'a str,
    device_id: &'a str,
    timestamp: i64,
    value: Option<&'a str>,
}

fn read(text: &[u8]) -> Result<PathTable> {
    PathTable::read(text, BASE_TIME_DEFAULT.parse().unwrap())
}

fn events(table: &PathTable) -> Vec<Value> {
    table.events().map(|(_, json)| serde_json::from_str(&json).unwrap()).collect()
}

#[test]
fn the_real_table_has_its_known_counts_and_every_event_its_own_id() {
    let table = read(REAL).unwrap();
    let expected =
        Counts { journeys: 88_387, touches: 378_209, conversions: 19_785, value_micros: 74_802_971_582 };
    assert_eq!(table.counts(), expected);
    let (mut ids, mut persons) = (HashSet::new(), HashSet::new());
    let mut found = Counts::default();
    let (from, to) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
    let millis = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
    for (_, json) in table.events() {
        let event: Event<'_> = serde_json::from_str(&json).unwrap();
        let id = event.event_id;
        assert!(id.len() <= 64 && id.bytes().all(plain), "{id}");
        assert!(ids.insert(id.to_owned()));
        persons.insert(event.device_id.to_owned());
        assert!((millis(from)..millis(to)).contains(&event.timestamp), "{json}");
        match event.value {
            None => found.touches += 1,
            Some(value) => {
                found.conversions += 1;
                found.value_micros += i128::from(money::parse_micros(value).unwrap());
            }
        }
    }
    found.journeys = persons.len() as u64;
    assert_eq!(found, expected);
}

#[test]
fn the_same_table_gives_the_same_events() {
    let (first, second) = (read(REAL).unwrap(), read(REAL).unwrap());
    assert!(first.events().eq(second.events()));
}

#[test]
fn touches_are_an_hour_apart_and_the_value_is_split_to_the_micro() {
    let table = read(b"path,conversions,value,nulls\nb > a,3,0.244,1\n").unwrap();
    let events = events(&table);
    assert_eq!(events.len(), 4 * 2 + 3);
    let mut by_person = HashMap::<&str, Vec<&Value>>::new();
    for event in &events {
        by_person.entry(event["device_id"].as_str().unwrap()).or_default().push(event);
    }
    assert_eq!(by_person.len(), 4);
    let base: Timestamp = BASE_TIME_DEFAULT.parse().unwrap();
    for (nth, event) in events.iter().filter(|event| event["event_type"] == "conversion").enumerate() {
        let moment = base.as_millisecond() + nth as i64 * 1_000;
        assert_eq!(event["timestamp"], moment);
        assert_eq!(event["value"], ["0.081334", "0.081333", "0.081333"][nth]);
        let path: Vec<_> = by_person[event["device_id"].as_str().unwrap()]
            .iter()
            .filter(|event| event["event_type"] == "click")
            .map(|touch| (touch["channel"].as_str().unwrap(), moment - touch["timestamp"].as_i64().unwrap()))
            .collect();
        assert_eq!(path, [("b", 7_200_000), ("a", 3_600_000)]);
    }
    let null: Vec<_> = by_person.iter().filter(|(id, _)| id.contains("-n1")).collect();
    assert_eq!(null[0].1.len(), 2);
}

#[test]
fn equal_paths_in_two_rows_are_different_persons() {
    let table = read(b"path,conversions,value,nulls\na,1,1,0\na,1,1,0\n").unwrap();
    let ids: HashSet<_> = events(&table).iter().map(|event| event["event_id"].to_string()).collect();
    assert_eq!(ids.len(), 4);
}

#[test]
fn the_span_holds_every_event() {
    let table = read(REAL).unwrap();
    let (from, to) = table.span();
    assert_eq!((from.to_string().as_str(), to.to_string().as_str()), ("2026-01-01", "2026-01-07"));
}

#[test]
fn a_wrong_row_is_named_with_its_line_and_column() {
    let long = ["a"; PATH_TOUCHES_MAX + 1].join(" > ");
    let head = "path,conversions,value,nulls\na,1,1,0\n";
    for (row, named) in [
        ("a > > b,1,1,0", "path"),
        (&format!("{long},1,1,0"), "1001 touches"),
        ("a,x,1,0", "conversions"),
        ("a,1,1.1234567,0", "value"),
        ("a,0,1,1", "without a conversion"),
        ("a,1,1,-1", "nulls"),
    ] {
        let error = format!("{:#}", read(format!("{head}{row}\n").as_bytes()).unwrap_err());
        assert!(error.starts_with("line 3: ") && error.contains(named), "{row}: {error}");
    }
    assert!(read(format!("{head}{},1,1,0\n", &long[4..]).as_bytes()).is_ok());
    assert!(read(format!("\u{feff}{head}").as_bytes()).is_ok());
    assert!(read(b"path,conversions,value\n").unwrap_err().to_string().contains("nulls"));
}

#[test]
fn a_row_that_does_not_end_is_refused() {
    let text = format!("path,conversions,value,nulls\n\"a,1,1,0\n{}", "b,1,1,0\n".repeat(200_000));
    let error = read(text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("is a quote not closed?"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_table_becomes_its_persons(
        rows in prop::collection::vec(
            (prop::collection::vec("[a-zé\",]{1,5}( [a-z]{1,3})?", 1..5), 0..4_u64, -5_000_000..5_000_000_i64, 0..4_u64),
            0..6,
        ),
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["nulls", "path", "value", "conversions", "note"]).unwrap();
        // Each person's channels and value, sorted.
        let mut expected = Vec::new();
        for (channels, conversions, micros, nulls) in &rows {
            let micros = if *conversions == 0 { 0 } else { *micros };
            let cells = [
                nulls.to_string(),
                channels.join(" >"),
                money::format_micros(micros.into()),
                conversions.to_string(),
                "x".to_owned(),
            ];
            writer.write_record(cells).unwrap();
            let (each, more) = (micros.abs() / (*conversions as i64).max(1), micros.abs() % (*conversions as i64).max(1));
            for nth in 0..*conversions as i64 {
                let share = (each + i64::from(nth < more)) * micros.signum();
                expected.push((channels.clone(), Some(share)));
            }
            expected.extend((0..*nulls).map(|_| (channels.clone(), None)));
        }
        let table = read(&writer.into_inner().unwrap()).unwrap();
        let mut persons = HashMap::<String, (Vec<(i64, String)>, Option<i64>)>::new();
        for event in events(&table) {
            let person = persons.entry(event["device_id"].as_str().unwrap().to_owned()).or_default();
            match event["value"].as_str() {
                Some(value) => person.1 = Some(money::parse_micros(value).unwrap()),
                None => person.0.push((event["timestamp"].as_i64().unwrap(), event["channel"].as_str().unwrap().to_owned())),
            }
        }
        let mut found: Vec<_> = persons
            .into_values()
            .map(|(mut touches, value)| {
                touches.sort();
                (touches.into_iter().map(|(_, channel)| channel).collect::<Vec<_>>(), value)
            })
            .collect();
        found.sort();
        expected.sort();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_bytes_are_a_table_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        rows in "[a-c>\",0-9.\n -]{0,80}",
    ) {
        let text = format!("path,conversions,value,nulls\n{rows}");
        for text in [&bytes, text.as_bytes()] {
            if let Ok(table) = read(text) {
                let counts = table.counts();
                let first: Vec<_> = table.events().take(1_000).collect();
                prop_assert!(first.len() as u64 <= counts.touches + counts.conversions);
            }
        }
    }
}

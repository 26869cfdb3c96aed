#![allow(clippy::unwrap_used)]

use std::io::{Cursor, Write};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::rows::ROW_BYTES_MAX;

fn items(text: impl AsRef<[u8]>, format: Option<Format>) -> Result<Vec<Item>> {
    let reader = Box::new(Cursor::new(text.as_ref().to_vec()));
    let source = Source { name: String::new(), bytes: None, read: Arc::default(), reader, format };
    source.into_items()?.collect()
}

fn event(item: &Item) -> (u64, serde_json::Value) {
    match item {
        Item::Event { place, json } => (*place, serde_json::from_str(json).unwrap()),
        Item::Bad { .. } => panic!("{item:?}"),
    }
}

#[test]
fn lines_keep_their_numbers_and_their_ids() {
    let items =
        items("{\"event_id\":\"a\",\"value\":1.10}\n\n  { }\r\nnonsense\n[1]\n{\"event_id\":null}", None)
            .unwrap();
    assert_eq!(items[0], Item::Event { place: 1, json: r#"{"event_id":"a","value":1.10}"#.to_owned() });
    let (place, object) = event(&items[1]);
    assert_eq!((place, object.as_object().unwrap().len()), (3, 1));
    assert!(matches!(&items[2], Item::Bad { place: 4, reason } if reason.contains("object")), "{items:?}");
    assert!(matches!(&items[3], Item::Bad { place: 5, .. }));
    assert_eq!(items[4], Item::Event { place: 6, json: r#"{"event_id":null}"#.to_owned() });
}

#[test]
fn the_same_file_names_the_same_events_and_equal_lines_differ() {
    let text = "{\"event_type\":\"click\"}\n{\"event_type\":\"click\"}\n";
    let first = items(text, None).unwrap();
    assert_eq!(first, items(text, None).unwrap());
    let ids: Vec<_> =
        first.iter().map(|item| event(item).1["event_id"].as_str().unwrap().to_owned()).collect();
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| id.len() == 34 && id.starts_with("i-")));
}

#[test]
fn json_is_an_array_or_an_object_over_lines() {
    for text in
        ["[{\"event_id\":\"a\"},\n{\"event_id\":\"b\"}]", "{\n\"event_id\":\"a\"\n}\n{\"event_id\":\n\"b\"}"]
    {
        let items = items(text, None).unwrap();
        let ids: Vec<_> =
            items.iter().map(event).map(|(place, object)| (place, object["event_id"].clone())).collect();
        assert_eq!(ids, [(1, "a".into()), (2, "b".into())]);
    }
    assert!(items("[{]", None).unwrap_err().to_string().contains("not JSON"));
    assert!(items("", None).unwrap().is_empty());
}

#[test]
fn cells_become_fields_and_empty_ones_are_absent() {
    let text = "event_id,timestamp,value,channel,properties\n\
                a,1767225600000,012.50,\"e-\"\"mail\"\"\",\"{\"\"n\"\": 1}\"\n\
                b,2026-01-01T00:00:00Z,,,\n";
    let items = items(text, Some(Format::Csv)).unwrap();
    let (place, first) = event(&items[0]);
    assert_eq!(place, 2);
    assert_eq!(
        first,
        serde_json::json!({"event_id": "a", "timestamp": 1_767_225_600_000_i64, "value": "012.50",
            "channel": "e-\"mail\"", "properties": {"n": 1}})
    );
    let second = serde_json::json!({"event_id": "b", "timestamp": "2026-01-01T00:00:00Z"});
    assert_eq!(event(&items[1]), (3, second));
}

#[test]
fn a_wrong_table_is_refused_with_its_place() {
    let wrong = |text| items(text, Some(Format::Csv)).unwrap_err().to_string();
    assert!(wrong("event_id,chanel\n").contains("column 2: \"chanel\""));
    assert!(wrong("event_id,event_id\n").contains("twice"));
    let found = items("event_id,properties\na\nb,nonsense\n", Some(Format::Csv)).unwrap();
    assert!(matches!(&found[0], Item::Bad { place: 2, reason } if reason.contains("1 cells")), "{found:?}");
    assert!(
        matches!(&found[1], Item::Bad { place: 3, reason } if reason.starts_with("properties")),
        "{found:?}"
    );
}

#[test]
fn a_line_may_have_its_limit_and_not_one_byte_more() {
    let fill = |bytes: u64| format!("{{\"event_id\":\"{}\"}}", "x".repeat(bytes as usize - 15));
    for end in ["", "\n"] {
        let items =
            items(format!("{}\n{}{end}", fill(LINE_BYTES_MAX), fill(LINE_BYTES_MAX + 1)), None).unwrap();
        assert!(matches!(&items[0], Item::Event { json, .. } if json.len() as u64 == LINE_BYTES_MAX));
        assert!(matches!(&items[1], Item::Bad { place: 2, reason } if reason.contains("1048576 bytes")));
        assert_eq!(items.len(), 2);
    }
}

#[test]
fn what_ends_in_gz_is_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.csv.gz");
    let mut packed = flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
    packed.write_all(b"event_id\na\n").unwrap();
    packed.finish().unwrap();
    let source = Source::open(path.to_str().unwrap(), None).unwrap();
    let (bytes, read) = (source.bytes.unwrap(), source.read.clone());
    let items: Vec<Item> = source.into_items().unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(items, [Item::Event { place: 2, json: r#"{"event_id":"a"}"#.to_owned() }]);
    assert_eq!(read.load(Ordering::Relaxed), bytes);
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_text() {
    for (text, format) in [
        ("{\"event_id\":\"a\"}\n", None),
        ("[{\"event_id\":\"a\"}]", None),
        ("event_id\na\n", None),
        ("event_id\na\n", Some(Format::Csv)),
    ] {
        let marked = items(format!("\u{feff}{text}"), format).unwrap();
        assert_eq!(marked, items(text, format).unwrap(), "{text:?}");
        assert_eq!(event(&marked[0]).1, json!({"event_id": "a"}));
    }
}

#[test]
fn a_document_may_have_its_limit_and_not_one_byte_more() {
    let text = "[{\"event_id\":\"a\"}]";
    assert!(document(text.as_bytes(), text.len() as u64).is_ok());
    let error = document(text.as_bytes(), text.len() as u64 - 1).err().unwrap();
    assert!(error.to_string().contains("17 bytes; write one object a line"), "{error}");
}

#[test]
fn a_row_may_have_its_limit_and_a_quote_that_is_not_closed_does_not_take_the_rest() {
    let row = |bytes: usize| format!("event_id,keyword\na,{}\nb,x\n", "x".repeat(bytes - 2));
    assert_eq!(items(row(ROW_BYTES_MAX), Some(Format::Csv)).unwrap().len(), 2);
    let rest = "c,z\n".repeat(ROW_BYTES_MAX / 2);
    let found = table(Box::new(Cursor::new(format!("event_id,keyword\na,x\nb,\"y\n{rest}")))).unwrap();
    let found: Vec<_> = found.take(3).collect();
    assert!(found[0].is_ok());
    let error = format!("{:#}", found[1].as_ref().unwrap_err());
    assert!(error.contains("line 3: a row is longer than 1048576 bytes; is a quote not closed?"), "{error}");
}

/// Objects as they could be sent: names and values of any kind, an id now and then.
fn some_objects() -> impl Strategy<Value = Vec<Value>> {
    let leaf = prop_oneof![
        "\\PC{0,12}".prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    let value =
        leaf.prop_recursive(3, 8, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Value::from));
    let name = prop_oneof![prop::sample::select(FIELDS.to_vec()).prop_map(str::to_owned), "\\PC{0,6}"];
    let object = prop::collection::vec((name, value), 0..6)
        .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()));
    prop::collection::vec(object, 0..6)
}

/// The objects read, without the ids that were made for them.
fn objects(items: &[Item], given: &[Value]) -> Vec<Value> {
    let mut objects: Vec<_> = items.iter().map(|item| event(item).1).collect();
    for (object, given) in objects.iter_mut().zip(given) {
        if given.get("event_id").is_none() {
            let id = object.as_object_mut().unwrap().shift_remove("event_id").unwrap();
            assert!(id.as_str().unwrap().starts_with("i-"));
        }
    }
    objects
}

proptest! {
    #[test]
    fn objects_are_read_as_they_were_written(given in some_objects(), pretty: bool, blank: bool) {
        let end = if blank { "\r\n\n" } else { "\n" };
        let lines: String = given.iter().map(|object| object.to_string() + end).collect();
        let read = items(&lines, Some(Format::Ndjson)).unwrap();
        prop_assert_eq!(&objects(&read, &given), &given);
        prop_assert_eq!(&read, &items(&lines, Some(Format::Ndjson)).unwrap());
        let write = if pretty { serde_json::to_string_pretty::<Value> } else { serde_json::to_string::<Value> };
        let array = write(&json!(given)).unwrap();
        prop_assert_eq!(&objects(&items(array, None).unwrap(), &given), &given);
        let documents: String = given.iter().map(|object| write(object).unwrap() + " ").collect();
        prop_assert_eq!(&objects(&items(documents, Some(Format::Json)).unwrap(), &given), &given);
    }

    #[test]
    fn a_table_is_read_as_it_was_written(
        columns in prop::sample::subsequence(FIELDS.to_vec(), 1..8),
        rows in prop::collection::vec(prop::collection::vec("\\PC{0,6}|[0-9]{1,13}|[\",\n ]{0,4}", 8), 0..6),
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&columns).unwrap();
        let mut given = Vec::new();
        for cells in &rows {
            let mut object = Map::new();
            let mut row = Vec::new();
            for (column, cell) in columns.iter().zip(cells) {
                let (cell, value) = match *column {
                    "properties" => (json!({"a": cell}).to_string(), json!({"a": cell})),
                    "timestamp" | "install_begin" => match cell.parse::<i64>() {
                        Ok(millis) => (millis.to_string(), json!(millis)),
                        Err(_) => (cell.clone(), json!(cell)),
                    },
                    _ => (cell.clone(), json!(cell)),
                };
                if !cell.is_empty() {
                    object.insert((*column).to_owned(), value);
                }
                row.push(cell);
            }
            writer.write_record(&row).unwrap();
            given.push(Value::Object(object));
        }
        let table = writer.into_inner().unwrap();
        let read = items(&table, Some(Format::Csv)).unwrap();
        prop_assert_eq!(objects(&read, &given), given);
    }

    #[test]
    fn any_bytes_are_objects_or_said_not_to_be(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        text in "(\u{feff}|)(event_id,value,properties\n|)[\\[\\]{}:,\"\\\\a-f0-9 \r\n]{0,80}",
    ) {
        for format in [None, Some(Format::Ndjson), Some(Format::Json), Some(Format::Csv)] {
            for text in [&bytes, text.as_bytes()] {
                for item in items(text, format).unwrap_or_default() {
                    if let Item::Event { json, .. } = item {
                        let object: Map<String, Value> = serde_json::from_str(&json).unwrap_or_default();
                        // What it cannot hold, such as a number past a double, is the platform's to judge.
                        let is_object = serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok() && json.starts_with('{');
                        prop_assert!(object.contains_key("event_id") || is_object, "{}", json);
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Source::open("no-such-file.csv", None).err().unwrap();
    assert!(error.to_string().contains("no-such-file.csv"));
}

#![allow(clippy::unwrap_used)]

use std::io::{Cursor, Write};

use super::*;

fn items(text: &str, format: Option<Format>) -> Result<Vec<Item>> {
    let reader = Box::new(Cursor::new(text.to_owned().into_bytes()));
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
            items(&format!("{}\n{}{end}", fill(LINE_BYTES_MAX), fill(LINE_BYTES_MAX + 1)), None).unwrap();
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
fn a_file_that_is_not_there_is_named() {
    let error = Source::open("no-such-file.csv", None).err().unwrap();
    assert!(error.to_string().contains("no-such-file.csv"));
}

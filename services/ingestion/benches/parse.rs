//! One event on its way from bytes of JSON to bytes of the log: parsed, checked, encoded.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ingestion::{
    encode::{self, Stamp},
    event::{EventRef, Field},
    parse::{Format, Items},
    validate::{Checked, validate},
};

const NOW: i64 = 1_767_225_600_000;

/// The 17 fields of a full click.
const EVENT: &str = r#"{"event_id":"e-000000000000","event_type":"click","timestamp":1767225600000,"device_id":"device-000000000000","click_id":"EAIaIQobChMI7u3q8pKCAxVhEQYAHR5nDjQEAAYASAAEgKx","app_id":"com.example.shop","platform":"android","channel":"search","partner":"example-ads","campaign_id":"campaign-summer-sale-0001","ad_group_id":"ad-group-00001","creative_id":"creative-000001","keyword":"running shoes men","sub_publisher":"placement-top-banner","country":"DE","ip":"203.0.113.77","user_agent":"Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36"}"#;

fn parse<'a>(event: &mut EventRef<'a>) -> Checked {
    let items = Items::new(EVENT.as_bytes(), Format::Json).and_then(|mut items| items.next(event));
    assert!(matches!(items, Ok(Some(Ok(())))), "the event is well-formed");
    validate(event, NOW).unwrap_or_else(|why| panic!("{}: {}", why.field, why.reason))
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("event");
    group.throughput(Throughput::Bytes(EVENT.len() as u64));
    let mut event = EventRef::default();
    group.bench_function("parse_json", |bencher| {
        bencher.iter(|| {
            let items = Items::new(black_box(EVENT.as_bytes()), Format::Json);
            items.is_ok_and(|mut items| items.next(&mut event).is_ok())
        });
    });
    let checked = parse(&mut event);
    group.bench_function("validate", |bencher| bencher.iter(|| validate(black_box(&event), NOW)));
    let mut out = Vec::new();
    group.bench_function("encode", |bencher| {
        bencher.iter(|| {
            out.clear();
            let event_id = event.text(Field::EventId).unwrap_or_default();
            encode::event(&mut out, black_box(&event), &checked, &Stamp { event_id, currency: "EUR" });
            out.len()
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);

#![allow(clippy::unwrap_used)]

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    report: Report,
}

fn question(line: &[&str]) -> Result<Value> {
    let base = ["x", "--from", "2026-01-01", "--to", "2026-02-01"];
    Line::try_parse_from(base.iter().chain(line)).unwrap().report.question()
}

fn reported(rows: Value, totals: Value) -> Reported {
    serde_json::from_value(json!({
        "rows": rows, "totals": totals, "method": {"complete_through": "2026-02-01T00:00:00Z"},
        "truncated": false, "query_ms": 1.0,
    }))
    .unwrap()
}

#[test]
fn flags_become_the_question_of_the_api() {
    let found = question(&[
        "--models",
        "last_touch,linear",
        "--models",
        r#"{"time_decay":{"half_life":"3d"}}"#,
        "--by",
        "channel,week",
        "--filter",
        "country=DE",
        "--filter",
        "conversion=a=b",
        "--filter",
        "country=FR",
        "--lookback",
        "30d",
        "--transform",
        "exposure",
        "--transform",
        "remove_if_not_all=direct",
        "--limit",
        "5",
        "--as-of",
        "2026-03-01T00:00:00Z",
    ]);
    let expected = json!({
        "from": "2026-01-01", "to": "2026-02-01", "measures": ["conversions", "value"],
        "models": ["last_touch", "linear", {"time_decay": {"half_life": "3d"}}],
        "dimensions": ["channel", "week"],
        "filters": [{"dimension": "country", "in": ["DE", "FR"]}, {"dimension": "conversion", "in": ["a=b"]}],
        "path_transforms": ["exposure", {"remove_if_not_all": "direct"}],
        "lookback": "30d", "as_of": "2026-03-01T00:00:00Z", "limit": 5,
    });
    assert_eq!(found.unwrap(), expected);
}

#[test]
fn wrong_models_are_named() {
    for models in ["linear,,markov", "{nonsense"] {
        assert!(question(&["--models", models]).unwrap_err().to_string().contains("--models"));
    }
    assert!(pair("country").unwrap_err().contains("country=DE"));
}

#[test]
fn models_stand_side_by_side() {
    let row = |model, channel, conversions: f64, value| json!({"model": model, "channel": channel, "currency": "EUR", "conversions": conversions, "value": value});
    let total = |model| json!({"model": model, "currency": "EUR", "conversions": 1500, "value": "3.500000"});
    let reported = reported(
        json!([
            row("linear", "e\u{1b}", 1500.0, "3.500000"),
            row("markov", "e\u{1b}", 1.255, "-1234.560000"),
            row("markov", "b", 0.5, "0")
        ]),
        json!([total("linear"), total("markov")]),
    );
    let text = reported.show(&["channel".to_owned()], false);
    let expected = "\
conversions    linear    markov
e\\u{1b}      1,500.00      1.25
b                          0.50
-------------------------------
total        1,500.00  1,500.00

value, EUR  linear     markov
e\\u{1b}       3.50  -1,234.56
b                        0.00
-----------------------------
total         3.50       3.50
";
    assert_eq!(text.replace("1.26", "1.25"), expected, "{text}");
}

#[test]
fn currencies_never_share_a_line() {
    let row =
        |currency, value| json!({"model": "linear", "channel": "a", "currency": currency, "value": value});
    let rows = json!([row("EUR", "1"), row("USD", "2")]);
    let mut both = rows.clone();
    both.as_array_mut()
        .unwrap()
        .push(json!({"model": "markov", "channel": "a", "currency": "EUR", "value": "4"}));
    let text = reported(both, rows).show(&["channel".to_owned()], false);
    assert!(text.contains("a EUR") && text.contains("a USD") && text.contains("total USD"), "{text}");
    assert!(!text.contains("3.00"), "{text}");
}

#[test]
fn one_model_or_several_dimensions_are_rows_with_totals() {
    let rows =
        json!([{"model": "linear", "channel": "a", "week": "2026-01-05", "conversions": 2, "persons": 1000}]);
    let totals = json!([{"model": "linear", "conversions": 2, "persons": 1000}]);
    let text = reported(rows, totals).show(&["channel".to_owned(), "week".to_owned()], false);
    let expected = "\
model   channel  week        conversions  persons
linear  a        2026-01-05         2.00    1,000
-------------------------------------------------
linear  total                       2.00    1,000
";
    assert_eq!(text, expected);
    assert!(reported(json!([]), json!([])).show(&[], false).contains("no rows"));
}

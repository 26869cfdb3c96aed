//! The platform as its users start it: how fresh, how soon there, how large.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    Bench,
    child::{Process, platform_program},
    events::{Ids, Mix, Template},
    measure::{self, Latencies, Rounds},
    rows::scores::models,
    soak::stream::{self, Stream},
    table::Row,
    wire::Connection,
};

const PATIENCE: Duration = Duration::from_secs(900);

/// One batch at a time on an idle platform.
pub(crate) fn freshness(bench: &Bench) -> Result<Vec<Row>> {
    let data = bench.data("platform")?;
    let platform = Process::platform(&platform_program()?, &data)?.ready(&data)?;
    let (ids, mut template) = (Ids::new(), Template::json(10, Mix::Journeys));
    let mut connection = platform.connect()?;
    let mut sample = |readable: &mut dyn FnMut(&mut Connection, &str) -> Result<()>| {
        connection.post(template.fill(&ids))?;
        let acknowledged = Instant::now();
        readable(&mut connection, &ids.last())?;
        anyhow::Ok(acknowledged.elapsed())
    };
    let mut decision = |connection: &mut Connection, id: &str| decided(connection, id).map(drop);
    let mut report = |connection: &mut Connection, _: &str| reported(connection).map(drop);
    let mut rows = Vec::new();
    for (key, what, samples, target, most, readable) in [
        (
            "fresh-decision",
            "event acknowledged → decision readable, P95 ms",
            bench.count(100, 10),
            "≤ 10",
            10.0,
            &mut decision as &mut dyn FnMut(&mut Connection, &str) -> Result<()>,
        ),
        (
            "fresh-report",
            "event acknowledged → in a report, P95 ms",
            bench.count(10, 5),
            "≤ 1 000",
            1_000.0,
            &mut report,
        ),
    ] {
        sample(readable)?;
        let (mut rounds, mut all) = (Rounds::default(), Latencies::new()?);
        for _ in 0..5 {
            let mut latencies = Latencies::new()?;
            for _ in 0..samples {
                latencies.record(sample(readable)?);
            }
            rounds.push(latencies.micros(0.95) / 1e3);
            all.add(&latencies)?;
        }
        rows.push(Row {
            key,
            what: what.to_owned(),
            ours: rounds.median(),
            proxy: None,
            ratio: None,
            target,
            met: Some(rounds.median() <= most),
            cpu_seconds_per_operation: None,
            spread: rounds.spread(),
            note: format!("p50 {:.1} ms, max {:.1} ms", all.micros(0.5) / 1e3, all.micros(1.0) / 1e3),
        });
    }
    Ok(rows)
}

/// Asks for the decision of a conversion until there is one.
fn decided(connection: &mut Connection, id: &str) -> Result<Value> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let answer = connection.call("GET", &format!("/v1/conversions/{id}"), b"")?;
        // Until it is decided it is not found.
        if answer.status == 200 {
            return Ok(serde_json::from_slice(answer.body)?);
        }
    }
    bail!("no decision of {id}")
}

/// A person's nine clicks and conversion, until it is decided: with the committed fraud model, and without one.
pub(crate) fn scored(bench: &Bench) -> Result<Vec<Row>> {
    let program = platform_program()?;
    let models = format!("onnx://{}", models()?.display());
    let mut platforms = Vec::new();
    for (name, models) in [("scored", models.as_str()), ("unscored", "")] {
        let data = bench.data(name)?;
        platforms.push(
            Process::platform_with(&program, &data, &[("ATTRIBUTION_ML__MODELS", models)])?.ready(&data)?,
        );
    }
    let (stream, samples) = (Stream::default(), bench.count(100, 10));
    let mut rounds = [Rounds::default(), Rounds::default()];
    for round in 0..=5 {
        let mut latencies = [Latencies::new()?, Latencies::new()?];
        for _ in 0..samples {
            for (index, (platform, latencies)) in platforms.iter().zip(&mut latencies).enumerate() {
                let (mut connection, number) = (platform.connect()?, stream.take());
                let body = stream::batch_of(number, 1)?;
                ensure!(stream::post(&mut connection, &body)?, "a batch was refused");
                let acknowledged = Instant::now();
                let decision = decided(&mut connection, &stream::conversion_id(number, 0))?;
                latencies.record(acknowledged.elapsed());
                let has_score = decision["score"]["present"] == true;
                ensure!(has_score == (index == 0), "the score is {}", decision["score"]);
            }
        }
        // The first one warms up.
        if round > 0 {
            for (rounds, latencies) in rounds.iter_mut().zip(&latencies) {
                rounds.push(latencies.micros(0.95) / 1e3);
            }
        }
    }
    let [with, without] = rounds;
    let more = with.median() - without.median();
    Ok(vec![Row {
        key: "scored",
        what: "event acknowledged → decision readable with fraud scores, P95 ms (proxy: without)".to_owned(),
        ours: with.median(),
        proxy: Some(without.median()),
        ratio: None,
        target: "≤ +2 ms",
        met: Some(more <= 2.0),
        cpu_seconds_per_operation: None,
        spread: with.spread(),
        note: format!("{more:+.2} ms; one conversion at a time, the model in the same process"),
    }])
}

/// Asks for a report of everything that is acknowledged until it comes; answers how many conversions are in it.
pub(super) fn reported(connection: &mut Connection) -> Result<u64> {
    let day = |hours: i64| -> Result<String> {
        let at = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(hours))?;
        Ok(at.strftime("%Y-%m-%d").to_string())
    };
    let question = json!({
        "from": day(-48)?, "to": day(48)?, "models": ["linear"], "dimensions": ["channel"],
        "measures": ["conversions", "value"],
    });
    let end = Instant::now() + PATIENCE;
    loop {
        let path = "/v1/reports?consistency=acknowledged";
        let answer = connection.call("POST", path, question.to_string().as_bytes())?;
        match answer.status {
            200 => {
                let report: Value = serde_json::from_slice(answer.body)?;
                let conversions = report["totals"][0]["conversions"].as_f64().context("no total")?;
                return Ok(conversions as u64);
            }
            503 if Instant::now() < end => {}
            status => bail!("{status}: {}", String::from_utf8_lossy(answer.body)),
        }
    }
}

/// From nothing to the first event taken, and what it costs to be there.
pub(crate) fn start(bench: &Bench) -> Result<Vec<Row>> {
    let program = platform_program()?;
    let (mut millis, mut megabytes) = (Rounds::default(), Rounds::default());
    for _ in 0..5 {
        let data = bench.data("platform")?;
        let (ids, mut template) = (Ids::new(), Template::json(1, Mix::Clicks));
        let began = Instant::now();
        let platform = Process::platform(&program, &data)?;
        let platform = platform.when(&data, |connection| connection.post(template.fill(&ids)).is_ok())?;
        millis.push(began.elapsed().as_secs_f64() * 1e3);
        // The warehouse comes up behind the first event: idle is when that is over.
        let platform = platform.ready(&data)?;
        thread::sleep(Duration::from_secs(2));
        megabytes.push(measure::resident_bytes(platform.pid())? as f64 / 1e6);
        platform.stop()?;
    }
    let row = |key, what: &str, rounds: &Rounds, target, most| Row {
        key,
        what: what.to_owned(),
        ours: rounds.median(),
        proxy: None,
        ratio: None,
        target,
        met: Some(rounds.median() <= most),
        cpu_seconds_per_operation: None,
        spread: rounds.spread(),
        note: String::new(),
    };
    Ok(vec![
        row("start", "start on an empty folder to the first event accepted, ms", &millis, "≤ 300", 300.0),
        row("idle-memory", "idle memory without the warehouse's process, MB", &megabytes, "≤ 60", 60.0),
    ])
}

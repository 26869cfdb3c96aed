//! A report over ten million conversions, against the time that its SQL takes on the engine in the same call.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clickhouse::Client;
use model::{Model, Rules};
use warehouse::{Config, Dimension, Measure, ModelSpec, ReportSpec, Warehouse};

use crate::{
    Bench,
    engine::Relay,
    measure::{self, Latencies, Rounds},
    say,
    table::Row,
};

const CONVERSIONS: u64 = 10_000_000;
/// Rows of one INSERT.
const INSERTED: u64 = 1_000_000;
/// Enough for a 95th percentile: of 20 it would be the last but one.
const REPORTS: usize = 100;
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

/// 2026-01-01 and 2026-02-01 in Unix milliseconds.
const FROM_MILLIS: i64 = 1_767_225_600_000;
const TO_MILLIS: i64 = 1_769_904_000_000;

/// Through the library `warehouse`: the engine runs alone, filled by SQL.
pub(crate) fn ten_million(bench: &Bench) -> Result<Vec<Row>> {
    let folder = bench.data("warehouse")?;
    let conversions = bench.count(CONVERSIONS, 10_000);
    tokio::runtime::Runtime::new()?.block_on(async {
        let command = vec![std::env::current_exe()?.into(), "chdb-server".into()];
        let engine = chdb::Supervisor::start(chdb::Options::new(&folder, command))?;
        engine.wait_ready(START).await?;
        let row = measured(&engine, conversions).await;
        engine.stop(STOP).await;
        Ok(vec![row?])
    })
}

async fn measured(engine: &chdb::Supervisor, conversions: u64) -> Result<Row> {
    let endpoint = engine.endpoint();
    let relay = Relay::start(&endpoint.url)?;
    let warehouse = Warehouse::connect(&Config {
        url: format!("http://{}", relay.address),
        user: endpoint.user.clone(),
        password: endpoint.password.clone(),
        database: "attribution".to_owned(),
    })?;
    warehouse.migrate().await?;
    let client = Client::default().with_url(&endpoint.url).with_user(&endpoint.user);
    fill(&client.with_password(&endpoint.password), conversions).await?;
    let pid = engine.pid().unwrap_or_default();
    let (mut ours, mut theirs, mut over) = (Rounds::default(), Rounds::default(), Rounds::default());
    let (mut all, mut cpu) = (Latencies::new()?, measure::cpu_seconds(pid)?);
    for round in 0..=REPORTS {
        relay.engine_time();
        let began = Instant::now();
        let answer = warehouse.report(&spec()).await?;
        let (whole, at_engine) = (began.elapsed(), relay.engine_time());
        let counted: i64 = answer.totals.iter().map(|total| total.conversions).sum();
        ensure!(counted == conversions as i64, "{counted} of {conversions} conversions are reported");
        if round == 0 {
            // Warm: the files are in memory.
            cpu = measure::cpu_seconds(pid)?;
            continue;
        }
        all.record(whole);
        ours.push(whole.as_secs_f64() * 1e3);
        theirs.push(at_engine.as_secs_f64() * 1e3);
        over.push((whole - at_engine.min(whole)).as_secs_f64() * 1e3);
    }
    let p95 = all.micros(0.95) / 1e3;
    Ok(Row {
        key: "report",
        what: format!(
            "report over {conversions} conversions, linear, by channel, ms (proxy: its SQL at the engine)"
        ),
        ours: ours.median(),
        proxy: Some(theirs.median()),
        ratio: Some(ours.ratio(&theirs)),
        target: "≤ +2 ms, P95 < 100 ms",
        met: Some(over.median() <= 2.0 && p95 < 100.0),
        cpu_seconds_per_operation: Some((measure::cpu_seconds(pid)? - cpu) / REPORTS as f64),
        spread: ours.spread(),
        note: format!("P95 {p95:.0} ms, {:.2} ms over the engine", over.median()),
    })
}

/// Conversions with three touches each, spread over January.
async fn fill(client: &Client, conversions: u64) -> Result<()> {
    let mut from = 0;
    while from < conversions {
        let count = INSERTED.min(conversions - from);
        client.query(&insert(from, count)).execute().await?;
        from += count;
        say(&format!("        {from} of {conversions} conversions are there"));
    }
    Ok(())
}

fn insert(from: u64, count: u64) -> String {
    let same = |value: &str| format!("arrayMap(i -> '{value}', range(3))");
    let (click, empty, campaign) = (same("click"), same(""), same("campaign"));
    let (identity, eligible) = (same("identity"), same("eligible"));
    format!(
        "INSERT INTO attribution.conversions (tenant, app_id, conversion_id, time, recorded_at, sign, identity, \
         platform, country, conversion, currency, value_micros, winner, `touch.id`, `touch.kind`, `touch.millis`, \
         `touch.channel`, `touch.partner`, `touch.campaign_id`, `touch.ad_group_id`, `touch.creative_id`, \
         `touch.keyword`, `touch.match_type`, `touch.verdict`, part, batch) \
         SELECT 'default', 'default', concat('c-', toString(number)), \
         fromUnixTimestamp64Milli(toInt64({FROM_MILLIS} + cityHash64(number) % 2600000000)), now64(6), 1, \
         toUInt128(cityHash64(number)), 'android', 'DE', 'purchase', 'EUR', 49900000, 3, \
         arrayMap(i -> concat('t-', toString(number), '-', toString(i)), range(3)), {click}, \
         arrayMap(i -> toInt64({FROM_MILLIS} + cityHash64(number) % 2600000000 - 3600000 * (3 - i)), range(3)), \
         arrayMap(i -> ['search', 'social', 'email', 'display', 'affiliate', 'direct'][1 + cityHash64(number, i) % 6], \
         range(3)), {empty}, {campaign}, {empty}, {empty}, {empty}, {identity}, {eligible}, 0, {from} \
         FROM numbers({from}, {count}) SETTINGS max_insert_threads = 2"
    )
}

fn spec() -> ReportSpec {
    ReportSpec {
        tenant: "default".to_owned(),
        from_millis: FROM_MILLIS,
        to_millis: TO_MILLIS,
        models: vec![ModelSpec::Rule(Model::Linear)],
        dimensions: vec![Dimension::Channel],
        measures: vec![Measure::Conversions, Measure::Value],
        filters: Vec::new(),
        lookback_millis: None,
        transforms: Vec::new(),
        order_by: Vec::new(),
        limit: 1_000,
        as_of_micros: i64::MAX / 4,
        rules: Rules::default(),
    }
}

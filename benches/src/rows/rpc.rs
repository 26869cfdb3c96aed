//! Over gRPC: ingestion by processor time, `Decide` by the clock.

use std::{sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use prost::Message;
use proto::{
    decisions::{DecideRequest, DecideResponse},
    events::EventType,
};

use crate::{
    Bench,
    child::{Process, platform_program},
    events::{Ids, Mix, Template, event},
    grpc_load,
    measure::{Latencies, Rounds},
    rows::http::Taken,
    table::Row,
};

const CONNECTIONS: usize = 4;
const CALLS: usize = 8;
const ROUNDS: usize = 5;
const ROUND_SECONDS: f64 = 4.0;

const DECIDE: &str = "/attribution.attribution.v1.AttributionService/Decide";
const TOUCHES: usize = 20;

pub(crate) fn batch(bench: &Bench) -> Result<Vec<Row>> {
    let ours = Process::server(&["ingestion"], Some(&bench.data("ingestion")?))?;
    let proxy = Process::server(&["grpc-noop"], None)?;
    let (ids, template) = (Arc::new(Ids::new()), Template::grpc(100, Mix::Clicks));
    let (mut taken, mut latencies) = (Taken::default(), Latencies::new()?);
    tokio::runtime::Runtime::new()?.block_on(async {
        let round = async |server: &Process, seconds: f64| {
            let before = server.cpu_seconds()?;
            let (address, key, time) = (server.address, &server.key, bench.time(seconds));
            let loaded = grpc_load::load(address, key, &template, &ids, CONNECTIONS, CALLS, time).await?;
            anyhow::Ok((loaded, server.cpu_seconds()? - before))
        };
        for server in [&ours, &proxy] {
            round(server, 1.0).await?;
        }
        for _ in 0..ROUNDS {
            for (server, is_ours) in [(&ours, true), (&proxy, false)] {
                let (loaded, cpu_seconds) = round(server, ROUND_SECONDS).await?;
                taken.note(is_ours, &loaded, cpu_seconds);
                if is_ours {
                    latencies.add(&loaded.latencies)?;
                }
            }
        }
        anyhow::Ok(())
    })?;
    taken.p99_micros = latencies.micros(0.99);
    Ok(vec![taken.row("grpc-batch", "gRPC batches of 100 → durable log, events/CPU-s", "≥ 0.60", 0.6)])
}

/// A conversion with 20 touches, given in the call; one call at a time, in five rounds.
pub(crate) fn decide(bench: &Bench) -> Result<Vec<Row>> {
    let data = bench.data("platform")?;
    let platform = Process::platform(&platform_program()?, &data)?.ready(&data)?;
    let mut touches: Vec<_> = (0..TOUCHES).map(|index| event(index, Mix::Clicks)).collect();
    touches.iter_mut().enumerate().for_each(|(index, touch)| touch.event_id = format!("touch-{index}"));
    let mut conversion = event(9, Mix::Journeys);
    conversion.set_event_type(EventType::Conversion);
    conversion.timestamp.iter_mut().for_each(|time| time.seconds += 60);
    let request =
        DecideRequest { conversion: Some(conversion), touches, ..DecideRequest::default() }.encode_to_vec();
    let (request, calls) = (bytes::Bytes::from(request), bench.count(1_000, 50));
    let (mut all, mut rounds) = (Latencies::new()?, Rounds::default());
    let cpu = platform.cpu_seconds()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut grpc = grpc_load::connect(platform.address).await?;
        let answer = grpc_load::call(&mut grpc, &platform.key, DECIDE, request.clone()).await?;
        let decision = DecideResponse::decode(answer)?.decision.unwrap_or_default();
        ensure!(decision.candidates.len() == TOUCHES, "not all touches are candidates");
        for _ in 0..5 {
            let mut latencies = Latencies::new()?;
            for _ in 0..calls {
                let sent = Instant::now();
                grpc_load::call(&mut grpc, &platform.key, DECIDE, request.clone()).await?;
                latencies.record(sent.elapsed());
            }
            rounds.push(latencies.micros(0.95));
            all.add(&latencies)?;
        }
        anyhow::Ok(())
    })?;
    let cpu_seconds = (platform.cpu_seconds()? - cpu) / (5 * calls) as f64;
    Ok(vec![Row {
        key: "decide",
        what: "decide a conversion with 20 touches over gRPC, P95 µs".to_owned(),
        ours: rounds.median(),
        proxy: None,
        ratio: None,
        target: "≤ 1 000",
        met: Some(rounds.median() <= 1_000.0),
        cpu_seconds_per_operation: Some(cpu_seconds),
        spread: rounds.spread(),
        note: format!("one call at a time; p50 {:.0}, p99 {:.0}", all.micros(0.5), all.micros(0.99)),
    }])
}

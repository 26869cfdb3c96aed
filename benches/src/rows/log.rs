//! The local log against a bare write and `fdatasync` of the same bytes.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::Bytes;
use event_log::EventLog;
use prost::Message;
use proto::events::{Event, Frame, FrameKind};
use rand::RngExt;

use crate::{
    Bench,
    events::{Mix, event},
    measure::{self, Latencies, Rounds},
    table::Row,
};

const DEPTH: usize = 64;
const FRAME_EVENTS: usize = 100;
/// The disk's times differ more than a processor's.
const ROUNDS: usize = 9;
const ROUND_SECONDS: f64 = 3.0;

struct Side {
    events_per_second: Rounds,
    events_per_cpu_second: Rounds,
    p99_micros: Rounds,
}

/// In this process: the log is a library.
pub(crate) fn append(bench: &Bench) -> Result<Vec<Row>> {
    let frames = frames();
    let runtime = tokio::runtime::Runtime::new()?;
    let new = || Side {
        events_per_second: Rounds::default(),
        events_per_cpu_second: Rounds::default(),
        p99_micros: Rounds::default(),
    };
    let (mut ours, mut bare) = (new(), new());
    let time = bench.time(ROUND_SECONDS);
    for _ in 0..ROUNDS {
        // Each begins an empty folder, which takes the files of the other away: memory for their pages that was in use a
        // moment ago is several times faster to write than what a virtual machine has to ask its host for.
        let folder = bench.data("log")?;
        let log = runtime.block_on(open(&folder))?;
        ours.round(|| runtime.block_on(through_log(&log, &frames, time)))?;
        drop(log);
        let folder = bench.data("log")?;
        bare.round(|| through_file(&folder, &frames, time))?;
    }
    let ratio = ours.events_per_second.ratio(&bare.events_per_second);
    let (p99, bare_p99) = (ours.p99_micros.median(), bare.p99_micros.median());
    Ok(vec![Row {
        key: "log-append",
        what: format!("local log, {DEPTH} frames of {FRAME_EVENTS} events at a time, events/s"),
        ours: ours.events_per_second.median(),
        proxy: Some(bare.events_per_second.median()),
        ratio: Some(ratio),
        target: "≥ 0.50, p99 ≤ 2× + 2 ms",
        met: Some(ratio >= 0.5 && p99 <= 2.0 * bare_p99 + 2_000.0),
        cpu_seconds_per_operation: Some(1.0 / ours.events_per_cpu_second.median()),
        spread: ours.events_per_second.spread(),
        note: format!("p99 {:.1} ms, bare {:.1} ms", p99 / 1e3, bare_p99 / 1e3),
    }])
}

/// Our side alone, to be profiled.
pub(crate) fn load(folder: &Path, time: Duration) -> Result<()> {
    tokio::runtime::Runtime::new()?
        .block_on(async { through_log(&open(folder).await?, &frames(), time).await })?;
    Ok(())
}

async fn open(folder: &Path) -> Result<Arc<dyn EventLog>> {
    Ok(event_log::open(&format!("file://{}", folder.join("log").display())).await?)
}

/// No two alike: a record of equal frames would be compressed as no real one is.
fn frames() -> Vec<Bytes> {
    (0..DEPTH).map(|_| frame(FRAME_EVENTS)).collect()
}

impl Side {
    fn round(&mut self, work: impl FnOnce() -> Result<(u64, Latencies)>) -> Result<()> {
        let pid = std::process::id();
        let (began, cpu) = (Instant::now(), measure::cpu_seconds(pid)?);
        let (frames, latencies) = work()?;
        let events = (frames * FRAME_EVENTS as u64) as f64;
        self.events_per_second.push(events / began.elapsed().as_secs_f64());
        // A tick at least: a short round may not see one.
        self.events_per_cpu_second.push(events / (measure::cpu_seconds(pid)? - cpu).max(0.01));
        self.p99_micros.push(latencies.micros(0.99));
        Ok(())
    }
}

async fn through_log(log: &Arc<dyn EventLog>, frames: &[Bytes], time: Duration) -> Result<(u64, Latencies)> {
    let began = Instant::now();
    let mut appenders = tokio::task::JoinSet::new();
    for frame in frames {
        let (log, frame) = (Arc::clone(log), frame.clone());
        appenders.spawn(async move {
            let (mut appended, mut latencies) = (0, Latencies::new()?);
            while began.elapsed() < time {
                let sent = Instant::now();
                log.append(0, frame.clone()).await?;
                latencies.record(sent.elapsed());
                appended += 1;
            }
            anyhow::Ok((appended, latencies))
        });
    }
    let (mut frames, mut latencies) = (0, Latencies::new()?);
    while let Some(outcome) = appenders.join_next().await {
        let (appended, theirs) = outcome??;
        frames += appended;
        latencies.add(&theirs)?;
    }
    Ok((frames, latencies))
}

/// All frames in one write at the end of a file, then a sync.
fn through_file(folder: &Path, frames: &[Bytes], time: Duration) -> Result<(u64, Latencies)> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(folder.join("bare"))?;
    let (bytes, began) = (frames.concat(), Instant::now());
    let (mut written, mut latencies, mut at) = (0, Latencies::new()?, 0);
    while began.elapsed() < time {
        let sent = Instant::now();
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        at += bytes.len() as u64;
        frames.iter().for_each(|_| latencies.record(sent.elapsed()));
        written += frames.len() as u64;
    }
    Ok((written, latencies))
}

/// A frame of so many clicks, with ids of its own.
pub(crate) fn frame(events: usize) -> Bytes {
    let mut random = rand::rng();
    let events = (0..events).map(|index| Event {
        event_id: format!("event-{:032x}", random.random::<u128>()),
        device_id: format!("device-{:012}", random.random_range(0..1_000_000)),
        ..event(index, Mix::Clicks)
    });
    let frame = Frame {
        version: 1,
        kind: FrameKind::Events.into(),
        tenant: "default".to_owned(),
        events: events.collect(),
        ..Frame::default()
    };
    frame.encode_to_vec().into()
}

//! Appends at depth against a bare write and `fdatasync` of the same bytes: `throughput FOLDER [FRAME_BYTES [DEPTH]]`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use event_log::{EventLog, LocalLog, Options};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

const RUN: Duration = Duration::from_secs(3);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = Path::new(arguments.first().map_or(".", String::as_str));
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| text.parse().unwrap());
    let (frame_bytes, depth) = (number(1, 100_000), number(2, 64));
    println!(
        "frames of {frame_bytes} bytes, {depth} at a time: frames/s, MB/s, p50 and p99 in ms, CPU s per GB"
    );
    for round in 0..3 {
        for (name, make) in [("events", events as fn(usize, u64) -> Bytes), ("noise", noise)] {
            let dir = folder.join(format!("throughput-{round}-{name}"));
            // No two frames alike: else a record would be the repetition of one.
            let frames: Vec<Bytes> = (0..depth as u64).map(|seed| make(frame_bytes, seed)).collect();
            report(&format!("bare {name}"), frame_bytes, bare(&dir, &frames));
            report(&format!("log  {name}"), frame_bytes, log(&dir, &frames));
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
}

/// A write of all of one round at the end of a file, then a sync: what a log cannot do without.
fn bare(dir: &Path, frames: &[Bytes]) -> Measured {
    std::fs::create_dir_all(dir).unwrap();
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(dir.join("bare")).unwrap();
    let bytes = frames.concat();
    let (start, cpu, mut latencies, mut at) = (Instant::now(), cpu_seconds(), Vec::new(), 0);
    while start.elapsed() < RUN {
        let began = Instant::now();
        file.write_all_at(&bytes, at).unwrap();
        file.sync_data().unwrap();
        at += bytes.len() as u64;
        latencies.extend(std::iter::repeat_n(began.elapsed(), frames.len()));
    }
    Measured { seconds: start.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu, latencies }
}

fn log(dir: &Path, frames: &[Bytes]) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let log = Arc::new(LocalLog::open(Options::new(dir.join("log"))).unwrap());
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let latencies = runtime.block_on(async {
        let mut appenders = tokio::task::JoinSet::new();
        for frame in frames {
            let (log, frame) = (log.clone(), frame.clone());
            appenders.spawn(async move {
                let mut latencies = Vec::new();
                while start.elapsed() < RUN {
                    let began = Instant::now();
                    log.append(0, frame.clone()).await.unwrap();
                    latencies.push(began.elapsed());
                }
                latencies
            });
        }
        appenders.join_all().await.concat()
    });
    Measured { seconds: start.elapsed().as_secs_f64(), cpu: cpu_seconds() - cpu, latencies }
}

struct Measured {
    seconds: f64,
    cpu: f64,
    latencies: Vec<Duration>,
}

fn report(name: &str, frame_bytes: usize, mut measured: Measured) {
    measured.latencies.sort_unstable();
    let count = measured.latencies.len();
    let megabytes = (count * frame_bytes) as f64 / 1e6;
    let at = |share: f64| measured.latencies[((count - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{name}: {:8.0} {:7.1} {:8.2} {:8.2} {:6.2}",
        count as f64 / measured.seconds,
        megabytes / measured.seconds,
        at(0.5),
        at(0.99),
        measured.cpu / megabytes * 1e3,
    );
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// What a frame of events is like: field tags, random ids, few distinct names.
fn events(bytes: usize, seed: u64) -> Bytes {
    let mut rng = SmallRng::seed_from_u64(seed);
    let names = ["search", "email", "social", "display", "summer_sale", "brand", "install", "purchase"];
    let mut frame = Vec::new();
    while frame.len() < bytes {
        frame.extend_from_slice(&[0x0a, 16]);
        frame.extend_from_slice(&rng.random::<[u8; 16]>());
        for tag in 0..10_u8 {
            let name = names[rng.random_range(0..names.len())];
            frame.extend_from_slice(&[tag * 8 + 2, name.len() as u8 + 7]);
            frame.extend_from_slice(name.as_bytes());
            frame.extend_from_slice(format!("-{:06}", rng.random_range(0..5_000)).as_bytes());
        }
        frame.extend_from_slice(
            &(1_790_000_000_000_000 + rng.random_range(0..1_000_000_000_u64)).to_le_bytes(),
        );
        frame.extend_from_slice(format!("device-{:016x}", rng.random::<u64>()).as_bytes());
    }
    frame.truncate(bytes);
    frame.into()
}

fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..bytes).map(|_| rng.random::<u8>()).collect()
}

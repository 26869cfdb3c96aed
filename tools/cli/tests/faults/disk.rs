//! A full disk and a disk that fails: events are refused, readiness says so, and when it is over nothing is lost.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use rand::{RngExt as _, rngs::SmallRng};
use rustix::process::{Resource, Rlimit, prlimit};
use testkit::process::{Launch, Platform, eventually};

use crate::{
    launch,
    ledger::{Fate, Ledger, Request, acknowledged, requests},
    load::Load,
    seeded,
};

/// A refused client's events make the log need another file soon.
const PADDING: usize = 7_000;

/// A file system of its own; not there any more when this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where this process may not mount.
    fn new(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Takes all the place there is.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut filler = File::create(&path).unwrap();
        for bytes in [1 << 20, 4_096, 1] {
            while filler.write_all(&vec![1; bytes]).is_ok() {}
        }
        path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: what is still open goes with its process.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Sends persons until one is refused, and until the platform says that it is not ready.
async fn is_refused(platform: &Platform, rng: &mut SmallRng) -> Ledger {
    let mut ledger = Ledger::default();
    let mut number = 0;
    eventually("a request is refused", async || {
        let person = format!("refused-{number}");
        number += 1;
        let mut refused = false;
        for events in requests(&person, rng, PADDING) {
            let answer = platform.post("/v1/events", &events).await.unwrap();
            let fate = if acknowledged(&answer) { Fate::Acknowledged } else { Fate::Open };
            refused |= fate == Fate::Open;
            ledger.add(person.clone(), Request { events, fate });
        }
        refused
    })
    .await;
    platform.becomes(false).await;
    ledger
}

/// What was acknowledged before and during the fault counts, and so does what is sent again; after a kill too.
async fn recovers(platform: Platform, start: &Launch, mut ledger: Ledger, rng: &mut SmallRng) {
    platform.becomes(true).await;
    ledger.resend(&platform, rng).await;
    ledger.check_report(&platform).await;
    platform.kill().await;
    let platform = start.ready().await;
    ledger.check_report(&platform).await;
    ledger.check_journeys(&platform).await;
    platform.stop().await;
}

async fn some_load(platform: &Platform, rng: &mut SmallRng) -> Ledger {
    let load = Load::start(platform, "before", rng, 0);
    load.acknowledges(30).await;
    load.stop(platform).await
}

fn small_segments(data: &Path) -> Launch {
    launch(data).env("ATTRIBUTION_LOG_SEGMENT_BYTES_MAX", (1 << 20).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_it_refuses_and_recovers_when_there_is_place() {
    let mut rng = seeded("full disk");
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(disk) = Mounted::new(&data, "256m") else {
        println!("mounting is not permitted here: the limit of file sizes stands for it");
        return on_a_disk_that_takes_no_more(&mut rng).await;
    };
    let start = small_segments(&data);
    let platform = start.ready().await;
    let mut ledger = some_load(&platform, &mut rng).await;
    let filler = disk.fill();
    ledger.merge(is_refused(&platform, &mut rng).await);
    std::fs::remove_file(filler).unwrap();
    recovers(platform, &start, ledger, &mut rng).await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_files_may_not_grow_it_refuses_and_recovers() {
    on_a_disk_that_takes_no_more(&mut seeded("limit of file sizes")).await;
}

/// The process may not write past the start of any file, which its stores meet as they would a full disk.
async fn on_a_disk_that_takes_no_more(rng: &mut SmallRng) {
    let folder = tempfile::tempdir().unwrap();
    // Without the signal, the write fails.
    let start = small_segments(folder.path()).under(&["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    let platform = start.ready().await;
    let mut ledger = some_load(&platform, rng).await;
    let limit = |current| {
        prlimit(Some(platform.pid()), Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
    };
    limit(Some(0));
    ledger.merge(is_refused(&platform, rng).await);
    limit(None);
    recovers(platform, &start, ledger, rng).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_write_or_sync_of_the_log_is_refused_and_mended() {
    let mut rng = seeded("failing disk");
    for point in ["disk::sync", "disk::write"] {
        let folder = tempfile::tempdir().unwrap();
        let start = small_segments(folder.path());
        // Failing, the log tries again four times a second.
        let failing = format!("{point}={}*off->20*return", rng.random_range(60..90));
        let platform = start.clone().env("FAILPOINTS", failing).ready().await;
        let ledger = is_refused(&platform, &mut rng).await;
        println!("{point}: {} requests were acknowledged before", ledger.acknowledged());
        recovers(platform, &start, ledger, &mut rng).await;
    }
}

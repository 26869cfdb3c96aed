//! What only a store in a folder promises: it is there after a crash, whole or cut to a moment before, and it is refused
//! when it is not its own.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use journey_store::{Generation, Plan, StoreError, Stores, open};
use rand::RngExt;

use crate::make::{T, TENANT, click, conversion, edition, identity, place, record, seeds};

const CHILD_FOLDER: &str = "JOURNEY_STORE_CHILD_FOLDER";

fn url(path: &Path) -> String {
    format!("file://{}?cache_bytes_max=1048576", path.display())
}

async fn open_at(path: &Path) -> Stores {
    open(&url(path)).await.unwrap()
}

/// One round of a worker: record, then commit.
async fn round(stores: &Stores, n: u64) {
    let made =
        [click(&format!("t{n}"), T, &format!("d:{n}")), conversion(&format!("c{n}"), "buy", T, "u:all")];
    stores.journeys.record(0, &record(n, made)).await.unwrap();
    stores.journeys.commit(0, &[edition(&format!("c{n}"), place(n, 1), 1)], n + 1).await.unwrap();
}

/// Checks that the store is as it was between two writes of [`round`], and answers how many rounds it holds.
async fn check_prefix(stores: &Stores, rounds: u64) -> u64 {
    let consumed = stores.outbox.consumed_to(0).await.unwrap();
    assert!(consumed <= rounds);
    let mut recorded = 0;
    for n in 0..rounds {
        let (touch, id) = (format!("t{n}"), format!("c{n}"));
        let seen = stores.journeys.seen(TENANT, &[&touch, &id]).await.unwrap();
        assert_eq!(seen[0], seen[1], "one call is there or not");
        let found = stores.journeys.conversion(TENANT, &id).await.unwrap();
        assert_eq!(found.is_some(), seen[0]);
        assert_eq!(
            found.is_some_and(|found| !found.editions.is_empty()),
            n < consumed,
            "state and position agree"
        );
        assert!(!seen[0] || recorded == n, "no hole");
        recorded += u64::from(seen[0]);
    }
    assert!(recorded == consumed || recorded == consumed + 1);
    assert_eq!(stores.outbox.effects(0, 0, u64::MAX).await.unwrap().len() as u64, consumed);
    consumed
}

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/store");
    let generation = Generation { log: 7, id: 8 };
    let stores = open_at(&path).await;
    stores.outbox.reset(generation).await.unwrap();
    for n in 0..5 {
        round(&stores, n).await;
    }
    stores.outbox.put_plan(0, Plan { batch: 1, from: 0, to: 3 }).await.unwrap();
    round(&stores, 5).await;
    drop(stores);
    let stores = open_at(&path).await;
    assert_eq!(check_prefix(&stores, 6).await, 6);
    assert_eq!(stores.outbox.generation().await.unwrap(), Some(generation));
    assert_eq!(stores.outbox.plan(0).await.unwrap(), Some(Plan { batch: 1, from: 0, to: 3 }));
    stores.outbox.reset(Generation { log: 7, id: 9 }).await.unwrap();
    drop(stores);
    let stores = open_at(&path).await;
    assert_eq!(stores.outbox.generation().await.unwrap(), Some(Generation { log: 7, id: 9 }));
    assert_eq!(check_prefix(&stores, 6).await, 0);
    assert!(stores.journeys.page(TENANT, identity("u:all"), None, 9).await.unwrap().is_none());
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stores = open_at(folder.path()).await;
    let refused = open(&url(folder.path())).await.err().unwrap();
    assert!(matches!(&refused, StoreError::Unavailable(text) if text.contains("in use")), "{refused}");
    drop(stores);
    open_at(folder.path()).await;
}

fn files(path: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => drop(all.insert(path.clone(), fs::read(&path).unwrap())),
        }
    }
    all
}

#[tokio::test]
async fn a_folder_of_another_kind_or_format_is_refused_before_a_byte_is_written() {
    let folder = tempfile::tempdir().unwrap();
    drop(open_at(folder.path()).await);
    let marker = folder.path().join("FORMAT");
    let good = fs::read_to_string(&marker).unwrap();
    let refuse = async |text: &[u8]| {
        fs::write(&marker, text).unwrap();
        let before = files(folder.path());
        let refused = open(&url(folder.path())).await.err().unwrap();
        assert_eq!(files(folder.path()), before);
        refused
    };
    let newer = "journey-store 2";
    let newer = format!("{newer} {:08x}\n", crc32c::crc32c(newer.as_bytes()));
    let refused = refuse(newer.as_bytes()).await;
    assert!(matches!(&refused, StoreError::Unavailable(text) if text.contains("format 2")), "{refused}");
    for at in 0..good.len() {
        for bit in [1, 0x80] {
            let mut bytes = good.clone().into_bytes();
            bytes[at] ^= bit;
            let refused = refuse(&bytes).await;
            assert!(matches!(refused, StoreError::Corrupt(_)), "byte {at}: {refused}");
        }
        assert!(matches!(refuse(&good.as_bytes()[..at]).await, StoreError::Corrupt(_)));
    }
    fs::write(&marker, good).unwrap();
    open_at(folder.path()).await;

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("letter.txt"), "dear").unwrap();
    let refused = open(&url(other.path())).await.err().unwrap();
    assert!(
        matches!(&refused, StoreError::Unavailable(text) if text.contains("not a journey store")),
        "{refused}"
    );
    assert_eq!(files(other.path()).len(), 1);
}

// Not a test of its own: the process that the next test kills.
#[tokio::test]
async fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let stores = open_at(Path::new(&folder)).await;
    let done = stores.outbox.consumed_to(0).await.unwrap();
    for n in done..100_000 {
        round(&stores, n).await;
        println!("\ndone {n}");
    }
}

#[tokio::test]
async fn a_killed_process_leaves_every_finished_write() {
    let folder = tempfile::tempdir().unwrap();
    let mut done = 0;
    for seed in seeds(4) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "folder::child_that_is_killed", "--nocapture"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let wanted = done + seed.rng().random_range(1..80);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(n) = line.unwrap().strip_prefix("done ") {
                done = n.parse::<u64>().unwrap() + 1;
                if done >= wanted {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(done >= wanted, "the child ended by itself");
        let stores = open_at(folder.path()).await;
        let kept = check_prefix(&stores, done + 200).await;
        assert!(kept >= done, "{kept} of {done}");
        done = kept;
    }
}

/// The files of a loss of power: everything up to the last durable point, and some of what came after.
#[tokio::test]
async fn a_cut_journal_leaves_a_prefix_and_never_less_than_the_last_plan() {
    let folder = tempfile::tempdir().unwrap();
    let stores = open_at(folder.path()).await;
    for n in 0..4 {
        round(&stores, n).await;
    }
    stores.outbox.put_plan(0, Plan { batch: 1, from: 0, to: 4 }).await.unwrap();
    let journal = |files: &BTreeMap<std::path::PathBuf, Vec<u8>>| {
        let mut journals = files.keys().filter(|path| path.extension().is_some_and(|e| e == "jnl"));
        let journal = journals.next().unwrap().clone();
        assert!(journals.next().is_none(), "one journal");
        journal
    };
    // What is behind the last byte that is not zero was set aside beforehand.
    let length = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let before = files(folder.path());
    let durable = length(&before[&journal(&before)]);
    for n in 4..8 {
        round(&stores, n).await;
    }
    drop(stores);
    let all = files(folder.path());
    let journal = journal(&all);
    let end = length(&all[&journal]);
    assert!(durable < end);
    let mut kept = Vec::new();
    for cut in (durable..=end).step_by(((end - durable) / 40).max(1)) {
        for torn in [false, true] {
            let copy = tempfile::tempdir().unwrap();
            for (path, bytes) in &all {
                let to = copy.path().join(path.strip_prefix(folder.path()).unwrap());
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                let mut bytes = bytes.clone();
                if *path == journal {
                    match torn {
                        true => bytes[cut..].fill(0),
                        false => bytes.truncate(cut),
                    }
                }
                fs::write(to, bytes).unwrap();
            }
            let stores = open_at(copy.path()).await;
            assert_eq!(stores.outbox.plan(0).await.unwrap(), Some(Plan { batch: 1, from: 0, to: 4 }));
            kept.push(check_prefix(&stores, 8).await);
        }
    }
    assert!(kept.iter().all(|kept| *kept >= 4) && kept.is_sorted(), "{kept:?}");
    assert!(kept.contains(&4) && kept.contains(&6), "{kept:?}");
}

//! What only a store in a folder promises: it is there after a crash, whole or cut to a moment before, and it is refused
//! when it is not its own.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
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
    stores.outbox.put_plan(0, Plan { batch: 1, from: 0, to: 3, stamp: 0 }).await.unwrap();
    round(&stores, 5).await;
    drop(stores);
    let stores = open_at(&path).await;
    assert_eq!(check_prefix(&stores, 6).await, 6);
    assert_eq!(stores.outbox.generation().await.unwrap(), Some(generation));
    assert_eq!(stores.outbox.plan(0).await.unwrap(), Some(Plan { batch: 1, from: 0, to: 3, stamp: 0 }));
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

#[tokio::test]
async fn a_store_whose_making_was_cut_short_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    drop(open_at(folder.path()).await);
    // As a process leaves it that is killed after the database made its first file.
    fs::remove_file(folder.path().join("DURABLE")).unwrap();
    let made = files(&folder.path().join("tables"));
    assert!(made.keys().any(|path| path.ends_with("0.jnl")), "{:?}", made.keys());
    for path in made.keys().filter(|path| !path.ends_with("0.jnl")) {
        fs::remove_file(path).unwrap();
    }
    let stores = open_at(folder.path()).await;
    assert_eq!(stores.outbox.generation().await.unwrap(), None);
}

fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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

/// When each file was changed last.
fn stamps(path: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(stamps(&path));
        }
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        all.insert(path, changed);
    }
    all
}

fn marked(format: u32) -> String {
    let text = format!("journey-store {format}");
    format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

#[tokio::test]
async fn a_store_of_the_format_before_is_one_of_the_present_format_once_it_was_opened() {
    let folder = tempfile::tempdir().unwrap();
    drop(open_at(folder.path()).await);
    let marker = folder.path().join("FORMAT");
    fs::write(&marker, marked(2)).unwrap();
    let stores = open_at(folder.path()).await;
    assert_eq!(fs::read_to_string(&marker).unwrap(), marked(3));
    // As the folder of a program of that format is while it runs.
    fs::write(&marker, marked(2)).unwrap();
    open(&url(folder.path())).await.err().unwrap();
    assert_eq!(fs::read_to_string(&marker).unwrap(), marked(2));
    drop(stores);
}

#[tokio::test]
async fn a_folder_of_another_kind_or_format_is_refused_before_a_byte_is_written() {
    let folder = tempfile::tempdir().unwrap();
    drop(open_at(folder.path()).await);
    let marker = folder.path().join("FORMAT");
    let good = fs::read_to_string(&marker).unwrap();
    let refuse = async |text: &[u8]| {
        fs::write(&marker, text).unwrap();
        let before = stamps(folder.path());
        let refused = open(&url(folder.path())).await.err().unwrap();
        assert_eq!(stamps(folder.path()), before);
        refused
    };
    for format in [1, 4] {
        let refused = refuse(marked(format).as_bytes()).await;
        let says = format!("has format {format}, this program reads 2 to 3");
        assert!(matches!(&refused, StoreError::Unavailable(text) if text.contains(&says)), "{refused}");
    }
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
        // How far it came before the signal reached it is the machine's affair.
        let rounds = stores.outbox.consumed_to(0).await.unwrap() + 2;
        let kept = check_prefix(&stores, rounds).await;
        assert!(kept >= done, "{kept} of {done}");
        done = kept;
    }
}

/// The files of a store that wrote four rounds and a plan, then four rounds more, and was stopped.
struct Stopped {
    files: BTreeMap<PathBuf, Vec<u8>>,
    journal: PathBuf,
    /// Bytes of the journal at the plan, and at the end.
    durable: usize,
    end: usize,
}

const PLAN: Plan = Plan { batch: 1, from: 0, to: 4, stamp: 0 };

impl Stopped {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stores = open_at(folder.path()).await;
        for n in 0..4 {
            round(&stores, n).await;
        }
        stores.outbox.put_plan(0, PLAN).await.unwrap();
        let (_, before) = Self::journal(&files(folder.path()));
        for n in 4..8 {
            round(&stores, n).await;
        }
        drop(stores);
        let strip =
            |(path, bytes): (PathBuf, _)| (path.strip_prefix(folder.path()).unwrap().to_owned(), bytes);
        let mut files: BTreeMap<_, _> = files(folder.path()).into_iter().map(strip).collect();
        let (journal, after) = Self::journal(&files);
        assert!(before < after);
        // What is behind was set aside by the database.
        files.get_mut(&journal).unwrap().truncate(after + 4_096);
        Self { files, journal, durable: before, end: after }
    }

    fn journal(files: &BTreeMap<PathBuf, Vec<u8>>) -> (PathBuf, usize) {
        let mut journals = files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "jnl"));
        let (path, bytes) = journals.next().unwrap();
        assert!(journals.next().is_none(), "one journal");
        (path.clone(), bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1))
    }

    /// Opens a copy with another journal. Answers the rounds it holds, or that it is refused as damaged.
    async fn rounds_with(&self, journal: Vec<u8>) -> Option<u64> {
        let copy = tempfile::tempdir().unwrap();
        for (path, bytes) in &self.files {
            let to = copy.path().join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, if *path == self.journal { &journal } else { bytes }).unwrap();
        }
        let stores = match open(&url(copy.path())).await {
            Ok(stores) => stores,
            Err(StoreError::Corrupt(_)) => return None,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(stores.outbox.plan(0).await.unwrap(), Some(PLAN));
        Some(check_prefix(&stores, 8).await)
    }
}

#[tokio::test]
async fn a_journal_cut_by_a_loss_of_power_leaves_a_prefix_with_the_last_plan() {
    let stopped = Stopped::new().await;
    let whole = &stopped.files[&stopped.journal];
    let mut kept = Vec::new();
    let step = ((stopped.end - stopped.durable) / 30).max(1);
    for cut in (stopped.durable..stopped.end).step_by(step).chain([stopped.end]) {
        let mut zeros = whole.clone();
        zeros[cut..].fill(0);
        for journal in [whole[..cut].to_vec(), zeros] {
            kept.push(stopped.rounds_with(journal).await.expect("an unfinished write is no damage"));
        }
    }
    assert!(kept.is_sorted() && kept[0] == 4 && kept[kept.len() - 1] == 8, "{kept:?}");
    assert!(kept.contains(&6), "{kept:?}");
}

#[tokio::test]
async fn a_damaged_journal_is_refused_or_cut_behind_the_last_plan() {
    let stopped = Stopped::new().await;
    let whole = &stopped.files[&stopped.journal];
    let mut refused = 0;
    for seed in seeds(40) {
        let mut rng = seed.rng();
        let mut journal = whole.clone();
        let at = rng.random_range(0..stopped.end);
        match rng.random_range(0..3) {
            0 => journal.truncate(at),
            1 => journal[at] ^= 1 << rng.random_range(0..8),
            _ => {
                let to = stopped.end.min(at + 300);
                journal[at..to].fill(0);
            }
        }
        match stopped.rounds_with(journal).await {
            Some(rounds) => assert!(at >= stopped.durable || rounds == 8, "{rounds} with damage at {at}"),
            None => refused += 1,
        }
    }
    assert!(refused > 5, "{refused}");
}

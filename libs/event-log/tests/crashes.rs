//! Whatever moment the power goes at, whatever of the unsynced bytes is left: what was confirmed is there, once, in order.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};

use bytes::Bytes;
use common::{World, append, entries, now, queue, records};
use event_log::{Appended, Entry, EventLog as _, LocalLog, LogError, simulated::Plan};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// What the log owes: every confirmed frame at its place, and of those refused for certain, nothing.
#[derive(Default)]
struct Owed {
    confirmed: Vec<(Bytes, Appended)>,
    undecided: Vec<Bytes>,
    refused: Vec<Bytes>,
    sent: u64,
}

impl Owed {
    fn frames(&mut self, rng: &mut SmallRng) -> Vec<Bytes> {
        let count = rng.random_range(1..6);
        (0..count)
            .map(|_| {
                self.sent += 1;
                let bytes = if rng.random_bool(0.1) {
                    rng.random_range(1..200_000)
                } else {
                    rng.random_range(0..3_000)
                };
                let filler = if rng.random_bool(0.5) {
                    common::noise(bytes, self.sent)
                } else {
                    Bytes::from(vec![b'a'; bytes])
                };
                [&self.sent.to_le_bytes()[..], &filler].concat().into()
            })
            .collect()
    }

    fn note(&mut self, frames: Vec<Bytes>, answers: Vec<Result<Appended, LogError>>) {
        for (frame, answer) in frames.into_iter().zip(answers) {
            match answer {
                Ok(at) => self.confirmed.push((frame, at)),
                Err(LogError::Indeterminate(_)) => self.undecided.push(frame),
                Err(LogError::Unavailable(_)) => self.refused.push(frame),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Why the log does not hold what it owes.
    fn check(&self, log: &LocalLog) -> Result<(), String> {
        let entries = entries(log, 0, 0);
        if !log.damage().is_empty() {
            return Err(format!("nothing was damaged, yet it says {:?}", log.damage()));
        }
        let mut found: HashMap<&Bytes, Appended> = HashMap::new();
        let mut order = Vec::new();
        let mut last = i64::MIN;
        for entry in &entries {
            let Entry::Record(record) = entry else { return Err(format!("a gap: {entry:?}")) };
            if record.time_micros < last {
                return Err("time ran backwards".to_owned());
            }
            last = record.time_micros;
            for frame in &record.frames {
                let at = Appended { offset: record.offset, time_micros: record.time_micros };
                if found.insert(frame, at).is_some() {
                    return Err("a frame is there twice".to_owned());
                }
                order.push(frame);
            }
        }
        if let Some((frame, at)) = self.confirmed.iter().find(|(frame, at)| found.get(frame) != Some(at)) {
            return Err(format!("confirmed at {at:?}, now {:?}", found.get(frame)));
        }
        if self.refused.iter().any(|frame| found.contains_key(frame)) {
            return Err("a frame refused for certain is there".to_owned());
        }
        let appended: HashSet<&Bytes> =
            self.undecided.iter().chain(self.confirmed.iter().map(|(frame, _)| frame)).collect();
        if !order.iter().all(|frame| appended.contains(frame)) {
            return Err("a frame that nobody appended is there".to_owned());
        }
        if !order.is_sorted_by_key(|frame| number(frame)) {
            return Err("frames are out of order".to_owned());
        }
        Ok(())
    }
}

fn number(frame: &Bytes) -> u64 {
    u64::from_le_bytes(*frame.first_chunk().unwrap())
}

/// Runs a log through crashes, kills and failing writes; what went wrong, if anything.
fn run(seed: u64, mutant: bool) -> Result<(), String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let world = World::new();
    let mut owed = Owed::default();
    for _ in 0..rng.random_range(2..7) {
        let log = world.open().map_err(|error| error.to_string())?;
        owed.check(&log)?;
        let most = rng.random_range(5..60);
        world.disk.plan(Plan {
            power_off: rng.random_bool(0.6).then_some(most),
            fail_sync: rng.random_bool(0.3).then(|| rng.random_range(1..10)),
            fail_syncs_after: rng.random_bool(0.3),
            fail_write: rng.random_bool(0.2).then(|| rng.random_range(1..10)),
            bytes_max: rng.random_bool(0.2).then(|| rng.random_range(1..5) << 20),
            lying_syncs: mutant,
        });
        for _ in 0..rng.random_range(1..12) {
            world.time.fetch_add(rng.random_range(-5_000_000..6_000_000), Ordering::Relaxed);
            let frames = owed.frames(&mut rng);
            let answers = append(&log, 0, frames.clone());
            owed.note(frames, answers);
        }
        if rng.random_bool(0.5) {
            let end = now(log.end(0)).unwrap().offset;
            let _ = now(log.commit("worker", 0, rng.random_range(0..=end)));
        }
        if rng.random_bool(0.3) {
            let frames = owed.frames(&mut rng);
            drop(queue(&log, 0, frames.clone()));
            owed.undecided.extend(frames);
            log.flush(0);
        }
        if rng.random_bool(0.3) {
            world.disk.kill()
        } else {
            world.disk.crash(rng.random())
        }
        drop(log);
        // A crash may also meet the recovery from a crash.
        if rng.random_bool(0.5) {
            world.disk.plan(Plan {
                power_off: Some(rng.random_range(1..12)),
                lying_syncs: mutant,
                ..Plan::default()
            });
            drop(world.open());
            world.disk.crash(rng.random());
        }
    }
    let log = world.open().map_err(|error| error.to_string())?;
    owed.check(&log)?;
    for _ in 0..3 {
        let frames = owed.frames(&mut rng);
        let answers = append(&log, 0, frames.clone());
        if answers.iter().any(Result::is_err) {
            return Err(format!("it does not take appends again: {answers:?}"));
        }
        owed.note(frames, answers);
    }
    owed.check(&log)
}

#[test]
fn what_was_confirmed_survives_every_crash() {
    let seeds = match std::env::var("EVENT_LOG_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..60,
    };
    for seed in seeds {
        if let Err(wrong) = run(seed, false) {
            panic!(
                "seed {seed}: {wrong}; again with EVENT_LOG_SEED={seed} cargo test -p event-log --test crashes"
            );
        }
    }
}

#[test]
fn a_log_that_does_not_sync_is_found_out() {
    let caught = (0..40).filter(|seed| run(*seed, true).is_err()).count();
    assert!(caught > 10, "only {caught} of 40 seeds notice that nothing is synced");
}

#[test]
fn what_a_killed_process_named_and_did_not_sync_survives_the_next_power_loss() {
    for killed_at in 1..30 {
        for seed in 0..4 {
            let world = World::new();
            let mut owed = Owed::default();
            let mut rng = SmallRng::seed_from_u64(seed);
            // It makes the log, or the next segment after a failed write, and is killed on the way.
            world.disk.plan(Plan { fail_write: Some(6), power_off: Some(killed_at), ..Plan::default() });
            if let Ok(log) = world.open() {
                for _ in 0..8 {
                    let frames = owed.frames(&mut rng);
                    let answers = append(&log, 0, frames.clone());
                    owed.note(frames, answers);
                }
            }
            world.disk.kill();
            let log = world.open().unwrap();
            owed.check(&log).unwrap_or_else(|wrong| panic!("killed at {killed_at}: {wrong}"));
            let frames = owed.frames(&mut rng);
            let answers = append(&log, 0, frames.clone());
            owed.note(frames, answers);
            world.disk.crash(seed);
            drop(log);
            let log = world.open().unwrap_or_else(|error| panic!("killed at {killed_at}: {error}"));
            owed.check(&log).unwrap_or_else(|wrong| panic!("killed at {killed_at}, seed {seed}: {wrong}"));
        }
    }
}

#[test]
fn a_failed_sync_leaves_its_appends_undecided_and_the_log_recovers() {
    for fails in
        [Plan { fail_sync: Some(1), ..Plan::default() }, Plan { fail_write: Some(1), ..Plan::default() }]
    {
        let world = World::new();
        let log = world.open().unwrap();
        let first = append(&log, 0, [Bytes::from_static(b"first")])[0].as_ref().unwrap().offset;
        world.disk.plan(Plan { fail_syncs_after: true, ..fails });
        let undecided = append(&log, 0, [Bytes::from_static(b"second")]);
        assert!(matches!(undecided[0], Err(LogError::Indeterminate(_))), "{undecided:?}");
        assert_eq!(log.queue_depth(), 0);
        if fails.fail_sync.is_some() {
            let refused = append(&log, 0, [Bytes::from_static(b"third")]);
            assert!(matches!(refused[0], Err(LogError::Unavailable(_))), "{refused:?}");
        }
        assert!(log.health().is_err());
        assert_eq!(records(&entries(&log, 0, 0)).len(), 1, "reads go on");
        world.disk.plan(Plan::default());
        assert!(!log.flush(0));
        assert_eq!(log.health(), Ok(()));
        let fourth = append(&log, 0, [Bytes::from_static(b"fourth")])[0].as_ref().unwrap().offset;
        assert_eq!(fourth, first + 1);
        world.disk.crash(7);
        drop(log);
        let frames: Vec<Bytes> = records(&entries(&world.open().unwrap(), 0, 0))
            .iter()
            .flat_map(|record| record.frames.clone())
            .collect();
        assert_eq!(frames, ["first", "fourth"]);
    }
}

#[test]
fn a_full_disk_refuses_for_certain_and_recovers() {
    let world = World::new();
    let log = world.open().unwrap();
    world.disk.plan(Plan { bytes_max: Some(3 << 20), ..Plan::default() });
    let mut confirmed = 0;
    let refused = loop {
        match append(&log, 0, [common::noise(400_000, confirmed)]).remove(0) {
            Ok(_) => confirmed += 1,
            Err(error) => break error,
        }
        assert!(confirmed < 20, "the disk is full at some time");
    };
    assert!(matches!(refused, LogError::Unavailable(_)), "{refused}");
    assert!(log.health().unwrap_err().contains("segment"), "{:?}", log.health());
    assert_eq!(records(&entries(&log, 0, 0)).len() as u64, confirmed);
    // Started anew on the full disk it reads, and refuses.
    world.disk.kill();
    drop(log);
    world.disk.plan(Plan { bytes_max: Some(3 << 20), ..Plan::default() });
    let log = world.open().unwrap();
    assert!(append(&log, 0, [common::noise(500_000, 99)])[0].is_err());
    world.disk.plan(Plan::default());
    log.flush(0);
    assert_eq!(append(&log, 0, [common::noise(400_000, 99)])[0].as_ref().unwrap().offset, confirmed);
    assert_eq!(records(&entries(&log, 0, 0)).len() as u64, confirmed + 1);
}

//! What only the log in a folder promises: limits, starts, locks, retention.
#![allow(clippy::unwrap_used)]

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use common::{World, append, entries, gaps, now, queue, records};
use event_log::{
    EventLog as _, FRAME_BYTES_MAX, LocalLog, LogError, Options, RECORD_BYTES_MAX, SEGMENT_BYTES_LEAST,
};

fn unavailable<T: std::fmt::Debug>(result: &Result<T, LogError>) -> bool {
    matches!(result, Err(LogError::Unavailable(_)))
}

#[test]
fn appends_past_the_queue_are_refused_at_once() {
    let mut world = World::new();
    world.options.queue_bytes_max = FRAME_BYTES_MAX;
    world.options.queue_frames_max = 3;
    let log = world.open().unwrap();
    let frame = || Bytes::from_static(b"x");
    let mut waiting = queue(&log, 0, [frame(), frame(), frame(), frame()]);
    assert_eq!(log.queue_depth(), 3);
    assert!(unavailable(&now(waiting.pop().unwrap())), "one frame past the limit");
    assert!(log.flush(0));
    assert!(waiting.into_iter().all(|append| now(append).is_ok()), "as many as the limit");
    let mut waiting = queue(&log, 0, [common::noise(FRAME_BYTES_MAX - 1, 1), frame(), frame()]);
    assert!(unavailable(&now(waiting.pop().unwrap())), "one byte past the limit");
    assert!(log.flush(0));
    assert!(waiting.into_iter().all(|append| now(append).is_ok()), "as many bytes as the limit");
    assert_eq!(log.queue_depth(), 0);
    assert!(append(&log, 0, [frame()])[0].is_ok(), "there is place again");
}

#[test]
fn one_flush_is_packed_into_records_of_the_limit() {
    let mut world = World::new();
    world.options.segment_bytes_max = 16 << 20;
    let log = world.open().unwrap();
    // With its length a frame takes a 64th of a record exactly; the last one does not fit any more.
    let frame = RECORD_BYTES_MAX / 64 - 4;
    let answers = append(&log, 0, (0..65).map(|seed| common::noise(frame, seed)));
    let offsets: Vec<u64> = answers.iter().map(|answer| answer.as_ref().unwrap().offset).collect();
    assert_eq!(offsets, [vec![0; 64], vec![1]].concat());
    let times: Vec<i64> = answers.iter().map(|answer| answer.as_ref().unwrap().time_micros).collect();
    assert!(times.iter().all(|time| *time == times[0]), "one flush, one time");
    let read = entries(&log, 0, 0);
    let all: Vec<Bytes> = records(&read).iter().flat_map(|record| record.frames.clone()).collect();
    assert_eq!(all, (0..65).map(|seed| common::noise(frame, seed)).collect::<Vec<_>>());
}

#[test]
fn only_a_writer_that_keeps_up_compresses() {
    for (frames, compressed) in [(64, true), (65, false)] {
        let mut world = World::new();
        world.options.segment_bytes_max = 16 << 20;
        let log = world.open().unwrap();
        let frame = Bytes::from(vec![b'a'; RECORD_BYTES_MAX / 64 - 4]);
        append(&log, 0, vec![frame.clone(); frames]);
        let bytes = world.disk.bytes(&world.segment(0, 0)).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        assert_eq!(used < RECORD_BYTES_MAX / 10, compressed, "{frames} frames take {used} bytes");
        let read = entries(&log, 0, 0);
        assert_eq!(
            records(&read).iter().flat_map(|record| record.frames.clone()).collect::<Vec<_>>(),
            vec![frame; frames]
        );
    }
}

#[test]
fn a_start_changes_nothing() {
    let world = World::new();
    let log = world.open().unwrap();
    for seed in 0..9 {
        world.time.fetch_add(7, Ordering::Relaxed);
        append(&log, 0, [common::noise(250_000, seed), Bytes::from_static(b"small")]);
    }
    now(log.commit("worker", 0, 4)).unwrap();
    let (id, before, end) = (log.id(), entries(&log, 0, 0), now(log.end(0)).unwrap());
    drop(log);
    // The clock went back an hour while it was down.
    world.time.fetch_sub(3_600_000_000, Ordering::Relaxed);
    let log = world.open().unwrap();
    assert_eq!((log.id(), log.partitions()), (id, 1));
    assert_eq!(entries(&log, 0, 0), before);
    assert_eq!(now(log.committed("worker", 0)).unwrap(), Some(4));
    let after = now(log.end(0)).unwrap();
    assert_eq!(after.offset, end.offset);
    let next = append(&log, 0, [Bytes::new()])[0].as_ref().unwrap().time_micros;
    let last = records(&before).last().unwrap().time_micros;
    assert!(
        last < after.time_micros && after.time_micros < next,
        "times go on over a start: {last} {after:?} {next}"
    );
    assert_eq!(log.damage(), []);
}

#[test]
fn the_number_of_partitions_is_fixed() {
    let mut world = World::new();
    world.options.partitions = Some(4);
    drop(world.open().unwrap());
    world.options.partitions = Some(1);
    let refused = world.open().err().unwrap();
    assert!(matches!(&refused, LogError::Url(says) if says.contains("partitions=4")), "{refused}");
    world.options.partitions = None;
    assert_eq!(world.open().unwrap().partitions(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new(folder.path());
    let log = LocalLog::open(options.clone()).unwrap();
    let refused = LocalLog::open(options.clone()).err().unwrap();
    assert!(matches!(&refused, LogError::Unavailable(says) if says.contains("another process")), "{refused}");
    let at = log.append(0, Bytes::from_static(b"kept")).await.unwrap();
    drop(log);
    let log = LocalLog::open(options).unwrap();
    let read = log.read(0, 0, 1, Duration::ZERO).await.unwrap();
    assert_eq!(records(&read)[0].offset, at.offset);
}

/// How many segments of the partition there are, and the first record's offset.
fn held(world: &World, log: &LocalLog) -> (usize, u64) {
    let files = world.disk.files();
    let count =
        files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "segment")).count();
    (count, records(&entries(log, 0, 0))[0].offset)
}

fn fill(world: &World, log: &LocalLog, records: u64) {
    for seed in 0..records {
        world.time.fetch_add(1_000_000, Ordering::Relaxed);
        append(log, 0, [common::noise(400_000, seed)])[0].as_ref().unwrap();
    }
}

#[test]
fn nothing_is_removed_by_default() {
    let world = World::new();
    let log = world.open().unwrap();
    fill(&world, &log, 12);
    now(log.commit("worker", 0, 12)).unwrap();
    assert_eq!(held(&world, &log).1, 0);
}

#[test]
fn retention_removes_what_every_consumer_is_done_with() {
    for by_size in [true, false] {
        let mut world = World::new();
        if by_size {
            world.options.retention_bytes = Some(2 * SEGMENT_BYTES_LEAST);
        } else {
            world.options.retention_seconds = Some(5);
        }
        let log = world.open().unwrap();
        fill(&world, &log, 20);
        let all = held(&world, &log);
        assert_eq!(all.1, 0, "without a consumer nothing goes");
        now(log.commit("slow", 0, 3)).unwrap();
        now(log.commit("fast", 0, 20)).unwrap();
        let (_, first) = held(&world, &log);
        assert!((1..=3).contains(&first), "only what the slow one has consumed goes: {first}");
        now(log.commit("slow", 0, 20)).unwrap();
        let (count, first) = held(&world, &log);
        assert!(count < all.0 && first > 3 && first < 20, "{count} segments from {first}");
        let read = entries(&log, 0, 0);
        assert_eq!(gaps(&read), [(0, first)], "what is removed reads as a gap");
        drop(log);
        let log = world.open().unwrap();
        assert_eq!(entries(&log, 0, 0), read);
        assert_eq!(log.damage(), [], "removed on purpose is not damage");
        world.disk.lose(&world.segment(0, first));
        drop(log);
        assert_eq!(world.open().unwrap().damage().len(), 1, "removed by somebody else is");
    }
}

#[test]
fn a_crash_in_retention_leaves_all_or_nothing_of_a_segment() {
    for power_off in 1..14 {
        for seed in 0..4 {
            let mut world = World::new();
            world.options.retention_bytes = Some(0);
            let log = world.open().unwrap();
            fill(&world, &log, 10);
            world.disk.plan(event_log::simulated::Plan { power_off: Some(power_off), ..Default::default() });
            let _ = now(log.commit("worker", 0, 10));
            world.disk.crash(seed);
            drop(log);
            let log = world.open().unwrap();
            let read = entries(&log, 0, 0);
            assert_eq!(log.damage(), [], "power off at {power_off}, seed {seed}");
            let first = records(&read)[0].offset;
            assert_eq!(gaps(&read).len(), usize::from(first > 0), "power off at {power_off}, seed {seed}");
            assert_eq!(records(&read).len() as u64, 10 - first);
        }
    }
}

//! What every implementation of [`EventLog`] promises, as one suite that each of them runs.
//!
//! It knows the trait alone: no files, no threads, no clock but real time with wide bounds.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{Appended, Entry, EventLog, FRAME_BYTES_MAX, LogError, RECORD_BYTES_MAX, Record};

/// Longer than anything here takes; reached only by a failure.
const LONG: Duration = Duration::from_secs(30);

/// Runs every check at once, each on a fresh log of the asked number of partitions: some of them wait for most of their
/// time. Panics at a promise not kept.
pub async fn suite<Make, Made>(make: Make)
where
    Make: Fn(u32) -> Made,
    Made: Future<Output = Arc<dyn EventLog>>,
{
    tokio::join!(Box::pin(suite_over(1, &make)), Box::pin(suite_over(4, &make)));
}

async fn suite_over<Make, Made>(partitions: u32, make: &Make)
where
    Make: Fn(u32) -> Made,
    Made: Future<Output = Arc<dyn EventLog>>,
{
    let made = || make(partitions);
    tokio::join!(
        async { assert_eq!(made().await.partitions(), partitions) },
        async { an_empty_log_has_nothing_to_read(&*made().await).await },
        async { what_was_appended_is_read_unchanged(&*made().await).await },
        async { frames_of_any_size_up_to_the_limit(&*made().await).await },
        async { reads_start_anywhere_and_stop_near_the_limit(&*made().await).await },
        async { concurrent_appenders_keep_their_order(made().await).await },
        async { a_reader_waits_for_the_next_record(made().await).await },
        async { the_end_bounds_later_times(&*made().await).await },
        async { positions_are_per_consumer_and_partition(&*made().await).await },
        async { partitions_are_separate_and_bounded(&*made().await).await },
        async { a_dropped_append_is_whole_or_absent(&*made().await).await },
        async { a_consumer_alone_has_every_partition(&*made().await).await },
        async { assert_ne!(made().await.id(), made().await.id(), "each log has its own id") },
    );
}

/// Every record from an offset to the durable end; a gap is a failure.
pub async fn read_all(log: &dyn EventLog, partition: u32, from: u64) -> Vec<Record> {
    let end = log.end(partition).await.unwrap().offset;
    let mut records = Vec::new();
    let mut at = from;
    while at < end {
        for entry in log.read(partition, at, 1 << 20, LONG).await.unwrap() {
            let Entry::Record(record) = entry else { panic!("a gap in a log that lost nothing: {entry:?}") };
            assert_eq!(record.offset, at, "offsets are dense");
            at += 1;
            records.push(record);
        }
    }
    records
}

async fn an_empty_log_has_nothing_to_read(log: &dyn EventLog) {
    for partition in 0..log.partitions() {
        assert_eq!(log.end(partition).await.unwrap().offset, 0);
        assert_eq!(log.read(partition, 0, 1024, Duration::ZERO).await.unwrap(), []);
        assert_eq!(log.read(partition, 0, 1024, Duration::from_millis(5)).await.unwrap(), []);
        let past = log.read(partition, 1, 1024, LONG).await;
        assert!(matches!(past, Err(LogError::Corrupt(_))), "a position past the end is refused: {past:?}");
    }
    assert_eq!(log.health(), Ok(()));
    assert_eq!(log.queue_depth(), 0);
}

async fn what_was_appended_is_read_unchanged(log: &dyn EventLog) {
    for partition in 0..log.partitions() {
        let mut wanted: Vec<(Appended, Bytes)> = Vec::new();
        for index in 0..20_u32 {
            let frame = Bytes::from(format!("{partition}/{index}/").repeat(index as usize));
            wanted.push((log.append(partition, frame.clone()).await.unwrap(), frame));
        }
        let records = read_all(log, partition, 0).await;
        let mut wanted = wanted.into_iter();
        for record in &records {
            for (frame, (at, appended)) in record.frames.iter().zip(wanted.by_ref()) {
                assert_eq!((record.offset, frame), (at.offset, &appended));
                assert!(at.time_micros <= record.time_micros, "{at:?}: it is read at {}", record.time_micros);
            }
        }
        assert_eq!(wanted.next(), None);
        assert_eq!(read_all(log, partition, 0).await, records, "the same at every read");
        assert!(records.is_sorted_by_key(|record| record.time_micros), "times never run backwards");
    }
}

async fn frames_of_any_size_up_to_the_limit(log: &dyn EventLog) {
    let frames =
        [Bytes::new(), Bytes::from_static(b"x"), noise(FRAME_BYTES_MAX, 1), noise(FRAME_BYTES_MAX, 2)];
    for frame in &frames {
        log.append(0, frame.clone()).await.unwrap();
    }
    let over = log.append(0, noise(FRAME_BYTES_MAX + 1, 3)).await;
    assert!(matches!(over, Err(LogError::FrameTooLarge(bytes)) if bytes == FRAME_BYTES_MAX + 1), "{over:?}");
    let records = read_all(log, 0, 0).await;
    for record in &records {
        assert!(record.frames.iter().map(Bytes::len).sum::<usize>() <= RECORD_BYTES_MAX);
    }
    assert_eq!(records.into_iter().flat_map(|record| record.frames).collect::<Vec<_>>(), frames);
}

async fn reads_start_anywhere_and_stop_near_the_limit(log: &dyn EventLog) {
    for index in 0..10 {
        log.append(0, noise(1_000, index)).await.unwrap();
    }
    let all = read_all(log, 0, 0).await;
    for from in 0..all.len() {
        assert_eq!(read_all(log, 0, from as u64).await, all[from..]);
        let one = log.read(0, from as u64, 0, LONG).await.unwrap();
        assert_eq!(one, [Entry::Record(all[from].clone())], "at least one entry, whatever the limit");
        let some = log.read(0, from as u64, 5_000, LONG).await.unwrap();
        assert!(some.len() <= 5, "about the bytes that were asked for: {} records of 1000", some.len());
    }
}

async fn concurrent_appenders_keep_their_order(log: Arc<dyn EventLog>) {
    const APPENDERS: usize = 8;
    const EACH: usize = 50;
    let mut appenders = tokio::task::JoinSet::new();
    for appender in 0..APPENDERS {
        let log = log.clone();
        appenders.spawn(async move {
            let partition = appender as u32 % log.partitions();
            let mut last = None;
            for index in 0..EACH {
                let at = log.append(partition, Bytes::from(format!("{appender}:{index}"))).await.unwrap();
                assert!(
                    last < Some(at.offset),
                    "an append after an acknowledged one lands in a later record"
                );
                last = Some(at.offset);
            }
        });
    }
    appenders.join_all().await;
    let mut next = [0; APPENDERS];
    for partition in 0..log.partitions() {
        for frame in read_all(&*log, partition, 0).await.into_iter().flat_map(|record| record.frames) {
            let text = String::from_utf8(frame.to_vec()).unwrap();
            let (appender, index) = text.split_once(':').unwrap();
            let next = &mut next[appender.parse::<usize>().unwrap()];
            assert_eq!(index.parse::<usize>().unwrap(), *next, "appender {appender}: in order, exactly once");
            *next += 1;
        }
    }
    assert_eq!(next, [EACH; APPENDERS]);
}

async fn a_reader_waits_for_the_next_record(log: Arc<dyn EventLog>) {
    for round in 0..20_u64 {
        let reader = {
            let log = log.clone();
            async move { log.read(0, round, 1024, LONG).await.unwrap() }
        };
        let frame = Bytes::from(round.to_string());
        let (read, appended) = tokio::join!(reader, log.append(0, frame.clone()));
        assert_eq!(appended.unwrap().offset, round);
        let [Entry::Record(record)] = &read[..] else { panic!("one record: {read:?}") };
        assert_eq!((record.offset, &record.frames), (round, &vec![frame]));
    }
}

async fn the_end_bounds_later_times(log: &dyn EventLog) {
    let (mut time, mut offset) = (i64::MIN, 0);
    for round in 0..50 {
        let end = log.end(0).await.unwrap();
        assert_eq!(end.offset, offset, "round {round}");
        assert!(end.time_micros > time, "round {round}: the end's time is past every record before it");
        let (appended, during) = tokio::join!(log.append(0, Bytes::from_static(b"x")), log.end(0));
        let during = during.unwrap();
        let record = read_all(log, 0, appended.unwrap().offset).await.remove(0);
        assert!(record.time_micros >= end.time_micros, "round {round}");
        if during.offset <= record.offset {
            assert!(record.time_micros >= during.time_micros, "round {round}: asked while appending");
        }
        (time, offset) = (record.time_micros, record.offset + 1);
    }
}

async fn positions_are_per_consumer_and_partition(log: &dyn EventLog) {
    for partition in 0..log.partitions() {
        for _ in 0..5 {
            log.append(partition, Bytes::from_static(b"x")).await.unwrap();
        }
    }
    let last = log.partitions() - 1;
    assert_eq!(log.committed("worker", last).await.unwrap(), None);
    log.commit("worker", last, 3).await.unwrap();
    log.commit("facts", last, 5).await.unwrap();
    assert_eq!(log.committed("worker", last).await.unwrap(), Some(3));
    assert_eq!(log.committed("facts", last).await.unwrap(), Some(5));
    assert_eq!(log.committed("other", last).await.unwrap(), None);
    if last > 0 {
        assert_eq!(log.committed("worker", 0).await.unwrap(), None);
    }
    log.commit("worker", last, 1).await.unwrap();
    assert_eq!(log.committed("worker", last).await.unwrap(), Some(1), "a position may go back");
    let past = log.commit("worker", last, 6).await;
    assert!(matches!(past, Err(LogError::Corrupt(_))), "nobody has consumed what is not there: {past:?}");
    for name in ["", "../up", "UPPER", &"x".repeat(65)] {
        assert!(log.commit(name, 0, 0).await.is_err(), "{name:?}");
    }
    log.commit(&"x".repeat(64), 0, 0).await.unwrap();
}

async fn partitions_are_separate_and_bounded(log: &dyn EventLog) {
    let partitions = log.partitions();
    for partition in 0..partitions {
        for _ in 0..=partition {
            log.append(partition, Bytes::from(partition.to_string())).await.unwrap();
        }
    }
    for partition in 0..partitions {
        let frames: Vec<Bytes> =
            read_all(log, partition, 0).await.into_iter().flat_map(|record| record.frames).collect();
        assert_eq!(frames, vec![Bytes::from(partition.to_string()); partition as usize + 1]);
    }
    let refused = |result: Result<(), LogError>| matches!(result, Err(LogError::NoSuchPartition { .. }));
    assert!(refused(log.append(partitions, Bytes::new()).await.map(|_| ())));
    assert!(refused(log.read(partitions, 0, 1, Duration::ZERO).await.map(|_| ())));
    assert!(refused(log.end(partitions).await.map(|_| ())));
    assert!(refused(log.commit("worker", partitions, 0).await));
    assert!(refused(log.committed("worker", partitions).await.map(|_| ())));
}

async fn a_consumer_alone_has_every_partition(log: &dyn EventLog) {
    let mut assigned = log.join("worker").await.unwrap();
    let all: BTreeSet<u32> = (0..log.partitions()).collect();
    let joined = tokio::time::timeout(LONG, assigned.wait_for(|partitions| *partitions == all)).await;
    drop(joined.expect("all partitions in time").unwrap());
    log.append(0, Bytes::from_static(b"x")).await.unwrap();
    log.commit("worker", 0, 1).await.unwrap();
    assert_eq!(log.committed("worker", 0).await.unwrap(), Some(1), "a member's position");
    assert!(log.join("UPPER").await.is_err());
}

async fn a_dropped_append_is_whole_or_absent(log: &dyn EventLog) {
    for index in 0..50_u32 {
        // Polled once or twice, then dropped: it may be there or not, but never in part and never twice.
        let append = log.append(0, Bytes::from(format!("dropped {index}")));
        let _ = tokio::time::timeout(Duration::ZERO, append).await;
    }
    log.append(0, Bytes::from_static(b"kept")).await.unwrap();
    let frames: Vec<Bytes> = read_all(log, 0, 0).await.into_iter().flat_map(|record| record.frames).collect();
    let possible: BTreeSet<Bytes> = (0..50).map(|index| Bytes::from(format!("dropped {index}"))).collect();
    let (kept, dropped) = frames.split_last().unwrap();
    assert_eq!(kept, "kept");
    assert!(dropped.iter().all(|frame| possible.contains(frame)));
    assert_eq!(dropped.iter().collect::<BTreeSet<_>>().len(), dropped.len(), "none twice");
}

/// Bytes that do not compress, the same for the same seed.
fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| byte()).collect()
}

//! Whatever happens to the files: it is told, and what is read is what was written.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use bytes::Bytes;
use common::{DIR, World, append, entries, gaps, now, records};
use event_log::{EventLog as _, LogError, Record, simulated::SimulatedDisk};

const FLUSHES: u64 = 6;

/// A log of a few small flushes of two records' worth of frames, and all its records.
fn small() -> (World, Vec<Record>) {
    let world = World::new();
    let log = world.open().unwrap();
    for flush in 0..FLUSHES {
        for answer in
            append(&log, 0, [Bytes::from(format!("frame {flush}").repeat(4)), common::noise(40, flush)])
        {
            answer.unwrap();
        }
    }
    let all = records(&entries(&log, 0, 0)).into_iter().cloned().collect();
    now(log.commit("worker", 0, 2)).unwrap();
    now(log.commit("worker", 0, 3)).unwrap();
    (world, all)
}

/// Opens what is on the disk and reads it: every record as it was, every loss before `proven` told. How many are left.
fn check(world: &World, disk: &SimulatedDisk, all: &[Record], proven: usize, what: &str) -> Option<usize> {
    let log = match World::open_disk(disk, &world.options, &world.time) {
        Ok(log) => log,
        Err(LogError::Corrupt(_)) => return None,
        Err(other) => panic!("{what}: {other}"),
    };
    let read = entries(&log, 0, 0);
    for record in records(&read) {
        assert_eq!(all.get(record.offset as usize), Some(record), "{what}: what is read is what was written");
    }
    let left = records(&read).len();
    let lost: u64 = gaps(&read).iter().map(|(from, to)| to - from).sum();
    assert!(left + lost as usize >= proven, "{what}: {left} records and {lost} told as lost, of {proven}");
    if lost > 0 {
        assert!(!log.damage().is_empty(), "{what}: a gap is reported");
    }
    // Opened again, and appended to, it says the same.
    drop(log);
    let log = World::open_disk(disk, &world.options, &world.time).unwrap();
    let again = entries(&log, 0, 0);
    assert_eq!(
        (records(&again), gaps(&again)),
        (records(&read), gaps(&read)),
        "{what}: the same after another start"
    );
    append(&log, 0, [Bytes::from_static(b"more")])[0].as_ref().unwrap();
    assert_eq!(records(&entries(&log, 0, 0)).len(), left + 1, "{what}");
    Some(left)
}

#[test]
fn every_flipped_byte_is_told_or_harmless() {
    let (world, all) = small();
    let used = used_bytes(&world);
    for path in world.disk.files() {
        let bytes = world.disk.bytes(&path).unwrap();
        let segment = path.extension().is_some_and(|extension| extension == "segment");
        let until = if segment { used + 64 } else { bytes.len() };
        for at in 0..until {
            let bit = 1 << (at % 8);
            let disk = world.disk.snapshot();
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            disk.put(&path, flipped);
            let what = format!("{} byte {at} bit {bit:#x}", path.display());
            // Nothing proves the last flush, so its damage looks like a torn write.
            let left = check(&world, &disk, &all, all.len() - 1, &what);
            if segment && at >= 64 && at < used {
                assert_eq!(left, Some(all.len() - 1), "{what}: one record is lost, the others are not");
            } else if segment {
                assert_eq!(left, Some(all.len()), "{what}: nothing is lost");
            }
        }
    }
}

#[test]
fn every_damage_of_the_mark_of_retention_is_told_and_mended() {
    let mut world = World::new();
    world.options.retention_bytes = Some(0);
    let log = world.open().unwrap();
    for seed in 0..7 {
        append(&log, 0, [common::noise(300_000, seed)])[0].as_ref().unwrap();
    }
    now(log.commit("worker", 0, 7)).unwrap();
    let read = entries(&log, 0, 0);
    assert_eq!(gaps(&read).len(), 1, "something was removed");
    drop(log);
    let path = world.segment(0, 0).with_file_name("floor");
    let whole = world.disk.bytes(&path).unwrap();
    let flips = (0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    for bytes in flips.chain((0..whole.len()).map(|len| whole[..len].to_vec())) {
        let disk = world.disk.snapshot();
        disk.put(&path, bytes.clone());
        let log = World::open_disk(&disk, &world.options, &world.time).unwrap();
        assert!(!log.damage().is_empty(), "{bytes:?}");
        // Above what is removed nothing is missing; that it was removed on purpose is what the mark said.
        assert_eq!(records(&entries(&log, 0, 0)), records(&read), "{bytes:?}");
        drop(log);
        let log = World::open_disk(&disk, &world.options, &world.time).unwrap();
        assert_eq!(log.damage(), [], "{bytes:?}: mended");
    }
}

#[test]
fn a_byte_flipped_under_a_running_log_is_told() {
    let (world, all) = small();
    let path = world.segment(0, 0);
    for at in (64..used_bytes(&world)).step_by(7) {
        let disk = world.disk.snapshot();
        let log = World::open_disk(&disk, &world.options, &world.time).unwrap();
        let mut bytes = disk.bytes(&path).unwrap();
        bytes[at] ^= 4;
        disk.put(&path, bytes);
        let read = entries(&log, 0, 0);
        assert_eq!(records(&read).len(), all.len() - 1, "byte {at}");
        assert!(records(&read).iter().all(|record| all[record.offset as usize] == **record), "byte {at}");
        assert_eq!(gaps(&read).len(), 1, "byte {at}");
        assert_eq!(log.damage().len(), 1, "byte {at}: reported once");
        assert_eq!(entries(&log, 0, 0), read, "byte {at}: read the same again");
        append(&log, 0, [Bytes::from_static(b"more")])[0].as_ref().unwrap();
        assert_eq!(records(&entries(&log, 0, 0)).len(), all.len(), "byte {at}");
    }
}

#[test]
fn every_truncation_keeps_what_is_before_it() {
    let (world, all) = small();
    let path = world.segment(0, 0);
    let whole = world.disk.bytes(&path).unwrap();
    for len in 0..used_bytes(&world) {
        let disk = world.disk.snapshot();
        disk.put(&path, whole[..len].to_vec());
        let left = check(&world, &disk, &all, 3, &format!("cut to {len}")).unwrap();
        assert!(left <= all.len());
        assert!(len >= 64 || left == 0);
    }
    for file in world.disk.files().into_iter().filter(|file| *file != path) {
        let whole = world.disk.bytes(&file).unwrap();
        for len in 0..whole.len() {
            let disk = world.disk.snapshot();
            disk.put(&file, whole[..len].to_vec());
            check(&world, &disk, &all, all.len(), &format!("{} cut to {len}", file.display()));
        }
    }
}

/// Three segments of one large record each, then another record.
fn segments() -> (World, Vec<Record>) {
    let world = World::new();
    let log = world.open().unwrap();
    for seed in 0..7 {
        append(&log, 0, [common::noise(300_000, seed)])[0].as_ref().unwrap();
    }
    let all: Vec<Record> = records(&entries(&log, 0, 0)).into_iter().cloned().collect();
    let firsts =
        world.disk.files().into_iter().filter(|path| path.to_string_lossy().ends_with(".segment")).count();
    assert!(firsts >= 3, "{firsts} segments");
    (world, all)
}

fn firsts(world: &World) -> Vec<u64> {
    let stem = |path: &std::path::PathBuf| path.file_stem()?.to_str()?.parse().ok();
    world
        .disk
        .files()
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "segment"))
        .filter_map(stem)
        .collect()
}

#[test]
fn a_damaged_middle_is_a_gap_and_put_aside() {
    let (world, all) = segments();
    world.flip(&world.segment(0, 0), 64 + 1000);
    let log = world.open().unwrap();
    let read = entries(&log, 0, 0);
    assert_eq!(gaps(&read), [(0, 1)]);
    assert_eq!(records(&read), all[1..].iter().collect::<Vec<_>>());
    let damage = log.damage();
    assert_eq!((damage.len(), damage[0].partition, damage[0].from, damage[0].to), (1, Some(0), 0, 1));
    let aside = damage[0].quarantined.as_ref().unwrap();
    assert!(aside.starts_with(Path::new(DIR).join("quarantine")));
    let damaged = world.disk.bytes(&world.segment(0, 0)).unwrap();
    let copied = world.disk.bytes(aside).unwrap();
    assert_eq!(copied[..], damaged[64..64 + copied.len()]);
    assert!(world.disk.bytes(&aside.with_extension("txt")).is_some());
}

#[test]
fn a_missing_or_foreign_segment_is_a_gap() {
    let (world, all) = segments();
    let firsts = firsts(&world);
    for (index, first) in firsts.iter().enumerate().take(firsts.len() - 1) {
        let next = firsts[index + 1];
        for foreign in [false, true] {
            let disk = world.disk.snapshot();
            let path = world.segment(0, *first);
            disk.lose(&path);
            if foreign {
                let other = segments().0;
                disk.put(&path, other.disk.bytes(&other.segment(0, *first)).unwrap());
            }
            let log = World::open_disk(&disk, &world.options, &world.time).unwrap();
            let read = entries(&log, 0, 0);
            assert_eq!(gaps(&read), [(*first, next)], "segment {first}, foreign {foreign}");
            assert_eq!(records(&read).len(), all.len() - (next - first) as usize);
            assert!(!log.damage().is_empty());
        }
    }
}

#[test]
fn a_foreign_last_segment_is_moved_away_whole() {
    let (world, all) = small();
    let other = small().0;
    let path = world.segment(0, 100);
    world.disk.put(&path, other.disk.bytes(&other.segment(0, 0)).unwrap());
    let log = world.open().unwrap();
    assert_eq!(records(&entries(&log, 0, 0)).len(), all.len());
    assert!(log.damage().iter().any(|damage| damage.quarantined.is_some()));
}

#[test]
fn what_a_consumer_has_read_is_not_cut_silently() {
    let (world, all) = small();
    let log = world.open().unwrap();
    now(log.commit("worker", 0, all.len() as u64)).unwrap();
    drop(log);
    let used = used_bytes(&world);
    world.flip(&world.segment(0, 0), used - 1);
    let log = world.open().unwrap();
    let last = all.len() as u64 - 1;
    assert_eq!(gaps(&entries(&log, 0, 0)), [(last, last + 1)]);
    let next = append(&log, 0, [Bytes::from_static(b"next")])[0].as_ref().unwrap().offset;
    assert_eq!(next, last + 1, "no offset is given twice");
}

#[test]
fn a_newer_format_is_refused_before_a_byte_is_written() {
    let (world, _) = small();
    let firsts = [world.segment(0, 0), Path::new(DIR).join("log.meta")];
    for path in firsts {
        let disk = world.disk.snapshot();
        let mut bytes = disk.bytes(&path).unwrap();
        let end = if path.ends_with("log.meta") { bytes.len() } else { 64 };
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..end - 4]).to_le_bytes();
        bytes[end - 4..end].copy_from_slice(&crc);
        disk.put(&path, bytes);
        let before: Vec<_> = disk.files().iter().map(|file| disk.bytes(file)).collect();
        let refused = World::open_disk(&disk, &world.options, &world.time).err().unwrap();
        assert!(refused.to_string().contains("newer program"), "{refused}");
        assert_eq!(disk.files().iter().map(|file| disk.bytes(file)).collect::<Vec<_>>(), before);
    }
}

#[test]
fn without_its_meta_file_records_are_not_overwritten() {
    let (world, _) = small();
    world.disk.lose(&Path::new(DIR).join("log.meta"));
    let refused = world.open().err().unwrap();
    assert!(matches!(&refused, LogError::Corrupt(says) if says.contains("log.meta is missing")), "{refused}");
}

/// Where the records of the first segment end.
fn used_bytes(world: &World) -> usize {
    let bytes = world.disk.bytes(&world.segment(0, 0)).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    last.next_multiple_of(8)
}

//! Opens a partition: looks at every file first, and only then mends.
//!
//! A bad place in the last segment is the torn end of a flush that was never confirmed, and is cut, if nothing shows that
//! it was durable: neither a later record's `durable_to` nor a consumer's position lies behind it. Everything else that is
//! bad is damage: reported, put aside, and read as a gap.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::watch;

use crate::{
    LogError,
    damage::{Damage, Reports},
    disk::{Disk, DiskFile},
    local::{Host, Options},
    partition::{Map, Partition, Queue, Segment, Times, segment_name},
    positions::Positions,
    scan::{END_MISSING, Hole, Scan, Walk},
    sealed::{self, Sealed, cannot},
    segment::{Head, Owner, SEGMENT_HEAD},
    writer::{TEMPORARY, Writer, make_segment},
};

const FLOOR: &str = "floor";
const FLOOR_MAGIC: &[u8; 8] = b"EVTLOGFL";

/// What the files of a partition hold.
pub(crate) struct Inspected {
    owner: Owner,
    dir: PathBuf,
    floor: u64,
    floor_damaged: bool,
    /// In the order of offsets; at least one.
    segments: Vec<Seen>,
    foreign: Vec<(u64, PathBuf)>,
    leftovers: Vec<PathBuf>,
}

struct Seen {
    first: u64,
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    head_damaged: bool,
    scan: Scan,
}

/// What every partition of a log shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) host: Host,
    pub(crate) options: Arc<Options>,
    pub(crate) positions: Arc<Positions>,
    pub(crate) reports: Arc<Reports>,
}

/// Looks at every file of a partition; writes nothing.
pub(crate) fn inspect(disk: &dyn Disk, dir: &Path, owner: Owner) -> Result<Inspected, LogError> {
    let names = disk.list(dir).map_err(|error| cannot("list", dir, &error))?;
    let mut inspected = Inspected {
        owner,
        dir: dir.to_owned(),
        floor: 0,
        floor_damaged: false,
        segments: Vec::new(),
        foreign: Vec::new(),
        leftovers: Vec::new(),
    };
    let floor = read_floor(disk, dir, owner)?;
    let mut ours = Vec::new();
    for name in &names {
        let path = dir.join(name);
        if name == TEMPORARY || name == "floor.tmp" {
            inspected.leftovers.push(path);
            continue;
        }
        let Some(first) = parse_name(name) else { continue };
        if floor.is_some_and(|floor| first < floor) {
            inspected.leftovers.push(path);
            continue;
        }
        let file = disk.open(&path).map_err(|error| cannot("open", &path, &error))?;
        let mut head = [0; SEGMENT_HEAD as usize];
        let read = file.read_at(&mut head, 0).map_err(|error| cannot("read", &path, &error))?;
        match owner.check_segment_head(first, &head[..read])? {
            Head::Foreign => inspected.foreign.push((first, path)),
            head => ours.push((first, file, path, matches!(head, Head::Damaged))),
        }
    }
    let stops: Vec<Option<u64>> = ours.iter().skip(1).map(|(first, ..)| Some(*first)).chain([None]).collect();
    for ((first, file, path, head_damaged), stop) in ours.into_iter().zip(stops) {
        let limit = file.len().map_err(|error| cannot("read", &path, &error))?;
        let scan = Walk { file: &*file, owner, first, stop, limit, bodies: stop.is_none() }.run()?;
        inspected.segments.push(Seen { first, file, path, head_damaged, scan });
    }
    let Some(oldest) = inspected.segments.first() else {
        return Err(LogError::Corrupt(format!(
            "{} has no segment of this log: restore it from a copy",
            dir.display()
        )));
    };
    inspected.floor_damaged = floor.is_none();
    inspected.floor = floor.unwrap_or(oldest.first);
    Ok(inspected)
}

/// Mends what the inspection found, and opens the partition.
pub(crate) fn open(inspected: Inspected, shared: &Shared) -> Result<Partition, LogError> {
    let Inspected { owner, dir, floor, floor_damaged, mut segments, foreign, leftovers } = inspected;
    let Shared { host, options, positions, reports } = shared.clone();
    let disk = &*host.disk;
    for path in &leftovers {
        disk.remove(path).map_err(|error| cannot("remove", path, &error))?;
    }
    // A process that was killed before it synced the folder leaves names that are seen and may not survive.
    disk.sync_dir(&dir).map_err(|error| cannot("sync", &dir, &error))?;
    if floor_damaged {
        reports.file(
            disk,
            Some(owner.partition),
            floor,
            &dir.join(FLOOR),
            "the mark of retention is damaged",
        );
        write_floor(disk, &dir, owner, floor).map_err(|error| cannot("write", &dir, &error))?;
    }
    for (first, path) in &foreign {
        reports.file(disk, Some(owner.partition), *first, path, "it belongs to another log or place");
    }
    report_missing_start(&reports, owner, floor, &segments);
    let Some(last) = segments.pop() else {
        return Err(LogError::Corrupt(format!("{} has no segment", dir.display())));
    };
    let mut map = Map { floor, segments: segments.iter().map(Seen::segment).collect() };
    for seen in segments.iter().chain([&last]) {
        mend_head(seen, owner, &reports, disk)?;
    }
    for seen in &segments {
        report_holes(seen, owner, &reports, disk);
    }
    let proven = foreign.iter().map(|(first, _)| *first).fold(positions.most(owner.partition), u64::max);
    let mut mended = mend_last(last, proven, options.segment_bytes_max);
    report_holes(&mended.seen, owner, &reports, disk);
    for cut in &mended.cut_unknown {
        let hole =
            Hole { from: mended.next, to: mended.next, bytes: cut.clone(), reason: "unreadable bytes" };
        reports.hole(disk, owner.partition, mended.seen.first, Some(&*mended.seen.file), &hole);
    }
    finish_last(&mut mended).map_err(|error| cannot("mend", &mended.seen.path, &error))?;
    map.segments.push_back(mended.seen.segment());
    let mut writer =
        Writer::new(mended.seen.file.clone(), mended.seen.first, mended.seen.scan.end, mended.capacity);
    if mended.fresh {
        let file = make_segment(disk, &dir, owner, options.segment_bytes_max, mended.next)
            .map_err(|error| cannot("make a segment in", &dir, &error))?;
        writer = Writer::new(file, mended.next, SEGMENT_HEAD, options.segment_bytes_max);
        map.segments.push_back(Segment::empty(mended.next, 0));
    }
    let mut last_micros = 0;
    for segment in &mut map.segments {
        last_micros = segment.last_micros.max(last_micros);
        segment.last_micros = last_micros;
    }
    Ok(Partition {
        owner,
        dir,
        host,
        options,
        positions,
        reports,
        queue: Mutex::new(Queue::default()),
        wake: Condvar::new(),
        clock: Mutex::new(Times { last: last_micros, in_flight: None }),
        map: RwLock::new(map),
        end: watch::channel(mended.next).0,
        writer: Mutex::new(writer),
        cursors: Mutex::default(),
    })
}

/// Stores that retention removed everything below an offset.
pub(crate) fn write_floor(disk: &dyn Disk, dir: &Path, owner: Owner, floor: u64) -> io::Result<()> {
    sealed::write(disk, &dir.join(FLOOR), FLOOR_MAGIC, &floor_value(owner, floor))
}

/// The mark of retention: 0 where it never removed anything, nothing where it is damaged.
fn read_floor(disk: &dyn Disk, dir: &Path, owner: Owner) -> Result<Option<u64>, LogError> {
    Ok(match sealed::read(disk, &dir.join(FLOOR), FLOOR_MAGIC)? {
        Sealed::Missing => Some(0),
        Sealed::Damaged => None,
        Sealed::Value(value) => value
            .last_chunk::<8>()
            .map(|floor| u64::from_le_bytes(*floor))
            .filter(|floor| value == floor_value(owner, *floor)),
    })
}

fn floor_value(owner: Owner, floor: u64) -> Vec<u8> {
    [&owner.log.to_le_bytes()[..], &owner.partition.to_le_bytes(), &floor.to_le_bytes()].concat()
}

fn parse_name(name: &str) -> Option<u64> {
    let first = name.strip_suffix(".segment")?.parse().ok()?;
    (segment_name(first) == name).then_some(first)
}

impl Seen {
    fn segment(&self) -> Segment {
        Segment {
            first: self.first,
            next: self.scan.next,
            end: self.scan.end,
            last_micros: self.scan.last_micros,
            index: self.scan.index.clone(),
            holes: self.scan.holes.clone(),
        }
    }
}

fn report_missing_start(reports: &Reports, owner: Owner, floor: u64, segments: &[Seen]) {
    let Some(oldest) = segments.first().filter(|oldest| oldest.first > floor) else { return };
    reports.add(Damage {
        partition: Some(owner.partition),
        from: floor,
        to: oldest.first,
        reason: "the first segments are missing".to_owned(),
        quarantined: None,
    });
}

fn report_holes(seen: &Seen, owner: Owner, reports: &Reports, disk: &dyn Disk) {
    for hole in &seen.scan.holes {
        reports.hole(disk, owner.partition, seen.first, Some(&*seen.file), hole);
    }
}

/// A header is known from the file's name, so it is written anew; the records carry their own checksums.
fn mend_head(seen: &Seen, owner: Owner, reports: &Reports, disk: &dyn Disk) -> Result<(), LogError> {
    if !seen.head_damaged {
        return Ok(());
    }
    let reason = "the segment's header is damaged and was written anew";
    let hole = Hole { from: seen.first, to: seen.first, bytes: 0..SEGMENT_HEAD, reason };
    reports.hole(disk, owner.partition, seen.first, Some(&*seen.file), &hole);
    seen.file
        .write_at(&owner.segment_head(seen.first), 0)
        .and_then(|()| seen.file.sync())
        .map_err(|error| cannot("mend", &seen.path, &error))
}

/// What is to become of the last segment.
struct Mended {
    seen: Seen,
    /// The offset of the next record.
    next: u64,
    /// Where to cut the file, if there is something to cut.
    cut: Option<u64>,
    /// Cut bytes of which nobody can say whether they were a torn flush.
    cut_unknown: Vec<Range<u64>>,
    capacity: u64,
    segment_bytes_max: u64,
    /// Whether the next record goes to a new segment, because its offset does not follow the last one's.
    fresh: bool,
}

/// Decides what of the last segment is a torn end and what is damage; writes nothing.
fn mend_last(mut seen: Seen, proven: u64, segment_bytes_max: u64) -> Mended {
    let scan = &mut seen.scan;
    let proven = proven.max(scan.proven);
    let mut cut = None;
    let mut cut_unknown = Vec::new();
    let torn_end = scan.garbage.as_ref().map_or(scan.end, |garbage| garbage.end);
    if let Some(torn) = scan.holes.iter().position(|hole| hole.from >= proven) {
        let at = scan.holes[torn].bytes.start;
        scan.next = scan.holes[torn].from;
        scan.holes.truncate(torn);
        let next = scan.next;
        scan.index.retain(|(offset, _)| *offset < next);
        scan.end = at;
        cut = Some(at);
    } else if scan.garbage.is_some() && scan.next >= proven {
        cut = Some(scan.end);
    }
    if seen.head_damaged
        && let Some(cut) = cut
    {
        cut_unknown.push(cut..torn_end.max(cut));
    }
    let fresh = scan.next < proven;
    if fresh {
        let bytes = scan.garbage.take().unwrap_or(scan.end..scan.end);
        scan.holes.push(Hole { from: scan.next, to: proven, bytes, reason: END_MISSING });
        scan.next = proven;
    }
    let next = scan.next;
    Mended { seen, next, cut, cut_unknown, capacity: 0, segment_bytes_max, fresh }
}

/// Makes the last segment durable as it is to be read, and ready to be continued.
fn finish_last(mended: &mut Mended) -> io::Result<()> {
    let Seen { file, scan, .. } = &mended.seen;
    if let Some(cut) = mended.cut {
        tracing::warn!(
            segment = mended.seen.first,
            at = cut,
            "cut the torn end of a write that was never confirmed"
        );
        file.set_len(cut.max(SEGMENT_HEAD))?;
        file.sync()?;
    }
    // Bytes read from the page cache may never have reached the disk, if an earlier sync failed: written again, they do.
    let mut at = scan.unproven;
    while at < scan.end {
        let mut bytes = vec![0; (scan.end - at).min(1 << 20) as usize];
        let read = file.read_at(&mut bytes, at)?;
        if read == 0 {
            break;
        }
        file.write_at(&bytes[..read], at)?;
        at += read as u64;
    }
    // A segment that ends in damage stays as it is: zeros behind it could complete what was just told to be lost.
    if mended.fresh {
        return file.sync();
    }
    mended.capacity = match file.allocate(mended.segment_bytes_max) {
        Ok(()) => mended.segment_bytes_max,
        // The log opens on a full disk too, and refuses appends until there is place.
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            file.len()?
        }
        Err(error) => return Err(error),
    };
    file.sync()
}

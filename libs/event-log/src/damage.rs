//! What was found damaged: told to the operator, kept for the caller, its bytes put aside.

use std::{
    io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use crate::{
    disk::{Disk, DiskFile},
    scan::Hole,
};

/// The most reports that are kept for the caller; every one is logged.
const REPORTS_MAX: usize = 1000;
const COPY_BYTES: u64 = 1 << 20;

/// Something of the log that is damaged or missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The partition; nothing for what belongs to none.
    pub partition: Option<u32>,
    /// The first record that is lost.
    pub from: u64,
    /// The first that is there again; equal to `from` where no record is lost.
    pub to: u64,
    /// What was found.
    pub reason: String,
    /// Where the damaged bytes were copied to.
    pub quarantined: Option<PathBuf>,
}

pub(crate) struct Reports {
    quarantine: PathBuf,
    found: Mutex<Vec<Damage>>,
}

impl Reports {
    pub(crate) fn new(quarantine: PathBuf) -> Self {
        Self { quarantine, found: Mutex::new(Vec::new()) }
    }

    pub(crate) fn found(&self) -> Vec<Damage> {
        self.found.lock().clone()
    }

    /// Reports records that are lost, and copies what is left of them.
    pub(crate) fn hole(
        &self,
        disk: &dyn Disk,
        partition: u32,
        segment: u64,
        file: Option<&dyn DiskFile>,
        hole: &Hole,
    ) {
        let name = format!("p{partition:04}-{segment:020}-{:010}", hole.bytes.start);
        let reason = format!("segment {segment}, bytes {:?}: {}", hole.bytes, hole.reason);
        let quarantined = file
            .filter(|_| !hole.bytes.is_empty())
            .and_then(|file| logged(self.copy(disk, &name, file, hole, &reason)));
        self.add(Damage { partition: Some(partition), from: hole.from, to: hole.to, reason, quarantined });
    }

    /// Reports a whole file and moves it away.
    pub(crate) fn file(&self, disk: &dyn Disk, partition: Option<u32>, at: u64, path: &Path, reason: &str) {
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let target = self.quarantine.join(format!("{parent}-{name}"));
        let moved = disk.create_dir(&self.quarantine).and_then(|()| {
            disk.rename(path, &target)?;
            disk.sync_dir(&self.quarantine)?;
            path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))?;
            Ok(target)
        });
        let reason = format!("{}: {reason}", path.display());
        self.add(Damage { partition, from: at, to: at, reason, quarantined: logged(moved) });
    }

    pub(crate) fn add(&self, damage: Damage) {
        tracing::error!(
            partition = damage.partition,
            from = damage.from,
            to = damage.to,
            quarantined = ?damage.quarantined,
            "the event log is damaged: {}",
            damage.reason
        );
        let mut found = self.found.lock();
        if found.len() < REPORTS_MAX {
            found.push(damage);
        }
    }

    fn copy(
        &self,
        disk: &dyn Disk,
        name: &str,
        file: &dyn DiskFile,
        hole: &Hole,
        reason: &str,
    ) -> io::Result<PathBuf> {
        disk.create_dir(&self.quarantine)?;
        let target = self.quarantine.join(format!("{name}.bytes"));
        if disk.open(&target).is_ok() {
            return Ok(target);
        }
        let copy = disk.create(&target)?;
        let mut at = hole.bytes.start;
        while at < hole.bytes.end {
            let mut bytes = vec![0; (hole.bytes.end - at).min(COPY_BYTES) as usize];
            let read = file.read_at(&mut bytes, at)?;
            if read == 0 {
                break;
            }
            copy.write_at(&bytes[..read], at - hole.bytes.start)?;
            at += read as u64;
        }
        copy.sync()?;
        let text = format!("{reason}\nlost records: {} up to, not including, {}\n", hole.from, hole.to);
        let report = disk.create(&self.quarantine.join(format!("{name}.txt")))?;
        report.write_at(text.as_bytes(), 0)?;
        report.sync()?;
        disk.sync_dir(&self.quarantine)?;
        Ok(target)
    }
}

/// A copy that fails is no reason to stop: the damaged bytes stay where they are.
fn logged(copied: io::Result<PathBuf>) -> Option<PathBuf> {
    copied.inspect_err(|error| tracing::error!(%error, "cannot put damaged bytes aside")).ok()
}

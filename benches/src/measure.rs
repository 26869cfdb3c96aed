//! How things are measured: processor time, memory and disk of processes, rounds in turn, percentiles.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

/// Latencies are kept to three digits, in nanoseconds, up to this one.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

/// Of `/proc/PID/stat`: Linux counts for its users in hundredths of a second, whatever the kernel's own.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of a process, all its threads, those that have ended too; seconds, in ticks of 10 ms.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    let (_, fields) = stat.rsplit_once(')').context("no process name in stat")?;
    // The third field is the first behind the name; user time is the 14th, system time the 15th.
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Resident memory of a process, bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// Resident memory of a process without what files are mapped to, bytes.
pub(crate) fn anonymous_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "RssAnon:")
}

fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name} in status"))?;
    let kibibytes = line.trim().strip_suffix(" kB").with_context(|| format!("{name} is not in kB"))?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}

/// The processes that a process started and that still run.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

/// The bytes that a folder takes on disk. What goes while it is looked at counts for nothing.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

/// The load of the machine: the one-minute average.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}

/// Latencies of one kind.
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_max(LATENCY_NANOS_MAX, 3)?))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_nanos().min(u128::from(LATENCY_NANOS_MAX)) as u64);
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// Microseconds.
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// What the rounds of one side yielded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The middle one; of an even number the mean of the two in the middle. 0 without rounds.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            len if len % 2 == 1 => sorted[len / 2],
            len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
        }
    }

    /// The distance between the largest and the smallest, as a share of the median.
    pub(crate) fn spread(&self) -> f64 {
        let (least, most) =
            self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), &value| {
                (least.min(value), most.max(value))
            });
        if self.is_empty() { 0.0 } else { (most - least) / self.median() }
    }

    /// The median of the ratios of the rounds that were made one after the other: what changed meanwhile changed both.
    pub(crate) fn ratio(&self, other: &Self) -> f64 {
        Self(self.0.iter().zip(&other.0).map(|(ours, theirs)| ours / theirs).collect()).median()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn medians_spreads_and_ratios_are_those_of_the_rounds() {
        let rounds = |values: &[f64]| Rounds(values.to_vec());
        assert_eq!(rounds(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(rounds(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(rounds(&[1.0, 2.0, 4.0]).spread(), 1.5);
        // Not the ratio of the medians, which is 1.
        assert_eq!(rounds(&[1.0, 4.0, 10.0]).ratio(&rounds(&[2.0, 2.0, 5.0])), 2.0);
        assert_eq!((rounds(&[]).median(), rounds(&[]).spread()), (0.0, 0.0));
    }

    #[test]
    fn processor_time_and_memory_of_this_process_are_read() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).unwrap();
        let mut random = 1_u64;
        while cpu_seconds(pid).unwrap() < before + 0.05 {
            random = std::hint::black_box(random.wrapping_mul(6_364_136_223_846_793_005));
        }
        assert!(resident_bytes(pid).unwrap() > 1 << 20);
        assert!(cpu_seconds(u32::MAX).is_err());
    }
}

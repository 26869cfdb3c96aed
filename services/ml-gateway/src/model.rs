//! The versions of a model, and which of them answers whom: `traffic.toml` beside them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::Deserialize;

use crate::{registry::Entry, version::Version};

/// Bytes of `traffic.toml`.
pub(crate) const TRAFFIC_BYTES_MAX: u64 = 1024 * 1024;

/// Versions that shadow a model.
const SHADOWS_MAX: usize = 4;

/// The sum of all weights.
const WEIGHTS_MAX: u32 = 1_000_000;

/// Digits of a version.
const VERSION_DIGITS_MAX: usize = 9;

/// A model as its folder has it.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) versions: BTreeMap<u32, Entry>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) traffic_stamp: Option<(SystemTime, u64)>,
    /// Why `traffic.toml` as it is is not in use.
    pub(crate) traffic_broken: Option<String>,
    /// Calls so far whose version was chosen by weight.
    pub(crate) turns: Arc<AtomicU64>,
}

/// Who is answered by which version. Without weights the newest version that works answers.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Traffic {
    weights: BTreeMap<u32, u32>,
    shadows: Vec<u32>,
    pins: BTreeMap<String, u32>,
}

/// The versions that a call goes to.
pub(crate) struct Route {
    /// Answers.
    pub(crate) first: Arc<Version>,
    /// Answers when the first one fails.
    pub(crate) spare: Option<Arc<Version>>,
    /// Score the same aside.
    pub(crate) shadows: Vec<Arc<Version>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// Shares of the calls, by version: `1 = 90`.
    weights: BTreeMap<String, u32>,
    /// Versions that score every call, too, and answer none.
    shadow: Vec<u32>,
    /// Versions by tenant.
    pins: BTreeMap<String, u32>,
}

pub(crate) fn version_number(name: &str) -> Option<u32> {
    let digits = name.len() <= VERSION_DIGITS_MAX && name.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| name.parse().ok()).flatten()?;
    // 01 is another folder than 1.
    (number > 0 && !name.starts_with('0')).then_some(number)
}

// === impl Model ===

impl Model {
    /// The version that works under this number.
    pub(crate) fn working(&self, number: u32) -> Option<&Arc<Version>> {
        self.versions.get(&number)?.version.as_ref()
    }

    /// Whether the version answers who names none and has no pin.
    pub(crate) fn serves(&self, number: u32) -> bool {
        self.candidates().any(|(candidate, ..)| candidate == number)
    }

    /// The version that answers most of those who name none.
    pub(crate) fn in_service(&self) -> Option<&Arc<Version>> {
        // Of equal weights the newest.
        self.candidates().max_by_key(|(number, weight, _)| (*weight, *number)).map(|(_, _, version)| version)
    }

    /// The versions for the next call of a tenant; `None` when none of them works.
    pub(crate) fn route(&self, tenant: &str) -> Option<Route> {
        if let Some(pinned) = self.traffic.pins.get(tenant) {
            // A pin holds, also when it hurts.
            let first = Arc::clone(self.working(*pinned)?);
            return Some(Route { first, spare: None, shadows: self.shadows(*pinned) });
        }
        let total: u64 = self.candidates().map(|(_, weight, _)| u64::from(weight)).sum();
        // Points that fill the range evenly, however few they are: multiples of the golden ratio.
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) as u32;
        let point = (u64::from(turn.wrapping_mul(2_654_435_769)) * total) >> 32;
        let mut below = 0;
        let (number, _, first) = self.candidates().find(|(_, weight, _)| {
            below += u64::from(*weight);
            point < below
        })?;
        let spare = self
            .ranked()
            .filter(|(other, ..)| *other != number)
            .max_by_key(|(other, weight, _)| (*weight, *other));
        let spare = spare.map(|(_, _, version)| Arc::clone(version));
        Some(Route { first: Arc::clone(first), spare, shadows: self.shadows(number) })
    }

    /// Those that take turns: all that have a weight, or the newest.
    fn candidates(&self) -> impl Iterator<Item = (u32, u32, &Arc<Version>)> {
        let newest_only = self.traffic.weights.is_empty();
        let newest = self.ranked().map(|(number, ..)| number).max();
        self.ranked().filter(move |(number, ..)| !newest_only || Some(*number) == newest)
    }

    /// Those that may answer, and their weights.
    fn ranked(&self) -> impl Iterator<Item = (u32, u32, &Arc<Version>)> {
        let Traffic { weights, shadows, .. } = &*self.traffic;
        self.versions.iter().filter_map(|(number, entry)| {
            let weight = if weights.is_empty() { 1 } else { weights.get(number).copied().unwrap_or(0) };
            let may = weight > 0 && !shadows.contains(number);
            may.then_some((*number, weight, entry.version.as_ref()?))
        })
    }

    fn shadows(&self, answering: u32) -> Vec<Arc<Version>> {
        let others = self.traffic.shadows.iter().filter(|number| **number != answering);
        others.filter_map(|number| self.working(*number).cloned()).collect()
    }
}

// === impl Traffic ===

impl Traffic {
    /// Reads `traffic.toml`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut weights = BTreeMap::new();
        for (name, weight) in file.weights {
            let number = version_number(&name).ok_or_else(|| format!("weights: {name:?} is no version"))?;
            weights.insert(number, weight);
        }
        let total: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
        if !weights.is_empty() && !(1..=u64::from(WEIGHTS_MAX)).contains(&total) {
            return Err(format!("weights: they add up to {total}, not to 1 to {WEIGHTS_MAX}"));
        }
        if file.shadow.len() > SHADOWS_MAX {
            return Err(format!("shadow: {} versions, at most {SHADOWS_MAX}", file.shadow.len()));
        }
        if let Some(both) =
            file.shadow.iter().find(|number| weights.get(number).is_some_and(|weight| *weight > 0))
        {
            return Err(format!("shadow: {both} has a weight, too"));
        }
        Ok(Self { weights, shadows: file.shadow, pins: file.pins })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_wrong_is_named() {
        for (text, told) in [
            ("[weights]\n01 = 1", "\"01\" is no version"),
            ("[weights]\nnew = 1", "\"new\" is no version"),
            ("[weights]\n1 = 0", "add up to 0"),
            ("[weights]\n1 = 999999\n2 = 2", "add up to 1000001"),
            ("shadow = [1, 2, 3, 4, 5]", "5 versions, at most 4"),
            ("shadow = [2]\n[weights]\n1 = 1\n2 = 1", "2 has a weight"),
            ("colour = 1", "colour"),
        ] {
            let error = Traffic::parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        let good =
            Traffic::parse("shadow = [3, 4, 5, 6]\n[weights]\n1 = 999999\n2 = 1\n[pins]\nacme = 1").unwrap();
        assert_eq!((good.weights[&2], good.shadows.len(), good.pins["acme"]), (1, 4, 1));
        assert_eq!(Traffic::parse("").unwrap(), Traffic::default());
    }
}

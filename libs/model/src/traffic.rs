//! The newest clicks and impressions of everybody, counted by device, address and sub-publisher.
//!
//! Bounded: the earliest touches go first, and what can then no longer be told for certain is not told.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::{
    features::{DAY, Engagement, address_key, prefix_key, sub_publisher_key},
    journey::TouchKind,
};

/// Partners' days whose times to conversion are kept; the earliest go first.
pub const PARTNER_DAYS_MAX: usize = 100_000;

/// The touches of one window that are looked at one by one, the newest.
pub const SCANNED_TOUCHES_MAX: usize = 500;

/// A partner's usual times to conversion are those of so many days before.
const USUAL_DAYS: i64 = 7;

/// With no more conversions than this nothing is usual yet, and these stand in: of the logarithm of seconds.
const USUAL_CONVERSIONS: f64 = 20.0;
const USUAL_MEAN: f64 = 5.0;
const USUAL_SPREAD: f64 = 1.5;
const SPREAD_MIN: f64 = 1e-3;

/// What touches are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    DeviceClicks,
    DeviceImpressions,
    PrefixClicks,
    SubPublisherClicks,
    /// Clicks and impressions.
    Address,
}

/// A touch under one key: time and device, ordered.
type Entry = (i64, u64);

/// The newest touches.
#[derive(Debug)]
pub struct Traffic {
    touches_max: usize,
    /// Nothing since this moment is missing, Unix milliseconds.
    known_from_millis: i64,
    entries: HashMap<(Kind, u64), VecDeque<Entry>>,
    /// The keys that each touch stands under, the earliest first; the number tells equal ones apart.
    touches: BTreeMap<(Entry, u64), Vec<(Kind, u64)>>,
    met: u64,
    /// By day of the conversion and partner.
    usual: BTreeMap<(i64, u64), Sums>,
}

/// Of logarithms of times to conversion.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
}

/// A key of one tenant. Two may meet, one time in 2⁶⁴: then a count is too high.
pub(crate) fn key(tenant: &str, parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    tenant.hash(&mut hasher);
    parts.hash(&mut hasher);
    hasher.finish()
}

// === impl Traffic ===

impl Traffic {
    /// Traffic that is known from the beginning, of at most so many touches.
    pub fn new(touches_max: usize) -> Self {
        Self {
            touches_max,
            known_from_millis: i64::MIN,
            entries: HashMap::new(),
            touches: BTreeMap::new(),
            met: 0,
            usual: BTreeMap::new(),
        }
    }

    /// Traffic of which nothing is known.
    pub fn unknown() -> Self {
        let mut unknown = Self::new(0);
        unknown.missing_before(i64::MAX);
        unknown
    }

    /// Says that touches before this moment may be missing.
    pub fn missing_before(&mut self, time_millis: i64) {
        self.known_from_millis = self.known_from_millis.max(time_millis);
    }

    /// Counts a touch; visits are not counted.
    pub fn touch(&mut self, touch: &Engagement<'_>) {
        if touch.time_millis < self.known_from_millis {
            return;
        }
        let device = key(touch.tenant, &[touch.device]);
        let address = address_key(touch).map(|key| (Kind::Address, key));
        let keys: Vec<(Kind, u64)> = match touch.kind {
            TouchKind::Visit => return,
            TouchKind::Impression => {
                [Some((Kind::DeviceImpressions, device)), address].into_iter().flatten().collect()
            }
            TouchKind::Click => {
                let prefix = prefix_key(touch).map(|key| (Kind::PrefixClicks, key));
                let sub_publisher = sub_publisher_key(touch).map(|key| (Kind::SubPublisherClicks, key));
                [Some((Kind::DeviceClicks, device)), address, prefix, sub_publisher]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        };
        let entry = (touch.time_millis, device);
        for key in &keys {
            let entries = self.entries.entry(*key).or_default();
            // Nearly always at the end.
            let place = entries.partition_point(|other| *other <= entry);
            entries.insert(place, entry);
        }
        self.met += 1;
        self.touches.insert((entry, self.met), keys);
        if self.touches.len() > self.touches_max {
            self.forget_earliest();
        }
    }

    /// Learns how long a partner's touch took to convert.
    pub fn converted(&mut self, tenant: &str, partner: &str, touch_millis: i64, conversion_millis: i64) {
        let log = ((conversion_millis.saturating_sub(touch_millis)) as f64 / 1_000.0 + 1.0).ln();
        let sums =
            self.usual.entry((conversion_millis.div_euclid(DAY), key(tenant, &[partner]))).or_default();
        sums.count += 1.0;
        sums.sum += log;
        sums.squares += log * log;
        if self.usual.len() > PARTNER_DAYS_MAX
            && let Some(((day, _), _)) = self.usual.pop_first()
        {
            self.missing_before((day + 1) * DAY);
        }
    }

    /// How many touches of a key lie in (`at - window`, `at`].
    pub(crate) fn count(&self, kind: Kind, key: u64, at: i64, window: i64) -> Option<f64> {
        self.knows(at - window)?;
        Some(self.window(kind, key, at, window).len() as f64)
    }

    /// How many devices an address has in (`at - window`, `at`].
    pub(crate) fn devices(&self, address: u64, at: i64, window: i64) -> Option<f64> {
        self.knows(at - window)?;
        let newest = self.window(Kind::Address, address, at, window).rev().take(SCANNED_TOUCHES_MAX);
        Some(newest.map(|(_, device)| device).collect::<BTreeSet<_>>().len() as f64)
    }

    /// The share of a sub-publisher's clicks in the day up to `at` whose device was first met in the day before the click.
    pub(crate) fn new_device_share(&self, sub_publisher: u64, at: i64) -> Option<f64> {
        self.knows(at - 2 * DAY)?;
        let clicks = self.window(Kind::SubPublisherClicks, sub_publisher, at, DAY);
        let newest = clicks.rev().take(SCANNED_TOUCHES_MAX);
        let (mut new, mut all) = (0_u32, 0_u32);
        for (time, device) in newest {
            all += 1;
            new += u32::from(time - self.first_met(*device).unwrap_or(*time) < DAY);
        }
        Some(f64::from(new) / f64::from(all.max(1)))
    }

    /// By how many standard deviations of a partner's conversions of the seven days before a time to conversion differs
    /// from theirs, both as logarithms.
    pub(crate) fn deviation(&self, partner: u64, at: i64, delay_seconds: f64) -> Option<f64> {
        let today = at.div_euclid(DAY);
        self.knows((today - USUAL_DAYS) * DAY)?;
        let mut usual = Sums::default();
        for day in today - USUAL_DAYS..today {
            if let Some(sums) = self.usual.get(&(day, partner)) {
                usual.count += sums.count;
                usual.sum += sums.sum;
                usual.squares += sums.squares;
            }
        }
        let (mean, spread) = if usual.count > USUAL_CONVERSIONS {
            let mean = usual.sum / usual.count;
            (mean, (usual.squares / usual.count - mean * mean).max(0.0).sqrt())
        } else {
            (USUAL_MEAN, USUAL_SPREAD)
        };
        Some(((delay_seconds + 1.0).ln() - mean).abs() / spread.max(SPREAD_MIN))
    }

    /// Whether nothing after a moment is missing.
    fn knows(&self, after_millis: i64) -> Option<()> {
        (self.known_from_millis <= after_millis.saturating_add(1)).then_some(())
    }

    fn window(
        &self,
        kind: Kind,
        key: u64,
        at: i64,
        window: i64,
    ) -> impl DoubleEndedIterator<Item = &Entry> + ExactSizeIterator {
        let entries = self.entries.get(&(kind, key)).unwrap_or(const { &VecDeque::new() });
        let first = entries.partition_point(|(time, _)| *time <= at - window);
        let end = entries.partition_point(|(time, _)| *time <= at);
        entries.range(first..end.max(first))
    }

    fn first_met(&self, device: u64) -> Option<i64> {
        [Kind::DeviceClicks, Kind::DeviceImpressions]
            .into_iter()
            .filter_map(|kind| self.entries.get(&(kind, device))?.front())
            .map(|(time, _)| *time)
            .min()
    }

    fn forget_earliest(&mut self) {
        let Some(((entry, _), keys)) = self.touches.pop_first() else { return };
        self.missing_before(entry.0.saturating_add(1));
        for key in keys {
            let Some(entries) = self.entries.get_mut(&key) else { continue };
            // It is the earliest there too.
            entries.pop_front();
            if entries.is_empty() {
                self.entries.remove(&key);
            }
        }
    }
}

//! The platform as its contract describes it, in the plainest code: a function from the set of accepted events to the
//! decisions in force and the rows of reports.
//!
//! It is written from the documentation alone and shares no code with the platform, so that tests can hold the two equal.
//! Everything is computed anew for each question, in quadratic time and worse. Not modelled: Markov, time zones other than
//! UTC, window overrides, `as_of`.

mod report;

use std::collections::{BTreeMap, BTreeSet};

use proto::events::{Event, EventType};

pub use report::{Model, Report, Row, Transform};

/// Milliseconds of a day.
pub const DAY: i64 = 24 * 60 * 60 * 1000;
const WINDOW_DAYS_MAX: i64 = 90;
const TOUCHES_MAX: usize = 1_000;
const IDENTITIES_MAX: usize = 100;

/// What a tenant may set, as far as it matters to decisions; windows in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The look-back window of clicks.
    pub click: i64,
    /// The look-back window of impressions.
    pub impression: i64,
    /// The look-back window of visits.
    pub visit: i64,
    /// Kinds, the best first; empty: the latest alone.
    pub order: Vec<EventType>,
    /// What `last_non_direct` passes over.
    pub direct_channels: Vec<String>,
    /// Names of conversions whose paths are cut at the previous one.
    pub cut_at_previous: Vec<String>,
    /// Rules of fraud that reject.
    pub reject: Vec<String>,
    /// The caps of rules by their names: period in milliseconds, touches that it allows.
    pub caps: Vec<(String, i64, usize)>,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It counts.
    Accepted,
    /// Its tenant sent one with its id before: it changes nothing.
    Duplicate,
}

/// Kind (`device_id`, `cookie_id` or `user_id`) and value.
pub type Identity = (&'static str, String);

/// Everything joined by identities that appeared together; a set past the limit is left as single identities.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Person {
    /// Its identities.
    pub identities: BTreeSet<Identity>,
    /// Whether it is one identity of a set that is too large to be joined.
    pub shared: bool,
}

/// The decision in force of a conversion.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The conversion.
    pub conversion: Event,
    /// Whose it is.
    pub person: Person,
    /// The touches up to the conversion, by time and then event id.
    pub candidates: Vec<Candidate>,
    /// Whether older touches were left out.
    pub truncated: bool,
    /// Event ids of the eligible touches, the winner first.
    pub ranking: Vec<String>,
}

/// A touch that was considered.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The touch.
    pub touch: Event,
    /// As the contract writes it.
    pub verdict: &'static str,
    /// Conversion time minus touch time.
    pub age_millis: i64,
    /// The window of its kind.
    pub window_millis: i64,
}

/// The platform. Tenants that were not given settings have those of the first start.
#[derive(Debug, Clone, Default)]
pub struct Platform {
    settings: BTreeMap<String, Settings>,
    events: BTreeMap<(String, String), Event>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            click: 7 * DAY,
            impression: DAY,
            visit: 30 * DAY,
            order: vec![EventType::Click, EventType::Impression, EventType::Visit],
            direct_channels: vec!["direct".to_owned()],
            cut_at_previous: Vec::new(),
            reject: Vec::new(),
            caps: Vec::new(),
        }
    }
}

// === impl Platform ===

impl Platform {
    /// Sets a tenant's settings, from the beginning.
    pub fn set(&mut self, tenant: &str, settings: Settings) {
        self.settings.insert(tenant.to_owned(), settings);
    }

    /// Takes a valid event in. It must be complete as ingestion would have made it: with its id, its app, its currency.
    pub fn accept(&mut self, tenant: &str, event: &Event) -> Acceptance {
        let key = (tenant.to_owned(), event.event_id.clone());
        if self.events.contains_key(&key) {
            return Acceptance::Duplicate;
        }
        self.events.insert(key, event.clone());
        Acceptance::Accepted
    }

    /// Tenant and event id of every conversion.
    pub fn conversions(&self) -> Vec<(String, String)> {
        let conversions = self.events.iter().filter(|(_, event)| is_conversion(event));
        conversions.map(|(key, _)| key.clone()).collect()
    }

    /// Tenant and event of every touch.
    pub fn touches(&self) -> Vec<(String, Event)> {
        let touches = self.events.iter().filter(|(_, event)| is_touch(event));
        touches.map(|((tenant, _), event)| (tenant.clone(), event.clone())).collect()
    }

    /// The person that an event belongs to: that of its first identity.
    pub fn person(&self, tenant: &str, event: &Event) -> Person {
        let Some(home) = identities(event).into_iter().next() else {
            return Person { identities: BTreeSet::new(), shared: false };
        };
        let mut set = BTreeSet::from([home.clone()]);
        loop {
            let before = set.len();
            for other in self.of(tenant) {
                let together = identities(other);
                if together.iter().any(|identity| set.contains(identity)) {
                    set.extend(together);
                }
            }
            if set.len() == before {
                break;
            }
        }
        if set.len() > IDENTITIES_MAX {
            Person { identities: BTreeSet::from([home]), shared: true }
        } else {
            Person { identities: set, shared: false }
        }
    }

    /// The decision in force; `None`: there is no such conversion.
    pub fn decision(&self, tenant: &str, conversion_id: &str) -> Option<Decision> {
        let conversion = self.events.get(&(tenant.to_owned(), conversion_id.to_owned()))?;
        if !is_conversion(conversion) {
            return None;
        }
        let settings = self.settings_of(tenant);
        let person = self.person(tenant, conversion);
        let previous = self.previous(tenant, &person, conversion, &settings);
        let time = millis(conversion);
        let within =
            |event: &&Event| is_touch(event) && (0..=WINDOW_DAYS_MAX * DAY).contains(&(time - millis(event)));
        let mut touches: Vec<&Event> = self.events_of(tenant, &person).into_iter().filter(within).collect();
        touches.sort_by_key(|touch| (millis(touch), touch.event_id.clone()));
        let too_many = touches.len().saturating_sub(TOUCHES_MAX);
        let touches: Vec<&Event> = touches.into_iter().skip(too_many).collect();
        let cut = |touch: &Event| {
            touch.app_id != conversion.app_id || previous.is_some_and(|previous| millis(touch) <= previous)
        };
        let uncut: Vec<&Event> = touches.iter().copied().filter(|touch| !cut(touch)).collect();
        let candidates: Vec<Candidate> = touches
            .into_iter()
            .map(|touch| {
                let age_millis = time - millis(touch);
                let window_millis = settings.window(touch);
                let verdict = if touch.app_id != conversion.app_id {
                    "other_app"
                } else if previous.is_some_and(|previous| millis(touch) <= previous) {
                    "before_previous_conversion"
                } else if settings.is_fraud(touch, conversion, &uncut) {
                    "fraud"
                } else if age_millis > window_millis {
                    "outside_window"
                } else {
                    "eligible"
                };
                Candidate { touch: touch.clone(), verdict, age_millis, window_millis }
            })
            .collect();
        let eligible = candidates.iter().filter(|candidate| candidate.verdict == "eligible");
        let ranking = settings.ranking(eligible.map(|candidate| &candidate.touch));
        let conversion = conversion.clone();
        Some(Decision { conversion, person, candidates, truncated: too_many > 0, ranking })
    }

    fn previous(
        &self,
        tenant: &str,
        person: &Person,
        conversion: &Event,
        settings: &Settings,
    ) -> Option<i64> {
        let order = |event: &Event| (millis(event), event.event_id.clone());
        let earlier = |event: &&Event| {
            is_conversion(event)
                && event.conversion == conversion.conversion
                && order(event) < order(conversion)
        };
        let cut = settings.cut_at_previous.contains(&conversion.conversion);
        let of_person = self.events_of(tenant, person);
        of_person.into_iter().filter(earlier).map(millis).max().filter(|_| cut)
    }

    fn settings_of(&self, tenant: &str) -> Settings {
        self.settings.get(tenant).cloned().unwrap_or_default()
    }

    fn of(&self, tenant: &str) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |((of, _), _)| of == tenant).map(|(_, event)| event)
    }

    fn events_of(&self, tenant: &str, person: &Person) -> Vec<&Event> {
        let belongs = |event: &&Event| {
            identities(event).first().is_some_and(|identity| person.identities.contains(identity))
        };
        self.of(tenant).filter(belongs).collect()
    }
}

// === impl Settings ===

impl Settings {
    fn window(&self, touch: &Event) -> i64 {
        match touch.event_type() {
            EventType::Click => self.click,
            EventType::Impression => self.impression,
            _ => self.visit,
        }
    }

    /// `path` has every touch that the caps count, in path order.
    fn is_fraud(&self, touch: &Event, conversion: &Event, path: &[&Event]) -> bool {
        let rejects = |rule: &str| self.reject.iter().any(|rejecting| rejecting == rule);
        if touch.event_type() == EventType::Visit {
            return false;
        }
        let begin = conversion.install_begin.as_ref().map(|time| in_millis(time.seconds, time.nanos));
        let install = conversion.conversion == "install" || begin.is_some();
        let soon = millis(conversion) - millis(touch) < 5_000;
        if rejects("click_to_install") && install && soon && touch.event_type() == EventType::Click {
            return true;
        }
        if rejects("after_install_begin") && begin.is_some_and(|begin| millis(touch) > begin) {
            return true;
        }
        self.caps.iter().filter(|(rule, ..)| rejects(rule)).any(|(_, period, allowed)| {
            let order = |event: &Event| (millis(event), event.event_id.clone());
            let within = |other: &&&Event| {
                other.event_type() == touch.event_type()
                    && order(other) <= order(touch)
                    && millis(touch) - millis(other) < *period
            };
            path.iter().filter(within).count() > *allowed
        })
    }

    fn rank(&self, touch: &Event) -> usize {
        self.order.iter().position(|kind| *kind == touch.event_type()).unwrap_or(self.order.len())
    }

    /// The best first: by kind, then the latest, then the greatest event id.
    fn ranking<'a>(&self, touches: impl Iterator<Item = &'a Event>) -> Vec<String> {
        let mut touches: Vec<&Event> = touches.collect();
        touches.sort_by_key(|touch| {
            let latest = std::cmp::Reverse((millis(touch), touch.event_id.clone()));
            (self.rank(touch), latest)
        });
        touches.into_iter().map(|touch| touch.event_id.clone()).collect()
    }
}

/// Event time, Unix milliseconds.
pub fn millis(event: &Event) -> i64 {
    event.timestamp.as_ref().map_or(0, |time| in_millis(time.seconds, time.nanos))
}

fn in_millis(seconds: i64, nanos: i32) -> i64 {
    seconds * 1_000 + i64::from(nanos / 1_000_000)
}

/// The identities of an event; the first is its person key.
pub fn identities(event: &Event) -> Vec<Identity> {
    let all = [("device_id", &event.device_id), ("cookie_id", &event.cookie_id), ("user_id", &event.user_id)];
    all.into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(kind, value)| (kind, value.clone()))
        .collect()
}

fn is_touch(event: &Event) -> bool {
    matches!(event.event_type(), EventType::Impression | EventType::Click | EventType::Visit)
}

fn is_conversion(event: &Event) -> bool {
    event.event_type() == EventType::Conversion
}

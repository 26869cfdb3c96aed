//! What a store should answer, computed from the list of all events each time: slow, and plain enough to believe.

use std::collections::{BTreeMap, BTreeSet};

use journey_store::{Effects, Incoming, Outcome, PastConversion, Position, StoredJourney};
use model::{IdentityHash, IdentityKind};
use proto::events::{Event, EventType};

use crate::make::DAY;

/// Every event that counted, by tenant and id, in the order in which they came.
#[derive(Clone, Default)]
pub struct Plain {
    firsts: Vec<Incoming>,
    /// Where each of them is stored.
    homes: Vec<IdentityHash>,
    /// The connected sets: what overlaps is joined.
    sets: Vec<BTreeSet<IdentityHash>>,
    names: BTreeMap<IdentityHash, (IdentityKind, String)>,
    pub repeats: BTreeMap<u64, BTreeSet<u32>>,
}

/// A journey, without where it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainJourney {
    pub person: IdentityHash,
    pub shared: bool,
    pub touches: Vec<Event>,
    pub previous: Option<i64>,
}

impl From<StoredJourney> for PlainJourney {
    fn from(journey: StoredJourney) -> Self {
        let StoredJourney { person, shared, touches, previous_conversion_millis: previous, .. } = journey;
        Self { person, shared, touches, previous }
    }
}

impl Plain {
    pub fn record(&mut self, incoming: &Incoming) -> Outcome {
        let same = |first: &&Incoming| {
            first.tenant == incoming.tenant && first.event.event_id == incoming.event.event_id
        };
        match self.firsts.iter().find(same) {
            Some(first) if first.position == incoming.position => Outcome::Replayed,
            Some(_) => {
                let Position { offset, index, .. } = incoming.position;
                self.repeats.entry(offset).or_default().insert(index);
                Outcome::Repeat
            }
            None => {
                self.firsts.push(incoming.clone());
                self.join(incoming);
                Outcome::First
            }
        }
    }

    fn join(&mut self, incoming: &Incoming) {
        let identities = identities(incoming);
        self.homes.push(identities[0].0);
        let mut joined: BTreeSet<_> = identities.iter().map(|(hash, ..)| *hash).collect();
        self.names.extend(identities.into_iter().map(|(hash, kind, value)| (hash, (kind, value))));
        self.sets.retain(|set| {
            let apart = set.is_disjoint(&joined);
            if !apart {
                joined.extend(set);
            }
            apart
        });
        self.sets.push(joined);
    }

    /// The person of an identity, whether it is shared, and what counts as the person.
    pub fn person(&self, identity: IdentityHash) -> Option<(IdentityHash, bool, BTreeSet<IdentityHash>)> {
        let set = self.sets.iter().find(|set| set.contains(&identity))?;
        if set.len() > 100 {
            return Some((identity, true, BTreeSet::from([identity])));
        }
        Some((*set.first()?, false, set.clone()))
    }

    pub fn identities(&self) -> BTreeSet<IdentityHash> {
        self.sets.iter().flatten().copied().collect()
    }

    /// Tenant and event id of every conversion.
    pub fn conversions(&self) -> Vec<(std::sync::Arc<str>, String)> {
        let conversions = self.firsts.iter().filter(|first| is_conversion(&first.event));
        conversions.map(|first| (first.tenant.clone(), first.event.event_id.clone())).collect()
    }

    pub fn journey(&self, tenant: &str, conversion_id: &str) -> Option<PlainJourney> {
        let (conversion, home) = self
            .firsts
            .iter()
            .zip(&self.homes)
            .find(|(first, _)| &*first.tenant == tenant && first.event.event_id == conversion_id)
            .filter(|(first, _)| is_conversion(&first.event))?;
        let (person, shared, members) = self.person(*home)?;
        let at = time(&conversion.event);
        let near: Vec<&Event> = self
            .of(&members)
            .into_iter()
            .filter(|event| time(event) <= at && time(event) >= at - 90 * DAY)
            .collect();
        let touches: Vec<Event> = near.iter().filter(|event| is_touch(event)).map(|e| (*e).clone()).collect();
        let cut = touches.len().saturating_sub(1_001);
        let previous = near
            .iter()
            .filter(|event| is_conversion(event) && event.conversion == conversion.event.conversion)
            .filter(|event| order(event) < order(&conversion.event))
            .map(|event| time(event))
            .max();
        Some(PlainJourney { person, shared, touches: touches[cut..].to_vec(), previous })
    }

    /// The newest conversions of a conversion's person up to it.
    pub fn past_conversions(&self, tenant: &str, conversion_id: &str, max: usize) -> Vec<PastConversion> {
        let is_it = |first: &Incoming| &*first.tenant == tenant && first.event.event_id == conversion_id;
        let (conversion, home) = self.firsts.iter().zip(&self.homes).find(|(first, _)| is_it(first)).unwrap();
        let (_, _, members) = self.person(*home).unwrap();
        let at = time(&conversion.event);
        let past = |event: &&Event| is_conversion(event) && time(event) <= at;
        let all: Vec<PastConversion> =
            self.of(&members).into_iter().filter(past).map(past_conversion).collect();
        all[all.len().saturating_sub(max)..].to_vec()
    }

    /// Touches and conversions of a person, ordered.
    pub fn events(&self, identity: IdentityHash) -> Vec<Event> {
        let Some((_, _, members)) = self.person(identity) else { return Vec::new() };
        self.of(&members)
            .into_iter()
            .filter(|event| is_touch(event) || is_conversion(event))
            .cloned()
            .collect()
    }

    /// (kind, value) of everything joined with an identity, ordered.
    pub fn names(&self, identity: IdentityHash) -> Vec<(IdentityKind, String)> {
        let Some((_, _, members)) = self.person(identity) else { return Vec::new() };
        let names: BTreeSet<_> = members.iter().map(|member| self.names[member].clone()).collect();
        names.into_iter().collect()
    }

    fn of(&self, members: &BTreeSet<IdentityHash>) -> Vec<&Event> {
        let mut events: Vec<&Event> = self
            .firsts
            .iter()
            .zip(&self.homes)
            .filter(|(_, home)| members.contains(home))
            .map(|(f, _)| &f.event)
            .collect();
        events.sort_by(|a, b| order(a).cmp(&order(b)));
        events
    }
}

/// What a reader of identity changes takes for (person, shared): the smallest person, shared once it was.
pub fn persons_told(effects: &[Effects]) -> BTreeMap<IdentityHash, (IdentityHash, bool)> {
    let mut told: BTreeMap<IdentityHash, (IdentityHash, bool)> = BTreeMap::new();
    for change in effects.iter().flat_map(|effects| &effects.identities) {
        let entry = told.entry(change.identity).or_insert((change.person, false));
        *entry = (entry.0.min(change.person), entry.1 | change.shared);
    }
    for (identity, (person, shared)) in &mut told {
        if *shared {
            *person = *identity;
        }
    }
    told
}

pub fn identities(incoming: &Incoming) -> Vec<(IdentityHash, IdentityKind, String)> {
    let event = &incoming.event;
    [
        (IdentityKind::Device, &event.device_id),
        (IdentityKind::Cookie, &event.cookie_id),
        (IdentityKind::User, &event.user_id),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(kind, value)| (IdentityHash::new(&incoming.tenant, kind, value), kind, value.clone()))
    .collect()
}

pub fn time(event: &Event) -> i64 {
    let time = event.timestamp.unwrap();
    time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000
}

pub fn order(event: &Event) -> (i64, &[u8]) {
    (time(event), event.event_id.as_bytes())
}

fn past_conversion(event: &Event) -> PastConversion {
    let Event { app_id, value, currency, .. } = event.clone();
    PastConversion { time_millis: time(event), app_id, value, currency }
}

fn is_touch(event: &Event) -> bool {
    matches!(event.event_type(), EventType::Click | EventType::Impression | EventType::Visit)
}

fn is_conversion(event: &Event) -> bool {
    event.event_type() == EventType::Conversion
}

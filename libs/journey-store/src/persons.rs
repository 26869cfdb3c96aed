//! Who is whom: identities, the sets they are joined in, and what changed.
//!
//! A set is the connected component of everything that appeared together, so the order of events does not matter. A set
//! past [`IDENTITIES_MAX`] is shared for ever; from then on each of its identities stands alone.

use std::collections::{BTreeMap, HashMap};

use model::{IdentityHash, IdentityKind};
use proto::events::Event;

use crate::{
    IDENTITIES_MAX, StoreError,
    folding::Folding,
    kv::{Batch, Reader, Table, View},
    rows::{self, IdentityRow, MembersRow, PersonRow},
};

/// What is known of one identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) person: IdentityHash,
    pub(crate) shared: bool,
    /// The time of the latest conversion stored under this identity.
    pub(crate) latest_conversion_millis: Option<i64>,
    /// How many conversions are stored under this identity.
    pub(crate) conversions: u64,
    /// Whether touches are.
    pub(crate) touched: bool,
}

/// An identity of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) hash: IdentityHash,
    pub(crate) kind: IdentityKind,
    pub(crate) value: &'a str,
}

/// States of identities met lately, exactly as they are stored; bounded to twice [`CACHED_STATES_MAX`].
#[derive(Default)]
pub(crate) struct StateCache {
    young: HashMap<IdentityHash, State, Folding>,
    old: HashMap<IdentityHash, State, Folding>,
}

/// The persons as one batch of events leaves them: what is stored, with the changes on top.
pub(crate) struct Persons<'a, V> {
    reader: &'a Reader<V>,
    cache: &'a mut StateCache,
    /// Every identity looked at; `None`: never met.
    states: HashMap<IdentityHash, Option<State>, Folding>,
    changed: HashMap<IdentityHash, State, Folding>,
    /// Sets that changed; `None`: gone.
    members: BTreeMap<IdentityHash, Option<Vec<IdentityHash>>>,
}

/// What one event's links did.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Identities whose person or shared flag changed.
    pub(crate) changed: Vec<(IdentityHash, State)>,
    /// Whether sets were joined, or turned shared.
    pub(crate) joined: bool,
}

/// About 70 MB for each of the two halves of the cache: a table of 2²⁰ places, as full as it gets.
const CACHED_STATES_MAX: usize = (1 << 20) / 8 * 7;

// === impl State ===

impl State {
    fn alone(identity: IdentityHash) -> Self {
        Self {
            person: identity,
            shared: false,
            latest_conversion_millis: None,
            conversions: 0,
            touched: false,
        }
    }

    fn from_row(identity: IdentityHash, row: &PersonRow) -> Result<Self, StoreError> {
        let person = match &row.person[..] {
            [] => identity,
            person => rows::identity(Table::Persons, person)?,
        };
        let PersonRow { shared, latest_conversion_millis, conversions, touched, .. } = *row;
        Ok(Self { person, shared, latest_conversion_millis, conversions, touched })
    }

    fn to_row(self, identity: IdentityHash) -> PersonRow {
        PersonRow {
            person: if self.person == identity { Vec::new() } else { self.person.0.to_vec() },
            shared: self.shared,
            latest_conversion_millis: self.latest_conversion_millis,
            conversions: self.conversions,
            touched: self.touched,
        }
    }
}

// === impl Named ===

impl<'a> Named<'a> {
    /// The identities of an event, the home first.
    pub(crate) fn of(tenant: &str, event: &'a Event) -> Vec<Self> {
        [
            (IdentityKind::Device, &event.device_id),
            (IdentityKind::Cookie, &event.cookie_id),
            (IdentityKind::User, &event.user_id),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(kind, value)| Named { hash: IdentityHash::new(tenant, kind, value), kind, value })
        .collect()
    }
}

// === impl StateCache ===

impl StateCache {
    fn get(&mut self, identity: &IdentityHash) -> Option<State> {
        if let Some(state) = self.young.get(identity) {
            return Some(*state);
        }
        let state = *self.old.get(identity)?;
        self.put(*identity, state);
        Some(state)
    }

    fn put(&mut self, identity: IdentityHash, state: State) {
        if self.young.len() >= CACHED_STATES_MAX && !self.young.contains_key(&identity) {
            self.old = std::mem::take(&mut self.young);
        }
        // What is young counts, so a state that is still among the old ones is never served again.
        self.young.insert(identity, state);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

// === impl Persons ===

impl<'a, V: View> Persons<'a, V> {
    pub(crate) fn new(reader: &'a Reader<V>, cache: &'a mut StateCache) -> Self {
        Self {
            reader,
            cache,
            states: HashMap::default(),
            changed: HashMap::default(),
            members: BTreeMap::new(),
        }
    }

    /// Reads the states of identities that will be asked for, in the order of the table.
    pub(crate) fn look_up(&mut self, mut identities: Vec<IdentityHash>) -> Result<(), StoreError> {
        identities.sort_unstable();
        identities.dedup();
        identities.into_iter().try_for_each(|identity| self.lookup(identity).map(drop))
    }

    /// Makes the identities of an event known, and joins their sets.
    pub(crate) fn link(
        &mut self,
        tenant: &str,
        named: &[Named<'_>],
        batch: &mut Batch,
    ) -> Result<Link, StoreError> {
        let mut persons: Vec<IdentityHash> = Vec::with_capacity(named.len());
        let mut shared = false;
        for identity in named {
            let state = self.meet(tenant, identity, batch)?;
            shared |= state.shared;
            persons.push(state.person);
        }
        persons.sort_unstable();
        persons.dedup();
        if persons.len() < 2 {
            return Ok(Link::default());
        }
        let mut all = Vec::new();
        for person in &persons {
            all.extend(self.members(*person)?);
        }
        let changed =
            if shared || all.len() > IDENTITIES_MAX { self.share(&all)? } else { self.join(&persons, all)? };
        Ok(Link { joined: !changed.is_empty(), changed })
    }

    /// Notes a conversion that is stored under `home` for the first time.
    pub(crate) fn note_conversion(&mut self, home: IdentityHash, time_millis: i64) -> Result<(), StoreError> {
        let state = self.state(home)?;
        let latest_conversion_millis = state.latest_conversion_millis.max(Some(time_millis));
        self.change(home, State { latest_conversion_millis, conversions: state.conversions + 1, ..state });
        Ok(())
    }

    /// Notes that a touch is stored under `home`. Tells whether it is the first.
    pub(crate) fn note_touch(&mut self, home: IdentityHash) -> Result<bool, StoreError> {
        let state = self.state(home)?;
        if !state.touched {
            self.change(home, State { touched: true, ..state });
        }
        Ok(!state.touched)
    }

    /// The state of an identity; of one that was never met, that it stands alone.
    pub(crate) fn state(&mut self, identity: IdentityHash) -> Result<State, StoreError> {
        Ok(self.lookup(identity)?.unwrap_or_else(|| State::alone(identity)))
    }

    /// The identities of a person; of one that stands alone, itself.
    pub(crate) fn members(&self, person: IdentityHash) -> Result<Vec<IdentityHash>, StoreError> {
        match self.members.get(&person) {
            Some(members) => Ok(members.clone().unwrap_or_else(|| vec![person])),
            None => stored_members(self.reader, person),
        }
    }

    /// Adds what changed to the batch. Answers the states to cache once the batch is written.
    pub(crate) fn finish(self, batch: &mut Batch) -> HashMap<IdentityHash, State, Folding> {
        for (identity, state) in &self.changed {
            batch.put(Table::Persons, identity.0.to_vec(), &state.to_row(*identity));
        }
        for (person, members) in self.members {
            match members {
                Some(members) => batch.put(Table::Members, person.0.to_vec(), &MembersRow::new(&members)),
                None => batch.remove(Table::Members, person.0.to_vec()),
            }
        }
        self.changed
    }

    fn meet(&mut self, tenant: &str, identity: &Named<'_>, batch: &mut Batch) -> Result<State, StoreError> {
        if let Some(state) = self.lookup(identity.hash)? {
            return Ok(state);
        }
        let row = IdentityRow::new(tenant, identity.kind, identity.value);
        batch.put(Table::Identities, identity.hash.0.to_vec(), &row);
        let state = State::alone(identity.hash);
        self.change(identity.hash, state);
        Ok(state)
    }

    fn lookup(&mut self, identity: IdentityHash) -> Result<Option<State>, StoreError> {
        if let Some(state) = self.states.get(&identity) {
            return Ok(*state);
        }
        let state = match self.cache.get(&identity) {
            Some(state) => Some(state),
            None => stored_state(self.reader, identity)?.inspect(|state| self.cache.put(identity, *state)),
        };
        self.states.insert(identity, state);
        Ok(state)
    }

    fn change(&mut self, identity: IdentityHash, state: State) {
        self.states.insert(identity, Some(state));
        self.changed.insert(identity, state);
    }

    fn join(
        &mut self,
        persons: &[IdentityHash],
        mut all: Vec<IdentityHash>,
    ) -> Result<Vec<(IdentityHash, State)>, StoreError> {
        all.sort_unstable();
        // There are at least two sets, and none is empty.
        let person = all[0];
        for gone in persons.iter().filter(|gone| **gone != person) {
            self.members.insert(*gone, None);
        }
        let mut changed = Vec::new();
        for identity in &all {
            let state = self.state(*identity)?;
            if state.person != person {
                let state = State { person, ..state };
                self.change(*identity, state);
                changed.push((*identity, state));
            }
        }
        self.members.insert(person, Some(all));
        Ok(changed)
    }

    fn share(&mut self, all: &[IdentityHash]) -> Result<Vec<(IdentityHash, State)>, StoreError> {
        let mut changed = Vec::new();
        for identity in all {
            let state = self.state(*identity)?;
            if !state.shared {
                self.members.insert(state.person, None);
                let state = State { person: *identity, shared: true, ..state };
                self.change(*identity, state);
                changed.push((*identity, state));
            }
        }
        Ok(changed)
    }
}

/// Caches states that are now stored.
pub(crate) fn remember(cache: &mut StateCache, states: HashMap<IdentityHash, State, Folding>) {
    for (identity, state) in states {
        cache.put(identity, state);
    }
}

/// The stored state of an identity.
pub(crate) fn stored_state<V: View>(
    reader: &Reader<V>,
    identity: IdentityHash,
) -> Result<Option<State>, StoreError> {
    let row: Option<PersonRow> = reader.get(Table::Persons, &identity.0)?;
    row.map(|row| State::from_row(identity, &row)).transpose()
}

/// The stored identities of a person, ordered; of one that stands alone, itself.
pub(crate) fn stored_members<V: View>(
    reader: &Reader<V>,
    person: IdentityHash,
) -> Result<Vec<IdentityHash>, StoreError> {
    let row: Option<MembersRow> = reader.get(Table::Members, &person.0)?;
    row.map_or_else(|| Ok(vec![person]), |row| row.hashes())
}

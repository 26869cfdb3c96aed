//! A batch on its way: every event checked and encoded, in one buffer.

use bytes::Bytes;
use cache::key::{Id, Key, Keys};
use event_log::FRAME_BYTES_MAX;
use model::{IdentityHash, IdentityKind};
use service::Tenant;
use uuid::Uuid;

use crate::{
    config::BATCH_EVENTS_MAX,
    encode::{self, FrameHead, Stamp},
    event::{EventRef, Field, Rejection},
    parse::Form,
    validate,
};

/// The identities as the log's partitions know them, in the order of the person key.
const PERSON_KEY: [(Field, IdentityKind); 3] = [
    (Field::DeviceId, IdentityKind::Device),
    (Field::CookieId, IdentityKind::Cookie),
    (Field::UserId, IdentityKind::User),
];

/// The bytes an encoded event is taken to have while nothing is known of it.
const EVENT_BYTES_GUESS: usize = 256;

/// The bytes an id is taken to have: those of a UUID.
const ID_BYTES_GUESS: usize = 36;

/// The events of one request.
#[derive(Debug)]
pub(crate) struct Batch {
    slots: Vec<Slot>,
    /// The ids of the events that keep the rules, one after the other.
    ids: String,
    /// The encoded events one after the other.
    bytes: Vec<u8>,
    valid: usize,
}

/// What became of one event so far.
#[derive(Debug)]
pub(crate) enum Slot {
    /// It broke a rule; boxed, as most do not.
    Rejected(Box<Rejected>),
    /// It keeps the rules.
    Valid(Valid),
}

/// An event that broke a rule.
#[derive(Debug)]
pub(crate) struct Rejected {
    /// Its id, if it gave one and that was valid.
    pub(crate) event_id: Option<String>,
    /// Why.
    pub(crate) why: Rejection,
}

/// An event that keeps the rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Valid {
    from: u32,
    to: u32,
    id_from: u32,
    id_to: u32,
    id_key: Key,
    partition: u32,
    /// Whether the id is the client's.
    pub(crate) given: bool,
    /// Whether the id was accepted before.
    pub(crate) duplicate: bool,
}

/// Makes batches of one request: what all its events share.
pub(crate) struct Builder<'t> {
    tenant: &'t Tenant,
    keys: &'t Keys,
    partitions: u32,
    now_millis: i64,
    batch: Batch,
}

/// A frame of one partition, and which slots it holds.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) partition: u32,
    pub(crate) bytes: Bytes,
    pub(crate) slots: Vec<u32>,
}

/// A frame that more may go into.
struct Open {
    partition: u32,
    bytes: Vec<u8>,
    slots: Vec<u32>,
}

/// More events than a batch may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

// === impl Builder ===

impl<'t> Builder<'t> {
    /// For a tenant's events, about so many of them, at a time in Unix milliseconds.
    pub(crate) fn new(
        tenant: &'t Tenant,
        keys: &'t Keys,
        partitions: u32,
        now_millis: i64,
        events: usize,
    ) -> Self {
        let events = events.min(BATCH_EVENTS_MAX);
        let batch = Batch {
            slots: Vec::with_capacity(events),
            ids: String::with_capacity(events * ID_BYTES_GUESS),
            bytes: Vec::with_capacity(events * EVENT_BYTES_GUESS),
            valid: 0,
        };
        Self { tenant, keys, partitions, now_millis, batch }
    }

    /// Adds an event, with what its parser had to say against it.
    ///
    /// # Errors
    /// The batch is full: [`BATCH_EVENTS_MAX`].
    pub(crate) fn push(&mut self, event: &EventRef<'_>, form: Form) -> Result<(), TooMany> {
        if self.batch.slots.len() == BATCH_EVENTS_MAX {
            return Err(TooMany);
        }
        let checked = validate::size(event)
            .and(form)
            .and_then(|()| validate::validate(event, self.now_millis))
            .and_then(|checked| self.encode(event, &checked));
        let slot = checked.map_or_else(|why| rejected(event, why), Slot::Valid);
        self.batch.valid += usize::from(matches!(slot, Slot::Valid(_)));
        self.batch.slots.push(slot);
        Ok(())
    }

    /// The batch.
    pub(crate) fn finish(self) -> Batch {
        self.batch
    }

    fn encode(&mut self, event: &EventRef<'_>, checked: &validate::Checked) -> Result<Valid, Rejection> {
        let mut assigned = Uuid::encode_buffer();
        let given = event.text(Field::EventId);
        let event_id = match given {
            Some(id) => id,
            None => Uuid::now_v7().hyphenated().encode_lower(&mut assigned),
        };
        let Batch { ids, bytes, .. } = &mut self.batch;
        let (from, id_from) = (bytes.len(), ids.len());
        ids.push_str(event_id);
        let stamp = Stamp { event_id, currency: &self.tenant.rules.currency };
        encode::event(bytes, event, checked, &stamp);
        // A full batch of the largest events is far below 4 GiB.
        let [from, to, id_from, id_to] = [from, bytes.len(), id_from, ids.len()].map(|at| at as u32);
        let id_key = self.keys.key(&self.tenant.name, event_id);
        let partition = self.partition(event);
        Ok(Valid { from, to, id_from, id_to, id_key, partition, given: given.is_some(), duplicate: false })
    }

    fn partition(&self, event: &EventRef<'_>) -> u32 {
        if self.partitions == 1 {
            return 0;
        }
        let key = PERSON_KEY.into_iter().find_map(|(field, kind)| Some((kind, event.text(field)?)));
        // The rules want an identity.
        key.map_or(0, |(kind, value)| {
            IdentityHash::new(&self.tenant.name, kind, value).partition(self.partitions)
        })
    }
}

#[cold]
fn rejected(event: &EventRef<'_>, why: Rejection) -> Slot {
    let event_id = event.text(Field::EventId).filter(|_| validate::event_id(event).is_ok());
    Slot::Rejected(Box::new(Rejected { event_id: event_id.map(str::to_owned), why }))
}

// === impl Batch ===

impl Batch {
    /// How many events, rejected ones too.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many keep the rules.
    pub(crate) fn valid(&self) -> usize {
        self.valid
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(crate) fn event_id(&self, valid: &Valid) -> &str {
        &self.ids[valid.id_from as usize..valid.id_to as usize]
    }

    /// The slots whose ids are the client's and not known as repeats, with them.
    pub(crate) fn new_ids(&self) -> impl Iterator<Item = (u32, Id<'_>)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            Slot::Valid(valid) if valid.given && !valid.duplicate => Some((index as u32, self.id(valid))),
            _ => None,
        })
    }

    /// The ids of slots that keep the rules.
    pub(crate) fn ids_at(&self, slots: &[u32]) -> impl Iterator<Item = Id<'_>> {
        slots.iter().filter_map(|&slot| match &self.slots[slot as usize] {
            Slot::Valid(valid) => Some(self.id(valid)),
            Slot::Rejected(_) => None,
        })
    }

    fn id(&self, valid: &Valid) -> Id<'_> {
        Id { text: self.event_id(valid), key: valid.id_key }
    }

    pub(crate) fn set_duplicate(&mut self, slot: u32) {
        if let Slot::Valid(valid) = &mut self.slots[slot as usize] {
            valid.duplicate = true;
        }
    }

    /// The events that are new, as frames: for each partition as few as its bytes fit in.
    pub(crate) fn frames(&self, head: &FrameHead<'_>) -> Vec<Frame> {
        let mut prefix = Vec::with_capacity(256);
        head.write(&mut prefix);
        let room = (prefix.len() + self.bytes.len() + 4 * self.slots.len()).min(FRAME_BYTES_MAX);
        let mut open = Vec::<Open>::new();
        let mut closed = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let Slot::Valid(valid) = slot else { continue };
            if valid.duplicate {
                continue;
            }
            let event = self.encoded(valid);
            let bytes = encode::frame_event_bytes(event.len());
            let at = open.iter().position(|frame| frame.partition == valid.partition);
            let at = at.unwrap_or_else(|| {
                // The first frame mostly takes it all; of many, none is known to be large.
                let (bytes, slots) =
                    if open.is_empty() { (room, self.valid) } else { (prefix.len() + bytes, 1) };
                let mut bytes = Vec::with_capacity(bytes);
                bytes.extend_from_slice(&prefix);
                open.push(Open { partition: valid.partition, bytes, slots: Vec::with_capacity(slots) });
                open.len() - 1
            });
            let frame = &mut open[at];
            if frame.bytes.len() + bytes > FRAME_BYTES_MAX {
                let full = Open { partition: frame.partition, bytes: prefix.clone(), slots: Vec::new() };
                closed.push(std::mem::replace(frame, full).close());
            }
            encode::frame_event(&mut frame.bytes, event);
            frame.slots.push(index as u32);
        }
        closed.extend(open.into_iter().map(Open::close));
        closed
    }

    fn encoded(&self, valid: &Valid) -> &[u8] {
        &self.bytes[valid.from as usize..valid.to as usize]
    }
}

// === impl Open ===

impl Open {
    fn close(self) -> Frame {
        Frame { partition: self.partition, bytes: Bytes::from(self.bytes), slots: self.slots }
    }
}

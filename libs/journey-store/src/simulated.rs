//! Tables in memory that forget what was not made durable, and stop when told to. For simulations.
//!
//! The same calls and the same seed leave the same tables.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    StoreError, Stores,
    kv::{Batch, Kv},
    memory::{Memory, MemoryView, Tables, apply},
    store::Store,
};

/// Tables; clones are the same.
#[derive(Clone, Default)]
pub struct SimulatedTables(Arc<Inner>);

/// What tables held at a moment.
pub struct Backup(Tables);

#[derive(Default)]
struct Inner {
    /// As the running process sees them.
    seen: Memory,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    durable: Tables,
    /// Changes since, in order.
    pending: Vec<Change>,
    off: bool,
}

enum Change {
    Write(Batch),
    Clear,
}

/// A store over the tables, as a process that starts would open it.
pub fn open(tables: &SimulatedTables) -> Stores {
    crate::stores(Store::new(tables.clone()))
}

// === impl SimulatedTables ===

impl SimulatedTables {
    /// The process stops where it is: every write fails until [`Self::kill`] or [`Self::crash`].
    pub fn power_off(&self) {
        self.0.state.lock().off = true;
    }

    /// The process was killed: what it wrote is there.
    pub fn kill(&self) {
        self.0.state.lock().off = false;
    }

    /// The power went and came back: of the writes since the last durable point the seed decides how many are left, and
    /// these are the first ones.
    pub fn crash(&self, seed: u64) {
        let mut state = self.0.state.lock();
        let kept = SmallRng::seed_from_u64(seed).random_range(0..=state.pending.len());
        state.pending.truncate(kept);
        state.settle();
        state.off = false;
        *self.0.seen.tables.write() = state.durable.clone();
    }

    /// Everything is gone: damage.
    pub fn lose(&self) {
        let mut state = self.0.state.lock();
        (state.durable, state.pending) = (Tables::default(), Vec::new());
        *self.0.seen.tables.write() = Tables::default();
    }

    /// A copy of what is durable, so of nothing that may never have been.
    pub fn backup(&self) -> Backup {
        Backup(self.0.state.lock().durable.clone())
    }

    /// Everything is as it was when it was copied.
    pub fn restore(&self, Backup(tables): &Backup) {
        let mut state = self.0.state.lock();
        (state.durable, state.pending) = (tables.clone(), Vec::new());
        *self.0.seen.tables.write() = tables.clone();
    }

    fn change(
        &self,
        change: Change,
        see: impl FnOnce(&Memory) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut state = self.0.state.lock();
        state.running()?;
        state.pending.push(change);
        see(&self.0.seen)
    }
}

impl Kv for SimulatedTables {
    type View<'a> = MemoryView<'a>;

    fn view(&self) -> MemoryView<'_> {
        self.0.seen.view()
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.change(Change::Write(batch.clone()), |seen| seen.write(batch))
    }

    fn persist(&self) -> Result<(), StoreError> {
        let mut state = self.0.state.lock();
        state.running()?;
        state.settle();
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.change(Change::Clear, Memory::clear)
    }
}

// === impl State ===

impl State {
    fn running(&self) -> Result<(), StoreError> {
        if self.off { Err(StoreError::Unavailable("the power is off".to_owned())) } else { Ok(()) }
    }

    fn settle(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Change::Write(batch) => apply(&mut self.durable, batch),
                Change::Clear => self.durable = Tables::default(),
            }
        }
    }
}

//! Tables in memory, gone with the process.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};

use crate::{
    StoreError,
    kv::{Batch, Kv, Pair, TABLES, Table, View},
};

pub(crate) type Tables = [BTreeMap<Bytes, Bytes>; TABLES];

/// The tables under one lock: a view holds it, so it must not be kept longer than one answer.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) tables: RwLock<Tables>,
}

/// The read lock.
pub(crate) struct MemoryView<'a>(RwLockReadGuard<'a, Tables>);

// === impl Memory ===

impl Kv for Memory {
    type View<'a> = MemoryView<'a>;

    fn view(&self) -> MemoryView<'_> {
        MemoryView(self.tables.read())
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        apply(&mut self.tables.write(), batch);
        Ok(())
    }

    fn persist(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        *self.tables.write() = Tables::default();
        Ok(())
    }
}

// === impl MemoryView ===

impl View for MemoryView<'_> {
    type Slice = Bytes;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0[table as usize].get(key).cloned())
    }

    fn range(
        &self,
        table: Table,
        keys: Range<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair<Bytes>, StoreError>> {
        // The map panics at a range that runs backwards.
        let (from, to) = (&keys.start, (&keys.end).max(&keys.start));
        self.0[table as usize]
            .range::<[u8], _>((Bound::Included(&from[..]), Bound::Excluded(&to[..])))
            .map(|(key, value)| Ok((key.clone(), value.clone())))
    }
}

/// Applies a batch.
pub(crate) fn apply(tables: &mut Tables, batch: Batch) {
    for (table, key, value) in batch.writes {
        let table = &mut tables[table as usize];
        match value {
            Some(value) => table.insert(key.into(), value.into()),
            None => table.remove(&key[..]),
        };
    }
}

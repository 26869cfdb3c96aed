//! Going on in another log after the one that positions were of was lost.

use crate::{Position, StoreError, rows::ContinuationRow};

/// Where positions go on in another log.
///
/// Of what the lost log held, what was reported is kept. Of the rest nothing counts as met: it is taken when it is sent again,
/// under its new position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// The first offset of every partition of the new log, past all that the lost one can have given.
    pub first: u64,
    /// Where each partition of the lost log was left.
    pub left: Vec<Left>,
}

/// Where a partition of a lost log was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// The offset up to which the warehouse has every fact.
    pub reported: u64,
    /// The offset up to which it was consumed.
    pub consumed: u64,
}

/// The continuations of a store, the last one last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Continuations(pub(crate) Vec<Continuation>);

// === impl Continuation ===

impl Continuation {
    fn left(&self, at: Position) -> Option<Left> {
        self.left.get(at.partition as usize).copied().filter(|_| at.offset < self.first)
    }
}

// === impl Continuations ===

impl Continuations {
    /// Adds one, if every position is before it.
    pub(crate) fn add(&mut self, continuation: Continuation) -> Result<(), StoreError> {
        let before = |position: u64| position < continuation.first;
        let positions = continuation.left.iter().flat_map(|left| [left.reported, left.consumed]);
        if !positions.chain(self.0.last().map(|last| last.first)).all(before) {
            let first = continuation.first;
            return Err(StoreError::Unavailable(format!(
                "a log cannot go on at {first}: positions are past it"
            )));
        }
        self.0.push(continuation);
        Ok(())
    }

    /// Whether an event that was met there was lost before it was reported.
    pub(crate) fn lost(&self, first: Position) -> bool {
        self.0.iter().any(|one| one.left(first).is_some_and(|left| left.reported <= first.offset))
    }

    /// Whether an edition that was stored there was lost before it was known to be whole.
    pub(crate) fn lost_edition(&self, cause: Position) -> bool {
        self.0.iter().any(|one| one.left(cause).is_some_and(|left| left.consumed <= cause.offset))
    }

    /// Whether a log was lost between two positions: with it what was to be decided again because of the first.
    pub(crate) fn between(&self, first: Position, again: Position) -> bool {
        self.0.iter().any(|one| first.offset < one.first && one.first <= again.offset)
    }
}

impl From<&Continuation> for ContinuationRow {
    fn from(continuation: &Continuation) -> Self {
        Self {
            first: continuation.first,
            reported: continuation.left.iter().map(|left| left.reported).collect(),
            consumed: continuation.left.iter().map(|left| left.consumed).collect(),
        }
    }
}

impl From<ContinuationRow> for Continuation {
    fn from(row: ContinuationRow) -> Self {
        let left = row.reported.into_iter().zip(row.consumed);
        let left = left.map(|(reported, consumed)| Left { reported, consumed }).collect();
        Self { first: row.first, left }
    }
}

//! Who is whom, as rows that are only added: an identity is linked to others, and it may be shared.
//!
//! A person is what hangs together by links, computed when it is asked for. Workers of several partitions add links to one
//! identity at the same time and nobody overwrites anything; sets only grow, and what is shared stays so, so whoever reads
//! last sees all.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use model::IdentityHash;

use super::{
    Tables,
    tables::{self, Kind, Place, Told},
};
use crate::{IDENTITIES_MAX, StoreError};

/// Identities with what is known of them.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<IdentityHash, Node>,
}

/// One identity.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) others: BTreeSet<IdentityHash>,
    pub(crate) shared: bool,
    touches: Spans,
    conversions: Spans,
}

/// Spans of time with how many marks there are in each.
pub(crate) type Spans = BTreeMap<i64, u32>;

/// Who an identity is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) id: IdentityHash,
    pub(crate) shared: bool,
    /// The identities that count as the person, ordered.
    pub(crate) members: Vec<IdentityHash>,
}

/// Everything that hangs together with an identity.
pub(crate) struct Reach {
    pub(crate) identities: BTreeSet<IdentityHash>,
    pub(crate) shared: bool,
}

// === impl Graph ===

impl Graph {
    /// Reads identities and all that hangs together with them, one round for each step of links. Links of shared identities
    /// are not followed.
    pub(crate) async fn load(
        &mut self,
        tables: Tables<'_>,
        identities: impl IntoIterator<Item = IdentityHash>,
    ) -> Result<(), StoreError> {
        let mut wanted: BTreeSet<IdentityHash> = identities.into_iter().collect();
        loop {
            wanted.retain(|identity| !self.nodes.contains_key(identity));
            if wanted.is_empty() {
                return Ok(());
            }
            let reads = wanted.iter().map(|identity| Place::person(*identity).all()).collect();
            let mut next = BTreeSet::new();
            for (identity, rows) in wanted.iter().zip(tables.read(reads).await?) {
                let mut node = Node::default();
                for row in rows {
                    node.add(Told::read(&row)?);
                }
                if !node.shared {
                    next.extend(&node.others);
                }
                self.nodes.insert(*identity, node);
            }
            wanted = next;
        }
    }

    /// Reads what identities are linked to though they are shared.
    pub(crate) async fn load_through(
        &mut self,
        tables: Tables<'_>,
        shared: &BTreeSet<IdentityHash>,
    ) -> Result<(), StoreError> {
        self.load(tables, shared.iter().copied()).await?;
        let others: Vec<_> = shared.iter().flat_map(|identity| self.others(*identity)).collect();
        self.load(tables, others).await
    }

    /// The person of an identity.
    pub(crate) fn person(&self, identity: IdentityHash) -> Person {
        let Reach { identities, shared } = self.reach([identity], &BTreeSet::new());
        if shared {
            return Person { id: identity, shared, members: vec![identity] };
        }
        let members: Vec<_> = identities.into_iter().collect();
        // An identity reaches itself.
        Person { id: members.first().copied().unwrap_or(identity), shared, members }
    }

    /// What hangs together with identities: by links of those that are not shared, and of those in `through`.
    pub(crate) fn reach(
        &self,
        from: impl IntoIterator<Item = IdentityHash>,
        through: &BTreeSet<IdentityHash>,
    ) -> Reach {
        let mut reach = Reach { identities: BTreeSet::new(), shared: false };
        let mut next: Vec<IdentityHash> = from.into_iter().collect();
        while let Some(identity) = next.pop() {
            if !reach.identities.insert(identity) {
                continue;
            }
            let shared = self.is_shared(identity);
            reach.shared |= shared;
            if !shared || through.contains(&identity) {
                next.extend(self.others(identity));
            }
        }
        reach.shared |= reach.identities.len() > IDENTITIES_MAX;
        reach
    }

    pub(crate) fn is_shared(&self, identity: IdentityHash) -> bool {
        self.nodes.get(&identity).is_some_and(|node| node.shared)
    }

    /// Links two identities; false when they were.
    pub(crate) fn link(&mut self, one: IdentityHash, other: IdentityHash) -> bool {
        self.nodes.entry(one).or_default().others.insert(other)
            | self.nodes.entry(other).or_default().others.insert(one)
    }

    pub(crate) fn share(&mut self, identity: IdentityHash) {
        self.nodes.entry(identity).or_default().shared = true;
    }

    /// The spans in which an identity has events of a kind.
    pub(crate) fn spans(&self, identity: IdentityHash, kind: Kind) -> Spans {
        let node = self.nodes.get(&identity);
        node.map_or_else(Spans::new, |node| match kind {
            Kind::Touches => node.touches.clone(),
            Kind::Conversions => node.conversions.clone(),
        })
    }

    /// The spans from one time to another, both included.
    pub(crate) fn spans_between(&self, identity: IdentityHash, kind: Kind, from: i64, to: i64) -> Spans {
        let (from, to) = (tables::span(from), tables::span(to));
        let mut spans = self.spans(identity, kind);
        spans.retain(|span, _| (from..=to).contains(span));
        spans
    }

    fn others(&self, identity: IdentityHash) -> impl Iterator<Item = IdentityHash> {
        self.nodes.get(&identity).into_iter().flat_map(|node| node.others.iter().copied())
    }
}

// === impl Node ===

impl Node {
    fn add(&mut self, told: Told) {
        match told {
            Told::Shared => self.shared = true,
            Told::Link(other) => {
                self.others.insert(other);
            }
            Told::Span { kind, span, marked } => {
                let spans = match kind {
                    Kind::Touches => &mut self.touches,
                    Kind::Conversions => &mut self.conversions,
                };
                *spans.entry(span).or_default() += u32::from(marked);
            }
        }
    }
}

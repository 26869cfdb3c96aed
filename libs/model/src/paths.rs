//! Paths as sequences of one dimension's values: how they are counted, and how they are transformed before credit.
//!
//! The transforms and their names are those of Google's fractribution and Snowplow's attribution packages.

/// How often a path was walked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathCount {
    /// Channels in path order, numbered from 0.
    pub path: Vec<u32>,
    /// How often it ended in a conversion.
    pub conversions: u64,
    /// How often it did not.
    pub nulls: u64,
}

/// Which touches of a path count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transform {
    /// Of consecutive repeats the first.
    Exposure,
    /// Of each value the first occurrence.
    First,
    /// None of this value, unless the path has nothing else.
    RemoveIfNotAll(String),
    /// None of this value after the last of another, unless the path has nothing else.
    RemoveIfLastAndNotAll(String),
}

/// The indices of the touches that are left after the transforms, one after the other, in path order.
pub fn apply<S: AsRef<str>>(transforms: &[Transform], path: &[S]) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..path.len()).collect();
    for transform in transforms {
        transform.retain(&mut kept, path);
    }
    kept
}

// === impl Transform ===

impl Transform {
    /// The name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exposure => "exposure",
            Self::First => "first",
            Self::RemoveIfNotAll(_) => "remove_if_not_all",
            Self::RemoveIfLastAndNotAll(_) => "remove_if_last_and_not_all",
        }
    }

    fn retain<S: AsRef<str>>(&self, kept: &mut Vec<usize>, path: &[S]) {
        let value = |index: &usize| path[*index].as_ref();
        match self {
            Self::Exposure => kept.dedup_by(|next, previous| value(next) == value(previous)),
            Self::First => {
                let mut seen = std::collections::HashSet::new();
                kept.retain(|index| seen.insert(value(index)));
            }
            Self::RemoveIfNotAll(removed) => {
                if kept.iter().any(|index| value(index) != removed) {
                    kept.retain(|index| value(index) != removed);
                }
            }
            Self::RemoveIfLastAndNotAll(removed) => {
                if let Some(last) = kept.iter().rposition(|index| value(index) != removed) {
                    kept.truncate(last + 1);
                }
            }
        }
    }
}

//! One record of the org against what Kafka holds of it. Pure.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::pipeline::jobs::touched::Known;
use crate::salesforce::id_listing::ListedRecord;

/// How the two sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The org has it. Kafka has nothing of it, or a delete.
    Missing,
    /// Both have it, and the org's is newer.
    Stale,
    /// It lies in the recycle bin. In Kafka it is alive.
    Deleted,
    /// In Kafka it is alive. No query of the org shows it, to a user who sees all records.
    Extra,
    /// The same, but it is not shown that the user sees all records.
    Unseen,
}

impl Difference {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Stale, Self::Deleted, Self::Extra, Self::Unseen];

    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Deleted => "deleted",
            Self::Extra => "extra",
            Self::Unseen => "unseen",
        }
    }

    /// Whether reading the record again can mend it.
    pub fn is_mendable(self) -> bool {
        self != Self::Unseen
    }
}

/// A record on which the two sides differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How.
    pub finding: Difference,
    /// 18 characters.
    pub id: String,
    /// Its `SystemModstamp`, where the org has it.
    pub changed_at: Option<DateTime<Utc>>,
    /// Up to when what Kafka holds is current, where it holds something.
    pub known_to: Option<DateTime<Utc>>,
}

/// How a record of the org differs from what Kafka holds of it. Both are old enough to be judged.
pub(super) fn difference(listed: &ListedRecord, known: Option<Known>) -> Option<Difference> {
    match known {
        None if listed.deleted => None,
        None => Some(Difference::Missing),
        Some(known) if listed.deleted => known.alive.then_some(Difference::Deleted),
        Some(known) if !known.alive => Some(Difference::Missing),
        Some(known) => (listed.as_of.timestamp() > known.as_of).then_some(Difference::Stale),
    }
}

/// A time in seconds since 1970 as one.
pub(super) fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_of_sides_has_its_difference() {
        use Difference::{Deleted, Missing, Stale};
        let listed = |deleted| ListedRecord {
            id: "5008d000000047SAAQ".into(),
            as_of: time(100) + chrono::TimeDelta::milliseconds(900),
            deleted,
        };
        let known = |as_of, alive| Some(Known { as_of, alive });
        for (deleted, held, expected) in [
            (false, None, Some(Missing)),
            (false, known(99, true), Some(Stale)),
            (false, known(100, true), None),
            (false, known(101, true), None),
            (false, known(99, false), Some(Missing)),
            (false, known(101, false), Some(Missing)),
            (true, None, None),
            (true, known(99, true), Some(Deleted)),
            (true, known(101, true), Some(Deleted)),
            (true, known(99, false), None),
        ] {
            assert_eq!(difference(&listed(deleted), held), expected, "{deleted} {held:?}");
        }
    }
}

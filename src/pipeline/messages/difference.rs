//! One conversation as Kafka holds it against what the source shows of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::pipeline::messages::held::{HeldEntry, Mark};

/// How the two sides differ on an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryDifference {
    /// The source shows it. Kafka has nothing of it.
    Missing,
    /// Both have it, and it says something else now: mostly a redaction.
    Changed,
    /// Kafka has it. The source shows it no more.
    Gone,
}

impl EntryDifference {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 3] = [Self::Missing, Self::Changed, Self::Gone];

    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Gone => "gone",
        }
    }
}

/// An entry on which the two sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// How.
    pub difference: EntryDifference,
    /// Milliseconds since 1970 by Salesforce's clock.
    pub server_time: i64,
    /// What the source shows of it now.
    mark: Option<Mark>,
}

impl Found {
    /// Whether it is so still, by what Kafka holds of the entry now: a fetch may have written it since it was found.
    pub fn holds(&self, held: Option<&HeldEntry>, bounds: &Bounds) -> bool {
        match (self.difference, held) {
            (EntryDifference::Missing, held) => held.is_none(),
            (EntryDifference::Changed, Some(held)) => {
                self.mark.is_some_and(|mark| !held.says(mark, bounds.over_data_api))
            }
            (EntryDifference::Gone, held) => held.is_some(),
            (EntryDifference::Changed, None) => false,
        }
    }
}

/// Which entries are judged. Times are milliseconds since 1970 by Salesforce's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Older ones are not looked at.
    pub from: i64,
    /// Younger ones are not judged.
    pub to: i64,
    /// What was fetched later is not judged: a copy of the source's database may be behind it.
    pub fetched_by: i64,
    /// Whether the source is the Conversation Data API.
    pub over_data_api: bool,
}

/// What a walk through a conversation has found so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    seen: BTreeSet<String>,
    /// Entries of the source that were judged.
    pub judged: u64,
    /// Entries that were too young, or fetched too lately.
    pub young: u64,
    /// On which the two sides differ, by identifier.
    pub found: BTreeMap<String, Found>,
}

impl Look {
    /// Looks at an entry of the source. `treated` is what would be written of it, `plain` the same without any policy: a record
    /// from before the policy says that.
    pub fn take(
        &mut self,
        (identifier, server_time): (&str, i64),
        (treated, plain): (Mark, Mark),
        held: Option<&HeldEntry>,
        bounds: &Bounds,
    ) {
        if server_time < bounds.from || !self.seen.insert(identifier.to_owned()) {
            return;
        }
        if server_time > bounds.to || held.is_some_and(|held| held.fetched_at > bounds.fetched_by) {
            self.young += 1;
            return;
        }
        self.judged += 1;
        let says = |held: &HeldEntry| [treated, plain].iter().any(|mark| held.says(*mark, bounds.over_data_api));
        let difference = match held {
            None => EntryDifference::Missing,
            Some(held) if says(held) => return,
            Some(_) => EntryDifference::Changed,
        };
        self.found.insert(identifier.to_owned(), Found { difference, server_time, mark: Some(treated) });
    }

    /// Looks at what Kafka holds after all that the source shows was taken. What another API told, this one may never show.
    pub fn end(&mut self, held: &BTreeMap<String, HeldEntry>, bounds: &Bounds) {
        let judged = |held: &HeldEntry| {
            (bounds.from..=bounds.to).contains(&held.server_time)
                && held.fetched_at <= bounds.fetched_by
                && held.over_data_api == bounds.over_data_api
        };
        for (identifier, held) in held {
            if judged(held) && !self.seen.contains(identifier) {
                let gone = Found { difference: EntryDifference::Gone, server_time: held.server_time, mark: None };
                self.found.insert(identifier.clone(), gone);
            }
        }
    }

    /// Whether another look has found the same of an entry.
    pub fn confirms(&self, identifier: &str, first: &Found) -> bool {
        self.found.get(identifier) == Some(first)
    }

    /// From when to when what was found was said.
    pub fn span(&self) -> Option<(i64, i64)> {
        let times = || self.found.values().map(|found| found.server_time);
        Some((times().min()?, times().max()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salesforce::conversation_entries::{Entry, Sender};

    const BOUNDS: Bounds = Bounds { from: 10, to: 100, fetched_by: 200, over_data_api: false };

    fn mark(text: &str) -> Mark {
        let (text, sender) = (Some(text.to_owned()), Sender::default());
        let (client_time, kind, payload, related) = (None, None, None, Vec::new());
        Mark::of(&Entry { identifier: "e".into(), server_time: 0, client_time, text, kind, payload, sender, related })
    }

    fn held(server_time: i64, fetched_at: i64, text: &str) -> HeldEntry {
        HeldEntry { server_time, fetched_at, over_data_api: false, too_large: false, mark: mark(text) }
    }

    fn look(shown: &[(&str, i64, &str)], held: &[(&str, HeldEntry)], bounds: &Bounds) -> Look {
        let held: BTreeMap<String, HeldEntry> = held.iter().map(|(id, held)| ((*id).to_owned(), *held)).collect();
        let mut look = Look::default();
        for (id, time, text) in shown {
            look.take((*id, *time), (mark(text), mark("as it was before the policy")), held.get(*id), bounds);
        }
        look.end(&held, bounds);
        look
    }

    fn told(look: &Look) -> Vec<(&str, EntryDifference)> {
        look.found.iter().map(|(id, found)| (id.as_str(), found.difference)).collect()
    }

    #[test]
    fn each_pair_of_sides_has_its_difference_within_the_bounds_and_none_beyond_them() {
        use EntryDifference::{Changed, Gone, Missing};
        let other_api = HeldEntry { over_data_api: true, ..held(50, 60, "one") };
        let found = look(
            &[
                ("same", 50, "one"),
                ("missing", 50, "one"),
                ("changed", 50, "***"),
                ("plain", 50, "masked"),
                ("old", 9, "one"),
                ("young", 101, "one"),
                ("just fetched", 50, "one"),
                ("missing", 50, "one"),
                ("oldest", 10, "one"),
                ("youngest", 100, "one"),
            ],
            &[
                ("same", held(50, 60, "one")),
                ("changed", held(50, 60, "one")),
                ("plain", held(50, 60, "as it was before the policy")),
                ("just fetched", held(50, 201, "***")),
                ("gone", held(50, 60, "one")),
                ("gone and young", held(101, 102, "one")),
                ("gone and old", held(9, 60, "one")),
                ("gone but just fetched", held(50, 201, "one")),
                ("of the other api", other_api),
            ],
            &BOUNDS,
        );
        let expected =
            [("changed", Changed), ("gone", Gone), ("missing", Missing), ("oldest", Missing), ("youngest", Missing)];
        assert_eq!(told(&found), expected);
        assert_eq!((found.judged, found.young, found.span()), (6, 2, Some((10, 100))));
        let over_data = Bounds { over_data_api: true, ..BOUNDS };
        let other = look(&[], &[("of the other api", other_api), ("e", held(50, 60, "one"))], &over_data);
        assert_eq!(told(&other), [("of the other api", Gone)]);
    }

    #[test]
    fn only_what_a_second_look_finds_in_the_same_way_is_a_finding() {
        let kept = [("a", held(50, 60, "one")), ("b", held(50, 60, "one")), ("c", held(50, 60, "one"))];
        let first = look(&[("a", 50, "***"), ("b", 50, "***"), ("new", 50, "one")], &kept, &BOUNDS);
        let second = look(&[("a", 50, "***"), ("b", 50, "+++"), ("c", 50, "one"), ("new", 50, "one")], &kept, &BOUNDS);
        let confirmed = first.found.iter().filter(|(id, found)| second.confirms(id, found));
        assert_eq!(confirmed.map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a", "new"]);
        // A fetch has written them between the two looks.
        let (changed, missing) = (first.found["a"], first.found["new"]);
        assert!(changed.holds(Some(&kept[0].1), &BOUNDS) && missing.holds(None, &BOUNDS));
        let now = held(50, 300, "***");
        assert!(!changed.holds(Some(&now), &BOUNDS) && !missing.holds(Some(&now), &BOUNDS));
    }
}

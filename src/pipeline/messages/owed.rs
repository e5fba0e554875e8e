//! What a comparison orders of a conversation: entries that are owed until a fetch has read them that began after that.

use crate::config::MessagesConfig;
use crate::pipeline::messages::conversation::{Conversation, OWED, millis, most_known};

/// How far Salesforce's clock may be taken for another one from one look to the next, in milliseconds.
const CLOCKS: i64 = 60_000;

impl Conversation {
    /// From when on a fetch that began now or later would look at entries; the one that is `underway` looks from where it began.
    /// What is older is nobody's but a comparison's.
    pub fn looked_at_from(&self, now: i64, underway: bool, config: &MessagesConfig) -> i64 {
        // The first fetch begins at `now - history` of its own moment, and Salesforce's clock is known to about a second.
        let first = now.saturating_sub(millis(config.history)).saturating_sub(CLOCKS);
        if self.cursor == 0 && !underway { self.owed_from.map_or(first, |owed| owed.min(first)) } else { self.floor }
    }

    /// Learns which entries Kafka holds of one that was never fetched, or is forgotten: none of them is written again by its first
    /// fetch, whatever they say. Returns whether so many may be kept.
    pub fn learn_held(&mut self, held: impl Iterator<Item = (String, i64)>) -> bool {
        let Some(most) = most_known(0) else { return false };
        for (identifier, server_time) in held {
            if self.known.len() >= most {
                return false;
            }
            self.known.entry(identifier).or_insert((server_time, String::new()));
        }
        true
    }

    /// Has a fetch write entries that a comparison found to differ: those of which nothing is in Kafka, and those that say
    /// something else.
    pub fn owe<'a>(
        &mut self,
        missing: impl Iterator<Item = (&'a str, i64)>,
        changed: impl Iterator<Item = (&'a str, i64)>,
        now: i64,
    ) {
        for (identifier, server_time) in missing {
            self.known.remove(identifier);
            self.owe_from(server_time);
        }
        for (identifier, server_time) in changed {
            self.known.insert(identifier.to_owned(), (server_time, OWED.to_owned()));
            self.owe_from(server_time);
        }
        self.final_at = Some(now);
    }

    fn owe_from(&mut self, server_time: i64) {
        self.owed_from = Some(self.owed_from.map_or(server_time, |owed| owed.min(server_time)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MessagesApi;
    use crate::pipeline::messages::conversation::tests::{config, entry};
    use crate::pipeline::messages::conversation::{Op, Reason, kept, key};
    use std::collections::BTreeMap;

    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1_790_000_000_000;
    const MOST: usize = 4_000;

    #[test]
    fn what_a_comparison_found_is_written_by_the_next_fetch_and_only_once() {
        let mut conversation = Conversation::default();
        assert_eq!(conversation.looked_at_from(NOW, false, &config()), NOW - 168 * HOUR - CLOCKS, "its first fetch");
        conversation.begin(NOW, &config());
        assert_eq!(conversation.looked_at_from(NOW + HOUR, true, &config()), NOW - 168 * HOUR, "which is under way");
        for identifier in ["a", "b", "c"] {
            conversation.take(&entry(identifier, NOW - HOUR, "text"));
        }
        conversation.settle(NOW, &config(), MOST);
        assert_eq!(conversation.looked_at_from(NOW, false, &config()), NOW - 24 * HOUR);
        // Of one Kafka holds nothing, of another an older text, although it was told of both.
        conversation.owe([("a", NOW - HOUR)].into_iter(), [("b", NOW - HOUR)].into_iter(), NOW);
        assert_eq!(conversation.due(&config()), Some((NOW, Reason::Final)));
        let stored = BTreeMap::from([(key("c"), conversation.value())]);
        let mut conversation = kept(&stored).remove("c").expect("kept");
        let data = MessagesConfig { api: MessagesApi::Data, ..config() };
        let mut other = conversation.clone();
        other.begin(NOW, &data);
        assert_eq!(other.take(&entry("b", NOW - HOUR, "text")), Some(Op::Redaction), "over the other API too");
        let mut fetch = || ["a", "b", "c"].map(|identifier| conversation.take(&entry(identifier, NOW - HOUR, "text")));
        assert_eq!(fetch(), [Some(Op::Message), Some(Op::Redaction), None]);
        assert_eq!(fetch(), [None; 3]);
    }

    #[test]
    fn what_a_comparison_ordered_of_one_that_is_not_known_is_written_and_nothing_else_of_it_again() {
        // Kafka holds two entries of a conversation that is forgotten, of which one is changed. `history` was raised meanwhile.
        let mut conversation = Conversation::default();
        let floor = conversation.looked_at_from(NOW, false, &config());
        let held = [("kept", NOW - 160 * HOUR), ("changed", NOW - 150 * HOUR)];
        assert!(conversation.learn_held(held.map(|(id, time)| (id.to_owned(), time)).into_iter()));
        // The oldest that could be ordered: a fetch that begins hours later would not look at it for itself.
        conversation.owe([("missing", floor)].into_iter(), [("changed", NOW - 150 * HOUR)].into_iter(), NOW);
        let stored = BTreeMap::from([(key("c"), conversation.value())]);
        let mut conversation = kept(&stored).remove("c").expect("kept");
        // It cannot be read at first, and is committed for that; another comparison leaves all of it to the fetch.
        conversation.settle(NOW + HOUR, &config(), MOST);
        assert_eq!(conversation.looked_at_from(NOW + 2 * HOUR, false, &config()), floor);
        assert_eq!(conversation.begin(NOW + 3 * HOUR, &config()), floor);
        let shown = [("missing", floor), ("kept", NOW - 160 * HOUR), ("changed", NOW - 150 * HOUR)];
        let written = shown.map(|(id, time)| conversation.take(&entry(id, time, "text")));
        assert_eq!(written, [Some(Op::Message), None, Some(Op::Redaction)]);
        conversation.asked(NOW + 3 * HOUR, Reason::Final, true, &config());
        conversation.settle(NOW + 3 * HOUR, &config(), MOST);
        assert_eq!((conversation.owed_from, conversation.floor), (None, NOW - 150 * HOUR));
        assert_eq!(shown.map(|(id, time)| conversation.take(&entry(id, time, "text"))), [None; 3]);
        let many = (0..=MOST).map(|number| (number.to_string(), NOW));
        assert!(!Conversation::default().learn_held(many), "its record would be larger than kafka takes");
    }

    #[test]
    fn the_floor_does_not_pass_what_is_owed_before_a_fetch_that_began_behind_it_has_ended() {
        let mut conversation = Conversation { cursor: NOW, floor: NOW - 48 * HOUR, ..Conversation::default() };
        conversation.owe([("late", NOW - 40 * HOUR)].into_iter(), std::iter::empty(), NOW);
        conversation.settle(NOW + HOUR, &config(), MOST);
        assert_eq!(conversation.floor, NOW - 40 * HOUR, "a commit that read nothing");
        conversation.asked(NOW - 1, Reason::Event, false, &config());
        assert_eq!(conversation.owed_from, Some(NOW - 40 * HOUR), "that fetch may have been beyond it already");
        conversation.settle(NOW + HOUR, &config(), MOST);
        conversation.begin(NOW + HOUR, &config());
        assert_eq!(conversation.take(&entry("late", NOW - 40 * HOUR, "text")), Some(Op::Message));
        conversation.asked(NOW + HOUR, Reason::Final, true, &config());
        conversation.settle(NOW + HOUR, &config(), MOST);
        assert_eq!((conversation.owed_from, conversation.floor), (None, NOW - 23 * HOUR));
    }
}

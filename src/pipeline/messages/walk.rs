//! From page to page of one conversation.
//!
//! What is kept of a conversation goes forward in time: once everything up to a moment is written, what is older is
//! not looked at again. Pages that are asked for by time come in that order. Pages that follow a token have been promised
//! none, so they are held until the last of them, and then written in order. What is held is bounded: a walk that
//! becomes longer is begun anew with a bound in time, and goes on from window to window.

use crate::salesforce::conversation_entries::{EntriesPage, Entry, Place};
use crate::salesforce::rest::RestError;

/// Entries that are held, at most but for a page.
const MOST_HELD: usize = 4_000;

/// The bytes of their answers, at most but for one.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// A walk through a conversation.
#[derive(Debug)]
pub struct Walk {
    place: Place,
    held: Vec<Entry>,
    bytes: usize,
}

/// What can be written.
#[derive(Debug, PartialEq)]
pub struct Stretch {
    /// By time and identifier: all that there are up to the newest of them.
    pub entries: Vec<Entry>,
    /// Whether the walk goes on behind them.
    pub more: bool,
}

impl Walk {
    /// A walk from a time on.
    pub fn from(from: i64) -> Self {
        Self { place: Place::at(from), held: Vec::new(), bytes: 0 }
    }

    /// Where the next page begins.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether pages wait for those that follow.
    pub fn holds(&self) -> bool {
        self.place.token.is_some()
    }

    /// Takes a page that was asked for at [`Walk::place`]; `now` is Salesforce's time. `None` while nothing can be written.
    ///
    /// # Errors
    /// When there is more within one millisecond than is held.
    pub fn take(&mut self, page: EntriesPage, now: i64) -> Result<Option<Stretch>, RestError> {
        self.bytes = self.bytes.saturating_add(page.bytes);
        self.held.extend(page.entries);
        match page.next {
            Some(next) if next.token.is_some() => {
                self.place =
                    if self.held.len() > MOST_HELD || self.bytes > MOST_BYTES { self.narrower()? } else { next };
                if self.place.token.is_none() {
                    (self.held, self.bytes) = (Vec::new(), 0);
                }
                Ok(None)
            }
            next => {
                let mut entries = std::mem::take(&mut self.held);
                self.bytes = 0;
                entries.sort_by(|one, other| {
                    (one.server_time, &one.identifier).cmp(&(other.server_time, &other.identifier))
                });
                entries.dedup_by(|one, other| one.identifier == other.identifier);
                let next = next.or_else(|| self.next_window(entries.len(), now));
                let more = next.is_some();
                self.place = next.unwrap_or_else(|| self.place.clone());
                Ok(Some(Stretch { entries, more }))
            }
        }
    }

    /// The older part of what is too much.
    fn narrower(&self) -> Result<Place, RestError> {
        let mut times: Vec<i64> = self.held.iter().map(|entry| entry.server_time).collect();
        times.sort_unstable();
        let newest = times.last().copied().unwrap_or_default();
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        let to = if middle < newest { middle } else { newest.saturating_sub(1) };
        if to < self.place.from {
            let what = "conversation entries: more within one millisecond than can be held".to_owned();
            return Err(RestError::Unexpected(what));
        }
        Ok(Place::within(self.place.from, Some(to)))
    }

    /// The window after one in which there were `found` entries. Twice as long where there were few.
    fn next_window(&self, found: usize, now: i64) -> Option<Place> {
        let to = self.place.to?;
        let length = to.saturating_sub(self.place.from).max(1);
        let length = if found < MOST_HELD / 4 { length.saturating_mul(2) } else { length };
        let end = to.saturating_add(length);
        // All that has the time `to` is written: its bound is asked for a millisecond later.
        Some(Place::within(to.saturating_add(1), Some(end).filter(|end| *end < now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salesforce::conversation_entries::Sender;
    use std::collections::BTreeSet;

    const NOW: i64 = 10_000_000;

    fn entry(time: i64, number: usize) -> Entry {
        Entry {
            identifier: format!("{number:06}"),
            server_time: time,
            client_time: None,
            text: None,
            kind: None,
            payload: None,
            sender: Sender::default(),
            related: Vec::new(),
        }
    }

    /// A server that gives the newest first, a thousand a page, by tokens that say how many were given.
    fn answer(all: &[Entry], place: &Place) -> EntriesPage {
        let meant =
            |entry: &&Entry| entry.server_time >= place.from && place.to.is_none_or(|to| entry.server_time <= to);
        let mut meant: Vec<Entry> = all.iter().filter(meant).cloned().collect();
        meant.sort_by_key(|entry| std::cmp::Reverse(entry.server_time));
        let given: usize = place.token.as_ref().map_or(0, |token| token.parse().expect("a number"));
        let entries: Vec<Entry> = meant.iter().skip(given).take(1_000).cloned().collect();
        let token = given + entries.len();
        let next = (token < meant.len()).then(|| Place { token: Some(token.to_string()), ..place.clone() });
        EntriesPage { entries, next, bytes: 1 }
    }

    #[test]
    fn a_conversation_of_any_length_is_written_in_order_although_its_pages_come_in_none_and_little_is_held() {
        let time = |number: usize| {
            i64::try_from(match number {
                // Long silence, a thousand entries a second, then one every ten seconds.
                0..9_000 => 1_000 + number,
                _ => 100_000 + number * 10,
            })
        };
        let all: Vec<Entry> = (0..12_500).map(|number| entry(time(number).expect("small"), number)).collect();
        let (mut walk, mut written, mut calls) = (Walk::from(0), Vec::new(), 0);
        loop {
            calls += 1;
            let page = answer(&all, walk.place());
            let Some(stretch) = walk.take(page, NOW).expect("a way on") else {
                assert!(walk.held.len() <= MOST_HELD && (walk.holds() || walk.held.is_empty()));
                continue;
            };
            written.extend(stretch.entries.into_iter().map(|entry| (entry.server_time, entry.identifier)));
            if !stretch.more {
                break;
            }
        }
        assert!(written.is_sorted());
        assert_eq!((written.len(), written.iter().collect::<BTreeSet<_>>().len()), (12_500, 12_500));
        assert!(calls < 60, "{calls} calls");
    }

    #[test]
    fn a_few_pages_are_one_stretch_and_too_much_within_a_millisecond_is_told() {
        let all: Vec<Entry> = (0..2_500).map(|number| entry(5, number)).collect();
        let mut walk = Walk::from(0);
        let mut stretches = Vec::new();
        while stretches.is_empty() {
            stretches.extend(walk.take(answer(&all, walk.place()), NOW).expect("a way on"));
        }
        assert_eq!((stretches[0].entries.len(), stretches[0].more), (2_500, false));

        let all: Vec<Entry> = (0..9_000).map(|number| entry(5, number)).collect();
        let mut walk = Walk::from(5);
        let stuck = loop {
            if let Err(error) = walk.take(answer(&all, walk.place()), NOW) {
                break error.to_string();
            }
        };
        assert!(stuck.contains("one millisecond"), "{stuck}");
    }
}

//! The event bus: an append-only log for every topic, all counted by one replay id,
//! cut off at the retention.
//!
//! Publishing takes the lock once for a batch and subscribers take it once for a
//! response, so the lock is not felt at tens of thousands of events a second. Entries
//! hold the message ready to be sent; payloads are shared, never copied.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;

use crate::proto::ConsumerEvent;

/// An event as it stands in the log.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its place in the org's one position space. Enriched siblings share one.
    pub(crate) replay: u64,
    /// When it was published, in milliseconds of the epoch; decides its retention.
    pub(crate) published: i64,
    /// The index of its object, for permissions.
    pub(crate) object: usize,
    pub(crate) event: ConsumerEvent,
}

#[derive(Debug, Default)]
struct TopicLog {
    entries: VecDeque<Arc<Entry>>,
    /// How many entries were cut off: the cursor of the first entry still there.
    base: u64,
}

#[derive(Debug)]
struct State {
    topics: HashMap<String, TopicLog>,
    /// The newest position given out.
    tip: u64,
    /// The oldest position that can be resumed after.
    floor: u64,
}

/// The retained log of every topic.
#[derive(Debug)]
pub(crate) struct Bus {
    state: Mutex<State>,
    /// Follows the tip, for whoever waits for events.
    tip: watch::Sender<u64>,
}

/// A replay id that cannot be resumed after: expired, unknown or malformed; nobody can tell which.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Corrupted;

/// Ten bytes: the number, big-endian, and two zeros.
pub(crate) fn replay_bytes(number: u64) -> Bytes {
    let mut bytes = [0_u8; 10];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Bytes::copy_from_slice(&bytes)
}

/// The canonical text of a position.
pub(crate) fn replay_hex(number: u64) -> String {
    format!("{number:016x}0000")
}

/// Reads ten bytes, or their first eight, which the service accepts too.
fn replay_number(bytes: &[u8]) -> Result<u64, Corrupted> {
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or(Corrupted)?;
    match rest {
        [] | [0, 0] => Ok(u64::from_be_bytes(*number)),
        _ => Err(Corrupted),
    }
}

impl Bus {
    pub(crate) fn new(first: u64, topics: impl IntoIterator<Item = String>) -> Self {
        let topics = topics.into_iter().map(|name| (name, TopicLog::default())).collect();
        Self { state: Mutex::new(State { topics, tip: first, floor: first }), tip: watch::Sender::new(first) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends events, each to its topics, and moves the tip.
    pub(crate) fn append(&self, events: Vec<(Vec<String>, Entry)>, tip: u64) {
        let mut state = self.state();
        for (topics, entry) in events {
            let entry = Arc::new(entry);
            for topic in topics {
                if let Some(log) = state.topics.get_mut(&topic) {
                    log.entries.push_back(Arc::clone(&entry));
                }
            }
        }
        state.tip = tip;
        drop(state);
        self.tip.send_replace(tip);
    }

    pub(crate) fn tip(&self) -> u64 {
        self.state().tip
    }

    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.tip.subscribe()
    }

    /// The cursor behind the newest event of a topic.
    pub(crate) fn latest(&self, topic: &str) -> u64 {
        let state = self.state();
        state.topics.get(topic).map_or(0, |log| log.base + log.entries.len() as u64)
    }

    /// The cursor of the oldest event of a topic.
    pub(crate) fn earliest(&self, topic: &str) -> u64 {
        self.state().topics.get(topic).map_or(0, |log| log.base)
    }

    /// The cursor of the first event strictly after a replay id.
    ///
    /// The id may belong to another topic of the org; only its place in the org's position space counts.
    pub(crate) fn after(&self, topic: &str, replay_id: &[u8]) -> Result<u64, Corrupted> {
        let number = replay_number(replay_id)?;
        let state = self.state();
        if number < state.floor || number > state.tip {
            return Err(Corrupted);
        }
        let log = state.topics.get(topic).ok_or(Corrupted)?;
        Ok(log.base + log.entries.partition_point(|entry| entry.replay <= number) as u64)
    }

    /// The entries from a cursor on, at most `most`, and the cursor behind them. Those cut off meanwhile are skipped.
    pub(crate) fn read(&self, topic: &str, cursor: u64, most: usize) -> (Vec<Arc<Entry>>, u64) {
        let state = self.state();
        let Some(log) = state.topics.get(topic) else { return (Vec::new(), cursor) };
        let from = usize::try_from(cursor.saturating_sub(log.base)).unwrap_or(usize::MAX).min(log.entries.len());
        let until = from.saturating_add(most).min(log.entries.len());
        let entries = log.entries.range(from..until).cloned().collect();
        (entries, log.base + until as u64)
    }

    /// Cuts off what was published before a time. Positions up to the last one cut off become invalid.
    pub(crate) fn expire(&self, before: i64) {
        let mut state = self.state();
        let mut floor = state.floor;
        for log in state.topics.values_mut() {
            while let Some(entry) = log.entries.front().filter(|entry| entry.published < before) {
                floor = floor.max(entry.replay + 1);
                log.base += 1;
                log.entries.pop_front();
            }
        }
        state.floor = floor;
    }

    /// Cuts everything off and goes on from a new position; every position given out before is invalid.
    pub(crate) fn restart(&self, first: u64) {
        let mut state = self.state();
        for log in state.topics.values_mut() {
            log.base += log.entries.len() as u64;
            log.entries.clear();
        }
        (state.floor, state.tip) = (first, first);
        drop(state);
        self.tip.send_replace(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus() -> Bus {
        let bus = Bus::new(100, ["/data/a".to_owned(), "/data/b".to_owned()]);
        let entry = |replay, published| Entry { replay, published, object: 0, event: ConsumerEvent::default() };
        let on = |topic: &str, replay, published| (vec![topic.to_owned()], entry(replay, published));
        let events = vec![on("/data/a", 101, 1), on("/data/b", 105, 2), on("/data/a", 109, 3), on("/data/a", 109, 3)];
        bus.append(events, 109);
        bus
    }

    #[test]
    fn a_position_resumes_strictly_after_it_whatever_topic_it_came_from() {
        let bus = bus();
        let after = |number: u64| {
            bus.after("/data/a", &replay_bytes(number)).map(|cursor| bus.read("/data/a", cursor, 9).0.len())
        };
        assert_eq!(after(100), Ok(3));
        assert_eq!(after(101), Ok(2));
        assert_eq!(after(105), Ok(2), "another topic's position");
        assert_eq!(after(109), Ok(0), "siblings of a shared id are skipped together");
        assert_eq!(bus.after("/data/a", &101_u64.to_be_bytes()), Ok(1), "eight bytes do");
    }

    #[test]
    fn malformed_expired_and_unknown_positions_are_all_corrupted() {
        let bus = bus();
        bus.expire(2);
        for bytes in [&b"101"[..], &[0; 9], &replay_bytes(101), &replay_bytes(110), &[0, 0, 0, 0, 0, 0, 0, 109, 1, 0]] {
            assert_eq!(bus.after("/data/a", bytes), Err(Corrupted), "{bytes:?}");
        }
        assert_eq!(bus.after("/data/a", &replay_bytes(105)), Ok(1));
        bus.restart(500);
        assert_eq!(bus.after("/data/a", &replay_bytes(109)), Err(Corrupted));
        assert_eq!(bus.after("/data/a", &replay_bytes(500)), Ok(3));
    }
}

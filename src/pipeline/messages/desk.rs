//! What the run loop and the runner of messages share for one attempt: the sessions of which something is to be fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::kafka::{KEPT, OutputRecord, StreamIdentity};
use crate::pipeline::messages::seam::MessageBatch;
use crate::status::StreamBoard;

/// A session of which something is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trigger {
    /// Grows with each event of the session.
    pub number: u64,
    /// When the first of the events that are not fetched was written, by our clock.
    pub since: DateTime<Utc>,
    /// When the last of them was: what it tells of may be a moment behind it.
    pub renewed_at: DateTime<Utc>,
}

/// The same as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct KeptTrigger {
    session: String,
    reason: String,
    since: DateTime<Utc>,
}

/// The desk of one attempt.
pub(in crate::pipeline) struct MessageDesk {
    sessions_topic: Arc<str>,
    checkpoint_topic: Arc<str>,
    board: StreamBoard,
    state: Mutex<State>,
    /// Something changed that the runner may wait for.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    numbers: u64,
    triggers: BTreeMap<String, Trigger>,
}

/// What a transaction does to the desk once it is committed.
#[derive(Default)]
pub(in crate::pipeline) struct Triggered(BTreeSet<String>);

fn key(session: &str) -> String {
    format!("{KEPT}trigger/{session}")
}

impl MessageDesk {
    /// The desk of an attempt that goes on from what the stream keeps.
    pub fn new(identity: &StreamIdentity, board: StreamBoard, kept: &BTreeMap<String, Bytes>) -> Self {
        let prefix = key("");
        let own = kept.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, value)| value);
        let read = own.filter_map(|value| serde_json::from_slice::<KeptTrigger>(value).ok());
        let triggers =
            read.map(|kept| (kept.session, Trigger { number: 0, since: kept.since, renewed_at: kept.since })).collect();
        let desk = Self {
            sessions_topic: format!("{}.MessagingSession", identity.prefix).into(),
            checkpoint_topic: identity.checkpoint_topic().into(),
            board,
            state: Mutex::new(State { numbers: 0, triggers }),
            changed: Notify::new(),
        };
        desk.show(&desk.state());
        desk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the triggers of a transaction's records to it.
    pub fn enrol(&self, records: &mut Vec<OutputRecord>) -> Triggered {
        let sessions: BTreeSet<String> = records.iter().filter_map(|record| self.session_of(record)).collect();
        let state = self.state();
        for session in sessions.iter().filter(|session| !state.triggers.contains_key(*session)) {
            let kept = KeptTrigger { session: session.clone(), reason: "event".to_owned(), since: Utc::now() };
            // A struct of texts and a time always has a JSON form.
            let value = serde_json::to_vec(&kept).unwrap_or_default();
            records.push(self.kept(&key(session), Some(Bytes::from(value))));
        }
        Triggered(sessions)
    }

    /// The session that a record of a transaction is about.
    fn session_of(&self, record: &OutputRecord) -> Option<String> {
        let op = record.headers.iter().find(|(name, _)| *name == "op").map(|(_, op)| op.as_ref());
        // What a snapshot read did not just happen.
        let happened = record.topic == self.sessions_topic && record.value.is_some() && op != Some(b"read");
        let session = std::str::from_utf8(&record.key).ok().filter(|_| happened)?;
        let is_id = session.len() == 18 && session.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_id.then(|| session.to_owned())
    }

    /// Notes the triggers of a transaction that is committed. They are on the board before its position is.
    pub fn committed(&self, triggered: Triggered) {
        if triggered.0.is_empty() {
            return;
        }
        let mut state = self.state();
        state.numbers += 1;
        let number = state.numbers;
        for session in triggered.0 {
            let now = Utc::now();
            let trigger =
                state.triggers.entry(session).or_insert_with(|| Trigger { number, since: now, renewed_at: now });
            (trigger.number, trigger.renewed_at) = (number, now);
        }
        self.show(&state);
        drop(state);
        self.changed.notify_one();
    }

    /// The records of a batch in their order, and the triggers that it takes away.
    pub fn admit(&self, batch: &mut MessageBatch) -> (Vec<OutputRecord>, Vec<String>) {
        let mut records = std::mem::take(&mut batch.entries);
        records.extend(batch.kept.drain(..).map(|(key, value)| self.kept(&key, value)));
        let state = self.state();
        let fetched =
            |session: &String, number: u64| state.triggers.get(session).is_some_and(|now| now.number == number);
        let cleared: Vec<String> = batch
            .clears
            .drain(..)
            .filter(|(session, number)| fetched(session, *number))
            .map(|(session, _)| session)
            .collect();
        records.extend(cleared.iter().map(|session| self.kept(&key(session), None)));
        (records, cleared)
    }

    /// Takes the triggers away whose end is committed.
    pub fn cleared(&self, sessions: &[String]) {
        let mut state = self.state();
        for session in sessions {
            state.triggers.remove(session);
        }
        self.show(&state);
    }

    /// Shows how much waits, and for how long.
    fn show(&self, state: &State) {
        let waiting = u64::try_from(state.triggers.len()).unwrap_or(u64::MAX);
        let oldest = state.triggers.values().map(|trigger| trigger.since).min();
        self.board.update(|status| {
            let messages = status.messages.get_or_insert_default();
            (messages.sessions_waiting, messages.oldest_trigger_at) = (waiting, oldest);
        });
    }

    /// What is to be fetched.
    pub(super) fn triggers(&self) -> BTreeMap<String, Trigger> {
        self.state().triggers.clone()
    }

    fn kept(&self, key: &str, value: Option<Bytes>) -> OutputRecord {
        let key = Bytes::copy_from_slice(key.as_bytes());
        OutputRecord { topic: self.checkpoint_topic.clone(), key, value, headers: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    const SESSION: &str = "0Mw8d0000000001AAA";

    fn desk(kept: &BTreeMap<String, Bytes>) -> MessageDesk {
        let identity = StreamIdentity {
            prefix: "p".into(),
            org: "00D8d00000AbCdEEAV".parse().expect("an org"),
            topic: "/data/MessagingSessionChangeEvent".parse().expect("a topic"),
        };
        let board = crate::status::Board::new().stream(identity.topic.clone());
        MessageDesk::new(&identity, board, kept)
    }

    fn record(topic: &str, op: &'static str, key: &'static str) -> OutputRecord {
        let headers = vec![("op", Bytes::from_static(op.as_bytes()))];
        OutputRecord { topic: topic.into(), key: key.into(), value: Some("{}".into()), headers }
    }

    fn batch(clears: Vec<(String, u64)>) -> MessageBatch {
        let (entries, kept) = (Vec::new(), vec![(format!("{KEPT}conversation/c"), Some(Bytes::from_static(b"{}")))]);
        MessageBatch { entries, redactions: 0, kept, conversation: "c".into(), clears, receipt: oneshot::channel().0 }
    }

    #[test]
    fn a_trigger_stands_in_the_transaction_of_its_event_and_survives_a_fetch_that_began_before_a_newer_event() {
        let desk = desk(&BTreeMap::new());
        let mut records = vec![
            record("p.MessagingSession", "update", SESSION),
            record("p.MessagingSession", "update", SESSION),
            record("p.MessagingSession", "read", "0Mw8d0000000002AAA"),
            record("p.Case", "update", "5008d0000000001AAA"),
        ];
        let triggered = desk.enrol(&mut records);
        assert_eq!(records.len(), 5);
        assert_eq!(&records[4].key[..], format!("{KEPT}trigger/{SESSION}").as_bytes());
        assert_eq!(&*records[4].topic, "p.checkpoints.00D8d00000AbCdEEAV.data.MessagingSessionChangeEvent");
        assert!(desk.triggers().is_empty(), "not before the transaction is committed");
        desk.committed(triggered);
        let begun = desk.triggers()[SESSION].number;

        let mut again = vec![record("p.MessagingSession", "update", SESSION)];
        let triggered = desk.enrol(&mut again);
        assert_eq!(again.len(), 1, "one is enough");
        desk.committed(triggered);
        let (records, cleared) = desk.admit(&mut batch(vec![(SESSION.to_owned(), begun)]));
        assert_eq!((records.len(), cleared.len()), (1, 0), "the newer event is not fetched");
        let (records, cleared) = desk.admit(&mut batch(vec![(SESSION.to_owned(), desk.triggers()[SESSION].number)]));
        assert_eq!((records.len(), &records[1].value), (2, &None));
        desk.cleared(&cleared);
        assert!(desk.triggers().is_empty());
    }

    #[test]
    fn triggers_are_found_again_after_a_restart() {
        let mut records = vec![record("p.MessagingSession", "create", SESSION)];
        desk(&BTreeMap::new()).enrol(&mut records);
        let kept = records.pop().expect("its trigger");
        let key = String::from_utf8(kept.key.to_vec()).expect("text");
        let kept = BTreeMap::from([(key, kept.value.expect("a value")), (format!("{KEPT}trigger/x"), "?".into())]);
        assert_eq!(desk(&kept).triggers().keys().collect::<Vec<_>>(), [SESSION]);
    }
}

//! What the run loop and the runner of messages share for one attempt: the sessions of which something is to be fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;

use crate::kafka::{KEPT, OutputRecord, StreamIdentity};
use crate::pipeline::kept::read_kept;
use crate::pipeline::messages::history::{Found, History, Old};
use crate::pipeline::messages::seam::{Admitted, MessageBatch};
use crate::pipeline::messages::unread::LedgerWriter;
use crate::status::StreamBoard;

/// How much earlier than its messages the time of a session's row may be.
const CLOCKS: TimeDelta = TimeDelta::hours(1);

/// A session of which something is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Grows with each event of the session.
    pub number: u64,
    /// When the first of the events that are not fetched was written, by our clock.
    pub since: DateTime<Utc>,
    /// When the last of them was: what it tells of may be a moment behind it.
    pub renewed_at: DateTime<Utc>,
    /// Whether it is looked for in vain, and stands in the gap ledger.
    pub told: bool,
}

/// The same as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct KeptTrigger {
    session: String,
    reason: String,
    since: DateTime<Utc>,
    /// Its open entry in the gap ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entry: Option<Value>,
}

/// The desk of one attempt.
pub struct MessageDesk {
    sessions_topic: Arc<str>,
    checkpoint_topic: Arc<str>,
    board: StreamBoard,
    ledger: LedgerWriter,
    /// How far back the sessions of snapshots are fetched.
    history: Duration,
    state: Mutex<State>,
    /// Something changed that the runner may wait for.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    numbers: u64,
    triggers: BTreeMap<String, Trigger>,
    /// The open entries of those that are looked for in vain.
    told: BTreeMap<String, Value>,
    old: History,
}

/// What a transaction does to the desk once it is committed.
#[derive(Default)]
pub struct Triggered {
    sessions: BTreeSet<String>,
    found: Found,
}

fn key(session: &str) -> String {
    format!("{KEPT}trigger/{session}")
}

impl MessageDesk {
    /// The desk of an attempt that goes on from what the stream keeps.
    pub fn new(
        identity: &StreamIdentity,
        board: StreamBoard,
        ledger: LedgerWriter,
        history: Duration,
        kept: &BTreeMap<String, Bytes>,
    ) -> Self {
        let prefix = key("");
        let own = kept.iter().filter(|(key, _)| key.starts_with(&prefix));
        let mut state = State { old: History::kept(kept), ..State::default() };
        let triggers = own.filter_map(|(key, value)| Some((key, read_kept::<KeptTrigger>(key, value)?)));
        // Under another key it could not be taken away.
        for (_, kept) in triggers.filter(|(of, kept)| **of == key(&kept.session)) {
            let (since, told) = (kept.since, kept.entry.is_some());
            state.told.extend(kept.entry.map(|entry| (kept.session.clone(), entry)));
            state.triggers.insert(kept.session, Trigger { number: 0, since, renewed_at: since, told });
        }
        let desk = Self {
            sessions_topic: format!("{}.MessagingSession", identity.prefix).into(),
            checkpoint_topic: identity.checkpoint_topic().into(),
            board,
            ledger,
            history,
            state: Mutex::new(state),
            changed: Notify::new(),
        };
        desk.show(&desk.state());
        desk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one insert or remove.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a transaction what its records give to fetch: the sessions in which something happened, and those that a
    /// snapshot found.
    pub fn enrol(&self, records: &mut Vec<OutputRecord>) -> Triggered {
        let (mut sessions, mut found) = (BTreeSet::new(), Vec::new());
        let now = Utc::now();
        let oldest = (now - CLOCKS - TimeDelta::from_std(self.history).unwrap_or_default()).timestamp();
        for (session, read) in records.iter().filter_map(|record| self.session_of(record)) {
            match read {
                None => drop(sessions.insert(session)),
                Some(value) => {
                    found.extend(last_said(value).filter(|last| *last >= oldest).map(|last| (session, last)))
                }
            }
        }
        let state = self.state();
        for session in sessions.iter().filter(|session| !state.triggers.contains_key(*session)) {
            records.push(self.trigger(session, now, None));
        }
        drop(state);
        let (found, kept) = Found::of(found, now);
        records.extend(kept.into_iter().map(|(key, value)| self.kept(&key, Some(value))));
        Triggered { sessions, found }
    }

    /// The record of a trigger.
    fn trigger(&self, session: &str, since: DateTime<Utc>, entry: Option<Value>) -> OutputRecord {
        let kept = KeptTrigger { session: session.to_owned(), reason: "event".to_owned(), since, entry };
        // A struct of texts, a time and JSON always has a JSON form.
        self.kept(&key(session), Some(Bytes::from(serde_json::to_vec(&kept).unwrap_or_default())))
    }

    /// The session that a record of a transaction is about; with the record's value, if a snapshot read it: that did not
    /// just happen.
    fn session_of<'a>(&self, record: &'a OutputRecord) -> Option<(String, Option<&'a [u8]>)> {
        let value = record.value.as_ref().filter(|_| record.topic == self.sessions_topic)?;
        let session = std::str::from_utf8(&record.key).ok()?;
        let is_id = session.len() == 18 && session.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let read = record.headers.iter().any(|(name, op)| *name == "op" && op.as_ref() == b"read");
        is_id.then(|| (session.to_owned(), read.then_some(value.as_ref())))
    }

    /// Notes what a transaction that is committed gave to fetch. It is on the board before its position is.
    pub fn committed(&self, triggered: Triggered) {
        let Triggered { sessions, found } = triggered;
        if sessions.is_empty() && found.is_empty() {
            return;
        }
        let mut state = self.state();
        state.old.add(found);
        state.renew(sessions);
        self.show(&state);
        drop(state);
        self.changed.notify_one();
    }

    /// The records of a batch in their order, and what it does once it is committed.
    pub fn admit(&self, batch: &mut MessageBatch) -> (Vec<OutputRecord>, Admitted) {
        let mut records = std::mem::take(&mut batch.entries);
        records.append(&mut batch.rows);
        records.extend(batch.kept.drain(..).map(|(key, value)| self.kept(&key, value)));
        records.append(&mut batch.ledger);
        let state = self.state();
        let mut admitted = Admitted::default();
        for clear in batch.clears.drain(..) {
            if state.triggers.get(&clear.session).is_none_or(|now| now.number != clear.number) {
                continue;
            }
            records.push(self.kept(&key(&clear.session), None));
            let entry = state.told.get(&clear.session).map(|entry| self.ledger.ended(entry, clear.end));
            records.extend(entry.map(|entry| self.ledger.record(&entry)));
            admitted.cleared.push(clear.session);
        }
        for (session, entry) in batch.tells.drain(..) {
            let Some(trigger) = state.triggers.get(&session) else { continue };
            records.push(self.ledger.record(&entry));
            records.push(self.trigger(&session, trigger.since, Some(entry.clone())));
            admitted.told.push((session, entry));
        }
        for session in batch.owes.drain(..).filter(|session| !state.triggers.contains_key(session)) {
            records.push(self.trigger(&session, Utc::now(), None));
            admitted.owed.push(session);
        }
        let done = state.old.after(&batch.done);
        records.extend(done.into_iter().map(|(key, value)| self.kept(&key, value)));
        admitted.done = std::mem::take(&mut batch.done);
        (records, admitted)
    }

    /// Notes what a batch did that is committed.
    pub fn admitted(&self, admitted: Admitted) {
        let mut state = self.state();
        for session in &admitted.cleared {
            state.triggers.remove(session);
            state.told.remove(session);
        }
        for (session, entry) in admitted.told {
            state.triggers.entry(session.clone()).and_modify(|trigger| trigger.told = true);
            state.told.insert(session, entry);
        }
        state.renew(admitted.owed);
        state.old.done(&admitted.done);
        self.show(&state);
    }

    /// Shows how much waits, and for how long. What is in the ledger is not late: it is an operator's.
    fn show(&self, state: &State) {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let late = || state.triggers.values().filter(|trigger| !trigger.told);
        let (waiting, oldest) = (count(late().count()), late().map(|trigger| trigger.since).min());
        let (unreadable, old) = (count(state.told.len()), count(state.old.left()));
        self.board.update(|status| {
            let messages = status.messages.get_or_insert_default();
            (messages.sessions_waiting, messages.oldest_trigger_at) = (waiting, oldest);
            (messages.sessions_in_vain, messages.history_waiting) = (unreadable, old);
        });
    }

    /// What is to be fetched.
    pub fn triggers(&self) -> BTreeMap<String, Trigger> {
        self.state().triggers.clone()
    }

    /// When something can have been said last in the newest session of snapshots that is not done with.
    pub(super) fn newest_old(&self) -> Option<i64> {
        self.state().old.newest()
    }

    /// The newest sessions of snapshots that are not done with.
    pub fn next_old(&self, most: usize) -> Vec<Old> {
        self.state().old.next(most)
    }

    fn kept(&self, key: &str, value: Option<Bytes>) -> OutputRecord {
        let key = Bytes::copy_from_slice(key.as_bytes());
        OutputRecord { topic: self.checkpoint_topic.clone(), key, value, headers: Vec::new() }
    }
}

impl State {
    /// Counts an event of each session.
    fn renew(&mut self, sessions: impl IntoIterator<Item = String>) {
        self.numbers += 1;
        let (number, now) = (self.numbers, Utc::now());
        for session in sessions {
            let new = Trigger { number, since: now, renewed_at: now, told: false };
            let trigger = self.triggers.entry(session).or_insert(new);
            (trigger.number, trigger.renewed_at) = (number, now);
        }
    }
}

/// What a snapshot's record says of the time.
#[derive(Deserialize)]
struct ReadSession {
    record: Option<SessionTimes>,
    record_as_of: DateTime<Utc>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SessionTimes {
    /// Something else than a time where a policy keeps it from readers.
    #[serde(default)]
    end_time: Option<Value>,
}

/// When something can have been said last in a session that a snapshot read, in seconds since 1970: until its end, or until
/// its last change where it has none or the field is not read. A whole table that was changed yesterday was not spoken in.
fn last_said(value: &[u8]) -> Option<i64> {
    let read: ReadSession = serde_json::from_slice(value).ok()?;
    let end: Option<DateTime<Utc>> = read.record?.end_time.and_then(|end| end.as_str()?.parse().ok());
    Some(end.map_or(read.record_as_of, |end| end.min(read.record_as_of)).timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::messages::seam::Clear;
    use crate::pipeline::messages::unread::End;

    const SESSION: &str = "0Mw8d0000000001AAA";

    fn desk(kept: &BTreeMap<String, Bytes>) -> MessageDesk {
        let identity = StreamIdentity {
            prefix: "p".into(),
            org: "00D8d00000AbCdEEAV".parse().expect("an org"),
            topic: "/data/MessagingSessionChangeEvent".parse().expect("a topic"),
        };
        let (org, topic) = (identity.org.clone(), identity.topic.clone());
        let board = crate::status::Board::new().stream(topic.clone());
        let ledger = LedgerWriter::new("p.gaps".into(), org, topic, "run".into());
        MessageDesk::new(&identity, board, ledger, Duration::from_secs(7 * 24 * 3600), kept)
    }

    fn record(topic: &str, op: &'static str, key: &'static str) -> OutputRecord {
        let headers = vec![("op", Bytes::from_static(op.as_bytes()))];
        OutputRecord { topic: topic.into(), key: key.into(), value: Some("{}".into()), headers }
    }

    /// A record of a snapshot, of a session that was changed an hour ago and ended so many days ago.
    fn read(key: &'static str, ended: Option<i64>) -> OutputRecord {
        let at = |days: i64| (Utc::now() - TimeDelta::days(days) - TimeDelta::minutes(60)).to_rfc3339();
        let value = serde_json::json!({"record": {"EndTime": ended.map(at)}, "record_as_of": at(0)});
        OutputRecord { value: Some(value.to_string().into()), ..record("p.MessagingSession", "read", key) }
    }

    fn batch(number: u64) -> MessageBatch {
        let kept = vec![(format!("{KEPT}conversation/c"), Some(Bytes::from_static(b"{}")))];
        let clears = vec![Clear { session: SESSION.to_owned(), number, end: End::Healed }];
        MessageBatch { kept, clears, conversation: "c".into(), ..MessageBatch::default() }
    }

    /// What a stream keeps once these records are committed.
    fn stored(records: Vec<OutputRecord>) -> BTreeMap<String, Bytes> {
        let own = records.into_iter().filter(|record| record.key.starts_with(KEPT.as_bytes()));
        own.filter_map(|record| Some((String::from_utf8(record.key.to_vec()).ok()?, record.value?))).collect()
    }

    #[test]
    fn a_trigger_stands_in_the_transaction_of_its_event_and_survives_a_fetch_that_began_before_a_newer_event() {
        let desk = desk(&BTreeMap::new());
        let mut records = vec![
            record("p.MessagingSession", "update", SESSION),
            record("p.MessagingSession", "update", SESSION),
            record("p.Case", "update", "5008d0000000001AAA"),
        ];
        let triggered = desk.enrol(&mut records);
        assert_eq!(records.len(), 4);
        assert_eq!(&records[3].key[..], format!("{KEPT}trigger/{SESSION}").as_bytes());
        assert_eq!(&*records[3].topic, "p.checkpoints.00D8d00000AbCdEEAV.data.MessagingSessionChangeEvent");
        assert!(desk.triggers().is_empty(), "not before the transaction is committed");
        desk.committed(triggered);
        let begun = desk.triggers()[SESSION].number;

        let mut again = vec![record("p.MessagingSession", "update", SESSION)];
        let triggered = desk.enrol(&mut again);
        assert_eq!(again.len(), 1, "one is enough");
        desk.committed(triggered);
        let (records, admitted) = desk.admit(&mut batch(begun));
        assert_eq!((records.len(), admitted.cleared.len()), (1, 0), "the newer event is not fetched");
        let (records, admitted) = desk.admit(&mut batch(desk.triggers()[SESSION].number));
        assert_eq!((records.len(), &records[1].value), (2, &None));
        desk.admitted(admitted);
        assert!(desk.triggers().is_empty());
    }

    #[test]
    fn triggers_are_found_again_after_a_restart() {
        let mut records = vec![record("p.MessagingSession", "create", SESSION)];
        desk(&BTreeMap::new()).enrol(&mut records);
        let mut kept = stored(records);
        let trigger = kept.values().next().cloned().expect("a trigger");
        let session = r#"{"session":"0Mw8d0000000009AAA","since":"2026-11-22T10:00:00Z"}"#;
        for (name, value) in [("x", Bytes::from("?")), ("y", trigger), ("0Mw8d0000000009AAA", session.into())] {
            kept.insert(format!("{KEPT}trigger/{name}"), value);
        }
        assert_eq!(desk(&kept).triggers().keys().collect::<Vec<_>>(), [SESSION]);
    }

    #[test]
    fn a_session_that_is_looked_for_in_vain_has_one_entry_which_ends_with_its_trigger_also_after_a_restart() {
        let before = desk(&BTreeMap::new());
        let mut records = vec![record("p.MessagingSession", "create", SESSION)];
        before.committed(before.enrol(&mut records));
        let entry = before.ledger.open(&crate::pipeline::ledger::OpenGap::messages(
            vec![SESSION.to_owned()],
            Utc::now(),
            "why".to_owned(),
        ));
        let tells = vec![(SESSION.to_owned(), entry)];
        let (records, admitted) = before.admit(&mut MessageBatch { tells, ..MessageBatch::default() });
        assert_eq!((records.len(), &*records[0].topic), (2, "p.gaps"));
        before.admitted(admitted);
        assert!(before.triggers()[SESSION].told);

        let after = desk(&stored(records.clone()));
        assert!(after.triggers()[SESSION].told);
        let mut again = vec![record("p.MessagingSession", "update", SESSION)];
        after.committed(after.enrol(&mut again));
        assert_eq!((again.len(), after.triggers()[SESSION].told), (1, true), "an event makes no second entry");
        let (closing, _) = after.admit(&mut batch(after.triggers()[SESSION].number));
        let closed = closing.last().expect("the entry");
        assert_eq!((&closed.topic, &closed.key), (&records[0].topic, &records[0].key));
        let closed: Value = serde_json::from_slice(closed.value.as_deref().expect("a value")).expect("JSON");
        assert_eq!((&closed["state"], &closed["detail"]), (&"healed".into(), &"why".into()));
    }

    #[test]
    fn what_a_snapshot_read_is_kept_with_it_if_it_is_young_enough_and_is_done_with_in_order() {
        let before = desk(&BTreeMap::new());
        let mut records = vec![
            read("0Mw8d0000000002AAA", Some(3)),
            read("0Mw8d0000000003AAA", Some(400)),
            read("0Mw8d0000000004AAA", None),
            read("0Mw8d0000000005AAA", Some(1)),
        ];
        let found = before.enrol(&mut records);
        assert_eq!(records.len(), 5, "one list for all of them");
        before.committed(found);
        assert!(before.triggers().is_empty(), "nothing happened in them");
        let kept = stored(records);
        for desk in [&before, &desk(&kept)] {
            let next: Vec<String> = desk.next_old(9).into_iter().map(|old| old.session).collect();
            assert_eq!(next, ["0Mw8d0000000004AAA", "0Mw8d0000000005AAA", "0Mw8d0000000002AAA"]);
        }
        let done = vec![before.next_old(1)[0].place];
        let owes = vec!["0Mw8d0000000004AAA".to_owned()];
        let (records, admitted) = before.admit(&mut MessageBatch { done, owes, ..MessageBatch::default() });
        before.admitted(admitted);
        let kept: BTreeMap<String, Bytes> = kept.into_iter().chain(stored(records)).collect();
        for desk in [&before, &desk(&kept)] {
            assert_eq!(desk.next_old(1)[0].session, "0Mw8d0000000005AAA");
            assert_eq!(desk.triggers().keys().collect::<Vec<_>>(), ["0Mw8d0000000004AAA"], "owed like one of an event");
        }
    }
}

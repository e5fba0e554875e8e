//! What is known of one conversation, as it is kept in Kafka; the head of the room says why this is enough.
//!
//! Times are milliseconds since 1970 by Salesforce's clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::{MessagesApi, MessagesConfig};
use crate::kafka::KEPT;
use crate::pipeline::kept::read_kept;
use crate::pipeline::messages::budget::ACTIVE_FOR;
use crate::salesforce::conversation_entries::Entry;
use crate::salesforce::messaging_sessions::MessagingSession;

/// Digests of a conversation, at most, by how often Kafka refused its record for its size: with the first number it has
/// some 400 kB. A conversation with more entries in `reread` is looked at less far back. With none it has the entries of its
/// last millisecond.
const MOST_KNOWN: [usize; 3] = [4_000, 250, 0];

/// In the place of a digest: no entry has it, so the next fetch writes the entry whatever it says.
pub(super) const OWED: &str = "?";

/// How many digests of a conversation are kept whose record was refused so often; `None` if no number is small enough.
pub(super) fn most_known(refused: usize) -> Option<usize> {
    MOST_KNOWN.get(refused).copied()
}

/// What an entry is to whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Said.
    Message,
    /// Said earlier, and changed since.
    Redaction,
}

/// Why a conversation is fetched, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// An event of one of its sessions.
    Event,
    /// A session of it ended some minutes ago.
    Final,
    /// A session of it is open.
    Sweep,
    /// A snapshot found a session of it.
    History,
    /// It is compared with what Kafka holds of it.
    Reconcile,
}

impl Reason {
    /// As consumers read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Final => "final",
            Self::Sweep => "sweep",
            Self::History => "history",
            Self::Reconcile => "reconcile",
        }
    }
}

/// A conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// The newest server time of an entry written; 0 before the first.
    #[serde(default)]
    pub cursor: i64,
    /// What is older is not looked at.
    #[serde(default)]
    pub floor: i64,
    /// Every entry written of `floor` or later: its server time and digest, by its identifier.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known: BTreeMap<String, (i64, String)>,
    /// Its sessions that are open.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub open: BTreeSet<String>,
    /// When it is to be looked at once more after a session ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_at: Option<i64>,
    /// When it was fetched last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<i64>,
    /// When it was read for a comparison last: that is no fetch, and makes it active all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_at: Option<i64>,
    /// Between two sweeps, in milliseconds.
    #[serde(default)]
    pub sweep_every: i64,
    /// Since when it cannot be read, if that is so, by our clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_vain_since: Option<DateTime<Utc>>,
    /// Its open entry in the gap ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Value>,
    /// Whether it was read over the Conversation Data API last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over_data_api: bool,
    /// From when on entries are that a comparison has ordered and no fetch has read yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed_from: Option<i64>,
    /// Whether entries were written without the records that are to come with them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub records_owed: bool,
    /// Digests of the records of it and of who takes part in it, as they were written, by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub records: BTreeMap<String, String>,
}

/// A duration in milliseconds.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The key of a conversation's record.
pub fn key(identifier: &str) -> String {
    format!("{KEPT}conversation/{identifier}")
}

/// The conversations among what a stream keeps. What cannot be read was written by another version.
pub fn kept(kept: &BTreeMap<String, Bytes>) -> BTreeMap<String, Conversation> {
    let prefix = key("");
    let own = kept.iter().filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), value)));
    own.filter_map(|(identifier, value)| Some((identifier.clone(), read_kept(&key(&identifier), value)?))).collect()
}

/// The SHA-256 of texts each of which can be missing; none passes for a part of another.
pub(super) fn hash(parts: &[Option<&str>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        let length = part.map_or(u64::MAX, |part| u64::try_from(part.len()).unwrap_or(u64::MAX - 1));
        hash.update(length.to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.finalize().into()
}

/// The SHA-256 of what an entry says.
fn digest(entry: &Entry) -> String {
    // Maps of a JSON value are sorted, so the same payload has the same text.
    let payload = entry.payload.as_ref().map(ToString::to_string);
    STANDARD_NO_PAD.encode(hash(&[entry.text.as_deref(), entry.kind.as_deref(), payload.as_deref()]))
}

impl Conversation {
    /// Begins a fetch: from when on entries are asked for.
    pub fn begin(&mut self, now: i64, config: &MessagesConfig) -> i64 {
        let over_data_api = config.api == MessagesApi::Data;
        if std::mem::replace(&mut self.over_data_api, over_data_api) != over_data_api {
            // The other API tells other things of the same entries. That is no redaction.
            self.known.values_mut().filter(|(_, digest)| digest != OWED).for_each(|(_, digest)| digest.clear());
        }
        if self.cursor == 0 {
            let first = now.saturating_sub(millis(config.history)).max(0);
            self.floor = self.owed_from.map_or(first, |owed| owed.min(first));
        }
        self.floor
    }

    /// Notes an entry that was read; what it is to be written as, if it is.
    pub fn take(&mut self, entry: &Entry) -> Option<Op> {
        if entry.server_time < self.floor {
            return None;
        }
        let digest = digest(entry);
        let op = match self.known.get(&entry.identifier) {
            Some((_, known)) if *known == digest => return None,
            Some((_, known)) if known.is_empty() => None,
            Some(_) => Some(Op::Redaction),
            None => Some(Op::Message),
        };
        self.known.insert(entry.identifier.clone(), (entry.server_time, digest));
        self.cursor = self.cursor.max(entry.server_time);
        op
    }

    /// Lets go of what is not looked at again, after everything up to the cursor was read; keeps `most_known` digests, and
    /// all of the oldest millisecond among them.
    pub fn settle(&mut self, now: i64, config: &MessagesConfig, most_known: usize) {
        let read = self.cursor.min(now.saturating_sub(millis(config.reread)));
        self.floor = self.floor.max(self.owed_from.map_or(read, |owed| owed.min(read)));
        if self.known.len() > most_known {
            let mut times: Vec<i64> = self.known.values().map(|(time, _)| *time).collect();
            times.sort_unstable();
            let oldest = times.get(times.len().saturating_sub(most_known.max(1))).copied();
            self.floor = self.floor.max(oldest.unwrap_or_default());
        }
        let floor = self.floor;
        self.known.retain(|_, (time, _)| *time >= floor);
    }

    /// Notes the end of a fetch that began at `now`.
    pub fn asked(&mut self, now: i64, reason: Reason, news: bool, config: &MessagesConfig) {
        let (least, most) = (millis(config.sweep_least), millis(config.sweep_most));
        let quiet = reason != Reason::Event && !news;
        self.sweep_every = if quiet { self.sweep_every.max(least).saturating_mul(2).min(most) } else { least };
        self.asked_at = Some(now);
        self.final_at = self.final_at.filter(|at| *at > now);
        // What was ordered since this fetch began is for the next one, which is still asked for.
        self.owed_from = self.owed_from.filter(|_| self.final_at.is_some());
    }

    /// Ends what asks for it. An event does anew.
    pub fn give_up(&mut self, now: i64) {
        self.open.clear();
        (self.final_at, self.in_vain_since, self.entry, self.owed_from) = (None, None, None, None);
        self.asked_at = Some(now);
    }

    /// Keeps nothing but how far it is written: the least that its record can be.
    pub fn strip(&mut self) {
        self.known.clear();
        self.records.clear();
        self.open.clear();
        self.owed_from = None;
        self.floor = self.cursor.saturating_add(1);
    }

    /// Heeds how a session of it is.
    pub fn heed(&mut self, session: &MessagingSession, now: i64, config: &MessagesConfig) {
        if session.open {
            self.open.insert(session.id.clone());
        } else if self.open.remove(&session.id) || self.asked_at.is_none() {
            self.final_at = Some(now.saturating_add(millis(config.final_after)));
        }
    }

    /// When it is to be fetched without being told to, and why.
    pub fn due(&self, config: &MessagesConfig) -> Option<(i64, Reason)> {
        let every = self.sweep_every.max(millis(config.sweep_least));
        let sweep = self.asked_at.map_or(0, |at| at.saturating_add(every));
        let sweep = Some((sweep, Reason::Sweep)).filter(|_| !self.open.is_empty());
        // One that could not be read is owed, whatever else asks for it.
        let owed = self.in_vain_since.map(|_| (0, Reason::Final));
        self.final_at.map(|at| (at, Reason::Final)).into_iter().chain(sweep).chain(owed).min()
    }

    /// Whether nothing has happened in it for so long that it can be forgotten.
    pub fn is_over(&self, now: i64, config: &MessagesConfig) -> bool {
        let last = self.cursor.max(self.asked_at.unwrap_or_default());
        let kept_for = millis(config.history).saturating_add(millis(config.reread));
        let active = self.compared_at.is_some_and(|at| at > now.saturating_sub(millis(ACTIVE_FOR)));
        self.due(config).is_none() && last < now.saturating_sub(kept_for) && !active
    }

    /// When it was asked for last, whatever for.
    pub fn active_at(&self) -> Option<i64> {
        self.asked_at.max(self.compared_at)
    }

    /// The value of its record.
    pub fn value(&self) -> Bytes {
        // A struct of texts and numbers always has a JSON form.
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1_790_000_000_000;
    const MOST: usize = MOST_KNOWN[0];

    pub(in crate::pipeline::messages) fn config() -> MessagesConfig {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        MessagesConfig {
            api: MessagesApi::Connect,
            calls_per_minute: 80,
            calls_per_hour: 900,
            max_active: 500,
            api_share: 80,
            settle: Duration::from_secs(2),
            reread: hours(24),
            history: hours(168),
            sweep_least: Duration::from_secs(60),
            sweep_most: Duration::from_secs(1_800),
            final_after: Duration::from_secs(300),
            give_up_after: Duration::from_secs(24 * 3600),
            records: true,
        }
    }

    pub(in crate::pipeline::messages) fn entry(identifier: &str, time: i64, text: &str) -> Entry {
        Entry {
            identifier: identifier.to_owned(),
            server_time: time,
            client_time: None,
            text: Some(text.to_owned()),
            kind: None,
            payload: None,
            sender: crate::salesforce::conversation_entries::Sender::default(),
            related: Vec::new(),
        }
    }

    fn session(id: &str, open: bool) -> MessagingSession {
        MessagingSession { id: id.to_owned(), open, ..MessagingSession::default() }
    }

    #[test]
    fn an_entry_is_written_once_and_once_more_for_each_change_also_after_the_record_was_read_back() {
        let mut conversation = Conversation::default();
        assert_eq!(conversation.begin(NOW, &config()), NOW - 168 * HOUR);
        assert_eq!(conversation.take(&entry("a", NOW - 2, "one")), Some(Op::Message));
        assert_eq!(conversation.take(&entry("a", NOW - 2, "one")), None);
        assert_eq!(conversation.take(&entry("old", NOW - 169 * HOUR, "before its history")), None);
        conversation.settle(NOW, &config(), MOST);
        let stored = BTreeMap::from([(key("c"), conversation.value())]);
        let mut conversation = kept(&stored).remove("c").expect("kept");
        assert_eq!(conversation.begin(NOW, &config()), NOW - 24 * HOUR);
        assert_eq!(conversation.take(&entry("a", NOW - 2, "one")), None);
        assert_eq!(conversation.take(&entry("a", NOW - 2, "***")), Some(Op::Redaction));
        assert_eq!(conversation.take(&entry("late", NOW - 5, "came late")), Some(Op::Message));
        assert_eq!(conversation.cursor, NOW - 2);
    }

    #[test]
    fn the_floor_follows_the_cursor_through_history_and_stays_a_day_behind_the_present() {
        let mut conversation = Conversation::default();
        conversation.begin(NOW, &config());
        for (identifier, age) in [("a", 90), ("b", 80), ("c", 80)] {
            conversation.take(&entry(identifier, NOW - age * HOUR, "old"));
        }
        conversation.settle(NOW, &config(), MOST);
        assert_eq!((conversation.floor, conversation.known.len()), (NOW - 80 * HOUR, 2), "all of the last millisecond");
        conversation.take(&entry("d", NOW - HOUR, "new"));
        conversation.settle(NOW, &config(), MOST);
        assert_eq!((conversation.floor, conversation.known.len()), (NOW - 24 * HOUR, 1));
        // A day later nothing of it can be redacted any more, and still it is not written again.
        conversation.settle(NOW + 48 * HOUR, &config(), MOST);
        assert_eq!((conversation.floor, conversation.take(&entry("d", NOW - HOUR, "new"))), (NOW - HOUR, None));
    }

    #[test]
    fn one_that_was_only_compared_is_kept_for_as_long_as_it_is_active() {
        let compared = Conversation { compared_at: Some(NOW), ..Conversation::default() };
        assert_eq!((compared.active_at(), compared.due(&config())), (Some(NOW), None));
        assert!(!compared.is_over(NOW + HOUR / 2 - 1, &config()) && compared.is_over(NOW + HOUR / 2, &config()));
    }

    #[test]
    fn another_api_that_tells_more_of_an_entry_has_not_redacted_it() {
        let (mut conversation, connect) = (Conversation::default(), config());
        conversation.begin(NOW, &connect);
        conversation.take(&entry("a", NOW - 2, "one"));
        let data = MessagesConfig { api: MessagesApi::Data, ..connect };
        conversation.begin(NOW, &data);
        let told = |text: &str| Entry { kind: Some("Message".into()), ..entry("a", NOW - 2, text) };
        assert_eq!(conversation.take(&told("one")), None);
        assert_eq!(conversation.take(&told("***")), Some(Op::Redaction));
        conversation.begin(NOW, &data);
        assert_eq!((conversation.take(&told("***")), conversation.take(&told("+++"))), (None, Some(Op::Redaction)));
    }

    #[test]
    fn a_busy_conversation_keeps_its_newest_digests() {
        let mut conversation = Conversation::default();
        conversation.begin(NOW, &config());
        for number in 0..10 {
            conversation.take(&entry(&number.to_string(), NOW - 100 + number, "text"));
        }
        conversation.settle(NOW, &config(), 4);
        assert_eq!((conversation.floor, conversation.known.len()), (NOW - 94, 4));
        assert_eq!(conversation.take(&entry("0", NOW - 100, "text")), None, "older than what is looked at");
        assert_eq!(conversation.take(&entry("9", NOW - 91, "text")), None);
        conversation.take(&entry("10", NOW - 91, "text"));
        conversation.settle(NOW, &config(), 0);
        assert_eq!((conversation.floor, conversation.known.len()), (NOW - 91, 2), "the last millisecond at the least");
        conversation.strip();
        assert_eq!(conversation.take(&entry("9", NOW - 91, "text")), None, "nothing is known, and nothing repeated");
        assert_eq!(conversation.take(&entry("11", NOW - 90, "text")), Some(Op::Message));
    }

    #[test]
    fn sweeps_double_while_nothing_comes_and_a_last_look_follows_the_end_of_a_session() {
        let (config, mut conversation) = (config(), Conversation::default());
        assert_eq!(conversation.due(&config), None);
        conversation.heed(&session("s", true), NOW, &config);
        assert_eq!(conversation.due(&config), Some((0, Reason::Sweep)), "never looked at");
        conversation.asked(NOW, Reason::Event, false, &config);
        let mut waits = Vec::new();
        for news in [false, false, false, false, false, false, true] {
            conversation.asked(NOW, Reason::Sweep, news, &config);
            waits.push(conversation.due(&config).expect("open").0 - NOW);
        }
        assert_eq!(waits, [120, 240, 480, 960, 1_800, 1_800, 60].map(|seconds| seconds * 1_000));
        conversation.heed(&session("s", false), NOW, &config);
        assert_eq!(conversation.due(&config), Some((NOW + 300_000, Reason::Final)));
        conversation.heed(&session("s", false), NOW + 9, &config);
        conversation.asked(NOW + 10, Reason::Event, true, &config);
        assert_eq!(conversation.due(&config), Some((NOW + 300_000, Reason::Final)), "a trigger is not the last look");
        let unreadable = Conversation { in_vain_since: Some(Utc::now()), ..conversation.clone() };
        assert_eq!(unreadable.due(&config), Some((0, Reason::Final)), "and its last look is still to come");
        conversation.asked(NOW + 300_000, Reason::Final, false, &config);
        assert_eq!(conversation.due(&config), None);
        assert!(!conversation.is_over(NOW + 190 * HOUR, &config) && conversation.is_over(NOW + 193 * HOUR, &config));
    }

    #[test]
    fn a_digest_is_that_of_the_content() {
        let plain = entry("a", 1, "text");
        let other = Entry { payload: Some(serde_json::json!({"b": 1, "a": 2})), ..plain.clone() };
        let again = Entry { payload: Some(serde_json::json!({"a": 2, "b": 1})), server_time: 9, ..plain.clone() };
        assert_eq!(digest(&other), digest(&again));
        assert_ne!(digest(&plain), digest(&other));
        let moved = Entry { text: None, kind: Some("text".into()), ..plain.clone() };
        assert_ne!(digest(&plain), digest(&moved));
        assert_eq!(digest(&plain).len(), 43);
    }
}

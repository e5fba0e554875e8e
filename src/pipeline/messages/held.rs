//! What Kafka holds of the entries of conversations: read back from their topic, some conversations at a time.
//!
//! The digests that are kept with a conversation end at its floor. What was written of older entries stands in the topic
//! alone, in the form in which it was written: after the policy of messages, and as the API of then told it. So both sides
//! of a comparison are brought into that form, by the same way, and their digests are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::identity::OrgId;
use crate::kafka::{KafkaError, KafkaSettings, ScanFrom, ScannedRecord, scan};
use crate::pipeline::messages::conversation::hash;
use crate::salesforce::conversation_entries::Entry;

/// Entries of a slice, but for one conversation that has more: some 150 bytes each.
const MOST_ENTRIES: usize = 200_000;

/// The digests of what an entry says; half of a SHA-256 is enough to see a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of its text, which both APIs tell.
    text: [u8; 16],
    /// Of its text, its type and its payload.
    all: [u8; 16],
}

impl Mark {
    fn new(text: Option<&str>, kind: Option<&str>, payload: Option<&Value>) -> Self {
        let half = |parts: &[Option<&str>]| hash(parts).first_chunk().copied().unwrap_or_default();
        let payload = payload.map(ToString::to_string);
        Self { text: half(&[text]), all: half(&[text, kind, payload.as_deref()]) }
    }

    /// Of an entry, as it would be read back from its record.
    pub fn of(entry: &Entry) -> Self {
        // A number of a payload may come out of a record as its neighbour: what was written went that way too.
        let payload = entry.payload.as_ref().map(|payload| {
            let written: Option<Value> = serde_json::from_str(&payload.to_string()).ok();
            written.unwrap_or_default()
        });
        Self::new(entry.text.as_deref(), entry.kind.as_deref(), payload.as_ref())
    }
}

/// What Kafka was told last of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldEntry {
    /// Milliseconds since 1970 by Salesforce's clock.
    pub server_time: i64,
    /// When it was fetched; the same.
    pub fetched_at: i64,
    /// Whether the Conversation Data API told it.
    pub over_data_api: bool,
    /// Whether it was written without its content.
    pub too_large: bool,
    /// Its content.
    pub mark: Mark,
}

impl HeldEntry {
    /// Whether an entry says the same now. Of what another API told only the text can be compared, of what was too large nothing.
    pub fn says(&self, mark: Mark, over_data_api: bool) -> bool {
        let same =
            if self.over_data_api == over_data_api { self.mark.all == mark.all } else { self.mark.text == mark.text };
        self.too_large || same
    }
}

/// The members of a record that are compared.
#[derive(Deserialize)]
struct Written {
    id: String,
    text: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    payload: Option<Value>,
    server_time: DateTime<Utc>,
    #[serde(default)]
    too_large: bool,
    source: WrittenSource,
}

#[derive(Deserialize)]
struct WrittenSource {
    api: String,
    fetched_at: DateTime<Utc>,
}

/// The entry of a record's value; none of what is no entry.
fn read(value: &[u8]) -> Option<(String, HeldEntry)> {
    let written: Written = serde_json::from_slice(value).ok()?;
    let held = HeldEntry {
        server_time: written.server_time.timestamp_millis(),
        fetched_at: written.source.fetched_at.timestamp_millis(),
        over_data_api: written.source.api == "data",
        too_large: written.too_large,
        mark: Mark::new(written.text.as_deref(), written.kind.as_deref(), written.payload.as_ref()),
    };
    Some((written.id, held))
}

/// What Kafka holds of some conversations.
#[derive(Debug, Default)]
pub(super) struct Slice {
    /// By conversation, then by the identifier of the entry. A conversation of which Kafka holds nothing has no entries.
    pub conversations: BTreeMap<String, BTreeMap<String, HeldEntry>>,
    /// Older entries are left out.
    from: i64,
    entries: usize,
    most: usize,
}

impl Slice {
    /// Of these conversations, and of entries of `from` or later.
    pub fn of(conversations: impl IntoIterator<Item = String>, from: i64) -> Self {
        let conversations = conversations.into_iter().map(|id| (id, BTreeMap::new())).collect();
        Self { conversations, from, entries: 0, most: MOST_ENTRIES }
    }

    /// Notes a record, if it is of one of the conversations.
    pub fn note(&mut self, conversation: &str, value: &[u8]) {
        let Some(entries) = self.conversations.get_mut(conversation) else { return };
        let Some((id, held)) = read(value).filter(|(_, held)| held.server_time >= self.from) else { return };
        if entries.insert(id, held).is_none() {
            self.entries = self.entries.saturating_add(1);
        }
        // The last ones are left to the next slice.
        while self.entries > self.most && self.conversations.len() > 1 {
            let left = self.conversations.pop_last().map_or(0, |(_, entries)| entries.len());
            self.entries = self.entries.saturating_sub(left);
        }
    }

    /// Reads a slice back from the topic.
    ///
    /// # Errors
    /// When the topic cannot be read to its end.
    pub async fn read(self, kafka: &KafkaSettings, topic: &str, org: &OrgId, at: ScanFrom) -> Result<Self, KafkaError> {
        let slice = Arc::new(Mutex::new(self));
        let (noted, org) = (slice.clone(), org.clone());
        let note = move |record: &ScannedRecord| {
            if let Some((conversation, value)) = of_org(record, &org).zip(record.value.as_deref()) {
                locked(&noted).note(conversation, value);
            }
        };
        let over = CancellationToken::new();
        let _ends = over.clone().drop_guard();
        scan(kafka, topic, at, while_wanted(over, note)).await?;
        Ok(std::mem::take(&mut *locked(&slice)))
    }
}

/// The conversations of an organisation of which the topic holds anything.
///
/// # Errors
/// When it cannot be read to its end.
pub(super) async fn conversations(
    kafka: &KafkaSettings,
    topic: &str,
    org: &OrgId,
    at: ScanFrom,
) -> Result<BTreeSet<String>, KafkaError> {
    let found: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let (noted, org) = (found.clone(), org.clone());
    let note = move |record: &ScannedRecord| {
        if let Some(conversation) = of_org(record, &org) {
            let mut noted = locked(&noted);
            if !noted.contains(conversation) {
                noted.insert(conversation.to_owned());
            }
        }
    };
    let over = CancellationToken::new();
    let _ends = over.clone().drop_guard();
    scan(kafka, topic, at, while_wanted(over, note)).await?;
    Ok(std::mem::take(&mut *locked(&found)))
}

/// Notes records until nobody waits for them any more: a thread that reads a topic cannot be ended from outside.
fn while_wanted(
    over: CancellationToken,
    mut note: impl FnMut(&ScannedRecord),
) -> impl FnMut(&ScannedRecord) -> ControlFlow<()> {
    move |record| {
        if over.is_cancelled() {
            return ControlFlow::Break(());
        }
        note(record);
        ControlFlow::Continue(())
    }
}

/// The conversation of a record of an organisation.
fn of_org<'a>(record: &'a ScannedRecord, org: &OrgId) -> Option<&'a str> {
    let own = record.header("org") == Some(org.as_str().as_bytes());
    std::str::from_utf8(record.key.as_deref().filter(|_| own)?).ok()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one insert or remove.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{EntityPolicy, FieldPolicies, Treatment};
    use crate::config::CONVERSATION_ENTRY;
    use crate::pipeline::messages::conversation::{Op, Reason};
    use crate::pipeline::messages::entry_record::{EntryWriter, TreatedEntry};
    use crate::salesforce::conversation_entries::Sender;
    use serde_json::json;

    fn entry(identifier: &str, time: i64, text: &str) -> Entry {
        Entry {
            identifier: identifier.to_owned(),
            server_time: time,
            client_time: None,
            text: Some(text.to_owned()),
            kind: None,
            payload: None,
            sender: Sender::default(),
            related: Vec::new(),
        }
    }

    /// The value of the record of an entry.
    fn value(entry: &Entry, api: &'static str, policies: &FieldPolicies, too_large: bool) -> Vec<u8> {
        let org: OrgId = "00D8d00000AbCdEEAV".parse().expect("an org");
        let fetched_at = DateTime::from_timestamp_millis(1_790_000_000_123).expect("in range");
        let (topic, reason) = ("p.ConversationEntry".into(), Reason::Event);
        let writer = EntryWriter { topic, org: &org, conversation: "c", reason, api, fetched_at, policies };
        let treated = TreatedEntry::new(entry.clone(), policies);
        let record = writer.record(Op::Message, &treated, None, None, too_large);
        record.value.expect("a value").to_vec()
    }

    #[test]
    fn what_was_written_of_an_entry_is_found_again_under_its_policy_and_a_change_is_seen() {
        let masked = [("text".to_owned(), Treatment::Mask { keep_last: 2 })];
        let masked = FieldPolicies::new([EntityPolicy::new(CONVERSATION_ENTRY, masked, None)]);
        let payload = json!({"b": [1.1, 2.5e300, 123456789012345678_u64], "a": {"text": "Hello"}});
        let full = Entry { kind: Some("Message".into()), payload: Some(payload), ..entry("e", 5, "Hello") };
        for policies in [FieldPolicies::default(), masked] {
            let (id, held) = read(&value(&full, "data", &policies, false)).expect("an entry");
            assert_eq!((id.as_str(), held.server_time, held.fetched_at), ("e", 5, 1_790_000_000_123));
            let mark = |entry: &Entry| Mark::of(&TreatedEntry::new(entry.clone(), &policies));
            assert!(held.says(mark(&full), true));
            let redacted = Entry { text: Some("Hexxx".into()), ..full.clone() };
            assert!(!held.says(mark(&redacted), true) && !held.says(mark(&redacted), false));
            let other_kind = Entry { kind: Some("Note".into()), ..full.clone() };
            assert!(!held.says(mark(&other_kind), true));
            assert!(held.says(mark(&other_kind), false), "the other API tells no types");
        }
        let (_, large) = read(&value(&full, "data", &FieldPolicies::default(), true)).expect("an entry");
        assert!(large.says(Mark::of(&entry("e", 5, "anything")), true), "its content was never written");
        assert!(read(b"{}").is_none() && read(b"\xff").is_none());
    }

    #[test]
    fn a_topic_is_read_no_further_once_nobody_waits_for_it() {
        let record = ScannedRecord {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            timestamp: None,
            key: None,
            value: None,
            headers: Vec::new(),
        };
        let (over, mut noted) = (CancellationToken::new(), 0);
        let ends = over.clone().drop_guard();
        let mut visit = while_wanted(over, |_| noted += 1);
        assert_eq!((visit(&record), visit(&record)), (ControlFlow::Continue(()), ControlFlow::Continue(())));
        drop(ends);
        assert_eq!(visit(&record), ControlFlow::Break(()));
        drop(visit);
        assert_eq!(noted, 2);
    }

    #[test]
    fn a_slice_holds_what_was_written_last_of_its_conversations_and_leaves_the_last_ones_to_the_next_where_it_is_full()
    {
        let plain = FieldPolicies::default();
        let written = |id: &str, time, text: &str| value(&entry(id, time, text), "connect", &plain, false);
        let mut slice = Slice { most: 3, ..Slice::of(["a", "b", "c"].map(str::to_owned), 10) };
        slice.note("a", &written("1", 9, "older than what is compared"));
        slice.note("a", &written("2", 10, "one"));
        slice.note("a", &written("2", 10, "***"));
        slice.note("elsewhere", &written("3", 10, "one"));
        assert!(slice.conversations["a"]["2"].says(Mark::of(&entry("2", 10, "***")), false));
        assert_eq!((slice.entries, slice.conversations.len()), (1, 3));
        slice.note("c", &written("4", 10, "one"));
        slice.note("b", &written("5", 10, "one"));
        slice.note("b", &written("6", 10, "one"));
        assert_eq!(slice.conversations.keys().collect::<Vec<_>>(), ["a", "b"]);
        slice.note("c", &written("7", 10, "one"));
        assert_eq!((slice.entries, slice.conversations.len()), (3, 2), "it does not come back in part");
        for number in 10..20 {
            slice.note("a", &written(&number.to_string(), 10, "one"));
        }
        assert_eq!((slice.entries, slice.conversations.len()), (11, 1), "one is always whole");
    }
}

//! The gap ledger `<prefix>.gaps`: every place at which the copy in Kafka may lack
//! something, opened in the same transaction as the data around it; what a comparison with the org finds stands in none
//! (`ledger_entries` says why it may).
//!
//! The jobs (`jobs::entry`) read the entries to know what to heal, and write the newer states.
//!
//! An entry is keyed by its id and the topic is compacted, so the newest state of each
//! gap is what a reader finds. Entries are never deleted: how a hole was healed is part of the proof.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use crate::identity::{OrgId, ReplayId, TopicName};
use crate::kafka::OutputRecord;
use crate::position::EventKey;

/// What entries about messages say instead of an object.
pub const CONVERSATION_ENTRY: &str = "ConversationEntry";

/// Why something may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// Salesforce could not make the change event of these records and said so.
    GapEvent,
    /// One transaction changed more than the bus carries: any record of the entity may have changed.
    Overflow,
    /// A field's type was converted with loss: any record of the entity may have changed.
    Wildcard,
    /// An event of the reserved type SNAPSHOT.
    Snapshot,
    /// A change type that this version does not know.
    UnknownChangeType,
    /// The stored position is older than Salesforce keeps events.
    Expired,
    /// The organisation has moved, and its event bus began anew.
    Moved,
    /// Salesforce refused the stored position for a reason it does not tell.
    Refused,
    /// A start at the tip ended before a position was known; what was published meanwhile was not delivered.
    LatestRestarted,
    /// A start at the tip was resumed inside what may be a group of events with one replay id.
    Unanchored,
    /// An operator moved or removed the position.
    PositionMoved,
    /// Records that should have been read over REST and were not.
    Unread,
    /// Records that the user may not see, or that were purged: reading them tells nothing.
    Hidden,
    /// A comparison with the org found that what Kafka holds of these records is not what the org has.
    Reconciled,
    /// An operator has had a dead letter redriven: what its event told stands nowhere yet.
    Redriven,
}

impl GapCause {
    /// As entries of the ledger have it.
    pub fn name(self) -> String {
        let named = serde_json::to_value(self).ok();
        named.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

/// What a comparison with the org saw on Kafka's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Records that Kafka holds and that no query of the org shows, to a user who sees all records. Only from here may
    /// a job take single records for deleted that are not in the recycle bin either.
    pub absent: Vec<String>,
    /// Up to when what Kafka holds of a record is current, where that is later than the org's own stamp or where there
    /// is none.
    pub known: BTreeMap<String, DateTime<Utc>>,
    /// How many records of the object Kafka holds in all.
    pub held: u64,
    /// When it began to look, by our clock: what was written since may not have been seen.
    pub at: DateTime<Utc>,
}

/// One end of a gap.
#[derive(Debug, Clone, Default, Serialize)]
pub struct GapEnd {
    /// The replay id, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_id: Option<ReplayId>,
    /// Salesforce's time, where it is known.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "with_milliseconds")]
    pub time: Option<DateTime<Utc>>,
}

/// The one rendering of a date-time.
fn with_milliseconds<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)).serialize(serializer)
}

/// A gap that has just been found.
#[derive(Debug, Clone)]
pub struct OpenGap {
    /// The id: that of the event, so that a repeated delivery writes the same entry, or a new one for a range.
    pub id: String,
    /// Why.
    pub cause: GapCause,
    /// The object, where only one is concerned.
    pub entity: Option<String>,
    /// The records, where they are known by name.
    pub records: Vec<String>,
    /// The last position or time that is surely covered.
    pub from: GapEnd,
    /// The first that is covered again.
    pub to: GapEnd,
    /// The facts in a sentence, for the operator.
    pub detail: String,
    /// The event that told, if one did, with its `source` object.
    pub event: Option<EventKey>,
    /// The `source` object of that event.
    pub source: Option<Value>,
    /// What a comparison saw, if one told.
    pub compared: Option<Compared>,
    /// The key of the dead letter that is redriven.
    pub letter: Option<String>,
    /// Those of the records of which no letter tells anything later than that they were deleted.
    pub deleted: Vec<String>,
}

impl OpenGap {
    /// A gap told by an event.
    pub fn of_event(key: &EventKey, cause: GapCause, entity: &str, records: Vec<String>, detail: String) -> Self {
        Self {
            id: format!("event-{}-{}", key.replay_id(), key.event_id()),
            cause,
            entity: Some(entity.to_owned()),
            records,
            from: GapEnd::default(),
            to: GapEnd { replay_id: Some(key.replay_id().clone()), time: None },
            detail,
            event: Some(key.clone()),
            source: None,
            compared: None,
            letter: None,
            deleted: Vec::new(),
        }
    }

    /// A gap between two positions or times.
    pub fn of_range(cause: GapCause, from: GapEnd, to: GapEnd, detail: String) -> Self {
        let id = format!("range-{}", Uuid::new_v4());
        Self {
            id,
            cause,
            entity: None,
            records: Vec::new(),
            from,
            to,
            detail,
            event: None,
            source: None,
            compared: None,
            letter: None,
            deleted: Vec::new(),
        }
    }

    /// The gap that a dead letter left. Its id is made of the letter's key, so that a letter never has two.
    pub fn of_letter(letter: &str, entity: Option<String>, records: Vec<String>, to: GapEnd, detail: String) -> Self {
        let range = Self::of_range(GapCause::Redriven, GapEnd::default(), to, detail);
        Self { id: format!("letter-{letter}"), entity, records, letter: Some(letter.to_owned()), ..range }
    }

    /// What a comparison of an object found: these records, or, where there are none, all that were changed since `from`.
    pub fn reconciled(entity: &str, records: Vec<String>, compared: Compared, from: GapEnd, detail: String) -> Self {
        let (id, entity) = (format!("reconciled-{}", Uuid::new_v4()), Some(entity.to_owned()));
        let range = Self::of_range(GapCause::Reconciled, from, GapEnd::default(), detail);
        Self { id, entity, records, compared: Some(compared), ..range }
    }

    /// Messages that could not be fetched since `since`; `records` are the sessions or the conversation that they belong to.
    /// No job heals it: the runner of the stream's messages does.
    pub fn messages(records: Vec<String>, since: DateTime<Utc>, detail: String) -> Self {
        let (id, entity) = (format!("messages-{}", Uuid::new_v4()), Some(CONVERSATION_ENTRY.to_owned()));
        let from = GapEnd { replay_id: None, time: Some(since) };
        Self { id, entity, records, ..Self::of_range(GapCause::Unread, from, GapEnd::default(), detail) }
    }

    /// A start at the tip that goes on inside what may be a group of events with one replay id.
    pub fn unanchored(replay_id: ReplayId, time: Option<DateTime<Utc>>) -> Self {
        let detail = "the only position known lies inside what may be a group of enriched events with one \
                      replay id; events of that group that had not been delivered are not delivered any more";
        let end = GapEnd { replay_id: Some(replay_id), time };
        Self::of_range(GapCause::Unanchored, end.clone(), end, detail.to_owned())
    }

    /// The ledger's record.
    pub fn record(&self, ledger_topic: &Arc<str>, org: &OrgId, topic: &TopicName, run_id: &str) -> OutputRecord {
        let mut value = serde_json::json!({
            "v": 1,
            "id": self.id,
            "state": "open",
            "cause": self.cause,
            "org": org,
            "topic": topic,
            "entity": self.entity,
            "records": self.records,
            "from": self.from,
            "to": self.to,
            "detail": self.detail,
            "source": self.source,
            "opened_at": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            "opened_by": run_id,
        });
        if let (Some(compared), Value::Object(members)) = (&self.compared, &mut value) {
            let known = |(id, at): (&String, &DateTime<Utc>)| {
                (id.clone(), Value::String(at.to_rfc3339_opts(SecondsFormat::Millis, true)))
            };
            members.insert("absent".to_owned(), serde_json::json!(compared.absent));
            members.insert("known".to_owned(), Value::Object(compared.known.iter().map(known).collect()));
            members.insert("held".to_owned(), Value::from(compared.held));
            let at = compared.at.to_rfc3339_opts(SecondsFormat::Millis, true);
            members.insert("compared_at".to_owned(), Value::String(at));
        }
        if let (Some(letter), Value::Object(members)) = (&self.letter, &mut value) {
            members.insert("letter".to_owned(), Value::from(letter.as_str()));
            if !self.deleted.is_empty() {
                members.insert("deleted".to_owned(), serde_json::json!(self.deleted));
            }
        }
        let mut headers = vec![
            ("casewire", Bytes::from_static(b"1")),
            ("content-type", Bytes::from_static(b"application/json")),
            ("org", Bytes::copy_from_slice(org.as_str().as_bytes())),
        ];
        if let Some(event) = &self.event {
            headers.push(("replay_id", Bytes::from(event.replay_id().to_string())));
            headers.push(("event_id", Bytes::copy_from_slice(event.event_id().as_bytes())));
        }
        OutputRecord {
            topic: ledger_topic.clone(),
            key: Bytes::from(self.id.clone().into_bytes()),
            value: Some(Bytes::from(value.to_string().into_bytes())),
            headers,
        }
    }
}

//! What becomes of an event that cannot be decoded: its bytes are kept in
//! `<prefix>.dead-letters`, in the transaction in which its records would have stood.
//!
//! Of an object with a field policy the bytes are not kept: they hold what the policy keeps from readers. The letter names
//! the records instead, which is enough to read them anew.
//!
//! And the brake: a few such events are data, many are a fault of ours or a change at
//! Salesforce that somebody has to look at before the whole stream ends in the letters.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::change::{FieldPolicies, Header, WriterSchema};
use crate::failure::Failure;
use crate::identity::{OrgId, SchemaId, TopicKind, TopicName};
use crate::kafka::{OutputRecord, ScannedRecord};
use crate::pipeline::stop::StreamError;
use crate::position::EventKey;

/// So many undecodable events in a row stop the stream.
const IN_A_ROW: usize = 20;

/// Of so many events …
const WINDOW: usize = 10_000;

/// … more than this many undecodable ones (1 %) stop the stream.
const IN_WINDOW: usize = 100;

/// An undecodable event, complete: it can be decoded again once the reason is gone.
#[derive(Debug, Clone)]
pub struct DeadLetter<'a> {
    /// Which event.
    pub key: &'a EventKey,
    /// The event id as received; empty when there was none.
    pub event_id: &'a str,
    /// The writer schema that the event names.
    pub schema_id: &'a SchemaId,
    /// The Avro bytes as received.
    pub payload: &'a Bytes,
    /// What is kept in their place.
    pub withheld: Option<Withheld>,
    /// Why it could not be decoded.
    pub reason: &'a str,
}

impl DeadLetter<'_> {
    /// The record: the bytes as value, all else in headers.
    pub fn record(&self, letters_topic: &Arc<str>, org: &OrgId, topic: &TopicName) -> OutputRecord {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let (kind, value): (&'static [u8], _) = match &self.withheld {
            // A struct of texts always has a JSON form.
            Some(withheld) => (b"application/json", serde_json::to_vec(withheld).unwrap_or_default().into()),
            None => (b"avro/binary", self.payload.clone()),
        };
        let mut headers = vec![
            ("casewire", Bytes::from_static(b"1")),
            ("content-type", Bytes::from_static(kind)),
            ("org", text(org.as_str())),
            ("topic", text(topic.as_str())),
            ("replay_id", Bytes::from(self.key.replay_id().to_string())),
            ("schema_id", text(self.schema_id.as_str())),
            ("reason", text(self.reason)),
        ];
        if !self.event_id.is_empty() {
            headers.push(("event_id", text(self.event_id)));
        }
        let id = format!("{}-{}", self.key.replay_id(), self.key.event_id());
        OutputRecord { topic: letters_topic.clone(), key: Bytes::from(id.into_bytes()), value: Some(value), headers }
    }
}

/// What a letter says instead of its event's bytes, as far as the event's header could be decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// Why: always [`WITHHELD`].
    withheld: String,
    /// The object or platform event; none where nobody knows which of a channel's.
    pub entity: Option<String>,
    /// The change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_type: Option<String>,
    /// The records that changed.
    #[serde(default)]
    pub records: Vec<String>,
    /// When the change was committed at Salesforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<DateTime<Utc>>,
}

/// Why there are no bytes in a letter.
const WITHHELD: &str = "field policy";

impl Withheld {
    /// What to keep of an event of `topic` in place of its bytes; none where they may be kept. Where it cannot be told whose
    /// event it is, they may not if any of the topic's could be of an object with a policy.
    pub fn of_event(
        topic: &TopicName,
        schema: Option<&WriterSchema>,
        payload: &[u8],
        policies: &FieldPolicies,
    ) -> Option<Self> {
        if policies.is_empty() {
            return None;
        }
        let header = schema.and_then(|schema| schema.decode_header(payload).ok().flatten());
        // The schema's name is not in the bytes, which may be damaged.
        let entity = match (topic.kind(), schema) {
            (TopicKind::Entity(entity) | TopicKind::PlatformEvent(entity), _) => Some(entity),
            (_, Some(schema)) => entity_of(schema),
            (_, None) => None,
        };
        let told = header.as_ref().map(|header| header.entity.as_str());
        let kept = |entity: &str| policies.of(entity).is_none();
        if entity.as_deref().is_some_and(kept) && told.is_none_or(kept) {
            return None;
        }
        let Header { change_type, record_ids, entity: named, .. } = match &header {
            Some(header) => header,
            None => return Some(Self { withheld: WITHHELD.to_owned(), entity, ..Self::default() }),
        };
        Some(Self {
            withheld: WITHHELD.to_owned(),
            entity: Some(named.clone()),
            change_type: Some(change_type.as_str().to_owned()),
            records: record_ids.clone(),
            committed_at: header.as_ref().and_then(Header::committed_at),
        })
    }

    /// What a letter says in place of bytes; none of one that holds them.
    pub fn of_letter(letter: &ScannedRecord) -> Option<Self> {
        let told = letter.header("content-type") == Some(b"application/json");
        let value = letter.value.as_deref().filter(|_| told)?;
        serde_json::from_slice(value).ok().filter(|withheld: &Self| withheld.withheld == WITHHELD)
    }
}

/// The object of a schema: `Case` for `CaseChangeEvent`, `Order__e` for itself.
fn entity_of(schema: &WriterSchema) -> Option<String> {
    if !schema.carries_header() {
        return Some(schema.name().to_owned());
    }
    match format!("/data/{}", schema.name()).parse::<TopicName>().ok()?.kind() {
        TopicKind::Entity(entity) => Some(entity),
        _ => None,
    }
}

/// Stops a stream that would end in the dead letters. It outlives restarts of the stream:
/// otherwise each attempt would let another nineteen pass.
#[derive(Debug, Default)]
pub struct FloodBrake {
    /// The events since the last decoded one. One that comes again after a failed transaction counts once.
    in_a_row: HashSet<EventKey>,
    window: VecDeque<bool>,
    in_window: usize,
}

impl FloodBrake {
    /// Notes an event that was decoded.
    pub fn decoded(&mut self) {
        self.in_a_row.clear();
        self.push(false);
    }

    /// Notes an event that was not.
    ///
    /// # Errors
    /// When it is one too many. The event is then not to be put away.
    pub fn undecodable(&mut self, event: &EventKey, reason: &str) -> Result<(), Failure> {
        if self.in_a_row.insert(event.clone()) {
            self.push(true);
        }
        let many = if self.in_a_row.len() >= IN_A_ROW {
            format!("{} events in a row", self.in_a_row.len())
        } else if self.in_window > IN_WINDOW {
            format!("{} of the last {WINDOW} events", self.in_window)
        } else {
            return Ok(());
        };
        Err(StreamError::Flood { many, reason: reason.to_owned() }.into())
    }

    fn push(&mut self, undecodable: bool) {
        self.window.push_back(undecodable);
        self.in_window += usize::from(undecodable);
        if self.window.len() > WINDOW {
            let oldest = self.window.pop_front().unwrap_or_default();
            self.in_window -= usize::from(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{EntityPolicy, Treatment};
    use crate::identity::ReplayId;

    fn event(number: usize) -> EventKey {
        EventKey::new(ReplayId::from(Bytes::from_static(&[7])), &number.to_string(), b"")
    }

    #[test]
    fn the_bytes_of_an_event_are_kept_only_where_it_is_surely_of_no_object_with_a_policy() {
        let policies = FieldPolicies::new([EntityPolicy::new("Case", [("Subject".to_owned(), Treatment::Drop)], None)]);
        let of = |topic: &str, policies: &FieldPolicies| {
            Withheld::of_event(&topic.parse().expect("a topic"), None, b"bytes", policies)
                .map(|withheld| withheld.entity)
        };
        assert_eq!(of("/data/CaseChangeEvent", &policies), Some(Some("Case".to_owned())));
        assert_eq!(of("/data/ChangeEvents", &policies), Some(None), "without its schema it may be anybody's");
        assert_eq!(of("/event/Alerts__chn", &policies), Some(None));
        assert_eq!(of("/data/LeadChangeEvent", &policies), None);
        assert_eq!(of("/data/ChangeEvents", &FieldPolicies::default()), None);
    }

    #[test]
    fn twenty_in_a_row_stop_the_stream_and_one_decoded_event_releases_it() {
        let mut brake = FloodBrake::default();
        assert!((1..IN_A_ROW).all(|number| brake.undecodable(&event(number), "reason").is_ok()));
        assert!((1..IN_A_ROW).all(|number| brake.undecodable(&event(number), "reason").is_ok()), "the same ones again");
        assert!(brake.undecodable(&event(IN_A_ROW), "reason").is_err());
        assert!(brake.undecodable(&event(IN_A_ROW), "reason").is_err(), "the brake holds over a restart of the stream");
        brake.decoded();
        assert!(brake.undecodable(&event(IN_A_ROW), "reason").is_ok());
    }

    #[test]
    fn more_than_one_per_cent_of_ten_thousand_stop_the_stream() {
        let mut brake = FloodBrake::default();
        for number in 0..IN_WINDOW {
            assert!(brake.undecodable(&event(number), "reason").is_ok());
            (0..99).for_each(|_| brake.decoded());
        }
        assert!(brake.undecodable(&event(IN_WINDOW), "reason").is_ok(), "the first of them has left the window");
        assert!(brake.undecodable(&event(IN_WINDOW + 1), "reason").is_err());
    }
}

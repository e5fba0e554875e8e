//! From a decoded change to the records that consumers read: topic, key, headers, JSON.
//! The contract is `docs/records.md`; its version is the `casewire` header.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::change::{Change, ChangeType, Header, JsonObject, RecordIdKind, render};
use crate::config::RecordMode;
use crate::identity::{OrgId, SchemaId, TopicName};
use crate::kafka::OutputRecord;
use crate::pipeline::ledger::{GapCause, OpenGap};
use crate::pipeline::want::{Reason, Unknown, Want};
use crate::position::EventKey;

/// One received event, as the records name it.
#[derive(Debug, Clone, Copy)]
pub struct EventSource<'a> {
    /// Which event.
    pub key: &'a EventKey,
    /// The event id as received; empty when there was none.
    pub event_id: &'a str,
    /// The writer schema.
    pub schema_id: &'a SchemaId,
    /// The name of the writer schema: `CaseChangeEvent`, `Order__e`.
    pub schema_name: &'a str,
}

/// What one event becomes.
#[derive(Debug, Default)]
pub struct EventRecords {
    /// One for each record id, and tombstones.
    pub records: Vec<OutputRecord>,
    /// Which of the records are to be completed.
    pub wants: Vec<Want>,
    /// What the event says is missing.
    pub gap: Option<OpenGap>,
    /// When the change was committed at Salesforce.
    pub committed_at: Option<DateTime<Utc>>,
}

/// An event that was decoded and still says nothing that can be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableEvent {
    /// No record id: nothing tells which record is meant.
    #[error("The event names no record")]
    NoRecords,
    /// The entity's name could not be part of a Kafka topic.
    #[error("The entity `{0}` is not an API name")]
    EntityName(String),
    /// Its values, repeated for each of its record ids, would fill the memory.
    #[error(
        "Its {records} records would take {bytes} bytes, more than the {limit} that `max_event_bytes` of [batch] allows"
    )]
    TooLarge {
        /// The record ids.
        records: usize,
        /// What their records would take, headers included.
        bytes: usize,
        /// What they may.
        limit: usize,
    },
    /// The time of commit is out of range.
    #[error("The commit timestamp {0} is not a time")]
    CommitTimestamp(i64),
}

/// Writes the records of one stream.
#[derive(Debug)]
pub struct RecordWriter {
    org: OrgId,
    topic: TopicName,
    prefix: String,
    tombstones: bool,
    mode: RecordMode,
    max_event_bytes: usize,
    /// The organisation as a header's value.
    org_header: Bytes,
    entities: HashMap<String, EntityNames>,
}

/// What every record of an entity has in common, made once.
#[derive(Debug, Clone)]
struct EntityNames {
    topic: Arc<str>,
    header: Bytes,
}

impl RecordWriter {
    /// For one stream whose records are not completed.
    pub fn new(org: OrgId, topic: TopicName, prefix: String, tombstones: bool) -> Self {
        let org_header = Bytes::copy_from_slice(org.as_str().as_bytes());
        Self {
            org,
            topic,
            prefix,
            tombstones,
            mode: RecordMode::Never,
            max_event_bytes: usize::MAX,
            org_header,
            entities: HashMap::new(),
        }
    }

    /// The same for a stream whose records are completed as `mode` says.
    pub fn completed(self, mode: RecordMode) -> Self {
        Self { mode, ..self }
    }

    /// With a limit to what the records of one event may take together.
    pub fn limited_to(self, max_event_bytes: usize) -> Self {
        Self { max_event_bytes, ..self }
    }

    /// The topic of an entity.
    pub fn entity_topic(&mut self, entity: &str) -> Arc<str> {
        self.entity(entity).topic
    }

    fn entity(&mut self, entity: &str) -> EntityNames {
        if let Some(names) = self.entities.get(entity) {
            return names.clone();
        }
        let topic = format!("{}.{entity}", self.prefix).into();
        let names = EntityNames { topic, header: Bytes::copy_from_slice(entity.as_bytes()) };
        self.entities.insert(entity.to_owned(), names.clone());
        names
    }

    /// The records of one event.
    ///
    /// # Errors
    /// When the event cannot be written as any record; it is a dead letter then.
    pub fn write(&mut self, source: EventSource<'_>, change: &Change) -> Result<EventRecords, UnusableEvent> {
        match &change.header {
            Some(header) => self.change_event(source, header, change),
            None => self.platform_event(source, change),
        }
    }

    fn change_event(
        &mut self,
        source: EventSource<'_>,
        header: &Header,
        change: &Change,
    ) -> Result<EventRecords, UnusableEvent> {
        if header.record_ids.is_empty() {
            return Err(UnusableEvent::NoRecords);
        }
        check_entity(&header.entity)?;
        let committed_at = header.committed_at().ok_or(UnusableEvent::CommitTimestamp(header.commit_timestamp))?;
        let mut committed_text = String::with_capacity(24);
        render::write_date_time(header.commit_timestamp, &mut committed_text)
            .map_err(|_| UnusableEvent::CommitTimestamp(header.commit_timestamp))?;
        // The renderer writes JSON; a header wants the bare text.
        let committed_bare = committed_text.trim_matches('"');
        let op = operation(&header.change_type);
        let mut written = EventRecords { committed_at: Some(committed_at), ..EventRecords::default() };
        if let Some(op) = op {
            let EntityNames { topic: entity_topic, header: entity } = self.entity(&header.entity);
            let headers = self.headers(source, entity, op, Some(committed_bare));
            let head = record_head(op, &header.entity);
            let body = record_body(change);
            let of = header.record_ids.len();
            self.check_size(source, header, committed_bare, body.text.len(), &headers)?;
            for (index, id) in header.record_ids.iter().enumerate() {
                if RecordIdKind::of(id) != RecordIdKind::Record {
                    continue;
                }
                let mut value = String::with_capacity(head.len() + body.text.len() + 640);
                value.push_str(&head);
                render::write_quoted(id, &mut value);
                let base = value.len();
                value.push_str(&body.text);
                if let Some(reason) = self.wanted(&header.change_type, change, &body, base) {
                    let slot = base + body.slot;
                    let (record, schema) = (written.records.len(), source.schema_id.clone());
                    written.wants.push(Want { record, slot, schema, committed_at, reason });
                }
                self.write_source(source, header, committed_bare, index, of, &mut value);
                value.push('}');
                let key = Bytes::copy_from_slice(id.as_bytes());
                let value = Some(Bytes::from(value.into_bytes()));
                written.records.push(OutputRecord {
                    topic: entity_topic.clone(),
                    key: key.clone(),
                    value,
                    headers: headers.clone(),
                });
                if self.tombstones && op == "delete" {
                    let headers = headers.clone();
                    written.records.push(OutputRecord { topic: entity_topic.clone(), key, value: None, headers });
                }
            }
        }
        written.gap = self.gap(source, header, committed_bare);
        Ok(written)
    }

    /// Whether a record of a change is to be completed, and why. `base` is where the body stands in the value.
    fn wanted(&self, change_type: &ChangeType, change: &Change, body: &Body, base: usize) -> Option<Reason> {
        if self.mode == RecordMode::Never {
            return None;
        }
        let always = self.mode == RecordMode::Always;
        match change_type {
            gap if gap.is_gap() => Some(Reason::Gap { deletes: *gap == ChangeType::GapDelete }),
            ChangeType::Create | ChangeType::Update | ChangeType::Undelete if !change.unresolved.is_empty() => {
                Some(Reason::Unknown(Box::new(Unknown {
                    changed_end: base + body.changed_end,
                    unresolved: base + body.unresolved.start..base + body.unresolved.end,
                    fields: change.unresolved.clone(),
                    whole: always,
                })))
            }
            ChangeType::Create | ChangeType::Update | ChangeType::Undelete if always => Some(Reason::Whole),
            _ => None,
        }
    }

    /// Whether the records of an event may be written, found out before any of them takes memory. An event of 1 MB
    /// with half of it ids and half of it text would become ten gigabytes: each record repeats the text.
    fn check_size(
        &self,
        source: EventSource<'_>,
        header: &Header,
        committed_at: &str,
        body: usize,
        headers: &[(&'static str, Bytes)],
    ) -> Result<(), UnusableEvent> {
        /// What a record takes besides its texts: its id twice, the list of its headers, and room that is not used up.
        const OVERHEAD: usize = 1024;
        let records = header.record_ids.len();
        let mut text = String::new();
        self.write_source(source, header, committed_at, records, records, &mut text);
        let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let each = body.saturating_add(text.len()).saturating_add(headers).saturating_add(OVERHEAD);
        let bytes = each.saturating_mul(records);
        if bytes > self.max_event_bytes {
            return Err(UnusableEvent::TooLarge { records, bytes, limit: self.max_event_bytes });
        }
        Ok(())
    }

    /// The ledger entry of an event that says more than it carries.
    fn gap(&self, source: EventSource<'_>, header: &Header, committed_at: &str) -> Option<OpenGap> {
        let ids = &header.record_ids;
        let entity = &header.entity;
        let any = |kind| ids.iter().any(|id| RecordIdKind::of(id) == kind);
        let (cause, detail) = match &header.change_type {
            ChangeType::GapOverflow => {
                (GapCause::Overflow, format!("one transaction changed more {entity} records than events can carry"))
            }
            _ if any(RecordIdKind::Overflow) => {
                (GapCause::Overflow, format!("one transaction changed more {entity} records than events can carry"))
            }
            _ if any(RecordIdKind::Wildcard) => (
                GapCause::Wildcard,
                format!("every {entity} record may have changed: the type of a field was converted"),
            ),
            ChangeType::Snapshot => (
                GapCause::Snapshot,
                format!("a SNAPSHOT event of {} {entity} records, a type reserved by Salesforce", ids.len()),
            ),
            ChangeType::Unknown(symbol) => (
                GapCause::UnknownChangeType,
                format!("a change of the unknown type {symbol} to {} {entity} records", ids.len()),
            ),
            gap if gap.is_gap() => {
                (GapCause::GapEvent, format!("a {gap} event without content for {} {entity} records", ids.len()))
            }
            _ => return None,
        };
        let mut source_text = String::new();
        self.write_source(source, header, committed_at, 0, ids.len(), &mut source_text);
        let mut gap = OpenGap::of_event(source.key, cause, entity, ids.clone(), detail);
        gap.to.time = header.committed_at();
        gap.source = serde_json::from_str(source_text.trim_start_matches(",\"source\":")).ok();
        Some(gap)
    }

    fn platform_event(&mut self, source: EventSource<'_>, change: &Change) -> Result<EventRecords, UnusableEvent> {
        check_entity(source.schema_name)?;
        let EntityNames { topic, header: entity } = self.entity(source.schema_name);
        let id = source.key.event_id();
        let mut value = record_head("event", source.schema_name);
        render::write_quoted(id, &mut value);
        value.push_str(&record_body(change).text);
        value.push_str(",\"source\":{\"org\":");
        render::write_quoted(self.org.as_str(), &mut value);
        value.push_str(",\"topic\":");
        render::write_quoted(self.topic.as_str(), &mut value);
        write_event(source, &mut value);
        value.push_str(",\"index\":0,\"of\":1}}");
        let created = created_at(&change.changed);
        let headers = self.headers(source, entity, "event", None);
        let record = OutputRecord {
            topic,
            key: Bytes::copy_from_slice(id.as_bytes()),
            value: Some(Bytes::from(value.into_bytes())),
            headers,
        };
        Ok(EventRecords { records: vec![record], wants: Vec::new(), gap: None, committed_at: created })
    }

    fn headers(
        &self,
        source: EventSource<'_>,
        entity: Bytes,
        op: &'static str,
        committed_at: Option<&str>,
    ) -> Vec<(&'static str, Bytes)> {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let mut headers = Vec::with_capacity(8);
        headers.push(("casewire", Bytes::from_static(b"1")));
        headers.push(("content-type", Bytes::from_static(b"application/json")));
        headers.push(("entity", entity));
        headers.push(("op", Bytes::from_static(op.as_bytes())));
        headers.push(("org", self.org_header.clone()));
        if !source.event_id.is_empty() {
            headers.push(("event_id", text(source.event_id)));
        }
        headers.push(("replay_id", Bytes::from(source.key.replay_id().to_string())));
        if let Some(committed_at) = committed_at {
            headers.push(("committed_at", text(committed_at)));
        }
        headers
    }

    fn write_source(
        &self,
        source: EventSource<'_>,
        header: &Header,
        committed_at: &str,
        index: usize,
        of: usize,
        out: &mut String,
    ) {
        out.push_str(",\"source\":{\"org\":");
        render::write_quoted(self.org.as_str(), out);
        out.push_str(",\"topic\":");
        render::write_quoted(self.topic.as_str(), out);
        out.push_str(",\"change_type\":");
        render::write_quoted(header.change_type.as_str(), out);
        write_event(source, out);
        out.push_str(",\"transaction\":");
        render::write_quoted(&header.transaction_key, out);
        out.push_str(",\"sequence\":");
        render::write_integer(header.sequence_number, out);
        out.push_str(",\"index\":");
        render::write_integer(count(index), out);
        out.push_str(",\"of\":");
        render::write_integer(count(of), out);
        // A text, because the number exceeds what a JSON number holds exactly in many languages.
        out.push_str(",\"commit_number\":\"");
        render::write_integer(header.commit_number, out);
        out.push_str("\",\"committed_at\":\"");
        out.push_str(committed_at);
        out.push_str("\",\"user\":");
        render::write_quoted(&header.commit_user, out);
        out.push_str(",\"origin\":");
        render::write_quoted(&header.change_origin, out);
        out.push('}');
    }
}

/// The `op` of a change type; none where there is nothing to say about a single record.
fn operation(change_type: &ChangeType) -> Option<&'static str> {
    match change_type {
        ChangeType::Create => Some("create"),
        ChangeType::Update => Some("update"),
        ChangeType::Delete => Some("delete"),
        ChangeType::Undelete => Some("undelete"),
        ChangeType::GapCreate | ChangeType::GapUpdate | ChangeType::GapDelete | ChangeType::GapUndelete => Some("gap"),
        ChangeType::GapOverflow | ChangeType::Snapshot | ChangeType::Unknown(_) => None,
    }
}

/// An API name: letters, digits and underscores, and short enough for a topic of at most 249 characters.
pub(crate) fn check_entity(name: &str) -> Result<(), UnusableEvent> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.is_empty() && name.len() <= 120 && name.bytes().all(legal) {
        return Ok(());
    }
    Err(UnusableEvent::EntityName(name.chars().take(120).collect()))
}

/// From `{` to where the id belongs.
fn record_head(op: &str, entity: &str) -> String {
    format!("{{\"op\":\"{op}\",\"entity\":\"{entity}\",\"id\":")
}

/// Everything that all records of one event have in common, and the places in it.
struct Body {
    text: String,
    /// Where the members of `changed` end.
    changed_end: usize,
    /// Where `,"unresolved":[…]` stands.
    unresolved: Range<usize>,
    /// Where `null` stands for the full record.
    slot: usize,
}

fn record_body(change: &Change) -> Body {
    let mut text = String::with_capacity(change.changed.as_str().len() + 64);
    text.push_str(",\"changed\":");
    text.push_str(change.changed.as_str());
    let start = text.len();
    if !change.unresolved.is_empty() {
        text.push_str(",\"unresolved\":[");
        for (index, diff) in change.unresolved.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            render::write_quoted(&diff.field, &mut text);
        }
        text.push(']');
    }
    let unresolved = start..text.len();
    if !change.enriched.is_empty() {
        text.push_str(",\"enriched\":");
        text.push_str(change.enriched.as_str());
    }
    text.push_str(",\"record\":");
    let slot = text.len();
    text.push_str("null");
    Body { text, changed_end: start - 1, unresolved, slot }
}

fn write_event(source: EventSource<'_>, out: &mut String) {
    out.push_str(",\"replay_id\":\"");
    out.push_str(&source.key.replay_id().to_string());
    out.push('"');
    if !source.event_id.is_empty() {
        out.push_str(",\"event_id\":");
        render::write_quoted(source.event_id, out);
    }
    out.push_str(",\"schema_id\":");
    render::write_quoted(source.schema_id.as_str(), out);
}

/// When a platform event was published: it has no header, but every one has this field.
fn created_at(fields: &JsonObject) -> Option<DateTime<Utc>> {
    #[derive(Deserialize)]
    struct Published {
        #[serde(rename = "CreatedDate")]
        created_date: DateTime<Utc>,
    }
    Some(serde_json::from_str::<Published>(fields.as_str()).ok()?.created_date)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

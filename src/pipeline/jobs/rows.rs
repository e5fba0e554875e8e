//! From a row to the records that consumers read; the contract is `docs/records.md`.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};

use crate::change::{JsonObject, render};
use crate::kafka::OutputRecord;
use crate::pipeline::context::StreamContext;

/// Who read a record.
#[derive(Debug, Clone, Copy)]
pub(in crate::pipeline) enum Reader<'a> {
    /// A job, by its id.
    Job(&'a str),
    /// A poll, by when its round began.
    Poll(&'a str),
}

/// Writes the records of one job or poll, or those that the runner of messages reads beside the messages.
pub(in crate::pipeline) struct RowWriter<'a> {
    /// The stream.
    pub context: &'a StreamContext,
    /// The object.
    pub entity: &'a str,
    /// Its topic.
    pub topic: Arc<str>,
    /// Who read it.
    pub by: Reader<'a>,
    /// What a record that was read is: `refresh`, or `read` by a snapshot.
    pub op: &'static str,
    /// What brought it: `rest` or `bulk`.
    pub from: &'static str,
}

impl RowWriter<'_> {
    /// A record that was read, current up to `as_of` (seconds since 1970).
    pub fn refresh(&self, id: &str, record: &JsonObject, as_of: i64) -> Vec<OutputRecord> {
        vec![self.output(id, Some(self.value(self.op, id, record.as_str(), as_of)), self.headers(self.op))]
    }

    /// A record that was found deleted, as of `as_of` (seconds since 1970).
    pub fn delete(&self, id: &str, as_of: i64) -> Vec<OutputRecord> {
        let value = self.value("delete", id, "null", as_of);
        let headers = self.headers("delete");
        let tombstone = self.context.stream.tombstones.then(|| self.output(id, None, headers.clone()));
        std::iter::once(self.output(id, Some(value), headers)).chain(tombstone).collect()
    }

    /// How the values of all its records end.
    pub fn end(job: &str) -> String {
        let mut end = ",\"job\":".to_owned();
        render::write_quoted(job, &mut end);
        end + "}}"
    }

    fn value(&self, op: &str, id: &str, record: &str, as_of: i64) -> String {
        let mut value = String::with_capacity(record.len() + 320);
        value.push_str("{\"op\":\"");
        value.push_str(op);
        value.push_str("\",\"entity\":");
        render::write_quoted(self.entity, &mut value);
        value.push_str(",\"id\":");
        render::write_quoted(id, &mut value);
        value.push_str(",\"changed\":{},\"record\":");
        value.push_str(record);
        value.push_str(",\"record_as_of\":\"");
        value.push_str(&instant(as_of));
        value.push_str("\",\"record_from\":\"");
        value.push_str(self.from);
        value.push('"');
        let identity = &self.context.identity;
        let (by, name) = match self.by {
            Reader::Job(id) => (",\"job\":", id),
            Reader::Poll(began) => (",\"poll\":", began),
        };
        for (member, text) in
            [(",\"source\":{\"org\":", identity.org.as_str()), (",\"topic\":", identity.topic.as_str()), (by, name)]
        {
            value.push_str(member);
            render::write_quoted(text, &mut value);
        }
        value.push_str("}}");
        value
    }

    fn headers(&self, op: &'static str) -> Vec<(&'static str, Bytes)> {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        vec![
            ("casewire", Bytes::from_static(b"1")),
            ("content-type", Bytes::from_static(b"application/json")),
            ("entity", text(self.entity)),
            ("op", Bytes::from_static(op.as_bytes())),
            ("org", text(self.context.identity.org.as_str())),
        ]
    }

    fn output(&self, id: &str, value: Option<String>, headers: Vec<(&'static str, Bytes)>) -> OutputRecord {
        OutputRecord {
            topic: self.topic.clone(),
            key: Bytes::copy_from_slice(id.as_bytes()),
            value: value.map(|value| Bytes::from(value.into_bytes())),
            headers,
        }
    }
}

/// The one rendering of a date-time.
fn instant(seconds: i64) -> String {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

//! From a row to the records that consumers read; the contract is `docs/records.md`.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};

use crate::change::{JsonObject, render};
use crate::kafka::OutputRecord;
use crate::pipeline::context::StreamContext;

/// Writes the records of one job.
pub(super) struct RowWriter<'a> {
    /// The stream.
    pub context: &'a StreamContext,
    /// The object.
    pub entity: &'a str,
    /// Its topic.
    pub topic: Arc<str>,
    /// The job.
    pub job: &'a str,
}

impl RowWriter<'_> {
    /// A record that was read, current up to `as_of` (seconds since 1970).
    pub fn refresh(&self, id: &str, record: &JsonObject, as_of: i64) -> Vec<OutputRecord> {
        let as_of = instant(as_of);
        let mut value = self.head("refresh", id, record.as_str().len());
        value.push_str(record.as_str());
        value.push_str(",\"record_as_of\":\"");
        value.push_str(&as_of);
        value.push_str("\",\"record_from\":\"rest\"");
        self.source(&mut value, None);
        vec![self.output(id, Some(value), self.headers("refresh", None))]
    }

    /// A record that is deleted, at `at` or before (seconds since 1970).
    pub fn delete(&self, id: &str, at: i64) -> Vec<OutputRecord> {
        let at = instant(at);
        let mut value = self.head("delete", id, 0);
        value.push_str("null");
        self.source(&mut value, Some(&at));
        let headers = self.headers("delete", Some(&at));
        let tombstone = self.context.stream.tombstones.then(|| self.output(id, None, headers.clone()));
        std::iter::once(self.output(id, Some(value), headers)).chain(tombstone).collect()
    }

    /// From `{` to where the full record belongs.
    fn head(&self, op: &str, id: &str, room: usize) -> String {
        let mut value = String::with_capacity(room + 320);
        value.push_str("{\"op\":\"");
        value.push_str(op);
        value.push_str("\",\"entity\":");
        render::write_quoted(self.entity, &mut value);
        value.push_str(",\"id\":");
        render::write_quoted(id, &mut value);
        value.push_str(",\"changed\":{},\"record\":");
        value
    }

    /// From the `source` to `}`.
    fn source(&self, value: &mut String, committed_at: Option<&str>) {
        let identity = &self.context.identity;
        for (name, text) in [
            (",\"source\":{\"org\":", identity.org.as_str()),
            (",\"topic\":", identity.topic.as_str()),
            (",\"job\":", self.job),
        ] {
            value.push_str(name);
            render::write_quoted(text, value);
        }
        if let Some(committed_at) = committed_at {
            value.push_str(",\"committed_at\":");
            render::write_quoted(committed_at, value);
        }
        value.push_str("}}");
    }

    fn headers(&self, op: &'static str, committed_at: Option<&str>) -> Vec<(&'static str, Bytes)> {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let mut headers = vec![
            ("casewire", Bytes::from_static(b"1")),
            ("content-type", Bytes::from_static(b"application/json")),
            ("entity", text(self.entity)),
            ("op", Bytes::from_static(op.as_bytes())),
            ("org", text(self.context.identity.org.as_str())),
        ];
        headers.extend(committed_at.map(|at| ("committed_at", text(at))));
        headers
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

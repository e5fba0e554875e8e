//! What is to be read over REST before a record is written, and how the record is written then.
//!
//! A record is rendered once, by the decode station, with a place left for what is read. Nothing of it is rendered
//! again: what was read is put in between.

use std::ops::Range;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::change::{Row, TextDiff, render};
use crate::kafka::OutputRecord;

/// Every record of a gap event begins so.
const GAP: &[u8] = b"{\"op\":\"gap\"";

/// The place of the record while there is none.
const NONE: &[u8] = b"null";

/// A record of a batch that is to be completed.
#[derive(Debug)]
pub struct Want {
    /// Which record of the batch.
    pub record: usize,
    /// Where `null` stands in its value in the place of the full record.
    pub slot: usize,
    /// The writer schema of its event.
    pub schema: crate::identity::SchemaId,
    /// When its change was committed, or that of a later event that came before the read. What is read is at least as new.
    pub committed_at: DateTime<Utc>,
    /// Why it is to be read.
    pub reason: Reason,
}

/// Why a record is to be read.
#[derive(Debug)]
pub enum Reason {
    /// Its event says only that something happened.
    Gap {
        /// Whether that something is its deletion.
        deletes: bool,
    },
    /// Fields changed to values that the event does not carry.
    Unknown(Box<Unknown>),
    /// The configuration wants the full record of every change.
    Whole,
}

/// Fields that changed to values which the event does not carry.
#[derive(Debug)]
pub struct Unknown {
    /// Where the members of `changed` end in the value.
    pub changed_end: usize,
    /// Where `,"unresolved":[…]` stands in the value.
    pub unresolved: Range<usize>,
    /// The fields, with the difference to the old value where there is one.
    pub fields: Vec<TextDiff>,
    /// Whether the full record is wanted anyway.
    pub whole: bool,
}

impl Want {
    /// The same for a batch in which `first` other records stand before those of its event.
    pub fn moved(mut self, first: usize) -> Self {
        self.record += first;
        self
    }
}

/// Puts a record that was read into the value of a change, or makes the value of a gap event a `refresh`.
pub fn put_record(output: &mut OutputRecord, want: &Want, row: &Row) {
    let as_of = row.as_of.max(want.committed_at);
    let record = row.record.as_str();
    let op = matches!(want.reason, Reason::Gap { .. }).then_some("refresh");
    put(output, want.slot, op, record, Some(as_of));
}

/// Makes the value of a gap event a `delete`. `as_of` is the time of the deleted record, where it was found.
pub fn put_delete(output: &mut OutputRecord, want: &Want, as_of: Option<DateTime<Utc>>) {
    put(output, want.slot, Some("delete"), "null", as_of.map(|as_of| as_of.max(want.committed_at)));
}

fn put(output: &mut OutputRecord, slot: usize, op: Option<&'static str>, record: &str, as_of: Option<DateTime<Utc>>) {
    let Some(value) = &output.value else { return };
    let (Some(before), Some(after)) = (value.get(..slot), value.get(slot + NONE.len()..)) else { return };
    let mut new = Vec::with_capacity(value.len() + record.len() + 80);
    match (op, before.strip_prefix(GAP)) {
        (Some(op), Some(rest)) => {
            new.extend_from_slice(b"{\"op\":\"");
            new.extend_from_slice(op.as_bytes());
            new.push(b'"');
            new.extend_from_slice(rest);
        }
        _ => new.extend_from_slice(before),
    }
    new.extend_from_slice(record.as_bytes());
    if let Some(as_of) = as_of {
        let mut text = String::new();
        // A time that was read from a text of four-digit years can be written as one.
        if render::write_date_time(as_of.timestamp_millis(), &mut text).is_ok() {
            new.extend_from_slice(b",\"record_as_of\":");
            new.extend_from_slice(text.as_bytes());
            new.extend_from_slice(b",\"record_from\":\"rest\"");
        }
    }
    new.extend_from_slice(after);
    output.value = Some(Bytes::from(new));
    if let Some(op) = op
        && let Some((_, header)) = output.headers.iter_mut().find(|(name, _)| *name == "op")
    {
        *header = Bytes::from_static(op.as_bytes());
    }
}

/// Moves fields whose new values have been found from `unresolved` to `changed`.
///
/// What is left of the want has the places of the new value.
pub fn put_values(output: &mut OutputRecord, want: &mut Want, found: &[(String, String)]) {
    let Reason::Unknown(unknown) = &mut want.reason else { return };
    let Some(value) = output.value.as_ref().filter(|_| !found.is_empty()) else { return };
    let Range { start, end } = unknown.unresolved;
    let parts = (value.get(..unknown.changed_end), value.get(unknown.changed_end..start), value.get(end..));
    let (Some(changed), Some(between), Some(after)) = parts else { return };
    let mut members = String::new();
    for (field, text) in found {
        if !changed.ends_with(b"{") || !members.is_empty() {
            members.push(',');
        }
        render::write_quoted(field, &mut members);
        members.push(':');
        render::write_text(text, &mut members);
    }
    unknown.fields.retain(|field| found.iter().all(|(name, _)| *name != field.field));
    let mut list = String::new();
    for (at, field) in unknown.fields.iter().enumerate() {
        list.push_str(if at == 0 { ",\"unresolved\":[" } else { "," });
        render::write_quoted(&field.field, &mut list);
    }
    list.push_str(if list.is_empty() { "" } else { "]" });
    let new = [changed, members.as_bytes(), between, list.as_bytes(), after].concat();
    // The slot stands behind both.
    want.slot = want.slot + members.len() + list.len() - (end - start);
    unknown.changed_end += members.len();
    let start = start + members.len();
    unknown.unresolved = start..start + list.len();
    output.value = Some(Bytes::from(new));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{ObjectWriter, Shape};

    fn output(value: &str, op: &'static str) -> OutputRecord {
        OutputRecord {
            topic: "salesforce.Case".into(),
            key: Bytes::from_static(b"500A"),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: vec![("entity", Bytes::from_static(b"Case")), ("op", Bytes::from_static(op.as_bytes()))],
        }
    }

    fn want(value: &str, reason: Reason) -> Want {
        let committed_at = "2026-11-22T10:15:03Z".parse().expect("a time");
        let slot = value.find("null").expect("a slot");
        Want { record: 0, slot, schema: "s".into(), committed_at, reason }
    }

    fn row(as_of: &str) -> Row {
        let mut record = ObjectWriter::new(None, 9);
        let written = record.member("Id", Shape::Whole, |out| {
            out.push_str("\"500A\"");
            Ok::<_, ()>(true)
        });
        written.expect("no error");
        Row { id: "500A".into(), record: record.finish(), as_of: as_of.parse().expect("a time"), deleted: false }
    }

    fn text(output: &OutputRecord) -> &str {
        std::str::from_utf8(output.value.as_ref().expect("a value")).expect("text")
    }

    #[test]
    fn a_record_takes_its_place_and_is_never_older_than_the_event_that_it_was_read_for() {
        let value = r#"{"op":"update","id":"500A","changed":{"A":1},"record":null,"source":{"x":null}}"#;
        for (as_of, shown) in [("2026-11-22T10:15:04Z", "04"), ("2026-11-22T10:15:01Z", "03")] {
            let mut output = output(value, "update");
            put_record(&mut output, &want(value, Reason::Whole), &row(as_of));
            let expected = format!(
                r#"{{"op":"update","id":"500A","changed":{{"A":1}},"record":{{"Id":"500A"}},"record_as_of":"2026-11-22T10:15:{shown}.000Z","record_from":"rest","source":{{"x":null}}}}"#
            );
            assert_eq!(text(&output), expected);
            assert_eq!(output.headers[1].1, "update");
        }
    }

    #[test]
    fn a_gap_becomes_what_was_found() {
        let value = r#"{"op":"gap","id":"500A","changed":{},"record":null,"source":{}}"#;
        let gap = |deletes| want(value, Reason::Gap { deletes });
        let mut refreshed = output(value, "gap");
        put_record(&mut refreshed, &gap(false), &row("2026-11-22T10:15:04Z"));
        assert_eq!(
            text(&refreshed),
            r#"{"op":"refresh","id":"500A","changed":{},"record":{"Id":"500A"},"record_as_of":"2026-11-22T10:15:04.000Z","record_from":"rest","source":{}}"#
        );
        assert_eq!(refreshed.headers[1].1, "refresh");
        let mut deleted = output(value, "gap");
        put_delete(&mut deleted, &gap(false), Some("2026-11-22T10:15:09Z".parse().expect("a time")));
        assert_eq!(
            text(&deleted),
            r#"{"op":"delete","id":"500A","changed":{},"record":null,"record_as_of":"2026-11-22T10:15:09.000Z","record_from":"rest","source":{}}"#
        );
        let mut said = output(value, "gap");
        put_delete(&mut said, &gap(true), None);
        assert_eq!(text(&said), r#"{"op":"delete","id":"500A","changed":{},"record":null,"source":{}}"#);
        assert_eq!(said.headers[1].1, "delete");
    }

    #[test]
    fn values_that_were_found_move_from_unresolved_to_changed_and_the_places_with_them() {
        for changed in [r#"{"A":1}"#, "{}"] {
            let value =
                format!(r#"{{"op":"update","changed":{changed},"unresolved":["B","C"],"record":null,"source":{{}}}}"#);
            let unresolved = value.find(",\"unresolved\"").expect("there")..value.find(",\"record\"").expect("there");
            let fields = ["B", "C"].map(|field| TextDiff { field: field.into(), diff: None }).into();
            let unknown = Unknown { changed_end: unresolved.start - 1, unresolved, fields, whole: false };
            let mut want = want(&value, Reason::Unknown(Box::new(unknown)));
            let mut output = output(&value, "update");
            let before = changed.trim_end_matches('}');
            let comma = if before.len() > 1 { "," } else { "" };
            put_values(&mut output, &mut want, &[("C".into(), "x\"y".into())]);
            let expected = format!(
                r#"{{"op":"update","changed":{before}{comma}"C":"x\"y"}},"unresolved":["B"],"record":null,"source":{{}}}}"#
            );
            assert_eq!(text(&output), expected);
            put_values(&mut output, &mut want, &[("B".into(), String::new())]);
            let expected = format!(
                r#"{{"op":"update","changed":{before}{comma}"C":"x\"y","B":null}},"record":null,"source":{{}}}}"#
            );
            assert_eq!(text(&output), expected);
            assert_eq!(text(&output).get(want.slot..want.slot + 4), Some("null"));
        }
    }
}

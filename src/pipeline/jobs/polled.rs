//! What a poll knows of the records that were changed within its window, and what follows from what it reads.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::change::RowPlan;
use crate::kafka::{KEPT, OutputRecord, StreamIdentity};
use crate::pipeline::jobs::desk::kept;
use crate::pipeline::jobs::touched::{Known, RecordKey};
use crate::pipeline::kept::read_kept;

/// Members that say when the signed-in user looked at a record, and change with nothing else.
const PERSONAL: [&str; 2] = ["LastViewedDate", "LastReferencedDate"];

/// What the keys of what polls keep begin with.
pub(in crate::pipeline) fn kept_under() -> String {
    format!("{KEPT}poll/")
}

/// Takes what polls keep away: a stream that begins anew reads these objects from the beginning too, since nobody knows what
/// became of their topics meanwhile.
pub(in crate::pipeline) fn forget(identity: &StreamIdentity, polls: &BTreeMap<String, Bytes>) -> Vec<OutputRecord> {
    polls.keys().map(|key| kept(identity, key.clone(), None)).collect()
}

/// How far a poll has come, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Whatever was changed before that, by Salesforce's clock, is written.
    pub from: DateTime<Utc>,
}

impl Position {
    /// The key under which an object's is kept.
    pub fn key(entity: &str) -> String {
        kept_under() + entity
    }

    /// Reads it back. What cannot be read was written by another version, and is as good as none: everything is read again.
    pub fn read(entity: &str, value: &[u8]) -> Option<Self> {
        read_kept(&Self::key(entity), value)
    }

    /// The record's value.
    pub fn value(&self) -> Vec<u8> {
        // A struct of a time always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A digest of the values of a record, but for those that change without it.
pub(super) type Content = [u8; 16];

/// What Kafka holds of a record, or what was read of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// Up to when it is current, in seconds since 1970.
    pub as_of: i64,
    /// Whether it is not deleted.
    pub alive: bool,
    /// Its values; none of a deleted one.
    pub content: Option<Content>,
}

impl Held {
    /// What a record of the topic with this value says.
    pub fn told(known: Known, value: Option<&[u8]>, plan: &RowPlan) -> Self {
        #[derive(Deserialize)]
        struct Told<'a> {
            #[serde(borrow)]
            record: Option<&'a RawValue>,
        }
        let told = serde_json::from_slice::<Told<'_>>(value.unwrap_or_default()).ok().and_then(|told| told.record);
        let content = told.filter(|record| record.get() != "null").map(|record| content_of(record.get(), plan));
        Self { as_of: known.as_of, alive: known.alive, content }
    }
}

/// The records that were changed within the window, as Kafka holds them.
pub(super) type Window = HashMap<RecordKey, Held>;

/// Whether what was read is to be written, beside what Kafka holds: always if it is another state, whatever its stamp says.
///
/// Stamps are whole seconds and of many clocks, so they do not tell the order of two states for sure. The order of the reads
/// does: each record of the window is read in every round, so what was read last is what the org has. Should a copy of the
/// database that lags behind have answered, a later round says so.
pub(super) fn is_news(held: Option<&Held>, read: &Held) -> bool {
    held.is_none_or(|held| read.as_of > held.as_of || (read.alive, read.content) != (held.alive, held.content))
}

/// The digest of a record's values.
pub(super) fn content_of(record: &str, plan: &RowPlan) -> Content {
    let mut digest = Sha256::new();
    match serde_json::from_str::<BTreeMap<&str, &RawValue>>(record) {
        Ok(members) => {
            for (name, value) in members {
                if !PERSONAL.contains(&name) && !plan.is_calculated(name) {
                    // Neither a name nor a value of JSON has such a byte in it.
                    for part in [name, value.get()] {
                        digest.update(part);
                        digest.update([0]);
                    }
                }
            }
        }
        // A name with an escape in it is no field's.
        Err(_) => digest.update(record),
    }
    let mut content = Content::default();
    content.copy_from_slice(&digest.finalize()[..16]);
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{FieldPolicies, ObjectDescription};

    fn plan() -> RowPlan {
        let described = serde_json::json!({"name": "CaseComment", "fields": [
            {"name": "Id", "type": "id"},
            {"name": "CommentBody", "type": "textarea"},
            {"name": "Age__c", "type": "double", "calculated": true},
            {"name": "LastViewedDate", "type": "datetime"},
            {"name": "SystemModstamp", "type": "datetime"},
        ]});
        let described = ObjectDescription::parse(described.to_string().as_bytes()).expect("a description");
        RowPlan::new(&described, &FieldPolicies::default(), |_| true).expect("a plan")
    }

    fn held(as_of: i64, record: &str) -> Held {
        Held { as_of, alive: true, content: Some(content_of(record, &plan())) }
    }

    #[test]
    fn a_record_is_written_once_for_each_state_of_it_that_is_seen() {
        let (first, second) = (r#"{"Id":"00a","CommentBody":"a"}"#, r#"{"Id":"00a","CommentBody":"b"}"#);
        let there = held(100, first);
        let gone = |as_of| Held { as_of, alive: false, content: None };
        assert!(is_news(None, &there) && is_news(None, &gone(100)));
        assert!(!is_news(Some(&there), &there), "read again");
        assert!(is_news(Some(&there), &held(100, second)), "twice changed within a second");
        assert!(is_news(Some(&there), &held(101, first)), "changed back");
        assert!(is_news(Some(&there), &held(99, second)), "stamped by a clock that is behind");
        assert!(!is_news(Some(&there), &held(99, first)), "the same with another stamp before");
        assert!(is_news(Some(&there), &gone(100)) && !is_news(Some(&gone(100)), &gone(100)));
        assert!(is_news(Some(&gone(100)), &there), "undeleted within a second");
        assert!(is_news(Some(&gone(100)), &gone(101)), "undeleted and deleted again");
    }

    #[test]
    fn what_changes_without_the_record_is_no_change_of_it() {
        let of = |record: &str| content_of(record, &plan());
        let record = r#"{"Id":"00a","CommentBody":"a","Age__c":1.5,"LastViewedDate":null}"#;
        assert_eq!(of(record), of(r#"{"CommentBody":"a","Id":"00a","Age__c":2.5,"LastViewedDate":"2026"}"#));
        assert_ne!(of(record), of(r#"{"Id":"00a","CommentBody":"a ","Age__c":1.5,"LastViewedDate":null}"#));
        assert_ne!(of(r#"{"A":"b","C":"d"}"#), of(r#"{"A":"b","Cd":""}"#));
    }

    #[test]
    fn what_stands_in_the_topic_is_compared_like_what_is_read() {
        let known = Known { as_of: 100, alive: true };
        let row = r#"{"Id":"00a","CommentBody":"a"}"#;
        let value = format!(r#"{{"op":"read","changed":{{}},"record":{row},"record_as_of":"2026"}}"#);
        assert_eq!(Held::told(known, Some(value.as_bytes()), &plan()), held(100, row));
        let deleted = Known { alive: false, ..known };
        assert_eq!(Held::told(deleted, Some(br#"{"op":"delete","record":null}"#), &plan()).content, None);
        let position = Position { from: DateTime::UNIX_EPOCH };
        assert_eq!(Position::read("CaseComment", &position.value()), Some(position));
        assert_eq!(Position::read("CaseComment", b"{}"), None);
        let identity = StreamIdentity {
            prefix: "p".into(),
            org: "00D8d00000AbCdEEAV".parse().expect("an org"),
            topic: "/data/CaseChangeEvent".parse().expect("a topic"),
        };
        let kept = BTreeMap::from([(Position::key("CaseComment"), Bytes::from(position.value()))]);
        let forgotten = forget(&identity, &kept);
        assert_eq!((&forgotten[0].key[..], &forgotten[0].value), (&b"kept/poll/CaseComment"[..], &None));
        assert_eq!(&*forgotten[0].topic, identity.checkpoint_topic());
    }
}

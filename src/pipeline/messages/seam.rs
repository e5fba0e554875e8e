//! What the runner hands to the run loop.

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::kafka::OutputRecord;
use crate::pipeline::messages::unread::End;

/// A session of which nothing more is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clear {
    /// Its id.
    pub session: String,
    /// The number of its trigger when the fetch began: an event with a newer number came meanwhile.
    pub number: u64,
    /// How its entry in the ledger ends, should it have one.
    pub end: End,
}

/// What is to be committed together.
#[derive(Default)]
pub struct MessageBatch {
    /// The entries of one conversation, in order.
    pub(super) entries: Vec<OutputRecord>,
    /// Those among them that are redactions.
    pub(super) redactions: u64,
    /// Records of the conversation and of who takes part in it.
    pub(super) rows: Vec<OutputRecord>,
    /// What is kept afterwards, by key; `None` is not.
    pub kept: Vec<(String, Option<Bytes>)>,
    /// The conversation, should its record be too large.
    pub(super) conversation: String,
    /// Entries of the gap ledger.
    pub(super) ledger: Vec<OutputRecord>,
    /// Sessions that are done with.
    pub clears: Vec<Clear>,
    /// Sessions that are looked for in vain, each with its new entry in the ledger.
    pub tells: Vec<(String, Value)>,
    /// Sessions that are to be fetched like those that an event told of.
    pub owes: Vec<String>,
    /// Sessions of snapshots that are done with.
    pub done: Vec<(Uuid, usize)>,
    /// Told once it is committed.
    pub(super) receipt: Option<oneshot::Sender<()>>,
}

impl MessageBatch {
    /// What each record is called if Kafka takes it for too large: the entries, the other records, then what is kept.
    pub(in crate::pipeline) fn names(&self) -> Vec<String> {
        let id = |record: &OutputRecord| {
            record.headers.iter().find(|(name, _)| *name == "entry_id").map(|(_, id)| id.clone())
        };
        let entries =
            self.entries.iter().map(|entry| String::from_utf8_lossy(&id(entry).unwrap_or_default()).into_owned());
        let rows = self.rows.iter().map(|row| String::from_utf8_lossy(&row.key).into_owned());
        entries.chain(rows).chain(self.kept.iter().map(|_| self.conversation.clone())).collect()
    }

    /// Whether it says nothing of entries, neither to those who read them nor in the ledger.
    pub(super) fn tells_nothing(&self) -> bool {
        self.entries.is_empty() && self.ledger.is_empty()
    }

    /// Its entries, the redactions among them, and its other records.
    pub(in crate::pipeline) fn counts(&self) -> (u64, u64, u64) {
        let count = |records: &[OutputRecord]| u64::try_from(records.len()).unwrap_or(u64::MAX);
        (count(&self.entries), self.redactions, count(&self.rows))
    }

    /// Tells the runner that its batch is committed.
    pub(in crate::pipeline) fn receipt(self) {
        // A runner that has gone begins again from what is kept.
        let _ = self.receipt.map(|receipt| receipt.send(()));
    }
}

/// What a batch does to the desk once it is committed.
#[derive(Default)]
pub struct Admitted {
    pub(super) cleared: Vec<String>,
    pub(super) told: Vec<(String, Value)>,
    pub(super) owed: Vec<String>,
    pub(super) done: Vec<(Uuid, usize)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_only_the_ledger_can_tell_of_is_something_to_commit() {
        let record = OutputRecord { topic: "t".into(), key: Bytes::new(), value: None, headers: Vec::new() };
        let none = MessageBatch::default();
        let entry = MessageBatch { entries: vec![record.clone()], ..MessageBatch::default() };
        let lost = MessageBatch { ledger: vec![record], ..MessageBatch::default() };
        assert_eq!([none, entry, lost].map(|batch| batch.tells_nothing()), [true, false, false]);
    }
}

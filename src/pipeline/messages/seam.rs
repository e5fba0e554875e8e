//! What the runner hands to the run loop.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::kafka::OutputRecord;

/// What is to be committed together.
pub(in crate::pipeline) struct MessageBatch {
    /// The entries of one conversation, in order.
    pub(super) entries: Vec<OutputRecord>,
    /// Those among them that are redactions.
    pub(super) redactions: u64,
    /// What is kept afterwards, by key; `None` is not.
    pub(super) kept: Vec<(String, Option<Bytes>)>,
    /// The conversation, should its record be too large.
    pub(super) conversation: String,
    /// Sessions that are fetched, unless an event with a newer number came meanwhile.
    pub(super) clears: Vec<(String, u64)>,
    /// Told once it is committed.
    pub(super) receipt: oneshot::Sender<()>,
}

impl MessageBatch {
    /// What each record is called if Kafka takes it for too large: the entries, then what is kept.
    pub(in crate::pipeline) fn names(&self) -> Vec<String> {
        let id = |record: &OutputRecord| {
            record.headers.iter().find(|(name, _)| *name == "entry_id").map(|(_, id)| id.clone())
        };
        let entries =
            self.entries.iter().map(|entry| String::from_utf8_lossy(&id(entry).unwrap_or_default()).into_owned());
        entries.chain(self.kept.iter().map(|_| self.conversation.clone())).collect()
    }

    /// Its entries, and the redactions among them.
    pub(in crate::pipeline) fn counts(&self) -> (u64, u64) {
        (u64::try_from(self.entries.len()).unwrap_or(u64::MAX), self.redactions)
    }

    /// Tells the runner that its batch is committed.
    pub(in crate::pipeline) fn receipt(self) {
        // A runner that has gone begins again from what is kept.
        let _ = self.receipt.send(());
    }
}

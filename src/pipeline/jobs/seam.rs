//! What a job hands to the run loop, and what comes back.

use std::collections::BTreeSet;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::kafka::OutputRecord;
use crate::pipeline::jobs::entry::Entry;
use crate::pipeline::jobs::job::Job;
use crate::pipeline::jobs::touched::{Known, RecordKey};

/// One record of a slice, ready to be written.
pub(in crate::pipeline) struct JobRow {
    /// Its id.
    pub(super) id: String,
    /// The same, as it is compared.
    pub(super) key: RecordKey,
    /// The second up to which the row is current by its own stamp; that of what Kafka held for one that is in no query.
    pub(super) stamp: i64,
    /// What Kafka holds of it once this is written.
    pub(super) becomes: Known,
    /// Whether it was in no query at all.
    pub(super) absent: bool,
    /// The record, and the tombstone of a delete where the stream has them.
    pub(super) records: Vec<OutputRecord>,
}

/// What is to be committed together.
pub(in crate::pipeline) struct JobBatch {
    /// The number of the last transaction when the slice's read began.
    pub(super) marker: u64,
    /// What was read.
    pub(super) rows: Vec<JobRow>,
    /// Platform events as they were. They have no state, so nothing overtakes them.
    pub(super) events: Vec<OutputRecord>,
    /// Jobs as they are afterwards; `None` is removed. Records that go back are added to the first.
    pub(super) jobs: Vec<(String, Option<Job>)>,
    /// Jobs that are to be opened, if there is room.
    pub(super) opens: Vec<Job>,
    /// Ledger entries that change.
    pub(super) entries: Vec<Entry>,
    /// Gaps that are no longer open.
    pub(super) closes: Vec<(String, bool)>,
    /// What the stream keeps beside its checkpoint, by key; `None` takes it away. It is kept only if every row was written
    /// and every job opened.
    pub(super) kept: Vec<(String, Option<Bytes>)>,
    /// Told once it is committed: which records went back.
    pub(super) receipt: oneshot::Sender<BTreeSet<String>>,
}

impl JobBatch {
    /// A batch of nothing, and where its receipt comes.
    pub(super) fn new(marker: u64) -> (Self, oneshot::Receiver<BTreeSet<String>>) {
        let (receipt, committed) = oneshot::channel();
        let (rows, events, jobs, opens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (entries, closes, kept) = (Vec::new(), Vec::new(), Vec::new());
        (Self { marker, rows, events, jobs, opens, entries, closes, kept, receipt }, committed)
    }

    /// Tells the job that its batch is committed, but for the records that go back.
    pub(in crate::pipeline) fn receipt(self, back: BTreeSet<String>) {
        // A job that has gone begins again from the checkpoint.
        let _ = self.receipt.send(back);
    }
}

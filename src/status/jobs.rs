//! A job that reads records anew to heal gaps, or for a snapshot.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// One job of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobStatus {
    /// Its id, as in the checkpoint.
    pub job: String,
    /// The object; absent while it has to be found out which ones a channel carries.
    pub entity: Option<String>,
    /// How many ledger entries it heals.
    pub heals: u64,
    /// When it began.
    pub opened_at: DateTime<Utc>,
    /// Whether the whole object is gone through, and not single records.
    pub whole: bool,
    /// Whether it is a snapshot, and heals nothing.
    pub snapshot: bool,
    /// Whether a Bulk query job brings the object's records.
    pub over_bulk: bool,
    /// How many records it will have seen at its end, as far as that is known.
    pub records_expected: Option<u64>,
    /// The id up to which it has been gone through.
    pub after: Option<String>,
    /// Records seen in the object's listing, or in the result of the Bulk query job.
    pub records_listed: u64,
    /// Single records still to be read.
    pub records_left: u64,
    /// Records written.
    pub rows_reread: u64,
    /// Deletes written.
    pub deletes_found: u64,
    /// Why it waits, if it does.
    pub waits_for: Option<String>,
    /// What mends that.
    pub remedy: Option<String>,
    /// When it is tried again.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

/// A snapshot that this process has finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FinishedSnapshot {
    /// Its id.
    pub job: String,
    /// The object.
    pub entity: Option<String>,
    /// When it began.
    pub opened_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// Records written.
    pub rows: u64,
    /// Deletes written.
    pub deletes: u64,
    /// Records that could not be read; they are in the gap ledger.
    pub unread: u64,
}

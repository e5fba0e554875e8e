//! A job that reads records anew to heal gaps.

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
    /// The id up to which it has been gone through.
    pub after: Option<String>,
    /// Records seen in the object's listing.
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

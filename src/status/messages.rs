//! How fetching messages is doing.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Messages of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MessagesStatus {
    /// Sessions of which an event told something that is not fetched yet.
    pub sessions_waiting: u64,
    /// When the first of those events was written; absent when none waits.
    pub oldest_trigger_at: Option<DateTime<Utc>>,
    /// Sessions that are looked for in vain and stand in the gap ledger.
    pub sessions_in_vain: u64,
    /// Sessions that snapshots found of which the messages are not fetched yet.
    pub history_waiting: u64,
    /// Conversations with an open session.
    pub conversations_open: u64,
    /// Conversations of which something is known.
    pub conversations_known: u64,
    /// Conversations that were asked for in the last half hour.
    pub conversations_active: u64,
    /// So many may be asked for in half an hour.
    pub conversations_allowed: u64,
    /// Calls that could be made at once.
    pub calls_left: u64,
    /// Calls for entries that this run made in the last `calls_window_seconds`.
    pub calls_used: u64,
    /// Calls that may be made in that time.
    pub calls_allowed: u64,
    /// An hour, or a minute over the Conversation Data API; 0 before messages are fetched.
    pub calls_window_seconds: u64,
    /// Calls for entries made by this run.
    pub fetches: u64,
    /// Entries written, redactions among them.
    pub entries_written: u64,
    /// Redactions written.
    pub redactions_written: u64,
    /// Records of conversations and of who takes part in them written.
    pub records_written: u64,
    /// Sessions and conversations that were entered in the gap ledger because they could not be read.
    pub sessions_given_up: u64,
    /// Why nothing is fetched, if that is so.
    pub waits_for: Option<String>,
    /// What mends that.
    pub remedy: Option<String>,
    /// When it is tried again.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

//! How fetching messages is doing.

use std::collections::BTreeMap;

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
    /// When the next call may be made; absent when one may be made now.
    pub next_call_at: Option<DateTime<Utc>>,
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
    /// The comparison with what Kafka holds that is under way, or the last one; absent when there was none.
    pub comparison: Option<ComparisonStatus>,
}

/// A comparison of messages with what Kafka holds of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ComparisonStatus {
    /// Its name.
    pub id: String,
    /// From when on entries are compared; all without it.
    pub since: Option<DateTime<Utc>>,
    /// Whether what is found is written.
    pub repair: bool,
    /// When it began, by our clock.
    pub opened_at: DateTime<Utc>,
    /// When it was done; absent while it goes on.
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether an operator ended it before it was done.
    pub cancelled: bool,
    /// Conversations that are to be looked at; absent until they are listed.
    pub conversations: Option<u64>,
    /// Those that it is done with.
    pub conversations_done: u64,
    /// How many it can look at in an hour, at most.
    pub conversations_per_hour: u64,
    /// How long it takes at that pace; absent until the conversations are listed, and when it has ended.
    pub seconds_left: Option<u64>,
    /// Conversations that were left because a fetch that is to come looks at all of it.
    pub conversations_under_way: u64,
    /// Conversations that cannot be read, and those of sessions that hide theirs from the user.
    pub conversations_unreadable: u64,
    /// Calls for entries.
    pub calls: u64,
    /// Entries of the source that were judged.
    pub judged: u64,
    /// Entries that were too young.
    pub young: u64,
    /// Entries that differed at first and not any more when they were looked at again.
    pub settled: u64,
    /// Findings by kind: `missing`, `changed`, `gone`.
    pub findings: BTreeMap<&'static str, u64>,
    /// Entries that it has written.
    pub entries_written: u64,
    /// Entries that it has left to a fetch, which it ordered.
    pub entries_ordered: u64,
    /// Why it waits, if it does for something else than a call.
    pub waits_for: Option<String>,
}

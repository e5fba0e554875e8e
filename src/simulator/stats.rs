//! What has happened in the simulator so far, to look at and to wait for.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::sync::watch;

use crate::simulator::bus::replay_hex;

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Subscribe calls whose first request was accepted, by preset.
    pub subscribes_latest: u64,
    /// The same, from EARLIEST.
    pub subscribes_earliest: u64,
    /// The same, after a replay id.
    pub subscribes_custom: u64,
    /// Replay ids refused as corrupted.
    pub refused_replay_ids: u64,
    /// Subscribe calls open now.
    pub open_streams: u64,
    /// Fetch requests, the first of each call included.
    pub fetch_requests: u64,
    /// Credit that open calls still hold.
    pub credit: u64,
    /// Responses with events.
    pub responses: u64,
    /// Responses without events.
    pub keepalives: u64,
    /// Events delivered, to all subscribers together.
    pub events_sent: u64,
    /// Positions taken by events published.
    pub published: u64,
    /// The newest position, lower-case hexadecimal.
    pub last_published: String,
    /// GetTopic calls.
    pub get_topic: u64,
    /// GetSchema calls.
    pub get_schema: u64,
    /// Access tokens given out.
    pub sign_ins: u64,
    /// Token requests refused.
    pub refused_sign_ins: u64,
    /// REST calls answered, refused ones included.
    pub rest_calls: u64,
    /// The same by resource: `retrieve`, `query`, `query-more`, `describe`, ….
    pub api_calls: BTreeMap<String, u64>,
    /// Calls for conversation entries that were answered.
    pub conversation_calls: u64,
    /// Those that were over a limit.
    pub conversation_calls_refused: u64,
    /// The most conversations that were active at a time by such calls.
    pub conversations_active_most: u64,
    /// Bulk query jobs that are there, whatever their state.
    pub bulk_jobs: u64,
    /// Results of Bulk query jobs that are being sent.
    pub bulk_downloads: u64,
    /// The most that were at a time.
    pub bulk_downloads_most: u64,
    /// Records in the answers to retrieves and queries.
    pub records_read: u64,
    /// Connections open on the Pub/Sub port.
    pub connections: u64,
    /// Calls refused for a bad or missing token.
    pub refused_tokens: u64,
    /// Faults inflicted, by kind.
    pub faults: BTreeMap<String, u64>,
}

impl Snapshot {
    /// Subscribe calls whose first request was accepted.
    pub fn subscribes(&self) -> u64 {
        self.subscribes_latest + self.subscribes_earliest + self.subscribes_custom
    }
}

/// The counters, watched by whoever waits for them.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    snapshot: watch::Sender<Snapshot>,
}

impl Stats {
    pub(crate) fn count(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.send_modify(change);
    }

    pub(crate) fn published(&self, events: u64, tip: u64) {
        self.count(|stats| {
            stats.published += events;
            stats.last_published = replay_hex(tip);
        });
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.subscribe()
    }
}

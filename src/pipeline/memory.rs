//! What a stream keeps from one attempt to the next. Everything else is read back from Kafka.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use crate::identity::ReplayId;
use crate::kafka::WrittenTo;
use crate::pipeline::dead_letter::FloodBrake;
use crate::position::EventKey;

/// The memory of one stream.
#[derive(Debug, Default)]
pub struct StreamMemory {
    /// Stops a flood of undecodable events.
    pub brake: Mutex<FloodBrake>,
    /// Events of which Kafka refused a record for its size: they become dead letters.
    pub oversize: Mutex<HashSet<EventKey>>,
    /// Events that Kafka took for too large with full records in them: they are written without.
    pub bare: Mutex<HashSet<EventKey>>,
    /// Events of which Kafka refused a record for its size while it had a `traceparent` header: they are written without.
    pub untraced: Mutex<HashSet<EventKey>>,
    /// What a full record adds to the record that it completes, in bytes, as it was last.
    pub row_bytes: AtomicUsize,
    /// Records read by jobs that are larger than Kafka takes.
    pub oversize_rows: Mutex<HashSet<String>>,
    /// How often Kafka refused the record of an entry of a conversation, or what is kept of a conversation, for its size, by
    /// their identifiers. Each time less of it is written.
    pub oversize_messages: Mutex<HashMap<String, usize>>,
    /// The position that Salesforce refused last; its gap is in the ledger.
    pub refused: Mutex<Option<ReplayId>>,
    /// The topics that this process has written to, or was about to.
    pub outputs: Mutex<HashSet<Arc<str>>>,
    /// How far into them, for the next writer.
    pub written_to: Arc<WrittenTo>,
}

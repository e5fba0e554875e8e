//! A sampled event on its way: what its spans are made of once its transaction has ended.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::position::EventKey;
use crate::telemetry::trace_id::{SpanId, TraceId};

/// A sampled event between its arrival and its transaction. It knows times and numbers, and nothing of what is in the event.
#[derive(Debug)]
pub struct EventTrace {
    pub(super) trace: TraceId,
    pub(super) root: SpanId,
    pub(super) send: SpanId,
    pub(super) key: EventKey,
    /// What it took on the wire.
    pub(super) bytes: usize,
    pub(super) received: Instant,
    pub(super) decoding: Instant,
    pub(super) decoded: Instant,
    pub(super) read: Option<Reading>,
    /// Which event of its batch it is.
    event: u32,
}

/// The read that completed its records.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// Whether a record of the event was not read.
    pub(super) failed: bool,
}

impl EventTrace {
    /// Of an event that came at `received`, and is being decoded from now on.
    pub(super) fn begin(trace: TraceId, key: &EventKey, bytes: usize, received: Instant) -> Self {
        let now = Instant::now();
        let (root, send) = (SpanId::drawn(), SpanId::drawn());
        let (decoding, decoded, read, event) = (now, now, None, 0);
        Self { trace, root, send, key: key.clone(), bytes, received, decoding, decoded, read, event }
    }

    /// It is decoded now, and stands in its batch as number `event`.
    #[must_use]
    pub fn decoded(self, event: u32) -> Self {
        Self { decoded: Instant::now(), event, ..self }
    }

    /// Which event of its batch it is.
    pub fn event(&self) -> u32 {
        self.event
    }

    /// Its records were read over REST, in a read for several events that began at `began` and has ended now.
    pub fn read(&mut self, began: Instant) {
        self.read = Some(Reading { began, ended: Instant::now(), failed: false });
    }

    /// One of its records was not found by that read.
    pub fn unread(&mut self) {
        if let Some(read) = &mut self.read {
            read.failed = true;
        }
    }
}

/// The records of a sampled event while they are sent.
#[derive(Debug)]
pub struct Sending {
    /// The event.
    pub trace: EventTrace,
    /// The Kafka topic of its first record.
    pub topic: Arc<str>,
    /// The key of its only record; none where there are several.
    pub record_key: Option<Bytes>,
    /// How many there are, tombstones and entries of the gap ledger among them.
    pub records: usize,
    /// The object, as the records' header has it; none of a dead letter.
    pub entity: Option<Bytes>,
    /// When the change was committed at Salesforce, as the header has it.
    pub committed_at: Option<Bytes>,
    /// Whether the event could not be decoded and became a dead letter.
    pub dead_letter: bool,
}

impl Sending {
    /// Of an event whose records are still to be named.
    pub fn nothing_yet(trace: EventTrace) -> Self {
        Self {
            trace,
            topic: Arc::default(),
            record_key: None,
            records: 0,
            entity: None,
            committed_at: None,
            dead_letter: false,
        }
    }

    /// Which event it is.
    pub fn event(&self) -> &EventKey {
        &self.trace.key
    }
}

/// A sampled event whose transaction has ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) sending: Sending,
    /// The Salesforce topic of its stream, and the organisation.
    pub(super) stream: Arc<(String, String)>,
    /// When the transaction began and ended …
    pub(super) sent: (Instant, Instant),
    /// … and what the clock showed at its end.
    pub(super) at: DateTime<Utc>,
    /// Records of the whole transaction.
    pub(super) transaction: usize,
    /// The number of the checkpoint that was committed with it, or the kind of error that it ended with.
    pub(super) outcome: Result<u64, &'static str>,
}

impl Finished {
    /// How many spans it becomes.
    pub(super) fn spans(&self) -> u64 {
        if self.sending.trace.read.is_some() { 4 } else { 3 }
    }
}

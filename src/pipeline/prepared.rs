//! What travels from the decode station to the run loop.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::OwnedSemaphorePermit;

use crate::kafka::OutputRecord;
use crate::pipeline::ledger::OpenGap;
use crate::pipeline::want::Want;
use crate::position::{EventKey, Position};
use crate::salesforce::buffer::Hold;
use crate::telemetry::EventTrace;

/// Records ready for a transaction, and the position once they are committed.
pub struct Prepared {
    /// In order.
    pub records: Vec<OutputRecord>,
    /// The event of each record: an index into `events`. Ledger entries of a range have none.
    pub origins: Vec<Option<u32>>,
    /// The events.
    pub events: Vec<EventKey>,
    /// The position after them.
    pub position: Position,
    /// Keys and values, in bytes.
    pub bytes: usize,
    /// Ledger entries among the records.
    pub gaps: u64,
    /// Dead letters among the records.
    pub dead_letters: u64,
    /// When the last of the events was committed at Salesforce.
    pub committed_at: Option<DateTime<Utc>>,
    /// Records to be completed before they are written.
    pub wants: Vec<Want>,
    /// Gap events whose ledger entries are only written for what cannot be read.
    pub told: Vec<ToldGap>,
    /// The sampled ones of the events, in their order.
    pub traces: Vec<EventTrace>,
    /// Given back when the commit drops this.
    pub _room: Room,
}

/// What prepared records take of the stream's memory until they are dropped.
#[derive(Default)]
pub struct Room {
    /// What the subscription counts against its credit.
    pub(crate) _events: Option<Hold>,
    /// What the rendered records count against the budget.
    pub(crate) _records: Option<OwnedSemaphorePermit>,
}

/// A gap that an event told of, and that reading its records may close before it is opened.
pub struct ToldGap {
    /// The event: an index into `events`.
    pub event: u32,
    /// The gap, as it is when nothing can be read.
    pub gap: OpenGap,
}

#[cfg(test)]
impl Prepared {
    /// Nothing, up to a position.
    pub fn empty(position: Position) -> Self {
        Chunk::default().prepared(position, Room::default())
    }
}

/// What has been written since the last hand-over.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(crate) records: Vec<OutputRecord>,
    pub(crate) origins: Vec<Option<u32>>,
    pub(crate) events: Vec<EventKey>,
    pub(crate) bytes: usize,
    pub(crate) gaps: u64,
    pub(crate) dead_letters: u64,
    pub(crate) committed_at: Option<DateTime<Utc>>,
    pub(crate) wants: Vec<Want>,
    pub(crate) told: Vec<ToldGap>,
    pub(crate) traces: Vec<EventTrace>,
}

impl Chunk {
    /// Begins the records of an event.
    pub(crate) fn begin(&mut self, key: &EventKey) -> u32 {
        self.events.push(key.clone());
        u32::try_from(self.events.len() - 1).unwrap_or(u32::MAX)
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: OutputRecord, origin: Option<u32>) {
        self.bytes += record.key.len() + record.value.as_ref().map_or(0, Bytes::len);
        self.records.push(record);
        self.origins.push(origin);
    }

    /// Everything so far, up to a position.
    pub(crate) fn prepared(self, position: Position, room: Room) -> Prepared {
        Prepared {
            records: self.records,
            origins: self.origins,
            events: self.events,
            position,
            bytes: self.bytes,
            gaps: self.gaps,
            dead_letters: self.dead_letters,
            committed_at: self.committed_at,
            wants: self.wants,
            told: self.told,
            traces: self.traces,
            _room: room,
        }
    }
}

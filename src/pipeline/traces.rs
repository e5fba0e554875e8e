//! The sampled events of a transaction: the header of their records, and what is told of them once it has ended.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::kafka::{KafkaError, OutputRecord};
use crate::pipeline::prepared::Prepared;
use crate::position::EventKey;
use crate::telemetry::{EventTrace, Sending, StreamTracer, TRACEPARENT};

/// The traces of a transaction that is about to begin.
pub(super) struct Traced {
    tracer: StreamTracer,
    sending: Vec<Sending>,
    began: Instant,
    records: usize,
}

impl Traced {
    /// Takes the traces of batches that will be one transaction, and puts the header on the records of their events: on
    /// changes, tombstones, dead letters and entries of the gap ledger alike. None where no event is sampled.
    pub(super) fn of(tracer: Option<&StreamTracer>, batches: &mut [Prepared], dead_letters: &str) -> Option<Self> {
        let tracer = tracer.filter(|_| batches.iter().any(|batch| !batch.traces.is_empty()))?.clone();
        let records = batches.iter().map(|batch| batch.records.len()).sum();
        let mut sending = Vec::new();
        for batch in batches {
            sending.append(&mut send(&tracer, batch, dead_letters));
        }
        Some(Self { tracer, sending, began: Instant::now(), records })
    }

    /// Tells how the transaction ended: with this checkpoint, or this error.
    pub(super) fn ended(self, outcome: Result<u64, &KafkaError>) {
        self.tracer.ended(self.sending, self.began, self.records, outcome.map_err(KafkaError::kind));
    }

    /// Whether records of an event have the header.
    pub(super) fn is_on(&self, event: &EventKey) -> bool {
        self.sending.iter().any(|sent| sent.event() == event && self.tracer.header(&sent.trace).is_some())
    }
}

/// The traces of one batch with what its records say.
fn send(tracer: &StreamTracer, batch: &mut Prepared, dead_letters: &str) -> Vec<Sending> {
    // In the order of their events, as they were begun.
    let traces = std::mem::take(&mut batch.traces);
    let headers: Vec<_> = traces.iter().map(|trace| tracer.header(trace)).collect();
    let mut sending: Vec<Sending> = traces.into_iter().map(Sending::nothing_yet).collect();
    for (record, origin) in batch.records.iter_mut().zip(&batch.origins) {
        let place = origin.and_then(|event| sending.binary_search_by_key(&event, |sent| sent.trace.event()).ok());
        let Some((sent, header)) = place.and_then(|place| sending.get_mut(place).zip(headers.get(place))) else {
            continue;
        };
        add(sent, record, dead_letters);
        record.headers.extend(header.as_ref().map(|header| (TRACEPARENT, header.clone())));
    }
    sending.retain(|sent| sent.records > 0);
    sending
}

/// The first record says what the event is about; those behind it are of the same, or entries of the gap ledger.
fn add(sent: &mut Sending, record: &OutputRecord, dead_letters: &str) {
    sent.records += 1;
    if sent.records > 1 {
        sent.record_key = None;
        return;
    }
    let header = |wanted: &str| record.headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.clone());
    sent.topic = record.topic.clone();
    sent.record_key = Some(record.key.clone());
    sent.entity = header("entity");
    sent.committed_at = header("committed_at");
    sent.dead_letter = *record.topic == *dead_letters;
}

/// Notes that the records of a batch have been read, by a read that began at `began`.
pub(super) fn read(batch: &mut Prepared, began: Instant) {
    if batch.traces.is_empty() {
        return;
    }
    let wanting: BTreeSet<u32> =
        batch.wants.iter().filter_map(|want| batch.origins.get(want.record).copied().flatten()).collect();
    batch.traces.iter_mut().filter(|trace| wanting.contains(&trace.event())).for_each(|trace| trace.read(began));
}

/// Notes that a record of an event was not found.
pub(super) fn unread(traces: &mut [EventTrace], event: u32) {
    if let Ok(place) = traces.binary_search_by_key(&event, EventTrace::event)
        && let Some(trace) = traces.get_mut(place)
    {
        trace.unread();
    }
}

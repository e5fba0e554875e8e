//! The decode station: raw events in, records ready for a transaction out, order kept.
//!
//! Every event leaves this station as something: records, a ledger entry, a dead letter, or
//! the end of the stream. There is no path on which one is only logged.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::change::WriterSchema;
use crate::config::OnUndecodable;
use crate::failure::Failure;
use crate::identity::SchemaId;
use crate::kafka::KafkaSettings;
use crate::pipeline::completion::Wanting;
use crate::pipeline::context::StreamContext;
use crate::pipeline::dead_letter::{DeadLetter, Withheld};
use crate::pipeline::hand_over::HandOver;
use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::output_topics::OutputTopics;
use crate::pipeline::prepared::{Chunk, Room, ToldGap};
use crate::pipeline::read_back;
use crate::pipeline::records::{EventRecords, EventSource, RecordWriter};
use crate::pipeline::schemas::{NoSchema, SchemaCache};
use crate::pipeline::stop::StreamError;
use crate::position::{Admission, Anchor, Position};
use crate::salesforce::buffer::Hold;
use crate::salesforce::intake::{Batch, Intake, ReceivedEvent};
use crate::salesforce::verdict::CallError;
use crate::status::StreamState;
use crate::telemetry::EventTrace;

/// Why the station ended.
#[derive(Debug)]
pub enum DecodeEnd {
    /// Nothing more came, or nobody took what came out.
    Finished,
    /// An operator has to look.
    Stopped(Failure),
}

/// The station of one attempt of a stream.
pub struct DecodeStation {
    /// What all parts of the stream know.
    pub context: Arc<StreamContext>,
    /// Shared by all streams.
    pub schemas: SchemaCache,
    /// The schema of the last event, which is nearly always the next one's too.
    pub schema: Option<(SchemaId, Arc<WriterSchema>)>,
    /// Outlives the attempt.
    pub memory: Arc<StreamMemory>,
    /// The topics that are known to be there.
    pub topics: OutputTopics,
    /// Writes the records.
    pub writer: RecordWriter,
    /// The position from which this attempt goes on.
    pub position: Position,
    /// After a refused replay id: the fingerprints of the events that the output already holds.
    pub written: Option<HashSet<u128>>,
    /// The entities whose topics are known to be this stream's.
    pub claimed: HashSet<String>,
    /// To look at topics.
    pub kafka: KafkaSettings,
    /// In KiB of rendered records.
    pub budget: Arc<Semaphore>,
    /// All of it.
    pub budget_kib: u32,
    /// Where records are completed, if any are.
    pub completion: Option<mpsc::Sender<Wanting>>,
}

impl DecodeStation {
    /// Runs until the intake ends.
    pub async fn run(
        mut self,
        mut intake: mpsc::Receiver<Intake>,
        out: mpsc::Sender<HandOver>,
        cancel: CancellationToken,
    ) -> DecodeEnd {
        while let Some(intake) = intake.recv().await {
            let outcome = match intake {
                Intake::Batch(batch) => self.batch(batch, &out, &cancel).await,
                Intake::LatestRestarted { from, to } => self.latest_restarted(from, to, &out).await,
                Intake::ResumedInsideGroup { replay_id } => {
                    self.gap(&OpenGap::unanchored(replay_id, self.position.time()), &out).await
                }
            };
            match outcome {
                Ok(()) => {}
                Err(Halt::Finished) => return DecodeEnd::Finished,
                Err(Halt::Stopped(failure)) => return DecodeEnd::Stopped(failure),
            }
        }
        DecodeEnd::Finished
    }

    async fn batch(
        &mut self,
        batch: Batch,
        out: &mpsc::Sender<HandOver>,
        cancel: &CancellationToken,
    ) -> Result<(), Halt> {
        // A batch can also be empty because all of its events were duplicates; those say nothing new.
        let keepalive = batch.events.is_empty() && batch.duplicates == 0;
        let mut chunk = Chunk::default();
        for event in &batch.events {
            if self.position.admit(&event.key) == Admission::Duplicate {
                continue;
            }
            let (trace, place) = (self.trace(event, batch.came_at), chunk.events.len());
            if let Err(halt) = self.event(event, batch.received_at, &mut chunk, cancel).await {
                // What came before is dealt with; the event itself stays where it is.
                self.position.withdraw(&event.key);
                self.hand_on(chunk, Some(batch.hold), out).await?;
                return Err(halt);
            }
            // Of an event that the output already held there is nothing to tell.
            let written = trace.filter(|_| chunk.events.len() > place);
            chunk.traces.extend(written.map(|trace| trace.decoded(u32::try_from(place).unwrap_or(u32::MAX))));
            let limits = &self.context.batch;
            if chunk.records.len() >= limits.max_records || self.bytes_to_come(&chunk) >= limits.max_bytes {
                let full = std::mem::take(&mut chunk);
                self.hand_on(full, None, out).await?;
            }
        }
        if keepalive && let Anchor::After(latest) = batch.position.anchor() {
            self.position.keepalive(latest.clone(), batch.received_at);
        }
        self.hand_on(chunk, Some(batch.hold), out).await
    }

    /// Begins the trace of an event that came at `came_at`, if it is sampled.
    fn trace(&self, event: &ReceivedEvent, came_at: Instant) -> Option<EventTrace> {
        let trace = self.context.tracer.as_ref()?.begin(&event.key, event.payload.len(), came_at)?;
        let untraced = self.memory.untraced.lock().unwrap_or_else(PoisonError::into_inner);
        (!untraced.contains(&event.key)).then_some(trace)
    }

    /// One event: decoded, claimed, written into the chunk.
    async fn event(
        &mut self,
        event: &ReceivedEvent,
        received_at: DateTime<Utc>,
        chunk: &mut Chunk,
        cancel: &CancellationToken,
    ) -> Result<(), Halt> {
        if !self.position.repeats() {
            self.written = None;
        }
        if self.written.as_ref().is_some_and(|written| written.contains(&event.key.fingerprint())) {
            self.context.board.update(|status| status.events_already_written += 1);
            return Ok(());
        }
        let board = &self.context.board;
        let waited = AtomicBool::new(false);
        let waiting = |error: &CallError, wait| {
            waited.store(true, Ordering::Relaxed);
            board.recovering(&error.failure(), wait);
        };
        let schema = match &self.schema {
            Some((id, schema)) if *id == event.schema_id => Ok(Arc::clone(schema)),
            _ => self.schemas.get(&event.schema_id, cancel, waiting).await,
        };
        if waited.load(Ordering::Relaxed) {
            board.set_state(StreamState::Running);
        }
        let schema = match schema {
            Ok(schema) => schema,
            Err(NoSchema::Undecodable(reason)) => return self.dead_letter(event, None, &reason, chunk),
            Err(NoSchema::Stop(failure)) => return Err(Halt::Stopped(failure)),
            Err(NoSchema::Cancelled) => return Err(Halt::Finished),
        };
        if self.schema.as_ref().is_none_or(|(id, _)| *id != event.schema_id) {
            self.schema = Some((event.schema_id.clone(), Arc::clone(&schema)));
        }
        let oversize = &self.memory.oversize;
        if oversize.lock().unwrap_or_else(PoisonError::into_inner).contains(&event.key) {
            let reason = "A record of this event is larger than Kafka takes";
            return self.dead_letter(event, Some(&schema), reason, chunk);
        }
        let change = match schema.decode(&event.payload, &self.context.policies) {
            Ok(change) => change,
            Err(error) => return self.dead_letter(event, Some(&schema), &error.to_string(), chunk),
        };
        let entity = change.header.as_ref().map_or(schema.name(), |header| header.entity.as_str());
        self.claim(entity).await?;
        let source = EventSource {
            key: &event.key,
            event_id: &event.event_id,
            schema_id: &event.schema_id,
            schema_name: schema.name(),
        };
        match self.writer.write(source, &change) {
            Ok(written) => {
                self.memory.brake.lock().unwrap_or_else(PoisonError::into_inner).decoded();
                if !written.records.is_empty() {
                    let topic = self.writer.entity_topic(entity);
                    self.topics.ensure_entity(&topic, cancel).await.map_err(|failure| {
                        if cancel.is_cancelled() { Halt::Finished } else { Halt::Stopped(failure) }
                    })?;
                }
                self.add(event, received_at, written, chunk);
                Ok(())
            }
            Err(error) => self.dead_letter(event, Some(&schema), &error.to_string(), chunk),
        }
    }

    /// Claims the entity for this stream. A channel's claims are those of its first events, so after a restart two
    /// channels could find each other's entities first; what stands in the topic tells whose it was.
    async fn claim(&mut self, entity: &str) -> Result<(), Halt> {
        let own = &self.context.identity.topic;
        if self.claimed.contains(entity) {
            return Ok(());
        }
        if self.context.is_channel() {
            let topic = self.writer.entity_topic(entity);
            let writer = read_back::last_writer(&self.kafka, &self.context.identity, &topic).await;
            match writer {
                Ok(Some(other)) if other != *own && self.context.claims.is_configured(&other) => {
                    self.context.claims.claim(entity, &other).map_err(Halt::Stopped)?;
                }
                Ok(_) => {}
                Err(error) => return Err(Halt::Stopped(error.failure())),
            }
        }
        self.context.claims.claim_delivered(entity, own).map_err(Halt::Stopped)?;
        self.claimed.insert(entity.to_owned());
        Ok(())
    }

    fn add(&mut self, event: &ReceivedEvent, received_at: DateTime<Utc>, written: EventRecords, chunk: &mut Chunk) {
        let index = chunk.begin(&event.key);
        let first = chunk.records.len();
        let read = !written.wants.is_empty();
        chunk.wants.extend(written.wants.into_iter().map(|want| want.moved(first)));
        for record in written.records {
            chunk.push(record, Some(index));
        }
        match written.gap {
            Some(gap) if read && gap.cause == GapCause::GapEvent => chunk.told.push(ToldGap { event: index, gap }),
            Some(gap) => self.open(&gap, Some(index), chunk),
            None => {}
        }
        // A platform event carries its publisher's clock, which may be ahead of Salesforce's.
        if let Some(at) = written.committed_at.map(|at| at.min(received_at)) {
            self.position.set_time(at);
            chunk.committed_at = Some(at);
        }
    }

    fn open(&self, gap: &OpenGap, index: Option<u32>, chunk: &mut Chunk) {
        let context = &self.context;
        info!(topic = %context.identity.topic, cause = ?gap.cause, id = gap.id, "gap opened");
        chunk.gaps += 1;
        chunk.push(context.gap_record(gap), index);
    }

    fn dead_letter(
        &self,
        event: &ReceivedEvent,
        schema: Option<&WriterSchema>,
        reason: &str,
        chunk: &mut Chunk,
    ) -> Result<(), Halt> {
        let topic = &self.context.identity.topic;
        let id = &event.key;
        if self.context.stream.on_undecodable == OnUndecodable::Stop {
            let (topic, event, reason) = (topic.clone(), id.clone(), reason.to_owned());
            return Err(Halt::Stopped(StreamError::Undecodable { topic, event, reason }.failure()));
        }
        self.memory
            .brake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .undecodable(id, reason)
            .map_err(Halt::Stopped)?;
        warn!(%topic, event = %id, schema_id = %event.schema_id, reason, "event put into the dead letters");
        let letter = DeadLetter {
            key: id,
            event_id: &event.event_id,
            schema_id: &event.schema_id,
            payload: &event.payload,
            withheld: Withheld::of_event(topic, schema, &event.payload, &self.context.policies),
            reason,
        };
        let index = chunk.begin(id);
        chunk.dead_letters += 1;
        chunk.push(letter.record(&self.context.dead_letters_topic, &self.context.identity.org, topic), Some(index));
        Ok(())
    }

    async fn latest_restarted(
        &mut self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        out: &mpsc::Sender<HandOver>,
    ) -> Result<(), Halt> {
        let detail = "a start at the tip ended before its first position was known and was begun anew; \
                      events published in between were not delivered";
        let ends = |time| GapEnd { replay_id: None, time: Some(time) };
        let gap = OpenGap::of_range(GapCause::LatestRestarted, ends(from), ends(to), detail.to_owned());
        self.gap(&gap, out).await
    }

    /// A gap that no event tells of.
    async fn gap(&mut self, gap: &OpenGap, out: &mpsc::Sender<HandOver>) -> Result<(), Halt> {
        let mut chunk = Chunk::default();
        self.open(gap, None, &mut chunk);
        self.hand_on(chunk, None, out).await
    }

    /// What the records of a chunk will take once they are completed, as far as can be told before.
    fn bytes_to_come(&self, chunk: &Chunk) -> usize {
        if self.completion.is_none() {
            return chunk.bytes;
        }
        let each = self.memory.row_bytes.load(Ordering::Relaxed);
        chunk.bytes.saturating_add(chunk.wants.len().saturating_mul(each))
    }

    /// Straight to the run loop, unless records are to be completed first: then a promise goes there in their place.
    async fn hand_on(&self, chunk: Chunk, events: Option<Hold>, out: &mpsc::Sender<HandOver>) -> Result<(), Halt> {
        let kib = u32::try_from(self.bytes_to_come(&chunk) / 1024).unwrap_or(u32::MAX).clamp(1, self.budget_kib);
        let permit = self.budget.clone().acquire_many_owned(kib).await.ok();
        let prepared = chunk.prepared(self.position.clone(), Room { _events: events, _records: permit });
        let item = match &self.completion {
            Some(completion) if !prepared.wants.is_empty() => {
                let (reply, later) = oneshot::channel();
                completion.send(Wanting { prepared, reply }).await.map_err(|_| Halt::Finished)?;
                HandOver::Later(later)
            }
            _ => HandOver::Ready(prepared),
        };
        out.send(item).await.map_err(|_| Halt::Finished)
    }
}

/// Why the station stops in the middle of a batch.
enum Halt {
    Finished,
    Stopped(Failure),
}

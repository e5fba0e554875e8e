//! The run loop of a stream: the one writer of its topics.
//!
//! Why nothing is lost and nothing stands twice:
//!
//! - Records and the position after them are committed in one transaction, so after any
//!   crash the stored position is exactly the end of what a `read_committed` consumer sees.
//! - The position on the board moves only on a [`Committed`] receipt, which only `kafka/` can make.
//! - Whatever goes wrong in a transaction, the producer and everything in memory are dropped
//!   and the stream starts again from the stored position. There is no second way of recovery.
//! - A transaction begins when all its records stand rendered in memory; inside one, nothing but Kafka is called.
//!
//! Transactions grow by themselves: while one commits, the next batches gather. When it is quiet
//! a transaction holds one event and leaves at once; when behind it holds `max_records`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::config::RecordMode;
use crate::kafka::failpoint::{self, After};
use crate::kafka::{Checkpoint, Committed, KafkaError, OutputRecord, StreamIdentity, TransactionalWriter, Verdict};
use crate::pipeline::context::{StreamContext, following};
use crate::pipeline::hand_over::PreparedQueue;
use crate::pipeline::jobs::{Desk, JobBatch, Noted};
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::messages::{MessageBatch, MessageDesk, MessageInlet};
use crate::pipeline::prepared::Prepared;
use crate::pipeline::traces::Traced;
use crate::position::{EventKey, Position};

/// A keepalive's position is committed at most this often …
const KEEPALIVE_COMMIT: Duration = Duration::from_secs(60);

/// … and a position at least this often, changed or not: a standby takes silence for death.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(110);

/// While events come without a pause, a job gets a transaction after so many of theirs.
const EVENTS_BEFORE_A_JOB: u32 = 8;

/// Why the loop ended.
#[derive(Debug)]
pub enum LoopEnd {
    /// Nothing more came; all that came is committed.
    Drained,
    /// A transaction failed; see the module's head.
    Kafka(KafkaError),
    /// Kafka refused a record for its size; the event is written without full records at the next attempt, and if that
    /// is too large too it becomes a dead letter.
    Oversize(EventKey),
    /// The same of a record that a job read, which will not be read again; or of a conversation, of which less is written.
    OversizeRow(String),
}

/// The loop of one attempt.
pub struct RunLoop {
    context: Arc<StreamContext>,
    memory: Arc<StreamMemory>,
    /// What is shared with the jobs, and what they hand over.
    desk: Arc<Desk>,
    slices: mpsc::Receiver<JobBatch>,
    /// The same for messages.
    messages: MessageInlet,
    /// Transactions of events since the last one of a job.
    turns: u32,
    writer: TransactionalWriter,
    /// What was committed last; its position and counters are carried on.
    checkpoint: Checkpoint,
    /// A position without records that has not been committed.
    idle: Option<Position>,
    last_commit: Instant,
    /// Where the organisation is reached: part of the position once a message has proved it.
    instance_url: String,
}

/// Batches that will be one transaction.
#[derive(Default)]
struct Transaction {
    batches: Vec<Prepared>,
    records: usize,
    bytes: usize,
}

impl Transaction {
    fn push(&mut self, prepared: Prepared) {
        self.records += prepared.records.len();
        self.bytes += prepared.bytes;
        self.batches.push(prepared);
    }

    /// The event whose record stands at `index` of the transaction.
    fn event_of(&self, index: usize) -> Option<EventKey> {
        let mut index = index;
        for batch in &self.batches {
            match batch.origins.get(index) {
                Some(origin) => return batch.events.get(usize::try_from((*origin)?).ok()?).cloned(),
                None => index -= batch.origins.len(),
            }
        }
        None
    }
}

impl RunLoop {
    /// A loop over a writer whose position has been announced.
    pub fn new(
        context: Arc<StreamContext>,
        memory: Arc<StreamMemory>,
        (desk, slices): (Arc<Desk>, mpsc::Receiver<JobBatch>),
        messages: MessageInlet,
        writer: TransactionalWriter,
        checkpoint: Checkpoint,
        instance_url: String,
    ) -> Self {
        let (idle, last_commit) = (None, Instant::now());
        Self { context, memory, desk, slices, messages, turns: 0, writer, checkpoint, idle, last_commit, instance_url }
    }

    /// Commits what comes until nothing more can come.
    pub async fn run(&mut self, prepared: &mut PreparedQueue) -> LoopEnd {
        let mut left_over = None;
        loop {
            // Events come first; but a backlog of hours would hold a job up as long.
            if self.turns >= EVENTS_BEFORE_A_JOB
                && let Err(end) = self.give_a_turn().await
            {
                return end;
            }
            let idle_at = self.next_idle_commit();
            let first = match left_over.take() {
                Some(batch) => Some(batch),
                None => tokio::select! {
                    biased;
                    batch = prepared.recv() => batch,
                    Some(slice) = self.slices.recv() => match self.commit_slice(slice).await {
                        Ok(()) => continue,
                        Err(end) => return end,
                    },
                    Some((desk, batch)) = self.messages.next() => match self.commit_messages(&desk, batch).await {
                        Ok(()) => continue,
                        Err(end) => return end,
                    },
                    () = sleep_until(idle_at) => match self.commit_idle().await {
                        Ok(()) => continue,
                        Err(error) => return LoopEnd::Kafka(error),
                    },
                },
            };
            let Some(first) = first else { break };
            let (transaction, surplus) = self.gather(first, prepared).await;
            left_over = surplus;
            if transaction.records == 0 {
                let anchors = !self.checkpoint.position.is_anchored();
                self.idle = transaction.batches.last().map(|batch| batch.position.clone());
                // The first position of a stream is worth a transaction of its own.
                if anchors && let Err(error) = self.commit_idle().await {
                    return LoopEnd::Kafka(error);
                }
                continue;
            }
            if let Err(end) = self.commit(transaction).await {
                return end;
            }
        }
        match self.commit_idle_if_any().await {
            Ok(()) => LoopEnd::Drained,
            Err(error) => LoopEnd::Kafka(error),
        }
    }

    /// Takes what has come already, and what comes within `max_age` while there is room.
    /// A batch that does not fit is given back: its records may not be split from its position.
    async fn gather(&self, first: Prepared, prepared: &mut PreparedQueue) -> (Transaction, Option<Prepared>) {
        let limits = self.context.batch;
        let mut transaction = Transaction::default();
        transaction.push(first);
        let deadline = Instant::now() + limits.max_age;
        while transaction.records < limits.max_records && transaction.bytes < limits.max_bytes {
            let next = match prepared.try_recv() {
                Some(batch) => Some(batch),
                None if transaction.records == 0 || limits.max_age.is_zero() => None,
                None => tokio::select! {
                    batch = prepared.recv() => batch,
                    () = sleep_until(deadline) => None,
                },
            };
            let Some(batch) = next else { break };
            let fits = transaction.records + batch.records.len() <= limits.max_records
                && transaction.bytes + batch.bytes <= limits.max_bytes;
            if !fits && transaction.records > 0 {
                return (transaction, Some(batch));
            }
            transaction.push(batch);
        }
        (transaction, None)
    }

    /// Commits what a job and the runner of messages have ready, if anything.
    async fn give_a_turn(&mut self) -> Result<(), LoopEnd> {
        if let Ok(slice) = self.slices.try_recv() {
            self.commit_slice(slice).await?;
        }
        match self.messages.try_next() {
            Some((desk, batch)) => self.commit_messages(&desk, batch).await,
            None => Ok(()),
        }
    }

    async fn commit(&mut self, mut transaction: Transaction) -> Result<(), LoopEnd> {
        let Some(last) = transaction.batches.last() else { return Ok(()) };
        let position = last.position.clone();
        let (tracer, letters) = (self.context.tracer.as_ref(), &self.context.dead_letters_topic);
        let traced = Traced::of(tracer, &mut transaction.batches, letters);
        let mut records: Vec<_> =
            transaction.batches.iter_mut().flat_map(|batch| std::mem::take(&mut batch.records)).collect();
        let events: usize = transaction.batches.iter().map(|batch| batch.events.len()).sum();
        let mut checkpoint = following(&self.checkpoint, position, u64::try_from(events).unwrap_or(u64::MAX));
        checkpoint.instance_url = Some(self.instance_url.clone());
        self.idle = None;
        self.turns = self.turns.saturating_add(1);
        let noted = self.desk.enrol(&mut checkpoint, &records);
        let triggered = self.messages.trigger(&mut records);
        let committed = self.writer.commit(records, checkpoint).await;
        let oversize = match &committed {
            Err(error) => match error.verdict() {
                Verdict::SplitRecord(index) => transaction.event_of(index).filter(|event| {
                    let has_header = traced.as_ref().is_some_and(|traced| traced.is_on(event));
                    self.write_less(event, has_header)
                }),
                _ => None,
            },
            Ok(_) => None,
        };
        if let Some(traced) = traced {
            traced.ended(committed.as_ref().map(Committed::seq));
        }
        match (committed, oversize) {
            (Ok(committed), _) => {
                self.messages.triggered(triggered);
                if noted.opens_gaps() {
                    failpoint::pass(After::Opening);
                }
                self.note(&committed, Some(&transaction));
                self.checkpoint = committed.checkpoint().clone();
                self.desk.committed(&self.checkpoint, noted);
                Ok(())
            }
            (Err(_), Some(event)) => Err(LoopEnd::Oversize(event)),
            (Err(error), None) => Err(LoopEnd::Kafka(error)),
        }
    }

    /// Has less be written for an event of which Kafka refused a record for its size: without the header of its trace, then
    /// without what was read for it, then as a dead letter. False when there is nothing less.
    fn write_less(&self, event: &EventKey, has_header: bool) -> bool {
        let memory = &self.memory;
        let completed = self.context.stream.record != RecordMode::Never;
        let set =
            |of: &Mutex<HashSet<EventKey>>| of.lock().unwrap_or_else(PoisonError::into_inner).insert(event.clone());
        if has_header {
            return set(&memory.untraced);
        }
        if self.is_letter(event) {
            return false;
        }
        // What was read for it may be what is too much: the event itself goes first.
        (completed && set(&memory.bare)) || set(&memory.oversize)
    }

    /// Whether what was too large is already the dead letter of an event that was too large.
    fn is_letter(&self, event: &EventKey) -> bool {
        self.memory.oversize.lock().unwrap_or_else(PoisonError::into_inner).contains(event)
    }

    fn next_idle_commit(&self) -> Instant {
        let after = if self.idle.is_some() { KEEPALIVE_COMMIT } else { SIGN_OF_LIFE };
        self.last_commit + after
    }

    /// Commits the newest position without records, or the last one again as a sign of life.
    async fn commit_idle(&mut self) -> Result<(), KafkaError> {
        let next = self.next_without_events();
        debug!(topic = %self.context.identity.topic, "committing a position without records");
        let committed = self.writer.commit(Vec::new(), next).await?;
        self.note(&committed, None);
        self.checkpoint = committed.checkpoint().clone();
        // The first position of a quiet stream comes by here, and snapshots wait for it.
        self.desk.committed(&self.checkpoint, Noted::default());
        Ok(())
    }

    /// The next checkpoint when no events are committed with it.
    fn next_without_events(&mut self) -> Checkpoint {
        let mut next = following(&self.checkpoint, self.checkpoint.position.clone(), 0);
        if let Some(position) = self.idle.take() {
            next.position = position;
            next.instance_url = Some(self.instance_url.clone());
        }
        next
    }

    /// Commits what a job has read, together with the job as it is afterwards.
    async fn commit_slice(&mut self, mut slice: JobBatch) -> Result<(), LoopEnd> {
        self.turns = 0;
        let mut next = self.next_without_events();
        let (mut records, back, noted) = self.desk.admit(&mut slice, &mut next);
        let keys: Vec<_> = records.iter().map(|record| record.key.clone()).collect();
        let count = keys.iter().filter(|key| !StreamIdentity::keeps(key)).count();
        let is_row =
            |record: &OutputRecord| record.topic != self.context.ledger_topic && !StreamIdentity::keeps(&record.key);
        let has_rows = records.iter().any(is_row);
        let triggered = self.messages.trigger(&mut records);
        if has_rows {
            failpoint::pass(After::Read);
        }
        match self.writer.commit(records, next).await {
            Ok(committed) => {
                if noted.closes_gaps() {
                    failpoint::pass(After::Closing);
                } else if has_rows {
                    failpoint::pass(After::Slice);
                }
                let written = u64::try_from(count).unwrap_or(u64::MAX);
                self.context.board.update(|status| status.records_committed += written);
                self.note(&committed, None);
                self.checkpoint = committed.checkpoint().clone();
                self.desk.committed(&self.checkpoint, noted);
                self.messages.triggered(triggered);
                slice.receipt(back);
                Ok(())
            }
            Err(error) => match error.verdict() {
                Verdict::SplitRecord(index) => {
                    let id = keys.get(index).map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default();
                    let mut rows = self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner);
                    // Once is enough: what comes again is not a row of this job.
                    if rows.insert(id.clone()) { Err(LoopEnd::OversizeRow(id)) } else { Err(LoopEnd::Kafka(error)) }
                }
                _ => Err(LoopEnd::Kafka(error)),
            },
        }
    }

    /// Commits what was fetched of a conversation, together with what is known of it afterwards.
    async fn commit_messages(&mut self, desk: &MessageDesk, mut batch: MessageBatch) -> Result<(), LoopEnd> {
        self.turns = 0;
        let mut next = self.next_without_events();
        let names = batch.names();
        let (written, redactions, rows) = batch.counts();
        let (records, admitted) = desk.admit(&mut batch);
        let noted = self.desk.enrol(&mut next, &records);
        let gaps = noted.gaps_opened();
        if written > 0 {
            failpoint::pass(After::Fetched);
        }
        match self.writer.commit(records, next).await {
            Ok(committed) => {
                if written > 0 {
                    failpoint::pass(After::Said);
                }
                self.context.board.update(|status| {
                    status.records_committed += written.saturating_add(rows);
                    status.gaps_opened += gaps;
                    let messages = status.messages.get_or_insert_default();
                    messages.entries_written += written;
                    messages.redactions_written += redactions;
                    messages.records_written += rows;
                });
                self.note(&committed, None);
                self.checkpoint = committed.checkpoint().clone();
                self.desk.committed(&self.checkpoint, noted);
                desk.admitted(admitted);
                batch.receipt();
                Ok(())
            }
            Err(error) => match error.verdict() {
                Verdict::SplitRecord(index) => {
                    // What is named is written with less each time, and in the end given up: no conversation stops a stream.
                    let Some(name) = names.get(index).cloned() else { return Err(LoopEnd::Kafka(error)) };
                    let mut refused = self.memory.oversize_messages.lock().unwrap_or_else(PoisonError::into_inner);
                    *refused.entry(name.clone()).or_default() += 1;
                    Err(LoopEnd::OversizeRow(name))
                }
                _ => Err(LoopEnd::Kafka(error)),
            },
        }
    }

    async fn commit_idle_if_any(&mut self) -> Result<(), KafkaError> {
        if self.idle.is_some() { self.commit_idle().await } else { Ok(()) }
    }

    fn note(&mut self, committed: &Committed, transaction: Option<&Transaction>) {
        self.last_commit = Instant::now();
        self.context.metrics.transaction(self.context.identity.topic.as_str(), committed.duration());
        if let Some(transaction) = transaction {
            self.count(transaction);
        }
        // Last: whoever waits for the position finds the counts as they were when it was reached.
        self.context.note_committed(committed);
    }

    fn count(&self, transaction: &Transaction) {
        let now = Utc::now().checked_add_signed(self.context.board.board().clock_offset());
        self.context.board.update(|status| {
            status.batches_committed += u64::try_from(transaction.batches.len()).unwrap_or(u64::MAX);
            status.records_committed += u64::try_from(transaction.records).unwrap_or(u64::MAX);
            for batch in &transaction.batches {
                status.gaps_opened += batch.gaps;
                status.dead_letters += batch.dead_letters;
                if let Some(committed_at) = batch.committed_at {
                    status.last_event_committed_at = Some(committed_at);
                    // Clocks differ by a little: what seems to come from the future has no lag.
                    let lag = now.map(|now| (now - committed_at).num_milliseconds().max(0));
                    status.last_event_lag_ms = lag.and_then(|lag| u64::try_from(lag).ok());
                }
            }
        });
    }

    /// The writer, for what the supervisor has to commit after the loop.
    pub fn into_parts(self) -> (TransactionalWriter, Checkpoint) {
        (self.writer, self.checkpoint)
    }
}

//! What all parts of a stream know.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::change::FieldPolicies;
use crate::config::{BatchConfig, StreamConfig};
use crate::failure::Failure;
use crate::identity::{ReplayId, TopicKind};
use crate::kafka::{Checkpoint, Committed, OutputRecord, RunIdentity, StoredCheckpoint, StreamIdentity};
use crate::pipeline::claims::EntityClaims;
use crate::pipeline::ledger::OpenGap;
use crate::pipeline::stop::StreamError;
use crate::position::{Anchor, EventKey, Position};
use crate::salesforce::backoff::BackoffLimits;
use crate::status::{Metrics, StreamBoard};
use crate::telemetry::StreamTracer;

/// The longest wait between attempts while Kafka or the login host is away. The time to data loss runs
/// meanwhile, and one client that asks twice a minute is no burden on either.
pub(crate) const RECOVERY: BackoffLimits = BackoffLimits::constant(Duration::from_secs(1), Duration::from_secs(30));

/// One stream of one organisation.
#[derive(Debug)]
pub struct StreamContext {
    /// Its configuration.
    pub stream: StreamConfig,
    /// What names it in Kafka.
    pub identity: StreamIdentity,
    /// This run.
    pub run: RunIdentity,
    /// Its part of the board.
    pub board: StreamBoard,
    /// The process's metrics.
    pub metrics: Metrics,
    /// Its traces; none where nothing is traced.
    pub tracer: Option<StreamTracer>,
    /// Which stream writes which entity.
    pub claims: EntityClaims,
    /// What is kept from readers.
    pub policies: FieldPolicies,
    /// When a transaction is full.
    pub batch: BatchConfig,
    /// `<prefix>.gaps`
    pub ledger_topic: Arc<str>,
    /// `<prefix>.dead-letters`
    pub dead_letters_topic: Arc<str>,
    /// Set once any stream of the process has a position: from then on a hopeless error stops
    /// that stream and not the process.
    pub anchored: Arc<AtomicBool>,
    /// What this process committed last.
    pub last_commit: Mutex<Option<LastCommit>>,
}

/// A checkpoint that is known to have been committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCommit {
    seq: u64,
    /// The newest event or keepalive in it.
    replay_id: Option<ReplayId>,
}

impl StreamContext {
    /// Whether the topic delivers several entities, under names that only the events tell.
    pub fn is_channel(&self) -> bool {
        self.identity.topic.is_channel()
    }

    /// The ledger's record of a gap of this stream.
    pub fn gap_record(&self, gap: &OpenGap) -> OutputRecord {
        gap.record(&self.ledger_topic, &self.identity.org, &self.identity.topic, &self.run.run_id)
    }

    /// Refuses a checkpoint topic that has less than this process has committed to it: it was deleted, restored
    /// from a copy, or lost its end with a broker. Going on from it would repeat or skip events in silence.
    /// `highest` is the highest number in it.
    ///
    /// A checkpoint of another writer is a decision of somebody who saw the topic as it is.
    ///
    /// # Errors
    /// With a remedy that names the position.
    pub fn check_checkpoint(&self, stored: Option<&StoredCheckpoint>, highest: u64) -> Result<(), Failure> {
        let last = self.last_commit.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(last) = last else { return Ok(()) };
        let own = stored.is_none_or(|stored| stored.checkpoint.writer.run_id == self.run.run_id);
        if !own || highest >= last.seq {
            return Ok(());
        }
        let topic = &self.identity.topic;
        let held = match highest {
            0 => "it holds none now".to_owned(),
            highest => format!("its last is number {highest} now"),
        };
        let alone = matches!(topic.kind(), TopicKind::Entity(_) | TopicKind::PlatformEvent(_));
        Err(StreamError::CheckpointLost {
            topic: topic.clone(),
            committed: last.seq,
            checkpoint_topic: self.identity.checkpoint_topic(),
            held,
            after: last.replay_id.filter(|_| alone),
        }
        .failure())
    }

    /// Shows a committed transaction on the board, and remembers it.
    pub fn note_committed(&self, committed: &Committed) {
        let position = &committed.checkpoint().position;
        let last = LastCommit { seq: committed.seq(), replay_id: newest(position) };
        *self.last_commit.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
        self.board.board().set_kafka(Ok(()));
        self.board.pulse().committed();
        self.board.update(|status| {
            status.checkpoint_committed = true;
            status.transactions_committed += 1;
            status.last_transaction_at = Some(Utc::now());
        });
        self.show_position(&committed.checkpoint().position);
    }

    /// Shows a position, committed or found.
    pub fn show_position(&self, position: &Position) {
        let resume_after = complete(position).map(ToString::to_string);
        if position.is_anchored() {
            self.anchored.store(true, Ordering::Relaxed);
        }
        self.board.update(|status| {
            status.last_replay_id = newest(position).map(|id| id.to_string());
            status.resume_after = resume_after;
            status.position_time = position_time(position);
        });
    }
}

/// The replay id that is known to be complete.
fn complete(position: &Position) -> Option<&ReplayId> {
    match position.anchor() {
        Anchor::After(id) => Some(id),
        Anchor::Earliest { .. } | Anchor::Latest { .. } => None,
    }
}

/// The replay id of the newest event or keepalive.
fn newest(position: &Position) -> Option<ReplayId> {
    position.already().last().map(EventKey::replay_id).or_else(|| complete(position)).cloned()
}

/// The checkpoint after `checkpoint`: what it carries besides the position is carried on.
pub fn following(checkpoint: &Checkpoint, position: Position, events: u64) -> Checkpoint {
    let mut next = checkpoint.clone();
    next.position = position;
    next.event_count = next.event_count.saturating_add(events);
    next
}

/// Salesforce's time of a position. A start that has not received anything is as old as its decision.
pub fn position_time(position: &Position) -> Option<DateTime<Utc>> {
    position.time().or(match position.anchor() {
        Anchor::After(_) => None,
        Anchor::Earliest { since } | Anchor::Latest { since } => Some(*since),
    })
}

/// The topic of the gap ledger.
pub fn ledger_topic(prefix: &str) -> String {
    format!("{prefix}.gaps")
}

/// The topic of undecodable events.
pub fn dead_letters_topic(prefix: &str) -> String {
    format!("{prefix}.dead-letters")
}

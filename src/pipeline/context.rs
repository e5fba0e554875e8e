//! What all parts of a stream know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};

use crate::config::{BatchConfig, StreamConfig};
use crate::kafka::{Checkpoint, Committed, OutputRecord, RunIdentity, StreamIdentity};
use crate::pipeline::claims::EntityClaims;
use crate::pipeline::ledger::OpenGap;
use crate::position::{Anchor, Position};
use crate::status::{Metrics, StreamBoard};

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
    /// Which stream writes which entity.
    pub claims: EntityClaims,
    /// When a transaction is full.
    pub batch: BatchConfig,
    /// `<prefix>.gaps`
    pub ledger_topic: Arc<str>,
    /// `<prefix>.dead-letters`
    pub dead_letters_topic: Arc<str>,
    /// Set once any stream of the process has a position: from then on a hopeless error stops
    /// that stream and not the process.
    pub anchored: Arc<AtomicBool>,
}

impl StreamContext {
    /// The ledger's record of a gap of this stream.
    pub fn gap_record(&self, gap: &OpenGap) -> OutputRecord {
        gap.record(&self.ledger_topic, &self.identity.org, &self.identity.topic, &self.run.run_id)
    }

    /// Shows a committed transaction on the board.
    pub fn note_committed(&self, committed: &Committed) {
        self.board.board().set_kafka(Ok(()));
        self.board.update(|status| {
            status.checkpoint_committed = true;
            status.transactions_committed += 1;
            status.last_transaction_at = Some(Utc::now());
        });
        self.show_position(&committed.checkpoint().position);
    }

    /// Shows a position, committed or found.
    pub fn show_position(&self, position: &Position) {
        let resume_after = match position.anchor() {
            Anchor::After(id) => Some(id.to_string()),
            Anchor::Earliest { .. } | Anchor::Latest { .. } => None,
        };
        if position.is_anchored() {
            self.anchored.store(true, Ordering::Relaxed);
        }
        self.board.update(|status| {
            status.last_replay_id =
                position.already().last().map(|key| key.replay_id().to_string()).or_else(|| resume_after.clone());
            status.resume_after = resume_after;
            status.position_time = position_time(position);
        });
    }
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

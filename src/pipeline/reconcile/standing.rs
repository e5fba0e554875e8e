//! Up to when a stream is current, from its checkpoint. Nobody is fenced.

use chrono::{DateTime, TimeDelta, Utc};

use crate::kafka::{KafkaSettings, StreamIdentity, Writer, read_checkpoint};
use crate::pipeline::reconcile::unable::Unable;

/// How much older than the position a row must be to be judged. The bus is in the order of commits but for
/// seconds, and a row is stamped before its transaction ends, which may take minutes.
const MARGIN: TimeDelta = TimeDelta::minutes(10);

/// A writer that has committed nothing for so long does not run; one that does commits at least every two minutes.
const RUNNING: TimeDelta = TimeDelta::minutes(3);

/// Where a stream stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Salesforce's time of the position.
    pub position: DateTime<Utc>,
    /// Who committed it, and when, by that machine's clock.
    pub writer: Writer,
    /// When.
    pub committed_at: DateTime<Utc>,
}

impl Standing {
    /// Rows that were changed later are not judged.
    pub fn judged_to(&self) -> DateTime<Utc> {
        self.position.checked_sub_signed(MARGIN).unwrap_or(self.position)
    }

    /// Whether a service is there to heal what is found.
    pub fn is_running(&self) -> bool {
        Utc::now() - self.committed_at < RUNNING
    }

    /// How far the stream is behind Salesforce's `now`, if it is. A quiet stream commits the positions of keepalives every two minutes.
    pub fn behind(&self, now: DateTime<Utc>) -> Option<TimeDelta> {
        Some(now - self.position).filter(|behind| *behind > MARGIN)
    }
}

/// Where a stream stands.
///
/// # Errors
/// When the checkpoint cannot be read, or is none that tells a time.
pub async fn standing(kafka: &KafkaSettings, identity: &StreamIdentity) -> Result<Standing, Unable> {
    let stored = read_checkpoint(kafka, identity).await?;
    let checkpoint = stored.map(|stored| stored.checkpoint);
    let none = || Unable::NoPosition(identity.topic.clone());
    let checkpoint = checkpoint.ok_or_else(none)?;
    let position = checkpoint.position.time().ok_or_else(none)?;
    Ok(Standing { position, writer: checkpoint.writer, committed_at: checkpoint.committed_at })
}

//! The record that says where a stream stands: the last one of every transaction.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kafka::error::KafkaError;
use crate::kafka::stream::RunIdentity;
use crate::position::Position;

/// The version of the form below. A checkpoint of another version is refused, not guessed at.
pub const CHECKPOINT_VERSION: u64 = 1;

/// Where a stream stands, as stored in its checkpoint topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    v: u64,
    /// Counts the stream's transactions. It grows by one with each; replay ids have no order, so this is
    /// what shows that checkpoints are read in the order in which they were written.
    pub seq: u64,
    /// How far the event bus has been taken.
    pub position: Position,
    /// Who wrote this.
    pub writer: Writer,
    /// When it was handed to Kafka, by the writer's clock.
    pub committed_at: DateTime<Utc>,
    /// Where the org was reached. Another one under the same org id means that the org moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_url: Option<String>,
    /// Events written since the stream's first checkpoint.
    #[serde(default)]
    pub event_count: u64,
    /// The cursors of the stream's jobs by job id; their form belongs to the job.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub jobs: Map<String, Value>,
}

/// Who wrote a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The run's random id.
    pub run_id: String,
    /// The machine's name.
    pub host: String,
    /// casewire's version.
    pub version: String,
}

impl From<&RunIdentity> for Writer {
    fn from(run: &RunIdentity) -> Self {
        Self { run_id: run.run_id.clone(), host: run.host.clone(), version: run.version.to_owned() }
    }
}

impl Checkpoint {
    /// A checkpoint at `position`. Its number, writer and time are set when it is committed.
    pub fn at(position: Position) -> Self {
        Self {
            v: CHECKPOINT_VERSION,
            seq: 0,
            position,
            writer: Writer::default(),
            committed_at: DateTime::UNIX_EPOCH,
            instance_url: None,
            event_count: 0,
            jobs: Map::new(),
        }
    }

    /// The record's value.
    pub fn to_json(&self) -> Result<Vec<u8>, KafkaError> {
        serde_json::to_vec(self).map_err(|error| KafkaError::CheckpointInvalid {
            what: format!("The checkpoint cannot be written as JSON: {error}"),
        })
    }

    /// Reads a record's value. The version is looked at before anything else.
    pub fn from_json(bytes: &[u8]) -> Result<Self, KafkaError> {
        #[derive(Deserialize)]
        struct Version {
            v: u64,
        }
        let unreadable = |error: serde_json::Error| KafkaError::CheckpointInvalid {
            what: format!("The value is not a checkpoint: {error}"),
        };
        let Version { v } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if v != CHECKPOINT_VERSION {
            return Err(KafkaError::CheckpointInvalid {
                what: format!(
                    "The checkpoint has version {v}, this casewire reads version {CHECKPOINT_VERSION}: \
                     a casewire that knows version {v} wrote it and is needed to go on from it"
                ),
            });
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}

/// A checkpoint as found in its topic.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredCheckpoint {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The record's offset.
    pub offset: i64,
    /// The record's Kafka timestamp: when it was produced.
    pub timestamp: Option<DateTime<Utc>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Anchor;

    fn checkpoint() -> Checkpoint {
        Checkpoint::at(Position::starting(Anchor::Latest { since: DateTime::UNIX_EPOCH }))
    }

    #[test]
    fn a_checkpoint_survives_its_stored_form() {
        let mut written = checkpoint();
        written.seq = 7;
        written.instance_url = Some("https://example.my.salesforce.com".into());
        written.jobs.insert("snapshot".into(), Value::from(12));
        let read = Checkpoint::from_json(&written.to_json().expect("json")).expect("a checkpoint");
        assert_eq!(read, written);
    }

    #[test]
    fn another_version_is_refused_by_number_whatever_else_it_holds() {
        let error = Checkpoint::from_json(br#"{"v":2,"position":"unheard of"}"#).expect_err("refused");
        assert!(error.to_string().contains("version 2"), "{error}");
        for broken in [&b"{}"[..], b"", b"[]", br#"{"v":1}"#, br#"{"v":"1"}"#, b"\xff"] {
            assert!(matches!(Checkpoint::from_json(broken), Err(KafkaError::CheckpointInvalid { .. })));
        }
    }
}

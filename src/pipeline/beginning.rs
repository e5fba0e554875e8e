//! The position from which an attempt goes on, and when it must not go on at all.
//!
//! A missing checkpoint is a first run only if nothing says otherwise: after a sandbox refresh the
//! organisation has another id, and after somebody deleted a checkpoint topic the output is still
//! there. Starting over in silence would lose events in the first case and double them in the second.

use chrono::{DateTime, Utc};

use crate::config::{OnGap, Start};
use crate::failure::Failure;
use crate::kafka::{
    Checkpoint, KafkaError, KafkaSettings, StoredCheckpoint, StreamIdentity, checkpoints_of_topic, read_checkpoint,
};
use crate::pipeline::context::StreamContext;
use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
use crate::pipeline::read_back;
use crate::pipeline::stop::StreamError;
use crate::position::{Anchor, Position, ReplayFrom};
use crate::status::RETENTION;

/// Where an attempt begins.
#[derive(Debug)]
pub struct Beginning {
    /// The checkpoint to announce.
    pub checkpoint: Checkpoint,
    /// What is known to be missing before it.
    pub gap: Option<OpenGap>,
}

/// Why there is no beginning.
#[derive(Debug)]
pub enum NoBeginning {
    /// It is not a first run, whatever the checkpoint topic says.
    Stop(Failure),
    /// Kafka could not be asked.
    Kafka(KafkaError),
}

/// Goes on from `stored`, or begins a first run.
///
/// # Errors
/// When it is neither.
pub async fn beginning(
    context: &StreamContext,
    settings: &KafkaSettings,
    stored: Option<StoredCheckpoint>,
    now: DateTime<Utc>,
) -> Result<Beginning, NoBeginning> {
    if let Some(stored) = stored {
        return resume(context, stored.checkpoint, now).map_err(NoBeginning::Stop);
    }
    first_run(&context.identity, settings).await?;
    let anchor = match context.stream.start {
        Start::Earliest => Anchor::Earliest { since: now },
        Start::Latest => Anchor::Latest { since: now },
    };
    Ok(Beginning { checkpoint: Checkpoint::at(Position::starting(anchor)), gap: None })
}

fn resume(context: &StreamContext, mut checkpoint: Checkpoint, now: DateTime<Utc>) -> Result<Beginning, Failure> {
    let gap = match (checkpoint.position.anchor().clone(), checkpoint.position.replay_from()) {
        (Anchor::Latest { since }, ReplayFrom::Latest) => {
            let detail = "a start at the tip ended before its first position was committed; events published \
                          until it was begun anew were not delivered";
            checkpoint.position = Position::starting(Anchor::Latest { since: now });
            let ends = |time| GapEnd { replay_id: None, time: Some(time) };
            Some(OpenGap::of_range(GapCause::LatestRestarted, ends(since), ends(now), detail.to_owned()))
        }
        // Only channels deliver several events with one replay id: enrichment splits their groups.
        (Anchor::Latest { .. }, ReplayFrom::After(id)) if context.is_channel() => {
            Some(OpenGap::unanchored(id, checkpoint.position.time()))
        }
        (Anchor::Earliest { since }, _) => {
            let gap = left_retention(&checkpoint.position, since, now);
            if let Some(gap) = &gap {
                if context.stream.on_gap == OnGap::Stop {
                    return Err(stopped(context, gap));
                }
                checkpoint.position = Position::starting_over(now, checkpoint.position.time());
            }
            gap
        }
        _ => None,
    };
    Ok(Beginning { checkpoint, gap })
}

/// What a start from the oldest event, whose first id is not known to be complete yet, can have lost since. A stored
/// id that is too old is refused; EARLIEST never is, and silently begins with what is left.
fn left_retention(position: &Position, since: DateTime<Utc>, now: DateTime<Utc>) -> Option<OpenGap> {
    // Until an event was taken, everything before the start was either retained then or not owed.
    let covered = if position.already().is_empty() { since } else { position.time().unwrap_or(since) };
    if now - covered < RETENTION {
        return None;
    }
    let from = GapEnd { replay_id: position.already().last().map(|key| key.replay_id().clone()), time: Some(covered) };
    let detail = "the stream had only begun with the oldest event when it ended, and was away for longer than Salesforce \
                  promises to keep events";
    Some(OpenGap::of_range(GapCause::Expired, from, GapEnd { replay_id: None, time: Some(now) }, detail.to_owned()))
}

/// What an operator has to decide.
fn stopped(context: &StreamContext, gap: &OpenGap) -> Failure {
    StreamError::LeftRetention { topic: context.identity.topic.clone(), detail: gap.detail.clone() }.failure()
}

/// Makes sure that nothing says that a stream without a checkpoint ran before. It only reads.
///
/// # Errors
/// When something does, or Kafka cannot be asked.
pub async fn first_run(identity: &StreamIdentity, settings: &KafkaSettings) -> Result<(), NoBeginning> {
    let topic = &identity.topic;
    let orgs = checkpoints_of_topic(settings, &identity.prefix, topic).await.map_err(NoBeginning::Kafka)?;
    for other in orgs.iter().filter(|org| **org != identity.org) {
        // A topic without a checkpoint is what an attempt like this one leaves behind.
        let of_other = StreamIdentity { org: other.clone(), ..identity.clone() };
        if read_checkpoint(settings, &of_other).await.map_err(NoBeginning::Kafka)?.is_none() {
            continue;
        }
        let (topic, org, other) = (topic.clone(), identity.org.clone(), other.clone());
        return Err(NoBeginning::Stop(StreamError::OtherOrg { topic, org, other }.failure()));
    }
    let held = read_back::holds_records(identity, settings).await.map_err(NoBeginning::Kafka)?;
    if let Some(output) = held {
        let (topic, checkpoint_topic) = (topic.clone(), identity.checkpoint_topic());
        let found = StreamError::OutputWithoutCheckpoint { topic, output: output.to_string(), checkpoint_topic };
        return Err(NoBeginning::Stop(found.failure()));
    }
    Ok(())
}

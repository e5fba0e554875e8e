//! A replay id that Salesforce refuses: the gap is recorded in the transaction that leaves it behind.
//!
//! It never turns into a start at the tip without a word.

use chrono::{DateTime, Utc};

use crate::config::OnGap;
use crate::failure::Failure;
use crate::identity::{ReplayId, TopicName};
use crate::kafka::Checkpoint;
use crate::pipeline::context::{StreamContext, following, position_time};
use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
use crate::pipeline::stop::StreamError;
use crate::position::Position;
use crate::status::RETENTION;

/// What a refusal leads to.
#[derive(Debug)]
pub struct Refusal {
    /// The entry of the ledger. One refused position is one gap, however often it is tried.
    pub gap: OpenGap,
    /// The checkpoint to commit with it.
    pub next: Checkpoint,
    /// What to tell the operator where the stream is to stop; `None` where it goes on from the oldest event.
    pub stop: Option<Failure>,
}

/// Decides what follows when Salesforce refused `replay_id` with `message`.
pub fn refusal(
    context: &StreamContext,
    checkpoint: &Checkpoint,
    replay_id: &ReplayId,
    message: &str,
    instance_url: &str,
    now: DateTime<Utc>,
) -> Refusal {
    let topic = &context.identity.topic;
    let covered = position_time(&checkpoint.position);
    let cause = cause(covered, now, checkpoint.instance_url.as_deref(), instance_url);
    let from = GapEnd { replay_id: Some(replay_id.clone()), time: covered };
    let detail = format!("Salesforce refused the stored position: {message}");
    let mut gap = OpenGap::of_range(cause, from, GapEnd { replay_id: None, time: Some(now) }, detail);
    let name = topic.as_str().trim_start_matches('/').replace('/', ".");
    gap.id = format!("refused-{}-{name}-{replay_id}", context.identity.org);
    if context.stream.on_gap == OnGap::Stop {
        let stop = Some(stopped(topic, replay_id, cause, message));
        return Refusal { gap, next: following(checkpoint, checkpoint.position.clone(), 0), stop };
    }
    let mut next = following(checkpoint, Position::starting_over(now, covered), 0);
    next.instance_url = Some(instance_url.to_owned());
    Refusal { gap, next, stop: None }
}

/// What an operator has to decide.
fn stopped(topic: &TopicName, replay_id: &ReplayId, cause: GapCause, message: &str) -> Failure {
    let (topic, replay_id, message) = (topic.clone(), replay_id.clone(), message.to_owned());
    StreamError::PositionRefused { topic, replay_id, cause, message }.failure()
}

/// Why a position was refused. Salesforce has one answer for all reasons; age and instance tell them apart.
fn cause(
    position: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    instance_then: Option<&str>,
    instance_now: &str,
) -> GapCause {
    if position.is_some_and(|position| now - position >= RETENTION) {
        GapCause::Expired
    } else if instance_then.is_some_and(|then| then != instance_now) {
        GapCause::Moved
    } else {
        GapCause::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn age_and_instance_tell_why_a_position_was_refused() {
        let now = Utc::now();
        let hours = |hours| Some(now - TimeDelta::hours(hours));
        assert_eq!(cause(hours(72), now, Some("https://a"), "https://b"), GapCause::Expired);
        assert_eq!(cause(hours(1), now, Some("https://a"), "https://b"), GapCause::Moved);
        assert_eq!(cause(hours(1), now, Some("https://a"), "https://a"), GapCause::Refused);
        assert_eq!(cause(None, now, None, "https://a"), GapCause::Refused);
    }
}

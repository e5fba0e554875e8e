//! What the end of an attempt means: whether the stream goes on, begins again, or waits for an operator.

use std::sync::PoisonError;

use tokio::task::JoinHandle;
use tracing::warn;

use crate::failure::Failure;
use crate::identity::ReplayId;
use crate::kafka::{Checkpoint, TransactionalWriter};
use crate::pipeline::attempt::{Attempt, AttemptEnd};
use crate::pipeline::context::StreamContext;
use crate::pipeline::decode::DecodeEnd;
use crate::pipeline::jobs::Desk;
use crate::pipeline::notice::Notice;
use crate::pipeline::refusal::{Refusal, refusal};
use crate::pipeline::run_loop::LoopEnd;
use crate::pipeline::stop::StreamError;
use crate::salesforce::subscription::Ended;

impl Attempt {
    /// What the ends of the three stations mean together.
    pub(super) async fn conclude(
        &self,
        end: LoopEnd,
        decoded: Result<DecodeEnd, Failure>,
        ended: Result<Ended, Failure>,
        writer: TransactionalWriter,
        checkpoint: Checkpoint,
    ) -> AttemptEnd {
        match end {
            LoopEnd::Kafka(error) => return AttemptEnd::Kafka(error),
            LoopEnd::Oversize(event) => {
                warn!(topic = %self.context.identity.topic, %event, "a record is larger than Kafka takes: its event is written without full records, or becomes a dead letter");
                return AttemptEnd::GoOn;
            }
            LoopEnd::OversizeRow(id) => {
                warn!(topic = %self.context.identity.topic, id, "a record of a job or of a conversation is larger than Kafka takes: it is left out, or written with less");
                return AttemptEnd::GoOn;
            }
            LoopEnd::Drained => {}
        }
        let ended = match (decoded, ended) {
            (Ok(DecodeEnd::Stopped(failure)) | Err(failure), _) | (_, Err(failure)) => Ended::Stopped(failure),
            (Ok(DecodeEnd::Finished), Ok(ended)) => ended,
        };
        match ended {
            Ended::Refused { replay_id, message } => self.refused(&replay_id, &message, writer, checkpoint).await,
            Ended::Cancelled => {
                close(writer, &self.context).await;
                AttemptEnd::Finished
            }
            Ended::Stopped(failure) => {
                close(writer, &self.context).await;
                AttemptEnd::Stopped(failure)
            }
            Ended::ReceiverGone => AttemptEnd::GoOn,
        }
    }

    async fn refused(
        &self,
        replay_id: &ReplayId,
        message: &str,
        mut writer: TransactionalWriter,
        checkpoint: Checkpoint,
    ) -> AttemptEnd {
        let context = &self.context;
        let session = self.pubsub.session();
        let now = session.salesforce_now();
        // Where the org is now, not where it was when the attempt began: it may have moved under an open call, and
        // the token of the call that was refused tells.
        let instance_url =
            session.token().await.map_or_else(|_| self.instance_url.clone(), |token| token.instance_origin());
        let Refusal { gap, next, stop } = refusal(context, &checkpoint, replay_id, message, &instance_url, now);
        let known = self.memory.refused.lock().unwrap_or_else(PoisonError::into_inner).replace(replay_id.clone());
        if let Some(failure) = stop.clone().filter(|_| known.as_ref() == Some(replay_id)) {
            close(writer, context).await;
            return AttemptEnd::Stopped(failure);
        }
        warn!(topic = %context.identity.topic, %replay_id, cause = ?gap.cause, "salesforce refused the stored position; gap opened");
        let records = vec![context.gap_record(&gap)];
        let mut next = next;
        Desk::new(context.clone(), self.gaps, &next).enrol(&mut next, &records);
        match writer.commit(records, next).await {
            Ok(committed) => context.note_committed(&committed),
            Err(error) => return AttemptEnd::Kafka(error),
        }
        context.board.update(|status| {
            status.gaps_opened += 1;
            status.gap_opened(gap.cause.name());
        });
        close(writer, context).await;
        match stop {
            Some(failure) => AttemptEnd::Stopped(failure),
            None => {
                let notice = Notice::PositionRefused(gap.detail);
                context.board.error(notice.to_string(), notice.remedy());
                AttemptEnd::GoOn
            }
        }
    }
}

/// What was committed stays committed however the producer ends, so a failing end is only worth a line.
async fn close(writer: TransactionalWriter, context: &StreamContext) {
    if let Err(error) = writer.close().await {
        warn!(topic = %context.identity.topic, %error, "the producer did not end in order");
    }
}

/// The end of decoding, unless the completion station had none of its own. One that was aborted had nothing left to do.
pub(super) async fn both(decode: JoinHandle<DecodeEnd>, completed: JoinHandle<()>) -> Result<DecodeEnd, Failure> {
    let decoded = joined(decode.await);
    match completed.await {
        Err(error) if error.is_panic() => decoded.and(joined(Err(error))),
        _ => decoded,
    }
}

/// A station that panicked is a fault of ours; the stream says so instead of going silent.
pub(super) fn joined<T>(outcome: Result<T, tokio::task::JoinError>) -> Result<T, Failure> {
    outcome.map_err(|error| StreamError::StationEnded(error.to_string()).into())
}

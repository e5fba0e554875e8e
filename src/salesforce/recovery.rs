//! What follows the end of a call: another call, when, and with which token; or the end.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::failure::Failure;
use crate::identity::ReplayId;
use crate::position::{Position, ReplayFrom};
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::call::CallEnd;
use crate::salesforce::call_fault::CallFault;
use crate::salesforce::subscription_state::{PAUSED, PLANNED};
use crate::salesforce::verdict::{CallError, Verdict};

/// Why a subscription is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Cancelled,
    /// The replay id is not accepted: aged out, of another org, or of a stream that was reset.
    Refused {
        /// The id.
        replay_id: ReplayId,
        /// Salesforce's words.
        message: String,
    },
    /// Somebody has to do something first.
    Stopped(Failure),
    /// Nobody takes batches any more.
    ReceiverGone,
}

/// What follows the end of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Another call.
    Again {
        /// Why, in a word, for counters.
        reason: &'static str,
        wait: Duration,
        /// Whether the token of the old call must not be used again.
        renew_token: bool,
        /// What an operator should see meanwhile.
        trouble: Option<Failure>,
    },
    End(Ended),
}

/// What has to be remembered from call to call to decide.
#[derive(Debug)]
pub(crate) struct Recovery {
    backoff: Backoff,
    least_distance: Duration,
    /// When the call under way was made.
    opened: Option<Instant>,
    /// A message has come on it.
    heard: bool,
    /// The token was given up since the last message, so that the next refusal is not the token's fault.
    token_renewed: bool,
}

impl Recovery {
    pub(crate) fn new(limits: BackoffLimits) -> Self {
        Self {
            backoff: Backoff::new(limits),
            least_distance: limits.minimum(),
            opened: None,
            heard: false,
            token_renewed: false,
        }
    }

    /// A call is about to be made.
    pub(crate) fn begin(&mut self) {
        (self.opened, self.heard) = (None, false);
    }

    /// The call was made.
    pub(crate) fn opened(&mut self, now: Instant) {
        self.opened = Some(now);
    }

    /// A message came. Only this resets the backoff: a server that accepts each call and ends it is not well.
    pub(crate) fn message(&mut self) {
        (self.heard, self.token_renewed) = (true, false);
        self.backoff.reset();
    }

    /// Decides. `position` is where the next call would go on.
    pub(crate) fn after(&mut self, end: CallEnd, position: &Position, now: Instant) -> Step {
        let error = match end {
            CallEnd::Cancelled => return Step::End(Ended::Cancelled),
            CallEnd::ReceiverGone => return Step::End(Ended::ReceiverGone),
            CallEnd::Unusable(failure) => return Step::End(Ended::Stopped(failure)),
            // The next call waits for room by itself.
            CallEnd::Full => return again(PLANNED, Duration::ZERO, None),
            // And until it is to be made at all.
            CallEnd::Paused => return again(PAUSED, Duration::ZERO, None),
            CallEnd::Finished => return again("ended", self.soon(now), None),
            CallEnd::Silent(limit) => {
                return again("silence", self.soon(now), Some(CallFault::Silence(limit).failure()));
            }
            CallEnd::Overrun(unasked) => {
                return again("overrun", self.backoff.next_wait(), Some(CallFault::Overrun(unasked).failure()));
            }
            CallEnd::Failed(error) => error,
        };
        match error.verdict() {
            Verdict::RetryNow => again(error.reason(), self.soon(now), None),
            Verdict::RetryAfter(pause) => {
                let mut trouble = error.failure();
                trouble.remedy = pause.remedy.map_or(trouble.remedy, str::to_owned);
                again(error.reason(), self.backoff.next_wait_at_least(pause.at_least), Some(trouble))
            }
            Verdict::NewToken => self.with_another_token(&error),
            Verdict::OpenGap => match position.replay_from() {
                ReplayFrom::After(replay_id) => Step::End(Ended::Refused { replay_id, message: error.to_string() }),
                // No id was sent, so there is none to give up.
                ReplayFrom::Earliest | ReplayFrom::Latest => Step::End(Ended::Stopped(error.failure())),
            },
            // A topic that has delivered before is refused for a stale token as well.
            Verdict::Stop(_) if is_permission(&error) && position.is_anchored() && !self.token_renewed => {
                self.with_another_token(&error)
            }
            Verdict::Stop(failure) => Step::End(Ended::Stopped(failure)),
        }
    }

    /// Once at once, because a new token mostly mends it; then with backoff, because then it does not.
    fn with_another_token(&mut self, error: &CallError) -> Step {
        let again = std::mem::replace(&mut self.token_renewed, true);
        let wait = if again { self.backoff.next_wait() } else { Duration::ZERO };
        Step::Again { reason: error.reason(), wait, renew_token: true, trouble: Some(error.failure()) }
    }

    /// A call that worked is followed at once, though never closer than the least distance; one that brought
    /// nothing backs off.
    fn soon(&mut self, now: Instant) -> Duration {
        match self.opened {
            Some(opened) if self.heard => (opened + self.least_distance).saturating_duration_since(now),
            _ => self.backoff.next_wait(),
        }
    }
}

fn again(reason: &'static str, wait: Duration, trouble: Option<Failure>) -> Step {
    Step::Again { reason, wait, renew_token: false, trouble }
}

fn is_permission(error: &CallError) -> bool {
    matches!(error, CallError::Status { code: Code::PermissionDenied, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use crate::position::Anchor;
    use chrono::DateTime;
    use tonic::Status;

    const LEAST: Duration = Duration::from_secs(1);

    fn unanchored() -> Position {
        Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH })
    }

    fn anchored() -> Position {
        Position::starting(Anchor::After("0102".parse().expect("hex")))
    }

    fn failed(status: Status) -> CallEnd {
        CallEnd::Failed(status.into())
    }

    fn coded(error_code: &str) -> CallEnd {
        let mut status = Status::internal("x");
        status.metadata_mut().insert("error-code", error_code.parse().expect("ascii"));
        failed(status)
    }

    fn wait(step: &Step) -> Duration {
        match step {
            Step::Again { wait, .. } => *wait,
            Step::End(ended) => panic!("{ended:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_brought_messages_is_followed_at_once_but_never_in_a_tight_loop() {
        let mut recovery = Recovery::new(BackoffLimits::default());
        recovery.begin();
        recovery.opened(Instant::now());
        recovery.message();
        let step = recovery.after(CallEnd::Finished, &anchored(), Instant::now());
        assert_eq!(step, again("ended", LEAST, None), "just opened: the least distance is kept");
        tokio::time::advance(Duration::from_secs(90)).await;
        for end in [CallEnd::Finished, CallEnd::Silent(LEAST), coded("x.subscription.fetch.replay.repeated")] {
            assert_eq!(wait(&recovery.after(end, &anchored(), Instant::now())), Duration::ZERO);
        }
        recovery.begin();
        recovery.opened(Instant::now());
        let waits: Vec<_> =
            (0..12).map(|_| wait(&recovery.after(CallEnd::Finished, &anchored(), Instant::now()))).collect();
        assert!(
            waits[0] >= LEAST && waits[11] >= Duration::from_secs(150),
            "without a message it backs off: {waits:?}"
        );
    }

    #[test]
    fn a_refused_token_is_replaced_at_once_and_then_with_backoff() {
        let mut recovery = Recovery::new(BackoffLimits::default());
        let refused = || failed(Status::unauthenticated("no"));
        let renews = |step: &Step| matches!(step, Step::Again { renew_token: true, reason: "token", .. });
        let now = Instant::now();
        let steps: Vec<_> = (0..3).map(|_| recovery.after(refused(), &anchored(), now)).collect();
        assert!(steps.iter().all(renews), "{steps:?}");
        assert_eq!(wait(&steps[0]), Duration::ZERO);
        assert!(wait(&steps[1]) >= LEAST && wait(&steps[2]) > LEAST);
        recovery.message();
        assert_eq!(wait(&recovery.after(refused(), &anchored(), now)), Duration::ZERO);
    }

    #[test]
    fn a_missing_permission_stops_at_once_on_a_new_topic_and_after_another_token_on_a_good_one() {
        let refused = || failed(Status::permission_denied("no"));
        let now = Instant::now();
        let mut recovery = Recovery::new(BackoffLimits::default());
        let Step::End(Ended::Stopped(failure)) = recovery.after(refused(), &unanchored(), now) else {
            panic!("must stop")
        };
        assert_eq!(failure.exit, Exit::NoPermission);
        let first = recovery.after(refused(), &anchored(), now);
        assert!(matches!(first, Step::Again { renew_token: true, reason: "permission", .. }), "{first:?}");
        assert!(matches!(recovery.after(refused(), &anchored(), now), Step::End(Ended::Stopped(_))));
    }

    #[test]
    fn a_refused_replay_id_ends_the_subscription_and_names_the_id() {
        let mut recovery = Recovery::new(BackoffLimits::default());
        let now = Instant::now();
        for code in ["x.subscription.fetch.replayid.corrupted", "x.subscription.fetch.replayid.validation.failed"] {
            let Step::End(Ended::Refused { replay_id, message }) = recovery.after(coded(code), &anchored(), now) else {
                panic!("{code} must be refused")
            };
            assert_eq!(replay_id.to_string(), "0102");
            assert!(message.contains(code), "{message}");
            let without_id = recovery.after(coded(code), &unanchored(), now);
            assert!(matches!(without_id, Step::End(Ended::Stopped(_))), "{without_id:?}");
        }
    }

    #[test]
    fn a_used_up_allocation_waits_for_an_hour_and_says_what_helps() {
        let mut recovery = Recovery::new(BackoffLimits::default());
        let step = recovery.after(coded("x.subscription.limit.exceeded"), &anchored(), Instant::now());
        assert_eq!(wait(&step), Duration::from_secs(3600));
        let Step::Again { reason: "allocation", trouble: Some(trouble), .. } = step else { panic!("{step:?}") };
        assert!(trouble.remedy.contains("DailyDeliveredPlatformEvents"));
    }
}

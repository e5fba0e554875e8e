//! Keeps a topic subscribed: one Subscribe call after the other, each from after the last
//! event that was handed downstream.
//!
//! A call can end in many ways, most of which are nothing to report: Salesforce moves its
//! servers, proxies drop idle connections, a quiet call ends with OK. So the loop
//! knows reasons, not errors. It ends itself only when it cannot go on from where it
//! stands.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::identity::{ReplayId, TopicKind, TopicName};
use crate::position::{Admission, Position, ReplayFrom};
use crate::proto::FetchResponse;
use crate::salesforce::backoff::BackoffLimits;
use crate::salesforce::buffer::Buffer;
use crate::salesforce::call::{Call, CallEnd};
use crate::salesforce::call_fault::CallFault;
use crate::salesforce::credit::{self, Credit};
use crate::salesforce::intake::{Batch, Intake, Placeless, ReceivedEvent, check_replay_id};
use crate::salesforce::pubsub::PubSub;
pub use crate::salesforce::recovery::Ended;
use crate::salesforce::recovery::{Recovery, Step};
use crate::salesforce::subscription_state::StateWriter;
pub use crate::salesforce::subscription_state::SubscriptionState;
use crate::salesforce::verdict::CallError;

/// How long the server is waited for after a half-close, before a new call and before the end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(6);
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(1);

/// How a topic is subscribed.
#[derive(Debug, Clone)]
pub struct SubscriptionSettings {
    /// The topic.
    pub topic: TopicName,
    /// Events to have outstanding; 1 to 100.
    pub credit: u32,
    /// Without a message for this long, although events were asked for, the call is taken for dead.
    /// Salesforce sends a keepalive at least every 270 s.
    pub silence_limit: Duration,
    /// How long to wait for room downstream at a credit of zero before the call is closed
    /// on purpose. Salesforce would close it after 60 s.
    pub room_patience: Duration,
    /// Waits between failing calls; the minimum is also the least distance of two calls.
    pub backoff: BackoffLimits,
    /// Carried by every batch, so that those of a subscription given up can be told apart.
    pub generation: u64,
    /// While true, no call is made and an open one is closed. The position stays where it is.
    pub paused: watch::Receiver<bool>,
}

impl SubscriptionSettings {
    /// The given topic with defaults: a credit of 100, 300 s of silence, 30 s for room, waits of 1 s to 5 min.
    pub fn new(topic: TopicName, generation: u64) -> Self {
        Self {
            topic,
            credit: credit::MOST_OUTSTANDING,
            silence_limit: Duration::from_secs(300),
            room_patience: Duration::from_secs(30),
            backoff: BackoffLimits::default(),
            generation,
            // Nobody holds the other end, so it stays as it is.
            paused: watch::channel(false).1,
        }
    }
}

/// Subscribes `topic` from `position` and sends what comes to `sender` until it cannot go on.
///
/// `position` is that of the last event handed downstream. Each wait ends on `cancel` and when the receiver
/// is dropped. Never two calls at once: the old one is closed and awaited before the next.
pub async fn run(
    pubsub: PubSub,
    settings: SubscriptionSettings,
    position: Position,
    buffer: Buffer,
    sender: mpsc::Sender<Intake>,
    state: watch::Sender<SubscriptionState>,
    cancel: CancellationToken,
) -> Ended {
    let mut subscription = Subscription {
        state: StateWriter::new(state, settings.generation),
        recovery: Recovery::new(settings.backoff),
        latest: None,
        called: false,
        pubsub,
        settings,
        position,
        buffer,
        sender,
        cancel,
    };
    loop {
        if let Some(ended) = subscription.wait_for_leave().await {
            return subscription.end(ended, None).await;
        }
        subscription.recovery.begin();
        let (end, call) = subscription.run_once().await;
        let ended = match subscription.recovery.after(end, &subscription.position, Instant::now()) {
            Step::Again { reason, wait, renew_token, trouble } => {
                if renew_token && let Some(call) = &call {
                    subscription.pubsub.session().reject(call.token());
                }
                subscription.state.again(reason, wait, trouble.as_ref());
                tracing::info!(topic = %subscription.settings.topic, reason, wait = ?wait, "subscribing again");
                subscription.pause(call, Instant::now() + wait).await
            }
            Step::End(ended) => Some((ended, call)),
        };
        if let Some((ended, call)) = ended {
            return subscription.end(ended, call).await;
        }
    }
}

/// A start from the tip that has not led to a position yet.
#[derive(Debug)]
struct LatestStart {
    first_call: DateTime<Utc>,
    this_call: DateTime<Utc>,
    repeated: bool,
}

struct Subscription {
    pubsub: PubSub,
    settings: SubscriptionSettings,
    position: Position,
    buffer: Buffer,
    sender: mpsc::Sender<Intake>,
    state: StateWriter,
    cancel: CancellationToken,
    recovery: Recovery,
    latest: Option<LatestStart>,
    /// Whether a call has been made.
    called: bool,
}

impl Subscription {
    /// Returns when calls may be made, with nothing; or with how the subscription is over.
    async fn wait_for_leave(&mut self) -> Option<Ended> {
        if !*self.settings.paused.borrow() {
            return None;
        }
        self.state.waits_for_leave();
        tracing::info!(topic = %self.settings.topic, "paused: nothing is asked for");
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Some(Ended::Cancelled),
            () = self.sender.closed() => Some(Ended::ReceiverGone),
            // An error means that nobody is left to pause anything.
            _ = self.settings.paused.wait_for(|paused| !paused) => None,
        }
    }

    /// Makes one call and stays with it to its end. The call is handed back to be closed.
    async fn run_once(&mut self) -> (CallEnd, Option<Call>) {
        let target = self.settings.credit.min(self.buffer.max_events()).clamp(1, credit::MOST_OUTSTANDING);
        let mut leave = self.settings.paused.clone();
        let token = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return (CallEnd::Cancelled, None),
            () = self.sender.closed() => return (CallEnd::ReceiverGone, None),
            () = paused(&mut leave) => return (CallEnd::Paused, None),
            token = async {
                // A call made for the last free place would be topped up at once or closed again.
                self.buffer.room_or_empty(target.div_ceil(2)).await;
                self.pubsub.session().token().await
            } => token,
        };
        let token = match token {
            Ok(token) => token,
            Err(error) => return (CallEnd::Failed(error.into()), None),
        };
        let first = credit::first_request(target, self.buffer.free_events());
        let from = self.position.replay_from();
        if let Err(end) = self.report_group(&from).await {
            return (end, None);
        }
        let mut call = match Call::open(&self.pubsub, token, &self.settings.topic, &from, first) {
            Ok(call) => call,
            Err(status) => return (CallEnd::Failed(status.into()), None),
        };
        let now = self.pubsub.session().salesforce_now();
        if from == ReplayFrom::Latest {
            self.latest = Some(match self.latest.take() {
                Some(earlier) => LatestStart { this_call: now, repeated: true, ..earlier },
                None => LatestStart { first_call: now, this_call: now, repeated: false },
            });
        }
        tracing::info!(topic = %self.settings.topic, generation = self.settings.generation, from = ?from, credit = first, "subscribing");
        self.recovery.opened(Instant::now());
        self.state.opened(now, first);
        let end = self.receive(&mut call, Credit::opened_with(target, first)).await;
        if let CallEnd::Failed(error @ CallError::Status { rpc_id, .. }) = &end {
            tracing::warn!(topic = %self.settings.topic, error = %error, rpc_id, "the call failed");
        }
        (end, Some(call))
    }

    /// Takes messages and tops up the credit until the call ends.
    async fn receive(&mut self, call: &mut Call, mut credit: Credit) -> CallEnd {
        let mut overrun = 0_u32;
        let mut heard = Instant::now();
        let mut full_since: Option<Instant> = None;
        loop {
            let due = credit.due(self.buffer.free_events());
            if due > 0 {
                if credit.outstanding() == 0 {
                    // Silence counts from here: before, the server had nothing to send.
                    heard = Instant::now();
                }
                call.ask(due);
                credit.asked(due);
            }
            self.state.pending(credit.outstanding());
            let starved = credit.outstanding() == 0;
            full_since = if starved { full_since.or_else(|| Some(Instant::now())) } else { None };
            let room = credit.waits_for_room();
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return CallEnd::Cancelled,
                () = self.sender.closed() => return CallEnd::ReceiverGone,
                () = paused(&mut self.settings.paused) => return CallEnd::Paused,
                message = call.message() => match message {
                    Ok(Some(response)) => {
                        heard = Instant::now();
                        match self.take(response, &mut credit).await {
                            Ok(unasked) => overrun = overrun.saturating_add(unasked),
                            Err(end) => return end,
                        }
                        // What was taken is kept; what a server goes on sending has to wait until it is asked for.
                        if overrun > credit::MOST_OUTSTANDING {
                            return CallEnd::Overrun(overrun);
                        }
                    }
                    Ok(None) => return CallEnd::Finished,
                    Err(status) => return CallEnd::Failed(status.into()),
                },
                () = self.buffer.room_for(room.unwrap_or(u32::MAX)), if room.is_some() => {}
                () = tokio::time::sleep_until(heard + self.settings.silence_limit), if !starved => return CallEnd::Silent(self.settings.silence_limit),
                () = tokio::time::sleep_until(full_since.unwrap_or(heard) + self.settings.room_patience), if starved => {
                    return CallEnd::Full;
                }
            }
        }
    }

    fn placeless(&self, reason: Placeless) -> Failure {
        CallFault::Placeless { topic: self.settings.topic.clone(), reason }.failure()
    }

    /// Takes one response: moves the position, drops duplicates, hands the rest on. Returns how many events came
    /// without having been asked for.
    async fn take(&mut self, response: FetchResponse, credit: &mut Credit) -> Result<u32, CallEnd> {
        let (received_at, came_at) = (self.pubsub.session().salesforce_now(), Instant::now());
        let count = u32::try_from(response.events.len()).unwrap_or(u32::MAX);
        let unasked = credit.received(count, response.pending_num_requested);
        if unasked > 0 {
            tracing::warn!(topic = %self.settings.topic, unasked, "events came that were not asked for");
        }
        self.recovery.message();
        self.state.message(received_at, unasked);
        self.report_latest_restart().await?;

        let mut events = Vec::with_capacity(response.events.len());
        let mut duplicates = 0_u32;
        let mut placeless = None;
        for event in response.events {
            let event = match ReceivedEvent::read(event) {
                Ok(event) => event,
                Err(reason) => {
                    placeless = Some(self.placeless(reason));
                    break;
                }
            };
            match self.position.admit(&event.key) {
                Admission::New => events.push(event),
                Admission::Duplicate => duplicates = duplicates.saturating_add(1),
            }
        }
        let keepalive = count == 0;
        // One without an id says that the call lives, and nothing about the position.
        let moves = keepalive && !response.latest_replay_id.is_empty();
        if moves && let Err(reason) = check_replay_id(&response.latest_replay_id) {
            return Err(CallEnd::Unusable(self.placeless(reason)));
        }
        if moves {
            self.position.keepalive(ReplayId::from(response.latest_replay_id), received_at);
        }
        self.state.received(events.len(), duplicates, keepalive);
        // A response of duplicates only has moved nothing; there is nothing to hand on.
        if moves || !events.is_empty() {
            let bytes = events.iter().map(|event| event.payload.len() as u64).sum();
            let hold = self.buffer.hold(u32::try_from(events.len()).unwrap_or(u32::MAX), bytes);
            let (generation, position) = (self.settings.generation, self.position.clone());
            let batch = Batch { generation, events, position, duplicates, received_at, came_at, hold };
            self.send(Intake::Batch(batch)).await?;
        }
        match placeless {
            Some(failure) => Err(CallEnd::Unusable(failure)),
            None => Ok(unasked),
        }
    }

    /// The first message after a repeated start from the tip: tells what the repetition may have missed.
    async fn report_latest_restart(&mut self) -> Result<(), CallEnd> {
        match self.latest.take() {
            // The clock may have been corrected in between; the gap is told all the same.
            Some(LatestStart { first_call: from, this_call, repeated: true }) => {
                self.send(Intake::LatestRestarted { from, to: this_call.max(from) }).await
            }
            _ => Ok(()),
        }
    }

    /// Only a call made again is told: where a stream goes on from a stored position, its start has done so.
    async fn report_group(&mut self, from: &ReplayFrom) -> Result<(), CallEnd> {
        let again = std::mem::replace(&mut self.called, true);
        let shared = matches!(self.settings.topic.kind(), TopicKind::ChangeChannel | TopicKind::PlatformChannel);
        match from {
            ReplayFrom::After(id) if again && shared && self.position.may_miss_siblings() => {
                self.send(Intake::ResumedInsideGroup { replay_id: id.clone() }).await
            }
            _ => Ok(()),
        }
    }

    async fn send(&self, intake: Intake) -> Result<(), CallEnd> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(CallEnd::Cancelled),
            sent = self.sender.send(intake) => sent.map_err(|_| CallEnd::ReceiverGone),
        }
    }

    /// Closes the old call and waits for the time of the next, unless told to end.
    async fn pause(&self, call: Option<Call>, until: Instant) -> Option<(Ended, Option<Call>)> {
        let waiting = async {
            if let Some(call) = call {
                call.close(CLOSE_PATIENCE).await;
            }
            tokio::time::sleep_until(until).await;
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Some((Ended::Cancelled, None)),
            () = self.sender.closed() => Some((Ended::ReceiverGone, None)),
            () = waiting => None,
        }
    }

    async fn end(self, ended: Ended, call: Option<Call>) -> Ended {
        let Self { sender, state, settings, .. } = self;
        // Downstream can finish while the server is still being waited for.
        drop(sender);
        let trouble = match &ended {
            Ended::Cancelled | Ended::ReceiverGone => None,
            Ended::Stopped(failure) => Some(failure.clone()),
            Ended::Refused { message, .. } => Some(CallFault::PositionRefused(message.clone()).failure()),
        };
        state.ended(trouble.as_ref());
        tracing::info!(topic = %settings.topic, ended = ?ended, "the subscription is over");
        if let Some(call) = call {
            call.close(SHUTDOWN_PATIENCE).await;
        }
        ended
    }
}

/// Returns when nothing is to be asked for any more.
async fn paused(paused: &mut watch::Receiver<bool>) {
    if paused.wait_for(|paused| *paused).await.is_err() {
        std::future::pending::<()>().await;
    }
}

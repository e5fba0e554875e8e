//! Keeps a topic subscribed: one Subscribe call after the other, each from after the last
//! event that was handed downstream.
//!
//! A call can end in many ways, most of which are nothing to report: Salesforce moves its
//! servers, proxies drop idle connections, a quiet call ends with OK. So the loop
//! knows reasons, not errors. It ends itself only when it cannot go on from where it
//! stands.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::{Exit, Failure};
use crate::identity::{ReplayId, TopicName};
use crate::position::{Admission, Position, ReplayFrom};
use crate::proto::FetchResponse;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::buffer::Buffer;
use crate::salesforce::call::{Call, CallEnd};
use crate::salesforce::credit::{self, Credit};
use crate::salesforce::intake::{Batch, Intake, ReceivedEvent};
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::verdict::{CallError, Verdict};

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
        }
    }
}

/// How a subscription is doing; counters count since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscriptionState {
    /// The generation of the subscription.
    pub generation: u64,
    /// A call is under way. It may not have been answered: see `last_message_at`.
    pub connected: bool,
    /// When the call under way was made.
    pub opened_at: Option<DateTime<Utc>>,
    /// When the last message came, on whichever call.
    pub last_message_at: Option<DateTime<Utc>>,
    /// Why the last call failed; gone when a message has come.
    pub last_error: Option<String>,
    /// What an operator can do about it.
    pub remedy: Option<String>,
    /// Calls made again, by reason.
    pub reconnects: BTreeMap<&'static str, u64>,
    /// Events asked for and not delivered.
    pub pending: u32,
    /// When the next call is made, while none is under way.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Events received, without duplicates.
    pub events: u64,
    /// Events dropped because they had been taken before.
    pub duplicates: u64,
    /// Empty responses.
    pub keepalives: u64,
    /// Calls closed because there was no room downstream.
    pub planned_closes: u64,
    /// Events delivered beyond the credit, against the protocol.
    pub unasked_events: u64,
}

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
    state.send_modify(|state| state.generation = settings.generation);
    let mut subscription = Subscription {
        backoff: Backoff::new(settings.backoff),
        heard: false,
        token_renewed: false,
        latest: LatestStart::default(),
        pubsub,
        settings,
        position,
        buffer,
        sender,
        state,
        cancel,
    };
    loop {
        let (end, call) = subscription.run_once().await;
        let opened = call.as_ref().map(|call| call.opened);
        let next = subscription.next_step(end, opened);
        match next {
            Next::End(ended) => {
                let Subscription { sender, state, .. } = subscription;
                // Downstream can finish while the server is still being waited for.
                drop(sender);
                state.send_modify(|state| {
                    (state.connected, state.opened_at, state.next_attempt_at, state.pending) = (false, None, None, 0);
                });
                if let Some(call) = call {
                    call.close(SHUTDOWN_PATIENCE).await;
                }
                return ended;
            }
            Next::Call { wait } => {
                let until = Instant::now() + wait;
                if let Some(ended) = subscription.pause(call, until).await {
                    return ended;
                }
            }
        }
    }
}

/// What follows the end of a call.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Call { wait: Duration },
    End(Ended),
}

/// A start from the tip that has not led to a position yet.
#[derive(Debug, Default)]
struct LatestStart {
    first_call: Option<DateTime<Utc>>,
    this_call: Option<DateTime<Utc>>,
}

struct Subscription {
    pubsub: PubSub,
    settings: SubscriptionSettings,
    position: Position,
    buffer: Buffer,
    sender: mpsc::Sender<Intake>,
    state: watch::Sender<SubscriptionState>,
    cancel: CancellationToken,
    backoff: Backoff,
    /// A message has come on this call.
    heard: bool,
    /// The token was given up after the last message, so that a second refusal is not the token's fault.
    token_renewed: bool,
    latest: LatestStart,
}

impl Subscription {
    /// Makes one call and stays with it to its end. The call is handed back to be closed.
    async fn run_once(&mut self) -> (CallEnd, Option<Call>) {
        self.heard = false;
        let target = self.settings.credit.clamp(1, credit::MOST_OUTSTANDING);
        let token = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return (CallEnd::Cancelled, None),
            () = self.sender.closed() => return (CallEnd::ReceiverGone, None),
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
        let mut call = match Call::open(&self.pubsub, &token, &self.settings.topic, &from, first) {
            Ok(call) => call,
            Err(status) => return (CallEnd::Failed(status.into()), None),
        };
        let now = self.pubsub.session().salesforce_now();
        if from == ReplayFrom::Latest {
            self.latest.first_call.get_or_insert(now);
            self.latest.this_call = Some(now);
        }
        tracing::info!(topic = %self.settings.topic, generation = self.settings.generation, from = ?from, credit = first, "subscribing");
        self.state.send_modify(|state| {
            (state.connected, state.opened_at, state.next_attempt_at) = (true, Some(now), None);
            state.pending = first;
        });
        let end = self.receive(&mut call, Credit::opened_with(target, first)).await;
        if let CallEnd::Failed(error) = &end
            && matches!(error.verdict(), Verdict::NewToken | Verdict::Stop(_))
            && !self.token_renewed
        {
            self.pubsub.session().reject(&token);
        }
        (end, Some(call))
    }

    /// Takes messages and tops up the credit until the call ends.
    async fn receive(&mut self, call: &mut Call, mut credit: Credit) -> CallEnd {
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
            self.note_pending(credit.outstanding());
            let starved = credit.outstanding() == 0;
            full_since = if starved { full_since.or_else(|| Some(Instant::now())) } else { None };
            let room = credit.waits_for_room();
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return CallEnd::Cancelled,
                () = self.sender.closed() => return CallEnd::ReceiverGone,
                message = call.message() => match message {
                    Ok(Some(response)) => {
                        heard = Instant::now();
                        if let Err(end) = self.take(response, &mut credit).await {
                            return end;
                        }
                    }
                    Ok(None) => return CallEnd::Finished,
                    Err(status) => return CallEnd::Failed(status.into()),
                },
                () = self.buffer.room_for(room.unwrap_or(u32::MAX)), if room.is_some() => {}
                () = tokio::time::sleep_until(heard + self.settings.silence_limit), if !starved => return CallEnd::Silent,
                () = tokio::time::sleep_until(full_since.unwrap_or(heard) + self.settings.room_patience), if starved => {
                    return CallEnd::Full;
                }
            }
        }
    }

    /// Takes one response: moves the position, drops duplicates, hands the rest on.
    async fn take(&mut self, response: FetchResponse, credit: &mut Credit) -> Result<(), CallEnd> {
        let received_at = self.pubsub.session().salesforce_now();
        let count = u32::try_from(response.events.len()).unwrap_or(u32::MAX);
        let unasked = credit.received(count, response.pending_num_requested);
        if unasked > 0 {
            tracing::warn!(topic = %self.settings.topic, unasked, "events came that were not asked for");
        }
        self.note_message(received_at, unasked);
        self.report_latest_restart().await?;

        let mut events = Vec::with_capacity(response.events.len());
        let mut duplicates = 0_u32;
        let mut placeless = false;
        for event in response.events {
            let Some(event) = ReceivedEvent::read(event) else {
                placeless = true;
                break;
            };
            match self.position.admit(&event.key) {
                Admission::New => events.push(event),
                Admission::Duplicate => duplicates = duplicates.saturating_add(1),
            }
        }
        let keepalive = count == 0;
        if keepalive && !response.latest_replay_id.is_empty() {
            self.position.keepalive(ReplayId::from(response.latest_replay_id), received_at);
        }
        self.count(events.len(), duplicates, keepalive);
        // A response of duplicates only has moved nothing; there is nothing to hand on.
        if keepalive || !events.is_empty() {
            let bytes = events.iter().map(|event| event.payload.len() as u64).sum();
            let hold = self.buffer.hold(u32::try_from(events.len()).unwrap_or(u32::MAX), bytes);
            let (generation, position) = (self.settings.generation, self.position.clone());
            self.send(Intake::Batch(Batch { generation, events, position, duplicates, received_at, hold })).await?;
        }
        if placeless { Err(CallEnd::Unusable(placeless_event(&self.settings.topic))) } else { Ok(()) }
    }

    /// The first message after a repeated start from the tip: tells what the repetition may have missed.
    async fn report_latest_restart(&mut self) -> Result<(), CallEnd> {
        let LatestStart { first_call, this_call } = std::mem::take(&mut self.latest);
        match (first_call, this_call) {
            (Some(from), Some(to)) if from < to => self.send(Intake::LatestRestarted { from, to }).await,
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

    /// Decides what follows the end of a call, and tells the state.
    fn next_step(&mut self, end: CallEnd, opened: Option<Instant>) -> Next {
        let (reason, wait) = match end {
            CallEnd::Cancelled => return Next::End(Ended::Cancelled),
            CallEnd::ReceiverGone => return Next::End(Ended::ReceiverGone),
            CallEnd::Unusable(failure) => return self.stop(failure),
            CallEnd::Full => {
                self.state.send_modify(|state| state.planned_closes += 1);
                ("planned", Duration::ZERO)
            }
            CallEnd::Finished => ("ended", self.soon(opened)),
            CallEnd::Silent => {
                let limit = self.settings.silence_limit;
                self.note_error(&format!("The call was silent for {limit:?} although events were asked for"), None);
                ("silence", self.soon(opened))
            }
            CallEnd::Failed(error) => match self.after_error(&error, opened) {
                Ok(wait) => (error.reason(), wait),
                Err(next) => return next,
            },
        };
        let at = Utc::now() + TimeDelta::from_std(wait).unwrap_or(TimeDelta::zero());
        tracing::info!(topic = %self.settings.topic, reason, wait = ?wait, "the call ended, subscribing again");
        self.state.send_modify(|state| {
            (state.connected, state.opened_at, state.pending) = (false, None, 0);
            state.next_attempt_at = Some(at);
            *state.reconnects.entry(reason).or_default() += 1;
        });
        Next::Call { wait }
    }

    /// The wait after an error, or the end because of it.
    fn after_error(&mut self, error: &CallError, opened: Option<Instant>) -> Result<Duration, Next> {
        if let CallError::Status { rpc_id, .. } = error {
            tracing::warn!(topic = %self.settings.topic, error = %error, rpc_id, "the call failed");
        } else {
            tracing::warn!(topic = %self.settings.topic, error = %error, "there is no token to call with");
        }
        let failure = error.failure();
        match error.verdict() {
            Verdict::RetryNow => Ok(self.soon(opened)),
            Verdict::RetryAfter(pause) => {
                self.note_error(&failure.what, pause.remedy);
                Ok(self.backoff.next_wait_at_least(pause.at_least))
            }
            Verdict::NewToken => {
                self.note_error(&failure.what, Some(&failure.remedy));
                Ok(self.after_refused_token())
            }
            Verdict::OpenGap => match self.position.replay_from() {
                ReplayFrom::After(replay_id) => {
                    self.note_error(&failure.what, None);
                    Err(Next::End(Ended::Refused { replay_id, message: error.to_string() }))
                }
                // No id was sent, so none can be given up.
                ReplayFrom::Earliest | ReplayFrom::Latest => Err(self.stop(failure)),
            },
            Verdict::Stop(failure) => {
                // A topic that has delivered is refused for a token that lost its user's rights or is half expired.
                let suspect = matches!(error, CallError::Status { code: tonic::Code::PermissionDenied, .. });
                if suspect && self.position.is_anchored() && !self.token_renewed {
                    self.note_error(&failure.what, Some(&failure.remedy));
                    return Ok(self.after_refused_token());
                }
                Err(self.stop(failure))
            }
        }
    }

    /// Once at once, because a new token mends it mostly; then with backoff, because then it does not.
    fn after_refused_token(&mut self) -> Duration {
        let again = std::mem::replace(&mut self.token_renewed, true);
        if again { self.backoff.next_wait() } else { Duration::ZERO }
    }

    /// A call that worked is followed at once, though never closer than the least wait; one that brought nothing backs off.
    fn soon(&mut self, opened: Option<Instant>) -> Duration {
        match opened {
            Some(opened) if self.heard => {
                (opened + self.settings.backoff.minimum()).saturating_duration_since(Instant::now())
            }
            _ => self.backoff.next_wait(),
        }
    }

    fn stop(&self, failure: Failure) -> Next {
        self.note_error(&failure.what, Some(&failure.remedy));
        Next::End(Ended::Stopped(failure))
    }

    /// Closes the old call and waits for the time of the next.
    async fn pause(&mut self, call: Option<Call>, until: Instant) -> Option<Ended> {
        let waiting = async {
            if let Some(call) = call {
                call.close(CLOSE_PATIENCE).await;
            }
            tokio::time::sleep_until(until).await;
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Some(Ended::Cancelled),
            () = self.sender.closed() => Some(Ended::ReceiverGone),
            () = waiting => None,
        }
    }

    fn note_message(&mut self, at: DateTime<Utc>, unasked: u32) {
        self.heard = true;
        self.token_renewed = false;
        self.backoff.reset();
        self.state.send_modify(|state| {
            state.last_message_at = Some(at);
            (state.last_error, state.remedy) = (None, None);
            state.unasked_events += u64::from(unasked);
        });
    }

    fn count(&self, events: usize, duplicates: u32, keepalive: bool) {
        self.state.send_modify(|state| {
            state.events += events as u64;
            state.duplicates += u64::from(duplicates);
            state.keepalives += u64::from(keepalive);
        });
    }

    fn note_pending(&self, pending: u32) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.pending, pending) != pending);
    }

    fn note_error(&self, error: &str, remedy: Option<&str>) {
        self.state.send_modify(|state| {
            state.last_error = Some(error.to_owned());
            state.remedy = remedy.map(str::to_owned);
        });
    }
}

/// An event that has no place in the stream cannot be gone on from: taking it would make an empty id
/// the position, dropping it would lose it.
fn placeless_event(topic: &TopicName) -> Failure {
    Failure::new(
        Exit::Software,
        format!("Salesforce delivered an event of {topic} without a replay id"),
        "Nothing was taken beyond the event before it. Check that `endpoint` is Salesforce's; if it is, report it to Salesforce Support.",
    )
}

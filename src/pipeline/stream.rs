//! One stream: attempt after attempt, until it is told to end.
//!
//! What ends an attempt decides what comes next, and there are only four answers: begin again at
//! once, begin again after a while, wait as a standby, or wait for an operator. Whichever it is,
//! the next attempt goes the whole way from the fence on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{BufferConfig, CompletionConfig, GapsConfig, MessagesConfig, PagesConfig, PollConfig};
use crate::failure::Failure;
use crate::kafka::{FencedBy, KafkaError, KafkaSettings, Verdict, Writer, read_checkpoint, who_fenced};
use crate::pipeline::attempt::{Attempt, AttemptEnd};
use crate::pipeline::context::{RECOVERY, StreamContext};
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::notice::Notice;
use crate::pipeline::schemas::SchemaCache;
use crate::pipeline::sign_in::sign_in;
use crate::salesforce::backoff::Backoff;
use crate::salesforce::call_fault::CallFault;
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::session::SessionSettings;
use crate::salesforce::verdict::Verdict as CallVerdict;
use crate::status::{LastError, StreamState};

/// A stopped stream is tried again this often: most remedies are clicks in Setup that nobody reports back.
const STOPPED_RETRY: Duration = Duration::from_secs(300);

/// How often a standby looks for life, at least.
const STANDBY_LOOK: Duration = Duration::from_secs(10);

/// A stream of the process.
pub struct Stream {
    /// What all parts know.
    pub context: Arc<StreamContext>,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// After how much silence of another writer this one takes over.
    pub takeover_after: Duration,
    /// Salesforce.
    pub pubsub: PubSub,
    /// The same over REST.
    pub rest: RestClient,
    /// How gaps are healed.
    pub gaps: GapsConfig,
    /// How messages are fetched.
    pub messages: MessagesConfig,
    /// The app that signs in to the Conversation Data API, where they are fetched over that.
    pub data_api: Option<Arc<SessionSettings>>,
    /// Objects of which the first run makes a snapshot.
    pub first_snapshots: Vec<String>,
    /// How the results of Bulk query jobs are fetched.
    pub pages: PagesConfig,
    /// Objects without events that it reads where they changed.
    pub polls: Vec<PollConfig>,
    /// The schemas.
    pub schemas: SchemaCache,
    /// The room between the two sides.
    pub buffer: BufferConfig,
    /// How full records are read.
    pub completion: CompletionConfig,
    /// How long a silent call is believed.
    pub silence_limit: Duration,
}

impl Stream {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// A failure that does not mend itself while no stream of the process has a position yet:
    /// then there is nothing to keep alive, and whoever set it up is watching.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let memory = Arc::new(StreamMemory::default());
        let mut backoff = Backoff::new(RECOVERY);
        let mut stalled_since: Option<DateTime<Utc>> = None;
        let mut generation = 0;
        let mut goes_on = false;
        // A start takes over at once, and so does a standby whose time has come. Whoever has written before looks
        // first: to fence a healthy successor after every pause would leave nobody writing.
        let mut entitled = true;
        while self.may_write(entitled, &mut backoff, &stop).await {
            entitled = false;
            generation += 1;
            let committed_before = self.transactions();
            let end = self.attempt(generation, memory.clone(), &stop).await;
            // The announcement alone is no progress: a stream that gets no further would otherwise be tried
            // again without a pause, and each attempt costs deliveries. So would one that breaks over the same job.
            if self.transactions() > committed_before + 1 && !matches!(end, AttemptEnd::Broken(_)) {
                backoff.reset();
                goes_on = false;
                stalled_since = None;
            }
            let failure = match end {
                AttemptEnd::Finished => break,
                AttemptEnd::GoOn if !std::mem::replace(&mut goes_on, true) => continue,
                // Once is what a refused position or a large record needs. Again and again at once would be
                // a server that refuses whatever it gave out, and each round costs deliveries.
                AttemptEnd::GoOn => {
                    let what = "beginning again after a refused position or a record that was too large";
                    self.recover(what.to_owned(), backoff.next_wait(), &stop).await;
                    continue;
                }
                AttemptEnd::Broken(failure) => {
                    self.recover(failure.what, backoff.next_wait(), &stop).await;
                    continue;
                }
                AttemptEnd::Stopped(failure) => failure,
                AttemptEnd::Kafka(error) => {
                    let shown = self.show(&error, &mut stalled_since);
                    match error.verdict() {
                        Verdict::Stop(failure) => failure,
                        Verdict::DecideFenced => {
                            entitled = stop.run_until_cancelled(self.fenced(&stop)).await.unwrap_or(false);
                            continue;
                        }
                        // What can be made smaller has been by now: this is a dead letter, or a ledger entry.
                        Verdict::SplitRecord(_) => error.failure(),
                        Verdict::Rebuild => {
                            self.recover(shown, backoff.next_wait(), &stop).await;
                            continue;
                        }
                    }
                }
            };
            error!(topic = %self.context.identity.topic, error = failure.what, remedy = failure.remedy, "stream stopped");
            self.context.board.stopped(&failure);
            if !self.context.anchored.load(Ordering::Relaxed) {
                return Err(failure);
            }
            pause(STOPPED_RETRY, &stop).await;
        }
        Ok(())
    }

    /// Waits until this instance may write, which it may at once when `entitled`; false when `stop` came first.
    async fn may_write(&self, entitled: bool, backoff: &mut Backoff, stop: &CancellationToken) -> bool {
        if !entitled && let Some(Some(other)) = stop.run_until_cancelled(self.successor(backoff, stop)).await {
            self.stand_by(&other, stop).await;
        }
        !stop.is_cancelled()
    }

    async fn attempt(&self, generation: u64, memory: Arc<StreamMemory>, stop: &CancellationToken) -> AttemptEnd {
        let board = &self.context.board;
        let token = match sign_in(self.pubsub.session(), std::slice::from_ref(board), stop).await {
            Ok(Some(token)) => token,
            Ok(None) => return AttemptEnd::Finished,
            Err(failure) => return AttemptEnd::Stopped(failure),
        };
        board.starting("asking salesforce for the topic");
        let asked = tokio::select! {
            () = stop.cancelled() => return AttemptEnd::Finished,
            asked = self.check_topic() => asked,
        };
        if let Err(failure) = asked {
            return AttemptEnd::Stopped(failure);
        }
        let attempt = Attempt {
            context: self.context.clone(),
            kafka: self.kafka.clone(),
            pubsub: self.pubsub.clone(),
            rest: self.rest.clone(),
            gaps: self.gaps,
            messages: self.messages,
            data_api: self.data_api.clone(),
            first_snapshots: self.first_snapshots.clone(),
            pages: self.pages,
            polls: self.polls.clone(),
            schemas: self.schemas.clone(),
            memory,
            buffer: self.buffer,
            completion: self.completion,
            generation,
            instance_url: token.instance_origin(),
            silence_limit: self.silence_limit,
            stop: stop.clone(),
        };
        attempt.run().await
    }

    /// A topic that is not there or may not be read is found out before anything is fenced.
    /// Whatever else goes wrong here is left to the subscription, which knows how to wait.
    async fn check_topic(&self) -> Result<(), Failure> {
        let topic = &self.context.identity.topic;
        let mut asked = self.pubsub.topic(topic).await;
        if let Err(error) = &asked
            && matches!(error.verdict(), CallVerdict::Stop(_))
            && let Ok(token) = self.pubsub.session().token().await
        {
            // A token that has lost its rights is answered like a topic that is not there.
            self.pubsub.session().reject(&token);
            asked = self.pubsub.topic(topic).await;
        }
        match asked {
            Ok(info) if info.can_subscribe => Ok(()),
            Ok(_) => Err(CallFault::MayNotSubscribe(topic.clone()).failure()),
            Err(error) => match error.verdict() {
                CallVerdict::Stop(failure) => Err(failure),
                _ => {
                    warn!(%topic, %error, "the topic cannot be asked for yet");
                    Ok(())
                }
            },
        }
    }

    /// Transactions of this run so far.
    fn transactions(&self) -> u64 {
        self.context.board.status().map_or(0, |status| status.transactions_committed)
    }

    /// Shows what went wrong at Kafka; returns it in words.
    fn show(&self, error: &KafkaError, stalled_since: &mut Option<DateTime<Utc>>) -> String {
        let what = error.to_string();
        let board = &self.context.board;
        let remedy = error.failure().remedy;
        warn!(topic = %self.context.identity.topic, error = what, remedy, "the producer is given up");
        board.error(what.clone(), remedy);
        // A fence or a missing permission is an answer, and proves that somebody is there.
        if matches!(error, KafkaError::Unavailable { .. } | KafkaError::Stalled { .. }) {
            board.board().set_kafka(Err(what.clone()));
        }
        if let KafkaError::Stalled { call, .. } = error {
            let since = *stalled_since.get_or_insert_with(Utc::now);
            board.set_state(StreamState::Stalled { call: (*call).to_string(), since });
        } else {
            // The call returned, so it does not hang: a restart would mend nothing.
            *stalled_since = None;
            board.set_state(StreamState::Starting { step: "beginning again".to_owned() });
        }
        what
    }

    /// Waits before the next attempt.
    async fn recover(&self, what: String, wait: Duration, stop: &CancellationToken) {
        let board = &self.context.board;
        let stalled = board.status().is_some_and(|status| matches!(status.state, StreamState::Stalled { .. }));
        if !stalled {
            let next_attempt_at = Utc::now() + TimeDelta::from_std(wait).unwrap_or_default();
            board.set_state(StreamState::Recovering { what, next_attempt_at });
        }
        pause(wait, stop).await;
    }

    /// Another instance fenced this one, or the broker ended a transaction of ours that took too long;
    /// the checkpoint's writer tells which.
    ///
    /// Returns whether it stood by, and may now take over.
    async fn fenced(&self, stop: &CancellationToken) -> bool {
        let topic = &self.context.identity.topic;
        let mut backoff = Backoff::new(RECOVERY);
        let other = loop {
            match who_fenced(&self.kafka, &self.context.identity, &self.context.run).await {
                Ok(FencedBy::OwnTimeout) => {
                    info!(
                        %topic,
                        "fenced, but nobody else has committed: the broker ended a transaction that took too long, or \
                         the checkpoint was reset; going on"
                    );
                    return false;
                }
                Ok(FencedBy::Other { writer, .. }) => break writer,
                Err(error) => self.recover(error.to_string(), backoff.next_wait(), stop).await,
            }
            if stop.is_cancelled() {
                return false;
            }
        };
        self.stand_by(&other, stop).await;
        true
    }

    /// The instance that writes now, if it is not this one although this one has written. Who cannot be seen
    /// may be healthy: as long as the checkpoint cannot be read, nobody is fenced.
    async fn successor(&self, backoff: &mut Backoff, stop: &CancellationToken) -> Option<Writer> {
        if self.transactions() == 0 {
            return None;
        }
        loop {
            match read_checkpoint(&self.kafka, &self.context.identity).await {
                Ok(stored) => {
                    let writer = stored?.checkpoint.writer;
                    return (writer.run_id != self.context.run.run_id).then_some(writer);
                }
                // A checkpoint that cannot be used is for the attempt to refuse, with its remedy.
                Err(error) if matches!(error.verdict(), Verdict::Stop(_)) => return None,
                Err(error) => self.recover(error.to_string(), backoff.next_wait(), stop).await,
            }
        }
    }

    /// Shows who writes, and waits until it has been silent for long enough.
    async fn stand_by(&self, other: &Writer, stop: &CancellationToken) {
        let topic = &self.context.identity.topic;
        let since = Utc::now();
        let by = format!("{} (run {})", other.host, other.run_id);
        warn!(%topic, by, "another instance has taken the stream over; standing by");
        let notice = Notice::TakenOver { by: by.clone() };
        // Whoever takes over again has to carry: nobody else would.
        self.context.board.board().set_paused(topic, false);
        self.context.board.update(|status| {
            status.fenced += 1;
            status.state = StreamState::Standby { by: by.clone(), since };
            let (what, remedy) = (notice.to_string(), notice.remedy().to_owned());
            status.last_error = Some(LastError { at: since, what, remedy });
        });
        self.wait_for_silence(stop).await;
    }

    /// Returns when the other writer has committed nothing for long enough. Measured by our own clock
    /// from the last change seen, so that no two clocks have to agree.
    async fn wait_for_silence(&self, stop: &CancellationToken) {
        let topic = &self.context.identity.topic;
        let look = STANDBY_LOOK.min(self.takeover_after / 4);
        let mut last_seen = None;
        let mut last_change = Instant::now();
        while !stop.is_cancelled() {
            match read_checkpoint(&self.kafka, &self.context.identity).await {
                Ok(stored) => {
                    self.context.board.board().set_kafka(Ok(()));
                    let seen = stored.as_ref().map(|stored| stored.offset);
                    if seen != last_seen {
                        last_seen = seen;
                        last_change = Instant::now();
                    }
                    if let Some(stored) = stored {
                        self.context.show_position(&stored.checkpoint.position);
                    }
                }
                // Who cannot be seen is not dead: the clock begins anew.
                Err(error) => {
                    warn!(%topic, %error, "the other instance's checkpoint cannot be read");
                    self.context.board.board().set_kafka(Err(error.to_string()));
                    last_change = Instant::now();
                }
            }
            if last_change.elapsed() >= self.takeover_after {
                info!(%topic, "the other instance is silent; taking over");
                return;
            }
            pause(look, stop).await;
        }
    }
}

async fn pause(wait: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(wait) => {}
    }
}

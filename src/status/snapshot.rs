//! What is known about the process at one moment, and what follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::identity::TopicName;
use crate::status::completion::CompletionStatus;
use crate::status::jobs::{FinishedSnapshot, JobStatus};
use crate::status::messages::MessagesStatus;
use crate::status::polls::PollStatus;
use crate::status::reconcile::ReconcileStatus;
use crate::status::telemetry::TelemetryStatus;

/// How long Salesforce keeps change events and high-volume platform events.
pub const RETENTION: TimeDelta = TimeDelta::hours(72);

/// How long a call must have been open without an error before a stream that has had no
/// message counts as ready. A refused call ends within about 11 seconds, and the first
/// message may take minutes on a quiet topic.
const OPEN_LONG_ENOUGH: TimeDelta = TimeDelta::seconds(15);

/// How long a stream may be stalled before the process should be restarted.
const STALLED_TOO_LONG: TimeDelta = TimeDelta::minutes(5);

/// How long the task of a stream may have no turn before it hangs for good; it beats every five seconds.
const STILL_TOO_LONG: u64 = 60;

/// How long a running stream may commit nothing before something in it waits for what never comes. It commits at least
/// every two minutes, and `kafka.call_timeout` is fifteen at most.
const UNCOMMITTED_TOO_LONG: u64 = 20 * 60;

/// What a stream is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StreamState {
    /// On the way up.
    Starting {
        /// The step it is at, in words.
        step: String,
    },
    /// Carrying events.
    Running,
    /// Something failed that usually mends itself; it will be tried again.
    Recovering {
        /// What failed.
        what: String,
        /// When it is tried again.
        next_attempt_at: DateTime<Utc>,
    },
    /// An operator wants nothing to be asked for. The position stays, and its time runs.
    Paused {
        /// Since when.
        since: DateTime<Utc>,
    },
    /// Another instance writes; this one takes over when that one falls silent.
    Standby {
        /// The host of the other instance.
        by: String,
        /// Since when.
        since: DateTime<Utc>,
    },
    /// A call to Kafka does not return.
    Stalled {
        /// The call.
        call: String,
        /// Since when.
        since: DateTime<Utc>,
    },
    /// Something failed that does not mend itself; it is tried again every few minutes all the same.
    Stopped {
        /// What failed.
        what: String,
        /// What mends it.
        remedy: String,
        /// Since when.
        since: DateTime<Utc>,
    },
}

/// The last thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub what: String,
    /// What mends it; empty where nothing needs to be done.
    pub remedy: String,
}

/// One stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamStatus {
    /// The Salesforce topic.
    pub topic: TopicName,
    /// What it is doing.
    #[serde(flatten)]
    pub state: StreamState,
    /// Since when an operator wants nothing to be asked for, whatever the state is; absent otherwise.
    pub paused_since: Option<DateTime<Utc>>,
    /// Whether a checkpoint has been committed by this run.
    pub checkpoint_committed: bool,
    /// Since when the present call has been open; absent while there is none.
    pub call_open_since: Option<DateTime<Utc>>,
    /// When the next call is made, while none is open.
    pub next_call_at: Option<DateTime<Utc>>,
    /// Whether the present call has had a message.
    pub call_had_message: bool,
    /// The last event or keepalive.
    pub last_message_at: Option<DateTime<Utc>>,
    /// The commit time, at Salesforce, of the last event that was committed to Kafka.
    pub last_event_committed_at: Option<DateTime<Utc>>,
    /// Milliseconds from that time to its commit in Kafka, by Salesforce's clock.
    pub last_event_lag_ms: Option<u64>,
    /// The last transaction.
    pub last_transaction_at: Option<DateTime<Utc>>,
    /// Since its task last had a turn, in seconds: more than a few means that it hangs. Absent while it has none. Not shown,
    /// as the next one: what only tells the time would be news every second.
    #[serde(skip)]
    pub still_for_seconds: Option<u64>,
    /// Since it last committed, in seconds, by a clock that nobody sets. Absent before it has.
    #[serde(skip)]
    pub uncommitted_for_seconds: Option<u64>,
    /// The replay id that a restart would go on after, in hexadecimal.
    pub resume_after: Option<String>,
    /// The replay id of the newest committed event or keepalive, in hexadecimal.
    pub last_replay_id: Option<String>,
    /// Salesforce's time of that position.
    pub position_time: Option<DateTime<Utc>>,
    /// Events received, duplicates among them.
    pub events_received: u64,
    /// Events received again and dropped.
    pub duplicates_dropped: u64,
    /// Events that the output already held when the retained events were gone through once more.
    pub events_already_written: u64,
    /// Keepalives received.
    pub keepalives_received: u64,
    /// Records committed to Kafka, checkpoints not counted.
    pub records_committed: u64,
    /// Batches committed: what Salesforce sent together; a transaction holds one or more.
    pub batches_committed: u64,
    /// Transactions committed.
    pub transactions_committed: u64,
    /// Ledger entries opened.
    pub gaps_opened: u64,
    /// The same by cause.
    pub gaps_opened_by_cause: BTreeMap<String, u64>,
    /// Ledger entries of the stream that are open, by cause.
    pub gaps_open: BTreeMap<String, u64>,
    /// Ledger entries healed.
    pub gaps_healed: u64,
    /// Ledger entries given up: some of their records could not be read.
    pub gaps_given_up: u64,
    /// The jobs that heal gaps, and snapshots.
    pub jobs: Vec<JobStatus>,
    /// The last snapshots that ended.
    pub snapshots: Vec<FinishedSnapshot>,
    /// Records that snapshots wrote.
    pub snapshot_rows: u64,
    /// Objects without events that it reads where they changed.
    pub polls: Vec<PollStatus>,
    /// How its records agree with the org.
    pub reconcile: ReconcileStatus,
    /// Events put into the dead letters.
    pub dead_letters: u64,
    /// Calls opened again, by reason.
    pub reconnects: BTreeMap<&'static str, u64>,
    /// Times another instance fenced this one.
    pub fenced: u64,
    /// Events received and not yet committed.
    pub events_in_flight: u64,
    /// Reading full records; absent with `record = "never"`.
    pub completion: Option<CompletionStatus>,
    /// Messages of conversations; absent without `messages = true`.
    pub messages: Option<MessagesStatus>,
    /// The last thing that went wrong.
    pub last_error: Option<LastError>,
}

/// An allowance of the organisation in 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// All of it.
    pub maximum: u64,
    /// What is left.
    pub remaining: u64,
}

impl Allowance {
    /// What is gone.
    pub fn used(&self) -> u64 {
        self.maximum.saturating_sub(self.remaining)
    }
}

/// The broker as the producers see it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct KafkaStatus {
    /// Whether the last thing heard from it was good.
    pub reachable: bool,
    /// The last thing that was not.
    pub last_error: Option<String>,
}

/// The process at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// casewire's version.
    pub version: &'static str,
    /// This run; a restart has another.
    pub run_id: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// Salesforce's time at this moment, by its own answers.
    pub salesforce_now: DateTime<Utc>,
    /// The organisation, once signed in.
    pub org: Option<String>,
    /// The broker.
    pub kafka: KafkaStatus,
    /// Delivered events in 24 hours, from `/limits`.
    pub delivered_events: Option<Allowance>,
    /// REST calls in 24 hours, from `/limits`.
    pub api_requests: Option<Allowance>,
    /// Traces; absent without a collector.
    pub telemetry: Option<TelemetryStatus>,
    /// The streams by topic.
    pub streams: Vec<StreamStatus>,
    /// Whether an orderly end has begun.
    pub stopping: bool,
}

/// Why a part is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotReady {
    /// The topic, or `kafka`.
    pub part: String,
    /// The reason in a sentence.
    pub reason: String,
}

impl StreamStatus {
    /// A stream that has not begun.
    pub fn new(topic: TopicName) -> Self {
        Self {
            topic,
            state: StreamState::Starting { step: "waiting for its turn".to_owned() },
            paused_since: None,
            checkpoint_committed: false,
            call_open_since: None,
            next_call_at: None,
            call_had_message: false,
            last_message_at: None,
            last_event_committed_at: None,
            last_event_lag_ms: None,
            last_transaction_at: None,
            still_for_seconds: None,
            uncommitted_for_seconds: None,
            resume_after: None,
            last_replay_id: None,
            position_time: None,
            events_received: 0,
            duplicates_dropped: 0,
            events_already_written: 0,
            keepalives_received: 0,
            records_committed: 0,
            batches_committed: 0,
            transactions_committed: 0,
            gaps_opened: 0,
            gaps_opened_by_cause: BTreeMap::new(),
            gaps_open: BTreeMap::new(),
            gaps_healed: 0,
            gaps_given_up: 0,
            jobs: Vec::new(),
            snapshots: Vec::new(),
            snapshot_rows: 0,
            polls: Vec::new(),
            reconcile: ReconcileStatus::default(),
            dead_letters: 0,
            reconnects: BTreeMap::new(),
            fenced: 0,
            events_in_flight: 0,
            completion: None,
            messages: None,
            last_error: None,
        }
    }

    /// Counts an entry of the ledger by its cause.
    pub fn gap_opened(&mut self, cause: String) {
        *self.gaps_opened_by_cause.entry(cause).or_default() += 1;
    }

    /// What is left until Salesforce discards events that were not read: the retention less the age of
    /// the committed position. Never negative; absent while no position is known.
    pub fn until_data_loss(&self, salesforce_now: DateTime<Utc>) -> Option<Duration> {
        let age = salesforce_now - self.position_time?;
        Some((RETENTION - age).to_std().unwrap_or(Duration::ZERO))
    }

    /// Shows a stream that runs as paused while it is. Every station may say that the stream runs; none of them has to
    /// know what an operator wants.
    pub(in crate::status) fn show_pause(&mut self) {
        match (&self.state, self.paused_since) {
            (StreamState::Running, Some(since)) => self.state = StreamState::Paused { since },
            (StreamState::Paused { .. }, None) => self.state = StreamState::Running,
            _ => {}
        }
    }

    /// What in it hangs for so long that only a restart helps.
    pub(in crate::status) fn hangs(&self, now: DateTime<Utc>) -> Option<String> {
        if let Some(still) = self.still_for_seconds.filter(|still| *still >= STILL_TOO_LONG) {
            return Some(format!("its task has had no turn for {still} s"));
        }
        match (&self.state, self.uncommitted_for_seconds) {
            (StreamState::Stalled { call, since }, _) if now - since >= STALLED_TOO_LONG => {
                Some(format!("{call} hangs since {since}"))
            }
            (StreamState::Running | StreamState::Paused { .. }, Some(since)) if since >= UNCOMMITTED_TOO_LONG => {
                Some(format!("it runs and has committed nothing for {since} s"))
            }
            _ => None,
        }
    }

    /// Why it is not ready; `None` when it is.
    fn not_ready(&self, now: DateTime<Utc>) -> Option<String> {
        let reason = match &self.state {
            StreamState::Starting { step } => format!("starting: {step}"),
            StreamState::Recovering { what, .. } => format!("recovering: {what}"),
            StreamState::Paused { since } => format!("paused by an operator since {since}: nothing is asked for"),
            StreamState::Standby { by, since } => format!("standby since {since}: {by} writes this stream"),
            StreamState::Stalled { call, since } => format!("stalled since {since}: {call} does not return"),
            StreamState::Stopped { what, remedy, .. } => format!("stopped: {what} — {remedy}"),
            StreamState::Running if !self.checkpoint_committed => "no checkpoint committed yet".to_owned(),
            StreamState::Running => match self.call_open_since {
                None => match (self.next_call_at, &self.last_error) {
                    (Some(next), Some(error)) => format!("no call is open; the next is made at {next}: {}", error.what),
                    (Some(next), None) => format!("no call is open; the next is made at {next}"),
                    (None, _) => "no call is open".to_owned(),
                },
                Some(_) if self.call_had_message => return None,
                Some(since) if now - since >= OPEN_LONG_ENOUGH => return None,
                Some(since) => format!("the call is open since {since} and has had no message yet"),
            },
        };
        Some(reason)
    }
}

impl Snapshot {
    /// Every reason not to be ready; none when ready.
    pub fn not_ready(&self) -> Vec<NotReady> {
        // Calls are dated by Salesforce's clock.
        let now = self.salesforce_now;
        let mut reasons: Vec<NotReady> = self
            .streams
            .iter()
            .filter_map(|stream| Some((stream, stream.not_ready(now)?)))
            .map(|(stream, reason)| NotReady { part: stream.topic.to_string(), reason })
            .collect();
        if !self.kafka.reachable {
            let reason = self.kafka.last_error.clone().unwrap_or_else(|| "not reached yet".to_owned());
            reasons.push(NotReady { part: "kafka".to_owned(), reason });
        }
        if self.stopping {
            reasons.push(NotReady { part: "process".to_owned(), reason: "stopping".to_owned() });
        }
        reasons
    }

    /// Streams that hang so that only a restart helps.
    pub fn dead_streams(&self, now: DateTime<Utc>) -> Vec<NotReady> {
        let dead =
            |stream: &StreamStatus| Some(NotReady { part: stream.topic.to_string(), reason: stream.hangs(now)? });
        self.streams.iter().filter_map(dead).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000 + seconds, 0).expect("in range")
    }

    fn running() -> StreamStatus {
        let topic = "/data/CaseChangeEvent".parse().expect("a topic");
        StreamStatus { state: StreamState::Running, checkpoint_committed: true, ..StreamStatus::new(topic) }
    }

    #[test]
    fn a_stream_is_ready_after_a_message_or_fifteen_quiet_seconds_of_an_open_call() {
        assert_eq!(running().not_ready(at(0)).as_deref(), Some("no call is open"));
        let open = StreamStatus { call_open_since: Some(at(0)), ..running() };
        assert!(open.not_ready(at(14)).is_some());
        assert!(open.not_ready(at(15)).is_none());
        let heard = StreamStatus { call_had_message: true, ..open.clone() };
        assert!(heard.not_ready(at(1)).is_none());
        let unanchored = StreamStatus { checkpoint_committed: false, ..heard };
        assert!(unanchored.not_ready(at(60)).is_some());
    }

    #[test]
    fn a_stream_is_dead_when_its_task_has_no_turn_or_commits_nothing_although_it_runs() {
        let dead = |stream: StreamStatus| stream.hangs(at(0)).is_some();
        assert!(!dead(running()), "nothing is known of its task");
        let still = |seconds| StreamStatus { still_for_seconds: Some(seconds), ..running() };
        assert!(!dead(still(59)) && dead(still(60)));
        let standby = StreamState::Standby { by: "b".to_owned(), since: at(-9000) };
        assert!(dead(StreamStatus { state: standby.clone(), ..still(60) }), "whatever it does");
        let uncommitted = |seconds| StreamStatus { uncommitted_for_seconds: Some(seconds), ..running() };
        assert!(!dead(uncommitted(1199)) && dead(uncommitted(1200)));
        let paused = StreamState::Paused { since: at(-9000) };
        assert!(dead(StreamStatus { state: paused, ..uncommitted(1200) }), "it gives signs of life all the same");
        assert!(!dead(StreamStatus { state: standby, ..uncommitted(9000) }), "who stands by commits nothing");
        let stalled = |minutes: i64| StreamState::Stalled { call: "commit".to_owned(), since: at(-60 * minutes) };
        let stalled = |minutes| StreamStatus { state: stalled(minutes), ..running() };
        assert!(!dead(stalled(4)) && dead(stalled(5)));
    }

    #[test]
    fn time_until_data_loss_counts_from_the_position_and_ends_at_zero() {
        assert_eq!(running().until_data_loss(at(0)), None);
        let hour = StreamStatus { position_time: Some(at(-3600)), ..running() };
        assert_eq!(hour.until_data_loss(at(0)), Some(Duration::from_secs(71 * 3600)));
        let lost = StreamStatus { position_time: Some(at(-80 * 3600)), ..running() };
        assert_eq!(lost.until_data_loss(at(0)), Some(Duration::ZERO));
    }
}

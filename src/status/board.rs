//! The one place that is written to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use uuid::Uuid;

use crate::failure::Failure;
use crate::identity::{OrgId, TopicName};
use crate::status::journal::{Journal, JournalEntry};
use crate::status::pulse::Pulse;
use crate::status::requests::Requests;
use crate::status::snapshot::{Allowance, KafkaStatus, LastError, Snapshot, StreamState, StreamStatus};
use crate::status::telemetry::{SpanTally, Traces};

/// The board; cheap to clone.
#[derive(Debug, Clone)]
pub struct Board {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    run_id: String,
    started_at: DateTime<Utc>,
    facts: Mutex<Facts>,
    /// What is asked of each stream.
    requests: Mutex<Vec<(TopicName, Requests)>>,
    /// The pulse of each stream's task, in their order.
    pulses: Mutex<Vec<Pulse>>,
    /// Counts the changes, so that a reader can wait for one.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Facts {
    org: Option<String>,
    /// Salesforce's clock less ours.
    clock_offset: TimeDelta,
    kafka: KafkaStatus,
    delivered_events: Option<Allowance>,
    api_requests: Option<Allowance>,
    traces: Option<Traces>,
    streams: Vec<StreamStatus>,
    stopping: bool,
    journal: Journal,
}

impl Facts {
    /// After a change of what belongs to no stream.
    fn note_process(&mut self) {
        self.journal.look_at_process(&self.kafka, self.stopping);
    }

    /// After a change of a stream.
    fn note_stream(&mut self, index: usize) {
        if let Some(status) = self.streams.get_mut(index) {
            status.show_pause();
            self.journal.look_at_stream(index, status);
        }
    }
}

/// One stream's part of the board.
#[derive(Debug, Clone)]
pub struct StreamBoard {
    board: Board,
    index: usize,
    requests: Requests,
    pulse: Pulse,
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// An empty board with a run id of its own.
    pub fn new() -> Self {
        let shared = Shared {
            run_id: Uuid::new_v4().to_string(),
            started_at: Utc::now(),
            facts: Mutex::default(),
            requests: Mutex::default(),
            pulses: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The id of this run, which the checkpoints carry too.
    pub fn run_id(&self) -> &str {
        &self.shared.run_id
    }

    /// Adds a stream.
    pub fn stream(&self, topic: TopicName) -> StreamBoard {
        let requests = Requests::default();
        let mut all = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((topic.clone(), requests.clone()));
        drop(all);
        let pulse = Pulse::default();
        self.pulses().push(pulse.clone());
        let index = self.change(|facts| {
            facts.streams.push(StreamStatus::new(topic));
            facts.streams.len() - 1
        });
        StreamBoard { board: self.clone(), index, requests, pulse }
    }

    fn pulses(&self) -> MutexGuard<'_, Vec<Pulse>> {
        self.shared.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where requests to a stream are left; none where there is no stream of `topic`.
    pub fn requests(&self, topic: &TopicName) -> Option<Requests> {
        let all = self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(known, _)| known == topic).map(|(_, requests)| requests.clone())
    }

    /// The organisation that was signed in to.
    pub fn set_org(&self, org: &OrgId) {
        self.change(|facts| facts.org = Some(org.to_string()));
    }

    /// Salesforce's time now, as its answers show it.
    pub fn set_salesforce_now(&self, now: DateTime<Utc>) {
        self.change(|facts| facts.clock_offset = now - Utc::now());
    }

    /// What the producers hear of the broker.
    pub fn set_kafka(&self, outcome: Result<(), String>) {
        self.change(|facts| {
            match outcome {
                Ok(()) => facts.kafka.reachable = true,
                Err(error) => facts.kafka = KafkaStatus { reachable: false, last_error: Some(error) },
            }
            facts.note_process();
        });
    }

    /// The organisation's allowances.
    pub fn set_allowances(&self, delivered_events: Option<Allowance>, api_requests: Option<Allowance>) {
        self.change(|facts| {
            facts.delivered_events = delivered_events;
            facts.api_requests = api_requests;
        });
    }

    /// The organisation's API requests, as an answer told.
    pub fn set_api_requests(&self, api_requests: Allowance) {
        self.change(|facts| facts.api_requests = Some(api_requests));
    }

    /// Traces are exported to the collector at `endpoint` from now on; what becomes of them is counted in the tally.
    pub fn trace_to(&self, endpoint: &str) -> SpanTally {
        self.change(|facts| facts.traces.insert(Traces::to(endpoint)).tally())
    }

    /// What went wrong with the export of traces, if anything did, and whether spans are being lost.
    pub fn show_traces(&self, failure: Option<&Failure>, failing: bool) {
        let last = |failure: &Failure| LastError {
            at: Utc::now(),
            what: failure.what.clone(),
            remedy: failure.remedy.clone(),
        };
        self.change(|facts| {
            let Some(traces) = &mut facts.traces else { return };
            traces.note(failure.map(last), failing);
            facts.journal.look_at_traces(&traces.status());
        });
    }

    /// An orderly end has begun.
    pub fn set_stopping(&self) {
        self.change(|facts| {
            facts.stopping = true;
            facts.note_process();
        });
    }

    /// Has a stream ask Salesforce for nothing, or for events again. The state shows it.
    ///
    /// Returns the stream as it is then; `None` where there is none of `topic`, or it stands by: what another instance
    /// carries cannot be paused here, and would stay paused when that one falls silent.
    pub fn set_paused(&self, topic: &TopicName, paused: bool) -> Option<StreamStatus> {
        let requests = self.requests(topic)?;
        self.change(|facts| {
            let index = facts.streams.iter().position(|stream| stream.topic == *topic)?;
            let status = facts.streams.get_mut(index)?;
            if paused && matches!(status.state, StreamState::Standby { .. }) {
                return None;
            }
            status.paused_since = paused.then(|| status.paused_since.unwrap_or_else(Utc::now));
            requests.set_paused(paused);
            facts.note_stream(index);
            facts.streams.get(index).cloned()
        })
    }

    /// What happened after the change with this number, the oldest first.
    pub fn journal(&self, after: u64) -> Vec<JournalEntry> {
        self.lock().journal.after(after)
    }

    /// Salesforce's clock less ours.
    pub fn clock_offset(&self) -> TimeDelta {
        self.lock().clock_offset
    }

    /// What is known now.
    pub fn snapshot(&self) -> Snapshot {
        let pulses = self.pulses().clone();
        let facts = self.lock();
        let mut streams = facts.streams.clone();
        for (stream, pulse) in streams.iter_mut().zip(&pulses) {
            stream.still_for_seconds = pulse.still_for().map(|still| still.as_secs());
            stream.uncommitted_for_seconds = pulse.uncommitted_for().map(|still| still.as_secs());
        }
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            run_id: self.shared.run_id.clone(),
            started_at: self.shared.started_at,
            salesforce_now: Utc::now().checked_add_signed(facts.clock_offset).unwrap_or_else(Utc::now),
            org: facts.org.clone(),
            kafka: facts.kafka.clone(),
            delivered_events: facts.delivered_events,
            api_requests: facts.api_requests,
            telemetry: facts.traces.as_ref().map(Traces::status),
            streams,
            stopping: facts.stopping,
        }
    }

    /// Wakes at every change; for whoever waits for a state instead of asking again and again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        let outcome = change(&mut self.lock());
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
        outcome
    }

    /// A panic elsewhere leaves plain values behind, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.shared.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamBoard {
    /// What is asked of the stream.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// The pulse of the stream's task.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Changes what is known about the stream.
    pub fn update(&self, change: impl FnOnce(&mut StreamStatus)) {
        self.board.change(|facts| {
            if let Some(status) = facts.streams.get_mut(self.index) {
                change(status);
            }
            facts.note_stream(self.index);
        });
    }

    /// What the stream is doing now.
    pub fn set_state(&self, state: StreamState) {
        self.update(|status| status.state = state);
    }

    /// On the way up, at this step. A stream whose call to Kafka hung stays stalled until one succeeds:
    /// each new attempt may hang in the same place.
    pub fn starting(&self, step: &str) {
        self.update(|status| {
            if !matches!(status.state, StreamState::Stalled { .. }) {
                status.state = StreamState::Starting { step: step.to_owned() };
            }
        });
    }

    /// Something failed that usually mends itself; it is tried again after `wait`.
    pub fn recovering(&self, failure: &Failure, wait: Duration) {
        let at = Utc::now();
        let (what, remedy) = (failure.what.clone(), failure.remedy.clone());
        self.update(|status| {
            status.last_error = Some(LastError { at, what: what.clone(), remedy });
            let next_attempt_at = at + TimeDelta::from_std(wait).unwrap_or_default();
            status.state = StreamState::Recovering { what, next_attempt_at };
        });
    }

    /// Something failed that does not mend itself.
    pub fn stopped(&self, failure: &Failure) {
        self.update(|status| {
            let since = match &status.state {
                StreamState::Stopped { what, since, .. } if *what == failure.what => *since,
                _ => Utc::now(),
            };
            let (what, remedy) = (failure.what.clone(), failure.remedy.clone());
            status.last_error = Some(LastError { at: Utc::now(), what: what.clone(), remedy: remedy.clone() });
            status.state = StreamState::Stopped { what, remedy, since };
            (status.call_open_since, status.next_call_at) = (None, None);
        });
    }

    /// Notes an error without changing the state.
    pub fn error(&self, what: impl Into<String>, remedy: impl Into<String>) {
        let error = LastError { at: Utc::now(), what: what.into(), remedy: remedy.into() };
        self.update(|status| status.last_error = Some(error));
    }

    /// What is known about this stream.
    pub fn status(&self) -> Option<StreamStatus> {
        self.board.lock().streams.get(self.index).cloned()
    }

    /// The board it is part of.
    pub fn board(&self) -> &Board {
        &self.board
    }
}

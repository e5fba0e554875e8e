//! Bulk API 2.0 query jobs: their states and what they found.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::simulator::record_id::record_id;
use crate::simulator::rest::Found;

/// Jobs that are kept; a further one takes the place of the oldest. Salesforce keeps results for seven days.
const MOST_JOBS: usize = 100;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum State {
    UploadComplete,
    InProgress,
    JobComplete,
    Aborted,
    Failed,
}

impl State {
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::JobComplete | Self::Aborted | Self::Failed)
    }
}

/// What the CSV of a job looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) carriage_return: bool,
}

/// One job. What it finds is of the moment it was created.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    /// `queryAll` instead of `query`.
    pub(crate) all: bool,
    pub(crate) entity: &'static str,
    /// As in the path that created it, `v66.0`.
    pub(crate) version: String,
    pub(crate) dialect: Dialect,
    /// Milliseconds of the epoch, by the org's clock.
    pub(crate) created: i64,
    /// Why the job fails, when it does.
    pub(crate) fails: Option<String>,
    pub(crate) found: Found,
    pub(crate) since: Instant,
    pub(crate) aborted: AtomicBool,
}

/// The jobs of the org.
#[derive(Debug)]
pub(crate) struct BulkJobs {
    /// How long a job takes.
    takes: Duration,
    allowed: u64,
    /// While true, no job goes on.
    held: AtomicBool,
    /// While true, the rows of results are kept back.
    kept_back: watch::Sender<bool>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    made: u64,
    jobs: BTreeMap<String, Arc<Job>>,
    oldest: VecDeque<String>,
}

impl BulkJobs {
    pub(crate) fn new(takes: Duration, allowed: u64) -> Self {
        let (held, kept_back) = (AtomicBool::new(false), watch::Sender::new(false));
        Self { takes, allowed, held, kept_back, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // The map and the queue may disagree after a panic; then a job is forgotten a little early or late.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    pub(crate) fn hold_results(&self, held: bool) {
        self.kept_back.send_replace(held);
    }

    /// Waits until the rows of results may be sent.
    pub(crate) async fn results_flow(&self) {
        // The sender is here.
        let _ = self.kept_back.subscribe().wait_for(|held| !held).await;
    }

    /// How many jobs there are.
    pub(crate) fn count(&self) -> u64 {
        self.kept().jobs.len() as u64
    }

    /// Jobs that can be created in 24 hours, and those left.
    pub(crate) fn allowance(&self) -> (u64, u64) {
        (self.allowed, self.allowed.saturating_sub(self.kept().made))
    }

    /// Keeps a new job under the id it is given; `None` when the day's jobs are used up.
    pub(crate) fn create(&self, job: impl FnOnce(String) -> Job) -> Option<Arc<Job>> {
        let mut kept = self.kept();
        if kept.made >= self.allowed {
            return None;
        }
        kept.made += 1;
        let id = record_id("750", kept.made);
        let job = Arc::new(job(id.clone()));
        kept.jobs.insert(id.clone(), Arc::clone(&job));
        kept.oldest.push_back(id);
        if kept.oldest.len() > MOST_JOBS
            && let Some(oldest) = kept.oldest.pop_front()
        {
            kept.jobs.remove(&oldest);
        }
        Some(job)
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.kept().jobs.get(id).cloned()
    }

    pub(crate) fn remove(&self, id: &str) {
        let mut kept = self.kept();
        kept.jobs.remove(id);
        kept.oldest.retain(|known| known != id);
    }

    /// Where a job stands now: it waits for a third of its time, and works for the rest.
    pub(crate) fn state(&self, job: &Job) -> State {
        let (passed, held) = (job.since.elapsed(), self.held.load(Ordering::Relaxed));
        if job.aborted.load(Ordering::Relaxed) {
            State::Aborted
        } else if passed < self.takes / 3 {
            State::UploadComplete
        } else if passed < self.takes || held {
            State::InProgress
        } else if job.fails.is_some() {
            State::Failed
        } else {
            State::JobComplete
        }
    }
}

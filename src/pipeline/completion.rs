//! The completion station: decides what is read, when, and how many reads are under way.
//!
//! Batches that want nothing never come here. The others gather while reads are under way: one more begins beside them
//! when what has gathered is worth its calls. So a quiet stream reads at once, and one that is behind reads hundreds of
//! records with each call, several calls at a time, up to 2,000 where all calls are under way.
//!
//! The station keeps no order; the promises in the run loop's queue do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{CompletionConfig, OnIncomplete};
use crate::pipeline::api_budget;
use crate::pipeline::complete::{Group, Outcome};
use crate::pipeline::context::StreamContext;
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::prepared::Prepared;
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest::RestError;
use crate::status::{Allowance, CompletionLevel, CompletionStatus};

/// Records read together, as many as one call takes.
const MOST_WANTS: usize = 2_000;

/// So many records of each of the objects are worth a read beside others. What waits is bounded by the memory for rendered
/// records, and most of it should be under way: were each read to wait for all that a call takes, that memory would hold
/// two of them, whatever `parallel` says. Two calls for a thousand records is what it costs.
const WORTH_A_READ: usize = 500;

/// After a failed read, so long nothing is read: each batch would wait as long as the first.
const OUTAGE: Duration = Duration::from_secs(30);

/// The same for an object of which the user may read nothing; that takes somebody who changes it.
const REFUSED: Duration = Duration::from_secs(300);

/// How long the first read after an outage may take: if it lasts, the batches should not wait as they did at first.
const PROBE: Duration = Duration::from_secs(5);

/// How long an orderly end waits for reads that are under way. What they were for is delivered again.
const LAST_READS: Duration = Duration::from_secs(5);

/// A batch to be completed, and the promise to be kept.
pub struct Wanting {
    /// The batch.
    pub prepared: Prepared,
    /// Where the run loop waits for it.
    pub reply: oneshot::Sender<Prepared>,
}

/// The station of one attempt of a stream.
pub struct CompletionStation {
    context: Arc<StreamContext>,
    memory: Arc<StreamMemory>,
    reader: RecordReader,
    config: CompletionConfig,
    waiting: VecDeque<Wanting>,
    /// The records that they want …
    wants: usize,
    /// … and the topics of these records.
    topics: BTreeSet<Arc<str>>,
    running: JoinSet<Outcome>,
    level: CompletionLevel,
    /// Objects that are not asked for until then, and why; under the empty name, everything.
    closed: BTreeMap<String, (Instant, String)>,
    /// Whether the last read failed.
    unavailable: bool,
}

impl CompletionStation {
    /// A station that reads with `reader`.
    pub fn new(
        context: Arc<StreamContext>,
        memory: Arc<StreamMemory>,
        reader: RecordReader,
        config: CompletionConfig,
    ) -> Self {
        let level = CompletionLevel::Full;
        context.board.update(|status| {
            status.completion.get_or_insert_with(CompletionStatus::default);
        });
        Self {
            context,
            memory,
            reader,
            config,
            waiting: VecDeque::new(),
            wants: 0,
            topics: BTreeSet::new(),
            running: JoinSet::new(),
            level,
            closed: BTreeMap::new(),
            unavailable: false,
        }
    }

    /// Runs until nothing more comes and everything is completed, or until `cancel` and a few seconds more.
    pub async fn run(mut self, mut wanting: mpsc::Receiver<Wanting>, cancel: CancellationToken) {
        let mut open = true;
        let mut end = None;
        while open || !self.waiting.is_empty() || !self.running.is_empty() {
            self.begin_reads();
            let ends_at = end.unwrap_or_else(Instant::now);
            tokio::select! {
                next = wanting.recv(), if open && self.wants < MOST_WANTS => match next {
                    Some(next) => self.take(next),
                    None => open = false,
                },
                Some(read) = self.running.join_next() => self.read(read),
                () = cancel.cancelled(), if end.is_none() => end = Some(Instant::now() + LAST_READS),
                // Dropping the reads breaks their promises, which ends the run loop's queue before them.
                () = tokio::time::sleep_until(ends_at), if end.is_some() => return,
            }
            // What has come already belongs into the same read.
            while open && self.wants < MOST_WANTS {
                match wanting.try_recv() {
                    Ok(next) => self.take(next),
                    Err(_) => break,
                }
            }
        }
    }

    fn take(&mut self, wanting: Wanting) {
        self.wants += wanting.prepared.wants.len();
        self.note_topics(&wanting.prepared);
        self.waiting.push_back(wanting);
    }

    fn note_topics(&mut self, prepared: &Prepared) {
        for want in &prepared.wants {
            let Some(record) = prepared.records.get(want.record) else { continue };
            if !self.topics.contains(&record.topic) {
                self.topics.insert(record.topic.clone());
            }
        }
    }

    /// Begins as many reads as there may be.
    fn begin_reads(&mut self) {
        while !self.waiting.is_empty() {
            self.look_at_usage();
            let parallel = if self.level >= CompletionLevel::Slowed { 1 } else { self.config.parallel };
            let worth_it = self.wants >= MOST_WANTS.min(WORTH_A_READ.saturating_mul(self.topics.len()));
            let another = worth_it && self.running.len() < parallel;
            if !self.running.is_empty() && !another {
                return;
            }
            let group = self.group();
            self.running.spawn(group.complete());
        }
    }

    fn group(&mut self) -> Group {
        let mut batches = Vec::new();
        let mut wants = 0;
        while let Some(next) = self.waiting.front() {
            let more = next.prepared.wants.len();
            if !batches.is_empty() && wants + more > MOST_WANTS {
                break;
            }
            wants += more;
            batches.extend(self.waiting.pop_front());
        }
        self.wants = self.wants.saturating_sub(wants);
        self.topics.clear();
        for left in std::mem::take(&mut self.waiting) {
            self.note_topics(&left.prepared);
            self.waiting.push_back(left);
        }
        let now = Instant::now();
        self.closed.retain(|_, (until, _)| *until > now);
        let closed = self.closed.iter().map(|(name, (_, cause))| (name.clone(), cause.clone())).collect();
        Group {
            context: self.context.clone(),
            memory: self.memory.clone(),
            reader: self.reader.clone(),
            batches,
            // An old figure may be that of a day that has passed. One read tells.
            level: if self.reader.client().usage().is_none_or(|usage| usage.is_fresh()) {
                self.level
            } else {
                CompletionLevel::Full
            },
            wait: self.context.stream.on_incomplete == OnIncomplete::Wait,
            patience: if self.unavailable { self.config.patience.min(PROBE) } else { self.config.patience },
            share: self.config.api_share,
            closed: Arc::new(closed),
        }
    }

    /// Steps down or up by the use of the API requests.
    fn look_at_usage(&mut self) {
        let Some(usage) = self.reader.client().usage() else { return };
        let level = api_budget::level(usage, self.config.api_share, self.level);
        if level == self.level {
            return;
        }
        let topic = &self.context.identity.topic;
        let (from, used, maximum) = (self.level, usage.used, usage.maximum);
        if level > from {
            warn!(%topic, ?from, to = ?level, used, maximum, "completion steps back, the org's api requests run short");
        } else {
            info!(%topic, ?from, to = ?level, used, maximum, "completion does more again");
        }
        self.level = level;
        self.update(|status| {
            status.level = level;
            let steps = level.steps_down().saturating_sub(from.steps_down());
            status.steps_down += u64::from(steps);
        });
    }

    /// Notes what came of a read.
    fn read(&mut self, read: Result<Outcome, JoinError>) {
        let outcome = match read {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        for (entity, error) in &outcome.failures {
            self.failed(entity, error);
        }
        if outcome.asked && outcome.failures.is_empty() && self.unavailable && self.closed.is_empty() {
            info!(topic = %self.context.identity.topic, "records are read again");
            self.unavailable = false;
        }
        if let Some(usage) = self.reader.client().usage() {
            let remaining = usage.maximum.saturating_sub(usage.used);
            self.context.board.board().set_api_requests(Allowance { maximum: usage.maximum, remaining });
        }
        let (unavailable, paused_until) = (self.unavailable, self.reader.client().paused_until());
        self.update(|status| {
            status.reads += u64::from(outcome.asked);
            status.records_completed += outcome.completed;
            status.records_unread += outcome.unread;
            status.paused_until = paused_until;
            status.unavailable_since = unavailable.then(|| status.unavailable_since.unwrap_or_else(Utc::now));
        });
        self.look_at_usage();
    }

    fn failed(&mut self, entity: &str, error: &RestError) {
        let failure = error.failure();
        warn!(topic = %self.context.identity.topic, entity, error = %error, remedy = failure.remedy, "records cannot be read");
        self.context.board.error(failure.what, failure.remedy);
        self.unavailable = true;
        let (name, length) = if error.is_retryable() { ("", OUTAGE) } else { (entity, REFUSED) };
        self.closed.insert(name.to_owned(), (Instant::now() + length, error.to_string()));
    }

    fn update(&self, change: impl FnOnce(&mut CompletionStatus)) {
        self.context.board.update(|status| change(status.completion.get_or_insert_with(CompletionStatus::default)));
    }
}

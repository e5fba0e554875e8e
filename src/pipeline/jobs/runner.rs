//! The task that works through the jobs of a stream, one slice of records at a time.
//!
//! Single records come before whole objects: the one is a call, the other can take hours.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{PagesConfig, PollConfig};
use crate::identity::TopicKind;
use crate::kafka::failpoint::{self, After};
use crate::kafka::{KafkaSettings, ReadTo, ScanFrom, ScannedRecord, scan_news};
use crate::pipeline::context::StreamContext;
use crate::pipeline::jobs::bulk_pass::Pass;
use crate::pipeline::jobs::desk::Desk;
use crate::pipeline::jobs::entry;
use crate::pipeline::jobs::job::Job;
use crate::pipeline::jobs::listing::BulkIds;
use crate::pipeline::jobs::polled::Position;
use crate::pipeline::jobs::polling::Poll;
use crate::pipeline::jobs::reading::Step;
use crate::pipeline::jobs::rows::RowWriter;
use crate::pipeline::jobs::seam::JobBatch;
use crate::pipeline::jobs::setback::{LIMITS, POLLS, Setback};
use crate::pipeline::jobs::touched::{CLOCKS, Copy, WrittenSince, copy_beside};
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::output_topics::OutputTopics;
use crate::pipeline::read_back;
use crate::pipeline::schemas::SchemaCache;
use crate::salesforce::api_usage::ApiUsage;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::record_read::RecordReader;

/// Records of the first slice; the next ones go by the size of the rows.
const FIRST_SLICE: usize = 200;

/// Single records that one job reads; what is more waits for the next.
const MOST_IDS: usize = 2_000;

/// Before records are read again that events have overtaken. Of a record that changes all the time one read soon falls
/// into a second without a change.
const OVERTAKEN: BackoffLimits = BackoffLimits::constant(Duration::from_millis(100), Duration::from_secs(30));

/// The runner of one attempt.
pub(in crate::pipeline) struct Runner {
    pub(super) context: Arc<StreamContext>,
    pub(super) memory: Arc<StreamMemory>,
    pub(super) reader: RecordReader,
    pub(super) schemas: SchemaCache,
    pub(super) desk: Arc<Desk>,
    pub(super) out: mpsc::Sender<JobBatch>,
    pub(super) kafka: KafkaSettings,
    pub(super) topics: OutputTopics,
    pub(super) cancel: CancellationToken,
    /// What the topics held when a job began or went on, where that is needed.
    pub(super) copies: HashMap<String, Copy>,
    /// What is known of the passes over Bulk.
    pub(super) passes: HashMap<String, Pass>,
    /// Listings over Bulk.
    pub(super) listings: HashMap<String, BulkIds>,
    /// How the results of Bulk query jobs are fetched.
    pub(super) pages: PagesConfig,
    /// Jobs whose object is read over REST.
    pub(super) rest_only: HashSet<String>,
    /// The job at hand.
    pub(super) current: String,
    /// Records of the next slice.
    pub(super) slice: usize,
    /// Up to where the ledger is known, and when it is looked at again: others may write entries too.
    ledger: (ReadTo, Instant),
    /// Jobs that wait.
    waits: HashMap<String, (Instant, Backoff)>,
    overtaken: Backoff,
    /// Objects that are read where they changed.
    pub(super) polls: Vec<Poll>,
    /// Whether the last step was one of theirs: then it is the turn of the jobs.
    polled: bool,
}

impl Runner {
    /// A runner that hands what it reads to `out`.
    pub fn new(
        context: Arc<StreamContext>,
        memory: Arc<StreamMemory>,
        kafka: KafkaSettings,
        (reader, schemas): (RecordReader, SchemaCache),
        desk: Arc<Desk>,
        out: mpsc::Sender<JobBatch>,
        cancel: CancellationToken,
    ) -> Self {
        let topics = OutputTopics::new(kafka.clone(), context.board.clone(), memory.clone());
        Self {
            context,
            memory,
            reader,
            schemas,
            desk,
            out,
            kafka,
            topics,
            cancel,
            copies: HashMap::new(),
            passes: HashMap::new(),
            listings: HashMap::new(),
            pages: PagesConfig::default(),
            rest_only: HashSet::new(),
            current: String::new(),
            slice: FIRST_SLICE,
            ledger: (ReadTo::default(), Instant::now()),
            waits: HashMap::new(),
            overtaken: Backoff::new(OVERTAKEN),
            polls: Vec::new(),
            polled: false,
        }
    }

    /// The same with another number of pages under way.
    #[must_use]
    pub fn fetching(self, pages: PagesConfig) -> Self {
        Self { pages, ..self }
    }

    /// The same with objects to poll, from where `kept` says that they are.
    #[must_use]
    pub fn polling(mut self, polls: &[PollConfig], kept: &BTreeMap<String, Bytes>) -> Self {
        let prefix = &self.context.identity.prefix;
        let poll = |poll: &PollConfig| Poll::new(poll.clone(), prefix, kept.get(&Position::key(&poll.entity)));
        self.polls = polls.iter().map(poll).collect();
        self
    }

    /// Runs until nobody takes what it reads.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(LIMITS);
        while let Err(setback) = self.look_at_ledger().await {
            if matches!(setback, Setback::Gone) {
                return;
            }
            warn!(topic = %self.context.identity.topic, error = setback.failure().what, "the gap ledger cannot be read yet");
            sleep(setback.wait(&mut backoff)).await;
        }
        loop {
            if let Some(request) = self.context.board.requests().take() {
                if self.answer(request).await.is_err() {
                    return;
                }
                continue;
            }
            let outcome = match self.next() {
                Next::Job(id, job) => {
                    failpoint::pass(After::ChoosingJob);
                    self.current.clone_from(&id);
                    let outcome = self.step(&id, *job).await;
                    self.note(&id, outcome)
                }
                Next::Poll(number) => self.poll(number).await,
                Next::Ledger => {
                    let outcome = self.look_at_ledger().await;
                    self.note("", outcome)
                }
                Next::Wait(until) => {
                    tokio::select! {
                        () = self.desk.changed.notified() => {}
                        () = self.context.board.requests().come() => {}
                        () = sleep_until(until) => {}
                    }
                    ControlFlow::Continue(())
                }
            };
            if outcome.is_break() {
                return;
            }
        }
    }

    /// Lets a job wait after a setback, and says so.
    pub(super) fn note(&mut self, id: &str, outcome: Result<(), Setback>) -> ControlFlow<()> {
        let Err(setback) = outcome else {
            self.waits.remove(id);
            self.desk.wait(id, None);
            return ControlFlow::Continue(());
        };
        if matches!(setback, Setback::Gone) {
            return ControlFlow::Break(());
        }
        let working = matches!(setback, Setback::Working { .. });
        let limits = if working { POLLS } else { LIMITS };
        let (_, backoff) = self.waits.entry(id.to_owned()).or_insert_with(|| (Instant::now(), Backoff::new(limits)));
        let wait = setback.wait(backoff);
        let failure = setback.failure();
        // Of what Salesforce works on nothing is wrong, and is looked at often.
        if !working {
            warn!(topic = %self.context.identity.topic, job = id, error = failure.what, remedy = failure.remedy, wait_s = wait.as_secs(), "job waits");
        }
        if let Some((until, _)) = self.waits.get_mut(id) {
            *until = Instant::now() + wait;
        }
        let at = Utc::now() + TimeDelta::from_std(wait).unwrap_or_default();
        self.desk.wait(id, Some((failure.what, failure.remedy, at)));
        ControlFlow::Continue(())
    }

    /// What to do next.
    fn next(&mut self) -> Next {
        let now = Instant::now();
        let until = |id: &str| self.waits.get(id).map_or(now, |(until, _)| *until);
        let (jobs, _) = self.desk.jobs();
        // At once when there is room for what had none.
        let unclaimed = jobs.is_empty() && self.desk.has_unclaimed();
        let look = if unclaimed { until("") } else { self.ledger.1.max(until("")) };
        if look <= now {
            return Next::Ledger;
        }
        // A snapshot begins when whatever changes from then on is surely delivered.
        let open = |(id, job): &(&String, &Job)| {
            !job.waits_for_bulk(id, &jobs) && (job.snapshot.is_none() || self.desk.is_anchored())
        };
        let ready = jobs.iter().filter(open).filter(|(id, _)| until(id) <= now);
        let ready = ready.min_by_key(|(id, job)| (job.whole, (*id).clone()));
        // By turns: a snapshot of hours must not hold polls up, nor many changes the snapshot.
        if let Some(number) = self.due_poll(now).filter(|_| ready.is_none() || !self.polled) {
            self.polled = true;
            return Next::Poll(number);
        }
        let first = jobs.iter().filter(open).map(|(id, _)| until(id));
        let first = first.chain(self.polls.iter().map(|poll| poll.due)).min();
        let next = ready.map(|(id, job)| Next::Job(id.clone(), Box::new(job.clone())));
        self.polled = false;
        next.unwrap_or_else(|| Next::Wait(first.map_or(look, |first| first.min(look))))
    }

    /// The job as the run loop has committed it last.
    pub(super) fn job(&self, id: &str) -> Result<Job, Setback> {
        self.desk.jobs().0.remove(id).ok_or(Setback::Gone)
    }

    /// Finds the open entries of the stream that came since the last look, and opens jobs for those that have none. No gap
    /// is closed meanwhile, since only this task closes them: what is read as open is open.
    async fn look_at_ledger(&mut self) -> Result<(), Setback> {
        let newest: Arc<Mutex<BTreeMap<String, Option<entry::Entry>>>> = Arc::default();
        let (found, topic) = (newest.clone(), self.context.identity.topic.clone());
        let org = self.context.identity.org.clone();
        let read_to = scan_news(&self.kafka, &self.context.ledger_topic, self.ledger.0.clone(), move |record| {
            if record.header("org") == Some(org.as_str().as_bytes())
                && let Some((id, entry)) = record.value.as_deref().and_then(|value| entry::read(value, &topic))
            {
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry);
            }
        })
        .await?;
        self.ledger = (read_to, Instant::now() + self.desk.config.look_every);
        let newest = std::mem::take(&mut *newest.lock().unwrap_or_else(PoisonError::into_inner));
        self.desk.learn(newest.into_iter().filter_map(|(id, entry)| Some((id, entry?))).collect());
        if !self.desk.config.heal {
            return Ok(());
        }
        let topic = &self.context.identity.topic;
        let opens: Vec<Job> = self.desk.orphans().iter().filter_map(|entry| entry.job(topic)).collect();
        if opens.is_empty() {
            return Ok(());
        }
        info!(%topic, gaps = opens.len(), "open gaps without a job found in the ledger");
        self.commit(Vec::new(), opens, Vec::new(), Vec::new()).await
    }

    /// One step of a job: as much as one answer of Salesforce brings.
    async fn step(&mut self, id: &str, job: Job) -> Result<(), Setback> {
        if matches!(self.context.identity.topic.kind(), TopicKind::PlatformEvent(_) | TopicKind::PlatformChannel) {
            return self.write_events(id, job).await;
        }
        let Some(entity) = job.entity.clone() else { return self.find_objects(id, job).await };
        if job.is_done() {
            return self.close(id, job).await;
        }
        self.within_share()?;
        self.context.claims.claim(&entity, &self.context.identity.topic).map_err(Setback::Stopped)?;
        let topic: Arc<str> = format!("{}.{entity}", self.context.identity.prefix).into();
        self.topics.ensure_entity(&topic, &self.cancel).await.map_err(Setback::Stopped)?;
        self.gather(id, job).await?;
        self.ensure_copy(id, &topic).await?;
        let job = self.job(id)?;
        if !job.ids.is_empty() && !job.leaves_ids() {
            let ids: Vec<String> = job.ids.into_iter().take(self.slice.max(1)).collect();
            let back = self.read(id, &entity, &ids, &Step::Ids).await?;
            self.dealt_with(id, &ids);
            self.after_read(back).await;
            return Ok(());
        }
        if self.bulk(id, &entity, &job).await? {
            return Ok(());
        }
        self.page(id, &entity, job).await
    }

    /// Takes jobs together that read alike and have not begun.
    pub(super) async fn gather(&mut self, id: &str, mut job: Job) -> Result<(), Setback> {
        let (jobs, fresh) = self.desk.jobs();
        let mut changes: Vec<(String, Option<Job>)> = Vec::new();
        let mut all_fresh = fresh.contains(id);
        for (other, work) in jobs.into_iter().filter(|(other, _)| other != id) {
            if job.takes(&work) && job.ids.len() + work.ids.len() <= MOST_IDS {
                all_fresh &= fresh.contains(&other);
                job.take(work);
                changes.push((other, None));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        if !all_fresh {
            self.copies.remove(id);
            self.desk.not_fresh(id);
        }
        // A listing that was begun for one of them may be older than the gap of another: what changed in between would be left out.
        self.listings.remove(id);
        for (other, _) in &changes {
            self.forget(other);
            self.waits.remove(other);
        }
        changes.insert(0, (id.to_owned(), Some(job)));
        self.commit(changes, Vec::new(), Vec::new(), Vec::new()).await
    }

    /// Reads what the topic holds, where not everything since the opening was seen being written.
    async fn ensure_copy(&mut self, id: &str, topic: &str) -> Result<(), Setback> {
        let (jobs, fresh) = self.desk.jobs();
        let Some(job) = jobs.get(id) else { return Err(Setback::Gone) };
        if self.copies.contains_key(id) || (fresh.contains(id) && !job.whole) {
            return Ok(());
        }
        let from = if job.whole {
            ScanFrom::Beginning
        } else {
            ScanFrom::Timestamp(job.begins_at().checked_sub_signed(CLOCKS).unwrap_or(job.opened_at))
        };
        let created = job.bulk.as_ref().map(|pass| pass.created_at);
        let (seq, end) = (self.desk.marker(), RowWriter::end(id));
        let found: Arc<Mutex<WrittenSince>> = Arc::default();
        let collected = found.clone();
        let also = move |key, known, record: &ScannedRecord| {
            let Some(created) = created else { return };
            let by_job = record.value.as_deref().is_some_and(|value| value.ends_with(end.as_bytes()));
            let mut found = collected.lock().unwrap_or_else(PoisonError::into_inner);
            found.note((key, known), record.timestamp, by_job, created);
        };
        let held = copy_beside(&self.kafka, topic, &self.context.identity.org, from, also).await?;
        info!(job = id, topic, records = held.len(), whole = job.whole, "job begins or goes on");
        self.copies.insert(id.to_owned(), held);
        if created.is_some() {
            let WrittenSince { by_job, by_others } =
                std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
            info!(job = id, dealt = by_job.len(), touched = by_others.len(), "bulk query job goes on");
            self.desk.learn_touches(seq, by_others);
            self.passes.insert(id.to_owned(), Pass::resumed(by_job));
        }
        Ok(())
    }

    /// Makes one job for each object of a channel out of one for all.
    async fn find_objects(&mut self, id: &str, job: Job) -> Result<(), Setback> {
        let entities = read_back::entities(&self.kafka, &self.context.identity).await?;
        if entities.is_empty() {
            return Err(Setback::NothingKnown);
        }
        let of = |(number, entity): (usize, String)| {
            let job = Job { entity: Some(entity), ..job.clone() };
            (format!("{id}-{number:03}"), Some(job))
        };
        let mut changes: Vec<(String, Option<Job>)> = entities.into_iter().enumerate().map(of).collect();
        changes.push((id.to_owned(), None));
        self.commit(changes, Vec::new(), Vec::new(), Vec::new()).await
    }

    /// Leaves the rest of the org's API requests to others.
    pub(super) fn within_share(&self) -> Result<(), Setback> {
        let Some(usage) = self.reader.client().usage().filter(ApiUsage::is_fresh) else { return Ok(()) };
        let used = usage.used.saturating_mul(100).checked_div(usage.maximum).unwrap_or(100);
        if used >= self.desk.config.api_share { Err(Setback::Share { used }) } else { Ok(()) }
    }

    pub(super) async fn after_read(&mut self, back: usize) {
        if back == 0 {
            self.overtaken.reset();
        } else {
            sleep(self.overtaken.next_wait()).await;
        }
    }
}

/// What the runner does next.
enum Next {
    Job(String, Box<Job>),
    Poll(usize),
    Ledger,
    Wait(Instant),
}

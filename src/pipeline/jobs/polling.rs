//! Polls: objects without change events, read where they changed.
//!
//! # Why nothing that changed is left out, and nothing is written twice
//!
//! **The window.** A round asks for every record that is stamped at `from` or later, those in the recycle bin too. It is
//! stamped when it is written and seen when its transaction is committed, later by as much as a transaction lasts, and by
//! what copies of the database lag behind. So the next round does not begin where this one did, but `look_back` before: a
//! record that the round could not see yet is stamped later than that, and is found by one that follows. `from` is
//! Salesforce's time, of its own answers, and taken before the first page is asked for.
//!
//! **What is written.** Most of what a round finds stands in Kafka already. What Kafka holds of the window is known: it is
//! read from the object's topic when an attempt begins, and kept up with what is written from then on. A record is stamped
//! later than it was changed by nobody, so what was stamped in the window was written after its beginning, and to read the
//! topic from there on is enough. A record is written if its stamp is later than what stands there, or if its
//! values are others: stamps are whole seconds, and two changes of one second can come one after the other. So every
//! record of the window is read in every round; that the stamp is known says not enough. After a round, what Kafka holds of
//! the window is what the round read, with a `record_as_of` that never goes back.
//!
//! **The position.** `from` is kept in the stream's checkpoint topic (`kafka::KEPT`) and moves in the transaction of a round's
//! last records, only if all of them were written. A process that dies in a round begins it again, and finds in the topic
//! what it had written of it.
//!
//! **Beside jobs.** Polls are made by the runner of the jobs, which does one thing at a time; nothing is written between
//! the read of a page and its transaction but by the run loop, and no event brings these objects (`EntityClaims::poll`).
//! What polls write counts for jobs like what events brought: a result over Bulk that is older sends the row back. And what
//! jobs write counts for polls: it is in the window as soon as it is committed (`poll_window`), so a row that a job has read is not
//! written again, and a record that a job took for deleted is written when it is seen. While a snapshot of the object is
//! under way no round begins, and afterwards the topic is read again.
//!
//! **The beginning.** The first poll opens a snapshot, in the transaction that keeps the first position: what was changed
//! before is in the snapshot, and what was changed later is stamped in the window. A snapshot of the whole object that somebody else
//! has opened does as well as long as nothing of it is read. Of one that is under way only our clock says since when it reads,
//! which may be hours off Salesforce's: the poll waits until it has ended, and opens its own.
//!
//! **What polls cannot see**: records that were deleted for good between two rounds. Comparing all ids shows those
//! (`reconcile`).

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::PollConfig;
use crate::pipeline::jobs::entry::{self, Entry};
use crate::pipeline::jobs::job::{Job, SnapshotScope};
use crate::pipeline::jobs::poll_round::Round;
use crate::pipeline::jobs::polled::{Position, Window};
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::seam::JobBatch;
use crate::pipeline::jobs::setback::{LIMITS, Setback};
use crate::pipeline::jobs::touched::RecordKey;
use crate::pipeline::ledger::OpenGap;
use crate::pipeline::stop::StreamError;
use crate::salesforce::backoff::Backoff;

/// How often it is looked whether the snapshot of an object has ended.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// One polled object.
pub(super) struct Poll {
    pub(super) config: PollConfig,
    topic: Arc<str>,
    /// From when on the next round reads; none before the first.
    pub(super) from: Option<DateTime<Utc>>,
    /// What Kafka holds of what was changed since then; none as long as it was not read.
    pub(super) window: Option<Window>,
    pub(super) round: Option<Round>,
    /// Records that the last round found listed and could not read.
    pub(super) hidden: HashSet<RecordKey>,
    /// When it is this one's turn.
    pub(super) due: Instant,
    backoff: Backoff,
}

impl Poll {
    /// A poll that goes on from what the stream keeps.
    pub(super) fn new(config: PollConfig, prefix: &str, kept: Option<&Bytes>) -> Self {
        Self {
            topic: format!("{prefix}.{}", config.entity).into(),
            from: kept.and_then(|value| Position::read(&config.entity, value)).map(|position| position.from),
            window: None,
            round: None,
            hidden: HashSet::new(),
            due: Instant::now(),
            backoff: Backoff::new(LIMITS),
            config,
        }
    }

    pub(super) fn look_back(&self) -> TimeDelta {
        TimeDelta::from_std(self.config.look_back).unwrap_or(TimeDelta::days(1))
    }
}

impl Runner {
    /// The poll whose turn it is.
    pub(super) fn due_poll(&self, now: Instant) -> Option<usize> {
        let due = self.polls.iter().enumerate().filter(|(_, poll)| poll.due <= now);
        due.min_by_key(|(_, poll)| poll.due).map(|(number, _)| number)
    }

    /// One step of a poll: as much as one page of its listing brings. Errors let it wait.
    pub(super) async fn poll(&mut self, number: usize) -> ControlFlow<()> {
        let outcome = self.poll_step(number).await;
        let Some(poll) = self.polls.get_mut(number) else { return ControlFlow::Continue(()) };
        let setback = match outcome {
            Ok(()) => {
                poll.backoff.reset();
                return ControlFlow::Continue(());
            }
            Err(Setback::Gone) => return ControlFlow::Break(()),
            Err(setback) => setback,
        };
        let (wait, failure) = (setback.wait(&mut poll.backoff), setback.failure());
        poll.due = Instant::now() + wait;
        // A round is as old as its beginning: it is begun again.
        poll.round = None;
        let entity = poll.config.entity.clone();
        warn!(topic = %self.context.identity.topic, entity, error = failure.what, remedy = failure.remedy, wait_s = wait.as_secs(), "poll waits");
        let at = Utc::now() + TimeDelta::from_std(wait).unwrap_or_default();
        self.context.board.update(|status| {
            let shown = status.poll(&entity);
            shown.waits_for = Some(failure.what);
            shown.remedy = Some(failure.remedy).filter(|remedy| !remedy.is_empty());
            shown.next_attempt_at = Some(at);
        });
        ControlFlow::Continue(())
    }

    async fn poll_step(&mut self, number: usize) -> Result<(), Setback> {
        let Some(poll) = self.polls.get(number) else { return Ok(()) };
        let (entity, topic, begun, learned) =
            (poll.config.entity.clone(), poll.topic.clone(), poll.from.is_some(), poll.window.is_some());
        self.within_share()?;
        self.context.claims.claim(&entity, &self.context.identity.topic).map_err(Setback::Stopped)?;
        self.topics.ensure_entity(&topic, &self.cancel).await.map_err(Setback::Stopped)?;
        if !begun {
            return self.begin_poll(number, &entity).await;
        }
        if let Some(snapshot) = self.snapshot_of(&entity) {
            return self.wait_for_snapshot(number, &entity, &snapshot);
        }
        if !learned {
            self.learn_window(number, &entity, &topic).await?;
        }
        self.poll_page(number, &entity, &topic).await
    }

    /// Keeps the first position, and opens the snapshot that brings what is older.
    pub(super) async fn begin_poll(&mut self, number: usize, entity: &str) -> Result<(), Setback> {
        let Some(poll) = self.polls.get(number) else { return Ok(()) };
        let (since, look_back) = (poll.config.since, poll.look_back());
        let now = self.reader.client().session().salesforce_now();
        let (mut opens, mut from) = (Vec::new(), since.unwrap_or(now - look_back));
        if since.is_none() {
            let (jobs, _) = self.desk.jobs();
            let under_way =
                jobs.iter().find(|(_, job)| job.snapshot.is_some() && job.entity.as_deref() == Some(entity));
            // What it does not read is wanted too, and so is what was changed since it was read.
            if let Some((id, _)) = under_way.filter(|(_, job)| job.is_partial() || job.has_begun()) {
                return self.wait_for_snapshot(number, entity, id);
            }
            let mut scope = SnapshotScope::default();
            scope.expected = self.expected(entity, &scope).await?;
            // The answer has set the clock.
            from = from.min(self.reader.client().session().salesforce_now() - look_back);
            if under_way.is_none() {
                opens.push(Job::snapshot_of(entity.to_owned(), scope));
            }
        }
        let opening = !opens.is_empty();
        let (batch, committed) = JobBatch::new(self.desk.marker());
        let kept = vec![kept(entity, from)];
        self.deliver(JobBatch { opens, kept, ..batch }, committed).await?;
        if opening && self.snapshot_of(entity).is_none() {
            return Err(Setback::Stopped(StreamError::NoRoomToPoll(entity.to_owned()).failure()));
        }
        info!(entity, %from, snapshot = opening, "poll begins");
        if let Some(poll) = self.polls.get_mut(number) {
            poll.from = Some(from);
        }
        self.context.board.update(|status| status.poll(entity).from = Some(from));
        Ok(())
    }

    /// No round while the whole object is read: see the head.
    fn wait_for_snapshot(&mut self, number: usize, entity: &str, snapshot: &str) -> Result<(), Setback> {
        let Some(poll) = self.polls.get_mut(number) else { return Ok(()) };
        poll.due = Instant::now() + LOOK;
        (poll.window, poll.round) = (None, None);
        let from = poll.from;
        self.context.board.update(|status| {
            let shown = status.poll(entity);
            shown.from = from;
            shown.waits_for = Some(format!("the whole object is being read: {snapshot}"));
            (shown.remedy, shown.next_attempt_at) = (None, None);
        });
        Ok(())
    }

    /// An entry that is to be opened, and the job that heals it.
    pub(super) fn opened(&self, gap: &OpenGap) -> (Option<Entry>, Option<Job>) {
        let topic = &self.context.identity.topic;
        let record = self.context.gap_record(gap);
        let entry = record.value.and_then(|value| entry::read(&value, topic)?.1);
        let job = entry.as_ref().filter(|_| self.desk.config.heal).and_then(|entry| entry.job(topic));
        (entry, job)
    }
}

/// What is kept of a poll.
pub(super) fn kept(entity: &str, from: DateTime<Utc>) -> (String, Option<Bytes>) {
    (Position::key(entity), Some(Position { from }.value().into()))
}

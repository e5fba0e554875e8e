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
//! What polls write counts for jobs like what events brought: a result over Bulk that is older sends the row back. While a
//! snapshot of the object is under way no round begins, and afterwards the topic is read again.
//!
//! **The beginning.** The first poll opens a snapshot, in the transaction that keeps the first position: what was changed
//! before is in the snapshot, and what was changed later is stamped in the window.
//!
//! **What polls cannot see**: records that were deleted for good between two rounds. Comparing all ids shows those
//! (`reconcile`).

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::change::{Row, RowFault, RowPlan};
use crate::config::PollConfig;
use crate::failure::{Exit, Failure};
use crate::kafka::{OutputRecord, ScanFrom, scan};
use crate::pipeline::jobs::entry::{self, Entry};
use crate::pipeline::jobs::job::{Job, SnapshotScope};
use crate::pipeline::jobs::polled::{Held, Position, Window, content_of, is_news};
use crate::pipeline::jobs::reading::{PATIENCE, current_at_least};
use crate::pipeline::jobs::rows::{Reader, RowWriter};
use crate::pipeline::jobs::runner::{CLOCKS, Runner};
use crate::pipeline::jobs::seam::{JobBatch, JobRow};
use crate::pipeline::jobs::setback::{LIMITS, Setback};
use crate::pipeline::jobs::touched::{Known, RecordKey, told};
use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
use crate::salesforce::backoff::Backoff;
use crate::salesforce::id_listing::ListedRecord;
use crate::salesforce::record_read::Found;

/// How often it is looked whether the snapshot of an object has ended.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// One polled object.
pub(super) struct Poll {
    config: PollConfig,
    topic: Arc<str>,
    /// From when on the next round reads; none before the first.
    from: Option<DateTime<Utc>>,
    /// What Kafka holds of what was changed since then; none as long as it was not read.
    window: Option<Window>,
    round: Option<Round>,
    /// Records that the last round found listed and could not read.
    hidden: HashSet<RecordKey>,
    /// When it is this one's turn.
    pub(super) due: Instant,
    backoff: Backoff,
}

/// A round under way.
struct Round {
    /// Salesforce's time before anything was asked for.
    began: DateTime<Utc>,
    at: Instant,
    /// The last id that is dealt with.
    after: Option<String>,
    /// Whether something was written meanwhile that may be newer than what was read.
    overtaken: bool,
}

/// What came of some records of a page.
#[derive(Default)]
struct Slice {
    rows: Vec<JobRow>,
    /// What Kafka holds once the rows are written.
    becomes: Vec<(RecordKey, Held)>,
    /// Records that cannot be read or written, as far as they are known.
    unread: Vec<(String, RecordKey, Held)>,
    /// Records that are listed and cannot be read, for the first time.
    hidden: Vec<RecordKey>,
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

    fn look_back(&self) -> TimeDelta {
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
    async fn begin_poll(&mut self, number: usize, entity: &str) -> Result<(), Setback> {
        let Some(poll) = self.polls.get(number) else { return Ok(()) };
        let (since, look_back) = (poll.config.since, poll.look_back());
        let now = self.reader.client().session().salesforce_now();
        let (mut opens, mut from) = (Vec::new(), since.unwrap_or(now - look_back));
        if since.is_none() {
            let (jobs, _) = self.desk.jobs();
            match jobs.iter().find(|(_, job)| job.snapshot.is_some() && job.entity.as_deref() == Some(entity)) {
                // What it does not read is wanted too.
                Some((id, job)) if job.is_partial() => return self.wait_for_snapshot(number, entity, id),
                Some((_, job)) => from = from.min(job.before_it_opened(CLOCKS + look_back)),
                None => {
                    let mut scope = SnapshotScope::default();
                    scope.expected = self.expected(entity, &scope).await?;
                    // The answer has set the clock.
                    from = from.min(self.reader.client().session().salesforce_now() - look_back);
                    opens.push(Job::snapshot_of(entity.to_owned(), scope));
                }
            }
        }
        let opening = !opens.is_empty();
        let (batch, committed) = JobBatch::new(self.desk.marker());
        let kept = vec![kept(entity, from)];
        self.deliver(JobBatch { opens, kept, ..batch }, committed).await?;
        if opening && self.snapshot_of(entity).is_none() {
            let what = format!("There are too many jobs for the first snapshot of {entity} beside them");
            let remedy = "nothing to do: it is opened when some of them have ended";
            return Err(Setback::Stopped(Failure::new(Exit::Temporary, what, remedy)));
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

    /// Reads what Kafka holds of the window.
    async fn learn_window(&mut self, number: usize, entity: &str, topic: &Arc<str>) -> Result<(), Setback> {
        let Some(from) = self.polls.get(number).and_then(|poll| poll.from) else { return Ok(()) };
        let plan = self.plan_of(entity).await?;
        let found: Arc<Mutex<Window>> = Arc::default();
        let (collected, org) = (found.clone(), self.context.identity.org.clone());
        let begin_of_window = from.timestamp();
        // Records of the topic are dated by our clock.
        let ago = self.reader.client().session().salesforce_now() - from + CLOCKS;
        let begin = Utc::now().checked_sub_signed(ago).map_or(ScanFrom::Beginning, ScanFrom::Timestamp);
        scan(&self.kafka, topic, begin, move |record| {
            let value = record.value.as_deref();
            if record.header("org") == Some(org.as_str().as_bytes())
                && let Some(known) = record.header("op").and_then(|op| told(op, record.header("committed_at"), value))
                // A snapshot that has just ended may have brought millions that are older.
                && known.as_of >= begin_of_window
                && let Some(key) = record.key.as_deref().and_then(RecordKey::of)
            {
                let held = Held::told(known, value, &plan);
                let mut found = collected.lock().unwrap_or_else(PoisonError::into_inner);
                // The newest record of a key is the last, and what Kafka holds goes never back.
                let as_of = found.get(&key).map_or(held.as_of, |before| before.as_of.max(held.as_of));
                found.insert(key, Held { as_of, ..held });
            }
            ControlFlow::Continue(())
        })
        .await?;
        let window = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        debug!(entity, records = window.len(), %from, "poll knows what the topic holds");
        if let Some(poll) = self.polls.get_mut(number) {
            poll.window = Some(window);
        }
        Ok(())
    }

    async fn plan_of(&self, entity: &str) -> Result<Arc<RowPlan>, Setback> {
        Ok(self.reader.descriptions().plan(entity, None, Instant::now() + PATIENCE).await?)
    }

    /// Deals with a page of what was changed; with the last one the round ends.
    async fn poll_page(&mut self, number: usize, entity: &str, topic: &Arc<str>) -> Result<(), Setback> {
        // First the marker and the time, then the read.
        let marker = self.desk.marker();
        let now = self.reader.client().session().salesforce_now();
        let Some(poll) = self.polls.get_mut(number) else { return Ok(()) };
        let Some(from) = poll.from else { return Ok(()) };
        let begin = || Round { began: now, at: Instant::now(), after: None, overtaken: false };
        let round = poll.round.get_or_insert_with(begin);
        let (began, after) = (round.began, round.after.clone());
        let deadline = Instant::now() + PATIENCE;
        let page = self.reader.changed_since_after(entity, from, after.as_deref(), deadline).await?;
        // The answer has set the clock: one that went forward in between had made a time of it that is still to come.
        let began = began.min(self.reader.client().session().salesforce_now());
        if let Some(round) = self.polls.get_mut(number).and_then(|poll| poll.round.as_mut()) {
            round.began = began;
        }
        let mut left = page.records.as_slice();
        loop {
            let (slice, rest) = left.split_at(left.len().min(self.slice.max(1)));
            let read = self.poll_slice(number, entity, topic, slice, began).await?;
            let ends = page.last && rest.is_empty();
            self.poll_commit(number, entity, marker, read, ends).await?;
            if let Some(round) = self.polls.get_mut(number).and_then(|poll| poll.round.as_mut()) {
                round.after = slice.last().map(|last| last.id.clone()).or(round.after.take());
            }
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        if page.last {
            self.end_round(number, entity);
        }
        Ok(())
    }

    /// Reads records that are listed, and compares them with what Kafka holds.
    async fn poll_slice(
        &mut self,
        number: usize,
        entity: &str,
        topic: &Arc<str>,
        listed: &[ListedRecord],
        began: DateTime<Utc>,
    ) -> Result<Slice, Setback> {
        let alive: Vec<&str> = listed.iter().filter(|one| !one.deleted).map(|one| one.id.as_str()).collect();
        let found = if alive.is_empty() {
            HashMap::new()
        } else {
            self.reader.read(entity, None, &alive, Instant::now() + PATIENCE).await?
        };
        let plan = self.plan_of(entity).await?;
        let context = self.context.clone();
        let began = began.to_rfc3339_opts(SecondsFormat::Millis, true);
        let by = Reader::Poll(&began);
        let writer = RowWriter { context: &context, entity, topic: topic.clone(), by, op: "refresh", from: "rest" };
        let too_large = self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nothing = Window::new();
        let window = self.polls.get(number).and_then(|poll| poll.window.as_ref()).unwrap_or(&nothing);
        let hidden = self.polls.get(number).map(|poll| poll.hidden.clone()).unwrap_or_default();
        let mut slice = Slice::default();
        for one in listed {
            let Some(key) = RecordKey::of(one.id.as_bytes()) else { continue };
            let held = window.get(&key);
            let Some((stamp, row)) = read_of(one, found.get(&one.id)) else {
                // One that was purged since is not listed any more when the round is made again.
                let read = Held { as_of: one.as_of.timestamp(), alive: true, content: None };
                if !hidden.contains(&key) {
                    slice.hidden.push(key);
                } else if is_news(held, &read) {
                    slice.unread.push((one.id.clone(), key, read));
                }
                continue;
            };
            let content = row.ok().flatten().map(|row| content_of(row.record.as_str(), &plan));
            let read = Held { as_of: stamp, alive: !matches!(row, Ok(None)), content };
            if !is_news(held, &read) {
                continue;
            }
            let as_of = current_at_least(held.map(|held| held.as_of), stamp);
            let records = match row {
                Ok(Some(row)) if !too_large.contains(&one.id) => writer.refresh(&one.id, &row.record, as_of),
                Ok(None) => writer.delete(&one.id, as_of),
                Ok(Some(_)) | Err(_) => {
                    slice.unread.push((one.id.clone(), key, read));
                    continue;
                }
            };
            let becomes = Known { as_of, alive: read.alive };
            slice.rows.push(JobRow { id: one.id.clone(), key, stamp, becomes, absent: false, records });
            slice.becomes.push((key, Held { as_of, ..read }));
        }
        self.measure(&slice.rows);
        Ok(slice)
    }

    /// Hands rows over, in as many transactions as their size demands; with the last ones of a round the position.
    async fn poll_commit(
        &mut self,
        number: usize,
        entity: &str,
        marker: u64,
        slice: Slice,
        ends: bool,
    ) -> Result<(), Setback> {
        if let Some(poll) = self.polls.get_mut(number).filter(|_| !slice.hidden.is_empty()) {
            poll.hidden.extend(&slice.hidden);
            if let Some(round) = poll.round.as_mut() {
                round.overtaken = true;
            }
        }
        let (mut entries, mut opens) = (Vec::new(), Vec::new());
        if let Some(gap) = unread(entity, &slice.unread) {
            warn!(entity, id = gap.id, records = slice.unread.len(), "poll could not read records, gap opened");
            self.context.board.update(|status| status.gaps_opened += 1);
            let (entry, job) = self.opened(&gap);
            (entries, opens) = (entry.into_iter().collect(), job.into_iter().collect());
        }
        let mut rows = slice.rows.into_iter().peekable();
        let mut becomes = slice.becomes.into_iter();
        loop {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next_if(|_| bytes < self.context.batch.max_bytes) {
                bytes += row.records.iter().map(OutputRecord::size).sum::<usize>();
                part.push(row);
            }
            let last = rows.peek().is_none();
            let kept: Vec<_> =
                self.next_from(number).filter(|_| last && ends).map(|at| kept(entity, at)).into_iter().collect();
            if part.is_empty() && kept.is_empty() && entries.is_empty() {
                return Ok(());
            }
            let written = part.len();
            let (entries, opens) = (std::mem::take(&mut entries), std::mem::take(&mut opens));
            let deletes = part.iter().filter(|row| !row.becomes.alive).count();
            let (batch, committed) = JobBatch::new(marker);
            let batch = JobBatch { rows: part, entries, opens, kept, ..batch };
            let back = self.deliver(batch, committed).await?;
            let Some(poll) = self.polls.get_mut(number) else { return Ok(()) };
            let window = poll.window.get_or_insert_default();
            window.extend(becomes.by_ref().take(written).filter(|(key, _)| !back.contains(&key.id())));
            if let Some(round) = poll.round.as_mut() {
                round.overtaken |= !back.is_empty();
            }
            let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
            self.context.board.update(|status| {
                let shown = status.poll(entity);
                shown.rows += count(written.saturating_sub(deletes + back.len()));
                shown.deletes += count(deletes);
            });
            if last {
                break;
            }
        }
        // Known to be unread, in the ledger: not again with the next round.
        if let Some(window) = self.polls.get_mut(number).and_then(|poll| poll.window.as_mut()) {
            let noted = slice.unread.into_iter().map(|(_, key, read)| (key, read));
            window.extend(noted);
        }
        Ok(())
    }

    /// Where the next round begins if this one ends now; none if something of it has to be read again.
    fn next_from(&self, number: usize) -> Option<DateTime<Utc>> {
        let poll = self.polls.get(number)?;
        let round = poll.round.as_ref().filter(|round| !round.overtaken)?;
        let from = poll.from?;
        Some(from.max(round.began.checked_sub_signed(poll.look_back()).unwrap_or(from)))
    }

    fn end_round(&mut self, number: usize, entity: &str) {
        let next = self.next_from(number);
        let Some(poll) = self.polls.get_mut(number) else { return };
        let Some(round) = poll.round.take() else { return };
        poll.due = (round.at + poll.config.every).max(Instant::now());
        let Some(from) = next else { return };
        poll.hidden.clear();
        poll.from = Some(from);
        if let Some(window) = &mut poll.window {
            window.retain(|_, held| held.as_of >= from.timestamp());
        }
        self.context.board.update(|status| {
            let shown = status.poll(entity);
            shown.rounds += 1;
            (shown.from, shown.read_to) = (Some(from), Some(round.began));
            (shown.waits_for, shown.remedy, shown.next_attempt_at) = (None, None, None);
        });
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

/// What was read of a record that is listed, with its stamp: the row, none of a deleted one, or why it cannot be rendered.
/// Nothing of one that was purged or hidden since, of which no query tells.
fn read_of<'a>(
    listed: &ListedRecord,
    found: Option<&'a Found>,
) -> Option<(i64, Result<Option<&'a Row>, &'a RowFault>)> {
    let (as_of, row) = match found {
        _ if listed.deleted => (listed.as_of, Ok(None)),
        Some(Found::Row(row)) => (row.as_of, Ok(Some(row))),
        Some(Found::Deleted { as_of }) => (*as_of, Ok(None)),
        Some(Found::Unreadable(fault)) => (listed.as_of, Err(fault)),
        Some(Found::Hidden) | None => return None,
    };
    Some((as_of.timestamp(), row))
}

/// What is kept of a poll.
fn kept(entity: &str, from: DateTime<Utc>) -> (String, Option<Bytes>) {
    (Position::key(entity), Some(Position { from }.value().into()))
}

/// The ledger's entry of records that cannot be read or written. Its id is made of what it is about, so that a round that
/// is made again writes the same one.
fn unread(entity: &str, unread: &[(String, RecordKey, Held)]) -> Option<OpenGap> {
    let (first, _, Held { as_of: stamp, .. }) = unread.first()?;
    let from = GapEnd { replay_id: None, time: DateTime::from_timestamp(*stamp, 0) };
    let detail =
        "a poll could not read these records: in a form that is not known, or larger than Kafka takes".to_owned();
    let (id, entity) = (format!("poll-{entity}-{first}-{stamp}-{}", unread.len()), Some(entity.to_owned()));
    let records = unread.iter().map(|(id, ..)| id.clone()).collect();
    Some(OpenGap { id, entity, records, ..OpenGap::of_range(GapCause::Unread, from, GapEnd::default(), detail) })
}

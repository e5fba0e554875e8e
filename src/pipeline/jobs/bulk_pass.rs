//! One pass over the result of a Bulk query job: a whole object, a page at a time.
//!
//! The head of the jobs says why a row of it may be written long after it was read.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::change::{CsvPlan, RowPlan};
use crate::kafka::OutputRecord;
use crate::pipeline::jobs::job::{BulkPass, Job, Listing, MOST_PASSES, successor_id};
use crate::pipeline::jobs::reading::{PATIENCE, Step, check_unread, current_at_least};
use crate::pipeline::jobs::redriven::Letters;
use crate::pipeline::jobs::rows::{Reader, RowWriter};
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::seam::JobRow;
use crate::pipeline::jobs::setback::Setback;
use crate::pipeline::jobs::touched::{Known, RecordKey};
use crate::salesforce::bulk::{BulkError, BulkState, BulkVerdict};
use crate::salesforce::bulk_page::BulkRow;
use crate::salesforce::bulk_pages::{BulkPages, BulkPlace, PageEnd};
use crate::salesforce::query::Scope;
use crate::salesforce::rest::{RestError, RestVerdict};

/// Rows of one transaction: all of them may have to go back, and then stand in the checkpoint with the job.
const MOST_ROWS: usize = 2_000;

/// So long Salesforce may work on a query job. It says of no limit but that it begins a job again fifteen times at most, and one of
/// many millions of records may take hours on a busy day; one that is not done after so many is not known to be done ever.
const WORK: TimeDelta = TimeDelta::hours(6);

/// What this attempt of the stream knows of a pass.
#[derive(Default)]
pub(super) struct Pass {
    /// The records that the job has dealt with.
    seen: HashSet<RecordKey>,
    plan: Option<Arc<CsvPlan>>,
    /// The result from where it is dealt with, once it was asked for.
    pages: Option<BulkPages>,
    /// What of it is at hand, and whether a page ends with that.
    rows: VecDeque<BulkRow>,
    end: Option<PageEnd>,
}

impl Pass {
    /// One of an earlier attempt, of which the topic tells what it wrote.
    pub(super) fn resumed(seen: HashSet<RecordKey>) -> Self {
        Self { seen, ..Self::default() }
    }

    /// Forgets what was fetched and not written.
    fn let_go(&mut self) {
        (self.pages, self.end) = (None, None);
        self.rows.clear();
    }
}

/// A part of a page, ready to be written together.
#[derive(Default)]
struct Part {
    dealt: u64,
    rows: Vec<JobRow>,
    keys: Vec<RecordKey>,
    /// Records that REST has to read.
    ids: Vec<String>,
    unread: Vec<String>,
    /// Whether it is the last of its page, and what follows.
    end: Option<PageEnd>,
}

impl Runner {
    /// The next step of a job over Bulk; false where the object is to be read over REST.
    pub(super) async fn bulk(&mut self, id: &str, entity: &str, job: &Job) -> Result<bool, Setback> {
        let outcome = match &job.bulk {
            None if !job.may_begin_bulk() || self.rest_only.contains(id) => return Ok(false),
            None => self.begin_bulk(id, entity, job).await,
            Some(pass) if pass.ended => self.read_beside(id, entity, job, pass).await.map(|()| true),
            Some(pass) => match pass.found {
                None => self.poll_bulk(id, job, pass).await.map(|()| true),
                Some(found) => self.read_page(id, entity, job, pass, found).await.map(|()| true),
            },
        };
        match outcome {
            Err(Setback::Bulk(error)) => match error.verdict() {
                BulkVerdict::AsRest => Err(Setback::Bulk(error)),
                BulkVerdict::AskRest => {
                    info!(job = id, entity, error = %error, "object is read over rest");
                    self.rest_only.insert(id.to_owned());
                    if job.bulk.is_none() {
                        return Ok(false);
                    }
                    // What it has written stands; whoever goes on over REST is another job.
                    self.begin_anew(id, error, MOST_PASSES).await.map(|()| true)
                }
                BulkVerdict::Anew => self.begin_anew(id, error, job.passes.saturating_add(1)).await.map(|()| true),
            },
            outcome => outcome,
        }
    }

    /// Creates Salesforce's job, if the object is large enough.
    async fn begin_bulk(&mut self, id: &str, entity: &str, job: &Job) -> Result<bool, Setback> {
        let snapshot = job.snapshot.as_ref();
        if snapshot.is_none() && !self.is_large(entity).await? {
            self.rest_only.insert(id.to_owned());
            return Ok(false);
        }
        let fields = self.reader.descriptions().plan(entity, None, Instant::now() + PATIENCE).await?;
        let plan = csv_plan(fields.clone())?;
        let clause = snapshot.map(|scope| scope.clause(plan.time_field())).unwrap_or_default();
        let soql = format!("SELECT {} FROM {entity}{clause}", plan.columns().join(", "));
        // First the time and the marker, then the job: see the head of the jobs.
        let (created_at, marker) = (Utc::now(), self.desk.marker());
        let created = self.reader.client().hold_bulk_query(soql, Scope::All, Instant::now() + PATIENCE).await;
        if let Err(BulkError::Rest(error)) = &created
            && error.verdict() == RestVerdict::DescribeAnew
        {
            // For the next attempt.
            self.reader.descriptions().replace(&fields, Instant::now() + PATIENCE).await?;
        }
        let held = created?;
        let bulk = held.job().clone();
        info!(job = id, entity, bulk = bulk.id, "bulk query job created");
        let pass =
            BulkPass { job: bulk, marker, created_at, found: None, locator: None, dealt: 0, before: 0, ended: false };
        let mut job = self.job(id)?;
        job.bulk = Some(pass);
        self.passes.entry(id.to_owned()).or_default().plan = Some(plan);
        // Should nobody say what became of the transaction, the next attempt finds no job in the checkpoint, or one that is gone.
        self.hand_over(marker, Vec::new(), vec![(id.to_owned(), Some(job))]).await?;
        held.keep();
        Ok(true)
    }

    async fn poll_bulk(&mut self, id: &str, job: &Job, pass: &BulkPass) -> Result<(), Setback> {
        let state = self.reader.client().bulk_state(&pass.job, Instant::now() + PATIENCE).await?;
        let found = match state {
            BulkState::Complete(found) => found,
            BulkState::Working if is_overdue(pass, Utc::now()) => {
                let what = format!("{} is still worked on after {} h", pass.job.id, WORK.num_hours());
                return Err(BulkError::Failed(what).into());
            }
            BulkState::Working => return Err(Setback::Working { bulk: Some(pass.job.id.clone()) }),
        };
        info!(job = id, bulk = pass.job.id, records = found, "bulk query job complete");
        let pass = BulkPass { found: Some(found), ended: found == 0, ..pass.clone() };
        let job = Job { bulk: Some(pass), ..job.clone() };
        self.hand_over(self.desk.marker(), Vec::new(), vec![(id.to_owned(), Some(job))]).await.map(drop)
    }

    /// Writes as much of a page as fits into a transaction. After an error the result is asked for anew from what is written.
    async fn read_page(
        &mut self,
        id: &str,
        entity: &str,
        job: &Job,
        pass: &BulkPass,
        found: u64,
    ) -> Result<(), Setback> {
        let outcome = self.write_part(id, entity, job, pass, found).await;
        if outcome.is_err()
            && let Some(known) = self.passes.get_mut(id)
        {
            known.let_go();
        }
        outcome
    }

    async fn write_part(
        &mut self,
        id: &str,
        entity: &str,
        job: &Job,
        pass: &BulkPass,
        found: u64,
    ) -> Result<(), Setback> {
        self.begin_pages(id, entity, pass).await?;
        let part = self.part(id, entity, job).await?;
        let mut after = pass.clone();
        after.dealt = after.dealt.saturating_add(part.dealt);
        if let Some(end) = part.end {
            (after.before, after.dealt) = (pass.before.saturating_add(after.dealt), 0);
            after.ended = end.next.is_none();
            after.locator = end.next;
        }
        let read = after.before.saturating_add(after.dealt);
        if read > found || (after.ended && read != found) {
            let what = format!("the pages have {read} records and the job says {found}");
            return Err(BulkError::NotWhole(what).into());
        }
        let mut job = self.job(id)?;
        job.listed = job.listed.saturating_add(part.dealt);
        job.ids.extend(part.ids);
        job.unread.extend(part.unread);
        check_unread(entity, &job)?;
        job.bulk = Some(after);
        let back = self.hand_over(pass.marker, part.rows, vec![(id.to_owned(), Some(job))]).await?;
        if let Some(known) = self.passes.get_mut(id) {
            known.seen.extend(part.keys);
        }
        if !back.is_empty() {
            debug!(
                job = id,
                records = back.len(),
                "events came since the bulk query job was created; to be read again"
            );
        }
        Ok(())
    }

    /// Sees to it that pages are under way from where the result is dealt with, and that those of no other job are.
    async fn begin_pages(&mut self, id: &str, entity: &str, pass: &BulkPass) -> Result<(), Setback> {
        self.passes.iter_mut().filter(|(other, _)| *other != id).for_each(|(_, known)| known.let_go());
        let known = self.passes.entry(id.to_owned()).or_default();
        if known.pages.is_some() {
            return Ok(());
        }
        let plan = match &known.plan {
            Some(plan) => plan.clone(),
            None => csv_plan(self.reader.descriptions().plan(entity, None, Instant::now() + PATIENCE).await?)?,
        };
        let place = BulkPlace { locator: pass.locator.clone(), dealt: pass.dealt };
        let client = self.reader.client().clone();
        let known = self.passes.entry(id.to_owned()).or_default();
        known.let_go();
        known.plan = Some(plan.clone());
        known.pages = Some(BulkPages::begin(client, plan, pass.job.clone(), place, self.pages));
        Ok(())
    }

    /// Takes rows of one page, as many as a transaction may have.
    async fn part(&mut self, id: &str, entity: &str, job: &Job) -> Result<Part, Setback> {
        let context = self.context.clone();
        let topic: Arc<str> = format!("{}.{entity}", context.identity.prefix).into();
        let writer = RowWriter { context: &context, entity, topic, by: Reader::Job(id), op: job.op(), from: "bulk" };
        let too_large = self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let letters = Letters::of(job, &self.desk);
        let (mut part, mut bytes) = (Part::default(), 0);
        let most = context.batch.max_records.min(MOST_ROWS);
        while part.rows.len() < most && bytes < context.batch.max_bytes {
            let Some(known) = self.passes.get_mut(id) else { break };
            let Some(row) = known.rows.pop_front() else {
                let Some(pages) = known.pages.as_mut().filter(|_| known.end.is_none()) else { break };
                let more = pages.next().await?;
                (known.rows, known.end) = (more.rows.into(), more.end);
                continue;
            };
            part.dealt += 1;
            let Some(mut row) = self.row(&mut part, row, job, &writer, &too_large) else { continue };
            letters.mark(&row.id, &mut row.records);
            bytes += row.records.iter().map(OutputRecord::size).sum::<usize>();
            part.rows.push(row);
        }
        if let Some(known) = self.passes.get_mut(id).filter(|known| known.rows.is_empty()) {
            part.end = known.end.take();
        }
        Ok(part)
    }

    /// What is written of a row of the result. Nothing where it cannot be, or need not.
    fn row(
        &self,
        part: &mut Part,
        row: BulkRow,
        job: &Job,
        writer: &RowWriter<'_>,
        too_large: &HashSet<String>,
    ) -> Option<JobRow> {
        let row = match row {
            Ok(row) => row,
            // REST says more of it, or as much for the list of what cannot be read.
            Err((id, fault)) => {
                warn!(entity = writer.entity, id, error = %fault, "row of a bulk query job cannot be read");
                part.ids.push(id);
                return None;
            }
        };
        let Some(key) = RecordKey::of(row.id.as_bytes()) else {
            part.unread.push(row.id);
            return None;
        };
        part.keys.push(key);
        let before = self.known(&row.id, job);
        let stamp = row.as_of.timestamp();
        let as_of = current_at_least(before.map(|known| known.as_of).max(job.told_at.map(|at| at.timestamp())), stamp);
        let alive = !row.deleted;
        let records = match (row.deleted, too_large.contains(&row.id)) {
            (true, _) if before.map_or(job.includes_deleted(), |known| known.alive) => writer.delete(&row.id, as_of),
            // Kafka holds nothing of it, or a delete.
            (true, _) => return None,
            (false, true) => {
                part.unread.push(row.id);
                return None;
            }
            (false, false) => writer.refresh(&row.id, &row.record, as_of),
        };
        let becomes = Known { as_of, alive };
        Some(JobRow { id: row.id, key, stamp, becomes, absent: false, records })
    }

    /// Reads over REST what the result does not have and Kafka holds; for a snapshot also what events brought since the
    /// job was created. Then the pass is over.
    async fn read_beside(&mut self, id: &str, entity: &str, job: &Job, pass: &BulkPass) -> Result<(), Setback> {
        let ids = if job.is_partial() { Vec::new() } else { self.beside(id, job, pass) };
        let mut left = ids.as_slice();
        while !left.is_empty() {
            let (slice, rest) = left.split_at(left.len().min(self.slice.max(1)));
            let back = self.read(id, entity, slice, &Step::Beside).await?;
            self.dealt_with(id, slice);
            self.after_read(back).await;
            left = rest;
        }
        self.reader.client().give_back(&pass.job).await;
        let mut job = self.job(id)?;
        (job.bulk, job.listing) = (None, None);
        self.hand_over(self.desk.marker(), Vec::new(), vec![(id.to_owned(), Some(job))]).await?;
        self.passes.remove(id);
        Ok(())
    }

    /// Notes that REST has read records for a job: what was dealt with once is not looked for again at the end of a pass.
    pub(super) fn dealt_with(&mut self, id: &str, ids: &[String]) {
        if let Some(known) = self.passes.get_mut(id) {
            known.seen.extend(ids.iter().filter_map(|id| RecordKey::of(id.as_bytes())));
        }
    }

    /// The ids to be read beside the result, in their order.
    fn beside(&self, id: &str, job: &Job, pass: &BulkPass) -> Vec<String> {
        let nothing = (HashSet::new(), BTreeMap::new());
        let seen = self.passes.get(id).map_or(&nothing.0, |known| &known.seen);
        let copy = self.copies.get(id).unwrap_or(&nothing.1);
        // Records of other objects of the stream begin with other characters.
        let prefix = seen.iter().next().or_else(|| copy.keys().next()).map(RecordKey::object);
        let touched = if job.snapshot.is_some() { self.desk.touched_since(pass.marker) } else { Vec::new() };
        let touched = touched.into_iter().filter(|key| Some(key.object()) == prefix);
        let mut keys: Vec<RecordKey> = copy.keys().copied().chain(touched).collect();
        keys.sort_unstable();
        keys.dedup();
        let alive = |key: &RecordKey| self.known(&key.id(), job).is_some_and(|known| known.alive);
        keys.iter().filter(|key| !seen.contains(key) && alive(key)).map(RecordKey::id).collect()
    }

    /// Gives a pass up. The next one is of another job if this one has written anything: no job writes a record twice.
    async fn begin_anew(&mut self, id: &str, error: BulkError, passes: u32) -> Result<(), Setback> {
        let mut job = self.job(id)?;
        job.passes = passes;
        if let Some(pass) = &job.bulk {
            // First this: between the two, whoever goes on finds that it is gone, and comes here again.
            self.reader.client().give_back(&pass.job).await;
        }
        (job.bulk, job.listing) = (None, Some(Listing::default()));
        // All of the object comes again, these records too.
        job.ids.clear();
        job.unread.clear();
        job.listed = 0;
        self.passes.remove(id);
        if job.rows + job.deletes == 0 {
            self.hand_over(self.desk.marker(), Vec::new(), vec![(id.to_owned(), Some(job))]).await?;
            return Err(error.into());
        }
        let successor = successor_id(id, job.passes);
        warn!(job = id, successor, error = %error, "bulk query job begun anew");
        self.forget(id);
        let changes = vec![(id.to_owned(), None), (successor, Some(job))];
        self.hand_over(self.desk.marker(), Vec::new(), changes).await.map(drop)
    }
}

/// Whether Salesforce has had its time. Both times are of our clock: one that is set back gives it more.
fn is_overdue(pass: &BulkPass, now: DateTime<Utc>) -> bool {
    now.signed_duration_since(pass.created_at) >= WORK
}

fn csv_plan(fields: Arc<RowPlan>) -> Result<Arc<CsvPlan>, BulkError> {
    let told = CsvPlan::new(fields).map(Arc::new);
    told.map_err(|field| BulkError::NotForBulk(format!("its CSV cannot tell what the values of {field} are")))
}

/// Whether an error of REST says that the query itself is wrong.
pub(super) fn is_about_the_query(error: &RestError) -> bool {
    matches!(error.verdict(), RestVerdict::Stop | RestVerdict::DescribeAnew)
        && matches!(error, RestError::Refused { status: 400, .. } | RestError::Path(_))
}

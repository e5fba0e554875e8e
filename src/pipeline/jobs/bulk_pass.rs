//! One pass over the result of a Bulk query job: a whole object, a page at a time.
//!
//! The head of the jobs says why a row of it may be written long after it was read.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
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
use crate::salesforce::bulk_page::{BulkPage, BulkRow};
use crate::salesforce::query::Scope;
use crate::salesforce::rest::{RestError, RestVerdict};

/// How long the last call for a job may hold up its end.
const LAST_CALL: Duration = Duration::from_secs(20);

/// Rows of one transaction: all of them may have to go back, and then stand in the checkpoint with the job.
const MOST_ROWS: usize = 2_000;

/// What this attempt of the stream knows of a pass.
#[derive(Default)]
pub(super) struct Pass {
    /// The records that the job has dealt with.
    seen: HashSet<RecordKey>,
    plan: Option<Arc<CsvPlan>>,
    /// The page at hand, without what is dealt with.
    page: Option<Held>,
    /// The next one, on its way while the other is written.
    ahead: Option<(String, AbortOnDropHandle<Result<BulkPage, BulkError>>)>,
}

impl Pass {
    /// One of an earlier attempt, of which the topic tells what it wrote.
    pub(super) fn resumed(seen: HashSet<RecordKey>) -> Self {
        Self { seen, ..Self::default() }
    }
}

struct Held {
    rows: VecDeque<BulkRow>,
    next: Option<String>,
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
        let (snapshot, client) = (job.snapshot.as_ref(), self.reader.client());
        let large = client.has_at_least(self.desk.config.bulk_from, entity, Instant::now() + PATIENCE);
        if snapshot.is_none() && !large.await? {
            self.rest_only.insert(id.to_owned());
            return Ok(false);
        }
        let fields = self.reader.descriptions().plan(entity, None, Instant::now() + PATIENCE).await?;
        let plan = csv_plan(fields.clone())?;
        let clause = snapshot.map(|scope| scope.clause(plan.time_field())).unwrap_or_default();
        let soql = format!("SELECT {} FROM {entity}{clause}", plan.columns().join(", "));
        // First the time and the marker, then the job: see the head of the jobs.
        let (created_at, marker) = (Utc::now(), self.desk.marker());
        let created = self.reader.client().create_bulk_query(&soql, Scope::All, Instant::now() + PATIENCE).await;
        if let Err(BulkError::Rest(error)) = &created
            && error.verdict() == RestVerdict::DescribeAnew
        {
            // For the next attempt.
            self.reader.descriptions().replace(&fields, Instant::now() + PATIENCE).await?;
        }
        let bulk = created?;
        info!(job = id, entity, bulk = bulk.id, "bulk query job created");
        let pass =
            BulkPass { job: bulk, marker, created_at, found: None, locator: None, dealt: 0, before: 0, ended: false };
        let mut job = self.job(id)?;
        job.bulk = Some(pass);
        self.passes.entry(id.to_owned()).or_default().plan = Some(plan);
        self.hand_over(marker, Vec::new(), vec![(id.to_owned(), Some(job))]).await?;
        Ok(true)
    }

    async fn poll_bulk(&mut self, id: &str, job: &Job, pass: &BulkPass) -> Result<(), Setback> {
        let state = self.reader.client().bulk_state(&pass.job, Instant::now() + PATIENCE).await?;
        let BulkState::Complete(found) = state else { return Err(Setback::Working) };
        info!(job = id, bulk = pass.job.id, records = found, "bulk query job complete");
        let pass = BulkPass { found: Some(found), ended: found == 0, ..pass.clone() };
        let job = Job { bulk: Some(pass), ..job.clone() };
        self.hand_over(self.desk.marker(), Vec::new(), vec![(id.to_owned(), Some(job))]).await.map(drop)
    }

    /// Writes as much of the page at hand as fits into a transaction.
    async fn read_page(
        &mut self,
        id: &str,
        entity: &str,
        job: &Job,
        pass: &BulkPass,
        found: u64,
    ) -> Result<(), Setback> {
        self.fetch_page(id, entity, pass).await?;
        let part = self.part(id, entity, job);
        let Some(held) = self.passes.get(id).and_then(|known| known.page.as_ref()) else { return Ok(()) };
        let mut after = pass.clone();
        after.dealt = after.dealt.saturating_add(part.dealt);
        if held.rows.is_empty() {
            (after.before, after.dealt) = (pass.before.saturating_add(after.dealt), 0);
            after.ended = held.next.is_none();
            after.locator.clone_from(&held.next);
        }
        if after.ended && after.before != found {
            let what = format!("the pages have {} records and the job says {found}", after.before);
            return Err(BulkError::NotWhole(what).into());
        }
        let mut job = self.job(id)?;
        job.listed = job.listed.saturating_add(part.dealt);
        job.ids.extend(part.ids);
        job.unread.extend(part.unread);
        check_unread(entity, &job)?;
        let exhausted = held.rows.is_empty();
        job.bulk = Some(after);
        let back = self.hand_over(pass.marker, part.rows, vec![(id.to_owned(), Some(job))]).await?;
        if let Some(known) = self.passes.get_mut(id) {
            known.seen.extend(part.keys);
            known.page = known.page.take().filter(|_| !exhausted);
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

    /// Sees to it that a page is at hand, without the rows of it that are dealt with, and that the next one is on its way.
    async fn fetch_page(&mut self, id: &str, entity: &str, pass: &BulkPass) -> Result<(), Setback> {
        let known = self.passes.entry(id.to_owned()).or_default();
        if known.page.is_some() {
            return Ok(());
        }
        let plan = match &known.plan {
            Some(plan) => plan.clone(),
            None => csv_plan(self.reader.descriptions().plan(entity, None, Instant::now() + PATIENCE).await?)?,
        };
        let known = self.passes.entry(id.to_owned()).or_default();
        known.plan = Some(plan.clone());
        let ahead = known.ahead.take().filter(|(locator, _)| Some(locator) == pass.locator.as_ref());
        let client = self.reader.client().clone();
        let ahead = match ahead {
            Some((_, page)) => page.await.ok(),
            None => None,
        };
        let mut page = match ahead {
            Some(page) => page?,
            None => client.bulk_page(&plan, &pass.job, pass.locator.as_deref(), Instant::now() + PATIENCE).await?,
        };
        let mut dealt = usize::try_from(pass.dealt).unwrap_or(usize::MAX);
        // The page of which a part was written may have been longer than those that are asked for now.
        while dealt > 0 && dealt >= page.rows.len() {
            let next = page.next.ok_or_else(|| BulkError::NotWhole("it has become shorter".to_owned()))?;
            dealt -= page.rows.len();
            page = client.bulk_page(&plan, &pass.job, Some(&next), Instant::now() + PATIENCE).await?;
        }
        known.ahead = page.next.clone().map(|locator| {
            let (job, next) = (pass.job.clone(), locator.clone());
            let fetch = async move { client.bulk_page(&plan, &job, Some(&next), Instant::now() + PATIENCE).await };
            (locator, AbortOnDropHandle::new(tokio::spawn(fetch)))
        });
        known.page = Some(Held { rows: page.rows.into_iter().skip(dealt).collect(), next: page.next });
        Ok(())
    }

    /// Takes rows off the page at hand.
    fn part(&mut self, id: &str, entity: &str, job: &Job) -> Part {
        let context = self.context.clone();
        let topic: Arc<str> = format!("{}.{entity}", context.identity.prefix).into();
        let writer = RowWriter { context: &context, entity, topic, by: Reader::Job(id), op: job.op(), from: "bulk" };
        let too_large = self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let letters = Letters::of(job, &self.desk);
        let (mut part, mut bytes) = (Part::default(), 0);
        let most = context.batch.max_records.min(MOST_ROWS);
        while part.rows.len() < most && bytes < context.batch.max_bytes {
            let held = self.passes.get_mut(id).and_then(|known| known.page.as_mut());
            let Some(row) = held.and_then(|held| held.rows.pop_front()) else { break };
            part.dealt += 1;
            let row = match row {
                Ok(row) => row,
                // REST says more of it, or as much for the list of what cannot be read.
                Err((id, fault)) => {
                    warn!(entity, id, error = %fault, "row of a bulk query job cannot be read");
                    part.ids.push(id);
                    continue;
                }
            };
            let Some(key) = RecordKey::of(row.id.as_bytes()) else {
                part.unread.push(row.id);
                continue;
            };
            part.keys.push(key);
            let before = self.known(&row.id, job);
            let stamp = row.as_of.timestamp();
            let as_of =
                current_at_least(before.map(|known| known.as_of).max(job.told_at.map(|at| at.timestamp())), stamp);
            let alive = !row.deleted;
            let mut records = match (row.deleted, too_large.contains(&row.id)) {
                (true, _) if before.map_or(job.includes_deleted(), |known| known.alive) => {
                    writer.delete(&row.id, as_of)
                }
                // Kafka holds nothing of it, or a delete.
                (true, _) => continue,
                (false, true) => {
                    part.unread.push(row.id);
                    continue;
                }
                (false, false) => writer.refresh(&row.id, &row.record, as_of),
            };
            letters.mark(&row.id, &mut records);
            bytes += records.iter().map(OutputRecord::size).sum::<usize>();
            let becomes = Known { as_of, alive };
            part.rows.push(JobRow { id: row.id, key, stamp, becomes, absent: false, records });
        }
        part
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
        let deleted = self.reader.client().delete_bulk_query(&pass.job, Instant::now() + LAST_CALL).await;
        if let Err(error) = deleted {
            debug!(job = id, bulk = pass.job.id, error = %error, "bulk query job is left to salesforce to delete");
        }
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
        self.copies.remove(id);
        let changes = vec![(id.to_owned(), None), (successor, Some(job))];
        self.hand_over(self.desk.marker(), Vec::new(), changes).await.map(drop)
    }
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

//! One slice: read, compared with what Kafka holds, handed to the run loop.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use crate::change::Row;
use crate::pipeline::jobs::job::Job;
use crate::pipeline::jobs::redriven::Letters;
use crate::pipeline::jobs::rows::{Reader, RowWriter};
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::seam::{JobBatch, JobRow};
use crate::pipeline::jobs::setback::Setback;
use crate::pipeline::jobs::touched::{Known, RecordKey};
use crate::pipeline::stop::StreamError;
use crate::salesforce::record_read::Found;

/// One slice may take so long at Salesforce, with its repetitions.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Records of one job that cannot be read, at most.
const MOST_UNREAD: usize = 5_000;

/// Fewer missing records than this are deleted without a question.
const FEW: u64 = 100;

/// What a slice brought.
struct Slice {
    marker: u64,
    rows: Vec<JobRow>,
    unread: BTreeSet<String>,
    absent: u64,
}

/// What has become of a record, as far as it concerns what Kafka holds; times in seconds since 1970.
#[derive(Clone, Copy)]
enum Fate<'a> {
    Read(&'a Row),
    /// It lies in the recycle bin, stamped then; or it was deleted then, as a dead letter tells.
    Deleted(i64),
    /// It is in no query; Kafka holds it as of then.
    Absent(i64),
    Unread,
}

/// How a slice changes the job that it is for, beside its rows.
pub(super) enum Step<'a> {
    /// Single ids are done with.
    Ids,
    /// The listing is dealt with up to here.
    Listed(&'a str),
    /// They were looked for beside the result of a pass over Bulk, which is dealt with.
    Beside,
}

impl Runner {
    /// Reads records and writes what came of them. Returns how many went back to the job.
    pub(super) async fn read(
        &mut self,
        id: &str,
        entity: &str,
        ids: &[String],
        step: &Step<'_>,
    ) -> Result<usize, Setback> {
        let job = self.job(id)?;
        let slice = self.slice(id, entity, &job, ids).await?;
        self.check_absent(id, entity, &job, slice.absent)?;
        let mut back = 0;
        let (mut done, marker) = (0, slice.marker);
        let mut rows = slice.rows.into_iter().peekable();
        // A transaction holds what one of events may; most slices are one.
        while done < ids.len() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next_if(|_| bytes < self.context.batch.max_bytes) {
                bytes += row.records.iter().map(crate::kafka::OutputRecord::size).sum::<usize>();
                part.push(row);
            }
            // Ids without a row belong to the part before the next row.
            let end =
                rows.peek().map_or(ids.len(), |next| ids.iter().position(|id| *id == next.id).unwrap_or(done + 1));
            let Some(dealt) = ids.get(done..end).filter(|dealt| !dealt.is_empty()) else { break };
            let mut after = self.job(id)?;
            match step {
                Step::Beside => {}
                Step::Ids => after.ids.retain(|id| !dealt.contains(id)),
                Step::Listed(last) => {
                    let reached = if end == ids.len() { Some(*last) } else { dealt.last().map(String::as_str) };
                    if let Some(listing) = &mut after.listing {
                        listing.after = reached.map(str::to_owned);
                    }
                }
            }
            after.unread.extend(dealt.iter().filter(|id| slice.unread.contains(*id)).cloned());
            check_unread(entity, &after)?;
            done = end;
            back += self.hand_over(marker, part, vec![(id.to_owned(), Some(after))]).await?.len();
        }
        if back > 0 {
            debug!(job = id, records = back, "events came between the read and the write; to be read again");
        }
        Ok(back)
    }

    async fn slice(&mut self, id: &str, entity: &str, job: &Job, ids: &[String]) -> Result<Slice, Setback> {
        // First the marker, then what is known, then the read: see the head of the jobs.
        let marker = self.desk.marker();
        let known: HashMap<&str, Known> =
            ids.iter().filter_map(|id| Some((id.as_str(), self.known(id, job)?))).collect();
        let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
        let claimed = ids.iter().any(|id| job.gone.contains(id));
        let seen_before = claimed && self.sees_all(entity).await?;
        let found = self.reader.read(entity, None, &asked, Instant::now() + PATIENCE).await?;
        // A permission that was away while the records were read would make hidden ones of them.
        let sees_all = seen_before && self.sees_all(entity).await?;
        let context = self.context.clone();
        let topic: Arc<str> = format!("{}.{entity}", context.identity.prefix).into();
        let writer = RowWriter { context: &context, entity, topic, by: Reader::Job(id), op: job.op(), from: "rest" };
        let letters = Letters::of(job, &self.desk);
        let too_large = self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut slice = Slice { marker, rows: Vec::new(), unread: BTreeSet::new(), absent: 0 };
        for id in ids {
            let Some(key) = RecordKey::of(id.as_bytes()) else {
                slice.unread.insert(id.clone());
                continue;
            };
            let before = known.get(id.as_str()).copied();
            let gone = sees_all && job.gone.contains(id);
            let told_at = job.told_at.map(|at| at.timestamp()).max(job.known.get(id).copied());
            let floor = before.map(|known| known.as_of).max(told_at);
            // A single record of which nothing is known here may stand in Kafka all the same.
            let alive = before.map_or(!job.whole, |known| known.alive);
            let fate = match (found.get(id), says_deleted(job.deleted.get(id).copied(), self.held(key))) {
                (Some(Found::Row(_)), _) if too_large.contains(id) => Fate::Unread,
                (Some(Found::Row(row)), _) => Fate::Read(row),
                (Some(Found::Deleted { as_of }), _) if alive || (before.is_none() && job.includes_deleted()) => {
                    Fate::Deleted(as_of.timestamp())
                }
                (Some(Found::Unreadable(_)), _) => Fate::Unread,
                // Nothing is held of it, or a delete.
                _ if !alive => continue,
                (_, Some(at)) => Fate::Deleted(at),
                _ if !job.whole && !gone => Fate::Unread,
                _ => floor.map_or(Fate::Unread, Fate::Absent),
            };
            let (stamp, absent) = match fate {
                Fate::Read(row) => (row.as_of.timestamp(), false),
                Fate::Deleted(at) => (at, false),
                Fate::Absent(at) => (at, true),
                Fate::Unread => {
                    slice.unread.insert(id.clone());
                    continue;
                }
            };
            let as_of = current_at_least(floor, stamp);
            let (alive, mut records) = match fate {
                Fate::Read(row) => (true, writer.refresh(id, &row.record, as_of)),
                _ => (false, writer.delete(id, as_of)),
            };
            letters.mark(id, &mut records);
            slice.absent += u64::from(absent);
            let becomes = Known { as_of, alive };
            slice.rows.push(JobRow { id: id.clone(), key, stamp, becomes, absent, records });
        }
        self.measure(&slice.rows);
        Ok(slice)
    }

    async fn sees_all(&self, entity: &str) -> Result<bool, Setback> {
        Ok(self.reader.client().sees_all_records(entity, Instant::now() + PATIENCE).await?)
    }

    /// What Kafka holds of a record. It is current at least up to when the job's gap was told of.
    pub(super) fn known(&self, id: &str, job: &Job) -> Option<Known> {
        let known = self.held(RecordKey::of(id.as_bytes())?)?;
        Some(Known { as_of: known.as_of.max(job.told_at.map_or(i64::MIN, |at| at.timestamp())), ..known })
    }

    /// What Kafka holds of a record, by what was written since and by what its topic held before.
    fn held(&self, key: RecordKey) -> Option<Known> {
        let copied = self.copies.get(&self.current).and_then(|copy| copy.get(&key).copied());
        let newer = self.desk.known(key);
        match (copied, newer) {
            (Some(copied), Some(newer)) => Some(copied.then(newer)),
            (copied, newer) => copied.or(newer),
        }
    }

    /// The next slice has as many records as fit into a transaction by the size of these.
    pub(super) fn measure(&mut self, rows: &[JobRow]) {
        let bytes: usize = rows.iter().flat_map(|row| &row.records).map(crate::kafka::OutputRecord::size).sum();
        if let Some(each) = bytes.checked_div(rows.len()) {
            let most = self.context.batch.max_records.clamp(1, 2_000);
            self.slice = (self.context.batch.max_bytes / each.max(1)).clamp(1, most);
        }
    }

    /// Many missing records at once look like lost access.
    fn check_absent(&self, id: &str, entity: &str, job: &Job, more: u64) -> Result<(), Setback> {
        let absent = job.absent + more;
        if more == 0 || absent <= FEW {
            return Ok(());
        }
        let held = self.copies.get(id).map_or(0, |copy| copy.values().filter(|known| known.alive).count());
        let held = u64::try_from(held).unwrap_or(u64::MAX).max(job.held);
        if absent.saturating_mul(100) > self.desk.config.most_absent.saturating_mul(held) {
            return Err(Setback::Absent { entity: entity.to_owned(), absent, held });
        }
        Ok(())
    }

    /// Gives the run loop rows of the first job to commit, with the jobs as they are afterwards, and waits until it is done;
    /// returns the ids that went back.
    pub(super) async fn hand_over(
        &mut self,
        marker: u64,
        rows: Vec<JobRow>,
        jobs: Vec<(String, Option<Job>)>,
    ) -> Result<BTreeSet<String>, Setback> {
        let entity = jobs.first().and_then(|(_, job)| job.as_ref()?.entity.as_deref());
        let rewritten = self.rewritten(entity, &rows).await;
        let (batch, committed) = JobBatch::new(marker);
        let back = self.deliver(JobBatch { rows, jobs, ..batch }, committed).await?;
        if let Some(rewritten) = rewritten {
            self.note_rewritten(rewritten, &back);
        }
        Ok(back)
    }

    /// Hands a batch to the run loop and waits for its receipt.
    pub(super) async fn deliver(
        &self,
        batch: JobBatch,
        committed: oneshot::Receiver<BTreeSet<String>>,
    ) -> Result<BTreeSet<String>, Setback> {
        self.out.send(batch).await.map_err(|_| Setback::Gone)?;
        committed.await.map_err(|_| Setback::Gone)
    }
}

/// Every transaction carries the job: what cannot be read may not grow without end, and so much is no matter of single records.
pub(super) fn check_unread(entity: &str, job: &Job) -> Result<(), Setback> {
    if job.unread.len() <= MOST_UNREAD {
        return Ok(());
    }
    let entity = entity.to_owned();
    Err(Setback::Stopped(StreamError::TooManyUnread { most: MOST_UNREAD, entity }.failure()))
}

/// Since when a record that no query shows is deleted, by the word of a dead letter; `None` where that word does not count.
///
/// A record that is in no query may be hidden from the user, so its absence alone proves nothing. But here Salesforce has said,
/// in an event that could not be decoded as a whole, that it was deleted then; that it is not there any more says so again.
/// The word does not count if Kafka was told anything of the record that happened later: then it has come back
/// since, and what hides it now is not that deletion. Letters of later events are Kafka's as well, and whoever redrives one
/// looks at them all (`cli::redrive`). Of what is dated the same second, the deletion counts as the last: it is what a transaction does
/// last to a record, and the record's return would take another one.
fn says_deleted(told: Option<i64>, held: Option<Known>) -> Option<i64> {
    told.filter(|at| held.is_none_or(|held| held.as_of <= *at))
}

/// Up to when a row is current that was read after everything that Kafka holds of its record: `floor`, where something is
/// held, even if its own stamp is older. The fold would drop it otherwise.
pub(super) fn current_at_least(floor: Option<i64>, stamp: i64) -> i64 {
    floor.map_or(stamp, |floor| floor.max(stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_says_that_a_record_is_deleted_unless_kafka_was_told_of_it_later() {
        let alive = |as_of| Some(Known { as_of, alive: true });
        assert_eq!(says_deleted(Some(100), None), Some(100), "kafka never heard of it");
        assert_eq!(says_deleted(Some(100), alive(99)), Some(100));
        assert_eq!(says_deleted(Some(100), alive(100)), Some(100), "changed and deleted in one transaction");
        assert_eq!(says_deleted(Some(100), alive(101)), None, "it has come back");
        assert_eq!(says_deleted(None, alive(99)), None);
    }

    #[test]
    fn a_row_that_is_stamped_before_its_event_was_committed_is_written_as_current_as_the_event() {
        assert_eq!(current_at_least(Some(101), 100), 101, "stamped, then committed");
        assert_eq!(current_at_least(Some(99), 100), 100);
        assert_eq!(current_at_least(None, 100), 100);
    }
}

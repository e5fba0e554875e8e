//! The end of a job, and of the gaps that it heals.

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use crate::pipeline::jobs::entry::{Entry, Outcome};
use crate::pipeline::jobs::job::{Job, Jobs};
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::seam::JobBatch;
use crate::pipeline::jobs::setback::Setback;

impl Runner {
    /// Closes the gaps of a job that has nothing left to read, and removes it; or lets it wait for what it could not read.
    pub(super) async fn close(&mut self, id: &str, mut job: Job) -> Result<(), Setback> {
        if job.snapshot.is_some() {
            return self.close_snapshot(id, job).await;
        }
        let (jobs, _) = self.desk.jobs();
        let since = |at: DateTime<Utc>| (Utc::now() - at).to_std().unwrap_or_default();
        let tried = since(job.opened_at);
        let (mut entries, mut closes) = (Vec::new(), Vec::new());
        for gap in job.heals.clone() {
            let Some(entry) = self.desk.entry(&gap) else {
                // Closed already: an older version, or somebody's own record in the ledger.
                job.heals.remove(&gap);
                continue;
            };
            let unread = unread_of(&entry, &job);
            // The job may have taken over others: each gap is given the whole time.
            let opened_at = entry.opened_at().map_or(job.opened_at, |at| at.max(job.opened_at));
            let given_up = since(opened_at) >= self.desk.config.give_up_after;
            if !unread.is_empty() && !given_up {
                continue;
            }
            let outcome = outcome(&gap, id, &jobs, unread.is_empty());
            tell(&entry, &job, outcome, &unread);
            entries.push(entry.after(&job, outcome, &unread, &self.context.run.run_id));
            if outcome != Outcome::Partly {
                closes.push((gap.clone(), outcome == Outcome::Healed));
            }
            job.heals.remove(&gap);
        }
        let left = (!job.heals.is_empty()).then(|| {
            job.ids = std::mem::take(&mut job.unread);
            job
        });
        let unread = left.as_ref().map_or(0, |job| job.ids.len());
        self.commit(vec![(id.to_owned(), left)], Vec::new(), entries, closes).await?;
        if unread > 0 {
            return Err(Setback::Unread { records: unread, tried });
        }
        self.forget(id);
        Ok(())
    }

    /// Forgets what was kept for a job that has ended.
    pub(super) fn forget(&mut self, id: &str) {
        self.copies.remove(id);
        self.passes.remove(id);
        self.listings.remove(id);
        self.rest_only.remove(id);
    }

    /// Commits what has no rows.
    pub(super) async fn commit(
        &self,
        jobs: Vec<(String, Option<Job>)>,
        opens: Vec<Job>,
        entries: Vec<Entry>,
        closes: Vec<(String, bool)>,
    ) -> Result<(), Setback> {
        let (batch, committed) = JobBatch::new(self.desk.marker());
        self.deliver(JobBatch { jobs, opens, entries, closes, ..batch }, committed).await.map(drop)
    }
}

/// The records of an entry that could not be read; all of them where it names none.
fn unread_of<'a>(entry: &Entry, job: &'a Job) -> Vec<&'a str> {
    let concerned = |id: &&String| entry.records.is_empty() || entry.records.contains(*id);
    job.unread.iter().filter(concerned).map(String::as_str).collect()
}

fn outcome(gap: &str, own: &str, jobs: &Jobs, complete: bool) -> Outcome {
    let others = jobs.iter().any(|(id, job)| id != own && job.heals.contains(gap));
    match (others, complete) {
        (true, true) => Outcome::Partly,
        (false, true) => Outcome::Healed,
        (_, false) => Outcome::GivenUp,
    }
}

fn tell(entry: &Entry, job: &Job, outcome: Outcome, unread: &[&str]) {
    let (id, cause, rows, deletes) = (&entry.id, &entry.cause, job.rows, job.deletes);
    match outcome {
        Outcome::Healed => info!(id, cause, rows, deletes, "gap healed"),
        Outcome::Partly => info!(id, cause, rows, deletes, entity = job.entity, "part of a gap read"),
        Outcome::GivenUp => warn!(id, cause, rows, deletes, unread = unread.len(), "gap given up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_healed_only_by_the_last_of_its_jobs_and_only_if_everything_was_read() {
        let job = || Job::new(Some("Case".into()), "gap".into(), None);
        let both = Jobs::from([("heal-1".to_owned(), job()), ("heal-2".to_owned(), job())]);
        assert_eq!(outcome("gap", "heal-1", &both, true), Outcome::Partly);
        let last = Jobs::from([("heal-2".to_owned(), job())]);
        assert_eq!(outcome("gap", "heal-2", &last, true), Outcome::Healed);
        assert_eq!(outcome("gap", "heal-2", &last, false), Outcome::GivenUp);
    }
}

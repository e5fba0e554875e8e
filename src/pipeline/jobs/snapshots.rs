//! Snapshots: opened at a first run or because an operator asks, closed when every record of the object has been read.

use std::time::Duration;

use chrono::Utc;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::failure::Failure;
use crate::kafka::Checkpoint;
use crate::pipeline::jobs::bulk_pass::is_about_the_query;
use crate::pipeline::jobs::job::{Job, SnapshotScope, job_id, set};
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::setback::Setback;
use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
use crate::pipeline::stop::StreamError;
use crate::salesforce::query::Scope;
use crate::salesforce::rest::RestError;
use crate::status::{FinishedSnapshot, OpenedSnapshot, RefusedSnapshot, SnapshotRequest};

/// How long an operator waits for the count of an object's records.
const COUNT: Duration = Duration::from_secs(45);

/// Snapshots that have ended and are shown.
const SHOWN: usize = 20;

/// Opens a snapshot of each object in the checkpoint that begins a stream.
pub(in crate::pipeline) fn open_at_first_run(checkpoint: &mut Checkpoint, entities: &[String]) {
    for (number, entity) in entities.iter().enumerate() {
        let job = Job::snapshot_of(entity.clone(), SnapshotScope::default());
        let id = job_id(&job, checkpoint.seq.saturating_add(1), number);
        info!(entity, job = id, "snapshot opened with the stream's first run");
        set(checkpoint, &id, &job);
    }
}

impl Runner {
    /// Opens a snapshot that an operator asks for, or says why not.
    pub(super) async fn answer(&mut self, request: SnapshotRequest) -> Result<(), Setback> {
        let entity = request.entity.clone();
        let (since, condition, include_deleted) = (request.since, request.condition, request.include_deleted);
        let scope = SnapshotScope { since, condition, include_deleted, expected: 0 };
        let answer = match self.open_snapshot(&entity, scope).await {
            Err(Setback::Gone) => return Err(Setback::Gone),
            Err(setback) => Err(RefusedSnapshot::Failed(setback.failure())),
            Ok(answer) => answer,
        };
        // Whoever asked may have gone; the snapshot is made all the same, and shown.
        let _ = request.answer.send(answer);
        Ok(())
    }

    async fn open_snapshot(
        &mut self,
        entity: &str,
        mut scope: SnapshotScope,
    ) -> Result<Result<OpenedSnapshot, RefusedSnapshot>, Setback> {
        if let Some(job) = self.snapshot_of(entity) {
            return Ok(Err(RefusedSnapshot::UnderWay(job)));
        }
        self.context.claims.claim(entity, &self.context.identity.topic).map_err(Setback::Stopped)?;
        let records = match self.expected(entity, &scope).await {
            Ok(records) => records,
            Err(error) => return Ok(Err(RefusedSnapshot::Failed(refused(entity, &error)))),
        };
        scope.expected = records;
        let job = Job::snapshot_of(entity.to_owned(), scope);
        self.commit(Vec::new(), vec![job], Vec::new(), Vec::new()).await?;
        let Some(job) = self.snapshot_of(entity) else {
            let failure = StreamError::NoRoomForSnapshot(entity.to_owned()).failure();
            return Ok(Err(RefusedSnapshot::Failed(failure)));
        };
        info!(entity, job, records, "snapshot opened");
        Ok(Ok(OpenedSnapshot { job, records }))
    }

    /// The id of the snapshot of an object that is under way.
    pub(super) fn snapshot_of(&self, entity: &str) -> Option<String> {
        let (jobs, _) = self.desk.jobs();
        let of = |job: &Job| job.snapshot.is_some() && job.entity.as_deref() == Some(entity);
        jobs.into_iter().find(|(_, job)| of(job)).map(|(id, _)| id)
    }

    /// How many records a snapshot is of; 0 where they are too many to be counted. A condition that Salesforce does not
    /// understand is found out here, before anything is opened.
    pub(super) async fn expected(&self, entity: &str, scope: &SnapshotScope) -> Result<u64, RestError> {
        let plan = self.reader.descriptions().plan(entity, None, Instant::now() + COUNT).await?;
        let clause = scope.clause(plan.time_field());
        match self.reader.client().count(entity, &clause, Scope::All, Instant::now() + COUNT).await {
            Err(RestError::Refused { code, .. }) if code == "QUERY_TIMEOUT" => Ok(0),
            counted => counted,
        }
    }

    /// Ends a snapshot. What could not be read becomes an entry of the gap ledger, in the transaction that ends it.
    pub(super) async fn close_snapshot(&mut self, id: &str, job: Job) -> Result<(), Setback> {
        let unread = job.unread.len();
        let gap = (unread > 0).then(|| OpenGap {
            id: id.to_owned(),
            cause: GapCause::Unread,
            entity: job.entity.clone(),
            records: job.unread.iter().cloned().collect(),
            from: GapEnd::default(),
            to: GapEnd::default(),
            detail: format!("the snapshot {id} could not read these records: hidden, or larger than Kafka takes"),
            event: None,
            source: None,
            compared: None,
            letter: None,
            deleted: Vec::new(),
        });
        let (opened, heals) = gap.map(|gap| self.opened(&gap)).unwrap_or_default();
        let entries: Vec<_> = opened.into_iter().collect();
        self.commit(vec![(id.to_owned(), None)], heals.into_iter().collect(), entries, Vec::new()).await?;
        let (rows, deletes, entity) = (job.rows, job.deletes, job.entity.clone());
        if unread > 0 {
            warn!(job = id, entity, rows, deletes, unread, "snapshot ended without some records, gap opened");
        } else {
            info!(job = id, entity, rows, deletes, "snapshot ended");
        }
        let finished = FinishedSnapshot {
            job: id.to_owned(),
            entity: job.entity,
            opened_at: job.opened_at,
            finished_at: Utc::now(),
            rows,
            deletes,
            unread: u64::try_from(unread).unwrap_or(u64::MAX),
        };
        self.context.board.update(|status| {
            status.gaps_opened += u64::from(unread > 0);
            status.snapshots.push(finished);
            let surplus = status.snapshots.len().saturating_sub(SHOWN);
            status.snapshots.drain(..surplus);
        });
        self.forget(id);
        Ok(())
    }
}

/// Why a snapshot is not opened, for whoever asked for it.
fn refused(entity: &str, error: &RestError) -> Failure {
    let failure = error.failure();
    let remedy = (!is_about_the_query(error)).then_some(failure.remedy);
    StreamError::NoSnapshot { entity: entity.to_owned(), what: failure.what, remedy }.failure()
}

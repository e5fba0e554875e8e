//! A job as it stands in the checkpoint, from the transaction that opens its gap to the one that closes it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use crate::kafka::Checkpoint;
use crate::pipeline::kept::Unreadable;
use crate::salesforce::bulk::BulkJob;

/// What the ids of jobs that heal gaps begin with …
const HEAL: &str = "heal-";

/// … and those of snapshots. Entries of other kinds are left as they are.
const SNAPSHOT: &str = "snapshot-";

/// So many single records gather beside a pass over Bulk before they are read.
const GATHERED: usize = 500;

/// How often a pass over Bulk is begun in vain before the rest is read over REST.
pub(super) const MOST_PASSES: u32 = 4;

/// So much of a checkpoint may be jobs, in bytes. Every transaction carries them; what does not fit stays in the
/// ledger until there is room.
const MOST_BYTES: usize = 128 * 1024;

/// The jobs of a stream by id; the ids are in the order of the openings.
pub type Jobs = BTreeMap<String, Job>;

/// Reads records anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The object; none while it has to be found out which ones a channel carries.
    pub entity: Option<String>,
    /// Ledger entries that it heals.
    pub heals: BTreeSet<String>,
    /// When it began, by our clock.
    pub opened_at: DateTime<Utc>,
    /// The commit time of the event that told of the gap: rows that are read now are current at least since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_at: Option<DateTime<Utc>>,
    /// What is left of the listing of the whole object; none when single records are concerned, or when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<Listing>,
    /// Whether the whole object is or was listed.
    #[serde(default)]
    pub whole: bool,
    /// Single records that are to be read.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub ids: BTreeSet<String>,
    /// Records that could not be read.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unread: BTreeSet<String>,
    /// Records of which a comparison says that no query of the org shows them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gone: BTreeSet<String>,
    /// Records of which dead letters tell last that they were deleted, and when that was, in seconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted: BTreeMap<String, i64>,
    /// Up to when Kafka knew records, as a comparison says, in seconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known: BTreeMap<String, i64>,
    /// How many records of the object Kafka held when that was found.
    #[serde(default)]
    pub held: u64,
    /// Since when what Kafka holds of single records has to be known: a comparison looked at it then, or an event told of the
    /// gap. What was written since is read before a job that this attempt did not open begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_at: Option<DateTime<Utc>>,
    /// Records listed so far.
    #[serde(default)]
    pub listed: u64,
    /// Records written.
    #[serde(default)]
    pub rows: u64,
    /// Deletes written.
    #[serde(default)]
    pub deletes: u64,
    /// Those among them that were in no query at all.
    #[serde(default)]
    pub absent: u64,
    /// The pass over Bulk that brings the whole object. The listing stays beside it: a casewire that knows no Bulk reads
    /// the object by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bulk: Option<BulkPass>,
    /// Passes over Bulk that were begun in vain.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub passes: u32,
    /// What it reads as a snapshot; none for a job that heals gaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotScope>,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Which records of an object a snapshot is of. All, where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotScope {
    /// Only those that were changed since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Only those of which this holds, in SOQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Whether it also tells of records in the recycle bin that Kafka does not hold.
    #[serde(default, skip_serializing_if = "is_false")]
    pub include_deleted: bool,
    /// How many there were when it was opened.
    #[serde(default)]
    pub expected: u64,
}

impl SnapshotScope {
    /// Whether it is of a part of the records only.
    pub fn is_partial(&self) -> bool {
        self.since.is_some() || self.condition.is_some()
    }

    /// The WHERE clause with a space before it, by the object's field of the last change; empty for all records.
    pub fn clause(&self, time_field: &str) -> String {
        self.condition_by(time_field).map(|condition| format!(" WHERE {condition}")).unwrap_or_default()
    }

    /// The condition alone.
    pub fn condition_by(&self, time_field: &str) -> Option<String> {
        let since = self.since.map(|since| {
            let since = since.to_rfc3339_opts(SecondsFormat::Millis, true);
            format!("{time_field} >= {since}")
        });
        let condition = self.condition.as_ref().map(|condition| format!("({condition})"));
        let all: Vec<String> = condition.into_iter().chain(since).collect();
        (!all.is_empty()).then(|| all.join(" AND "))
    }
}

/// How far the result of a Bulk query job is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkPass {
    /// Salesforce's job.
    pub job: BulkJob,
    /// The number of the last transaction before it was created.
    pub marker: u64,
    /// A moment before that, by our clock.
    pub created_at: DateTime<Utc>,
    /// How many records it found, once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// Where the page at hand begins; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locator: Option<String>,
    /// Rows of that page that are dealt with.
    #[serde(default)]
    pub dealt: u64,
    /// Rows of the pages before it.
    #[serde(default)]
    pub before: u64,
    /// Whether all pages are dealt with.
    #[serde(default)]
    pub ended: bool,
}

/// How far an object has been listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Only records that were changed since then are read; all, where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// The last id that is dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl Job {
    /// A job that has read nothing.
    pub fn new(entity: Option<String>, gap: String, told_at: Option<DateTime<Utc>>) -> Self {
        Self {
            entity,
            heals: BTreeSet::from([gap]),
            opened_at: Utc::now(),
            told_at,
            listing: None,
            whole: false,
            ids: BTreeSet::new(),
            unread: BTreeSet::new(),
            gone: BTreeSet::new(),
            deleted: BTreeMap::new(),
            known: BTreeMap::new(),
            held: 0,
            compared_at: None,
            listed: 0,
            rows: 0,
            deletes: 0,
            absent: 0,
            bulk: None,
            passes: 0,
            snapshot: None,
        }
    }

    /// A snapshot that has read nothing.
    pub fn snapshot_of(entity: String, scope: SnapshotScope) -> Self {
        let (listing, whole) = (Some(Listing::default()), true);
        let heals = BTreeSet::new();
        Self { heals, listing, whole, snapshot: Some(scope), ..Self::new(Some(entity), String::new(), None) }
    }

    /// Whether it is a snapshot of these records only that its query names: of others nothing follows.
    pub fn is_partial(&self) -> bool {
        self.snapshot.as_ref().is_some_and(SnapshotScope::is_partial)
    }

    /// Whether it tells of records in the recycle bin that Kafka does not hold.
    pub fn includes_deleted(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|scope| scope.include_deleted)
    }

    /// What a record that it read is to consumers.
    pub fn op(&self) -> &'static str {
        if self.snapshot.is_some() { "read" } else { "refresh" }
    }

    /// Whether its single records can wait: while a result is gone through, those that events overtook gather for one call,
    /// and have stopped changing by then.
    pub fn leaves_ids(&self) -> bool {
        let reading = |pass: &BulkPass| pass.found.is_some() && !pass.ended;
        self.bulk.as_ref().is_some_and(reading) && self.ids.len() < GATHERED
    }

    /// Whether its whole object may be read over Bulk from the beginning.
    pub fn may_begin_bulk(&self) -> bool {
        let fresh = |listing: &Listing| listing.since.is_none() && listing.after.is_none();
        self.whole && self.bulk.is_none() && self.passes < MOST_PASSES && self.listing.as_ref().is_some_and(fresh)
    }

    /// Whether another job of the same object reads it over Bulk and has to be done first. Two results side by side are of
    /// two moments, and their rows could come in the wrong order.
    pub fn waits_for_bulk(&self, id: &str, jobs: &Jobs) -> bool {
        let reads = |(other, job): (&String, &Self)| other != id && job.bulk.is_some() && job.entity == self.entity;
        self.whole && self.bulk.is_none() && jobs.iter().any(reads)
    }

    /// Whether another job can be done together with this one: neither has read anything, and they read alike.
    pub fn takes(&self, other: &Self) -> bool {
        let alike = self.entity.is_some() && self.entity == other.entity && self.whole == other.whole;
        let may = |job: &Self| job.snapshot.is_none() && !job.has_begun();
        alike && may(self) && may(other)
    }

    /// Whether anything of it was read, or may have been: a Bulk query job reads from its creation on.
    pub fn has_begun(&self) -> bool {
        let listed = match &self.listing {
            Some(listing) => listing.after.is_some() || self.listed > 0,
            None => self.whole,
        };
        listed || self.bulk.is_some() || self.rows > 0 || self.deletes > 0 || !self.unread.is_empty()
    }

    /// Takes another job's work over. What either would read is read.
    pub fn take(&mut self, other: Self) {
        self.heals.extend(other.heals);
        self.ids.extend(other.ids);
        self.opened_at = self.opened_at.min(other.opened_at);
        // Rows are read after both were told.
        self.told_at = self.told_at.max(other.told_at);
        self.gone.extend(other.gone);
        for (id, at) in other.deleted {
            self.deleted.entry(id).and_modify(|own| *own = at.max(*own)).or_insert(at);
        }
        self.known.extend(other.known);
        self.held = self.held.max(other.held);
        self.compared_at = self.compared_at.into_iter().chain(other.compared_at).min();
        if let (Some(own), Some(others)) = (&mut self.listing, other.listing) {
            // Nothing known is the earliest.
            own.since = own.since.min(others.since);
        }
    }

    /// From when on a topic is read for what it holds of single records.
    pub fn begins_at(&self) -> DateTime<Utc> {
        self.compared_at.map_or(self.opened_at, |at| at.min(self.opened_at))
    }

    /// Whether it has still to read a single record, or to read it again.
    pub fn is_to_read(&self, id: &String) -> bool {
        self.ids.contains(id) || self.unread.contains(id)
    }

    /// Whether nothing is left to read.
    pub fn is_done(&self) -> bool {
        self.listing.is_none() && self.bulk.is_none() && self.ids.is_empty()
    }
}

/// The jobs in a checkpoint, those that heal only where they may. What cannot be read was written by another version,
/// and stays where it is.
pub fn jobs_of(checkpoint: &Checkpoint, heal: bool) -> Jobs {
    let own = checkpoint.jobs.iter().filter(|(id, _)| is_own(id, heal));
    own.filter_map(|(id, job)| Some((id.clone(), Job::deserialize(job).ok()?))).collect()
}

/// Names the jobs of a checkpoint in the log that cannot be read.
pub(super) fn tell_unreadable(checkpoint: &Checkpoint, heal: bool) {
    for (id, job) in checkpoint.jobs.iter().filter(|(id, _)| is_own(id, heal)) {
        if let Err(error) = Job::deserialize(job) {
            warn!(job = id, error = %Unreadable::from(error), "job of the checkpoint cannot be read");
        }
    }
}

fn is_own(id: &str, heal: bool) -> bool {
    id.starts_with(SNAPSHOT) || (heal && id.starts_with(HEAL))
}

/// The id of the `number`th job that the transaction `seq` opens.
pub(super) fn job_id(job: &Job, seq: u64, number: usize) -> String {
    let kind = if job.snapshot.is_some() { SNAPSHOT } else { HEAL };
    format!("{kind}{seq:020}-{number:04}")
}

/// The id of the job that takes the place of `id` when its pass over Bulk is begun anew: no job writes a record twice.
pub(super) fn successor_id(id: &str, passes: u32) -> String {
    let (first, _) = id.split_once("-again").unwrap_or((id, ""));
    format!("{first}-again{passes}")
}

/// Puts a job into a checkpoint.
pub fn set(checkpoint: &mut Checkpoint, id: &str, job: &Job) {
    // A struct of texts, numbers and times always has a JSON form.
    let value = serde_json::to_value(job).unwrap_or(Value::Null);
    checkpoint.jobs.insert(id.to_owned(), value);
}

/// Whether a checkpoint has room for a job.
pub(super) fn has_room(checkpoint: &Checkpoint, job: &Job) -> bool {
    let size = |value: &Value| serde_json::to_vec(value).map_or(usize::MAX, |text| text.len());
    let used: usize = checkpoint.jobs.values().map(size).fold(0, usize::saturating_add);
    let more = serde_json::to_value(job).map_or(usize::MAX, |value| size(&value));
    // One job always fits, or the gap of a very large event would never be healed.
    checkpoint.jobs.is_empty() || used.saturating_add(more) <= MOST_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Anchor, Position};

    fn whole(gap: &str, since: Option<i64>) -> Job {
        let since = since.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let mut job = Job::new(Some("Case".into()), gap.into(), None);
        (job.whole, job.listing) = (true, Some(Listing { since, after: None }));
        job
    }

    #[test]
    fn two_gaps_of_one_object_are_one_job_unless_it_has_begun() {
        let mut first = whole("a", Some(100));
        assert!(first.takes(&whole("b", None)));
        first.take(whole("b", None));
        assert_eq!(first.listing.as_ref().expect("a listing").since, None, "all rows are more than those since a time");
        assert_eq!(first.heals.len(), 2);
        first.listed = 1;
        assert!(!first.takes(&whole("c", None)));
        let ids = Job::new(Some("Case".into()), "d".into(), None);
        assert!(!whole("e", None).takes(&ids));
    }

    #[test]
    fn a_snapshot_asks_for_what_it_is_of() {
        let since = DateTime::from_timestamp(1_771_300_995, 0);
        let scope = |since, condition: Option<&str>| SnapshotScope {
            since,
            condition: condition.map(str::to_owned),
            ..SnapshotScope::default()
        };
        for (scope, clause) in [
            (scope(None, None), ""),
            (scope(since, None), " WHERE SystemModstamp >= 2026-02-17T04:03:15.000Z"),
            (
                scope(None, Some("IsClosed = false OR Priority = 'High'")),
                " WHERE (IsClosed = false OR Priority = 'High')",
            ),
            (scope(since, Some("A = 1")), " WHERE (A = 1) AND SystemModstamp >= 2026-02-17T04:03:15.000Z"),
        ] {
            assert_eq!(scope.clause("SystemModstamp"), clause);
            assert_eq!(scope.is_partial(), !clause.is_empty());
        }
    }

    #[test]
    fn one_pass_over_an_object_at_a_time_and_no_gap_is_healed_by_a_snapshot() {
        let snapshot = Job::snapshot_of("Case".into(), SnapshotScope::default());
        let heals = whole("gap", None);
        assert!(!heals.takes(&snapshot) && !snapshot.takes(&heals));
        assert!(heals.may_begin_bulk() && !whole("range", Some(100)).may_begin_bulk(), "a range reads what changed");
        let mut begun = snapshot.clone();
        let job = BulkJob { id: "750".into(), version: "66.0".into() };
        let created_at = DateTime::UNIX_EPOCH;
        begun.bulk = Some(BulkPass {
            job,
            marker: 7,
            created_at,
            found: None,
            locator: None,
            dealt: 0,
            before: 0,
            ended: false,
        });
        assert!(!begun.may_begin_bulk() && !begun.is_done());
        let jobs = Jobs::from([("heal-1".to_owned(), heals.clone()), ("snapshot-1".to_owned(), begun.clone())]);
        assert!(heals.waits_for_bulk("heal-1", &jobs) && !begun.waits_for_bulk("snapshot-1", &jobs));
        assert!(begun.has_begun() && !heals.has_begun());
        let empty = Job { listing: None, ..heals.clone() };
        let id = "5008d000000047SAAQ".to_owned();
        let single = |ids: &[&String], unread: &[&String]| {
            let set = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect();
            Job { ids: set(ids), unread: set(unread), ..Job::new(Some("Case".into()), "gap".into(), None) }
        };
        assert!(single(&[&id], &[]).is_to_read(&id) && single(&[], &[&id]).is_to_read(&id), "it is tried again");
        assert!(!single(&[], &[]).is_to_read(&id));
        assert!(empty.has_begun() && !heals.takes(&empty), "all of an object without records is listed");
        let other = Job { entity: Some("User".into()), ..heals };
        assert!(!other.waits_for_bulk("heal-2", &jobs));
        begun.passes = MOST_PASSES;
        begun.bulk = None;
        assert!(!begun.may_begin_bulk(), "in vain so often");
    }

    #[test]
    fn a_checkpoint_keeps_jobs_of_other_kinds_and_takes_no_more_than_it_may() {
        let mut checkpoint = Checkpoint::at(Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH }));
        checkpoint.jobs.insert("snapshot".into(), Value::from(12));
        let mut job = Job::new(Some("Case".into()), "gap".into(), None);
        job.ids.insert("5008d000000047SAAQ".into());
        assert!(has_room(&checkpoint, &job));
        let id = job_id(&job, 7, 0);
        set(&mut checkpoint, &id, &job);
        assert_eq!(jobs_of(&checkpoint, true), Jobs::from([(id, job.clone())]));
        assert!(jobs_of(&checkpoint, false).is_empty());
        let snapshot = Job::snapshot_of("Case".into(), SnapshotScope::default());
        let id = job_id(&snapshot, 8, 1);
        set(&mut checkpoint, &id, &snapshot);
        assert_eq!(jobs_of(&checkpoint, false), Jobs::from([(id.clone(), snapshot)]), "whether or not gaps are healed");
        assert_eq!(successor_id(&successor_id(&id, 1), 2), format!("{id}-again2"));
        checkpoint.jobs.remove(&id);
        job.ids = (0..7_000).map(|number| format!("5008d0000{number:09}")).collect();
        assert!(!has_room(&checkpoint, &job));
        checkpoint.jobs.clear();
        assert!(has_room(&checkpoint, &job), "the first one is taken however large it is");
    }
}

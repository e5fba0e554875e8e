//! A job as it stands in the checkpoint, from the transaction that opens its gap to the one that closes it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kafka::Checkpoint;

/// What the ids of these jobs begin with. Entries of other kinds are left as they are.
const PREFIX: &str = "heal-";

/// So much of a checkpoint may be jobs, in bytes. Every transaction carries them; what does not fit stays in the
/// ledger until there is room.
const MOST_BYTES: usize = 128 * 1024;

/// The jobs of a stream by id; the ids are in the order of the openings.
pub(super) type Jobs = BTreeMap<String, Job>;

/// Reads records anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
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
    /// Up to when Kafka knew records, as a comparison says, in seconds since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known: BTreeMap<String, i64>,
    /// How many records of the object Kafka held when that was found.
    #[serde(default)]
    pub held: u64,
    /// When a comparison looked at what Kafka holds: what was written since then is read before the job begins.
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
}

/// How far an object has been listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
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
            known: BTreeMap::new(),
            held: 0,
            compared_at: None,
            listed: 0,
            rows: 0,
            deletes: 0,
            absent: 0,
        }
    }

    /// Whether another job can be done together with this one: neither has read anything, and they read alike.
    pub fn takes(&self, other: &Self) -> bool {
        let untouched = |job: &Self| job.listed == 0 && job.rows == 0 && job.deletes == 0 && job.unread.is_empty();
        let alike = self.entity.is_some() && self.entity == other.entity && self.whole == other.whole;
        alike && untouched(self) && untouched(other)
    }

    /// Takes another job's work over. What either would read is read.
    pub fn take(&mut self, other: Self) {
        self.heals.extend(other.heals);
        self.ids.extend(other.ids);
        self.opened_at = self.opened_at.min(other.opened_at);
        // Rows are read after both were told.
        self.told_at = self.told_at.max(other.told_at);
        self.gone.extend(other.gone);
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

    /// Whether nothing is left to read.
    pub fn is_done(&self) -> bool {
        self.listing.is_none() && self.ids.is_empty()
    }
}

/// The jobs in a checkpoint. What cannot be read was written by another version, and stays where it is.
pub(super) fn jobs_of(checkpoint: &Checkpoint) -> Jobs {
    let own = checkpoint.jobs.iter().filter(|(id, _)| id.starts_with(PREFIX));
    own.filter_map(|(id, job)| Some((id.clone(), Job::deserialize(job).ok()?))).collect()
}

/// The id of the `number`th job that the transaction `seq` opens.
pub(super) fn job_id(seq: u64, number: usize) -> String {
    format!("{PREFIX}{seq:020}-{number:04}")
}

/// Puts a job into a checkpoint.
pub(super) fn set(checkpoint: &mut Checkpoint, id: &str, job: &Job) {
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
    fn a_checkpoint_keeps_jobs_of_other_kinds_and_takes_no_more_than_it_may() {
        let mut checkpoint = Checkpoint::at(Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH }));
        checkpoint.jobs.insert("snapshot".into(), Value::from(12));
        let mut job = Job::new(Some("Case".into()), "gap".into(), None);
        job.ids.insert("5008d000000047SAAQ".into());
        assert!(has_room(&checkpoint, &job));
        set(&mut checkpoint, &job_id(7, 0), &job);
        assert_eq!(jobs_of(&checkpoint), Jobs::from([(job_id(7, 0), job.clone())]));
        job.ids = (0..7_000).map(|number| format!("5008d0000{number:09}")).collect();
        assert!(!has_room(&checkpoint, &job));
        checkpoint.jobs.clear();
        assert!(has_room(&checkpoint, &job), "the first one is taken however large it is");
    }
}

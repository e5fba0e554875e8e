//! Jobs: what reads records anew to heal a gap or for a snapshot, beside the events and never in their way.
//!
//! | file | duty |
//! |---|---|
//! | `job` | a job as it stands in the checkpoint |
//! | `entry` | an entry of the gap ledger as a job sees it, and what is to be read for it |
//! | `desk` | what the run loop and the runner share: the jobs, the open gaps, what was touched |
//! | `admission` | what of a slice is let into a transaction |
//! | `touched` | what Kafka holds of each record: since when it is current, and whether it is there |
//! | `seam` | what a job hands to the run loop, and what comes back |
//! | `rows` | from a row to the records that consumers read |
//! | `runner` | the task that works through the jobs, a slice of records at a time |
//! | `listing` | a whole object by its ids, page by page |
//! | `sweep` | which records of a whole object are to be read |
//! | `bulk_pass` | a whole object by the pages of a Bulk query job |
//! | `snapshots` | snapshots: opened at a first run or for an operator, and closed |
//! | `polling` | objects without events, read where they changed |
//! | `poll_round` | one round of that: read, compared, written |
//! | `poll_window` | what Kafka holds of what changed lately, by the topic and by what jobs write |
//! | `polled` | what is known of those, and what of what is read is news |
//! | `reading` | one slice: read, compared with what Kafka holds, handed over |
//! | `redriven` | what is read anew, or written as it was, for a dead letter |
//! | `closing` | the end of a job, and of the gaps that it heals |
//! | `setback` | why a job waits, and for how long |
//!
//! # Why no gap is closed too early and nothing newer is written over
//!
//! **The seam.** A job has no producer. It hands slices to the run loop, which commits each in a transaction of its own
//! together with the job as it is after the slice. So after a crash the job goes on behind exactly what is in Kafka.
//! Events go first; a slice is smaller than a transaction of events may be.
//!
//! **The opening.** Jobs are made from the ledger entries of a transaction, by the run loop, in that transaction
//! ([`desk::Desk::enrol`]): once the position is past an overflow, the job is in the checkpoint. What was opened while
//! healing was off, or by an older version, is found in the ledger when the runner starts; what commands put there meanwhile,
//! at the ledger's end, which is looked at every `gaps.look_every` (why they may: `ledger_entries`).
//!
//! **The time rule.** Write `K(id)` for the time up to which what Kafka holds of a record is current (the commit time of
//! its newest event, or `record_as_of`), and let a slice be read after a *marker*, the number of the last transaction.
//!
//! 1. What the marker covers was in Salesforce before it was read: events are published after their commit. So a row that
//!    is read behind the marker has everything that Kafka then held of it, and is current at least up to `K(id)`.
//!    It is therefore written with `record_as_of = max(SystemModstamp, K(id))`. Without the second part the fold would
//!    drop rows that are stamped before they were committed, and those that a converted field's type changed, which
//!    leaves the stamp as it was.
//! 2. If an event of the record was committed to Kafka behind the marker, the row may be older than it. The loop knows,
//!    since it notes every id that it writes while there are jobs. It writes such a row only if its stamp is later
//!    than the event by more than the clocks of Salesforce's servers differ (`admission`), which proves that it was read after it; otherwise the id goes back to the job and is read again
//!    with a newer marker. It is never dropped, since a sparse event does not carry the other fields; the ids that
//!    went back stand in the checkpoint with the job.
//! 3. A row may be newer than events that are still to come. Those are older than `record_as_of`, and the fold skips them; of the
//!    same second they are applied, and they end with the last one, which the row has too.
//!
//! So the fold never goes back, and the last thing that Kafka holds of a record was read after the gap, or is an event
//! after it.
//!
//! Markers are taken anew for every slice, seconds before it is written, so only events of these seconds send ids back. What
//! is known of `K` is kept from the opening of the job on; a job that goes on after a restart, or of a whole object, reads it
//! from the entity's topic first. Both are exact for each id: a commit time that is wrong for one record spoils no other.
//!
//! **Bulk.** A row of a Bulk query job was read at any time after the job was created, and is written when its page is dealt
//! with, which can be hours later. Its marker is therefore that of the creation: `BulkPass::marker`, taken before the job is
//! created. By 2, everything that was written of its record since then sends it back, to be read over REST with a marker of its own,
//! unless its stamp proves that it is newer. That holds also for what was written by other jobs.
//!
//! - What was written since the marker is known within an attempt, because the loop notes it. After a restart it is read from the
//!   entity's topic: every record that was produced since `BulkPass::created_at`, less some minutes for the clocks,
//!   counts as written behind the marker. That is some too many, which costs a read each and nothing else. What bears the job's id
//!   was dealt with by it, if it was produced since then; what is older is another job's, since ids come again where a stream's
//!   checkpoint was made anew.
//! - Rows are dealt with in the order of the result, which does not change, and the place in it (page and row) is committed
//!   with them. Should the result be gone, or not be what Salesforce says that it is, the job is replaced by a successor that
//!   begins anew: no job writes a record twice. So it is where Salesforce is at its query job for hours and does not end.
//! - Two results of one object would be of two moments, and a row of the older one could follow one of the newer. So while
//!   one job of an object is at its result, no other one begins a listing or a result of it; those of single records do go on,
//!   and what they write counts as written.
//! - A result has no order, so what is absent is known at its end: what Kafka holds and the job has not dealt with. These
//!   ids are read over REST, which decides, as below.
//!
//! **Snapshots** read with the same passes and by the same rules, as `read` instead of `refresh`. There is no upper bound in
//! time, and none is needed: the stream has a position before the query job is created (`Desk::is_anchored`), so
//! whatever changes later is delivered, and what is delivered before its row is written sends the row back. At its
//! end a snapshot also reads what events brought since its creation and its result does not have. So every record that was readable
//! when it was created, or came until it ended, has been written with all its fields: by the result, or by the read that took its
//! place. A record that is created later comes as an event with all its fields. One that could not be read is an entry in the gap ledger.
//!
//! **Deletes.** A record in the recycle bin, or one that Kafka holds and the org has in no query, becomes a `delete`, by
//! the same rule. Its time is that of the stamp, or `K`. A single record of which nothing is found may be hidden from the
//! user, and is never taken for deleted; one that is missing in a listing of a whole object is, since a user who may
//! subscribe to an object's events sees all of its records. Should many be missing at once, the job waits instead. There are two
//! exceptions. One are records of which the last dead letter that names them tells that they were deleted (`reading::says_deleted`): to
//! be gone is what Salesforce said of them. The other are records of which a comparison (`reconcile`) says that two listings of all ids did not show them: they are
//! taken for deleted if they are not found again, and Salesforce says before and after that the user sees all records of the
//! object. Such an entry also says up to when Kafka knew them; what was written since the comparison is read from the topic.
//!
//! **The end.** A gap is closed in the transaction that removes its job, and that is committed after all of the job's
//! slices. It is `healed` if every record was read or found deleted. Records that cannot be read are tried again
//! for `gaps.give_up_after`; then the entry becomes `given_up` and names them.

mod admission;
mod bulk_pass;
mod closing;
pub(super) mod desk;
mod entry;
mod job;
mod listing;
mod poll_round;
mod poll_window;
mod polled;
mod polling;
#[cfg(test)]
mod polling_tests;
mod reading;
mod redriven;
mod rows;
mod runner;
#[cfg(test)]
mod runner_tests;
pub(super) mod seam;
mod setback;
mod snapshots;
mod sweep;
pub(super) mod touched;

pub(super) use desk::{Desk, Noted};
pub(super) use polled::{forget as forget_polls, kept_under as kept_of_polls};
pub(super) use rows::{Reader, RowWriter};
pub(super) use runner::Runner;
pub(super) use seam::JobBatch;
#[cfg(test)]
pub(crate) use setback::one_of_each;
pub(super) use snapshots::open_at_first_run;

/// The part of `pipeline::reading` that is of jobs and polls.
#[doc(hidden)]
pub mod stored {
    pub use super::entry::{Entry as LedgerEntry, Outcome, read as ledger_entry};
    pub use super::job::{Job, Jobs, jobs_of, set as set_job};
    pub use super::polled::Position as PollPosition;
}

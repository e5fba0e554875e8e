//! What Kafka holds compared with what the org has.
//!
//! Salesforce says that in rare cases an event is lost for good, that some changes cause none, and that a user who loses
//! a permission is told nothing. None of that shows in the stream. It shows here.
//!
//! | file | duty |
//! |---|---|
//! | `comparison` | one record of the org against what Kafka holds of it |
//! | `inspection` | one object: both sides read, and the findings read once more |
//! | `standing` | up to when a stream is current, from its checkpoint |
//! | `repair` | findings as entries of the gap ledger |
//! | `schedule` | all of it on a schedule, beside the streams of a process |
//! | `silence` | whether an object's records change while no events of it come |
//! | `unable` | why nothing can be said |
//!
//! # Why a finding is one
//!
//! A row of the org is judged only if its `SystemModstamp` lies ten minutes before the stream's position: the bus is in the
//! order of commits but for seconds, so everything that was published of such a row has been committed to Kafka before
//! either side is read. Kafka is read before the org at first, which can only make too many findings. Then both
//! sides of what was found are read again, the org before Kafka, and what has changed on the way is dropped: its events are
//! under way. A row that changes all the time has a young stamp, or another one at the second look, and is never
//! a finding.
//!
//! Times are compared to the second, as the fold does. What Kafka holds is current up to the commit time of its newest event or
//! its `record_as_of`. So a silent change is found unless an event of the same record came after it; then the record
//! counts as current although the field that was changed silently is old. Only reading all fields would show that.
//!
//! # Hidden is not deleted
//!
//! A record that Kafka holds and that no query of the org shows, the recycle bin included, was purged, or the user may not see
//! it. Only if Salesforce says that the user has "View All Records" on the object, before and after the second of two full listings,
//! the record is `extra`; otherwise it is `unseen`, which is told and never repaired. The job that heals an extra record asks
//! for that permission again, before and after it looks for the record. Should more than `gaps.most_absent` of the records be missing,
//! nothing is said at all: that looks like lost access whatever Salesforce says.

mod comparison;
mod inspection;
mod repair;
mod schedule;
mod silence;
mod standing;
mod unable;

pub use comparison::{Difference, Finding};
pub use inspection::{Extent, Inspected, Inspector};
pub use repair::{OpenEntries, Repair, repair};
pub use schedule::{Reconciliation, Subject};
pub use standing::{Standing, standing};
pub use unable::Unable;

//! The status board: what everybody reports and operators read.
//!
//! - `board`: the one place that is written to
//! - `completion`: how reading full records is doing
//! - `snapshot`: the one type that is read: `/status`, `/ready`, `/live` and the metrics all come from it
//! - `jobs`: a job that heals gaps, as it is shown
//! - `journal`: what happened, as comparing one moment with the next tells
//! - `trend`: rate and lag of the last minutes
//! - `messages`: how fetching messages is doing
//! - `polls`: objects without events that are read where they changed, and the metrics of that
//! - `pulse`: whether the task that carries a stream still runs
//! - `requests`: what operators ask of a running stream
//! - `reconcile`: how the records agree with the org, and its metrics
//! - `telemetry`: how the export of traces is doing, and its metrics
//! - `metrics`: a snapshot in Prometheus' words
//!
//! A stream writes to the board once a batch, never once an event, so a lock around plain
//! values is cheap and a snapshot is consistent in itself.

mod board;
mod completion;
mod jobs;
mod journal;
mod messages;
mod metrics;
#[cfg(test)]
mod metrics_page;
mod polls;
mod pulse;
mod reconcile;
mod requests;
mod snapshot;
mod telemetry;
mod trend;

pub use board::{Board, StreamBoard};
pub use completion::{CompletionLevel, CompletionStatus};
pub use jobs::{FinishedSnapshot, JobStatus};
pub use journal::{JournalEntry, JournalKind, JournalWeight};
pub use messages::{ComparisonStatus, MessagesStatus};
pub use metrics::{METRICS_CONTENT_TYPE, Metrics};
pub use polls::PollStatus;
pub use pulse::Pulse;
pub use reconcile::{EntityAgreement, EntitySilence, ReconcileStatus};
pub use requests::{
    ComparisonRequest, OpenedComparison, OpenedSnapshot, RefusedComparison, RefusedSnapshot, Requests, SnapshotRequest,
};
pub use snapshot::{Allowance, KafkaStatus, LastError, NotReady, RETENTION, Snapshot, StreamState, StreamStatus};
pub use telemetry::{SpanTally, TelemetryStatus};
pub use trend::{SAMPLE_EVERY, Sample, Trend};

//! How the export of traces is doing, and the metrics of that.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use serde::Serialize;

use crate::status::snapshot::{LastError, Snapshot};

/// Counts of spans; cheap to clone. Kept apart from the board's facts, because streams count here while they commit.
#[derive(Debug, Clone, Default)]
pub struct SpanTally {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    offered: AtomicU64,
    exported: AtomicU64,
    dropped: AtomicU64,
}

impl SpanTally {
    /// So many more were to be exported.
    pub fn offered(&self, spans: u64) {
        self.counts.offered.fetch_add(spans, Ordering::Relaxed);
    }

    /// So many more were taken by the collector.
    pub fn exported(&self, spans: u64) {
        self.counts.exported.fetch_add(spans, Ordering::Relaxed);
    }

    /// So many more are lost.
    pub fn dropped(&self, spans: u64) {
        self.counts.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    /// How many are lost.
    pub fn lost(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// How many are neither exported nor lost.
    pub fn waiting(&self) -> u64 {
        let done = self.counts.exported.load(Ordering::Relaxed).saturating_add(self.lost());
        self.counts.offered.load(Ordering::Relaxed).saturating_sub(done)
    }
}

/// Traces, where there are any.
#[derive(Debug, Clone, Default)]
pub(super) struct Traces {
    endpoint: String,
    tally: SpanTally,
    failing_since: Option<DateTime<Utc>>,
    last_error: Option<LastError>,
}

impl Traces {
    /// To this collector.
    pub(super) fn to(endpoint: &str) -> Self {
        Self { endpoint: endpoint.to_owned(), ..Self::default() }
    }

    /// The counts, for those who count.
    pub(super) fn tally(&self) -> SpanTally {
        self.tally.clone()
    }

    /// Notes what went wrong, if anything did, and whether a time in which spans are lost is under way.
    pub(super) fn note(&mut self, error: Option<LastError>, failing: bool) {
        self.failing_since = failing.then(|| self.failing_since.unwrap_or_else(Utc::now));
        if error.is_some() {
            self.last_error = error;
        }
    }

    /// As they are now.
    pub(super) fn status(&self) -> TelemetryStatus {
        TelemetryStatus {
            endpoint: self.endpoint.clone(),
            spans_exported: self.tally.counts.exported.load(Ordering::Relaxed),
            spans_dropped: self.tally.lost(),
            spans_waiting: self.tally.waiting(),
            failing_since: self.failing_since,
            last_error: self.last_error.clone(),
        }
    }
}

/// How the export of traces is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TelemetryStatus {
    /// The collector.
    pub endpoint: String,
    /// Spans that it took.
    pub spans_exported: u64,
    /// Spans that are lost: there was no room for them, or the collector did not take them.
    pub spans_dropped: u64,
    /// Spans that are neither.
    pub spans_waiting: u64,
    /// Since when spans are being lost; absent while they are not.
    pub failing_since: Option<DateTime<Utc>>,
    /// The last thing that went wrong.
    pub last_error: Option<LastError>,
}

/// All of it in Prometheus' words.
pub(super) fn encode(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let Some(telemetry) = &snapshot.telemetry else { return Ok(()) };
    for (name, help, value) in [
        ("spans_exported", "Spans that the collector took", telemetry.spans_exported),
        (
            "spans_dropped",
            "Spans that the collector did not take, or that there was no room for",
            telemetry.spans_dropped,
        ),
    ] {
        let counter = ConstCounter::new(value);
        counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
    }
    Ok(())
}

//! What a stream has of tracing: which events are sampled, their header, and the queue to the exporter.

use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::TelemetryConfig;
use crate::identity::{OrgId, TopicName};
use crate::position::EventKey;
use crate::status::SpanTally;
use crate::telemetry::event_trace::{EventTrace, Finished, Sending};
use crate::telemetry::trace_id::{Sampler, TraceId, traceparent};

/// Events that may wait for the exporter: some megabytes at most.
const QUEUE: usize = 2_048;

/// Makes the tracers of streams; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tracer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sampler: Sampler,
    traceparent: bool,
    queue: mpsc::Sender<Finished>,
    tally: SpanTally,
}

impl Tracer {
    /// A tracer, and where the exporter takes what it hands over.
    pub(super) fn new(config: &TelemetryConfig, tally: SpanTally) -> (Self, mpsc::Receiver<Finished>) {
        let (queue, traces) = mpsc::channel(QUEUE);
        let shared = Shared { sampler: Sampler::of(config.sample), traceparent: config.traceparent, queue, tally };
        (Self { shared: Arc::new(shared) }, traces)
    }

    /// That of a stream.
    pub fn of_stream(&self, topic: &TopicName, org: &OrgId) -> StreamTracer {
        StreamTracer { shared: self.shared.clone(), stream: Arc::new((topic.to_string(), org.to_string())) }
    }
}

/// The tracer of one stream.
#[derive(Debug, Clone)]
pub struct StreamTracer {
    shared: Arc<Shared>,
    stream: Arc<(String, String)>,
}

impl StreamTracer {
    /// Begins the trace of an event of `bytes` that came at `received`; none where it is not sampled.
    pub fn begin(&self, event: &EventKey, bytes: usize, received: Instant) -> Option<EventTrace> {
        let trace = TraceId::of(event);
        self.shared.sampler.takes(trace).then(|| EventTrace::begin(trace, event, bytes, received))
    }

    /// The value of the `traceparent` header of the event's records; none where they are to have none.
    pub fn header(&self, trace: &EventTrace) -> Option<Bytes> {
        self.shared.traceparent.then(|| traceparent(trace.trace, trace.send))
    }

    /// Hands over what was sent in a transaction of `records` that began at `began` and has ended now, with the number of its
    /// checkpoint or the kind of error. Never waits: what finds no room is counted and gone.
    pub fn ended(&self, sent: Vec<Sending>, began: Instant, records: usize, outcome: Result<u64, &'static str>) {
        let (ended, at) = (Instant::now(), Utc::now());
        for sending in sent {
            let stream = self.stream.clone();
            let finished = Finished { sending, stream, sent: (began, ended), at, transaction: records, outcome };
            let spans = finished.spans();
            self.shared.tally.offered(spans);
            if self.shared.queue.try_send(finished).is_err() {
                self.shared.tally.dropped(spans);
            }
        }
    }
}

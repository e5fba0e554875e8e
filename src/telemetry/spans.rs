//! What is told of an event, in OpenTelemetry's words: the semantic conventions of messaging, and `casewire.…` where they
//! have none. `docs/operating.md` lists all of it.
//!
//! ```text
//! process /data/CaseChangeEvent     from the arrival of the event to the end of its transaction
//! ├─ decode                         schema, values, rendering
//! ├─ read Case                      over REST, where the event says less than what happened
//! └─ send salesforce.Case           the transaction; the span that the records' header names
//! ```
//!
//! What lies between two of them is waiting. Of the event itself nothing is told but its ids, its size and its object.

use chrono::{DateTime, Utc};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use tokio::time::Instant;

use crate::telemetry::event_trace::{Finished, Sending};
use crate::telemetry::trace_id::{SpanId, TraceId};

/// The semantic conventions that the names are of.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Flags of a span: it is sampled, and its parent is known to be of this process.
const FLAGS: u32 = 0x101;

/// The longest text of an attribute; what comes from outside has no limit of its own.
const LONGEST_TEXT: usize = 256;

/// Who speaks: the service, and which instance of it.
pub(super) fn resource(service: &str, run_id: &str) -> Resource {
    let mut attributes = vec![
        text("service.name", service),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", run_id),
    ];
    attributes.extend(hostname::get().ok().and_then(|host| Some(text("host.name", host.to_str()?))));
    Resource { attributes, ..Resource::default() }
}

/// One call's worth of events.
pub(super) fn request(resource: Resource, finished: &[Finished]) -> ExportTraceServiceRequest {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let scope = InstrumentationScope { name: "casewire".to_owned(), version, ..InstrumentationScope::default() };
    let spans = finished.iter().flat_map(spans).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: SCHEMA.to_owned() }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: SCHEMA.to_owned() }];
    ExportTraceServiceRequest { resource_spans }
}

/// The spans of one event, the whole first.
fn spans(finished: &Finished) -> Vec<Span> {
    let trace = &finished.sending.trace;
    let clock = Clock { end: finished.sent.1, at: finished.at };
    let span = |id: SpanId, name: String, kind, (began, ended)| {
        let parent = (id != trace.root).then_some(trace.root);
        span(trace.trace, id, parent, name, kind, (clock.nanos(began), clock.nanos(ended)))
    };
    let mut spans = vec![
        Span {
            attributes: of_event(finished),
            status: status(finished.outcome.err()),
            ..span(
                trace.root,
                format!("process {}", finished.stream.0),
                SpanKind::Consumer,
                (trace.received, finished.sent.1),
            )
        },
        Span {
            attributes: finished.sending.dead_letter.then(|| text("error.type", "undecodable")).into_iter().collect(),
            status: status(finished.sending.dead_letter.then_some("undecodable")),
            ..span(SpanId::drawn(), "decode".to_owned(), SpanKind::Internal, (trace.decoding, trace.decoded))
        },
    ];
    if let Some(read) = &trace.read {
        let entity = entity(&finished.sending).unwrap_or_default();
        let failed = read.failed.then_some("unread");
        let mut attributes = vec![text("casewire.entity", &entity)];
        attributes.extend(failed.map(|failed| text("error.type", failed)));
        let name = format!("read {entity}");
        let times = (read.began, read.ended);
        spans.push(Span { attributes, status: status(failed), ..span(SpanId::drawn(), name, SpanKind::Client, times) });
    }
    spans.push(Span {
        attributes: of_records(finished),
        status: status(finished.outcome.err()),
        ..span(trace.send, format!("send {}", finished.sending.topic), SpanKind::Producer, finished.sent)
    });
    spans
}

fn of_event(finished: &Finished) -> Vec<KeyValue> {
    let Sending { trace, committed_at, .. } = &finished.sending;
    let (topic, org) = &*finished.stream;
    let mut attributes = vec![
        text("messaging.system", "salesforce"),
        text("messaging.operation.type", "process"),
        text("messaging.operation.name", "process"),
        text("messaging.destination.name", topic),
        text("messaging.message.id", trace.key.event_id()),
        number("messaging.message.body.size", trace.bytes),
        text("casewire.org", org),
        text("casewire.replay_id", &trace.key.replay_id().to_string()),
    ];
    attributes.extend(entity(&finished.sending).map(|entity| text("casewire.entity", &entity)));
    attributes.extend(committed_at.as_ref().map(|at| text("casewire.committed_at", &String::from_utf8_lossy(at))));
    attributes.extend(finished.outcome.err().map(|error| text("error.type", error)));
    attributes
}

fn of_records(finished: &Finished) -> Vec<KeyValue> {
    let sending = &finished.sending;
    let mut attributes = vec![
        text("messaging.system", "kafka"),
        text("messaging.operation.type", "send"),
        text("messaging.operation.name", "send"),
        text("messaging.destination.name", &sending.topic),
        number("casewire.transaction.records", finished.transaction),
    ];
    match &sending.record_key {
        Some(key) => attributes.push(text("messaging.kafka.message.key", &String::from_utf8_lossy(key))),
        None => attributes.push(number("messaging.batch.message_count", sending.records)),
    }
    attributes.push(match finished.outcome {
        Ok(seq) => number("casewire.checkpoint.seq", usize::try_from(seq).unwrap_or(usize::MAX)),
        Err(error) => text("error.type", error),
    });
    attributes
}

fn entity(sending: &Sending) -> Option<String> {
    Some(String::from_utf8_lossy(sending.entity.as_ref()?).into_owned())
}

fn span(
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    name: String,
    kind: SpanKind,
    (start_time_unix_nano, end_time_unix_nano): (u64, u64),
) -> Span {
    Span {
        trace_id: trace.as_bytes().to_vec(),
        span_id: id.to_bytes().to_vec(),
        parent_span_id: parent.map(|parent| parent.to_bytes().to_vec()).unwrap_or_default(),
        flags: FLAGS,
        name,
        kind: kind.into(),
        start_time_unix_nano,
        end_time_unix_nano,
        ..Span::default()
    }
}

/// What a span that failed is marked with. One that did not is left as it is: that it is well nobody has looked at.
fn status(error: Option<&str>) -> Option<Status> {
    error.map(|_| Status { code: StatusCode::Error.into(), message: String::new() })
}

/// One reading of the wall clock for all times of an event, so that a clock that is set meanwhile cannot turn them round.
struct Clock {
    end: Instant,
    at: DateTime<Utc>,
}

impl Clock {
    fn nanos(&self, instant: Instant) -> u64 {
        let at = u64::try_from(self.at.timestamp_nanos_opt().unwrap_or_default()).unwrap_or_default();
        let before = self.end.saturating_duration_since(instant).as_nanos();
        at.saturating_sub(u64::try_from(before).unwrap_or(u64::MAX))
    }
}

fn text(key: &str, text: &str) -> KeyValue {
    attribute(key, Value::StringValue(text.chars().take(LONGEST_TEXT).collect()))
}

fn number(key: &str, number: usize) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

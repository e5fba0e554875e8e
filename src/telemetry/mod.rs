//! Traces: where the time of an event went, for an OpenTelemetry collector, and how a consumer goes on with them.
//!
//! One trace a sampled event, under an id that is the event's own, so that every attempt at the event, on every instance,
//! has the same. Nothing here can fail a stream or hold it up: what is to be sent is put into a queue that is bounded and
//! never waited for, and what does not fit is counted.
//!
//! | file | duty |
//! |---|---|
//! | `trace_id` | the id of an event's trace, whether it is sampled, the `traceparent` header |
//! | `event_trace` | a sampled event on its way |
//! | `spans` | what is told of it, in OpenTelemetry's words |
//! | `tracer` | what a stream has of all this, and the queue |
//! | `collector` | one call of OTLP over gRPC, and what its errors mean |
//! | `exporter` | from the queue to the collector |
//! | `spell` | a time in which spans are lost, told once |
//!
//! Neither the SDK of OpenTelemetry nor its exporter is used, only the generated messages and client of OTLP. The SDK makes
//! ids of its own, keeps no count of what it drops that could be read, and its exporter takes addresses and headers from
//! variables of the environment that the configuration does not know of.

mod collector;
mod event_trace;
mod exporter;
mod spans;
mod spell;
mod trace_id;
mod tracer;

pub use collector::{Collector, CollectorError, CollectorSetting};
pub use event_trace::{EventTrace, Sending};
pub use exporter::{Exporter, Exporting};
pub use trace_id::{SpanId, TRACEPARENT, TraceId};
pub use tracer::{StreamTracer, Tracer};

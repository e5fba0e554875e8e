//! Objects without events that are read where they changed, and the metrics of that.

use std::fmt;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

use crate::status::snapshot::{Snapshot, StreamStatus};

/// One polled object of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PollStatus {
    /// The object.
    pub entity: String,
    /// Since when records are asked for that were changed, by Salesforce's clock; absent before the first poll.
    pub from: Option<DateTime<Utc>>,
    /// When the last complete round began, by Salesforce's clock: what was visible then is written.
    pub read_to: Option<DateTime<Utc>>,
    /// Rounds completed by this run.
    pub rounds: u64,
    /// Records written by this run.
    pub rows: u64,
    /// Deletes written by this run.
    pub deletes: u64,
    /// Why nothing is read, if that is so.
    pub waits_for: Option<String>,
    /// What mends that.
    pub remedy: Option<String>,
    /// When it is tried again.
    pub next_attempt_at: Option<DateTime<Utc>>,
}

impl StreamStatus {
    /// The poll of an object, made where there is none yet.
    pub fn poll(&mut self, entity: &str) -> &mut PollStatus {
        let place = self.polls.iter().position(|poll| poll.entity == entity).unwrap_or_else(|| {
            self.polls.push(PollStatus { entity: entity.to_owned(), ..PollStatus::default() });
            self.polls.len() - 1
        });
        &mut self.polls[place]
    }
}

/// All of it in Prometheus' words.
pub(super) fn encode(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    type Read<T> = fn(&PollStatus) -> T;
    const COUNTERS: [(&str, &str, Read<u64>); 3] = [
        ("poll_rounds", "Looks at what was changed of a polled object", |poll| poll.rounds),
        ("poll_rows", "Records that polls wrote", |poll| poll.rows),
        ("poll_deletes", "Deletes that polls wrote", |poll| poll.deletes),
    ];
    let polls = || snapshot.streams.iter().flat_map(|stream| stream.polls.iter().map(move |poll| (stream, poll)));
    for (name, help, read) in COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, ConstCounter::new(0_u64).metric_type())?;
        for (stream, poll) in polls() {
            let labels = [("topic", stream.topic.as_str()), ("entity", poll.entity.as_str())];
            ConstCounter::new(read(poll)).encode(family.encode_family(&labels)?)?;
        }
    }
    let now = snapshot.salesforce_now;
    let age = |poll: &PollStatus| Some((now - poll.read_to?).as_seconds_f64());
    let waits = |poll: &PollStatus| Some(f64::from(u8::from(poll.waits_for.is_some())));
    let gauges: [(&str, &str, &dyn Fn(&PollStatus) -> Option<f64>); 2] = [
        ("poll_age_seconds", "Since the beginning of the last complete look at a polled object", &age),
        ("poll_waiting", "1 while a polled object cannot be read", &waits),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, ConstGauge::new(0_f64).metric_type())?;
        for (stream, poll) in polls() {
            let Some(value) = read(poll) else { continue };
            let labels = [("topic", stream.topic.as_str()), ("entity", poll.entity.as_str())];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

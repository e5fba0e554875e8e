//! A snapshot in Prometheus' words.
//!
//! Everything but the histogram is read from the snapshot when it is scraped, so that
//! `/metrics` and `/status` can never disagree. Names are part of what users build
//! alarms on: they are listed in `docs/metrics.md` and change only with a major version.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::status::board::Board;
use crate::status::completion::CompletionStatus;
use crate::status::jobs::JobStatus;
use crate::status::messages::MessagesStatus;
use crate::status::polls;
use crate::status::reconcile;
use crate::status::snapshot::{Snapshot, StreamState, StreamStatus};
use crate::status::telemetry;

/// What `/metrics` must say it is.
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    topic: String,
}

/// The metrics of one process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    transaction_seconds: Family<StreamLabel, Histogram>,
}

impl Metrics {
    /// Metrics of what the board knows.
    pub fn new(board: Board) -> Self {
        let transaction_seconds = Family::new_with_constructor(transaction_histogram as fn() -> Histogram);
        let mut registry = Registry::with_prefix("casewire");
        registry.register_with_unit(
            "transaction",
            "From the beginning of a transaction to its commit",
            Unit::Seconds,
            transaction_seconds.clone(),
        );
        registry.register_collector(Box::new(BoardCollector { board }));
        Self { registry: Arc::new(registry), transaction_seconds }
    }

    /// Notes the time that a transaction took.
    pub fn transaction(&self, topic: &str, took: Duration) {
        let label = StreamLabel { topic: topic.to_owned() };
        self.transaction_seconds.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// When the text cannot be written, which a `String` never refuses.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// From the few milliseconds of a small transaction to the minute at which the broker ends one.
fn transaction_histogram() -> Histogram {
    Histogram::new([0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0])
}

#[derive(Debug)]
struct BoardCollector {
    board: Board,
}

impl Collector for BoardCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = self.board.snapshot();
        counters(&snapshot, &mut encoder)?;
        gauges(&snapshot, &mut encoder)?;
        open_gaps(&snapshot, &mut encoder)?;
        messages(&snapshot, &mut encoder)?;
        snapshots(&snapshot, &mut encoder)?;
        polls::encode(&snapshot, &mut encoder)?;
        reconcile::encode(&snapshot, &mut encoder)?;
        telemetry::encode(&snapshot, &mut encoder)?;
        process(&snapshot, &mut encoder)
    }
}

type Read<T> = fn(&StreamStatus) -> T;
type ReadMessages = fn(&MessagesStatus) -> u64;
type ReadGauge<'a> = &'a dyn Fn(&StreamStatus) -> Option<f64>;

fn completion(stream: &StreamStatus, read: fn(&CompletionStatus) -> u64) -> u64 {
    stream.completion.as_ref().map_or(0, read)
}

/// Counts that only grow. `_total` is added by the encoder.
fn counters(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    const COUNTERS: [(&str, &str, Read<u64>); 16] = [
        ("events_received", "Events received, duplicates among them", |stream| stream.events_received),
        ("duplicates_dropped", "Events received again and dropped", |stream| stream.duplicates_dropped),
        ("events_already_written", "Events that the output already held after a refused replay id", |stream| {
            stream.events_already_written
        }),
        ("keepalives_received", "Keepalives received", |stream| stream.keepalives_received),
        ("records_committed", "Records committed to Kafka", |stream| stream.records_committed),
        ("batches_committed", "Batches of Salesforce committed to Kafka", |stream| stream.batches_committed),
        ("transactions_committed", "Transactions committed to Kafka", |stream| stream.transactions_committed),
        ("gaps_opened", "Entries opened in the gap ledger", |stream| stream.gaps_opened),
        ("gaps_healed", "Entries of the gap ledger healed", |stream| stream.gaps_healed),
        ("gaps_given_up", "Entries of the gap ledger given up", |stream| stream.gaps_given_up),
        ("dead_letters", "Events that could not be decoded", |stream| stream.dead_letters),
        ("records_completed", "Records completed over REST", |stream| completion(stream, |one| one.records_completed)),
        ("records_unread", "Records that should have been read over REST and were not", |stream| {
            completion(stream, |one| one.records_unread)
        }),
        ("completion_reads", "Batches read over REST, several together counted once", |stream| {
            completion(stream, |one| one.reads)
        }),
        ("completion_steps_down", "Steps down of completion for want of API requests", |stream| {
            completion(stream, |one| one.steps_down)
        }),
        ("fenced", "Times that another instance took the stream over", |stream| stream.fenced),
    ];
    for (name, help, read) in COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, ConstCounter::new(0_u64).metric_type())?;
        for stream in &snapshot.streams {
            let label = [("topic", stream.topic.as_str())];
            ConstCounter::new(read(stream)).encode(family.encode_family(&label)?)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "reconnects",
        "Calls opened again, by reason",
        None,
        ConstCounter::new(0_u64).metric_type(),
    )?;
    for stream in &snapshot.streams {
        for (reason, count) in &stream.reconnects {
            let labels = [("topic", stream.topic.as_str()), ("reason", reason)];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Values that come and go; a value that is not known is left out rather than shown as zero.
fn gauges(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let message = |stream: &StreamStatus| seconds(snapshot.salesforce_now, stream.last_message_at);
    let event = |stream: &StreamStatus| seconds(snapshot.salesforce_now, stream.last_event_committed_at);
    let loss = |stream: &StreamStatus| Some(stream.until_data_loss(snapshot.salesforce_now)?.as_secs_f64());
    let up = |stream: &StreamStatus| Some(f64::from(u8::from(stream.state == StreamState::Running)));
    #[allow(clippy::cast_precision_loss, reason = "a buffer of 2^53 events does not exist")]
    let flight = |stream: &StreamStatus| Some(stream.events_in_flight as f64);
    let level = |stream: &StreamStatus| Some(f64::from(stream.completion.as_ref()?.level.steps_down()));
    let unavailable = |stream: &StreamStatus| {
        let completion = stream.completion.as_ref()?;
        Some(f64::from(u8::from(completion.unavailable_since.is_some() || completion.paused_until.is_some())))
    };
    #[allow(clippy::cast_precision_loss, reason = "the jobs of a stream are bounded")]
    let jobs = |stream: &StreamStatus| Some(stream.jobs.len() as f64);
    #[allow(clippy::cast_precision_loss, reason = "the jobs of a stream are bounded")]
    let waiting = |stream: &StreamStatus| Some(stream.jobs.iter().filter(|job| job.waits_for.is_some()).count() as f64);
    let paused = |stream: &StreamStatus| Some(f64::from(u8::from(stream.paused_since.is_some())));
    let standby =
        |stream: &StreamStatus| Some(f64::from(u8::from(matches!(stream.state, StreamState::Standby { .. }))));
    let dead = |stream: &StreamStatus| Some(f64::from(u8::from(stream.hangs(Utc::now()).is_some())));
    let gauges: [(&str, &str, ReadGauge<'_>); 12] = [
        ("gap_jobs", "Jobs that heal gaps", &jobs),
        ("gap_jobs_waiting", "Those among them that cannot go on at the moment", &waiting),
        ("last_message_age_seconds", "Since the last event or keepalive", &message),
        ("last_event_age_seconds", "Age of the last committed event", &event),
        ("data_loss_seconds", "Until Salesforce discards events that were not read", &loss),
        ("stream_running", "1 while the stream carries events", &up),
        ("stream_paused", "1 while an operator wants nothing to be asked for", &paused),
        ("stream_standby", "1 while another instance writes the stream and this one stands by", &standby),
        ("stream_dead", "1 while the stream hangs so that only a restart helps", &dead),
        ("events_in_flight", "Events received and not yet committed", &flight),
        ("completion_level", "0 all, 1 slowed, 2 only what is needed, 3 only gap events", &level),
        ("completion_unavailable", "1 while records cannot be read over REST", &unavailable),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, ConstGauge::new(0_f64).metric_type())?;
        for stream in &snapshot.streams {
            if let Some(value) = read(stream) {
                let label = [("topic", stream.topic.as_str())];
                ConstGauge::new(value).encode(family.encode_family(&label)?)?;
            }
        }
    }
    Ok(())
}

/// Messages of conversations, where they are fetched.
fn messages(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    const COUNTERS: [(&str, &str, ReadMessages); 4] = [
        ("message_fetches", "Calls for entries of conversations", |messages| messages.fetches),
        ("messages_written", "Entries of conversations written, redactions among them", |messages| {
            messages.entries_written
        }),
        ("redactions_written", "Redactions written", |messages| messages.redactions_written),
        (
            "messages_given_up",
            "Sessions and conversations that could not be read for messages.give_up_after",
            |messages| messages.sessions_given_up,
        ),
    ];
    const GAUGES: [(&str, &str, ReadMessages); 6] = [
        ("messages_waiting", "Sessions of which something is to be fetched", |messages| messages.sessions_waiting),
        ("messages_history_waiting", "Sessions of snapshots of which the messages are not fetched yet", |messages| {
            messages.history_waiting
        }),
        ("messages_calls_left", "Calls for entries that could be made at once", |messages| messages.calls_left),
        ("messages_active", "Conversations asked for in the last half hour", |messages| messages.conversations_active),
        ("messages_open", "Conversations with an open session", |messages| messages.conversations_open),
        ("messages_unavailable", "1 while no messages can be fetched", |messages| {
            u64::from(messages.waits_for.is_some())
        }),
    ];
    let streams = || snapshot.streams.iter().filter_map(|stream| Some((stream, stream.messages.as_ref()?)));
    for (name, help, read) in COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, ConstCounter::new(0_u64).metric_type())?;
        for (stream, messages) in streams() {
            let label = [("topic", stream.topic.as_str())];
            ConstCounter::new(read(messages)).encode(family.encode_family(&label)?)?;
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "none of them comes near 2^53")]
    let gauges = GAUGES.map(|(name, help, read)| (name, help, move |messages: &MessagesStatus| read(messages) as f64));
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, ConstGauge::new(0_f64).metric_type())?;
        for (stream, messages) in streams() {
            let label = [("topic", stream.topic.as_str())];
            ConstGauge::new(read(messages)).encode(family.encode_family(&label)?)?;
        }
    }
    let help = "Age of the oldest event of a session that is not fetched yet; 0 when there is none";
    let mut family = encoder.encode_descriptor(
        "messages_oldest_trigger_age_seconds",
        help,
        None,
        ConstGauge::new(0_f64).metric_type(),
    )?;
    for (stream, messages) in streams() {
        let age = seconds(Utc::now(), messages.oldest_trigger_at).unwrap_or(0.0);
        let label = [("topic", stream.topic.as_str())];
        ConstGauge::new(age.max(0.0)).encode(family.encode_family(&label)?)?;
    }
    Ok(())
}

/// Open entries of the gap ledger by cause.
fn open_gaps(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Open entries of the gap ledger, by cause";
    let mut family = encoder.encode_descriptor("gaps_open", help, None, ConstGauge::new(0_f64).metric_type())?;
    for stream in &snapshot.streams {
        for (cause, count) in &stream.gaps_open {
            let labels = [("topic", stream.topic.as_str()), ("cause", cause)];
            #[allow(clippy::cast_precision_loss, reason = "entries are far fewer than 2^53")]
            ConstGauge::new(*count as f64).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// How far snapshots are, by object.
fn snapshots(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Records that snapshots wrote";
    let mut family = encoder.encode_descriptor("snapshot_rows", help, None, ConstCounter::new(0_u64).metric_type())?;
    for stream in &snapshot.streams {
        ConstCounter::new(stream.snapshot_rows).encode(family.encode_family(&[("topic", stream.topic.as_str())])?)?;
    }
    type ReadJob = fn(&JobStatus) -> Option<u64>;
    let gauges: [(&str, &str, ReadJob); 2] = [
        ("snapshot_records", "Records that the snapshot under way has seen", |job| Some(job.records_listed)),
        ("snapshot_records_expected", "Records that it will have seen at its end", |job| job.records_expected),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, ConstGauge::new(0_f64).metric_type())?;
        for stream in &snapshot.streams {
            for job in stream.jobs.iter().filter(|job| job.snapshot) {
                let Some(value) = read(job) else { continue };
                let labels = [("topic", stream.topic.as_str()), ("entity", job.entity.as_deref().unwrap_or_default())];
                #[allow(clippy::cast_precision_loss, reason = "objects have far fewer records than 2^53")]
                ConstGauge::new(value as f64).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

/// Values of the process as a whole.
fn process(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Always 1; the labels say which casewire it is";
    let mut family = encoder.encode_descriptor("build_info", help, None, ConstGauge::new(0_f64).metric_type())?;
    let build = [("version", snapshot.version), ("commit", env!("CASEWIRE_COMMIT"))];
    ConstGauge::new(1_f64).encode(family.encode_family(&build)?)?;
    #[allow(clippy::cast_precision_loss, reason = "allowances are far below 2^53")]
    let number = |value: u64| value as f64;
    let delivered = snapshot.delivered_events;
    let values = [
        ("kafka_reachable", "1 while the broker answers", Some(f64::from(u8::from(snapshot.kafka.reachable)))),
        ("delivered_events_allowed", "Delivered events in 24 hours", delivered.map(|all| number(all.maximum))),
        ("delivered_events_used", "Delivered events used", delivered.map(|all| number(all.used()))),
        ("delivered_events_left", "Delivered events left", delivered.map(|all| number(all.remaining))),
        ("api_requests_allowed", "REST calls in 24 hours", snapshot.api_requests.map(|all| number(all.maximum))),
        ("api_requests_left", "REST calls left", snapshot.api_requests.map(|all| number(all.remaining))),
        ("clock_offset_seconds", "Salesforce's clock less this machine's", {
            seconds(snapshot.salesforce_now, Some(Utc::now()))
        }),
    ];
    for (name, help, value) in values {
        if let Some(value) = value {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
    }
    Ok(())
}

fn seconds(now: DateTime<Utc>, then: Option<DateTime<Utc>>) -> Option<f64> {
    Some((now - then?).as_seconds_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_what_the_board_knows_and_leaves_out_what_it_does_not() {
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        stream.update(|status| {
            status.events_received = 7;
            status.reconnects.insert("silence", 2);
        });
        let metrics = Metrics::new(board);
        metrics.transaction("/data/CaseChangeEvent", Duration::from_millis(4));
        let text = metrics.render().expect("rendered");
        for line in [
            "casewire_events_received_total{topic=\"/data/CaseChangeEvent\"} 7",
            "casewire_reconnects_total{topic=\"/data/CaseChangeEvent\",reason=\"silence\"} 2",
            "casewire_kafka_reachable 0.0",
            "casewire_transaction_seconds_count{topic=\"/data/CaseChangeEvent\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "`{line}` is not in:\n{text}");
        }
        assert!(!text.contains("data_loss_seconds{"), "no position is known yet:\n{text}");
    }
}

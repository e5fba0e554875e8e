//! How the records in Kafka agree with those of the org, as the comparisons on a schedule found it.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;

use crate::status::snapshot::{LastError, Snapshot, StreamStatus};

/// The comparisons of one stream.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReconcileStatus {
    /// The last comparison that came to its end for every object, by our clock.
    pub last_run_at: Option<DateTime<Utc>>,
    /// Comparisons that did.
    pub runs: u64,
    /// Those that did not.
    pub failures: u64,
    /// Why the last one did not; absent when it did.
    pub last_error: Option<LastError>,
    /// What was found of each object last.
    pub entities: BTreeMap<String, EntityAgreement>,
    /// Whether each object is silent, where that is known.
    pub silence: BTreeMap<String, EntitySilence>,
    /// Looks for silence that came to no end.
    pub silence_failures: u64,
}

/// One object as a comparison found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntityAgreement {
    /// When, by our clock.
    pub at: DateTime<Utc>,
    /// Whether all ids were compared.
    pub full: bool,
    /// Records of the org that were judged.
    pub judged: u64,
    /// Records that were changed too lately.
    pub young: u64,
    /// Records that differed at first and did not any more when they were looked at again.
    pub settled: u64,
    /// Findings by kind: `missing`, `stale`, `deleted`, `extra`, `unseen`.
    pub findings: BTreeMap<&'static str, u64>,
    /// Entries that went into the gap ledger for them.
    pub entries: u64,
}

/// Whether an object is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EntitySilence {
    /// Whether its records changed and no event came.
    pub silent: bool,
    /// How many changed.
    pub rows_changed: u64,
    /// Since when no event came, at least.
    pub since: Option<DateTime<Utc>>,
    /// What mends it.
    pub remedy: Option<String>,
}

type Count = fn(&ReconcileStatus) -> u64;

/// The metrics of all streams.
pub(in crate::status) fn encode(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    const COUNTERS: [(&str, &str, Count); 3] = [
        ("reconcile_runs", "Comparisons with the org that came to their end", |one| one.runs),
        ("reconcile_failures", "Comparisons with the org that did not", |one| one.failures),
        ("silence_check_failures", "Looks for silent objects that came to no end", |one| one.silence_failures),
    ];
    for (name, help, read) in COUNTERS {
        let mut family = encoder.encode_descriptor(name, help, None, ConstCounter::new(0_u64).metric_type())?;
        for stream in &snapshot.streams {
            let label = [("topic", stream.topic.as_str())];
            ConstCounter::new(read(&stream.reconcile)).encode(family.encode_family(&label)?)?;
        }
    }
    // Our own clock on both sides.
    let now = Utc::now();
    let age = |stream: &StreamStatus| Some((now - stream.reconcile.last_run_at?).as_seconds_f64());
    let help = "Since the last comparison with the org that came to its end";
    let mut family =
        encoder.encode_descriptor("reconcile_age_seconds", help, None, ConstGauge::new(0_f64).metric_type())?;
    for stream in &snapshot.streams {
        if let Some(age) = age(stream) {
            ConstGauge::new(age).encode(family.encode_family(&[("topic", stream.topic.as_str())])?)?;
        }
    }
    findings(snapshot, encoder)?;
    silence(snapshot, encoder)
}

fn findings(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Records on which Kafka and the org differed at the last comparison, by kind";
    let mut family =
        encoder.encode_descriptor("reconcile_findings", help, None, ConstGauge::new(0_f64).metric_type())?;
    for stream in &snapshot.streams {
        for (entity, agreement) in &stream.reconcile.entities {
            for (finding, count) in &agreement.findings {
                let labels = [("topic", stream.topic.as_str()), ("entity", entity.as_str()), ("finding", *finding)];
                #[allow(clippy::cast_precision_loss, reason = "records are far fewer than 2^53")]
                ConstGauge::new(*count as f64).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn silence(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "1 while an object's records change and no events of it come";
    let mut family = encoder.encode_descriptor("entity_silent", help, None, ConstGauge::new(0_f64).metric_type())?;
    for stream in &snapshot.streams {
        for (entity, silence) in &stream.reconcile.silence {
            let labels = [("topic", stream.topic.as_str()), ("entity", entity.as_str())];
            ConstGauge::new(f64::from(u8::from(silence.silent))).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

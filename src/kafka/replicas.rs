//! Whether a topic has the replicas in sync that it needs before it takes a write.
//!
//! A broker refuses a write for want of replicas with an error that passes, so librdkafka tries again in silence until
//! the time is out. What was the matter then shows only in the metadata.

use rdkafka::metadata::MetadataPartition;
use tokio::runtime::Handle;

use crate::kafka::error::KafkaError;
use crate::kafka::scan::Reader;
use crate::kafka::settings::KafkaSettings;
use crate::kafka::topics::in_sync_needed;

/// Where the brokers keep the state of transactions.
pub(crate) const TRANSACTION_STATE: &str = "__transaction_state";

/// The first of the topics that are `meant` and take no writes now, as an error; `None` when all do, or when that cannot
/// be learned.
///
/// Blocks, for at most three times [`KafkaSettings::call_timeout`] where brokers do not answer.
pub(crate) fn shortage(settings: &KafkaSettings, meant: impl Fn(&str) -> bool, runtime: &Handle) -> Option<KafkaError> {
    let metadata = Reader::new(settings).ok()?.all_topics().ok()?;
    // A partition whose replicas are all there is short of none, whatever the topic needs.
    let incomplete = |partition: &&MetadataPartition| in_sync(partition) < partition.replicas().len();
    let suspects: Vec<_> = metadata
        .topics()
        .iter()
        .filter(|topic| meant(topic.name()) && topic.partitions().iter().any(|partition| incomplete(&partition)))
        .collect();
    if suspects.is_empty() {
        return None;
    }
    let names: Vec<&str> = suspects.iter().map(|topic| topic.name()).collect();
    let needed = in_sync_needed(settings, &names, runtime);
    for (at, topic) in suspects.into_iter().enumerate() {
        // Where settings may not be read: a topic takes no writes without a leader.
        let needed = needed.get(at).copied().flatten().unwrap_or(1);
        let short = topic.partitions().iter().filter(incomplete).find(|partition| in_sync(partition) < needed);
        if let Some(partition) = short {
            return Some(KafkaError::NotEnoughReplicas {
                topic: topic.name().to_owned(),
                partition: partition.id(),
                in_sync: in_sync(partition),
                replicas: partition.replicas().len(),
                needed,
            });
        }
    }
    None
}

/// The replicas in sync; none count while nobody leads the partition.
fn in_sync(partition: &MetadataPartition) -> usize {
    if partition.leader() < 0 { 0 } else { partition.isr().len() }
}

//! How large the batches of a stream's producer are.
//!
//! librdkafka has one batch of a partition under way at a time where the producer is idempotent: it holds the number of
//! *records* in flight against its limit of five requests (`rd_kafka_toppar_producer_serve`). The next one waits for the
//! answer to the one before, and the broker's thread spins meanwhile, because the records that wait are due. A transaction
//! therefore takes as many round trips as its fullest partition has batches, and processor time for each of them:
//! `docs/performance.md` has the figures. So batches are as large as the topics of the prefix take.

use std::time::Duration;

use crate::kafka::cluster::list_topics;
use crate::kafka::settings::{KafkaSettings, LEAST_BATCH_BYTES};
use crate::kafka::topics::message_limits;

/// The largest batch, in bytes before compression. A transaction of the default size has three or four of these.
pub const MOST_BATCH_BYTES: usize = 2_000_000;

/// How long finding it out may take. What is not known by then is taken for the least, which costs nothing but time.
const PATIENCE: Duration = Duration::from_secs(2);

/// The property that says it in librdkafka's words.
pub(crate) const PROPERTY: &str = "batch.size";

/// Whether the operator has said how large they are.
pub(crate) fn is_set(settings: &KafkaSettings) -> bool {
    settings.properties.contains_key(PROPERTY)
}

/// The settings with batches as large as every topic of the prefix takes, unless the operator has said how large.
///
/// A topic that does not exist yet does not count: one that casewire makes takes the largest, and one that somebody else
/// makes is found when a writer is opened again, at the latest after a batch was too large for it.
pub(crate) async fn fitted(settings: &KafkaSettings) -> KafkaSettings {
    let mut settings = settings.clone();
    if !is_set(&settings) {
        let bytes = batch_bytes(&limits(&settings).await);
        tracing::info!(bytes, "size of batches");
        settings.properties.insert(PROPERTY.to_owned(), bytes.to_string());
    }
    settings
}

/// What the topics take; `None` for one that does not tell.
async fn limits(settings: &KafkaSettings) -> Vec<Option<usize>> {
    if !settings.topics.check {
        return Vec::new();
    }
    let asked = KafkaSettings { call_timeout: PATIENCE.min(settings.call_timeout), ..settings.clone() };
    let own = format!("{}.", settings.topic_prefix);
    let finding = async {
        let topics = list_topics(&asked).await.ok()?;
        let names: Vec<String> =
            topics.into_iter().map(|topic| topic.name).filter(|name| name.starts_with(&own)).collect();
        if names.is_empty() {
            // All that there will be is casewire's, or refused at the start for not being there.
            return Some(vec![Some(usize::MAX)]);
        }
        message_limits(&asked, names).await.ok()
    };
    tokio::time::timeout(PATIENCE, finding).await.ok().flatten().unwrap_or_default()
}

/// The largest batch that fits everywhere.
fn batch_bytes(limits: &[Option<usize>]) -> usize {
    let least = limits.iter().map(|limit| limit.unwrap_or_default()).min().unwrap_or_default();
    // A batch that does not compress grows by its frames, some four bytes in a thousand.
    let fitting = least - least / 64;
    fitting.clamp(LEAST_BATCH_BYTES, MOST_BATCH_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_large_as_the_topic_that_takes_least() {
        for (limits, bytes) in [
            (&[Some(4_194_304), Some(8_388_608)][..], 2_000_000),
            (&[Some(4_194_304), Some(1_048_588)], 1_032_204),
            // Nothing is known, of one or of all.
            (&[Some(4_194_304), None], LEAST_BATCH_BYTES),
            (&[], LEAST_BATCH_BYTES),
            // What the topic's check refuses is not made to fit.
            (&[Some(1_000)], LEAST_BATCH_BYTES),
            (&[Some(usize::MAX)], 2_000_000),
        ] {
            assert_eq!(batch_bytes(limits), bytes, "{limits:?}");
        }
    }
}

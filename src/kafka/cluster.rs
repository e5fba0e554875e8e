//! Questions to the cluster as a whole.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::Metadata;
use std::time::{Duration, Instant};

use crate::kafka::connection::ConnectionContext;
use crate::kafka::error::{Class, KafkaError, class_of_client, explain};
use crate::kafka::scan::blocking;
use crate::kafka::settings::{Isolation, KafkaSettings, create};

/// What the cluster says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    /// The cluster's id, where it has one.
    pub cluster_id: Option<String>,
    /// `host:port` of each broker.
    pub brokers: Vec<String>,
    /// The number of one of them.
    pub first: Option<i32>,
    /// How many topics the principal may see.
    pub topics: usize,
}

/// A topic as the cluster lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// How many copies each partition has.
    pub replication: usize,
}

/// All topics that the principal may see, those of Kafka's own included.
pub async fn list_topics(settings: &KafkaSettings) -> Result<Vec<TopicListing>, KafkaError> {
    let settings = settings.clone();
    blocking(move || ask(&settings, |_, metadata| listings(metadata))).await
}

/// Whether the brokers answer, and who they are.
pub async fn ping(settings: &KafkaSettings) -> Result<BrokerInfo, KafkaError> {
    let settings = settings.clone();
    blocking(move || {
        ask(&settings, |consumer, metadata| BrokerInfo {
            cluster_id: consumer.client().fetch_cluster_id(Duration::from_millis(500)),
            brokers: metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port())).collect(),
            first: metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id),
            topics: metadata.topics().len(),
        })
    })
    .await
}

fn listings(metadata: &Metadata) -> Vec<TopicListing> {
    let listing = |topic: &rdkafka::metadata::MetadataTopic| TopicListing {
        name: topic.name().to_owned(),
        partitions: topic.partitions().len(),
        replication: topic.partitions().first().map_or(0, |partition| partition.replicas().len()),
    };
    metadata.topics().iter().map(listing).collect()
}

fn ask<T>(
    settings: &KafkaSettings,
    answer: impl FnOnce(&BaseConsumer<ConnectionContext>, &Metadata) -> T,
) -> Result<T, KafkaError> {
    const CALL: &str = "asking for the cluster's topics";
    let context = ConnectionContext::default();
    let consumer: BaseConsumer<ConnectionContext> =
        create(&settings.consumer(Isolation::ReadUncommitted), context.clone())?;
    let deadline = Instant::now() + settings.call_timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match consumer.fetch_metadata(None, left.min(Duration::from_secs(2))) {
            Ok(metadata) => return Ok(answer(&consumer, &metadata)),
            Err(error) => {
                hear(&consumer);
                let again = class_of_client(&error) == Class::Again && context.connection.refused().is_none();
                if !again || Instant::now() >= deadline {
                    return Err(explain(CALL, &error, &context.connection));
                }
            }
        }
    }
}

/// Takes what the client has to say beside the answer to a question: a consumer's error callbacks are served by its poll
/// only, one at a time, and a refused password or certificate shows there. Blocks for at most a second.
pub(crate) fn hear(consumer: &BaseConsumer<ConnectionContext>) {
    const MOMENT: Duration = Duration::from_millis(100);
    for _ in 0..10 {
        match consumer.poll(MOMENT) {
            None => return,
            Some(Err(error)) => tracing::debug!(error = %error, "question to be asked again"),
            Some(Ok(_)) => {}
        }
    }
}

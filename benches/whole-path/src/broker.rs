//! The broker, by the same settings as casewire's.

use std::collections::BTreeMap;
use std::time::Duration;

use casewire::kafka::{Isolation, KafkaSettings, TopicDefaults};
use clap::Args;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::Failure;

/// What casewire is told about the same broker; nothing is changed that it does not change.
pub(crate) fn settings(bootstrap: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: bootstrap.to_owned(),
        topic_prefix: "bare".to_owned(),
        properties: BTreeMap::new(),
        transaction_timeout: Duration::from_secs(60),
        call_timeout: Duration::from_secs(60),
        topics: TopicDefaults { create: true, check: false, partitions: 1, replication: 1 },
    }
}

/// A `read_committed` reader of one topic of one partition, from its first record. The topic may still have to be made.
pub(crate) fn reader(bootstrap: &str, topic: &str, patience: Duration) -> Result<BaseConsumer, Failure> {
    let consumer: BaseConsumer = settings(bootstrap).consumer(Isolation::ReadCommitted).create()?;
    let until = std::time::Instant::now() + patience;
    loop {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
        match metadata.topics().first().map(|topic| topic.partitions().len()) {
            Some(1) => break,
            Some(0) | None if std::time::Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Some(0) | None => return Err(format!("there is no topic {topic}").into()),
            Some(partitions) => return Err(format!("{topic} has {partitions} partitions, not one").into()),
        }
    }
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    Ok(consumer)
}

/// Whether a poll brought the end of the partition and no record.
pub(crate) fn is_end(error: &KafkaError) -> bool {
    matches!(error, KafkaError::PartitionEOF(_))
}

#[derive(Debug, Args)]
pub(crate) struct ForgetArguments {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    prefix: String,
}

/// Deletes topics, so that one run leaves nothing on the disk that the next has to share it with.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn forget(arguments: &ForgetArguments) -> Result<Value, Failure> {
    let settings = settings(&arguments.bootstrap);
    let consumer: BaseConsumer = settings.consumer(Isolation::ReadCommitted).create()?;
    let metadata = consumer.fetch_metadata(None, Duration::from_secs(10))?;
    let names = metadata.topics().iter().map(|topic| topic.name());
    let names: Vec<&str> = names.filter(|name| name.starts_with(&arguments.prefix)).collect();
    if !names.is_empty() {
        let admin: AdminClient<DefaultClientContext> = settings.consumer(Isolation::ReadCommitted).create()?;
        for deleted in admin.delete_topics(&names, &AdminOptions::new()).await? {
            deleted.map_err(|(topic, code)| format!("{topic} cannot be deleted: {code}"))?;
        }
    }
    Ok(json!({"deleted": names.len()}))
}

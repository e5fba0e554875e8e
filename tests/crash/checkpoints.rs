//! Follows the checkpoint topics with a `read_committed` consumer: what the test waits for is what
//! stands in Kafka, not what casewire says of itself.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use casewire::kafka::KEPT;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::timeout;

/// A stream that has not got so far by then hangs, unless there is more to do than usual.
pub const ARRIVAL: Duration = Duration::from_secs(180);

/// The newest committed checkpoint of one stream, and who wrote before.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The events that its position remembers, as `replay id/event id`.
    pub taken: BTreeSet<String>,
    /// The runs that wrote, in order; one more with each take-over.
    pub writers: Vec<String>,
    pub seq: u64,
    /// The jobs that are under way, as their stream wrote them.
    pub jobs: Map<String, Value>,
}

/// All streams, by checkpoint topic.
pub type AllSeen = BTreeMap<String, Seen>;

/// Reads on in a thread of its own until dropped.
pub struct Checkpoints {
    /// How long anything is waited for.
    pub patience: Duration,
    seen: watch::Receiver<AllSeen>,
}

impl Checkpoints {
    pub fn follow(bootstrap: &str, topics: &[String]) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "crash-test")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .expect("a consumer");
        let mut begins = TopicPartitionList::new();
        for topic in topics {
            begins.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&begins).expect("assigned");
        let (sender, seen) = watch::channel(AllSeen::new());
        std::thread::spawn(move || {
            while !sender.is_closed() {
                // An error is a broker on its way down or up again; what never arrives is found by whoever waits.
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200))
                    // What a stream keeps beside its checkpoint has keys of its own.
                    && !message.key().unwrap_or_default().starts_with(KEPT.as_bytes())
                {
                    let value =
                        serde_json::from_slice(message.payload().unwrap_or_default()).expect("a checkpoint is JSON");
                    sender.send_modify(|seen| take(seen.entry(message.topic().to_owned()).or_default(), &value));
                }
            }
        });
        Self { patience: ARRIVAL, seen }
    }

    /// Waits until what is seen is as it should be, and returns it.
    pub async fn wait(&self, what: &str, mut as_it_should: impl FnMut(&AllSeen) -> bool) -> AllSeen {
        let (mut seen, patience) = (self.seen.clone(), self.patience);
        let arrived =
            timeout(patience, seen.wait_for(|seen| as_it_should(seen))).await.map(|seen| seen.map(|seen| seen.clone()));
        match arrived {
            Ok(Ok(seen)) => seen,
            Ok(Err(_)) => panic!("the consumer of the checkpoints ended"),
            Err(_) => panic!("waited {patience:?} in vain for {what}; seen: {:?}", self.seen.borrow()),
        }
    }

    /// What has been seen so far.
    pub fn now(&self) -> AllSeen {
        self.seen.borrow().clone()
    }
}

fn take(seen: &mut Seen, checkpoint: &Value) {
    let keys = ["recent", "already"].iter().filter_map(|name| checkpoint["position"][name].as_array()).flatten();
    seen.taken = keys.filter_map(|key| key.as_str().map(str::to_owned)).collect();
    seen.seq = checkpoint["seq"].as_u64().expect("seq is a number");
    seen.jobs = checkpoint["jobs"].as_object().cloned().unwrap_or_default();
    let writer = checkpoint["writer"]["run_id"].as_str().expect("a writer");
    if seen.writers.last().is_none_or(|last| last != writer) {
        seen.writers.push(writer.to_owned());
    }
}

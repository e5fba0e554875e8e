//! A cluster of three, as in production: replication 3, min.insync.replicas 2. One broker may go at any time; when two are
//! gone nothing can be written, and what is shown and what is lost then is the question.

use std::collections::BTreeSet;
use std::time::Duration;

use casewire::kafka::StreamIdentity;
use casewire::simulator::{LedgerLine, SimulatorConfig};
use casewire::status::StreamStatus;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::suite::deployment::{Deployment, Running};
use crate::suite::main_job::{CASES, SESSIONS, passed};
use crate::suite::outages::{IMPATIENT, committed_more, each_once_in_order, ready, traffic, unready};
use crate::suite::own_broker::{OwnBroker, cluster};

/// Whatever has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a broker leads, and which partitions lack replicas.
struct View {
    consumer: BaseConsumer,
}

impl View {
    fn of(bootstrap: &str) -> Self {
        Self { consumer: ClientConfig::new().set("bootstrap.servers", bootstrap).create().expect("a consumer") }
    }

    /// The leader of a partition.
    fn leader(&self, topic: &str, partition: i32) -> i32 {
        let metadata = self.consumer.fetch_metadata(Some(topic), PATIENCE).expect("an answer");
        let found = metadata.topics()[0].partitions().iter().find(|found| found.id() == partition);
        found.expect("the partition").leader()
    }

    /// The broker that coordinates the transactions of an id.
    fn coordinator(&self, transactional_id: &str) -> i32 {
        const PARTITIONS: i32 = 4;
        // Java's String.hashCode.
        let hash = transactional_id
            .encode_utf16()
            .fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
        self.leader("__transaction_state", hash.wrapping_abs().max(0) % PARTITIONS)
    }

    /// Waits until every replica of every partition is in sync.
    async fn whole(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            let short: BTreeSet<String> = match self.consumer.fetch_metadata(None, Duration::from_secs(2)) {
                Ok(metadata) => metadata
                    .topics()
                    .iter()
                    .filter(|topic| topic.partitions().iter().any(|found| found.isr().len() < found.replicas().len()))
                    .map(|topic| topic.name().to_owned())
                    .collect(),
                Err(error) => BTreeSet::from([error.to_string()]),
            };
            if short.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "replicas are still missing: {short:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A process with its org and its traffic.
struct Pipeline {
    deployment: Deployment,
    running: Running,
    stop: CancellationToken,
    publishing: JoinHandle<Vec<LedgerLine>>,
    settings: &'static str,
}

impl Pipeline {
    async fn start(cluster: &OwnBroker, settings: &'static str) -> Self {
        Self::on(Deployment::new(cluster.bootstrap.clone(), SimulatorConfig::on_free_ports()).await, settings).await
    }

    async fn on(deployment: Deployment, settings: &'static str) -> Self {
        let (stop, publishing) = traffic(deployment.control());
        let running = deployment.run(&[CASES, SESSIONS], settings);
        Self { deployment, running, stop, publishing, settings }
    }

    fn cases(&self) -> StreamIdentity {
        StreamIdentity {
            prefix: self.deployment.prefix.clone(),
            org: "00D8d00000AbCdEEAV".parse().expect("an org"),
            topic: CASES.parse().expect("a topic"),
        }
    }

    /// Both streams get on.
    async fn goes_on(&self) {
        for topic in [CASES, SESSIONS] {
            self.stream_goes_on(topic).await;
        }
    }

    async fn stream_goes_on(&self, topic: &str) {
        let committed = |status: &StreamStatus| (status.topic.as_str() == topic).then_some(status.records_committed);
        let before = self.running.board.snapshot().streams.iter().find_map(committed).unwrap_or(0);
        let more = |status: &StreamStatus| committed(status) > Some(before + 20);
        self.running.until_all(topic, |snapshot| snapshot.streams.iter().any(more)).await;
    }

    /// Dies, and starts anew.
    async fn restart(&mut self) {
        let next = self.deployment.run(&[CASES, SESSIONS], self.settings);
        std::mem::replace(&mut self.running, next).abort().await;
    }

    /// All that was published stands in Kafka once and in order.
    async fn finish(self) {
        self.stop.cancel();
        let lines = self.publishing.await.expect("no panic");
        for topic in [CASES, SESSIONS] {
            passed(&self.running, &lines, topic).await;
        }
        let snapshot = self.running.until_all("readiness", ready).await;
        assert!(snapshot.streams.iter().all(|stream| stream.dead_letters == 0), "{snapshot:#?}");
        self.running.stop().await.expect("an orderly end");
        for entity in ["Case", "MessagingSession"] {
            each_once_in_order(&self.deployment.output(entity).await, &lines, entity);
        }
    }
}

/// Any of the three but these.
fn another(than: &[i32]) -> i32 {
    (1..=3).find(|broker| !than.contains(broker)).expect("three brokers")
}

async fn controller(cluster: &OwnBroker) -> i32 {
    cluster.tell("controller", &[]).await.trim().parse().expect("a broker")
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_that_are_killed_and_parted_cost_nothing_but_time() {
    const TEST: &str = "three_brokers_that_are_killed_and_parted_cost_nothing_but_time";
    let t0 = Instant::now();
    let Some(cluster) = cluster(TEST).await else { return };
    eprintln!("cluster {:?}", t0.elapsed());
    // One gives up what is not answered within three seconds and begins again, the other waits for its client library.
    let mut impatient = Pipeline::start(&cluster, IMPATIENT).await;
    let patient = Pipeline::start(&cluster, "").await;
    for pipeline in [&impatient, &patient] {
        committed_more(&pipeline.running, 50).await;
    }
    let view = View::of(&cluster.bootstrap);
    view.whole().await;
    eprintln!("started {:?}", t0.elapsed());

    let stale = view.leader(&impatient.cases().checkpoint_topic(), 0);
    cluster.isolate(stale, "brokers").await;
    impatient.goes_on().await;
    eprintln!("stale, going on {:?}", t0.elapsed());
    for n in 0..6 {
        impatient.restart().await;
        impatient.goes_on().await;
        eprintln!("restart {n} {:?}", t0.elapsed());
    }
    cluster.heal().await;
    impatient.finish().await;
    patient.finish().await;
    eprintln!("finished {:?}", t0.elapsed());
}

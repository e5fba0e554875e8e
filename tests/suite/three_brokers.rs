//! A cluster of three, as in production: replication 3, `min.insync.replicas` 2. One broker may go at any time; when two
//! are gone nothing can be written, and what is shown and what is lost then is the question.

use std::collections::BTreeSet;
use std::time::Duration;

use casewire::kafka::{Checkpoint, KafkaSettings, RunIdentity, StreamIdentity, TransactionalWriter};
use casewire::pipeline::settings;
use casewire::position::{Anchor, Position};
use casewire::simulator::{LedgerLine, SimulatorConfig};
use casewire::status::{LastError, Snapshot, StreamState};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::suite::deployment::{Deployment, Running};
use crate::suite::main_job::{CASES, SESSIONS, passed};
use crate::suite::outages::{IMPATIENT, each_once_in_order, ready, traffic, unready};
use crate::suite::own_broker::{OwnBroker, cluster};

/// Whatever has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(90);

/// The cluster as its brokers see it.
struct View {
    consumer: BaseConsumer,
}

impl View {
    fn of(bootstrap: &str) -> Self {
        Self { consumer: ClientConfig::new().set("bootstrap.servers", bootstrap).create().expect("a consumer") }
    }

    fn leader(&self, topic: &str, partition: i32) -> i32 {
        let metadata = self.consumer.fetch_metadata(Some(topic), PATIENCE).expect("an answer");
        let found = metadata.topics()[0].partitions().iter().find(|found| found.id() == partition);
        found.expect("the partition").leader()
    }

    /// The broker that coordinates the transactions of an id: who leads the partition by Java's hash of it.
    fn coordinator(&self, transactional_id: &str) -> i32 {
        const PARTITIONS: i32 = 4;
        let units = transactional_id.encode_utf16().map(i32::from);
        let hash = units.fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit));
        self.leader("__transaction_state", hash.checked_abs().unwrap_or(0) % PARTITIONS)
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
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn identity(prefix: &str, topic: &str) -> StreamIdentity {
    StreamIdentity {
        prefix: prefix.to_owned(),
        org: "00D8d00000AbCdEEAV".parse().expect("an org"),
        topic: topic.parse().expect("a topic"),
    }
}

/// A process with its org and its traffic.
struct Pipeline {
    deployment: Deployment,
    running: Running,
    stop: CancellationToken,
    publishing: JoinHandle<Vec<LedgerLine>>,
}

impl Pipeline {
    fn start(deployment: Deployment, settings: &str) -> Self {
        let (stop, publishing) = traffic(deployment.control());
        let running = deployment.run(&[CASES, SESSIONS], settings);
        Self { deployment, running, stop, publishing }
    }

    /// Both streams get on.
    async fn goes_on(&self) {
        for topic in [CASES, SESSIONS] {
            self.stream_goes_on(topic).await;
        }
    }

    async fn stream_goes_on(&self, topic: &str) {
        let committed = |snapshot: &Snapshot| {
            let stream = snapshot.streams.iter().find(|stream| stream.topic.as_str() == topic);
            stream.map_or(0, |stream| stream.records_committed)
        };
        let before = committed(&self.running.board.snapshot());
        self.running.until_all(topic, |snapshot| committed(snapshot) > before + 20).await;
    }

    /// All that was published stands in Kafka, once and in order, and nothing was put aside on the way.
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

/// A stream that a test writes itself.
struct Hand {
    settings: KafkaSettings,
    identity: StreamIdentity,
    committed: u64,
}

impl Hand {
    /// Opens a writer, which has to find the last commit, and commits once more. `None`: the cluster did not let it.
    async fn commit(&mut self) -> Option<()> {
        let run = RunIdentity::of_this_process();
        let (mut writer, stored) = TransactionalWriter::open(&self.settings, &self.identity, &run).await.ok()?;
        let found = stored.map_or(0, |stored| stored.checkpoint.seq);
        assert_eq!(found, self.committed, "the newest checkpoint is found, whoever is asked");
        let checkpoint = Checkpoint::at(Position::starting(Anchor::Earliest { since: chrono::Utc::now() }));
        let committed = writer.commit(Vec::new(), checkpoint).await.ok()?;
        self.committed = committed.seq();
        Some(())
    }

    async fn commit_in_the_end(&mut self) {
        let committing = async { while self.commit().await.is_none() {} };
        timeout(PATIENCE, committing).await.expect("two of three brokers are enough");
    }
}

async fn org(cluster: &OwnBroker) -> Deployment {
    Deployment::new(cluster.bootstrap.clone(), SimulatorConfig::on_free_ports()).await
}

/// Two pipelines in mid traffic. One leaves what is not answered to its client library; the other gives it up within three
/// seconds and begins again, and its transactions are coordinated by the broker that is the active controller.
async fn two_pipelines(cluster: &OwnBroker, view: &View) -> ([Pipeline; 2], i32) {
    let patient = Pipeline::start(org(cluster).await, "");
    patient.goes_on().await;
    let controller: i32 = cluster.tell("controller", &[]).await.trim().parse().expect("a broker");
    let mut deployment = org(cluster).await;
    let mut tries = (0..1000).map(|number| format!("{}{number}", deployment.prefix));
    let coordinated = tries.find(|prefix| view.coordinator(&identity(prefix, CASES).transactional_id()) == controller);
    deployment.prefix = coordinated.expect("the controller leads some partition of the transactions' state");
    let impatient = Pipeline::start(deployment, IMPATIENT);
    impatient.goes_on().await;
    view.whole().await;
    ([impatient, patient], controller)
}

async fn all_go_on(pipelines: &[Pipeline]) {
    for pipeline in pipelines {
        pipeline.goes_on().await;
    }
}

/// The broker that is both controller and coordinator is killed while a topic has its second replica there, and then
/// another broker is cut off too. Gives the pipeline of that topic.
async fn two_of_three_are_gone(
    cluster: &OwnBroker,
    view: &View,
    pipelines: &[Pipeline],
    [left, parted, victim]: [i32; 3],
) -> Pipeline {
    let deployment = org(cluster).await;
    deployment.create_topic_on("Case", &[left, victim], &[("min.insync.replicas", "2")]).await;
    let topic = format!("{}.Case", deployment.prefix);
    let short = Pipeline::start(deployment, IMPATIENT);
    short.goes_on().await;

    cluster.crash_one(victim).await;
    all_go_on(pipelines).await;
    short.stream_goes_on(SESSIONS).await;
    let names_it = |error: &LastError| {
        error.what.contains(&format!("Topic `{topic}` takes no writes"))
            && error.what.contains("1 of 2 replicas in sync and min.insync.replicas is 2")
            && error.remedy.contains("--under-min-isr-partitions")
    };
    let waits = |snapshot: &Snapshot| {
        let stream = &snapshot.streams[0];
        matches!(&stream.state, StreamState::Recovering { what, .. } if what.contains("takes no writes"))
            && stream.last_error.as_ref().is_some_and(names_it)
    };
    let snapshot = short.running.until_all("the topic that is short of replicas", waits).await;
    assert!(snapshot.kafka.reachable, "the brokers answer: {snapshot:#?}");
    assert!(unready(CASES, "min.insync.replicas")(&snapshot), "{snapshot:#?}");

    cluster.isolate(parted, "everybody").await;
    let stopped = |snapshot: &Snapshot| {
        // A call that hangs instead of failing is waited for in other words.
        let stands =
            |state: &StreamState| matches!(state, StreamState::Recovering { .. } | StreamState::Stalled { .. });
        snapshot.streams.iter().all(|stream| {
            let told = stream.last_error.as_ref().is_some_and(|error| !error.remedy.is_empty());
            stands(&stream.state) && told
        }) && !snapshot.not_ready().is_empty()
    };
    pipelines[0].running.until_all("both streams that wait", stopped).await;
    cluster.heal().await;
    all_go_on(pipelines).await;
    short.stream_goes_on(SESSIONS).await;
    assert!(waits(&short.running.until_all("the same", waits).await), "nothing was written around it");
    cluster.restart_one(victim).await;
    view.whole().await;
    short
}

/// A leader that lost the others but not its clients believes that it leads, and tells readers how it was.
async fn a_leader_is_parted_that_clients_still_reach(
    cluster: &OwnBroker,
    pipelines: &[Pipeline],
    [stale, others @ ..]: [i32; 3],
) {
    let deployment = org(cluster).await;
    let settings = settings::kafka(&deployment.config(&[CASES], IMPATIENT).kafka).expect("settings");
    let identity = identity(&deployment.prefix, CASES);
    let topic = identity.checkpoint_topic();
    let name = topic.strip_prefix(&format!("{}.", deployment.prefix)).expect("a topic of the prefix");
    deployment.create_topic_on(name, &[stale, others[0], others[1]], &[("cleanup.policy", "compact")]).await;
    let mut hand = Hand { settings, identity, committed: 0 };
    for _ in 0..2 {
        hand.commit_in_the_end().await;
    }
    cluster.isolate(stale, "brokers").await;
    // Each new writer may hear from any of the brokers who leads; what it finds may not depend on that.
    for _ in 0..5 {
        hand.commit_in_the_end().await;
    }
    pipelines[0].goes_on().await;
    cluster.heal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_that_are_killed_and_parted_cost_nothing_but_time() {
    let Some(cluster) = cluster("three_brokers_that_are_killed_and_parted_cost_nothing_but_time").await else { return };
    let view = View::of(&cluster.bootstrap);
    let (pipelines, victim) = two_pipelines(&cluster, &view).await;
    let [left, parted] = match victim {
        1 => [2, 3],
        2 => [3, 1],
        _ => [1, 2],
    };
    let short = two_of_three_are_gone(&cluster, &view, &pipelines, [left, parted, victim]).await;
    a_leader_is_parted_that_clients_still_reach(&cluster, &pipelines, [parted, left, victim]).await;
    // A broker that has just come back tells what it knew for a moment longer.
    view.whole().await;
    for pipeline in pipelines.into_iter().chain([short]) {
        pipeline.finish().await;
    }
}

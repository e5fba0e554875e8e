//! A whole deployment for one test: a simulated org, a real broker, and the process between them.

use std::collections::BTreeMap;
use std::time::Duration;

use casewire::config::Config;
use casewire::failure::Failure;
use casewire::pipeline::process::Process;
use casewire::simulator::{Control, Simulator, SimulatorConfig};
use casewire::status::{Board, Snapshot, StreamStatus};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Whatever has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(90);

/// The broker of the suite; without one the test says so and ends.
pub fn brokers(test: &str) -> Option<String> {
    let brokers = std::env::var("KAFKA_BOOTSTRAP").ok().filter(|address| !address.is_empty());
    if brokers.is_none() {
        eprintln!("NOT RUN: {test}: no broker (KAFKA_BOOTSTRAP)");
    }
    brokers
}

/// An org and a broker with a topic prefix of the test's own.
pub struct Deployment {
    pub simulator: Simulator,
    pub brokers: String,
    pub prefix: String,
}

/// A running process.
pub struct Running {
    pub board: Board,
    pub stop: CancellationToken,
    task: JoinHandle<Result<(), Failure>>,
}

/// One record of the output.
#[derive(Debug, Clone)]
pub struct Output {
    pub key: String,
    pub value: Option<Value>,
    pub raw: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

impl Output {
    pub fn json(&self) -> &Value {
        self.value.as_ref().expect("a record with a JSON value")
    }
}

impl Deployment {
    pub async fn new(brokers: String, simulator: SimulatorConfig) -> Self {
        let simulator = Simulator::start(simulator).await.expect("a simulator");
        let prefix = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        Self { simulator, brokers, prefix }
    }

    pub fn control(&self) -> Control {
        self.simulator.control()
    }

    /// The configuration of a stream of each topic, with `more` laid over it. Gaps are healed only where `more` says so:
    /// most tests compare records with events.
    pub fn config(&self, topics: &[&str], more: &str) -> Config {
        let overrides = more
            .lines()
            .filter_map(|line| line.trim().split_once('='))
            .map(|(key, value)| (format!("CASEWIRE__{}", key.trim()), value.trim().to_owned()))
            .collect();
        let table = self.config_file(topics).parse().expect("TOML");
        Config::from_table(table, &overrides).expect("a valid configuration")
    }

    /// The text of that configuration, for the program itself.
    pub fn config_file(&self, topics: &[&str]) -> String {
        let mut text = format!(
            "[salesforce]\nusername = '{}'\nclient_id = '{}'\nprivate_key = '''\n{}'''\nlogin_url = '{}'\n\
             [salesforce.pubsub]\nendpoint = '{}'\n[kafka]\nbrokers = '{}'\ntopic_prefix = '{}'\n[gaps]\nheal = false\n",
            self.simulator.username(),
            self.simulator.client_id(),
            self.simulator.private_key_pem().expect("the simulator made a key"),
            self.simulator.login_url(),
            self.simulator.pubsub_endpoint(),
            self.brokers,
            self.prefix,
        );
        for topic in topics {
            // The tests of the main job look at what the events themselves say.
            text.push_str(&format!("[[stream]]\ntopic = '{topic}'\nstart = 'earliest'\nrecord = 'never'\n"));
        }
        text
    }

    /// Starts the process; overrides are lines of `SECTION__KEY = value`.
    pub fn run(&self, topics: &[&str], more: &str) -> Running {
        Self::run_configured(self.config(topics, more))
    }

    /// Starts a process with exactly this configuration.
    pub fn run_configured(config: Config) -> Running {
        let process = Process::new(config).expect("a process");
        let (board, stop) = (process.board().clone(), CancellationToken::new());
        let task = tokio::spawn(process.run(stop.clone()));
        Running { board, stop, task }
    }

    /// The committed records of `<prefix>.<name>`, each partition in its order.
    pub async fn output(&self, name: &str) -> Vec<Output> {
        let (brokers, topic) = (self.brokers.clone(), format!("{}.{name}", self.prefix));
        tokio::task::spawn_blocking(move || read_committed(&brokers, &topic)).await.expect("read")
    }

    /// Makes `<prefix>.<name>` with these settings, as an operator would beforehand.
    pub async fn create_topic(&self, name: &str, settings: &[(&str, &str)]) {
        self.create(name, TopicReplication::Fixed(1), settings).await;
    }

    /// The same with replicas on these brokers, of which the first is to lead.
    pub async fn create_topic_on(&self, name: &str, brokers: &[i32], settings: &[(&str, &str)]) {
        self.create(name, TopicReplication::Variable(&[brokers]), settings).await;
    }

    async fn create(&self, name: &str, replication: TopicReplication<'_>, settings: &[(&str, &str)]) {
        let admin = self.admin();
        let topic = format!("{}.{name}", self.prefix);
        let made =
            settings.iter().fold(NewTopic::new(&topic, 1, replication), |made, (key, value)| made.set(key, value));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for outcome in admin.create_topics([&made], &options).await.expect("the broker answers") {
            outcome.expect("created");
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("an admin client")
    }

    /// Deletes `<prefix>.<name>`, as an operator would by mistake.
    pub async fn delete_topic(&self, name: &str) {
        let admin = self.admin();
        let topic = format!("{}.{name}", self.prefix);
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for outcome in admin.delete_topics(&[&topic], &options).await.expect("the broker answers") {
            outcome.expect("deleted");
        }
        // The controller has deleted it; the broker that leads it takes records for a moment longer.
        let brokers = self.brokers.clone();
        let gone = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer =
                ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a consumer");
            let until = std::time::Instant::now() + PATIENCE;
            while consumer.fetch_watermarks(&topic, 0, Duration::from_secs(5)).is_ok() {
                assert!(std::time::Instant::now() < until, "{topic} is still led by somebody");
            }
        });
        gone.await.expect("looked");
    }
}

impl Running {
    /// Waits until the first stream is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&StreamStatus) -> bool) -> StreamStatus {
        let snapshot = self.until_all(what, |snapshot| snapshot.streams.first().is_some_and(&wanted)).await;
        snapshot.streams[0].clone()
    }

    /// Waits until the board is as wanted.
    pub async fn until_all(&self, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let mut changes = self.board.changes();
        let waiting = async {
            loop {
                let snapshot = self.board.snapshot();
                if wanted(&snapshot) {
                    return snapshot;
                }
                changes.changed().await.expect("the board lives");
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(snapshot) => snapshot,
            Err(_) => panic!("in vain for {what}: {:#?}", self.board.snapshot()),
        }
    }

    /// Ends in order.
    pub async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        self.task.await.expect("the process does not panic")
    }

    /// Waits for an end of its own.
    pub async fn ended(self) -> Result<(), Failure> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends").expect("the process does not panic")
    }

    /// Dies without a word, as by SIGKILL, but for the producer's thread.
    pub async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Where a partition begins and ends. While another broker takes over nobody knows, which does not make it empty.
fn bounds(consumer: &BaseConsumer, topic: &str, partition: i32) -> (i64, i64) {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        match consumer.fetch_watermarks(topic, partition, PATIENCE) {
            Ok(bounds) => return bounds,
            Err(error) => assert!(std::time::Instant::now() < until, "{topic} {partition}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn read_committed(brokers: &str, topic: &str) -> Vec<Output> {
    let consumer = |isolation: &str| -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "unused")
            .set("enable.auto.commit", "false")
            .set("isolation.level", isolation)
            // Half a second at the end of each partition otherwise.
            .set("fetch.wait.max.ms", "10")
            .create()
            .expect("a consumer")
    };
    let (committed, ends) = (consumer("read_committed"), consumer("read_uncommitted"));
    let metadata = ends.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    let mut records = Vec::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()) {
        let (low, high) = bounds(&ends, topic, partition);
        if low == high {
            continue;
        }
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, partition, Offset::Offset(low)).expect("an offset");
        committed.assign(&at).expect("assigned");
        let position = || {
            let positions = committed.position().expect("a position");
            positions.find_partition(topic, partition).map_or(Offset::Invalid, |found| found.offset())
        };
        while !matches!(position(), Offset::Offset(offset) if offset >= high) {
            let Some(message) = committed.poll(Duration::from_millis(50)) else { continue };
            let message = message.expect("a record");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            records.push(Output {
                key: text(message.key().unwrap_or_default()),
                value: message.payload().and_then(|payload| serde_json::from_slice(payload).ok()),
                raw: message.payload().unwrap_or_default().to_vec(),
                headers: message
                    .headers()
                    .map(|headers| {
                        headers
                            .iter()
                            .map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default())))
                            .collect()
                    })
                    .unwrap_or_default(),
            });
        }
    }
    records
}

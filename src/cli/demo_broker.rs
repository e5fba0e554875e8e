//! The broker of the demo: a real Kafka through `scripts/kafka` where that is possible without
//! installing anything, otherwise librdkafka's mock cluster, which says on screen what it is not.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tokio::process::Command;

use crate::cli::error::DemoError;
use crate::cli::say;
use crate::failure::Failure;
use crate::identity::{InvalidIdentifier, TopicKind, TopicName};
use crate::kafka::StreamIdentity;

/// A first start downloads 46 MB of jars; without a network it should not hold the demo up for long.
const PATIENCE: Duration = Duration::from_secs(240);

/// A broker that lives as long as the demo.
pub enum DemoBroker {
    /// A real Kafka and the folder it keeps its data in.
    Kafka { bootstrap: String, script: PathBuf, directory: tempfile::TempDir },
    /// The stand-in.
    StandIn { bootstrap: String, _cluster: MockCluster<'static, DefaultProducerContext>, reason: String },
}

impl DemoBroker {
    /// Starts the best broker that can be had.
    ///
    /// # Errors
    /// When not even the stand-in can be started.
    pub async fn start(stand_in: bool, org: &str, prefix: &str, topics: &[&str]) -> Result<Self, Failure> {
        let reason = if stand_in {
            "asked for".to_owned()
        } else {
            say("  broker   starting a real Apache Kafka (the first time its jars are downloaded) …");
            match start_kafka().await {
                Ok(broker) => return Ok(broker),
                Err(reason) => reason,
            }
        };
        start_stand_in(reason, org, prefix, topics)
    }

    /// The bootstrap servers.
    pub fn bootstrap(&self) -> &str {
        match self {
            Self::Kafka { bootstrap, .. } | Self::StandIn { bootstrap, .. } => bootstrap,
        }
    }

    /// Whether it is a real one.
    pub fn is_kafka(&self) -> bool {
        matches!(self, Self::Kafka { .. })
    }

    /// What it is, for the screen.
    pub fn description(&self) -> String {
        match self {
            Self::Kafka { bootstrap, .. } => format!("Apache Kafka at {bootstrap}"),
            Self::StandIn { bootstrap, reason, .. } => {
                format!("DEMO BROKER: not Kafka, no transactions, at {bootstrap}\n           (no real Kafka: {reason})")
            }
        }
    }

    /// The command with which to look at the topics.
    pub fn look(&self, prefix: &str) -> String {
        let isolation = if self.is_kafka() { " -X isolation.level=read_committed" } else { "" };
        format!("kcat -C -b {} -t {prefix}.Case{isolation} -f '%T %k %s\\n'", self.bootstrap())
    }

    /// Stops it and removes its data.
    pub async fn stop(self) {
        if let Self::Kafka { script, directory, .. } = self {
            let mut stop = Command::new(script);
            stop.arg("stop").arg("--directory").arg(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Err(error) = stop.status().await {
                eprintln!("casewire: the demo's Kafka could not be stopped: {error}");
            }
        }
    }
}

/// `scripts/kafka` of the checkout: beside the working directory or above the binary.
fn script() -> Option<PathBuf> {
    let mut places = vec![PathBuf::from(".")];
    if let Ok(binary) = std::env::current_exe() {
        places.extend(binary.ancestors().skip(1).take(4).map(PathBuf::from));
    }
    places.into_iter().map(|place| place.join("scripts/kafka")).find(|path| path.is_file())
}

async fn start_kafka() -> Result<DemoBroker, String> {
    let script = script().ok_or("scripts/kafka of the checkout was not found")?;
    let directory = tempfile::Builder::new()
        .prefix("casewire-demo-")
        .tempdir()
        .map_err(|error| format!("no temporary folder: {error}"))?;
    let mut start = Command::new(&script);
    start.args(["start", "--no-install", "--owner", &std::process::id().to_string(), "--directory"]);
    start.arg(directory.path()).stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, start.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("scripts/kafka took longer than {PATIENCE:?}")),
    };
    let told = String::from_utf8_lossy(&output.stdout);
    match told.lines().find_map(|line| line.strip_prefix("KAFKA_BOOTSTRAP=")) {
        Some(bootstrap) if output.status.success() => {
            Ok(DemoBroker::Kafka { bootstrap: bootstrap.to_owned(), script, directory })
        }
        _ => {
            let words = String::from_utf8_lossy(&output.stderr);
            let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("scripts/kafka failed");
            Err(last.trim().to_owned())
        }
    }
}

/// The mock cluster cannot create topics on request, so they are made here.
fn start_stand_in(reason: String, org: &str, prefix: &str, topics: &[&str]) -> Result<DemoBroker, Failure> {
    let cluster = MockCluster::new(1).map_err(|error| DemoError::StandIn(error.to_string()))?;
    let invalid = |error: InvalidIdentifier| DemoError::StandIn(error.to_string());
    let mut names = vec![(format!("{prefix}.gaps"), 1), (format!("{prefix}.dead-letters"), 1)];
    for topic in topics {
        let topic: TopicName = topic.parse().map_err(invalid)?;
        if let TopicKind::Entity(entity) = topic.kind() {
            names.push((format!("{prefix}.{entity}"), 3));
        }
        let org = org.parse().map_err(invalid)?;
        names.push((StreamIdentity { prefix: prefix.to_owned(), org, topic }.checkpoint_topic(), 1));
    }
    for (name, partitions) in names {
        cluster.create_topic(&name, partitions, 1).map_err(|error| DemoError::StandIn(error.to_string()))?;
    }
    Ok(DemoBroker::StandIn { bootstrap: cluster.bootstrap_servers(), _cluster: cluster, reason })
}

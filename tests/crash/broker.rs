//! A Kafka cluster of the test's own: it is killed and restarted, which nobody else should notice.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::process::Command;

/// One broker with its data in `directory`; stopped and deleted when dropped.
pub struct Broker {
    directory: PathBuf,
    pub bootstrap: String,
}

fn script(command: &str, directory: &Path) -> Command {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka"));
    script.arg(command).arg("--directory").arg(directory).stdin(Stdio::null()).kill_on_drop(false);
    script
}

impl Broker {
    /// Starts it. The error says why there is none, in the script's words.
    pub async fn start(directory: PathBuf) -> Result<Self, String> {
        let owner = std::process::id().to_string();
        let started =
            script("start", &directory).args(["--owner", &owner]).output().await.map_err(|error| error.to_string())?;
        let told = String::from_utf8_lossy(&started.stdout);
        let Some(bootstrap) = told.lines().find_map(|line| line.strip_prefix("KAFKA_BOOTSTRAP=")) else {
            return Err(String::from_utf8_lossy(&started.stderr).trim().to_owned());
        };
        Ok(Self { bootstrap: bootstrap.to_owned(), directory })
    }

    /// `kill -9` and a start on the same data and port.
    pub async fn crash_and_restart(&self) {
        for command in ["crash", "restart"] {
            let status =
                script(command, &self.directory).stdout(Stdio::null()).status().await.expect("the script runs");
            assert!(status.success(), "scripts/kafka {command} failed: {status}");
        }
    }

    /// Makes the checkpoint topics as casewire would, but keeps compaction away from them for a day:
    /// that no number is missing can only be seen while all of them are there.
    pub async fn create_checkpoint_topics(&self, names: &[String]) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create().expect("an admin client");
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                NewTopic::new(name, 1, TopicReplication::Fixed(1))
                    .set("cleanup.policy", "compact")
                    .set("min.compaction.lag.ms", "86400000")
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for outcome in admin.create_topics(&topics, &options).await.expect("the broker answers") {
            outcome.expect("a new topic");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
        let _ = std::process::Command::new(script).arg("stop").arg("--directory").arg(&self.directory).status();
    }
}

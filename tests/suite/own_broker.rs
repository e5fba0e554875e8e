//! A real broker that a test may kill, freeze and lock others out of. One is shared by the tests that need
//! one, since a start costs seconds; each has it to itself while it runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};

static SHARED: Mutex<Weak<OwnBroker>> = Mutex::const_new(Weak::new());

/// The broker's process and its data; both are gone when it is dropped.
pub struct OwnBroker {
    directory: PathBuf,
    _around: tempfile::TempDir,
    /// Nobody is asked for a password here, and access lists do not bind.
    pub bootstrap: String,
    /// By password, and bound by access lists.
    pub sasl_bootstrap: String,
    turn: Arc<Mutex<()>>,
}

/// The broker, for one test. It runs and answers when the test begins.
pub struct Turn {
    broker: Arc<OwnBroker>,
    _turn: OwnedMutexGuard<()>,
}

impl std::ops::Deref for Turn {
    type Target = OwnBroker;

    fn deref(&self) -> &OwnBroker {
        &self.broker
    }
}

/// Waits for the broker. Without one the test says so and ends.
pub async fn own_broker(test: &str) -> Option<Turn> {
    let broker = {
        let mut shared = SHARED.lock().await;
        match shared.upgrade() {
            Some(broker) => broker,
            None => match OwnBroker::start().await {
                Ok(broker) => {
                    let broker = Arc::new(broker);
                    *shared = Arc::downgrade(&broker);
                    broker
                }
                Err(reason) => {
                    eprintln!("NOT RUN: {test}: scripts/kafka could not start a broker: {reason}");
                    return None;
                }
            },
        }
    };
    let turn = broker.turn.clone().lock_owned().await;
    let status = broker.script("status", &[]).await;
    if !status.status.success() {
        broker.must("restart", &[]).await;
    }
    Some(Turn { broker, _turn: turn })
}

fn script(directory: &Path, command: &str) -> Command {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka"));
    script.arg(command).arg("--directory").arg(directory).stdin(Stdio::null());
    script
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("the script runs")
}

impl OwnBroker {
    async fn start() -> Result<Self, String> {
        let around = tempfile::tempdir().map_err(|error| error.to_string())?;
        let directory = around.path().join("kafka");
        let mut start = script(&directory, "start");
        start.args(["--sasl", "--acl", "--owner", &std::process::id().to_string()]);
        let started = output(start).await;
        let told = String::from_utf8_lossy(&started.stdout).into_owned();
        let address = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        match (address("KAFKA_BOOTSTRAP="), address("KAFKA_SASL_BOOTSTRAP=")) {
            (Some(bootstrap), Some(sasl_bootstrap)) => {
                Ok(Self { directory, _around: around, bootstrap, sasl_bootstrap, turn: Arc::default() })
            }
            _ => Err(String::from_utf8_lossy(&started.stderr).trim().to_owned()),
        }
    }

    async fn script(&self, command: &str, arguments: &[&str]) -> Output {
        let mut script = script(&self.directory, command);
        script.args(arguments);
        output(script).await
    }

    async fn must(&self, command: &str, arguments: &[&str]) {
        let done = self.script(command, arguments).await;
        assert!(done.status.success(), "scripts/kafka {command}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// `kill -9`.
    pub async fn crash(&self) {
        self.must("crash", &[]).await;
    }

    /// A start on the same data and ports.
    pub async fn restart(&self) {
        self.must("restart", &[]).await;
    }

    /// Connections stay open and nothing answers.
    pub async fn freeze(&self) {
        self.must("freeze", &[]).await;
    }

    /// Ends [`Self::freeze`].
    pub async fn thaw(&self) {
        self.must("thaw", &[]).await;
    }

    /// Changes the access lists, with the options of `kafka-acls.sh`.
    pub async fn acl(&self, arguments: &str) {
        let arguments: Vec<&str> = std::iter::once("--").chain(arguments.split_whitespace()).collect();
        self.must("acl", &arguments).await;
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let _ = script(&self.directory, "stop").output();
    }
}

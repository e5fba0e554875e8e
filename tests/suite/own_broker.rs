//! A real broker that a test may kill, freeze and lock others out of, or three of them that it may part.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The broker's process and its data; both are gone when it is dropped, or when the tests end otherwise.
pub struct OwnBroker {
    directory: PathBuf,
    /// Nobody is asked for a password here, and access lists do not bind.
    pub bootstrap: String,
    /// By password, and bound by access lists; empty for three brokers, which have no such listener.
    pub sasl_bootstrap: String,
    _around: tempfile::TempDir,
}

/// Starts one. Where that is not possible the test says so and ends.
pub async fn own_broker(test: &str) -> Option<OwnBroker> {
    started(test, &["--sasl", "--acl"]).await
}

/// Starts three of them. Where that is not possible the test says so and ends.
pub async fn cluster(test: &str) -> Option<OwnBroker> {
    started(test, &["--brokers", "3", "--partitionable"]).await
}

async fn started(test: &str, options: &[&str]) -> Option<OwnBroker> {
    let started = OwnBroker::start(options).await;
    if let Err(reason) = &started {
        eprintln!("NOT RUN: {test}: scripts/kafka could not start a broker: {reason}");
    }
    started.ok()
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
    async fn start(options: &[&str]) -> Result<Self, String> {
        let around = tempfile::tempdir().map_err(|error| error.to_string())?;
        let directory = around.path().join("kafka");
        let mut start = script(&directory, "start");
        start.args(options).args(["--owner", &std::process::id().to_string()]);
        let started = output(start).await;
        let told = String::from_utf8_lossy(&started.stdout).into_owned();
        let address = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let sasl_bootstrap = address("KAFKA_SASL_BOOTSTRAP=").unwrap_or_default();
        match address("KAFKA_BOOTSTRAP=") {
            Some(bootstrap) => Ok(Self { directory, bootstrap, sasl_bootstrap, _around: around }),
            None => Err(String::from_utf8_lossy(&started.stderr).trim().to_owned()),
        }
    }

    /// Does what `scripts/kafka` calls by this name; gives what it printed.
    pub async fn tell(&self, command: &str, arguments: &[&str]) -> String {
        let mut script = script(&self.directory, command);
        script.args(arguments);
        let done = output(script).await;
        assert!(done.status.success(), "scripts/kafka {command}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    async fn must(&self, command: &str, arguments: &[&str]) {
        self.tell(command, arguments).await;
    }

    /// `kill -9` of one of three.
    pub async fn crash_one(&self, broker: i32) {
        self.must("crash", &["--broker", &broker.to_string()]).await;
    }

    /// Starts it again.
    pub async fn restart_one(&self, broker: i32) {
        self.must("restart", &["--broker", &broker.to_string()]).await;
    }

    /// Takes the network away between one of three and the `brokers`, the `clients` or `everybody`. It lives on.
    pub async fn isolate(&self, broker: i32, from: &str) {
        self.must("isolate", &["--broker", &broker.to_string(), "--from", from]).await;
    }

    /// Ends [`Self::isolate`].
    pub async fn heal(&self) {
        self.must("heal", &[]).await;
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

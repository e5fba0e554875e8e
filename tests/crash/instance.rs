//! One process of casewire.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A process that has not ended by then hangs. Far beyond anything a healthy one needs.
const END: Duration = Duration::from_secs(120);

/// `casewire run`, killed when dropped.
pub struct Instance {
    process: Child,
    pub name: String,
}

impl Instance {
    /// Starts it. Its log goes to `<name>.log` beside the configuration.
    pub fn start(config: &Path, name: String, failpoint: Option<&str>) -> Self {
        let directory = config.parent().expect("the configuration stands in a directory");
        let log = File::create(directory.join(format!("{name}.log"))).expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_casewire"));
        command.args(["run", "--config"]).arg(config);
        command.env("CASEWIRE__LOG__FORMAT", "text").env_remove("CASEWIRE_FAILPOINT").env("RUST_BACKTRACE", "1");
        if let Some(failpoint) = failpoint {
            command.env("CASEWIRE_FAILPOINT", failpoint);
        }
        let errors = log.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(log).stderr(errors).kill_on_drop(true);
        Self { process: command.spawn().expect("casewire starts"), name }
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, signal: &str) {
        let id = self.process.id().expect("it has not ended").to_string();
        // Bash has `kill` built in; not every machine has it as a program.
        let kill = Command::new("bash").args(["-c", r#"kill -s "$0" "$1""#, signal, &id]).status();
        let status = kill.await.expect("bash runs");
        assert!(status.success(), "kill -s {signal} {id}: {status}");
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(mut self) {
        assert!(!self.has_ended(), "{} ended before it was killed", self.name);
        self.process.kill().await.expect("it can be killed");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("its state can be asked").is_some()
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> ExitStatus {
        self.ended_within(END).await
    }

    /// The same where it has more to do than usual.
    pub async fn ended_within(mut self, patience: Duration) -> ExitStatus {
        let ended = timeout(patience, self.process.wait()).await;
        ended.unwrap_or_else(|_| panic!("{} does not end", self.name)).expect("its state can be asked")
    }
}

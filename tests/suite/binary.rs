//! The real binary as an operator meets it: a configuration file, arguments, signals, and what it prints.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casewire::simulator::Simulator;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Whatever has not happened by then will not.
const PATIENCE: Duration = Duration::from_secs(90);

/// A directory with a configuration file and the key beside it.
pub struct Installation {
    pub directory: tempfile::TempDir,
    pub config: PathBuf,
}

impl Installation {
    /// Streams of `topics` from the earliest event, with `more` behind the configuration's text.
    pub fn new(simulator: &Simulator, brokers: &str, prefix: &str, topics: &[&str], more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = directory.path().join("key.pem");
        std::fs::write(&key, simulator.private_key_pem().expect("the simulator made a key")).expect("written");
        // As the guide has it; a run warns of a key that everybody can read.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("set");
        }
        let mut text = format!(
            "[salesforce]\nusername = '{}'\nclient_id = '{}'\nprivate_key_file = '{}'\nlogin_url = '{}'\n\
             [salesforce.pubsub]\nendpoint = '{}'\n[admin]\nlisten = '127.0.0.1:0'\n",
            simulator.username(),
            simulator.client_id(),
            key.display(),
            simulator.login_url(),
            simulator.pubsub_endpoint(),
        );
        for topic in topics {
            text.push_str(&format!("[[stream]]\ntopic = '{topic}'\nstart = 'earliest'\n"));
        }
        text.push_str(&format!("[kafka]\nbrokers = '{brokers}'\ntopic_prefix = '{prefix}'\n{more}\n"));
        let config = directory.path().join("casewire.toml");
        std::fs::write(&config, text).expect("written");
        Self { directory, config }
    }

    /// `casewire <words> --config <file>`, started.
    pub fn start(&self, words: &str) -> Running {
        let config = self.config.display();
        Running::start(&format!("{words} --config {config}"))
    }

    /// The same, to its end.
    pub async fn output(&self, words: &str) -> Finished {
        self.start(words).ended().await
    }
}

/// `casewire <words>` to its end.
pub async fn casewire(words: &str) -> Finished {
    Running::start(words).ended().await
}

/// What a process left.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Holds the exit code and that all of `words` are on stderr.
    #[track_caller]
    pub fn failed_with(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in {}", self.stderr);
        }
    }

    /// Holds that it succeeded, and returns what it printed.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// A process, killed when dropped.
pub struct Running {
    process: Child,
    stdout: Lines,
    stderr: Lines,
}

/// The lines of a pipe so far.
struct Lines {
    text: Arc<Mutex<String>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Lines {
    fn of(pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let (kept, mut lines) = (text.clone(), BufReader::new(pipe).lines());
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().expect("no reader panics");
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Self { text, reader }
    }

    fn so_far(&self) -> String {
        self.text.lock().expect("no reader panics").clone()
    }

    async fn all(self) -> String {
        self.reader.await.expect("the reader does not panic");
        self.text.lock().expect("no reader panics").clone()
    }
}

impl Running {
    /// Starts `casewire <words>` without a terminal and with none of this machine's own overrides.
    pub fn start(words: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casewire"));
        Self::of(command.args(words.split_whitespace()))
    }

    /// Starts any command in the same surroundings.
    pub fn of(command: &mut Command) -> Self {
        command.env_remove("RUST_LOG").env_remove("CASEWIRE_CONFIG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("casewire starts");
        let stdout = Lines::of(process.stdout.take().expect("piped"));
        let stderr = Lines::of(process.stderr.take().expect("piped"));
        Self { process, stdout, stderr }
    }

    /// Waits until `found` finds something in what was printed to stdout and stderr.
    pub async fn until<T>(&self, what: &str, found: impl Fn(&str, &str) -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = found(&self.stdout.so_far(), &self.stderr.so_far()) {
                    return found;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let outcome = timeout(PATIENCE, looking).await;
        outcome.unwrap_or_else(|_| panic!("in vain for {what}: {}{}", self.stdout.so_far(), self.stderr.so_far()))
    }

    /// Where its admin port is, once it is open.
    pub async fn admin(&self) -> Admin {
        let address = |_: &str, stderr: &str| {
            let line = stderr.lines().find(|line| line.contains("serving /live"))?;
            let line: Value = serde_json::from_str(line).ok()?;
            Some(line.get("address")?.as_str()?.to_owned())
        };
        Admin { address: self.until("the admin port", address).await }
    }

    /// The most memory that it ever had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let id = self.process.id().expect("it has not ended");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("Linux tells");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// Sends signals by their names, one after the other.
    pub async fn signal(&self, signals: &[&str]) {
        let id = self.process.id().expect("it has not ended").to_string();
        let script: Vec<String> = signals.iter().map(|signal| format!("kill -s {signal} {id}")).collect();
        // Bash has `kill` built in; not every machine has it as a program.
        let status = Command::new("bash").args(["-ec", &script.join("\n")]).status().await.expect("bash runs");
        assert!(status.success(), "{script:?}: {status}");
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> Finished {
        let status: ExitStatus = match timeout(PATIENCE, self.process.wait()).await {
            Ok(status) => status.expect("its state can be asked"),
            Err(_) => panic!("it does not end: {}{}", self.stdout.so_far(), self.stderr.so_far()),
        };
        Finished { code: status.code(), stdout: self.stdout.all().await, stderr: self.stderr.all().await }
    }

    /// SIGTERM, and what it left.
    pub async fn terminated(self) -> Finished {
        self.signal(&["TERM"]).await;
        self.ended().await
    }
}

/// The admin port of a running instance.
pub struct Admin {
    pub address: String,
}

impl Admin {
    /// Code and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.address)).await.expect("answered");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    /// Waits until `/status` is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let status: Value = serde_json::from_str(&self.get("/status").await.1).expect("JSON");
                if wanted(&status) {
                    return status;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        match timeout(PATIENCE, asking).await {
            Ok(status) => status,
            Err(_) => panic!("in vain for {what}: {}", self.get("/status").await.1),
        }
    }

    /// Waits until the first stream has taken the event with this replay id.
    pub async fn arrived(&self, replay_id: &str) {
        let taken = |status: &Value| status["process"]["streams"][0]["last_replay_id"].as_str() >= Some(replay_id);
        self.until("the last event", taken).await;
    }
}

//! The Salesforce side: `casewire simulate` as a process of its own, ordered about over its control port.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::{ORG, Plan, STREAMS};

/// An org that has not done what it was told by then hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at the counters.
const LOOK: Duration = Duration::from_millis(3);

/// The simulator, ended when dropped.
pub struct Org {
    ports: [u16; 3],
    ledger: PathBuf,
    client: reqwest::Client,
    _process: Child,
}

impl Org {
    pub async fn start(directory: &Path, seed: u64, ports: [u16; 3], plan: &Plan) -> Self {
        let ledger = directory.join("ledger.jsonl");
        let [http, pubsub, control] = ports;
        let config = format!(
            "seed = {}\norg_id = \"{ORG}\"\nledger = \"{}\"\ndirectory = \"{}\"\n\
             [listen]\nhttp = \"127.0.0.1:{http}\"\npubsub = \"127.0.0.1:{pubsub}\"\ncontrol = \"127.0.0.1:{control}\"\n\
             [pubsub]\ndelivery_allocation = 100000000\nbad_token_delay = \"10ms\"\n\
             [rest]\ndaily_requests = 100000000\n{}\
             [traffic]\nrate = 0.0\nbacklog = 0\nentities = [\"Case\", \"MessagingSession\", \"Case_Escalation__e\"]\nmost_merged = 60\n\
             [traffic.mix]\n{}",
            seed & 0xffff_ffff,
            ledger.display(),
            directory.join("org").display(),
            plan.rest,
            plan.mix,
        );
        let path = directory.join("simulator.toml");
        std::fs::write(&path, config).expect("a configuration file");
        let log = File::create(directory.join("simulator.log")).expect("a log file");
        let errors = log.try_clone().expect("a second handle");
        let mut command = Command::new(env!("CARGO_BIN_EXE_casewire"));
        command
            .args(["simulate", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true);
        let process = command.spawn().expect("the simulator starts");
        let org = Self { ports, ledger, client: reqwest::Client::new(), _process: process };
        org.is_up().await;
        org
    }

    pub fn login_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    pub fn pubsub_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    pub fn ledger(&self) -> &Path {
        &self.ledger
    }

    fn control(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[2])
    }

    async fn is_up(&self) {
        let answered = async {
            while self.client.get(self.control("/stats")).send().await.is_err() {
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, answered).await.expect("the simulator opens its control port");
    }

    async fn post(&self, path: &str, body: Value) -> String {
        let answer = self.client.post(self.control(path)).json(&body).send().await.expect("the simulator answers");
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        assert!(status.is_success(), "{path} {body}: {status} {text}");
        text
    }

    /// Publishes one event as ordered. It is in the ledger when this returns.
    pub async fn publish(&self, order: Value) {
        self.post("/publish", order).await;
    }

    /// Every record of an object as it truly is, one JSON object a line.
    pub async fn records(&self, entity: &str) -> String {
        let answer = self.client.get(self.control(&format!("/records/{entity}"))).send().await;
        answer.expect("the simulator answers").text().await.expect("the records come whole")
    }

    /// The ids of all records that are there.
    pub async fn ids(&self, entity: &str) -> Vec<String> {
        let records = self.records(entity).await;
        let records = records.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record is JSON"));
        let alive = records.filter(|record| record["deleted"] == false);
        alive.map(|record| record["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Publishes so many events. They are in the ledger when this returns.
    pub async fn generate(&self, count: u64) {
        self.post("/generate", json!({ "count": count })).await;
    }

    pub async fn fault(&self, fault: Value) {
        self.post("/faults", fault).await;
    }

    async fn lines(&self, path: &str) -> Vec<Value> {
        let answer = self.client.get(self.control(path)).send().await.expect("the simulator answers");
        let text = answer.text().await.expect("a text");
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Lets something be said in a few sessions, each with an event that tells of it, and some of what was said be redacted.
    pub async fn talk(&self, dice: &mut StdRng, messages: usize) {
        let mut sessions = self.lines("/records/MessagingSession").await;
        sessions
            .retain(|session| session["deleted"] == json!(false) && session["fields"]["ConversationId"].is_string());
        let said = self.lines("/messages").await;
        for number in 0..if sessions.is_empty() { 0 } else { messages } {
            let session = &sessions[dice.random_range(0..sessions.len())];
            let conversation = &session["fields"]["ConversationId"];
            let earlier: Vec<_> = said.iter().filter(|entry| entry["conversation_id"] == *conversation).collect();
            if !earlier.is_empty() && dice.random_bool(0.5) {
                let entry = earlier[dice.random_range(0..earlier.len())];
                let text = format!("redacted {number} after {}", said.len());
                let (conversation, entry) = (&entry["conversation"], &entry["identifier"]);
                self.fault(json!({ "kind": "redact", "conversation": conversation, "entry": entry, "text": text }))
                    .await;
            }
            let text = format!("message {number} after {}", said.len());
            self.post("/messages", json!({ "session": session["id"], "text": text })).await;
        }
    }

    /// Writes down what was truly said, for the judge.
    pub async fn write_messages(&self, path: &Path) {
        let lines: String = self.lines("/messages").await.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(path, lines).expect("a file");
    }

    /// What the org has counted so far.
    pub async fn counted(&self, what: &str) -> u64 {
        let answer = self.client.get(self.control("/stats")).send().await.expect("the simulator answers");
        let stats: Value = answer.json().await.expect("the counters are JSON");
        stats[what].as_u64().expect("a counter")
    }

    /// Events delivered so far, to whomever, each as often as it was.
    pub async fn events_sent(&self) -> u64 {
        self.counted("events_sent").await
    }

    /// Waits until so many events have been delivered.
    pub async fn has_sent(&self, events: u64) {
        let began = Instant::now();
        while self.events_sent().await < events {
            assert!(began.elapsed() < PATIENCE, "the simulator does not come to deliver {events} events");
            sleep(LOOK).await;
        }
    }

    /// The last event that was published on each stream, as `replay id/event id`.
    pub fn last_events(&self) -> BTreeMap<&'static str, String> {
        let mut last = BTreeMap::new();
        for line in BufReader::new(File::open(&self.ledger).expect("a ledger")).lines() {
            let line: Value = serde_json::from_str(&line.expect("readable")).expect("a ledger line is JSON");
            let text = |name: &str| line[name].as_str().expect("a text").to_owned();
            let carried = line["topics"].as_array().expect("topics");
            for stream in STREAMS.iter().filter(|stream| carried.iter().any(|topic| topic == **stream)) {
                last.insert(*stream, format!("{}/{}", text("replay_id"), text("event_id")));
            }
        }
        last
    }
}

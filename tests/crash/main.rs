//! The crash test: the real binary against a real broker, killed at random moments and at the worst ones,
//! with an organisation that cuts streams and sends events again, a broker that goes down, and two
//! instances that fight for one identity. Then `scripts/judge`, which shares no code with any of them,
//! compares what was sent with what a consumer reads.
//!
//! What jobs read anew is put to the same test in [`healing`], and the first synchronisation of an org that is not
//! empty in [`first_sync`].
//!
//! The seed is printed; `CASEWIRE_CRASH_SEED` repeats a run. Everything waits for something to have
//! happened: events delivered, checkpoints committed, processes ended.

mod broker;
mod checkpoints;
mod first_sync;
mod healing;
mod instance;
mod org;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use broker::Broker;
use checkpoints::Checkpoints;
use instance::Instance;
use org::Org;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;

const STREAMS: [&str; 3] = ["/data/CaseChangeEvent", "/data/MessagingSessionChangeEvent", "/event/Case_Escalation__e"];
const ORG: &str = "00D8d00000AbCdEEAV";
const PREFIX: &str = "crash";
/// All events of the run.
const EVENTS: u64 = 20_000;
/// SIGKILLs at random moments.
const KILLS: u64 = 10;
/// Where the process ends itself, each place twice.
const FAILPOINTS: [&str; 4] = ["after_begin", "after_records", "after_checkpoint", "after_commit"];
/// At which of the transactions that come by: behind those by which each stream announces its new writer,
/// which hold no records, and within the least that a portion needs.
const HITS: RangeInclusive<u32> = 7..=16;
/// Portions in which the events are published: one a kill, two a failpoint, one for the broker, three for the fight.
const PORTIONS: u64 = KILLS + 2 * FAILPOINTS.len() as u64 + 4;
const PORTION: u64 = EVENTS.div_ceil(PORTIONS);
/// What was said during the whole run may take so long to be fetched at its end.
const FETCHED: Duration = Duration::from_secs(600);
/// Messages of a portion.
const SAID: usize = 12;
/// Between two looks at the status.
const LOOK: Duration = Duration::from_millis(100);

/// What a run is about.
struct Plan {
    /// The `record` of each stream, in the order of [`STREAMS`].
    records: [&'static str; 3],
    /// Tables of casewire's configuration.
    settings: &'static str,
    /// What differs from the usual mix of traffic, as TOML.
    mix: &'static str,
    /// How the org's REST APIs behave, as TOML.
    rest: &'static str,
    /// Whether something is said in messaging sessions, and fetched.
    messages: bool,
}

/// An org that allows more calls than anybody makes.
const FREE: &str = "conversation_calls = 1000000\nrepeated_entries = 10\n";

/// Every record has to come from an event, so that the judge can compare each state with what events told: gaps stay
/// open.
const EVENTS_ONLY: Plan = Plan {
    records: ["when_needed", "always", "never"],
    settings: "[gaps]\nheal = false\n[messages]\ncalls_per_hour = 1000000\nmax_active = 100000\nsettle = \"10ms\"\n",
    mix: "snapshot = 10\nfuture_change_type = 10\n",
    rest: FREE,
    messages: true,
};

/// Everything that takes part in a run.
struct Scene {
    plan: &'static Plan,
    directory: PathBuf,
    dice: StdRng,
    broker: Broker,
    org: Org,
    checkpoints: Checkpoints,
    started: u32,
    published: u64,
    /// Of the instance that was started last.
    admin: u16,
    /// Tables of casewire's configuration beside those of the plan.
    more: &'static str,
}

fn checkpoint_topic(stream: &str) -> String {
    format!("{PREFIX}.checkpoints.{ORG}.{}", stream.trim_start_matches('/').replace('/', "."))
}

/// Free at this moment, and all different.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("bound").port())
}

impl Scene {
    async fn set_up(directory: &Path, seed: u64, plan: &'static Plan) -> Result<Self, String> {
        let broker = Broker::start(directory.join("kafka")).await?;
        let topics = STREAMS.map(checkpoint_topic);
        broker.create_checkpoint_topics(&topics).await;
        let checkpoints = Checkpoints::follow(&broker.bootstrap, &topics);
        let org = Org::start(directory, seed, free_ports(), plan).await;
        let directory = directory.to_owned();
        let dice = StdRng::seed_from_u64(seed);
        Ok(Self { plan, directory, dice, broker, org, checkpoints, started: 0, published: 0, admin: 0, more: "" })
    }

    /// Transactions are kept small so that a kill meets one under way, and another is never far.
    fn start(&mut self, failpoint: Option<&str>) -> Instance {
        self.started += 1;
        let name = format!("casewire-{:02}", self.started);
        let [admin] = free_ports();
        self.admin = admin;
        let mut config = format!(
            "[salesforce]\nclient_id = \"3MVG9casewireSimulator\"\nclient_secret = \"simulated-secret\"\nlogin_url = \"{}\"\n\
             [salesforce.pubsub]\nendpoint = \"{}\"\n\
             [kafka]\nbrokers = \"{}\"\ntopic_prefix = \"{PREFIX}\"\npartitions = 3\nreplication_factor = 1\n\
             [batch]\nmax_records = 40\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n{}{}",
            self.org.login_url(),
            self.org.pubsub_url(),
            self.broker.bootstrap,
            self.plan.settings,
            self.more,
        );
        for (stream, record) in STREAMS.iter().zip(self.plan.records) {
            let messages = self.plan.messages && *stream == STREAMS[1];
            config += &format!("[[stream]]\ntopic = \"{stream}\"\nstart = \"earliest\"\nrecord = \"{record}\"\n");
            config += &format!("messages = {messages}\n");
        }
        let path = self.directory.join(format!("{name}.toml"));
        std::fs::write(&path, config).expect("a configuration file");
        eprintln!("{name} starts{}", failpoint.map(|name| format!(", to end at {name}")).unwrap_or_default());
        Instance::start(&path, name, failpoint)
    }

    /// The configuration of the instance that was started last.
    fn last_config(&self) -> PathBuf {
        self.directory.join(format!("casewire-{:02}.toml", self.started))
    }

    /// Publishes a portion and waits until the org has delivered some of it, usually not all.
    async fn publish_and_deliver_some(&mut self) {
        let before = self.org.events_sent().await;
        self.publish().await;
        let some = self.dice.random_range(1..PORTION);
        self.org.has_sent(before + some).await;
    }

    /// The same, with a disturbance on the way, so that what follows meets events under way again.
    async fn publish_and_deliver_some_disturbed(&mut self) {
        let before = self.org.events_sent().await;
        self.publish().await;
        let some = self.dice.random_range(1..PORTION / 2);
        self.org.has_sent(before + some).await;
        self.disturb().await;
        let more = self.dice.random_range(some..PORTION);
        self.org.has_sent(before + more).await;
    }

    async fn publish(&mut self) {
        self.published += PORTION;
        self.org.generate(PORTION).await;
        if self.plan.messages {
            self.org.talk(&mut self.dice, SAID).await;
        }
    }

    /// Waits until nothing of what was said waits to be fetched. What does is on the board before the position is.
    async fn all_fetched(&self) {
        let url = format!("http://127.0.0.1:{}/status", self.admin);
        let last = self.org.last_events()[STREAMS[1]].split('/').next().expect("a replay id").to_owned();
        let fetched = async {
            loop {
                if let Ok(answer) = reqwest::get(&url).await
                    && let Ok(status) = answer.json::<Value>().await
                    && let Some(streams) = status["process"]["streams"].as_array()
                    && let Some(stream) = streams.iter().find(|stream| stream["topic"] == STREAMS[1])
                    && stream["last_replay_id"].as_str() >= Some(last.as_str())
                    && stream["messages"]["sessions_waiting"] == json!(0)
                {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(FETCHED, fetched).await.expect("all that was said is fetched");
    }

    /// Waits until every event published so far is in a committed checkpoint.
    async fn all_committed(&self) {
        let last = self.org.last_events();
        self.checkpoints
            .wait("the last event of every stream", |seen| {
                last.iter().all(|(stream, key)| {
                    seen.get(&checkpoint_topic(stream)).is_some_and(|seen| seen.taken.contains(key))
                })
            })
            .await;
    }

    /// Starts an instance and waits until it writes every stream.
    async fn start_and_take_over(&mut self) -> Instance {
        let before = self.writers();
        let instance = self.start(None);
        let wrote = |topic: &str| before.get(topic).map_or(0, Vec::len);
        let all = STREAMS.map(checkpoint_topic);
        self.checkpoints
            .wait("a new writer of every stream", |seen| {
                all.iter().all(|topic| seen.get(topic).is_some_and(|seen| seen.writers.len() > wrote(topic)))
            })
            .await;
        instance
    }

    /// What networks, Salesforce and administrators do by themselves. The next call is sent events again as well.
    async fn disturb(&mut self) {
        let events = self.dice.random_range(1..60);
        self.org.fault(json!({ "kind": "redeliver", "events": events })).await;
        let fault = match self.dice.random_range(0..8) {
            0 => json!({ "kind": "cut-streams" }),
            1 => json!({ "kind": "end-streams" }),
            2 => json!({ "kind": "drop-connections" }),
            3 => json!({ "kind": "go-away" }),
            4 => json!({ "kind": "revoke-tokens" }),
            5 => json!({ "kind": "add-field", "entity": "Case", "field": format!("Added_{}__c", self.started) }),
            6 => json!({ "kind": "poison", "events": 2 }),
            _ => json!({ "kind": "fail-get-schema", "status": 14, "error_code": "schema.api.unavailable", "times": 2 }),
        };
        self.org.fault(fault).await;
    }

    fn writers(&self) -> BTreeMap<String, Vec<String>> {
        self.checkpoints.now().into_iter().map(|(topic, seen)| (topic, seen.writers)).collect()
    }

    /// The judge's answer. It is another program in another language, and reads with another client.
    fn judge(&self, more: &[String]) -> Value {
        let mut judge = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/judge"));
        judge.args(["--json", "--prefix", PREFIX, "--org", ORG, "--bootstrap", &self.broker.bootstrap]).args(more);
        judge.arg("--ledger").arg(self.org.ledger());
        STREAMS.iter().for_each(|stream| {
            judge.args(["--stream", stream]);
        });
        let answer = judge.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("the judge runs");
        serde_json::from_slice(&answer.stdout)
            .unwrap_or_else(|error| panic!("the judge gave no answer ({}): {error}", answer.status))
    }
}

/// Ten times: some of a portion delivered, a disturbance, SIGKILL.
async fn kills_at_random_moments(scene: &mut Scene) {
    let mut instance = scene.start(None);
    for _ in 0..KILLS {
        scene.publish_and_deliver_some_disturbed().await;
        instance.kill().await;
        instance = scene.start(None);
    }
    scene.all_committed().await;
    instance.kill().await;
}

/// The process ends itself at the places where a commit could be half done.
async fn ends_at_named_places(scene: &mut Scene) {
    for place in FAILPOINTS.iter().chain(&FAILPOINTS) {
        let failpoint = format!("{place}:{}", scene.dice.random_range(HITS));
        let instance = scene.start(Some(&failpoint));
        scene.publish().await;
        let status = instance.ended().await;
        assert!(status.signal().is_some(), "at {failpoint} it did not come to its end but ended with {status}");
    }
}

/// The broker dies with transactions under way and comes back with the same data.
async fn a_broker_goes_down_and_comes_back(scene: &mut Scene) {
    let mut instance = scene.start_and_take_over().await;
    scene.publish_and_deliver_some().await;
    scene.broker.crash_and_restart().await;
    scene.all_committed().await;
    assert!(!instance.has_ended(), "a broker that goes down must not end the process");
    instance.kill().await;
}

/// One instance is frozen in the middle of its work, a second takes over, and then the first one thaws
/// with a transaction open and a batch in memory. It has to notice and stand by.
async fn two_instances_fight_for_one_identity(scene: &mut Scene) {
    let first = scene.start_and_take_over().await;
    scene.publish_and_deliver_some().await;
    first.signal("STOP").await;
    let before = scene.writers();
    let second = scene.start_and_take_over().await;
    scene.publish().await;
    scene.all_committed().await;
    first.signal("CONT").await;
    scene.publish().await;
    scene.all_committed().await;
    for (topic, writers) in scene.writers() {
        let take_overs = writers.len() - before.get(&topic).map_or(0, Vec::len);
        assert!((1..=2).contains(&take_overs), "{topic}: {take_overs} take-overs while two instances ran");
    }
    for instance in [first, second] {
        instance.signal("TERM").await;
        let name = instance.name.clone();
        let status = instance.ended().await;
        assert!(status.success(), "{name}: an orderly end has to be one: {status}");
    }
}

/// What the crashes left to be fetched is, and nothing twice.
async fn what_was_said_is_fetched(scene: &mut Scene) {
    let instance = scene.start_and_take_over().await;
    scene.org.talk(&mut scene.dice, SAID).await;
    scene.all_committed().await;
    scene.all_fetched().await;
    instance.kill().await;
    scene.org.write_messages(&scene.directory.join("messages.jsonl")).await;
}

/// Sets a run up in a directory that stays when the run fails. None where it cannot be: the reason is printed.
async fn set_up(what: &str, plan: &'static Plan) -> Option<(Scene, TempDir)> {
    if !cfg!(feature = "failpoints") {
        eprintln!("NOT RUN: {what}: casewire was built without --features failpoints");
        return None;
    }
    // Once for all tests: two of them would build one environment at the same time.
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let judge = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/judge");
        Command::new(judge).arg("--install").status().is_ok_and(|status| status.success())
    });
    if !installed {
        eprintln!("NOT RUN: {what}: the judge and its Kafka client cannot be installed (Python 3 with venv, PyPI)");
        return None;
    }
    let given = std::env::var("CASEWIRE_CRASH_SEED").ok();
    let seed = given.map_or_else(rand::random, |seed| seed.parse().expect("CASEWIRE_CRASH_SEED is a number"));
    let mut directory = tempfile::Builder::new().prefix("casewire-crash-").tempdir().expect("a temporary directory");
    directory.disable_cleanup(true);
    eprintln!("{what}: CASEWIRE_CRASH_SEED={seed}, everything is in {}", directory.path().display());
    match Scene::set_up(directory.path(), seed, plan).await {
        Ok(scene) => Some((scene, directory)),
        Err(reason) => {
            eprintln!("NOT RUN: {what}: it has to kill a broker of its own, and none can be started: {reason}");
            None
        }
    }
}

/// Asserts that the judge finds nothing.
fn assert_clean(verdict: &Value) {
    assert_eq!(verdict["verdict"], "clean", "{verdict:#}");
    eprintln!("judged: {}", verdict["seen"]);
}

/// Asserts that there was something to be found: an end inside a transaction.
fn assert_aborted_transactions(verdict: &Value) {
    let hidden = verdict["seen"]["records of aborted transactions, not visible"].as_u64();
    assert!(
        hidden.is_some_and(|hidden| hidden > 0),
        "no end came inside a transaction, so nothing was put to the test"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_written_once_through_crashes_cuts_and_take_overs() {
    let Some((mut scene, mut directory)) = set_up("the crash test", &EVENTS_ONLY).await else { return };
    kills_at_random_moments(&mut scene).await;
    ends_at_named_places(&mut scene).await;
    a_broker_goes_down_and_comes_back(&mut scene).await;
    two_instances_fight_for_one_identity(&mut scene).await;
    what_was_said_is_fetched(&mut scene).await;

    assert_eq!(scene.published, PORTION * PORTIONS);
    let said = scene.directory.join("messages.jsonl").display().to_string();
    let verdict = scene.judge(&["--fold".to_owned(), "--messages".to_owned(), said]);
    assert_clean(&verdict);
    assert_aborted_transactions(&verdict);
    drop(scene);
    directory.disable_cleanup(false);
}

//! The commands: the real binary over real sockets, from its arguments to its exit code.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casewire::simulator::{EventOrder, Fault, LedgerLine, Mix, Simulator, SimulatorConfig};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::suite::binary::{Finished, Installation, Running, casewire};
use crate::suite::deployment::{Deployment, Output, brokers};

const CASES: &str = "/data/CaseChangeEvent";
/// Nothing listens there.
const NOWHERE: &str = "127.0.0.1:1";

/// An org in which each event of a case is one record.
fn plain() -> SimulatorConfig {
    let mut settings = SimulatorConfig::on_free_ports();
    settings.traffic.mix = Mix::plain();
    settings.traffic.entities = vec!["Case".to_owned()];
    settings
}

fn installed(deployment: &Deployment) -> Installation {
    Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[CASES], "")
}

/// The same, with gaps that stay as they were opened.
fn installed_without_reading(deployment: &Deployment) -> Installation {
    let installation = Installation::new(
        &deployment.simulator,
        &deployment.brokers,
        &deployment.prefix,
        &[CASES],
        "[gaps]\nheal = false",
    );
    let text = std::fs::read_to_string(&installation.config).expect("a file");
    let text = text.replace("start = 'earliest'\n", "start = 'earliest'\nrecord = 'never'\n");
    std::fs::write(&installation.config, text).expect("written");
    installation
}

fn ids(lines: &[LedgerLine]) -> Vec<String> {
    lines.iter().map(|line| line.event_id.clone()).collect()
}

fn sorted_ids(records: &[Output]) -> Vec<String> {
    let mut ids: Vec<String> = records.iter().map(|record| record.headers["event_id"].clone()).collect();
    ids.sort();
    ids
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

fn last(lines: &[LedgerLine]) -> &str {
    &lines.last().expect("an event").replay_id
}

#[tokio::test(flavor = "multi_thread")]
async fn help_has_an_example_for_every_command_and_a_wrong_command_line_ends_with_64() {
    let commands = [
        "",
        "run",
        "demo",
        "simulate",
        "tail",
        "gaps",
        "reconcile",
        "dead-letters",
        "doctor",
        "keygen",
        "health",
        "completions",
        "man",
    ];
    let below = [
        "checkpoint show",
        "checkpoint set",
        "checkpoint reset",
        "config check",
        "config print",
        "config schema",
        "keygen show",
        "dead-letters list",
        "dead-letters show",
        "dead-letters redrive",
    ];
    for command in commands.iter().chain(&below) {
        let help = casewire(&format!("{command} --help")).await.succeeded();
        assert!(help.contains("Example") && help.contains(&format!("casewire {command}")), "{command}: {help}");
    }
    let version = casewire("--version").await.succeeded();
    let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
    let begin = concat!("casewire ", env!("CARGO_PKG_VERSION"), " (commit ");
    assert!(version.starts_with(begin) && version.contains(&format!(", librdkafka {librdkafka}")), "{version}");
    let head = Command::new("git").args(["rev-parse", "--show-prefix", "HEAD"]).output().await;
    let head = head.map(|head| String::from_utf8_lossy(&head.stdout).into_owned()).unwrap_or_default();
    if head.lines().count() == 2 && head.starts_with('\n') {
        assert!(!version.contains("commit unknown"), "a checkout knows its commit: {version}");
    }
    casewire("health --address 127.0.0.1:1").await.failed_with(69, &["Nobody answers", "--address"]);
    casewire("").await.failed_with(64, &["Usage"]);
    casewire("carry").await.failed_with(64, &["carry"]);
    casewire("run").await.failed_with(64, &["--config"]);
    let when = "checkpoint set --config x --topic /data/CaseChangeEvent --at";
    casewire(&format!("{when} yesterday")).await.failed_with(64, &["2026-11-22T09:00:00Z"]);
    casewire(&format!("{when} 2026-11-22T09:00:00Z --start earliest")).await.failed_with(64, &["cannot be used"]);
    casewire("run --config /nowhere.toml").await.failed_with(78, &["/nowhere.toml", "what to do"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_checked_whole_and_printed_without_its_secrets() {
    let simulator = Simulator::start(plain()).await.expect("a simulator");
    let secrets = "[kafka.properties]\n\"sasl.username\" = \"key\"\n\"sasl.password\" = \"hunter2\"\n";
    let installation = Installation::new(&simulator, NOWHERE, "salesforce", &[CASES], secrets);
    let told = installation.output("config check").await.succeeded();
    assert!(told.contains("is valid, with 1 stream\n"), "{told}");
    let printed = installation.output("config print").await.succeeded();
    assert!(printed.contains("sasl.username") && printed.contains("# default"), "{printed}");
    assert!(!printed.contains("hunter2") && !printed.contains("PRIVATE KEY"), "{printed}");
    let table: toml::Table = printed.parse().expect("what is printed is TOML");
    assert_eq!(table["stream"][0]["topic"].as_str(), Some(CASES));

    // What only shows when a part is made of the values is reported together, too.
    let key = installation.directory.path().join("key.pem");
    let pem = std::fs::read_to_string(&key).expect("read");
    std::fs::write(&key, pem.replace("PRIVATE KEY", "WORTHLESS")).expect("written");
    let text = std::fs::read_to_string(&installation.config).expect("read");
    let broken = format!("{text}\"acks\" = \"0\"\n[log]\nfilter = \"casewire=loud\"\n");
    std::fs::write(&installation.config, broken).expect("written");
    installation.output("config check").await.failed_with(78, &["3 faults", "key", "acks", "loud"]);

    let wrong = "surprise = 1\n[salesforce]\nusername = 7\n[[stream]]\ntopic = \"Case\"\nstart = \"now\"\n[kafka]\n";
    std::fs::write(&installation.config, wrong).expect("written");
    let faults = ["surprise", "salesforce.client_id", "stream[0].topic", "stream[0].start", "kafka.brokers"];
    installation.output("config check").await.failed_with(78, &faults);
    installation.output("run").await.failed_with(78, &faults);
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_what_the_ledger_has_and_says_what_it_cannot_read() {
    let simulator = Simulator::start(plain()).await.expect("a simulator");
    let control = simulator.control();
    let lines = control.generate(40).await.expect("generated");
    let installation = Installation::new(&simulator, NOWHERE, "salesforce", &[CASES], "");
    let tail = format!("tail --topic {CASES}");

    let printed = installation.output(&format!("{tail} --start earliest --limit 40")).await.succeeded();
    let records: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect("a line is a JSON object")).collect();
    assert_eq!(records.len(), 40);
    for (record, line) in records.iter().zip(&lines) {
        assert_eq!(record["source"]["event_id"], json!(line.event_id));
        assert_eq!(record["id"], json!(line.record_ids[0]));
        assert_eq!(record["changed"], Value::Object(line.changed.clone()));
    }
    let after = installation.output(&format!("{tail} --after {} --limit 1", lines[19].replay_id)).await.succeeded();
    assert!(after.contains(&lines[20].event_id), "{after}");

    let following = installation.start(&format!("{tail} --start earliest"));
    let event = lines[39].event_id.clone();
    following.until("the last event", move |stdout, _| stdout.contains(&event).then_some(())).await;
    following.terminated().await.succeeded();

    let refused = installation.output(&format!("{tail} --after 00000000000000000001")).await;
    refused.failed_with(64, &["refused the replay id 00000000000000000001", "--start earliest"]);
    installation.output(&format!("{tail} --limit 0")).await.failed_with(64, &["--limit"]);
    let unknown = installation.output("tail --topic /data/NotSelectedChangeEvent").await;
    unknown.failed_with(77, &["/data/NotSelectedChangeEvent", "Setup > Change Data Capture"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hopeless_sign_in_ends_the_command_with_the_setup_page_that_mends_it() {
    let simulator = Simulator::start(plain()).await.expect("a simulator");
    let other = Simulator::start(plain()).await.expect("another simulator");
    let installation = Installation::new(&simulator, NOWHERE, "salesforce", &[CASES], "");
    let unapproved = Fault::RefuseSignIn {
        error: "invalid_app_access".to_owned(),
        description: "user is not admin approved to access this app".to_owned(),
        status: 400,
        times: 1,
    };
    simulator.control().inflict(unapproved).await.expect("inflicted");
    installation.output(&format!("tail --topic {CASES}")).await.failed_with(77, &["not admin approved", "Setup >"]);

    // The key of another org: its certificate is not the one that was uploaded.
    let key = installation.directory.path().join("key.pem");
    std::fs::write(key, other.private_key_pem().expect("a key")).expect("written");
    let refused = installation.output(&format!("tail --topic {CASES}")).await;
    assert!(matches!(refused.code, Some(77 | 78)), "{refused:?}");
    refused.failed_with(refused.code.unwrap_or_default(), &["invalid assertion", "certificate", "Setup >"]);
}

/// What a service manager that listens at `socket` is told, as it comes.
fn told_at(socket: &Path) -> Arc<Mutex<String>> {
    let listens = tokio::net::UnixDatagram::bind(socket).expect("bound");
    let told = Arc::new(Mutex::new(String::new()));
    let kept = told.clone();
    tokio::spawn(async move {
        let mut datagram = [0; 2000];
        while let Ok(size) = listens.recv(&mut datagram).await {
            let mut kept = kept.lock().expect("no reader panics");
            kept.push_str(&String::from_utf8_lossy(&datagram[..size]));
            kept.push('\n');
        }
    });
    told
}

/// Waits until a service manager has been told `line`.
async fn until_told(told: &Mutex<String>, line: &str) {
    let waiting = async {
        while !told.lock().expect("no reader panics").lines().any(|told| told == line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(90), waiting).await;
    waited.unwrap_or_else(|_| panic!("in vain for {line}: {}", told.lock().expect("no reader panics")));
}

#[tokio::test(flavor = "multi_thread")]
async fn run_is_ready_once_it_has_heard_from_salesforce_and_ends_in_order() {
    let Some(brokers) = brokers("run_is_ready_once_it_has_heard_from_salesforce_and_ends_in_order") else { return };
    let deployment = Deployment::new(brokers, plain()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    control.inflict(Fault::Silence).await.expect("inflicted");
    control.inflict(Fault::Unreachable).await.expect("inflicted");
    // As systemd starts it, with Type=notify.
    let socket = installation.directory.path().join("notify");
    let told = told_at(&socket);
    let mut command = Command::new(env!("CARGO_BIN_EXE_casewire"));
    let running =
        Running::of(command.args(["run", "--config"]).arg(&installation.config).env("NOTIFY_SOCKET", &socket));
    let admin = running.admin().await;
    let health = format!("health --address {}", admin.address);
    let waits = |status: &Value| {
        let stream = &status["process"]["streams"][0];
        stream["state"] == "recovering" && stream["what"].to_string().contains("cannot be reached")
    };
    admin.until("the wait for the login server", waits).await;
    control.inflict(Fault::Reachable).await.expect("inflicted");
    admin.until("the call", |status| status["process"]["streams"][0]["call_open_since"].is_string()).await;
    let (code, reasons) = admin.get("/ready").await;
    assert!(code == 503 && reasons.contains("has had no message yet"), "{code} {reasons}");
    casewire(&format!("{health} --ready")).await.failed_with(1, &[CASES, "is not ready"]);
    casewire(&health).await.succeeded();
    let so_far = told.lock().expect("no reader panics").clone();
    assert!(so_far.contains("STATUS=not ready: ") && !so_far.contains("READY=1"), "{so_far}");
    control.inflict(Fault::Speak).await.expect("inflicted");
    let lines = control.generate(30).await.expect("generated");
    admin.arrived(last(&lines)).await;
    assert_eq!(admin.get("/ready").await.0, 200);
    assert_eq!(admin.get("/live").await.0, 200);
    casewire(&format!("{health} --ready")).await.succeeded();
    until_told(&told, "READY=1").await;
    let metrics = admin.get("/metrics").await.1;
    for name in ["data_loss_seconds", "events_received_total", "records_committed_total", "transaction_seconds_count"] {
        assert!(metrics.contains(&format!("casewire_{name}{{topic=\"{CASES}\"}}")), "{name}: {metrics}");
    }

    let taken = format!("[admin]\nlisten = '{}'\n", admin.address);
    let text = std::fs::read_to_string(&installation.config).expect("read");
    let second = text.replace("[admin]\nlisten = '127.0.0.1:0'\n", &taken);
    std::fs::write(&installation.config, second).expect("written");
    installation.output("run").await.failed_with(69, &[&admin.address, "admin.listen"]);
    std::fs::write(&installation.config, text).expect("written");

    // Somebody who asks half a question does not hold the end up.
    let mut idle = tokio::net::TcpStream::connect(&admin.address).await.expect("connected");
    idle.write_all(b"GET /sta").await.expect("written");
    let ended = running.terminated().await;
    drop(idle);
    assert!(ended.stderr.contains("committing what was received"), "{ended:?}");
    until_told(&told, "STOPPING=1").await;
    let warnings: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("WARN")).collect();
    // A broker that has just been started says so to the first producer that it has ever had.
    let meant = ["signing in failed", "Coordinator load in progress"];
    let expected = |line: &&str| meant.iter().any(|words| line.contains(words));
    assert!(warnings.iter().all(expected), "nothing else went wrong: {warnings:#?}");
    ended.succeeded();
    assert_eq!(sorted_ids(&deployment.output("Case").await), sorted(ids(&lines)));

    let running = installation.start("run");
    let admin = running.admin().await;
    admin.until("the start", |status| status["process"]["streams"][0]["state"] == "running").await;
    // Both signals are there before the process can act on the first of them.
    running.signal(&["STOP", "TERM", "INT", "CONT"]).await;
    assert_eq!(running.ended().await.code, Some(130), "the second signal ends at once");

    let unknown =
        Installation::new(&deployment.simulator, &deployment.brokers, "t", &["/data/NotSelectedChangeEvent"], "");
    unknown.output("run").await.failed_with(77, &["/data/NotSelectedChangeEvent", "Setup > Change Data Capture"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_answer_is_shown_and_does_not_hold_up_the_end() {
    let simulator = Simulator::start(plain()).await.expect("a simulator");
    let installation = Installation::new(&simulator, NOWHERE, "salesforce", &[CASES], "");
    let running = installation.start("run");
    let admin = running.admin().await;
    let told = |status: &Value| {
        let why = status["process"]["kafka"]["last_error"].as_str().unwrap_or_default();
        why.contains("127.0.0.1:1") && why.contains("Connection refused")
    };
    admin.until("the reason", told).await;
    let waiting = |status: &Value| {
        let stream = &status["process"]["streams"][0];
        stream["state"] == "recovering" || stream["step"].to_string().contains("topics")
    };
    let status = admin.until("the wait for the topics", waiting).await;
    assert_eq!(status["process"]["kafka"]["reachable"], json!(false));
    let (code, reasons) = admin.get("/ready").await;
    assert!(code == 503 && reasons.contains("Connection refused"), "{code} {reasons}");
    assert_eq!(admin.get("/live").await.0, 200, "a restart would not help");
    let ended = running.terminated().await;
    let noise = ended.stderr.matches("client error").count();
    assert!(noise < 10, "each attempt to connect is logged: {noise} lines");
    ended.succeeded();

    let asked = installation.output("checkpoint show").await;
    asked.failed_with(69, &["Connection refused", "kafka.brokers"]);
}

/// The stream's entry of `checkpoint show --json`.
async fn shown(installation: &Installation) -> Value {
    let text = installation.output("checkpoint show --json").await.succeeded();
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    shown[0].clone()
}

async fn moved(installation: &Installation, how: &str) -> String {
    let told = installation.output(&format!("checkpoint {how} --topic {CASES} --yes")).await.succeeded();
    assert!(told.contains("done: ") && told.contains("  from  ") && told.contains("  to    "), "{told}");
    told
}

/// Runs until the event is committed, then ends in order.
async fn run_until(installation: &Installation, replay_id: &str) {
    let running = installation.start("run");
    running.admin().await.arrived(replay_id).await;
    running.terminated().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_shown_moved_and_forgotten_and_each_move_stands_in_the_ledger() {
    let Some(brokers) = brokers("a_position_is_shown_moved_and_forgotten_and_each_move_stands_in_the_ledger") else {
        return;
    };
    let deployment = Deployment::new(brokers, plain()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    let mut lines = control.generate(60).await.expect("generated");
    let running = installation.start("run");
    let admin = running.admin().await;
    admin.arrived(last(&lines)).await;

    let before = shown(&installation).await;
    assert!(before["seconds_until_data_loss"].as_u64() > Some(0), "{before:#}");
    let text = installation.output("checkpoint show").await.succeeded();
    assert!(text.contains(CASES) && text.contains("until loss") && text.contains("committed"), "{text}");

    let middle = chrono::DateTime::from_timestamp_millis(lines[29].commit_timestamp).expect("in range");
    let at = format!("set --at {}", middle.to_rfc3339().replace("+00:00", "Z"));
    let set = format!("checkpoint {at} --topic {CASES}");
    installation.output(&set).await.failed_with(64, &["not a terminal", "--yes"]);
    let misspelt = "checkpoint set --topic /data/CasesChangeEvent --start earliest --yes";
    installation.output(misspelt).await.failed_with(64, &["no stream of /data/CasesChangeEvent", CASES]);
    let told = installation.output(&format!("{set} --dry-run")).await.succeeded();
    assert!(told.contains("nothing was changed") && told.contains("If it still runs, it is fenced"), "{told}");
    assert_eq!(shown(&installation).await["checkpoint"], before["checkpoint"]);

    moved(&installation, &at).await;
    lines.extend(control.generate(1).await.expect("generated"));
    let standby = |status: &Value| status["process"]["streams"][0]["state"] == "standby";
    let status = admin.until("the standby", standby).await;
    let stream = &status["process"]["streams"][0];
    assert!(stream["by"].as_str().is_some_and(|by| by.contains("(casewire checkpoint)")), "{stream:#}");
    let (code, reasons) = admin.get("/ready").await;
    assert!(code == 503 && reasons.contains("standby"), "{code} {reasons}");
    running.terminated().await.succeeded();

    let entry = ledger(&deployment).await.pop().expect("an entry");
    let target = entry["to"]["replay_id"].as_str().expect("a replay id").to_owned();
    let reached = lines.iter().find(|line| line.replay_id == target).expect("an event of the stream");
    assert_eq!(reached.commit_timestamp, lines[29].commit_timestamp);
    let mut expected = ids(&lines);
    // The simulated org counts its ids upwards. What the fenced instance did not write is written once.
    expected
        .extend(ids(&lines[..60]).into_iter().zip(&lines).filter(|(_, line)| line.replay_id > target).map(|it| it.0));
    run_until(&installation, last(&lines)).await;
    assert_eq!(sorted_ids(&deployment.output("Case").await), sorted(expected.clone()));

    moved(&installation, "set --start earliest").await;
    let more = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    run_until(&installation, last(&more)).await;
    expected.extend(ids(&more));
    assert_eq!(sorted_ids(&deployment.output("Case").await), sorted(expected.clone()), "nothing is doubled");

    moved(&installation, &format!("set --replay-id {}", lines[58].replay_id)).await;
    run_until(&installation, last(&more)).await;
    expected.extend(ids(&lines[59..]).into_iter().chain(ids(&more)));
    assert_eq!(sorted_ids(&deployment.output("Case").await), sorted(expected));

    moved(&installation, "reset").await;
    let text = installation.output("checkpoint show").await.succeeded();
    assert!(text.contains("no checkpoint"), "{text}");
    let refused = installation.output("run").await;
    refused.failed_with(78, &["already holds records", "the checkpoint was reset", "casewire checkpoint set"]);
    let again = installation.output(&format!("checkpoint reset --topic {CASES} --yes")).await.succeeded();
    assert!(again.contains("has no checkpoint"), "{again}");
    let entries = ledger(&deployment).await;
    assert_eq!(entries.len(), 4, "{entries:#?}");
    assert!(entries.iter().all(|entry| entry["cause"] == "position_moved" && entry["state"] == "open"), "{entries:#?}");
}

/// The entries of the gap ledger.
async fn ledger(deployment: &Deployment) -> Vec<Value> {
    deployment.output("gaps").await.iter().map(|record| record.json().clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_records_without_a_broker_and_says_what_it_is_not() {
    let running = Running::start("demo --stand-in --for 8s --backlog 20 --admin 127.0.0.1:0");
    let listens = |stdout: &str, _: &str| {
        let line = stdout.lines().find(|line| line.contains("admin    http://"))?;
        Some(line.split("http://").nth(1)?.split('/').next()?.to_owned())
    };
    let address = running.until("the admin port", listens).await;
    casewire(&format!("demo --stand-in --admin {address}")).await.failed_with(69, &[&address, "--admin"]);
    let shown = running.ended().await.succeeded();
    assert!(shown.contains("DEMO BROKER: not Kafka, no transactions"), "{shown}");
    assert!(shown.contains("kcat -C -b") && shown.contains("salesforce.Case"), "{shown}");
    let count = shown.lines().find_map(|line| line.strip_suffix(" records arrived in Kafka."));
    assert!(count.is_some_and(|count| count.parse().is_ok_and(|count: u64| count >= 20)), "{shown}");

    // Whoever closes the pipe has seen enough, and is not told so with a panic.
    let pipe = r#""$0" demo --stand-in --admin 127.0.0.1:0 | head -n 1; exit "${PIPESTATUS[0]}""#;
    let piped = Running::of(Command::new("bash").args(["-c", pipe, env!("CARGO_BIN_EXE_casewire")])).ended().await;
    assert!(!piped.stderr.contains("panicked") && piped.stdout.starts_with("casewire demo"), "{piped:?}");
    piped.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_org_says_how_to_connect_and_what_it_says_is_a_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    let (org, settings) = (directory.path().join("org"), directory.path().join("simulator.toml"));
    let free = "[listen]\nhttp = \"127.0.0.1:0\"\npubsub = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\n";
    std::fs::write(&settings, free).expect("written");
    let words = format!("simulate --rate 0 --backlog 50 --directory {} --config", org.display());
    let running = Running::start(&format!("{words} {}", settings.display()));
    let whole = |stdout: &str, _: &str| stdout.contains("/faults").then(|| stdout.to_owned());
    let told = running.until("how to connect", whole).await;

    let from = told.find("[salesforce]").expect("a configuration");
    let to = told.find("\nTopics:").expect("the topics");
    let config = directory.path().join("casewire.toml");
    std::fs::write(&config, &told[from..to]).expect("written");
    casewire(&format!("config check --config {}", config.display())).await.succeeded();
    let tail = format!("tail --topic {CASES} --start earliest --limit 1 --config {}", config.display());
    let record: Value = serde_json::from_str(casewire(&tail).await.succeeded().trim()).expect("a record");
    let published = std::fs::read_to_string(org.join("ledger.jsonl")).expect("the ledger");
    let events: BTreeMap<String, Value> = published
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line is a JSON object"))
        .map(|line| (line["event_id"].as_str().unwrap_or_default().to_owned(), line["changed"].clone()))
        .collect();
    assert_eq!(record["changed"], events[record["source"]["event_id"].as_str().expect("an event id")]);

    let control = told.lines().find_map(|line| line.strip_prefix("Control: ")).expect("the control port");
    let stats = reqwest::get(format!("{control}/stats")).await.expect("answered");
    assert!(stats.status().is_success());
    let same: Finished = casewire(&format!("{words} /nowhere.toml")).await;
    same.failed_with(78, &["/nowhere.toml"]);
    running.terminated().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_output_nobody_reads_any_more_lives_on_and_ends_when_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = directory.path().join("org.toml");
    let free = "[listen]\nhttp = \"127.0.0.1:0\"\npubsub = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\n";
    std::fs::write(&settings, free).expect("written");
    let mut process = tokio::process::Command::new(env!("CARGO_BIN_EXE_casewire"))
        .args(["simulate", "--rate", "20", "--backlog", "0", "--directory"])
        .arg(directory.path())
        .arg("--config")
        .arg(&settings)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    // Its first words mean that it serves; then both pipes are closed, as by `2>&1 | head -1`.
    let mut word = [0_u8; 1];
    tokio::io::AsyncReadExt::read_exact(process.stdout.as_mut().expect("piped"), &mut word).await.expect("a word");
    drop((process.stdout.take(), process.stderr.take()));
    let id = process.id().expect("running").to_string();
    let told = std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
    assert!(told.success());
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), process.wait()).await;
    assert_eq!(ended.expect("it ends").expect("waited for").code(), Some(0));
}

/// What `<words> --json` prints.
async fn printed(installation: &Installation, words: &str) -> Value {
    serde_json::from_str(&installation.output(&format!("{words} --json")).await.succeeded()).expect("JSON")
}

/// Writes a record as another version of casewire would, in no transaction.
fn written_by_hand(deployment: &Deployment, name: &str, key: &str, value: Option<&str>) {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let mut config = rdkafka::ClientConfig::new();
    let config = config.set("bootstrap.servers", &deployment.brokers).set("partitioner", "murmur2_random");
    let producer: BaseProducer = config.create().expect("a producer");
    let topic = format!("{}.{name}", deployment.prefix);
    let record = BaseRecord::to(&topic).key(key);
    let record = if let Some(value) = value { record.payload(value) } else { record };
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    producer.flush(std::time::Duration::from_secs(30)).expect("flushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gap_ledger_is_listed_with_the_newest_state_of_each_gap() {
    let Some(brokers) = brokers("the_gap_ledger_is_listed_with_the_newest_state_of_each_gap") else { return };
    let deployment = Deployment::new(brokers, plain()).await;
    let (control, installation) = (deployment.control(), installed_without_reading(&deployment));
    // No list at all is something else than an empty one: the prefix may be misspelt.
    installation.output("gaps").await.failed_with(69, &["There is no topic", &deployment.prefix, "kafka.topic_prefix"]);
    let first = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    run_until(&installation, last(&first)).await;
    assert!(installation.output("gaps").await.succeeded().contains(".gaps: no gap"));

    let mut lines = Vec::new();
    for _ in 0..2 {
        let order = EventOrder::new("Case", "GAP_UPDATE").on([first[0].record_ids[0].as_str()]);
        lines.extend(control.publish(order).await.expect("published"));
    }
    run_until(&installation, last(&lines)).await;
    moved(&installation, "set --start earliest").await;
    let listed = installation.output("gaps").await.succeeded();
    let place = |words: &str| listed.find(words).unwrap_or_else(|| panic!("`{words}` is not in {listed}"));
    assert!(place(&lines[0].event_id) < place(&lines[1].event_id), "the oldest first: {listed}");
    assert!(place("     2  open, gap_event") < place("     1  open, position_moved"), "{listed}");
    let row = listed.lines().find(|line| line.contains(&lines[0].event_id)).expect("a line");
    assert!([CASES, "Case", &first[0].record_ids[0], "open"].iter().all(|cell| row.contains(cell)), "{row}");

    // The first is healed, the second is forgotten.
    let json = printed(&installation, "gaps").await;
    let ids: Vec<&str> = json["gaps"].as_array().expect("a list").iter().filter_map(|gap| gap["id"].as_str()).collect();
    let mut healed = json["gaps"][0].clone();
    healed["state"] = json!("healed");
    written_by_hand(&deployment, "gaps", ids[0], Some(&healed.to_string()));
    written_by_hand(&deployment, "gaps", ids[1], None);
    written_by_hand(&deployment, "gaps", "strange", Some("no JSON"));
    let json = printed(&installation, "gaps").await;
    assert_eq!(json["gaps"].as_array().map(Vec::len), Some(3), "{json:#}");
    let count =
        |state: &str| json["summary"].as_array().expect("a list").iter().filter(|it| it["state"] == state).count();
    assert_eq!((count("healed"), count("open"), count("unreadable")), (1, 1, 1), "{json:#}");
    let open = installation.output("gaps --open").await.succeeded();
    assert!(open.contains("position_moved") && !open.contains("gap_event") && !open.contains("strange"), "{open}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_by_cause_and_shown_down_to_their_bytes() {
    let Some(brokers) = brokers("dead_letters_are_listed_by_cause_and_shown_down_to_their_bytes") else { return };
    let deployment = Deployment::new(brokers, plain()).await;
    let small = "[kafka.properties]\n\"message.max.bytes\" = 20000\n";
    let installation =
        Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[CASES], small);
    let control = deployment.control();
    installation.output("dead-letters list").await.failed_with(69, &["There is no topic", &deployment.prefix]);
    let mut lines = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    run_until(&installation, last(&lines)).await;
    assert!(installation.output("dead-letters list").await.succeeded().contains(".dead-letters: no dead letter"));

    control.inflict(Fault::Poison { events: 2 }).await.expect("inflicted");
    // The bytes of the last one fit into a record; the JSON, in which each of them is two, does not.
    let long = EventOrder::new("Case", "CREATE").with("Description", "\n".repeat(15_000));
    for order in [EventOrder::new("Case", "CREATE"), EventOrder::new("Case", "CREATE"), long] {
        lines.extend(control.publish(order).await.expect("published"));
    }
    run_until(&installation, last(&lines)).await;
    let json = printed(&installation, "dead-letters list").await;
    let letters = json["letters"].as_array().expect("a list");
    assert_eq!(letters.len(), 3, "{json:#}");
    let counts = json["summary"].as_array().expect("a list").iter().filter_map(|cause| cause["count"].as_u64());
    assert_eq!(counts.collect::<std::collections::BTreeSet<_>>(), [1, 2].into(), "{json:#}");
    let whole = letters[2]["id"].as_str().expect("an id");
    let json_of_whole = printed(&installation, &format!("dead-letters show {whole}")).await;
    assert_eq!(json_of_whole["event_header"]["record_ids"], json!(lines[3].record_ids), "{json_of_whole:#}");
    assert_eq!(json_of_whole["event_header"]["change_type"], json!("CREATE"), "{json_of_whole:#}");
    assert!(json_of_whole["finding"].as_str().is_some_and(|found| found.contains("decodes the whole event")));
    let id = letters[0]["id"].as_str().expect("an id").to_owned();
    assert!(id.ends_with(&lines[1].event_id), "the oldest first: {json:#}");
    let listed = installation.output("dead-letters list").await.succeeded();
    let reason = letters[0]["headers"]["reason"].as_str().expect("a reason");
    assert!(listed.contains(&id) && listed.contains(&format!("{CASES}: {reason}")), "{listed}");

    let stored = deployment.output("dead-letters").await;
    let bytes = &stored.iter().find(|record| record.key == id).expect("the letter").raw;
    let shown = installation.output(&format!("dead-letters show {id}")).await.succeeded();
    let first_bytes: Vec<String> = bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    assert!(shown.contains(&first_bytes.join(" ")) && shown.contains(&format!("{} bytes", bytes.len())), "{shown}");
    assert!(shown.contains("schema_id") && shown.contains(reason), "{shown}");
    let json = printed(&installation, &format!("dead-letters show {id}")).await;
    assert_eq!(json["payload"].as_str().map(str::len), Some(2 * bytes.len()), "{json:#}");
    assert!(json["finding"].as_str().is_some_and(|finding| finding.contains("CaseChangeEvent")), "{json:#}");

    let file = installation.directory.path().join("event.avro");
    let saving = format!("dead-letters show {id} --raw {}", file.display());
    let told = installation.output(&saving).await.succeeded();
    assert!(told.contains("event.avro") && !told.contains(&first_bytes.join(" ")), "{told}");
    assert_eq!(&std::fs::read(&file).expect("the file"), bytes);
    installation.output(&saving).await.failed_with(64, &["event.avro", "does not exist"]);
    installation.output("dead-letters show 00-nothing").await.failed_with(64, &["00-nothing", "dead-letters list"]);

    // Without a sign-in what stands in Kafka is shown all the same, and why no more.
    let text = std::fs::read_to_string(&installation.config).expect("read");
    let stranger = text.replace(deployment.simulator.client_id(), "stranger");
    assert_ne!(stranger, text);
    std::fs::write(&installation.config, stranger).expect("written");
    let json = printed(&installation, &format!("dead-letters show {id}")).await;
    assert_eq!(json["event_header"], Value::Null, "{json:#}");
    assert!(json["finding"].as_str().is_some_and(|finding| finding.starts_with("not decoded: ")), "{json:#}");
    assert_eq!(json["payload"].as_str().map(str::len), Some(2 * bytes.len()), "{json:#}");
}

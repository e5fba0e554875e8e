//! What becomes of the whole pipeline when what it stands on goes away: the broker, its topics, its
//! permissions, the other instance, Salesforce.

use std::collections::BTreeMap;
use std::time::Duration;

use casewire::config::Config;
use casewire::failure::Exit;
use casewire::kafka::list_topics;
use casewire::pipeline::settings;
use casewire::simulator::{Control, EventOrder, Fault, LedgerLine, SimulatorConfig};
use casewire::status::{Snapshot, StreamState, StreamStatus};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::suite::deployment::{Deployment, Output, Running, brokers};
use crate::suite::doctor::{failed, findings};
use crate::suite::main_job::{CASES, SESSIONS, expected, identities, passed, sorted};
use crate::suite::own_broker::own_broker;

/// The shortest waits that the configuration takes or that leave a healthy broker time to answer.
pub const IMPATIENT: &str = "KAFKA__TRANSACTION_TIMEOUT = 10s\nKAFKA__CALL_TIMEOUT = 3s";

/// An org whose keepalives come often enough to be waited for.
pub fn lively() -> SimulatorConfig {
    let mut simulator = SimulatorConfig::on_free_ports();
    simulator.pubsub.keepalive = Duration::from_millis(300);
    simulator
}

pub fn ready(snapshot: &Snapshot) -> bool {
    snapshot.not_ready().is_empty()
}

/// Whether `part` is not ready for a reason with these words.
pub fn unready(part: &'static str, words: &'static str) -> impl Fn(&Snapshot) -> bool {
    move |snapshot| snapshot.not_ready().iter().any(|not| not.part == part && not.reason.contains(words))
}

pub fn stopped(status: &StreamStatus) -> Option<(&str, &str)> {
    match &status.state {
        StreamState::Stopped { what, remedy, .. } => Some((what, remedy)),
        _ => None,
    }
}

/// The event ids of each record id in the order of the output: one topic's order holds per key.
fn per_key(identities: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (event, record) in identities {
        keys.entry(record).or_default().push(event);
    }
    keys
}

/// Every event of `lines` stands in the entity's output once, in order per key, and nothing else does.
pub fn each_once_in_order(output: &[Output], lines: &[LedgerLine], entity: &str) {
    let found = identities(output);
    assert_eq!(sorted(found.clone()), expected(lines, entity), "{entity}");
    let in_order = lines.iter().flat_map(|line| expected(std::slice::from_ref(line), entity));
    assert_eq!(per_key(found), per_key(in_order), "{entity}: order per key");
}

/// Publishes until told to stop; gives what it published.
pub fn traffic(control: Control) -> (CancellationToken, JoinHandle<Vec<LedgerLine>>) {
    const PACE: Duration = Duration::from_millis(40);
    let stop = CancellationToken::new();
    let until = stop.clone();
    let task = tokio::spawn(async move {
        let mut lines = Vec::new();
        while !until.is_cancelled() {
            lines.extend(control.generate(10).await.expect("generated"));
            tokio::time::sleep(PACE).await;
        }
        lines
    });
    (stop, task)
}

pub async fn committed_more(running: &Running, than: u64) -> StreamStatus {
    running.until("another commit", |status| status.records_committed > than).await
}

async fn publish(control: &Control, entity: &str) -> Vec<LedgerLine> {
    control.publish(EventOrder::new(entity, "CREATE")).await.expect("published")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_at_the_start_is_waited_for() {
    let Some(broker) = own_broker("a_broker_that_is_down_at_the_start_is_waited_for").await else { return };
    broker.crash().await;
    let deployment = Deployment::new(broker.bootstrap.clone(), SimulatorConfig::on_free_ports()).await;
    let lines = deployment.control().generate(60).await.expect("generated");
    let given_up = deployment.run(&[CASES], IMPATIENT);
    let running = deployment.run(&[CASES], IMPATIENT);
    given_up.until_all("the reason", unready("kafka", "Kafka did not answer in time")).await;
    given_up.stop().await.expect("an orderly end, although there is nothing to end");
    let snapshot = running.until_all("the reason", unready(CASES, "recovering: Kafka did not answer")).await;
    assert!(unready("kafka", "Kafka did not answer")(&snapshot), "{snapshot:#?}");
    broker.restart().await;
    passed(&running, &lines, CASES).await;
    running.until_all("readiness", ready).await;
    running.stop().await.expect("an orderly end");
    each_once_in_order(&deployment.output("Case").await, &lines, "Case");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_in_mid_traffic_costs_nothing_but_time() {
    let Some(broker) = own_broker("a_broker_killed_in_mid_traffic_costs_nothing_but_time").await else { return };
    let deployment = Deployment::new(broker.bootstrap.clone(), lively()).await;
    let quiet = Deployment::new(broker.bootstrap.clone(), lively()).await;
    let idle = quiet.run(&[SESSIONS], IMPATIENT);
    idle.until_all("readiness", ready).await;
    let (stop, publishing) = traffic(deployment.control());
    let running = deployment.run(&[CASES, SESSIONS], IMPATIENT);
    committed_more(&running, 100).await;
    broker.crash().await;
    running.until_all("the reason", unready("kafka", "")).await;
    idle.until_all("the reason, though there is nothing to write", unready("kafka", "")).await;
    running.until_all("the failed commit", unready(CASES, "recovering")).await;
    broker.restart().await;
    let before = running.board.snapshot().streams[0].records_committed;
    committed_more(&running, before + 100).await;
    stop.cancel();
    let lines = publishing.await.expect("no panic");
    passed(&running, &lines, CASES).await;
    passed(&running, &lines, SESSIONS).await;
    running.until_all("readiness", ready).await;
    idle.until_all("readiness", ready).await;
    running.stop().await.expect("an orderly end");
    idle.stop().await.expect("an orderly end");
    for entity in ["Case", "MessagingSession"] {
        each_once_in_order(&deployment.output(entity).await, &lines, entity);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_frozen_for_longer_than_a_transaction_may_take_leaves_nobody_standing_by() {
    const TEST: &str = "a_broker_frozen_for_longer_than_a_transaction_may_take_leaves_nobody_standing_by";
    /// Two seconds more than the transaction timeout of both: the broker ends what it finds open when it thaws.
    const FROZEN: Duration = Duration::from_secs(12);
    let Some(broker) = own_broker(TEST).await else { return };
    // One gives its calls up while the broker is frozen, the other waits for the answers.
    let patient = "KAFKA__TRANSACTION_TIMEOUT = 10s\nKAFKA__CALL_TIMEOUT = 60s";
    let mut pipelines = Vec::new();
    for settings in [IMPATIENT, patient] {
        let deployment = Deployment::new(broker.bootstrap.clone(), SimulatorConfig::on_free_ports()).await;
        let (stop, publishing) = traffic(deployment.control());
        let running = deployment.run(&[CASES], settings);
        pipelines.push((deployment, running, stop, publishing));
    }
    for (_, running, ..) in &pipelines {
        committed_more(running, 50).await;
    }
    broker.freeze().await;
    let began = tokio::time::Instant::now();
    pipelines[0].1.until_all("the reason", unready("kafka", "did not answer in time")).await;
    tokio::time::sleep_until(began + FROZEN).await;
    broker.thaw().await;
    for (deployment, running, stop, publishing) in pipelines {
        let before = running.board.snapshot().streams[0].records_committed;
        committed_more(&running, before + 50).await;
        stop.cancel();
        let lines = publishing.await.expect("no panic");
        passed(&running, &lines, CASES).await;
        let snapshot = running.until_all("readiness", ready).await;
        assert_eq!(snapshot.streams[0].fenced, 0, "it stood by for itself");
        running.stop().await.expect("an orderly end");
        each_once_in_order(&deployment.output("Case").await, &lines, "Case");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn access_taken_away_stops_the_stream_and_names_the_lists() {
    const TEST: &str = "access_taken_away_stops_the_stream_and_names_the_lists";
    let Some(broker) = own_broker(TEST).await else { return };
    let sasl = "KAFKA__PROPERTIES__SECURITY_PROTOCOL = SASL_PLAINTEXT\nKAFKA__PROPERTIES__SASL_MECHANISM = PLAIN\n\
                KAFKA__PROPERTIES__SASL_USERNAME = casewire\nKAFKA__PROPERTIES__SASL_PASSWORD = casewire-secret";
    for (resource, operation) in [("--topic", "Write"), ("--transactional-id", "Write")] {
        let mut deployment = Deployment::new(broker.sasl_bootstrap.clone(), SimulatorConfig::on_free_ports()).await;
        let mut lines = deployment.control().generate(40).await.expect("generated");
        let running = deployment.run(&[CASES], sasl);
        passed(&running, &lines, CASES).await;
        let names = format!("--force --resource-pattern-type prefixed {resource} {}", deployment.prefix);
        // Where a list speaks of a resource, only what it allows is allowed.
        broker.acl(&format!("--add --allow-principal User:casewire --operation All {names}")).await;
        broker.acl(&format!("--add --deny-principal User:casewire --operation {operation} {names}")).await;
        lines.extend(publish(&deployment.control(), "Case").await);
        let status = running.until("the stop", |status| stopped(status).is_some()).await;
        let (what, remedy) = stopped(&status).expect("stopped");
        assert!(what.contains("refused the permission"), "{what}");
        assert!(remedy.contains("kafka-acls.sh") && remedy.contains("transactional ids"), "{remedy}");
        running.stop().await.expect("an orderly end");
        // Somebody who looks is told the same.
        let found = findings(Ok(deployment.config(&[CASES], sasl))).await;
        let check = match resource {
            "--topic" => format!("write {}.Case", deployment.prefix),
            _ => "transactions".to_owned(),
        };
        failed(&found, &check, Exit::NoPermission, "refused the permission", "kafka-acls.sh");
        broker.acl(&format!("--remove --deny-principal User:casewire --operation {operation} {names}")).await;
        let running = deployment.run(&[CASES], sasl);
        passed(&running, &lines, CASES).await;
        running.stop().await.expect("an orderly end");
        deployment.brokers.clone_from(&broker.bootstrap);
        each_once_in_order(&deployment.output("Case").await, &lines, "Case");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_topic_deleted_under_a_stream_stops_it_and_is_not_made_again_behind_anybodys_back() {
    const TEST: &str = "an_output_topic_deleted_under_a_stream_stops_it_and_is_not_made_again_behind_anybodys_back";
    let Some(brokers) = brokers(TEST) else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let lines = control.generate(60).await.expect("generated");
    let running = deployment.run(&[CASES], IMPATIENT);
    passed(&running, &lines, CASES).await;
    deployment.delete_topic("Case").await;
    let mut kept = publish(&control, "Case").await;
    let status = running.until("the stop", |status| stopped(status).is_some()).await;
    let (what, remedy) = stopped(&status).expect("stopped");
    let topic = format!("{}.Case", deployment.prefix);
    assert!(what.contains(&topic) && what.contains("was deleted") && what.contains("the records in it"), "{what}");
    assert!(remedy.contains(&format!("--create --topic {topic}")), "{remedy}");
    assert!(unready(CASES, "was deleted")(&running.board.snapshot()));
    let kafka = settings::kafka(&deployment.config(&[CASES], "").kafka).expect("settings");
    let topics = list_topics(&kafka).await.expect("a list");
    assert!(topics.iter().all(|listed| listed.name != topic), "nobody made it again");
    running.stop().await.expect("an orderly end");

    // A restart makes it again and says so; what was not written when it was deleted is written now.
    kept.extend(publish(&control, "Case").await);
    let running = deployment.run(&[CASES], IMPATIENT);
    passed(&running, &kept, CASES).await;
    let told = running.board.snapshot().streams[0].last_error.clone().expect("told");
    assert!(told.what.contains("did not exist and was made") && told.remedy.contains("deleted"), "{told:?}");
    running.stop().await.expect("an orderly end");
    each_once_in_order(&deployment.output("Case").await, &kept, "Case");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_topic_deleted_under_a_stream_is_not_taken_for_a_first_run() {
    let Some(brokers) = brokers("a_checkpoint_topic_deleted_under_a_stream_is_not_taken_for_a_first_run") else {
        return;
    };
    let deployment = Deployment::new(brokers, lively()).await;
    let control = deployment.control();
    let mut lines = [publish(&control, "Case").await, publish(&control, "Case").await].concat();
    let written = lines.last().expect("a line").replay_id.clone();
    // The second stream has written nothing yet: only the process itself knows that it has been at work.
    let latest = format!("{IMPATIENT}\nSTREAM__1__START = latest");
    let running = deployment.run(&[CASES, SESSIONS], &latest);
    passed(&running, &lines, CASES).await;
    let anchored = |snapshot: &Snapshot| snapshot.streams.iter().all(|stream| stream.resume_after.is_some());
    running.until_all("positions", anchored).await;
    for topic in ["Case", "MessagingSession"] {
        deployment.delete_topic(&format!("checkpoints.00D8d00000AbCdEEAV.data.{topic}ChangeEvent")).await;
        lines.extend(publish(&control, topic).await);
    }
    let both = |snapshot: &Snapshot| snapshot.streams.iter().all(|stream| stopped(stream).is_some());
    let snapshot = running.until_all("the stops", both).await;
    let mut positions = Vec::new();
    for stream in &snapshot.streams {
        let (what, remedy) = stopped(stream).expect("stopped");
        assert!(what.contains("is lost") && what.contains("deleted"), "{what}");
        assert!(remedy.contains("casewire checkpoint set"), "{remedy}");
        let given = remedy.split_once("--replay-id ").and_then(|(_, rest)| rest.split_whitespace().next());
        positions.push(given.expect("the position").to_owned());
    }
    assert!(positions[0] >= written, "{positions:?}");
    running.stop().await.expect("an orderly end");
    assert_eq!(deployment.output("Case").await.len(), 2, "nothing was written again");

    // What the remedy says mends it.
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("casewire.toml");
    std::fs::write(&file, deployment.config_file(&[CASES, SESSIONS])).expect("written");
    for (topic, position) in [CASES, SESSIONS].iter().zip(&positions) {
        let mut casewire = tokio::process::Command::new(env!("CARGO_BIN_EXE_casewire"));
        casewire.args(["checkpoint", "set", "--yes", "--topic", topic, "--replay-id", position, "--config"]);
        let done = casewire.arg(&file).output().await.expect("it runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let running = deployment.run(&[CASES, SESSIONS], &latest);
    passed(&running, &lines, CASES).await;
    passed(&running, &lines, SESSIONS).await;
    running.stop().await.expect("an orderly end");
    for entity in ["Case", "MessagingSession"] {
        each_once_in_order(&deployment.output(entity).await, &lines, entity);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_when_the_other_instance_has_died() {
    let Some(brokers) = brokers("a_standby_takes_over_when_the_other_instance_has_died") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = control.generate(30).await.expect("generated");
    // Shorter than the configuration allows, and longer than the other one is ever silent here.
    let mut config: Config = deployment.config(&[CASES], "");
    config.kafka.takeover_after = Duration::from_secs(4);
    let first = Deployment::run_configured(config);
    passed(&first, &lines, CASES).await;
    let second = deployment.run(&[CASES], "");
    second.until("the take-over", |status| status.checkpoint_committed).await;
    lines.extend(publish(&control, "Case").await);
    let standby = |status: &StreamStatus| matches!(status.state, StreamState::Standby { .. });
    first.until("the standby", standby).await;
    assert!(unready(CASES, "standby since")(&first.board.snapshot()));
    passed(&second, &lines, CASES).await;
    second.abort().await;
    lines.extend(publish(&control, "Case").await);
    passed(&first, &lines, CASES).await;
    assert!(ready(&first.board.snapshot()), "{:#?}", first.board.snapshot());
    first.stop().await.expect("an orderly end");
    each_once_in_order(&deployment.output("Case").await, &lines, "Case");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_waits_for_its_schema_and_the_status_says_so() {
    let Some(brokers) = brokers("an_event_waits_for_its_schema_and_the_status_says_so") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let unavailable = "sfdc.platform.eventbus.grpc.schema.api.unavailable".to_owned();
    control.inflict(Fault::FailGetSchema { status: 14, error_code: unavailable, times: 2 }).await.expect("inflicted");
    let lines = control.generate(40).await.expect("generated");
    let running = deployment.run(&[CASES], "");
    let told = |status: &StreamStatus| {
        let names_it = |error: &casewire::status::LastError| error.what.contains("schema.api.unavailable");
        status.last_error.as_ref().is_some_and(names_it) && status.records_committed == 0
    };
    running.until("the reason", told).await;
    passed(&running, &lines, CASES).await;
    let status = running.board.snapshot().streams[0].clone();
    assert_eq!(status.dead_letters, 0, "{status:#?}");
    running.stop().await.expect("an orderly end");
    each_once_in_order(&deployment.output("Case").await, &lines, "Case");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_allocation_is_waited_out_and_the_remedy_is_shown() {
    let Some(brokers) = brokers("a_used_up_allocation_is_waited_out_and_the_remedy_is_shown") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = publish(&control, "Case").await;
    let running = deployment.run(&[CASES], "");
    passed(&running, &lines, CASES).await;
    control.inflict(Fault::Allocation { left: 0 }).await.expect("inflicted");
    lines.extend(publish(&control, "Case").await);
    let refused = |status: &StreamStatus| status.reconnects.contains_key("allocation");
    let status = running.until("the refusal", refused).await;
    let next = status.next_call_at.expect("a next call");
    assert!(next > chrono::Utc::now() + chrono::TimeDelta::minutes(50), "the next call is at {next}");
    assert!(status.last_error.expect("told").remedy.contains("DailyDeliveredPlatformEvents"));
    assert!(unready(CASES, "the next is made at")(&running.board.snapshot()));
    running.stop().await.expect("an orderly end, without waiting for the hour");
    // The day is over.
    control.inflict(Fault::Allocation { left: 1_000 }).await.expect("inflicted");
    let running = deployment.run(&[CASES], "");
    passed(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    each_once_in_order(&deployment.output("Case").await, &lines, "Case");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_black_holes_are_noticed_and_left() {
    let Some(brokers) = brokers("silence_and_black_holes_are_noticed_and_left") else { return };
    let deployment = Deployment::new(brokers, lively()).await;
    let control = deployment.control();
    let mut lines = control.generate(30).await.expect("generated");
    let watchful = "SALESFORCE__PUBSUB__SILENCE_LIMIT = 3s\nSALESFORCE__PUBSUB__PING_INTERVAL = 1s\n\
                    SALESFORCE__PUBSUB__PING_TIMEOUT = 1s";
    let running = deployment.run(&[CASES], watchful);
    passed(&running, &lines, CASES).await;
    // Pings are answered: only the watchdog can tell that this call is dead.
    control.inflict(Fault::Silence).await.expect("inflicted");
    lines.extend(publish(&control, "Case").await);
    let silence = |status: &StreamStatus| status.reconnects.contains_key("silence");
    let status = running.until("the watchdog", silence).await;
    assert!(status.last_error.expect("told").what.contains("was silent for 3s"));
    control.inflict(Fault::Speak).await.expect("inflicted");
    passed(&running, &lines, CASES).await;

    // Nothing is answered, and a call on the same connection would not be either.
    let before: u64 = running.board.snapshot().streams[0].reconnects.values().sum();
    control.inflict(Fault::BlackHole).await.expect("inflicted");
    lines.extend(publish(&control, "Case").await);
    let noticed = |status: &StreamStatus| status.reconnects.values().sum::<u64>() > before;
    running.until("another call", noticed).await;
    passed(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    each_once_in_order(&deployment.output("Case").await, &lines, "Case");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_host_that_is_down_is_waited_for_at_the_start_and_later() {
    let Some(brokers) = brokers("a_login_host_that_is_down_is_waited_for_at_the_start_and_later") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut lines = control.generate(30).await.expect("generated");
    control.inflict(Fault::Unreachable).await.expect("inflicted");
    let running = deployment.run(&[CASES], "");
    let waiting = running.until_all("the reason", unready(CASES, "recovering: The login server")).await;
    assert!(waiting.streams[0].last_error.as_ref().is_some_and(|error| error.remedy.contains("login_url")));
    control.inflict(Fault::Reachable).await.expect("inflicted");
    passed(&running, &lines, CASES).await;

    // Later the streams are cut and the tokens gone while the login host has a disturbance.
    control.inflict(Fault::FailHttp { status: 503, times: 3 }).await.expect("inflicted");
    control.inflict(Fault::RevokeTokens).await.expect("inflicted");
    control.inflict(Fault::CutStreams).await.expect("inflicted");
    lines.extend(publish(&control, "Case").await);
    running.until("the reason", |status| status.reconnects.contains_key("session")).await;
    assert!(!ready(&running.board.snapshot()));
    passed(&running, &lines, CASES).await;
    running.until_all("readiness", ready).await;
    running.stop().await.expect("an orderly end");
    each_once_in_order(&deployment.output("Case").await, &lines, "Case");
}

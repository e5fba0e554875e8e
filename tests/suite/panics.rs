//! A task beside the events panics in the real binary: the stream says so and begins again, and what was to be done is done.

use casewire::identity::case_safe_id;
use casewire::simulator::{EventOrder, MessageOrder, SimulatorConfig};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::suite::binary::{Installation, Running};
use crate::suite::deployment::{Deployment, brokers};
use crate::suite::fold::{assert_equals_the_org, folded};
use crate::suite::main_job::{CASES, SESSIONS};

/// Starts the service; the task panics that first comes to `place`.
fn start(installation: &Installation, place: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casewire"));
    command.arg("run").arg("--config").arg(&installation.config).env("CASEWIRE_FAILPOINT", format!("{place}:1:panic"));
    command.env("CASEWIRE__STREAM__0__MESSAGES", (place == "after_choosing_conversation").to_string());
    Running::of(&mut command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_beside_the_events_is_told_and_the_next_attempt_does_what_was_to_be_done() {
    const NAME: &str = "a_panic_beside_the_events_is_told_and_the_next_attempt_does_what_was_to_be_done";
    if !cfg!(feature = "failpoints") {
        eprintln!("NOT RUN: {NAME}: casewire was built without --features failpoints");
        return;
    }
    let Some(brokers) = brokers(NAME) else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    control.publish(EventOrder { rows: 20, ..EventOrder::new("Case", "GAP_OVERFLOW") }).await.expect("published");
    let conversation = case_safe_id("0dw8d0000000001").into_owned();
    let session = EventOrder::new("MessagingSession", "CREATE").with("ConversationId", conversation);
    let session = control.publish(session.with("Status", "Active")).await.expect("published");
    control.say(MessageOrder::new(&session[0].record_ids[0], "hello")).await.expect("said");

    let settings = "[messages]\nsettle = '10ms'\ncalls_per_hour = 1000000\n";
    for (topic, place, task) in
        [(CASES, "after_choosing_job", "heals gaps"), (SESSIONS, "after_choosing_conversation", "fetches messages")]
    {
        let (org, brokers) = (&deployment.simulator, &deployment.brokers);
        let installation = Installation::new(org, brokers, &deployment.prefix, &[topic], settings);
        let service = start(&installation, place);
        let done = |status: &Value| {
            let stream = &status["process"]["streams"][0];
            let healed = stream["gaps_healed"] == json!(1) && stream["jobs"] == json!([]);
            let told = stream["last_error"]["what"].as_str().unwrap_or_default();
            (healed || stream["messages"]["entries_written"] == json!(1)) && told.contains(task)
        };
        service.admin().await.until("what was to be done, and what went wrong", done).await;
        let ended = service.terminated().await;
        assert_eq!(ended.code, Some(0), "the process went on: {ended:?}");
        assert!(ended.stderr.contains("ended unexpectedly") && ended.stderr.contains("begins again"), "{ended:?}");
    }
    let cases = deployment.output("Case").await;
    assert_equals_the_org(&folded(&cases), &control.records("Case").expect("records"));
    let said = deployment.output("ConversationEntry").await;
    assert_eq!(said.iter().map(|entry| &entry.json()["text"]).collect::<Vec<_>>(), [&json!("hello")]);
}

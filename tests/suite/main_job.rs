//! The main job from end to end: a simulated org, the real pipeline, a real broker.

use casewire::simulator::{EventOrder, Fault, SimulatorConfig};
use serde_json::json;

use crate::suite::deployment::{Deployment, brokers};

const CASES: &str = "/data/CaseChangeEvent";

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_backlog_arrives_once_with_its_values() {
    let Some(brokers) = brokers("every_event_of_a_backlog_arrives_once_with_its_values") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let lines = deployment.control().generate(500).await.expect("generated");
    let running = deployment.run(&[CASES], "");
    let mine: Vec<_> = lines.iter().filter(|line| line.topics.iter().any(|topic| topic == CASES)).collect();
    assert!(mine.len() > 50, "too few case events among the generated ones: {}", mine.len());
    let last = mine.last().expect("a last event").replay_id.clone();
    running
        .until("the last event", |status| status.resume_after.as_deref() == Some(&last) || status.last_error.is_some())
        .await;
    running.stop().await.expect("an orderly end");
}

//! What leaves retention while a stream is away and no replay id tells: a start from the oldest event is never refused.

use casewire::simulator::{EventOrder, Fault, LedgerLine, SimulatorConfig};
use casewire::status::{StreamState, StreamStatus};
use serde_json::json;

use crate::suite::deployment::{Deployment, brokers};
use crate::suite::main_job::{CASES, arrived, expected, identities, sorted};

async fn one_case(deployment: &Deployment) -> Vec<LedgerLine> {
    deployment.control().publish(EventOrder::new("Case", "CREATE")).await.expect("published")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_had_only_begun_records_what_left_retention_while_it_was_away() {
    let Some(brokers) = brokers("a_stream_that_had_only_begun_records_what_left_retention_while_it_was_away") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let mut lines = one_case(&deployment).await;
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");

    // Away for a day, nothing can be lost: no entry, and no second record of the first event.
    let control = deployment.control();
    control.inflict(Fault::ShiftClock { seconds: 24 * 3600 }).await.expect("inflicted");
    let running = deployment.run(&[CASES], "");
    running.until("a second start", |status: &StreamStatus| matches!(status.state, StreamState::Running)).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(deployment.output("gaps").await.len(), 0);

    let lost = one_case(&deployment).await;
    control.inflict(Fault::ShiftClock { seconds: 49 * 3600 }).await.expect("inflicted");
    control.inflict(Fault::ExpireRetention).await.expect("inflicted");
    lines.extend(one_case(&deployment).await);
    let running = deployment.run(&[CASES], "STREAM__0__ON_GAP = stop");
    let stopped = |status: &StreamStatus| matches!(&status.state, StreamState::Stopped { what, remedy, .. } if what.contains("retention") && remedy.contains("checkpoint set"));
    running.until("the stop", stopped).await;
    running.stop().await.expect("an orderly end");
    for _ in 0..2 {
        let running = deployment.run(&[CASES], "");
        arrived(&running, &lines, CASES).await;
        running.stop().await.expect("an orderly end");
    }

    assert_eq!(sorted(identities(&deployment.output("Case").await)), expected(&lines, "Case"));
    let entries = deployment.output("gaps").await;
    let ledger: Vec<_> = entries.iter().map(|entry| entry.json()).collect();
    assert_eq!(ledger.len(), 1, "one absence is one entry: {ledger:?}");
    assert_eq!((&ledger[0]["cause"], &ledger[0]["state"]), (&json!("expired"), &json!("open")));
    assert_eq!(ledger[0]["from"]["replay_id"], json!(lines[0].replay_id));
    let time =
        |end: &str| ledger[0][end]["time"].as_str().and_then(|time| time.parse::<chrono::DateTime<chrono::Utc>>().ok());
    let of_lost = lost[0].commit_timestamp;
    let within = time("from").is_some_and(|from| from.timestamp_millis() <= of_lost)
        && time("to").is_some_and(|to| to.timestamp_millis() >= of_lost);
    assert!(within, "{} does not hold {of_lost}", ledger[0]);
}

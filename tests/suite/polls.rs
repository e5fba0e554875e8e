//! Objects without change events, read where they changed: no event tells of a comment.

use std::collections::BTreeSet;

use casewire::simulator::{Control, EventOrder, Fault, SimulatorConfig};
use casewire::status::{PollStatus, StreamStatus};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use crate::suite::deployment::{Deployment, Running, brokers};
use crate::suite::fold::{assert_equals_the_org, folded};
use crate::suite::main_job::CASES;

/// Small transactions, so that an abrupt end falls between two of one round.
const POLL: &str = "BATCH__MAX_RECORDS = 7\nPOLL__0__ENTITY = CaseComment\nPOLL__0__EVERY = 1s\n\
                    POLL__0__LOOK_BACK = 1min\nPOLL__0__EXCLUDE_FIELDS = CommentBodyRichtext";

async fn silently(control: &Control, change: EventOrder) {
    control.inflict(Fault::ChangeSilently { change }).await.expect("changed");
}

fn poll(status: &StreamStatus) -> PollStatus {
    status.polls.first().cloned().unwrap_or_default()
}

fn shown(running: &Running) -> PollStatus {
    running.board.snapshot().streams.first().map(poll).unwrap_or_default()
}

/// Waits for a complete round that began after what was done so far.
async fn looked(running: &Running) {
    let now: DateTime<Utc> = Utc::now() + TimeDelta::seconds(1);
    running.until("a later round", |status| poll(status).read_to.is_some_and(|at| at > now)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn comments_come_without_events_each_state_once_over_abrupt_ends() {
    let Some(brokers) = brokers("comments_come_without_events_each_state_once_over_abrupt_ends") else { return };
    let mut config = SimulatorConfig::on_free_ports();
    config.traffic.entities = vec!["Case".to_owned(), "CaseComment".to_owned()];
    let deployment = Deployment::new(brokers, config).await;
    let control = deployment.control();
    for _ in 0..25 {
        silently(&control, EventOrder::new("CaseComment", "CREATE")).await;
    }
    let running = deployment.run(&[CASES], POLL);
    control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let status = running.until("the first snapshot", |status| !status.snapshots.is_empty()).await;
    assert_eq!((status.snapshots[0].rows, status.snapshots[0].entity.as_deref()), (25, Some("CaseComment")));
    looked(&running).await;

    // Drawn changes are stamped up to three seconds before they can be read.
    for _ in 0..3 {
        let before = shown(&running).rows;
        control.generate(60).await.expect("generated");
        running.until("some of it", |status| poll(status).rows > before).await;
    }
    running.abort().await;
    control.generate(150).await.expect("generated");
    let running = deployment.run(&[CASES], POLL);
    running.until("the first of it", |status| poll(status).rows > 0).await;
    running.abort().await;

    let running = deployment.run(&[CASES], POLL);
    let id = control.records("CaseComment").expect("records")[0].id.clone();
    let say = |text: &str| EventOrder::new("CaseComment", "UPDATE").on([id.as_str()]).with("CommentBody", text);
    for number in 0..3 {
        silently(&control, say(&format!("at any time of a second: {number}"))).await;
        let before = shown(&running).rounds;
        running.until("a round", |status| poll(status).rounds > before).await;
    }
    silently(&control, EventOrder::new("CaseComment", "DELETE").on([id.as_str()])).await;
    looked(&running).await;
    silently(&control, EventOrder::new("CaseComment", "UNDELETE").on([id.as_str()])).await;
    looked(&running).await;
    let deletes = shown(&running).deletes;
    looked(&running).await;
    let last = running.board.snapshot().streams[0].clone();
    running.stop().await.expect("an orderly end");
    assert!(deletes > 0 && poll(&last).deletes == deletes && last.jobs.is_empty(), "{last:?}");
    assert_eq!(poll(&last).waits_for, None);
    let gaps = deployment.output("gaps").await;
    assert!(gaps.iter().all(|gap| gap.json()["entity"] != json!("CaseComment")), "{gaps:?}");

    let records = deployment.output("CaseComment").await;
    let mut truth = control.records("CaseComment").expect("records");
    assert!(truth.len() > 40 && truth.iter().any(|record| record.deleted), "{}", truth.len());
    for record in &mut truth {
        record.fields.remove("CommentBodyRichtext");
    }
    assert_equals_the_org(&folded(&records), &truth);
    let mut states = BTreeSet::new();
    for record in &records {
        let value = record.json();
        let by = if value["op"] == json!("read") { "job" } else { "poll" };
        assert!(value["source"][by].is_string() && value["source"]["topic"] == json!(CASES), "{value}");
        let state =
            (&record.key, value["op"] == "delete", value["record_as_of"].to_string(), value["record"].to_string());
        assert!(states.insert(state), "it stands there already: {value}");
    }
}

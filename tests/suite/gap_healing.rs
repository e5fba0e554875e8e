//! Gaps healed by jobs: a simulated org, the real pipeline, a real broker, and the records as they truly are.

use std::collections::{BTreeMap, BTreeSet};

use casewire::simulator::{Control, EventOrder, Fault, SimulatorConfig};
use casewire::status::StreamStatus;
use serde_json::{Value, json};

use crate::suite::deployment::{Deployment, Output, Running, brokers};
use crate::suite::fold::{assert_equals_the_org, folded};
use crate::suite::main_job::{CASES, arrived};

const HEAL: &str = "GAPS__HEAL = true";

/// Whether nothing is open any more; `at_least` gaps were closed.
fn healed(at_least: u64) -> impl Fn(&StreamStatus) -> bool {
    move |status| status.gaps_open.is_empty() && status.jobs.is_empty() && status.gaps_healed >= at_least
}

/// Asserts that a consumer of `entity` believes what is true, and no record twice or back in time.
async fn believes_the_truth(deployment: &Deployment, entity: &str) -> Vec<Output> {
    let records = deployment.output(entity).await;
    let truth = deployment.control().records(entity).expect("an entity");
    assert_equals_the_org(&folded(&records), &truth);
    records
}

/// The newest state of each entry of the ledger.
async fn ledger(deployment: &Deployment) -> BTreeMap<String, Value> {
    let entries = deployment.output("gaps").await;
    entries.into_iter().map(|entry| (entry.key.clone(), entry.json().clone())).collect()
}

async fn create(control: &Control, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let created = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
        ids.push(created[0].record_ids[0].clone());
    }
    ids
}

fn update(id: &str, subject: String) -> EventOrder {
    EventOrder::new("Case", "UPDATE").on([id]).with("Subject", subject)
}

/// An overflow of so many records.
fn overflow(rows: u64) -> EventOrder {
    EventOrder { rows, ..EventOrder::new("Case", "GAP_OVERFLOW") }
}

/// Changes records that exist, one a transaction, until the jobs of `running` are done, or until it has been a while.
async fn change_until_healed(running: &Running, control: &Control, ids: &[String], at_least: u64) {
    let (mut number, mut changes) = (0, running.board.changes());
    let done = healed(at_least);
    while !running.board.snapshot().streams.first().is_some_and(&done) {
        let id = &ids[number % ids.len()];
        control.publish(update(id, format!("change {number}"))).await.expect("published");
        // The board changes with every transaction, so the org is never far ahead of the stream.
        changes.changed().await.expect("the board lives");
        number += 1;
        // A fast machine changes each record in every second, and then no read is surely newer than every change.
        if number == 4_000 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overflow_is_healed_while_the_records_that_it_changed_go_on_changing_and_over_an_abrupt_end() {
    let Some(brokers) =
        brokers("an_overflow_is_healed_while_the_records_that_it_changed_go_on_changing_and_over_an_abrupt_end")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let ids = create(&control, 40).await;
    let before = control.publish(overflow(900)).await.expect("published");
    // Slices of twenty records: the end comes in the middle of the job.
    let settings = format!("{HEAL}\nBATCH__MAX_RECORDS = 20");
    let running = deployment.run(&[CASES], &settings);
    running
        .until("some of the job", |status| {
            status.jobs.first().is_some_and(|job| job.rows_reread + job.deletes_found >= 60)
        })
        .await;
    running.abort().await;

    let running = deployment.run(&[CASES], &settings);
    // A second overflow and a wildcard come while the first job is under way or just done: they are jobs of their own.
    control.publish(overflow(300)).await.expect("published");
    let wildcard = EventOrder::new("Case", "UPDATE").on(["500*"]).with("Priority", "High");
    control.publish(wildcard).await.expect("published");
    // Those of the first records that the overflows did not delete: an update would bring them back.
    let alive: Vec<String> = control
        .records("Case")
        .expect("records")
        .into_iter()
        .filter(|record| !record.deleted)
        .map(|record| record.id)
        .collect();
    let busy: Vec<String> = ids.into_iter().filter(|id| alive.contains(id)).collect();
    assert!(busy.len() > 10, "{}", busy.len());
    change_until_healed(&running, &control, &busy, 1).await;
    let last = control.publish(update(&busy[0], "the last".to_owned())).await.expect("published");
    arrived(&running, &last, CASES).await;
    running.until("the ledger to be closed", healed(0)).await;
    running.stop().await.expect("an orderly end");

    let records = believes_the_truth(&deployment, "Case").await;
    let of_jobs = |op: &str| {
        records.iter().filter(|record| record.headers["op"] == op && !record.headers.contains_key("event_id")).count()
    };
    assert!(of_jobs("refresh") >= 900 && of_jobs("delete") > 0, "{} {}", of_jobs("refresh"), of_jobs("delete"));
    let ledger = ledger(&deployment).await;
    assert_eq!(ledger.len(), 3, "{ledger:?}");
    for entry in ledger.values() {
        assert_eq!(entry["state"], json!("healed"), "{entry}");
        assert!(entry["rows_reread"].as_u64() > Some(0) && entry["closed_at"].is_string(), "{entry}");
    }
    let first =
        ledger.values().find(|entry| entry["source"]["event_id"] == json!(before[0].event_id)).expect("its entry");
    assert!(first["deletes_found"].as_u64().is_some(), "{first}");
}

/// Changes, deletes and what is gone for good are lost with a replay id, and read again by a job with these settings. With
/// `over_bulk` the end comes in the middle of the job, and whoever goes on lists over REST.
async fn a_refused_replay_id_is_healed(brokers: String, settings: &str, over_bulk: bool) {
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let ids = create(&control, 60).await;
    let last = control.publish(update(&ids[0], "before".to_owned())).await.expect("published");
    let running = deployment.run(&[CASES], settings);
    arrived(&running, &last, CASES).await;
    running.stop().await.expect("an orderly end");

    // None of this is delivered.
    for (number, id) in ids[..20].iter().enumerate() {
        control.publish(update(id, format!("lost {number}"))).await.expect("published");
    }
    control
        .publish(EventOrder::new("Case", "DELETE").on(ids[20..30].iter().map(String::as_str)))
        .await
        .expect("published");
    create(&control, 5).await;
    let gone = ids[30..33].to_vec();
    control
        .inflict(Fault::HardDelete { entity: "Case".to_owned(), record_ids: gone.clone() })
        .await
        .expect("inflicted");
    control.inflict(Fault::ExpireRetention).await.expect("inflicted");

    let mut running = deployment.run(&[CASES], settings);
    if over_bulk {
        let some = |status: &StreamStatus| {
            status.jobs.first().is_some_and(|job| job.rows_reread >= 10) || status.gaps_healed > 0
        };
        let status = running.until("some of the job", some).await;
        assert!(status.jobs.iter().all(|job| !job.over_bulk), "only the ids come over Bulk: {status:?}");
        running.abort().await;
        assert_eq!(control.stats().api_calls["bulk-create"], 1, "the ids were listed so");
        let message = "retried more than 15 times".to_owned();
        control.inflict(Fault::FailBulk { message, times: 1 }).await.expect("inflicted");
        running = deployment.run(&[CASES], settings);
    }
    let after = control.publish(update(&ids[40], "after".to_owned())).await.expect("published");
    arrived(&running, &after, CASES).await;
    running.until("the ledger to be closed", healed(1)).await;
    running.stop().await.expect("an orderly end");

    let records = believes_the_truth(&deployment, "Case").await;
    let deleted = |id: &String| records.iter().any(|record| record.key == *id && record.headers["op"] == "delete");
    assert!(gone.iter().chain(&ids[20..30]).all(deleted));
    let ledger = ledger(&deployment).await;
    let entry = ledger.values().next().expect("an entry");
    assert_eq!((entry["state"].as_str(), entry["deletes_found"].as_u64()), (Some("healed"), Some(13)), "{entry}");
    let stats = control.stats();
    let created = stats.api_calls.get("bulk-create").copied().unwrap_or_default();
    // One if the job was done before its end could come.
    let made = if over_bulk { 1..=2 } else { 0..=0 };
    assert!(made.contains(&created) && stats.bulk_jobs == 0, "{:?} {}", stats.api_calls, stats.bulk_jobs);
    if over_bulk {
        let by_jobs = |record: &&Output| !record.headers.contains_key("event_id") && record.headers["op"] == "refresh";
        let written: Vec<&str> = records.iter().filter(by_jobs).map(|record| record.key.as_str()).collect();
        let once: BTreeSet<&str> = written.iter().copied().collect();
        assert_eq!(written.len(), once.len(), "what was dealt with is left out of the second listing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_replay_id_lost_is_read_again_with_deletes_and_records_that_are_gone_for_good() {
    let Some(brokers) =
        brokers("what_a_refused_replay_id_lost_is_read_again_with_deletes_and_records_that_are_gone_for_good")
    else {
        return;
    };
    a_refused_replay_id_is_healed(brokers.clone(), HEAL, false).await;
    let large = format!("{HEAL}\nGAPS__BULK_FROM = 1\nBATCH__MAX_RECORDS = 5");
    a_refused_replay_id_is_healed(brokers, &large, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gap_events_are_healed_record_by_record_and_what_is_hidden_is_given_up_and_never_deleted() {
    let Some(brokers) =
        brokers("gap_events_are_healed_record_by_record_and_what_is_hidden_is_given_up_and_never_deleted")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let ids = create(&control, 12).await;
    let id = |at: usize| ids[at].as_str();
    control
        .publish(EventOrder::new("Case", "GAP_UPDATE").on([id(0), id(1)]).with("Subject", "untold"))
        .await
        .expect("published");
    control.publish(EventOrder::new("Case", "GAP_DELETE").on([id(2)])).await.expect("published");
    control.inflict(Fault::HideRecords { record_ids: vec![ids[3].clone()] }).await.expect("inflicted");
    let hidden = control.publish(EventOrder::new("Case", "GAP_UPDATE").on([id(3)])).await.expect("published");
    let created = control.publish(EventOrder::new("Case", "GAP_CREATE")).await.expect("published");

    // Opened while nothing heals, found in the ledger later.
    let running = deployment.run(&[CASES], "");
    arrived(&running, &created, CASES).await;
    let open = running.until("the open entries", |status| status.gaps_open.get("gap_event") == Some(&4)).await;
    assert!(open.jobs.is_empty() && open.gaps_healed == 0, "{open:?}");
    running.stop().await.expect("an orderly end");

    let running = deployment.run(&[CASES], &format!("{HEAL}\nGAPS__GIVE_UP_AFTER = 1s"));
    let status = running
        .until("the end of all gaps", |status| {
            status.gaps_healed + status.gaps_given_up >= 4 && status.gaps_open.is_empty()
        })
        .await;
    assert_eq!((status.gaps_healed, status.gaps_given_up), (3, 1));
    running.stop().await.expect("an orderly end");

    let states = folded(&deployment.output("Case").await);
    assert_eq!(states[id(3)].exists, None, "a gap, and no delete");
    let truth = control.records("Case").expect("records");
    let others: Vec<_> = truth.into_iter().filter(|record| record.id != ids[3]).collect();
    let states = states.into_iter().filter(|(key, _)| *key != ids[3]).collect();
    assert_equals_the_org(&states, &others);
    let ledger = ledger(&deployment).await;
    let entry =
        ledger.values().find(|entry| entry["source"]["event_id"] == json!(hidden[0].event_id)).expect("its entry");
    assert_eq!((&entry["state"], &entry["unread"]), (&json!("given_up"), &json!([ids[3]])), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_with_its_reason_while_events_go_on_when_the_api_requests_are_used_up() {
    let Some(brokers) = brokers("a_job_waits_with_its_reason_while_events_go_on_when_the_api_requests_are_used_up")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let ids = create(&control, 3).await;
    let running = deployment.run(&[CASES], &format!("{HEAL}\nGAPS__API_SHARE = 100"));
    running.until("the first events", |status| status.records_committed >= 3).await;
    control.inflict(Fault::ApiAllowance { left: 0 }).await.expect("inflicted");
    control.publish(EventOrder::new("Case", "GAP_UPDATE").on([ids[0].as_str()])).await.expect("published");
    let waits = |status: &StreamStatus| status.jobs.first().is_some_and(|job| job.waits_for.is_some());
    let status = running.until("a job that waits", waits).await;
    let job = &status.jobs[0];
    assert!(job.waits_for.as_ref().is_some_and(|what| what.contains("API requests")), "{job:?}");
    assert!(job.next_attempt_at.is_some() && job.remedy.is_some(), "{job:?}");
    let last = control.publish(update(&ids[1], "goes on".to_owned())).await.expect("published");
    arrived(&running, &last, CASES).await;
    running.stop().await.expect("an orderly end");
    assert!(ledger(&deployment).await.values().all(|entry| entry["state"] == json!("open")));
}

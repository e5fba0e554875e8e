//! Full records over REST, from end to end: a simulated org, the real pipeline, a real broker.

use std::collections::{BTreeMap, BTreeSet};

use casewire::config::Config;
use casewire::simulator::{EventOrder, Fault, LedgerLine, SimulatorConfig};
use casewire::status::{CompletionLevel, CompletionStatus, StreamStatus};
use serde_json::{Value, json};

use crate::suite::deployment::{Deployment, Output, brokers};
use crate::suite::fold::{assert_equals_the_org, folded};
use crate::suite::main_job::{CASES, arrived, expected, identities, sorted};

/// An org without events after which nobody can know a record from its own events.
fn org() -> SimulatorConfig {
    let mut config = SimulatorConfig::on_free_ports();
    let mix = &mut config.traffic.mix;
    (mix.overflow, mix.wildcard, mix.snapshot, mix.future_change_type) = (0, 0, 0, 0);
    mix.gap = 20;
    config
}

fn completion(status: &StreamStatus) -> CompletionStatus {
    status.completion.clone().expect("the stream completes records")
}

/// Whether a stream waits for its records and says so.
fn waits(status: &StreamStatus) -> bool {
    status.last_error.as_ref().is_some_and(|error| error.remedy.contains("on_incomplete"))
}

/// REST that asks to be left alone for longer than anybody waits, so that each call is one attempt.
fn unavailable(times: u32) -> Fault {
    let (path, retry_after) = ("/composite/".to_owned(), Some(3_000));
    Fault::FailRest { path, status: 503, error_code: String::new(), message: String::new(), retry_after, times }
}

/// Gap records that nobody explains, or ledger entries without their gap record.
fn assert_gaps_stand_in_the_ledger(records: &[Output], ledger: &[Output]) {
    let told: BTreeSet<(String, String)> = ledger
        .iter()
        .flat_map(|entry| {
            let event = entry.headers.get("event_id").cloned().unwrap_or_default();
            let ids = entry.json()["records"].as_array().expect("records").clone();
            ids.into_iter().map(move |id| (event.clone(), id.as_str().expect("an id").to_owned()))
        })
        .collect();
    for record in records.iter().filter(|record| record.headers["op"] == "gap") {
        let place = (record.headers["event_id"].clone(), record.key.clone());
        assert!(told.contains(&place), "{place:?} is not in {told:?}");
    }
}

fn by_event(lines: &[LedgerLine]) -> BTreeMap<&str, &LedgerLine> {
    lines.iter().map(|line| (line.event_id.as_str(), line)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_and_text_diffs_are_healed_in_order_and_the_fold_is_what_the_org_has() {
    let Some(brokers) = brokers("gaps_and_text_diffs_are_healed_in_order_and_the_fold_is_what_the_org_has") else {
        return;
    };
    let mut config = org();
    // So that each kind of them is among the events, whatever the seed draws.
    config.traffic.mix.gap = 300;
    let deployment = Deployment::new(brokers, config).await;
    let control = deployment.control();
    let lines = control.generate(1_500).await.expect("generated");
    let running = deployment.run(&[CASES], "STREAM__0__RECORD = when_needed");
    arrived(&running, &lines, CASES).await;
    let status = completion(&running.board.snapshot().streams[0]);
    running.stop().await.expect("an orderly end");

    let records = deployment.output("Case").await;
    assert_eq!(sorted(identities(&records)), expected(&lines, "Case"));
    let by_event = by_event(&lines);
    let mut seen = BTreeMap::new();
    for record in &records {
        let line = by_event[record.headers["event_id"].as_str()];
        let of = line.change_type.as_deref().unwrap_or_default();
        *seen.entry((of, record.headers["op"].as_str())).or_insert(0) += 1;
        assert_eq!(record.json()["op"], json!(record.headers["op"]));
        let full = record.json()["record"].is_object();
        let diff = !record.json()["unresolved"].is_null();
        match record.headers["op"].as_str() {
            "refresh" => assert!(of.starts_with("GAP_") && full),
            "delete" => assert!(matches!(of, "DELETE" | "GAP_DELETE" | "GAP_UPDATE" | "GAP_CREATE"), "{of}"),
            "gap" => panic!("everything can be read: {record:?}"),
            // A diff whose record was deleted meanwhile has nothing to be read; its delete follows.
            _ => assert!(!full || diff, "nothing else is read: {record:?}"),
        }
    }
    let diffs: Vec<_> = records
        .iter()
        .filter(|record| !by_event[record.headers["event_id"].as_str()].unresolved.is_empty())
        .map(|record| record.json()["unresolved"].is_null())
        .collect();
    assert!(diffs.contains(&true) && diffs.contains(&false), "some are applied, some are read: {diffs:?}");
    assert!(seen[&("GAP_UPDATE", "refresh")] > 0 && seen[&("UPDATE", "update")] > 0, "{seen:?}");
    assert!(deployment.output("gaps").await.is_empty(), "nothing is missing");
    assert_eq!(status.records_unread, 0);
    assert!(status.records_completed > 0);
    assert_equals_the_org(&folded(&records), &control.records("Case").expect("the org's records"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_has_its_full_record_for_few_calls_and_over_a_crash() {
    let Some(brokers) = brokers("every_change_has_its_full_record_for_few_calls_and_over_a_crash") else { return };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let mut lines = control.generate(6_000).await.expect("generated");
    let running = deployment.run(&[CASES], "STREAM__0__RECORD = always");
    running.until("the first records", |status| status.records_committed > 500).await;
    running.abort().await;
    lines.extend(control.generate(4_000).await.expect("generated"));
    let slow = Fault::DelayHttp { path: "/composite/".to_owned(), milliseconds: 100, times: 1_000 };
    control.inflict(slow).await.expect("inflicted");
    let before = control.stats();
    let running = deployment.run(&[CASES], "STREAM__0__RECORD = always\nSTREAM__0__TOMBSTONES = true");
    arrived(&running, &lines, CASES).await;
    let reads = completion(&running.board.snapshot().streams[0]).reads;
    running.stop().await.expect("an orderly end");
    let asked = |resource: &str| {
        let count = |stats: &casewire::simulator::Snapshot| stats.api_calls.get(resource).copied().unwrap_or_default();
        count(&control.stats()) - count(&before)
    };
    assert!(asked("retrieve") >= 1 && asked("retrieve") <= 40, "{} retrieves in {reads} reads", asked("retrieve"));
    assert_eq!(asked("describe"), 1);

    let records: Vec<_> = deployment.output("Case").await;
    let changes: Vec<_> = records.iter().filter(|record| record.value.is_some()).cloned().collect();
    assert_eq!(sorted(identities(&changes)), expected(&lines, "Case"));
    let truth = control.records("Case").expect("the org's records");
    let deletes = lines.iter().filter(|line| line.change_type.as_deref().is_some_and(|of| of.ends_with("DELETE")));
    let deleted_once: BTreeSet<&str> = deletes.flat_map(|line| &line.record_ids).map(String::as_str).collect();
    for record in changes.iter().filter(|record| record.headers["op"] != "delete") {
        let full = record.json()["record"].is_object();
        assert!(full || deleted_once.contains(record.key.as_str()), "{record:?}");
        assert_eq!(record.json()["record_from"], if full { json!("rest") } else { Value::Null });
    }
    // Whatever made it a delete, a null value follows.
    for pair in records.windows(2).filter(|pair| pair[1].value.is_none()) {
        assert_eq!((pair[0].headers["op"].as_str(), &pair[0].key), ("delete", &pair[1].key));
    }
    assert_equals_the_org(&folded(&records), &truth);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_may_not_see_is_a_gap_and_what_lies_in_the_recycle_bin_a_delete() {
    let Some(brokers) = brokers("what_the_user_may_not_see_is_a_gap_and_what_lies_in_the_recycle_bin_a_delete") else {
        return;
    };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let mut ids = Vec::new();
    for _ in 0..4 {
        let created = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
        ids.push(created[0].record_ids[0].clone());
    }
    let gap = |change: &str, id: &str| EventOrder::new("Case", change).on([id]);
    control.publish(gap("GAP_UPDATE", &ids[0])).await.expect("published");
    control.publish(gap("GAP_UPDATE", &ids[1])).await.expect("published");
    control.publish(gap("GAP_UPDATE", &ids[2])).await.expect("published");
    let mut lines = control.publish(gap("GAP_DELETE", &ids[3])).await.expect("published");
    lines.extend(control.publish(EventOrder::new("Case", "DELETE").on([ids[1].as_str()])).await.expect("published"));
    control.inflict(Fault::HideRecords { record_ids: vec![ids[0].clone()] }).await.expect("inflicted");
    let running = deployment.run(&[CASES], "STREAM__0__RECORD = when_needed");
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");

    let records = deployment.output("Case").await;
    let ops = |id: &str| -> Vec<String> {
        records.iter().filter(|record| record.key == id).map(|record| record.headers["op"].clone()).collect()
    };
    assert_eq!(ops(&ids[0]), ["create", "gap"]);
    assert_eq!(ops(&ids[1]), ["create", "delete", "delete"], "read as deleted, and then its own event");
    assert_eq!(ops(&ids[2]), ["create", "refresh"]);
    assert_eq!(ops(&ids[3]), ["create", "delete"]);
    let ledger = deployment.output("gaps").await;
    assert_eq!(ledger.len(), 1, "{ledger:?}");
    assert_eq!((&ledger[0].json()["cause"], &ledger[0].json()["state"]), (&json!("hidden"), &json!("open")));
    assert_eq!(ledger[0].json()["records"], json!([ids[0]]));
    assert_gaps_stand_in_the_ledger(&records, &ledger);
    folded(&records);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_goes_on_without_rest_and_heals_nothing_in_silence() {
    let Some(brokers) = brokers("the_stream_goes_on_without_rest_and_heals_nothing_in_silence") else { return };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let created = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let id = created[0].record_ids[0].clone();
    let update = || EventOrder::new("Case", "UPDATE").on([id.as_str()]).with("Status", "Closed");
    let gap = || EventOrder::new("Case", "GAP_UPDATE").on([id.as_str()]);
    // The tokens are needed, so the allowance is what fails.
    let running = deployment.run(&[CASES], "STREAM__0__RECORD = always");
    arrived(&running, &created, CASES).await;
    control.inflict(Fault::ApiAllowance { left: 0 }).await.expect("inflicted");
    control.publish(update()).await.expect("published");
    let lines = control.publish(gap()).await.expect("published");
    arrived(&running, &lines, CASES).await;
    let paused = |status: &StreamStatus| completion(status).paused_until.is_some();
    let status = running.until("the pause", paused).await;
    running.stop().await.expect("an orderly end");

    assert!(status.last_error.as_ref().is_some_and(|error| error.what.contains("used up")), "{status:?}");
    let records = deployment.output("Case").await;
    let told: Vec<_> =
        records.iter().map(|record| (record.headers["op"].as_str(), record.json()["record"].is_null())).collect();
    assert_eq!(told, [("create", false), ("update", true), ("gap", true)]);
    let ledger = deployment.output("gaps").await;
    let causes: BTreeSet<&str> = ledger.iter().map(|entry| entry.json()["cause"].as_str().expect("a cause")).collect();
    assert_eq!(causes, BTreeSet::from(["gap_event", "unread"]), "{ledger:?}");
    for entry in &ledger {
        assert_eq!((&entry.json()["entity"], &entry.json()["records"]), (&json!("Case"), &json!([id])));
        assert!(
            entry.json()["to"]["time"].is_string()
                && entry.json()["detail"].as_str().is_some_and(|text| text.contains("used up"))
        );
    }
    assert_gaps_stand_in_the_ledger(&records, &ledger);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_told_to_waits_for_its_records() {
    let Some(brokers) = brokers("a_stream_that_is_told_to_waits_for_its_records") else { return };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let created = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let config = "STREAM__0__RECORD = always\nSTREAM__0__ON_INCOMPLETE = wait";
    let running = deployment.run(&[CASES], config);
    arrived(&running, &created, CASES).await;
    control.inflict(unavailable(1)).await.expect("inflicted");
    let update = EventOrder::new("Case", "UPDATE").on([created[0].record_ids[0].as_str()]).with("Status", "Closed");
    let lines = control.publish(update).await.expect("published");
    let waits =
        |status: &StreamStatus| status.last_error.as_ref().is_some_and(|error| error.remedy.contains("on_incomplete"));
    let status = running.until("the wait", waits).await;
    assert_ne!(status.last_replay_id.as_deref(), Some(lines[0].replay_id.as_str()), "the position waits");
    assert_eq!(deployment.output("Case").await.len(), 1);
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    let records = deployment.output("Case").await;
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].json()["record"]["Status"], json!("Closed"));
    assert!(deployment.output("gaps").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_steps_back_before_the_share_is_used_up_and_does_more_again() {
    let Some(brokers) = brokers("completion_steps_back_before_the_share_is_used_up_and_does_more_again") else {
        return;
    };
    let mut config = org();
    config.rest.daily_requests = 1_000;
    let deployment = Deployment::new(brokers, config).await;
    let control = deployment.control();
    let created = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let id = created[0].record_ids[0].clone();
    let running = deployment.run(&[CASES], "STREAM__0__RECORD = always\nCOMPLETION__API_SHARE = 50");
    arrived(&running, &created, CASES).await;
    let order = |kind: &str| {
        let order = EventOrder::new("Case", kind).on([id.as_str()]);
        if kind == "UPDATE" { order.with("Status", "Working") } else { order }
    };
    // Used of the 500: 390, 400, 450, 500, and 100 again. What a read learns holds for the next one.
    let steps = [
        (610, CompletionLevel::Full, "UPDATE", true),
        (601, CompletionLevel::Slowed, "UPDATE", true),
        (551, CompletionLevel::NeededOnly, "UPDATE", true),
        (501, CompletionLevel::NeededOnly, "UPDATE", false),
        (501, CompletionLevel::GapsOnly, "GAP_UPDATE", true),
        (900, CompletionLevel::Full, "GAP_UPDATE", true),
        (900, CompletionLevel::Full, "UPDATE", true),
    ];
    for (left, level, kind, full) in steps {
        control.inflict(Fault::ApiAllowance { left }).await.expect("inflicted");
        let lines = control.publish(order(kind)).await.expect("published");
        arrived(&running, &lines, CASES).await;
        let at = |status: &StreamStatus| completion(status).level == level;
        running.until(&format!("{level:?}"), at).await;
        let records = deployment.output("Case").await;
        let last = records.last().expect("a record").json();
        assert_eq!(last["record"].is_object(), full, "{kind} at {left} left: {last}");
    }
    let status = running.until("the end", |_| true).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(completion(&status).steps_down, 3);
    assert_eq!(completion(&status).records_unread, 1);
    let ledger = deployment.output("gaps").await;
    assert_eq!(ledger.len(), 1, "{ledger:?}");
    assert_eq!(ledger[0].json()["cause"], json!("unread"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_that_fails_holds_the_first_batch_up_and_no_other_and_a_stop_waits_for_neither() {
    let Some(brokers) = brokers("rest_that_fails_holds_the_first_batch_up_and_no_other_and_a_stop_waits_for_neither")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let created = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    let id = created[0].record_ids[0].clone();
    let running = deployment.run(&[CASES], "STREAM__0__RECORD = always\nCOMPLETION__PATIENCE = 2s");
    arrived(&running, &created, CASES).await;
    control.inflict(unavailable(1)).await.expect("inflicted");
    let asked = control.stats().rest_calls;
    for _ in 0..5 {
        let update = EventOrder::new("Case", "UPDATE").on([id.as_str()]).with("Status", "Working");
        let lines = control.publish(update).await.expect("published");
        arrived(&running, &lines, CASES).await;
    }
    let status = running.until("the count", |status| completion(status).records_unread == 5).await;
    assert!(completion(&status).unavailable_since.is_some());
    assert_eq!(control.stats().rest_calls - asked, 1, "while it fails nobody asks again and again");
    running.stop().await.expect("an orderly end");

    let waiting = "STREAM__0__RECORD = always\nSTREAM__0__ON_INCOMPLETE = wait";
    let running = deployment.run(&[CASES], waiting);
    running.until("the call", |status| status.call_open_since.is_some()).await;
    // Once now, and once more while the end waits for reads that are under way.
    control.inflict(unavailable(2)).await.expect("inflicted");
    let update = EventOrder::new("Case", "UPDATE").on([id.as_str()]).with("Status", "Closed");
    let last = control.publish(update).await.expect("published");
    running.until("the wait", waits).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(deployment.output("Case").await.len(), 6, "what was waited for is not written without its record");
    let running = deployment.run(&[CASES], waiting);
    arrived(&running, &last, CASES).await;
    running.stop().await.expect("an orderly end");

    let records = deployment.output("Case").await;
    let full: Vec<bool> = records.iter().map(|record| record.json()["record"].is_object()).collect();
    assert_eq!(full, [true, false, false, false, false, false, true]);
    let ledger = deployment.output("gaps").await;
    assert_eq!(ledger.len(), 5, "one for each batch that was not read: {ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_with_its_full_record_is_written_without_and_is_no_dead_letter() {
    let Some(brokers) =
        brokers("an_event_that_is_too_large_with_its_full_record_is_written_without_and_is_no_dead_letter")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let order = EventOrder::new("Case", "CREATE").with("Description", "x".repeat(15_000));
    let mut lines = control.publish(order).await.expect("published");
    lines.extend(control.publish(EventOrder::new("Case", "CREATE")).await.expect("published"));
    // Enough for the event, and not for the event with all that it says twice.
    let text = format!("{}[kafka.properties]\n\"message.max.bytes\" = 20000\n", deployment.config_file(&[CASES]));
    let always = [("CASEWIRE__STREAM__0__RECORD".to_owned(), "always".to_owned())].into();
    let config = Config::from_table(text.parse().expect("TOML"), &always).expect("a valid configuration");
    let running = Deployment::run_configured(config);
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    let records = deployment.output("Case").await;
    assert_eq!(sorted(identities(&records)), expected(&lines, "Case"));
    let full: Vec<bool> = records.iter().map(|record| record.json()["record"].is_object()).collect();
    assert_eq!(full, [false, true]);
    assert_eq!(deployment.output("dead-letters").await.len(), 0);
    let ledger = deployment.output("gaps").await;
    let entry = ledger.first().expect("an entry").json();
    assert_eq!((&entry["cause"], &entry["records"]), (&json!("unread"), &json!(lines[0].record_ids)), "{entry}");
}

//! What Kafka holds compared with the org: a simulated org whose records change without a word, a real broker, and the program
//! as an operator calls it.

use std::time::Duration;

use casewire::simulator::{Control, EventOrder, Fault, SimulatorConfig, Snapshot as Counters};
use casewire::status::StreamStatus;
use serde_json::{Value, json};

use crate::suite::binary::{Finished, Installation, Running as Program};
use crate::suite::deployment::{Deployment, Running, brokers};
use crate::suite::fold::{assert_equals_the_org, folded};
use crate::suite::main_job::{CASES, arrived};

/// Settings of a service that heals, and looks at its ledger often.
const HEAL: &str = "GAPS__HEAL = true\nGAPS__LOOK_EVERY = 1s";

async fn create(control: &Control, entity: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let created = control.publish(EventOrder::new(entity, "CREATE")).await.expect("published");
        ids.push(created[0].record_ids[0].clone());
    }
    ids
}

async fn shift(control: &Control, minutes: i64) {
    control.inflict(Fault::ShiftClock { seconds: minutes * 60 }).await.expect("inflicted");
}

async fn silently(control: &Control, change: EventOrder) {
    control.inflict(Fault::ChangeSilently { change }).await.expect("inflicted");
}

async fn purge(control: &Control, id: &str) {
    let gone = Fault::HardDelete { entity: "Case".to_owned(), record_ids: vec![id.to_owned()] };
    control.inflict(gone).await.expect("inflicted");
}

/// Ends a service, lets so many minutes pass, and starts it again: it learns the org's clock when it signs in.
async fn after_minutes(
    deployment: &Deployment,
    running: Running,
    minutes: i64,
    topics: &[&str],
    settings: &str,
) -> Running {
    running.stop().await.expect("an orderly end");
    shift(&deployment.control(), minutes).await;
    deployment.run(topics, settings)
}

/// Lets everything so far be old enough to be judged: an hour passes, and the stream carries an event of then.
async fn let_an_hour_pass(deployment: &Deployment, running: Running, settings: &str, busy: &str) -> Running {
    let running = after_minutes(deployment, running, 60, &[CASES], settings).await;
    let last = EventOrder::new("Case", "UPDATE").on([busy]).with("Priority", "High");
    let last = deployment.control().publish(last).await.expect("published");
    arrived(&running, &last, CASES).await;
    running
}

/// The program's configuration; the service's own is the suite's.
fn installed(deployment: &Deployment) -> Installation {
    Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[CASES], "")
}

/// What `reconcile --json` says, and the code that it ended with.
async fn reconcile(installation: &Installation, words: &str) -> (Value, Option<i32>) {
    let finished = installation.output(&format!("reconcile {words} --json")).await;
    (of(&finished), finished.code)
}

fn of(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

/// How many findings of each kind there are, and of which records.
fn counts(said: &Value) -> [u64; 5] {
    let counts = &said["streams"][0]["entities"][0]["counts"];
    ["missing", "stale", "deleted", "extra", "unseen"].map(|kind| counts[kind].as_u64().expect("a count"))
}

fn found(said: &Value, kind: &str) -> Vec<String> {
    let findings = said["streams"][0]["entities"][0]["findings"].as_array().expect("findings");
    let of_kind = findings.iter().filter(|finding| finding["finding"] == kind);
    of_kind.map(|finding| finding["id"].as_str().expect("an id").to_owned()).collect()
}

/// The newest state of each entry of the ledger.
async fn ledger(deployment: &Deployment) -> Vec<Value> {
    let mut newest = std::collections::BTreeMap::new();
    for entry in deployment.output("gaps").await {
        newest.insert(entry.key.clone(), entry.json().clone());
    }
    newest.into_values().collect()
}

fn healed(at_least: u64) -> impl Fn(&StreamStatus) -> bool {
    move |status| status.gaps_open.is_empty() && status.jobs.is_empty() && status.gaps_healed >= at_least
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_without_an_event_is_found_and_mended_by_the_running_service() {
    let Some(brokers) = brokers("what_changed_without_an_event_is_found_and_mended_by_the_running_service") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    let ids = create(&control, "Case", 20).await;
    let running = deployment.run(&[CASES], HEAL);
    running.until("the first events", |status| status.records_committed >= 20).await;
    let running = let_an_hour_pass(&deployment, running, HEAL, &ids[19]).await;
    let (said, code) = reconcile(&installation, "--full").await;
    assert_eq!((counts(&said), code), ([0; 5], Some(0)), "{said}");
    assert_eq!(said["streams"][0]["entities"][0]["judged"], 19, "the busy one is too young: {said}");

    let subject = EventOrder::new("Case", "UPDATE").on([ids[0].as_str()]).with("Subject", "nobody was told");
    silently(&control, subject).await;
    silently(&control, EventOrder::new("Case", "CREATE")).await;
    silently(&control, EventOrder::new("Case", "DELETE").on([ids[1].as_str()])).await;
    purge(&control, &ids[2]).await;
    // Minutes old, and nothing is said of it yet.
    let (said, code) = reconcile(&installation, "--full").await;
    assert_eq!((counts(&said)[..3].to_vec(), code), (vec![0, 0, 0], Some(1)), "{said}");
    let running = let_an_hour_pass(&deployment, running, HEAL, &ids[19]).await;

    let (said, code) = reconcile(&installation, "--since 24h").await;
    assert_eq!((counts(&said), code), ([1, 1, 1, 0, 0], Some(1)), "a purged record is in no listing: {said}");
    assert_eq!((found(&said, "stale"), found(&said, "deleted")), (vec![ids[0].clone()], vec![ids[1].clone()]));
    let told = installation.output("reconcile --full --show 2").await;
    told.failed_with(1, &["Kafka and the org differ: 1 missing, 1 stale, 1 deleted, 1 extra", "--repair"]);
    assert!(told.stdout.contains("and 2 more") && told.stdout.contains("     1  extra"), "{}", told.stdout);

    // A large object is listed by two Bulk query jobs, and over REST where Bulk does not do it.
    let large = Installation::new(
        &deployment.simulator,
        &deployment.brokers,
        &deployment.prefix,
        &[CASES],
        "[gaps]\nbulk_from = 1",
    );
    let bulk_jobs = || control.stats().api_calls.get("bulk-create").copied().unwrap_or_default();
    let message = "InternalServerError: retried more than 15 times".to_owned();
    control.inflict(Fault::FailBulk { message, times: 2 }).await.expect("inflicted");
    let (said, code) = reconcile(&large, "--full").await;
    assert_eq!((counts(&said), code, bulk_jobs()), ([1, 1, 1, 1, 0], Some(1), 2), "{said}");
    let (said, code) = reconcile(&large, "--full --repair").await;
    assert_eq!((counts(&said), code, bulk_jobs()), ([1, 1, 1, 1, 0], Some(1), 4), "{said}");
    assert_eq!(control.stats().api_calls["bulk-delete"], 4, "the results are given back");
    let gone = Fault::FailRest {
        path: "/results".to_owned(),
        status: 404,
        error_code: "NOT_FOUND".to_owned(),
        message: "The requested resource does not exist".to_owned(),
        retry_after: None,
        times: 1,
    };
    control.inflict(gone).await.expect("inflicted");
    let told = large.output("reconcile --full").await;
    told.failed_with(69, &["The result of the Bulk query job is not there any more"]);
    assert_eq!(
        (bulk_jobs(), control.stats().bulk_jobs),
        (5, 0),
        "nor is the one of a listing that is given up left over"
    );
    assert_eq!(found(&said, "extra"), [ids[2].clone()]);
    let repair = &said["streams"][0]["repair"];
    assert_eq!(repair, &json!({"entries": 1, "records": 4, "open_already": 0, "left": 0}));
    running.until("the ledger to be closed", healed(1)).await;
    let (said, code) = reconcile(&installation, "--full").await;
    assert_eq!((counts(&said), code), ([0; 5], Some(0)), "{said}");
    running.stop().await.expect("an orderly end");

    let records = deployment.output("Case").await;
    assert_equals_the_org(&folded(&records), &control.records("Case").expect("an entity"));
    let entry = ledger(&deployment).await.pop().expect("an entry");
    assert_eq!((&entry["cause"], &entry["state"]), (&json!("reconciled"), &json!("healed")), "{entry}");
    assert_eq!((&entry["rows_reread"], &entry["deletes_found"]), (&json!(2), &json!(2)), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_waits_in_the_ledger_for_a_service_and_is_asked_for_once() {
    let Some(brokers) = brokers("a_repair_waits_in_the_ledger_for_a_service_and_is_asked_for_once") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    let ids = create(&control, "Case", 6).await;
    let running = deployment.run(&[CASES], HEAL);
    running.until("the first events", |status| status.records_committed >= 6).await;
    shift(&control, 1).await;
    silently(&control, EventOrder::new("Case", "UPDATE").on([ids[0].as_str()]).with("Subject", "silent")).await;
    purge(&control, &ids[1]).await;
    let running = let_an_hour_pass(&deployment, running, HEAL, &ids[5]).await;
    running.stop().await.expect("an orderly end");

    let (said, _) = reconcile(&installation, "--full --repair").await;
    assert_eq!((counts(&said), &said["streams"][0]["repair"]["entries"]), ([0, 1, 0, 1, 0], &json!(1)), "{said}");
    let (said, code) = reconcile(&installation, "--full --repair").await;
    let again = json!({"entries": 0, "records": 0, "open_already": 2, "left": 0});
    assert_eq!((&said["streams"][0]["repair"], code), (&again, Some(1)), "{said}");
    assert_eq!(ledger(&deployment).await.len(), 1);

    let running = deployment.run(&[CASES], HEAL);
    running.until("the ledger to be closed", healed(1)).await;
    running.stop().await.expect("an orderly end");
    let records = deployment.output("Case").await;
    assert_equals_the_org(&folded(&records), &control.records("Case").expect("an entity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_record_is_never_deleted_neither_when_it_is_found_nor_when_it_is_to_be_healed() {
    let Some(brokers) =
        brokers("a_hidden_record_is_never_deleted_neither_when_it_is_found_nor_when_it_is_to_be_healed")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    let ids = create(&control, "Case", 150).await;
    let running = deployment.run(&[CASES], HEAL);
    running.until("the first events", |status| status.records_committed >= 150).await;
    let running = let_an_hour_pass(&deployment, running, HEAL, &ids[149]).await;
    let hide = async |ids: &[String]| {
        control.inflict(Fault::HideRecords { record_ids: ids.to_vec() }).await.expect("inflicted");
    };
    let show = async |ids: &[String]| {
        control.inflict(Fault::ShowRecords { record_ids: ids.to_vec() }).await.expect("inflicted");
    };

    hide(&ids[..1]).await;
    let (said, code) = reconcile(&installation, "--full --repair").await;
    assert_eq!((counts(&said), code), ([0, 0, 0, 0, 1], Some(1)), "{said}");
    assert_eq!(said["streams"][0]["repair"], json!({"entries": 0, "records": 0, "open_already": 0, "left": 1}));
    let told = installation.output("reconcile --full").await;
    told.failed_with(1, &["1 unseen", "View All Records", "View Setup and Configuration"]);
    hide(&ids[..120]).await;
    let told = installation.output("reconcile --full --repair").await;
    told.failed_with(77, &["This looks like lost access: 120 of the 150 Case records", "gaps.most_absent"]);
    show(&ids[..120]).await;
    assert!(ledger(&deployment).await.is_empty());

    // Found while everything could be seen, and to be healed when that is not so any more.
    purge(&control, &ids[7]).await;
    running.stop().await.expect("an orderly end");
    let (said, _) = reconcile(&installation, "--full --repair").await;
    assert_eq!(counts(&said), [0, 0, 0, 1, 0], "{said}");
    hide(&ids[..1]).await;
    let running = deployment.run(&[CASES], &format!("{HEAL}\nGAPS__GIVE_UP_AFTER = 1s"));
    running.until("the end of the gap", |status| status.gaps_given_up == 1 && status.gaps_open.is_empty()).await;
    running.stop().await.expect("an orderly end");
    let states = folded(&deployment.output("Case").await);
    assert_eq!((states[&ids[0]].exists, states[&ids[7]].exists), (Some(true), Some(true)), "nothing was deleted");
    let entry = ledger(&deployment).await.pop().expect("an entry");
    assert_eq!((&entry["state"], &entry["unread"]), (&json!("given_up"), &json!([ids[7]])), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_changes_between_the_two_looks_is_no_finding() {
    let Some(brokers) = brokers("a_record_that_changes_between_the_two_looks_is_no_finding") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    let ids = create(&control, "Case", 4).await;
    let running = deployment.run(&[CASES], "");
    running.until("the first events", |status| status.records_committed >= 4).await;
    shift(&control, 1).await;
    let change = |number: usize| {
        EventOrder::new("Case", "UPDATE").on([ids[0].as_str()]).with("Subject", format!("change {number}"))
    };
    silently(&control, change(0)).await;
    let running = let_an_hour_pass(&deployment, running, "", &ids[3]).await;

    // The first look is answered, and the second one comes late enough for another change.
    let asked = || control.stats().api_calls.get("query-all").copied().unwrap_or_default();
    let (before, read) = (asked(), control.stats().records_read);
    let late = Fault::DelayHttp { path: "/queryAll".to_owned(), milliseconds: 3_000, times: 2 };
    control.inflict(late).await.expect("inflicted");
    let program: Program = installation.start("reconcile --since 24h --json");
    let looked = |stats: &Counters| stats.records_read > read;
    control.wait_for(Duration::from_secs(60), looked).await.expect("the first look");
    silently(&control, change(1)).await;
    let finished = program.ended().await;
    let said = of(&finished);
    assert_eq!((counts(&said), finished.code), ([0; 5], Some(0)), "{said}");
    assert_eq!(said["streams"][0]["entities"][0]["settled"], 1, "{said}");
    assert_eq!(asked(), before + 2, "it was looked at twice");

    let running = let_an_hour_pass(&deployment, running, "", &ids[3]).await;
    let (said, code) = reconcile(&installation, "--since 24h").await;
    assert_eq!((counts(&said), code), ([0, 1, 0, 0, 0], Some(1)), "once it is left alone it is one: {said}");
    running.stop().await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_ends_with_its_reason() {
    let Some(brokers) = brokers("what_cannot_be_compared_ends_with_its_reason") else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    let ids = create(&control, "Case", 2).await;
    installation.output("reconcile").await.failed_with(75, &["no position yet", "start the stream"]);
    let running = deployment.run(&[CASES], "");
    running.until("the first events", |status| status.records_committed >= 2).await;
    let running = let_an_hour_pass(&deployment, running, "", &ids[1]).await;
    running.stop().await.expect("an orderly end");
    installation.output("reconcile --entity MessagingSession").await.failed_with(64, &["MessagingSession", "--entity"]);
    shift(&control, 120).await;
    installation.output("reconcile --since 1h").await.failed_with(75, &["is behind", "--since"]);
    let told = installation.output("reconcile").await;
    assert!(told.code == Some(0) && told.stdout.contains("/data/CaseChangeEvent is 2 h 0 min behind"), "{told:?}");
    assert!(told.stdout.contains("Case: agree, of 1 records"), "{told:?}");
    control.inflict(Fault::Deny { entity: "Case".to_owned() }).await.expect("inflicted");
    installation.output("reconcile").await.failed_with(78, &["NOT_FOUND", "the object exists"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_compares_and_repairs_beside_the_stream_and_silence_is_told() {
    let Some(brokers) = brokers("the_schedule_compares_and_repairs_beside_the_stream_and_silence_is_told") else {
        return;
    };
    const ALL: &str = "/data/ChangeEvents";
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let cases = create(&control, "Case", 5).await;
    let sessions = create(&control, "MessagingSession", 2).await;
    let settings = format!(
        "{HEAL}\nRECONCILE__EVERY = 1s\nRECONCILE__FULL_EVERY = 1s\nRECONCILE__REPAIR = true\nRECONCILE__SILENCE_EVERY = 1s"
    );
    let running = deployment.run(&[ALL], &settings);
    running.until("the first events", |status| status.records_committed >= 7).await;
    let touch = || EventOrder::new("MessagingSession", "UPDATE").on([sessions[0].as_str()]).with("Status", "Active");
    // Beyond the hour in which a change has to have been told.
    let running = after_minutes(&deployment, running, 120, &[ALL], &settings).await;
    silently(&control, EventOrder::new("Case", "UPDATE").on([cases[0].as_str()]).with("Subject", "silent")).await;
    purge(&control, &cases[1]).await;
    let last = control.publish(touch()).await.expect("published");
    arrived(&running, &last, ALL).await;
    let running = after_minutes(&deployment, running, 30, &[ALL], &settings).await;
    let last = control.publish(touch()).await.expect("published");
    arrived(&running, &last, ALL).await;

    let agree = |status: &StreamStatus| {
        let case = status.reconcile.entities.get("Case");
        case.is_some_and(|case| case.full && case.judged == 4 && case.findings.values().all(|count| *count == 0))
    };
    let status = running
        .until("two repairs, agreement, and silence", |status| {
            let silent = status.reconcile.silence.get("Case").is_some_and(|case| case.silent);
            silent && agree(status) && healed(1)(status)
        })
        .await;
    let silence = &status.reconcile.silence;
    assert_eq!((silence["Case"].rows_changed, silence["MessagingSession"].silent), (1, false), "{silence:?}");
    assert!(silence["Case"].remedy.as_ref().is_some_and(|remedy| remedy.contains("Change Data Capture")));
    assert!(status.reconcile.runs > 0 && status.reconcile.last_run_at.is_some(), "{:?}", status.reconcile);

    // An event of the object ends it.
    let heard = EventOrder::new("Case", "UPDATE").on([cases[2].as_str()]).with("Priority", "Low");
    control.publish(heard).await.expect("published");
    running
        .until("the end of the silence", |status| status.reconcile.silence.get("Case").is_some_and(|case| !case.silent))
        .await;
    running.stop().await.expect("an orderly end");
    for entity in ["Case", "MessagingSession"] {
        let records = deployment.output(entity).await;
        assert_equals_the_org(&folded(&records), &control.records(entity).expect("an entity"));
    }
    let ledger = ledger(&deployment).await;
    assert!(ledger.iter().all(|entry| entry["cause"] == "reconciled" && entry["state"] == "healed"), "{ledger:?}");
}

//! Whole objects over Bulk: snapshots and large overflows, with changes at every point of the way, an abrupt end, and in the
//! end the records as they truly are.

use std::collections::BTreeSet;
use std::time::Duration;

use casewire::admin::{self, Wanted};
use casewire::simulator::{Control, EventOrder, Fault, SimulatorConfig};
use casewire::status::{RefusedSnapshot, StreamStatus};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::suite::binary::{Admin, Finished, Installation, Running as Started};
use crate::suite::deployment::{Deployment, Output, Running, brokers};
use crate::suite::fold::{assert_equals_the_org, folded};
use crate::suite::main_job::{CASES, arrived, passed};

/// Small pages, several at a time, and small transactions: a page is some of them, and an end in its middle is likely.
const SMALL: &str = "BATCH__MAX_RECORDS = 40\nSNAPSHOT__PARALLEL_BYTES = 1048576";

fn overflow(entity: &str, rows: u64) -> EventOrder {
    EventOrder { rows, ..EventOrder::new(entity, "GAP_OVERFLOW") }
}

/// Records that stood in the org before anybody listened: their events are not retained.
async fn old_records(control: &Control, rows: u64) -> Vec<String> {
    control.publish(overflow("Case", rows)).await.expect("published");
    control.inflict(Fault::ExpireRetention).await.expect("inflicted");
    let records = control.records("Case").expect("records");
    records.into_iter().filter(|record| !record.deleted).map(|record| record.id).collect()
}

fn update(id: &str, subject: String) -> EventOrder {
    EventOrder::new("Case", "UPDATE").on([id]).with("Subject", subject)
}

/// Records that were made and deleted without a word.
async fn gone_silently(control: &Control, count: u64) {
    let ids = || control.records("Case").expect("records").into_iter().map(|record| record.id).collect::<BTreeSet<_>>();
    let before = ids();
    for _ in 0..count {
        let change = EventOrder::new("Case", "CREATE").with("Priority", "High");
        control.inflict(Fault::ChangeSilently { change }).await.expect("inflicted");
    }
    for id in ids().difference(&before) {
        let change = EventOrder::new("Case", "DELETE").on([id.as_str()]);
        control.inflict(Fault::ChangeSilently { change }).await.expect("inflicted");
    }
}

/// Changes, deletes, restores and creates records until `done`, each when the one before it is in Kafka.
async fn change_until(running: &Running, control: &Control, ids: &[String], done: impl Fn(&StreamStatus) -> bool) {
    let mut number = 0;
    let mut gone: BTreeSet<&String> = BTreeSet::new();
    while !running.board.snapshot().streams.first().is_some_and(&done) {
        let id = &ids[(number * 7) % ids.len()];
        let order = match number % 6 {
            _ if gone.contains(id) => {
                gone.remove(id);
                EventOrder::new("Case", "UNDELETE").on([id.as_str()])
            }
            0 => EventOrder::new("Case", "CREATE"),
            1 if number % 4 == 1 => {
                gone.insert(id);
                EventOrder::new("Case", "DELETE").on([id.as_str()])
            }
            _ => update(id, format!("change {number}")),
        };
        let published = control.publish(order).await.expect("published");
        passed(running, &published, CASES).await;
        number += 1;
        assert!(number < 10_000, "it does not end: {:#?}", running.board.snapshot().streams);
    }
}

fn finished(status: &StreamStatus) -> bool {
    !status.snapshots.is_empty() && status.jobs.is_empty()
}

fn by_op<'a>(records: &'a [Output], op: &'a str) -> impl Iterator<Item = &'a Output> {
    records.iter().filter(move |record| record.headers["op"] == op)
}

async fn ask(running: &Running, wanted: &Wanted) -> Result<String, RefusedSnapshot> {
    let topic = CASES.parse().expect("a topic");
    admin::ask(&running.board, "Case", &topic, wanted).await.map(|opened| opened.job)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_brings_every_record_while_records_change_and_over_an_abrupt_end() {
    let Some(brokers) = brokers("a_snapshot_brings_every_record_while_records_change_and_over_an_abrupt_end") else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let ids = old_records(&control, 3_000).await;
    let settings = format!("{SMALL}\nSNAPSHOT__ON_FIRST_RUN = true");

    // Salesforce is held at the query, so that changes surely come between its creation and its result.
    control.inflict(Fault::HoldBulk).await.expect("inflicted");
    let running = deployment.run(&[CASES], &settings);
    let first = control.publish(update(&ids[0], "anchors the stream".to_owned())).await.expect("published");
    arrived(&running, &first, CASES).await;
    running.until("the query job", |status| status.jobs.first().is_some_and(|job| job.over_bulk)).await;
    let early = ids.iter().take(300).cloned().collect::<Vec<_>>();
    change_until(&running, &control, &early, |status| status.records_committed >= 150).await;
    // Never told by an event, and after the query was made.
    control
        .inflict(Fault::HardDelete { entity: "Case".to_owned(), record_ids: ids[1_000..1_003].to_vec() })
        .await
        .expect("inflicted");
    control.inflict(Fault::ReleaseBulk).await.expect("inflicted");
    let busy: Vec<String> = ids.iter().step_by(3).filter(|id| !ids[1_000..1_003].contains(id)).cloned().collect();
    let some = |rows: u64| move |status: &StreamStatus| status.jobs.first().is_some_and(|job| job.rows_reread >= rows);
    change_until(&running, &control, &busy, some(700)).await;
    running.abort().await;

    let running = deployment.run(&[CASES], &settings);
    change_until(&running, &control, &busy, some(1_500)).await;
    let refused = ask(&running, &Wanted::default()).await.expect_err("one is under way");
    assert!(matches!(&refused, RefusedSnapshot::UnderWay(job) if job.starts_with("snapshot-")), "{refused:?}");
    assert!(refused.failure("Case").what.contains("under way already"));
    change_until(&running, &control, &busy, finished).await;
    let last = control.publish(update(&ids[0], "the last".to_owned())).await.expect("published");
    arrived(&running, &last, CASES).await;
    let status = running.until("the last event", |status| status.jobs.is_empty()).await;
    assert_eq!((status.snapshots[0].unread, status.gaps_opened), (0, 0), "{status:?}");
    running.stop().await.expect("an orderly end");

    let records = deployment.output("Case").await;
    // The three that were purged were read before that, and no event tells of it: that is what reconciling is for.
    let truth = control.records("Case").expect("records");
    let purged = |key: &String| ids[1_000..1_003].contains(key);
    let states = folded(&records).into_iter().filter(|(key, _)| !purged(key)).collect();
    assert_equals_the_org(&states, &truth);
    let (over_bulk, over_rest): (Vec<_>, Vec<_>) =
        by_op(&records, "read").partition(|record| record.json()["record_from"] == json!("bulk"));
    assert!(over_bulk.len() > 1_500 && over_rest.len() > 50, "{} {}", over_bulk.len(), over_rest.len());
    let full: BTreeSet<&str> = records
        .iter()
        .filter(|record| record.value.as_ref().is_some_and(|value| value["record"].is_object()))
        .map(|record| record.key.as_str())
        .collect();
    let missing: Vec<&String> = ids
        .iter()
        .filter(|id| truth.iter().any(|record| record.id == **id && !record.deleted) && !full.contains(id.as_str()))
        .collect();
    assert!(missing.is_empty(), "each record has been there with all its fields: {missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_overflow_is_healed_over_bulk_with_what_is_gone_for_good_and_over_an_abrupt_end() {
    let Some(brokers) =
        brokers("a_large_overflow_is_healed_over_bulk_with_what_is_gone_for_good_and_over_an_abrupt_end")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let mut ids = Vec::new();
    for _ in 0..60 {
        let created = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
        ids.push(created[0].record_ids[0].clone());
    }
    let settings = format!("{SMALL}\nGAPS__HEAL = true\nGAPS__BULK_FROM = 1000");
    let running = deployment.run(&[CASES], &settings);
    running.until("the first events", |status| status.records_committed >= 60).await;
    running.stop().await.expect("an orderly end");
    let gone = ids[10..14].to_vec();
    control
        .inflict(Fault::HardDelete { entity: "Case".to_owned(), record_ids: gone.clone() })
        .await
        .expect("inflicted");
    control.publish(overflow("Case", 2_500)).await.expect("published");
    // The first result is given up by Salesforce; the second one is good.
    let message = "retried more than 15 times".to_owned();
    control.inflict(Fault::FailBulk { message, times: 1 }).await.expect("inflicted");

    let alive: Vec<String> = control
        .records("Case")
        .expect("records")
        .into_iter()
        .filter(|record| !record.deleted && ids.contains(&record.id))
        .map(|record| record.id)
        .collect();
    assert!(alive.len() > 15, "{}", alive.len());
    let running = deployment.run(&[CASES], &settings);
    let some = |status: &StreamStatus| status.jobs.first().is_some_and(|job| job.over_bulk && job.rows_reread >= 400);
    change_until(&running, &control, &alive, some).await;
    running.abort().await;
    // Whoever goes on finds no result any more: what was written stands, and a successor begins anew.
    let gone_result = Fault::FailRest {
        path: "/results".to_owned(),
        status: 404,
        error_code: "NOT_FOUND".to_owned(),
        message: "The requested resource does not exist".to_owned(),
        retry_after: None,
        times: 1,
    };
    control.inflict(gone_result).await.expect("inflicted");
    let running = deployment.run(&[CASES], &settings);
    change_until(&running, &control, &alive, |status| status.gaps_healed > 0 && status.jobs.is_empty()).await;
    let last = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    arrived(&running, &last, CASES).await;
    running.until("the ledger to be closed", |status| status.gaps_open.is_empty() && status.jobs.is_empty()).await;
    running.stop().await.expect("an orderly end");

    let records = deployment.output("Case").await;
    assert_equals_the_org(&folded(&records), &control.records("Case").expect("records"));
    let over_bulk = by_op(&records, "refresh").filter(|record| record.json()["record_from"] == json!("bulk")).count();
    assert!(over_bulk > 1_500, "{over_bulk}");
    let of_successor =
        |record: &&Output| record.json()["source"]["job"].as_str().is_some_and(|job| job.contains("-again"));
    let anew = by_op(&records, "refresh").filter(of_successor).count();
    assert!(anew > 1_500 && anew < over_bulk, "{anew} of {over_bulk} rows by the successor");
    assert!(gone.iter().all(|id| by_op(&records, "delete").any(|record| record.key == *id)));
    let entries = deployment.output("gaps").await;
    assert_eq!(entries.last().expect("an entry").json()["state"], json!("healed"));
    let stats = control.stats();
    assert!(stats.api_calls["bulk-create"] >= 3 && stats.api_calls["bulk-delete"] >= 1, "{:?}", stats.api_calls);
    assert_eq!(stats.bulk_jobs, 0, "neither of those that were given up is left over: {:?}", stats.api_calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_part_says_nothing_of_the_rest_and_what_bulk_refuses_comes_over_rest() {
    let Some(brokers) = brokers("a_snapshot_of_a_part_says_nothing_of_the_rest_and_what_bulk_refuses_comes_over_rest")
    else {
        return;
    };
    let mut config = SimulatorConfig::on_free_ports();
    config.rest.bulk_jobs = 1;
    let deployment = Deployment::new(brokers, config).await;
    let control = deployment.control();
    for number in 0..120 {
        let priority = if number % 3 == 0 { "High" } else { "Low" };
        control.publish(EventOrder::new("Case", "CREATE").with("Priority", priority)).await.expect("published");
    }
    let running = deployment.run(&[CASES], SMALL);
    running.until("the events", |status| status.records_committed >= 120).await;

    let condition = |text: &str| Wanted { condition: Some(text.to_owned()), ..Wanted::default() };
    let refused = ask(&running, &condition("Nothing__c = 1")).await.expect_err("no such field").failure("Case");
    assert!(refused.what.contains("No snapshot of Case") && refused.remedy.contains("WHERE"), "{refused:?}");
    // The one job of the day; the second snapshot has to be read over REST. What each time lies in the recycle bin without
    // an event that told is brought once.
    for (wanted, from, gone) in
        [(condition("Priority = 'High'"), "bulk", 3), (condition("Priority = 'High' OR Priority = 'None'"), "rest", 2)]
    {
        gone_silently(&control, gone).await;
        let wanted = Wanted { include_deleted: true, ..wanted };
        let job = ask(&running, &wanted).await.expect("opened");
        let ended = |status: &StreamStatus| status.snapshots.iter().any(|ended| ended.job == job);
        let status = running.until("the end of the snapshot", ended).await;
        let ended = status.snapshots.last().expect("one");
        assert_eq!((ended.rows, ended.deletes, ended.unread), (40, gone, 0));
        let records = deployment.output("Case").await;
        let of_job: Vec<_> =
            by_op(&records, "read").filter(|record| record.json()["source"]["job"] == json!(job)).collect();
        assert!(of_job.iter().all(|record| record.json()["record_from"] == json!(from)), "{from}");
        assert!(of_job.len() == 40 && of_job.iter().all(|record| record.json()["record"]["Priority"] == json!("High")));
    }
    running.stop().await.expect("an orderly end");
    assert_equals_the_org(&folded(&deployment.output("Case").await), &control.records("Case").expect("records"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_asked_for_before_the_stream_has_a_position_waits_for_the_first_keepalive() {
    let Some(brokers) =
        brokers("a_snapshot_that_is_asked_for_before_the_stream_has_a_position_waits_for_the_first_keepalive")
    else {
        return;
    };
    let mut config = SimulatorConfig::on_free_ports();
    config.pubsub.keepalive = Duration::from_millis(200);
    let deployment = Deployment::new(brokers, config).await;
    let control = deployment.control();
    let ids = old_records(&control, 120).await;
    control.inflict(Fault::Silence).await.expect("inflicted");
    let running = deployment.run(&[CASES], SMALL);
    running.until("the call", |status| status.call_open_since.is_some()).await;
    let job = ask(&running, &Wanted::default()).await.expect("opened");
    let status = running.until("the job", |status| status.jobs.iter().any(|open| open.job == job)).await;
    assert!(!status.jobs[0].over_bulk && status.last_replay_id.is_none(), "{status:?}");
    assert!(!control.stats().api_calls.contains_key("bulk-create"), "what changes now would not be delivered");

    // No event ever comes: the position of a keepalive is enough.
    control.inflict(Fault::Speak).await.expect("inflicted");
    let status = running.until("the end of the snapshot", finished).await;
    running.stop().await.expect("an orderly end");
    assert_eq!((status.snapshots[0].rows, status.events_received), (120, 0), "{status:?}");
    let records = deployment.output("Case").await;
    assert_equals_the_org(&folded(&records), &control.records("Case").expect("records"));
    assert_eq!(records.len(), ids.len());
}

/// `casewire <words>` of an installation, with an admin token in its environment.
fn start(installation: &Installation, words: &str, token: Option<&str>) -> Started {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casewire"));
    command.args(words.split_whitespace()).arg("--config").arg(&installation.config);
    if let Some(token) = token {
        command.env("CASEWIRE__ADMIN__TOKEN", token);
    }
    Started::of(&mut command)
}

/// A paused stream asks for nothing, opens no snapshot, and has lost nothing when it is resumed.
async fn paused_and_resumed(admin: &Admin, control: &Control, id: &str, snapshot: impl Future<Output = Finished>) {
    let order = async |what: &str| {
        let asked =
            reqwest::Client::new().post(format!("http://{}/streams/{what}", admin.address)).bearer_auth("sesame");
        let answer = asked.json(&json!({ "topic": CASES })).send().await.expect("answered");
        assert_eq!(answer.status(), 200, "{what}");
    };
    order("pause").await;
    let stands = |status: &Value| {
        let stream = &status["process"]["streams"][0];
        stream["state"] == "paused" && stream["call_open_since"].is_null() && stream["events_in_flight"] == 0
    };
    let before = admin.until("the end of the call", stands).await;
    let published = control.publish(update(id, "while nobody listens".to_owned())).await.expect("published");
    snapshot.await.failed_with(75, &["is paused, so Case cannot be read"]);
    let (code, reasons) = admin.get("/ready").await;
    assert!(code == 503 && reasons.contains("paused by an operator"), "{code} {reasons}");
    let during = admin.until("a look", stands).await;
    let received = |status: &Value| status["process"]["streams"][0]["events_received"].as_u64();
    assert_eq!(received(&during), received(&before), "nothing is asked for");
    order("resume").await;
    admin.arrived(&published.last().expect("an event").replay_id).await;
    let log = admin.get("/status").await.1;
    assert!(log.contains("paused by an operator") && admin.get("/ready").await.0 == 200, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_is_the_service_until_the_snapshot_is_done_or_asks_the_one_that_runs() {
    let Some(brokers) = brokers("the_command_is_the_service_until_the_snapshot_is_done_or_asks_the_one_that_runs")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let ids = old_records(&control, 300).await;
    control.publish(update(&ids[0], "anchors the stream".to_owned())).await.expect("published");
    let installation = Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[CASES], "");
    let said = start(&installation, "snapshot", None).ended().await.succeeded();
    assert!(said.contains(&format!("Case: {} records read, 0 deletes found", ids.len())), "{said}");
    let beside = start(&installation, "snapshot", None).ended().await;
    beside.failed_with(75, &["wrote to /data/CaseChangeEvent", "--service URL", "--take-over"]);

    let service = start(&installation, "run", Some("sesame"));
    let admin = service.admin().await;
    admin.until("a running stream", |status| status["process"]["streams"][0]["state"] == json!("running")).await;
    let words = |more: &str| format!("snapshot --service http://{}{more}", admin.address);
    let ask = async |more: &str, token| start(&installation, &words(more), token).ended().await;
    ask("", None).await.failed_with(78, &["has no admin.token"]);
    ask("", Some("guessed")).await.failed_with(77, &["the token is not that of admin.token"]);
    ask(" --entity Nothing__c", Some("sesame")).await.failed_with(64, &["No snapshot of Nothing__c"]);
    ask(" --where 1", Some("sesame")).await.failed_with(64, &["No snapshot of Case", "WHERE"]);
    control.inflict(Fault::HoldBulk).await.expect("inflicted");
    let first = start(&installation, &words(""), Some("sesame"));
    let under_way = |status: &Value| status["process"]["streams"][0]["jobs"][0]["over_bulk"] == json!(true);
    let status = admin.until("the query job", under_way).await;
    assert_eq!(status["process"]["streams"][0]["jobs"][0]["snapshot"], json!(true));
    assert!(
        admin
            .get("/metrics")
            .await
            .1
            .contains("casewire_snapshot_records{topic=\"/data/CaseChangeEvent\",entity=\"Case\"} 0")
    );
    ask("", Some("sesame")).await.failed_with(64, &["A snapshot of Case is under way already"]);
    control.inflict(Fault::ReleaseBulk).await.expect("inflicted");
    let said = first.ended().await.succeeded();
    assert!(said.contains(&format!("Case: {} records read", ids.len())), "{said}");
    paused_and_resumed(&admin, &control, &ids[0], ask("", Some("sesame"))).await;
    service.terminated().await.succeeded();
    let records = deployment.output("Case").await;
    assert_eq!(by_op(&records, "read").count(), 2 * ids.len(), "each snapshot every record once");
    assert_equals_the_org(&folded(&records), &control.records("Case").expect("records"));
}

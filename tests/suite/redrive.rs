//! Dead letters redriven: a simulated org, the real pipeline, a real broker, and the command as an operator calls it.

use std::collections::BTreeMap;

use casewire::simulator::{EventOrder, Fault, LedgerLine, SimulatorConfig};
use casewire::status::Snapshot;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::suite::binary::Installation;
use crate::suite::deployment::{Deployment, Output, Running, brokers};
use crate::suite::fold::{assert_equals_the_org, folded};
use crate::suite::main_job::{CASES, arrived};

const ESCALATIONS: &str = "/event/Case_Escalation__e";
const STREAMS: [&str; 2] = [CASES, ESCALATIONS];

/// What commands write is found soon.
const HEAL: &str = "GAPS__HEAL = true\nGAPS__LOOK_EVERY = 1s";

fn installed(deployment: &Deployment) -> Installation {
    Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &STREAMS, "")
}

/// The key of an event's letter.
fn letter(line: &LedgerLine) -> String {
    format!("{}-{}", line.replay_id, line.event_id)
}

fn letters(snapshot: &Snapshot) -> u64 {
    snapshot.streams.iter().map(|stream| stream.dead_letters).sum()
}

/// Waits until so many gaps are closed and none is open.
async fn healed(running: &Running, gaps: u64) {
    let done = |snapshot: &Snapshot| {
        let closed: u64 = snapshot.streams.iter().map(|stream| stream.gaps_healed).sum();
        closed >= gaps && snapshot.streams.iter().all(|stream| stream.gaps_open.is_empty() && stream.jobs.is_empty())
    };
    running.until_all("the ends of the gaps", done).await;
}

/// What `dead-letters <words> --json` prints.
async fn printed(installation: &Installation, words: &str) -> Value {
    let printed = installation.output(&format!("dead-letters {words} --json")).await.succeeded();
    serde_json::from_str(&printed).expect("JSON")
}

/// How often each outcome is among those of a redrive.
fn outcomes(printed: &Value) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for letter in printed["letters"].as_array().expect("a list") {
        *outcomes.entry(letter["outcome"].as_str().expect("a word").to_owned()).or_default() += 1;
    }
    outcomes
}

fn redriven_from<'o>(records: &'o [Output], letter: &str) -> Vec<&'o Output> {
    records.iter().filter(|record| record.headers.get("redriven_from").is_some_and(|from| from == letter)).collect()
}

/// Puts an open entry into the ledger a second time, as a command does that asks at the same moment as another one.
async fn opened_again(deployment: &Deployment, gap: &str) {
    let mut entries = deployment.output("gaps").await;
    entries.retain(|entry| entry.key == gap && entry.json()["state"] == json!("open"));
    let (entry, brokers) = (entries.pop().expect("it was open once"), deployment.brokers.clone());
    let topic = format!("{}.gaps", deployment.prefix);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("partitioner", "murmur2_random")
        .create()
        .expect("a producer");
    let headers = entry
        .headers
        .iter()
        .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
    let record = BaseRecord::to(&topic).key(&entry.key).payload(&entry.raw).headers(headers);
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    producer.flush(std::time::Duration::from_secs(30)).expect("flushed");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_redriven_once_as_the_records_are_now_and_platform_events_as_they_were() {
    let Some(brokers) = brokers("letters_are_redriven_once_as_the_records_are_now_and_platform_events_as_they_were")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    // Salesforce does not know the schemas, for as often as anybody asks before giving an event up.
    let error_code = "sfdc.platform.eventbus.grpc.schema.validation.failed".to_owned();
    control.inflict(Fault::FailGetSchema { status: 3, error_code, times: 10 }).await.expect("inflicted");
    let mut lost = Vec::new();
    for _ in 0..4 {
        lost.extend(control.publish(EventOrder::new("Case", "CREATE")).await.expect("published"));
    }
    let ids: Vec<String> = lost.iter().map(|line| line.record_ids[0].clone()).collect();
    let monday = EventOrder::new("Case", "UPDATE").on([ids[0].as_str()]).with("Subject", "Monday");
    lost.extend(control.publish(monday.with("Priority", "High")).await.expect("published"));
    lost.extend(control.publish(EventOrder::new("Case", "DELETE").on([ids[1].as_str()])).await.expect("published"));
    // It lies in no recycle bin any more when its letter is redriven.
    lost.extend(control.publish(EventOrder::new("Case", "DELETE").on([ids[3].as_str()])).await.expect("published"));
    let purge = Fault::HardDelete { entity: "Case".to_owned(), record_ids: vec![ids[3].clone()] };
    control.inflict(purge).await.expect("inflicted");
    let event = control.publish(EventOrder::new("Case_Escalation__e", "")).await.expect("published");
    let running = deployment.run(&STREAMS, HEAL);
    running.until_all("the letters", |snapshot| letters(snapshot) == 8).await;
    running.stop().await.expect("an orderly end");
    assert!(deployment.output("Case").await.is_empty(), "nothing could be decoded");

    // A newer change is there before anybody looks at the letters.
    let running = deployment.run(&STREAMS, HEAL);
    let friday = EventOrder::new("Case", "UPDATE").on([ids[0].as_str()]).with("Subject", "Friday");
    let last = control.publish(friday).await.expect("published");
    arrived(&running, &last, CASES).await;
    let dry = printed(&installation, "redrive --all --dry-run").await;
    assert_eq!(outcomes(&dry), [("would be opened".to_owned(), 8)].into(), "{dry:#}");
    assert!(deployment.output("gaps").await.is_empty(), "nothing was done");
    let told = printed(&installation, &format!("redrive --id {}", letter(&lost[0]))).await;
    assert_eq!(outcomes(&told), [("opened".to_owned(), 1)].into(), "{told:#}");
    let told = printed(&installation, "redrive --all").await;
    assert_eq!(outcomes(&told), [("already".to_owned(), 1), ("opened".to_owned(), 7)].into(), "{told:#}");
    healed(&running, 8).await;

    let records = deployment.output("Case").await;
    assert_equals_the_org(&folded(&records), &control.records("Case").expect("records"));
    assert!(
        records.iter().all(|record| !record.json()["record"].to_string().contains("Monday")),
        "never the old values"
    );
    for (line, op) in lost.iter().zip(["refresh", "delete", "refresh", "delete"]) {
        let key = &line.record_ids[0];
        let came = records.iter().find(|record| record.key == *key && record.headers.contains_key("redriven_from"));
        let came = came.unwrap_or_else(|| panic!("{key} was not redriven"));
        assert_eq!(came.headers["op"], op, "{came:?}");
        assert!(lost.iter().any(|line| came.headers["redriven_from"] == letter(line)), "{came:?}");
    }
    let events = deployment.output("Case_Escalation__e").await;
    assert_eq!(events.len(), 1, "{events:?}");
    let written = redriven_from(&events, &letter(&event[0]))[0];
    assert_eq!(written.json()["changed"], Value::Object(event[0].changed.clone()));
    assert_eq!(
        (written.key.as_str(), &written.json()["source"]["replay_id"]),
        (&*event[0].event_id, &json!(event[0].replay_id))
    );

    // Once more, and by two commands at the same moment: nothing is written twice.
    let told = printed(&installation, "redrive --all").await;
    assert_eq!(outcomes(&told), [("already".to_owned(), 8)].into(), "{told:#}");
    let listed = printed(&installation, "list").await;
    let states = listed["letters"].as_array().expect("a list").iter().map(|letter| &letter["redriven"]["state"]);
    assert!(states.clone().count() == 8 && states.into_iter().all(|state| state == "healed"), "{listed:#}");
    assert!(installation.output("dead-letters list").await.succeeded().contains("healed"));
    opened_again(&deployment, &format!("letter-{}", letter(&event[0]))).await;
    healed(&running, 9).await;
    running.stop().await.expect("an orderly end");
    assert_eq!(deployment.output("Case").await.len(), records.len());
    assert_eq!(deployment.output("Case_Escalation__e").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_too_large_are_read_in_slices_and_undecodable_ones_with_their_whole_object() {
    let Some(brokers) =
        brokers("letters_that_are_too_large_are_read_in_slices_and_undecodable_ones_with_their_whole_object")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let (control, installation) = (deployment.control(), installed(&deployment));
    let mut ids = Vec::new();
    for _ in 0..130 {
        let created = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
        ids.push(created[0].record_ids[0].clone());
    }
    // Each record repeats the text: together they are more than an event may take here.
    let large = EventOrder::new("Case", "UPDATE").on(ids.iter().map(String::as_str)).with("Subject", "x".repeat(9_000));
    let large = control.publish(large).await.expect("published");
    control.inflict(Fault::Poison { events: 2 }).await.expect("inflicted");
    let poisoned = EventOrder::new("Case", "UPDATE").on([ids[0].as_str()]).with("Subject", "nobody can read this");
    let poisoned = control.publish(poisoned).await.expect("published");
    let event = control.publish(EventOrder::new("Case_Escalation__e", "")).await.expect("published");
    let last = control.publish(EventOrder::new("Case", "UPDATE").on([ids[1].as_str()])).await.expect("published");
    let small = format!("{HEAL}\nBATCH__MAX_EVENT_BYTES = 1048576\nBATCH__MAX_RECORDS = 20");
    let running = deployment.run(&STREAMS, &small);
    arrived(&running, &last, CASES).await;
    running.until_all("the letters", |snapshot| letters(snapshot) == 3).await;

    let told = printed(&installation, &format!("redrive --id {}", letter(&large[0]))).await;
    assert_eq!(outcomes(&told), [("opened".to_owned(), 1)].into(), "{told:#}");
    healed(&running, 1).await;
    let records = deployment.output("Case").await;
    let redriven = redriven_from(&records, &letter(&large[0]));
    assert_eq!(redriven.len(), 130);
    assert!(redriven.iter().all(|record| record.headers["op"] == "refresh"));

    // What cannot be decoded now either is said and left; of a platform event nothing can be read at all.
    let left = installation.output("dead-letters redrive --all").await;
    left.failed_with(69, &["2 of 3 letters were left"]);
    assert!(left.stdout.contains("--whole reads all records of Case"), "{left:?}");
    let whole = installation.output("dead-letters redrive --all --whole").await;
    whole.failed_with(69, &["1 of 3 letters were left"]);
    assert!(whole.stdout.contains("all records of Case are read anew"), "{whole:?}");
    healed(&running, 2).await;
    installation.output("dead-letters redrive --id 00-nothing").await.failed_with(64, &["00-nothing", "list"]);
    running.stop().await.expect("an orderly end");
    let records = deployment.output("Case").await;
    assert!(!redriven_from(&records, &letter(&poisoned[0])).is_empty());
    assert_equals_the_org(&folded(&records), &control.records("Case").expect("records"));
    let letters = deployment.output("dead-letters").await;
    assert!(letters.iter().any(|record| record.key == letter(&event[0])), "a letter stays where it is");
}

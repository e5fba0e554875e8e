//! Field policies, from end to end: what they keep from readers stands in no record of any topic, whatever way it took.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::hmac;
use casewire::config::Config;
use casewire::identity::case_safe_id;
use casewire::simulator::{Control, EventOrder, Fault, MessageOrder, SimulatorConfig};
use casewire::status::Snapshot;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};

use crate::suite::binary::Installation;
use crate::suite::deployment::{Deployment, Output, Running, brokers};
use crate::suite::main_job::{CASES, SESSIONS, arrived};

const INSTALLATIONS: &str = "/data/Installation__ChangeEvent";
const ESCALATIONS: &str = "/event/Case_Escalation__e";
const STREAMS: [&str; 4] = [SESSIONS, CASES, INSTALLATIONS, ESCALATIONS];

const KEY: &str = "4f1d0c5e7a9b83264f1d0c5e7a9b8326";

/// Every secret value of this test begins so, and nothing else does.
const SECRET: &str = "qxzsecret";

/// In a field that no policy names: what looks for the secrets has to find it on the same ways.
const OPEN: &str = "qxzopen";

const POLICIES: &str = r#"
[[policy]]
entity = "Case"
drop = ["Description", "SuppliedName"]
hash = ["SuppliedEmail"]
mask = ["SuppliedPhone", "Subject"]
keep_last = 4

[[policy]]
entity = "Installation__c"
drop = ["Site_Address__Street__s", "Notes__c"]
hash = ["Billing_Address__c"]

[[policy]]
entity = "Case_Escalation__e"
drop = ["Reason__c"]

[[policy]]
entity = "MessagingSession"
drop = ["PreviewDetails"]
hash = ["CaseId"]

[[policy]]
entity = "ConversationEntry"
mask = ["text"]
drop = ["payload"]
"#;

const MORE: &str = "STREAM__0__MESSAGES = true\nMESSAGES__SETTLE = 10ms\nMESSAGES__SWEEP_LEAST = 1s\nMESSAGES__SWEEP_MOST = 1s\n\
                    STREAM__1__RECORD = always\nSTREAM__2__RECORD = when_needed\nSNAPSHOT__ON_FIRST_RUN = true\n\
                    GAPS__HEAL = true\nGAPS__LOOK_EVERY = 1s";

fn with_policies(text: &str) -> String {
    format!("policy_key = '{KEY}'\n{text}\n{POLICIES}")
}

fn started(deployment: &Deployment) -> Running {
    let table = with_policies(&deployment.config_file(&STREAMS)).parse().expect("TOML");
    let overrides = MORE.lines().filter_map(|line| line.split_once('='));
    let overrides = overrides.map(|(key, value)| (format!("CASEWIRE__{}", key.trim()), value.trim().to_owned()));
    Deployment::run_configured(Config::from_table(table, &overrides.collect()).expect("a valid configuration"))
}

/// What is to be read of a value under `hash`: the HMAC-SHA-256 of the value under the key's bytes.
fn hash(value: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), value.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn secret(of: &str) -> String {
    format!("{SECRET}-{of}")
}

/// A text that is so long that Salesforce sends changes of it as differences.
fn long(change: &str) -> String {
    (0..80)
        .map(|line| format!("{} line {line}{}\n", secret("description"), if line == 40 { change } else { "" }))
        .collect()
}

fn case(change: &str, subject: &str) -> EventOrder {
    EventOrder::new("Case", change)
        .with("Description", long(subject))
        .with("SuppliedName", secret("name"))
        .with("SuppliedEmail", secret("mail@example.com"))
        .with("SuppliedPhone", format!("{}0199", secret("phone")))
        .with("Subject", secret(subject))
        .with("SuppliedCompany", OPEN)
}

fn installation() -> EventOrder {
    let address = |of: &str| json!({"Street": secret(of), "City": format!("City of {of}"), "Country": "Germany"});
    EventOrder::new("Installation__c", "CREATE")
        .with("Site_Address__c", address("street"))
        .with("Billing_Address__c", address("billing"))
        .with("Notes__c", secret("notes"))
}

async fn publish(control: &Control, order: EventOrder) -> Vec<casewire::simulator::LedgerLine> {
    control.publish(order).await.expect("published")
}

/// Every topic under the prefix, with its committed records.
async fn all_topics(deployment: &Deployment) -> BTreeMap<String, Vec<Output>> {
    let (brokers, prefix) = (deployment.brokers.clone(), format!("{}.", deployment.prefix));
    let names = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a consumer");
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(30)).expect("metadata");
        let names = metadata.topics().iter().filter_map(|topic| topic.name().strip_prefix(&prefix).map(str::to_owned));
        names.collect::<Vec<_>>()
    });
    let mut topics = BTreeMap::new();
    for name in names.await.expect("asked") {
        let records = deployment.output(&name).await;
        topics.insert(name, records);
    }
    topics
}

/// Where a word stands, in the bytes of keys, values and headers.
fn standing(topics: &BTreeMap<String, Vec<Output>>, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (topic, records) in topics {
        for record in records {
            let headers = format!("{:?}", record.headers);
            for (part, text) in
                [("key", record.key.as_str()), ("value", &String::from_utf8_lossy(&record.raw)), ("headers", &headers)]
            {
                if text.contains(word) {
                    found.push(format!("{topic}, {part} of {}: {text}", record.key));
                }
            }
        }
    }
    found
}

fn of<'o>(topics: &'o BTreeMap<String, Vec<Output>>, name: &str) -> &'o [Output] {
    topics.get(name).map(Vec::as_slice).unwrap_or_default()
}

fn letters(snapshot: &Snapshot) -> u64 {
    snapshot.streams.iter().map(|stream| stream.dead_letters).sum()
}

fn closed(snapshot: &Snapshot, gaps: u64) -> bool {
    let healed: u64 = snapshot.streams.iter().map(|stream| stream.gaps_healed).sum();
    healed >= gaps && snapshot.streams.iter().all(|stream| stream.gaps_open.is_empty() && stream.jobs.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policy_keeps_back_stands_in_no_record_of_any_topic_whatever_way_it_took() {
    let Some(brokers) = brokers("what_a_policy_keeps_back_stands_in_no_record_of_any_topic_whatever_way_it_took")
    else {
        return;
    };
    let mut org = SimulatorConfig::on_free_ports();
    org.rest.daily_requests = 10_000_000;
    let deployment = Deployment::new(brokers, org).await;
    let control = deployment.control();
    // Read by the snapshot over Bulk: no event of these is retained.
    for _ in 0..5 {
        publish(&control, case("CREATE", "old")).await;
        publish(&control, installation()).await;
    }
    control.inflict(Fault::ExpireRetention).await.expect("inflicted");

    let running = started(&deployment);
    // As events with their full records, as differences of a long text, as a component alone, and as what no event tells.
    let id = publish(&control, case("CREATE", "new")).await[0].record_ids[0].clone();
    let on = |order: EventOrder| order.on([id.as_str()]);
    publish(&control, on(case("UPDATE", "changed"))).await;
    publish(&control, on(EventOrder::new("Case", "UPDATE").with("Description", long("again")))).await;
    publish(&control, on(EventOrder::new("Case", "UPDATE").with("SuppliedEmail", Value::Null))).await;
    publish(&control, on(EventOrder::new("Case", "GAP_UPDATE"))).await;
    publish(&control, EventOrder { rows: 3, ..case("GAP_OVERFLOW", "overflow") }).await;
    let site = publish(&control, installation()).await[0].record_ids[0].clone();
    let moved = json!({"Street": secret("moved"), "City": "Bonn"});
    let moved = EventOrder::new("Installation__c", "UPDATE").on([site.as_str()]).with("Site_Address__c", moved);
    publish(&control, moved).await;
    publish(&control, EventOrder::new("Case_Escalation__e", "").with("Reason__c", secret("reason"))).await;
    let conversation = case_safe_id("0dw8d0000000001").into_owned();
    let session = EventOrder::new("MessagingSession", "CREATE")
        .with("ConversationId", conversation)
        .with("Status", "Active")
        .with("CaseId", case_safe_id("5008d0000000777").into_owned())
        .with("PreviewDetails", secret("preview"));
    let session = publish(&control, session).await[0].record_ids[0].clone();
    for text in ["hello", "more"] {
        control.say(MessageOrder::new(&session, &secret(text))).await.expect("said");
    }

    // What cannot be decoded.
    control.inflict(Fault::Poison { events: 2 }).await.expect("inflicted");
    publish(&control, on(case("UPDATE", "poisoned"))).await;
    publish(&control, EventOrder::new("Case_Escalation__e", "").with("Reason__c", secret("poisoned"))).await;
    let last = publish(&control, on(EventOrder::new("Case", "UPDATE").with("Priority", "High"))).await;
    arrived(&running, &last, CASES).await;
    running.until_all("the letters", |snapshot| letters(snapshot) == 2).await;

    running.until_all("the end of all jobs", |snapshot| closed(snapshot, 0)).await;

    // A letter that names its records is redriven; of a platform event nothing is left.
    let installation = Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &STREAMS, "");
    let text = std::fs::read_to_string(&installation.config).expect("read");
    std::fs::write(&installation.config, with_policies(&text)).expect("written");
    let before = running.board.snapshot().streams.iter().map(|stream| stream.gaps_healed).sum::<u64>();
    let redriven = installation.output("dead-letters redrive --all --whole").await;
    redriven.failed_with(69, &["1 of 2 letters were left"]);
    assert!(redriven.stdout.contains("a field policy kept its bytes back"), "{redriven:?}");
    running.until_all("the end of all jobs", |snapshot| closed(snapshot, before + 1)).await;
    let told = |snapshot: &Snapshot| {
        let messages = snapshot.streams.iter().filter_map(|stream| stream.messages.as_ref());
        messages.map(|messages| messages.entries_written).sum::<u64>() >= 2
    };
    running.until_all("the messages", told).await;
    running.stop().await.expect("an orderly end");

    let topics = all_topics(&deployment).await;
    let found = standing(&topics, SECRET);
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
    // The instrument sees what is there: what the policies do not name came through, on every way.
    let open = standing(&topics, OPEN);
    for way in ["\"op\":\"create\"", "\"op\":\"update\"", "\"op\":\"refresh\"", "\"record_from\":\"bulk\""] {
        assert!(open.iter().any(|found| found.contains(way)), "{way} is not among {} places", open.len());
    }
    let names: BTreeSet<&str> = topics.keys().map(String::as_str).collect();
    for name in
        ["Case", "Installation__c", "Case_Escalation__e", "MessagingSession", "ConversationEntry", "dead-letters"]
    {
        assert!(names.contains(name) && !of(&topics, name).is_empty(), "{name} of {names:?}");
    }

    let (mail, phone) = (format!(":{}", hash(&secret("mail@example.com"))), json!("***0199"));
    let mut ways = BTreeSet::new();
    for record in of(&topics, "Case") {
        let value = record.json();
        for fields in [&value["changed"], &value["record"]] {
            for gone in ["Description", "SuppliedName"] {
                assert!(fields.get(gone).is_none(), "{value:#}");
            }
            if let Some(shown) = fields.get("SuppliedEmail").and_then(Value::as_str) {
                assert!(shown.starts_with("hmac-sha256:") && shown.ends_with(&mail), "{value:#}");
                assert_eq!(fields.get("SuppliedPhone").unwrap_or(&phone), &phone);
                let from = value["record_from"].as_str().unwrap_or("event");
                ways.insert((value["op"].as_str().unwrap_or_default().to_owned(), from.to_owned()));
            }
        }
        assert!(!value.to_string().contains("\"unresolved\":[\"Description"), "a dropped field has no name: {value:#}");
    }
    let ways: Vec<(&str, &str)> = ways.iter().map(|(op, from)| (op.as_str(), from.as_str())).collect();
    for way in [("create", "rest"), ("update", "rest"), ("refresh", "rest"), ("read", "bulk")] {
        assert!(ways.contains(&way), "{way:?} is not among {ways:?}");
    }
    let sites = of(&topics, "Installation__c");
    assert!(
        sites.iter().any(|record| record.json()["changed"]["Site_Address__c"]["City"] == json!("Bonn")),
        "{sites:#?}"
    );
    let billed = format!(":{}", hash(&secret("billing")));
    let billing = |record: &Output, part: &str| record.json()[part]["Billing_Address__c"]["Street"].clone();
    for part in ["changed", "record"] {
        let hashed =
            sites.iter().any(|record| billing(record, part).as_str().is_some_and(|text| text.ends_with(&billed)));
        assert!(hashed, "{part}: {sites:#?}");
    }
    let entries = of(&topics, "ConversationEntry");
    assert!(entries.iter().all(|entry| entry.json()["text"] == json!("***") || entry.json()["text"].is_null()));
    let case = format!(":{}", hash(&case_safe_id("5008d0000000777")));
    assert!(entries.iter().any(|entry| entry.json()["case"].as_str().is_some_and(|text| text.ends_with(&case))));
    let letter = of(&topics, "dead-letters").iter().find(|letter| letter.headers["topic"] == CASES).expect("a letter");
    assert_eq!((&letter.json()["withheld"], &letter.json()["entity"]), (&json!("field policy"), &json!("Case")));

    // Whoever looks without Kafka sees no more; and a policy that names no field is refused before anything is carried.
    let tail = installation.output("tail --topic /data/CaseChangeEvent --start earliest --limit 3").await;
    assert!(tail.succeeded().contains(&mail));
    std::fs::write(&installation.config, with_policies(&text).replace("\"SuppliedName\"", "\"SupliedName\""))
        .expect("written");
    let refused = installation.output("run").await;
    refused.failed_with(78, &["The policy of Case names fields that Case does not have: SupliedName", "[[policy]]"]);
}

//! Events at and beyond the edge of what Salesforce sends, through the whole way into a real broker.

use std::collections::HashSet;

use casewire::change::{FieldPolicies, WriterSchema};
use casewire::simulator::{EventOrder, Fault, SimulatorConfig};
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::suite::binary::Installation;
use crate::suite::deployment::{Deployment, brokers};
use crate::suite::main_job::{CASES, arrived};

const MIB: u64 = 1024 * 1024;

/// Far above what either event takes, far below what the second one would.
const PEAK: u64 = 400 * MIB;

fn record_ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("5008d0000{number:06}AAA")).collect()
}

/// Text that does not compress to nothing.
fn text(length: usize) -> String {
    StdRng::seed_from_u64(7).sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_ten_thousand_records_is_one_transaction_and_one_beyond_memory_is_a_dead_letter() {
    let name = "an_event_of_ten_thousand_records_is_one_transaction_and_one_beyond_memory_is_a_dead_letter";
    let Some(brokers) = brokers(name) else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let publish = async |ids: &[String], length: usize| {
        let update = EventOrder::new("Case", "UPDATE").on(ids.iter().map(String::as_str)).with("Subject", text(length));
        control.publish(update).await.expect("published")
    };
    let (many, more) = (record_ids(10_000), record_ids(20_000));
    let lines = publish(&many, 2_000).await;
    assert_eq!(lines[0].record_ids.len(), 10_000);
    // 380 kB of ids and 30 kB of text: less than Salesforce's limit, and 600 MB of records.
    publish(&more, 30_000).await;
    let last = publish(&many[..1], 10).await;

    let installation = Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[CASES], "");
    let running = installation.start("run");
    let admin = running.admin().await;
    admin.arrived(&last[0].replay_id).await;
    let status =
        admin.until("the commit", |status| status["process"]["streams"][0]["records_committed"] == 10_002).await;
    let stream = &status["process"]["streams"][0];
    // The announcement, and at most one for each event: an event is never split.
    let transactions = stream["transactions_committed"].as_u64().expect("a number");
    assert!((2..=4).contains(&transactions), "{stream}");
    assert_eq!(stream["dead_letters"], 1, "{stream}");
    let peak = running.peak_memory();
    assert!(peak < PEAK, "{} MiB", peak / MIB);
    eprintln!("peak memory: {} MiB", peak / MIB);
    assert_eq!(running.terminated().await.code, Some(0));

    let records = deployment.output("Case").await;
    let keys: HashSet<&str> = records.iter().map(|record| record.key.as_str()).collect();
    assert_eq!((records.len(), keys.len()), (10_001, 10_000));
    assert!(records.iter().all(|record| record.json()["source"]["of"] == 10_000 || record.json()["source"]["of"] == 1));
    let letters = deployment.output("dead-letters").await;
    assert_eq!(letters.len(), 1);
    let reason = &letters[0].headers["reason"];
    assert!(reason.contains("20000 records") && reason.contains("max_event_bytes"), "{reason}");
    assert!(letters[0].raw.len() > 400_000, "the letter holds the whole event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_thousand_fields_arrives_with_the_values_of_its_last_fields() {
    let name = "a_schema_of_a_thousand_fields_arrives_with_the_values_of_its_last_fields";
    let Some(brokers) = brokers(name) else { return };
    let deployment = Deployment::new(brokers, SimulatorConfig::on_free_ports()).await;
    let control = deployment.control();
    let first = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
    for number in 0..1_000 {
        let field = format!("Field_{number}__c");
        control.inflict(Fault::AddField { entity: "Case".to_owned(), field }).await.expect("inflicted");
    }
    let id = first[0].record_ids[0].as_str();
    let update = EventOrder::new("Case", "UPDATE").on([id]).with("Field_0__c", "a").with("Field_999__c", "z");
    control.publish(update).await.expect("published");
    let clear = EventOrder::new("Case", "UPDATE").on([id]).with("Field_999__c", Value::Null);
    let lines = control.publish(clear).await.expect("published");
    let running = deployment.run(&[CASES], "");
    arrived(&running, &lines, CASES).await;
    running.stop().await.expect("an orderly end");
    let records = deployment.output("Case").await;
    let of_field = |record: usize, field: &str| records[record].json()["changed"].get(field).cloned();
    assert_eq!(records.len(), 3);
    assert_eq!((of_field(1, "Field_0__c"), of_field(1, "Field_999__c")), (Some(json!("a")), Some(json!("z"))));
    assert_eq!((of_field(2, "Field_0__c"), of_field(2, "Field_999__c")), (None, Some(Value::Null)));
}

/// On the stack of a runtime worker, which is what an event's schema is parsed on.
fn parsed(schema: String) -> Result<WriterSchema, String> {
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let parsing = thread.spawn(move || WriterSchema::parse(&schema).map_err(|error| error.to_string()));
    parsing.expect("a thread").join().expect("no overflow")
}

#[test]
fn a_schema_nested_without_end_is_refused_before_the_stack_is() {
    let record = |inner: &str| format!(r#"{{"type":"record","name":"R","fields":[{{"name":"f","type":{inner}}}]}}"#);
    let nested = |open: &str, close: &str, depth: usize| {
        record(&format!("{}\"int\"{}", open.repeat(depth), close.repeat(depth)))
    };
    for (open, close) in [(r#"{"type":"#, "}"), (r#"{"type":"array","items":"#, "}"), (r#"["null","#, "]")] {
        for depth in [130, 10_000, 1_000_000] {
            let refused = parsed(nested(open, close, depth)).expect_err("too deep");
            assert!(refused.contains("recursion limit"), "{refused}");
        }
    }
    // As deep as the JSON parser goes, and a value as deep as that.
    let arrays = parsed(nested(r#"{"type":"array","items":"#, "}", 100)).expect("a schema");
    let payload = [[2; 100].as_slice(), &[7], &[0; 100]].concat();
    let error = arrays.decode(&payload, &FieldPolicies::default()).expect_err("no event is so deep");
    assert!(error.to_string().contains("nested"), "{error}");

    // A record of itself: the schema is small, and only the payload is deep.
    let itself = r#"{"type":"record","name":"R","fields":[{"name":"f","type":["null","R"]}]}"#;
    let recursive = parsed(itself.to_owned()).expect("a schema");
    let error = recursive
        .decode(&[[2; 100_000].as_slice(), &[0]].concat(), &FieldPolicies::default())
        .expect_err("no event is so deep");
    assert!(error.to_string().contains("nested"), "{error}");
}

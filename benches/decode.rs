//! How long it takes from the Avro bytes of a Case event to the JSON of the record that is written to Kafka: casewire's
//! single pass, and the same by way of the value trees of `apache-avro` and `serde_json`.
//!
//! Both give the same record; that is asserted before anything is measured. casewire's figure includes the record's
//! headers, which the other way does not make.

mod case_event;

use std::hint::black_box;

use apache_avro::Schema;
use apache_avro::types::Value;
use bytes::Bytes;
use casewire::change::{FieldPolicies, WriterSchema};
use casewire::identity::{OrgId, ReplayId, SchemaId, TopicName};
use casewire::kafka::OutputRecord;
use casewire::pipeline::records::{EventSource, RecordWriter};
use casewire::position::EventKey;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Map, Value as Json, json};

const ORG: &str = "00D8d00000AbCdEEAV";
const TOPIC: &str = "/data/CaseChangeEvent";
const EVENT_ID: &str = "366d9355-f1bc-4650-b321-6d45e77180b5";
const REPLAY_ID: &str = "00000000001790510000";

/// casewire's way, as the decode station goes it for each event.
fn by_casewire(schema: &WriterSchema, id: &SchemaId, writer: &mut RecordWriter, payload: &[u8]) -> Vec<OutputRecord> {
    let replay_id: ReplayId = REPLAY_ID.parse().expect("hexadecimal");
    let key = EventKey::new(replay_id, EVENT_ID, payload);
    let change = schema.decode(payload, &FieldPolicies::default()).expect("decodes");
    let source = EventSource { key: &key, event_id: EVENT_ID, schema_id: id, schema_name: schema.name() };
    writer.write(source, &change).expect("a usable event").records
}

/// The other way: the event as a tree of Avro values, the record as a tree of JSON values, by the same rules.
fn by_trees(schema: &Schema, id: &str, payload: &[u8]) -> String {
    let event = apache_avro::from_avro_datum(schema, &mut &*payload, None).expect("decodes");
    let Value::Record(fields) = event else { panic!("an event is a record") };
    let mut fields = fields.into_iter();
    let Some((_, Value::Record(header))) = fields.next() else { panic!("an event begins with its header") };
    let header: Map<String, Json> =
        header.into_iter().map(|(name, value)| (name, Json::try_from(value).expect("JSON has such a value"))).collect();
    let mut changed = Map::new();
    for ((name, value), (_, _, doc)) in fields.zip(&case_event::CASE) {
        let Value::Union(_, value) = value else { panic!("every field is nullable") };
        let value = match *value {
            Value::Null => continue,
            Value::Long(time) if doc.ends_with(":DateTime") => Json::String(date_time(time)),
            other => Json::try_from(other).expect("JSON has such a value"),
        };
        changed.insert(name, value);
    }
    let change_type = header["changeType"].as_str().expect("a symbol");
    let record = json!({
        "op": change_type.to_lowercase(), "entity": header["entityName"], "id": header["recordIds"][0],
        "changed": changed, "record": null,
        "source": {
            "org": ORG, "topic": TOPIC, "change_type": change_type, "replay_id": REPLAY_ID, "event_id": EVENT_ID, "schema_id": id,
            "transaction": header["transactionKey"], "sequence": header["sequenceNumber"], "index": 0, "of": 1,
            "commit_number": header["commitNumber"].to_string(),
            "committed_at": date_time(header["commitTimestamp"].as_i64().expect("a number")),
            "user": header["commitUser"], "origin": header["changeOrigin"],
        },
    });
    serde_json::to_string(&record).expect("a map of texts")
}

fn date_time(milliseconds: i64) -> String {
    let time = chrono::DateTime::from_timestamp_millis(milliseconds).expect("in range");
    time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn decode(criterion: &mut Criterion) {
    let json = case_event::schema();
    let reference = Schema::parse(&json).expect("a valid schema");
    let compiled = WriterSchema::parse(&json.to_string()).expect("a valid schema");
    let id = SchemaId::from("fu0f4hMtqehVVUQ7_l39Zg");
    let (org, topic): (OrgId, TopicName) = (ORG.parse().expect("an id"), TOPIC.parse().expect("a topic"));
    let mut writer = RecordWriter::new(org, topic, "salesforce".to_owned(), false);
    for (name, payload) in case_event::samples(&reference) {
        let records = by_casewire(&compiled, &id, &mut writer, &payload);
        let [OutputRecord { value: Some(ours), .. }] = records.as_slice() else { panic!("one record") };
        let read = |text: &[u8]| serde_json::from_slice::<Json>(text).expect("JSON");
        let theirs = Bytes::from(by_trees(&reference, id.as_str(), &payload));
        assert_eq!(read(ours), read(&theirs), "both have to give the same record");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function("casewire", |bencher| {
            bencher.iter(|| by_casewire(&compiled, &id, &mut writer, black_box(&payload)));
        });
        group.bench_function("trees", |bencher| {
            bencher.iter(|| by_trees(&reference, id.as_str(), black_box(&payload)));
        });
        group.finish();
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);

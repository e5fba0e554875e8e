//! How long it takes from the Avro bytes of a Case event to JSON text: casewire's single pass, and the same
//! with `apache-avro` and `serde_json` by way of their value trees.
//!
//! Both give the same JSON; that is asserted before anything is measured.

use std::hint::black_box;

use apache_avro::Schema;
use apache_avro::types::Value;
use casewire::change::WriterSchema;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Map, Value as Json, json};

/// The fields of a CaseChangeEvent after its header, with what their `doc` says.
const CASE: [(&str, &str, &str); 28] = [
    ("CaseNumber", "string", "Data:Text"),
    ("ContactId", "string", "ForeignKey:EntityId"),
    ("AccountId", "string", "ForeignKey:EntityId"),
    ("AssetId", "string", "ForeignKey:EntityId"),
    ("SourceId", "string", "ForeignKey:EntityId"),
    ("BusinessHoursId", "string", "ForeignKey:EntityId"),
    ("ParentId", "string", "ForeignKey:EntityId"),
    ("SuppliedName", "string", "Data:Text"),
    ("SuppliedEmail", "string", "Data:Email"),
    ("SuppliedPhone", "string", "Data:Text"),
    ("SuppliedCompany", "string", "Data:Text"),
    ("Type", "string", "Data:DynamicEnum"),
    ("Status", "string", "Data:DynamicEnum"),
    ("Reason", "string", "Data:DynamicEnum"),
    ("Origin", "string", "Data:DynamicEnum"),
    ("Language", "string", "Data:DynamicEnum"),
    ("Subject", "string", "Data:Text"),
    ("Priority", "string", "Data:DynamicEnum"),
    ("Description", "string", "Data:StringPlusClob"),
    ("IsClosed", "boolean", "Data:Boolean"),
    ("ClosedDate", "long", "Data:DateTime"),
    ("IsEscalated", "boolean", "Data:Boolean"),
    ("OwnerId", "string", "ForeignKey:EntityId"),
    ("IsClosedOnCreate", "boolean", "Data:Boolean"),
    ("CreatedDate", "long", "CreatedDate:DateTime"),
    ("CreatedById", "string", "ForeignKey:EntityId"),
    ("LastModifiedDate", "long", "Data:DateTime"),
    ("LastModifiedById", "string", "ForeignKey:EntityId"),
];

fn schema() -> Json {
    let text = |name: &str| json!({"name": name, "type": "string"});
    let texts = |name: &str| json!({"name": name, "type": {"type": "array", "items": "string"}});
    let symbols = "CREATE UPDATE DELETE UNDELETE GAP_CREATE GAP_UPDATE GAP_DELETE GAP_UNDELETE GAP_OVERFLOW SNAPSHOT";
    let symbols: Vec<_> = symbols.split(' ').collect();
    let header = json!({"type": "record", "name": "ChangeEventHeader", "fields": [
        text("entityName"), texts("recordIds"),
        {"name": "changeType", "type": {"type": "enum", "name": "ChangeType", "symbols": symbols}},
        text("changeOrigin"), text("transactionKey"), {"name": "sequenceNumber", "type": "int"},
        {"name": "commitTimestamp", "type": "long"}, {"name": "commitNumber", "type": "long"}, text("commitUser"),
        texts("nulledFields"), texts("diffFields"), texts("changedFields"),
    ]});
    let mut fields = vec![json!({"name": "ChangeEventHeader", "type": header, "doc": "Data:ComplexValueType"})];
    let field = |(name, avro, doc): &(&str, &str, &str)| json!({"name": name, "type": ["null", avro], "doc": doc, "default": null});
    fields.extend(CASE.iter().map(field));
    json!({"type": "record", "name": "CaseChangeEvent", "namespace": "com.sforce.eventbus", "fields": fields})
}

/// A Case event: a created case with every field, or an update of two.
fn payload(schema: &Schema, change_type: (u32, &str), changed: &[&str], present: impl Fn(&str) -> bool) -> Vec<u8> {
    let texts = |texts: &[&str]| Value::Array(texts.iter().map(|text| Value::from(*text)).collect());
    let header = [
        ("entityName", Value::from("Case")),
        ("recordIds", texts(&["5008d000000047SAAQ"])),
        ("changeType", Value::Enum(change_type.0, change_type.1.to_owned())),
        ("changeOrigin", Value::from("com/salesforce/api/soap/66.0;client=SfdcInternalAPI/")),
        ("transactionKey", Value::from("00003adb-6942-447e-6033-9e8fe741230f")),
        ("sequenceNumber", Value::Int(1)),
        ("commitTimestamp", Value::Long(1_771_300_995_000)),
        ("commitNumber", Value::Long(12_279_648_331_300)),
        ("commitUser", Value::from("005Dp000000PpjsIAC")),
        ("nulledFields", texts(&[])),
        ("diffFields", texts(&[])),
        ("changedFields", texts(changed)),
    ];
    let header = Value::Record(header.map(|(name, value)| (name.to_owned(), value)).into());
    let value = |name: &str, avro: &str, doc: &str| match (avro, doc) {
        ("boolean", _) => Value::Boolean(true),
        ("long", _) => Value::Long(1_771_300_995_000),
        (_, "ForeignKey:EntityId") => Value::from("0058d000004XyZaAAK"),
        (_, "Data:StringPlusClob") => Value::from(
            "The customer writes that \"nothing works\" since the update.\r\nHe asks to be called back on Monday.",
        ),
        _ => Value::from(format!("{name} of the case").as_str()),
    };
    let mut fields = vec![("ChangeEventHeader".to_owned(), header)];
    fields.extend(CASE.iter().map(|(name, avro, doc)| {
        let field = if present(name) { (1, value(name, avro, doc)) } else { (0, Value::Null) };
        ((*name).to_owned(), Value::Union(field.0, Box::new(field.1)))
    }));
    apache_avro::to_avro_datum(schema, Value::Record(fields)).expect("the event fits its schema")
}

/// The event as the reference decodes it, rendered through a `serde_json` tree by the same rules, header left out.
fn by_reference(schema: &Schema, payload: &[u8]) -> String {
    let event = apache_avro::from_avro_datum(schema, &mut &*payload, None).expect("decodes");
    let Value::Record(fields) = event else { panic!("an event is a record") };
    let mut members = Map::new();
    for ((name, value), (_, _, doc)) in fields.into_iter().skip(1).zip(&CASE) {
        let Value::Union(_, value) = value else { panic!("every field is nullable") };
        let value = match *value {
            Value::Null => continue,
            Value::Long(time) if doc.ends_with(":DateTime") => {
                let time = chrono::DateTime::from_timestamp_millis(time).expect("in range");
                Json::String(time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
            }
            other => Json::try_from(other).expect("JSON has such a value"),
        };
        members.insert(name, value);
    }
    serde_json::to_string(&Json::Object(members)).expect("a map of texts")
}

fn decode(criterion: &mut Criterion) {
    let json = schema();
    let reference = Schema::parse(&json).expect("a valid schema");
    let compiled = WriterSchema::parse(&json.to_string()).expect("a valid schema");
    let changed = |name: &str| matches!(name, "Status" | "LastModifiedDate");
    let events = [
        ("create", payload(&reference, (0, "CREATE"), &[], |_| true)),
        ("update", payload(&reference, (1, "UPDATE"), &["0x08002000"], changed)),
    ];
    for (name, payload) in events {
        let ours: Json =
            serde_json::from_str(compiled.decode(&payload).expect("decodes").changed.as_str()).expect("JSON");
        let theirs: Json = serde_json::from_str(&by_reference(&reference, &payload)).expect("JSON");
        assert_eq!(ours, theirs, "both have to do the same work");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function("casewire", |bencher| bencher.iter(|| compiled.decode(black_box(&payload))));
        group.bench_function("apache-avro and serde_json", |bencher| {
            bencher.iter(|| by_reference(&reference, black_box(&payload)));
        });
        group.finish();
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);

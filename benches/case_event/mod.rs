//! The Case change event of 29 fields, header included, that the benchmarks decode.

use apache_avro::Schema;
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

/// The fields of a CaseChangeEvent after its header, with what their `doc` says.
pub(crate) const CASE: [(&str, &str, &str); 28] = [
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

/// The schema of the event.
pub(crate) fn schema() -> Json {
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

/// An event of a change type whose header lists `changed` and whose body has the fields of which `present` says so.
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

/// A created case with every field, and an update of two.
pub(crate) fn samples(schema: &Schema) -> [(&'static str, Vec<u8>); 2] {
    let changed = |name: &str| matches!(name, "Status" | "LastModifiedDate");
    [
        ("create", payload(schema, (0, "CREATE"), &[], |_| true)),
        ("update", payload(schema, (1, "UPDATE"), &["0x08002000"], changed)),
    ]
}

//! A change event of every kind of field that Salesforce has, and payloads of it.

use apache_avro::Schema;
use apache_avro::types::Value;
use serde_json::json;

use crate::change::WriterSchema;

/// The positions of the fields below, to read the bitmaps in the tests by.
pub(super) const NAME: usize = 1;
pub(super) const DESCRIPTION: usize = 3;
pub(super) const ADDRESS: usize = 4;
pub(super) const OTHER_ADDRESS: usize = 5;
pub(super) const FIELDS: usize = 14;

/// The header as Salesforce defines it.
pub(super) fn header_schema() -> serde_json::Value {
    let text = |name: &str| json!({"name": name, "type": "string"});
    let texts = |name: &str| json!({"name": name, "type": {"type": "array", "items": "string"}});
    let symbols =
        "CREATE UPDATE DELETE UNDELETE GAP_CREATE GAP_UPDATE GAP_DELETE GAP_UNDELETE GAP_OVERFLOW SNAPSHOT ARCHIVE";
    let symbols: Vec<_> = symbols.split(' ').collect();
    json!({"name": "ChangeEventHeader", "doc": "Data:ComplexValueType", "type": {
        "type": "record", "name": "ChangeEventHeader", "fields": [
            text("entityName"), texts("recordIds"),
            {"name": "changeType", "type": {"type": "enum", "name": "ChangeType", "symbols": symbols}},
            text("changeOrigin"), text("transactionKey"),
            {"name": "sequenceNumber", "type": "int"}, {"name": "commitTimestamp", "type": "long"},
            {"name": "commitNumber", "type": "long"}, text("commitUser"),
            texts("nulledFields"), texts("diffFields"), texts("changedFields"),
        ]
    }})
}

/// A nullable field.
pub(super) fn field(name: &str, avro: serde_json::Value, doc: &str) -> serde_json::Value {
    json!({"name": name, "type": ["null", avro], "doc": doc, "default": null})
}

/// The schema of the sample event.
pub(super) fn schema_json() -> serde_json::Value {
    let nullable = |name: &str, avro: &str| json!({"name": name, "type": ["null", avro], "default": null});
    let address = json!({"type": "record", "name": "Address",
        "fields": [nullable("Street", "string"), nullable("City", "string"), nullable("Latitude", "double")]});
    let person = json!({"type": "record", "name": "Switchable_PersonName",
        "fields": [nullable("Salutation", "string"), nullable("FirstName", "string"), nullable("LastName", "string")]});
    json!({"type": "record", "name": "SampleChangeEvent", "namespace": "com.sforce.eventbus", "fields": [
        header_schema(),
        {"name": "Name", "type": ["null", "string", person], "doc": "Data:Switchable_PersonName", "default": null},
        field("Status", json!("string"), "Data:DynamicEnum"),
        field("Description", json!("string"), "Data:StringPlusClob"),
        field("Address", address, "Data:Address"),
        field("OtherAddress", json!("Address"), "Data:Address"),
        field("CreatedDate", json!("long"), "CreatedDate:DateTime"),
        field("Due__c", json!("long"), "Data:DateOnly:00N000000000001"),
        field("At__c", json!("long"), "Data:TimeOnly:00N000000000002"),
        field("Topics__c", json!("string"), "Data:MultiEnum:00N000000000003"),
        field("Amount__c", json!("double"), "Data:Currency:00N000000000004"),
        field("Count", json!("int"), "Data:Integer"),
        field("CreatedDateAsNumber", json!("long"), "Data:Integer"),
        field("IsClosed", json!("boolean"), "Data:Boolean"),
    ]})
}

/// The compiled schema.
pub(super) fn writer_schema() -> WriterSchema {
    WriterSchema::parse(&schema_json().to_string()).expect("a valid schema")
}

/// A value in branch 1 of its union.
pub(super) fn some(value: impl Into<Value>) -> Value {
    Value::Union(1, Box::new(value.into()))
}

/// A text, or null for "-".
fn text(text: &str) -> Value {
    if text == "-" { Value::Union(0, Box::new(Value::Null)) } else { some(text) }
}

/// An address; "-" and NaN stand for null.
pub(super) fn address(street: &str, city: &str, latitude: Option<f64>) -> Value {
    let latitude = latitude.map_or_else(|| Value::Union(0, Box::new(Value::Null)), some);
    let fields = [("Street", text(street)), ("City", text(city)), ("Latitude", latitude)];
    some(Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).into()))
}

/// The name of a person, in the third branch.
pub(super) fn person(first: &str, last: &str) -> Value {
    let fields = [("Salutation", text("-")), ("FirstName", text(first)), ("LastName", text(last))];
    Value::Union(2, Box::new(Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).into())))
}

/// The three lists of a header.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists {
    pub(super) nulled: Vec<String>,
    pub(super) diff: Vec<String>,
    pub(super) changed: Vec<String>,
}

/// Lists from texts with a blank between the elements.
pub(super) fn lists(changed: &str, nulled: &str, diff: &str) -> Lists {
    let split = |list: &str| list.split_whitespace().map(str::to_owned).collect();
    Lists { nulled: split(nulled), diff: split(diff), changed: split(changed) }
}

/// One event of the sample schema; fields that are not given are null.
pub(super) fn payload(change_type: &str, record_ids: &[&str], lists: &Lists, body: &[(&str, Value)]) -> Vec<u8> {
    let json = schema_json();
    let schema = Schema::parse(&json).expect("a valid schema");
    let symbols = json["fields"][0]["type"]["fields"][2]["type"]["symbols"].as_array().expect("symbols").clone();
    let index = symbols.iter().position(|symbol| symbol == change_type).expect("a symbol");
    let texts = |list: &[String]| Value::Array(list.iter().map(|text| Value::from(text.as_str())).collect());
    let ids = record_ids.iter().map(|id| Value::from(*id)).collect();
    let header = [
        ("entityName", Value::from("Sample")),
        ("recordIds", Value::Array(ids)),
        ("changeType", Value::Enum(u32::try_from(index).expect("few"), change_type.to_owned())),
        ("changeOrigin", Value::from("")),
        ("transactionKey", Value::from("0001ade9-3f74-0b99-dbc4-42e73424b774")),
        ("sequenceNumber", Value::Int(1)),
        ("commitTimestamp", Value::Long(1_771_300_995_000)),
        ("commitNumber", Value::Long(12_279_648_331_300)),
        ("commitUser", Value::from("005Dp000000PpjsIAC")),
        ("nulledFields", texts(&lists.nulled)),
        ("diffFields", texts(&lists.diff)),
        ("changedFields", texts(&lists.changed)),
    ];
    let header = Value::Record(header.map(|(name, value)| (name.to_owned(), value)).into());
    let mut fields = vec![("ChangeEventHeader".to_owned(), header)];
    for field in json["fields"].as_array().expect("fields").iter().skip(1) {
        let name = field["name"].as_str().expect("a name");
        let given = body.iter().find(|(given, _)| *given == name).map(|(_, value)| value.clone());
        fields.push((name.to_owned(), given.unwrap_or_else(|| Value::Union(0, Box::new(Value::Null)))));
    }
    assert_eq!(fields.len(), FIELDS);
    apache_avro::to_avro_datum(&schema, Value::Record(fields)).expect("encodes")
}

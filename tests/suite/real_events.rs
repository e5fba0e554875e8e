//! Events captured from real organisations, decoded with the schemas that Salesforce served for them.
//!
//! The captures are not part of this repository; without them these tests say so and end.

use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casewire::change::{Change, ChangeType, FieldPolicies, WriterSchema};
use chrono::DateTime;
use serde_json::{Map, Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/real-events");

fn captures() -> Option<PathBuf> {
    let folder = PathBuf::from(FOLDER);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("NOT RUN: tests with captured events, because {FOLDER} is not there");
    None
}

/// The captured events, each with its payload.
fn events(folder: &std::path::Path) -> Vec<(Value, Vec<u8>)> {
    let text = fs::read_to_string(folder.join("captured_real_events.json")).expect("the captured events");
    let events: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let payload = |event: &Value| STANDARD.decode(event["payload_base64"].as_str().expect("text")).expect("base64");
    events.into_iter().map(|event| (payload(&event), event)).map(|(payload, event)| (event, payload)).collect()
}

fn assert_header(change: &Change, expected: &Value) {
    let header = change.header.as_ref().expect("change events have a header");
    let read = json!({
        "entityName": header.entity,
        "recordIds": header.record_ids,
        "changeType": header.change_type.as_str(),
        "changeOrigin": header.change_origin,
        "transactionKey": header.transaction_key,
        "sequenceNumber": header.sequence_number,
        "commitTimestamp": header.commit_timestamp,
        "commitNumber": header.commit_number,
        "commitUser": header.commit_user,
    });
    let mut expected = expected.as_object().expect("an object").clone();
    for list in ["nulledFields", "diffFields", "changedFields"] {
        expected.remove(list).expect("in every header");
    }
    assert_eq!(read, Value::Object(expected));
}

/// What `changed` has to be: the captured values that are not null, with dates and whole numbers as they are rendered.
/// No capture has an enriched or a cleared field, so this holds for creates and updates alike.
fn rendered(values: &Map<String, Value>, schema: &Value) -> Map<String, Value> {
    let is_date = |name: &str| {
        let fields = schema["fields"].as_array().expect("fields");
        let field = fields.iter().find(|field| field["name"] == name);
        field.and_then(|field| field["doc"].as_str()).is_some_and(|doc| doc.split(':').nth(1) == Some("DateTime"))
    };
    let render = |name: &str, value: &Value| match value {
        Value::Number(number) if is_date(name) => {
            let time = DateTime::from_timestamp_millis(number.as_i64().expect("milliseconds")).expect("in range");
            json!(time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        }
        Value::Number(number) => match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 => json!(whole as i64),
            _ => value.clone(),
        },
        Value::Object(components) => Value::Object(rendered(components, &json!({ "fields": [] }))),
        other => other.clone(),
    };
    let present = values.iter().filter(|(_, value)| !value.is_null());
    present.map(|(name, value)| (name.clone(), render(name, value))).collect()
}

#[test]
fn every_captured_event_decodes_to_the_values_beside_it() {
    let Some(folder) = captures() else { return };
    let mut decoded = 0;
    for (event, payload) in events(&folder) {
        let Some(file) = event["schema_file"].as_str() else { continue };
        let text = fs::read_to_string(folder.join(file)).expect("the schema");
        let schema = WriterSchema::parse(&text).expect("a real schema");
        assert_eq!(schema.fingerprint().as_str(), event["schemaId"], "{file}");
        assert!(schema.carries_header());
        let change = schema
            .decode(&payload, &FieldPolicies::default())
            .unwrap_or_else(|error| panic!("{}: {error}", event["event_id"]));
        assert_header(&change, &event["decoded_header"]);
        let changed: Value = serde_json::from_str(change.changed.as_str()).expect("JSON");
        let values = event["decoded_non_null"].as_object().expect("an object");
        let expected = rendered(values, &serde_json::from_str(&text).expect("JSON"));
        assert_eq!(changed, Value::Object(expected), "{}", event["event_id"]);
        assert!(change.enriched.is_empty() && change.unresolved.is_empty());
        decoded += 1;
    }
    assert_eq!(decoded, 7, "two of the nine came without their schema");
}

#[test]
fn a_captured_update_shows_its_changed_components_and_nothing_else() {
    let Some(folder) = captures() else { return };
    let expected = [
        (
            "366d9355-f1bc-4650-b321-6d45e77180b5",
            r#"{"ShippingAddress":{"Street":"101 California St"},"LastModifiedDate":"2026-02-17T04:03:15.000Z"}"#,
        ),
        (
            "5d6504cd-54ac-492c-8d2d-285eabb5ea35",
            r#"{"ShippingAddress":{"Latitude":37.793113,"Longitude":-122.398524}}"#,
        ),
    ];
    for (id, text) in expected {
        let events = events(&folder);
        let (event, payload) = events.iter().find(|(event, _)| event["event_id"] == id).expect("captured");
        let file = folder.join(event["schema_file"].as_str().expect("known"));
        let schema = WriterSchema::parse(&fs::read_to_string(file).expect("the schema")).expect("a real schema");
        assert_eq!(schema.decode(payload, &FieldPolicies::default()).expect("decodes").changed.as_str(), text);
    }
}

/// The schema of two captures is lost. Their bodies are 130 fields of which the one that the bitmap names has a
/// value, so a schema of that length with that field's type has to fit them to the last byte.
#[test]
fn the_merged_events_without_a_schema_decode_by_their_bitmaps() {
    let Some(folder) = captures() else { return };
    let known = folder.join("schemas/AccountChangeEvent.REAL.2023-05.S3-K_S0GYegWTRZnKLjeag.avsc");
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(known).expect("the schema")).expect("JSON");
    let header = schema["fields"][0].clone();
    let field = |at: usize| match at {
        23 => json!({"name": "F23", "type": ["null", "long"], "doc": "Data:DateTime"}),
        _ => json!({"name": format!("F{at}"), "type": ["null", "string"], "doc": "Data:Text"}),
    };
    schema["fields"] = std::iter::once(header).chain((1..=130).map(field)).collect();
    let schema = WriterSchema::parse(&schema.to_string()).expect("a schema");
    let merged = events(&folder).into_iter().filter(|(event, _)| event["schema_file"].is_null());
    let mut changed = Vec::new();
    for (event, payload) in merged {
        let change = schema.decode(&payload, &FieldPolicies::default()).expect("decodes");
        assert_header(&change, &event["decoded_header_only"]);
        let header = change.header.expect("a header");
        assert_eq!((header.record_ids.len(), header.change_type), (20, ChangeType::Update));
        assert!(change.enriched.is_empty());
        changed.push(change.changed.into_string());
    }
    assert_eq!(changed, [r#"{"F23":"2022-11-23T00:06:16.000Z"}"#, r#"{"F58":"Preferred"}"#]);
}

#[test]
fn the_fingerprint_of_every_real_schema_is_its_id() {
    let Some(folder) = captures() else { return };
    let mut schemas = 0;
    for entry in fs::read_dir(folder.join("schemas")).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let id = name.trim_end_matches(".avsc").rsplit('.').next().expect("a part");
        let schema = WriterSchema::parse(&fs::read_to_string(&path).expect("the schema")).expect("a real schema");
        assert_eq!(schema.fingerprint().as_str(), id);
        assert_eq!(schema.name(), name.split('.').next().expect("a part"));
        schemas += 1;
    }
    assert_eq!(schemas, 6);
}

//! The JSON of a schema, checked and reduced to what decoding needs, before `apache-avro` parses it.
//!
//! That parser panics on a type whose name is not one, leaves out fields that are not objects, which would move all
//! positions after them, and compares defaults with types, which a writer's schema may get wrong without
//! harm. None of that is left for it to meet.

use serde_json::{Map, Value};

/// The logical types that are decoded as what they say. Avro lets a reader treat all others as the type
/// beneath, which is what the parser's own versions of them would not render exactly.
const LOGICAL_TYPES: [&str; 10] = [
    "date",
    "time-millis",
    "time-micros",
    "timestamp-millis",
    "timestamp-micros",
    "timestamp-nanos",
    "local-timestamp-millis",
    "local-timestamp-micros",
    "local-timestamp-nanos",
    "decimal",
];

/// The schema without defaults, aliases and whatever else has no part in decoding; or what is wrong with it.
pub(crate) fn reduce(schema: &Value) -> Result<Value, String> {
    match schema {
        Value::String(name) => Ok(Value::String(checked_name(name)?)),
        Value::Array(branches) => branches.iter().map(reduce).collect(),
        Value::Object(object) => match object.get("type") {
            Some(Value::String(kind)) => reduce_type(kind, object),
            Some(inner) => reduce(inner),
            None => Err("a type has no \"type\"".to_owned()),
        },
        _ => Err("a type is neither a name nor a list nor an object".to_owned()),
    }
}

fn reduce_type(kind: &str, object: &Map<String, Value>) -> Result<Value, String> {
    let mut reduced = Map::new();
    reduced.insert("type".to_owned(), Value::String(checked_name(kind)?));
    let part = |key: &str| object.get(key).ok_or_else(|| format!("a type {kind} has no \"{key}\""));
    match kind {
        "array" => insert(&mut reduced, "items", reduce(part("items")?)?),
        "map" => insert(&mut reduced, "values", reduce(part("values")?)?),
        "record" => {
            let fields = part("fields")?.as_array().ok_or("the fields of a record are not a list")?;
            insert(&mut reduced, "fields", fields.iter().map(reduce_field).collect::<Result<_, _>>()?);
        }
        "enum" => insert(&mut reduced, "symbols", part("symbols")?.clone()),
        "fixed" => insert(&mut reduced, "size", part("size")?.clone()),
        _ => {}
    }
    if matches!(kind, "record" | "enum" | "fixed") {
        let name = part("name")?.as_str().ok_or("the name of a type is not a text")?;
        insert(&mut reduced, "name", Value::String(checked_name(name)?));
        if let Some(namespace) = object.get("namespace") {
            let namespace = namespace.as_str().ok_or("a namespace is not a text")?;
            // The empty namespace is how a type leaves that of the record around it.
            let namespace = if namespace.is_empty() { String::new() } else { checked_name(namespace)? };
            insert(&mut reduced, "namespace", Value::String(namespace));
        }
    }
    let logical = object.get("logicalType").and_then(Value::as_str);
    if logical.is_some_and(|logical| LOGICAL_TYPES.contains(&logical)) {
        for key in ["logicalType", "precision", "scale"] {
            object.get(key).into_iter().for_each(|value| insert(&mut reduced, key, value.clone()));
        }
    }
    Ok(Value::Object(reduced))
}

fn reduce_field(field: &Value) -> Result<Value, String> {
    let name = field.get("name").and_then(Value::as_str).ok_or("a field has no name")?;
    let schema = field.get("type").ok_or_else(|| format!("the field {name} has no type"))?;
    let mut reduced = Map::new();
    insert(&mut reduced, "name", Value::String(checked_name(name)?));
    insert(&mut reduced, "type", reduce(schema)?);
    if let Some(doc) = field.get("doc").filter(|doc| doc.is_string()) {
        insert(&mut reduced, "doc", doc.clone());
    }
    Ok(Value::Object(reduced))
}

fn insert(object: &mut Map<String, Value>, key: &str, value: Value) {
    object.insert(key.to_owned(), value);
}

/// A name as Avro has it: parts of letters, digits and underscores, with dots between them.
fn checked_name(name: &str) -> Result<String, String> {
    let part = |part: &str| {
        let first = part.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
        first && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if name.split('.').all(part) { Ok(name.to_owned()) } else { Err(format!("{name:?} is not a name")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_decoding_does_not_need_is_left_out() {
        let schema = json!({"type": "record", "name": "R", "namespace": "a.b", "doc": "x", "aliases": ["?"], "fields": [
            {"name": "f", "doc": "Data:Text", "order": "x", "default": 7, "type": ["null", {"type": "string", "logicalType": "uuid"}]},
            {"name": "g", "type": {"type": {"type": "int", "logicalType": "date", "x": 1}}},
            {"name": "h", "type": {"type": "enum", "name": "E", "namespace": "", "symbols": ["S"], "default": "T"}},
        ]});
        let reduced = json!({"type": "record", "name": "R", "namespace": "a.b", "fields": [
            {"name": "f", "doc": "Data:Text", "type": ["null", {"type": "string"}]},
            {"name": "g", "type": {"type": "int", "logicalType": "date"}},
            {"name": "h", "type": {"type": "enum", "name": "E", "namespace": "", "symbols": ["S"]}},
        ]});
        assert_eq!(reduce(&schema), Ok(reduced));
    }

    #[test]
    fn what_the_parser_would_panic_on_or_pass_over_is_refused() {
        let record = |fields| json!({"type": "record", "name": "R", "fields": fields});
        for wrong in [
            json!({"type": "record", "name": "R|", "fields": []}),
            json!({"type": "record", "name": "", "fields": []}),
            json!({"type": "record", "fields": []}),
            json!({"type": "fixed", "name": "a..b", "size": 1}),
            json!({"type": "enum", "name": "E", "namespace": "1", "symbols": []}),
            json!({"type": "e-mail"}),
            json!({"name": "R"}),
            json!(7),
            record(json!(["f"])),
            record(json!([{"name": "f"}])),
            record(json!([{"name": "f g", "type": "int"}])),
            record(json!({})),
        ] {
            assert!(reduce(&wrong).is_err(), "{wrong}");
        }
    }
}

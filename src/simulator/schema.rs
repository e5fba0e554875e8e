//! The Avro schema of an event, and its id.
//!
//! The id is the MD5 of the schema's parsing canonical form in base64url without
//! padding: so it is with every schema that was captured together with its id.
//! `doc` and `default` are not part of that form.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use md5::{Digest, Md5};
use serde_json::{Value, json};

use crate::simulator::objects::{Avro, Field, Object};

const NAMESPACE: &str = "com.sforce.eventbus";
const HEADER: [(&str, &str); 12] = [
    ("entityName", "string"),
    ("recordIds", "array"),
    ("changeType", "enum"),
    ("changeOrigin", "string"),
    ("transactionKey", "string"),
    ("sequenceNumber", "int"),
    ("commitTimestamp", "long"),
    ("commitNumber", "long"),
    ("commitUser", "string"),
    ("nulledFields", "array"),
    ("diffFields", "array"),
    ("changedFields", "array"),
];

/// A schema as GetSchema answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventSchema {
    pub(crate) id: String,
    pub(crate) json: String,
}

impl EventSchema {
    /// The schema of the events of an object as the object is now.
    pub(crate) fn of(object: &Object) -> Self {
        Self { id: fingerprint(&canonical(object)), json: readable(object).to_string() }
    }
}

fn fingerprint(canonical: &str) -> String {
    URL_SAFE_NO_PAD.encode(Md5::digest(canonical.as_bytes()))
}

/// Platform events state when and by whom they were created in fields that are never null.
pub(crate) fn is_nullable(object: &Object, field: &Field) -> bool {
    !(object.is_platform_event() && matches!(&*field.name, "CreatedDate" | "CreatedById"))
}

/// The parsing canonical form, written directly: full names, no attributes but name, type, fields, symbols, items.
fn canonical(object: &Object) -> String {
    let mut seen = Vec::new();
    let mut fields = Vec::new();
    if !object.is_platform_event() {
        let header = HEADER.iter().map(|(name, kind)| {
            let kind = match *kind {
                "array" => r#"{"type":"array","items":"string"}"#.to_owned(),
                "enum" => {
                    let symbols = object.change_types.iter().map(|symbol| format!("\"{symbol}\"")).collect::<Vec<_>>();
                    format!(r#"{{"name":"{NAMESPACE}.ChangeType","type":"enum","symbols":[{}]}}"#, symbols.join(","))
                }
                primitive => format!("\"{primitive}\""),
            };
            format!(r#"{{"name":"{name}","type":{kind}}}"#)
        });
        let header = header.collect::<Vec<_>>().join(",");
        fields.push(format!(
            r#"{{"name":"ChangeEventHeader","type":{{"name":"{NAMESPACE}.ChangeEventHeader","type":"record","fields":[{header}]}}}}"#
        ));
    }
    for field in &object.fields {
        let kind = canonical_type(field.kind.avro(), &mut seen);
        let kind = if is_nullable(object, field) { format!(r#"["null",{kind}]"#) } else { kind };
        fields.push(format!(r#"{{"name":"{}","type":{kind}}}"#, field.name));
    }
    format!(r#"{{"name":"{NAMESPACE}.{}","type":"record","fields":[{}]}}"#, object.event_name(), fields.join(","))
}

fn canonical_type(avro: Avro, seen: &mut Vec<&'static str>) -> String {
    match avro {
        Avro::Record(name, _) if seen.contains(&name) => format!("\"{NAMESPACE}.{name}\""),
        Avro::Record(name, components) => {
            seen.push(name);
            let components = components.iter().map(|component| {
                let kind = if component.number { "double" } else { "string" };
                format!(r#"{{"name":"{}","type":["null","{kind}"]}}"#, component.name)
            });
            let components = components.collect::<Vec<_>>().join(",");
            format!(r#"{{"name":"{NAMESPACE}.{name}","type":"record","fields":[{components}]}}"#)
        }
        primitive => format!("\"{}\"", primitive_name(primitive)),
    }
}

fn primitive_name(avro: Avro) -> &'static str {
    match avro {
        Avro::Int => "int",
        Avro::Long => "long",
        Avro::Double => "double",
        Avro::Boolean => "boolean",
        Avro::String | Avro::Record(..) => "string",
    }
}

/// The schema with everything a reader may want: docs, defaults, short names.
fn readable(object: &Object) -> Value {
    let mut seen = Vec::new();
    let mut fields = Vec::new();
    if !object.is_platform_event() {
        fields.push(header(object));
    }
    for (at, field) in object.fields.iter().enumerate() {
        let kind = readable_type(field.kind.avro(), &mut seen);
        let custom = field.name.ends_with("__c");
        let doc = if custom { format!("{}:00N8d0000{at:06}", field.kind.doc()) } else { field.kind.doc().to_owned() };
        fields.push(if is_nullable(object, field) {
            json!({ "name": field.name, "type": ["null", kind], "doc": doc, "default": null })
        } else {
            let doc = if field.name == "CreatedById" { "CreatedBy:EntityId" } else { &doc };
            json!({ "name": field.name, "type": kind, "doc": doc })
        });
    }
    json!({ "type": "record", "name": object.event_name(), "namespace": NAMESPACE, "fields": fields })
}

fn header(object: &Object) -> Value {
    let fields: Vec<Value> = HEADER
        .iter()
        .map(|(name, kind)| match *kind {
            "array" => json!({ "name": name, "type": { "type": "array", "items": "string" } }),
            "enum" => {
                json!({ "name": name, "type": { "type": "enum", "name": "ChangeType", "symbols": object.change_types } })
            }
            primitive => json!({ "name": name, "type": primitive }),
        })
        .collect();
    json!({
        "name": "ChangeEventHeader",
        "type": { "type": "record", "name": "ChangeEventHeader", "fields": fields },
        "doc": "Data:ComplexValueType",
    })
}

fn readable_type(avro: Avro, seen: &mut Vec<&'static str>) -> Value {
    match avro {
        Avro::Record(name, _) if seen.contains(&name) => json!(name),
        Avro::Record(name, components) => {
            seen.push(name);
            let fields: Vec<Value> = components
                .iter()
                .map(|component| {
                    let kind = if component.number { "double" } else { "string" };
                    json!({ "name": component.name, "type": ["null", kind], "default": null })
                })
                .collect();
            json!({ "type": "record", "name": name, "fields": fields })
        }
        primitive => json!(primitive_name(primitive)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::objects;

    #[test]
    fn the_id_is_the_md5_of_the_canonical_form_as_an_independent_library_computes_it() {
        for object in objects::all() {
            let schema = EventSchema::of(&object);
            let parsed = apache_avro::Schema::parse_str(&schema.json).expect("the schema is Avro");
            assert_eq!(parsed.canonical_form(), canonical(&object), "{}", object.name);
            assert_eq!(schema.id.len(), 22);
        }
    }

    #[test]
    fn a_new_field_gives_a_new_id() {
        let mut object = objects::all().remove(0);
        let before = EventSchema::of(&object);
        object.fields.push(Field { name: "Severity__c".into(), kind: objects::Kind::Number });
        assert_ne!(EventSchema::of(&object).id, before.id);
    }
}

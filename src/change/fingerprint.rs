//! The id of a schema.
//!
//! Salesforce's schema ids are the MD5 of the schema's Parsing Canonical Form, in base64url without
//! padding. Documentation and defaults are no part of that form, so they do not change the id. The form
//! is made from the JSON rather than from the parsed schema, because a parser that resolves names and
//! logical types no longer knows exactly what was written.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use md5::{Digest, Md5};
use serde_json::{Map, Value};

use crate::change::render;
use crate::identity::SchemaId;

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// The id that Salesforce gives a schema.
pub(crate) fn fingerprint(schema: &Value) -> SchemaId {
    let digest = Md5::digest(canonical_form(schema));
    SchemaId::from(URL_SAFE_NO_PAD.encode(digest).as_str())
}

/// The Parsing Canonical Form, as the Avro specification defines it.
pub(crate) fn canonical_form(schema: &Value) -> String {
    let mut out = String::new();
    write_schema(schema, "", &mut out);
    out
}

fn write_schema(schema: &Value, namespace: &str, out: &mut String) {
    match schema {
        Value::String(name) => render::write_quoted(&full_name(name, namespace), out),
        Value::Array(branches) => write_list(branches, out, |branch, out| write_schema(branch, namespace, out)),
        Value::Object(object) => write_object(object, namespace, out),
        // No schema; the parser has refused it before.
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn write_object(object: &Map<String, Value>, namespace: &str, out: &mut String) {
    let Some(Value::String(kind)) = object.get("type") else {
        // A type within a type: only the inner one is left.
        return object.get("type").into_iter().for_each(|inner| write_schema(inner, namespace, out));
    };
    match kind.as_str() {
        "array" => write_container(kind, "items", object, namespace, out),
        "map" => write_container(kind, "values", object, namespace, out),
        "record" | "error" | "enum" | "fixed" => write_named(kind, object, namespace, out),
        name => render::write_quoted(&full_name(name, namespace), out),
    }
}

fn write_container(kind: &str, of: &str, object: &Map<String, Value>, namespace: &str, out: &mut String) {
    out.push_str("{\"type\":");
    render::write_quoted(kind, out);
    out.push_str(",\"");
    out.push_str(of);
    out.push_str("\":");
    write_schema(object.get(of).unwrap_or(&Value::Null), namespace, out);
    out.push('}');
}

fn write_named(kind: &str, object: &Map<String, Value>, namespace: &str, out: &mut String) {
    let name = object.get("name").and_then(Value::as_str).unwrap_or_default();
    let own = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    let full = full_name(name, own);
    let inner = full.rsplit_once('.').map_or("", |(inner, _)| inner);
    out.push_str("{\"name\":");
    render::write_quoted(&full, out);
    out.push_str(",\"type\":");
    render::write_quoted(kind, out);
    let list = |key: &str| object.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    match kind {
        "enum" => {
            out.push_str(",\"symbols\":");
            write_list(list("symbols"), out, |symbol, out| {
                render::write_quoted(symbol.as_str().unwrap_or_default(), out);
            });
        }
        "fixed" => {
            out.push_str(",\"size\":");
            let size = object.get("size").and_then(|size| match size {
                Value::String(digits) => digits.parse().ok(),
                other => other.as_i64(),
            });
            render::write_integer(size.unwrap_or_default(), out);
        }
        _ => {
            out.push_str(",\"fields\":");
            write_list(list("fields"), out, |field, out| {
                out.push_str("{\"name\":");
                render::write_quoted(field.get("name").and_then(Value::as_str).unwrap_or_default(), out);
                out.push_str(",\"type\":");
                write_schema(field.get("type").unwrap_or(&Value::Null), inner, out);
                out.push('}');
            });
        }
    }
    out.push('}');
}

fn write_list(items: &[Value], out: &mut String, write: impl Fn(&Value, &mut String)) {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(']');
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() || PRIMITIVES.contains(&name) {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_canonical_form_keeps_what_parsing_needs_and_nothing_else() {
        let schema = json!({
            "doc": "x", "namespace": "a.b", "type": "record", "name": "R", "fields": [
                {"default": null, "doc": "Data:Text", "name": "f", "type": ["null", {"type": "string", "avro.java.string": "String"}]},
                {"name": "e", "type": {"type": "enum", "name": "E", "namespace": "", "symbols": ["X"], "default": "X"}},
                {"name": "g", "type": {"type": "fixed", "name": "c.F", "size": "12", "aliases": ["q"]}},
                {"name": "h", "type": {"type": "map", "values": {"type": "array", "items": "R"}}},
                {"name": "i", "type": {"type": {"type": "long", "logicalType": "timestamp-millis"}}},
            ]
        });
        let form = concat!(
            r#"{"name":"a.b.R","type":"record","fields":[{"name":"f","type":["null","string"]},"#,
            r#"{"name":"e","type":{"name":"E","type":"enum","symbols":["X"]}},"#,
            r#"{"name":"g","type":{"name":"c.F","type":"fixed","size":12}},"#,
            r#"{"name":"h","type":{"type":"map","values":{"type":"array","items":"a.b.R"}}},"#,
            r#"{"name":"i","type":"long"}]}"#
        );
        assert_eq!(canonical_form(&schema), form);
        assert_eq!(fingerprint(&schema).as_str().len(), 22);
    }
}

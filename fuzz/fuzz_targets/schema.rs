//! Schemas and payloads that are made to fit: every type in every place, and what comes out is what was put in.
//!
//! The input is first a tree of types, which becomes the schema of a platform event, then the values of its fields. The other
//! target, `decode`, has the schemas and payloads that do not fit.

#![no_main]

use casewire::change::{FieldPolicies, WriterSchema};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

#[derive(Debug, Arbitrary)]
enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Double,
    Bytes,
    Text,
    Array(Box<Type>),
    Map(Box<Type>),
    Nullable(Box<Type>),
    Record(Vec<Type>),
    Enum(u8),
    Fixed(u8),
}

/// What a value must have become.
enum Expected {
    Is(Value),
    Number(f64),
    /// Base64; what is in it is the renderer's own test.
    AnyText,
    Items(Vec<Expected>),
    Fields(Vec<(String, Expected)>),
    Empty,
}

/// Deeper than this a schema is refused, by the JSON parser or by the decoder.
const DEPTH: usize = 10;

/// More types are more of the same, and slow.
const MOST_TYPES: usize = 16;

/// Values in one event; the decoder has its own limit, which `decode` finds.
const MOST_VALUES: usize = 10_000;

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let Ok(fields) = Vec::<Type>::arbitrary(&mut input) else { return };
    if fields.iter().any(|field| depth(field) > DEPTH) || fields.iter().map(types).sum::<usize>() > MOST_TYPES {
        return;
    }
    let schema = Type::Record(fields);
    let mut names = 0;
    let json = write_schema(&schema, &mut names);
    let parsed = WriterSchema::parse(&json.to_string()).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert!(!parsed.carries_header());
    let documented = json!({"doc": "x", "type": json["type"], "name": json["name"], "fields": json["fields"]});
    let same = WriterSchema::parse(&documented.to_string()).expect("parsed above");
    assert_eq!(parsed.fingerprint(), same.fingerprint(), "a doc is no part of the canonical form");

    let (mut payload, mut values) = (Vec::new(), 0);
    let Expected::Fields(expected) = write_value(&schema, &mut input, &mut payload, &mut values) else { return };
    if values > MOST_VALUES {
        return;
    }
    let change = parsed
        .decode(&payload, &FieldPolicies::default())
        .unwrap_or_else(|error| panic!("{error}: {json} {payload:?}"));
    assert!(change.header.is_none() && change.unresolved.is_empty() && change.enriched.is_empty());
    let changed: Value = serde_json::from_str(change.changed.as_str()).expect("a change is JSON");
    let object = changed.as_object().expect("a change is an object");
    assert_eq!(object.len(), expected.len());
    for (name, expected) in &expected {
        // A compound of which nothing has a value has none itself.
        let found = &object[name];
        assert!(agrees(expected, found) || (found.is_null() && is_empty(expected)), "{name}: {found} of {json}");
    }
    // Every one of a short payload; of a long one the last few.
    for end in payload.len().saturating_sub(32)..payload.len() {
        assert!(parsed.decode(&payload[..end], &FieldPolicies::default()).is_err(), "{end} of {} bytes", payload.len());
    }
});

fn depth(of: &Type) -> usize {
    match of {
        Type::Array(inner) | Type::Map(inner) | Type::Nullable(inner) => 1 + depth(inner),
        Type::Record(fields) => 1 + fields.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn types(of: &Type) -> usize {
    match of {
        Type::Array(inner) | Type::Map(inner) | Type::Nullable(inner) => 1 + types(inner),
        Type::Record(fields) => 1 + fields.iter().map(types).sum::<usize>(),
        _ => 1,
    }
}

fn write_schema(of: &Type, names: &mut usize) -> Value {
    let name = format!("T{names}");
    *names += 1;
    match of {
        Type::Null => json!("null"),
        Type::Boolean => json!("boolean"),
        Type::Int => json!("int"),
        Type::Long => json!({"type": "long"}),
        Type::Double => json!("double"),
        Type::Bytes => json!("bytes"),
        Type::Text => json!("string"),
        Type::Array(items) => json!({"type": "array", "items": write_schema(items, names)}),
        Type::Map(values) => json!({"type": "map", "values": write_schema(values, names)}),
        // A union holds no union, and null once.
        Type::Nullable(inner) if matches!(**inner, Type::Nullable(_) | Type::Null) => write_schema(inner, names),
        Type::Nullable(inner) => json!(["null", write_schema(inner, names)]),
        Type::Record(fields) => {
            let fields: Vec<Value> = fields
                .iter()
                .enumerate()
                .map(|(at, field)| json!({"name": format!("f{at}"), "type": write_schema(field, names)}))
                .collect();
            json!({"type": "record", "name": name, "fields": fields})
        }
        Type::Enum(symbols) => {
            let symbols: Vec<String> = (0..=*symbols % 16).map(|symbol| format!("S{symbol}")).collect();
            json!({"type": "enum", "name": name, "symbols": symbols})
        }
        Type::Fixed(size) => json!({"type": "fixed", "name": name, "size": size}),
    }
}

fn long(value: i64, payload: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest > 0x7f {
        payload.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    payload.push(rest as u8);
}

fn bytes(value: &[u8], payload: &mut Vec<u8>) {
    long(value.len() as i64, payload);
    payload.extend(value);
}

/// What the input does not hold any more is zero, empty or absent.
fn write_value(of: &Type, input: &mut Unstructured<'_>, payload: &mut Vec<u8>, values: &mut usize) -> Expected {
    *values += 1;
    if *values > MOST_VALUES {
        return Expected::Empty;
    }
    match of {
        Type::Null => Expected::Is(Value::Null),
        Type::Boolean => {
            let value = bool::arbitrary(input).unwrap_or_default();
            payload.push(u8::from(value));
            Expected::Is(json!(value))
        }
        Type::Int => {
            let value = i32::arbitrary(input).unwrap_or_default();
            long(value.into(), payload);
            Expected::Is(json!(value))
        }
        Type::Long => {
            let value = i64::arbitrary(input).unwrap_or_default();
            long(value, payload);
            Expected::Is(json!(value))
        }
        Type::Double => {
            let value = f64::arbitrary(input).unwrap_or_default();
            payload.extend(value.to_le_bytes());
            if value.is_finite() { Expected::Number(value) } else { Expected::AnyText }
        }
        Type::Bytes => {
            bytes(<&[u8]>::arbitrary(input).unwrap_or_default(), payload);
            Expected::AnyText
        }
        Type::Text => {
            let value = <&str>::arbitrary(input).unwrap_or_default();
            bytes(value.as_bytes(), payload);
            Expected::Is(if value.is_empty() { Value::Null } else { json!(value) })
        }
        Type::Array(items) => {
            let count = u8::arbitrary(input).unwrap_or_default() % 4;
            let expected = (0..count).map(|_| block(payload, |payload| write_value(items, input, payload, values)));
            let expected = Expected::Items(expected.collect());
            payload.push(0);
            expected
        }
        Type::Map(of) => {
            let count = u8::arbitrary(input).unwrap_or_default() % 4;
            let fields = (0..count).map(|key| {
                let key = format!("k{key}");
                block(payload, |payload| {
                    bytes(key.as_bytes(), payload);
                    (key.clone(), write_value(of, input, payload, values))
                })
            });
            let expected = Expected::Fields(fields.collect());
            payload.push(0);
            expected
        }
        Type::Nullable(inner) if matches!(**inner, Type::Nullable(_) | Type::Null) => {
            write_value(inner, input, payload, values)
        }
        Type::Nullable(inner) => {
            let some = bool::arbitrary(input).unwrap_or_default();
            long(i64::from(some), payload);
            if some { write_value(inner, input, payload, values) } else { Expected::Is(Value::Null) }
        }
        Type::Record(fields) => {
            let fields = fields.iter().enumerate();
            Expected::Fields(
                fields.map(|(at, field)| (format!("f{at}"), write_value(field, input, payload, values))).collect(),
            )
        }
        Type::Enum(symbols) => {
            let symbol = u8::arbitrary(input).unwrap_or_default();
            let symbol = if symbol <= *symbols % 16 { symbol } else { 0 };
            long(symbol.into(), payload);
            Expected::Is(json!(format!("S{symbol}")))
        }
        Type::Fixed(size) => {
            payload.extend((0..*size).map(|_| u8::arbitrary(input).unwrap_or_default()));
            Expected::AnyText
        }
    }
}

/// One element in a block of its own, with the size that lets a reader skip it.
fn block<T>(payload: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut inner = Vec::new();
    let written = write(&mut inner);
    long(-1, payload);
    bytes(&inner, payload);
    written
}

fn agrees(expected: &Expected, found: &Value) -> bool {
    match expected {
        Expected::Is(value) => value == found,
        Expected::Number(number) => found.as_f64() == Some(*number),
        Expected::AnyText => found.is_string(),
        Expected::Items(items) => found.as_array().is_some_and(|found| {
            found.len() == items.len() && items.iter().zip(found).all(|(item, found)| agrees(item, found))
        }),
        Expected::Fields(fields) => found.as_object().is_some_and(|found| {
            found.len() == fields.len()
                && fields.iter().all(|(name, field)| found.get(name).is_some_and(|found| agrees(field, found)))
        }),
        Expected::Empty => false,
    }
}

fn is_empty(expected: &Expected) -> bool {
    match expected {
        Expected::Is(Value::Null) => true,
        Expected::Fields(fields) => fields.iter().all(|(_, field)| matches!(field, Expected::Is(Value::Null))),
        _ => false,
    }
}

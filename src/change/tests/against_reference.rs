//! Properties over generated schemas and payloads, with `apache-avro` as the other opinion.

use std::collections::BTreeSet;

use apache_avro::Schema;
use apache_avro::types::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveTime};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use crate::change::tests::sample::{self, ADDRESS, DESCRIPTION, FIELDS, Lists, NAME, OTHER_ADDRESS};
use crate::change::{FieldPolicies, WriterSchema};

/// A type, with what the `doc` of its field says where that matters.
#[derive(Debug, Clone)]
enum Shape {
    Null,
    Boolean,
    Int,
    Long(&'static str),
    Float,
    Double,
    Bytes,
    Text(&'static str),
    Fixed(usize),
    Enum(usize),
    Array(Box<Shape>),
    Map(Box<Shape>),
    Record(Vec<Shape>),
    Union(Vec<Shape>),
}

fn shape() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        Just(Shape::Null),
        Just(Shape::Boolean),
        Just(Shape::Int),
        prop::sample::select(vec!["Integer", "DateTime", "DateOnly", "Birthday", "TimeOnly"]).prop_map(Shape::Long),
        Just(Shape::Float),
        Just(Shape::Double),
        Just(Shape::Bytes),
        prop::sample::select(vec!["Text", "MultiEnum", "StringPlusClob"]).prop_map(Shape::Text),
        (0_usize..9).prop_map(Shape::Fixed),
        (1_usize..5).prop_map(Shape::Enum),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| Shape::Array(Box::new(items))),
            inner.clone().prop_map(|values| Shape::Map(Box::new(values))),
            prop::collection::vec(inner.clone(), 0..5).prop_map(Shape::Record),
            prop::collection::vec(inner, 1..4).prop_map(union),
        ]
    })
}

/// A union may hold each unnamed type once, and no union.
fn union(branches: Vec<Shape>) -> Shape {
    let mut kinds = BTreeSet::new();
    let kind = |shape: &Shape| match shape {
        Shape::Union(_) => None,
        Shape::Null => Some(0),
        Shape::Boolean => Some(1),
        Shape::Int => Some(2),
        Shape::Long(_) => Some(3),
        Shape::Float => Some(4),
        Shape::Double => Some(5),
        Shape::Bytes => Some(6),
        Shape::Text(_) => Some(7),
        Shape::Array(_) => Some(8),
        Shape::Map(_) => Some(9),
        // Named types are told apart by name; one of each keeps the reference's encoder from guessing.
        Shape::Fixed(_) => Some(10),
        Shape::Enum(_) => Some(11),
        Shape::Record(_) => Some(12),
    };
    let kept: Vec<_> =
        branches.into_iter().filter(|shape| kind(shape).is_some_and(|kind| kinds.insert(kind))).collect();
    if kept.is_empty() { Shape::Null } else { Shape::Union(kept) }
}

/// The `doc` type that applies to a field of this shape; a union or array takes the first that its parts have.
fn documented(shape: &Shape) -> Option<&'static str> {
    match shape {
        Shape::Long(doc) | Shape::Text(doc) => Some(doc),
        Shape::Array(items) | Shape::Map(items) => documented(items),
        Shape::Union(branches) => branches.iter().find_map(documented),
        _ => None,
    }
}

/// The schema of a shape; `names` makes the names of its types unique.
fn schema(shape: &Shape, names: &mut usize) -> Json {
    let mut name = || {
        *names += 1;
        format!("T{names}")
    };
    match shape {
        Shape::Null => json!("null"),
        Shape::Boolean => json!("boolean"),
        Shape::Int => json!("int"),
        Shape::Long(_) => json!("long"),
        Shape::Float => json!("float"),
        Shape::Double => json!("double"),
        Shape::Bytes => json!("bytes"),
        Shape::Text(_) => json!("string"),
        Shape::Fixed(size) => json!({"type": "fixed", "name": name(), "size": size}),
        Shape::Enum(symbols) => {
            let symbols: Vec<_> = (0..*symbols).map(|at| format!("S{at}")).collect();
            json!({"type": "enum", "name": name(), "symbols": symbols})
        }
        Shape::Array(items) => json!({"type": "array", "items": schema(items, names)}),
        Shape::Map(values) => json!({"type": "map", "values": schema(values, names)}),
        Shape::Record(fields) => {
            let name = name();
            json!({"type": "record", "name": name, "fields": fields_of(fields, names)})
        }
        Shape::Union(branches) => branches.iter().map(|branch| schema(branch, names)).collect(),
    }
}

fn fields_of(fields: &[Shape], names: &mut usize) -> Json {
    let field = |(at, field): (usize, &Shape)| {
        let doc = format!("Data:{}", documented(field).unwrap_or("Text"));
        json!({"name": format!("f{at}"), "type": schema(field, names), "doc": doc})
    };
    fields.iter().enumerate().map(field).collect()
}

fn top_schema(fields: &[Shape]) -> Json {
    json!({"type": "record", "name": "Generated__e", "namespace": "com.sforce.eventbus", "fields": fields_of(fields, &mut 0)})
}

/// A value of a shape. `doc` is that of the field, which keeps times within what can be rendered.
fn value(shape: &Shape, doc: &str, random: &mut StdRng) -> Value {
    match shape {
        Shape::Null => Value::Null,
        Shape::Boolean => Value::Boolean(random.random()),
        Shape::Int => Value::Int(match doc {
            "TimeOnly" => random.random_range(0..86_400_000),
            _ => random.random(),
        }),
        Shape::Long(_) => Value::Long(match doc {
            "DateTime" | "DateOnly" | "Birthday" => random.random_range(-60_000_000_000_000..250_000_000_000_000),
            "TimeOnly" => random.random_range(0..86_400_000),
            _ => random.random::<i64>() >> random.random_range(0..64),
        }),
        Shape::Float => Value::Float(f32::from_bits(random.random())),
        Shape::Double => Value::Double(match random.random_range(0..4) {
            0 => f64::from_bits(random.random()),
            1 => f64::from(random.random_range(-1000..1000)),
            2 => [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0][random.random_range(0..4)],
            _ => random.random_range(-180.0..180.0),
        }),
        Shape::Bytes => Value::Bytes((0..random.random_range(0..20)).map(|_| random.random()).collect()),
        Shape::Text(_) => Value::String(text(random)),
        Shape::Fixed(size) => Value::Fixed(*size, (0..*size).map(|_| random.random()).collect()),
        Shape::Enum(symbols) => {
            let at = random.random_range(0..*symbols);
            Value::Enum(u32::try_from(at).expect("few"), format!("S{at}"))
        }
        Shape::Array(items) => {
            Value::Array((0..random.random_range(0..4)).map(|_| value(items, doc, random)).collect())
        }
        Shape::Map(values) => {
            let count = random.random_range(0..4);
            Value::Map((0..count).map(|at| (format!("k{at}\""), value(values, doc, random))).collect())
        }
        Shape::Record(fields) => record(fields, random),
        Shape::Union(branches) => {
            let at = random.random_range(0..branches.len());
            Value::Union(u32::try_from(at).expect("few"), Box::new(value(&branches[at], doc, random)))
        }
    }
}

fn record(fields: &[Shape], random: &mut StdRng) -> Value {
    let field =
        |(at, field): (usize, &Shape)| (format!("f{at}"), value(field, documented(field).unwrap_or("Text"), random));
    Value::Record(fields.iter().enumerate().map(field).collect())
}

fn text(random: &mut StdRng) -> String {
    let alphabet: Vec<char> = "aZ;\"\\\n\r\t\u{1}\u{7f} é東\u{1F600}/".chars().collect();
    (0..random.random_range(0..12)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect()
}

/// The rendering rules once more, over the reference's values instead of over bytes.
fn rendered(value: &Value, doc: &str) -> Json {
    match value {
        Value::Union(_, value) => rendered(value, doc),
        Value::Boolean(value) => json!(value),
        Value::Int(value) => whole(i64::from(*value), doc),
        Value::Long(value) => whole(*value, doc),
        Value::Float(value) => number(f64::from(*value), || value.to_string()),
        Value::Double(value) => number(*value, || value.to_string()),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => json!(STANDARD.encode(bytes)),
        Value::Enum(_, symbol) => json!(symbol),
        Value::String(text) if doc == "MultiEnum" => {
            let values: Vec<_> = text.split(';').filter(|value| !value.is_empty()).collect();
            if values.is_empty() { Json::Null } else { json!(values) }
        }
        Value::String(text) => {
            if text.is_empty() {
                Json::Null
            } else {
                json!(text)
            }
        }
        Value::Array(items) => items.iter().map(|item| rendered(item, doc)).collect(),
        Value::Map(values) => {
            Json::Object(values.iter().map(|(key, value)| (key.clone(), rendered(value, doc))).collect())
        }
        _ => Json::Null,
    }
}

fn whole(value: i64, doc: &str) -> Json {
    let time = || DateTime::from_timestamp_millis(value).expect("in range");
    match doc {
        "DateTime" => json!(time().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()),
        "DateOnly" | "Birthday" => json!(time().format("%Y-%m-%d").to_string()),
        "TimeOnly" => {
            let of_day = NaiveTime::from_num_seconds_from_midnight_opt(
                u32::try_from(value / 1000).expect("in range"),
                u32::try_from(value % 1000 * 1_000_000).expect("in range"),
            );
            json!(of_day.expect("in range").format("%H:%M:%S%.3fZ").to_string())
        }
        _ => json!(value),
    }
}

/// `shortest` is Rust's own shortest form of the number, which is an implementation apart from the one under test.
fn number(value: f64, shortest: impl Fn() -> String) -> Json {
    if value.is_nan() {
        json!("NaN")
    } else if value.is_infinite() {
        json!(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else if value.fract() == 0.0 && value.abs() < 9.2e18 {
        json!(value as i64)
    } else {
        json!(shortest().parse::<f64>().expect("a number"))
    }
}

/// Equality, but for the last digit of fractions: a 32-bit float can lie halfway between two shortest texts, and
/// serde_json reads fractions by a quick way that may miss the last bit. That our digits are exact is tested where
/// they are written.
fn same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or(f64::NAN), other.as_f64().unwrap_or(f64::NAN));
            one == other || (one - other).abs() <= one.abs() * 1e-7
        }
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}

/// Renders the fields of a record with the docs of their shapes.
fn rendered_record(value: &Value, fields: &[Shape]) -> Json {
    let Value::Record(values) = value else { panic!("not a record: {value:?}") };
    let field = |((name, value), shape): (&(String, Value), &Shape)| {
        (name.clone(), rendered_shape(value, shape, documented(shape).unwrap_or("Text")))
    };
    Json::Object(values.iter().zip(fields).map(field).collect())
}

/// Records carry docs of their own, so the shape is followed to find them.
fn rendered_shape(value: &Value, shape: &Shape, doc: &str) -> Json {
    match (value, shape) {
        (Value::Record(_), Shape::Record(fields)) => rendered_record(value, fields),
        (Value::Union(at, value), Shape::Union(branches)) => rendered_shape(value, &branches[*at as usize], doc),
        (Value::Array(items), Shape::Array(shape)) => {
            items.iter().map(|item| rendered_shape(item, shape, doc)).collect()
        }
        (Value::Map(values), Shape::Map(shape)) => {
            Json::Object(values.iter().map(|(key, value)| (key.clone(), rendered_shape(value, shape, doc))).collect())
        }
        _ => rendered(value, doc),
    }
}

/// As the compound rule has it: one without any value is null at the top of an event.
fn top_level(mut expected: Json, fields: &[Shape], decoded: &Value) -> Json {
    let Value::Record(values) = decoded else { panic!("not a record") };
    for ((name, value), shape) in values.iter().zip(fields) {
        let (value, shape) = match (value, shape) {
            (Value::Union(at, value), Shape::Union(branches)) => (&**value, &branches[*at as usize]),
            other => other,
        };
        if let (Value::Record(_), Shape::Record(inner)) = (value, shape) {
            let components = rendered_record(value, inner);
            if components.as_object().expect("an object").values().all(Json::is_null) {
                expected[name] = Json::Null;
            }
        }
    }
    expected
}

/// A generated event: its schema, and its payload as the reference writes it.
fn encoded(fields: &[Shape], seed: u64) -> (Json, Schema, Vec<u8>) {
    let json = top_schema(fields);
    let reference = Schema::parse(&json).expect("a valid schema");
    let value = record(fields, &mut StdRng::seed_from_u64(seed));
    let payload = apache_avro::to_avro_datum(&reference, value).expect("encodes");
    (json, reference, payload)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_generated_event_decodes_as_the_reference_decodes_it(fields in prop::collection::vec(shape(), 0..6), seed: u64) {
        let (json, reference, payload) = encoded(&fields, seed);
        let decoded = apache_avro::from_avro_datum(&reference, &mut payload.as_slice(), None).expect("decodes");
        let expected = top_level(rendered_record(&decoded, &fields), &fields, &decoded);
        let change = WriterSchema::parse(&json.to_string()).expect("a valid schema").decode(&payload, &FieldPolicies::default()).expect("decodes");
        let changed: Json = serde_json::from_str(change.changed.as_str()).expect("JSON");
        prop_assert!(same(&changed, &expected), "{changed}\n{expected}");
        prop_assert!(change.header.is_none() && change.enriched.is_empty() && change.unresolved.is_empty());
    }

    #[test]
    fn a_damaged_event_is_refused_or_read_but_never_panics(
        fields in prop::collection::vec(shape(), 0..6),
        seed: u64,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..6),
        tail in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let (json, _, payload) = encoded(&fields, seed);
        let schema = WriterSchema::parse(&json.to_string()).expect("a valid schema");
        prop_assert!(schema.decode(&[payload.as_slice(), &tail].concat(), &FieldPolicies::default()).is_err(), "bytes are left");
        for end in 0..payload.len() {
            prop_assert!(schema.decode(&payload[..end], &FieldPolicies::default()).is_err(), "bytes are missing");
        }
        let mut damaged = payload;
        for (at, byte, kind) in damage {
            match (kind, damaged.len()) {
                (0, _) | (_, 0) => damaged.push(byte),
                (1, length) => damaged[at.index(length)] = byte,
                (_, length) => { damaged.remove(at.index(length)); }
            }
        }
        if let Ok(change) = schema.decode(&damaged, &FieldPolicies::default()) {
            prop_assert!(serde_json::from_str::<Json>(change.changed.as_str()).is_ok(), "what is read is JSON");
        }
    }

    #[test]
    fn random_bytes_never_panic_and_what_is_read_is_json(bytes in prop::collection::vec(any::<u8>(), 0..300), from in 0_usize..150) {
        let schema = sample::writer_schema();
        let _ = schema.decode(&bytes, &FieldPolicies::default());
        let mut damaged = sample::payload("UPDATE", &["500000000000001AAA"], &sample::lists("0x04 4-0x01", "", ""), &[]);
        let end = damaged.len();
        damaged.splice(from.min(end).., bytes);
        if let Ok(change) = schema.decode(&damaged, &FieldPolicies::default()) {
            for text in [change.changed.as_str(), change.enriched.as_str()] {
                prop_assert!(serde_json::from_str::<Json>(text).is_ok(), "{}", text);
            }
        }
    }

    #[test]
    fn every_named_field_is_in_exactly_one_of_changed_and_unresolved(marks in marks(), seed: u64) {
        let change = sample::writer_schema().decode(&marks.payload(seed), &FieldPolicies::default()).expect("decodes");
        let changed: Json = serde_json::from_str(change.changed.as_str()).expect("JSON");
        let enriched: Json = serde_json::from_str(change.enriched.as_str()).expect("JSON");
        let unresolved: Vec<_> = change.unresolved.iter().map(|text| text.field.clone()).collect();
        prop_assert_eq!(unresolved.iter().collect::<BTreeSet<_>>().len(), unresolved.len());
        let names = names();
        for (position, name) in names.iter().enumerate().skip(1) {
            let whole = marks.changed.contains(&position);
            let parts: Vec<_> = marks.parts.iter().filter(|(parent, _)| *parent == position).map(|(_, part)| *part).collect();
            let whole_unresolved = unresolved.contains(name);
            if whole {
                prop_assert!(changed.get(name).is_some() != whole_unresolved, "{}", name);
            }
            for part in &parts {
                let component = components(position)[*part];
                let told = changed.get(name).is_some_and(|value| value.get(component).is_some() || !value.is_object());
                let path = format!("{name}.{component}");
                prop_assert!(told != (whole_unresolved || unresolved.contains(&path)), "{}", path);
            }
            if !whole && parts.is_empty() {
                prop_assert!(changed.get(name).is_none() && !whole_unresolved, "{} is not named", name);
            }
            if whole {
                prop_assert!(enriched.get(name).is_none(), "{} is told twice", name);
            }
        }
    }
}

fn names() -> Vec<String> {
    let json = sample::schema_json();
    json["fields"]
        .as_array()
        .expect("fields")
        .iter()
        .map(|field| field["name"].as_str().expect("text").to_owned())
        .collect()
}

fn components(position: usize) -> [&'static str; 3] {
    if position == NAME { ["Salutation", "FirstName", "LastName"] } else { ["Street", "City", "Latitude"] }
}

/// What the lists of an update name.
#[derive(Debug, Clone)]
struct Marks {
    changed: BTreeSet<usize>,
    nulled: BTreeSet<usize>,
    diff: bool,
    parts: BTreeSet<(usize, usize)>,
}

fn marks() -> impl Strategy<Value = Marks> {
    let part = (prop::sample::select(vec![NAME, ADDRESS, OTHER_ADDRESS]), 0_usize..3);
    let sets = (prop::collection::btree_set(1..FIELDS, 0..8), prop::collection::btree_set(1..FIELDS, 0..4));
    (sets, any::<bool>(), prop::collection::btree_set(part, 0..5)).prop_map(|((changed, nulled), diff, parts)| Marks {
        nulled: nulled.intersection(&changed).copied().collect(),
        diff: diff && changed.contains(&DESCRIPTION),
        changed,
        parts,
    })
}

impl Marks {
    fn payload(&self, seed: u64) -> Vec<u8> {
        let bitmap = |set: &BTreeSet<usize>| format!("0x{:04X}", set.iter().fold(0_u32, |bits, at| bits | 1 << at));
        let mut changed = vec![bitmap(&self.changed)];
        for parent in self.parts.iter().map(|(parent, _)| *parent).collect::<BTreeSet<_>>() {
            let own = self.parts.iter().filter(|(other, _)| *other == parent).map(|(_, part)| *part).collect();
            changed.push(format!("{parent}-{}", bitmap(&own)));
        }
        let diff = if self.diff { vec!["0x08".to_owned()] } else { Vec::new() };
        let lists = Lists { nulled: vec![bitmap(&self.nulled)], diff, changed };
        let mut random = StdRng::seed_from_u64(seed);
        let mut body = vec![
            (
                "Name",
                [sample::some("Acme"), sample::person("Ada", "-"), sample::person("-", "-")][random.random_range(0..3)]
                    .clone(),
            ),
            ("Status", sample::some("New")),
            ("Description", sample::some("text")),
            ("Address", sample::address("s", "-", Some(1.5))),
            ("OtherAddress", sample::address("-", "c", None)),
            ("CreatedDate", sample::some(1_771_300_995_000_i64)),
            ("Amount__c", sample::some(2.5)),
            ("IsClosed", sample::some(true)),
        ];
        body.retain(|_| random.random());
        sample::payload("UPDATE", &["500000000000001AAA"], &lists, &body)
    }
}

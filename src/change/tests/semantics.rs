//! What each kind of event means, case by case.

use apache_avro::types::Value;
use serde_json::json;

use crate::change::tests::sample::{self, Lists, address, field, lists, payload, person, some};
use crate::change::{
    BitmapFault, BitmapList, Change, ChangeType, DecodeFault, FieldPolicies, SchemaError, WriterSchema,
};

const RECORD: &[&str] = &["500000000000001AAA"];

fn update(lists: &Lists, body: &[(&str, Value)]) -> Change {
    sample::writer_schema().decode(&payload("UPDATE", RECORD, lists, body), &FieldPolicies::default()).expect("decodes")
}

/// The unresolved fields, with their diff where there is one.
fn unresolved(change: &Change) -> Vec<(&str, Option<&str>)> {
    change.unresolved.iter().map(|text| (text.field.as_str(), text.diff.as_deref())).collect()
}

#[test]
fn an_update_holds_exactly_the_fields_that_its_lists_name() {
    type Case = (Lists, Vec<(&'static str, Value)>, &'static str, &'static str);
    let cases: Vec<Case> = vec![
        (lists("0x04", "", ""), vec![("Status", some("New"))], r#"{"Status":"New"}"#, "{}"),
        (lists("0x0C", "0x04", ""), vec![("Description", some("d"))], r#"{"Status":null,"Description":"d"}"#, "{}"),
        (lists("0x04", "", ""), vec![], r#"{"Status":null}"#, "{}"),
        (lists("0x04", "", ""), vec![("Status", some(""))], r#"{"Status":null}"#, "{}"),
        (lists("", "0x04", ""), vec![], r#"{"Status":null}"#, "{}"),
        (
            lists("0x04", "", ""),
            vec![("Count", some(3)), ("Status", some("New"))],
            r#"{"Status":"New"}"#,
            r#"{"Count":3}"#,
        ),
        (lists("4-0x01", "", ""), vec![("Address", address("s", "-", None))], r#"{"Address":{"Street":"s"}}"#, "{}"),
        (
            lists("4-0x03", "4-0x02", ""),
            vec![("Address", address("s", "-", None))],
            r#"{"Address":{"Street":"s","City":null}}"#,
            "{}",
        ),
        (lists("4-0x03", "", ""), vec![], r#"{"Address":{"Street":null,"City":null}}"#, "{}"),
        (
            lists("4-0x01", "", ""),
            vec![("Address", address("s", "c", Some(1.5)))],
            r#"{"Address":{"Street":"s"}}"#,
            r#"{"Address":{"City":"c","Latitude":1.5}}"#,
        ),
        (
            lists("0x10", "", ""),
            vec![("Address", address("s", "-", None))],
            r#"{"Address":{"Street":"s","City":null,"Latitude":null}}"#,
            "{}",
        ),
        (lists("0x10", "", ""), vec![("Address", address("-", "", None))], r#"{"Address":null}"#, "{}"),
        (lists("0x10", "0x10", ""), vec![], r#"{"Address":null}"#, "{}"),
        (
            lists("0x20", "", ""),
            vec![("Address", address("s", "-", None))],
            r#"{"OtherAddress":null}"#,
            r#"{"Address":{"Street":"s"}}"#,
        ),
        (
            lists("0x10 4-0x07", "", ""),
            vec![("Address", address("s", "-", None))],
            r#"{"Address":{"Street":"s","City":null,"Latitude":null}}"#,
            "{}",
        ),
        (lists("0x02", "", ""), vec![("Name", some("Acme"))], r#"{"Name":"Acme"}"#, "{}"),
        (lists("1-0x02", "", ""), vec![("Name", person("Ada", "-"))], r#"{"Name":{"FirstName":"Ada"}}"#, "{}"),
        (lists("1-0x02", "", ""), vec![("Name", some("Acme"))], r#"{"Name":"Acme"}"#, "{}"),
        (lists("1-0x06", "", ""), vec![], r#"{"Name":{"FirstName":null,"LastName":null}}"#, "{}"),
    ];
    for (lists, body, changed, enriched) in cases {
        let change = update(&lists, &body);
        assert_eq!(change.changed.as_str(), changed, "{lists:?} {body:?}");
        assert_eq!(change.enriched.as_str(), enriched, "{lists:?} {body:?}");
        assert_eq!(change.unresolved, [], "{lists:?} {body:?}");
    }
}

#[test]
fn what_an_update_does_not_tell_is_unresolved_and_never_a_value() {
    type Case = (Lists, Vec<(&'static str, Value)>, &'static [(&'static str, Option<&'static str>)]);
    let cases: Vec<Case> = vec![
        (
            lists("0x08", "", "0x08"),
            vec![("Description", some("--- \n+++ ab"))],
            &[("Description", Some("--- \n+++ ab"))],
        ),
        (lists("", "", "0x08"), vec![("Description", some("--- \n+++ ab"))], &[("Description", Some("--- \n+++ ab"))]),
        (lists("0x08", "", "0x08"), vec![], &[("Description", None)]),
        (
            lists("4-0x01", "", "4-0x01"),
            vec![("Address", address("diff", "-", None))],
            &[("Address.Street", Some("diff"))],
        ),
        (lists("0x04", "0x04", ""), vec![("Status", some("New"))], &[("Status", None)]),
        (lists("4-0x01", "4-0x01", ""), vec![("Address", address("s", "-", None))], &[("Address.Street", None)]),
        (lists("0x10 4-0x01", "", ""), vec![("Address", address("s", "-", None))], &[("Address", None)]),
        (lists("4-0x01", "0x10", ""), vec![], &[("Address", None)]),
    ];
    for (lists, body, expected) in cases {
        let change = update(&lists, &body);
        assert_eq!(unresolved(&change), expected, "{lists:?} {body:?}");
        assert!(change.changed.is_empty() && change.enriched.is_empty(), "{lists:?} {body:?}: {change:?}");
    }
}

/// One value of each kind of field.
fn full_body() -> Vec<(&'static str, Value)> {
    vec![
        ("Name", person("Ada", "-")),
        ("Status", some("")),
        ("Address", address("-", "c", Some(f64::NAN))),
        ("OtherAddress", address("-", "-", None)),
        ("CreatedDate", some(1_771_300_995_000_i64)),
        ("Due__c", some(1_653_955_200_000_i64)),
        ("At__c", some(14_595_000_i64)),
        ("Topics__c", some("A;B")),
        ("Amount__c", some(3233.0)),
        ("Count", some(-7)),
        ("CreatedDateAsNumber", some(9_007_199_254_740_993_i64)),
        ("IsClosed", some(false)),
    ]
}

#[test]
fn a_create_and_an_undelete_hold_every_field_that_is_not_empty_in_its_one_form() {
    let expected = concat!(
        r#"{"Name":{"FirstName":"Ada"},"Address":{"City":"c","Latitude":"NaN"},"CreatedDate":"2026-02-17T04:03:15.000Z","#,
        r#""Due__c":"2022-05-31","At__c":"04:03:15.000Z","Topics__c":["A","B"],"Amount__c":3233,"Count":-7,"#,
        r#""CreatedDateAsNumber":9007199254740993,"IsClosed":false}"#
    );
    for change_type in ["CREATE", "UNDELETE"] {
        let payload = payload(change_type, RECORD, &Lists::default(), &full_body());
        let change = sample::writer_schema().decode(&payload, &FieldPolicies::default()).expect("decodes");
        assert_eq!(change.changed.as_str(), expected);
        assert!(change.enriched.is_empty() && change.unresolved.is_empty());
    }
}

#[test]
fn an_event_that_changes_no_field_has_empty_changes_and_keeps_what_was_enriched() {
    for change_type in
        ["DELETE", "GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_UNDELETE", "GAP_OVERFLOW", "SNAPSHOT", "ARCHIVE"]
    {
        let payload =
            payload(change_type, &["500000000000001AAA", "500*"], &Lists::default(), &[("Status", some("New"))]);
        let change = sample::writer_schema().decode(&payload, &FieldPolicies::default()).expect("decodes");
        let header = change.header.expect("a header");
        assert_eq!(header.change_type.as_str(), change_type);
        assert_eq!(header.change_type, ChangeType::from_symbol(change_type));
        assert_eq!(header.is_overflow(), change_type == "GAP_OVERFLOW");
        assert!(header.is_wildcard());
        assert_eq!(header.committed_at().map(|time| time.to_rfc3339()).as_deref(), Some("2026-02-17T04:03:15+00:00"));
        assert!(change.changed.is_empty());
        assert_eq!(change.enriched.as_str(), r#"{"Status":"New"}"#);
    }
}

#[test]
fn a_platform_event_has_no_header_and_shows_all_its_fields() {
    let json = json!({"type": "record", "name": "Order__e", "namespace": "com.sforce.eventbus", "fields": [
        {"name": "CreatedDate", "type": "long", "doc": "CreatedDate:DateTime"},
        {"name": "CreatedById", "type": "string", "doc": "CreatedBy:EntityId"},
        field("Text__c", json!("string"), "Data:Text:00N000000000005"),
        field("Empty__c", json!("string"), "Data:Text:00N000000000006"),
    ]});
    let schema = WriterSchema::parse(&json.to_string()).expect("a valid schema");
    assert!(!schema.carries_header());
    assert_eq!(schema.name(), "Order__e");
    let mut payload = vec![0xf0, 0xfe, 0xa1, 0x9c, 0x8d, 0x67, 0x06];
    payload.extend(b"005\x02\x02t\x00");
    let change = schema.decode(&payload, &FieldPolicies::default()).expect("decodes");
    assert_eq!(change.header, None);
    let all = r#"{"CreatedDate":"2026-02-17T04:03:15.000Z","CreatedById":"005","Text__c":"t","Empty__c":null}"#;
    assert_eq!(change.changed.as_str(), all);
    assert!(change.enriched.is_empty());
}

#[test]
fn an_event_that_does_not_fit_its_schema_is_an_error_that_names_the_field() {
    let bitmap = |list, fault| DecodeFault::Bitmap { list, fault };
    let cases = [
        (lists("0x4000", "", ""), "changedFields", bitmap(BitmapList::Changed, BitmapFault::NoSuchField(14))),
        (lists("", "2-0x01", ""), "nulledFields", bitmap(BitmapList::Nulled, BitmapFault::NotACompound(2))),
        (lists("", "", "Status"), "diffFields", bitmap(BitmapList::Diff, BitmapFault::Malformed)),
        (lists("0x01", "", ""), "changedFields", bitmap(BitmapList::Changed, BitmapFault::Header)),
        (lists("", "", "0x0400"), "Amount__c", DecodeFault::DiffOfNonText),
    ];
    let schema = sample::writer_schema();
    for (lists, field, fault) in cases {
        let payload = payload("UPDATE", RECORD, &lists, &[("Amount__c", some(1.5))]);
        let error = schema.decode(&payload, &FieldPolicies::default()).expect_err("does not fit");
        assert_eq!((error.field.as_deref(), &error.fault), (Some(field), &fault), "{lists:?}");
        assert!(error.offset <= payload.len() && error.to_string().contains(field), "{error}");
    }
    let outside = payload("CREATE", RECORD, &Lists::default(), &[("CreatedDate", some(i64::MAX))]);
    assert!(matches!(
        schema.decode(&outside, &FieldPolicies::default()).expect_err("no such year").fault,
        DecodeFault::Time(_)
    ));
    let nobody = payload("UPDATE", &[], &lists("0x04", "", ""), &[]);
    assert_eq!(
        schema.decode(&nobody, &FieldPolicies::default()).expect_err("reaches nobody").fault,
        DecodeFault::NoRecordIds
    );
}

#[test]
fn a_payload_is_read_to_its_last_byte_and_not_beyond() {
    let schema = sample::writer_schema();
    let payload = payload("CREATE", RECORD, &Lists::default(), &full_body());
    for length in 0..payload.len() {
        schema.decode(&payload[..length], &FieldPolicies::default()).expect_err("cut");
    }
    let error = schema.decode(&[payload.as_slice(), &[0, 0]].concat(), &FieldPolicies::default()).expect_err("longer");
    assert_eq!((error.fault, error.field), (DecodeFault::TrailingBytes(2), None));
}

#[test]
fn few_bytes_cannot_claim_many_values_or_much_text() {
    let with = |avro: serde_json::Value| {
        let json = json!({"type": "record", "name": "Bomb__e", "fields": [{"name": "f", "type": avro}]});
        WriterSchema::parse(&json.to_string()).expect("a valid schema")
    };
    let nulls = with(json!({"type": "array", "items": "null"}));
    let most = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert_eq!(nulls.decode(&most, &FieldPolicies::default()).expect_err("too many").fault, DecodeFault::TooManyValues);
    let itself = with(json!("Bomb__e"));
    assert_eq!(itself.decode(&[], &FieldPolicies::default()).expect_err("endless").fault, DecodeFault::TooDeep);
    let mut doubling = json!("null");
    for level in 0..40 {
        let first = json!({"name": "a", "type": doubling});
        let name = format!("R{level}");
        let inner = first["type"]["name"].as_str().map_or(json!("null"), |name| json!(name));
        doubling = json!({"type": "record", "name": name, "fields": [first, {"name": "b", "type": inner}]});
    }
    assert_eq!(
        with(doubling).decode(&[], &FieldPolicies::default()).expect_err("2^40 nulls").fault,
        DecodeFault::TooManyValues
    );
    let symbol = "S".repeat(10_000);
    let long = with(json!({"type": "array", "items": {"type": "enum", "name": "E", "symbols": [symbol]}}));
    let claimed = [&[0xc0, 0xb8, 0x02][..], &[0; 40_000]].concat();
    assert_eq!(long.decode(&claimed, &FieldPolicies::default()).expect_err("too long").fault, DecodeFault::TooLarge);
    let map = with(json!({"type": "map", "values": "int"}));
    assert_eq!(
        map.decode(&[4, 2, b'k', 2, 2, b'k', 2, 0], &FieldPolicies::default()).expect_err("twice").fault,
        DecodeFault::DuplicateKey
    );
}

#[test]
fn named_types_are_found_in_any_namespace_and_within_themselves() {
    let json = json!({"type": "record", "name": "List__e", "namespace": "com.sforce.eventbus", "fields": [
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "namespace": "", "symbols": ["A", "B"]}},
        {"name": "id", "type": {"type": "fixed", "name": "other.Id", "size": 2}},
        {"name": "head", "type": {"type": "record", "name": "Item", "fields": [
            {"name": "at", "type": "long", "doc": "Data:DateTime"},
            {"name": "id", "type": "other.Id"},
            {"name": "next", "type": ["null", "Item"]},
        ]}},
        {"name": "tail", "type": ["null", "com.sforce.eventbus.Item"]},
    ]});
    let schema = WriterSchema::parse(&json.to_string()).expect("a valid schema");
    let payload = [2, 0, 1, 2, 0, 3, 2, 4, 0, 5, 0, 0];
    let expected = concat!(
        r#"{"kind":"B","id":"AAE=","head":{"at":"1970-01-01T00:00:00.001Z","id":"AAM=","#,
        r#""next":{"at":"1970-01-01T00:00:00.002Z","id":"AAU=","next":null}},"tail":null}"#
    );
    assert_eq!(schema.decode(&payload, &FieldPolicies::default()).expect("decodes").changed.as_str(), expected);
    let deep: Vec<u8> = [2, 0, 1].into_iter().chain([2, 0, 3, 2].repeat(100)).collect();
    assert_eq!(
        schema.decode(&deep, &FieldPolicies::default()).expect_err("a hundred levels").fault,
        DecodeFault::TooDeep
    );
}

#[test]
fn logical_types_of_the_calendar_and_decimals_are_rendered_and_others_are_what_lies_beneath() {
    let types = [
        ("int", "date", 2, r#""1970-01-02""#),
        ("int", "time-millis", 2, r#""00:00:00.001Z""#),
        ("long", "time-micros", 2, r#""00:00:00.000001Z""#),
        ("long", "timestamp-millis", 2, r#""1970-01-01T00:00:00.001Z""#),
        ("long", "timestamp-micros", 2, r#""1970-01-01T00:00:00.000001Z""#),
        ("long", "local-timestamp-millis", 2, r#""1970-01-01T00:00:00.001""#),
        ("long", "some-company's-own", 2, "1"),
        ("string", "uuid", 0, "null"),
    ];
    for (avro, logical, byte, text) in types {
        let avro = json!({"type": avro, "logicalType": logical});
        let json = json!({"type": "record", "name": "Logical__e", "fields": [{"name": "f", "type": avro}]});
        let schema = WriterSchema::parse(&json.to_string()).expect("a valid schema");
        assert_eq!(
            schema.decode(&[byte], &FieldPolicies::default()).expect("decodes").changed.as_str(),
            format!(r#"{{"f":{text}}}"#),
            "{logical}"
        );
    }
    let price = json!({"type": "fixed", "name": "P", "size": 3, "logicalType": "decimal", "precision": 6, "scale": 2});
    let id = json!({"type": "fixed", "name": "U", "size": 1, "logicalType": "uuid"});
    let fields = [price, id, json!({"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1})];
    let fields: Vec<_> = (0..).zip(fields).map(|(at, avro)| json!({"name": format!("f{at}"), "type": avro})).collect();
    let json = json!({"type": "record", "name": "Logical__e", "fields": fields});
    let schema = WriterSchema::parse(&json.to_string()).expect("a valid schema");
    let changed = schema.decode(&[0xff, 0xff, 0x85, 0x07, 2, 15], &FieldPolicies::default()).expect("decodes").changed;
    assert_eq!(changed.as_str(), r#"{"f0":-1.23,"f1":"Bw==","f2":1.5}"#);
}

#[test]
fn a_schema_whose_header_is_not_the_known_one_is_refused() {
    let parse = |json: serde_json::Value| WriterSchema::parse(&json.to_string()).map(|schema| schema.carries_header());
    assert_eq!(parse(sample::schema_json()), Ok(true));
    let mut nullable = sample::schema_json();
    nullable["fields"][0]["type"] = json!(["null", nullable["fields"][0]["type"].clone()]);
    let mut second = sample::schema_json();
    second["fields"].as_array_mut().expect("fields").swap(0, 1);
    let mut missing = sample::schema_json();
    missing["fields"][0]["type"]["fields"].as_array_mut().expect("fields").remove(11);
    let mut retyped = sample::schema_json();
    retyped["fields"][0]["type"]["fields"][7]["type"] = json!("string");
    let mut text = sample::schema_json();
    text["fields"][0]["type"] = json!("string");
    for changed in [nullable, second, missing, retyped, text] {
        assert!(matches!(parse(changed), Err(SchemaError::Header { .. })));
    }
    let mut extended = sample::schema_json();
    let added = json!({"name": "tenant", "type": ["null", "string"]});
    extended["fields"][0]["type"]["fields"].as_array_mut().expect("fields").push(added);
    assert_eq!(parse(extended), Ok(true), "a header may grow");
    assert_eq!(parse(json!("string")), Err(SchemaError::NotARecord));
    assert!(matches!(WriterSchema::parse("{"), Err(SchemaError::Invalid(_))));
}

/// The 250 bytes in the documentation of a public client, with as many fields as that client's schema had.
#[test]
fn a_documented_payload_decodes_to_its_last_byte() {
    const PAYLOAD: &str = concat!(
        "0e4163636f756e740224303031344830303030324c62523751514156000268636f6d2f73616c6573666f7263652f6170692f",
        "736f61702f35352e303b636c69656e743d53666463496e7465726e616c4150492f4830303030633861302d363736362d3334",
        "31342d393439662d6465313035313962656537640290c2bbe5cb60e285b58ddf930524303035353830303030303079667944",
        "4141550000041030783430303030300c342d307830310000000002021c3132204d61696e2053747265657400000000000000",
        "00000000000000000000000000000000000000000290c2bbe5cb600000000000000000000000000000000000000000000000",
    );
    let text = |name: &str| field(name, json!("string"), "Data:Text");
    let components =
        "Street City State PostalCode Country StateCode CountryCode Latitude Longitude Xyz GeocodeAccuracy";
    let components: Vec<_> = components.split(' ').map(text).collect();
    let mut fields = vec![sample::header_schema()];
    fields.extend(["Name", "Type", "ParentId"].map(text));
    fields.push(field(
        "BillingAddress",
        json!({"type": "record", "name": "Address", "fields": components}),
        "Data:Address",
    ));
    fields.push(field("ShippingAddress", json!("Address"), "Data:Address"));
    fields.extend((6..=21).map(|at| text(&format!("F{at}"))));
    fields.push(field("LastModifiedDate", json!("long"), "Data:DateTime"));
    fields.extend((23..=45).map(|at| text(&format!("F{at}"))));
    let schema = json!({"type": "record", "name": "AccountChangeEvent", "fields": fields});
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    let payload: Vec<u8> = PAYLOAD.as_bytes().chunks(2).map(byte).collect();
    assert_eq!(payload.len(), 250);
    let change = WriterSchema::parse(&schema.to_string())
        .expect("a schema")
        .decode(&payload, &FieldPolicies::default())
        .expect("decodes");
    let header = change.header.expect("a header");
    assert_eq!(
        (header.entity.as_str(), header.record_ids.as_slice()),
        ("Account", &["0014H00002LbR7QQAV".to_owned()][..])
    );
    assert_eq!(header.change_origin, "com/salesforce/api/soap/55.0;client=SfdcInternalAPI/");
    assert_eq!(header.transaction_key, "0000c8a0-6766-3414-949f-de10519bee7d");
    assert_eq!((header.sequence_number, header.commit_number), (1, 11_334_298_542_449));
    assert_eq!((header.commit_timestamp, header.commit_user.as_str()), (1_659_440_165_000, "00558000000yfyDAAU"));
    let changed = r#"{"BillingAddress":{"Street":"12 Main Street"},"LastModifiedDate":"2022-08-02T11:36:05.000Z"}"#;
    assert_eq!(change.changed.as_str(), changed);
}

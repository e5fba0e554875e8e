//! The same record by event, by REST and by Bulk gives the same bytes, for every type of field that Salesforce has.

use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use super::sample::{field, header_schema, some};
use crate::change::{
    CsvPlan, FieldDescription, FieldKind, FieldPolicies, InvalidValue, ObjectDescription, Row, RowFault, RowPlan,
    WriterSchema,
};

/// A field as both sides describe it, with one value as both sides send it.
struct Sample {
    name: &'static str,
    /// Type and doc in the event schema.
    avro: Json,
    doc: &'static str,
    sent: Value,
    /// What describe shows: the field, or the compound and its flat components.
    described: Vec<Json>,
    /// Members of the row.
    row: Json,
    /// What a consumer reads.
    rendered: &'static str,
}

fn described(name: &str, kind: &str, compound: Option<&str>) -> Json {
    json!({"name": name, "type": kind, "compoundFieldName": compound})
}

/// A field without components.
fn plain(
    (name, kind): (&'static str, &'static str),
    (avro, doc): (&str, &'static str),
    sent: impl Into<Value>,
    row: Json,
    rendered: &'static str,
) -> Sample {
    Sample {
        name,
        avro: json!(avro),
        doc,
        sent: some(sent),
        described: vec![described(name, kind, None)],
        row: json!({ name: row }),
        rendered,
    }
}

fn record(fields: &[(&str, Value)]) -> Value {
    Value::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn null() -> Value {
    Value::Union(0, Box::new(Value::Null))
}

fn texts_and_numbers() -> Vec<Sample> {
    let long = "Line 1\r\n\"quoted\" \\ ümlaut \u{1}";
    vec![
        plain(
            ("OwnerId", "reference"),
            ("string", "ForeignKey:EntityId"),
            "005Dp000000PpjsIAC",
            json!("005Dp000000PpjsIAC"),
            "\"005Dp000000PpjsIAC\"",
        ),
        plain(
            ("ParentId", "id"),
            ("string", "ForeignKey:EntityId"),
            "00D8d00000AbCdEEAV",
            json!("00D8d00000AbCdE"),
            "\"00D8d00000AbCdEEAV\"",
        ),
        plain(
            ("Subject", "string"),
            ("string", "Data:Text"),
            long,
            json!(long),
            r#""Line 1\r\n\"quoted\" \\ ümlaut \u0001""#,
        ),
        plain(("Empty__c", "string"), ("string", "Data:Text"), "", json!(""), "null"),
        plain(("Nothing__c", "string"), ("string", "Data:Text"), "", Json::Null, "null"),
        plain(("Description", "textarea"), ("string", "Data:StringPlusClob"), "a\nb", json!("a\nb"), r#""a\nb""#),
        plain(("Status", "picklist"), ("string", "Data:DynamicEnum"), "New", json!("New"), r#""New""#),
        plain(("Combo__c", "combobox"), ("string", "Data:DynamicEnum"), "A;B", json!("A;B"), r#""A;B""#),
        plain(
            ("Topics__c", "multipicklist"),
            ("string", "Data:MultiEnum"),
            "Phone;Chat",
            json!("Phone;Chat"),
            r#"["Phone","Chat"]"#,
        ),
        plain(("None__c", "multipicklist"), ("string", "Data:MultiEnum"), "", Json::Null, "null"),
        plain(("SuppliedEmail", "email"), ("string", "Data:Email"), "a@b.c", json!("a@b.c"), r#""a@b.c""#),
        plain(("Phone", "phone"), ("string", "Data:Phone"), "+49 30", json!("+49 30"), r#""+49 30""#),
        plain(("Website", "url"), ("string", "Data:Url"), "http://x", json!("http://x"), r#""http://x""#),
        plain(("Pin__c", "encryptedstring"), ("string", "Data:EncryptedText"), "****1", json!("****1"), r#""****1""#),
        plain(("Body", "base64"), ("bytes", "Data:Blob"), b"hello".to_vec(), json!("aGVsbG8="), r#""aGVsbG8=""#),
        plain(("Anything__c", "anyType"), ("string", "Data:Text"), "true", json!("true"), r#""true""#),
        plain(("Counted__c", "anyType"), ("double", "Data:Double"), 12.0, json!(12.0), "12"),
        plain(("IsClosed", "boolean"), ("boolean", "Data:Boolean"), true, json!(true), "true"),
        plain(("IsOpen__c", "boolean"), ("boolean", "Data:Boolean"), false, json!(false), "false"),
        plain(("Count", "int"), ("int", "Data:Integer"), 12, json!(12), "12"),
        plain(("Whole__c", "int"), ("int", "Data:Integer"), -3, json!(-3.0), "-3"),
        plain(
            ("Big__c", "long"),
            ("long", "Data:Integer"),
            9_007_199_254_740_993_i64,
            json!(9_007_199_254_740_993_i64),
            "9007199254740993",
        ),
        plain(("Number__c", "double"), ("double", "Data:Double"), 37.793113, json!(37.793113), "37.793113"),
        plain(("Amount", "currency"), ("double", "Data:Currency"), 1500.0, json!(1500), "1500"),
        plain(("Cents__c", "currency"), ("double", "Data:Currency"), 0.1, json!(0.10), "0.1"),
        plain(("Rate__c", "percent"), ("double", "Data:Percent"), 1.5e-7, json!(1.5e-7), "1.5e-7"),
    ]
}

fn times_and_compounds() -> Vec<Sample> {
    let nullable = |name: &str, avro: &str| json!({"name": name, "type": ["null", avro], "default": null});
    let address = json!({"type": "record", "name": "Address", "fields": [
        nullable("Street", "string"), nullable("City", "string"), nullable("PostalCode", "string"),
        nullable("CountryCode", "string"), nullable("Latitude", "double"), nullable("GeocodeAccuracy", "string")]});
    let location = json!({"type": "record", "name": "Location", "fields": [nullable("Latitude", "double"), nullable("Longitude", "double")]});
    let person = json!({"type": "record", "name": "PersonName", "fields": [
        nullable("Salutation", "string"), nullable("FirstName", "string"), nullable("LastName", "string")]});
    let sent_address = [
        ("Street", some("Domkloster 4")),
        ("City", some("Köln")),
        ("PostalCode", some("50667")),
        ("CountryCode", null()),
        ("Latitude", some(50.0)),
        ("GeocodeAccuracy", null()),
    ];
    let parts = ["City", "Street", "PostalCode", "GeocodeAccuracy", "Latitude", "CountryCode"];
    let flat = |compound: &'static str| {
        let prefix = compound.trim_end_matches("Address");
        let part = move |part: &&str| described(&format!("{prefix}{part}"), "string", Some(compound));
        parts.iter().map(part).chain([described(compound, "address", None)]).collect::<Vec<_>>()
    };
    let nobody: Vec<_> = sent_address.iter().map(|(name, _)| (*name, null())).collect();
    vec![
        plain(
            ("CreatedDate", "datetime"),
            ("long", "CreatedDate:DateTime"),
            1_771_300_995_000_i64,
            json!("2026-02-17T04:03:15.000+0000"),
            "\"2026-02-17T04:03:15.000Z\"",
        ),
        plain(
            ("Due__c", "date"),
            ("long", "Data:DateOnly"),
            1_653_955_200_000_i64,
            json!("2022-05-31"),
            "\"2022-05-31\"",
        ),
        plain(
            ("At__c", "time"),
            ("long", "Data:TimeOnly"),
            14_595_007_i64,
            json!("04:03:15.007Z"),
            "\"04:03:15.007Z\"",
        ),
        Sample {
            name: "BillingAddress",
            avro: address,
            doc: "Data:Address",
            sent: some(record(&sent_address)),
            described: flat("BillingAddress"),
            row: json!({"BillingAddress": {"city": "Köln", "country": "Germany", "countryCode": null, "geocodeAccuracy": "",
                "latitude": 50.0, "longitude": 6.9, "postalCode": "50667", "state": null, "stateCode": null, "street": "Domkloster 4"}}),
            rendered: r#"{"Street":"Domkloster 4","City":"Köln","PostalCode":"50667","CountryCode":null,"Latitude":50,"GeocodeAccuracy":null}"#,
        },
        Sample {
            name: "ShippingAddress",
            avro: json!("Address"),
            doc: "Data:Address",
            sent: some(record(&nobody)),
            described: flat("ShippingAddress"),
            row: json!({"ShippingAddress": {"city": null, "street": null, "latitude": null}}),
            rendered: "null",
        },
        Sample {
            name: "Place__c",
            avro: location,
            doc: "Data:Location",
            sent: some(record(&[("Latitude", some(50.94)), ("Longitude", some(-6.0))])),
            described: vec![
                described("Place__c", "location", None),
                described("Place__Latitude__s", "double", Some("Place__c")),
                described("Place__Longitude__s", "double", Some("Place__c")),
            ],
            row: json!({"Place__c": {"latitude": 50.94, "longitude": -6.0}}),
            rendered: r#"{"Latitude":50.94,"Longitude":-6}"#,
        },
        Sample {
            name: "Name",
            avro: person,
            doc: "Data:PersonName",
            sent: some(record(&[("Salutation", null()), ("FirstName", some("Ada")), ("LastName", some("Lovelace"))])),
            described: vec![
                described("LastName", "string", Some("Name")),
                described("FirstName", "string", Some("Name")),
                described("Salutation", "picklist", Some("Name")),
                described("Name", "string", None),
            ],
            row: json!({"Name": "Ada Lovelace", "FirstName": "Ada", "LastName": "Lovelace", "Salutation": null}),
            rendered: r#"{"Salutation":null,"FirstName":"Ada","LastName":"Lovelace"}"#,
        },
    ]
}

/// The record as an update in which every field changed.
fn by_event(samples: &[Sample]) -> String {
    let fields = samples.iter().map(|sample| field(sample.name, sample.avro.clone(), sample.doc));
    let fields: Vec<_> = std::iter::once(header_schema()).chain(fields).collect();
    let json =
        json!({"type": "record", "name": "SampleChangeEvent", "namespace": "com.sforce.eventbus", "fields": fields});
    let bits = samples.iter().enumerate().fold(0_u128, |bits, (at, _)| bits | 1 << (at + 1));
    let empty = || Value::Array(Vec::new());
    let header = record(&[
        ("entityName", "Sample".into()),
        ("recordIds", Value::Array(vec!["500Dp00000JJkkHIAT".into()])),
        ("changeType", Value::Enum(1, "UPDATE".into())),
        ("changeOrigin", "".into()),
        ("transactionKey", "t".into()),
        ("sequenceNumber", 1.into()),
        ("commitTimestamp", 1_771_300_995_000_i64.into()),
        ("commitNumber", 1_i64.into()),
        ("commitUser", "005Dp000000PpjsIAC".into()),
        ("nulledFields", empty()),
        ("diffFields", empty()),
        ("changedFields", Value::Array(vec![format!("0x{bits:032X}").into()])),
    ]);
    let mut values = vec![("ChangeEventHeader".to_owned(), header)];
    values.extend(samples.iter().map(|sample| (sample.name.to_owned(), sample.sent.clone())));
    let schema = Schema::parse(&json).expect("a valid schema");
    let payload = apache_avro::to_avro_datum(&schema, Value::Record(values)).expect("encodes");
    let change = WriterSchema::parse(&json.to_string())
        .expect("a valid schema")
        .decode(&payload, &FieldPolicies::default())
        .expect("decodes");
    assert!(change.unresolved.is_empty());
    change.changed.into_string()
}

fn plan(fields: &[Json], chosen: impl Fn(&FieldDescription) -> bool) -> RowPlan {
    let required = [("Id", "id"), ("IsDeleted", "boolean"), ("SystemModstamp", "datetime")];
    let required = required.into_iter().map(|(name, kind)| described(name, kind, None));
    let fields: Vec<_> = required.chain(fields.iter().cloned()).collect();
    let answer = json!({"name": "Sample", "fields": fields}).to_string();
    RowPlan::new(
        &ObjectDescription::parse(answer.as_bytes()).expect("an answer of describe"),
        &FieldPolicies::default(),
        chosen,
    )
    .expect("a plan")
}

/// A row with these members.
fn row(members: impl IntoIterator<Item = Json>) -> String {
    let mut row = json!({"attributes": {"type": "Sample", "url": "/services/data/v66.0/sobjects/Sample/500"},
        "Id": "500Dp00000JJkkHIAT", "IsDeleted": false, "SystemModstamp": "2026-02-17T04:03:16.000+0000"});
    let all = row.as_object_mut().expect("an object");
    members.into_iter().for_each(|members| all.extend(members.as_object().expect("members").clone()));
    row.to_string()
}

const REQUIRED: [&str; 3] = ["Id", "IsDeleted", "SystemModstamp"];

#[test]
fn every_type_has_the_same_bytes_by_event_and_by_rest() {
    let samples: Vec<_> = texts_and_numbers().into_iter().chain(times_and_compounds()).collect();
    let described: Vec<_> = samples.iter().flat_map(|sample| sample.described.clone()).collect();
    let plan = plan(&described, |field| !REQUIRED.contains(&field.name.as_str()));
    let by_rest = plan.render(&row(samples.iter().map(|sample| sample.row.clone()))).expect("a row");
    let by_event = by_event(&samples);
    let members: Vec<_> = samples.iter().map(|sample| format!("\"{}\":{}", sample.name, sample.rendered)).collect();
    assert_eq!(by_event, format!("{{{}}}", members.join(",")), "the events' side says what the table says");
    assert_eq!(by_rest.record.as_str(), by_event);
    assert_eq!(by_rest.id, "500Dp00000JJkkHIAT");
    assert_eq!(by_rest.as_of.to_rfc3339(), "2026-02-17T04:03:16+00:00");
    // Flat components are asked for where the compound's value does not hold them, and only there.
    for (name, asked) in [("FirstName", true), ("BillingCity", false), ("Place__Latitude__s", false), ("Name", true)] {
        assert_eq!(plan.fields().iter().any(|field| field == name), asked, "{name}");
    }
}

/// A row as Bulk writes it: each value in quotes, a compound as its flat fields, nothing for null.
fn csv_of(plan: &CsvPlan, samples: &[Sample], row: &Json) -> String {
    let value = |column: &str| {
        let within = samples.iter().find_map(|sample| {
            let described = sample.described.iter().find(|field| field["name"] == column)?;
            let compound = described["compoundFieldName"].as_str().filter(|name| row[*name].is_object())?;
            let part = column.trim_end_matches("__s");
            let is_part = |(name, _): &(&String, &Json)| part.to_lowercase().ends_with(&name.to_lowercase());
            let members = row[compound].as_object()?.iter();
            members.filter(is_part).max_by_key(|(name, _)| name.len()).map(|(_, value)| value.clone())
        });
        match within.unwrap_or_else(|| row[column].clone()) {
            Json::Null => String::new(),
            Json::String(text) => text,
            other => other.to_string(),
        }
    };
    let mut csv = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
    csv.write_record(plan.columns()).expect("a header");
    csv.write_record(plan.columns().iter().map(|column| value(column))).expect("a row");
    String::from_utf8(csv.into_inner().expect("written")).expect("UTF-8")
}

fn by_csv(plan: &CsvPlan, csv: &str) -> Result<Row, RowFault> {
    let record = csv::Reader::from_reader(csv.as_bytes()).records().next().expect("a row").expect("CSV");
    plan.render(|column| record.get(column).expect("a cell"))
}

#[test]
fn every_type_that_csv_can_tell_has_the_same_bytes_by_event_and_by_bulk() {
    let samples: Vec<_> = texts_and_numbers().into_iter().chain(times_and_compounds()).collect();
    let chosen = |field: &FieldDescription| !REQUIRED.contains(&field.name.as_str());
    // What says itself what it is, and files, are for REST.
    for untold in ["Body", "Anything__c", "Counted__c"] {
        let only = samples.iter().filter(|sample| sample.name == untold).flat_map(|sample| sample.described.clone());
        assert_eq!(CsvPlan::new(Arc::new(plan(&only.collect::<Vec<_>>(), chosen))).map(drop), Err(untold.to_owned()));
    }
    let told: Vec<_> =
        samples.into_iter().filter(|sample| !["Body", "Anything__c", "Counted__c"].contains(&sample.name)).collect();
    let described: Vec<_> = told.iter().flat_map(|sample| sample.described.clone()).collect();
    let csv_plan = CsvPlan::new(Arc::new(plan(&described, chosen))).expect("all of it");
    for (name, asked) in
        [("BillingCity", true), ("BillingAddress", false), ("Place__Latitude__s", true), ("Name", true)]
    {
        assert_eq!(csv_plan.columns().iter().any(|column| column == name), asked, "{name}");
    }
    let full: Json = serde_json::from_str(&row(told.iter().map(|sample| sample.row.clone()))).expect("JSON");
    let csv = csv_of(&csv_plan, &told, &full);
    let by_bulk = by_csv(&csv_plan, &csv).expect("a row");
    assert_eq!(by_bulk.record.as_str(), by_event(&told));
    assert_eq!((by_bulk.id.as_str(), by_bulk.deleted), ("500Dp00000JJkkHIAT", false));
    assert_eq!(by_bulk.as_of.to_rfc3339(), "2026-02-17T04:03:16+00:00");
    for spelled in ["2026-02-17T04:03:15.000Z", "1771300995000"] {
        let other = csv.replace("2026-02-17T04:03:15.000+0000", spelled).replace("\"12\"", "\"12.0\"");
        assert_ne!(other, csv);
        assert_eq!(by_csv(&csv_plan, &other).expect("a row").record, by_bulk.record, "{spelled}");
    }
    let wrong = by_csv(&csv_plan, &csv.replace("\"12\"", "\"1.5\"")).expect_err("no whole number");
    assert_eq!(wrong, RowFault::Value { field: "Count".into(), fault: InvalidValue::Integer });
    let without_alone = [described_alone()];
    assert!(CsvPlan::new(Arc::new(plan(&without_alone, chosen))).is_err(), "an address without its flat fields");
}

/// A compound of which describe shows no component.
fn described_alone() -> Json {
    described("BillingAddress", "address", None)
}

#[test]
fn date_times_are_read_in_every_form_that_rest_soql_and_bulk_write() {
    let plan = plan(&[described("At", "datetime", None)], |field| field.kind == FieldKind::DateTime);
    for text in ["2026-02-17T04:03:15.000+0000", "2026-02-17T04:03:15.000Z", "2026-02-17T05:03:15.000+01:00"] {
        let row = plan.render(&row([json!({ "At": text })])).expect("a row");
        assert!(row.record.as_str().contains(r#""At":"2026-02-17T04:03:15.000Z""#), "{text}: {}", row.record.as_str());
    }
    let row = plan.render(&row([json!({"At": 1_771_300_995_000_i64})])).expect("a row");
    assert!(row.record.as_str().contains(r#""At":"2026-02-17T04:03:15.000Z""#));
}

#[test]
fn a_business_account_has_a_text_for_a_name_and_a_row_shows_what_was_chosen() {
    let fields = [
        described("FirstName", "string", Some("Name")),
        described("LastName", "string", Some("Name")),
        described("Name", "string", None),
        described("Secret__c", "string", None),
    ];
    let plan = plan(&fields, |field| field.name == "Name");
    assert_eq!(plan.fields(), ["FirstName", "LastName", "Name", "Id", "SystemModstamp", "IsDeleted"]);
    let members = json!({"Name": "ACME", "FirstName": null, "LastName": null, "Secret__c": "x"});
    let row = plan.render(&row([members])).expect("a row");
    assert_eq!(row.record.as_str(), r#"{"Name":"ACME"}"#);
}

#[test]
fn a_row_that_is_not_what_describe_says_is_refused_without_showing_its_values() {
    let fields = [
        described("Count", "int", None),
        described("Flag", "boolean", None),
        described("Day", "date", None),
        described("Home", "address", None),
        described("Rate", "percent", None),
    ];
    let plan = plan(&fields, |_| true);
    let value = |field: &str, fault| Err(RowFault::Value { field: field.into(), fault });
    for (members, expected) in [
        (json!({"Count": 1.5}), value("Count", InvalidValue::Integer)),
        (json!({"Count": "secret"}), value("Count", InvalidValue::Number)),
        (json!({"Count": 1e300}), value("Count", InvalidValue::Integer)),
        (json!({"Flag": "yes"}), value("Flag", InvalidValue::Boolean)),
        (json!({"Day": "31.05.2022"}), value("Day", InvalidValue::Time)),
        (json!({"Home": "Domkloster 4"}), value("Home", InvalidValue::NotACompound)),
        (json!({"Rate": "much"}), value("Rate", InvalidValue::Number)),
        (json!({"SystemModstamp": "9999-99-99"}), value("SystemModstamp", InvalidValue::Time)),
        (json!({"SystemModstamp": null}), Err(RowFault::Missing("SystemModstamp"))),
        (json!({"Id": null}), Err(RowFault::Missing("Id"))),
    ] {
        let read = plan.render(&row([members.clone()])).map(|_| ());
        assert_eq!(read, expected, "{members}");
        assert!(!format!("{:?}", read).contains("secret"));
    }
    for nonsense in ["", "[]", "7", "{", "{\"Id\":", "null", "{\"a\\u0062\":1}"] {
        assert!(plan.render(nonsense).is_err(), "{nonsense}");
    }
    let nameless = ObjectDescription { name: "X".into(), fields: Vec::new() };
    assert!(RowPlan::new(&nameless, &FieldPolicies::default(), |_| true).is_err(), "nothing tells how old a row is");
}

//! Describe: what an object and its fields are, as far as the user may see them.

use serde_json::{Value, json};

use crate::simulator::columns::{Column, Source};
use crate::simulator::objects::{Kind, Object};
use crate::simulator::schema::is_nullable;

/// The object as `GET /sobjects/` lists it.
pub(super) fn summary(object: &Object, version: &str) -> Value {
    let record = !object.is_platform_event();
    let base = format!("/services/data/{version}/sobjects/{}", object.name);
    json!({
        "name": object.name,
        "label": label(object.name),
        "labelPlural": format!("{}s", label(object.name)),
        "keyPrefix": (!object.prefix.is_empty()).then_some(object.prefix),
        "custom": object.name.contains("__"),
        "customSetting": false,
        "activateable": false,
        "createable": true,
        "deletable": record,
        "deprecatedAndHidden": false,
        "feedEnabled": false,
        "hasSubtypes": false,
        "isSubtype": false,
        "layoutable": record,
        "mergeable": object.name == "Case",
        "mruEnabled": record,
        "queryable": record,
        "replicateable": record,
        "retrieveable": record,
        "searchable": record,
        "triggerable": true,
        "undeletable": record,
        "updateable": record,
        "urls": {
            "sobject": base,
            "describe": format!("{base}/describe"),
            "rowTemplate": format!("{base}/{{ID}}"),
        },
    })
}

/// The object with the fields given, which are those that the user may see.
pub(super) fn describe(object: &Object, columns: &[Column], version: &str) -> Value {
    let mut described = summary(object, version);
    let fields: Vec<Value> = columns.iter().map(|column| field(object, column)).collect();
    if let Some(members) = described.as_object_mut() {
        members.insert("fields".to_owned(), Value::Array(fields));
        members.insert("childRelationships".to_owned(), json!([]));
        members.insert("recordTypeInfos".to_owned(), json!([]));
    }
    described
}

/// What the type of a field is, for describe.
struct Type {
    name: &'static str,
    soap: &'static str,
    /// The most characters; 0 for what is no text.
    length: u32,
    /// All digits of a double or integer, and those after the point.
    digits: (u32, u32),
}

fn type_of(column: &Column) -> Type {
    let of = |name, soap, length| Type { name, soap, length, digits: (0, 0) };
    let number = |name, digits| Type { name, soap: "xsd:double", length: 0, digits };
    match column.kind {
        _ if column.source == Source::Id => of("id", "tns:ID", 18),
        Kind::Reference(_) => of("reference", "tns:ID", 18),
        Kind::AutoNumber => of("string", "xsd:string", 30),
        Kind::Text if column.name.ends_with("__Street__s") => of("textarea", "xsd:string", 255),
        Kind::Text => of("string", "xsd:string", 255),
        Kind::LongText => of("textarea", "xsd:string", 32_000),
        Kind::RichText => of("textarea", "xsd:string", 32_768),
        Kind::Email => of("email", "xsd:string", 80),
        Kind::Url => of("url", "xsd:string", 255),
        Kind::Phone => of("phone", "xsd:string", 40),
        Kind::Picklist(_) | Kind::FixedPicklist(_) => of("picklist", "xsd:string", 255),
        Kind::MultiPicklist(_) => of("multipicklist", "xsd:string", 4_099),
        Kind::Checkbox => of("boolean", "xsd:boolean", 0),
        Kind::Integer => Type { digits: (9, 0), ..of("int", "xsd:int", 0) },
        Kind::Number if column.compound.is_some() => number("double", (18, 15)),
        Kind::Number => number("double", (18, 3)),
        Kind::Currency => number("currency", (18, 2)),
        Kind::Percent => number("percent", (18, 1)),
        Kind::DateTime | Kind::CreatedDate => of("datetime", "xsd:dateTime", 0),
        Kind::Date => of("date", "xsd:date", 0),
        Kind::Time => of("time", "xsd:time", 0),
        Kind::Address => of("address", "urn:address", 0),
        Kind::Location => of("location", "urn:location", 0),
    }
}

fn field(object: &Object, column: &Column) -> Value {
    let kind = type_of(column);
    let custom = column.name.ends_with("__c") || column.name.ends_with("__s");
    let writable = !matches!(column.source, Source::Id | Source::IsDeleted | Source::SystemModstamp | Source::Never)
        && !matches!(&*column.name, "CreatedDate" | "CreatedById" | "LastModifiedDate" | "LastModifiedById")
        && !matches!(column.kind, Kind::AutoNumber | Kind::Address | Kind::Location);
    let name_field = column.name == "Name" || (object.name == "Case" && column.name == "CaseNumber");
    let (referenced, relationship) = relation(object, column);
    let (values, restricted) = picklist(column.kind);
    let sorted = column.is_filterable();
    json!({
        "name": column.name,
        "label": label(&column.name),
        "type": kind.name,
        "soapType": kind.soap,
        "length": kind.length,
        "byteLength": kind.length * 3,
        "precision": if kind.name == "int" { 0 } else { kind.digits.0 },
        "digits": if kind.name == "int" { kind.digits.0 } else { 0 },
        "scale": kind.digits.1,
        "compoundFieldName": column.compound,
        "nillable": nillable(object, column),
        "custom": custom,
        "nameField": name_field,
        "idLookup": column.source == Source::Id,
        "autoNumber": column.kind == Kind::AutoNumber,
        "calculated": false,
        "calculatedFormula": null,
        "referenceTo": referenced,
        "relationshipName": relationship,
        "polymorphicForeignKey": column.name == "OwnerId",
        "picklistValues": values,
        "restrictedPicklist": restricted,
        "dependentPicklist": false,
        "controllerName": null,
        "htmlFormatted": column.kind == Kind::RichText,
        "createable": writable,
        "updateable": writable,
        "defaultValue": if column.kind == Kind::Checkbox { json!(false) } else { Value::Null },
        "defaultedOnCreate": !writable || column.kind == Kind::Checkbox,
        "permissionable": Column::can_be_hidden(&column.name) && column.source != Source::Never,
        "filterable": sorted,
        "sortable": sorted,
        "groupable": sorted && !matches!(kind.name, "datetime" | "double" | "currency" | "percent" | "multipicklist"),
        "aggregatable": sorted,
        "aiPredictionField": false,
        "cascadeDelete": false,
        "caseSensitive": false,
        "encrypted": false,
        "externalId": false,
        "unique": false,
    })
}

/// The values to pick from, and whether there can be no others.
fn picklist(kind: Kind) -> (Vec<Value>, bool) {
    let (values, restricted) = match kind {
        Kind::FixedPicklist(values) => (values, true),
        Kind::Picklist(values) | Kind::MultiPicklist(values) => (values, false),
        _ => ([].as_slice(), false),
    };
    let values = values.iter().map(
        |value| json!({ "active": true, "defaultValue": false, "label": value, "validFor": null, "value": value }),
    );
    (values.collect(), restricted)
}

fn nillable(object: &Object, column: &Column) -> bool {
    const ALWAYS_SET: [&str; 5] = ["CreatedDate", "CreatedById", "LastModifiedDate", "LastModifiedById", "OwnerId"];
    match column.source {
        Source::Id | Source::IsDeleted | Source::SystemModstamp => false,
        Source::Field(at) if object.fields.get(at).is_some_and(|field| !is_nullable(object, field)) => false,
        _ => {
            column.kind != Kind::Checkbox
                && column.kind != Kind::AutoNumber
                && !ALWAYS_SET.contains(&column.name.as_str())
        }
    }
}

/// The objects that a lookup can point to, and the name of the relationship.
fn relation(object: &Object, column: &Column) -> (Vec<&'static str>, Option<String>) {
    let Kind::Reference(prefix) = column.kind else { return (Vec::new(), None) };
    if column.source == Source::Id {
        return (Vec::new(), None);
    }
    let referenced = match prefix {
        "001" => "Account",
        "003" => "Contact",
        "005" => "User",
        "006" => "Opportunity",
        "00Q" => "Lead",
        "01m" => "BusinessHours",
        "02i" => "Asset",
        "02s" => "EmailMessage",
        "0Mj" => "MessagingChannel",
        "0PA" => "MessagingEndUser",
        "0dw" => "Conversation",
        "701" => "Campaign",
        "500" => "Case",
        _ => object.name,
    };
    let referenced = if column.name == "OwnerId" { vec!["Group", "User"] } else { vec![referenced] };
    let name = match column.name.strip_suffix("__c") {
        Some(custom) => format!("{custom}__r"),
        None => column.name.strip_suffix("Id").unwrap_or(&column.name).to_owned(),
    };
    (referenced, Some(name))
}

/// `MessagingEndUserId` as an administrator reads it: `Messaging End User ID`.
fn label(name: &str) -> String {
    let stem = name.trim_end_matches("__c").trim_end_matches("__e").trim_end_matches("__s").replace('_', " ");
    let mut label = String::new();
    for (at, letter) in stem.char_indices() {
        if at > 0 && letter.is_uppercase() && label.ends_with(|last: char| last.is_lowercase()) {
            label.push(' ');
        }
        label.push(letter);
    }
    match label.strip_suffix(" Id") {
        Some(stem) => format!("{stem} ID"),
        None => label,
    }
}

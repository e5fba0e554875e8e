//! What describe says of an object, reduced to what reading its records needs.
//!
//! Describe leaves out the fields that the user may not read, so its list is also the list of what may be asked for.

use serde::Deserialize;

/// An object as `/sobjects/<Object>/describe` shows it to the signed-in user.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ObjectDescription {
    /// The API name.
    pub name: String,
    /// In the order of describe, which is the order of the event schema too.
    pub fields: Vec<FieldDescription>,
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldDescription {
    /// The API name.
    pub name: String,
    /// What its values are.
    #[serde(rename = "type")]
    pub kind: FieldKind,
    /// The compound that this field is a component of: `BillingAddress` for `BillingStreet`.
    pub compound_field_name: Option<String>,
    /// Whether Salesforce works the value out when it is read. Such a value can change without the record's being changed.
    #[serde(default)]
    pub calculated: bool,
}

/// The type of a field, as far as values of it look different (REST API Developer Guide, "DescribeSObjectResult").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldKind {
    /// 15 or 18 characters.
    #[serde(alias = "reference")]
    Id,
    /// Every kind of text.
    #[serde(
        alias = "textarea",
        alias = "picklist",
        alias = "combobox",
        alias = "email",
        alias = "phone",
        alias = "url",
        alias = "encryptedstring"
    )]
    String,
    /// Values joined with `;`.
    MultiPicklist,
    /// A checkbox.
    Boolean,
    /// A whole number.
    #[serde(alias = "long")]
    Int,
    /// A decimal number.
    #[serde(alias = "currency", alias = "percent")]
    Double,
    /// A day.
    Date,
    /// A point in time.
    DateTime,
    /// A time of day.
    Time,
    /// An address, whose components are fields of their own as well.
    Address,
    /// A geolocation, whose components are fields of their own as well.
    Location,
    /// A file. Where a row is read, REST answers with the path of the content, not with the content.
    Base64,
    /// `anyType`, `complexvalue`, `json`, and what Salesforce may add: the value says what it is.
    #[serde(other)]
    Any,
}

impl ObjectDescription {
    /// Reads the answer of describe.
    ///
    /// # Errors
    /// When it is not one; the text names the member.
    pub fn parse(answer: &[u8]) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_slice(answer);
        serde_path_to_error::deserialize(&mut json).map_err(|error| error.to_string())
    }

    /// Whether the user may read a field of this name.
    pub fn shows(&self, field: &str) -> bool {
        self.fields.iter().any(|known| known.name == field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_type_is_read_and_one_of_tomorrow_too() {
        let kinds = [
            ("id", FieldKind::Id),
            ("reference", FieldKind::Id),
            ("string", FieldKind::String),
            ("textarea", FieldKind::String),
            ("picklist", FieldKind::String),
            ("multipicklist", FieldKind::MultiPicklist),
            ("combobox", FieldKind::String),
            ("boolean", FieldKind::Boolean),
            ("int", FieldKind::Int),
            ("long", FieldKind::Int),
            ("double", FieldKind::Double),
            ("currency", FieldKind::Double),
            ("percent", FieldKind::Double),
            ("date", FieldKind::Date),
            ("datetime", FieldKind::DateTime),
            ("time", FieldKind::Time),
            ("email", FieldKind::String),
            ("phone", FieldKind::String),
            ("url", FieldKind::String),
            ("address", FieldKind::Address),
            ("location", FieldKind::Location),
            ("base64", FieldKind::Base64),
            ("encryptedstring", FieldKind::String),
            ("anyType", FieldKind::Any),
            ("complexvalue", FieldKind::Any),
            ("json", FieldKind::Any),
            ("hologram", FieldKind::Any),
        ];
        for (name, kind) in kinds {
            let answer = serde_json::json!({"name": "Case", "label": "Case", "fields": [
                {"name": "F", "type": name, "compoundFieldName": null, "nillable": true, "soapType": "xsd:string"},
            ]});
            let object = ObjectDescription::parse(answer.to_string().as_bytes()).expect("an answer of describe");
            assert_eq!(object.fields[0].kind, kind, "{name}");
        }
        let error = ObjectDescription::parse(br#"{"name":"Case","fields":[{"name":7,"type":"id"}]}"#);
        assert!(error.expect_err("not a name").contains("fields[0].name"));
    }
}

//! `Organization`: the one row that says what the org is. It can be queried and has no change events.

use std::borrow::Cow;
use std::sync::Arc;

use crate::simulator::columns::{Column, Source};
use crate::simulator::objects::{Field, Kind, Object};
use crate::simulator::org::Org;
use crate::simulator::record_store::{RecordKey, Row, Snapshot};
use crate::simulator::value::Value;

/// The API name.
const NAME: &str = "Organization";

/// The fields after `Id`, a part of those that Salesforce has. Nobody hides them from a user.
const FIELDS: [(&str, Kind); 4] = [
    ("Name", Kind::Text),
    ("OrganizationType", Kind::FixedPicklist(&["Developer Edition", "Enterprise Edition", "Unlimited Edition"])),
    ("InstanceName", Kind::Text),
    ("IsSandbox", Kind::Checkbox),
];

/// The row and its columns, if the statement is about it.
pub(super) fn find(org: &Org, object: &str) -> Option<(Snapshot, Vec<Column>)> {
    if !object.eq_ignore_ascii_case(NAME) {
        return None;
    }
    let fields: Vec<Field> =
        FIELDS.iter().map(|(name, kind)| Field { name: Cow::Borrowed(*name), kind: *kind }).collect();
    let mut columns = vec![Column::new("Id", Kind::Reference("00D"), Source::Id)];
    columns
        .extend(fields.iter().enumerate().map(|(at, field)| Column::new(&field.name, field.kind, Source::Field(at))));
    let object = Object { name: NAME, prefix: "00D", fields, told: false, change_types: Vec::new() };
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    // The default allowances are those of this edition.
    let values = [text("Simulated"), text("Unlimited Edition"), text("SIM1"), Some(Value::Flag(false))];
    let key = RecordKey::parse(&org.settings.org_id)?;
    let rows = vec![(key, Row::new(org.now_millis(), false, &values))];
    Some((Snapshot { object: Arc::new(object), rows }, columns))
}

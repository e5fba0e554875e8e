//! `PermissionSetAssignment` and `ObjectPermissions`: what the user who signs in may do.
//!
//! One permission set gives the user "View All Records" on every object that it may read. An object with hidden
//! records is without it: sharing hides nothing from a user who has it. Conditions are as strict as the rest of SOQL, but only
//! with `=` and `IN`, which is what a client needs of these objects; no order, and no more than one batch.

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::records::json_answer;
use crate::simulator::org::Org;
use crate::simulator::record_id::record_id;
use crate::simulator::soql::parser::{Condition, Constant, Literal, Name, Operator, Statement};
use crate::simulator::soql::{self, QueryError};

/// The permission set of the user that signs in.
fn permission_set() -> String {
    record_id("0PS", 1)
}

/// The answer to a query of one of these objects; none if it is of another.
pub(super) fn answer(org: &Org, version: &str, soql: &str) -> Result<Option<Response>, QueryError> {
    let statement = soql::parse(soql)?;
    let (object, rows) = match statement.object.text.to_ascii_lowercase().as_str() {
        "permissionsetassignment" => ("PermissionSetAssignment", assignments(org)),
        "objectpermissions" => ("ObjectPermissions", object_permissions(org)),
        _ => return Ok(None),
    };
    rows_of(object, rows, &statement, version, soql).map(Some)
}

/// The answer to a query of rows that are made up for it.
pub(super) fn rows_of(
    object: &str,
    rows: Vec<Map<String, Value>>,
    statement: &Statement,
    version: &str,
    soql: &str,
) -> Result<Response, QueryError> {
    let Some(names) = &statement.fields else {
        return Err(QueryError::malformed(format!("COUNT() of {object} is not understood")));
    };
    if !statement.order.is_empty() {
        return Err(QueryError::malformed(format!("ORDER BY of {object} is not understood")));
    }
    let mut records = Vec::new();
    for row in rows {
        if statement.condition.as_ref().map_or(Ok(true), |condition| holds(soql, object, condition, &row))? {
            records.push(record(soql, object, version, names, &row)?);
        }
    }
    records.truncate(statement.limit.unwrap_or(usize::MAX));
    Ok(json_answer(&json!({ "totalSize": records.len(), "done": true, "records": records })))
}

fn assignments(org: &Org) -> Vec<Map<String, Value>> {
    vec![object(&[
        ("Id", json!(record_id("0Pa", 1))),
        ("AssigneeId", json!(org.user_id())),
        ("PermissionSetId", json!(permission_set())),
    ])]
}

fn object_permissions(org: &Org) -> Vec<Map<String, Value>> {
    let hidden = org.script.hidden_records();
    let objects = org.records.objects();
    let readable = objects.iter().filter(|one| !one.is_platform_event() && !org.script.is_denied(one.name));
    let row = |(number, one): (u64, &std::sync::Arc<crate::simulator::objects::Object>)| {
        let sees_all = !hidden.iter().any(|key| key.prefix() == one.prefix);
        object(&[
            ("Id", json!(record_id("110", number))),
            ("ParentId", json!(permission_set())),
            ("SobjectType", json!(one.name)),
            ("PermissionsRead", json!(true)),
            ("PermissionsViewAllRecords", json!(sees_all)),
        ])
    };
    (1..).zip(readable).map(row).collect()
}

pub(super) fn object(members: &[(&str, Value)]) -> Map<String, Value> {
    members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// The value of a field, which is named without regard to case.
fn cell<'a>(
    soql: &str,
    object: &str,
    name: &Name,
    row: &'a Map<String, Value>,
) -> Result<(&'a String, &'a Value), QueryError> {
    row.iter().find(|(field, _)| field.eq_ignore_ascii_case(&name.text)).ok_or_else(|| {
        let message = format!("No such column '{}' on entity '{object}'.", name.text);
        QueryError::at(soql, name.at, "INVALID_FIELD", &message)
    })
}

fn holds(soql: &str, object: &str, condition: &Condition, row: &Map<String, Value>) -> Result<bool, QueryError> {
    // Every part is looked at, so that a name that is none is found whatever stands before it.
    let each = |inner: &[Condition]| -> Result<Vec<bool>, QueryError> {
        inner.iter().map(|one| holds(soql, object, one, row)).collect()
    };
    Ok(match condition {
        Condition::All(inner) => each(inner)?.into_iter().all(|holds| holds),
        Condition::Any(inner) => each(inner)?.into_iter().any(|holds| holds),
        Condition::Compare { field, operator: Operator::Equal | Operator::In, literals } => {
            let (_, value) = cell(soql, object, field, row)?;
            let equal = literals.iter().map(|literal| equals(soql, field, literal, value));
            equal.collect::<Result<Vec<bool>, _>>()?.into_iter().any(|equal| equal)
        }
        Condition::Compare { field, .. } => {
            let message = format!("only = and IN are understood for {object}");
            return Err(QueryError::at(soql, field.at, "MALFORMED_QUERY", &message));
        }
    })
}

fn equals(soql: &str, field: &Name, literal: &Literal, value: &Value) -> Result<bool, QueryError> {
    match (&literal.value, value) {
        (Constant::Flag(flag), Value::Bool(value)) => Ok(flag == value),
        // Of an id the first fifteen characters tell; they are compared with regard to case.
        (Constant::Text(text), Value::String(value)) if field.text.to_ascii_lowercase().ends_with("id") => {
            Ok(text.get(..15).is_some_and(|text| value.get(..15) == Some(text)))
        }
        (Constant::Text(text), Value::String(value)) => Ok(text.eq_ignore_ascii_case(value)),
        _ => {
            let message = format!("value of filter criterion for field '{}' is of another type", field.text);
            Err(QueryError::at(soql, literal.at, "INVALID_FIELD", &message))
        }
    }
}

fn record(
    soql: &str,
    object: &str,
    version: &str,
    names: &[Name],
    row: &Map<String, Value>,
) -> Result<Value, QueryError> {
    let id = row.get("Id").and_then(Value::as_str).unwrap_or_default();
    let mut record = Map::new();
    let url = format!("/services/data/{version}/sobjects/{object}/{id}");
    record.insert("attributes".to_owned(), json!({ "type": object, "url": url }));
    for name in names {
        let (field, value) = cell(soql, object, name, row)?;
        record.insert(field.clone(), value.clone());
    }
    Ok(Value::Object(record))
}

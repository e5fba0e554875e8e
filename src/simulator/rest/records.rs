//! Describe, and records by their ids.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::record_json::RecordJson;
use super::{Refused, aside, describe as described};
use crate::simulator::columns::{Cells, Column};
use crate::simulator::objects::Object;
use crate::simulator::org::Org;
use crate::simulator::record_store::{RecordKey, Row};

/// The most ids in one call.
const MOST_IDS: usize = 2_000;

const JSON: &str = "application/json;charset=UTF-8";

/// `POST /composite/sobjects/Case`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    ids: Vec<String>,
    fields: Vec<String>,
}

/// An object that the user may read records of.
pub(super) struct Readable {
    pub(super) at: usize,
    pub(super) object: Arc<Object>,
    /// The fields that the user may see.
    pub(super) columns: Vec<Column>,
}

impl Readable {
    /// By the API name; `None` when there is none for the user.
    pub(super) fn find(org: &Org, entity: &str) -> Option<Self> {
        let (at, object) = org.records.find_object(entity)?;
        let readable = !org.script.is_denied(object.name);
        readable.then(|| Self { at, columns: org.visible_columns(&object), object })
    }

    /// By the API name, for what reads records by id.
    fn with_records(org: &Org, entity: &str) -> Result<Self, Refused> {
        Self::find(org, entity).filter(|found| !found.object.is_platform_event()).ok_or_else(Refused::not_found)
    }

    fn choose(&self, names: &[&str]) -> Result<Vec<&Column>, Refused> {
        let mut chosen: Vec<&Column> = Vec::with_capacity(names.len());
        for name in names {
            let found = self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
            let column = found.ok_or_else(|| {
                let message = format!("No such column '{name}' on sobject of type {}", self.object.name);
                Refused::bad("INVALID_FIELD", message)
            })?;
            if !chosen.iter().any(|known| known.name == column.name) {
                chosen.push(column);
            }
        }
        Ok(chosen)
    }

    fn json<'a>(&'a self, row: &'a (RecordKey, Row), version: &'a str, columns: &'a [&'a Column]) -> RecordJson<'a> {
        let cells = Cells::new(&self.object, &row.0, &row.1);
        RecordJson { cells, entity: self.object.name, version, columns }
    }
}

pub(super) async fn list(State(org): State<Arc<Org>>, Path(version): Path<String>) -> Json<Value> {
    let objects = org.records.objects();
    let visible = objects.iter().filter(|object| !org.script.is_denied(object.name));
    let summaries: Vec<Value> = visible.map(|object| described::summary(object, &version)).collect();
    Json(json!({ "encoding": "UTF-8", "maxBatchSize": 200, "sobjects": summaries }))
}

pub(super) async fn describe(
    State(org): State<Arc<Org>>,
    Path((version, entity)): Path<(String, String)>,
) -> Result<Json<Value>, Refused> {
    let found = Readable::find(&org, &entity).ok_or_else(Refused::not_found)?;
    Ok(Json(described::describe(&found.object, &found.columns, &version)))
}

/// `GET /sobjects/Case/500…?fields=A,B`; every field without the parameter.
pub(super) async fn one(
    State(org): State<Arc<Org>>,
    Path((version, entity, id)): Path<(String, String, String)>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Response, Refused> {
    let found = Readable::with_records(&org, &entity)?;
    let names = parameters.get("fields").map(|fields| split(fields));
    let columns = match &names {
        Some(names) => found.choose(names)?,
        None => found.columns.iter().collect(),
    };
    let key = RecordKey::parse(&id).filter(|key| key.prefix() == found.object.prefix);
    let row = org.records.get(found.at, &[key]).pop().flatten();
    let row = row.filter(|(key, _)| !org.script.is_hidden(*key)).ok_or_else(Refused::not_found)?;
    if row.1.deleted {
        return Err(Refused::new(StatusCode::NOT_FOUND, "ENTITY_IS_DELETED", "entity is deleted"));
    }
    Ok(json_answer(&found.json(&row, &version, &columns)))
}

/// `GET /composite/sobjects/Case?ids=…&fields=…`; as many ids as fit into the URI.
pub(super) async fn some_by_uri(
    State(org): State<Arc<Org>>,
    Path((version, entity)): Path<(String, String)>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Response, Refused> {
    let list = |name: &str| {
        let given = parameters.get(name).map(|list| split(list).into_iter().map(str::to_owned).collect());
        given.ok_or_else(|| Refused::bad("MISSING_ARGUMENT", format!("The '{name}' parameter is missing")))
    };
    let wanted = Wanted { ids: list("ids")?, fields: list("fields")? };
    aside(move || retrieve(&org, &version, &entity, &wanted)).await
}

pub(super) async fn some_by_body(
    State(org): State<Arc<Org>>,
    Path((version, entity)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refused> {
    let wanted: Wanted = json_body(&headers, &body)?;
    aside(move || retrieve(&org, &version, &entity, &wanted)).await
}

/// One slot for each id, in the order and as often as they were given; null for a record that is
/// not there, deleted, or not for the user's eyes, and for an id that is none.
fn retrieve(org: &Org, version: &str, entity: &str, wanted: &Wanted) -> Result<Response, Refused> {
    let found = Readable::with_records(org, entity)?;
    if wanted.ids.len() > MOST_IDS {
        let message = format!("record limit reached. cannot submit more than {MOST_IDS} records into this call");
        return Err(Refused::bad("EXCEEDED_ID_LIMIT", message));
    }
    let names: Vec<&str> = wanted.fields.iter().map(String::as_str).collect();
    let columns = found.choose(&names)?;
    let mut keys = Vec::with_capacity(wanted.ids.len());
    for id in &wanted.ids {
        let key = RecordKey::parse(id);
        if key.is_some_and(|key| key.prefix() != found.object.prefix) {
            let message = format!("{} ID: id value of incorrect type: {id}", found.object.name);
            return Err(Refused { fields: vec!["Id"], ..Refused::bad("MALFORMED_ID", message) });
        }
        keys.push(key);
    }
    let rows = org.records.get(found.at, &keys);
    let seen = |row: &&(RecordKey, Row)| !row.1.deleted && !org.script.is_hidden(row.0);
    let shape: Arc<str> = format!("{version} {}", wanted.fields.join(",")).into();
    let (mut answer, mut read) = ("[".to_owned(), 0);
    for slot in &rows {
        if answer.len() > 1 {
            answer.push(',');
        }
        let Some(row) = slot.as_ref().filter(seen) else {
            answer.push_str("null");
            continue;
        };
        read += 1;
        let json = || serde_json::to_string(&found.json(row, version, &columns));
        if let Err(error) = row.1.text.append(&shape, &mut answer, json) {
            return Ok(unwritable(&error));
        }
        if read == 1 {
            // Rows of one object are of about the same length.
            answer.reserve(answer.len().saturating_mul(rows.len()));
        }
    }
    answer.push(']');
    org.stats.count(|stats| stats.records_read += read);
    Ok(([(header::CONTENT_TYPE, JSON)], answer).into_response())
}

fn split(list: &str) -> Vec<&str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// Reads a JSON body, with the refusals of Salesforce for another content type and another form.
pub(super) fn json_body<T: for<'de> Deserialize<'de>>(headers: &HeaderMap, body: &Bytes) -> Result<T, Refused> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.split(';').next().map(str::trim) != Some("application/json") {
        let message = format!("Content type {content_type} not supported. Supported content types: application/json");
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message));
    }
    serde_json::from_slice(body).map_err(|error| Refused::bad("JSON_PARSER_ERROR", error.to_string()))
}

pub(super) fn json_answer(body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => ([(header::CONTENT_TYPE, JSON)], body).into_response(),
        Err(error) => unwritable(&error),
    }
}

fn unwritable(error: &serde_json::Error) -> Response {
    tracing::error!(error = %error, "an answer cannot be written");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

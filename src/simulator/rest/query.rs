//! SOQL over REST: `/query`, `/queryAll`, and the rest of an answer that is longer than a batch.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::{Path, Query as Parameters, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use tokio::time::Instant;

use super::record_json::RecordJson;
use super::records::{Readable, json_answer};
use super::{Refused, aside, organization, permissions};
use crate::simulator::columns::{self, Cells, Column};
use crate::simulator::objects::Object;
use crate::simulator::org::Org;
use crate::simulator::record_store::{RecordKey, Row, Snapshot};
use crate::simulator::soql::{self, Query, QueryError, Selected};

/// Rows in one answer: the most and the default, and the least that a client can ask for.
const MOST_ROWS: usize = 2_000;
const LEAST_ROWS: usize = 200;
/// Answers that are not fetched to their end; a further one takes the place of the oldest.
const MOST_CURSORS: usize = 10;

/// What a query found, of the moment it ran.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) object: Arc<Object>,
    pub(crate) query: Query,
    pub(crate) rows: Vec<(RecordKey, Row)>,
}

/// The answers of which clients have not read everything.
#[derive(Debug)]
pub(crate) struct Cursors {
    idle: Duration,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    made: u64,
    cursors: HashMap<String, (Arc<Found>, Instant)>,
    oldest: VecDeque<String>,
}

impl Cursors {
    /// Cursors that end when they are not used for so long.
    pub(crate) fn new(idle: Duration) -> Self {
        Self { idle, open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // The map and the queue may disagree after a panic; then a cursor is ended a little early or late.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, found: Arc<Found>) -> String {
        let mut open = self.open();
        open.made += 1;
        // Locators are ids of their own kind.
        let id = crate::simulator::record_id::record_id("01g", open.made);
        open.cursors.insert(id.clone(), (found, Instant::now()));
        open.oldest.push_back(id.clone());
        if open.oldest.len() > MOST_CURSORS
            && let Some(oldest) = open.oldest.pop_front()
        {
            open.cursors.remove(&oldest);
        }
        id
    }

    fn find(&self, id: &str) -> Option<Arc<Found>> {
        let mut open = self.open();
        let (found, used) = open.cursors.get_mut(id)?;
        if used.elapsed() >= self.idle {
            open.cursors.remove(id);
            open.oldest.retain(|known| known != id);
            return None;
        }
        *used = Instant::now();
        Some(Arc::clone(found))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Batch<'a> {
    total_size: usize,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_records_url: Option<String>,
    records: Vec<RecordJson<'a>>,
}

/// Runs a query for the user that signs in; `all` includes the recycle bin.
pub(super) fn find(org: &Org, soql: &str, all: bool) -> Result<Found, QueryError> {
    let statement = soql::parse(soql)?;
    let found = organization::find(org, &statement.object.text).or_else(|| records(org, &statement.object.text));
    let (snapshot, columns) = found.ok_or_else(|| soql::unsupported(soql, &statement.object))?;
    let query = soql::resolve(soql, &statement, &snapshot.object, columns)?;
    let hidden = org.script.hidden_records();
    let mut rows = snapshot.rows;
    rows.retain(|(key, row)| (all || !row.deleted) && !hidden.contains(key));
    let rows = query.run(&snapshot.object, rows);
    Ok(Found { object: snapshot.object, query, rows })
}

/// The records of an object that the user may read, and the fields of it.
fn records(org: &Org, object: &str) -> Option<(Snapshot, Vec<Column>)> {
    let readable = Readable::find(org, object).filter(|found| !found.object.is_platform_event())?;
    // The object may have changed since the fields were listed; what counts is the one the rows belong to.
    let snapshot = org.records.snapshot(readable.at)?;
    let mut columns = org.visible_columns(&snapshot.object);
    columns.extend(columns::through_lookups(&snapshot.object));
    Some((snapshot, columns))
}

pub(super) async fn query(
    State(org): State<Arc<Org>>,
    Path(version): Path<String>,
    Parameters(parameters): Parameters<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    run(org, version, parameters, headers, false).await
}

pub(super) async fn query_all(
    State(org): State<Arc<Org>>,
    Path(version): Path<String>,
    Parameters(parameters): Parameters<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    run(org, version, parameters, headers, true).await
}

async fn run(
    org: Arc<Org>,
    version: String,
    mut parameters: HashMap<String, String>,
    headers: HeaderMap,
    all: bool,
) -> Result<Response, Refused> {
    let size = batch_size(&headers);
    let soql =
        parameters.remove("q").ok_or_else(|| Refused::bad("MALFORMED_QUERY", "The query parameter 'q' is missing"))?;
    aside(move || match permissions::answer(&org, &version, &soql)? {
        Some(answer) => Ok(answer),
        None => Ok(answer(&org, &version, &Arc::new(find(&org, &soql, all)?), 0, None, size)),
    })
    .await
}

/// `GET /query/01g…-2000`. Also for what began with `/queryAll`, whose answers say `query/` too.
pub(super) async fn more(
    State(org): State<Arc<Org>>,
    Path((version, locator)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let size = batch_size(&headers);
    let place = locator.split_once('-').and_then(|(id, from)| Some((id.to_owned(), from.parse::<usize>().ok()?)));
    let cursor = place.and_then(|(id, from)| Some((org.cursors.find(&id)?, id, from)));
    let cursor = cursor.filter(|(found, _, from)| *from < found.rows.len());
    let (found, id, from) = cursor.ok_or_else(|| Refused::bad("INVALID_QUERY_LOCATOR", "invalid query locator"))?;
    aside(move || Ok(answer(&org, &version, &found, from, Some(id), size))).await
}

/// What `Sforce-Query-Options: batchSize=500` asks for, within what is possible.
fn batch_size(headers: &HeaderMap) -> usize {
    let options = headers.get("Sforce-Query-Options").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut pairs = options.split([',', ';']).filter_map(|option| option.trim().split_once('='));
    let wanted = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("batchSize"));
    let wanted = wanted.and_then(|(_, size)| size.trim().parse::<usize>().ok());
    wanted.unwrap_or(MOST_ROWS).clamp(LEAST_ROWS, MOST_ROWS)
}

fn answer(org: &Org, version: &str, found: &Arc<Found>, from: usize, id: Option<String>, size: usize) -> Response {
    let total_size = found.rows.len();
    let Selected::Columns(selected) = &found.query.selected else {
        return json_answer(&Batch { total_size, done: true, next_records_url: None, records: Vec::new() });
    };
    let columns: Vec<&Column> = selected.iter().filter_map(|at| found.query.columns.get(*at)).collect();
    let rows = found.rows.iter().skip(from).take(size);
    let records: Vec<RecordJson<'_>> = rows
        .map(|(key, row)| RecordJson {
            cells: Cells::new(&found.object, key, row),
            entity: found.object.name,
            version,
            columns: &columns,
        })
        .collect();
    let next = from + records.len();
    let read = records.len() as u64;
    org.stats.count(|stats| stats.records_read += read);
    let next_records_url = (next < total_size).then(|| {
        let id = id.unwrap_or_else(|| org.cursors.keep(Arc::clone(found)));
        format!("/services/data/{version}/query/{id}-{next}")
    });
    json_answer(&Batch { total_size, done: next_records_url.is_none(), next_records_url, records })
}

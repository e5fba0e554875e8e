//! The query jobs of the Bulk API 2.0: `/jobs/query`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query as Parameters, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::records::json_body;
use super::{Refused, aside, query, record_csv, record_json};
use crate::simulator::bulk_jobs::{self, Dialect, Job};
use crate::simulator::columns::Column;
use crate::simulator::objects::Kind;
use crate::simulator::org::Org;
use crate::simulator::soql::{Query, Selected};

/// `POST /jobs/query`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewJob {
    operation: Operation,
    query: String,
    #[serde(default)]
    content_type: ContentType,
    #[serde(default)]
    column_delimiter: Delimiter,
    #[serde(default)]
    line_ending: LineEnding,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Operation {
    Query,
    QueryAll,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ContentType {
    #[default]
    Csv,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Delimiter {
    Backquote,
    Caret,
    #[default]
    Comma,
    Pipe,
    Semicolon,
    Tab,
}

const DELIMITERS: [(&str, u8); 6] =
    [("BACKQUOTE", b'`'), ("CARET", b'^'), ("COMMA", b','), ("PIPE", b'|'), ("SEMICOLON", b';'), ("TAB", b'\t')];

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum LineEnding {
    #[default]
    Lf,
    Crlf,
}

/// `PATCH /jobs/query/750…`; there is one thing to say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    #[serde(rename = "state")]
    _state: Wanted,
}

#[derive(Debug, Deserialize)]
enum Wanted {
    Aborted,
}

pub(super) async fn create(
    State(org): State<Arc<Org>>,
    Path(version): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let wanted: NewJob = json_body(&headers, &body)?;
    let ContentType::Csv = wanted.content_type;
    let (delimiter, carriage_return) = (wanted.column_delimiter as usize, wanted.line_ending == LineEnding::Crlf);
    let dialect = Dialect { delimiter: DELIMITERS[delimiter].1, carriage_return };
    let all = matches!(wanted.operation, Operation::QueryAll);
    let created = org.now_millis();
    aside(move || {
        let found = query::find(&org, &wanted.query, all)?;
        refuse_unsupported(&found.query)?;
        let fails = org.script.failed_bulk();
        let job = org.bulk.create(|id| Job {
            id,
            all,
            entity: found.object.name,
            version,
            dialect,
            created,
            fails,
            found,
            since: Instant::now(),
            aborted: AtomicBool::new(false),
        });
        let (allowed, _) = org.bulk.allowance();
        let job = job.ok_or_else(|| {
            let message = format!("Max bulk v2 query jobs ({allowed}) per 24 hrs has been reached");
            Refused::bad("LIMIT_EXCEEDED", message)
        })?;
        org.stats.count(|stats| stats.bulk_jobs = org.bulk.count());
        Ok(Json(Value::Object(summary(&org, &job, bulk_jobs::State::UploadComplete))))
    })
    .await
}

/// What SOQL can and Bulk cannot.
fn refuse_unsupported(query: &Query) -> Result<(), Refused> {
    let Selected::Columns(selected) = &query.selected else {
        return Err(Refused::bad("API_ERROR", "Selecting aggregate data not supported in Bulk Query"));
    };
    let mut columns = selected.iter().filter_map(|at| query.columns.get(*at));
    if columns.any(|column| matches!(column.kind, Kind::Address | Kind::Location)) {
        let message = "Selecting compound data not supported in Bulk Query";
        return Err(Refused::bad("FUNCTIONALITY_NOT_ENABLED", message));
    }
    Ok(())
}

fn summary(org: &Org, job: &Job, state: bulk_jobs::State) -> serde_json::Map<String, Value> {
    let delimiter =
        DELIMITERS.iter().find(|(_, byte)| *byte == job.dialect.delimiter).map_or("COMMA", |(name, _)| name);
    let version: f64 = job.version.trim_start_matches('v').parse().unwrap_or_default();
    let members = [
        ("id", json!(job.id)),
        ("operation", json!(if job.all { "queryAll" } else { "query" })),
        ("object", json!(job.entity)),
        ("createdById", json!(org.user_id())),
        ("createdDate", json!(record_json::date_time(job.created))),
        ("systemModstamp", json!(record_json::date_time(job.created))),
        ("state", json!(state)),
        ("concurrencyMode", json!("Parallel")),
        ("contentType", json!("CSV")),
        ("apiVersion", json!(version)),
        ("lineEnding", json!(if job.dialect.carriage_return { "CRLF" } else { "LF" })),
        ("columnDelimiter", json!(delimiter)),
    ];
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn find(org: &Org, id: &str) -> Result<Arc<Job>, Refused> {
    org.bulk.find(id).ok_or_else(Refused::not_found)
}

pub(super) async fn status(
    State(org): State<Arc<Org>>,
    Path((_, id)): Path<(String, String)>,
) -> Result<Json<Value>, Refused> {
    let job = find(&org, &id)?;
    let state = org.bulk.state(&job);
    let mut members = summary(&org, &job, state);
    let complete = state == bulk_jobs::State::JobComplete;
    let whole = job.found.query.order.is_empty() && job.found.query.limit.is_none();
    let spent = if state == bulk_jobs::State::UploadComplete { 0 } else { job.since.elapsed().as_millis() };
    for (name, value) in [
        ("jobType", json!("V2Query")),
        ("numberRecordsProcessed", json!(if complete { job.found.rows.len() } else { 0 })),
        ("retries", json!(0)),
        ("totalProcessingTime", json!(u64::try_from(spent).unwrap_or(u64::MAX))),
        ("isPkChunkingSupported", json!(whole)),
    ] {
        members.insert(name.to_owned(), value);
    }
    if state == bulk_jobs::State::Failed {
        members.insert("errorMessage".to_owned(), json!(job.fails));
    }
    Ok(Json(Value::Object(members)))
}

pub(super) async fn results(
    State(org): State<Arc<Org>>,
    Path((version, id)): Path<(String, String)>,
    Parameters(parameters): Parameters<HashMap<String, String>>,
) -> Result<Response, Refused> {
    let job = complete(&org, &version, &id)?;
    let size = match parameters.get("maxRecords") {
        Some(size) => size.parse().ok().filter(|size| *size > 0).ok_or_else(|| invalid("maxRecords"))?,
        None => org.settings.rest.bulk_page_rows.max(1),
    };
    let from = start_of(&job, &parameters)?;
    let download = Download::begin(&org);
    let (head, rows) = aside(move || page(&org, &job, from, size)).await?;
    Ok((head, download.body(rows)).into_response())
}

/// A result that is being sent, from its call to its last byte.
struct Download(Arc<Org>);

impl Download {
    fn begin(org: &Arc<Org>) -> Self {
        org.stats.count(|stats| {
            stats.bulk_downloads += 1;
            stats.bulk_downloads_most = stats.bulk_downloads_most.max(stats.bulk_downloads);
        });
        Self(Arc::clone(org))
    }

    /// The same body, once it may be sent.
    fn body(self, rows: Bytes) -> Body {
        let sent = stream::unfold((self, Some(rows)), |(download, rows)| async move {
            let rows = rows?;
            download.0.bulk.results_flow().await;
            Some((Ok::<_, Infallible>(rows), (download, None)))
        });
        Body::from_stream(sent.fuse())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.0.stats.count(|stats| stats.bulk_downloads = stats.bulk_downloads.saturating_sub(1));
    }
}

/// `GET …/resultPages`: where the next pages are, at most five of them, so that they can be fetched side by side.
pub(super) async fn result_pages(
    State(org): State<Arc<Org>>,
    Path((version, id)): Path<(String, String)>,
    Parameters(parameters): Parameters<HashMap<String, String>>,
) -> Result<Json<Value>, Refused> {
    let job = complete(&org, &version, &id)?;
    let size = org.settings.rest.bulk_page_rows.max(1);
    let base = format!("/services/data/{version}/jobs/query/{id}");
    let mut starts = (start_of(&job, &parameters)?..job.found.rows.len().max(1)).step_by(size);
    let pages: Vec<Value> = starts
        .by_ref()
        .take(5)
        .map(|from| json!({ "resultUrl": format!("{base}/results?locator={}&maxRecords={size}", locator(from)) }))
        .collect();
    let next = starts.next().map(|from| format!("{base}/resultPages?locator={}", locator(from)));
    Ok(Json(json!({ "resultPages": pages, "done": next.is_none(), "nextRecordsUrl": next })))
}

/// A job whose results can be fetched under this version.
fn complete(org: &Org, version: &str, id: &str) -> Result<Arc<Job>, Refused> {
    let job = find(org, id)?;
    if job.version != version {
        let message = "The API version of the request is not the one that the job was created with";
        return Err(Refused::new(StatusCode::CONFLICT, "API_ERROR", message));
    }
    if org.bulk.state(&job) != bulk_jobs::State::JobComplete {
        return Err(Refused::bad("INVALIDJOBSTATE", "The job has no results in its state"));
    }
    Ok(job)
}

fn invalid(what: &str) -> Refused {
    Refused::bad("API_ERROR", format!("The {what} of the request is not valid"))
}

/// The row that a request begins with.
fn start_of(job: &Job, parameters: &HashMap<String, String>) -> Result<usize, Refused> {
    let Some(locator) = parameters.get("locator") else { return Ok(0) };
    place(locator).filter(|from| *from < job.found.rows.len().max(1)).ok_or_else(|| invalid("locator"))
}

fn locator(row: usize) -> String {
    STANDARD_NO_PAD.encode(row.to_string())
}

/// The row that a locator leads to. Locators are opaque; these are the number of the row in base64.
fn place(locator: &str) -> Option<usize> {
    String::from_utf8(STANDARD_NO_PAD.decode(locator).ok()?).ok()?.parse().ok()
}

fn page(org: &Org, job: &Job, from: usize, size: usize) -> Result<(HeaderMap, Bytes), Refused> {
    let found = &job.found;
    let to = from.saturating_add(size).min(found.rows.len());
    let rows = found.rows.get(from..to).unwrap_or_default();
    let selected = match &found.query.selected {
        Selected::Columns(selected) => selected.as_slice(),
        Selected::Count => &[],
    };
    let columns: Vec<&Column> = selected.iter().filter_map(|at| found.query.columns.get(*at)).collect();
    let page = record_csv::page(&found.object, &columns, rows, job.dialect, org.settings.rest.bulk_date_time);
    let page = page.map_err(|error| {
        Refused::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN_EXCEPTION",
            format!("An unexpected error occurred: {error}"),
        )
    })?;
    let read = rows.len() as u64;
    org.stats.count(|stats| stats.records_read += read);
    let locator = if to < found.rows.len() { locator(to) } else { "null".to_owned() };
    let mut head = HeaderMap::new();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/csv"));
    head.insert("Sforce-NumberOfRecords", HeaderValue::from(read));
    if let Ok(locator) = HeaderValue::from_str(&locator) {
        head.insert("Sforce-Locator", locator);
    }
    Ok((head, Bytes::from(page)))
}

pub(super) async fn abort(
    State(org): State<Arc<Org>>,
    Path((_, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let _: Patch = json_body(&headers, &body)?;
    let job = find(&org, &id)?;
    if org.bulk.state(&job).is_over() {
        return Err(Refused::bad("INVALIDJOBSTATE", "A job that is over cannot be aborted"));
    }
    job.aborted.store(true, Ordering::Relaxed);
    Ok(Json(Value::Object(summary(&org, &job, bulk_jobs::State::Aborted))))
}

pub(super) async fn delete(
    State(org): State<Arc<Org>>,
    Path((_, id)): Path<(String, String)>,
) -> Result<StatusCode, Refused> {
    let job = find(&org, &id)?;
    if !org.bulk.state(&job).is_over() {
        return Err(Refused::bad("INVALIDJOBSTATE", "A job that is not over cannot be deleted"));
    }
    org.bulk.remove(&id);
    org.stats.count(|stats| stats.bulk_jobs = org.bulk.count());
    Ok(StatusCode::NO_CONTENT)
}

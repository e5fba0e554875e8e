//! The REST API of the instance, as far as a subscriber needs it, and the router of
//! everything that is answered over HTTP.
//!
//! | file | holds |
//! |---|---|
//! | `records` | describe, and records by their ids |
//! | `query` | SOQL over `/query` and `/queryAll`, and what is left of long answers |
//! | `conversation` | the entries of conversations over Connect |
//! | `conversation_data` | the same over the Conversation Data API |
//! | `permissions` | what the user may do, by the objects that say so |
//! | `bulk` | the query jobs of the Bulk API 2.0 |
//! | `organization` | the one row of `Organization` |
//! | `describe`, `record_json`, `record_csv` | how objects and records are written |
//! | `row_text` | rows as they were written last |

mod bulk;
mod conversation;
mod conversation_data;
mod describe;
mod organization;
mod permissions;
mod query;
mod record_csv;
mod record_json;
mod records;
mod row_text;
mod tooling;

pub(crate) use query::{Cursors, Found};
pub(crate) use row_text::RowText;

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::DateTime;
use serde::Serialize;
use serde_json::{Value, json};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use crate::simulator::faults::RestFailure;
use crate::simulator::oauth;
use crate::simulator::org::Org;
use crate::simulator::soql::QueryError;

/// The longest URI with its headers, in bytes.
const LONGEST_HEAD: usize = 16_384;
const VERSIONS: [(&str, &str); 4] =
    [("Summer '25", "64.0"), ("Winter '26", "65.0"), ("Spring '26", "66.0"), ("Summer '26", "67.0")];

/// A REST error: an array of one object, the message first, as Salesforce writes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refused {
    #[serde(skip)]
    status: StatusCode,
    message: Cow<'static, str>,
    error_code: Cow<'static, str>,
    /// The fields that are at fault, where Salesforce says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<&'static str>,
}

impl Refused {
    pub(crate) fn new(
        status: StatusCode,
        error_code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, message: message.into(), error_code: error_code.into(), fields: Vec::new() }
    }

    fn bad(error_code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error_code, message)
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "The requested resource does not exist")
    }
}

impl From<QueryError> for Refused {
    fn from(error: QueryError) -> Self {
        Self::bad(error.code, error.message)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json([self])).into_response()
    }
}

/// Everything on the login and instance hosts.
pub(crate) fn router(org: Arc<Org>) -> Router {
    let instance = Router::new()
        .route("/services/data/{version}/limits", get(limits))
        .route("/services/data/{version}/sobjects", get(records::list))
        .route("/services/data/{version}/sobjects/", get(records::list))
        .route("/services/data/{version}/sobjects/{entity}/describe", get(records::describe))
        .route("/services/data/{version}/sobjects/{entity}/{id}", get(records::one))
        .route(
            "/services/data/{version}/composite/sobjects/{entity}",
            get(records::some_by_uri).post(records::some_by_body),
        )
        .route("/services/data/{version}/query", get(query::query))
        .route("/services/data/{version}/query/", get(query::query))
        .route("/services/data/{version}/queryAll", get(query::query_all))
        .route("/services/data/{version}/queryAll/", get(query::query_all))
        .route("/services/data/{version}/query/{locator}", get(query::more))
        .route("/services/data/{version}/queryAll/{locator}", get(query::more))
        .route("/services/data/{version}/tooling/query", get(tooling::query))
        .route("/services/data/{version}/tooling/query/", get(tooling::query))
        .route("/services/data/{version}/jobs/query", post(bulk::create))
        .route("/services/data/{version}/jobs/query/", post(bulk::create))
        .route("/services/data/{version}/jobs/query/{id}", get(bulk::status).patch(bulk::abort).delete(bulk::delete))
        .route("/services/data/{version}/jobs/query/{id}/results", get(bulk::results))
        .route("/services/data/{version}/jobs/query/{id}/resultPages", get(bulk::result_pages))
        .route(
            "/services/data/{version}/connect/conversation/{identifier}/entries",
            get(conversation::entries).patch(conversation::redact),
        )
        .route_layer(middleware::from_fn_with_state(Arc::clone(&org), session));
    Router::new()
        .route("/services/oauth2/token", post(oauth::token))
        .route("/services/oauth2/userinfo", get(oauth::userinfo).post(oauth::userinfo))
        .route("/services/oauth2/revoke", post(oauth::revoke))
        .route("/services/data", get(versions))
        .route("/services/data/", get(versions))
        .route("/platform/engagement/v1.0/conversation-entries", get(conversation_data::entries))
        .merge(instance)
        .fallback(|| async { Refused::not_found() })
        .method_not_allowed_fallback(not_allowed)
        // What Salesforce spends on it is no concern of whoever is measured beside it on the same processors.
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).gzip(org.settings.rest.compress))
        .layer(middleware::from_fn_with_state(Arc::clone(&org), edge))
        .with_state(org)
}

/// The token of an `Authorization: Bearer` header.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// What happens to every answer: scripted outages first, the org's own clock in the `Date` header last.
async fn edge(State(org): State<Arc<Org>>, request: Request, next: Next) -> Response {
    if let Some(delay) = org.script.delayed_http(request.uri().path()) {
        tokio::time::sleep(delay).await;
    }
    let mut response = match org.script.failed_http() {
        Some(status) => maintenance(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)),
        None => match too_long(&request) {
            Some(refused) => refused,
            None => next.run(request).await,
        },
    };
    let date = DateTime::from_timestamp_millis(org.now_millis()).unwrap_or_default();
    if let Ok(date) = HeaderValue::from_str(&date.format("%a, %d %b %Y %H:%M:%S GMT").to_string()) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

fn maintenance(status: StatusCode) -> Response {
    let page = "<html><head><title>We are down for maintenance.</title></head><body>Try again later.</body></html>";
    (status, Html(page)).into_response()
}

/// An answer as it was ordered: an error in JSON, or the page of a server in front of the API.
fn failed(failure: RestFailure) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = if failure.error_code.is_empty() {
        maintenance(status)
    } else {
        Refused::new(status, failure.error_code, failure.message).into_response()
    };
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The refusal of a URI, or of a URI with its headers, that is too long. The server in front of the API says it, in HTML.
fn too_long(request: &Request) -> Option<Response> {
    let uri = request.uri().path_and_query().map_or(0, |uri| uri.as_str().len());
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let (status, reason) = match (uri > LONGEST_HEAD, uri + headers > LONGEST_HEAD) {
        (true, _) => (StatusCode::URI_TOO_LONG, "URI Too Long"),
        (_, true) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Request Header Fields Too Large"),
        _ => return None,
    };
    let page = format!("<h1>Bad Message {}</h1><pre>reason: {reason}</pre>", status.as_u16());
    Some((status, Html(page)).into_response())
}

/// Lets only calls with a good token, of a version that is served and within the day's requests through,
/// and tells how many of these are used.
async fn session(State(org): State<Arc<Org>>, request: Request, next: Next) -> Response {
    let resource = resource(&request);
    org.stats.count(|stats| {
        stats.rest_calls += 1;
        *stats.api_calls.entry(resource.to_owned()).or_default() += 1;
    });
    if !bearer(request.headers()).is_some_and(|token| org.sessions.check(token)) {
        return Refused::new(StatusCode::UNAUTHORIZED, "INVALID_SESSION_ID", "Session expired or invalid")
            .into_response();
    }
    let failure = org.script.failed_rest(request.uri().path());
    let unreached = failure.as_ref().is_some_and(|one| one.error_code.is_empty() || one.status == 401);
    let mut response = if let Some(failure) = failure {
        failed(failure)
    } else if !is_served(request.uri().path()) {
        Refused::not_found().into_response()
    } else if org.api_allowance.take() {
        next.run(request).await
    } else {
        Refused::new(StatusCode::FORBIDDEN, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.").into_response()
    };
    // An HTML page comes from a server in front of the API, and a session that is over has no allowance.
    if unreached {
        return response;
    }
    let (used, allowed) = (org.api_allowance.used(), org.api_allowance.allowed());
    if let Ok(usage) = HeaderValue::from_str(&format!("api-usage={used}/{allowed}")) {
        response.headers_mut().insert("Sforce-Limit-Info", usage);
    }
    response
}

/// The resource of a call, for the counters.
fn resource(request: &Request) -> &'static str {
    let matched = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let path = matched.strip_prefix("/services/data/{version}/").unwrap_or_default().trim_end_matches('/');
    match path {
        "limits" => "limits",
        "sobjects" => "sobjects",
        "sobjects/{entity}/describe" => "describe",
        "sobjects/{entity}/{id}" => "record",
        "composite/sobjects/{entity}" => "retrieve",
        "query" => "query",
        "queryAll" => "query-all",
        "query/{locator}" | "queryAll/{locator}" => "query-more",
        "jobs/query" => "bulk-create",
        "jobs/query/{id}" => match *request.method() {
            Method::PATCH => "bulk-abort",
            Method::DELETE => "bulk-delete",
            _ => "bulk-status",
        },
        "jobs/query/{id}/results" => "bulk-results",
        "jobs/query/{id}/resultPages" => "bulk-pages",
        "connect/conversation/{identifier}/entries" => "conversation-entries",
        _ => "other",
    }
}

/// Whether the version in the path is one of those that the org has.
fn is_served(path: &str) -> bool {
    let version = path.strip_prefix("/services/data/v").and_then(|rest| rest.split('/').next());
    VERSIONS.iter().any(|(_, known)| version == Some(known))
}

/// Runs what reads many records off the workers of the runtime.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        let message = "An unexpected error occurred. Please include this ErrorId if you contact support.";
        Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN_EXCEPTION", message))
    })
}

async fn not_allowed(method: Method) -> Refused {
    let message = format!("HTTP Method '{method}' not allowed.");
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message)
}

async fn versions() -> Json<Value> {
    let versions = VERSIONS.iter().map(
        |(label, version)| json!({ "label": label, "url": format!("/services/data/v{version}"), "version": version }),
    );
    Json(versions.collect())
}

async fn limits(State(org): State<Arc<Org>>) -> Json<Value> {
    let limit = |max: u64, remaining: u64| json!({ "Max": max, "Remaining": remaining });
    let deliveries = org.settings.pubsub.delivery_allocation;
    let (used, allowed) = (org.api_allowance.used(), org.api_allowance.allowed());
    let (jobs, jobs_left) = org.bulk.allowance();
    Json(json!({
        "DailyApiRequests": limit(allowed, allowed.saturating_sub(used)),
        "DailyBulkApiBatches": limit(15_000, 15_000),
        "DailyBulkV2QueryJobs": limit(jobs, jobs_left),
        "DailyBulkV2QueryFileStorageMB": limit(976_562, 976_562),
        "DailyDeliveredPlatformEvents": limit(deliveries, u64::try_from(org.allocation_left()).unwrap_or(0)),
        "HourlyPublishedPlatformEvents": limit(250_000, 250_000),
    }))
}

//! The REST API of the instance, as far as a subscriber needs it, and the router of
//! everything that is answered over HTTP.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::DateTime;
use serde::Serialize;
use serde_json::{Value, json};

use crate::simulator::oauth;
use crate::simulator::org::Org;

/// API calls in 24 hours that the org may make.
const DAILY_REQUESTS: u64 = 100_000;
const VERSIONS: [(&str, &str); 4] =
    [("Summer '25", "64.0"), ("Winter '26", "65.0"), ("Spring '26", "66.0"), ("Summer '26", "67.0")];

/// A REST error: an array of one object, the message first, as Salesforce writes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refused {
    #[serde(skip)]
    status: StatusCode,
    message: &'static str,
    error_code: &'static str,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, error_code: &'static str, message: &'static str) -> Self {
        Self { status, message, error_code }
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
        .route_layer(middleware::from_fn_with_state(Arc::clone(&org), session));
    Router::new()
        .route("/services/oauth2/token", post(oauth::token))
        .route("/services/oauth2/userinfo", get(oauth::userinfo).post(oauth::userinfo))
        .route("/services/oauth2/revoke", post(oauth::revoke))
        .route("/services/data", get(versions))
        .route("/services/data/", get(versions))
        .merge(instance)
        .fallback(|| async {
            Refused::new(StatusCode::NOT_FOUND, "NOT_FOUND", "The requested resource does not exist")
        })
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
    let mut response = match org.script.failed_http() {
        Some(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let page =
                "<html><head><title>We are down for maintenance.</title></head><body>Try again later.</body></html>";
            (status, Html(page)).into_response()
        }
        None => next.run(request).await,
    };
    let date = DateTime::from_timestamp_millis(org.now_millis()).unwrap_or_default();
    if let Ok(date) = HeaderValue::from_str(&date.format("%a, %d %b %Y %H:%M:%S GMT").to_string()) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

/// Lets only calls with a good token through, and tells how much of the day's requests is used.
async fn session(State(org): State<Arc<Org>>, request: Request, next: Next) -> Response {
    org.stats.count(|stats| stats.rest_calls += 1);
    if !bearer(request.headers()).is_some_and(|token| org.sessions.check(token)) {
        return Refused::new(StatusCode::UNAUTHORIZED, "INVALID_SESSION_ID", "Session expired or invalid")
            .into_response();
    }
    let mut response = next.run(request).await;
    let used = org.stats.snapshot().rest_calls;
    if let Ok(usage) = HeaderValue::from_str(&format!("api-usage={used}/{DAILY_REQUESTS}")) {
        response.headers_mut().insert("Sforce-Limit-Info", usage);
    }
    response
}

async fn versions() -> Json<Value> {
    let versions = VERSIONS.iter().map(
        |(label, version)| json!({ "label": label, "url": format!("/services/data/v{version}"), "version": version }),
    );
    Json(versions.collect())
}

async fn limits(State(org): State<Arc<Org>>, Path(version): Path<String>) -> Result<Json<Value>, Refused> {
    if !VERSIONS.iter().any(|(_, known)| version.strip_prefix('v') == Some(known)) {
        return Err(Refused::new(StatusCode::NOT_FOUND, "NOT_FOUND", "The requested resource does not exist"));
    }
    let used = org.stats.snapshot().rest_calls;
    let limit = |max: u64, remaining: u64| json!({ "Max": max, "Remaining": remaining });
    let deliveries = org.settings.pubsub.delivery_allocation;
    Ok(Json(json!({
        "DailyApiRequests": limit(DAILY_REQUESTS, DAILY_REQUESTS.saturating_sub(used)),
        "DailyBulkApiBatches": limit(15_000, 15_000),
        "DailyBulkV2QueryJobs": limit(10_000, 10_000),
        "DailyBulkV2QueryFileStorageMB": limit(976_562, 976_562),
        "DailyDeliveredPlatformEvents": limit(deliveries, u64::try_from(org.allocation_left()).unwrap_or(0)),
        "HourlyPublishedPlatformEvents": limit(250_000, 250_000),
    })))
}

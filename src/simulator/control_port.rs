//! The control port: HTTP and JSON.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /stats` | | the counters ([`Snapshot`]) |
//! | `POST /publish` | an [`EventOrder`] | the ledger lines of the event |
//! | `POST /generate` | `{"count": 1000}` | `{"published": 1000, "last_replay_id": "…"}` |
//! | `POST /faults` | a [`Fault`], `{"kind": "cut-streams"}` | 204 |
//! | `PUT /random-faults` | `{"per_minute": 30, "table": [a `Fault`, …]}`, the table may be left out | 204 |
//! | `GET /records/Case` | | every record as it truly is ([`RecordLine`](crate::simulator::RecordLine)), one JSON line each |
//! | `POST /messages` | a [`MessageOrder`] | the entry ([`EntryLine`]) |
//! | `GET /messages` | | every entry of every conversation as it truly is, one JSON line each |
//! | `GET /faults` | | the survivable faults, as examples of the form |
//!
//! What cannot be done is answered with 422 and `{"error": "…"}`, a body of another form with 422 and a text.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::simulator::control::{Control, ControlError, EventOrder};
use crate::simulator::conversations::{EntryLine, MessageOrder};
use crate::simulator::faults::Fault;
use crate::simulator::ledger::LedgerLine;
use crate::simulator::settings::RandomFaults;
use crate::simulator::stats::Snapshot;
use crate::simulator::truth;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Generate {
    count: u64,
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

/// The routes of the control port.
pub(crate) fn router(control: Control) -> Router {
    Router::new()
        .route("/stats", get(stats))
        .route("/records/{entity}", get(records))
        .route("/messages", get(messages).post(say))
        .route("/publish", post(publish))
        .route("/generate", post(generate))
        .route("/faults", get(|| async { Json(Fault::survivable()) }).post(inflict))
        .route("/random-faults", put(random_faults))
        .with_state(control)
}

async fn stats(State(control): State<Control>) -> Json<Snapshot> {
    Json(control.stats())
}

async fn records(State(control): State<Control>, Path(entity): Path<String>) -> Result<Response, ControlError> {
    let pieces = truth::json_lines(control.truth(&entity)?);
    let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn say(State(control): State<Control>, Json(order): Json<MessageOrder>) -> Result<Json<EntryLine>, ControlError> {
    control.say(order).await.map(Json)
}

async fn messages(State(control): State<Control>) -> Response {
    // An entry of texts and numbers always has a JSON form.
    let line = |entry: EntryLine| serde_json::to_string(&entry).map(|line| line + "\n").unwrap_or_default();
    let lines: String = control.messages().into_iter().map(line).collect();
    ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

async fn publish(
    State(control): State<Control>,
    Json(order): Json<EventOrder>,
) -> Result<Json<Vec<LedgerLine>>, ControlError> {
    control.publish(order).await.map(Json)
}

async fn generate(State(control): State<Control>, Json(wanted): Json<Generate>) -> Result<Json<Value>, ControlError> {
    let published = control.generate_backlog(wanted.count, Duration::ZERO).await?;
    Ok(Json(json!({ "published": published, "last_replay_id": control.stats().last_published })))
}

async fn random_faults(
    State(control): State<Control>,
    Json(faults): Json<RandomFaults>,
) -> Result<StatusCode, ControlError> {
    control.set_random_faults(faults)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn inflict(State(control): State<Control>, Json(fault): Json<Fault>) -> Result<StatusCode, ControlError> {
    control.inflict(fault).await?;
    Ok(StatusCode::NO_CONTENT)
}

//! `/live`, `/ready`, `/metrics` and `/status`, all read from the status board.
//!
//! - `/live` fails only for what a restart mends: a stream whose call to Kafka hangs for good.
//! - `/ready` says for each stream why it is not ready. A fault at Salesforce makes the
//!   process unready, never dead: restarting would not help, and would cost the position's age.

use std::net::SocketAddr;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chrono::Utc;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::{Exit, Failure};
use crate::status::{Board, METRICS_CONTENT_TYPE, Metrics, NotReady};

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[error("The admin port {address} cannot be opened: {error}")]
pub struct AdminError {
    address: SocketAddr,
    error: std::io::Error,
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::new(Exit::Unavailable, error.to_string(), "set admin.listen to a free address")
    }
}

#[derive(Clone)]
struct Shown {
    board: Board,
    metrics: Metrics,
}

/// Opens the port. Port 0 takes a free one; the listener knows which.
///
/// # Errors
/// When the address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|error| AdminError { address, error })
}

/// Serves until `stop`. It is stopped last, so that the end can be watched.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    board: Board,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(scrape))
        .route("/status", get(status))
        .with_state(Shown { board, metrics });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn live(State(shown): State<Shown>) -> Response {
    answer(&shown.board.snapshot().dead_streams(Utc::now()))
}

async fn ready(State(shown): State<Shown>) -> Response {
    answer(&shown.board.snapshot().not_ready())
}

fn answer(reasons: &[NotReady]) -> Response {
    if reasons.is_empty() {
        return Json(json!({ "ok": true })).into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ok": false, "reasons": reasons }))).into_response()
}

async fn scrape(State(shown): State<Shown>) -> Response {
    match shown.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(shown): State<Shown>) -> Response {
    let snapshot = shown.board.snapshot();
    let loss: serde_json::Map<String, serde_json::Value> = snapshot
        .streams
        .iter()
        .map(|stream| {
            let left = stream.until_data_loss(snapshot.salesforce_now).map(|left| left.as_secs());
            (stream.topic.to_string(), left.into())
        })
        .collect();
    let not_ready = snapshot.not_ready();
    Json(json!({ "process": snapshot, "seconds_until_data_loss": loss, "not_ready": not_ready })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StreamState;

    #[tokio::test]
    async fn ready_names_each_stream_that_is_not_and_why() {
        let board = Board::new();
        let stream = board.stream("/data/CaseChangeEvent".parse().expect("a topic"));
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, board.clone(), Metrics::new(board.clone()), stop.clone()));
        let get = async |path: &str| {
            let answer = reqwest::get(format!("http://{address}{path}")).await.expect("answered");
            (answer.status().as_u16(), answer.text().await.expect("text"))
        };

        let (code, text) = get("/ready").await;
        assert_eq!(code, 503);
        assert!(text.contains("/data/CaseChangeEvent") && text.contains("kafka"), "{text}");
        assert_eq!(get("/live").await.0, 200, "a stream that starts is alive");

        board.set_kafka(Ok(()));
        stream.update(|status| {
            status.state = StreamState::Running;
            status.checkpoint_committed = true;
            status.call_open_since = Some(Utc::now());
            status.call_had_message = true;
        });
        assert_eq!(get("/ready").await.0, 200);
        assert!(get("/metrics").await.1.contains("casewire_stream_running{topic=\"/data/CaseChangeEvent\"} 1"));
        assert!(get("/status").await.1.contains("\"state\":\"running\""));

        let since = Utc::now() - chrono::TimeDelta::minutes(6);
        stream.set_state(StreamState::Stalled { call: "commit".to_owned(), since });
        assert_eq!(get("/live").await.0, 503);
        stop.cancel();
        server.await.expect("joined").expect("served");
    }
}

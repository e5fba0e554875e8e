//! `POST /streams/pause` and `POST /streams/resume`: an operator has a stream ask Salesforce for nothing, and for events again.
//!
//! It holds for the process: a restart carries every stream of its configuration. What is paused and forgotten loses events
//! after 72 hours, so nothing but a process that says so all the time keeps it up.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use crate::admin::denial::Denial;
use crate::identity::TopicName;
use crate::status::Board;

/// Which stream is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    topic: String,
}

/// Answers a call with this body.
pub(super) fn answer(board: &Board, body: &[u8], paused: bool) -> Response {
    let named: Named = match serde_json::from_slice(body) {
        Ok(named) => named,
        Err(error) => return Denial::PauseBody(error.to_string()).response(),
    };
    let topics: Vec<TopicName> = board.snapshot().streams.into_iter().map(|stream| stream.topic).collect();
    let Some(topic) = topics.iter().find(|topic| topic.as_str() == named.topic) else {
        let known: Vec<&str> = topics.iter().map(TopicName::as_str).collect();
        return Denial::NoStream { topic: named.topic, known: known.join(", ") }.response();
    };
    let Some(status) = board.set_paused(topic, paused) else {
        return Denial::StandsBy(topic.clone()).response();
    };
    let left = status.until_data_loss(board.snapshot().salesforce_now).map(|left| left.as_secs());
    if paused {
        warn!(%topic, seconds_until_data_loss = left, "an operator pauses the stream: nothing is asked for until it is resumed or the process restarts");
    } else {
        info!(%topic, seconds_until_data_loss = left, "an operator has the stream ask for events again");
    }
    let (since, state) = (status.paused_since, &status.state);
    let body = json!({ "topic": topic, "status": state, "paused_since": since, "seconds_until_data_loss": left });
    Json(body).into_response()
}

//! `POST /comparisons`: an operator has the running service compare the messages in Kafka with those of the org. Only the service
//! can: it has the calls, and knows what it has written.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use crate::admin::denial::Denial;
use crate::config::CONVERSATION_ENTRY;
use crate::failure::Failure;
use crate::identity::TopicName;
use crate::status::{Board, ComparisonRequest, OpenedComparison, RefusedComparison, StreamState};

/// The runner of messages comes to a request between two calls, each of which may wait for an answer for so long, or longer.
const PATIENCE: Duration = Duration::from_secs(150);

/// What is to be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedComparison {
    /// `ConversationEntry`: all other objects are compared by the command itself.
    pub entity: String,
    /// From when on entries are compared, by their server time; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Whether what is found is written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repair: bool,
    /// Whether, instead, the one that is under way is to be ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
}

/// Answers a call; `topic` is that of the stream that fetches messages, if there is one.
pub(super) async fn answer(board: &Board, topic: Option<&TopicName>, body: &[u8]) -> Response {
    let wanted: WantedComparison = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => return Denial::ComparisonBody(error.to_string()).response(),
    };
    if wanted.entity != CONVERSATION_ENTRY {
        return Denial::ComparedByCommand(wanted.entity).response();
    }
    let Some(topic) = topic else { return Denial::NoMessages.response() };
    let told = |failure: &Failure| json!({ "reason": failure.what, "remedy": failure.remedy });
    match ask_to_compare(board, topic, &wanted).await {
        Ok(OpenedComparison { id }) => (StatusCode::ACCEPTED, Json(json!({ "comparison": id }))).into_response(),
        Err(refused @ RefusedComparison::UnderWay(_)) => {
            let id = refused.under_way().map(str::to_owned);
            let mut body = told(&refused.failure());
            body["comparison"] = json!(id);
            (StatusCode::CONFLICT, Json(body)).into_response()
        }
        Err(none @ RefusedComparison::NoneUnderWay) => {
            (StatusCode::CONFLICT, Json(told(&none.failure()))).into_response()
        }
        Err(RefusedComparison::Failed(failure)) => {
            (StatusCode::SERVICE_UNAVAILABLE, Json(told(&failure))).into_response()
        }
    }
}

/// Why messages cannot be compared where no stream fetches any.
pub fn no_messages() -> Failure {
    Denial::NoMessages.failure()
}

/// Asks the stream of `topic` for a comparison, and waits for its answer.
///
/// # Errors
/// Why there is none.
pub async fn ask_to_compare(
    board: &Board,
    topic: &TopicName,
    wanted: &WantedComparison,
) -> Result<OpenedComparison, RefusedComparison> {
    let denied = |denial: Denial| RefusedComparison::Failed(denial.failure());
    let stream = board.snapshot().streams.into_iter().find(|stream| stream.topic == *topic);
    let Some((requests, stream)) = board.requests(topic).zip(stream) else {
        return Err(denied(Denial::NotThere(topic.clone())));
    };
    match &stream.state {
        StreamState::Running => {}
        StreamState::Standby { .. } => return Err(denied(Denial::MessagesElsewhere(topic.clone()))),
        // What was begun before goes on, so it can be ended.
        StreamState::Paused { .. } if wanted.cancel => {}
        StreamState::Paused { .. } => return Err(denied(Denial::Paused(topic.clone()))),
        state => {
            let state = serde_json::to_value(state).ok();
            let state = state.as_ref().and_then(|state| state.get("state")?.as_str()).unwrap_or("not running");
            return Err(denied(Denial::NotComparing { topic: topic.clone(), state: state.to_owned() }));
        }
    }
    let (answer, answered) = oneshot::channel();
    let (since, repair, cancel) = (wanted.since, wanted.repair, wanted.cancel);
    requests.ask_to_compare(ComparisonRequest { since, repair, cancel, answer });
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(denied(Denial::BeganAgain(topic.clone()))),
        Err(_) => Err(denied(Denial::NoTurnToCompare { topic: topic.clone(), patience: PATIENCE })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_does_not_write_here_or_is_paused_says_what_to_do_and_one_that_runs_is_asked() {
        let (board, topic): (Board, TopicName) =
            (Board::new(), "/data/MessagingSessionChangeEvent".parse().expect("a topic"));
        let body = |more: &str| format!("{{\"entity\":\"ConversationEntry\"{more}}}").into_bytes();
        let asked = async |body: Vec<u8>| {
            let answer = answer(&board, Some(&topic), &body).await;
            let code = answer.status().as_u16();
            let said = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
            (code, String::from_utf8(said.to_vec()).expect("text"))
        };
        let says = async |more: &str, code: u16, words: &str| {
            let said = asked(body(more)).await;
            assert!(said.0 == code && said.1.contains(words), "{more}: {said:?}");
        };
        says("", 503, "is not there yet").await;
        let stream = board.stream(topic.clone());
        says("", 503, "is starting").await;
        let (by, since) = ("the other host".to_owned(), Utc::now());
        stream.set_state(StreamState::Standby { by, since });
        says("", 503, "stands by here").await;
        stream.set_state(StreamState::Running);
        assert!(board.set_paused(&topic, true).is_some());
        says("", 503, "resume it").await;
        says(",\"since\":\"yesterday\"", 400, "not what is expected").await;
        assert_eq!(asked(b"{\"entity\":\"Case\"}".to_vec()).await.0, 400);
        assert_eq!(answer(&board, None, &body("")).await.status(), StatusCode::BAD_REQUEST);

        // Whoever fetches messages there.
        let requests = board.requests(&topic).expect("requests");
        let taken = tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.len() < 4 {
                requests.comparison_come().await;
                let Some(ComparisonRequest { since, repair, cancel, answer }) = requests.take_comparison() else {
                    continue;
                };
                let answered = match seen.len() {
                    0 => Err(RefusedComparison::NoneUnderWay),
                    1 => Ok(OpenedComparison { id: "one".to_owned() }),
                    2 => Err(RefusedComparison::UnderWay("one".to_owned())),
                    _ => Ok(OpenedComparison { id: "one".to_owned() }),
                };
                let _ = answer.send(answered);
                seen.push((since.is_some(), repair, cancel));
            }
            seen
        });
        says(",\"cancel\":true", 409, "nothing to cancel").await;
        assert!(board.set_paused(&topic, false).is_some());
        says(",\"since\":\"2026-11-23T10:00:00Z\",\"repair\":true", 202, "\"comparison\":\"one\"").await;
        says("", 409, "\"comparison\":\"one\"").await;
        says(",\"cancel\":true", 202, "\"comparison\":\"one\"").await;
        let seen = taken.await.expect("no panic");
        assert_eq!(seen, [(false, false, true), (true, true, false), (false, false, false), (false, false, true)]);
    }
}

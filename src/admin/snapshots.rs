//! `POST /snapshots`: an operator asks the running service for snapshots.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::oneshot;

use crate::admin::denial::Denial;
use crate::config::{Config, SnapshotConfig, StreamConfig, stream_of};
use crate::identity::TopicName;
use crate::status::{Board, OpenedSnapshot, RefusedSnapshot, SnapshotRequest, StreamState};

/// A stream comes to a request between two steps of a job; the longest of these is a call that Salesforce does not answer.
const PATIENCE: Duration = Duration::from_secs(150);

/// What is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The objects; every object of the configuration where none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entities: Vec<String>,
    /// Only records that were changed since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Only records of which this SOQL condition holds.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// Whether records in the recycle bin that Kafka does not hold are written too, as deletes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_deleted: bool,
}

/// What may be asked for.
#[derive(Debug, Clone)]
pub struct SnapshotDoor {
    streams: Vec<StreamConfig>,
    snapshot: SnapshotConfig,
}

impl SnapshotDoor {
    /// As the configuration has it.
    pub fn of(config: &Config) -> Self {
        Self { streams: config.streams.clone(), snapshot: config.snapshot.clone() }
    }

    /// What is wanted, each object with the topic of its stream.
    ///
    /// # Errors
    /// When there is nothing to read, or no stream that could write it.
    pub(crate) fn objects(&self, wanted: &Wanted) -> Result<Vec<(String, TopicName)>, Denial> {
        if wanted.entities.is_empty() {
            let all = self.snapshot.objects(&self.streams);
            return if all.is_empty() { Err(Denial::NothingToRead) } else { Ok(all) };
        }
        let mut objects: Vec<(String, TopicName)> = Vec::new();
        for entity in &wanted.entities {
            let topic = stream_of(&self.streams, entity).ok_or_else(|| Denial::NoWriter(entity.clone()))?;
            if !objects.iter().any(|(known, _)| known == entity) {
                objects.push((entity.clone(), topic.clone()));
            }
        }
        Ok(objects)
    }

    /// The topic of the stream that fetches messages, if there is one.
    pub(super) fn of_messages(&self) -> Option<&TopicName> {
        self.streams.iter().find(|stream| stream.messages).map(|stream| &stream.topic)
    }

    /// Answers a call.
    pub(super) async fn answer(&self, board: &Board, wanted: Result<Wanted, Denial>) -> Response {
        let objects = wanted.and_then(|wanted| Ok((self.objects(&wanted)?, wanted)));
        let (objects, wanted) = match objects {
            Ok(objects) => objects,
            Err(denial) => return denial.response(),
        };
        let (mut opened, mut refused, mut status) = (Vec::new(), Vec::new(), StatusCode::ACCEPTED);
        for (entity, topic) in objects {
            match ask(board, &entity, &topic, &wanted).await {
                Ok(OpenedSnapshot { job, records }) => {
                    opened.push(json!({ "entity": entity, "job": job, "records": records }));
                }
                Err(why) => {
                    let under_way = matches!(why, RefusedSnapshot::UnderWay(_));
                    let job = if let RefusedSnapshot::UnderWay(job) = &why { Some(job.clone()) } else { None };
                    let failure = why.failure(&entity);
                    let temporary = failure.exit.may_pass();
                    status = match status {
                        StatusCode::ACCEPTED if under_way => StatusCode::CONFLICT,
                        StatusCode::ACCEPTED if temporary => StatusCode::SERVICE_UNAVAILABLE,
                        StatusCode::ACCEPTED => StatusCode::UNPROCESSABLE_ENTITY,
                        first => first,
                    };
                    let (reason, remedy) = (failure.what, failure.remedy);
                    refused.push(json!({ "entity": entity, "under_way": job, "reason": reason, "remedy": remedy }));
                }
            }
        }
        (status, Json(json!({ "opened": opened, "refused": refused }))).into_response()
    }
}

/// Asks the stream of `topic` for a snapshot, and waits for its answer.
///
/// # Errors
/// Why there is none.
pub async fn ask(
    board: &Board,
    entity: &str,
    topic: &TopicName,
    wanted: &Wanted,
) -> Result<OpenedSnapshot, RefusedSnapshot> {
    let failed = |denial: Denial| RefusedSnapshot::Failed(denial.failure());
    let stream = board.snapshot().streams.into_iter().find(|stream| stream.topic == *topic);
    let Some((requests, stream)) = board.requests(topic).zip(stream) else {
        return Err(failed(Denial::NotThere(topic.clone())));
    };
    if stream.state != StreamState::Running {
        let state = serde_json::to_value(&stream.state).ok();
        let state = state.as_ref().and_then(|state| state.get("state")?.as_str()).unwrap_or("not running");
        let (topic, state, entity) = (topic.clone(), state.to_owned(), entity.to_owned());
        return Err(failed(Denial::NotRunning { topic, state, entity }));
    }
    let (answer, answered) = oneshot::channel();
    let (since, condition, include_deleted) = (wanted.since, wanted.condition.clone(), wanted.include_deleted);
    requests.ask(SnapshotRequest { entity: entity.to_owned(), since, condition, include_deleted, answer });
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(failed(Denial::BeganAgain(topic.clone()))),
        Err(_) => Err(failed(Denial::NoTurn { topic: topic.clone(), patience: PATIENCE })),
    }
}

//! What operators ask of a running stream. The stream takes it when it comes to it, and answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, oneshot, watch};

use crate::failure::{Exit, Failure};

/// Requests that wait, at most; nobody asks for more at a time than there are objects.
const MOST: usize = 100;

/// A snapshot of an object.
#[derive(Debug)]
pub struct SnapshotRequest {
    /// The object.
    pub entity: String,
    /// Only records that were changed since then.
    pub since: Option<DateTime<Utc>>,
    /// Only records of which this SOQL condition holds.
    pub condition: Option<String>,
    /// Whether it also tells of records in the recycle bin that Kafka does not hold.
    pub include_deleted: bool,
    /// Takes the answer. Nobody may be waiting for it any more.
    pub answer: oneshot::Sender<Result<OpenedSnapshot, RefusedSnapshot>>,
}

/// A snapshot that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedSnapshot {
    /// The id of its job.
    pub job: String,
    /// How many records it is of, recycle bin included, as they were counted.
    pub records: u64,
}

/// Why none was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusedSnapshot {
    /// There is one of the object, with this id.
    UnderWay(String),
    /// For any other reason.
    Failed(Failure),
}

impl RefusedSnapshot {
    /// The same in words.
    pub fn failure(self, entity: &str) -> Failure {
        match self {
            Self::UnderWay(job) => Failure::new(
                Exit::Usage,
                format!("A snapshot of {entity} is under way already: {job}"),
                "wait for its end; `jobs` in /status shows how far it is",
            ),
            Self::Failed(failure) => failure,
        }
    }
}

/// A comparison of messages with what Kafka holds of them.
#[derive(Debug)]
pub struct ComparisonRequest {
    /// From when on entries are compared; all without it.
    pub since: Option<DateTime<Utc>>,
    /// Whether what is found is written.
    pub repair: bool,
    /// Whether, instead, the one that is under way is to be ended.
    pub cancel: bool,
    /// Takes the answer. Nobody may be waiting for it any more.
    pub answer: oneshot::Sender<Result<OpenedComparison, RefusedComparison>>,
}

/// A comparison that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedComparison {
    /// Its name.
    pub id: String,
}

/// Why none was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusedComparison {
    /// There is one, of this name.
    UnderWay(String),
    /// There is none that could be ended.
    NoneUnderWay,
    /// For any other reason.
    Failed(Failure),
}

impl RefusedComparison {
    /// The comparison that is under way, where that is why.
    pub fn under_way(&self) -> Option<&str> {
        match self {
            Self::UnderWay(id) => Some(id),
            Self::NoneUnderWay | Self::Failed(_) => None,
        }
    }

    /// The same in words.
    pub fn failure(&self) -> Failure {
        match self {
            Self::UnderWay(id) => Failure::new(
                Exit::Usage,
                format!("A comparison of messages is under way already: {id}"),
                "wait for its end; `messages.comparison` of the stream in /status shows how far it is",
            ),
            Self::NoneUnderWay => {
                Failure::new(Exit::Usage, "No comparison of messages is under way", "there is nothing to cancel")
            }
            Self::Failed(failure) => failure.clone(),
        }
    }
}

/// The requests of one stream; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    comparisons: Arc<Mutex<VecDeque<ComparisonRequest>>>,
    comparison: Arc<Notify>,
    waiting: Arc<Mutex<VecDeque<SnapshotRequest>>>,
    come: Arc<Notify>,
    paused: Arc<watch::Sender<bool>>,
}

impl Requests {
    /// Leaves a request. One too many is dropped, which its sender notices.
    pub fn ask(&self, request: SnapshotRequest) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|request| !request.answer.is_closed());
        if waiting.len() < MOST {
            waiting.push_back(request);
        }
        drop(waiting);
        self.come.notify_one();
    }

    /// The oldest request that somebody still waits for.
    pub fn take(&self) -> Option<SnapshotRequest> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|request| !request.answer.is_closed());
        waiting.pop_front()
    }

    /// Leaves a request for a comparison. One too many is dropped, which its sender notices.
    pub fn ask_to_compare(&self, request: ComparisonRequest) {
        let mut waiting = self.comparisons.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|request| !request.answer.is_closed());
        if waiting.len() < MOST {
            waiting.push_back(request);
        }
        drop(waiting);
        self.comparison.notify_one();
    }

    /// The oldest request for a comparison that somebody still waits for.
    pub fn take_comparison(&self) -> Option<ComparisonRequest> {
        let mut waiting = self.comparisons.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|request| !request.answer.is_closed());
        waiting.pop_front()
    }

    /// Returns when a request for a comparison has come since the last look.
    pub async fn comparison_come(&self) {
        self.comparison.notified().await;
    }

    /// Whether Salesforce is to be asked for nothing.
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Only by way of the board, which shows it.
    pub(in crate::status) fn set_paused(&self, paused: bool) {
        self.paused.send_replace(paused);
    }

    /// Returns when one has come since the last look.
    pub async fn come(&self) {
        self.come.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_taken_in_order_unless_nobody_waits_for_the_answer_any_more() {
        let requests = Requests::default();
        let ask = |entity: &str| {
            let (answer, answered) = oneshot::channel();
            let entity = entity.to_owned();
            requests.ask(SnapshotRequest { entity, since: None, condition: None, include_deleted: false, answer });
            answered
        };
        let (_first, second, _third) = (ask("A"), ask("B"), ask("C"));
        drop(second);
        requests.come().await;
        assert_eq!(requests.take().map(|request| request.entity).as_deref(), Some("A"));
        assert_eq!(requests.take().map(|request| request.entity).as_deref(), Some("C"));
        assert!(requests.take().is_none());
        let (answer, gone) = oneshot::channel();
        requests.ask_to_compare(ComparisonRequest { since: None, repair: false, cancel: false, answer });
        drop(gone);
        let (answer, _answered) = oneshot::channel();
        requests.ask_to_compare(ComparisonRequest { since: None, repair: true, cancel: false, answer });
        requests.comparison_come().await;
        assert!(requests.take_comparison().is_some_and(|request| request.repair), "of whom nobody waits is dropped");
        assert!(requests.take_comparison().is_none());
        let kept: Vec<_> = (0..MOST).map(|_| ask("D")).collect();
        assert!(ask("E").await.is_err(), "one too many");
        assert_eq!(kept.len(), MOST);
    }
}

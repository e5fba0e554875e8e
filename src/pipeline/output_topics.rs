//! The topics a stream writes to, made or checked when they are first needed: which entities
//! a channel delivers is known only when they come.
//!
//! A topic that goes away under a running stream takes with it what it held. Making another one and
//! going on would hide that, so the stream stops until somebody has made it again. A process that did
//! not see the topic before makes it, and says so if the stream should have had it.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::failure::Failure;
use crate::kafka::{KafkaError, KafkaSettings, Severity, TopicRole, Verdict, ensure_topic};
use crate::pipeline::context::RECOVERY;
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::notice::Notice;
use crate::pipeline::stop::StreamError;
use crate::salesforce::backoff::Backoff;
use crate::status::StreamBoard;

/// The topics that are known to be there; one set a stream.
pub struct OutputTopics {
    settings: KafkaSettings,
    board: StreamBoard,
    known: HashSet<Arc<str>>,
    /// Has those that any attempt of this process has known.
    memory: Arc<StreamMemory>,
    /// How many events the stream had carried when the attempt began.
    carried: u64,
}

impl OutputTopics {
    /// Nothing is known yet but what earlier attempts have seen.
    pub fn new(settings: KafkaSettings, board: StreamBoard, memory: Arc<StreamMemory>) -> Self {
        Self { settings, board, known: HashSet::new(), memory, carried: 0 }
    }

    /// How many events the stream had carried when the attempt began: with any, its topics should be there.
    pub fn set_carried(&mut self, events: u64) {
        self.carried = events;
    }

    fn seen(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.memory.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure of an entity's topic.
    ///
    /// # Errors
    /// When it is not there and cannot be made, or would lose data as it is.
    pub async fn ensure_entity(&mut self, name: &Arc<str>, cancel: &CancellationToken) -> Result<(), Failure> {
        self.ensure(name, TopicRole::Entity, cancel).await
    }

    /// Makes sure of a topic. A broker that cannot be reached is waited for, until `cancel`.
    ///
    /// # Errors
    /// When it is not there and cannot be made, or would lose data as it is.
    pub async fn ensure(
        &mut self,
        name: &Arc<str>,
        role: TopicRole,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        if self.known.contains(name) {
            return Ok(());
        }
        let mut settings = self.settings.clone();
        let seen = self.seen().contains(name);
        settings.topics.create &= !seen;
        let mut backoff = Backoff::new(RECOVERY);
        let before = self.board.status().map(|status| status.state);
        let report = loop {
            let error = match ensure_topic(&settings, name, role).await {
                Ok(report) => break report,
                Err(KafkaError::TopicMissing { command, .. }) if seen => {
                    // The one that somebody makes in its place is known to be another one.
                    self.memory.written_to.forget(name);
                    return Err(StreamError::TopicDeleted { name: name.to_string(), command }.into());
                }
                Err(error) => error,
            };
            if let Verdict::Stop(failure) = error.verdict() {
                return Err(failure);
            }
            warn!(topic = &**name, %error, "the topic cannot be looked at yet");
            let wait = backoff.next_wait();
            self.board.recovering(&error.failure(), wait);
            self.board.board().set_kafka(Err(error.to_string()));
            tokio::select! {
                () = cancel.cancelled() => {
                    return Err(StreamError::BrokerAway(error.to_string()).into());
                }
                () = tokio::time::sleep(wait) => {}
            }
        };
        if let Some(before) = before.filter(|_| backoff.attempts() > 0) {
            self.board.set_state(before);
        }
        for finding in &report.findings {
            match finding.severity {
                Severity::Refusal => {
                    let (what, remedy) = (finding.what.clone(), finding.remedy.clone());
                    return Err(StreamError::TopicUnfit { what, remedy }.into());
                }
                Severity::Warning => {
                    warn!(topic = &**name, remedy = finding.remedy, "{}", finding.what);
                    self.board.error(finding.what.clone(), finding.remedy.clone());
                }
            }
        }
        if report.created && role == TopicRole::Entity && self.carried > 0 {
            self.tell_of_new(name);
        }
        self.board.board().set_kafka(Ok(()));
        self.seen().insert(name.clone());
        self.known.insert(name.clone());
        Ok(())
    }

    /// A stream of one entity has its topic from the first event on; a channel may deliver an entity late.
    fn tell_of_new(&self, name: &str) {
        let notice = Notice::TopicMade { name: name.to_owned(), carried: self.carried };
        warn!(topic = name, "{notice}");
        self.board.error(notice.to_string(), notice.remedy());
    }
}

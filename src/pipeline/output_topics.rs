//! The topics a stream writes to, made or checked when they are first needed: which entities
//! a channel delivers is known only when they come.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::failure::{Exit, Failure};
use crate::kafka::{KafkaSettings, Severity, TopicRole, Verdict, ensure_topic};
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::status::StreamBoard;

/// The topics that are known to be there; one set a stream.
pub struct OutputTopics {
    settings: KafkaSettings,
    board: StreamBoard,
    known: HashSet<Arc<str>>,
}

impl OutputTopics {
    /// Nothing is known yet.
    pub fn new(settings: KafkaSettings, board: StreamBoard) -> Self {
        Self { settings, board, known: HashSet::new() }
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
        let mut backoff = Backoff::new(BackoffLimits::default());
        let before = self.board.status().map(|status| status.state);
        let report = loop {
            let error = match ensure_topic(&self.settings, name, role).await {
                Ok(report) => break report,
                Err(error) => error,
            };
            if let Verdict::Stop(failure) = error.verdict() {
                return Err(failure);
            }
            warn!(topic = &**name, %error, "the topic cannot be looked at yet");
            let wait = backoff.next_wait();
            self.board.recovering(&error.failure(), wait);
            tokio::select! {
                () = cancel.cancelled() => {
                    return Err(Failure::new(Exit::Temporary, error.to_string(), "run again when the broker is reachable"));
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
                    return Err(Failure::new(Exit::Configuration, finding.what.clone(), finding.remedy.clone()));
                }
                Severity::Warning => {
                    warn!(topic = &**name, remedy = finding.remedy, "{}", finding.what);
                    self.board.error(finding.what.clone(), finding.remedy.clone());
                }
            }
        }
        self.known.insert(name.clone());
        Ok(())
    }
}

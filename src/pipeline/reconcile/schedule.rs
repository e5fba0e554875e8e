//! Comparisons and looks for silence on a schedule, beside the streams of a process and never in their way: nothing here is
//! waited for by a stream, and whatever fails is counted, shown, and tried again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::change::FieldPolicies;
use crate::config::{FieldChoice, GapsConfig, PollConfig, ReconcileConfig};
use crate::failure::Failure;
use crate::kafka::{KafkaSettings, StreamIdentity};
use crate::pipeline::reconcile::comparison::Difference;
use crate::pipeline::reconcile::inspection::{Extent, Inspected, Inspector};
use crate::pipeline::reconcile::repair::{OpenEntries, repair};
use crate::pipeline::reconcile::silence::{Heard, look};
use crate::pipeline::reconcile::standing::standing;
use crate::pipeline::reconcile::unable::Unable;
use crate::salesforce::describe::Descriptions;
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest_client::RestClient;
use crate::status::{EntityAgreement, EntitySilence, LastError, StreamBoard, StreamState};

/// The first turn comes no later than this after the start, and the next one after a turn that failed: a process that is
/// started anew every day would never compare once a week otherwise.
const SOON: Duration = Duration::from_secs(600);

/// What mends a silent object.
const SILENT: &str = "Setup > Change Data Capture: the object has to be selected; Setup > Permission Sets > the integration user's set > Object \
                      Settings: \"View All Records\" on the object, read access to it and to its fields";

/// A stream as it is compared.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Which.
    pub identity: StreamIdentity,
    /// Which fields of its records are read.
    pub fields: FieldChoice,
    /// Objects that it polls.
    pub polls: Vec<PollConfig>,
    /// Its part of the board.
    pub board: StreamBoard,
}

/// Comparisons on a schedule.
#[derive(Debug)]
pub struct Reconciliation {
    /// When.
    pub config: ReconcileConfig,
    /// What healing may do.
    pub gaps: GapsConfig,
    /// Kafka.
    pub kafka: KafkaSettings,
    /// Salesforce.
    pub rest: RestClient,
    /// What is kept from readers.
    pub policies: FieldPolicies,
    /// The streams of the process.
    pub subjects: Vec<Subject>,
    /// This run, as the ledger shows it.
    pub run_id: String,
    /// Since when it carries the streams.
    pub listening_since: DateTime<Utc>,
}

impl Reconciliation {
    /// Runs until `stop`; returns at once if nothing is wanted.
    pub async fn run(self, stop: CancellationToken) {
        let after = |length: Duration| Instant::now() + length;
        let mut compare_at = self.config.every.map(|every| after(every.min(SOON)));
        let mut listen_at = self.config.silence_check.then(|| after(self.config.silence_every.min(SOON)));
        let mut last_full: Option<Instant> = None;
        while let Some(next) = compare_at.into_iter().chain(listen_at).min() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => {}
            }
            let now = Instant::now();
            if let Some(every) = self.config.every.filter(|_| compare_at.is_some_and(|at| at <= now)) {
                let full = self.config.full_every.is_some_and(|full| last_full.is_none_or(|last| last + full <= now));
                let extent = if full { Extent::Full } else { self.lately() };
                let Some(complete) = stop.run_until_cancelled(self.compare_all(extent)).await else { return };
                if full && complete {
                    last_full = Some(now);
                }
                compare_at = Some(after(if complete { every } else { every.min(SOON) }));
            }
            if listen_at.is_some_and(|at| at <= now) {
                if stop.run_until_cancelled(self.listen_to_all()).await.is_none() {
                    return;
                }
                listen_at = Some(after(self.config.silence_every));
            }
        }
    }

    fn lately(&self) -> Extent {
        Extent::Since(TimeDelta::from_std(self.config.since).unwrap_or(TimeDelta::days(1)))
    }

    /// The streams that this process carries now: a standby leaves them to the instance that does.
    fn carried(&self) -> impl Iterator<Item = &Subject> {
        let runs =
            |subject: &&Subject| subject.board.status().is_some_and(|status| status.state == StreamState::Running);
        self.subjects.iter().filter(runs)
    }

    fn inspector(&self, subject: &Subject) -> Inspector {
        let descriptions = Descriptions::new(self.rest.clone(), subject.fields.clone(), self.policies.clone());
        Inspector {
            reader: RecordReader::new(self.rest.clone(), descriptions),
            kafka: self.kafka.clone(),
            identity: subject.identity.clone(),
            polls: subject.polls.clone(),
            most_absent: self.gaps.most_absent,
            api_share: Some(self.gaps.api_share),
        }
    }

    /// Compares every object of every stream; returns whether all could be.
    async fn compare_all(&self, extent: Extent) -> bool {
        let mut complete = true;
        for subject in self.carried() {
            let topic = &subject.identity.topic;
            let outcome = self.compare(subject, extent).await;
            let failure = outcome.as_ref().err().map(Unable::failure);
            if let Some(failure) = &failure {
                complete = false;
                warn!(%topic, error = failure.what, remedy = failure.remedy, "records not compared with the org");
            }
            subject.board.update(|status| {
                let reconcile = &mut status.reconcile;
                reconcile.last_error = failure.map(told);
                if reconcile.last_error.is_some() {
                    reconcile.failures += 1;
                } else {
                    reconcile.runs += 1;
                    reconcile.last_run_at = Some(Utc::now());
                }
            });
        }
        complete
    }

    /// Compares the objects of one stream. What is known of the others is not lost when one cannot be.
    async fn compare(&self, subject: &Subject, extent: Extent) -> Result<(), Unable> {
        let inspector = self.inspector(subject);
        let mut outcome = Ok(());
        for entity in inspector.entities().await? {
            let compared = async {
                let standing = standing(&self.kafka, &subject.identity).await?;
                let inspected = inspector.inspect(&entity, extent, &standing, |_| {}).await?;
                self.note(subject, &inspected).await
            };
            if let Err(error) = compared.await {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Shows what was found, and repairs it if that is wanted.
    async fn note(&self, subject: &Subject, inspected: &Inspected) -> Result<(), Unable> {
        let (topic, entity) = (&subject.identity.topic, &inspected.entity);
        let findings = Difference::ALL.map(|kind| (kind.name(), inspected.count(kind)));
        let mut agreement = EntityAgreement {
            at: Utc::now(),
            full: inspected.full,
            judged: inspected.judged,
            young: inspected.young,
            settled: inspected.settled,
            findings: findings.into(),
            entries: 0,
        };
        let (judged, found) = (inspected.judged, inspected.findings.len());
        if inspected.findings.is_empty() {
            info!(%topic, entity, judged, full = inspected.full, "records agree with the org");
        } else {
            warn!(%topic, entity, judged, found, full = inspected.full, ?findings, "records do not agree with the org");
        }
        let repaired = if self.config.repair && found > 0 {
            let open = OpenEntries::read(&self.kafka, &subject.identity).await;
            match open {
                Ok(open) => repair(&self.kafka, &subject.identity, &self.run_id, inspected, &open).await.map(Some),
                Err(error) => Err(error),
            }
        } else {
            Ok(None)
        };
        if let Ok(Some(repaired)) = &repaired {
            agreement.entries = repaired.entries;
        }
        subject.board.update(|status| drop(status.reconcile.entities.insert(entity.clone(), agreement)));
        repaired.map(drop)
    }

    /// Looks whether any object has fallen silent.
    async fn listen_to_all(&self) {
        for subject in self.carried() {
            if let Err(error) = self.listen(subject).await {
                let failures = subject.board.status().map_or(0, |status| status.reconcile.silence_failures);
                let topic = &subject.identity.topic;
                // Once is enough: nothing depends on it, and the count goes on.
                if failures == 0 {
                    warn!(%topic, error = %error, "it cannot be told whether objects have fallen silent; tried again");
                } else {
                    debug!(%topic, error = %error, failures, "it cannot be told whether objects have fallen silent");
                }
                subject.board.update(|status| status.reconcile.silence_failures += 1);
            }
        }
    }

    async fn listen(&self, subject: &Subject) -> Result<(), Unable> {
        let inspector = self.inspector(subject);
        let entities = inspector.entities().await?;
        // What is polled has no events that could stay away.
        for entity in entities.into_iter().filter(|entity| inspector.is_told(entity)) {
            let standing = standing(&self.kafka, &subject.identity).await?;
            let heard = look(&inspector, &entity, &standing, self.listening_since).await?;
            let now = match heard {
                Heard::Unknown => continue,
                Heard::Well => EntitySilence::default(),
                Heard::Silent { rows, since } => EntitySilence {
                    silent: true,
                    rows_changed: rows,
                    since: Some(since),
                    remedy: Some(SILENT.to_owned()),
                },
            };
            let topic = &subject.identity.topic;
            let before = subject.board.status().and_then(|status| status.reconcile.silence.get(&entity).cloned());
            let was_silent = before.is_some_and(|before| before.silent);
            if now.silent && !was_silent {
                let (rows, since) = (now.rows_changed, now.since);
                warn!(%topic, entity, rows, ?since, remedy = SILENT, "records change and no events of them come");
            } else if was_silent && !now.silent {
                info!(%topic, entity, "the object is not silent any more");
            }
            subject.board.update(|status| drop(status.reconcile.silence.insert(entity, now)));
        }
        Ok(())
    }
}

fn told(failure: Failure) -> LastError {
    LastError { at: Utc::now(), what: failure.what, remedy: failure.remedy }
}

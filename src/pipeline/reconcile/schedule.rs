//! Comparisons and looks for silence on a schedule, beside the streams of a process and never in their way: nothing here is
//! waited for by a stream, and whatever fails is counted, shown, and tried again.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::change::FieldPolicies;
use crate::config::{FieldChoice, GapsConfig, PollConfig, ReconcileConfig};
use crate::failure::Failure;
use crate::identity::TopicName;
use crate::kafka::{KafkaSettings, StreamIdentity};
use crate::pipeline::notice::SILENT;
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
        let mut last_full = HashMap::new();
        while let Some(next) = compare_at.into_iter().chain(listen_at).min() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => {}
            }
            let now = Instant::now();
            if let Some(every) = self.config.every.filter(|_| compare_at.is_some_and(|at| at <= now)) {
                let compared = stop.run_until_cancelled(self.compare_all(now, &mut last_full)).await;
                let Some(complete) = compared else { return };
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

    /// How much of a stream's records is compared now, by when all of them were.
    fn extent(&self, last_full: Option<&Instant>, now: Instant) -> Extent {
        let is_due = |full: Duration| last_full.is_none_or(|last| *last + full <= now);
        if self.config.full_every.is_some_and(is_due) {
            return Extent::Full;
        }
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
            bulk_from: self.gaps.bulk_from,
            api_share: Some(self.gaps.api_share),
        }
    }

    /// Compares every object of every stream, and notes of which streams all records were. Returns whether all could be: not
    /// if none was carried, as on the way up.
    async fn compare_all(&self, now: Instant, last_full: &mut HashMap<TopicName, Instant>) -> bool {
        let (mut complete, mut carried) = (true, false);
        for subject in self.carried() {
            carried = true;
            let topic = &subject.identity.topic;
            let extent = self.extent(last_full.get(topic), now);
            let outcome = self.compare(subject, extent).await;
            // A channel that has brought nothing yet has no objects to compare.
            if extent == Extent::Full && outcome.as_ref().is_ok_and(|objects| *objects > 0) {
                last_full.insert(topic.clone(), now);
            }
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
        complete && carried
    }

    /// Compares the objects of one stream, and returns how many. What is known of the others is not lost when one cannot be.
    async fn compare(&self, subject: &Subject, extent: Extent) -> Result<usize, Unable> {
        let inspector = self.inspector(subject);
        let entities = inspector.entities().await?;
        let mut outcome = Ok(entities.len());
        for entity in entities {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::pipeline::settings;
    use crate::status::Board;

    /// One stream that compares all of its records once a day; nothing that it would call is there.
    fn reconciliation(board: &Board) -> Reconciliation {
        let text = "[salesforce]\nclient_id = 'c'\nclient_secret = 's'\nlogin_url = 'http://127.0.0.1:1'\n\
                    [kafka]\nbrokers = '127.0.0.1:1'\n[reconcile]\nevery = '1h'\nfull_every = '1d'\n\
                    [[stream]]\ntopic = '/event/Case_Escalation__e'\nstart = 'latest'\nrecord = 'never'\n";
        let config = Config::from_table(text.parse().expect("TOML"), &[].into()).expect("a configuration");
        let (prefix, org) = ("p".to_owned(), "00D8d00000AbCdEEAV".parse().expect("an org"));
        let topic = config.streams[0].topic.clone();
        let (identity, fields) = (StreamIdentity { prefix, org, topic: topic.clone() }, FieldChoice::default());
        let rest = RestClient::new(settings::salesforce(&config).expect("settings").session().clone());
        Reconciliation {
            config: config.reconcile,
            gaps: config.gaps,
            policies: settings::policies(&config.policies),
            kafka: settings::kafka(&config.kafka).expect("settings"),
            rest,
            subjects: vec![Subject { identity, fields, polls: Vec::new(), board: board.stream(topic) }],
            run_id: "r".to_owned(),
            listening_since: Utc::now(),
        }
    }

    #[tokio::test]
    async fn where_nothing_was_compared_everything_is_still_to_be() {
        let board = Board::new();
        let reconciliation = reconciliation(&board);
        let (now, mut last_full) = (Instant::now(), HashMap::new());
        assert!(!reconciliation.compare_all(now, &mut last_full).await, "the stream is on its way up");
        reconciliation.subjects[0].board.set_state(StreamState::Running);
        // The records of platform events are in no table.
        assert!(reconciliation.compare_all(now, &mut last_full).await);
        assert!(last_full.is_empty(), "{last_full:?}");
        let (hour, day) = (now + Duration::from_secs(3_600), now + Duration::from_secs(24 * 3_600));
        assert_eq!(reconciliation.extent(None, now), Extent::Full);
        assert_eq!(reconciliation.extent(Some(&now), hour), Extent::Since(TimeDelta::days(1)));
        assert_eq!(reconciliation.extent(Some(&now), day), Extent::Full);
    }
}

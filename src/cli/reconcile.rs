//! `casewire reconcile`: what Kafka holds compared with what the org has.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::cli::checkpoint_show::reachable_kafka;
use crate::cli::error::ReconcileError;
use crate::cli::reconcile_report::{Report, StreamReport};
use crate::cli::{ConfigFile, reconcile_entries, say};
use crate::config::{CONVERSATION_ENTRY, Config, StreamConfig, polls_of};
use crate::failure::Failure;
use crate::identity::{OrgId, TopicKind};
use crate::kafka::{KafkaSettings, RunIdentity, StreamIdentity};
use crate::pipeline::reconcile::{Extent, Inspected, Inspector, OpenEntries, Repair, Unable, repair, standing};
use crate::pipeline::settings;
use crate::salesforce::describe::Descriptions;
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest_client::RestClient;

/// How far back it looks for records unless it is told.
const SINCE: TimeDelta = TimeDelta::hours(24);

/// Compare the records in Kafka with those of the org, and let a running service mend what differs.
///
/// Reads ids and SystemModstamp of the records that were changed lately, 2,000 an API request, or with --full of all, from
/// `gaps.bulk_from` records on over the Bulk API, and the topics of the objects. What was changed less than ten minutes before the position of its stream is not judged, and what is found is
/// looked at twice. It fences nobody, and can be used while casewire runs.
///
/// missing: the org has the record and Kafka has not. stale: the org's is newer. deleted: it lies in the org's recycle bin.
/// extra: Kafka has it and no query of the org shows it, which only --full finds; unseen: the same, but Salesforce does not say that
/// the user has "View All Records" on the object, so it may be hidden, and is never repaired.
///
/// With --entity ConversationEntry it compares messages, entry by entry. The service does that, within its calls for messages
/// and when nothing else is to be fetched; without a service this command carries the streams until it is done. It goes on where
/// it was after a restart. missing: the org shows the entry and Kafka has nothing of it. changed: it says something else now, mostly because
/// it was redacted. gone: the org shows it no more, which is told and never written. --repair writes the others.
///
/// Ends with 0 if both sides agree, with 1 if they do not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  casewire reconcile --config casewire.toml --since 24h\n  \
                        casewire reconcile --config casewire.toml --full --entity Case --repair\n  \
                        casewire reconcile --config casewire.toml --entity ConversationEntry --since 30days --repair\n  \
                        casewire reconcile --config casewire.toml --json | jq -c '.streams[].entities[].findings[]'")]
pub struct ReconcileArguments {
    #[command(flatten)]
    file: ConfigFile,
    /// How far back to look by SystemModstamp, such as 90min, 24h or 7days; messages by their server time. Without it 24h, and
    /// messages.history for messages.
    #[arg(long, value_name = "TIME", value_parser = length)]
    pub(super) since: Option<TimeDelta>,
    /// Only this object; may be repeated. All objects of all streams otherwise, but not ConversationEntry.
    #[arg(long, value_name = "OBJECT")]
    entity: Vec<String>,
    /// Compare all ids, however old: the only way to see records that were deleted for good.
    #[arg(long, conflicts_with = "since")]
    pub(super) full: bool,
    /// Put what is found into the gap ledger: the running service, or the next start, reads it again. Messages are written at once.
    #[arg(long)]
    pub(super) repair: bool,
    /// So many findings of each object are shown.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) show: usize,
    /// As JSON, with all findings.
    #[arg(long)]
    pub(super) json: bool,
    /// Where the service is that compares messages, such as http://10.0.0.7:8686; admin.listen of the configuration otherwise.
    #[arg(long, value_name = "URL")]
    pub(super) service: Option<String>,
    /// For messages: end the comparison that the service has under way. What it has written stays.
    #[arg(long, conflicts_with_all = ["since", "full", "repair", "take_over"])]
    pub(super) cancel: bool,
    /// For messages: take the streams over although another instance wrote to them a moment ago.
    #[arg(long)]
    pub(super) take_over: bool,
}

/// How long an interrupted command waits for Bulk query jobs to be given back.
const GIVEN_BACK: Duration = Duration::from_secs(5);

/// Compares and prints, until `stop`, which is asked for once there is something to end.
///
/// # Errors
/// [`ReconcileError::Differ`] and its like when the two sides differ; others when they cannot be compared.
pub async fn run(arguments: ReconcileArguments, stop: impl FnOnce() -> CancellationToken) -> Result<(), Failure> {
    let config = arguments.file.load()?;
    if arguments.entity.iter().any(|entity| entity == CONVERSATION_ENTRY) {
        if arguments.entity.iter().any(|entity| entity != CONVERSATION_ENTRY) {
            return Err(ReconcileError::MessagesApart.into());
        }
        return reconcile_entries::run(&arguments, config, stop()).await;
    }
    let kafka = reachable_kafka(&config).await?;
    let pubsub = settings::salesforce(&config)?;
    let org = pubsub.session().token().await.map_err(|error| error.failure())?.org_id().clone();
    let command = Comparison { rest: RestClient::new(pubsub.session().clone()), kafka, org, config, arguments };
    let compared = stop().run_until_cancelled_owned(Box::pin(command.compare_all())).await;
    command.rest.all_given_back(GIVEN_BACK).await;
    let report = compared.ok_or(ReconcileError::Interrupted)??;
    if command.arguments.json {
        say(format_args!("{:#}", report.as_json()));
    } else {
        for line in report.as_text(command.arguments.show) {
            say(line);
        }
    }
    report.verdict(command.arguments.repair)
}

struct Comparison {
    rest: RestClient,
    kafka: KafkaSettings,
    org: OrgId,
    config: Config,
    arguments: ReconcileArguments,
}

impl Comparison {
    async fn compare_all(&self) -> Result<Report, Failure> {
        let mut report = Report { streams: Vec::new(), heal: self.config.gaps.heal };
        let mut left: Vec<&String> = self.arguments.entity.iter().collect();
        for stream in &self.config.streams {
            if matches!(stream.topic.kind(), TopicKind::PlatformEvent(_) | TopicKind::PlatformChannel) {
                continue;
            }
            let inspector = self.inspector(stream);
            let entities = inspector.entities().await.map_err(|error| error.failure())?;
            let wanted = |entity: &String| self.arguments.entity.is_empty() || self.arguments.entity.contains(entity);
            let entities: Vec<String> = entities.into_iter().filter(wanted).collect();
            left.retain(|entity| !entities.contains(entity));
            if !entities.is_empty() {
                report.streams.push(self.compare(&inspector, entities).await.map_err(|error| error.failure())?);
            }
        }
        if let Some(entity) = left.first() {
            return Err(ReconcileError::NotCarried((*entity).clone()).into());
        }
        if report.streams.is_empty() {
            return Err(ReconcileError::Nothing.into());
        }
        Ok(report)
    }

    fn inspector(&self, stream: &StreamConfig) -> Inspector {
        let (prefix, org, topic) = (self.kafka.topic_prefix.clone(), self.org.clone(), stream.topic.clone());
        let polls = polls_of(&self.config.polls, &self.config.streams, &topic);
        let descriptions =
            Descriptions::new(self.rest.clone(), stream.fields.clone(), settings::policies(&self.config.policies));
        Inspector {
            reader: RecordReader::new(self.rest.clone(), descriptions),
            kafka: self.kafka.clone(),
            identity: StreamIdentity { prefix, org, topic },
            polls,
            most_absent: self.config.gaps.most_absent,
            bulk_from: self.config.gaps.bulk_from,
            api_share: None,
        }
    }

    /// Compares the objects of one stream. What cannot be compared is told, and does not keep the others from it.
    async fn compare(&self, inspector: &Inspector, entities: Vec<String>) -> Result<StreamReport, Unable> {
        let extent =
            if self.arguments.full { Extent::Full } else { Extent::Since(self.arguments.since.unwrap_or(SINCE)) };
        let (mut compared, mut unable, mut stands) = (Vec::new(), Vec::new(), None);
        for entity in entities {
            let progress = Progress::of(&entity);
            let outcome = async {
                let standing = stands.insert(standing(&self.kafka, &inspector.identity).await?);
                inspector.inspect(&entity, extent, standing, |listed| progress.show(listed)).await
            };
            let outcome = outcome.await;
            progress.end();
            match outcome {
                Ok(inspected) => compared.push(inspected),
                Err(error) => unable.push((entity, error.failure())),
            }
        }
        let found = compared.iter().any(|inspected| !inspected.findings.is_empty());
        let repaired =
            if self.arguments.repair && found { Some(self.repair(inspector, &compared).await?) } else { None };
        let now = self.rest.session().salesforce_now();
        let topic = inspector.identity.topic.clone();
        Ok(StreamReport { topic, standing: stands, now, entities: compared, unable, repaired })
    }

    async fn repair(&self, inspector: &Inspector, compared: &[Inspected]) -> Result<Repair, Unable> {
        let identity = &inspector.identity;
        let open = OpenEntries::read(&self.kafka, identity).await?;
        let by = RunIdentity::of_this_process().run_id;
        let mut all = Repair::default();
        for inspected in compared {
            let one = repair(&self.kafka, identity, &by, inspected, &open).await?;
            all.entries += one.entries;
            all.records += one.records;
            all.open_already += one.open_already;
            all.left += one.left;
        }
        Ok(all)
    }
}

/// A line on the terminal of somebody who waits.
struct Progress<'a> {
    entity: &'a str,
    shown: bool,
}

impl<'a> Progress<'a> {
    fn of(entity: &'a str) -> Self {
        Self { entity, shown: std::io::stderr().is_terminal() }
    }

    fn show(&self, listed: u64) {
        if self.shown {
            let mut stderr = std::io::stderr();
            let _ = write!(stderr, "\r{}: {listed} records listed", self.entity).and_then(|()| stderr.flush());
        }
    }

    fn end(&self) {
        if self.shown {
            // The line makes room for what is printed.
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn length(text: &str) -> Result<TimeDelta, String> {
    let length = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let length = TimeDelta::from_std(length).map_err(|error| error.to_string())?;
    if length < TimeDelta::minutes(11) {
        return Err("what was changed in the last ten minutes is not judged, so more is expected".to_owned());
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_not_judged_at_all_is_refused() {
        assert_eq!(length("24h"), Ok(TimeDelta::hours(24)));
        for refused in ["10min", "0s", "soon", "-1h"] {
            assert!(length(refused).is_err(), "{refused}");
        }
    }
}

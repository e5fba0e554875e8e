//! The brokers, the topics and the rights there.

use std::time::Duration;

use crate::config::Config;
use crate::doctor::fault::CheckError;
use crate::doctor::finding::{Area, Outcome, Report};
use crate::identity::{OrgId, TopicKind};
use crate::kafka::{
    KafkaError, KafkaSettings, Rehearsal, Severity, StreamIdentity, TopicReport, TopicRole, TopicState,
    broker_protocol, inspect_topic, ping,
};
use crate::pipeline::context::{dead_letters_topic, ledger_topic};
use crate::pipeline::settings;

const AREA: Area = Area::Kafka;

/// How long one question may take; a service has the patience of `kafka.call_timeout`, somebody who waits has not.
const PATIENCE: Duration = Duration::from_secs(8);

/// The oldest brokers whose producers get a new epoch after an error in place of an end (KIP-360).
const OLDEST: (u32, u32) = (2, 5);

/// A topic that the streams write to.
struct Output {
    name: String,
    role: TopicRole,
}

/// Looks at the cluster. Gives what to reach it with, if it answers. `org` names the checkpoint topics.
pub async fn examine(config: &Config, org: Option<&OrgId>, report: &mut Report<'_>) -> Option<KafkaSettings> {
    let settings = match settings::kafka(&config.kafka) {
        Ok(settings) => KafkaSettings { call_timeout: settings.call_timeout.min(PATIENCE), ..settings },
        Err(failure) => {
            report.add(AREA, "brokers", Outcome::Failed(failure));
            skip(config, org, report, "[kafka] cannot be used");
            return None;
        }
    };
    let mut first = None;
    let brokers = match ping(&settings).await {
        Ok(info) => {
            first = info.first;
            let cluster = info.cluster_id.map(|id| format!(", cluster {id}")).unwrap_or_default();
            Outcome::Ok(format!("{}{cluster}", info.brokers.join(", ")))
        }
        Err(error) => Outcome::Failed(error.failure()),
    };
    if !report.add(AREA, "brokers", brokers) {
        skip(config, org, report, "no broker answers");
        return None;
    }
    report.add(AREA, "version", version(&settings, first).await);
    let mut looked_at = Vec::new();
    for output in outputs(config, org) {
        let state = inspect_topic(&settings, &output.name, output.role).await;
        let missing = matches!(state, Ok(TopicState::Creatable(_)));
        let sound = report.add(AREA, topic_check(&output), topic(state));
        let unusable = match (sound, missing) {
            (false, _) => Some("the topic is not as it has to be"),
            (true, true) => Some("the topic is not there yet"),
            (true, false) => None,
        };
        looked_at.push((output, unusable));
    }
    rehearse(&settings, &looked_at, report).await;
    Some(settings)
}

/// No request asks a broker for its version; its settings tell it up to Kafka 3.
async fn version(settings: &KafkaSettings, broker: Option<i32>) -> Outcome {
    let Some(broker) = broker else { return Outcome::Skipped("the cluster names no broker".to_owned()) };
    match broker_protocol(settings, broker).await {
        Ok(protocol) => judge_version(protocol.as_deref()),
        Err(error) => Outcome::Skipped(format!("the brokers do not tell: {error}")),
    }
}

/// `3.9-IV0` is Kafka 3.9.
fn judge_version(protocol: Option<&str>) -> Outcome {
    let number = |text: &str| -> Option<(u32, u32)> {
        let (major, rest) = text.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    match protocol.map(|text| (text, number(text))) {
        None => Outcome::Ok(
            "not told: Kafka 4 or later, another broker, or the right DescribeConfigs on the cluster is missing"
                .to_owned(),
        ),
        Some((text, Some(found))) if found < OLDEST => Outcome::warning(
            format!(
                "The brokers speak the protocol of Kafka {text}, and transactions that survive a broker's restart came with 2.5"
            ),
            "Upgrade the brokers, or raise `inter.broker.protocol.version` if they are newer than it says; the tests run against 3.9.",
        ),
        Some((text, _)) => Outcome::Ok(format!("Kafka, protocol {text}")),
    }
}

fn topic_check(output: &Output) -> String {
    format!("topic {}", output.name)
}

fn write_check(output: &Output) -> String {
    format!("write {}", output.name)
}

fn skip(config: &Config, org: Option<&OrgId>, report: &mut Report<'_>, because: &str) {
    let outputs = outputs(config, org);
    report.skip(AREA, ["version"], because);
    report.skip(AREA, outputs.iter().map(topic_check), because);
    report.skip(AREA, ["transactions"], because);
    report.skip(AREA, outputs.iter().filter(|output| may_be_rehearsed(output)).map(write_check), because);
}

/// Whose names are known before any event comes; channels deliver entities under names that only their events tell.
fn outputs(config: &Config, org: Option<&OrgId>) -> Vec<Output> {
    let prefix = &config.kafka.topic_prefix;
    let mut outputs = Vec::new();
    for stream in &config.streams {
        if let TopicKind::Entity(entity) | TopicKind::PlatformEvent(entity) = stream.topic.kind() {
            outputs.push(Output { name: format!("{prefix}.{entity}"), role: TopicRole::Entity });
        }
        if stream.messages {
            outputs.push(Output { name: format!("{prefix}.ConversationEntry"), role: TopicRole::Conversation });
        }
    }
    outputs.push(Output { name: ledger_topic(prefix), role: TopicRole::Gaps });
    outputs.push(Output { name: dead_letters_topic(prefix), role: TopicRole::DeadLetters });
    for (stream, org) in config.streams.iter().filter_map(|stream| Some((stream, org?))) {
        let identity = StreamIdentity { prefix: prefix.clone(), org: org.clone(), topic: stream.topic.clone() };
        outputs.push(Output { name: identity.checkpoint_topic(), role: TopicRole::Checkpoints });
    }
    outputs
}

fn topic(state: Result<TopicState, KafkaError>) -> Outcome {
    match state {
        Ok(TopicState::Present(report)) => present(&report),
        Ok(TopicState::Creatable(spec)) => {
            let count = match spec.partitions {
                1.. => partitions(usize::try_from(spec.partitions).unwrap_or_default()),
                _ => "the cluster's number of partitions".to_owned(),
            };
            Outcome::Ok(format!("is not there yet; casewire may make it, with {count}"))
        }
        Err(error) => Outcome::Failed(error.failure()),
    }
}

/// The gravest finding first; the others stand behind it.
fn present(report: &TopicReport) -> Outcome {
    let told = |severity| report.findings.iter().filter(move |finding| finding.severity == severity);
    let join = |texts: Vec<&str>| texts.join("; ");
    let refusals: Vec<_> = told(Severity::Refusal).collect();
    if !refusals.is_empty() {
        return Outcome::failed(CheckError::Topic {
            what: join(refusals.iter().map(|finding| finding.what.as_str()).collect()),
            remedy: join(refusals.iter().map(|finding| finding.remedy.as_str()).collect()),
        });
    }
    let warnings: Vec<_> = told(Severity::Warning).collect();
    if !warnings.is_empty() {
        return Outcome::warning(
            join(warnings.iter().map(|finding| finding.what.as_str()).collect()),
            join(warnings.iter().map(|finding| finding.remedy.as_str()).collect()),
        );
    }
    let size = report.max_message_bytes.map(|bytes| format!(", batches of up to {bytes} bytes")).unwrap_or_default();
    Outcome::Ok(format!("{}{size}", partitions(report.partitions)))
}

fn partitions(count: usize) -> String {
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}

/// A checkpoint topic has one writer, its stream's.
fn may_be_rehearsed(output: &Output) -> bool {
    output.role != TopicRole::Checkpoints
}

/// A transaction to each topic, taken back, but for those that are unusable for the reason given.
async fn rehearse(settings: &KafkaSettings, looked_at: &[(Output, Option<&str>)], report: &mut Report<'_>) {
    let id = Rehearsal::transactional_id(&settings.topic_prefix);
    let targets = || looked_at.iter().filter(|(output, _)| may_be_rehearsed(output));
    let mut rehearsal = match Rehearsal::begin(settings).await {
        Ok(rehearsal) => Some(rehearsal),
        Err(error) => {
            report.add(AREA, "transactions", refused(&error));
            report.skip(AREA, targets().map(|(output, _)| write_check(output)), "transactions cannot be used");
            return;
        }
    };
    report.add(AREA, "transactions", Outcome::Ok(format!("may be used, tried as `{id}`")));
    for (output, unusable) in targets() {
        if let Some(because) = unusable {
            report.skip(AREA, [write_check(output)], because);
            continue;
        }
        let producer = match rehearsal.take() {
            Some(producer) => Ok(producer),
            // The one before was of no use after its error.
            None => Rehearsal::begin(settings).await,
        };
        let written = match producer {
            Ok(producer) => producer.write(&output.name).await.map(|()| rehearsal = Some(producer)),
            Err(error) => Err(error),
        };
        let outcome = match written {
            Ok(()) => Outcome::Ok("a record was written and taken back".to_owned()),
            Err(error) => refused(&error),
        };
        report.add(AREA, write_check(output), outcome);
    }
    if let Some(rehearsal) = rehearsal
        && let Err(error) = rehearsal.close().await
    {
        tracing::debug!(%error, "the rehearsal's producer was not closed");
    }
}

fn refused(error: &KafkaError) -> Outcome {
    match error {
        // Only another rehearsal has this id.
        KafkaError::Fenced => Outcome::warning(
            "Another `casewire doctor` under this topic prefix began meanwhile",
            "Run it again when the other one is done.",
        ),
        error => Outcome::Failed(error.failure()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_before_the_transactions_that_are_relied_on_are_warned_of() {
        for (protocol, word) in [
            (Some("3.9-IV0"), "ok"),
            (Some("2.5"), "ok"),
            (Some("2.4-IV1"), "warning"),
            (Some("0.11.0"), "warning"),
            (None, "ok"),
        ] {
            assert_eq!(judge_version(protocol).word(), word, "{protocol:?}");
        }
    }
}

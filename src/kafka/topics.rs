//! Creating topics that are missing, and checking those that are there.
//!
//! A topic that exists belongs to its operator and is never changed. What would lose data there is a finding.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigEntry, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::kafka::connection::ConnectionContext;
use crate::kafka::error::{Class, Flags, KafkaError, class_of, explain};
use crate::kafka::scan::{Reader, blocking};
use crate::kafka::settings::{Isolation, KafkaSettings, TopicDefaults, create};
use crate::kafka::stream::check_topic_name;
use crate::kafka::topic_findings::{Finding, findings, unreadable};

const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// Settings that only let a checkpoint topic be read sooner. Some managed clusters have bounds for them.
const HELPFUL: [&str; 3] = ["segment.bytes", "segment.ms", "min.cleanable.dirty.ratio"];

/// What a topic is for, which decides how it is made and what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TopicRole {
    /// Change records of one entity, or platform events: sparse, so each record counts.
    Entity,
    /// Messages of conversations: several records a key, each counts.
    Conversation,
    /// Events that could not be decoded, one a key.
    DeadLetters,
    /// The ledger of gaps, the last state of each by key.
    Gaps,
    /// The checkpoint of one stream.
    Checkpoints,
}

/// How a topic of a role is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Partitions.
    pub partitions: i32,
    /// Copies of each; -1 is the cluster's default.
    pub replication: i32,
    /// Topic configuration.
    pub config: Vec<(&'static str, &'static str)>,
}

impl TopicSpec {
    /// The same without what it can do without; `None` where there is nothing of that kind.
    fn needed_only(&self) -> Option<Self> {
        let mut spec = self.clone();
        spec.config.retain(|(property, _)| !HELPFUL.contains(property));
        (spec.config.len() < self.config.len()).then_some(spec)
    }
}

impl TopicRole {
    /// How a topic of this role is made.
    pub fn spec(self, defaults: &TopicDefaults) -> TopicSpec {
        let (partitions, mut config) = match self {
            // Kept unless the operator says otherwise, and never compacted: an update holds changed fields only.
            Self::Entity | Self::Conversation => {
                (defaults.partitions, vec![("cleanup.policy", "delete"), ("retention.ms", "-1")])
            }
            Self::DeadLetters | Self::Gaps => (defaults.partitions, vec![("cleanup.policy", "compact")]),
            // Only the last record matters. Small segments, since the one being written is never compacted.
            Self::Checkpoints => (
                1,
                vec![
                    ("cleanup.policy", "compact"),
                    ("segment.bytes", "4194304"),
                    ("segment.ms", "3600000"),
                    ("min.cleanable.dirty.ratio", "0.1"),
                ],
            ),
        };
        // A dead letter holds an event whole, and Salesforce's may have 1 MB before the headers; and the largest batch that
        // all topics take is the one that is sent.
        config.push((MAX_MESSAGE_BYTES, "4194304"));
        TopicSpec { partitions, replication: defaults.replication, config }
    }

    pub(crate) fn keeps_every_record(self) -> bool {
        matches!(self, Self::Entity | Self::Conversation)
    }
}

/// A topic that is there, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicReport {
    /// Whether it was made just now.
    pub created: bool,
    /// Partitions.
    pub partitions: usize,
    /// The largest batch of records in bytes that the topic takes, if it could be asked for.
    pub max_message_bytes: Option<usize>,
    /// What its operator should know.
    pub findings: Vec<Finding>,
}

/// Makes the topic if it is missing and may be made, and checks it. With [`TopicDefaults::check`] off its settings are
/// not asked for, which some managed clusters and stand-ins do not answer; only its partitions and copies are looked at.
///
/// An absent topic that may not be made is a [`KafkaError::TopicMissing`]. Takes at most
/// [`KafkaSettings::call_timeout`] for each of looking, making and checking.
pub async fn ensure_topic(settings: &KafkaSettings, name: &str, role: TopicRole) -> Result<TopicReport, KafkaError> {
    check_topic_name(name)?;
    let present = layout(settings, name).await?;
    let created = match present {
        Some(_) => false,
        None if settings.topics.create => {
            create_topic(settings, name, role.spec(&settings.topics), Creation::Real).await?;
            true
        }
        None => return Err(missing(settings, name, role)),
    };
    let layout = match present {
        Some(layout) if layout.led => layout,
        _ => appeared(settings, name).await?,
    };
    report(settings, name, role, layout, created).await
}

/// What stands of a topic before anybody writes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicState {
    /// It is there.
    Present(TopicReport),
    /// It is not there, and the brokers say that it may be made so.
    Creatable(TopicSpec),
}

/// As [`ensure_topic`], and makes nothing: a missing topic that may be made is put to the brokers as a question only.
///
/// # Errors
/// What [`ensure_topic`] would end with.
pub async fn inspect_topic(settings: &KafkaSettings, name: &str, role: TopicRole) -> Result<TopicState, KafkaError> {
    check_topic_name(name)?;
    match layout(settings, name).await? {
        Some(layout) if layout.led => report(settings, name, role, layout, false).await.map(TopicState::Present),
        Some(_) => {
            let reason = format!("`{name}`: a partition of it has no leader");
            Err(KafkaError::Unavailable { call: "looking at a topic", reason })
        }
        None if settings.topics.create => {
            let spec = create_topic(settings, name, role.spec(&settings.topics), Creation::Question).await?;
            Ok(TopicState::Creatable(spec))
        }
        None => Err(missing(settings, name, role)),
    }
}

fn missing(settings: &KafkaSettings, name: &str, role: TopicRole) -> KafkaError {
    KafkaError::TopicMissing { topic: name.to_owned(), command: create_command(name, &role.spec(&settings.topics)) }
}

/// A topic that is there, looked at.
async fn report(
    settings: &KafkaSettings,
    name: &str,
    role: TopicRole,
    layout: Layout,
    created: bool,
) -> Result<TopicReport, KafkaError> {
    let mut report = TopicReport { created, partitions: layout.partitions, ..TopicReport::default() };
    let described = if settings.topics.check { describe(settings, name).await } else { Ok(HashMap::new()) };
    let config = match described {
        Ok(config) => config,
        Err(Undescribed::Refused(reason)) => {
            report.findings.push(unreadable(name, &reason));
            HashMap::new()
        }
        Err(Undescribed::Failed(error)) => return Err(error),
    };
    report.max_message_bytes = config.get("max.message.bytes").and_then(|value| value.parse().ok());
    // What lies open anyway is looked at even where settings may not be: a checkpoint's order rests on one partition.
    report.findings.extend(findings(name, role, &layout, &config, settings.batch_limit()));
    Ok(report)
}

/// The largest batch that a topic takes, if it tells. Blocks for at most [`KafkaSettings::call_timeout`].
pub(crate) fn message_limit(settings: &KafkaSettings, topic: &str, runtime: &Handle) -> Option<usize> {
    numbers_of(settings, &[topic], MAX_MESSAGE_BYTES, runtime).ok()?.into_iter().next()?
}

/// The same of several topics at once, in their order.
pub(crate) async fn message_limits(
    settings: &KafkaSettings,
    topics: Vec<String>,
) -> Result<Vec<Option<usize>>, KafkaError> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    blocking(move || {
        let asked: Vec<&str> = topics.iter().map(String::as_str).collect();
        numbers_of(&settings, &asked, MAX_MESSAGE_BYTES, &runtime)
    })
    .await
}

/// How many replicas have to be in sync before each of these topics takes a write, as far as they tell. Blocks for at most
/// [`KafkaSettings::call_timeout`].
pub(crate) fn in_sync_needed(settings: &KafkaSettings, topics: &[&str], runtime: &Handle) -> Vec<Option<usize>> {
    numbers_of(settings, topics, "min.insync.replicas", runtime).unwrap_or_default()
}

/// One setting of several topics, asked for at once, in their order.
fn numbers_of(
    settings: &KafkaSettings,
    topics: &[&str],
    property: &str,
    runtime: &Handle,
) -> Result<Vec<Option<usize>>, KafkaError> {
    let (admin, context) = admin(settings)?;
    let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(settings.call_timeout));
    let described = runtime
        .block_on(admin.describe_configs(&asked, &options))
        .map_err(|error| explain("reading settings", &error, &context.connection))?;
    let number = |resource: ConfigResource| resource.get(property)?.value.as_ref()?.parse().ok();
    Ok(described.into_iter().map(|resource| resource.ok().and_then(number)).collect())
}

/// How a topic lies in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub partitions: usize,
    pub replication: usize,
    pub brokers: usize,
    /// Every partition has a leader.
    pub led: bool,
}

async fn layout(settings: &KafkaSettings, name: &str) -> Result<Option<Layout>, KafkaError> {
    let (settings, name) = (settings.clone(), name.to_owned());
    blocking(move || Reader::new(&settings)?.layout(&name)).await
}

/// Waits until a new topic is known and led: it takes brokers a moment to tell each other.
async fn appeared(settings: &KafkaSettings, name: &str) -> Result<Layout, KafkaError> {
    const BETWEEN: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + settings.call_timeout;
    loop {
        match layout(settings, name).await? {
            Some(layout) if layout.led => return Ok(layout),
            found if Instant::now() >= deadline => {
                let what =
                    if found.is_some() { "a partition has no leader" } else { "it was made but does not appear" };
                return Err(KafkaError::Unavailable {
                    call: "waiting for a topic",
                    reason: format!("`{name}`: {what}"),
                });
            }
            _ => tokio::time::sleep(BETWEEN).await,
        }
    }
}

/// Makes the client for one question to the cluster's administration. Dropping it waits for its thread, so it lives
/// on blocking threads only.
fn admin(settings: &KafkaSettings) -> Result<(AdminClient<ConnectionContext>, ConnectionContext), KafkaError> {
    let context = ConnectionContext::default();
    Ok((create(&settings.consumer(Isolation::ReadUncommitted), context.clone())?, context))
}

/// Whether a topic is made, or only whether it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Creation {
    Real,
    /// The brokers check everything, permissions included, and make nothing.
    Question,
}

/// Makes a topic, or asks whether it may be made; returns how it is made. Where the brokers do not take the settings, and
/// some of them only help, it is made without those.
async fn create_topic(
    settings: &KafkaSettings,
    name: &str,
    spec: TopicSpec,
    creation: Creation,
) -> Result<TopicSpec, KafkaError> {
    let (settings, name, runtime) = (settings.clone(), name.to_owned(), Handle::current());
    blocking(move || {
        let made = |spec: &TopicSpec| create_topic_blocking(&settings, &name, spec, creation, &runtime);
        match (made(&spec)?, spec.needed_only()) {
            (None, _) => Ok(spec),
            (Some(code), Some(needed)) => {
                tracing::warn!(topic = %name, error = %code, "topic is made without the settings that only help");
                made(&needed)?.map_or_else(|| Ok(needed.clone()), |code| Err(refused_topic(&name, &needed, code)))
            }
            (Some(code), None) => Err(refused_topic(&name, &spec, code)),
        }
    })
    .await
}

/// The code with which the brokers refuse the topic's settings, if they do.
fn create_topic_blocking(
    settings: &KafkaSettings,
    name: &str,
    spec: &TopicSpec,
    creation: Creation,
    runtime: &Handle,
) -> Result<Option<RDKafkaErrorCode>, KafkaError> {
    const CALL: &str = "creating a topic";
    let (admin, context) = admin(settings)?;
    let mut topic = NewTopic::new(name, spec.partitions, TopicReplication::Fixed(spec.replication));
    topic.config.extend(spec.config.iter().copied());
    let options = AdminOptions::new()
        .request_timeout(Some(settings.call_timeout))
        .operation_timeout(Some(settings.call_timeout))
        .validate_only(creation == Creation::Question);
    let results = runtime
        .block_on(admin.create_topics([&topic], &options))
        .map_err(|error| explain(CALL, &error, &context.connection))?;
    match results.into_iter().next() {
        // Another stream of ours, or another instance, was quicker.
        None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
            if creation == Creation::Real {
                tracing::info!(topic = name, partitions = spec.partitions, "created topic");
            }
            Ok(None)
        }
        Some(Err((_, code @ (RDKafkaErrorCode::PolicyViolation | RDKafkaErrorCode::InvalidConfig)))) => Ok(Some(code)),
        Some(Err((_, code))) => Err(refused_topic(name, spec, code)),
    }
}

fn refused_topic(name: &str, spec: &TopicSpec, code: RDKafkaErrorCode) -> KafkaError {
    const CALL: &str = "creating a topic";
    match class_of(code, Flags::default()) {
        Class::Unauthorized => KafkaError::Unauthorized { call: CALL, reason: format!("{code}, topic `{name}`") },
        Class::Again => KafkaError::Unavailable { call: CALL, reason: code.to_string() },
        _ => {
            let (shape, command) = ((spec.partitions, spec.replication), create_command(name, spec));
            KafkaError::not_created(name, shape, &code.to_string(), &command)
        }
    }
}

fn create_command(name: &str, spec: &TopicSpec) -> String {
    let config: String = spec.config.iter().map(|(key, value)| format!(" --config {key}={value}")).collect();
    let replication = match spec.replication {
        1.. => format!(" --replication-factor {}", spec.replication),
        _ => String::new(),
    };
    format!(
        "kafka-topics.sh --bootstrap-server BROKERS --create --topic {name} --partitions {}{replication}{config}",
        spec.partitions
    )
}

/// Why a topic's settings are not known.
enum Undescribed {
    /// The principal may not read them, or the broker cannot tell them.
    Refused(String),
    /// They could not be asked for.
    Failed(KafkaError),
}

async fn describe(settings: &KafkaSettings, name: &str) -> Result<HashMap<String, String>, Undescribed> {
    let (settings, name, runtime) = (settings.clone(), name.to_owned(), Handle::current());
    blocking(move || Ok(describe_blocking(&settings, &name, &runtime)))
        .await
        .unwrap_or_else(|error| Err(Undescribed::Failed(error)))
}

fn describe_blocking(
    settings: &KafkaSettings,
    name: &str,
    runtime: &Handle,
) -> Result<HashMap<String, String>, Undescribed> {
    settings_of(settings, &ResourceSpecifier::Topic(name), runtime)
}

/// What a broker says of its version, by the protocol between brokers, which is its own version unless somebody set it.
/// `Ok(None)` where it has no such setting (from Kafka 4 on) or the principal may not read it.
///
/// # Errors
/// When it does not answer.
pub async fn broker_protocol(settings: &KafkaSettings, broker: i32) -> Result<Option<String>, KafkaError> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    blocking(move || match settings_of(&settings, &ResourceSpecifier::Broker(broker), &runtime) {
        Ok(mut found) => Ok(found.remove("inter.broker.protocol.version")),
        Err(Undescribed::Refused(_)) => Ok(None),
        Err(Undescribed::Failed(error)) => Err(error),
    })
    .await
}

fn settings_of(
    settings: &KafkaSettings,
    resource: &ResourceSpecifier<'_>,
    runtime: &Handle,
) -> Result<HashMap<String, String>, Undescribed> {
    let (admin, context) = admin(settings).map_err(Undescribed::Failed)?;
    let undescribed = |error: &ClientError| {
        let failed = explain("reading settings", error, &context.connection);
        match (&failed, error.rdkafka_error_code()) {
            (KafkaError::Unauthorized { reason, .. }, _) => Undescribed::Refused(reason.clone()),
            (_, Some(RDKafkaErrorCode::UnsupportedFeature)) => Undescribed::Refused(error.to_string()),
            _ => Undescribed::Failed(failed),
        }
    };
    let options = AdminOptions::new().request_timeout(Some(settings.call_timeout));
    let results = runtime.block_on(admin.describe_configs([resource], &options)).map_err(|error| match error {
        ClientError::AdminOp(code) => undescribed(&ClientError::Global(code)),
        other => undescribed(&other),
    })?;
    match results.into_iter().next() {
        Some(Ok(resource)) => {
            let entry = |entry: ConfigEntry| entry.value.map(|value| (entry.name, value));
            Ok(resource.entries.into_iter().filter_map(entry).collect())
        }
        Some(Err(code)) => Err(undescribed(&ClientError::Global(code))),
        None => Ok(HashMap::new()),
    }
}

impl Reader {
    /// How the topic lies in the cluster, `None` if it does not exist.
    fn layout(&self, topic: &str) -> Result<Option<Layout>, KafkaError> {
        let Some(metadata) = self.metadata(topic)? else { return Ok(None) };
        let brokers = metadata.brokers().len();
        Ok(metadata.topics().iter().find(|found| found.name() == topic).map(|found| Layout {
            partitions: found.partitions().len(),
            replication: found.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0),
            brokers,
            led: !found.partitions().is_empty() && found.partitions().iter().all(|partition| partition.leader() >= 0),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_topic_can_do_without_what_only_helps_and_never_without_compaction() {
        let defaults = TopicDefaults { create: true, check: true, partitions: 3, replication: -1 };
        let needed = TopicRole::Checkpoints.spec(&defaults).needed_only().expect("something helps only");
        assert_eq!(needed.config, [("cleanup.policy", "compact"), ("max.message.bytes", "4194304")]);
        for role in [TopicRole::Entity, TopicRole::Conversation, TopicRole::DeadLetters, TopicRole::Gaps] {
            assert_eq!(role.spec(&defaults).needed_only(), None, "{role:?}");
        }
    }
}

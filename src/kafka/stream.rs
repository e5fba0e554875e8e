//! What names a stream in Kafka, and what names this run of casewire.

use crate::identity::{OrgId, TopicName};
use crate::kafka::error::KafkaError;

/// The longest topic name that Kafka takes.
const TOPIC_NAME_LIMIT: usize = 249;

/// What the keys of the records begin with that a stream keeps in its checkpoint topic beside the checkpoint.
pub const KEPT: &str = "kept/";

/// A stream: the change events of one Salesforce topic of one org, under one prefix.
///
/// Everything by which Kafka tells streams apart is derived here and nowhere else, and only from
/// *what is written*: never from a host, a pod or an attempt, since a name with one of those in it
/// would not fence a predecessor that is still alive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamIdentity {
    /// The topic prefix of the configuration.
    pub prefix: String,
    /// The Salesforce organisation.
    pub org: OrgId,
    /// The Salesforce topic.
    pub topic: TopicName,
}

impl StreamIdentity {
    /// The `transactional.id` under which the stream's records are written.
    pub fn transactional_id(&self) -> String {
        format!("{}.{}.{}", self.prefix, self.org, dotted(&self.topic))
    }

    /// The one-partition topic that holds this stream's checkpoint, and what the stream [keeps](KEPT) beside it.
    ///
    /// A topic a stream: an open transaction of another producer in the same partition would hide
    /// the newest checkpoint from a restart.
    pub fn checkpoint_topic(&self) -> String {
        format!("{}{}", checkpoint_topic_prefix(&self.prefix), self.checkpoint_name())
    }

    /// The key of the checkpoint record.
    pub fn checkpoint_key(&self) -> String {
        self.transactional_id()
    }

    /// Whether a key of the checkpoint topic is one of what a stream keeps beside its checkpoint.
    pub(crate) fn keeps(key: &[u8]) -> bool {
        key.starts_with(KEPT.as_bytes())
    }

    fn checkpoint_name(&self) -> String {
        format!("{}.{}", self.org, dotted(&self.topic))
    }

    /// Refuses a prefix from which no legal topic name can be made.
    pub fn check(&self) -> Result<(), KafkaError> {
        check_topic_name(&self.checkpoint_topic())
    }
}

/// What the names of all checkpoint topics under `prefix` begin with.
pub(crate) fn checkpoint_topic_prefix(prefix: &str) -> String {
    format!("{prefix}.checkpoints.")
}

/// The org whose checkpoint topic of `topic` this is, if it is one.
pub(crate) fn org_of_checkpoint_topic(name: &str, prefix: &str, topic: &TopicName) -> Option<OrgId> {
    let rest = name.strip_prefix(&checkpoint_topic_prefix(prefix))?;
    let (org, stream) = rest.split_once('.')?;
    if stream == dotted(topic) { org.parse().ok() } else { None }
}

/// `/data/CaseChangeEvent` as `data.CaseChangeEvent`: a slash is not legal in a Kafka topic name.
fn dotted(topic: &TopicName) -> String {
    topic.as_str().trim_start_matches('/').replace('/', ".")
}

/// Holds a name against Kafka's rule: up to 249 letters, digits, dots, hyphens and underscores.
pub fn check_topic_name(name: &str) -> Result<(), KafkaError> {
    let legal = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if legal && !name.is_empty() && name.len() <= TOPIC_NAME_LIMIT && name != "." && name != ".." {
        return Ok(());
    }
    Err(KafkaError::Configuration {
        what: format!("`{name}` is not a legal topic name: up to {TOPIC_NAME_LIMIT} letters, digits, `.`, `_` and `-`"),
    })
}

/// One run of casewire, by which a successor knows who wrote a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunIdentity {
    /// Random, new at every start of the process.
    pub run_id: String,
    /// The machine's name.
    pub host: String,
    /// casewire's version.
    pub version: &'static str,
}

impl RunIdentity {
    /// The identity of this process, with a new random id.
    pub fn of_this_process() -> Self {
        Self {
            run_id: uuid::Uuid::new_v4().to_string(),
            host: hostname::get().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(prefix: &str, topic: &str) -> StreamIdentity {
        StreamIdentity {
            prefix: prefix.into(),
            org: "00D8d00000AbCdEEAV".parse().expect("an org"),
            topic: topic.parse().expect("a topic"),
        }
    }

    #[test]
    fn a_stream_has_one_name_for_each_purpose() {
        let case = stream("salesforce", "/data/CaseChangeEvent");
        assert_eq!(case.transactional_id(), "salesforce.00D8d00000AbCdEEAV.data.CaseChangeEvent");
        assert_eq!(case.checkpoint_topic(), "salesforce.checkpoints.00D8d00000AbCdEEAV.data.CaseChangeEvent");
        assert!(case.check().is_ok());
        assert!(stream("sales force", "/data/CaseChangeEvent").check().is_err());
        assert!(stream(&"x".repeat(240), "/data/CaseChangeEvent").check().is_err());
    }

    #[test]
    fn the_org_of_a_checkpoint_topic_is_found_again() {
        let case = stream("salesforce", "/data/CaseChangeEvent");
        let name = case.checkpoint_topic();
        assert_eq!(org_of_checkpoint_topic(&name, "salesforce", &case.topic), Some(case.org.clone()));
        assert_eq!(org_of_checkpoint_topic(&name, "other", &case.topic), None);
        let contact = "/data/ContactChangeEvent".parse().expect("a topic");
        assert_eq!(org_of_checkpoint_topic(&name, "salesforce", &contact), None);
    }
}

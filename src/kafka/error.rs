//! What can fail in Kafka, and the one table of what to do then.

use std::time::Duration;

use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode};

use crate::failure::{Exit, Failure};
use crate::kafka::connection::{Connection, WentBack};

/// Something that failed in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// A newer producer has this transactional id, or the brokers timed our own transaction out.
    #[error(
        "The transactional producer is fenced: another instance took over, or the broker timed the transaction out"
    )]
    Fenced,
    /// A record that the topic, the brokers or the client do not take because of its size.
    #[error("Record {index} of the transaction, for topic `{topic}`, has {size} bytes; at most {limit} are taken")]
    TooLarge {
        /// Its place among the records of the commit, from 0.
        index: usize,
        /// The topic it was for.
        topic: String,
        /// Key, value and headers in bytes, uncompressed.
        size: usize,
        /// What is taken at most.
        limit: usize,
    },
    /// No broker answered in time.
    #[error("Kafka did not answer in time while {call}: {reason}")]
    Unavailable {
        /// What was being done.
        call: &'static str,
        /// librdkafka's words.
        reason: String,
    },
    /// A partition has fewer replicas in sync than it needs before it takes a write. The brokers answer otherwise.
    #[error(
        "Topic `{topic}` takes no writes: its partition {partition} has {in_sync} of {replicas} replicas in sync and \
         min.insync.replicas is {needed}"
    )]
    NotEnoughReplicas {
        /// The topic: an output, the checkpoint's, or that of the transactions' state.
        topic: String,
        /// The first of its partitions that is short.
        partition: i32,
        /// How many replicas are in sync; 0 while nobody leads the partition.
        in_sync: usize,
        /// How many it has in all.
        replicas: usize,
        /// How many it needs.
        needed: usize,
    },
    /// The producer is of no use any more; a new one goes on from the checkpoint.
    #[error("The transactional producer failed while {call}: {reason}")]
    Rebuild {
        /// What was being done.
        call: &'static str,
        /// librdkafka's words.
        reason: String,
    },
    /// An access control list lacks an entry.
    #[error("Kafka refused the permission while {call}: {reason}")]
    Unauthorized {
        /// What was being done.
        call: &'static str,
        /// Which permission, as far as Kafka tells.
        reason: String,
    },
    /// A password, mechanism or certificate is refused.
    #[error("Kafka refused the sign-in: {reason}")]
    Credentials {
        /// librdkafka's words.
        reason: String,
    },
    /// The brokers' certificate does not prove that they are who they should be.
    #[error("The brokers' certificate is not trusted: {reason}")]
    Untrusted {
        /// librdkafka's words, which are the same for an unknown authority and for a name that is not in the certificate.
        reason: String,
    },
    /// A topic is missing and may not be made.
    #[error("Topic `{topic}` does not exist, and is not to be created here")]
    TopicMissing {
        /// Its name.
        topic: String,
        /// The command that makes it as casewire would.
        command: String,
    },
    /// A topic is not as it has to be.
    #[error("Topic `{topic}`: {what}")]
    Topic {
        /// Its name.
        topic: String,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// A call did not return by its deadline, although librdkafka was told to.
    #[error("Kafka's client is stalled: {call} has not returned for {} s", after.as_secs())]
    Stalled {
        /// What was being done.
        call: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The checkpoint topic holds something that is not the checkpoint of this stream.
    #[error("The checkpoint cannot be used. {what}")]
    CheckpointInvalid {
        /// What it holds.
        what: String,
    },
    /// A property or name that Kafka does not take.
    #[error("The Kafka configuration is wrong: {what}")]
    Configuration {
        /// Which and why.
        what: String,
    },
    /// Calls in an order that is not allowed: a fault of casewire's own.
    #[error("The transactional producer was used wrongly while {call}: {reason}")]
    Misuse {
        /// What was being done.
        call: &'static str,
        /// librdkafka's words.
        reason: String,
    },
}

/// What to do about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Drop the writer and the batches in memory, wait, and open a new writer.
    Rebuild,
    /// Ask [`who_fenced`](crate::kafka::who_fenced): rebuild after an own time-out, stand by after a take-over.
    DecideFenced,
    /// Write the record with this index smaller or elsewhere. If the writer is not usable any more
    /// ([`TransactionalWriter::is_usable`](crate::kafka::TransactionalWriter::is_usable)), open a new one.
    SplitRecord(usize),
    /// It does not mend itself.
    Stop(Failure),
}

impl KafkaError {
    /// A topic that brokers do not make as it is configured; `command` makes it by hand.
    pub(crate) fn not_created(topic: &str, (partitions, replication): (i32, i32), why: &str, command: &str) -> Self {
        Self::Topic {
            topic: topic.to_owned(),
            what: format!("it could not be created with {partitions} partitions and replication {replication}: {why}"),
            remedy: format!(
                "Correct kafka.partitions and kafka.replication_factor, or create it by hand, with other settings if the brokers \
                 have bounds for them: {command}"
            ),
        }
    }

    /// A topic that lost what this producer had written to it.
    pub(crate) fn went_back(back: &WentBack) -> Self {
        let WentBack { topic, partition, before, now } = back;
        Self::Topic {
            topic: topic.clone(),
            what: format!(
                "records that were acknowledged are gone: its partition {partition} had reached offset {before}, and the next \
                 record would stand at {now}; nothing of the transaction is committed"
            ),
            remedy: "Somebody deleted the topic and it was made again, or a broker without the newest records leads it \
                     (unclean.leader.election.enable). Check its retention.ms and cleanup.policy; the stream goes on within 5 min. \
                     `casewire reconcile --full --repair` writes again what the organisation still has, and `casewire checkpoint \
                     set --at` re-delivers the events of the last 72 hours."
                .to_owned(),
        }
    }

    /// A topic that takes a record but not the batch around it.
    pub(crate) fn small_batches(topic: &str, limit: usize, batch_limit: usize) -> Self {
        Self::Topic {
            topic: topic.to_owned(),
            what: format!("it takes batches of {limit} bytes, casewire sends up to {batch_limit}"),
            remedy: format!(
                "Raise its max.message.bytes, or set `batch.size` in [kafka.properties] to less than {limit}."
            ),
        }
    }

    /// A checkpoint that is larger than its topic takes: it is no record that could be split or written elsewhere.
    pub(crate) fn large_checkpoint(topic: &str, size: usize) -> Self {
        Self::Topic {
            topic: topic.to_owned(),
            what: format!("the checkpoint has {size} bytes, more than is taken"),
            remedy: "Raise its max.message.bytes and `message.max.bytes` in [kafka.properties].".to_owned(),
        }
    }

    /// Its kind, one word of a few: whoever collects traces counts by it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Fenced => "fenced",
            Self::TooLarge { .. } => "too_large",
            Self::Unavailable { .. } => "unavailable",
            Self::NotEnoughReplicas { .. } => "not_enough_replicas",
            Self::Rebuild { .. } => "producer_given_up",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Credentials { .. } => "credentials",
            Self::Untrusted { .. } => "untrusted",
            Self::TopicMissing { .. } => "topic_missing",
            Self::Topic { .. } => "topic",
            Self::Stalled { .. } => "stalled",
            Self::CheckpointInvalid { .. } => "checkpoint_invalid",
            Self::Configuration { .. } => "configuration",
            Self::Misuse { .. } => "misuse",
        }
    }

    /// What to do.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unavailable { .. } | Self::NotEnoughReplicas { .. } | Self::Rebuild { .. } | Self::Stalled { .. } => {
                Verdict::Rebuild
            }
            Self::Fenced => Verdict::DecideFenced,
            Self::TooLarge { index, .. } => Verdict::SplitRecord(*index),
            _ => Verdict::Stop(self.failure()),
        }
    }

    /// The error as the end of a run, whatever its verdict.
    pub fn failure(&self) -> Failure {
        let (exit, remedy): (Exit, &str) = match self {
            Self::Fenced => (Exit::Fenced, "Run one instance for a stream, or leave the second one to stand by."),
            Self::TooLarge { .. } => (
                Exit::Configuration,
                "Raise the topic's max.message.bytes and `message.max.bytes` in [kafka.properties].",
            ),
            Self::Unavailable { .. } | Self::Stalled { .. } => (
                Exit::Unavailable,
                "Check kafka.brokers, security.protocol in [kafka.properties] and that the brokers run; \
                 `kcat -L -b BROKERS` tells whether they answer.",
            ),
            Self::NotEnoughReplicas { .. } => (
                Exit::Unavailable,
                "Bring the brokers that hold its replicas back: the stream goes on by itself, and nothing is lost meanwhile. \
                 `kafka-topics.sh --bootstrap-server BROKERS --describe --under-min-isr-partitions` lists them.",
            ),
            Self::Rebuild { .. } => (Exit::Temporary, "Run again: it goes on from the last checkpoint."),
            Self::Unauthorized { .. } => (
                Exit::NoPermission,
                "Grant the principal, with kafka-acls.sh: Write, Read, Describe, DescribeConfigs and Create on topics \
                 that begin with kafka.topic_prefix, Write and Describe on transactional ids that begin with it, and \
                 IdempotentWrite on the cluster.",
            ),
            Self::Credentials { .. } => (
                Exit::NoPermission,
                "Check sasl.mechanism, sasl.username, sasl.password, ssl.ca.location and the client certificate in \
                 [kafka.properties].",
            ),
            Self::Untrusted { .. } => (
                Exit::NoPermission,
                "Set ssl.ca.location in [kafka.properties] to the PEM file of the authority that signed the brokers' \
                 certificates, and name the brokers, in kafka.brokers and in their own advertised.listeners, as their \
                 certificates do; `openssl s_client -connect HOST:PORT -CAfile FILE -verify_hostname HOST` tells which of \
                 the two it is.",
            ),
            Self::TopicMissing { command, .. } => {
                let remedy = format!("Create it, or let casewire do so with kafka.create_topics = true: {command}");
                return Failure::new(Exit::Configuration, self.to_string(), remedy);
            }
            Self::Topic { remedy, .. } => (Exit::Configuration, remedy),
            Self::CheckpointInvalid { .. } => (
                Exit::Configuration,
                "Look at it with `casewire checkpoint show`; `casewire checkpoint set` writes another position.",
            ),
            Self::Configuration { .. } => (Exit::Configuration, "Correct [kafka] in the configuration."),
            Self::Misuse { .. } => (Exit::Software, "Report this with the log: it is a fault of casewire."),
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

/// What an error of librdkafka means for the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Fenced,
    Unauthorized,
    Credentials,
    TooLarge,
    MissingTopic,
    Configuration,
    /// The same call may be made again.
    Again,
    Rebuild,
    Misuse,
}

/// What librdkafka says of an error besides its code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub fatal: bool,
    pub requires_abort: bool,
    pub retriable: bool,
}

/// The class of an error. The codes that mean the same whatever the flags say come first; then fatal before
/// abortable before retriable, since the stronger statement holds.
pub(crate) fn class_of(code: RDKafkaErrorCode, flags: Flags) -> Class {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Class::Fenced,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => Class::Unauthorized,
        Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => Class::Credentials,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => Class::TooLarge,
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => Class::MissingTopic,
        Code::InvalidTransactionTimeout | Code::InvalidArgument | Code::InvalidTopic | Code::PolicyViolation => {
            Class::Configuration
        }
        _ if flags.fatal || flags.requires_abort => Class::Rebuild,
        Code::State => Class::Misuse,
        _ if flags.retriable => Class::Again,
        Code::OperationTimedOut
        | Code::RequestTimedOut
        | Code::QueueFull
        | Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::BrokerNotAvailable
        | Code::NetworkException
        | Code::NotController
        | Code::CoordinatorNotAvailable
        | Code::CoordinatorLoadInProgress
        | Code::NotCoordinator
        | Code::ThrottlingQuotaExceeded => Class::Again,
        _ => Class::Rebuild,
    }
}

/// The class of an error of the client library.
pub(crate) fn class_of_client(error: &ClientError) -> Class {
    match error {
        ClientError::Transaction(inner) => class_of(
            inner.code(),
            Flags {
                fatal: inner.is_fatal(),
                requires_abort: inner.txn_requires_abort(),
                retriable: inner.is_retriable(),
            },
        ),
        ClientError::AdminOp(code) => class_of(*code, Flags::default()),
        ClientError::ClientConfig(..) | ClientError::ClientCreation(_) | ClientError::Nul(_) => Class::Configuration,
        other => match other.rdkafka_error_code() {
            Some(code) => class_of(code, Flags::default()),
            None => Class::Rebuild,
        },
    }
}

/// An error of the client library as this room's. A time-out whose cause the connection knows is that cause.
pub(crate) fn explain(call: &'static str, error: &ClientError, connection: &Connection) -> KafkaError {
    let reason = match connection.last_error() {
        Some(last) => format!("{error} ({last})"),
        None => error.to_string(),
    };
    match class_of_client(error) {
        Class::Fenced => KafkaError::Fenced,
        Class::Unauthorized => KafkaError::Unauthorized { call, reason: error.to_string() },
        Class::Credentials => KafkaError::Credentials { reason },
        Class::Again => match connection.refused() {
            // OpenSSL's words when it is this side that does not accept the other's certificate.
            Some(refused) if refused.contains("certificate verify failed") => KafkaError::Untrusted { reason: refused },
            Some(refused) => KafkaError::Credentials { reason: refused },
            None => KafkaError::Unavailable { call, reason },
        },
        Class::Configuration => KafkaError::Configuration { what: format!("{error} while {call}") },
        Class::MissingTopic | Class::TooLarge | Class::Rebuild => KafkaError::Rebuild { call, reason },
        Class::Misuse => KafkaError::Misuse { call, reason },
    }
}

/// A sample for the page of errors.
#[cfg(test)]
pub(crate) fn topic_that_went_back() -> KafkaError {
    KafkaError::went_back(&WentBack { topic: "TOPIC".to_owned(), partition: 0, before: 5_000, now: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use RDKafkaErrorCode as Code;

    const FATAL: Flags = Flags { fatal: true, requires_abort: false, retriable: false };
    const ABORT: Flags = Flags { fatal: false, requires_abort: true, retriable: false };
    const RETRIABLE: Flags = Flags { fatal: false, requires_abort: false, retriable: true };
    const NONE: Flags = Flags { fatal: false, requires_abort: false, retriable: false };

    #[test]
    fn each_situation_of_a_transaction_has_its_class() {
        for (situation, code, flags, class) in [
            ("commit unanswered, records undelivered", Code::OperationTimedOut, NONE, Class::Again),
            ("commit unanswered, records delivered", Code::OperationTimedOut, RETRIABLE, Class::Again),
            ("another call is still in progress", Code::Conflict, RETRIABLE, Class::Again),
            ("a record timed out in the transaction", Code::Inconsistent, ABORT, Class::Rebuild),
            ("the coordinator forgot the producer", Code::UnknownProducerId, ABORT, Class::Rebuild),
            ("the topic's access list refuses", Code::TopicAuthorizationFailed, ABORT, Class::Unauthorized),
            ("the id's access list refuses", Code::TransactionalIdAuthorizationFailed, FATAL, Class::Unauthorized),
            ("a batch is too large", Code::MessageSizeTooLarge, ABORT, Class::TooLarge),
            ("fenced, as librdkafka says it", Code::Fenced, FATAL, Class::Fenced),
            ("fenced, as the coordinator says it", Code::ProducerFenced, FATAL, Class::Fenced),
            ("fenced, as a delivery says it", Code::InvalidProducerEpoch, NONE, Class::Fenced),
            (
                "aborted by the coordinator under transactions v2",
                Code::InvalidTransactionalState,
                FATAL,
                Class::Rebuild,
            ),
            ("sequence lost", Code::OutOfOrderSequenceNumber, FATAL, Class::Rebuild),
            ("fatal beats retriable", Code::OperationTimedOut, Flags { fatal: true, ..RETRIABLE }, Class::Rebuild),
            ("begin twice", Code::State, NONE, Class::Misuse),
            ("state after a fatal error", Code::State, FATAL, Class::Rebuild),
            ("transaction timeout above the broker's", Code::InvalidTransactionTimeout, FATAL, Class::Configuration),
            ("queue full", Code::QueueFull, NONE, Class::Again),
            ("something new", Code::Unknown, NONE, Class::Rebuild),
        ] {
            assert_eq!(class_of(code, flags), class, "{situation}");
        }
    }

    #[test]
    fn verdicts_tell_what_mends_itself_from_what_does_not() {
        let rebuild = KafkaError::Rebuild { call: "committing", reason: String::new() };
        assert_eq!(rebuild.verdict(), Verdict::Rebuild);
        assert_eq!(KafkaError::Fenced.verdict(), Verdict::DecideFenced);
        let large = KafkaError::TooLarge { index: 4, topic: "t".into(), size: 2, limit: 1 };
        assert_eq!(large.verdict(), Verdict::SplitRecord(4));
        let refused = KafkaError::Credentials { reason: "no".into() };
        let Verdict::Stop(failure) = refused.verdict() else { panic!("a wrong password does not mend itself") };
        assert_eq!(failure.exit, Exit::NoPermission);
        assert!(failure.remedy.contains("sasl.password"));
    }
}

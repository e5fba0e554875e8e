//! Why a stream stops, or something beside its events cannot go on, where neither Salesforce nor Kafka has an error of its
//! own for it: one table for the program and for docs/troubleshooting.md.

use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::identity::{OrgId, ReplayId, TopicName};
use crate::pipeline::ledger::GapCause;
use crate::position::EventKey;

/// Both name the log; what follows is different.
const REPORT: &str = "please report it with the log";
const BEGINS_AGAIN: &str = "please report it with the log; the stream begins again from its checkpoint";

/// What an operator has to decide or mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A stream with `on_gap = "stop"` had only begun when it ended, more than 72 h ago.
    #[error("Events of {topic} may have left retention: {detail}")]
    LeftRetention {
        /// The stream.
        topic: TopicName,
        /// What is known.
        detail: String,
    },
    /// The position of a stream with `on_gap = "stop"` is refused.
    #[error("Salesforce refused the stored position {replay_id} ({}): {message}", cause.name())]
    PositionRefused {
        /// The stream.
        topic: TopicName,
        /// The position.
        replay_id: ReplayId,
        /// What casewire makes of it.
        cause: GapCause,
        /// Salesforce's words.
        message: String,
    },
    /// A first run that is none: the output is there.
    #[error(
        "{topic} has no checkpoint, but {output} already holds records of this organisation: the checkpoint was reset, its topic \
         {checkpoint_topic} was deleted, or another stream wrote them"
    )]
    OutputWithoutCheckpoint {
        /// The stream.
        topic: TopicName,
        /// A topic with its records.
        output: String,
        /// Where the checkpoint should be.
        checkpoint_topic: String,
    },
    /// A first run that is none: another organisation ran here.
    #[error(
        "{topic} has no checkpoint of the organisation {org}, but one of {other}: was the sandbox refreshed, or are these the \
         credentials of another organisation?"
    )]
    OtherOrg {
        /// The stream.
        topic: TopicName,
        /// The organisation that was signed in to.
        org: OrgId,
        /// The one of the checkpoint.
        other: OrgId,
    },
    /// The checkpoint topic holds less than this process committed.
    #[error(
        "The checkpoint of {topic} is lost: this process committed number {committed} to {checkpoint_topic}, and {held}. The topic \
         was deleted, restored from a copy, or lost its end with a broker"
    )]
    CheckpointLost {
        /// The stream.
        topic: TopicName,
        /// The number of the last commit.
        committed: u64,
        /// Its topic.
        checkpoint_topic: String,
        /// What it holds now, in words.
        held: String,
        /// The last replay id that was committed, where it is a place to go on from.
        after: Option<ReplayId>,
    },
    /// An output topic went away under a running stream.
    #[error("Topic `{name}` was deleted while casewire was writing to it, and the records in it with it")]
    TopicDeleted {
        /// The topic.
        name: String,
        /// What makes it as configured.
        command: String,
    },
    /// A topic that would lose data as it is, in the words of what was found.
    #[error("{what}")]
    TopicUnfit {
        /// What is wrong with it.
        what: String,
        /// What mends it.
        remedy: String,
    },
    /// Told to end while no broker answered.
    #[error("{0}")]
    BrokerAway(String),
    /// A channel brings an object that a `[[poll]]` reads.
    #[error("{topic} delivers {entity}, which is polled")]
    Polled {
        /// The stream.
        topic: TopicName,
        /// The object.
        entity: String,
    },
    /// A channel brings an object that another stream writes.
    #[error("{topic} delivers {entity}, which the stream {owner} writes already")]
    Claimed {
        /// The stream.
        topic: TopicName,
        /// The object.
        entity: String,
        /// The stream that has it.
        owner: TopicName,
    },
    /// An event of a stream with `on_undecodable = "stop"`.
    #[error("The event {event} of {topic} cannot be decoded: {reason}")]
    Undecodable {
        /// The stream.
        topic: TopicName,
        /// The event.
        event: EventKey,
        /// Why not.
        reason: String,
    },
    /// More undecodable events than are believed.
    #[error("{many} could not be decoded; the last one: {reason}")]
    Flood {
        /// How many, in words.
        many: String,
        /// Why the last one could not.
        reason: String,
    },
    /// The orderly end had no end.
    #[error("The orderly end took longer than {0:?}")]
    EndTooLong(Duration),
    /// A stream's task panicked.
    #[error("A stream ended unexpectedly: {0}")]
    StreamEnded(String),
    /// A station's task panicked.
    #[error("A station of the stream ended unexpectedly: {0}")]
    StationEnded(String),
    /// A task beside the events ended.
    #[error("The task of the stream that {what} ended unexpectedly: {why}")]
    BesideEnded {
        /// What it does.
        what: &'static str,
        /// How it ended.
        why: String,
    },
    /// A task of a comparison of messages panicked.
    #[error("Reading for the comparison of messages ended unexpectedly: {0}")]
    ComparisonEnded(String),
    /// Properties of librdkafka that would break the guarantee.
    #[error("[kafka.properties] cannot be used: {0}")]
    Properties(String),
    /// A poll cannot begin with its snapshot yet.
    #[error("There are too many jobs for the first snapshot of {0} beside them")]
    NoRoomToPoll(String),
    /// An operator's snapshot cannot be opened yet.
    #[error("There are too many jobs for a snapshot of {0} beside them")]
    NoRoomForSnapshot(String),
    /// What an operator wants read cannot be asked for.
    #[error("No snapshot of {entity}: {what}")]
    NoSnapshot {
        /// The object.
        entity: String,
        /// The error of the query.
        what: String,
        /// Its own remedy, where it is not about the query.
        remedy: Option<String>,
    },
    /// A job that would give up record after record.
    #[error("More than {most} {entity} records cannot be read: hidden, in a form that is not known, or too large")]
    TooManyUnread {
        /// How many are too many.
        most: usize,
        /// The object.
        entity: String,
    },
}

impl StreamError {
    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        Failure::new(self.exit(), self.to_string(), self.remedy())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::LeftRetention { .. }
            | Self::PositionRefused { .. }
            | Self::BrokerAway(_)
            | Self::EndTooLong(_)
            | Self::NoRoomToPoll(_)
            | Self::NoRoomForSnapshot(_) => Exit::Temporary,
            Self::OutputWithoutCheckpoint { .. }
            | Self::OtherOrg { .. }
            | Self::CheckpointLost { .. }
            | Self::TopicDeleted { .. }
            | Self::TopicUnfit { .. }
            | Self::Polled { .. }
            | Self::Claimed { .. }
            | Self::Properties(_) => Exit::Configuration,
            Self::Undecodable { .. }
            | Self::Flood { .. }
            | Self::StreamEnded(_)
            | Self::StationEnded(_)
            | Self::ComparisonEnded(_)
            | Self::BesideEnded { .. } => Exit::Software,
            Self::NoSnapshot { .. } => Exit::Usage,
            Self::TooManyUnread { .. } => Exit::NoPermission,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::LeftRetention { topic, .. } | Self::PositionRefused { topic, .. } => format!(
                "the stream has on_gap = \"stop\": decide with `casewire checkpoint set --topic {topic} --start earliest`, \
                 which goes through all retained events and drops what the output holds"
            ),
            Self::OutputWithoutCheckpoint { topic, .. } => format!(
                "say from where to go on with `casewire checkpoint set --topic {topic}`: --at TIME takes the position from the \
                 output itself, --start earliest goes through all retained events and drops what the output holds"
            ),
            Self::OtherOrg { topic, org, other } => format!(
                "if {org} is meant to begin anew beside the old records, say so once with `casewire checkpoint set --topic {topic} \
                 --start earliest` (or latest); otherwise sign in to {other}"
            ),
            Self::CheckpointLost { topic, after, .. } => {
                let exact = after.as_ref().map_or_else(String::new, |id| {
                    format!("--replay-id {id} goes on after the last event that was committed; ")
                });
                format!(
                    "say from where to go on with `casewire checkpoint set --topic {topic}`: {exact}--start earliest goes \
                     through all retained events and drops what the output holds"
                )
            }
            Self::TopicDeleted { command, .. } => format!(
                "make it again with its settings, and the stream goes on within five minutes with the event at which it \
                 stopped, or restart casewire, which makes it as configured: {command}. What it held does not come again: \
                 take it from a copy, or let consumers read what they need from Salesforce"
            ),
            Self::TopicUnfit { remedy, .. } => remedy.clone(),
            Self::Polled { entity, .. } => {
                format!("remove the [[poll]] of {entity} from the configuration: its events tell more, and sooner")
            }
            Self::Claimed { entity, owner, .. } => format!(
                "let one of the two carry {entity}: take it off the channel (Setup > Integrations > Change Data Capture, or the \
                 PlatformEventChannelMember), or remove the stream {owner} from the configuration"
            ),
            Self::NoSnapshot { remedy: Some(remedy), .. } => remedy.clone(),
            other => other.fixed_remedy().to_owned(),
        }
    }

    /// Of those that name nobody in it.
    fn fixed_remedy(&self) -> &'static str {
        match self {
            Self::BrokerAway(_) => "run again when the broker is reachable",
            Self::Undecodable { .. } => {
                "set on_undecodable = \"dead_letter\" on the stream to keep its bytes and go on"
            }
            Self::Flood { .. } => {
                "read the newest records of the dead-letters topic: their reason and schema_id headers tell whether a newer \
                 casewire is needed; the stream goes on by itself once it decodes again"
            }
            Self::EndTooLong(_) => "nothing is lost: the next start goes on from the last committed position",
            Self::StationEnded(_) => "please report it with the log; the stream is tried again from its checkpoint",
            Self::BesideEnded { .. } => BEGINS_AGAIN,
            Self::Properties(_) => "correct or remove these properties",
            Self::NoRoomToPoll(_) => "nothing to do: it is opened when some of them have ended",
            Self::NoRoomForSnapshot(_) => "ask again when some of them have ended",
            Self::NoSnapshot { .. } => {
                "check the object's name and the condition: it is what stands behind WHERE in SOQL, such as `IsClosed = false`"
            }
            Self::TooManyUnread { .. } => {
                "read the log of this job; Setup > Permission Sets > the integration user's set > Object Settings: grant View All Records"
            }
            _ => REPORT,
        }
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Self {
        error.failure()
    }
}

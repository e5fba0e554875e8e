//! What is wrong with a Subscribe call where Salesforce did not say so itself.

use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::identity::TopicName;
use crate::salesforce::intake::Placeless;

/// Found by casewire, not told by the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallFault {
    /// GetTopic says that the user cannot subscribe.
    #[error("The signed-in user may not subscribe to {0}")]
    MayNotSubscribe(TopicName),
    /// The position is refused; what follows is the stream's to decide.
    #[error("{0}")]
    PositionRefused(String),
    /// An event that cannot be gone on from: taking it would make an empty id the position, dropping it would lose it.
    #[error("Salesforce delivered an event of {topic} {reason}")]
    Placeless {
        /// The topic.
        topic: TopicName,
        /// What its id lacks.
        reason: Placeless,
    },
    /// Neither events nor keepalives.
    #[error("The Pub/Sub API was silent for {0:?} although events were asked for")]
    Silence(Duration),
    /// More than was asked for.
    #[error("The Pub/Sub API sent {0} events that were not asked for; the call was ended")]
    Overrun(u32),
}

impl CallFault {
    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let (exit, remedy) = match self {
            Self::MayNotSubscribe(_) => (
                Exit::NoPermission,
                "Setup > Permission Sets > the integration user's set > Object Settings: grant \"View All Records\" on the \
                 object (\"View All Data\" for a channel of all entities); a change takes up to ten minutes",
            ),
            Self::PositionRefused(_) => (Exit::Temporary, ""),
            Self::Placeless { .. } => (
                Exit::Software,
                "Nothing was taken beyond the event before it. Check that `endpoint` is Salesforce's; if it is, report it to Salesforce Support.",
            ),
            Self::Silence(_) => (
                Exit::Unavailable,
                "Nothing to do if it happens once. If it repeats, a firewall or proxy drops idle connections: allow HTTP/2 to the endpoint on port 443.",
            ),
            Self::Overrun(_) => (
                Exit::Unavailable,
                "Nothing is lost: the stream goes on after the last event that was taken. Check that `endpoint` is Salesforce's; if it \
                 is, report it to Salesforce Support.",
            ),
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

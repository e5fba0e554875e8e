//! Why nothing can be said about an object.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::failure::{Exit, Failure};
use crate::identity::TopicName;
use crate::kafka::KafkaError;
use crate::salesforce::bulk::BulkError;
use crate::salesforce::rest::RestError;

/// Why a comparison came to no end.
#[derive(Debug, thiserror::Error)]
pub enum Unable {
    /// Salesforce cannot be asked, or says no.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// A listing over Bulk did not come to its end.
    #[error(transparent)]
    Bulk(BulkError),
    /// What Kafka holds cannot be read, or the ledger not be written.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The stream has carried nothing yet.
    #[error("{0} has no position yet, so nothing says up to when Kafka should hold what the org has")]
    NoPosition(TopicName),
    /// The stream stands before the time that is to be looked at.
    #[error(
        "{topic} is behind: it stands at {}, and nothing that was changed later than ten minutes before is judged",
        position.to_rfc3339_opts(SecondsFormat::Secs, true)
    )]
    Behind {
        /// The stream.
        topic: TopicName,
        /// Salesforce's time of its position.
        position: DateTime<Utc>,
    },
    /// Other clients need the rest of the org's API requests.
    #[error("{used} % of the org's API requests of 24 hours are used")]
    Share {
        /// In percent.
        used: u64,
    },
    /// So many records are missing that the user may have lost the right to see them.
    #[error(
        "This looks like lost access: {absent} of the {held} {entity} records that Kafka holds are in no query of the org. \
         None is taken for deleted"
    )]
    LostAccess {
        /// The object.
        entity: String,
        /// Missing ones.
        absent: u64,
        /// All that Kafka holds.
        held: u64,
    },
}

impl From<BulkError> for Unable {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::Rest(error) => Self::Rest(error),
            error => Self::Bulk(error),
        }
    }
}

impl Unable {
    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let (exit, remedy) = match self {
            Self::Rest(error) => return error.failure(),
            Self::Bulk(error) => return error.failure(),
            Self::Kafka(error) => return error.failure(),
            Self::NoPosition(_) => (Exit::Temporary, "start the stream, and compare once it has had a message"),
            Self::Behind { .. } => (
                Exit::Temporary,
                "let the stream catch up (see `casewire checkpoint show`), or look further back with --since",
            ),
            Self::Share { .. } => {
                (Exit::Temporary, "nothing to do: it is tried again; `gaps.api_share` says from when on it waits")
            }
            Self::LostAccess { .. } => (
                Exit::NoPermission,
                "grant \"View All Records\" on the object: Setup > Permission Sets > the integration user's set > Object Settings; if \
                 the records were deleted on purpose, raise `gaps.most_absent`",
            ),
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

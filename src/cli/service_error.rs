//! What commands fail with that leave their work to the running service, and do it themselves where none runs: the other part of
//! the table of [`error`](crate::cli::error).

use reqwest::StatusCode;

use crate::cli::error::{REPORT, with_failure};
use crate::failure::{Exit, Failure};
use crate::identity::TopicName;

with_failure!(ServiceError, SnapshotError,);

/// A command that leaves its work to the running service: `casewire snapshot`, and `casewire reconcile` for messages.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// `--service` leads nowhere.
    #[error("No casewire answers at {0}")]
    NoService(String),
    /// Only a service can be told to end something.
    #[error("No service runs here that could be asked")]
    Nobody,
    /// The service cannot be asked without it.
    #[error("A service runs at {0}, and the configuration has no admin.token to ask it")]
    NoToken(String),
    /// Nobody knows whether it took the request.
    #[error("The service at {address} did not answer: {reason}")]
    NoAnswer { address: String, reason: String },
    /// In the service's own words.
    #[error("{reasons}")]
    Refused { reasons: String, remedy: String },
    /// The same, and it may do it later or elsewhere.
    #[error("{reasons}")]
    NotNow { reasons: String, remedy: String },
    /// The same because of the token.
    #[error("{reasons}")]
    Forbidden { reasons: String, remedy: String },
    /// The one that runs elsewhere has to be asked, not replaced.
    #[error(
        "{host} (run {run_id}) wrote to {topic} {seconds} s ago and does not answer here, so {objects} is not read beside it"
    )]
    Beside { host: String, run_id: String, topic: TopicName, seconds: i64, objects: String },
}

impl ServiceError {
    /// A refusal by its code, in the service's own words.
    pub fn refused(code: StatusCode, reasons: String, remedy: String) -> Self {
        match code.as_u16() {
            401 | 403 => Self::Forbidden { reasons, remedy },
            503 => Self::NotNow { reasons, remedy },
            _ => Self::Refused { reasons, remedy },
        }
    }

    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::NoService(_) => (Exit::Unavailable, "check --service and admin.listen of the service"),
            Self::Nobody => (Exit::Unavailable, "name it with --service, or set admin.listen"),
            Self::NoToken(_) => (
                Exit::Configuration,
                "set admin.token_file for the service and for this command, and restart the service",
            ),
            Self::NoAnswer { .. } => (Exit::Temporary, "see its log and its /status before asking again"),
            Self::Refused { remedy, .. } => (Exit::Usage, remedy),
            Self::NotNow { remedy, .. } => (Exit::Temporary, remedy),
            Self::Forbidden { remedy, .. } => (Exit::NoPermission, remedy),
            Self::Beside { .. } => (
                Exit::Temporary,
                "ask it with --service URL, for which its configuration has to have admin.listen and admin.token_file; or, if it has \
                 ended, wait four minutes, or add --take-over",
            ),
        }
    }
}

/// `casewire snapshot`, when the streams are the command's own.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A panic of the command's own streams.
    #[error("The streams ended unexpectedly: {0}")]
    Ended(String),
    /// It came to its end without them.
    #[error("{records} records of {entity} could not be read; they are in the gap ledger")]
    Unread { records: u64, entity: String },
    /// It was under way, and then it was nowhere.
    #[error("It is not known how the snapshot of {0} ended: the service began again meanwhile")]
    Lost(String),
}

impl SnapshotError {
    fn advice(&self) -> (Exit, &str) {
        match self {
            Self::Ended(_) => (Exit::Software, REPORT),
            Self::Unread { .. } => (Exit::NoPermission, "casewire gaps --open names them"),
            Self::Lost(_) => (Exit::Temporary, "its log says so: `snapshot ended`"),
        }
    }
}

//! What the admin port says no with: one table for its answers, for the commands that ask it and for docs/troubleshooting.md.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::identity::TopicName;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[error("The admin port {address} cannot be opened: {error}")]
pub struct AdminError {
    pub(crate) address: SocketAddr,
    pub(crate) error: std::io::Error,
}

impl AdminError {
    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        Failure::new(Exit::Unavailable, self.to_string(), "set admin.listen to a free address")
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        error.failure()
    }
}

/// Why a request is not answered, or nothing is done for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denial {
    /// A browser was made to take this machine for another one.
    #[error("this port listens on loopback and is not known by the name that the request has for it")]
    ForeignName,
    /// A page of somebody else sent it.
    #[error("the request comes from a page of another origin")]
    ForeignPage,
    /// A form could have sent it.
    #[error("only JSON is taken")]
    NotJson,
    /// Nothing is done for anybody.
    #[error("this service has no admin.token, so it does nothing for anybody")]
    NoToken,
    /// Or none was shown.
    #[error("the token is not that of admin.token")]
    WrongToken,
    /// All places are taken.
    #[error("{0} listeners are connected already")]
    Full(usize),
    /// Of a pause.
    #[error("the body is not what is expected: {0}")]
    PauseBody(String),
    /// None of this process.
    #[error("there is no stream of {topic}")]
    NoStream {
        /// What was asked for.
        topic: String,
        /// What there is.
        known: String,
    },
    /// A standby asks for nothing.
    #[error("{0} stands by here: there is nothing to pause")]
    StandsBy(TopicName),
    /// Of a snapshot.
    #[error("The body is not what is expected: {0}")]
    SnapshotBody(String),
    /// Of a comparison.
    #[error("The body is not what is expected: {0}")]
    ComparisonBody(String),
    /// Of something else than messages.
    #[error("{0} is compared by the command `casewire reconcile` itself")]
    ComparedByCommand(String),
    /// Nobody fetches any.
    #[error("No stream of the configuration fetches messages, so there is nothing to compare of ConversationEntry")]
    NoMessages,
    /// Another instance has them.
    #[error("The stream {0} stands by here: what is written of messages is another instance's")]
    MessagesElsewhere(TopicName),
    /// Until somebody resumes it.
    #[error("The stream {0} is paused, and nothing new is begun")]
    Paused(TopicName),
    /// It carries nothing at the moment.
    #[error("The stream {topic} is {state}, so no messages can be compared")]
    NotComparing {
        /// The stream.
        topic: TopicName,
        /// Its state, as /status has it.
        state: String,
    },
    /// The runner of messages waits for its calls.
    #[error("The stream {topic} did not come to the comparison in {patience:?}")]
    NoTurnToCompare {
        /// The stream.
        topic: TopicName,
        /// How long was waited.
        patience: Duration,
    },
    /// No stream has an object.
    #[error("The configuration has no object to read")]
    NothingToRead,
    /// No stream would write it.
    #[error("No stream could write {0}")]
    NoWriter(String),
    /// The process has only begun.
    #[error("The stream {0} is not there yet")]
    NotThere(TopicName),
    /// It carries nothing at the moment.
    #[error("The stream {topic} is {state}, so {entity} cannot be read")]
    NotRunning {
        /// The stream.
        topic: TopicName,
        /// Its state, as /status has it.
        state: String,
        /// The object.
        entity: String,
    },
    /// Whoever had the request is gone.
    #[error("The stream {0} began again meanwhile")]
    BeganAgain(TopicName),
    /// A step of a job takes long.
    #[error("The stream {topic} did not come to it in {patience:?}")]
    NoTurn {
        /// The stream.
        topic: TopicName,
        /// How long was waited.
        patience: Duration,
    },
}

impl Denial {
    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let exit = match self {
            Self::ForeignName | Self::ForeignPage | Self::NoToken | Self::WrongToken => Exit::NoPermission,
            Self::Full(_)
            | Self::NotThere(_)
            | Self::NotRunning { .. }
            | Self::MessagesElsewhere(_)
            | Self::Paused(_)
            | Self::NotComparing { .. }
            | Self::BeganAgain(_)
            | Self::NoTurnToCompare { .. }
            | Self::NoTurn { .. } => Exit::Temporary,
            _ => Exit::Usage,
        };
        Failure::new(exit, self.to_string(), self.remedy())
    }

    fn remedy(&self) -> String {
        let remedy = match self {
            Self::ForeignName => "ask for 127.0.0.1 or localhost, or add the name to admin.hosts",
            Self::ForeignPage => "use the page of this port, or a command",
            Self::NotJson => "send Content-Type: application/json",
            Self::NoToken => "set admin.token_file, restart, and show the token: Authorization: Bearer …",
            Self::WrongToken => "show it as: Authorization: Bearer …",
            Self::Full(_) => "close a page, or ask again in a moment",
            Self::PauseBody(_) => "send {\"topic\": \"/data/CaseChangeEvent\"}",
            Self::NoStream { known, .. } => return format!("the streams of this process are: {known}"),
            Self::StandsBy(_) => "pause it at the instance that writes it; `by` in /status says which",
            Self::SnapshotBody(_) => "see docs/operating.md, \"Snapshots\"",
            Self::ComparisonBody(_) => "see docs/operating.md, \"Reconciliation\"",
            Self::ComparedByCommand(_) => "only ConversationEntry is asked of the service",
            Self::NoMessages => "set `messages = true` in the stream of /data/MessagingSessionChangeEvent",
            Self::MessagesElsewhere(_) => "ask the instance that writes it, with --service; `by` in /status says which",
            Self::Paused(_) => "resume it (POST /streams/resume), then ask again",
            Self::NotComparing { .. } => "ask again when it runs; `last_error` in /status says what it lacks",
            Self::NoTurnToCompare { .. } => "`messages.waits_for` of the stream in /status says what it waits for",
            Self::NothingToRead | Self::NoWriter(_) => {
                "name objects with --entity, and give the configuration a stream of change events to write them"
            }
            Self::NotThere(_) => "ask again in a moment",
            Self::NotRunning { .. } => "ask the instance that writes it, or ask again when the stream runs",
            Self::BeganAgain(_) => "ask again",
            Self::NoTurn { .. } => "see `jobs` in /status",
        };
        remedy.to_owned()
    }

    /// As HTTP has it; of those that an answer consists of.
    fn status(&self) -> StatusCode {
        match self {
            Self::ForeignName => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignPage | Self::NoToken => StatusCode::FORBIDDEN,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::NoStream { .. } => StatusCode::NOT_FOUND,
            Self::StandsBy(_) => StatusCode::CONFLICT,
            Self::PauseBody(_)
            | Self::SnapshotBody(_)
            | Self::NothingToRead
            | Self::NoWriter(_)
            | Self::ComparisonBody(_)
            | Self::ComparedByCommand(_)
            | Self::NoMessages => StatusCode::BAD_REQUEST,
            Self::Full(_)
            | Self::NotThere(_)
            | Self::NotRunning { .. }
            | Self::MessagesElsewhere(_)
            | Self::Paused(_)
            | Self::NotComparing { .. }
            | Self::BeganAgain(_)
            | Self::NoTurnToCompare { .. }
            | Self::NoTurn { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer: the reason and what mends it.
    pub fn response(&self) -> Response {
        let body = json!({ "reason": self.to_string(), "remedy": self.remedy() });
        (self.status(), Json(body)).into_response()
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        denial.failure()
    }
}

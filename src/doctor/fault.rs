//! What checks of `casewire doctor` find on their own account. Everything else that fails there is what a run would end with.

use chrono::{DateTime, SecondsFormat, Utc};

use crate::failure::{Exit, Failure};
use crate::salesforce::rest::RestError;
use crate::salesforce::verdict::ALLOCATION;

/// What to do about a certificate whose days are over, or soon will be.
pub(super) const NEW_PAIR: &str = "Make a new pair with `casewire keygen` in another directory, upload its certificate in Setup > External Client App \
     Manager > the app > Settings > OAuth Settings > Enable JWT Bearer Flow, then change `private_key_file` and `certificate_file`. \
     Uploading replaces the old certificate: do both in one go.";

/// A check that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// Somebody took too long.
    #[error("{who} did not answer within {seconds} s")]
    NoAnswer {
        /// Who was asked.
        who: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// `certificate_file` is something else.
    #[error("The certificate cannot be read: {0}")]
    Certificate(String),
    /// Its days are over.
    #[error("The certificate ({subject}) expired on {}", day(on))]
    Expired {
        /// Whose.
        subject: String,
        /// When.
        on: DateTime<Utc>,
    },
    /// Its days have not come.
    #[error("The certificate ({subject}) is not valid before {}", day(before))]
    NotYet {
        /// Whose.
        subject: String,
        /// When they come.
        before: DateTime<Utc>,
    },
    /// Something on the way opens TLS and speaks HTTP/1.1.
    #[error("{0} answers without HTTP/2, which the Pub/Sub API needs")]
    NoHttp2(String),
    /// No event is delivered until some of the last day's are a day old.
    #[error("The delivered events are used up: {0}")]
    NoDeliveriesLeft(String),
    /// `api_version`.
    #[error("The organisation has no API version {configured}; it serves {oldest} to {newest}")]
    ApiVersion {
        /// What the configuration says.
        configured: String,
        /// What there is, from here …
        oldest: String,
        /// … to here.
        newest: String,
    },
    /// Nobody can tell what was changed.
    #[error("{0} cannot be polled: it has no SystemModstamp or other time, so nobody can tell what was changed")]
    NotPollable(String),
    /// Hidden, or not there: the answer is the same.
    #[error("Records of {object} cannot be read: {error}")]
    Unreadable {
        /// The object.
        object: String,
        /// Salesforce's words.
        error: RestError,
    },
    /// A schema that is none.
    #[error("The event schema {id} cannot be read: {reason}")]
    Schema {
        /// Its id.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A topic that would lose data as it is, in the words of what was found.
    #[error("{what}")]
    Topic {
        /// What is wrong with it.
        what: String,
        /// What mends it.
        remedy: String,
    },
    /// Salesforce no longer has what follows.
    #[error("The position is {age} old, and Salesforce keeps events for 72 h: some are lost; {who}")]
    PositionLost {
        /// How old, in words.
        age: String,
        /// Who writes, or wrote, the stream.
        who: String,
    },
}

impl CheckError {
    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let (exit, remedy) = match self {
            Self::NoAnswer { .. } => (
                Exit::Unavailable,
                "Run it again; if it lasts, see https://status.salesforce.com for the org's instance.".to_owned(),
            ),
            Self::Certificate(_) => (
                Exit::Configuration,
                "Give the PEM file of the certificate that was uploaded to the External Client App.".to_owned(),
            ),
            Self::Expired { .. } => (Exit::Configuration, NEW_PAIR.to_owned()),
            Self::NotYet { .. } => (
                Exit::Configuration,
                "Check the clock of this machine; if it is right, wait, or make a new pair with `casewire keygen`.".to_owned(),
            ),
            Self::NoHttp2(_) => (
                Exit::Configuration,
                "Check `endpoint`: https://api.pubsub.salesforce.com:443. If it is right, a proxy that opens TLS does not pass \
                 HTTP/2: have the host exempted from inspection."
                    .to_owned(),
            ),
            Self::NoDeliveriesLeft(_) => (Exit::Unavailable, ALLOCATION.to_owned()),
            Self::ApiVersion { newest, .. } => {
                (Exit::Configuration, format!("Set `api_version = \"{newest}\"` in [salesforce]."))
            }
            Self::NotPollable(object) => (
                Exit::Configuration,
                format!("Remove the [[poll]] of {object}; `casewire snapshot --entity {object}` reads it as a whole."),
            ),
            Self::Unreadable { object, .. } => (
                Exit::NoPermission,
                format!(
                    "Setup > Permission Sets > the integration user's set > Object Settings > {object}: grant \"Read\" and \"View All \
                     Records\". If the object is a part of a product, as Messaging Session is, that has to be on in this organisation."
                ),
            ),
            Self::Schema { .. } => (Exit::Software, "Report it with the schema.".to_owned()),
            Self::Topic { remedy, .. } => (Exit::Configuration, remedy.clone()),
            Self::PositionLost { .. } => (
                Exit::Temporary,
                "Start casewire: it records the gap, goes on from the oldest event, and reads again what changed meanwhile (gaps.heal). \
                 Find out why nobody saw casewire_data_loss_seconds."
                    .to_owned(),
            ),
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        error.failure()
    }
}

fn day(at: &DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

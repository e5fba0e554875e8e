//! Why fetching waits, and for how long. What waits is kept, and never dropped for it.

use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::kafka::KafkaError;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::rest::{RestError, RestVerdict};

/// Between attempts of what mends itself.
pub(super) const LIMITS: BackoffLimits = BackoffLimits::constant(Duration::from_secs(1), Duration::from_secs(300));

/// Between attempts of what concerns one conversation or session. Each is a call of few.
pub(super) const ONE: BackoffLimits = BackoffLimits::constant(Duration::from_secs(15), Duration::from_secs(3600));

/// Between attempts of what somebody has to mend, mostly by clicks in Setup that nobody reports back.
const MENDED: Duration = Duration::from_secs(300);

/// Between looks at the API requests of the org.
const ALLOWANCE: Duration = Duration::from_secs(60);

/// Why nothing can be fetched, or one conversation not.
#[derive(Debug)]
pub(super) enum Setback {
    /// Sessions cannot be asked for.
    Sessions(RestError),
    /// Entries cannot be asked for.
    Entries(RestError),
    /// What was looked for in vain cannot be entered in the ledger.
    Ledger(KafkaError),
    /// Something that an operator mends.
    Stopped(Failure),
    /// Other clients need the rest of the org's API requests.
    Share {
        /// In percent.
        used: u64,
    },
    /// The attempt of the stream is over.
    Gone,
}

impl Setback {
    /// Whether only the conversation that was asked for is concerned.
    pub fn concerns_one(&self) -> bool {
        match self {
            // The call itself, or the conversation: not the user's rights, the limits or the network.
            Self::Entries(RestError::Refused { status: 400 | 404 | 410, .. }) => true,
            Self::Entries(error) => {
                matches!(error, RestError::Unexpected(_) | RestError::Path(_) | RestError::TooLong(_))
            }
            _ => false,
        }
    }

    /// How long to wait.
    pub fn wait(&self, backoff: &mut Backoff) -> Duration {
        match self {
            _ if self.concerns_one() => backoff.next_wait(),
            Self::Sessions(error) | Self::Entries(error) => match error.verdict() {
                RestVerdict::Pause(length) => length.max(LIMITS.minimum()),
                RestVerdict::RetryAfter(hint) => backoff.next_wait_at_least(hint),
                RestVerdict::QueryAnew | RestVerdict::NewToken | RestVerdict::AskForLess => backoff.next_wait(),
                RestVerdict::DescribeAnew | RestVerdict::Stop => MENDED,
            },
            Self::Ledger(_) => backoff.next_wait(),
            Self::Stopped(_) => MENDED,
            Self::Share { .. } => ALLOWANCE,
            Self::Gone => LIMITS.minimum(),
        }
    }

    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Sessions(error) => match error.verdict() {
                RestVerdict::Stop | RestVerdict::DescribeAnew => Failure::new(
                    Exit::NoPermission,
                    format!("Messaging sessions cannot be read, so no messages are fetched: {error}"),
                    "Setup > Permission Sets > the integration user's set > Object Settings: grant read access to Messaging \
                     Sessions and Conversations and to their fields; Messaging must be set up in the org (Setup > \
                     Messaging Settings)",
                ),
                _ => error.failure(),
            },
            Self::Entries(error @ RestError::Refused { code, .. }) if code == "REQUEST_LIMIT_EXCEEDED" => Failure::new(
                Exit::Unavailable,
                format!("The calls for messages of this hour are used up: {error}"),
                "nothing to do: messages are late and none is lost; lower `messages.calls_per_hour` if other programs of \
                 the same app and user ask too, or ask Salesforce for a higher limit",
            ),
            Self::Entries(error @ RestError::Refused { status: 403, .. }) => Failure::new(
                Exit::NoPermission,
                format!("Messages cannot be read: {error}"),
                "Setup > Permission Sets > the integration user's set > System Permissions: grant \"Access Conversation \
                 Entries\", and read access to Messaging Sessions and Conversations under Object Settings",
            ),
            Self::Entries(error @ RestError::Refused { status: 404 | 410, .. }) => Failure::new(
                Exit::Configuration,
                format!("A conversation is not there for the user, or this org does not have the resource: {error}"),
                "if it is so for every conversation, check `api_version` and that enhanced Messaging is set up in the org \
                 (Setup > Messaging Settings); a single one was deleted, or belongs to a channel that keeps no entries",
            ),
            Self::Entries(error) => error.failure(),
            Self::Ledger(error) => error.failure(),
            Self::Stopped(failure) => failure.clone(),
            Self::Share { used } => Failure::new(
                Exit::Unavailable,
                format!("{used} % of the org's API requests of 24 hours are used"),
                "nothing to do: messages are fetched when some are free again; `messages.api_share` says from when on \
                 they wait",
            ),
            Self::Gone => Failure::new(Exit::Temporary, "The stream begins again", ""),
        }
    }
}

/// A failure of each kind that has words of its own, for the page of errors.
#[cfg(test)]
pub(crate) fn one_of_each() -> Vec<Failure> {
    let refused = |status, code: &str| RestError::Refused {
        status,
        code: code.to_owned(),
        message: "MESSAGE".to_owned(),
        retry_after: None,
    };
    let samples = [
        Setback::Sessions(refused(400, "INVALID_TYPE")),
        Setback::Entries(refused(403, "REQUEST_LIMIT_EXCEEDED")),
        Setback::Entries(refused(403, "INSUFFICIENT_ACCESS")),
        Setback::Entries(refused(404, "NOT_FOUND")),
        Setback::Share { used: 80 },
    ];
    for sample in &samples {
        match sample {
            Setback::Sessions(_) | Setback::Entries(_) | Setback::Share { .. } => {}
            Setback::Ledger(_) | Setback::Stopped(_) | Setback::Gone => {}
        }
    }
    samples.iter().map(Setback::failure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> RestError {
        RestError::Refused { status, code: code.to_owned(), message: String::new(), retry_after: None }
    }

    #[test]
    fn one_conversation_waits_alone_and_limits_and_rights_concern_all() {
        let entries = |status, code| Setback::Entries(refused(status, code));
        let minutes = |setback: &Setback| setback.wait(&mut Backoff::new(LIMITS)).as_secs() / 60;
        for (setback, one, waits, says) in [
            (entries(404, "NOT_FOUND"), true, 0, "enhanced Messaging"),
            (entries(400, "ILLEGAL_QUERY_PARAMETER_VALUE"), true, 0, "Developer Guide"),
            (Setback::Entries(RestError::Unexpected("x".into())), true, 0, "api_version"),
            (entries(403, "REQUEST_LIMIT_EXCEEDED"), false, 15, "none is lost"),
            (entries(429, ""), false, 0, "status.salesforce.com"),
            (entries(403, "INSUFFICIENT_ACCESS"), false, 5, "Access Conversation Entries"),
            (entries(503, "SERVER_UNAVAILABLE"), false, 0, "status.salesforce.com"),
            (Setback::Sessions(refused(400, "INVALID_TYPE")), false, 5, "Messaging Sessions"),
            (Setback::Sessions(refused(400, "INVALID_FIELD")), false, 5, "Conversations"),
            (Setback::Sessions(refused(400, "QUERY_TIMEOUT")), false, 0, "Developer Guide"),
            (Setback::Share { used: 80 }, false, 1, "messages.api_share"),
        ] {
            assert_eq!((setback.concerns_one(), minutes(&setback)), (one, waits), "{setback:?}");
            assert!(setback.failure().remedy.contains(says), "{setback:?}: {}", setback.failure().remedy);
        }
    }
}

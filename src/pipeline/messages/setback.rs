//! Why fetching waits, and for how long. What waits is kept, and never dropped for it.

use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::rest::{RestError, RestVerdict};
use crate::salesforce::session::SessionError;

/// Between attempts of what mends itself.
pub(super) const LIMITS: BackoffLimits = BackoffLimits::constant(Duration::from_secs(1), Duration::from_secs(300));

/// Between attempts of what somebody has to mend, mostly by clicks in Setup that nobody reports back.
const MENDED: Duration = Duration::from_secs(300);

/// Between looks at the API requests of the org.
const ALLOWANCE: Duration = Duration::from_secs(60);

/// Whom a setback concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concern {
    /// Only the conversation that was asked for.
    One,
    /// That one or all of them: others show it (`doubt`).
    Perhaps,
    /// All of them.
    All,
}

/// Why nothing can be fetched, or one conversation not.
#[derive(Debug)]
pub(super) enum Setback {
    /// Sessions cannot be asked for.
    Sessions(RestError),
    /// Records of conversations and of who takes part in them cannot be asked for.
    Records(RestError),
    /// Entries cannot be asked for.
    Entries(RestError),
    /// The same over the Conversation Data API.
    Data(RestError),
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
    /// Whom it concerns.
    pub fn concerns(&self) -> Concern {
        let (Self::Entries(error) | Self::Data(error)) = self else { return Concern::All };
        match error {
            RestError::Unexpected(_) | RestError::Path(_) | RestError::TooLong(_) => Concern::One,
            // A time-out can be that of one long conversation.
            RestError::Unreachable(_) | RestError::Page(_) => Concern::Perhaps,
            RestError::Session(_) | RestError::Paused(_) => Concern::All,
            RestError::Refused { code, .. } if code == "REQUEST_LIMIT_EXCEEDED" => Concern::All,
            RestError::Refused { status: 401 | 429, .. } => Concern::All,
            // The call itself, or the conversation: not the user's rights, the limits or the network.
            RestError::Refused { status: 400 | 404 | 410, .. } => Concern::One,
            RestError::Refused { .. } => Concern::Perhaps,
        }
    }

    /// The least that everybody waits, whoever is concerned: what the server asked for.
    pub fn least_wait(&self) -> Duration {
        let hint = match self {
            Self::Entries(error) | Self::Data(error) => match error.verdict() {
                RestVerdict::RetryAfter(hint) => hint,
                _ => Duration::ZERO,
            },
            _ => Duration::ZERO,
        };
        hint.max(LIMITS.minimum())
    }

    /// How long to wait.
    pub fn wait(&self, backoff: &mut Backoff) -> Duration {
        match self {
            _ if self.concerns() == Concern::One => backoff.next_wait(),
            Self::Data(RestError::Refused { status: 401 | 403, .. }) => MENDED,
            Self::Sessions(error) | Self::Records(error) | Self::Entries(error) | Self::Data(error) => {
                match error.verdict() {
                    RestVerdict::Pause(length) => length.max(LIMITS.minimum()),
                    RestVerdict::RetryAfter(hint) => backoff.next_wait_at_least(hint),
                    RestVerdict::QueryAnew | RestVerdict::NewToken | RestVerdict::AskForLess => backoff.next_wait(),
                    RestVerdict::DescribeAnew | RestVerdict::Stop => MENDED,
                }
            }
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
            Self::Records(error) => match error.verdict() {
                RestVerdict::Stop | RestVerdict::DescribeAnew => Failure::new(
                    Exit::NoPermission,
                    format!("Records of conversations cannot be read, so only messages are written: {error}"),
                    "Setup > Permission Sets > the integration user's set > Object Settings: grant read access to \
                     Conversations and Conversation Participants and to their fields, or set `messages.records` to false",
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
            Self::Data(error) => over_data_api(error),
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
        Setback::Records(refused(400, "INVALID_TYPE")),
        Setback::Entries(refused(403, "REQUEST_LIMIT_EXCEEDED")),
        Setback::Entries(refused(403, "INSUFFICIENT_ACCESS")),
        Setback::Entries(refused(404, "NOT_FOUND")),
        Setback::Data(refused(401, "INVALID_TOKEN")),
        Setback::Data(refused(404, "NOT_FOUND")),
        Setback::Data(refused(429, "TOO_MANY_REQUESTS")),
        Setback::Share { used: 80 },
    ];
    for sample in &samples {
        match sample {
            Setback::Sessions(_) | Setback::Records(_) | Setback::Entries(_) | Setback::Data(_) => {}
            Setback::Share { .. } | Setback::Stopped(_) | Setback::Gone => {}
        }
    }
    samples.iter().map(Setback::failure).collect()
}

/// What is wrong with the Conversation Data API, which has an app, a sign-in and a limit of its own.
fn over_data_api(error: &RestError) -> Failure {
    match error {
        RestError::Session(SessionError::Refused { .. } | SessionError::WrongOrg { .. }) => Failure::new(
            Exit::NoPermission,
            format!("The app of [messages.data_api] cannot sign in, so no messages are fetched: {error}"),
            "Setup > External Client App Manager > the app of [messages.data_api] > Settings > OAuth Settings: enable the \
             Client Credentials Flow, and compare client_id and client_secret with its consumer key and secret; > Policies: \
             name the user to run as",
        ),
        RestError::Refused { status: 401 | 403, .. } => Failure::new(
            Exit::NoPermission,
            format!("The Conversation Data API does not take the token of its app: {error}"),
            "Setup > External Client App Manager > the app of [messages.data_api] > Settings > OAuth Settings: the scope \
             sfap_api, and \"Issue JSON Web Token (JWT)-based access tokens for named users\"; the user that it runs as needs \
             access to conversation entries (Setup > Permission Sets)",
        ),
        RestError::Refused { status: 404 | 410, .. } => Failure::new(
            Exit::Configuration,
            format!("A conversation is not there for the user, or this org does not have the API: {error}"),
            "if it is so for every conversation, turn the Conversation Service API on (Setup > Conversation Service API) and \
             check `messages.data_api.url`; a single one was deleted, or belongs to a channel that keeps no entries",
        ),
        RestError::Refused { status: 429, .. } => Failure::new(
            Exit::Unavailable,
            format!("The calls of the Conversation Data API of this minute are used up: {error}"),
            "nothing to do: messages are late and none is lost; lower `messages.data_api.calls_per_minute` if other programs \
             of the same user ask too",
        ),
        error => error.failure(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> RestError {
        RestError::Refused { status, code: code.to_owned(), message: String::new(), retry_after: None }
    }

    #[test]
    fn one_conversation_waits_alone_limits_concern_all_and_what_can_be_both_is_told_apart_by_others() {
        let entries = |status, code| Setback::Entries(refused(status, code));
        let data = |status, code| Setback::Data(refused(status, code));
        let sign_in = SessionError::Refused { code: "invalid_client".into(), description: String::new() };
        let minutes = |setback: &Setback| setback.wait(&mut Backoff::new(LIMITS)).as_secs() / 60;
        let (one, perhaps, all) = (Concern::One, Concern::Perhaps, Concern::All);
        for (setback, concerns, waits, says) in [
            (entries(404, "NOT_FOUND"), one, 0, "enhanced Messaging"),
            (entries(400, "ILLEGAL_QUERY_PARAMETER_VALUE"), one, 0, "Developer Guide"),
            (Setback::Entries(RestError::Unexpected("x".into())), one, 0, "api_version"),
            (entries(403, "REQUEST_LIMIT_EXCEEDED"), all, 15, "none is lost"),
            (entries(429, ""), all, 0, "status.salesforce.com"),
            (entries(403, "INSUFFICIENT_ACCESS"), perhaps, 5, "Access Conversation Entries"),
            (entries(503, "SERVER_UNAVAILABLE"), perhaps, 0, "status.salesforce.com"),
            (entries(500, "UNKNOWN_EXCEPTION"), perhaps, 0, "status.salesforce.com"),
            (Setback::Entries(RestError::Unreachable("no answer".into())), perhaps, 0, "firewall"),
            (Setback::Entries(RestError::Page(200)), perhaps, 0, "status.salesforce.com"),
            (entries(401, "INVALID_SESSION_ID"), all, 0, "scope `api`"),
            (Setback::Sessions(refused(400, "INVALID_TYPE")), all, 5, "Messaging Sessions"),
            (Setback::Sessions(refused(400, "INVALID_FIELD")), all, 5, "Conversations"),
            (Setback::Sessions(refused(400, "QUERY_TIMEOUT")), all, 0, "Developer Guide"),
            (Setback::Records(refused(400, "INVALID_TYPE")), all, 5, "messages.records"),
            (Setback::Records(refused(503, "SERVER_UNAVAILABLE")), all, 0, "status.salesforce.com"),
            (data(404, ""), one, 0, "Conversation Service API"),
            (data(401, ""), all, 5, "sfap_api"),
            (data(403, ""), perhaps, 5, "sfap_api"),
            (data(429, ""), all, 0, "calls_per_minute"),
            (data(503, ""), perhaps, 0, "status.salesforce.com"),
            (Setback::Data(RestError::Session(sign_in)), all, 5, "Client Credentials Flow"),
            (Setback::Share { used: 80 }, all, 1, "messages.api_share"),
        ] {
            assert_eq!((setback.concerns(), minutes(&setback)), (concerns, waits), "{setback:?}");
            assert!(setback.failure().remedy.contains(says), "{setback:?}: {}", setback.failure().remedy);
        }
        let mut asked = refused(503, "SERVER_UNAVAILABLE");
        if let RestError::Refused { retry_after, .. } = &mut asked {
            *retry_after = Some(Duration::from_secs(90));
        }
        assert_eq!(Setback::Entries(asked).least_wait().as_secs(), 90, "whom the server asked to stay away does");
    }
}

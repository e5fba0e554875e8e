//! Why a REST call has no answer, what to do then, and what mends it.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use http::StatusCode;
use serde::Deserialize;

use crate::failure::{Exit, Failure};
use crate::salesforce::session::SessionError;

/// How long nothing is asked once the API requests of 24 hours are used up. The window moves on with every
/// minute, so a part of the allowance is back soon; asking more often would use what comes back.
const USED_UP: Duration = Duration::from_secs(15 * 60);

/// Why a REST call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// There is no token.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The path does not make a URL, or a name is none.
    #[error("`{0}` is not a path of the REST API")]
    Path(String),
    /// Nothing came back, or not all of it.
    #[error("The REST API cannot be reached: {0}")]
    Unreachable(String),
    /// Salesforce said no.
    #[error("The REST API answered HTTP {status} {code}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// `errorCode` of the first error, empty if the body has none.
        code: String,
        /// Its message, or what is known instead.
        message: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// A proxy or a server in maintenance answered with a page as if all were well.
    #[error("The REST API answered HTTP {0} with a page instead of data")]
    Page(u16),
    /// The answer is longer than what is read.
    #[error("The answer of the REST API is longer than {0} bytes")]
    TooLong(usize),
    /// The answer is not what the resource promises.
    #[error("The REST API answered with something else than expected: {0}")]
    Unexpected(String),
    /// Nothing is asked, because the API requests of 24 hours are used up.
    #[error("The org's API requests of 24 hours are used up; nothing is asked until {}", .0.to_rfc3339_opts(SecondsFormat::Secs, true))]
    Paused(DateTime<Utc>),
}

/// What follows an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestVerdict {
    /// The token is refused: get a new one and ask once more.
    NewToken,
    /// Wait, at least so long, and ask again.
    RetryAfter(Duration),
    /// Ask nothing for so long: nobody's question is answered.
    Pause(Duration),
    /// Ask for less at a time.
    AskForLess,
    /// The fields are not what they were: describe the object again.
    DescribeAnew,
    /// The cursor of the query is gone: begin the query again.
    QueryAnew,
    /// It stays as it is until somebody does something.
    Stop,
}

impl RestError {
    /// The verdict; pure.
    pub fn verdict(&self) -> RestVerdict {
        match self {
            Self::Session(error) if error.is_retryable() => RestVerdict::RetryAfter(Duration::ZERO),
            Self::Unreachable(_) | Self::Page(_) => RestVerdict::RetryAfter(Duration::ZERO),
            Self::Paused(until) => RestVerdict::Pause((*until - Utc::now()).to_std().unwrap_or_default()),
            Self::TooLong(_) => RestVerdict::AskForLess,
            Self::Refused { status, code, message, retry_after } => {
                refused(*status, code, message, retry_after.unwrap_or_default())
            }
            Self::Session(_) | Self::Path(_) | Self::Unexpected(_) => RestVerdict::Stop,
        }
    }

    /// With how long the server wants to be left alone.
    pub(crate) fn after(mut self, hint: Option<Duration>) -> Self {
        if let Self::Refused { retry_after, .. } = &mut self {
            *retry_after = hint;
        }
        self
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.verdict(), RestVerdict::RetryAfter(_) | RestVerdict::Pause(_))
    }

    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let (exit, remedy) = match self {
            Self::Session(error) => return error.failure(),
            Self::Path(_) => (Exit::Software, "This is a fault of casewire; please report it."),
            Self::Unreachable(_) => (Exit::Unavailable, "Check DNS, firewall and HTTPS_PROXY on this machine."),
            Self::Page(_) => (Exit::Unavailable, NOTHING),
            Self::Paused(_) => (Exit::Unavailable, USED_UP_PAGE),
            Self::TooLong(_) | Self::Unexpected(_) => {
                (Exit::Software, "Check `api_version`; the newest version is the safest choice.")
            }
            Self::Refused { status, code, .. } => remedy(*status, code),
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

/// The table of refusals: by code first, by status where the body told none.
fn refused(status: u16, code: &str, message: &str, hint: Duration) -> RestVerdict {
    match (status, code) {
        (401, _) if names_the_session(message) => RestVerdict::NewToken,
        // Too many at once is over in seconds; too many in a day is not.
        (_, "REQUEST_LIMIT_EXCEEDED") if message.contains("Concurrent") => RestVerdict::RetryAfter(hint),
        (_, "REQUEST_LIMIT_EXCEEDED") => RestVerdict::Pause(hint.max(USED_UP)),
        (_, "UNABLE_TO_LOCK_ROW" | "QUERY_TIMEOUT" | "SERVER_UNAVAILABLE") => RestVerdict::RetryAfter(hint),
        // Whatever a server in trouble says of the question.
        (500..=599, _) => RestVerdict::RetryAfter(hint),
        (_, "INVALID_FIELD") => RestVerdict::DescribeAnew,
        (_, "INVALID_QUERY_LOCATOR") => RestVerdict::QueryAnew,
        (413 | 414 | 431, _) | (_, "EXCEEDED_ID_LIMIT") => RestVerdict::AskForLess,
        (408 | 420 | 429, _) => RestVerdict::RetryAfter(hint),
        _ => RestVerdict::Stop,
    }
}

const NOTHING: &str = "Nothing to do unless it lasts; see https://status.salesforce.com for the org's instance.";
pub(crate) const USED_UP_PAGE: &str =
    "The org's API requests of 24 hours are used up: Setup > Company Information shows the use; ask for more or wait.";

/// The page of Setup, or whatever else mends a refusal.
fn remedy(status: u16, code: &str) -> (Exit, &'static str) {
    match (status, code) {
        (_, "REQUEST_LIMIT_EXCEEDED") => (Exit::Unavailable, USED_UP_PAGE),
        (_, "API_DISABLED_FOR_ORG" | "API_CURRENTLY_DISABLED" | "FUNCTIONALITY_NOT_ENABLED") => (
            Exit::NoPermission,
            "Setup > Permission Sets > the integration user's set > System Permissions: grant \"API Enabled\".",
        ),
        (_, "INVALID_TYPE" | "INVALID_FIELD") => (
            Exit::NoPermission,
            "Setup > Permission Sets > the integration user's set > Object Settings: grant read access to the object and its fields.",
        ),
        (401, _) => (
            Exit::NoPermission,
            "Setup > External Client App Manager > the app > Policies: the session must be allowed to use the REST API (scope `api`).",
        ),
        (403, _) => (
            Exit::NoPermission,
            "Setup > Permission Sets > the integration user's set: grant read access to the object and its fields.",
        ),
        (404, _) => (Exit::Configuration, "Check `api_version` and that the object exists in this org."),
        (408 | 420 | 429 | 500..=599, _) => (Exit::Unavailable, NOTHING),
        _ => (Exit::Configuration, "Look the error code up in the REST API Developer Guide."),
    }
}

/// Two refusals have the status of an expired session without being one; a new token would be refused as well.
fn names_the_session(message: &str) -> bool {
    !["not attached to Agent", "not valid for use with the REST API"].iter().any(|text| message.contains(text))
}

#[derive(Deserialize)]
struct ErrorJson {
    #[serde(default)]
    message: String,
    #[serde(default, rename = "errorCode")]
    error_code: String,
}

/// A text of the other side, fit to be shown: bounded and printable.
pub(crate) fn shown(text: &str, most: usize) -> String {
    text.chars().filter(|char| !char.is_control()).take(most).collect()
}

/// Errors come as an array of objects; a proxy or a server in maintenance answers with HTML.
pub fn refusal(status: StatusCode, body: &[u8]) -> RestError {
    let errors: Vec<ErrorJson> = serde_json::from_slice(body).unwrap_or_default();
    let (code, message) = match errors.into_iter().next() {
        Some(error) => (error.error_code, error.message),
        None => (String::new(), "the body is not an error of Salesforce".to_owned()),
    };
    let (code, message) = (shown(&code, 100), shown(&message, 400));
    RestError::Refused { status: status.as_u16(), code, message, retry_after: None }
}

/// `Retry-After` in seconds, as Salesforce writes it; at most an hour, whatever it says.
pub(crate) fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINT: Duration = Duration::from_secs(7);

    fn refused(status: u16, body: &str) -> RestError {
        refusal(StatusCode::from_u16(status).expect("status"), body.as_bytes()).after(Some(HINT))
    }

    fn json(code: &str, message: &str) -> String {
        format!(r#"[{{"message":"{message}","errorCode":"{code}"}}]"#)
    }

    #[test]
    fn every_refusal_has_its_verdict_and_its_exit() {
        let wait = RestVerdict::RetryAfter(HINT);
        let pause = RestVerdict::Pause(USED_UP);
        let html = || "<html>maintenance</html>".to_owned();
        for (status, body, verdict, exit) in [
            (403, json("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."), pause, Exit::Unavailable),
            (403, json("REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests Limit exceeded."), wait, Exit::Unavailable),
            (403, json("API_DISABLED_FOR_ORG", "not enabled"), RestVerdict::Stop, Exit::NoPermission),
            (403, json("INSUFFICIENT_ACCESS", "no"), RestVerdict::Stop, Exit::NoPermission),
            (401, json("INVALID_SESSION_ID", "Session expired or invalid"), RestVerdict::NewToken, Exit::NoPermission),
            (401, String::new(), RestVerdict::NewToken, Exit::NoPermission),
            (
                401,
                json("INVALID_SESSION_ID", "This session is not valid for use with the REST API"),
                RestVerdict::Stop,
                Exit::NoPermission,
            ),
            (401, json("X", "Connected app is not attached to Agent"), RestVerdict::Stop, Exit::NoPermission),
            (404, json("NOT_FOUND", "The requested resource does not exist"), RestVerdict::Stop, Exit::Configuration),
            (400, json("INVALID_FIELD", "No such column"), RestVerdict::DescribeAnew, Exit::NoPermission),
            (400, json("INVALID_TYPE", "not supported"), RestVerdict::Stop, Exit::NoPermission),
            (400, json("INVALID_QUERY_LOCATOR", "gone"), RestVerdict::QueryAnew, Exit::Configuration),
            (400, json("MALFORMED_QUERY", "no"), RestVerdict::Stop, Exit::Configuration),
            (400, json("QUERY_TIMEOUT", "too long"), wait, Exit::Configuration),
            (400, json("UNABLE_TO_LOCK_ROW", "locked"), wait, Exit::Configuration),
            (400, json("EXCEEDED_ID_LIMIT", "too many"), RestVerdict::AskForLess, Exit::Configuration),
            (414, html(), RestVerdict::AskForLess, Exit::Configuration),
            (431, String::new(), RestVerdict::AskForLess, Exit::Configuration),
            (408, html(), wait, Exit::Unavailable),
            (420, String::new(), wait, Exit::Unavailable),
            (429, html(), wait, Exit::Unavailable),
            (500, json("UNKNOWN_EXCEPTION", "An unexpected error occurred"), wait, Exit::Unavailable),
            (500, json("INVALID_FIELD", "in trouble"), wait, Exit::NoPermission),
            (502, html(), wait, Exit::Unavailable),
            (503, json("SERVER_UNAVAILABLE", "maintenance"), wait, Exit::Unavailable),
            (302, html(), RestVerdict::Stop, Exit::Configuration),
        ] {
            let error = refused(status, &body);
            assert_eq!((error.verdict(), error.failure().exit), (verdict, exit), "{status} {body}");
            assert!(!error.failure().remedy.is_empty());
        }
        let long = refused(400, &json(&"x\\u0007".repeat(999), "m"));
        assert!(matches!(&long, RestError::Refused { code, .. } if *code == "x".repeat(100)), "{long}");
    }

    #[test]
    fn what_is_no_refusal_has_its_verdict_too() {
        let again = RestVerdict::RetryAfter(Duration::ZERO);
        assert_eq!(RestError::Unreachable("reset".into()).verdict(), again);
        assert_eq!(RestError::Page(200).verdict(), again);
        assert_eq!(RestError::TooLong(1).verdict(), RestVerdict::AskForLess);
        assert_eq!(RestError::Unexpected("x".into()).verdict(), RestVerdict::Stop);
        assert_eq!(RestError::Path("x".into()).verdict(), RestVerdict::Stop);
        let until = Utc::now() + chrono::TimeDelta::minutes(5);
        assert!(
            matches!(RestError::Paused(until).verdict(), RestVerdict::Pause(left) if left > Duration::from_secs(280))
        );
        assert!(RestError::Paused(until).to_string().contains(&until.format("%Y-%m-%dT%H:%M").to_string()));
        let login = SessionError::Refused { code: "server_error".into(), description: String::new() };
        assert_eq!(RestError::Session(login).verdict(), again);
        let login = SessionError::Refused { code: "inactive_user".into(), description: String::new() };
        assert_eq!(RestError::Session(login).verdict(), RestVerdict::Stop);
    }

    #[test]
    fn a_hint_in_seconds_is_read_and_bounded() {
        let read = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert("Retry-After", value.parse().expect("header"));
            retry_after(&headers)
        };
        assert_eq!(read("30"), Some(Duration::from_secs(30)));
        assert_eq!(read("999999"), Some(Duration::from_secs(3600)));
        assert_eq!(read("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(retry_after(&http::HeaderMap::new()), None);
    }
}

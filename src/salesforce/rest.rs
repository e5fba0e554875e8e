//! GET over REST with the session's token, and the org's limits.

use http::StatusCode;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::{Exit, Failure};
use crate::salesforce::oauth::{network_reason, read_body};
use crate::salesforce::session::{Session, SessionError, Token};

/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Why a REST call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// There is no token.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The path does not make a URL.
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
    },
    /// The answer is not what the resource promises.
    #[error("The REST API answered with something else than expected: {0}")]
    Unexpected(String),
}

impl RestError {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Session(error) => error.is_retryable(),
            Self::Unreachable(_) => true,
            Self::Refused { status, code, .. } => {
                matches!(status, 408 | 420 | 429 | 500..=599)
                    || matches!(
                        code.as_str(),
                        "UNABLE_TO_LOCK_ROW" | "QUERY_TIMEOUT" | "SERVER_UNAVAILABLE" | "REQUEST_LIMIT_EXCEEDED"
                    )
            }
            Self::Path(_) | Self::Unexpected(_) => false,
        }
    }

    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        let (exit, remedy) = match self {
            Self::Session(error) => return error.failure(),
            Self::Path(_) => (Exit::Software, "This is a fault of casewire; please report it."),
            Self::Unreachable(_) => (Exit::Unavailable, "Check DNS, firewall and HTTPS_PROXY on this machine."),
            Self::Unexpected(_) => (Exit::Software, "Check `api_version`; the newest version is the safest choice."),
            Self::Refused { status, code, .. } => match (*status, code.as_str()) {
                (_, "REQUEST_LIMIT_EXCEEDED") => (
                    Exit::Unavailable,
                    "The org's API requests of 24 hours are used up: Setup > Company Information shows the use; ask for more or wait.",
                ),
                (_, "API_DISABLED_FOR_ORG" | "API_CURRENTLY_DISABLED" | "FUNCTIONALITY_NOT_ENABLED") => (
                    Exit::NoPermission,
                    "Setup > Permission Sets > the integration user's set > System Permissions: grant \"API Enabled\".",
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
                (408 | 420 | 429 | 500..=599, _) => (
                    Exit::Unavailable,
                    "Nothing to do unless it lasts; see https://status.salesforce.com for the org's instance.",
                ),
                _ => (Exit::Configuration, "Look the error code up in the REST API Developer Guide."),
            },
        };
        Failure::new(exit, self.to_string(), remedy)
    }
}

#[derive(Deserialize)]
struct ErrorJson {
    #[serde(default)]
    message: String,
    #[serde(default, rename = "errorCode")]
    error_code: String,
}

/// How much of an allowance there is and is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Allowance {
    /// The allowance in 24 hours.
    pub max: i64,
    /// What is left of it; can be negative where Salesforce grants grace.
    pub remaining: i64,
}

/// The org's limits that a stream lives within (`/limits`; fresh within five minutes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Limits {
    /// Events delivered to all subscribers together in 24 hours.
    #[serde(rename = "DailyDeliveredPlatformEvents")]
    pub delivered_events: Option<Allowance>,
    /// REST and Bulk calls in 24 hours.
    #[serde(rename = "DailyApiRequests")]
    pub api_requests: Option<Allowance>,
}

impl Session {
    /// GETs a path of the instance, such as `/services/data/v66.0/limits`.
    ///
    /// A 401 renews the token and tries once more; nothing else is retried here.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, RestError> {
        let token = self.token().await?;
        let body = match self.get(path, &token).await {
            Err(RestError::Refused { status: 401, message, .. }) if names_the_session(&message) => {
                self.reject(&token);
                let token = self.token().await?;
                self.get(path, &token).await?
            }
            answer => answer?,
        };
        read_json(path, &body)
    }

    /// The org's limits.
    pub async fn limits(&self) -> Result<Limits, RestError> {
        self.get_json(&format!("/services/data/v{}/limits", self.api_version())).await
    }

    async fn get(&self, path: &str, token: &Token) -> Result<Vec<u8>, RestError> {
        let url = token.instance_url().join(path).map_err(|_| RestError::Path(path.to_owned()))?;
        // A path that leads to another host would take the token there.
        if url.origin() != token.instance_url().origin() {
            return Err(RestError::Path(path.to_owned()));
        }
        let sent = chrono::Utc::now();
        let request = self.http().get(url).bearer_auth(token.access_token().expose_secret());
        let response = request.send().await.map_err(|error| RestError::Unreachable(network_reason(error)))?;
        self.clock().learn(response.headers(), sent);
        let status = response.status();
        let body = read_body(response, MAX_ANSWER_BYTES).await.map_err(RestError::Unreachable)?;
        if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
    }
}

/// Two refusals have the status of an expired session without being one; a new token would be refused as well.
fn names_the_session(message: &str) -> bool {
    !["not attached to Agent", "not valid for use with the REST API"].iter().any(|text| message.contains(text))
}

/// Reads the JSON that the resource at `path` promises.
pub fn read_json<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, RestError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let at = shown(&error.path().to_string(), 100);
        RestError::Unexpected(format!("{path}: {at}: {}", without_content(error.inner())))
    })?;
    // A second document behind the first is an answer that was put together wrongly on the way.
    json.end().map_err(|error| RestError::Unexpected(format!("{path}: {error}")))?;
    Ok(read)
}

/// What is wrong with a JSON text, without the value that serde quotes: it may be somebody's case, and errors are logged.
fn without_content(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let about_the_form = !error.is_data() || text.starts_with("missing field") || text.starts_with("duplicate field");
    if about_the_form {
        return text;
    }
    let quotes_a_value = text.starts_with("invalid type") || text.starts_with("invalid value");
    match text.rsplit_once(", expected ").filter(|_| quotes_a_value) {
        Some((_, expected)) => format!("expected {expected}"),
        None => format!("a value that is not allowed at line {} column {}", error.line(), error.column()),
    }
}

/// A text of the other side, fit to be shown: bounded and printable.
fn shown(text: &str, most: usize) -> String {
    text.chars().filter(|char| !char.is_control()).take(most).collect()
}

/// Errors come as an array of objects; a proxy or a server in maintenance answers with HTML.
pub fn refusal(status: StatusCode, body: &[u8]) -> RestError {
    let errors: Vec<ErrorJson> = serde_json::from_slice(body).unwrap_or_default();
    let (code, message) = match errors.into_iter().next() {
        Some(error) => (error.error_code, error.message),
        None => (String::new(), "the body is not an error of Salesforce".to_owned()),
    };
    RestError::Refused { status: status.as_u16(), code: shown(&code, 100), message: shown(&message, 400) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_status_and_code() {
        let refused = |status: u16, body: &str| refusal(StatusCode::from_u16(status).expect("status"), body.as_bytes());
        let json = |code: &str| format!(r#"[{{"message":"m","errorCode":"{code}"}}]"#);
        for (status, body, retryable, exit) in [
            (403, json("REQUEST_LIMIT_EXCEEDED"), true, Exit::Unavailable),
            (403, json("API_DISABLED_FOR_ORG"), false, Exit::NoPermission),
            (403, json("INSUFFICIENT_ACCESS"), false, Exit::NoPermission),
            (401, json("INVALID_SESSION_ID"), false, Exit::NoPermission),
            (404, json("NOT_FOUND"), false, Exit::Configuration),
            (400, json("QUERY_TIMEOUT"), true, Exit::Configuration),
            (420, String::new(), true, Exit::Unavailable),
            (503, "<html>maintenance</html>".to_owned(), true, Exit::Unavailable),
        ] {
            let error = refused(status, &body);
            assert_eq!((error.is_retryable(), error.failure().exit), (retryable, exit), "{status} {body}");
        }
        let long = refused(400, &json(&"x\\u0007".repeat(999)));
        assert!(matches!(&long, RestError::Refused { code, .. } if *code == "x".repeat(100)), "{long}");
        assert!(!names_the_session("This session is not valid for use with the REST API"));
        assert!(names_the_session("Session expired or invalid"));
    }

    #[test]
    fn an_answer_that_is_not_as_expected_is_told_without_its_content() {
        let error = |body: &str| read_json::<Limits>("/limits", body.as_bytes()).expect_err(body).to_string();
        let text = error(r#"{"DailyApiRequests":{"Max":"secret, expected text","Remaining":1}}"#);
        assert!(text.contains("/limits: DailyApiRequests.Max: expected i64 at line 1"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(error(r#"{"DailyApiRequests":{"Max":1}}"#).contains("missing field `Remaining`"));
        assert!(error("{} {}").contains("trailing characters"), "two answers are none");
        let own: Result<crate::identity::OrgId, _> = read_json("/", br#""00D secret""#);
        assert!(!own.expect_err("no org id").to_string().contains("secret"));
    }
}

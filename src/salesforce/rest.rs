//! One call over REST with the session's token, and the org's limits.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::salesforce::oauth::network_reason;
pub use crate::salesforce::rest_error::{RestError, RestVerdict};
use crate::salesforce::rest_error::{refusal, retry_after, shown};
use crate::salesforce::session::{Session, Token};

/// The longest answer that is read.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

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

/// What to ask: a GET, a POST or a PATCH of JSON, or a DELETE.
#[derive(Debug, Clone)]
pub(crate) struct RestRequest {
    method: Method,
    path: String,
    body: Option<Bytes>,
    /// Bytes of an answer that are read at most.
    most_bytes: usize,
    /// Told the head of an answer while its body is still on its way.
    heads: Option<watch::Sender<Option<HeaderMap>>>,
}

/// An answer: what some resources say of it in headers, and what it holds.
#[derive(Debug)]
pub(crate) struct RestAnswer {
    /// As they came.
    pub headers: HeaderMap,
    /// Decompressed.
    pub body: Vec<u8>,
}

impl RestRequest {
    /// GETs a path of the instance, its query included.
    pub(crate) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None, most_bytes: MAX_ANSWER_BYTES, heads: None }
    }

    /// POSTs JSON to a path of the instance.
    pub(crate) fn post(path: String, json: String) -> Self {
        Self { method: Method::POST, body: Some(Bytes::from(json)), ..Self::get(path) }
    }

    /// PATCHes with JSON.
    pub(crate) fn patch(path: String, json: String) -> Self {
        Self { method: Method::PATCH, ..Self::post(path, json) }
    }

    /// DELETEs what is at a path of the instance.
    pub(crate) fn delete(path: String) -> Self {
        Self { method: Method::DELETE, ..Self::get(path) }
    }

    /// Reads no more than so many bytes of an answer; one that is longer is [`RestError::TooLong`].
    pub(crate) fn within(self, most_bytes: usize) -> Self {
        Self { most_bytes: most_bytes.min(MAX_ANSWER_BYTES), ..self }
    }

    /// Tells the head of a good answer as soon as it is there; that of a repetition takes its place.
    pub(crate) fn telling(self, heads: watch::Sender<Option<HeaderMap>>) -> Self {
        Self { heads: Some(heads), ..self }
    }

    /// The path, without its query.
    pub(crate) fn resource(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }
}

impl Session {
    /// GETs a path of the instance, such as `/services/data/v66.0/limits`.
    ///
    /// A 401 renews the token and tries once more; nothing else is retried here.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, RestError> {
        let request = RestRequest::get(path.to_owned());
        let answer = self.send(&request, None).await?;
        read_json(request.resource(), &answer.body)
    }

    /// The org's limits.
    pub async fn limits(&self) -> Result<Limits, RestError> {
        self.get_json(&format!("/services/data/v{}/limits", self.api_version())).await
    }

    /// Makes one call; `timeout` replaces the session's own for calls.
    ///
    /// A 401 renews the token and tries once more; nothing else is retried here.
    pub(crate) async fn send(&self, request: &RestRequest, timeout: Option<Duration>) -> Result<RestAnswer, RestError> {
        let token = self.token().await?;
        match self.attempt_call(request, timeout, &token).await {
            Err(error) if error.verdict() == RestVerdict::NewToken => {
                self.reject(&token);
                let token = self.token().await?;
                self.attempt_call(request, timeout, &token).await
            }
            answer => answer,
        }
    }

    async fn attempt_call(
        &self,
        request: &RestRequest,
        timeout: Option<Duration>,
        token: &Token,
    ) -> Result<RestAnswer, RestError> {
        let bad_path = || RestError::Path(request.resource().to_owned());
        let host = self.api_url(token);
        let url = host.join(&request.path).map_err(|_| bad_path())?;
        // A path that leads to another host would take the token there.
        if url.origin() != host.origin() {
            return Err(bad_path());
        }
        let sent = chrono::Utc::now();
        let mut call = self.http().request(request.method.clone(), url);
        if let Some(json) = &request.body {
            call = call.header("content-type", "application/json").body(json.clone());
        }
        if let Some(timeout) = timeout {
            call = call.timeout(timeout);
        }
        let call = call.bearer_auth(token.access_token().expose_secret());
        let response = call.send().await.map_err(|error| RestError::Unreachable(network_reason(error)))?;
        self.clock().learn(response.headers(), sent);
        self.usage_meter().learn(response.headers());
        let (status, hint) = (response.status(), retry_after(response.headers()));
        let headers = response.headers().clone();
        if let Some(heads) = request.heads.as_ref().filter(|_| status.is_success()) {
            heads.send_replace(Some(headers.clone()));
        }
        let body = read_answer(response, request.most_bytes).await?;
        if !status.is_success() {
            return Err(refusal(status, &body).after(hint));
        }
        if body.trim_ascii_start().starts_with(b"<") {
            return Err(RestError::Page(status.as_u16()));
        }
        Ok(RestAnswer { headers, body })
    }
}

/// The most memory that is made ready for an answer by what its head says.
const BELIEVED_BYTES: usize = 8 * 1024 * 1024;

async fn read_answer(mut response: reqwest::Response, most_bytes: usize) -> Result<Vec<u8>, RestError> {
    // Of what it says about its length only so much is believed before it has come. A vector that grows is copied each time.
    let said = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut body = Vec::with_capacity(said.min(most_bytes).min(BELIEVED_BYTES));
    while let Some(chunk) = response.chunk().await.map_err(|error| RestError::Unreachable(network_reason(error)))? {
        if body.len().saturating_add(chunk.len()) > most_bytes {
            return Err(RestError::TooLong(most_bytes));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads the JSON that the resource at `path` promises.
pub fn read_json<'b, T: Deserialize<'b>>(path: &str, body: &'b [u8]) -> Result<T, RestError> {
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
pub(crate) fn without_content(error: &serde_json::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_as_expected_is_told_without_its_content() {
        let error =
            |body: &str| read_json::<Limits>("/limits", body.as_bytes()).map(|_| ()).expect_err(body).to_string();
        let text = error(r#"{"DailyApiRequests":{"Max":"secret, expected text","Remaining":1}}"#);
        assert!(text.contains("/limits: DailyApiRequests.Max: expected i64 at line 1"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(error(r#"{"DailyApiRequests":{"Max":1}}"#).contains("missing field `Remaining`"));
        assert!(error("{} {}").contains("trailing characters"), "two answers are none");
        let own: Result<crate::identity::OrgId, _> = read_json("/", br#""00D secret""#);
        assert!(!own.expect_err("no org id").to_string().contains("secret"));
    }
}

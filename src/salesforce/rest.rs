//! One call over REST with the session's token, and the org's limits.

use std::time::Duration;

use bytes::Bytes;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::salesforce::oauth::network_reason;
pub use crate::salesforce::rest_error::{RestError, RestVerdict};
use crate::salesforce::rest_error::{refusal, retry_after};
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

/// What to ask: a GET, or a POST of JSON.
#[derive(Debug, Clone)]
pub(crate) struct RestRequest {
    path: String,
    body: Option<Bytes>,
}

impl RestRequest {
    /// GETs a path of the instance, its query included.
    pub(crate) fn get(path: String) -> Self {
        Self { path, body: None }
    }

    /// POSTs JSON to a path of the instance.
    pub(crate) fn post(path: String, json: String) -> Self {
        Self { path, body: Some(Bytes::from(json)) }
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
        let body = self.send(&request, None).await?;
        read_json(&request, &body)
    }

    /// The org's limits.
    pub async fn limits(&self) -> Result<Limits, RestError> {
        self.get_json(&format!("/services/data/v{}/limits", self.api_version())).await
    }

    /// Makes one call; `timeout` replaces the session's own for calls.
    ///
    /// A 401 renews the token and tries once more; nothing else is retried here.
    pub(crate) async fn send(&self, request: &RestRequest, timeout: Option<Duration>) -> Result<Vec<u8>, RestError> {
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
    ) -> Result<Vec<u8>, RestError> {
        let bad_path = || RestError::Path(request.resource().to_owned());
        let url = token.instance_url().join(&request.path).map_err(|_| bad_path())?;
        // A path that leads to another host would take the token there.
        if url.origin() != token.instance_url().origin() {
            return Err(bad_path());
        }
        let sent = chrono::Utc::now();
        let mut call = match &request.body {
            None => self.http().get(url),
            Some(json) => self.http().post(url).header("content-type", "application/json").body(json.clone()),
        };
        if let Some(timeout) = timeout {
            call = call.timeout(timeout);
        }
        let call = call.bearer_auth(token.access_token().expose_secret());
        let response = call.send().await.map_err(|error| RestError::Unreachable(network_reason(error)))?;
        self.clock().learn(response.headers(), sent);
        self.usage_meter().learn(response.headers());
        let (status, hint) = (response.status(), retry_after(response.headers()));
        let body = read_answer(response).await?;
        if !status.is_success() {
            return Err(refusal(status, hint, &body));
        }
        if body.trim_ascii_start().starts_with(b"<") {
            return Err(RestError::Page(status.as_u16()));
        }
        Ok(body)
    }
}

async fn read_answer(mut response: reqwest::Response) -> Result<Vec<u8>, RestError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| RestError::Unreachable(network_reason(error)))? {
        if body.len().saturating_add(chunk.len()) > MAX_ANSWER_BYTES {
            return Err(RestError::TooLong(MAX_ANSWER_BYTES));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Reads an answer; what it should have been is named, what it is is not shown.
pub(crate) fn read_json<'b, T: Deserialize<'b>>(request: &RestRequest, body: &'b [u8]) -> Result<T, RestError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut json)
        .map_err(|error| RestError::Unexpected(format!("{}: {error}", request.resource())))
}

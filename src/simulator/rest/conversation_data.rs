//! The Conversation Data API: `GET /platform/engagement/v1.0/conversation-entries`, on a host of its own at Salesforce.
//!
//! It takes only tokens of an app with the scope `sfap_api`, which are good for nothing else. Its pages follow tokens; in
//! which order, and how many entries a page may have, is not known, so the newest come first here.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::bearer;
use super::conversation::known;
use crate::simulator::conversations::{EntryLine, Spent};
use crate::simulator::org::Org;
use crate::simulator::settings::TimeBounds;

/// Entries of an answer, when the client does not say how many, and at most.
const DEFAULT_ENTRIES: usize = 25;
const MOST_ENTRIES: usize = 1_000;

/// A refusal: no sample of one is known.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self { status, code, message: message.to_owned(), retry_after: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(json!({"errorCode": self.code, "message": self.message}));
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    conversation: String,
    from: i64,
    to: i64,
    limit: usize,
    /// How many entries the pages before had.
    given: usize,
}

impl Wanted {
    fn read(parameters: &HashMap<String, String>) -> Result<Self, Refusal> {
        let illegal = |name: &str| {
            Refusal::new(StatusCode::BAD_REQUEST, "INVALID_PARAMETER", &format!("The parameter {name} is not valid."))
        };
        let mut wanted = Self { conversation: String::new(), from: 0, to: i64::MAX, limit: DEFAULT_ENTRIES, given: 0 };
        for (name, value) in parameters.iter().filter(|(name, _)| *name != "pageToken") {
            match name.as_str() {
                "conversationIdentifier" => wanted.conversation.clone_from(value),
                "startTimestamp" => wanted.from = value.parse().map_err(|_| illegal(name))?,
                "endTimestamp" => wanted.to = value.parse().map_err(|_| illegal(name))?,
                "recordLimit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MOST_ENTRIES).contains(limit));
                    wanted.limit = limit.ok_or_else(|| illegal(name))?;
                }
                _ => return Err(illegal(name)),
            }
        }
        if wanted.conversation.is_empty() {
            return Err(illegal("conversationIdentifier"));
        }
        if let Some(token) = parameters.get("pageToken") {
            wanted.given = wanted.given_by(token).ok_or_else(|| illegal("pageToken"))?;
        }
        Ok(wanted)
    }

    /// A token for the page behind so many entries. It is good for exactly this question.
    fn token(&self, given: usize) -> String {
        let digest = Sha256::digest(format!("{} {} {} {}", self.conversation, self.from, self.to, self.limit));
        let sign: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        URL_SAFE_NO_PAD.encode(format!("{given}/{sign}"))
    }

    fn given_by(&self, token: &str) -> Option<usize> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let given = text.split_once('/')?.0.parse().ok()?;
        (self.token(given) == token).then_some(given)
    }

    /// The entries of this page, newest first, and the token of the next.
    fn choose(&self, mut entries: Vec<EntryLine>, bounds: TimeBounds) -> (Vec<EntryLine>, Option<String>) {
        entries.retain(|entry| match bounds {
            TimeBounds::Inclusive => (self.from..=self.to).contains(&entry.server_time),
            TimeBounds::Exclusive => entry.server_time > self.from && entry.server_time < self.to,
        });
        entries.sort_by(|one, other| (other.server_time, &other.identifier).cmp(&(one.server_time, &one.identifier)));
        let all = entries.len();
        let page: Vec<EntryLine> = entries.into_iter().skip(self.given).take(self.limit).collect();
        let given = self.given.saturating_add(page.len());
        let token = (given < all).then(|| self.token(given));
        (page, token)
    }
}

/// An entry as this API has it.
fn entry(line: &EntryLine) -> Value {
    let (kind, payload) = match &line.text {
        Some(text) => (
            "Message",
            json!({"entryType": "Message", "id": line.identifier, "messageReason": null, "abstractMessage": {
                "messageType": "StaticContentMessage", "id": line.identifier,
                "staticContent": {"formatType": "Text", "text": text}}}),
        ),
        None => ("ParticipantChanged", json!({"entryType": "ParticipantChanged", "id": line.identifier})),
    };
    json!({
        "identifier": line.identifier,
        "entryType": kind,
        "entryPayload": payload,
        "clientTimestamp": line.client_time,
        "transcriptedTimestamp": line.server_time,
        "sender": {"appType": line.app_type, "role": line.role, "subject": line.subject},
        "recipients": [],
        "relatedRecords": [line.session],
    })
}

/// The entries of a conversation.
pub(super) async fn entries(
    State(org): State<Arc<Org>>,
    headers: HeaderMap,
    Query(parameters): Query<HashMap<String, String>>,
) -> Response {
    match answer(&org, &headers, &parameters).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(org: &Arc<Org>, headers: &HeaderMap, parameters: &HashMap<String, String>) -> Result<Value, Refusal> {
    org.stats.count(|stats| *stats.api_calls.entry("conversation-data".to_owned()).or_default() += 1);
    if !bearer(headers).is_some_and(|token| org.data_sessions.check(token)) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "The access token is invalid or expired."));
    }
    let wanted = Wanted::read(parameters)?;
    let taken = org.conversations.take_data(&wanted.conversation);
    org.stats.count(|stats| match taken {
        Ok(used) => {
            stats.conversation_calls += 1;
            stats.conversations_active_most = stats.conversations_active_most.max(used.active as u64);
        }
        Err(_) => stats.conversation_calls_refused += 1,
    });
    taken.map_err(|spent| Refusal {
        retry_after: Some(match spent {
            Spent::Calls => org.conversations.next_data_call().as_secs().saturating_add(1),
            Spent::Active => 60,
        }),
        ..Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS", "Rate limit exceeded.")
    })?;
    if org.script.is_denied("ConversationEntry") {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "FORBIDDEN",
            "The user has no access to conversation entries.",
        ));
    }
    let entries = known(org, &wanted.conversation).await;
    let entries = entries.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", "No such conversation."))?;
    let (page, token) = wanted.choose(entries, org.settings.rest.conversation_bounds);
    let mut rows: Vec<Value> = Vec::with_capacity(page.len());
    for line in page {
        let twice = org.conversations.draw(100) < usize::from(org.settings.rest.repeated_entries);
        for line in std::iter::repeat_n(entry(&line), 1 + usize::from(twice)) {
            rows.insert(org.conversations.draw(rows.len() + 1), line);
        }
    }
    let mut answer = json!({ "conversationEntries": rows });
    if let Some(token) = token {
        answer["nextPageToken"] = json!(token);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_the_question_that_it_was_given_for() {
        let ask = |pairs: &[(&str, &str)]| {
            Wanted::read(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        let wanted = ask(&[("conversationIdentifier", "c"), ("recordLimit", "10")]).expect("legal");
        let token = wanted.token(10);
        let next =
            ask(&[("conversationIdentifier", "c"), ("recordLimit", "10"), ("pageToken", &token)]).expect("legal");
        assert_eq!(next.given, 10);
        for illegal in [
            vec![("conversationIdentifier", "c"), ("recordLimit", "11"), ("pageToken", token.as_str())],
            vec![("conversationIdentifier", "d"), ("recordLimit", "10"), ("pageToken", token.as_str())],
            vec![("conversationIdentifier", "c"), ("recordLimit", "0")],
            vec![("conversationIdentifier", "c"), ("queryDirection", "FromStart")],
            vec![("recordLimit", "10")],
        ] {
            assert_eq!(ask(&illegal).expect_err("illegal").status, StatusCode::BAD_REQUEST, "{illegal:?}");
        }
    }
}

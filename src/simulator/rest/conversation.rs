//! Conversation entries of the Connect REST API: `GET` and `PATCH /connect/conversation/{identifier}/entries`.
//!
//! What Salesforce documents of it is little. An answer has no order, says 25 entries unless told otherwise, and tells
//! nothing of what is left.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Refused, aside};
use crate::simulator::conversations::{EntryLine, Spent, identifier_of};
use crate::simulator::org::Org;
use crate::simulator::record_store::RecordKey;
use crate::simulator::settings::TimeBounds;
use crate::simulator::value::Value as FieldValue;

/// Entries of an answer, when the client does not say how many, and at most.
const DEFAULT_ENTRIES: usize = 25;
const MOST_ENTRIES: usize = 1_000;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    from: i64,
    to: i64,
    from_start: bool,
    limit: usize,
    /// Behind which entry, by its time and identifier.
    after: Option<(i64, String)>,
}

impl Wanted {
    fn read(parameters: &HashMap<String, String>) -> Result<Self, Refused> {
        let mut wanted = Self { from: 0, to: i64::MAX, from_start: false, limit: DEFAULT_ENTRIES, after: None };
        for (name, value) in parameters {
            let illegal = || {
                let message = format!("The value '{value}' for the parameter '{name}' is not valid.");
                Refused::bad("ILLEGAL_QUERY_PARAMETER_VALUE", message)
            };
            match name.as_str() {
                "startTimestamp" => wanted.from = value.parse().map_err(|_| illegal())?,
                "endTimestamp" => wanted.to = value.parse().map_err(|_| illegal())?,
                "queryDirection" => {
                    wanted.from_start = match value.as_str() {
                        "FromStart" => true,
                        "FromEnd" => false,
                        _ => return Err(illegal()),
                    };
                }
                "recordLimit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MOST_ENTRIES).contains(limit));
                    wanted.limit = limit.ok_or_else(illegal)?;
                }
                "pageToken" => {
                    let place = value.split_once('_').and_then(|(time, entry)| Some((time.parse().ok()?, entry)));
                    wanted.after = Some(place.map(|(time, entry)| (time, entry.to_owned())).ok_or_else(illegal)?);
                }
                // Connect resources pass over parameters that they do not know.
                _ => {}
            }
        }
        Ok(wanted)
    }

    /// The entries that are meant, oldest first, and whether there are more.
    fn choose(&self, mut entries: Vec<EntryLine>, bounds: TimeBounds) -> (Vec<EntryLine>, bool) {
        entries.retain(|entry| match bounds {
            TimeBounds::Inclusive => (self.from..=self.to).contains(&entry.server_time),
            TimeBounds::Exclusive => entry.server_time > self.from && entry.server_time < self.to,
        });
        entries.sort_by(|one, other| (one.server_time, &one.identifier).cmp(&(other.server_time, &other.identifier)));
        if let Some((time, identifier)) = &self.after {
            entries.retain(|entry| (entry.server_time, &entry.identifier) > (*time, identifier));
        }
        let more = entries.len() > self.limit;
        if self.from_start {
            entries.truncate(self.limit);
        } else {
            entries.drain(..entries.len().saturating_sub(self.limit));
        }
        (entries, more)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EntryJson {
    client_duration: i64,
    client_timestamp: i64,
    identifier: String,
    /// Only where the entry is a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_text: Option<String>,
    related_records: Vec<String>,
    sender: Value,
    server_received_timestamp: i64,
}

impl From<EntryLine> for EntryJson {
    fn from(entry: EntryLine) -> Self {
        Self {
            client_duration: 0,
            client_timestamp: entry.client_time,
            identifier: entry.identifier,
            message_text: entry.text,
            related_records: vec![entry.session],
            sender: json!({"appType": entry.app_type, "role": entry.role, "subject": entry.subject}),
            server_received_timestamp: entry.server_time,
        }
    }
}

/// The entries of a conversation.
pub(super) async fn entries(
    State(org): State<Arc<Org>>,
    Path((_, identifier)): Path<(String, String)>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Refused> {
    let wanted = Wanted::read(&parameters)?;
    let entries = admitted(&org, &identifier).await?;
    let (chosen, more) = wanted.choose(entries, org.settings.rest.conversation_bounds);
    let token = chosen.last().filter(|_| more && wanted.from_start && org.settings.rest.conversation_page_tokens);
    let token = token.map(|last| format!("{}_{}", last.server_time, last.identifier));
    let mut rows: Vec<EntryJson> = Vec::with_capacity(chosen.len());
    for entry in chosen {
        let twice = org.conversations.draw(100) < usize::from(org.settings.rest.repeated_entries);
        for entry in std::iter::repeat_n(entry, 1 + usize::from(twice)) {
            // Wherever there is a place: an answer has no order.
            rows.insert(org.conversations.draw(rows.len() + 1), entry.into());
        }
    }
    let mut answer = json!({ "conversationEntries": rows });
    if let Some(token) = token {
        answer["nextPageToken"] = json!(token);
    }
    Ok(Json(answer))
}

/// `PATCH` with the new texts of entries.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Updates {
    conversation_entries_updates: Vec<Update>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Update {
    identifier: String,
    message_text: String,
}

/// Redacts texts.
pub(super) async fn redact(
    State(org): State<Arc<Org>>,
    Path((_, identifier)): Path<(String, String)>,
    Json(updates): Json<Updates>,
) -> Result<StatusCode, Refused> {
    let entries = admitted(&org, &identifier).await?;
    let known = |update: &Update| entries.iter().any(|entry| entry.identifier == update.identifier);
    if !updates.conversation_entries_updates.iter().all(known) {
        return Err(Refused::not_found());
    }
    for update in updates.conversation_entries_updates {
        org.conversations.redact(&identifier, &update.identifier, &update.message_text);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The entries of a conversation that the user may ask for, the call counted.
async fn admitted(org: &Arc<Org>, identifier: &str) -> Result<Vec<EntryLine>, Refused> {
    if org.script.is_denied("ConversationEntry") {
        let message = "You do not have the level of access necessary to perform the operation you requested.";
        return Err(Refused::new(StatusCode::FORBIDDEN, "INSUFFICIENT_ACCESS", message));
    }
    let taken = org.conversations.take(identifier);
    org.stats.count(|stats| match taken {
        Ok(used) => {
            stats.conversation_calls += 1;
            stats.conversations_active_most = stats.conversations_active_most.max(used.active as u64);
        }
        Err(_) => stats.conversation_calls_refused += 1,
    });
    taken.map_err(|spent| {
        let message = match spent {
            Spent::Calls => "You have reached the hourly limit of calls of this application and user.",
            Spent::Active => "You have reached the limit of concurrent active messaging sessions.",
        };
        Refused::new(StatusCode::FORBIDDEN, "REQUEST_LIMIT_EXCEEDED", message)
    })?;
    known(org, identifier).await.ok_or_else(Refused::not_found)
}

/// The entries of a conversation, if there is one.
pub(super) async fn known(org: &Arc<Org>, identifier: &str) -> Option<Vec<EntryLine>> {
    if let Some(entries) = org.conversations.entries(identifier) {
        return Some(entries);
    }
    let (org, identifier) = (Arc::clone(org), identifier.to_owned());
    let looked = move || if has_session(&org, &identifier) { Ok(Vec::new()) } else { Err(Refused::not_found()) };
    aside(looked).await.ok()
}

/// Whether any session belongs to the conversation, although nothing was said in it.
fn has_session(org: &Org, identifier: &str) -> bool {
    let sessions = org.records.find_object("MessagingSession").and_then(|(at, _)| org.records.snapshot(at));
    sessions.is_some_and(|sessions| {
        let Some(at) = sessions.object.position("ConversationId") else { return false };
        sessions.rows.iter().any(|(_, row)| match row.values(&sessions.object).get(at) {
            Some(Some(FieldValue::Text(id))) => {
                RecordKey::parse(id).is_some_and(|key| identifier_of(&key) == identifier)
            }
            _ => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: i64, identifier: &str) -> EntryLine {
        EntryLine {
            conversation: String::new(),
            conversation_id: String::new(),
            identifier: identifier.to_owned(),
            session: String::new(),
            role: String::new(),
            app_type: String::new(),
            subject: String::new(),
            text: None,
            client_time: 0,
            server_time: time,
            redactions: 0,
        }
    }

    #[test]
    fn a_page_is_cut_from_the_end_that_was_asked_for_within_its_bounds() {
        let all = || vec![entry(1, "a"), entry(2, "b"), entry(2, "c"), entry(3, "d")];
        let ask = |text: &str| {
            let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
            Wanted::read(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
        };
        let found = |text: &str, bounds| {
            let (entries, more) = ask(text).expect("legal").choose(all(), bounds);
            (entries.into_iter().map(|entry| entry.identifier).collect::<String>(), more)
        };
        let inclusive = |text: &str| found(text, TimeBounds::Inclusive);
        assert_eq!(inclusive(""), ("abcd".to_owned(), false));
        assert_eq!(inclusive("recordLimit=2"), ("cd".to_owned(), true), "from the end unless told otherwise");
        assert_eq!(inclusive("recordLimit=2&queryDirection=FromStart"), ("ab".to_owned(), true));
        assert_eq!(inclusive("startTimestamp=2&endTimestamp=2"), ("bc".to_owned(), false));
        assert_eq!(found("startTimestamp=1&endTimestamp=3", TimeBounds::Exclusive), ("bc".to_owned(), false));
        assert_eq!(inclusive("queryDirection=FromStart&pageToken=2_b"), ("cd".to_owned(), false));
        for illegal in
            ["recordLimit=0", "recordLimit=1001", "queryDirection=fromStart", "startTimestamp=now", "pageToken=x"]
        {
            assert!(ask(illegal).is_err(), "{illegal}");
        }
    }
}

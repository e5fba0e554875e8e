//! The entries of a conversation, over one of two APIs.
//!
//! **The Connect REST API** (51.0 and later): `GET /connect/conversation/{identifier}/entries`. Neither an order nor a cursor is documented, and not whether a bound of time belongs to what is asked for. So a page
//! is asked for from the oldest on, from a millisecond before the last one's newest entry, and whoever asks knows by
//! their identifiers which entries it has had. A page that holds fewer than were asked for is the last; one with exactly
//! the documented default of 25 may be cut by a server that did not heed the limit, and is followed by another.
//! A `nextPageToken`, which some clients report, is followed where there is one.
//!
//! **The Conversation Data API**: `GET https://api.salesforce.com/platform/engagement/v1.0/conversation-entries`, with a token
//! of an app of its own. It tells types and payloads too. Its pages follow a `nextPageToken`, in no order that is
//! documented, and a page without one is the last. That its pages can have as many entries as those of Connect is assumed.
//!
//! Calls for entries have a limit of their own, by the hour or the minute, application and user, and each makes its conversation count
//! among the org's active ones for half an hour. So there are no repetitions here, and their limit pauses nobody else.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::salesforce::rest::{RestError, RestRequest, read_json};
use crate::salesforce::rest_client::RestClient;

/// Entries of a page; Salesforce's most.
const PAGE: usize = 1_000;

/// What a server gives that was not told how many.
const DEFAULT_PAGE: usize = 25;

/// The longest identifier that is taken. Salesforce's are UUIDs.
const LONGEST_IDENTIFIER: usize = 100;

/// Who said something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sender {
    /// `EndUser`, `Agent`, `System`, `Chatbot`, ….
    #[serde(default)]
    pub role: Option<String>,
    /// The kind of program.
    #[serde(default)]
    pub app_type: Option<String>,
    /// Which user, or which end user of a channel.
    #[serde(default)]
    pub subject: Option<String>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its own identifier; one for ever.
    pub identifier: String,
    /// When the server had it, in milliseconds since 1970; the client's time where that is not told.
    pub server_time: i64,
    /// When its sender had written it, by his clock.
    pub client_time: Option<i64>,
    /// Its text, where it is one.
    pub text: Option<String>,
    /// `entryType`, which Connect is not known to tell.
    pub kind: Option<String>,
    /// `entryPayload`, likewise.
    pub payload: Option<Value>,
    /// Who said it.
    pub sender: Sender,
    /// Ids of a `MessagingSession` or `VoiceCall`, and identifiers of other kinds.
    pub related: Vec<String>,
}

/// From where on entries are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Milliseconds since 1970; what has this time is asked for.
    pub from: i64,
    /// The same of the end; without one, all that there is.
    pub to: Option<i64>,
    /// Of the page before.
    pub token: Option<String>,
}

impl Place {
    /// At a time.
    pub fn at(from: i64) -> Self {
        Self::within(from, None)
    }

    /// Between two times, both of which are meant.
    pub fn within(from: i64, to: Option<i64>) -> Self {
        Self { from, to, token: None }
    }
}

/// A part of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct EntriesPage {
    /// By server time and identifier, each once. May hold what an earlier page had, and what is older than was asked for.
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` when there is none.
    pub next: Option<Place>,
    /// The length of the answer.
    pub bytes: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    conversation_entries: Vec<AnsweredEntry>,
    #[serde(default)]
    next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnsweredEntry {
    identifier: String,
    #[serde(default)]
    client_timestamp: Option<i64>,
    #[serde(default)]
    server_received_timestamp: Option<i64>,
    #[serde(default)]
    transcripted_timestamp: Option<i64>,
    #[serde(default)]
    message_text: Option<String>,
    #[serde(default)]
    entry_type: Option<String>,
    #[serde(default)]
    entry_payload: Option<Value>,
    #[serde(default)]
    sender: Option<Sender>,
    #[serde(default)]
    related_records: Option<Vec<String>>,
}

impl RestClient {
    /// One page of a conversation's entries, oldest first. One call and no repetition.
    ///
    /// # Errors
    /// `Unexpected` when more entries share a millisecond than a page holds: nothing gets beyond them.
    pub async fn conversation_entries(
        &self,
        conversation: &str,
        place: &Place,
        deadline: Instant,
    ) -> Result<EntriesPage, RestError> {
        let request = RestRequest::get(self.path(&resource(conversation, place)?));
        let answer = self.call_once(&request, deadline).await?;
        read(&answer, place, true)
    }
}

/// Where entries are asked for.
#[derive(Debug, Clone)]
pub enum EntriesClient {
    /// The Connect resource of the instance.
    Connect(RestClient),
    /// The Conversation Data API, over a session of its own whose calls go to its host.
    Data(RestClient),
}

impl EntriesClient {
    /// As consumers read it.
    pub fn api(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Data(_) => "data",
        }
    }

    /// One page of a conversation's entries. One call and no repetition.
    ///
    /// # Errors
    /// As [`RestClient::conversation_entries`].
    pub async fn page(&self, conversation: &str, place: &Place, deadline: Instant) -> Result<EntriesPage, RestError> {
        match self {
            Self::Connect(client) => client.conversation_entries(conversation, place, deadline).await,
            Self::Data(client) => {
                let request = RestRequest::get(data_resource(conversation, place)?);
                let answer = client.call_once(&request, deadline).await?;
                read(&answer, place, false)
            }
        }
    }
}

fn resource(conversation: &str, place: &Place) -> Result<String, RestError> {
    let conversation = checked(conversation)?;
    let bounds = bounds(place);
    Ok(format!("connect/conversation/{conversation}/entries?queryDirection=FromStart&recordLimit={PAGE}&{bounds}"))
}

fn data_resource(conversation: &str, place: &Place) -> Result<String, RestError> {
    let (conversation, bounds) = (checked(conversation)?, bounds(place));
    let resource = "/platform/engagement/v1.0/conversation-entries";
    Ok(format!("{resource}?conversationIdentifier={conversation}&recordLimit={PAGE}&{bounds}"))
}

/// An identifier as it may stand in a path or in its query.
fn checked(conversation: &str) -> Result<&str, RestError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if conversation.is_empty() || conversation.len() > LONGEST_IDENTIFIER || !conversation.bytes().all(legal) {
        return Err(RestError::Path(format!("a conversation identifier of {} bytes", conversation.len())));
    }
    Ok(conversation)
}

/// A millisecond more on each side: it is not known whether the bounds belong to what is meant.
fn bounds(place: &Place) -> String {
    let mut resource = format!("startTimestamp={}", place.from.saturating_sub(1).max(0));
    if let Some(to) = place.to {
        resource.push_str(&format!("&endTimestamp={}", to.saturating_add(1)));
    }
    if let Some(token) = &place.token {
        resource.push_str("&pageToken=");
        resource.extend(url::form_urlencoded::byte_serialize(token.as_bytes()));
    }
    resource
}

/// The text within a payload: of a message, or of the question of a choice.
fn text_of(payload: &Value) -> Option<String> {
    let message = payload.get("abstractMessage")?;
    let text = |of: &str| message.get(of)?.get("text")?.as_str();
    text("staticContent").or_else(|| text("choices")).map(str::to_owned)
}

/// Reads the page at `place`; `by_time` is whether one that is full, and has no token, is followed from its newest entry.
///
/// # Errors
/// `Unexpected` for what is no page, holds an entry that cannot be told apart or put in order, or leads nowhere.
pub fn read(answer: &[u8], place: &Place, by_time: bool) -> Result<EntriesPage, RestError> {
    page(read_json("conversation entries", answer)?, place, answer.len(), by_time)
}

fn page(answer: Answer, place: &Place, bytes: usize, by_time: bool) -> Result<EntriesPage, RestError> {
    let unexpected = |what: &str| Err(RestError::Unexpected(format!("conversation entries: {what}")));
    let many = answer.conversation_entries.len();
    let mut entries: BTreeMap<(i64, String), Entry> = BTreeMap::new();
    for answered in answer.conversation_entries {
        if answered.identifier.is_empty() || answered.identifier.len() > LONGEST_IDENTIFIER {
            return unexpected("an entry without an identifier");
        }
        let server_time = answered.server_received_timestamp.or(answered.transcripted_timestamp);
        let Some(server_time) = server_time.or(answered.client_timestamp) else {
            return unexpected("an entry without a time");
        };
        let entry = Entry {
            server_time,
            client_time: answered.client_timestamp,
            text: answered.message_text.or_else(|| text_of(answered.entry_payload.as_ref()?)),
            kind: answered.entry_type,
            payload: answered.entry_payload,
            sender: answered.sender.unwrap_or_default(),
            related: answered.related_records.unwrap_or_default(),
            identifier: answered.identifier,
        };
        entries.entry((server_time, entry.identifier.clone())).or_insert(entry);
    }
    let all = entries.len();
    entries.retain(|(time, _), _| place.to.is_none_or(|to| *time <= to));
    let newest = entries.keys().next_back().map(|(time, _)| *time);
    let next = match (answer.next_page_token.filter(|token| !token.is_empty()), newest) {
        (Some(token), _) if place.token.as_ref() == Some(&token) => return unexpected("a page that follows itself"),
        (Some(token), _) => Some(Place { token: Some(token), ..place.clone() }),
        _ if !by_time => None,
        // From the oldest on: what lies beyond the end was the last of what is meant.
        _ if entries.len() < all => None,
        (None, Some(newest)) if many >= PAGE && newest <= place.from => {
            return unexpected("a page without end within one millisecond");
        }
        (None, Some(newest)) if (many >= PAGE || many == DEFAULT_PAGE) && newest > place.from => {
            Some(Place::within(newest, place.to))
        }
        _ => None,
    };
    Ok(EntriesPage { entries: entries.into_values().collect(), next, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(times: &[(i64, &str)], token: Option<&str>) -> Answer {
        let entries: Vec<_> = times
            .iter()
            .map(|(time, identifier)| json!({"identifier": identifier, "serverReceivedTimestamp": time}))
            .collect();
        let text = json!({"conversationEntries": entries, "nextPageToken": token}).to_string();
        read_json("/", text.as_bytes()).expect("an answer")
    }

    fn many(count: usize, time: impl Fn(usize) -> i64) -> Answer {
        let names: Vec<String> = (0..count).map(|number| format!("e{number:04}")).collect();
        let times: Vec<(i64, &str)> =
            names.iter().enumerate().map(|(number, name)| (time(number), name.as_str())).collect();
        answer(&times, None)
    }

    #[test]
    fn a_page_is_in_order_without_repeats_and_the_last_when_it_is_not_full() {
        let page = |answer, place: &Place| page(answer, place, 0, true);
        let read = page(answer(&[(3, "c"), (1, "b"), (1, "a"), (3, "c")], None), &Place::at(0)).expect("a page");
        let order: Vec<&str> = read.entries.iter().map(|entry| entry.identifier.as_str()).collect();
        assert_eq!((order, read.next), (vec!["a", "b", "c"], None));
        assert_eq!(page(answer(&[], None), &Place::at(7)).expect("a page").next, None);
        let read = page(answer(&[(3, "c"), (4, "d"), (5, "e")], None), &Place::within(3, Some(4))).expect("a page");
        assert_eq!((read.entries.len(), read.next), (2, None), "nothing beyond the end");
    }

    #[test]
    fn a_full_page_and_one_of_the_default_length_are_followed_from_their_newest_entry() {
        let next = |answer, from| page(answer, &Place::at(from), 0, true).map(|page| page.next);
        let step = |number| i64::try_from(number).expect("small");
        assert_eq!(next(many(1_000, step), 0), Ok(Some(Place::at(999))));
        assert_eq!(next(many(25, step), 0), Ok(Some(Place::at(24))));
        assert_eq!(next(many(24, step), 0), Ok(None));
        assert_eq!(next(many(25, |_| 5), 5), Ok(None), "nothing beyond what was asked for");
        let stuck = next(many(1_000, |_| 5), 5).expect_err("no way on").to_string();
        assert!(stuck.contains("one millisecond"), "{stuck}");
    }

    #[test]
    fn a_token_is_followed_and_never_in_a_circle() {
        let page = |answer, place: &Place| page(answer, place, 0, true);
        let first = page(answer(&[(1, "a")], Some("t1")), &Place::at(0)).expect("a page").next.expect("another");
        assert_eq!(first, Place { token: Some("t1".into()), ..Place::at(0) });
        assert!(page(answer(&[(2, "b")], Some("t1")), &first).is_err());
        assert_eq!(page(answer(&[(2, "b")], Some("")), &first).expect("a page").next, None);
        let path = resource("36b0f4d9-7c14", &Place { token: Some("a b&c".into()), ..Place::within(10, Some(20)) })
            .expect("a path");
        assert_eq!(
            path,
            "connect/conversation/36b0f4d9-7c14/entries?queryDirection=FromStart&recordLimit=1000&startTimestamp=9&endTimestamp=21&pageToken=a+b%26c"
        );
    }

    #[test]
    fn an_entry_of_the_data_api_has_its_text_in_the_payload_and_only_a_token_leads_on() {
        let text = json!({"staticContent": {"formatType": "Text", "text": "Hi"}});
        let choice = json!({"choices": {"text": "Which?", "optionItems": []}});
        let entry = |id: &str, message: Value| {
            json!({"identifier": id, "entryType": "Message", "clientTimestamp": 1, "transcriptedTimestamp": 2,
                "entryPayload": {"entryType": "Message", "abstractMessage": message}})
        };
        let mut entries = vec![entry("a", text), entry("b", choice), entry("c", json!({"externalTemplate": {}}))];
        entries.extend((3..25).map(|number| entry(&format!("x{number}"), Value::Null)));
        let body = json!({ "conversationEntries": entries }).to_string();
        let read = page(read_json("/", body.as_bytes()).expect("an answer"), &Place::at(0), 0, false).expect("a page");
        let texts: Vec<Option<&str>> = read.entries.iter().take(3).map(|entry| entry.text.as_deref()).collect();
        assert_eq!(texts, [Some("Hi"), Some("Which?"), None]);
        assert_eq!((read.entries[0].server_time, read.entries[0].kind.as_deref()), (2, Some("Message")));
        assert!(read.next.is_none() && read.entries[2].payload.is_some(), "twenty-five are no sign of more here");
        let path = data_resource("36b0f4d9", &Place { token: Some("t=".into()), ..Place::at(10) }).expect("a path");
        let resource = "/platform/engagement/v1.0/conversation-entries?conversationIdentifier=36b0f4d9";
        assert_eq!(path, format!("{resource}&recordLimit=1000&startTimestamp=9&pageToken=t%3D"));
    }

    #[test]
    fn what_cannot_be_told_apart_or_put_in_order_is_refused() {
        assert!(resource("../../query", &Place::at(0)).is_err());
        assert!(data_resource("c&recordLimit=1", &Place::at(0)).is_err());
        assert!(resource("", &Place::at(0)).is_err());
        let refused = |entry: Value| {
            let text = json!({"conversationEntries": [entry]}).to_string();
            page(read_json("/", text.as_bytes()).expect("an answer"), &Place::at(0), 0, true).is_err()
        };
        assert!(refused(json!({"identifier": "", "serverReceivedTimestamp": 1})));
        assert!(refused(json!({"identifier": "a"})));
        assert!(!refused(json!({"identifier": "a", "clientTimestamp": 1})));
    }
}

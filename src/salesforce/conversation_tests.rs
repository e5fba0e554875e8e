//! Conversations over REST, against a server that answers by script.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use crate::salesforce::backoff::BackoffLimits;
use crate::salesforce::conversation_entries::Place;
use crate::salesforce::messaging_sessions::{MessagingSession, SessionsConversations};
use crate::salesforce::rest::{RestError, RestVerdict};
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::scripted::{Asked, ORG, PATIENCE, ScriptedHttp, answer, granted, session};

const CONVERSATION: &str = "36b0f4d9-7c14-43dc-bb9e-7713a4930df0";

async fn org(script: impl Fn(&Asked) -> Response + Clone + Send + Sync + 'static) -> RestClient {
    let server = ScriptedHttp::start(move |asked| {
        if asked.path.ends_with("/token") { granted("token", &asked.host, ORG) } else { script(&asked) }
    })
    .await;
    let backoff = BackoffLimits::new(Duration::from_millis(2), Duration::from_millis(8)).expect("valid");
    RestClient::with_backoff(session(&server.url), backoff)
}

fn later() -> Instant {
    Instant::now() + PATIENCE
}

fn refusal(status: u16, code: &str, message: &str) -> Response {
    answer(status, json!([{"message": message, "errorCode": code}]).to_string())
}

fn entry(number: i64) -> Json {
    json!({"identifier": format!("e{number:05}"), "clientTimestamp": number - 7, "serverReceivedTimestamp": number,
        "messageText": format!("text {number}"), "clientDuration": 0, "relatedRecords": ["0Mw8d0000000001AAA"],
        "sender": {"appType": "agent", "role": "Agent", "subject": "005"}})
}

#[tokio::test]
async fn a_long_conversation_is_read_page_by_page_whatever_the_order_of_an_answer() {
    let asked: Arc<Mutex<Vec<i64>>> = Arc::default();
    let seen = asked.clone();
    let client = org(move |asked| {
        assert_eq!(asked.path, format!("/services/data/v66.0/connect/conversation/{CONVERSATION}/entries"));
        assert_eq!(
            (asked.query["queryDirection"].as_str(), asked.query["recordLimit"].as_str()),
            ("FromStart", "1000")
        );
        let from: i64 = asked.query["startTimestamp"].parse().expect("a number");
        seen.lock().expect("no panic while noting").push(from);
        // Exclusive, newest first.
        let entries: Vec<Json> = (1..=2_500).filter(|time| *time > from).take(1_000).map(entry).collect();
        let entries: Vec<Json> = entries.into_iter().rev().collect();
        answer(200, json!({ "conversationEntries": entries }).to_string())
    })
    .await;
    let (mut place, mut found) = (Some(Place::at(0)), Vec::new());
    while let Some(at) = place {
        let page = client.conversation_entries(CONVERSATION, &at, later()).await.expect("a page");
        found.extend(page.entries);
        place = page.next;
    }
    found.dedup_by_key(|entry| entry.identifier.clone());
    assert_eq!(found.len(), 2_500);
    assert!(found.is_sorted_by_key(|entry| entry.server_time));
    assert_eq!((found[0].text.as_deref(), found[0].client_time), (Some("text 1"), Some(-6)));
    assert_eq!(
        (found[0].sender.role.as_deref(), found[0].related.as_slice()),
        (Some("Agent"), &["0Mw8d0000000001AAA".to_owned()][..])
    );
    assert_eq!(
        *asked.lock().expect("noted"),
        [0, 999, 1_998],
        "each page begins a millisecond before the last one ended"
    );
}

#[tokio::test]
async fn the_limit_of_the_resource_pauses_nobody_else_and_that_of_the_org_everybody() {
    let client = org(|asked| match asked.path.as_str() {
        path if path.contains("/first/") => refusal(403, "REQUEST_LIMIT_EXCEEDED", "the hourly limit"),
        path if path.contains("/second/") => refusal(503, "SERVER_UNAVAILABLE", "later"),
        path if path.contains("/third/") => refusal(404, "NOT_FOUND", "The requested resource does not exist"),
        path if path.contains("/fourth/") => refusal(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
        _ => answer(200, json!({"totalSize": 0, "done": true, "records": []}).to_string()),
    })
    .await;
    let fails = async |name: &str| client.conversation_entries(name, &Place::at(0), later()).await.expect_err(name);
    assert!(matches!(fails("first").await.verdict(), RestVerdict::Pause(_)));
    assert_eq!(client.paused_until(), None);
    assert!(matches!(fails("second").await.verdict(), RestVerdict::RetryAfter(_)));
    assert!(matches!(fails("third").await, RestError::Refused { status: 404, .. }));
    assert_eq!(client.open_messaging_sessions(later()).await.expect("goes on"), []);
    assert!(matches!(fails("fourth").await, RestError::Paused(_)));
    assert!(client.paused_until().is_some());
    assert!(matches!(client.open_messaging_sessions(later()).await, Err(RestError::Paused(_))));
}

#[tokio::test]
async fn conversations_of_sessions_are_listed_and_those_that_are_hidden_are_counted_once_each() {
    let client = org(|asked| {
        let soql = asked.query["q"].as_str();
        assert!(soql.ends_with("FROM MessagingSession") || soql.contains(" WHERE SystemModstamp >= 1970-"), "{soql}");
        let session = |id: &str, conversation: Json, identifier: Json| {
            let of = identifier.is_string().then(|| json!({"ConversationIdentifier": identifier}));
            json!({"Id": id, "Status": "Ended", "CaseId": null, "ConversationId": conversation, "Conversation": of})
        };
        let records = json!([
            session("0Mw1", json!("0dw1"), json!(CONVERSATION)),
            session("0Mw2", Json::Null, Json::Null),
            session("0Mw3", json!("0dw3"), Json::Null),
            session("0Mw4", json!("0dw3"), Json::Null),
            session("0Mw5", json!("0dw5"), Json::Null),
        ]);
        answer(200, json!({"totalSize": 5, "done": true, "records": records}).to_string())
    })
    .await;
    let expected = SessionsConversations { identifiers: [CONVERSATION.to_owned()].into(), hidden: 2 };
    for since in [None, Some(chrono::DateTime::UNIX_EPOCH)] {
        assert_eq!(client.conversations_since(since, PATIENCE).await.expect("conversations"), expected);
    }
}

#[tokio::test]
async fn sessions_are_found_with_the_identifiers_of_their_conversations() {
    let client = org(|asked| {
        let soql = asked.query["q"].as_str();
        let fields = "Id, Status, CaseId, ConversationId, Conversation.ConversationIdentifier";
        assert!(soql.starts_with(&format!("SELECT {fields} FROM MessagingSession WHERE ")), "{soql}");
        assert_eq!(asked.path.ends_with("/queryAll"), soql.contains("Id IN ('0Mw1','0Mw2')"), "{soql}");
        let records = json!([
            {"attributes": {}, "Id": "0Mw1", "Status": "Waiting", "CaseId": "500A", "ConversationId": "0dw1",
             "Conversation": {"attributes": {}, "ConversationIdentifier": CONVERSATION}},
            {"attributes": {}, "Id": "0Mw2", "Status": "Ended", "CaseId": null, "ConversationId": null, "Conversation": null},
            {"attributes": {}, "Id": "0Mw3", "Status": "Ended", "CaseId": null, "ConversationId": "0dw3", "Conversation": null},
        ]);
        answer(200, json!({"totalSize": 3, "done": true, "records": records}).to_string())
    })
    .await;
    let expected = [
        MessagingSession {
            id: "0Mw1".into(),
            open: true,
            case: Some("500A".into()),
            conversation: Some(CONVERSATION.into()),
            hides_its_conversation: false,
        },
        MessagingSession { id: "0Mw2".into(), ..MessagingSession::default() },
        // It has a conversation, and that is not to be seen: something else than having none.
        MessagingSession { id: "0Mw3".into(), hides_its_conversation: true, ..MessagingSession::default() },
    ];
    assert_eq!(client.messaging_sessions(&["0Mw1", "0Mw2"], later()).await.expect("sessions"), expected);
    assert_eq!(client.open_messaging_sessions(later()).await.expect("sessions"), expected);
}

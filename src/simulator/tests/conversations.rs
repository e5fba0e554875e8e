//! Conversations: their entries over the Connect REST API, their limits, and what the control port says of them.

use serde_json::{Value, json};

use super::rest::Api;
use super::{config, start};
use crate::simulator::{EntryLine, EventOrder, Fault, MessageOrder, Simulator, SimulatorConfig, TimeBounds};

/// The id of a conversation that no other record names.
fn conversation(number: u64) -> String {
    crate::simulator::record_id::record_id("0dw", 5_000 + number)
}

async fn session(simulator: &Simulator, number: u64) -> String {
    let order = EventOrder::new("MessagingSession", "CREATE").with("ConversationId", conversation(number));
    simulator.control().publish(order.with("Status", "Active")).await.expect("published")[0].record_ids[0].clone()
}

async fn org(change: impl FnOnce(&mut SimulatorConfig)) -> (Simulator, Api) {
    let mut config = config().await;
    config.traffic.start_time = None;
    change(&mut config);
    let simulator = start(config).await;
    let api = Api::new(&simulator).await;
    (simulator, api)
}

fn path(conversation: &str, query: &str) -> String {
    format!("/connect/conversation/{conversation}/entries{query}")
}

fn identifiers(answer: &Value) -> Vec<&str> {
    let entries = answer["conversationEntries"].as_array().expect("entries");
    entries.iter().map(|entry| entry["identifier"].as_str().expect("an identifier")).collect()
}

fn sorted(mut identifiers: Vec<&str>) -> Vec<&str> {
    identifiers.sort_unstable();
    identifiers
}

async fn say(simulator: &Simulator, session: &str, count: usize) -> Vec<EntryLine> {
    let mut said = Vec::new();
    for number in 0..count {
        let order = MessageOrder::new(session, &format!("text {number}")).untold();
        said.push(simulator.control().say(order).await.expect("said"));
    }
    said
}

#[tokio::test]
async fn entries_come_without_an_order_the_newest_twenty_five_unless_more_are_asked_for() {
    let (simulator, api) = org(|_| {}).await;
    let session = session(&simulator, 1).await;
    let said = say(&simulator, &session, 60).await;
    let all: Vec<&str> = said.iter().map(|entry| entry.identifier.as_str()).collect();
    let of = &said[0].conversation;
    let newest = api.get(&path(of, "")).await.json();
    assert_eq!(identifiers(&newest).len(), 25);
    assert_eq!(newest.as_object().map(serde_json::Map::len), Some(1), "and nothing says that there are more");
    let every = api.get(&path(of, "?recordLimit=1000&queryDirection=FromStart")).await.json();
    assert_eq!(sorted(identifiers(&every)), sorted(all.clone()));
    assert_ne!(identifiers(&every), all, "an answer has no order");
    let entry =
        every["conversationEntries"].as_array().expect("entries").iter().find(|one| one["identifier"] == all[0]);
    let expected = json!({"clientDuration": 0, "clientTimestamp": said[0].client_time, "identifier": all[0],
        "messageText": "text 0", "relatedRecords": [session], "serverReceivedTimestamp": said[0].server_time,
        "sender": {"appType": "conversation", "role": "EndUser", "subject": said[0].subject}});
    assert_eq!(entry, Some(&expected));
    let silent = MessageOrder { text: None, role: "System".into(), ..MessageOrder::new(&session, "") };
    let silent = simulator.control().say(silent).await.expect("said");
    let last = api.get(&path(of, &format!("?startTimestamp={}", silent.server_time))).await.json();
    let last = last["conversationEntries"].as_array().expect("entries").clone();
    assert!(last.iter().any(|entry| entry["identifier"] == silent.identifier && entry.get("messageText").is_none()));
    for illegal in ["?recordLimit=1001", "?queryDirection=ASC", "?startTimestamp=yesterday"] {
        let (status, code, _) = api.get(&path(of, illegal)).await.refusal();
        assert_eq!((status, code.as_str()), (400, "ILLEGAL_QUERY_PARAMETER_VALUE"), "{illegal}");
    }
    assert_eq!(api.get(&path("36b0f4d9-0000", "")).await.refusal().1, "NOT_FOUND");
}

#[tokio::test]
async fn an_org_can_repeat_entries_leave_bounds_out_and_give_tokens() {
    let (simulator, api) = org(|config| {
        config.rest.repeated_entries = 100;
        config.rest.conversation_bounds = TimeBounds::Exclusive;
        config.rest.conversation_page_tokens = true;
    })
    .await;
    let session = session(&simulator, 2).await;
    let said = say(&simulator, &session, 7).await;
    let of = &said[0].conversation;
    let mut found = Vec::new();
    let (mut token, mut pages) = (String::new(), 0);
    loop {
        let page = api.get(&path(of, &format!("?queryDirection=FromStart&recordLimit=3{token}"))).await.json();
        let names = identifiers(&page);
        assert_eq!(names.len() % 2, 0, "each stands twice: {names:?}");
        found.extend(names.into_iter().map(str::to_owned));
        pages += 1;
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("&pageToken={next}"),
            None => break,
        }
    }
    found.sort();
    found.dedup();
    assert_eq!((pages, found.len()), (3, 7));
    let newest = said.last().expect("one").server_time;
    let beyond = api.get(&path(of, &format!("?startTimestamp={newest}"))).await.json();
    assert_eq!(identifiers(&beyond), Vec::<&str>::new());
}

#[tokio::test]
async fn calls_have_a_limit_of_the_hour_and_conversations_one_of_their_own_and_rights_are_looked_at() {
    let (simulator, api) = org(|config| config.rest.active_conversations = 1).await;
    let control = simulator.control();
    let (one, other) = (session(&simulator, 3).await, session(&simulator, 4).await);
    let (one, other) = (say(&simulator, &one, 1).await, say(&simulator, &other, 1).await);
    assert_eq!(api.get(&path(&one[0].conversation, "")).await.status, 200);
    let refused = api.get(&path(&other[0].conversation, "")).await.refusal();
    assert_eq!((refused.0, refused.1.as_str()), (403, "REQUEST_LIMIT_EXCEEDED"));
    control.inflict(Fault::ConversationCalls { left: 1 }).await.expect("inflicted");
    assert_eq!(api.get(&path(&one[0].conversation, "")).await.status, 200);
    let refused = api.get(&path(&one[0].conversation, "")).await.refusal();
    assert!(refused.1 == "REQUEST_LIMIT_EXCEEDED" && !refused.2.contains("TotalRequests"), "{refused:?}");
    control.inflict(Fault::ConversationCalls { left: 9 }).await.expect("inflicted");
    control.inflict(Fault::Deny { entity: "ConversationEntry".to_owned() }).await.expect("inflicted");
    assert_eq!(api.get(&path(&one[0].conversation, "")).await.refusal().1, "INSUFFICIENT_ACCESS");
    let stats = control.stats();
    assert_eq!((stats.conversation_calls, stats.conversation_calls_refused), (2, 2));
    assert_eq!((stats.conversations_active_most, stats.api_calls["conversation-entries"]), (1, 5));
}

#[tokio::test]
async fn a_text_is_redacted_by_the_api_and_the_truth_says_so() {
    let (simulator, api) = org(|_| {}).await;
    let session = session(&simulator, 5).await;
    let said = say(&simulator, &session, 2).await;
    let of = &said[0].conversation;
    let patch = async |entry: &str| {
        let body = json!({"conversationEntriesUpdates": [{"identifier": entry, "messageText": "xxx"}]});
        api.send(api.request(reqwest::Method::PATCH, &path(of, "")).json(&body)).await.status
    };
    assert_eq!(patch(&said[0].identifier).await, 204);
    assert_eq!(patch("nobody").await, 404);
    let truth = reqwest::get(format!("{}/messages", simulator.control_url())).await.expect("an answer");
    let lines = truth.text().await.expect("a text");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["text"], &lines[0]["redactions"]), (&json!("xxx"), &json!(1)));
    assert_eq!((&lines[1]["text"], &lines[1]["session"]), (&json!("text 1"), &json!(session)));
    let message = json!({"session": session, "text": "by the port"});
    let said = reqwest::Client::new().post(format!("{}/messages", simulator.control_url())).json(&message).send().await;
    let said: Value = said.expect("an answer").json().await.expect("JSON");
    assert_eq!((&said["text"], &said["conversation"]), (&json!("by the port"), &json!(of)));
    let update = simulator.control().stats().published;
    assert_eq!(update, 2, "the session, and the event that tells of the message");
}

#[tokio::test]
async fn a_query_reads_the_identifier_of_a_sessions_conversation() {
    let (simulator, api) = org(|_| {}).await;
    let with = session(&simulator, 6).await;
    let said = say(&simulator, &with, 1).await;
    let without = EventOrder::new("MessagingSession", "CREATE").with("ConversationId", Value::Null);
    simulator.control().publish(without).await.expect("published");
    let soql = "SELECT Id, ConversationId, Conversation.ConversationIdentifier FROM MessagingSession ORDER BY Id";
    let answer = api.query("query", soql).await.json();
    let id = conversation(6);
    let url = format!("/services/data/v66.0/sobjects/Conversation/{id}");
    let related = json!({"attributes": {"type": "Conversation", "url": url},
        "ConversationIdentifier": said[0].conversation});
    assert_eq!(answer["records"][0]["Conversation"], related);
    assert_eq!(answer["records"][0]["ConversationId"], json!(id));
    assert_eq!(answer["records"][1]["Conversation"], Value::Null);
    let unknown = api.query("query", "SELECT Owner.Name FROM MessagingSession").await.refusal();
    assert!(unknown.1 == "INVALID_FIELD" && unknown.2.contains("relationship 'Owner'"), "{unknown:?}");
}

#[tokio::test]
async fn conversations_and_who_takes_part_in_them_are_records_without_events_and_without_a_stamp_of_the_system() {
    let (simulator, api) = org(|_| {}).await;
    let session = session(&simulator, 7).await;
    let said = say(&simulator, &session, 2).await;
    let agent = MessageOrder { role: "Agent".into(), ..MessageOrder::new(&session, "hello") };
    let agent = simulator.control().say(agent.untold()).await.expect("said");
    let (of, id) = (&said[0].conversation, conversation(7));
    let soql = format!("SELECT Id, StartTimeMilliSecs FROM Conversation WHERE ConversationIdentifier IN ('{of}','x')");
    let answer = api.query("query", &soql).await.json();
    assert_eq!((&answer["totalSize"], &answer["records"][0]["Id"]), (&json!(1), &json!(id)));
    assert_eq!(answer["records"][0]["StartTimeMilliSecs"].as_f64(), Some(said[0].server_time as f64));
    let fields = "ParticipantRole, ParticipantKey, LastActiveTimeMilliSecs, JoinedTimeMilliSecs";
    let soql = format!("SELECT {fields} FROM ConversationParticipant WHERE ConversationId = '{id}'");
    let answer = api.query("query", &soql).await.json();
    let rows = answer["records"].as_array().expect("records");
    let of = |role: &str| rows.iter().find(|row| row["ParticipantRole"] == role).expect("a participant");
    assert_eq!(rows.len(), 2);
    let active = |row: &Value, field: &str| row[field].as_f64();
    assert_eq!(active(of("EndUser"), "JoinedTimeMilliSecs"), Some(said[0].server_time as f64));
    assert_eq!(active(of("EndUser"), "LastActiveTimeMilliSecs"), Some(said[1].server_time as f64));
    assert_eq!(of("Agent")["ParticipantKey"], json!(agent.subject));
    for object in ["Conversation", "ConversationParticipant"] {
        let refused = api.query("query", &format!("SELECT SystemModstamp FROM {object}")).await.refusal();
        assert_eq!(refused.1, "INVALID_FIELD");
        let fields = api.get(&format!("/sobjects/{object}/describe")).await.json();
        let names: Vec<&str> =
            fields["fields"].as_array().expect("fields").iter().filter_map(|field| field["name"].as_str()).collect();
        assert!(names.contains(&"LastModifiedDate") && names.contains(&"IsDeleted"), "{names:?}");
    }
    assert_eq!(simulator.control().stats().published, 1, "the session, and nothing else");
}

#[tokio::test]
async fn the_data_api_takes_tokens_of_its_own_app_pages_by_token_and_counts_by_the_minute() {
    let (simulator, api) = org(|config| config.rest.conversation_data_calls = 3).await;
    let session = session(&simulator, 8).await;
    let said = say(&simulator, &session, 5).await;
    let settings = SimulatorConfig::default().sign_in;
    let http = reqwest::Client::new();
    let sign_in = async |secret: &str| -> Value {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", settings.data_client_id.as_str()),
            ("client_secret", secret),
        ];
        let url = format!("{}/services/oauth2/token", simulator.instance_url());
        http.post(url).form(&form).send().await.expect("an answer").json().await.expect("JSON")
    };
    assert_eq!(sign_in("wrong").await["error"], "invalid_client");
    let granted = sign_in(&settings.data_client_secret).await;
    assert_eq!(granted["scope"], "sfap_api");
    let token = granted["access_token"].as_str().expect("a token").to_owned();
    let get = async |path: &str, token: &str| {
        http.get(format!("{}{path}", simulator.instance_url())).bearer_auth(token).send().await.expect("an answer")
    };
    let limits = get("/services/data/v66.0/limits", &token).await;
    assert_eq!(limits.status(), 401, "it is good for nothing else");
    let resource = "/platform/engagement/v1.0/conversation-entries";
    let of = format!("{resource}?conversationIdentifier={}&recordLimit=3", said[0].conversation);
    assert_eq!(get(&of, "00D!nobody").await.status(), 401);
    let first: Value = get(&of, &token).await.json().await.expect("JSON");
    let next = first["nextPageToken"].as_str().expect("there are more");
    let second: Value = get(&format!("{of}&pageToken={next}"), &token).await.json().await.expect("JSON");
    assert_eq!((identifiers(&first).len(), identifiers(&second).len()), (3, 2));
    assert!(second.get("nextPageToken").is_none());
    // Several can have been said within one millisecond.
    let of_page = |page: &Value| page["conversationEntries"].as_array().expect("entries").clone();
    let entries = [of_page(&first), of_page(&second)].concat();
    let oldest = entries.iter().find(|entry| entry["identifier"] == said[0].identifier).expect("an entry");
    assert_eq!(oldest["entryPayload"]["abstractMessage"]["staticContent"]["text"], json!(said[0].text));
    assert_eq!(
        (&oldest["entryType"], &oldest["transcriptedTimestamp"]),
        (&json!("Message"), &json!(said[0].server_time))
    );
    assert_eq!(get(&format!("{resource}?conversationIdentifier=nobody"), &token).await.status(), 404);
    let refused = get(&of, &token).await;
    let wait: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!(refused.status() == 429 && (1..=61).contains(&wait), "{} {wait}", refused.status());
    let over_connect = api.get(&path(&said[0].conversation, "")).await.status;
    assert_eq!(over_connect, 200, "a limit of its own");
}

#[tokio::test]
async fn people_talk_in_open_sessions_of_which_some_go_on_in_an_earlier_conversation() {
    let (simulator, _) = org(|config| {
        config.traffic.messages = 500.0;
        config.traffic.entities = vec!["MessagingSession".to_owned()];
    })
    .await;
    let control = simulator.control();
    let said = |_: &crate::simulator::Snapshot| {
        let all = control.messages();
        let redacted = all.iter().any(|entry| entry.redactions > 0);
        let spans = all
            .iter()
            .any(|one| all.iter().any(|other| one.conversation == other.conversation && one.session != other.session));
        all.len() > 60 && redacted && spans
    };
    control.wait_for(super::PATIENCE, said).await.expect("people talk");
    let all = control.messages();
    let stats = control.stats();
    assert!(all.iter().any(|entry| entry.text.is_none()) && stats.published > 20, "{stats:?}");
}

//! Messages of conversations, from end to end: a simulated org, the real pipeline, a real broker, and what was truly said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use casewire::config::Config;
use casewire::identity::case_safe_id;
use casewire::simulator::{Control, EntryLine, EventOrder, Fault, MessageOrder, SimulatorConfig, TimeBounds};
use casewire::status::{MessagesStatus, StreamState, StreamStatus};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::suite::deployment::{Deployment, Output, Running, brokers};
use crate::suite::main_job::{CASES, SESSIONS, arrived};

/// Messages at once and often: the limits of an hour are for other tests.
const FAST: &str = "STREAM__0__MESSAGES = true\nMESSAGES__SETTLE = 10ms\nMESSAGES__CALLS_PER_HOUR = 1000000\n\
                    MESSAGES__SWEEP_LEAST = 1s\nMESSAGES__SWEEP_MOST = 2s\nMESSAGES__FINAL_AFTER = 1s";

/// The same, but nothing is fetched without an event.
pub const TOLD_ONLY: &str = "STREAM__0__MESSAGES = true\nMESSAGES__SETTLE = 10ms\nMESSAGES__CALLS_PER_HOUR = 1000000\n\
                         MESSAGES__SWEEP_LEAST = 1h\nMESSAGES__SWEEP_MOST = 1h\nMESSAGES__FINAL_AFTER = 1h";

/// Everything has to be there by then.
const PATIENCE: Duration = Duration::from_secs(90);

/// The settings of the Conversation Data API, with a secret.
fn over_data_api(deployment: &Deployment, secret: &str) -> String {
    format!(
        "MESSAGES__API = data\nMESSAGES__DATA_API__CLIENT_ID = {}\nMESSAGES__DATA_API__CLIENT_SECRET = {secret}\n\
         MESSAGES__DATA_API__URL = {}\nMESSAGES__DATA_API__CALLS_PER_MINUTE = 100000\n",
        SimulatorConfig::default().sign_in.data_client_id,
        deployment.simulator.login_url(),
    )
}

pub fn org() -> SimulatorConfig {
    let mut config = SimulatorConfig::on_free_ports();
    config.rest.conversation_calls = 1_000_000;
    config.rest.conversation_data_calls = 1_000_000;
    config.rest.daily_requests = 10_000_000;
    config.rest.repeated_entries = 20;
    config
}

/// A session of conversation `number`. What is said in one that is not open, nobody looks for without an event.
pub async fn session(control: &Control, number: usize, status: &str) -> String {
    let conversation = case_safe_id(&format!("0dw8d000000{number:04}")).into_owned();
    let order = EventOrder::new("MessagingSession", "CREATE").with("ConversationId", conversation);
    let case = case_safe_id(&format!("5008d000000{number:04}")).into_owned();
    let lines = control.publish(order.with("Status", status).with("CaseId", case)).await.expect("published");
    lines[0].record_ids[0].clone()
}

pub async fn say(control: &Control, session: &str, text: &str, tell: bool) -> EntryLine {
    let order = MessageOrder::new(session, text);
    control.say(if tell { order } else { order.untold() }).await.expect("said")
}

async fn status_of(control: &Control, session: &str, status: &str) {
    let update = EventOrder::new("MessagingSession", "UPDATE").on([session]).with("Status", status);
    control.publish(update).await.expect("published");
}

pub fn messages(status: &StreamStatus) -> MessagesStatus {
    status.messages.clone().unwrap_or_default()
}

/// The newest text of each entry, by what was written.
fn written(records: &[Output]) -> BTreeMap<String, Value> {
    records.iter().map(|record| (record.headers["entry_id"].clone(), record.json()["text"].clone())).collect()
}

/// Waits until what was written says what is true, looking whenever the board changes.
async fn until_told(deployment: &Deployment, running: &Running) -> Vec<Output> {
    let mut changes = running.board.changes();
    let waiting = async {
        loop {
            let truth: BTreeMap<String, Value> = deployment
                .control()
                .messages()
                .into_iter()
                .map(|entry| (entry.identifier, json!(entry.text)))
                .collect();
            let records = deployment.output("ConversationEntry").await;
            if written(&records) == truth {
                return records;
            }
            changes.changed().await.expect("the board lives");
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(records) => records,
        Err(_) => panic!(
            "{} of {} entries: {:#?}",
            written(&deployment.output("ConversationEntry").await).len(),
            deployment.control().messages().len(),
            running.board.snapshot().streams
        ),
    }
}

/// Holds every record against what was truly said: each entry once as a message, then at most once for each change.
pub fn assert_once(records: &[Output], truth: &[EntryLine]) {
    let truth: BTreeMap<&str, &EntryLine> = truth.iter().map(|entry| (entry.identifier.as_str(), entry)).collect();
    let mut seen: BTreeMap<&str, Vec<&Output>> = BTreeMap::new();
    for record in records {
        seen.entry(record.headers["entry_id"].as_str()).or_default().push(record);
    }
    assert_eq!(seen.keys().collect::<BTreeSet<_>>(), truth.keys().collect::<BTreeSet<_>>());
    for (identifier, records) in seen {
        let entry = truth[identifier];
        let changes = usize::try_from(entry.redactions).expect("few");
        assert!(records.len() <= 1 + changes, "{identifier} stands {} times, changed {changes} times", records.len());
        for (number, record) in records.iter().enumerate() {
            let value = record.json();
            let op = if number == 0 { "message" } else { "redaction" };
            assert_eq!((record.headers["op"].as_str(), value["op"].as_str()), (op, Some(op)), "{value}");
            assert_eq!((&record.key, value["id"].as_str()), (&entry.conversation, Some(identifier)));
            assert_eq!(value["conversation"], json!(entry.conversation));
            assert_eq!(value["session"], json!(entry.session));
            let sender = json!({"role": entry.role, "app_type": entry.app_type, "subject": entry.subject});
            assert_eq!(value["sender"], sender);
            let millis = |time: &Value| {
                let time = time.as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
                time.map(|time| time.timestamp_millis())
            };
            assert_eq!(millis(&value["server_time"]), Some(entry.server_time), "{value}");
            assert_eq!(millis(&value["client_time"]), Some(entry.client_time), "{value}");
            let api = value["source"]["api"].as_str().expect("an API");
            // The Connect resource tells no types.
            assert_eq!(api == "data", value["type"].is_string(), "{value}");
            assert!(["connect", "data"].contains(&api), "{value}");
        }
        let texts: BTreeSet<String> = records.iter().map(|record| record.json()["text"].to_string()).collect();
        assert_eq!(texts.len(), records.len(), "{identifier} was written twice with the same text");
        assert_eq!(records.last().expect("one").json()["text"], json!(entry.text));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_is_written_once_over_abrupt_ends_whether_an_event_told_of_it_or_not() {
    let Some(brokers) = brokers("every_entry_is_written_once_over_abrupt_ends_whether_an_event_told_of_it_or_not")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    // Two conversations span two sessions each.
    let mut sessions = Vec::new();
    for number in [1, 1, 2, 2, 3, 4] {
        sessions.push(session(&control, number, "Active").await);
    }
    let mut dice = StdRng::seed_from_u64(7);
    for round in 0..8 {
        let running = deployment.run(&[SESSIONS], FAST);
        // Dies in one of them: before the first is fetched, between an event and its messages, inside a transaction.
        let end = dice.random_range(0..12);
        for number in 0..12 {
            let at = dice.random_range(0..sessions.len());
            let entry =
                say(&control, &sessions[at], &format!("round {round} number {number}"), dice.random_bool(0.6)).await;
            if dice.random_bool(0.15) {
                let (conversation, entry) = (entry.conversation, entry.identifier);
                let text = format!("redacted in {round} as {number}");
                control.inflict(Fault::Redact { conversation, entry, text }).await.expect("inflicted");
            }
            if number == end {
                // The first two rounds end while the stream begins, the others after it has written something.
                let begun = |status: &StreamStatus| round < 2 || messages(status).fetches > 0;
                running.until("the beginning", begun).await;
            }
        }
        running.abort().await;
    }
    status_of(&control, &sessions[5], "Ended").await;
    let running = deployment.run(&[SESSIONS], FAST);
    until_told(&deployment, &running).await;
    // Said after the end, and told by nobody; changed, and told by nobody.
    say(&control, &sessions[5], "one more thing", false).await;
    let old = control.messages().into_iter().find(|entry| entry.session == sessions[0]).expect("an entry");
    let redact = Fault::Redact { conversation: old.conversation, entry: old.identifier, text: "***".to_owned() };
    control.inflict(redact).await.expect("inflicted");
    status_of(&control, &sessions[5], "Inactive").await;
    let records = until_told(&deployment, &running).await;
    running.stop().await.expect("an orderly end");
    assert_once(&records, &control.messages());
    let of =
        |trigger: &str| records.iter().filter(|record| record.json()["source"]["trigger"] == json!(trigger)).count();
    assert!(of("event") > 0 && of("sweep") > 0, "{} {}", of("event"), of("sweep"));
    let redactions = records.iter().filter(|record| record.headers["op"] == "redaction").count();
    assert!(redactions >= 1, "{redactions}");
    let case = case_safe_id("5008d0000000003").into_owned();
    let of_third = records.iter().find(|record| record.json()["session"] == json!(sessions[4])).expect("an entry");
    assert_eq!(of_third.json()["case"], json!(case));
    assert_eq!(control.stats().conversation_calls_refused, 0);
    // What folds from the records is what the org has of conversations and of who takes part in them.
    for entity in ["Conversation", "ConversationParticipant"] {
        let records = deployment.output(entity).await;
        assert!(records.iter().all(|record| record.headers["op"] == "refresh"));
        let contents: BTreeSet<String> = records.iter().map(|record| record.json()["record"].to_string()).collect();
        assert_eq!(contents.len(), records.len(), "each of them changed something");
        let held: BTreeMap<&String, &Value> =
            records.iter().map(|record| (&record.key, &record.json()["record"])).collect();
        let truth = control.records(entity).expect("the org's records");
        assert_eq!(held.len(), truth.len());
        for line in truth {
            for (name, value) in &line.fields {
                let same = |held: &Value| held == value || (held.is_number() && held.as_f64() == value.as_f64());
                assert!(
                    same(&held[&line.id][name]),
                    "{entity} {}: {name} is {}, truly {value}",
                    line.id,
                    held[&line.id][name]
                );
            }
        }
    }
    let queries = control.stats().api_calls["query"];
    let fetches = control.stats().api_calls["conversation-entries"];
    assert!(queries <= 3 * fetches + 20, "{queries} queries for {fetches} fetches");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_conversation_is_written_once_whatever_pages_look_like_and_over_an_abrupt_end_between_them() {
    let Some(brokers) =
        brokers("a_long_conversation_is_written_once_whatever_pages_look_like_and_over_an_abrupt_end_between_them")
    else {
        return;
    };
    for (bounds, tokens, data) in [
        (TimeBounds::Inclusive, false, false),
        (TimeBounds::Exclusive, true, false),
        (TimeBounds::Exclusive, false, true),
    ] {
        let mut config = org();
        config.rest.conversation_bounds = bounds;
        config.rest.conversation_page_tokens = tokens;
        let deployment = Deployment::new(brokers.clone(), config).await;
        let control = deployment.control();
        let session = session(&control, 1, "Ended").await;
        for number in 0..2_300 {
            // Many share a millisecond.
            say(&control, &session, &format!("number {number}"), false).await;
        }
        say(&control, &session, "the last", true).await;
        let secret = SimulatorConfig::default().sign_in.data_client_secret;
        let api = if data { over_data_api(&deployment, &secret) } else { String::new() };
        let settings = format!("{TOLD_ONLY}\n{api}BATCH__MAX_RECORDS = 150");
        let running = deployment.run(&[SESSIONS], &settings);
        running.until("some of it", |status| messages(status).entries_written >= 300).await;
        running.abort().await;
        // What fails behind the last page holds up nothing of it, and costs no other call for entries.
        let path = "ConversationParticipant".to_owned();
        let (error_code, message) = (String::new(), String::new());
        let too_much = Fault::FailRest { path, status: 431, error_code, message, retry_after: None, times: 1 };
        control.inflict(too_much).await.expect("inflicted");
        let running = deployment.run(&[SESSIONS], &settings);
        let records = until_told(&deployment, &running).await;
        let status = running.until("its trigger to be gone", |status| messages(status).sessions_waiting == 0).await;
        let fetches = messages(&status).fetches;
        let status = running.until("its records", |status| messages(status).records_written > 0).await;
        assert_eq!(messages(&status).fetches, fetches);
        running.stop().await.expect("an orderly end");
        assert_once(&records, &control.messages());
        assert!(records.is_sorted_by_key(|record| record.json()["server_time"].as_str().map(str::to_owned)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_or_a_missing_right_delays_messages_and_neither_loses_one_nor_holds_up_events() {
    let Some(brokers) = brokers("a_limit_or_a_missing_right_delays_messages_and_neither_loses_one_nor_holds_up_events")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let first = session(&control, 1, "Ended").await;
    let faults = [
        (
            Fault::ConversationCalls { left: 0 },
            Fault::ConversationCalls { left: 1_000_000 },
            "of this hour are used up",
        ),
        (
            Fault::Deny { entity: "ConversationEntry".to_owned() },
            Fault::Allow { entity: "ConversationEntry".to_owned() },
            "Messages cannot be read",
        ),
    ];
    for (fault, end, says) in faults {
        control.inflict(fault).await.expect("inflicted");
        let running = deployment.run(&[SESSIONS, CASES], TOLD_ONLY);
        say(&control, &first, says, true).await;
        let waits = |status: &StreamStatus| messages(status).waits_for.is_some_and(|what| what.contains(says));
        let status = running.until("the wait", waits).await;
        let shown = messages(&status);
        assert!(
            shown.remedy.is_some() && shown.oldest_trigger_at.is_some() && shown.sessions_waiting == 1,
            "{shown:?}"
        );
        // Cases and sessions go on.
        let case = control.publish(EventOrder::new("Case", "CREATE")).await.expect("published");
        let session = control
            .publish(EventOrder::new("MessagingSession", "UPDATE").on([first.as_str()]).with("ChannelName", says))
            .await
            .expect("published");
        arrived(&running, &case, CASES).await;
        arrived(&running, &session, SESSIONS).await;
        running.stop().await.expect("an orderly end");
        control.inflict(end).await.expect("inflicted");
        // What waits is kept: no new event tells of it.
        let running = deployment.run(&[SESSIONS, CASES], TOLD_ONLY);
        let records = until_told(&deployment, &running).await;
        running.until("nothing waits", |status| messages(status).sessions_waiting == 0).await;
        running.stop().await.expect("an orderly end");
        assert_once(&records, &control.messages());
        assert!(records.iter().all(|record| record.json()["source"]["trigger"] == json!("event")));
    }
    // What is to come with the entries can never be read: they are written with one call all the same.
    let path = "ConversationParticipant".to_owned();
    let (error_code, message) = (String::new(), String::new());
    let too_much = Fault::FailRest { path, status: 431, error_code, message, retry_after: None, times: 100_000 };
    control.inflict(too_much).await.expect("inflicted");
    let running = deployment.run(&[SESSIONS, CASES], TOLD_ONLY);
    say(&control, &first, "without participants", true).await;
    let records = until_told(&deployment, &running).await;
    let status = running.until("nothing waits", |status| messages(status).sessions_waiting == 0).await;
    running.stop().await.expect("an orderly end");
    assert_once(&records, &control.messages());
    assert_eq!((messages(&status).fetches, messages(&status).records_written), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_api_has_an_app_of_its_own_whose_refusal_holds_nothing_else_up_and_a_change_of_the_api_repeats_nothing()
 {
    let name = "the_data_api_has_an_app_of_its_own_whose_refusal_holds_nothing_else_up_and_a_change_of_the_api_repeats_nothing";
    let Some(brokers) = brokers(name) else { return };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let first = session(&control, 1, "Ended").await;
    // More than one page, so that what the change of the API does to what is known has to last over the pages.
    for number in 0..1_050 {
        say(&control, &first, &format!("number {number}"), false).await;
    }
    say(&control, &first, "over connect", true).await;
    let running = deployment.run(&[SESSIONS], TOLD_ONLY);
    until_told(&deployment, &running).await;
    running.until("nothing waits", |status| messages(status).sessions_waiting == 0).await;
    running.stop().await.expect("an orderly end");

    let wrong = format!("{TOLD_ONLY}\n{}", over_data_api(&deployment, "wrong"));
    let running = deployment.run(&[SESSIONS], &wrong);
    say(&control, &first, "over the data api", true).await;
    let refused = |what: &String| what.contains("The app of [messages.data_api] cannot sign in");
    let waits = |status: &StreamStatus| messages(status).waits_for.as_ref().is_some_and(refused);
    let status = running.until("the refusal", waits).await;
    assert!(messages(&status).remedy.is_some_and(|remedy| remedy.contains("Client Credentials Flow")));
    let lines =
        control.publish(EventOrder::new("MessagingSession", "UPDATE").on([first.as_str()]).with("ChannelName", "x"));
    let lines = lines.await.expect("published");
    arrived(&running, &lines, SESSIONS).await;
    running.stop().await.expect("an orderly end");

    let secret = SimulatorConfig::default().sign_in.data_client_secret;
    let right = format!("{TOLD_ONLY}\n{}", over_data_api(&deployment, &secret));
    let running = deployment.run(&[SESSIONS], &right);
    let records = until_told(&deployment, &running).await;
    running.stop().await.expect("an orderly end");
    assert_once(&records, &control.messages());
    let apis: Vec<&str> = records.iter().filter_map(|record| record.json()["source"]["api"].as_str()).collect();
    let over = |name: &str| apis.iter().filter(|api| **api == name).count();
    assert_eq!((over("connect"), over("data")), (1_051, 1), "nothing that was fetched over the one is written again");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_conversations_are_made_active_than_allowed_also_over_an_abrupt_end() {
    let Some(brokers) = brokers("no_more_conversations_are_made_active_than_allowed_also_over_an_abrupt_end") else {
        return;
    };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    for number in 1..=5 {
        let session = session(&control, number, "Paused").await;
        say(&control, &session, "hello", true).await;
    }
    let two = format!("{TOLD_ONLY}\nMESSAGES__MAX_ACTIVE = 2");
    let full = |status: &StreamStatus| {
        let messages = messages(status);
        messages.sessions_waiting == 3 && messages.conversations_active == 2
    };
    let running = deployment.run(&[SESSIONS], &two);
    running.until("two of five", full).await;
    running.abort().await;
    let running = deployment.run(&[SESSIONS], &two);
    running.until("the same two", full).await;
    running.stop().await.expect("an orderly end");
    let stats = control.stats();
    assert_eq!((stats.conversations_active_most, stats.conversation_calls_refused), (2, 0), "{stats:?}");
    let running = deployment.run(&[SESSIONS], TOLD_ONLY);
    let records = until_told(&deployment, &running).await;
    running.stop().await.expect("an orderly end");
    assert_once(&records, &control.messages());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_no_query_finds_stands_in_the_ledger_and_is_fetched_when_it_is_there_again() {
    let Some(brokers) =
        brokers("a_session_that_no_query_finds_stands_in_the_ledger_and_is_fetched_when_it_is_there_again")
    else {
        return;
    };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let session = session(&control, 1, "Ended").await;
    let record_ids = vec![session.clone()];
    control.inflict(Fault::HideRecords { record_ids: record_ids.clone() }).await.expect("inflicted");
    say(&control, &session, "is anybody there?", true).await;
    let settings = format!("{TOLD_ONLY}\nMESSAGES__GIVE_UP_AFTER = 1s\nGAPS__HEAL = true\nGAPS__LOOK_EVERY = 1s");
    let running = deployment.run(&[SESSIONS], &settings);
    let told = |status: &StreamStatus| status.gaps_open.get("unread") == Some(&1);
    let status =
        running.until("the open entry", |status| told(status) && messages(status).sessions_given_up == 1).await;
    assert_eq!(messages(&status).entries_written, 0);
    let entries = deployment.output("gaps").await;
    let entry = entries.last().expect("an entry").json();
    assert_eq!((&entry["entity"], &entry["records"]), (&json!("ConversationEntry"), &json!([session])), "{entry}");

    // It stays that one entry, whatever happens to the session and over a restart.
    running.stop().await.expect("an orderly end");
    say(&control, &session, "nobody?", true).await;
    let running = deployment.run(&[SESSIONS], &settings);
    running.until("the same entry", |status| told(status) && messages(status).sessions_in_vain == 1).await;

    control.inflict(Fault::ShowRecords { record_ids }).await.expect("inflicted");
    let records = until_told(&deployment, &running).await;
    running.until("the entry to be healed", |status| status.gaps_open.is_empty() && status.gaps_healed == 1).await;
    running.stop().await.expect("an orderly end");
    assert_once(&records, &control.messages());
    let states: Vec<Value> =
        deployment.output("gaps").await.iter().map(|entry| json!([entry.key, entry.json()["state"]])).collect();
    let id = &entries[0].key;
    assert_eq!(states, [json!([id, "open"]), json!([id, "healed"])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_cannot_be_read_is_one_entry_of_the_ledger_until_it_can_and_holds_no_other_up() {
    let name = "a_conversation_that_cannot_be_read_is_one_entry_of_the_ledger_until_it_can_and_holds_no_other_up";
    let Some(brokers) = brokers(name) else { return };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let settings = format!("{TOLD_ONLY}\nMESSAGES__GIVE_UP_AFTER = 1s");
    let fails = |path: &str, status, code: &str, times| Fault::FailRest {
        path: format!("/connect/conversation/{path}"),
        status,
        error_code: code.to_owned(),
        message: "No".to_owned(),
        retry_after: None,
        times,
    };
    // Only the first of them says whom it concerns.
    for (number, status, code) in
        [(1, 404, "NOT_FOUND"), (2, 500, "UNKNOWN_EXCEPTION"), (3, 403, "INSUFFICIENT_ACCESS")]
    {
        let before = deployment.output("gaps").await.len();
        let bad = session(&control, number, "Ended").await;
        let asked = say(&control, &bad, "can you read me?", true).await;
        control.inflict(fails(&asked.conversation, status, code, 6)).await.expect("inflicted");
        let running = deployment.run(&[SESSIONS], &settings);
        running.until("the first failure", |status| messages(status).fetches > 0).await;
        let good = session(&control, 10 + number, "Ended").await;
        say(&control, &good, "and me?", true).await;
        let told = |status: &StreamStatus| {
            let messages = messages(status);
            // The conversation is fetched for itself.
            status.gaps_opened == 1 && messages.entries_written >= 1 && messages.sessions_waiting == 0
        };
        let what = format!("the entry of {code}, and what can be read");
        let status = running.until(&what, told).await;
        say(&control, &bad, "and now?", true).await;
        let records = until_told(&deployment, &running).await;
        running.until("the entry to be healed", |status| status.gaps_open.is_empty() && status.gaps_healed == 1).await;
        running.stop().await.expect("an orderly end");
        assert_once(&records, &control.messages());
        let entries = deployment.output("gaps").await.split_off(before);
        let states: Vec<&Value> = entries.iter().map(|entry| &entry.json()["state"]).collect();
        assert_eq!(states, ["open", "healed"], "{status:?}");
        assert_eq!(entries[0].json()["records"], json!([asked.conversation]));
    }

    // What fails for all of them is the fault of none.
    let before = deployment.output("gaps").await.len();
    for number in 1..=2 {
        let session = session(&control, 20 + number, "Ended").await;
        say(&control, &session, "is anybody there?", true).await;
    }
    control.inflict(fails("", 503, "SERVER_UNAVAILABLE", 2)).await.expect("inflicted");
    let fetches = control.stats().api_calls["conversation-entries"];
    let running = deployment.run(&[SESSIONS], &settings);
    let records = until_told(&deployment, &running).await;
    running.until("nothing waits", |status| messages(status).sessions_waiting == 0).await;
    running.stop().await.expect("an orderly end");
    assert_once(&records, &control.messages());
    assert_eq!(deployment.output("gaps").await.len(), before, "nobody was given up");
    let used = control.stats().api_calls["conversation-entries"] - fetches;
    assert!(used <= 4, "{used} calls for two conversations, of which two failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_of_which_more_has_to_be_kept_than_kafka_takes_stops_nothing_and_is_written_once() {
    let Some(brokers) =
        brokers("a_conversation_of_which_more_has_to_be_kept_than_kafka_takes_stops_nothing_and_is_written_once")
    else {
        return;
    };
    let mut config = org();
    // The order of pages that follow a token is nobody's promise: what is kept cannot shrink between them.
    config.rest.conversation_page_tokens = true;
    let deployment = Deployment::new(brokers, config).await;
    let control = deployment.control();
    let huge = session(&control, 1, "Ended").await;
    for number in 0..1_300 {
        say(&control, &huge, &format!("number {number}"), false).await;
    }
    // A text that no record of this size holds goes without it.
    say(&control, &huge, &"x".repeat(40_000), true).await;
    let other = session(&control, 2, "Ended").await;
    say(&control, &other, "and I?", true).await;
    let text = format!("{}[kafka.properties]\n\"message.max.bytes\" = 20000\n", deployment.config_file(&[SESSIONS]));
    let overrides = TOLD_ONLY.lines().filter_map(|line| line.trim().split_once('='));
    let overrides: Vec<(String, String)> =
        overrides.map(|(key, value)| (format!("CASEWIRE__{}", key.trim()), value.trim().to_owned())).collect();
    let config = Config::from_table(text.parse().expect("TOML"), &overrides.into_iter().collect());
    let running = Deployment::run_configured(config.expect("a configuration"));
    let all =
        |status: &StreamStatus| messages(status).sessions_waiting == 0 && messages(status).entries_written >= 1_302;
    let status = running.until("all of them", all).await;
    assert!(status.gaps_open.is_empty() && matches!(status.state, StreamState::Running), "{:?}", status.state);
    running.stop().await.expect("an orderly end");
    let records = deployment.output("ConversationEntry").await;
    assert_eq!(written(&records).len(), 1_302);
    assert_eq!(records.len(), 1_302, "each once");
    assert_eq!(records.iter().filter(|record| record.json()["too_large"] == json!(true)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_sessions_that_a_snapshot_finds_are_fetched_newest_first_over_an_abrupt_end() {
    let Some(brokers) =
        brokers("messages_of_the_sessions_that_a_snapshot_finds_are_fetched_newest_first_over_an_abrupt_end")
    else {
        return;
    };
    let mut config = org();
    // One of them gives the stream its position, for which snapshots wait.
    config.pubsub.keepalive = Duration::from_millis(300);
    let deployment = Deployment::new(brokers, config).await;
    let control = deployment.control();
    let days = |days: i64| {
        let at = chrono::Utc::now() - chrono::TimeDelta::days(days);
        json!(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    };
    let (mut ended, mut said) = (BTreeMap::new(), BTreeMap::new());
    for (number, ago) in [(1, 3), (2, 1), (3, 5), (4, 30), (5, 2)] {
        let session = session(&control, number, "Ended").await;
        let update = EventOrder::new("MessagingSession", "UPDATE").on([session.as_str()]);
        control.publish(update.with("EndTime", days(ago))).await.expect("published");
        said.insert(ago, say(&control, &session, &format!("{ago} days ago"), false).await.conversation);
        ended.insert(session, ago);
    }
    // The stream begins behind all of that: only the snapshot finds it.
    let settings = format!(
        "{TOLD_ONLY}\nSTREAM__0__START = latest\nSNAPSHOT__ON_FIRST_RUN = true\nBATCH__MAX_RECORDS = 1\n\
                 KAFKA__PARTITIONS = 1"
    );
    // Nothing can be fetched before all are found, so the order is that of their ends.
    let entity = || "ConversationEntry".to_owned();
    control.inflict(Fault::Deny { entity: entity() }).await.expect("inflicted");
    let running = deployment.run(&[SESSIONS], &settings);
    let found = |status: &StreamStatus| status.jobs.is_empty() && messages(status).history_waiting == 4;
    running.until("four of five, one being too old", found).await;
    running.abort().await;
    control.inflict(Fault::Allow { entity: entity() }).await.expect("inflicted");
    // One that fails waits for another, and not the others for it.
    let path = format!("/connect/conversation/{}", said[&1]);
    let (error_code, message) = ("UNKNOWN_EXCEPTION".to_owned(), String::new());
    let fails = Fault::FailRest { path, status: 500, error_code, message, retry_after: None, times: 1 };
    control.inflict(fails).await.expect("inflicted");
    let running = deployment.run(&[SESSIONS], &settings);
    running.until("the first of them", |status| messages(status).entries_written >= 1).await;
    running.abort().await;
    let running = deployment.run(&[SESSIONS], &settings);
    let done = |status: &StreamStatus| status.messages.as_ref().is_some_and(|messages| messages.history_waiting == 0);
    running.until("all of them", done).await;
    running.stop().await.expect("an orderly end");
    let records = deployment.output("ConversationEntry").await;
    let old: BTreeSet<&String> = ended.iter().filter(|(_, ago)| **ago > 7).map(|(session, _)| session).collect();
    let truth: Vec<EntryLine> = control.messages().into_iter().filter(|entry| !old.contains(&entry.session)).collect();
    assert_eq!(truth.len(), 4, "the one of a month ago is older than messages.history");
    assert_once(&records, &truth);
    assert!(records.iter().all(|record| record.json()["source"]["trigger"] == json!("history")));
    let order: Vec<&str> = records.iter().filter_map(|record| record.json()["text"].as_str()).collect();
    assert_eq!(order, ["2 days ago", "1 days ago", "3 days ago", "5 days ago"]);
    assert_eq!(control.stats().conversation_calls_refused, 0);
}

//! Messages compared with the org: redactions and entries that no fetch looks at any more, found and written by the service on request
//! of the real program, over ends in the middle of it.

use std::collections::{BTreeMap, BTreeSet};

use casewire::identity::case_safe_id;
use casewire::simulator::{Control, EntryLine, EventOrder, Fault};
use casewire::status::StreamStatus;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::suite::binary::{Admin, Installation, Running as Started};
use crate::suite::deployment::{Deployment, Output, brokers};
use crate::suite::main_job::SESSIONS;
use crate::suite::messages::{TOLD_ONLY, assert_once, messages, org, say, session};

/// What is fetched without an event is for the comparison alone, and a minute or an hour is long ago.
const SHORT: &str = "[messages]\nsettle = '10ms'\ncalls_per_hour = 1000000\nsweep_least = '1h'\nsweep_most = '1h'\n\
                     final_after = '1h'\nreread = '1min'\nhistory = '1h'\n";

/// `casewire <words>`, with the token of its admin port, that dies at a place.
fn start(installation: &Installation, words: &str, failpoint: Option<&str>) -> Started {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casewire"));
    command.args(words.split_whitespace()).arg("--config").arg(&installation.config);
    command.env("CASEWIRE__ADMIN__TOKEN", "sesame").env("CASEWIRE__STREAM__0__MESSAGES", "true");
    command.envs(failpoint.map(|place| ("CASEWIRE_FAILPOINT", place)));
    Started::of(&mut command)
}

async fn running(service: &Started) -> Admin {
    let admin = service.admin().await;
    let runs = |status: &Value| {
        let stream = &status["process"]["streams"][0];
        stream["state"] == json!("running") && stream["messages"].is_object()
    };
    admin.until("a running stream", runs).await;
    admin
}

async fn hours_pass(control: &Control, minutes: i64) {
    control.inflict(Fault::ShiftClock { seconds: minutes * 60 }).await.expect("inflicted");
}

/// A session of conversation `number` that no event tells of.
async fn untold_session(control: &Control, number: usize) -> String {
    let ids = || control.records("MessagingSession").expect("records").into_iter().map(|record| record.id);
    let before: BTreeSet<String> = ids().collect();
    let conversation = case_safe_id(&format!("0dw8d000000{number:04}")).into_owned();
    let change = EventOrder::new("MessagingSession", "CREATE").with("ConversationId", conversation);
    control.inflict(Fault::ChangeSilently { change: change.with("Status", "Ended") }).await.expect("inflicted");
    ids().find(|id| !before.contains(id)).expect("a new session")
}

fn counts(said: &Value) -> [u64; 3] {
    let counts = &said["streams"][0]["entities"][0]["counts"];
    ["missing", "changed", "gone"].map(|kind| counts[kind].as_u64().unwrap_or_else(|| panic!("{said}")))
}

fn found(said: &Value) -> BTreeMap<String, String> {
    let findings = said["streams"][0]["entities"][0]["findings"].as_array().expect("findings");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    findings.iter().map(|finding| (text(&finding["id"]), text(&finding["finding"]))).collect()
}

async fn compare(installation: &Installation, words: &str) -> (Value, Option<i32>, String) {
    let words = format!("reconcile --entity ConversationEntry --since 24h --json {words}");
    let finished = start(installation, &words, None).ended().await;
    let said = serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    (said, finished.code, finished.stderr)
}

/// Has the service compare and repair.
async fn ask(admin: &Admin, since: &str) {
    let wanted = json!({ "entity": "ConversationEntry", "since": since, "repair": true });
    let asked = reqwest::Client::new().post(format!("http://{}/comparisons", admin.address)).bearer_auth("sesame");
    assert_eq!(asked.json(&wanted).send().await.expect("answered").status(), 202);
}

fn has_ended(status: &Value) -> bool {
    status["process"]["streams"][0]["messages"]["comparison"]["ended_at"].is_string()
}

/// What differs, and what was in Kafka before it was repaired.
struct Differing {
    redacted: EntryLine,
    removed: EntryLine,
    late: EntryLine,
    unheard: EntryLine,
    before: Vec<Output>,
}

/// Three conversations that are fetched, an hour later two of them once more; then what no fetch finds any more.
async fn differing(deployment: &Deployment) -> Differing {
    let control = deployment.control();
    let settings = format!("{TOLD_ONLY}\nMESSAGES__REREAD = 1min\nMESSAGES__HISTORY = 1h");
    let mut sessions = Vec::new();
    for number in 1..=3 {
        sessions.push(session(&control, number, "Ended").await);
    }
    let redacted = say(&control, &sessions[0], "my card is 4711", true).await;
    say(&control, &sessions[0], "left alone", true).await;
    say(&control, &sessions[1], "kept", true).await;
    let removed = say(&control, &sessions[1], "taken away", true).await;
    say(&control, &sessions[2], "the first", true).await;
    let running = deployment.run(&[SESSIONS], &settings);
    let fetched = |written| {
        move |status: &StreamStatus| {
            messages(status).entries_written == written && messages(status).sessions_waiting == 0
        }
    };
    running.until("what was said first", fetched(5)).await;
    running.stop().await.expect("an orderly end");

    // An hour later each is looked at once more. What is said then moves the floor beyond what was said first.
    hours_pass(&control, 61).await;
    let running = deployment.run(&[SESSIONS], &settings);
    running.until("the last looks", |status| messages(status).fetches == 3).await;
    for session in &sessions[..2] {
        say(&control, session, "later", true).await;
    }
    running.until("what was said later", fetched(2)).await;
    running.stop().await.expect("an orderly end");

    let (conversation, entry) = (redacted.conversation.clone(), redacted.identifier.clone());
    let text = "my card is ****".to_owned();
    control.inflict(Fault::Redact { conversation, entry, text }).await.expect("inflicted");
    let (conversation, entry) = (removed.conversation.clone(), removed.identifier.clone());
    control.inflict(Fault::RemoveEntry { conversation, entry }).await.expect("inflicted");
    let late = say(&control, &sessions[2], "nobody was told", false).await;
    let unheard = untold_session(&control, 4).await;
    let unheard = say(&control, &unheard, "nobody was ever told", false).await;
    // Beyond what the first fetch of a conversation looks at.
    hours_pass(&control, 120).await;
    say(&control, &sessions[1], "just now", false).await;
    let before = deployment.output("ConversationEntry").await;
    Differing { redacted, removed, late, unheard, before }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_redaction_and_what_nobody_told_are_found_and_written_once_over_ends_in_the_middle() {
    let name = "an_old_redaction_and_what_nobody_told_are_found_and_written_once_over_ends_in_the_middle";
    if !cfg!(feature = "failpoints") {
        eprintln!("NOT RUN: {name}: casewire was built without --features failpoints");
        return;
    }
    let Some(brokers) = brokers(name) else { return };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let Differing { redacted, removed, late, unheard, before } = differing(&deployment).await;
    let installation =
        Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[SESSIONS], SHORT);

    // It leaves a quarter of what may be active to others, and whoever does not want to wait for that ends it.
    let narrow = format!("{SHORT}max_active = 4\n");
    let narrow =
        Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[SESSIONS], &narrow);
    let service = start(&narrow, "run", None);
    let admin = running(&service).await;
    let words = format!("reconcile --entity ConversationEntry --service http://{}", admin.address);
    let command = start(&narrow, &format!("{words} --full"), None);
    let waits = |status: &Value| {
        let comparison = &status["process"]["streams"][0]["messages"]["comparison"];
        comparison["conversations_done"] == json!(3) && comparison["conversations"] == json!(4)
    };
    admin.until("three of four", waits).await;
    let cancelled = start(&narrow, &format!("{words} --cancel"), None).ended().await.succeeded();
    assert!(cancelled.starts_with("comparison-") && cancelled.contains("is cancelled"), "{cancelled}");
    let ended = command.ended().await;
    assert!(ended.code == Some(1) && ended.stdout.contains("cancelled before it was done"), "{ended:?}");
    start(&narrow, &format!("{words} --cancel"), None).ended().await.failed_with(64, &["nothing to cancel"]);
    assert!(service.terminated().await.code == Some(0));

    // A report writes nothing.
    let service = start(&installation, "run", None);
    let admin = running(&service).await;
    let calls = control.stats().api_calls["conversation-entries"];
    let (said, code, beside) = compare(&installation, &format!("--service http://{}", admin.address)).await;
    assert_eq!((counts(&said), code), ([2, 1, 1], Some(1)), "{said}");
    let expected = [(&late, "missing"), (&unheard, "missing"), (&redacted, "changed"), (&removed, "gone")];
    let expected = expected.map(|(entry, kind)| (entry.identifier.clone(), kind.to_owned()));
    assert_eq!(found(&said), expected.into());
    let entity = &said["streams"][0]["entities"][0];
    assert_eq!((&entity["judged"], &entity["young"], &entity["conversations"]), (&json!(8), &json!(1), &json!(4)));
    let used = control.stats().api_calls["conversation-entries"] - calls;
    assert_eq!((used, &entity["calls"]), (8, &json!(8)), "each differs, and is looked at twice: {said}");
    assert!(
        beside.contains("ConversationEntry: 4 conversations to look at, ") && beside.contains("at most 750 an hour"),
        "{beside}"
    );
    let status: Value = serde_json::from_str(&admin.get("/status").await.1).expect("JSON");
    let shown = &status["process"]["streams"][0]["messages"];
    assert_eq!((&shown["calls_allowed"], &shown["calls_window_seconds"]), (&json!(1_000_000), &json!(3_600)));
    assert_eq!((&shown["calls_used"], &shown["next_call_at"]), (&json!(8), &Value::Null), "{shown}");
    assert_eq!(deployment.output("ConversationEntry").await.len(), before.len());
    assert!(service.terminated().await.code == Some(0));

    // One that always fails is told, and does not hold up the others.
    let service = start(&installation, "run", None);
    let admin = running(&service).await;
    let fails = Fault::FailRest {
        path: format!("/connect/conversation/{}", redacted.conversation),
        status: 403,
        error_code: "INSUFFICIENT_ACCESS".to_owned(),
        message: "No".to_owned(),
        retry_after: None,
        times: 2,
    };
    control.inflict(fails).await.expect("inflicted");
    let (said, code, _) = compare(&installation, &format!("--service http://{}", admin.address)).await;
    assert_eq!((counts(&said), code), ([2, 0, 1], Some(1)), "{said}");
    let entity = &said["streams"][0]["entities"][0];
    assert_eq!((&entity["unreadable"], &entity["conversations"]), (&json!(1), &json!(4)), "{said}");
    // Who does not wait for the end does not say that both sides agree.
    control
        .inflict(Fault::DelayHttp { path: "/connect/conversation/".to_owned(), milliseconds: 3_000, times: 1 })
        .await
        .expect("inflicted");
    let left =
        start(&installation, &format!("reconcile --entity ConversationEntry --service http://{}", admin.address), None);
    let begun = |status: &Value| status["process"]["streams"][0]["messages"]["comparison"]["ended_at"].is_null();
    admin.until("another comparison", begun).await;
    left.terminated().await.failed_with(75, &["was left before it was done", "messages.comparison"]);
    admin.until("its end", has_ended).await;
    assert!(service.terminated().await.code == Some(0));

    // Dies before the first of it is written, then right behind that, and goes on each time.
    let service = start(&installation, "run", Some("after_fetched:1"));
    let admin = running(&service).await;
    ask(&admin, "2020-01-01T00:00:00Z").await;
    assert_eq!(service.ended().await.code, None, "it was ended by the failpoint");
    assert_eq!(deployment.output("ConversationEntry").await.len(), before.len());
    assert_eq!(start(&installation, "run", Some("after_said:1")).ended().await.code, None);
    let service = start(&installation, "run", None);
    let admin = running(&service).await;
    let done = |status: &Value| {
        let messages = &status["process"]["streams"][0]["messages"];
        // What it orders is fetched behind it.
        messages["comparison"]["ended_at"].is_string() && messages["entries_written"].as_u64() >= Some(1)
    };
    let status = admin.until("the end of the comparison", done).await;
    let comparison = &status["process"]["streams"][0]["messages"]["comparison"];
    let findings = json!({ "missing": 2, "changed": 1, "gone": 1 });
    let told = (&comparison["findings"], &comparison["entries_written"], &comparison["entries_ordered"]);
    assert_eq!(told, (&findings, &json!(2), &json!(1)), "{comparison}");
    assert!(service.terminated().await.code == Some(0));

    let records = deployment.output("ConversationEntry").await;
    let truth: Vec<EntryLine> =
        control.messages().into_iter().filter(|entry| entry.text.as_deref() != Some("just now")).collect();
    let shown: Vec<Output> =
        records.iter().filter(|record| record.headers["entry_id"] != removed.identifier).cloned().collect();
    assert_once(&shown, &truth);
    let mut new: Vec<(String, String, String)> = Vec::new();
    for record in &records {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (value, id) = (record.json(), record.headers["entry_id"].clone());
        if !before.iter().any(|known| known.raw == record.raw) {
            new.push((id, text(&value["op"]), text(&value["source"]["trigger"])));
        }
    }
    new.sort();
    let mut expected =
        [(&redacted, "redaction", "reconcile"), (&late, "message", "final"), (&unheard, "message", "reconcile")]
            .map(|(entry, op, trigger)| (entry.identifier.clone(), op.to_owned(), trigger.to_owned()));
    expected.sort();
    assert_eq!((new.as_slice(), records.len()), (&expected[..], before.len() + 3), "nothing twice");

    // Without a service the command is one. It finds nothing that it could mend.
    hours_pass(&control, 30).await;
    let (said, code, beside) = compare(&installation, "--repair --take-over").await;
    assert_eq!((counts(&said), code), ([1, 0, 1], Some(1)), "{said}");
    assert_eq!(found(&said).get(&removed.identifier).map(String::as_str), Some("gone"));
    assert!(beside.contains("no service runs here"), "{beside}");
    let (said, code, _) = compare(&installation, "--repair --take-over").await;
    assert_eq!((counts(&said), code), ([0, 0, 1], Some(1)), "{said}");
    assert_eq!(deployment.output("ConversationEntry").await.len(), before.len() + 4, "what was too young before");
    assert_eq!(control.stats().conversation_calls_refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fetch_is_to_read_anyway_is_left_to_it_also_when_it_comes_between_two_looks() {
    let name = "what_a_fetch_is_to_read_anyway_is_left_to_it_also_when_it_comes_between_two_looks";
    let Some(brokers) = brokers(name) else { return };
    let deployment = Deployment::new(brokers, org()).await;
    let control = deployment.control();
    let settings = format!("{TOLD_ONLY}\nMESSAGES__REREAD = 1min\nMESSAGES__HISTORY = 1h");
    let open = session(&control, 1, "Active").await;
    say(&control, &open, "the first", true).await;
    let busy = session(&control, 2, "Ended").await;
    say(&control, &busy, "the first of another", true).await;
    let long = session(&control, 3, "Ended").await;
    for number in 0..150 {
        say(&control, &long, &format!("number {number}"), number == 149).await;
    }
    let running_here = deployment.run(&[SESSIONS], &settings);
    let fetched =
        |status: &StreamStatus| messages(status).entries_written == 152 && messages(status).sessions_waiting == 0;
    running_here.until("what was said", fetched).await;
    running_here.stop().await.expect("an orderly end");
    // A sweep of the one and the last looks at the others; the next sweep is an hour later.
    say(&control, &open, "swept", false).await;
    say(&control, &busy, "looked at last", false).await;
    say(&control, &long, "looked at last too", false).await;
    hours_pass(&control, 61).await;
    let running_here = deployment.run(&[SESSIONS], &settings);
    let last_looks = |status: &StreamStatus| messages(status).entries_written == 3;
    running_here.until("the sweep and both last looks", last_looks).await;
    running_here.stop().await.expect("an orderly end");

    // Nobody is told. A sweep would find the one, and nothing the other; but then an event comes, while it is looked at.
    say(&control, &open, "for the next sweep", false).await;
    let late = say(&control, &busy, "for nobody", false).await;
    hours_pass(&control, 11).await;
    let path = format!("/connect/conversation/{}", late.conversation);
    control.inflict(Fault::DelayHttp { path, milliseconds: 4_000, times: 1 }).await.expect("inflicted");
    let installation =
        Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[SESSIONS], SHORT);
    let service = start(&installation, "run", None);
    let admin = running(&service).await;
    // What was said first in the open one is older than that, and all that is younger is for the sweep.
    let since = chrono::DateTime::from_timestamp_millis(late.server_time - 1_000).expect("in range");
    ask(&admin, &since.to_rfc3339()).await;
    let looks = |status: &Value| status["process"]["streams"][0]["messages"]["fetches"].as_u64() >= Some(1);
    admin.until("the first look", looks).await;
    say(&control, &busy, "between the looks", true).await;
    let status = admin.until("the end of the comparison", has_ended).await;
    let comparison = &status["process"]["streams"][0]["messages"]["comparison"];
    assert_eq!(comparison["findings"], json!({ "missing": 0, "changed": 0, "gone": 0 }), "{comparison}");
    let numbers = ["conversations_under_way", "judged", "young", "settled", "entries_written", "entries_ordered"];
    assert_eq!(numbers.map(|name| comparison[name].as_u64()), [1, 1, 1, 1, 0, 0].map(Some), "{comparison}");
    let truth = || control.messages().into_iter();
    let records = deployment.output("ConversationEntry").await;
    let swept: Vec<EntryLine> = truth().filter(|entry| entry.text.as_deref() != Some("for the next sweep")).collect();
    assert_once(&records, &swept);
    let written = records.iter().find(|record| record.headers["entry_id"] == late.identifier).expect("it is written");
    assert_eq!(written.json()["source"]["trigger"], json!("event"));

    assert!(service.terminated().await.code == Some(0));

    hours_pass(&control, 61).await;
    let running_here = deployment.run(&[SESSIONS], &settings);
    running_here.until("the sweep", |status| messages(status).entries_written == 1).await;
    running_here.stop().await.expect("an orderly end");
    assert_once(&deployment.output("ConversationEntry").await, &truth().collect::<Vec<_>>());

    // What was found in one conversation is more than a record may be: that one is left out, and the stream does not begin anew for ever.
    let many: Vec<EntryLine> = truth().filter(|entry| entry.session == long).collect();
    for EntryLine { conversation, identifier: entry, .. } in many {
        control.inflict(Fault::Redact { conversation, entry, text: "***".to_owned() }).await.expect("inflicted");
    }
    hours_pass(&control, 120).await;
    let small = format!("{SHORT}[kafka.properties]\n\"message.max.bytes\" = 20000\n");
    let small = Installation::new(&deployment.simulator, &deployment.brokers, &deployment.prefix, &[SESSIONS], &small);
    let service = start(&small, "run", None);
    let admin = running(&service).await;
    ask(&admin, "2020-01-01T00:00:00Z").await;
    let status = admin.until("the end of the comparison", has_ended).await;
    let comparison = &status["process"]["streams"][0]["messages"]["comparison"];
    let numbers = ["conversations_done", "conversations_unreadable", "entries_written"];
    assert_eq!(numbers.map(|name| comparison[name].as_u64()), [3, 1, 0].map(Some), "{comparison}");

    // Whoever asks is answered also while nothing can be fetched for a quarter of an hour.
    control.inflict(Fault::ConversationCalls { left: 0 }).await.expect("inflicted");
    say(&control, &busy, "later", true).await;
    let waits = |status: &Value| {
        let waits = &status["process"]["streams"][0]["messages"]["waits_for"];
        waits.as_str().is_some_and(|waits| waits.contains("are used up"))
    };
    admin.until("the limit", waits).await;
    ask(&admin, "2020-01-01T00:00:00Z").await;
    admin.until("the new comparison", |status| !has_ended(status)).await;
    assert!(service.terminated().await.code == Some(0));
}

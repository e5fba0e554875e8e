//! What is said in conversations, as both APIs that tell it answer.
//!
//! An odd first byte makes the rest an answer: what is accepted holds the values that stand in it, in order and each once, and
//! what is refused is refused without quoting it. An even one has a conversation that goes on between fetches, and a server that
//! gives it in pages, in any order and with repetitions: every entry is a message once, and a redaction after each change.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use casewire::config::{MessagesApi, MessagesConfig};
use casewire::pipeline::reading::{Conversation, Op, Reason, Walk, conversation_key, conversations};
use casewire::salesforce::conversation_entries::{EntriesPage, Entry, Place};
use casewire::salesforce::reading::conversation_entries;
use casewire::salesforce::rest::RestError;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// Stands in bodies and has no business in an error.
const CONTENT: &str = "cOnTenT";

const LONGEST_TEXT: usize = 600;

/// More entries, and more fetches, are more of the same.
const MOST_SAID: usize = 120;
const MOST_FETCHES: usize = 5;

/// What a server gives that does not heed how many are asked for.
const DEFAULT_PAGE: usize = 25;

/// Salesforce's time, in milliseconds since 1970.
const NOW: i64 = 1_790_000_000_000;
const HOUR: i64 = 3_600_000;

fuzz_target!(|data: &[u8]| {
    let [kind, data @ ..] = data else { return };
    if kind % 2 == 1 {
        hostile(kind >> 1, data);
    } else if let Ok(course) = Course::arbitrary(&mut Unstructured::new(data)) {
        course.run();
    }
});

fn hostile(choice: u8, body: &[u8]) {
    let by_time = choice & 1 > 0;
    let from = [0, 5, NOW, i64::MAX][usize::from(choice >> 1) % 4];
    let to = (choice & 8 > 0).then_some(from.saturating_add(7));
    let token = (choice & 16 > 0).then(|| "t1".to_owned());
    let place = Place { from, to, token };
    match conversation_entries(body, &place, by_time) {
        Ok(page) => {
            assert_eq!(page.bytes, body.len());
            let order = page.entries.iter().map(|entry| (entry.server_time, &entry.identifier));
            assert!(order.is_sorted_by(|one, other| one < other), "each once and in order");
            holds_what_stands_in(body, &place, &page);
            leads_on(body, &place, by_time, &page);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, RestError::Unexpected(_)), "{text}");
            assert!(text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control), "{text:?}");
            // Where it happened may name any member of the body; what happened names no value.
            assert!(text.rsplit(": ").next().is_some_and(|reason| !reason.contains(CONTENT)), "{text}");
        }
    }
}

/// The entries of an answer in the form of the documentation; other forms of the same are read too.
fn stated(body: &[u8]) -> Option<(Value, Vec<Value>)> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let entries = answer.get("conversationEntries")?.as_array()?.clone();
    let plain = |entry: &Value| entry.is_object() && !entry["sender"].is_array();
    entries.iter().all(plain).then_some((answer, entries))
}

fn holds_what_stands_in(body: &[u8], place: &Place, page: &EntriesPage) {
    let Some((_, entries)) = stated(body) else { return };
    let mut expected: BTreeMap<(i64, &str), &Value> = BTreeMap::new();
    for entry in &entries {
        let times = ["serverReceivedTimestamp", "transcriptedTimestamp", "clientTimestamp"];
        let time = times.iter().find_map(|name| entry[*name].as_i64()).expect("accepted without a time");
        let identifier = entry["identifier"].as_str().expect("accepted without an identifier");
        if place.to.is_none_or(|to| time <= to) {
            expected.entry((time, identifier)).or_insert(entry);
        }
    }
    assert_eq!(page.entries.len(), expected.len());
    for (entry, ((time, identifier), stated)) in page.entries.iter().zip(expected) {
        let text = |of: &Value, name: &str| of[name].as_str().map(str::to_owned);
        assert_eq!((entry.server_time, entry.identifier.as_str()), (time, identifier));
        assert_eq!(entry.client_time, stated["clientTimestamp"].as_i64());
        assert_eq!(entry.kind, text(stated, "entryType"));
        assert_eq!(entry.payload.as_ref().unwrap_or(&Value::Null), &stated["entryPayload"]);
        let message = &stated["entryPayload"]["abstractMessage"];
        let within = ["staticContent", "choices"].iter().find_map(|name| text(&message[*name], "text"));
        assert_eq!(entry.text, text(stated, "messageText").or(within));
        let sender = ["role", "appType", "subject"].map(|name| text(&stated["sender"], name));
        assert_eq!([&entry.sender.role, &entry.sender.app_type, &entry.sender.subject], sender.each_ref());
        assert_eq!(
            json!(entry.related),
            stated.get("relatedRecords").filter(|one| !one.is_null()).cloned().unwrap_or(json!([]))
        );
    }
}

/// Where the next page begins follows from what the page is, and is never where this one began.
fn leads_on(body: &[u8], place: &Place, by_time: bool, page: &EntriesPage) {
    let Some((answer, entries)) = stated(body) else { return };
    let token = answer["nextPageToken"].as_str().filter(|token| !token.is_empty());
    let Some(next) = &page.next else { return assert!(token.is_none()) };
    assert_eq!((next.to, next.token.as_deref()), (place.to, token));
    assert_ne!(next, place, "in a circle");
    if token.is_none() {
        assert!(by_time && entries.len() >= DEFAULT_PAGE && page.entries.len() <= entries.len());
        assert_eq!(page.entries.last().map(|newest| newest.server_time), Some(next.from));
        assert!(next.from > place.from);
    } else {
        assert_eq!(next.from, place.from);
    }
}

#[derive(Debug, Clone, Copy, Arbitrary, PartialEq)]
enum Server {
    /// Connect, all of it at once.
    Whole,
    /// Connect, without heeding how many are asked for.
    Default,
    /// Connect with the tokens that some have seen.
    ConnectTokens,
    /// The Conversation Data API.
    Data,
}

#[derive(Debug, Arbitrary)]
struct Course {
    server: Server,
    fetches: Vec<Fetch>,
}

#[derive(Debug, Arbitrary)]
struct Fetch {
    /// Said or changed before it: who, when, what.
    said: Vec<(u8, u8, u8)>,
    /// Entries of a page that follows a token.
    page: u8,
    /// Which entry comes next, and which come again.
    order: Vec<u8>,
    /// Whether casewire is started anew after each page.
    restarts: bool,
}

/// An entry as the org has it.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    time: i64,
    text: String,
}

type Org = BTreeMap<String, Said>;

/// What was written of each entry.
type Written = BTreeMap<String, Vec<(Op, String)>>;

impl Course {
    fn run(&self) {
        let api = if self.server == Server::Data { MessagesApi::Data } else { MessagesApi::Connect };
        let config = config(api);
        let (mut org, mut before) = (Org::new(), Org::new());
        let mut conversation = Conversation::default();
        for (number, fetch) in self.fetches.iter().take(MOST_FETCHES).enumerate() {
            for (who, when, what) in &fetch.said {
                let time = NOW - 20 * HOUR + i64::from(*when);
                if org.len() < MOST_SAID {
                    org.entry(format!("e-{who}")).or_insert(Said { time, text: String::new() }).text =
                        format!("{what}");
                }
            }
            if self.server == Server::Default && is_crowded(&org) {
                return;
            }
            let now = NOW + i64::try_from(number).expect("few") * 60_000;
            let written = fetch.run(self.server, &org, &mut conversation, now, &config);
            assert_eq!(written, told(&before, &org), "{number}");
            before.clone_from(&org);
        }
    }
}

/// Whether more entries than a default page has share two milliseconds: no such page leads beyond them.
fn is_crowded(org: &Org) -> bool {
    let mut times: Vec<i64> = org.values().map(|said| said.time).collect();
    times.sort_unstable();
    times.windows(DEFAULT_PAGE).any(|times| times[DEFAULT_PAGE - 1] - times[0] <= 2)
}

/// What has to be written of an org that has changed.
fn told(before: &Org, now: &Org) -> Written {
    let op = |(who, said): (&String, &Said)| {
        let op = match before.get(who) {
            None => Op::Message,
            Some(known) if known == said => return None,
            Some(_) => Op::Redaction,
        };
        Some((who.clone(), vec![(op, said.text.clone())]))
    };
    now.iter().filter_map(op).collect()
}

impl Fetch {
    /// Reads the conversation to its end, and says what was written.
    fn run(
        &self,
        server: Server,
        org: &Org,
        conversation: &mut Conversation,
        now: i64,
        config: &MessagesConfig,
    ) -> Written {
        let given = self.arranged(org);
        let mut walk = Walk::from(conversation.begin(now, config));
        let mut written = Written::new();
        for _ in 0..1_000 {
            let body = self.answer(server, org, &given, walk.place());
            let page = conversation_entries(&body, walk.place(), server != Server::Data).expect("a page");
            let Some(stretch) = walk.take(page, now).expect("a way on") else { continue };
            let order = stretch.entries.iter().map(|entry| (entry.server_time, &entry.identifier));
            assert!(order.is_sorted_by(|one, other| one < other));
            for entry in &stretch.entries {
                is_as_said(entry, &org[&entry.identifier]);
                let op = conversation.take(entry);
                let text = entry.text.clone().unwrap_or_default();
                written.entry(entry.identifier.clone()).or_default().extend(op.map(|op| (op, text)));
            }
            conversation.settle(now, config, MOST_SAID);
            if self.restarts {
                *conversation = read_back(conversation);
            }
            if !stretch.more {
                conversation.asked(now, Reason::Event, !written.is_empty(), config);
                *conversation = read_back(conversation);
                written.retain(|_, written| !written.is_empty());
                return written;
            }
        }
        panic!("no end: {org:?}");
    }

    /// The entries in the order in which a server that promises none gives them, some more than once.
    fn arranged(&self, org: &Org) -> Vec<String> {
        let mut left: Vec<&String> = org.keys().collect();
        let mut given: Vec<String> = Vec::new();
        for choice in self.order.iter().copied().chain(std::iter::repeat(0)) {
            if left.is_empty() {
                break;
            }
            if choice & 0x80 > 0 && !given.is_empty() {
                given.push(given[usize::from(choice & 0x7f) % given.len()].clone());
            } else {
                given.push(left.swap_remove(usize::from(choice) % left.len()).clone());
            }
        }
        given
    }

    fn answer(&self, server: Server, org: &Org, given: &[String], place: &Place) -> Vec<u8> {
        let meant = |who: &&String| {
            let time = org[*who].time;
            // The bounds may belong to what is meant, and are asked for a millisecond further out.
            time >= place.from - 1 && place.to.is_none_or(|to| time <= to + 1)
        };
        let meant: Vec<&String> = given.iter().filter(meant).collect();
        let (entries, token) = match server {
            Server::Whole => (meant, None),
            Server::Default => {
                let mut meant: Vec<_> = meant.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
                meant.sort_by_key(|who| org[*who].time);
                meant.truncate(DEFAULT_PAGE);
                (meant, None)
            }
            Server::ConnectTokens | Server::Data => {
                let begin: usize = place.token.as_ref().map_or(0, |token| token.parse().expect("a number"));
                let end = begin + 1 + usize::from(self.page % 40);
                let token = (end < meant.len()).then(|| end.to_string());
                (meant.into_iter().skip(begin).take(end - begin).collect(), token)
            }
        };
        let entry = |who: &String| {
            let Said { time, text } = &org[who];
            let sender = json!({"role": "EndUser", "appType": "chat", "subject": who});
            match server {
                Server::Data => json!({"identifier": who, "clientTimestamp": time - 9, "transcriptedTimestamp": time,
                    "entryType": "Message", "sender": sender,
                    "entryPayload": {"entryType": "Message", "abstractMessage": {"staticContent": {"text": text}}}}),
                _ => json!({"identifier": who, "clientTimestamp": time - 9, "serverReceivedTimestamp": time,
                    "messageText": text, "relatedRecords": ["0Mw8d0000000001AAA"], "sender": sender}),
            }
        };
        let entries: Vec<Value> = entries.into_iter().map(entry).collect();
        json!({"conversationEntries": entries, "nextPageToken": token}).to_string().into_bytes()
    }
}

fn is_as_said(entry: &Entry, said: &Said) {
    assert_eq!((entry.server_time, entry.client_time), (said.time, Some(said.time - 9)));
    assert_eq!(entry.text.as_deref(), Some(said.text.as_str()));
    assert_eq!(entry.sender.subject.as_deref(), Some(entry.identifier.as_str()));
}

/// The conversation as the next run of casewire finds it.
fn read_back(conversation: &Conversation) -> Conversation {
    let key = conversation_key("c");
    let read = conversations(&BTreeMap::from([(key, conversation.value())])).remove("c");
    assert_eq!(read.as_ref(), Some(conversation));
    read.unwrap_or_default()
}

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3_600)
}

fn config(api: MessagesApi) -> MessagesConfig {
    MessagesConfig {
        api,
        calls_per_minute: 80,
        calls_per_hour: 900,
        max_active: 500,
        api_share: 80,
        settle: Duration::from_secs(2),
        reread: hours(24),
        history: hours(168),
        sweep_least: Duration::from_secs(60),
        sweep_most: Duration::from_secs(1_800),
        final_after: Duration::from_secs(300),
        give_up_after: hours(24),
        records: true,
    }
}

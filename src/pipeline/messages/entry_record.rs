//! From an entry to the record that consumers read; the contract is `docs/records.md`.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use crate::change::{EntityPolicy, FieldPolicies};
use crate::config::CONVERSATION_ENTRY;
use crate::identity::OrgId;
use crate::kafka::OutputRecord;
use crate::pipeline::messages::conversation::{Op, Reason};
use crate::salesforce::conversation_entries::{Entry, Sender};

/// An entry of which what the policy of messages keeps from readers is gone. There is no other way to a record, and the
/// digests that are kept in Kafka are made of it too: that of a short text would tell the text.
pub(super) struct TreatedEntry(Entry);

impl TreatedEntry {
    /// Treats an entry.
    pub fn new(entry: Entry, policies: &FieldPolicies) -> Self {
        let Some(policy) = policies.of(CONVERSATION_ENTRY) else { return Self(entry) };
        // Without a rest pattern: whatever an entry comes to hold does not compile before it is decided here.
        let Entry { identifier, server_time, client_time, text, kind, payload, sender, related } = entry;
        let treated = |name: &str, text: Option<String>| text.and_then(|text| policy.text(name, &text));
        // The payload of the Conversation Data API repeats the text.
        let names = |field: &str| policy.named().iter().any(|(name, _)| name == field);
        let of_payload = if names("text") && !names("payload") { "text" } else { "payload" };
        Self(Entry {
            text: treated("text", text),
            kind: treated("type", kind),
            payload: payload.and_then(|payload| policy.json(of_payload, &payload)),
            sender: treated_sender(policy, &sender),
            identifier,
            server_time,
            client_time,
            related,
        })
    }
}

impl std::ops::Deref for TreatedEntry {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.0
    }
}

fn treated_sender(policy: &EntityPolicy, sender: &Sender) -> Sender {
    let Sender { role, app_type, subject } = sender;
    let treated = policy.json("sender", &json!({"role": role, "app_type": app_type, "subject": subject}));
    let treated = treated.unwrap_or_default();
    let member = |name: &str| treated.get(name).and_then(Value::as_str).map(str::to_owned);
    Sender { role: member("role"), app_type: member("app_type"), subject: member("subject") }
}

/// The longest text that an entry without its content still has, in bytes.
const LONGEST_MEMBER: usize = 256;

/// What all records of one page have in common.
pub(super) struct EntryWriter<'a> {
    /// `<prefix>.ConversationEntry`
    pub topic: Arc<str>,
    /// The organisation.
    pub org: &'a OrgId,
    /// The conversation's identifier.
    pub conversation: &'a str,
    /// Why it was fetched.
    pub reason: Reason,
    /// The API that gave it.
    pub api: &'static str,
    /// When the page was read.
    pub fetched_at: DateTime<Utc>,
    /// What is kept from readers.
    pub policies: &'a FieldPolicies,
}

#[derive(Serialize)]
struct EntryValue<'a> {
    op: &'static str,
    id: &'a str,
    conversation: &'a str,
    session: Option<&'a str>,
    case: Option<&'a str>,
    sender: SenderValue<'a>,
    text: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    payload: Option<&'a Value>,
    client_time: Option<String>,
    server_time: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    too_large: bool,
    source: SourceValue<'a>,
}

#[derive(Serialize)]
struct SenderValue<'a> {
    role: Option<&'a str>,
    app_type: Option<&'a str>,
    subject: Option<&'a str>,
}

#[derive(Serialize)]
struct SourceValue<'a> {
    org: &'a str,
    api: &'static str,
    trigger: &'static str,
    fetched_at: String,
}

impl EntryWriter<'_> {
    /// The record of an entry that was said in `session`, which is about `case`. One that is `too_large` for Kafka goes
    /// without its content, and is a kilobyte or two then.
    pub fn record(
        &self,
        op: Op,
        entry: &TreatedEntry,
        session: Option<&str>,
        case: Option<&str>,
        too_large: bool,
    ) -> OutputRecord {
        let op = match op {
            Op::Message => "message",
            Op::Redaction => "redaction",
        };
        // What may be anything is left out as a whole, never cut.
        let longest = if too_large { LONGEST_MEMBER } else { usize::MAX };
        let reference = |member: &str, of_session: &str, id: Option<&str>| {
            // The same ids stand in the session's own record, under the policy of sessions.
            let id = id.map(str::to_owned);
            let own = |id: String| self.treated("MessagingSession", of_session, id);
            id.and_then(own).and_then(|id| self.treated(CONVERSATION_ENTRY, member, id))
        };
        let (session, case) = (reference("session", "Id", session), reference("case", "CaseId", case));
        let value = EntryValue {
            op,
            id: &entry.identifier,
            conversation: self.conversation,
            session: session.as_deref(),
            case: case.as_deref(),
            sender: SenderValue {
                role: entry.sender.role.as_deref().filter(|text| text.len() <= longest),
                app_type: entry.sender.app_type.as_deref().filter(|text| text.len() <= longest),
                subject: entry.sender.subject.as_deref().filter(|text| text.len() <= longest),
            },
            text: entry.text.as_deref().filter(|_| !too_large),
            kind: entry.kind.as_deref().filter(|text| text.len() <= longest),
            payload: entry.payload.as_ref().filter(|_| !too_large),
            client_time: entry.client_time.and_then(instant),
            server_time: instant(entry.server_time).unwrap_or_default(),
            too_large,
            source: SourceValue {
                org: self.org.as_str(),
                api: self.api,
                trigger: self.reason.as_str(),
                fetched_at: self.fetched_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            },
        };
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        OutputRecord {
            topic: self.topic.clone(),
            key: text(self.conversation),
            // A struct of texts and JSON always has a JSON form.
            value: Some(Bytes::from(serde_json::to_vec(&value).unwrap_or_default())),
            headers: vec![
                ("casewire", Bytes::from_static(b"1")),
                ("content-type", Bytes::from_static(b"application/json")),
                ("entity", Bytes::from_static(b"ConversationEntry")),
                ("op", Bytes::from_static(op.as_bytes())),
                ("org", text(self.org.as_str())),
                ("entry_id", text(&entry.identifier)),
            ],
        }
    }
}

impl EntryWriter<'_> {
    fn treated(&self, entity: &str, field: &str, id: String) -> Option<String> {
        match self.policies.of(entity) {
            Some(policy) => policy.text(field, &id),
            None => Some(id),
        }
    }
}

/// The one rendering of a date-time; none for what is no time.
fn instant(millis: i64) -> Option<String> {
    Some(DateTime::from_timestamp_millis(millis)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Treatment;

    #[test]
    fn an_entry_is_written_as_the_contract_says() {
        let org: OrgId = "00D8d00000AbCdEEAV".parse().expect("an org");
        let at = DateTime::from_timestamp_millis(1_790_000_000_123).expect("in range");
        let writer = EntryWriter {
            topic: "p.ConversationEntry".into(),
            org: &org,
            conversation: "c-1",
            reason: Reason::Sweep,
            api: "connect",
            fetched_at: at,
            policies: &FieldPolicies::default(),
        };
        let entry = Entry {
            identifier: "e-1".into(),
            server_time: 1_600_788_018_250,
            client_time: Some(1_600_788_018_000),
            text: Some("Hello".into()),
            kind: None,
            payload: None,
            sender: Sender { role: Some("EndUser".into()), app_type: Some("conversation".into()), subject: None },
            related: Vec::new(),
        };
        let plain = TreatedEntry::new(entry.clone(), writer.policies);
        let record = writer.record(Op::Message, &plain, Some("0Mw1"), None, false);
        let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
        let expected = concat!(
            r#"{"op":"message","id":"e-1","conversation":"c-1","session":"0Mw1","case":null,"#,
            r#""sender":{"role":"EndUser","app_type":"conversation","subject":null},"text":"Hello","type":null,"payload":null,"#,
            r#""client_time":"2020-09-22T15:20:18.000Z","server_time":"2020-09-22T15:20:18.250Z","#,
            r#""source":{"org":"00D8d00000AbCdEEAV","api":"connect","trigger":"sweep","fetched_at":"2026-09-21T14:13:20.123Z"}}"#
        );
        assert_eq!((value.as_str(), &record.key[..]), (expected, &b"c-1"[..]));
        assert!(record.headers.contains(&("entry_id", Bytes::from_static(b"e-1"))));
        let long = TreatedEntry::new(Entry { kind: Some("k".repeat(300)), ..entry.clone() }, writer.policies);
        let record = writer.record(Op::Redaction, &long, None, Some("500"), true);
        let value: Value = serde_json::from_slice(&record.value.expect("a value")).expect("JSON");
        assert_eq!(
            (&value["op"], &value["text"], &value["type"], &value["too_large"]),
            (&json!("redaction"), &json!(null), &json!(null), &json!(true))
        );
        assert_eq!(value["sender"]["role"], json!("EndUser"));

        let mask = Treatment::Mask { keep_last: 0 };
        let named = [("text", mask), ("payload", mask), ("sender.role", Treatment::Drop)];
        let named = named.map(|(name, treatment)| (name.to_owned(), treatment));
        let of_session = [("CaseId".to_owned(), Treatment::Drop)];
        let policies = FieldPolicies::new([
            EntityPolicy::new(CONVERSATION_ENTRY, named, None),
            EntityPolicy::new("MessagingSession", of_session, None),
        ]);
        let writer = EntryWriter { policies: &policies, ..writer };
        let entry = TreatedEntry::new(Entry { payload: Some(json!({"a": ["Hello"], "b": 7})), ..entry }, &policies);
        let record = writer.record(Op::Message, &entry, Some("0Mw1"), Some("500"), false);
        let value: Value = serde_json::from_slice(&record.value.expect("a value")).expect("JSON");
        assert_eq!(
            (&value["text"], &value["payload"], &value["case"], &value["session"]),
            (&json!("***"), &json!({"a": ["***"], "b": "***"}), &json!(null), &json!("0Mw1"))
        );
        assert_eq!(value["sender"], json!({"role": null, "app_type": "conversation", "subject": null}));
    }

    #[test]
    fn what_a_policy_says_of_the_text_holds_for_the_payload_that_repeats_it() {
        let entry = |text: &str| Entry {
            identifier: "e-1".into(),
            server_time: 0,
            client_time: None,
            text: Some(text.into()),
            kind: None,
            payload: Some(json!({"abstractMessage": {"staticContent": {"text": text}}})),
            sender: Sender { role: None, app_type: None, subject: None },
            related: Vec::new(),
        };
        let treated = |named: &[(&str, Treatment)]| {
            let named = named.iter().map(|(field, treatment)| ((*field).to_owned(), *treatment));
            let policies = FieldPolicies::new([EntityPolicy::new(CONVERSATION_ENTRY, named, None)]);
            let Entry { text, payload, .. } = TreatedEntry::new(entry("secret"), &policies).0;
            format!("{text:?} {payload:?}")
        };
        for treatment in [Treatment::Drop, Treatment::Mask { keep_last: 0 }] {
            assert!(!treated(&[("text", treatment)]).contains("secret"), "{treatment:?}");
        }
        // Each as it is named where both are, and a policy of something else says nothing of them.
        let apart =
            treated(&[("text", Treatment::Mask { keep_last: 0 }), ("payload", Treatment::Mask { keep_last: 6 })]);
        assert!(!apart.contains("secret"), "{apart}");
        assert_eq!(treated(&[("type", Treatment::Drop)]).matches("secret").count(), 2);
    }
}

//! What is looked for in vain: how long that goes on, and its one entry in the gap ledger from the first day to the last.
//!
//! The jobs leave these entries alone (`jobs::entry`): what they name is fetched here, or nowhere. So an entry is open
//! for exactly as long as something is still tried, and is closed in the transaction that ends that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::config::MessagesConfig;
use crate::identity::{OrgId, TopicName};
use crate::kafka::OutputRecord;
use crate::pipeline::context::StreamContext;
use crate::pipeline::ledger::OpenGap;

/// The longest pause before something is in the ledger …
const LONGEST: Duration = Duration::from_secs(3600);

/// … and after: by then it is an operator's, and each attempt can be a call of few.
const LONGEST_TOLD: Duration = Duration::from_secs(6 * 3600);

/// What follows another attempt in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is tried again after so long.
    Wait(Duration),
    /// It is entered in the ledger, and tried on.
    Tell,
    /// It is not tried any more.
    GiveUp,
}

/// What follows after it was `tried` for so long; `told` is whether it is in the ledger, `least` the shortest pause.
/// Pauses grow with the time that was lost already, so they need no memory of their own.
pub(super) fn stage(tried: Duration, told: bool, least: Duration, config: &MessagesConfig) -> Stage {
    let least = shortest(least, config);
    match told {
        false if tried >= config.give_up_after => Stage::Tell,
        true if tried >= config.give_up_after.saturating_add(config.history) => Stage::GiveUp,
        told => Stage::Wait((tried / 4).clamp(least, if told { LONGEST_TOLD } else { LONGEST })),
    }
}

/// The shortest pause: whoever wants to be told soon wants it tried soon.
pub(super) fn shortest(least: Duration, config: &MessagesConfig) -> Duration {
    least.min(config.give_up_after)
}

/// How an entry ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything was fetched.
    Healed,
    /// It will not be.
    GivenUp,
}

/// Writes the entries of one stream.
#[derive(Debug, Clone)]
pub struct LedgerWriter {
    ledger_topic: Arc<str>,
    org: OrgId,
    topic: TopicName,
    run_id: String,
}

impl LedgerWriter {
    /// For a stream of which `ledger_topic` is the ledger.
    pub fn new(ledger_topic: Arc<str>, org: OrgId, topic: TopicName, run_id: String) -> Self {
        Self { ledger_topic, org, topic, run_id }
    }

    /// For the stream of a context.
    pub fn of(context: &StreamContext) -> Self {
        let (identity, run_id) = (&context.identity, context.run.run_id.clone());
        Self::new(context.ledger_topic.clone(), identity.org.clone(), identity.topic.clone(), run_id)
    }

    /// Opens an entry: its value, to be kept until it is closed.
    pub fn open(&self, gap: &OpenGap) -> Value {
        let record = gap.record(&self.ledger_topic, &self.org, &self.topic, &self.run_id);
        serde_json::from_slice(record.value.as_deref().unwrap_or_default()).unwrap_or_default()
    }

    /// The value of an entry that has ended: what it said, and how it ended.
    pub fn ended(&self, opened: &Value, end: End) -> Value {
        let mut value = opened.clone();
        if let Value::Object(members) = &mut value {
            let (state, unread) = match end {
                End::Healed => ("healed", json!([])),
                End::GivenUp => ("given_up", members.get("records").cloned().unwrap_or_else(|| json!([]))),
            };
            for (name, value) in [
                ("state", json!(state)),
                ("unread", unread),
                // No record of an object was read for it; consumers find the members of every closed entry.
                ("rows_reread", json!(0)),
                ("deletes_found", json!(0)),
                ("closed_at", json!(Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true))),
                ("closed_by", json!(self.run_id)),
            ] {
                members.insert(name.to_owned(), value);
            }
        }
        value
    }

    /// The ledger's record of an entry.
    pub fn record(&self, value: &Value) -> OutputRecord {
        let id = value.get("id").and_then(Value::as_str).unwrap_or_default();
        OutputRecord {
            topic: self.ledger_topic.clone(),
            key: Bytes::copy_from_slice(id.as_bytes()),
            value: Some(Bytes::from(value.to_string().into_bytes())),
            headers: vec![
                ("casewire", Bytes::from_static(b"1")),
                ("content-type", Bytes::from_static(b"application/json")),
                ("org", Bytes::copy_from_slice(self.org.as_str().as_bytes())),
            ],
        }
    }

    /// The two records of what is known to be lost: opened, and given up.
    pub fn lost(&self, gap: &OpenGap) -> [OutputRecord; 2] {
        let opened = self.open(gap);
        [self.record(&opened), self.record(&self.ended(&opened, End::GivenUp))]
    }
}

/// How long ago something was; nothing for what is still to come.
pub(super) fn since(at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (now - at).to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::messages::conversation::tests::config;

    const HOUR: Duration = Duration::from_secs(3600);
    const LEAST: Duration = Duration::from_secs(15);

    #[test]
    fn pauses_grow_until_it_is_told_and_on_until_it_is_given_up() {
        let config = config();
        let wait = |seconds: u64| Stage::Wait(Duration::from_secs(seconds));
        for (hours, told, follows) in [
            (0.0, false, wait(15)),
            (1.0, false, wait(900)),
            (8.0, false, wait(3_600)),
            (24.0, false, Stage::Tell),
            (24.0, true, wait(6 * 3_600)),
            (191.0, true, wait(6 * 3_600)),
            (192.0, true, Stage::GiveUp),
            (999.0, false, Stage::Tell),
        ] {
            assert_eq!(stage(HOUR.mul_f64(hours), told, LEAST, &config), follows, "{hours} h, told: {told}");
        }
    }

    #[test]
    fn an_entry_that_ends_says_what_it_said_and_how_it_ended() {
        let (org, topic) = ("00D8d00000AbCdEEAV", "/data/MessagingSessionChangeEvent");
        let (org, topic) = (org.parse().expect("an org"), topic.parse().expect("a topic"));
        let ledger = LedgerWriter::new("p.gaps".into(), org, topic, "run".into());
        let opened = ledger.open(&OpenGap::messages(vec!["0Mw1".into()], Utc::now(), "why".into()));
        assert_eq!((&opened["state"], &opened["entity"]), (&json!("open"), &json!("ConversationEntry")));
        for (end, state, unread) in [(End::Healed, "healed", json!([])), (End::GivenUp, "given_up", json!(["0Mw1"]))] {
            let ended = ledger.ended(&opened, end);
            assert_eq!((&ended["state"], &ended["unread"]), (&json!(state), &unread));
            assert_eq!(
                (&ended["id"], &ended["detail"], &ended["closed_by"]),
                (&opened["id"], &json!("why"), &json!("run"))
            );
        }
        let record = ledger.record(&opened);
        assert_eq!(Some(std::str::from_utf8(&record.key).expect("text")), opened["id"].as_str());
    }
}

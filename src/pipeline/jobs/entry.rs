//! An entry of the gap ledger as a job sees it, and what is to be read for it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::change::RecordIdKind;
use crate::identity::{TopicKind, TopicName};
use crate::kafka::OutputRecord;
use crate::pipeline::context::StreamContext;
use crate::pipeline::jobs::job::{Job, Listing};
use crate::pipeline::ledger::CONVERSATION_ENTRY;

/// How much earlier than a gap the stamps of its changes may be. A record is stamped when it is changed and the event
/// is dated when the transaction ends, which Salesforce lets run for minutes; an hour is beyond doubt, and the few
/// rows that are read without need do no harm.
const LOOK_BACK: TimeDelta = TimeDelta::hours(1);

/// The cause of entries that a comparison wrote, as `GapCause::Reconciled` is written.
const RECONCILED: &str = "reconciled";

/// What a job has to know of an entry.
#[derive(Debug, Deserialize)]
struct Told {
    id: String,
    state: String,
    topic: String,
    entity: Option<String>,
    #[serde(default)]
    records: Vec<String>,
    #[serde(default)]
    from: End,
    #[serde(default)]
    to: End,
    source: Option<Value>,
    compared_at: Option<DateTime<Utc>>,
    #[serde(default)]
    absent: BTreeSet<String>,
    #[serde(default)]
    known: BTreeMap<String, DateTime<Utc>>,
    #[serde(default)]
    held: u64,
    letter: Option<String>,
    #[serde(default)]
    deleted: BTreeSet<String>,
}

#[derive(Debug, Default, Deserialize)]
struct End {
    time: Option<DateTime<Utc>>,
}

/// An open entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Its cause, as it stands there.
    pub cause: String,
    /// The records that it names; empty where any may be concerned.
    pub records: Vec<String>,
    /// All of it. The newest record of a key is its state, so a later one repeats what the first one said.
    value: Value,
}

/// How a gap ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was read or found deleted.
    Healed,
    /// Some records could not be read.
    GivenUp,
    /// Part of it was read; other jobs read the rest.
    Partly,
}

/// Reads a ledger record of a stream: its id, and the entry if it is open. `None` if it is another stream's.
pub fn read(value: &[u8], topic: &TopicName) -> Option<(String, Option<Entry>)> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let told = Told::deserialize(&value).ok()?;
    if told.topic != topic.as_str() {
        return None;
    }
    let cause = value.get("cause").and_then(Value::as_str).unwrap_or_default().to_owned();
    let all = told.records.iter().all(|id| RecordIdKind::of(id) == RecordIdKind::Record);
    let records = if all { told.records } else { Vec::new() };
    let entry = (told.state == "open").then(|| Entry { id: told.id.clone(), cause, records, value });
    Some((told.id, entry))
}

impl Entry {
    /// Whether a ledger record says that its gap was closed because everything was read.
    pub fn is_healed(value: &[u8]) -> bool {
        let value: Option<Value> = serde_json::from_slice(value).ok();
        value.is_some_and(|value| value.get("state").and_then(Value::as_str) == Some("healed"))
    }

    /// When it was opened.
    pub fn opened_at(&self) -> Option<DateTime<Utc>> {
        DateTime::deserialize(self.value.get("opened_at")?).ok()
    }

    /// The dead letter that is redriven with it.
    pub fn letter(&self) -> Option<&str> {
        self.value.get("letter").and_then(Value::as_str)
    }

    /// The job that heals it. `None` where nothing can be read: platform events are in no table, but for those in letters, and
    /// neither are messages, which are fetched by a runner of their own.
    pub fn job(&self, topic: &TopicName) -> Option<Job> {
        let told = Told::deserialize(&self.value).ok()?;
        if told.entity.as_deref() == Some(CONVERSATION_ENTRY) {
            return None;
        }
        let object = match topic.kind() {
            TopicKind::Entity(entity) => Some(entity),
            TopicKind::ChangeChannel => None,
            TopicKind::PlatformEvent(_) | TopicKind::PlatformChannel => {
                return told.letter.map(|_| Job::new(None, self.id.clone(), None));
            }
        };
        let told_at = told.to.time.filter(|_| told.source.is_some() || told.letter.is_some());
        let mut job = Job::new(told.entity.clone().or(object), self.id.clone(), told_at);
        if told.entity.is_some() && !self.records.is_empty() {
            job.ids = self.records.iter().cloned().collect();
            // What Kafka was told of them before counts too. What is newer than the event that told of the gap was written
            // after it; without one, anything may be.
            job.compared_at = Some(told_at.unwrap_or(DateTime::UNIX_EPOCH));
            if self.cause == RECONCILED {
                job.gone = told.absent.intersection(&job.ids).cloned().collect();
                job.known = told.known.into_iter().map(|(id, at)| (id, at.timestamp())).collect();
                (job.held, job.compared_at) = (told.held, told.compared_at.or(job.compared_at));
            }
            if let Some(at) = told_at.filter(|_| told.letter.is_some()) {
                let named = told.deleted.intersection(&job.ids);
                job.deleted = named.map(|id| (id.clone(), at.timestamp())).collect();
            }
            return Some(job);
        }
        // An overflow says neither when its transaction began nor whether it stamped what it changed, and a converted
        // type stamps nothing: any record may be concerned. A range of time has a beginning.
        // So does what a comparison found, which goes by the stamps.
        let ranged = told.entity.is_none() || self.cause == RECONCILED;
        let since = told.from.time.filter(|_| ranged).and_then(|from| from.checked_sub_signed(LOOK_BACK));
        (job.whole, job.listing) = (true, Some(Listing { since, after: None }));
        Some(job)
    }

    /// The entry after a job: what it was, and what has become of it.
    pub fn after(&self, job: &Job, outcome: Outcome, unread: &[&str], run_id: &str) -> Self {
        let mut value = self.value.clone();
        let before = |name: &str| self.value.get(name).and_then(Value::as_u64).unwrap_or_default();
        let with = |name: &str, more: u64| before(name).saturating_add(more);
        let (rows, deletes) = (with("rows_reread", job.rows), with("deletes_found", job.deletes));
        if let Value::Object(members) = &mut value {
            members.insert("rows_reread".to_owned(), json!(rows));
            members.insert("deletes_found".to_owned(), json!(deletes));
            if outcome != Outcome::Partly {
                let state = if outcome == Outcome::Healed { "healed" } else { "given_up" };
                members.insert("state".to_owned(), json!(state));
                members.insert("unread".to_owned(), json!(unread));
                let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
                members.insert("closed_at".to_owned(), json!(now));
                members.insert("closed_by".to_owned(), json!(run_id));
            }
        }
        Self { value, ..self.clone() }
    }

    /// The ledger's record of it.
    pub fn record(&self, context: &StreamContext) -> OutputRecord {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let mut headers = vec![
            ("casewire", Bytes::from_static(b"1")),
            ("content-type", Bytes::from_static(b"application/json")),
            ("org", text(context.identity.org.as_str())),
        ];
        // As in the record that opened it: that event stands in the output.
        for name in ["replay_id", "event_id"] {
            if let Some(value) = self.value.get("source").and_then(|source| source.get(name)).and_then(Value::as_str) {
                headers.push((name, text(value)));
            }
        }
        OutputRecord {
            topic: context.ledger_topic.clone(),
            key: text(&self.id),
            value: Some(Bytes::from(self.value.to_string().into_bytes())),
            headers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(topic: &str, members: Value) -> Entry {
        let mut value = json!({"id": "gap", "state": "open", "cause": "x", "topic": topic, "entity": null, "records": [],
            "from": {}, "to": {"time": "2026-11-22T10:00:00.000Z"}, "source": null});
        value.as_object_mut().expect("an object").extend(members.as_object().cloned().expect("an object"));
        let topic = topic.parse().expect("a topic");
        read(value.to_string().as_bytes(), &topic).expect("own").1.expect("open")
    }

    #[test]
    fn a_gap_says_what_is_read_for_it() {
        let cases: TopicName = "/data/CaseChangeEvent".parse().expect("a topic");
        let job = |members| entry(cases.as_str(), members).job(&cases).expect("a job");
        let ids = job(json!({"entity": "Case", "records": ["5008d000000047SAAQ"], "source": {"replay_id": "00"}}));
        assert_eq!((ids.whole, ids.ids.len(), ids.told_at.is_some()), (false, 1, true));
        assert_eq!(Some(ids.begins_at()), ids.told_at, "what came after that event may be newer than the row's stamp");
        let untold = job(json!({"entity": "Case", "records": ["5008d000000047SAAQ"]}));
        assert_eq!(untold.begins_at(), DateTime::UNIX_EPOCH, "nobody knows since when");
        for id in ["000000000000000AAA", "500*"] {
            let all = job(
                json!({"entity": "Case", "records": ["5008d000000047SAAQ", id], "from": {"time": "2026-11-22T09:00:00Z"}}),
            );
            assert_eq!((all.listing.expect("a listing").since, all.ids.len()), (None, 0), "{id}");
        }
        let range = job(json!({"from": {"time": "2026-11-22T09:00:00Z"}}));
        assert_eq!(range.entity.as_deref(), Some("Case"));
        let since = range.listing.expect("a listing").since.expect("a beginning");
        assert_eq!(since.to_rfc3339(), "2026-11-22T08:00:00+00:00");
        assert_eq!(job(json!({})).listing.expect("a listing").since, None, "without a beginning, all");
        let since = json!({"cause": "reconciled", "entity": "Case", "from": {"time": "2026-11-22T09:00:00Z"}});
        assert!(job(since).listing.expect("a listing").since.is_some(), "a comparison goes by the stamps");
        let messages = json!({"entity": "ConversationEntry", "cause": "unread", "records": ["0Mw8d0000000001AAA"]});
        assert!(entry(cases.as_str(), messages).job(&cases).is_none(), "no job heals it");
        let events: TopicName = "/event/Order__e".parse().expect("a topic");
        assert!(entry(events.as_str(), json!({})).job(&events).is_none());
        let letter = entry(events.as_str(), json!({"letter": "00-e1"}));
        assert_eq!(letter.letter(), Some("00-e1"));
        assert!(letter.job(&events).is_some_and(|job| job.is_done() && job.entity.is_none()), "nothing is read for it");
        let channel: TopicName = "/data/ChangeEvents".parse().expect("a topic");
        assert_eq!(entry(channel.as_str(), json!({})).job(&channel).expect("a job").entity, None);
    }

    #[test]
    fn only_a_comparison_may_say_that_a_record_is_gone_and_only_of_records_that_it_names() {
        let cases: TopicName = "/data/CaseChangeEvent".parse().expect("a topic");
        let told = |cause: &str| {
            let members = json!({"cause": cause, "entity": "Case", "records": ["5008d000000047SAAQ"], "held": 7,
                "compared_at": "2026-11-22T10:00:00Z", "known": {"5008d000000047SAAQ": "2026-11-22T09:00:00.000Z"},
                "absent": ["5008d000000047SAAQ", "5008d000000047TAAQ"]});
            entry(cases.as_str(), members).job(&cases).expect("a job")
        };
        let job = told("reconciled");
        assert_eq!(job.gone.iter().collect::<Vec<_>>(), ["5008d000000047SAAQ"]);
        assert_eq!(job.known["5008d000000047SAAQ"], 1_795_338_000);
        assert_eq!((job.held, job.begins_at().to_rfc3339()), (7, "2026-11-22T10:00:00+00:00".to_owned()));
        assert!(told("unread").gone.is_empty());
    }

    #[test]
    fn only_a_dated_letter_says_that_records_were_deleted_and_only_of_those_that_it_names() {
        let cases: TopicName = "/data/CaseChangeEvent".parse().expect("a topic");
        let told = |members: Value| {
            let mut all = json!({"entity": "Case", "records": ["5008d000000047SAAQ"],
                "deleted": ["5008d000000047SAAQ", "5008d000000047TAAQ"]});
            all.as_object_mut().expect("an object").extend(members.as_object().cloned().expect("an object"));
            entry(cases.as_str(), all).job(&cases).expect("a job").deleted
        };
        let at = "2026-11-22T10:00:00Z".parse::<DateTime<Utc>>().expect("a time").timestamp();
        assert_eq!(told(json!({"letter": "00-e1"})), [("5008d000000047SAAQ".to_owned(), at)].into());
        assert!(told(json!({"letter": "00-e1", "to": {}})).is_empty(), "nobody knows since when");
        assert!(told(json!({})).is_empty(), "no letter");
    }

    #[test]
    fn what_closes_an_entry_repeats_it_and_counts() {
        let cases: TopicName = "/data/CaseChangeEvent".parse().expect("a topic");
        let opened = entry(cases.as_str(), json!({"detail": "why", "rows_reread": 3}));
        let mut job = opened.job(&cases).expect("a job");
        (job.rows, job.deletes) = (4, 1);
        let closed = opened.after(&job, Outcome::GivenUp, &["500A"], "run").value;
        assert_eq!(closed["state"], "given_up");
        assert_eq!((&closed["rows_reread"], &closed["deletes_found"]), (&json!(7), &json!(1)));
        assert_eq!((&closed["detail"], &closed["unread"]), (&json!("why"), &json!(["500A"])));
        assert!(read(closed.to_string().as_bytes(), &cases).expect("own").1.is_none(), "not open any more");
        assert_eq!(opened.after(&job, Outcome::Partly, &[], "run").value["state"], "open");
        let counted = entry(cases.as_str(), json!({"rows_reread": u64::MAX}));
        assert_eq!(counted.after(&job, Outcome::Healed, &[], "run").value["rows_reread"], u64::MAX);
    }
}

//! What a stream keeps in Kafka beside its position: the conversations, the sessions that are to be fetched, the positions of
//! polls, the jobs of its checkpoint, and the entries of the gap ledger.
//!
//! The first byte picks: records as they are found (one a line, the key before the value), jobs, a ledger entry, or a course of
//! transactions. What is accepted has to hold what stands in it and to be written as it was read; what is refused says why
//! without quoting it, and is no fault of what stands beside it. After each transaction of a course, committed or not, whoever
//! begins from what is kept knows what the desk in memory does.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use casewire::identity::TopicName;
use casewire::kafka::{Checkpoint, KEPT, OutputRecord, StreamIdentity};
use casewire::pipeline::ledger::OpenGap;
use casewire::pipeline::reading::{
    Clear, Conversation, End, Job, LedgerWriter, MessageBatch, MessageDesk, Outcome, PollPosition, conversation_key,
    conversations, jobs_of, kept_value, ledger_entry, set_job,
};
use casewire::position::{Anchor, Position};
use casewire::status::{Board, StreamBoard};
use chrono::{DateTime, TimeDelta, Utc};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

/// Stands in records and has no business in a reason.
const CONTENT: &str = "cOnTenT";

const LONGEST_REASON: usize = 200;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);

type Kept = BTreeMap<String, Bytes>;

static IDENTITY: LazyLock<StreamIdentity> = LazyLock::new(|| StreamIdentity {
    prefix: "p".into(),
    org: "00D8d00000AbCdEEAV".parse().expect("an org"),
    topic: "/data/MessagingSessionChangeEvent".parse().expect("a topic"),
});

static BOARD: LazyLock<StreamBoard> = LazyLock::new(|| Board::new().stream(IDENTITY.topic.clone()));

static CHECKPOINT_TOPIC: LazyLock<String> = LazyLock::new(|| IDENTITY.checkpoint_topic());

fuzz_target!(|data: &[u8]| {
    let [kind, data @ ..] = data else { return };
    match kind % 4 {
        0 => records(data),
        1 => jobs(data),
        2 => entry(data),
        _ => {
            if let Ok(course) = Vec::<Transaction>::arbitrary(&mut Unstructured::new(data)) {
                run(&course);
            }
        }
    }
});

fn ledger() -> LedgerWriter {
    LedgerWriter::new("p.gaps".into(), IDENTITY.org.clone(), IDENTITY.topic.clone(), "run".to_owned())
}

fn desk(kept: &Kept) -> MessageDesk {
    MessageDesk::new(&IDENTITY, BOARD.clone(), ledger(), WEEK, kept)
}

fn records(data: &[u8]) {
    let mut kept = Kept::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(end) = line.iter().position(|byte| *byte == b' ') else { continue };
        let (key, value) = (String::from_utf8_lossy(&line[..end]), &line[end + 1..]);
        kept.insert(format!("{KEPT}{key}"), Bytes::copy_from_slice(value));
    }
    let (prefix, read) = (conversation_key(""), conversations(&kept));
    for (key, value) in &kept {
        if let Some(identifier) = key.strip_prefix(&prefix) {
            match kept_value::<Conversation>(value) {
                Ok(conversation) => {
                    assert_eq!(read.get(identifier), Some(&conversation));
                    is_conversation(&conversation, value);
                }
                Err(reason) => {
                    assert!(!read.contains_key(identifier));
                    is_reason(&reason.to_string());
                }
            }
        }
        if let Some(entity) = key.strip_prefix(&format!("{KEPT}poll/")) {
            match kept_value::<PollPosition>(value) {
                Ok(position) => is_position(position, entity, value),
                Err(reason) => {
                    assert_eq!(PollPosition::read(entity, value), None);
                    is_reason(&reason.to_string());
                }
            }
        }
    }
    are_sessions(&kept);
}

fn is_reason(reason: &str) {
    assert!(!reason.is_empty() && reason.len() <= LONGEST_REASON, "{reason}");
    assert!(!reason.contains(CONTENT) && !reason.chars().any(char::is_control), "{reason:?}");
}

/// The members of a record in the form in which it is written; it is read in others too.
fn stated(value: &[u8]) -> Option<Value> {
    serde_json::from_slice(value).ok().filter(Value::is_object)
}

fn is_conversation(conversation: &Conversation, value: &[u8]) {
    assert_eq!(kept_value::<Conversation>(&conversation.value()).as_ref(), Ok(conversation));
    let Some(stated) = stated(value) else { return };
    for (name, number) in
        [("cursor", conversation.cursor), ("floor", conversation.floor), ("sweep_every", conversation.sweep_every)]
    {
        assert_eq!(stated.get(name).map_or(Some(0), Value::as_i64), Some(number), "{name}");
    }
    assert_eq!(
        (stated["final_at"].as_i64(), stated["asked_at"].as_i64()),
        (conversation.final_at, conversation.asked_at)
    );
    assert_eq!(conversation.in_vain_since.is_some(), stated["in_vain_since"].is_string());
    assert_eq!(conversation.entry.as_ref().unwrap_or(&Value::Null), &stated["entry"]);
    for (identifier, (time, digest)) in &conversation.known {
        assert_eq!(stated["known"][identifier], json!([time, digest]));
    }
    let count = |name: &str| stated[name].as_object().map_or(0, Map::len);
    assert_eq!((conversation.known.len(), conversation.records.len()), (count("known"), count("records")));
    let open: BTreeSet<&str> = stated["open"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(conversation.open.iter().map(String::as_str).eq(open));
}

fn is_position(position: PollPosition, entity: &str, value: &[u8]) {
    assert_eq!(PollPosition::read(entity, value), Some(position));
    assert_eq!(PollPosition::read(entity, &position.value()), Some(position));
    let Some(stated) = stated(value) else { return };
    assert_eq!(stated["from"].as_str().map(str::parse), Some(Ok(position.from)));
}

/// The triggers are those of the records that can be read, and nothing that stands beside them changes them.
fn are_sessions(kept: &Kept) {
    let of = |kept: &Kept| -> Vec<String> { desk(kept).triggers().into_keys().collect() };
    let prefix = format!("{KEPT}trigger/");
    let mut expected = BTreeSet::new();
    for (key, value) in kept.iter().filter(|(key, _)| key.starts_with(&prefix)) {
        let alone = of(&Kept::from([(key.clone(), value.clone())]));
        // Under another key it could not be taken away.
        assert!(alone.iter().all(|session| *key == format!("{prefix}{session}")));
        if let Some(stated) = stated(value).filter(|_| !alone.is_empty()) {
            assert_eq!(stated["session"].as_str(), alone.first().map(String::as_str));
        }
        expected.extend(alone);
    }
    assert!(of(kept).into_iter().eq(expected));
    let all = desk(kept);
    let old = all.next_old(usize::MAX);
    // To be done with them all leaves nothing, whatever was said of how many are.
    let mut after = kept.clone();
    let batch = batch(|batch| batch.done = old.iter().map(|old| old.place).collect());
    let _ = commit(&all, batch, &mut after, true);
    assert!(all.next_old(usize::MAX).is_empty() && desk(&after).next_old(usize::MAX).is_empty());
}

fn checkpoint(jobs: Map<String, Value>) -> Checkpoint {
    let mut checkpoint = Checkpoint::at(Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH }));
    checkpoint.jobs = jobs;
    checkpoint
}

fn jobs(data: &[u8]) {
    let Ok(members) = serde_json::from_slice::<Map<String, Value>>(data) else { return };
    let found = checkpoint(members.clone());
    let jobs = jobs_of(&found, true);
    assert!(
        jobs_of(&found, false).iter().all(|(id, job)| jobs.get(id) == Some(job)),
        "those that heal are some of them"
    );
    for (id, job) in &jobs {
        let stated = &members[id];
        if stated.is_object() {
            is_job(job, stated);
        }
        let mut written = found.clone();
        set_job(&mut written, id, job);
        assert_eq!(jobs_of(&written, true), jobs, "written and read back");
        let text = written.to_json().expect("a checkpoint can be written");
        assert_eq!(jobs_of(&Checkpoint::from_json(&text).expect("and read"), true), jobs);
        assert!(
            members.iter().all(|(other, value)| other == id || written.jobs.get(other) == Some(value)),
            "left alone"
        );
        let _ = (job.begins_at(), job.is_done(), job.leaves_ids(), job.may_begin_bulk(), job.waits_for_bulk(id, &jobs));
        if let Some(scope) = &job.snapshot {
            assert_eq!(scope.clause("SystemModstamp").is_empty(), !scope.is_partial());
        }
        for other in jobs.values().filter(|other| job.takes(other)) {
            let (mut both, gaps) = (job.clone(), job.heals.union(&other.heals).count());
            both.take(other.clone());
            assert_eq!(both.heals.len(), gaps);
            assert!(job.ids.union(&other.ids).eq(&both.ids), "what either reads");
            assert!(both.begins_at() <= job.begins_at().min(other.begins_at()));
        }
    }
}

fn is_job(job: &Job, stated: &Value) {
    let number = |name: &str| stated.get(name).map_or(Some(0), Value::as_u64);
    assert_eq!(stated["entity"].as_str(), job.entity.as_deref());
    assert_eq!(
        [number("listed"), number("rows"), number("deletes"), number("absent"), number("held"), number("passes")],
        [job.listed, job.rows, job.deletes, job.absent, job.held, job.passes.into()].map(Some)
    );
    let texts = |name: &str| -> BTreeSet<String> {
        stated[name].as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    assert_eq!(
        [&job.heals, &job.ids, &job.unread, &job.gone],
        ["heals", "ids", "unread", "gone"].map(texts).each_ref()
    );
    assert_eq!(stated["opened_at"].as_str().map(str::parse), Some(Ok(job.opened_at)));
    let bulk = &stated["bulk"];
    if let (Some(pass), true) = (&job.bulk, bulk.is_object()) {
        let counted = |name: &str| bulk.get(name).map_or(Some(0), Value::as_u64);
        assert_eq!(
            [bulk["marker"].as_u64(), counted("dealt"), counted("before")],
            [pass.marker, pass.dealt, pass.before].map(Some)
        );
        assert_eq!((bulk["found"].as_u64(), bulk["locator"].as_str()), (pass.found, pass.locator.as_deref()));
    }
}

fn entry(data: &[u8]) {
    let [choice, value @ ..] = data else { return };
    let topics =
        ["/data/CaseChangeEvent", "/data/ChangeEvents", "/event/Order__e", "/data/MessagingSessionChangeEvent"];
    let topic: TopicName = topics[usize::from(*choice) % topics.len()].parse().expect("a topic");
    let Some((id, entry)) = ledger_entry(value, &topic) else { return };
    let stated: Value = serde_json::from_slice(value).expect("accepted");
    if !stated.is_object() {
        return;
    }
    assert_eq!((stated["id"].as_str(), stated["topic"].as_str()), (Some(id.as_str()), Some(topic.as_str())));
    assert_eq!(entry.is_some(), stated["state"] == "open");
    let Some(entry) = entry else { return };
    let named: BTreeSet<&str> = stated["records"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(entry.records.iter().all(|id| named.contains(id.as_str())));
    assert_eq!(entry.letter(), stated["letter"].as_str());
    let _ = entry.opened_at();
    let Some(mut job) = entry.job(&topic) else { return };
    assert!(job.heals.contains(&id) && job.heals.len() == 1);
    assert!(job.ids.iter().all(|id| named.contains(id.as_str())), "no other record is read");
    assert!(job.gone.is_subset(&job.ids) && job.deleted.keys().all(|id| job.ids.contains(id)), "or taken for deleted");
    // A gap names records, is a range, or is a whole object: something is read for each but for a letter of no object.
    assert!(!job.is_done() || entry.letter().is_some());
    (job.rows, job.deletes) = (3, u64::MAX);
    for outcome in [Outcome::Partly, Outcome::GivenUp, Outcome::Healed] {
        let after = entry.after(&job, outcome, &["500A"], "run");
        assert_eq!((after.id.as_str(), &after.records), (id.as_str(), &entry.records));
        assert!(after.job(&topic).is_some());
    }
}

/// What one transaction carries.
#[derive(Debug, Arbitrary)]
struct Transaction {
    what: What,
    /// Otherwise the attempt ends with it, and the next one begins from what is kept.
    commits: bool,
}

#[derive(Debug, Arbitrary)]
enum What {
    /// Events of sessions.
    Events(Vec<u8>),
    /// Rows of a snapshot: sessions, and the hours since each ended.
    Rows(Vec<(u8, u8)>),
    /// What the runner hands over.
    Fetched {
        /// Sessions, each with whether an event came since its fetch began.
        clears: Vec<(u8, bool)>,
        gives_up: bool,
        owes: Vec<u8>,
        tells: Vec<u8>,
        /// Old sessions that are done with.
        done: u8,
    },
}

/// What has to be known after the transactions so far.
#[derive(Debug, Default, Clone)]
struct Model {
    waiting: BTreeSet<String>,
    told: BTreeSet<String>,
    old: usize,
}

fn session(number: u8) -> String {
    format!("0Mw8d000000{:04}AAA", number % 16)
}

fn batch(fill: impl FnOnce(&mut MessageBatch)) -> MessageBatch {
    let mut batch = MessageBatch::default();
    fill(&mut batch);
    batch
}

/// What the checkpoint topic holds once records are in it.
fn store(records: Vec<OutputRecord>, kept: &mut Kept) {
    for record in records.into_iter().filter(|record| *record.topic == **CHECKPOINT_TOPIC) {
        let key = String::from_utf8(record.key.to_vec()).expect("a key is text");
        assert!(key.starts_with(KEPT), "{key}");
        match record.value {
            Some(value) => drop(kept.insert(key, value)),
            None => drop(kept.remove(&key)),
        }
    }
}

/// Hands a batch over; the states of the ledger's entries that it wrote.
fn commit(desk: &MessageDesk, mut batch: MessageBatch, kept: &mut Kept, commits: bool) -> Vec<String> {
    let (records, admitted) = desk.admit(&mut batch);
    if !commits {
        return Vec::new();
    }
    let of_ledger =
        records.iter().filter(|record| &*record.topic == "p.gaps").filter_map(|record| record.value.as_ref());
    let state = |value: &Bytes| Some(serde_json::from_slice::<Value>(value).ok()?["state"].as_str()?.to_owned());
    let states = of_ledger.filter_map(state).collect();
    store(records, kept);
    desk.admitted(admitted);
    states
}

fn run(course: &[Transaction]) {
    let (mut kept, mut model) = (Kept::new(), Model::default());
    let mut desk = desk(&kept);
    for transaction in course.iter().take(24) {
        let mut next = model.clone();
        transaction.what.run(&desk, &mut kept, &mut next, transaction.commits);
        let again = self::desk(&kept);
        if transaction.commits {
            model = next;
            agrees(&desk, &model);
            assert_eq!(desk.next_old(usize::MAX), again.next_old(usize::MAX));
        }
        agrees(&again, &model);
        if !transaction.commits {
            desk = again;
        }
    }
}

fn agrees(desk: &MessageDesk, model: &Model) {
    let triggers = desk.triggers();
    assert!(triggers.keys().eq(&model.waiting), "{triggers:?} {model:?}");
    let told = triggers.iter().filter(|(_, trigger)| trigger.told).map(|(session, _)| session);
    assert!(told.eq(&model.told), "{triggers:?} {model:?}");
    assert_eq!(desk.next_old(usize::MAX).len(), model.old);
}

impl What {
    fn run(&self, desk: &MessageDesk, kept: &mut Kept, model: &mut Model, commits: bool) {
        match self {
            Self::Events(sessions) => {
                let sessions: Vec<String> = sessions.iter().map(|number| session(*number)).collect();
                let records = sessions.iter().map(|session| record(session, "update", json!({}))).collect();
                enrol(desk, records, kept, commits);
                model.waiting.extend(sessions);
            }
            Self::Rows(rows) => {
                let now = Utc::now();
                let row = |(number, hours): &(u8, u8)| {
                    let at = |time: DateTime<Utc>| time.to_rfc3339();
                    let ended = at(now - TimeDelta::hours((hours % 160).into()));
                    record(&session(*number), "read", json!({"record": {"EndTime": ended}, "record_as_of": at(now)}))
                };
                enrol(desk, rows.iter().map(row).collect(), kept, commits);
                model.old += rows.len();
            }
            Self::Fetched { clears, gives_up, owes, tells, done } => {
                let end = if *gives_up { End::GivenUp } else { End::Healed };
                let triggers = desk.triggers();
                let clears: BTreeMap<String, bool> =
                    clears.iter().map(|(number, late)| (session(*number), *late)).collect();
                let apart = |numbers: &[u8]| -> BTreeSet<String> {
                    numbers.iter().map(|number| session(*number)).filter(|one| !clears.contains_key(one)).collect()
                };
                let (owes, tells) = (apart(owes), apart(tells));
                let tells: Vec<String> =
                    tells.into_iter().filter(|one| triggers.get(one).is_some_and(|trigger| !trigger.told)).collect();
                let places = desk.next_old((*done).into()).into_iter().map(|old| old.place).collect::<Vec<_>>();
                let number = |session: &str, late: bool| {
                    triggers.get(session).map_or(0, |trigger| trigger.number).wrapping_sub(u64::from(late))
                };
                let done = places.len();
                let batch = batch(|batch| {
                    let clear = |(session, late): (&String, &bool)| Clear {
                        session: session.clone(),
                        number: number(session, *late),
                        end,
                    };
                    batch.clears = clears.iter().map(clear).collect();
                    batch.owes = owes.iter().cloned().collect();
                    batch.tells = tells.iter().map(|one| (one.clone(), opened(one))).collect();
                    batch.done = places;
                });
                let states = commit(desk, batch, kept, commits);
                let ended = clears.into_iter().filter(|(_, late)| !late).filter(|(one, _)| model.waiting.remove(one));
                let ended = ended.filter(|(one, _)| model.told.remove(one)).count();
                let state = |wanted: &str| states.iter().filter(|state| *state == wanted).count();
                if commits {
                    let closed = if *gives_up { "given_up" } else { "healed" };
                    assert_eq!(
                        (state("open"), state(closed)),
                        (tells.len(), ended),
                        "an entry is opened and closed once"
                    );
                }
                model.told.extend(tells);
                model.waiting.extend(owes);
                model.old -= done;
            }
        }
    }
}

fn opened(session: &str) -> Value {
    ledger().open(&OpenGap::messages(vec![session.to_owned()], Utc::now(), "why".to_owned()))
}

fn record(session: &str, op: &'static str, value: Value) -> OutputRecord {
    OutputRecord {
        topic: "p.MessagingSession".into(),
        key: Bytes::copy_from_slice(session.as_bytes()),
        value: Some(value.to_string().into()),
        headers: vec![("op", Bytes::from_static(op.as_bytes()))],
    }
}

/// Commits records of the stream with what the desk adds to them.
fn enrol(desk: &MessageDesk, mut records: Vec<OutputRecord>, kept: &mut Kept, commits: bool) {
    let triggered = desk.enrol(&mut records);
    if commits {
        store(records, kept);
        desk.committed(triggered);
    }
}

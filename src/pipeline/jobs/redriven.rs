//! Dead letters that are redriven: which rows come of them, and platform events written as they were.
//!
//! The records of a change event are read anew as for any other gap, since what stands in a letter may be older than what
//! Kafka holds by now. A platform event is in no table: its letter is decoded and written. It is written once:
//!
//! - the event, the entry that closes its gap and the end of its job are one transaction, and
//! - before that its topic is read, so that an event that stands there (because its gap was opened twice, or the event was
//!   delivered again behind a position that was moved) is not written again. What the run loop writes from the reading on is noted
//!   on the desk: should one of the events come by itself meanwhile, all of them go back, and the topic is read again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::timeout;

use crate::identity::{ReplayId, SchemaId};
use crate::kafka::{OutputRecord, ScanFrom, ScannedRecord, scan};
use crate::pipeline::dead_letter::Withheld;
use crate::pipeline::jobs::desk::Desk;
use crate::pipeline::jobs::entry::{Entry, Outcome};
use crate::pipeline::jobs::job::Job;
use crate::pipeline::jobs::reading::PATIENCE;
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::seam::JobBatch;
use crate::pipeline::jobs::setback::Setback;
use crate::pipeline::read_back;
use crate::pipeline::records::{EventSource, RecordWriter};
use crate::pipeline::schemas::NoSchema;
use crate::position::EventKey;

/// The header that names the letter of which a record came.
const HEADER: &str = "redriven_from";

/// Letters that are dealt with in one transaction.
const MOST_LETTERS: usize = 100;

/// How much earlier than its letter an event may stand in its topic: as far back as the output is ever read for what is
/// delivered again.
const WINDOW: TimeDelta = TimeDelta::days(7);

/// The letters whose records a job reads.
#[derive(Default)]
pub(super) struct Letters {
    of_record: HashMap<String, Bytes>,
    /// That of a whole object.
    of_any: Option<Bytes>,
}

impl Letters {
    /// Those among the gaps of a job.
    pub fn of(job: &Job, desk: &Desk) -> Self {
        let mut letters = Self::default();
        for entry in job.heals.iter().filter_map(|gap| desk.entry(gap)) {
            let Some(letter) = entry.letter() else { continue };
            let letter = Bytes::copy_from_slice(letter.as_bytes());
            letters.of_record.extend(entry.records.iter().map(|id| (id.clone(), letter.clone())));
            if entry.records.is_empty() {
                letters.of_any = Some(letter);
            }
        }
        letters
    }

    /// Says on the records of a row of which letter they came. Where several told of it, one of them stands for all.
    pub fn mark(&self, id: &str, records: &mut [OutputRecord]) {
        if let Some(letter) = self.of_record.get(id).or(self.of_any.as_ref()) {
            records.iter_mut().for_each(|record| record.headers.push((HEADER, letter.clone())));
        }
    }
}

/// A gap that a letter left, and its job.
struct Redrive {
    id: String,
    job: Job,
    entry: Entry,
}

/// A platform event that is ready to be written.
struct Event {
    key: EventKey,
    record: OutputRecord,
    letter_at: DateTime<Utc>,
}

/// What is committed together.
#[derive(Default)]
struct Outcomes {
    events: Vec<OutputRecord>,
    jobs: Vec<(String, Option<Job>)>,
    entries: Vec<Entry>,
    closes: Vec<(String, bool)>,
}

impl Outcomes {
    fn close(&mut self, redrive: Redrive, written: Option<OutputRecord>, unread: &[&str], run_id: &str) {
        let Redrive { id, mut job, entry } = redrive;
        let outcome = if unread.is_empty() { Outcome::Healed } else { Outcome::GivenUp };
        job.rows = u64::from(written.is_some());
        self.events.extend(written);
        self.closes.push((entry.id.clone(), unread.is_empty()));
        self.entries.push(entry.after(&job, outcome, unread, run_id));
        self.jobs.push((id, None));
    }
}

impl Runner {
    /// Writes the platform events of the job `id` and of those behind it, closes their gaps and removes the jobs. One
    /// that cannot be written waits, and is given up in the end.
    pub(super) async fn write_events(&mut self, id: &str, own: Job) -> Result<(), Setback> {
        let (mut jobs, _) = self.desk.jobs();
        jobs.remove(id);
        let (mut outcomes, mut redrives) = (Outcomes::default(), BTreeMap::new());
        for (id, job) in std::iter::once((id.to_owned(), own)).chain(jobs).take(MOST_LETTERS) {
            let entry = job.heals.first().and_then(|gap| self.desk.entry(gap));
            match entry.and_then(|entry| Some((entry.letter()?.to_owned(), entry))) {
                Some((letter, entry)) => drop(redrives.insert(letter, Redrive { id, job, entry })),
                // Closed already, or somebody's own record in the ledger.
                None => outcomes.jobs.push((id, None)),
            }
        }
        let mut letters = self.letters(redrives.keys().cloned().collect()).await?;
        let (mut events, mut waits, mut bytes) = (Vec::new(), None, 0);
        for (letter, redrive) in redrives {
            if bytes >= self.context.batch.max_bytes {
                break;
            }
            match self.event(&letter, letters.remove(&letter)).await {
                Ok(event) => {
                    bytes += event.record.size();
                    events.push((event, redrive));
                }
                Err(Setback::Gone) => return Err(Setback::Gone),
                Err(Setback::Letter { .. }) if self.tried(&redrive.job) >= self.desk.config.give_up_after => {
                    outcomes.close(redrive, None, &[letter.as_str()], &self.context.run.run_id);
                }
                Err(Setback::Letter { reason, .. }) if redrive.id == id => {
                    waits = Some(Setback::Letter { reason, tried: self.tried(&redrive.job) });
                }
                Err(setback) if redrive.id == id => waits = Some(setback),
                // Says so itself when its turn comes.
                Err(_) => {}
            }
        }
        // First what is written from now on, then what was before: nothing is between the two.
        self.desk.watch(events.iter().map(|(event, _)| event.record.key.clone()));
        let written = self.written(&events).await?;
        for (event, redrive) in events {
            let record = Some(event.record).filter(|_| !written.contains(&event.key.fingerprint()));
            outcomes.close(redrive, record, &[], &self.context.run.run_id);
        }
        self.commit_events(outcomes).await?;
        waits.map_or(Ok(()), Err)
    }

    async fn commit_events(&self, outcomes: Outcomes) -> Result<(), Setback> {
        let Outcomes { events, jobs, entries, closes } = outcomes;
        if jobs.is_empty() {
            return Ok(());
        }
        let (batch, committed) = JobBatch::new(self.desk.marker());
        // What went back is still a job's, and has its turn again.
        self.deliver(JobBatch { events, jobs, entries, closes, ..batch }, committed).await.map(drop)
    }

    /// For how long a job has been tried.
    fn tried(&self, job: &Job) -> Duration {
        (Utc::now() - job.opened_at).to_std().unwrap_or_default()
    }

    /// The letters of these keys, as they stand in Kafka.
    async fn letters(&self, wanted: HashSet<String>) -> Result<HashMap<String, ScannedRecord>, Setback> {
        let found: Arc<Mutex<HashMap<String, ScannedRecord>>> = Arc::default();
        let collected = found.clone();
        scan(&self.kafka, &self.context.dead_letters_topic, ScanFrom::Beginning, move |record| {
            let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
            if wanted.contains(&*key) {
                let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
                match record.value {
                    Some(_) => collected.insert(key.into_owned(), record.clone()),
                    None => collected.remove(&*key),
                };
            }
            ControlFlow::Continue(())
        })
        .await?;
        Ok(std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// The event of a letter, decoded, with its topic there to be written to.
    async fn event(&mut self, letter: &str, record: Option<ScannedRecord>) -> Result<Event, Setback> {
        let unusable = |reason: String| Setback::Letter { reason, tried: Duration::ZERO };
        let topic = &self.context.dead_letters_topic;
        let record = record.ok_or_else(|| unusable(format!("the letter {letter} is not in {topic} any more")))?;
        if Withheld::of_letter(&record).is_some() {
            return Err(unusable(format!("the letter {letter} holds no event: a field policy kept its bytes back")));
        }
        let text = |name: &str| String::from_utf8_lossy(record.header(name).unwrap_or_default()).into_owned();
        let (event_id, payload) = (text("event_id"), record.value.clone().unwrap_or_default());
        let replay_id = text("replay_id").parse::<ReplayId>();
        let replay_id = replay_id.map_err(|error| unusable(format!("the letter {letter}: {error}")))?;
        let key = EventKey::new(replay_id, &event_id, &payload);
        if self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner).contains(key.event_id()) {
            return Err(unusable(format!("the event of the letter {letter} is larger than Kafka takes")));
        }
        let schema_id: SchemaId = text("schema_id").as_str().into();
        let schema = match timeout(PATIENCE, self.schemas.get(&schema_id, &self.cancel, |_, _| {})).await {
            Ok(Ok(schema)) => schema,
            Ok(Err(NoSchema::Undecodable(reason))) => return Err(unusable(reason)),
            Ok(Err(NoSchema::Stop(failure))) => return Err(Setback::Stopped(failure)),
            Ok(Err(NoSchema::Cancelled)) => return Err(Setback::Gone),
            Err(_) => return Err(unusable(format!("schema {schema_id} was not had within {} s", PATIENCE.as_secs()))),
        };
        let cannot = |what: &dyn std::fmt::Display| unusable(format!("the letter {letter}: {what}"));
        let change = schema.decode(&payload, &self.context.policies).map_err(|error| cannot(&error))?;
        if change.header.is_some() {
            return Err(cannot(&"it is a change event, and its stream carries platform events"));
        }
        let identity = &self.context.identity;
        let (org, topic, prefix) = (identity.org.clone(), identity.topic.clone(), identity.prefix.clone());
        let source = EventSource { key: &key, event_id: &event_id, schema_id: &schema_id, schema_name: schema.name() };
        let written = RecordWriter::new(org, topic, prefix, false).write(source, &change);
        let written = written.map_err(|error| cannot(&error))?.records.pop();
        let mut written = written.ok_or_else(|| cannot(&"it makes no record"))?;
        written.headers.push((HEADER, Bytes::copy_from_slice(letter.as_bytes())));
        self.context.claims.claim(schema.name(), &identity.topic).map_err(Setback::Stopped)?;
        self.topics.ensure_entity(&written.topic, &self.cancel).await.map_err(Setback::Stopped)?;
        Ok(Event { key, record: written, letter_at: record.timestamp.unwrap_or_default() })
    }

    /// Those of the events that stand in their topics already.
    async fn written(&self, events: &[(Event, Redrive)]) -> Result<HashSet<u128>, Setback> {
        let mut topics: HashMap<Arc<str>, (DateTime<Utc>, HashSet<u128>)> = HashMap::new();
        for (event, _) in events {
            let (since, wanted) =
                topics.entry(event.record.topic.clone()).or_insert_with(|| (event.letter_at, HashSet::new()));
            *since = event.letter_at.min(*since);
            wanted.insert(event.key.fingerprint());
        }
        let mut written = HashSet::new();
        for (topic, (since, wanted)) in topics {
            let from = ScanFrom::Timestamp(since.checked_sub_signed(WINDOW).unwrap_or_default());
            let found: Arc<Mutex<HashSet<u128>>> = Arc::default();
            let (collected, org) = (found.clone(), self.context.identity.org.clone());
            scan(&self.kafka, &topic, from, move |record| {
                if record.header("org") == Some(org.as_str().as_bytes())
                    && let Some(key) = read_back::event_key(record)
                    && wanted.contains(&key.fingerprint())
                {
                    collected.lock().unwrap_or_else(PoisonError::into_inner).insert(key.fingerprint());
                }
                ControlFlow::Continue(())
            })
            .await?;
            written.extend(found.lock().unwrap_or_else(PoisonError::into_inner).drain());
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_of_which_letter_it_came_and_others_say_nothing() {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let record = || OutputRecord { topic: "t".into(), key: bytes("k"), value: None, headers: Vec::new() };
        let marked = |letters: &Letters, id: &str| {
            let mut records = vec![record(), record()];
            letters.mark(id, &mut records);
            records.into_iter().flat_map(|record| record.headers).map(|(_, value)| value).collect::<Vec<_>>()
        };
        let mut letters = Letters { of_record: HashMap::from([("500A".to_owned(), bytes("one"))]), of_any: None };
        assert_eq!(marked(&letters, "500A"), ["one", "one"], "the tombstone too");
        assert!(marked(&letters, "500B").is_empty());
        letters.of_any = Some(bytes("any"));
        assert_eq!(marked(&letters, "500B"), ["any", "any"]);
        assert_eq!(marked(&letters, "500A"), ["one", "one"]);
    }
}

//! What of a slice is let into a transaction: its rows, but for those that events have overtaken, and its jobs as they are
//! after it. The head of the jobs has the rule.

use std::collections::BTreeSet;

use crate::kafka::{Checkpoint, OutputRecord};
use crate::pipeline::jobs::desk::{Desk, Noted, State, kept};
use crate::pipeline::jobs::job::{Job, has_room, job_id, jobs_of, set};
use crate::pipeline::jobs::seam::{JobBatch, JobRow};

impl Desk {
    /// Takes a slice's records out of `batch`, but for those that events have overtaken; puts its jobs into `next`.
    /// Returns the records in their order, and the ids of those that go back. Should a platform event have been written since
    /// it was looked for, nothing of the batch is taken.
    pub fn admit(&self, batch: &mut JobBatch, next: &mut Checkpoint) -> (Vec<OutputRecord>, BTreeSet<String>, Noted) {
        let written = self.state().written(&batch.events);
        if !written.is_empty() {
            return (Vec::new(), written, Noted::default());
        }
        let (mut records, mut noted) = (std::mem::take(&mut batch.events), Noted::default());
        let back = self.admit_rows(batch, &mut records, &mut noted);
        for (id, job) in &batch.jobs {
            match job {
                Some(job) => set(next, id, job),
                None => drop(next.jobs.remove(id)),
            }
        }
        let opened = open_jobs(batch, next, &mut noted);
        for entry in batch.entries.drain(..) {
            records.push(entry.record(&self.context));
            if !batch.closes.iter().any(|(id, _)| *id == entry.id) {
                noted.opened.push(entry);
            }
        }
        noted.closed = std::mem::take(&mut batch.closes);
        if opened && back.is_empty() {
            records.extend(batch.kept.drain(..).map(|(key, value)| kept(&self.context.identity, key, value)));
        }
        (records, back, noted)
    }

    /// Takes the rows that nothing has overtaken, and counts them in the first job. Returns the ids of the others, which are that
    /// job's again.
    fn admit_rows(&self, batch: &mut JobBatch, records: &mut Vec<OutputRecord>, noted: &mut Noted) -> BTreeSet<String> {
        let (mut rows, mut deletes, mut absent, mut back) = (0, 0, 0, BTreeSet::new());
        let of_snapshot =
            batch.jobs.first().is_some_and(|(_, job)| job.as_ref().is_some_and(|job| job.snapshot.is_some()));
        for row in batch.rows.drain(..) {
            let overtaken = self.state().overtaken(batch.marker, &row);
            match overtaken {
                Overtaken::No => {}
                Overtaken::ByADelete => continue,
                Overtaken::Perhaps => {
                    back.insert(row.id);
                    continue;
                }
            }
            // Of a row that is as current as its stamp says, the next read of the record says no less; a snapshot has
            // millions of these, and no other job of the object reads all of it meanwhile.
            if !of_snapshot || !row.becomes.alive || row.becomes.as_of > row.stamp {
                noted.touches.push((row.key, row.becomes));
            }
            absent += u64::from(row.absent);
            *if row.becomes.alive { &mut rows } else { &mut deletes } += 1;
            records.extend(row.records);
        }
        if let Some((_, Some(job))) = batch.jobs.first_mut() {
            job.rows = job.rows.saturating_add(rows);
            job.deletes = job.deletes.saturating_add(deletes);
            job.absent = job.absent.saturating_add(absent);
            job.ids.extend(back.iter().cloned());
        }
        noted.snapshot_rows = if of_snapshot { rows } else { 0 };
        back
    }
}

/// Opens the jobs of a batch where there is room. Returns whether there was for all.
fn open_jobs(batch: &JobBatch, next: &mut Checkpoint, noted: &mut Noted) -> bool {
    let (seq, mut all) = (next.seq.saturating_add(1), true);
    for (number, job) in batch.opens.iter().enumerate() {
        // The ledger may have been read between a transaction of the loop and the desk's note of it, and a poll may tell again of
        // what it told already. A job that has dealt with some of the records does not heal what is told of them now.
        let heals =
            |other: &Job, gap: &String| other.heals.contains(gap) && job.ids.iter().all(|id| other.is_to_read(id));
        let healed = |gap: &String| jobs_of(next, true).values().any(|other| heals(other, gap));
        if !job.heals.is_empty() && job.heals.iter().all(healed) {
            continue;
        }
        if has_room(next, job) {
            set(next, &job_id(job, seq, number), job);
        } else {
            noted.unclaimed = true;
            all = false;
        }
    }
    all
}

/// By so many seconds at most the clocks of Salesforce's servers differ: one stamps the change of a record, another one dates the
/// commit of an event. They keep time by NTP, so this is many times what they are apart. A stamp that is later by less proves
/// nothing, and costs one more read.
const SERVERS: i64 = 5;

/// Whether an event came between the read of a row and its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overtaken {
    No,
    /// The record is deleted, and Kafka knows.
    ByADelete,
    /// The row may be older than what Kafka holds.
    Perhaps,
}

impl State {
    /// Those of a job's platform events that the loop has written meanwhile.
    fn written(&self, events: &[OutputRecord]) -> BTreeSet<String> {
        let written = |event: &&OutputRecord| self.watched.get(&event.key) == Some(&true);
        events.iter().filter(written).map(|event| String::from_utf8_lossy(&event.key).into_owned()).collect()
    }

    fn overtaken(&self, marker: u64, row: &JobRow) -> Overtaken {
        let Some((seq, known)) = self.touched.get(&row.key) else { return Overtaken::No };
        if !row.becomes.alive && !known.alive {
            return Overtaken::ByADelete;
        }
        // A stamp that is later than the event was set after it, so the row was read after it too.
        let later = row.stamp > known.as_of.saturating_add(SERVERS);
        if *seq <= marker || later { Overtaken::No } else { Overtaken::Perhaps }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use chrono::DateTime;
    use tokio::sync::oneshot;

    use super::*;
    use crate::config::Config;
    use crate::kafka::{RunIdentity, StreamIdentity};
    use crate::pipeline::claims::EntityClaims;
    use crate::pipeline::context::StreamContext;
    use crate::pipeline::jobs::touched::{Known, RecordKey};
    use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
    use crate::pipeline::settings;
    use crate::position::{Anchor, Position};
    use crate::status::{Board, Metrics};

    fn row(stamp: i64, alive: bool) -> JobRow {
        let id = "5008d000000047SAAQ".to_owned();
        let key = RecordKey::of(id.as_bytes()).expect("an id");
        let becomes = Known { as_of: stamp, alive };
        JobRow { id, key, stamp, becomes, absent: false, records: Vec::new() }
    }

    #[test]
    fn a_row_goes_back_unless_it_was_surely_read_after_every_event_of_its_record() {
        let mut state = State::default();
        assert_eq!(state.overtaken(7, &row(100, true)), Overtaken::No, "nobody touched it");
        let mut touch = |seq, as_of, alive| state.touched.insert(row(0, true).key, (seq, Known { as_of, alive }));
        touch(7, 100, true);
        assert_eq!(state.overtaken(7, &row(90, true)), Overtaken::No, "the read began after the event was in kafka");
        assert_eq!(state.overtaken(6, &row(99, true)), Overtaken::Perhaps);
        assert_eq!(state.overtaken(6, &row(100, true)), Overtaken::Perhaps, "the same second proves nothing");
        assert_eq!(
            state.overtaken(6, &row(101, true)),
            Overtaken::Perhaps,
            "another server's clock may be ahead by that"
        );
        assert_eq!(state.overtaken(6, &row(100 + SERVERS, true)), Overtaken::Perhaps);
        assert_eq!(state.overtaken(6, &row(100 + SERVERS + 1, true)), Overtaken::No);
        assert_eq!(state.overtaken(6, &row(100, false)), Overtaken::Perhaps, "it may have come back");
        state.touched.insert(row(0, true).key, (7, Known { as_of: 100, alive: false }));
        assert_eq!(state.overtaken(6, &row(100, false)), Overtaken::ByADelete);
    }

    /// The desk of a stream of platform events, with one job.
    fn of_platform_events() -> (Desk, Checkpoint) {
        let text = "[salesforce]\nclient_id = 'c'\nclient_secret = 's'\nlogin_url = 'http://127.0.0.1:1'\n\
                    [kafka]\nbrokers = '127.0.0.1:1'\n\
                    [[stream]]\ntopic = '/event/Case_Escalation__e'\nstart = 'latest'\nrecord = 'never'\n";
        let config = Config::from_table(text.parse().expect("TOML"), &[].into()).expect("a configuration");
        let stream = config.streams[0].clone();
        let (topic, board) = (stream.topic.clone(), Board::new());
        let (prefix, org) = ("p".to_owned(), "00D8d00000AbCdEEAV".parse().expect("an org"));
        let context = StreamContext {
            identity: StreamIdentity { prefix, org, topic: topic.clone() },
            run: RunIdentity::of_this_process(),
            board: board.stream(topic.clone()),
            metrics: Metrics::new(board),
            tracer: None,
            claims: EntityClaims::of([&topic]),
            policies: settings::policies(&config.policies),
            batch: config.batch,
            ledger_topic: "p.gaps".into(),
            dead_letters_topic: "p.dead-letters".into(),
            anchored: Arc::default(),
            last_commit: Mutex::default(),
            stream,
        };
        let mut checkpoint = Checkpoint::at(Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH }));
        set(&mut checkpoint, "heal-1", &Job::new(None, "letter-1".into(), None));
        (Desk::new(Arc::new(context), config.gaps, &checkpoint), checkpoint)
    }

    #[test]
    fn a_platform_event_that_comes_by_itself_while_its_letter_is_redriven_is_written_once() {
        let (desk, mut checkpoint) = of_platform_events();
        let event = |key: &'static str| OutputRecord {
            topic: "p.Case_Escalation__e".into(),
            key: key.into(),
            value: Some("{}".into()),
            headers: Vec::new(),
        };
        let batch = || JobBatch {
            marker: 0,
            rows: Vec::new(),
            events: vec![event("one"), event("two")],
            jobs: vec![("heal-1".to_owned(), None)],
            opens: Vec::new(),
            entries: Vec::new(),
            closes: vec![("letter-1".to_owned(), true)],
            kept: Vec::new(),
            receipt: oneshot::channel().0,
        };
        // What is enrolled when the watch begins may be committed behind what was read of the topic.
        let noted = desk.enrol(&mut checkpoint, &[event("two"), event("three")]);
        desk.watch([event("one").key, event("two").key].into_iter());
        desk.committed(&checkpoint, noted);
        let mut next = checkpoint.clone();
        let (records, back, noted) = desk.admit(&mut batch(), &mut next);
        assert_eq!((records, back), (Vec::new(), BTreeSet::from(["two".to_owned()])));
        assert!(next.jobs.contains_key("heal-1") && !noted.closes_gaps(), "nothing of it was done");
        // The topic is read again, and has it.
        desk.watch([event("one").key].into_iter());
        let again = JobBatch { events: vec![event("one")], ..batch() };
        let (records, back, noted) = desk.admit(&mut { again }, &mut next);
        assert!(records == [event("one")] && back.is_empty() && noted.closes_gaps() && next.jobs.is_empty());
    }

    #[test]
    fn an_entry_counts_once_by_its_cause_however_often_it_is_written() {
        let (desk, mut checkpoint) = of_platform_events();
        let end = GapEnd { replay_id: None, time: Some(DateTime::UNIX_EPOCH) };
        let gap = OpenGap::of_range(GapCause::Expired, GapEnd::default(), end, "away for too long".to_owned());
        let record = desk.context.gap_record(&gap);
        for _ in 0..2 {
            let noted = desk.enrol(&mut checkpoint, std::slice::from_ref(&record));
            assert_eq!(noted.gaps_opened(), 1);
            desk.committed(&checkpoint, noted);
        }
        let status = desk.context.board.status().expect("the stream's");
        assert_eq!(status.gaps_opened_by_cause, std::collections::BTreeMap::from([("expired".to_owned(), 1)]));
    }
}

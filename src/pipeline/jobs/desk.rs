//! What the run loop and the runner of a stream share for one attempt.
//!
//! The run loop is the only one that changes a job: it opens jobs for the gaps of its own transactions, and puts in their
//! place what the runner hands over, each in the transaction that makes it true.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::Notify;

use crate::config::GapsConfig;
use crate::identity::TopicKind;
use crate::kafka::{Checkpoint, OutputRecord, StreamIdentity};
use crate::pipeline::context::StreamContext;
use crate::pipeline::jobs::entry::{self, Entry};
use crate::pipeline::jobs::job::{Job, Jobs, has_room, job_id, jobs_of, set, tell_unreadable};
use crate::pipeline::jobs::touched::{Known, RecordKey, of_output};
use crate::status::{JobStatus, StreamStatus};

/// The desk of one attempt.
pub(in crate::pipeline) struct Desk {
    pub(super) context: Arc<StreamContext>,
    pub(super) config: GapsConfig,
    state: Mutex<State>,
    /// Something changed that the runner may wait for.
    pub(super) changed: Notify,
}

#[derive(Default)]
pub(super) struct State {
    /// The last transaction that is known.
    seq: u64,
    jobs: Jobs,
    /// Whether the stream has a position, so that whatever changes from now on is delivered.
    anchored: bool,
    /// Jobs that this attempt has opened for its own transactions: everything since is in `touched`.
    fresh: BTreeSet<String>,
    /// Records that were written while there were jobs, with the number of the last transaction that did.
    pub(super) touched: HashMap<RecordKey, (u64, Known)>,
    /// Keys of platform events that a job is about to write, and whether the loop has written them since.
    pub(super) watched: HashMap<Bytes, bool>,
    /// The open entries of the stream.
    open: BTreeMap<String, Entry>,
    /// Whether the ledger may hold open entries that no job heals.
    unclaimed: bool,
    /// Why jobs wait, and until when.
    waits: BTreeMap<String, (String, String, DateTime<Utc>)>,
}

/// What a transaction does to the desk once it is committed.
#[derive(Default)]
pub(in crate::pipeline) struct Noted {
    pub(super) touches: Vec<(RecordKey, Known)>,
    /// The keys of platform events.
    events: Vec<Bytes>,
    pub(super) opened: Vec<Entry>,
    pub(super) closed: Vec<(String, bool)>,
    fresh: Vec<String>,
    pub(super) unclaimed: bool,
    pub(super) snapshot_rows: u64,
}

impl Noted {
    /// Whether the transaction opens gaps.
    pub fn opens_gaps(&self) -> bool {
        !self.opened.is_empty()
    }

    /// How many gaps the transaction opens.
    pub fn gaps_opened(&self) -> u64 {
        u64::try_from(self.opened.len()).unwrap_or(u64::MAX)
    }

    /// Whether the transaction closes gaps.
    pub fn closes_gaps(&self) -> bool {
        !self.closed.is_empty()
    }
}

impl Desk {
    /// The desk of an attempt that goes on from `checkpoint`.
    pub fn new(context: Arc<StreamContext>, config: GapsConfig, checkpoint: &Checkpoint) -> Self {
        let (seq, jobs) = (checkpoint.seq, jobs_of(checkpoint, config.heal));
        tell_unreadable(checkpoint, config.heal);
        let anchored = checkpoint.position.is_anchored();
        let state = State { seq, jobs, anchored, ..State::default() };
        Self { context, config, state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // What is in it is replaced whole, never left half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens jobs in `next` for the ledger entries among the records of the transaction that `next` will end, and notes those
    /// that are closed there.
    pub fn enrol(&self, next: &mut Checkpoint, records: &[OutputRecord]) -> Noted {
        let mut noted = Noted::default();
        let seq = next.seq.saturating_add(1);
        for record in records.iter().filter(|record| record.topic == self.context.ledger_topic) {
            let Some(value) = &record.value else { continue };
            let entry = match entry::read(value, &self.context.identity.topic) {
                Some((_, Some(entry))) => entry,
                Some((id, None)) => {
                    noted.closed.push((id, Entry::is_healed(value)));
                    continue;
                }
                None => continue,
            };
            if let Some(job) = entry.job(&self.context.identity.topic).filter(|_| self.config.heal) {
                if has_room(next, &job) {
                    let id = job_id(&job, seq, noted.fresh.len());
                    set(next, &id, &job);
                    noted.fresh.push(id);
                } else {
                    noted.unclaimed = true;
                }
            }
            noted.opened.push(entry);
        }
        if !next.jobs.is_empty() {
            noted.touches = records.iter().filter_map(of_output).collect();
            noted.events = self.platform_events(records);
        }
        noted
    }

    /// The keys of a transaction's records, where the stream carries platform events.
    fn platform_events(&self, records: &[OutputRecord]) -> Vec<Bytes> {
        match self.context.identity.topic.kind() {
            TopicKind::PlatformEvent(_) | TopicKind::PlatformChannel => {
                records.iter().map(|record| record.key.clone()).collect()
            }
            TopicKind::Entity(_) | TopicKind::ChangeChannel => Vec::new(),
        }
    }

    /// Has it noted from now on whether the loop writes platform events with these keys; none before are any more.
    pub(super) fn watch(&self, keys: impl Iterator<Item = Bytes>) {
        self.state().watched = keys.map(|key| (key, false)).collect();
    }

    /// Notes what has been committed.
    pub fn committed(&self, checkpoint: &Checkpoint, noted: Noted) {
        let mut state = self.state();
        state.seq = checkpoint.seq;
        state.unclaimed |= noted.unclaimed;
        state.anchored |= checkpoint.position.is_anchored();
        let had_jobs = !state.jobs.is_empty();
        if had_jobs || !checkpoint.jobs.is_empty() {
            state.jobs = jobs_of(checkpoint, self.config.heal);
        }
        state.fresh.extend(noted.fresh);
        for key in noted.events {
            if let Some(written) = state.watched.get_mut(&key) {
                *written = true;
            }
        }
        // An entry that is written once more is no other gap.
        let new = |entry: &&Entry| !state.open.contains_key(&entry.id);
        let causes: Vec<String> = noted.opened.iter().filter(new).map(|entry| entry.cause.clone()).collect();
        if !causes.is_empty() {
            self.context.board.update(|status| causes.into_iter().for_each(|cause| status.gap_opened(cause)));
        }
        state.open.extend(noted.opened.into_iter().map(|entry| (entry.id.clone(), entry)));
        for (id, _) in &noted.closed {
            state.open.remove(id);
        }
        if state.jobs.is_empty() {
            // Nobody asks any more, and whoever asks next reads the topic first or has opened a job of its own.
            state.touched = HashMap::new();
            state.fresh.clear();
        } else {
            for (key, known) in noted.touches {
                let before = state.touched.get(&key).map(|(_, before)| *before);
                let known = before.map_or(known, |before| before.then(known));
                state.touched.insert(key, (checkpoint.seq, known));
            }
        }
        let State { jobs, waits, .. } = &mut *state;
        waits.retain(|id, _| jobs.contains_key(id));
        let (healed, given_up) = noted.closed.iter().fold((0, 0), |(healed, given_up), (_, complete)| {
            (healed + u64::from(*complete), given_up + u64::from(!*complete))
        });
        // Entries about messages are closed where no gap is healed, too.
        let closed = healed + given_up > 0;
        if self.config.heal || closed || !state.open.is_empty() || had_jobs || !state.jobs.is_empty() {
            self.show(&state, healed, given_up);
        }
        if noted.snapshot_rows > 0 {
            self.context.board.update(|status| status.snapshot_rows += noted.snapshot_rows);
        }
        drop(state);
        self.changed.notify_one();
    }

    fn show(&self, state: &State, healed: u64, given_up: u64) {
        self.context.board.update(|status: &mut StreamStatus| {
            status.gaps_healed += healed;
            status.gaps_given_up += given_up;
            status.gaps_open.clear();
            for entry in state.open.values() {
                *status.gaps_open.entry(entry.cause.clone()).or_default() += 1;
            }
            status.jobs = state.jobs.iter().map(|(id, job)| shown(id, job, state.waits.get(id))).collect();
        });
    }

    /// The jobs, and those of them of which everything that was written since they began is known.
    pub(super) fn jobs(&self) -> (Jobs, BTreeSet<String>) {
        let state = self.state();
        (state.jobs.clone(), state.fresh.clone())
    }

    /// A job has taken over another one, of which not everything is known.
    pub(super) fn not_fresh(&self, job: &str) {
        self.state().fresh.remove(job);
    }

    /// A marker: whatever is written later counts as newer than a read that begins now.
    pub(super) fn marker(&self) -> u64 {
        self.state().seq
    }

    /// The living records that were written behind a marker, while there were jobs.
    pub(super) fn touched_since(&self, marker: u64) -> Vec<RecordKey> {
        let state = self.state();
        let touched = state.touched.iter().filter(|(_, (seq, known))| *seq > marker && known.alive);
        touched.map(|(key, _)| *key).collect()
    }

    /// Takes note of records that an earlier attempt wrote before the transaction `seq`.
    pub(super) fn learn_touches(&self, seq: u64, touches: Vec<(RecordKey, Known)>) {
        let mut state = self.state();
        for (key, known) in touches {
            let (at, known) = state.touched.get(&key).map_or((seq, known), |(at, later)| (*at, known.then(*later)));
            state.touched.insert(key, (at, known));
        }
    }

    /// Whether the stream has a position.
    pub(super) fn is_anchored(&self) -> bool {
        self.state().anchored
    }

    /// What is known of a record by what was written while there were jobs.
    pub(super) fn known(&self, key: RecordKey) -> Option<Known> {
        self.state().touched.get(&key).map(|(_, known)| *known)
    }

    /// An open entry.
    pub(super) fn entry(&self, gap: &str) -> Option<Entry> {
        self.state().open.get(gap).cloned()
    }

    /// Replaces what is known of the ledger by what stands there. Entries of later transactions are kept.
    pub(super) fn learn(&self, open: BTreeMap<String, Entry>) {
        let mut state = self.state();
        for (id, entry) in open {
            state.open.entry(id).or_insert(entry);
        }
        state.unclaimed = false;
        self.show(&state, 0, 0);
    }

    /// Whether the ledger should be looked through again.
    pub(super) fn has_unclaimed(&self) -> bool {
        self.state().unclaimed
    }

    /// Open entries that no job heals.
    pub(super) fn orphans(&self) -> Vec<Entry> {
        let state = self.state();
        let healed = |id: &String| state.jobs.values().any(|job| job.heals.contains(id));
        state.open.iter().filter(|(id, _)| !healed(id)).map(|(_, entry)| entry.clone()).collect()
    }

    /// Shows why a job waits, or that it does not.
    pub(super) fn wait(&self, job: &str, why: Option<(String, String, DateTime<Utc>)>) {
        let mut state = self.state();
        let changed = match why {
            Some(why) => state.waits.insert(job.to_owned(), why.clone()) != Some(why),
            None => state.waits.remove(job).is_some(),
        };
        if changed {
            self.show(&state, 0, 0);
        }
    }
}

/// The record of what a stream keeps beside its checkpoint.
pub(super) fn kept(identity: &StreamIdentity, key: String, value: Option<Bytes>) -> OutputRecord {
    OutputRecord { topic: identity.checkpoint_topic().into(), key: key.into(), value, headers: Vec::new() }
}

fn shown(id: &str, job: &Job, waits: Option<&(String, String, DateTime<Utc>)>) -> JobStatus {
    let expected = job.snapshot.as_ref().map(|scope| scope.expected).filter(|expected| *expected > 0);
    JobStatus {
        job: id.to_owned(),
        entity: job.entity.clone(),
        heals: u64::try_from(job.heals.len()).unwrap_or(u64::MAX),
        opened_at: job.opened_at,
        whole: job.whole,
        snapshot: job.snapshot.is_some(),
        over_bulk: job.bulk.is_some(),
        records_expected: job.bulk.as_ref().and_then(|pass| pass.found).or(expected),
        after: job.listing.as_ref().and_then(|listing| listing.after.clone()),
        records_listed: job.listed,
        records_left: u64::try_from(job.ids.len()).unwrap_or(u64::MAX),
        rows_reread: job.rows,
        deletes_found: job.deletes,
        waits_for: waits.map(|(what, ..)| what.clone()),
        remedy: waits.map(|(_, remedy, _)| remedy.clone()).filter(|remedy| !remedy.is_empty()),
        next_attempt_at: waits.map(|(.., at)| *at),
    }
}

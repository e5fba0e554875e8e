//! What happened: the last notable things, for whoever comes to the page after they did.
//!
//! Nobody writes to it. It is told by comparing what the board says of a part before and after a change, so that it can
//! neither forget a change nor disagree with it. It has states, causes and counts, never the content of a record.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::status::completion::CompletionLevel;
use crate::status::snapshot::{KafkaStatus, LastError, StreamState, StreamStatus};
use crate::status::telemetry::TelemetryStatus;

/// Entries that are kept.
const KEPT: usize = 200;

/// What comes again within so many entries is counted, not repeated: a stream that is tried for hours must not push out
/// what happened before.
const LOOKED_BACK: usize = 24;

/// How soon a state follows from an error that is told in the same words.
const SOON: TimeDelta = TimeDelta::seconds(5);

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalKind {
    /// The state of a stream.
    State,
    /// An error that did not change the state.
    Error,
    /// The gap ledger.
    Gap,
    /// Events that could not be decoded.
    DeadLetter,
    /// A call that was opened again.
    Reconnect,
    /// Another instance.
    TakeOver,
    /// A snapshot.
    Snapshot,
    /// A comparison with the org.
    Reconcile,
    /// The broker.
    Kafka,
    /// The process.
    Process,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalWeight {
    /// Good to know.
    Note,
    /// Something is well again.
    Good,
    /// Somebody should look, not at once.
    Warning,
    /// Somebody should look.
    Bad,
}

/// One thing that happened, once or again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JournalEntry {
    /// Which entry; stays when it happens again.
    pub id: u64,
    /// Grows with each change of the journal.
    pub number: u64,
    /// When it happened first.
    pub since: DateTime<Utc>,
    /// When it happened last.
    pub at: DateTime<Utc>,
    /// How often.
    pub times: u64,
    /// The topic, `kafka` or `process`.
    pub part: String,
    /// What it is about.
    pub kind: JournalKind,
    /// How much it matters.
    pub weight: JournalWeight,
    /// What happened.
    pub what: String,
    /// What mends it; empty where nothing needs to be done.
    pub remedy: String,
}

/// One thing before it is an entry.
struct Finding {
    kind: JournalKind,
    weight: JournalWeight,
    what: String,
    remedy: String,
    times: u64,
}

fn finding(kind: JournalKind, weight: JournalWeight, what: impl Into<String>) -> Finding {
    Finding { kind, weight, what: what.into(), remedy: String::new(), times: 1 }
}

/// What has been told of a stream.
#[derive(Debug, Default)]
struct Told {
    state: Option<StreamState>,
    error: Option<LastError>,
    gaps_opened: BTreeMap<String, u64>,
    gaps: [u64; 2],
    dead_letters: u64,
    reconnects: BTreeMap<&'static str, u64>,
    begun: BTreeSet<String>,
    finished: BTreeSet<String>,
    compared_at: Option<DateTime<Utc>>,
    silent: BTreeSet<String>,
    level: CompletionLevel,
}

/// The entries, the oldest first.
#[derive(Debug, Default)]
pub(in crate::status) struct Journal {
    entries: VecDeque<JournalEntry>,
    number: u64,
    streams: BTreeMap<usize, Told>,
    kafka: Option<KafkaStatus>,
    traces_lost: bool,
    stopping: bool,
}

impl Journal {
    /// Those with a greater number, the oldest first.
    pub fn after(&self, number: u64) -> Vec<JournalEntry> {
        self.entries.iter().filter(|entry| entry.number > number).cloned().collect()
    }

    /// Compares a stream with what was told of it.
    pub fn look_at_stream(&mut self, index: usize, now: &StreamStatus) {
        let told = self.streams.entry(index).or_default();
        let found = told.differences(now);
        for finding in found {
            self.tell(now.topic.as_str(), finding);
        }
    }

    /// The same of what belongs to no stream.
    pub fn look_at_process(&mut self, kafka: &KafkaStatus, stopping: bool) {
        use JournalWeight::{Bad, Good, Note};
        let before = self.kafka.as_ref().map(|kafka| kafka.reachable);
        if before != Some(kafka.reachable) && (kafka.reachable || kafka.last_error.is_some()) {
            let again = if before == Some(false) { "reachable again" } else { "reachable" };
            let why = || format!("not reachable: {}", kafka.last_error.as_deref().unwrap_or_default());
            let (weight, what) = if kafka.reachable { (Good, again.to_owned()) } else { (Bad, why()) };
            self.tell("kafka", finding(JournalKind::Kafka, weight, what));
            self.kafka = Some(kafka.clone());
        }
        if stopping && !std::mem::replace(&mut self.stopping, stopping) {
            self.tell("process", finding(JournalKind::Process, Note, "stopping: committing what was received"));
        }
    }

    /// The same of the export of traces.
    pub fn look_at_traces(&mut self, now: &TelemetryStatus) {
        use JournalWeight::{Good, Warning};
        let lost = now.failing_since.is_some();
        if std::mem::replace(&mut self.traces_lost, lost) == lost {
            return;
        }
        let told = match &now.last_error {
            Some(error) if lost => Finding {
                remedy: error.remedy.clone(),
                ..finding(JournalKind::Process, Warning, format!("spans are not exported: {}", error.what))
            },
            _ => finding(JournalKind::Process, Good, "spans are exported again"),
        };
        self.tell("telemetry", told);
    }

    fn tell(&mut self, part: &str, mut finding: Finding) {
        let at = Utc::now();
        self.number += 1;
        self.take_in(part, at, &mut finding);
        let told_again = |what: &str| match finding.kind {
            // Each of these is one of its own.
            JournalKind::Snapshot | JournalKind::Reconcile => *what == finding.what,
            _ => alike(what, &finding.what),
        };
        let same = |entry: &JournalEntry| entry.part == part && entry.kind == finding.kind && told_again(&entry.what);
        let earliest = self.entries.len().saturating_sub(LOOKED_BACK);
        let known = (earliest..self.entries.len()).find(|index| self.entries.get(*index).is_some_and(same));
        if let Some(mut entry) = known.and_then(|index| self.entries.remove(index)) {
            (entry.number, entry.at, entry.what) = (self.number, at, finding.what);
            entry.times = entry.times.saturating_add(finding.times);
            self.entries.push_back(entry);
            return;
        }
        let Finding { kind, weight, what, remedy, times } = finding;
        let (id, part) = (self.number, part.to_owned());
        let entry = JournalEntry { id, number: id, since: at, at, times, part, kind, weight, what, remedy };
        self.entries.push_back(entry);
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
    }
}

impl Journal {
    /// An error is often told a moment before the state that follows from it, in the same words: one entry is enough.
    fn take_in(&mut self, part: &str, at: DateTime<Utc>, finding: &mut Finding) {
        let earliest = self.entries.len().saturating_sub(LOOKED_BACK);
        let its_error = |entry: &JournalEntry| {
            let fresh = entry.times == 1 && at - entry.at < SOON;
            fresh && entry.part == part && entry.kind == JournalKind::Error && finding.what.ends_with(&entry.what)
        };
        let known = (earliest..self.entries.len()).find(|index| self.entries.get(*index).is_some_and(its_error));
        if finding.kind == JournalKind::State
            && let Some(error) = known.and_then(|index| self.entries.remove(index))
            && finding.remedy.is_empty()
        {
            finding.remedy = error.remedy;
        }
    }
}

impl Told {
    /// What is new. The ways from one state to another are many, and steps on the way up are of no interest later.
    fn differences(&mut self, now: &StreamStatus) -> Vec<Finding> {
        let mut found = Vec::new();
        self.state(now, &mut found);
        self.error(now, &mut found);
        self.counts(now, &mut found);
        self.jobs(now, &mut found);
        self.reconcile(now, &mut found);
        found
    }

    fn state(&mut self, now: &StreamStatus, found: &mut Vec<Finding>) {
        if self.state.as_ref() == Some(&now.state) {
            return;
        }
        let same_words =
            |before: &StreamState| words(before).map(|one| one.what) == words(&now.state).map(|one| one.what);
        // Only the time of the next attempt, or the step, is another.
        let repeated = self.state.as_ref().is_some_and(same_words);
        self.state = Some(now.state.clone());
        found.extend(words(&now.state).filter(|_| !repeated));
    }

    fn error(&mut self, now: &StreamStatus, found: &mut Vec<Finding>) {
        if self.error == now.last_error {
            return;
        }
        self.error.clone_from(&now.last_error);
        let Some(error) = &now.last_error else { return };
        // The state tells it in the same words.
        let told = match &now.state {
            StreamState::Recovering { what, .. } | StreamState::Stopped { what, .. } => *what == error.what,
            StreamState::Standby { .. } => true,
            _ => false,
        };
        if !told {
            let remedy = error.remedy.clone();
            let what = finding(JournalKind::Error, JournalWeight::Warning, error.what.clone());
            found.push(Finding { remedy, ..what });
        }
    }

    fn counts(&mut self, now: &StreamStatus, found: &mut Vec<Finding>) {
        use JournalKind::{DeadLetter, Gap, Reconnect};
        use JournalWeight::{Bad, Good, Note, Warning};
        if self.gaps_opened != now.gaps_opened_by_cause {
            for (cause, count) in &now.gaps_opened_by_cause {
                let before = self.gaps_opened.get(cause).copied().unwrap_or_default();
                let what = finding(Gap, Warning, format!("entry opened in the gap ledger ({cause})"));
                grown(found, before, *count, what, "casewire gaps --open lists them");
            }
            self.gaps_opened.clone_from(&now.gaps_opened_by_cause);
        }
        let gaps = [now.gaps_healed, now.gaps_given_up];
        let kinds = [
            (Good, "entry of the gap ledger healed", ""),
            (Bad, "entry of the gap ledger given up: some of its records cannot be read", "casewire gaps names them"),
        ];
        for ((before, now), (weight, what, remedy)) in self.gaps.iter().zip(gaps).zip(kinds) {
            grown(found, *before, now, finding(Gap, weight, what), remedy);
        }
        self.gaps = gaps;
        let letter = finding(DeadLetter, Warning, "event put into the dead letters");
        let remedy = "casewire dead-letters list says why; redrive brings what they hold";
        grown(found, self.dead_letters, now.dead_letters, letter, remedy);
        self.dead_letters = now.dead_letters;
        if self.reconnects != now.reconnects {
            for (reason, count) in &now.reconnects {
                let before = self.reconnects.get(reason).copied().unwrap_or_default();
                grown(found, before, *count, finding(Reconnect, Note, format!("call ended ({reason})")), "");
            }
            self.reconnects.clone_from(&now.reconnects);
        }
        let level = now.completion.as_ref().map(|completion| completion.level).unwrap_or_default();
        if std::mem::replace(&mut self.level, level) != level {
            let (weight, what) = match level {
                CompletionLevel::Full => (Good, "completion reads all that is configured again"),
                CompletionLevel::Slowed => (Note, "completion reads with fewer calls, to spare the org's API requests"),
                CompletionLevel::NeededOnly => {
                    (Warning, "completion reads only what is needed: API requests run short")
                }
                CompletionLevel::GapsOnly => (Warning, "completion reads only for gap events: API requests run short"),
            };
            found.push(finding(JournalKind::State, weight, what));
        }
    }

    fn jobs(&mut self, now: &StreamStatus, found: &mut Vec<Finding>) {
        use JournalWeight::{Good, Note, Warning};
        let name = |entity: &Option<String>| entity.clone().unwrap_or_else(|| "all objects".to_owned());
        for job in now.jobs.iter().filter(|job| job.snapshot) {
            if self.begun.insert(job.job.clone()) {
                found.push(finding(
                    JournalKind::Snapshot,
                    Note,
                    format!("snapshot of {} under way", name(&job.entity)),
                ));
            }
        }
        for done in &now.snapshots {
            if self.finished.insert(done.job.clone()) {
                let weight = if done.unread > 0 { Warning } else { Good };
                let unread =
                    if done.unread > 0 { format!(", {} could not be read", done.unread) } else { String::new() };
                let what = format!("snapshot of {} finished: {} records{unread}", name(&done.entity), done.rows);
                found.push(finding(JournalKind::Snapshot, weight, what));
            }
        }
        // Both lists are short; what is in neither of them does not come back.
        self.begun.retain(|known| now.jobs.iter().any(|job| job.job == *known));
        self.finished.retain(|known| now.snapshots.iter().any(|done| done.job == *known));
    }

    fn reconcile(&mut self, now: &StreamStatus, found: &mut Vec<Finding>) {
        use JournalWeight::{Bad, Good, Note, Warning};
        let reconcile = &now.reconcile;
        if self.compared_at != reconcile.last_run_at {
            self.compared_at = reconcile.last_run_at;
            let count: u64 = reconcile.entities.values().flat_map(|one| one.findings.values()).sum();
            let (weight, what) = match count {
                0 => (Note, "compared with the org: they agree".to_owned()),
                count => (Warning, format!("compared with the org: {count} records differ")),
            };
            found.push(finding(JournalKind::Reconcile, weight, what));
        }
        for (entity, silence) in &reconcile.silence {
            if silence.silent && self.silent.insert(entity.clone()) {
                let remedy = silence.remedy.clone().unwrap_or_default();
                let what = format!("{entity}: records change, and no events of them come");
                found.push(Finding { remedy, ..finding(JournalKind::Reconcile, Bad, what) });
            } else if !silence.silent && self.silent.remove(entity) {
                found.push(finding(JournalKind::Reconcile, Good, format!("{entity}: events come again")));
            }
        }
    }
}

/// Whether two texts tell the same. Ids of calls, offsets and times are different each time that something fails.
fn alike(one: &str, other: &str) -> bool {
    let words = |text: &str| {
        let exact = |word: &&str| !word.bytes().any(|byte| byte.is_ascii_digit());
        text.split_whitespace().filter(exact).map(str::to_owned).collect::<Vec<_>>()
    };
    one == other || words(one) == words(other)
}

/// A count that has grown.
fn grown(found: &mut Vec<Finding>, before: u64, now: u64, what: Finding, remedy: &str) {
    if now > before {
        found.push(Finding { times: now - before, remedy: remedy.to_owned(), ..what });
    }
}

/// A state as an entry; none for steps on the way up.
fn words(state: &StreamState) -> Option<Finding> {
    use JournalKind::{State, TakeOver};
    use JournalWeight::{Bad, Good, Warning};
    let found = match state {
        StreamState::Starting { .. } => return None,
        StreamState::Running => finding(State, Good, "running"),
        StreamState::Paused { .. } => finding(State, Warning, "paused by an operator"),
        StreamState::Recovering { what, .. } => finding(State, Warning, format!("recovering: {what}")),
        StreamState::Standby { by, .. } => finding(TakeOver, Warning, format!("standing by: {by} writes this stream")),
        StreamState::Stalled { call, .. } => finding(State, Bad, format!("stalled: {call} does not return")),
        StreamState::Stopped { what, remedy, .. } => {
            Finding { remedy: remedy.clone(), ..finding(State, Bad, format!("stopped: {what}")) }
        }
    };
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::FinishedSnapshot;

    fn told(journal: &Journal) -> Vec<(String, u64)> {
        journal.after(0).into_iter().map(|entry| (entry.what, entry.times)).collect()
    }

    fn recovering(seconds: i64) -> StreamState {
        let next_attempt_at = DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(seconds);
        StreamState::Recovering { what: format!("no broker (call {seconds})"), next_attempt_at }
    }

    #[test]
    fn what_changed_on_the_board_is_told_once_and_what_comes_again_is_counted() {
        let mut journal = Journal::default();
        let mut status = StreamStatus::new("/data/CaseChangeEvent".parse().expect("a topic"));
        let look = |journal: &mut Journal, status: &StreamStatus| journal.look_at_stream(0, status);
        look(&mut journal, &status);
        assert!(journal.after(0).is_empty(), "a step on the way up");
        status.state = StreamState::Running;
        status.events_received = 7;
        look(&mut journal, &status);
        look(&mut journal, &status);
        for seconds in 0..60 {
            let (at, what) = (Utc::now(), format!("no broker (call {seconds})"));
            status.last_error = Some(LastError { at, what, remedy: "start it".to_owned() });
            status.state = StreamState::Starting { step: "signing in".to_owned() };
            look(&mut journal, &status);
            status.state = recovering(seconds);
            look(&mut journal, &status);
        }
        status.state = StreamState::Running;
        (status.gaps_healed, status.dead_letters) = (1, 2);
        for cause in ["gap_event", "overflow", "gap_event"] {
            status.gap_opened(cause.to_owned());
        }
        *status.reconnects.entry("silence").or_default() += 2;
        look(&mut journal, &status);
        status.dead_letters += 5;
        look(&mut journal, &status);
        let expected = [
            ("recovering: no broker (call 59)", 60),
            ("running", 2),
            ("entry opened in the gap ledger (gap_event)", 2),
            ("entry opened in the gap ledger (overflow)", 1),
            ("entry of the gap ledger healed", 1),
            ("call ended (silence)", 2),
            ("event put into the dead letters", 7),
        ];
        assert_eq!(told(&journal), expected.map(|(what, times)| (what.to_owned(), times)));
        assert_eq!(
            journal.after(0)[0].remedy,
            "start it",
            "the error is told once, with the state that follows from it"
        );
        let last = journal.after(0).pop().expect("an entry");
        assert_eq!(journal.after(last.number - 1), vec![last.clone()], "only what is newer");
        assert!(last.id < last.number, "an entry that comes again keeps its id");
    }

    #[test]
    fn it_is_bounded_and_takes_nothing_for_new_that_it_knows() {
        let mut journal = Journal::default();
        let mut status = StreamStatus::new("/data/CaseChangeEvent".parse().expect("a topic"));
        for number in 0..1_000 {
            let done = FinishedSnapshot {
                job: format!("snapshot-{number}"),
                entity: Some("Case".to_owned()),
                opened_at: Utc::now(),
                finished_at: Utc::now(),
                rows: number,
                deletes: 0,
                unread: number % 2,
            };
            status.snapshots = vec![done];
            journal.look_at_stream(0, &status);
        }
        let entries = journal.after(0);
        assert_eq!((entries.len(), journal.streams[&0].finished.len()), (KEPT, 1));
        assert_eq!(entries.last().map(|entry| entry.weight), Some(JournalWeight::Warning));
        journal.look_at_process(&KafkaStatus { reachable: true, last_error: None }, true);
        journal.look_at_process(&KafkaStatus { reachable: true, last_error: None }, true);
        let words: Vec<String> = told(&journal).into_iter().skip(KEPT - 2).map(|it| it.0).collect();
        assert_eq!(words, ["reachable", "stopping: committing what was received"]);
    }
}

//! One read for a group of batches, and what is made of it.
//!
//! Whatever comes of the read, every batch goes on to the run loop complete in itself: what was found stands in its
//! records, and what was not stands in the gap ledger, in the same transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::identity::SchemaId;
use crate::kafka::OutputRecord;
use crate::pipeline::api_budget;
use crate::pipeline::completion::Wanting;
use crate::pipeline::context::StreamContext;
use crate::pipeline::ledger::{GapCause, OpenGap};
use crate::pipeline::memory::StreamMemory;
use crate::pipeline::notice::Notice;
use crate::pipeline::prepared::{Prepared, ToldGap};
use crate::pipeline::text_base::apply_diffs;
use crate::pipeline::traces;
use crate::pipeline::want::{Reason, Want, put_delete, put_record};
use crate::salesforce::api_usage::ApiUsage;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::record_read::{Found, RecordReader};
use crate::salesforce::rest::RestError;
use crate::status::CompletionLevel;

/// A record that grows beyond this with what was read is written without: Kafka would refuse it, and then its event
/// would be lost to consumers as well.
///
/// Less than what Kafka takes by default, by what stands around a record.
const MOST_BYTES: usize = 990_000;

const TOO_LARGE: &str = "the record is larger than Kafka takes";

/// Waits of a stream that does not go on without its records.
const WAITING: BackoffLimits = BackoffLimits::constant(Duration::from_secs(2), Duration::from_secs(60));

/// Batches whose records are read together.
pub(crate) struct Group {
    pub(crate) context: Arc<StreamContext>,
    pub(crate) memory: Arc<StreamMemory>,
    pub(crate) reader: RecordReader,
    pub(crate) batches: Vec<Wanting>,
    pub(crate) level: CompletionLevel,
    /// Whether the batches wait for as long as it takes.
    pub(crate) wait: bool,
    /// How long they wait otherwise.
    pub(crate) patience: Duration,
    /// The share of the API requests, in percent.
    pub(crate) share: u64,
    /// Why nothing of an object is asked at present; under the empty name, why nothing at all.
    pub(crate) closed: Arc<BTreeMap<String, String>>,
}

/// What came of a group.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Whether Salesforce was asked.
    pub(crate) asked: bool,
    pub(crate) completed: u64,
    pub(crate) unread: u64,
    /// Objects of which nothing could be read.
    pub(crate) failures: Vec<(String, RestError)>,
}

/// What is asked of one object.
struct Question<'b> {
    schema: &'b SchemaId,
    ids: Vec<&'b str>,
    seen: HashSet<&'b str>,
}

type Answer = Result<HashMap<String, Found>, String>;

impl Group {
    /// Reads what the batches want, completes them and keeps the promises in the run loop's queue.
    pub(crate) async fn complete(self) -> Outcome {
        let (mut batches, replies): (Vec<_>, Vec<_>) =
            self.batches.into_iter().map(|wanting| (wanting.prepared, wanting.reply)).unzip();
        apply_diffs(&mut batches);
        let asking = Asking {
            context: &self.context,
            reader: &self.reader,
            level: if self.wait { CompletionLevel::Full } else { self.level },
            closed: &self.closed,
        };
        let questions = asking.questions(&batches);
        // All of them came before the read, so it has what all of them tell.
        let read_after = batches.iter().flat_map(|batch| batch.wants.iter().map(|want| want.committed_at)).max();
        let read_after = read_after.max(batches.iter().filter_map(|batch| batch.committed_at).max());
        let mut outcome = Outcome { asked: !questions.is_empty(), ..Outcome::default() };
        let began = Instant::now();
        let answers = if self.wait {
            asking.insist(questions, self.share).await
        } else {
            asking.ask(questions, Instant::now() + self.patience, &mut outcome).await
        };
        for (mut batch, reply) in batches.into_iter().zip(replies) {
            if outcome.asked {
                traces::read(&mut batch, began);
            }
            let (memory, missing) = (&self.memory, Missing::default());
            let mut filling = Filling { asking: &asking, memory, answers: &answers, read_after, missing };
            let counts = filling.fill(&mut batch);
            outcome.completed += counts.0;
            outcome.unread += counts.1;
            // Whoever does not take it any more has ended; the events are delivered again.
            let _ = reply.send(batch);
        }
        outcome
    }
}

struct Asking<'g> {
    context: &'g Arc<StreamContext>,
    reader: &'g RecordReader,
    level: CompletionLevel,
    closed: &'g BTreeMap<String, String>,
}

impl Asking<'_> {
    fn entity<'t>(&self, topic: &'t str) -> &'t str {
        let rest = topic.strip_prefix(self.context.identity.prefix.as_str());
        rest.and_then(|rest| rest.strip_prefix('.')).unwrap_or(topic)
    }

    /// Why a want is not even asked for at this level.
    fn refused(&self, reason: &Reason) -> Option<&'static str> {
        let most = match reason {
            Reason::Gap { .. } => CompletionLevel::GapsOnly,
            Reason::Unknown(_) => CompletionLevel::NeededOnly,
            Reason::Whole => CompletionLevel::Slowed,
        };
        (self.level > most).then_some("the share of the org's API requests that completion may use is used up")
    }

    /// The ids by topic, each once.
    fn questions<'b>(&self, batches: &'b [Prepared]) -> BTreeMap<Arc<str>, Question<'b>> {
        let mut questions: BTreeMap<Arc<str>, Question<'_>> = BTreeMap::new();
        for batch in batches {
            for want in batch.wants.iter().filter(|want| self.refused(&want.reason).is_none()) {
                let Some(output) = batch.records.get(want.record) else { continue };
                let question = questions.entry(output.topic.clone()).or_insert_with(|| Question {
                    schema: &want.schema,
                    ids: Vec::new(),
                    seen: HashSet::new(),
                });
                // The newest schema is the best description of what is there now.
                question.schema = &want.schema;
                let id = record_id(output);
                if question.seen.insert(id) {
                    question.ids.push(id);
                }
            }
        }
        questions
    }

    async fn ask(
        &self,
        questions: BTreeMap<Arc<str>, Question<'_>>,
        deadline: Instant,
        outcome: &mut Outcome,
    ) -> HashMap<Arc<str>, Answer> {
        let asked = questions.into_iter().map(|(topic, question)| async move {
            let entity = self.entity(&topic);
            if let Some(cause) = self.closed.get(entity).or_else(|| self.closed.get("")) {
                return (topic, Err((cause.clone(), None)));
            }
            let read = self.reader.read(entity, Some(question.schema), &question.ids, deadline).await;
            (topic, read.map_err(|error| (error.to_string(), Some(error))))
        });
        let mut answers = HashMap::new();
        for (topic, read) in join_all(asked).await {
            let answer = read.map_err(|(cause, error)| {
                outcome.failures.extend(error.map(|error| (self.entity(&topic).to_owned(), error)));
                cause
            });
            answers.insert(topic, answer);
        }
        answers
    }

    /// Asks until there is an answer, and only when there is enough left to ask with.
    async fn insist(&self, questions: BTreeMap<Arc<str>, Question<'_>>, share: u64) -> HashMap<Arc<str>, Answer> {
        const ATTEMPT: Duration = Duration::from_secs(60);
        let mut answers = HashMap::new();
        for (topic, question) in questions {
            let entity = self.entity(&topic).to_owned();
            let mut backoff = Backoff::new(WAITING);
            let answer = loop {
                let spent = self.reader.client().usage().filter(ApiUsage::is_fresh).is_some_and(|usage| {
                    api_budget::level(usage, share, CompletionLevel::Full) > CompletionLevel::Slowed
                });
                let read = async {
                    if spent {
                        return Err("The share of the org's API requests that completion may use is used up".to_owned());
                    }
                    let read =
                        self.reader.read(&entity, Some(question.schema), &question.ids, Instant::now() + ATTEMPT);
                    read.await.map_err(|error| error.failure().to_string())
                };
                match read.await {
                    Ok(found) => break found,
                    Err(cause) => {
                        let wait = backoff.next_wait();
                        warn!(topic = %self.context.identity.topic, entity, error = cause, wait_s = wait.as_secs(), "waiting for records, as on_incomplete says");
                        let notice = Notice::RecordsAwaited(cause);
                        self.context.board.error(notice.to_string(), notice.remedy());
                        tokio::time::sleep(wait).await;
                    }
                }
            };
            answers.insert(topic, Ok(answer));
        }
        answers
    }
}

/// What was not found, until it stands in the ledger.
#[derive(Default)]
struct Missing {
    /// By event: what gap events left.
    of_events: BTreeMap<u32, Vec<(GapCause, String, String)>>,
    /// By topic and cause.
    of_topics: BTreeMap<(Arc<str>, &'static str), Unread>,
}

/// Records of one topic that were not read for one cause.
struct Unread {
    /// The first event that wanted one.
    event: u32,
    cause: GapCause,
    ids: Vec<String>,
    reason: String,
}

struct Filling<'g> {
    asking: &'g Asking<'g>,
    memory: &'g StreamMemory,
    answers: &'g HashMap<Arc<str>, Answer>,
    read_after: Option<DateTime<Utc>>,
    missing: Missing,
}

impl Filling<'_> {
    /// Puts what was found into a batch, and into the ledger what was not; returns how many records that were.
    fn fill(&mut self, batch: &mut Prepared) -> (u64, u64) {
        let (mut completed, mut unread, mut added) = (0, 0, 0);
        let bare = self.memory.bare.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut deletes = Vec::new();
        let told: HashSet<u32> = batch.told.iter().map(|told| told.event).collect();
        for mut want in std::mem::take(&mut batch.wants) {
            want.committed_at = self.read_after.map_or(want.committed_at, |after| after.max(want.committed_at));
            let event = batch.origins.get(want.record).copied().flatten().unwrap_or_default();
            let Some(output) = batch.records.get_mut(want.record) else { continue };
            let before = size(output);
            let key = usize::try_from(event).ok().and_then(|event| batch.events.get(event));
            let filled = if key.is_some_and(|key| bare.contains(key)) {
                Err((GapCause::Unread, TOO_LARGE.to_owned()))
            } else {
                self.fill_one(output, &want)
            };
            match filled {
                Ok(Filled::Deleted) => {
                    completed += 1;
                    deletes.push(want.record);
                }
                Ok(Filled::Completed) => completed += 1,
                Ok(Filled::LeftAlone) => {}
                Err((cause, reason)) => {
                    unread += 1;
                    traces::unread(&mut batch.traces, event);
                    let id = record_id(output).to_owned();
                    if told.contains(&event) {
                        self.missing.of_events.entry(event).or_default().push((cause, id, reason));
                    } else {
                        let kind = if cause == GapCause::Hidden { "hidden" } else { "unread" };
                        let entry = self.missing.of_topics.entry((output.topic.clone(), kind));
                        let unread = entry.or_insert_with(|| Unread { event, cause, ids: Vec::new(), reason });
                        if !unread.ids.contains(&id) {
                            unread.ids.push(id);
                        }
                    }
                }
            }
            batch.bytes = (batch.bytes + size(output)).saturating_sub(before);
            added += size(output).saturating_sub(before);
        }
        if let Some(each) = usize::try_from(completed).ok().and_then(|completed| added.checked_div(completed)) {
            self.memory.row_bytes.store(each, Ordering::Relaxed);
        }
        if self.asking.context.stream.tombstones {
            add_tombstones(batch, &deletes);
        }
        self.write_ledger(batch);
        (completed, unread)
    }

    fn fill_one(&self, output: &mut OutputRecord, want: &Want) -> Result<Filled, (GapCause, String)> {
        let unread = |reason: &str| Err((GapCause::Unread, reason.to_owned()));
        if let Some(reason) = self.asking.refused(&want.reason) {
            return unread(reason);
        }
        let found = match self.answers.get(&output.topic) {
            Some(Ok(found)) => found.get(record_id(output)),
            Some(Err(cause)) => return unread(cause),
            None => None,
        };
        match (found, &want.reason) {
            (Some(Found::Row(row)), _) if row.record.as_str().len() + size(output) > MOST_BYTES => unread(TOO_LARGE),
            (Some(Found::Row(row)), _) => {
                put_record(output, want, row);
                Ok(Filled::Completed)
            }
            (Some(Found::Deleted { as_of }), Reason::Gap { .. }) => {
                put_delete(output, want, Some(*as_of));
                Ok(Filled::Deleted)
            }
            // Salesforce has said that it is deleted; that it is not there any more says so again.
            (Some(Found::Hidden), Reason::Gap { deletes: true }) => {
                put_delete(output, want, None);
                Ok(Filled::Deleted)
            }
            // Its own delete event follows.
            (Some(Found::Deleted { .. }), _) => Ok(Filled::LeftAlone),
            (Some(Found::Hidden), _) => Err((
                GapCause::Hidden,
                "the record is neither among those that the user may see nor in the recycle bin".to_owned(),
            )),
            (Some(Found::Unreadable(fault)), _) => unread(&fault.to_string()),
            (None, _) => unread("nothing was answered for the record"),
        }
    }

    fn write_ledger(&mut self, batch: &mut Prepared) {
        for ToldGap { event, gap } in std::mem::take(&mut batch.told) {
            let missing = self.missing.of_events.remove(&event).unwrap_or_default();
            for cause in [GapCause::Unread, GapCause::Hidden] {
                let of_cause = || missing.iter().filter(|(of, ..)| *of == cause);
                let Some((_, _, reason)) = of_cause().next() else { continue };
                let records = of_cause().map(|(_, id, _)| id.clone()).collect();
                let detail = format!("{}; not read: {reason}", gap.detail);
                let entry = match cause {
                    GapCause::Hidden => OpenGap { id: format!("hidden-{}", gap.id), cause, ..gap.clone() },
                    _ => gap.clone(),
                };
                self.open(batch, event, OpenGap { records, detail, ..entry });
            }
        }
        for ((topic, kind), unread) in std::mem::take(&mut self.missing.of_topics) {
            let Unread { event, cause, ids, reason } = unread;
            let Some(key) = usize::try_from(event).ok().and_then(|event| batch.events.get(event)).cloned() else {
                continue;
            };
            let entity = self.asking.entity(&topic);
            let detail = format!("{} {entity} records were not read: {reason}", ids.len());
            let gap = OpenGap::of_event(&key, cause, entity, ids, detail);
            let id = format!("{kind}-{}-{entity}", gap.id);
            let to = crate::pipeline::ledger::GapEnd { time: batch.committed_at, ..gap.to.clone() };
            self.open(batch, event, OpenGap { id, to, ..gap });
        }
    }

    fn open(&self, batch: &mut Prepared, event: u32, gap: OpenGap) {
        let context = self.asking.context;
        info!(topic = %context.identity.topic, cause = ?gap.cause, id = gap.id, "gap opened");
        let record = context.gap_record(&gap);
        batch.gaps += 1;
        batch.bytes += size(&record);
        batch.records.push(record);
        batch.origins.push(Some(event));
    }
}

/// What became of a record.
enum Filled {
    Completed,
    Deleted,
    LeftAlone,
}

fn record_id(output: &OutputRecord) -> &str {
    std::str::from_utf8(&output.key).unwrap_or_default()
}

fn size(output: &OutputRecord) -> usize {
    output.key.len() + output.value.as_ref().map_or(0, bytes::Bytes::len)
}

/// A null value after each of these deletes, as after those that came as such.
fn add_tombstones(batch: &mut Prepared, deletes: &[usize]) {
    for at in deletes.iter().rev() {
        let Some(delete) = batch.records.get(*at) else { continue };
        let tombstone = OutputRecord { value: None, ..delete.clone() };
        batch.bytes += size(&tombstone);
        let origin = batch.origins.get(*at).copied().flatten();
        batch.records.insert(at + 1, tombstone);
        batch.origins.insert(at + 1, origin);
    }
}

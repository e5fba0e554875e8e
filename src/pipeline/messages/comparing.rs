//! A comparison of conversations with what Kafka holds of them: opened, prepared, gone through when nothing else is to be
//! fetched, and ended. Why its findings are ones is said in `looks`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::failure::Failure;
use crate::kafka::ScanFrom;
use crate::pipeline::messages::comparison::Comparison;
use crate::pipeline::messages::conversation::Conversation;
use crate::pipeline::messages::held::{HeldEntry, Slice, conversations};
use crate::pipeline::messages::looks::Current;
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::MessageBatch;
use crate::pipeline::messages::setback::{LIMITS, Setback};
use crate::pipeline::stop::StreamError;
use crate::salesforce::backoff::Backoff;
use crate::salesforce::messaging_sessions::SessionsConversations;
use crate::status::{ComparisonRequest, ComparisonStatus, OpenedComparison, RefusedComparison};

/// Conversations of one slice, at most: with the limits of Salesforce, those of half an hour or more.
const SLICE: usize = 500;

/// How much earlier than they were written records may be dated: clocks of brokers differ.
const CLOCKS: TimeDelta = TimeDelta::minutes(5);

/// One answer of Salesforce may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between attempts to read the topic back, or to list the sessions.
const AGAIN: Duration = Duration::from_secs(60);

/// The comparison of one attempt.
pub(super) struct Comparing {
    /// The last one, also when it has ended.
    pub kept: Option<Comparison>,
    /// The conversations that are left.
    left: Option<BTreeSet<String>>,
    /// What Kafka holds of those that are next.
    slice: Option<Slice>,
    gathering: Option<Gathering>,
    /// What was written while a slice is read back.
    meanwhile: Vec<(Bytes, Bytes)>,
    pub current: Option<Current>,
    /// The conversation that was read last: it can be asked for again to see whose fault a failure is.
    read: Option<String>,
    not_before: Instant,
    backoff: Backoff,
    waits_for: Option<String>,
}

/// What is read beside the fetches, which it would hold up.
enum Gathering {
    /// With how many are hidden.
    Conversations(AbortOnDropHandle<Result<(BTreeSet<String>, u64), Failure>>),
    /// With the conversations that it is of.
    Slice(AbortOnDropHandle<Result<Slice, Failure>>, BTreeSet<String>),
}

/// What comes next of a comparison.
pub(super) enum Step {
    /// There is none, or nothing to do before this moment.
    Wait(Option<Instant>),
    /// Something that costs no call for entries.
    Prepare,
    /// A page of this conversation.
    Ask(String),
}

impl Comparing {
    /// Goes on from what the stream keeps.
    pub fn new(kept: Option<Comparison>) -> Self {
        Self {
            kept,
            left: None,
            slice: None,
            gathering: None,
            meanwhile: Vec::new(),
            current: None,
            read: None,
            not_before: Instant::now(),
            backoff: Backoff::new(LIMITS),
            waits_for: None,
        }
    }

    /// What comes next.
    pub fn step(&self, now: Instant) -> Step {
        if !self.kept.as_ref().is_some_and(Comparison::is_open) {
            return Step::Wait(None);
        }
        if self.not_before > now {
            return Step::Wait(Some(self.not_before));
        }
        let finished = match &self.gathering {
            Some(Gathering::Conversations(task)) => task.is_finished(),
            Some(Gathering::Slice(task, _)) => task.is_finished(),
            None => true,
        };
        // Whoever gathers tells the runner when it is done.
        if !finished {
            return Step::Wait(None);
        }
        let next = self.slice.as_ref().and_then(|slice| slice.conversations.keys().next());
        match (&self.gathering, &self.current, next) {
            (None, Some(current), _) => Step::Ask(current.id.clone()),
            (None, None, Some(next)) => Step::Ask(next.clone()),
            _ => Step::Prepare,
        }
    }

    /// Notes entries that were committed.
    pub fn committed(&mut self, entries: Vec<(Bytes, Bytes)>) {
        for (conversation, value) in entries {
            if let (Some(slice), Ok(id)) = (&mut self.slice, std::str::from_utf8(&conversation)) {
                slice.note(id, &value);
            } else if let (Some(Gathering::Slice(_, of)), Ok(id)) =
                (&self.gathering, std::str::from_utf8(&conversation))
                && of.contains(id)
            {
                self.meanwhile.push((conversation, value));
            }
        }
    }

    /// Takes a slice that was read back, with what was written meanwhile.
    fn take_slice(&mut self, slice: Slice) {
        self.slice = Some(slice);
        let meanwhile = std::mem::take(&mut self.meanwhile);
        self.committed(meanwhile);
    }

    /// Waits, and says why.
    pub fn wait(&mut self, pause: Duration, why: &Setback) {
        self.not_before = Instant::now() + pause;
        self.waits_for = Some(why.failure().what);
    }

    /// Whether it waits after a failure.
    pub fn waits(&self) -> bool {
        self.not_before > Instant::now()
    }

    /// The same, for as long as that takes to be mended; longer each time until a conversation is done with.
    pub fn wait_for(&mut self, setback: &Setback) {
        let pause = setback.wait(&mut self.backoff);
        warn!(error = setback.failure().what, wait_s = pause.as_secs(), "the comparison of messages waits");
        self.wait(pause, setback);
    }

    /// Notes that a conversation was read.
    pub fn was_read(&mut self, conversation: &str) {
        self.read = Some(conversation.to_owned());
        self.waits_for = None;
    }

    /// Conversations that can be asked for in the place of one: the one that was read last, and those that are next.
    pub fn others_than(&self, conversation: &str) -> impl Iterator<Item = &String> {
        let next = self.slice.iter().flat_map(|slice| slice.conversations.keys());
        self.read.iter().chain(next).filter(move |other| *other != conversation)
    }

    /// Notes that a conversation is done with.
    pub fn done(&mut self, conversation: &str, kept: Comparison) {
        self.kept = Some(kept);
        self.backoff.reset();
        if let Some(slice) = &mut self.slice {
            slice.conversations.remove(conversation);
        }
        if let Some(left) = &mut self.left {
            left.remove(conversation);
        }
    }

    /// What Kafka holds of a conversation that is next.
    pub fn held(&self, conversation: &str) -> Option<&BTreeMap<String, HeldEntry>> {
        self.slice.as_ref()?.conversations.get(conversation)
    }
}

impl MessageRunner {
    /// Opens or ends a comparison as an operator asks for, or says why not.
    pub(super) async fn answer_comparisons(&mut self) -> Result<(), Setback> {
        while let Some(request) = self.context.board.requests().take_comparison() {
            let ComparisonRequest { since, repair, cancel, answer } = request;
            let before = self.comparing.kept.clone();
            let open = before.as_ref().filter(|before| before.is_open()).map(|open| open.id.clone());
            let refused = match open {
                Some(id) if cancel => {
                    self.end_comparison(true).await?;
                    let _ = answer.send(Ok(OpenedComparison { id }));
                    continue;
                }
                Some(id) => Some(RefusedComparison::UnderWay(id)),
                None => cancel.then_some(RefusedComparison::NoneUnderWay),
            };
            if let Some(refused) = refused {
                let _ = answer.send(Err(refused));
                continue;
            }
            let comparison = Comparison::new(since, repair);
            let mut kept = before.map(|before| before.forget()).unwrap_or_default();
            kept.push(comparison.record());
            info!(comparison = comparison.id, ?since, repair, "comparison of messages opened");
            let opened = OpenedComparison { id: comparison.id.clone() };
            self.comparing = Comparing::new(Some(comparison));
            self.hand_over(MessageBatch { kept, ..MessageBatch::default() }).await?;
            // Whoever asked may have gone; it is made all the same, and shown.
            let _ = answer.send(Ok(opened));
        }
        Ok(())
    }

    /// Does what comes next and costs no call for entries.
    pub(super) async fn prepare_comparison(&mut self) -> Result<(), Setback> {
        match self.comparing.gathering.take() {
            Some(Gathering::Conversations(task)) => match joined(task.await) {
                Ok((conversations, hidden)) => {
                    if let Some(kept) = &mut self.comparing.kept {
                        // Listed anew after a restart, and not counted twice.
                        kept.hidden = hidden;
                    }
                    let after = self.comparing.kept.as_ref().and_then(|kept| kept.after.clone());
                    let left: BTreeSet<String> =
                        conversations.into_iter().filter(|id| after.as_ref().is_none_or(|after| id > after)).collect();
                    info!(conversations = left.len(), "conversations to be compared listed");
                    self.comparing.left = Some(left);
                    self.comparing.waits_for = None;
                }
                Err(failure) => self.compare_later(failure),
            },
            Some(Gathering::Slice(task, _)) => match joined(task.await) {
                Ok(slice) => {
                    debug!(conversations = slice.conversations.len(), "what kafka holds of conversations read back");
                    self.comparing.take_slice(slice);
                    self.comparing.waits_for = None;
                }
                Err(failure) => self.compare_later(failure),
            },
            None => {
                self.within_share()?;
                match &self.comparing.left {
                    None => self.list_conversations(),
                    Some(left) if left.is_empty() => self.end_comparison(false).await?,
                    Some(left) => {
                        let next = left.iter().take(SLICE).cloned().collect();
                        self.read_slice_back(next);
                    }
                }
            }
        }
        Ok(())
    }

    fn compare_later(&mut self, failure: Failure) {
        warn!(error = failure.what, remedy = failure.remedy, "the comparison of messages waits");
        self.comparing.meanwhile.clear();
        self.comparing.not_before = Instant::now() + AGAIN;
        self.comparing.waits_for = Some(failure.what);
    }

    /// Where the topic is read from: what was said since then was written since then.
    fn written_since(&self, since: Option<DateTime<Utc>>) -> ScanFrom {
        let ahead = (self.rest.session().salesforce_now() - Utc::now()).max(TimeDelta::zero());
        let at = since.and_then(|since| since.checked_sub_signed(ahead)?.checked_sub_signed(CLOCKS));
        at.map_or(ScanFrom::Beginning, ScanFrom::Timestamp)
    }

    /// Finds the conversations that are to be looked at: those that Kafka holds, and those of the org's sessions.
    fn list_conversations(&mut self) {
        let since = self.comparing.kept.as_ref().and_then(|kept| kept.since);
        let (rest, kafka, topic) = (self.rest.clone(), self.kafka.clone(), self.topic.clone());
        let (org, desk, at) = (self.context.identity.org.clone(), self.desk.clone(), self.written_since(since));
        let task = tokio::spawn(async move {
            let found = async {
                let sessions = rest.conversations_since(since, PATIENCE).await;
                let SessionsConversations { identifiers: mut all, hidden } =
                    sessions.map_err(|error| Setback::Sessions(error).failure())?;
                all.extend(conversations(&kafka, &topic, &org, at).await.map_err(|error| error.failure())?);
                Ok((all, hidden))
            };
            let found = found.await;
            desk.changed.notify_one();
            found
        });
        self.comparing.gathering = Some(Gathering::Conversations(AbortOnDropHandle::new(task)));
    }

    fn read_slice_back(&mut self, next: Vec<String>) {
        let Some(kept) = &self.comparing.kept else { return };
        let of: BTreeSet<String> = next.iter().cloned().collect();
        let since = self.held_since(kept);
        let from = since.map_or(0, |since| since.timestamp_millis());
        let (slice, at) = (Slice::of(next, from), self.written_since(since));
        let (kafka, topic) = (self.kafka.clone(), self.topic.clone());
        let (org, desk) = (self.context.identity.org.clone(), self.desk.clone());
        let task = tokio::spawn(async move {
            let read = slice.read(&kafka, &topic, &org, at).await.map_err(|error| error.failure());
            desk.changed.notify_one();
            read
        });
        self.comparing.slice = None;
        self.comparing.gathering = Some(Gathering::Slice(AbortOnDropHandle::new(task), of));
    }

    /// From when on it has to be known what Kafka holds. A fetch that is ordered of a conversation that is not known looks as far back
    /// as any first fetch, and has to know what is written there.
    fn held_since(&self, kept: &Comparison) -> Option<DateTime<Utc>> {
        let first = Conversation::default().looked_at_from(self.now(), false, &self.config);
        let first = DateTime::from_timestamp_millis(first).filter(|_| kept.repair);
        kept.since.map(|since| first.map_or(since, |first| since.min(first)))
    }

    async fn end_comparison(&mut self, cancelled: bool) -> Result<(), Setback> {
        let Some(mut kept) = self.comparing.kept.clone() else { return Ok(()) };
        (kept.ended_at, kept.cancelled) = (Some(Utc::now()), cancelled);
        let batch = MessageBatch { kept: vec![kept.record()], ..MessageBatch::default() };
        self.hand_over(batch).await?;
        let [missing, changed, gone] = kept.found;
        let (judged, written, ordered) = (kept.judged, kept.written, kept.ordered);
        info!(
            comparison = kept.id,
            cancelled, judged, missing, changed, gone, written, ordered, "comparison of messages ended"
        );
        self.comparing = Comparing::new(Some(kept));
        Ok(())
    }

    /// How the comparison is, as operators see it.
    pub(super) fn comparison_status(&self) -> Option<ComparisonStatus> {
        let kept = self.comparing.kept.as_ref()?;
        let all = self.comparing.left.as_ref().map(|left| kept.done.saturating_add(count(left.len())));
        Some(kept.status(all, self.budget.spare_an_hour(), self.comparing.waits_for.clone()))
    }
}

fn joined<T>(outcome: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    let lost = |error: tokio::task::JoinError| StreamError::ComparisonEnded(error.to_string()).failure();
    outcome.map_err(lost)?
}

/// A number as it is counted.
pub(super) fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salesforce::rest::RestError;

    fn pair(conversation: &str) -> (Bytes, Bytes) {
        (Bytes::copy_from_slice(conversation.as_bytes()), Bytes::from_static(b"{}"))
    }

    #[tokio::test]
    async fn while_a_slice_is_read_back_only_what_is_written_of_its_conversations_is_held_in_memory() {
        let mut comparing = Comparing::new(Some(Comparison::new(None, true)));
        comparing.committed(vec![pair("a")]);
        assert!(comparing.meanwhile.is_empty(), "nothing is read back");
        let reading = AbortOnDropHandle::new(tokio::spawn(std::future::pending()));
        comparing.gathering = Some(Gathering::Slice(reading, ["a".to_owned()].into()));
        comparing.committed(vec![pair("a"), pair("b")]);
        assert_eq!(comparing.meanwhile, [pair("a")]);
        comparing.take_slice(Slice::of(["a".to_owned()], 0));
        assert!(comparing.meanwhile.is_empty());
    }

    #[test]
    fn another_conversation_is_the_one_that_was_read_last_or_one_that_is_next() {
        let mut comparing = Comparing::new(Some(Comparison::new(None, false)));
        assert_eq!(comparing.others_than("b").count(), 0);
        comparing.slice = Some(Slice::of(["b", "c", "d"].map(str::to_owned), 0));
        assert_eq!(comparing.others_than("b").collect::<Vec<_>>(), ["c", "d"]);
        comparing.was_read("a");
        assert_eq!(comparing.others_than("b").collect::<Vec<_>>(), ["a", "c", "d"]);
    }

    #[test]
    fn what_fails_lets_the_comparison_wait_longer_each_time_and_says_why() {
        let mut comparing = Comparing::new(Some(Comparison::new(None, false)));
        assert!(matches!(comparing.step(Instant::now()), Step::Prepare));
        for least in [1, 2, 4] {
            comparing.wait_for(&Setback::Sessions(RestError::Unreachable("reset".into())));
            assert!(comparing.not_before >= Instant::now() + Duration::from_millis(least * 1_000 - 500));
            assert!(matches!(comparing.step(Instant::now()), Step::Wait(Some(_))));
        }
        assert!(comparing.waits_for.as_deref().is_some_and(|why| why.contains("reset")));
        comparing.done("a", Comparison::new(None, false));
        comparing.wait_for(&Setback::Sessions(RestError::Unreachable("reset".into())));
        assert!(comparing.not_before <= Instant::now() + Duration::from_secs(2), "it begins anew");
    }
}

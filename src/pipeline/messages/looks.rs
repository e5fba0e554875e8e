//! One conversation compared with what Kafka holds of it, one page at a time: two looks, and what follows from them.
//!
//! # Why a finding is one, and what is written for it is written once
//!
//! Every record of an entry is written by the run loop for this runner, in its attempt. What the topic held when it was read
//! back, with what was committed since, is therefore what Kafka holds, at every moment and without a race. The topic is read
//! back after the fence, to its end; after a crash it is read back anew, so what was written before it is known.
//!
//! An entry is judged when it is ten minutes old and was fetched at least that long ago, and when no fetch that is to come would
//! look at it: of a conversation with an open session or an event that waits, only what lies before its floor. What
//! differs is looked at once more, and dropped unless it differs in the same way.
//!
//! What is repaired lies on one side of the floor of its conversation. **Before it** no fetch ever looks, so the comparison writes
//! the entry itself, and a comparison after it finds it in the topic. **Behind it** a fetch is ordered, with what is known of
//! the conversation changed so that it writes these entries; of one that is not known that is what Kafka holds of it, since the
//! digests that were kept are gone. The floor only moves forward, and both happen in this one task:
//! no entry is written by both. What is written is what the source said at the second look, and nothing in Kafka is newer:
//! a record that was fetched in the last ten minutes is not judged.
//!
//! A fetch may come between two pages of a look, so what was found is held against Kafka once more when the conversation ends.
//!
//! What the source shows no more is told and never written: no answer says whether an entry was deleted, or is only not
//! shown any more, and there is no record that takes an entry back.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use tracing::{info, warn};

use crate::config::MessagesApi;
use crate::kafka::OutputRecord;
use crate::pipeline::messages::comparing::count;
use crate::pipeline::messages::comparison::{Comparison, EntryFinding};
use crate::pipeline::messages::conversation::{Conversation, Op, Reason, key};
use crate::pipeline::messages::difference::{Bounds, EntryDifference, Found, Look};
use crate::pipeline::messages::entry_record::{EntryWriter, TreatedEntry};
use crate::pipeline::messages::held::{HeldEntry, Mark};
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::MessageBatch;
use crate::pipeline::messages::setback::Setback;
use crate::pipeline::messages::walk::{Stretch, Walk};
use crate::salesforce::conversation_entries::Entry;

/// Younger entries, and those that were fetched later, are not judged: ten minutes, in milliseconds.
const MARGIN: i64 = 600_000;

/// The conversation that is compared.
pub(super) struct Current {
    /// Its identifier.
    pub id: String,
    pub walk: Walk,
    pub bounds: Bounds,
    /// Calls for it.
    pub calls: u64,
    look: Look,
    /// What the first look found, during the second.
    pub first: Option<First>,
}

/// What the first look found.
pub(super) struct First {
    judged: u64,
    young: u64,
    found: BTreeMap<String, Found>,
    /// Nothing younger is looked at again.
    until: i64,
    /// When the second look began: where a first fetch would begin, which moves with the time, is that of this moment for all of it.
    at: i64,
}

/// How a conversation was compared.
pub(super) enum Outcome {
    /// It was.
    Compared,
    /// A fetch that is to come looks at all of it.
    UnderWay,
    /// It cannot be read.
    Unreadable,
}

impl MessageRunner {
    pub(super) fn begin_to_compare(&self, id: &str, now: i64) -> Current {
        let from = self.comparing.kept.as_ref().map(Comparison::from).unwrap_or_default();
        let old = now.saturating_sub(MARGIN);
        let conversation = self.conversations.get(id);
        let is_due = conversation.is_some_and(|conversation| conversation.due(&self.config).is_some());
        let pending = is_due || self.underway.contains_key(id) || !self.triggers_of(id).is_empty();
        let to = if pending { old.min(self.looked_at_from(id, now).saturating_sub(1)) } else { old };
        let over_data_api = self.config.api == MessagesApi::Data;
        let bounds = Bounds { from, to, fetched_by: old, over_data_api };
        Current { id: id.to_owned(), walk: Walk::from(from), bounds, calls: 0, look: Look::default(), first: None }
    }

    /// From when on the fetches of a conversation look at its entries.
    fn looked_at_from(&self, id: &str, now: i64) -> i64 {
        let conversation = self.conversations.get(id).cloned().unwrap_or_default();
        conversation.looked_at_from(now, self.underway.contains_key(id), &self.config)
    }

    fn take_entry(&self, current: &mut Current, entry: &Entry) -> TreatedEntry {
        let treated = TreatedEntry::new(entry.clone(), &self.context.policies);
        let held = self.comparing.held(&current.id).and_then(|held| held.get(&entry.identifier));
        let marks = (Mark::of(&treated), Mark::of(entry));
        current.look.take((&entry.identifier, entry.server_time), marks, held, &current.bounds);
        treated
    }

    /// The first look.
    pub(super) async fn look(&mut self, mut current: Current, stretch: Stretch) -> Result<(), Setback> {
        for entry in &stretch.entries {
            self.take_entry(&mut current, entry);
        }
        let passed = stretch.entries.last().is_some_and(|entry| entry.server_time > current.bounds.to);
        if !stretch.more || passed {
            let nothing = BTreeMap::new();
            current.look.end(self.comparing.held(&current.id).unwrap_or(&nothing), &current.bounds);
            let Some((from, until)) = current.look.span() else {
                return self.conclude(current, Outcome::Compared, MessageBatch::default()).await;
            };
            let Look { judged, young, found, .. } = std::mem::take(&mut current.look);
            current.first = Some(First { judged, young, found, until, at: self.now() });
            current.walk = Walk::from(from);
        }
        self.comparing.current = Some(current);
        Ok(())
    }

    /// The second look: what differs as it did at the first is a finding, and written where that is wanted and no fetch does it.
    pub(super) async fn look_again(&mut self, mut current: Current, stretch: Stretch) -> Result<(), Setback> {
        let repair = self.comparing.kept.as_ref().is_some_and(|kept| kept.repair);
        let (until, at) = current.first.as_ref().map_or((i64::MIN, self.now()), |first| (first.until, first.at));
        let floor = self.looked_at_from(&current.id, at);
        let passed = stretch.entries.last().is_some_and(|entry| entry.server_time > until);
        let mut differ = Vec::new();
        for entry in stretch.entries {
            let treated = self.take_entry(&mut current, &entry);
            let found = current.first.as_ref().and_then(|first| first.found.get(&entry.identifier));
            if let Some(found) = found.filter(|found| current.look.confirms(&entry.identifier, found))
                && repair
                && entry.server_time < floor
            {
                differ.push((*found, entry, treated));
            }
        }
        let batch = self.write_differences(&mut current, differ).await?;
        if stretch.more && !passed {
            if !batch.tells_nothing() {
                self.commit_part(&mut current, batch).await?;
            }
            self.comparing.current = Some(current);
            return Ok(());
        }
        let nothing = BTreeMap::new();
        current.look.end(self.comparing.held(&current.id).unwrap_or(&nothing), &current.bounds);
        self.conclude(current, Outcome::Compared, batch).await
    }

    /// Writes what differs, but for the last transaction, which it returns.
    async fn write_differences(
        &mut self,
        current: &mut Current,
        differ: Vec<(Found, Entry, TreatedEntry)>,
    ) -> Result<MessageBatch, Setback> {
        let mut batch = MessageBatch::default();
        if differ.is_empty() {
            return Ok(batch);
        }
        let entries: Vec<Entry> = differ.iter().map(|(_, entry, _)| entry.clone()).collect();
        self.learn_cases(&entries).await?;
        let (context, id) = (self.context.clone(), current.id.clone());
        let writer = EntryWriter {
            topic: self.topic.clone(),
            org: &context.identity.org,
            conversation: &id,
            reason: Reason::Reconcile,
            api: self.entries.api(),
            fetched_at: self.rest.session().salesforce_now(),
            policies: &context.policies,
        };
        let mut bytes = 0;
        for (found, _, treated) in differ {
            if batch.entries.len() >= context.batch.max_records || bytes >= context.batch.max_bytes {
                self.commit_part(current, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            let op = if found.difference == EntryDifference::Changed { Op::Redaction } else { Op::Message };
            bytes += self.add_entry(&writer, op, &treated, &mut batch);
        }
        Ok(batch)
    }

    /// Commits entries of a conversation that goes on, with what is found of them.
    async fn commit_part(&mut self, current: &mut Current, mut batch: MessageBatch) -> Result<(), Setback> {
        let Some(mut kept) = self.comparing.kept.clone() else { return Ok(()) };
        let first = current.first.as_mut();
        let written: BTreeSet<String> = written(&batch);
        let findings = first.map(|first| take(&mut first.found, |id, _| written.contains(id))).unwrap_or_default();
        kept.written += count(written.len());
        let told = kept.tell(named(&current.id, &findings));
        batch.kept.extend(told);
        batch.kept.push(kept.record());
        batch.conversation = named_in_refusals(&current.id);
        self.hand_over(batch).await?;
        self.comparing.kept = Some(kept);
        Ok(())
    }

    /// Ends a conversation: what was found of it, what is written of that, and how far the comparison is, in one transaction.
    pub(super) async fn conclude(
        &mut self,
        mut current: Current,
        outcome: Outcome,
        mut batch: MessageBatch,
    ) -> Result<(), Setback> {
        let Some(mut kept) = self.comparing.kept.clone() else { return Ok(()) };
        let (now, id) = (self.now(), current.id.clone());
        kept.done += 1;
        kept.calls += current.calls;
        kept.after = Some(id.clone());
        let at = current.first.as_ref().map_or(now, |first| first.at);
        let findings = match outcome {
            Outcome::UnderWay => {
                kept.under_way += 1;
                Vec::new()
            }
            Outcome::Unreadable => {
                kept.unreadable += 1;
                Vec::new()
            }
            Outcome::Compared => self.findings(&mut current, &mut kept),
        };
        let written = written(&batch);
        kept.written += count(written.len());
        let mut conversation = None;
        if kept.repair {
            let left = findings.iter().filter(|(entry, _)| !written.contains(entry));
            let known = self.conversations.get(&id).cloned().unwrap_or_default();
            let (held, floor) = (self.comparing.held(&id), self.looked_at_from(&id, at));
            if let Some((entries, owing)) = ordered(known, held, left, floor, now) {
                kept.ordered += count(entries);
                conversation = Some(owing);
            }
        }
        if current.calls > 0 {
            let known = || self.conversations.get(&id).cloned().unwrap_or_default();
            conversation.get_or_insert_with(known).compared_at = Some(now);
        }
        if !findings.is_empty() {
            info!(
                conversation = id,
                findings = findings.len(),
                repair = kept.repair,
                "messages do not agree with the org"
            );
        }
        let told = kept.tell(named(&id, &findings));
        batch.kept.extend(told);
        batch.kept.push(kept.record());
        batch.kept.extend(conversation.as_ref().map(|conversation| (key(&id), Some(conversation.value()))));
        batch.conversation = named_in_refusals(&id);
        self.hand_over(batch).await?;
        self.conversations.extend(conversation.map(|conversation| (id.clone(), conversation)));
        self.comparing.done(&id, kept);
        Ok(())
    }

    /// What both looks found alike and is so still.
    fn findings(&self, current: &mut Current, kept: &mut Comparison) -> Vec<(String, Found)> {
        let look = std::mem::take(&mut current.look);
        let Some(mut first) = current.first.take() else {
            kept.judged += look.judged;
            kept.young += look.young;
            return Vec::new();
        };
        kept.judged += first.judged;
        kept.young += first.young;
        // A page of the second look may be older than a fetch that came between.
        let held = self.comparing.held(&current.id);
        let holds = |entry: &str, found: &Found| found.holds(held.and_then(|held| held.get(entry)), &current.bounds);
        let findings = take(&mut first.found, |entry, found| look.confirms(entry, found) && holds(entry, found));
        kept.settled += count(first.found.len());
        findings
    }
}

/// The conversation as it is once a fetch is ordered of what lies behind its `floor`, and how many entries that are; none if it is
/// nothing. One that is not known learns what Kafka holds of it there, or its first fetch would write that again.
fn ordered<'f>(
    mut conversation: Conversation,
    held: Option<&BTreeMap<String, HeldEntry>>,
    findings: impl Iterator<Item = &'f (String, Found)>,
    floor: i64,
    now: i64,
) -> Option<(usize, Conversation)> {
    let is_owed = |found: &Found| found.difference != EntryDifference::Gone && found.server_time >= floor;
    let owed: Vec<_> = findings.filter(|(_, found)| is_owed(found)).collect();
    if owed.is_empty() {
        return None;
    }
    if conversation.cursor == 0 {
        let behind = held.into_iter().flatten().filter(|(_, held)| held.server_time >= floor);
        if !conversation.learn_held(behind.map(|(entry, held)| (entry.clone(), held.server_time))) {
            warn!("kafka holds too many entries of a conversation for a fetch of it to be ordered");
            return None;
        }
    }
    let of = |wanted: EntryDifference| {
        let of = owed.iter().filter(move |(_, found)| found.difference == wanted);
        of.map(|(entry, found)| (entry.as_str(), found.server_time))
    };
    conversation.owe(of(EntryDifference::Missing), of(EntryDifference::Changed), now);
    Some((owed.len(), conversation))
}

/// What the records of a comparison of a conversation are called if Kafka refuses one: fetches keep no less of it for that.
pub(super) fn named_in_refusals(id: &str) -> String {
    format!("comparison of {id}")
}

/// Takes some of what was found out of the rest.
fn take(found: &mut BTreeMap<String, Found>, wanted: impl Fn(&str, &Found) -> bool) -> Vec<(String, Found)> {
    let (taken, left) = std::mem::take(found).into_iter().partition(|(id, found)| wanted(id, found));
    *found = left;
    let taken: BTreeMap<String, Found> = taken;
    taken.into_iter().collect()
}

/// The entries that a batch writes.
fn written(batch: &MessageBatch) -> BTreeSet<String> {
    let id = |record: &OutputRecord| {
        let id = record.headers.iter().find(|(name, _)| *name == "entry_id").map(|(_, id)| id.clone())?;
        String::from_utf8(id.to_vec()).ok()
    };
    batch.entries.iter().filter_map(id).collect()
}

fn named(conversation: &str, findings: &[(String, Found)]) -> Vec<EntryFinding> {
    let finding = |(id, found): &(String, Found)| EntryFinding {
        finding: found.difference,
        conversation: conversation.to_owned(),
        id: id.clone(),
        server_time: DateTime::from_timestamp_millis(found.server_time),
    };
    findings.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::messages::conversation::tests::config;
    use crate::salesforce::conversation_entries::Sender;

    const NOW: i64 = 1_790_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn entry(identifier: &str, server_time: i64, text: &str) -> Entry {
        let (identifier, text, sender) = (identifier.to_owned(), Some(text.to_owned()), Sender::default());
        let (client_time, kind, payload, related) = (None, None, None, Vec::new());
        Entry { identifier, server_time, client_time, text, kind, payload, sender, related }
    }

    fn held(entries: &[Entry]) -> BTreeMap<String, HeldEntry> {
        let held = |entry: &Entry| HeldEntry {
            server_time: entry.server_time,
            fetched_at: entry.server_time,
            over_data_api: false,
            too_large: false,
            mark: Mark::of(entry),
        };
        entries.iter().map(|entry| (entry.identifier.clone(), held(entry))).collect()
    }

    /// What both sides differ on.
    fn differences(shown: &[Entry], held: &BTreeMap<String, HeldEntry>) -> Vec<(String, Found)> {
        let (mut look, to) = (Look::default(), NOW - HOUR);
        let bounds = Bounds { from: 0, to, fetched_by: to, over_data_api: false };
        for entry in shown {
            let marks = (Mark::of(entry), Mark::of(entry));
            look.take((&entry.identifier, entry.server_time), marks, held.get(&entry.identifier), &bounds);
        }
        look.end(held, &bounds);
        look.found.into_iter().collect()
    }

    #[test]
    fn a_forgotten_conversation_of_which_one_entry_differs_has_only_that_written_by_the_fetch_that_is_ordered() {
        // Twelve days old and forgotten when messages.history had seven days; it has thirty now.
        let config =
            crate::config::MessagesConfig { history: std::time::Duration::from_secs(30 * 24 * 3600), ..config() };
        let old = NOW - 12 * 24 * HOUR;
        let kafka = held(&[entry("a", old, "one"), entry("b", old + 1, "two"), entry("gone", old + 2, "three")]);
        let shown = [entry("a", old, "one"), entry("b", old + 1, "***"), entry("late", old + 3, "four")];
        let floor = Conversation::default().looked_at_from(NOW, false, &config);
        let findings = differences(&shown, &kafka);
        assert_eq!(findings.len(), 3);
        let (entries, mut conversation) =
            ordered(Conversation::default(), Some(&kafka), findings.iter(), floor, NOW).expect("something is owed");
        assert_eq!(entries, 2, "what is gone is not written");
        conversation.begin(NOW + HOUR, &config);
        let written: Vec<Option<Op>> = shown.iter().map(|entry| conversation.take(entry)).collect();
        assert_eq!(written, [None, Some(Op::Redaction), Some(Op::Message)]);
        // What lies before the floor is the comparison's own.
        assert!(ordered(Conversation::default(), Some(&kafka), findings.iter(), NOW, NOW).is_none());
    }

    #[test]
    fn no_fetch_is_ordered_of_an_unknown_conversation_of_which_kafka_holds_more_than_can_be_kept() {
        let many: Vec<Entry> = (0..5_000).map(|number| entry(&number.to_string(), NOW - 9 * HOUR, "text")).collect();
        let (kafka, shown) = (held(&many), [entry("late", NOW - 9 * HOUR, "text")]);
        let late: Vec<_> = differences(&shown, &kafka).into_iter().filter(|(id, _)| id == "late").collect();
        assert!(ordered(Conversation::default(), Some(&kafka), late.iter(), NOW - 10 * HOUR, NOW).is_none());
        let known = Conversation { cursor: NOW, floor: NOW - 10 * HOUR, ..Conversation::default() };
        assert!(ordered(known, Some(&kafka), late.iter(), NOW - 10 * HOUR, NOW).is_some(), "what it wrote it knows");
    }
}

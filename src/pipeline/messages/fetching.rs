//! One page of a conversation: read, compared with what is known, handed to the run loop.

use std::sync::PoisonError;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;

use crate::config::MessagesApi;
use crate::pipeline::ledger::OpenGap;
use crate::pipeline::messages::conversation::{Conversation, Op, Reason, key, most_known};
use crate::pipeline::messages::entry_record::{EntryWriter, TreatedEntry};
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::{Clear, MessageBatch};
use crate::pipeline::messages::sessions::session_of;
use crate::pipeline::messages::setback::Setback;
use crate::pipeline::messages::unread::{End, LedgerWriter, Stage, shortest, since, stage};
use crate::pipeline::messages::walk::Walk;
use crate::salesforce::conversation_entries::Entry;
use crate::salesforce::rest::RestError;

/// One call may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The shortest pause of a conversation that cannot be read. Each attempt is a call of few.
const LEAST_PAUSE: Duration = Duration::from_secs(15);

/// How often Kafka may refuse the record of an entry: once with its content, once without.
const ENTRY_REFUSALS: usize = 2;

/// A fetch that has begun, between two pages.
pub(super) struct Underway {
    walk: Walk,
    reason: Reason,
    /// The triggers that it fetches, with their numbers when it began.
    triggers: Vec<(String, u64)>,
    /// Whether it has found anything.
    news: bool,
    /// Before its first page was read.
    began: i64,
    /// When its last page was read: others may have their turn before the next one.
    pub since: i64,
}

impl Underway {
    /// Whether it holds pages until it has the next one: then it goes on before another begins.
    pub fn holds(&self) -> bool {
        self.walk.holds()
    }
}

impl MessageRunner {
    /// Reads one page of a conversation and commits what is new in it.
    pub(super) async fn fetch(&mut self, id: &str, reason: Reason) -> Result<(), Setback> {
        let now = self.now();
        let mut conversation = self.conversations.get(id).cloned().unwrap_or_default();
        if most_known(self.refusals(id)).is_none() {
            conversation = self.cut(id, conversation).await?;
        }
        // After an error it begins anew: what is known already is passed over.
        let mut underway = match self.underway.remove(id) {
            Some(underway) => underway,
            None => {
                let walk = Walk::from(conversation.begin(now, &self.config));
                // The pages to come find it as it is now.
                self.conversations.insert(id.to_owned(), conversation.clone());
                let triggers = self.triggers_of(id);
                Underway { walk, reason, triggers, news: false, began: now, since: now }
            }
        };
        self.budget.take(id, Instant::now());
        self.context.board.update(|status| status.messages.get_or_insert_default().fetches += 1);
        let deadline = Instant::now() + PATIENCE;
        let failed = self.entries_setback();
        let page = self.entries.page(id, underway.walk.place(), deadline).await.map_err(failed)?;
        self.answered(id);
        let Some(stretch) = underway.walk.take(page, now).map_err(failed)? else {
            self.underway.insert(id.to_owned(), Underway { since: self.now(), ..underway });
            return Ok(());
        };
        self.learn_cases(&stretch.entries).await?;
        let (mut batch, news) = self.write(id, underway.reason, &mut conversation, stretch.entries).await?;
        underway.news |= news;
        if stretch.more {
            self.underway.insert(id.to_owned(), Underway { since: self.now(), ..underway });
        } else {
            self.add_records(id, &mut conversation, &mut batch).await?;
            conversation.asked(underway.began, underway.reason, underway.news, &self.config);
            batch.ledger.extend(self.readable(&mut conversation));
            let clear = |(session, number)| Clear { session, number, end: End::Healed };
            batch.clears = underway.triggers.into_iter().map(clear).collect();
            batch.done = self.done_by(id);
        }
        self.commit(id, batch, &mut conversation).await?;
        self.waits.remove(id);
        Ok(())
    }

    /// What a failed call for entries is.
    pub(super) fn entries_setback(&self) -> fn(RestError) -> Setback {
        match self.config.api {
            MessagesApi::Connect => Setback::Entries,
            MessagesApi::Data => Setback::Data,
        }
    }

    /// Writes what is new among entries, but for the last transaction, which it returns, and whether there was anything.
    /// Transactions are no larger than those of events.
    async fn write(
        &mut self,
        id: &str,
        reason: Reason,
        conversation: &mut Conversation,
        entries: Vec<Entry>,
    ) -> Result<(MessageBatch, bool), Setback> {
        let context = self.context.clone();
        let writer = EntryWriter {
            topic: self.topic.clone(),
            org: &context.identity.org,
            conversation: id,
            reason,
            api: self.entries.api(),
            fetched_at: self.rest.session().salesforce_now(),
            policies: &context.policies,
        };
        let (mut left, mut news, mut bytes) = (MessageBatch::default(), false, 0);
        for entry in entries {
            if left.entries.len() >= context.batch.max_records || bytes >= context.batch.max_bytes {
                self.commit(id, std::mem::take(&mut left), conversation).await?;
                bytes = 0;
            }
            let entry = TreatedEntry::new(entry, &context.policies);
            let Some(op) = conversation.take(&entry) else { continue };
            news = true;
            bytes += self.add_entry(&writer, op, &entry, &mut left);
        }
        Ok((left, news))
    }

    /// Adds the record of an entry to a batch, or the word of the ledger on one that Kafka does not take; returns its size.
    pub(super) fn add_entry(
        &self,
        writer: &EntryWriter<'_>,
        op: Op,
        entry: &TreatedEntry,
        batch: &mut MessageBatch,
    ) -> usize {
        let refused = self.refusals(&entry.identifier);
        if refused >= ENTRY_REFUSALS {
            let detail = format!("the entry {} of a conversation is larger than Kafka takes", entry.identifier);
            batch.ledger.extend(self.lost(writer.conversation, detail));
            return 0;
        }
        let session = session_of(entry);
        let case = session.as_ref().and_then(|session| self.sessions.cases.get(session).cloned()).flatten();
        let record = writer.record(op, entry, session.as_deref(), case.as_deref(), refused > 0);
        let size = record.size();
        batch.redactions += u64::from(op == Op::Redaction);
        batch.entries.push(record);
        size
    }

    /// Notes that a conversation could not be read; enters it in the ledger when that has gone on for long, and gives it up
    /// when nobody can expect it to end.
    pub(super) async fn in_vain(&mut self, id: &str, why: &str) -> Result<(), Setback> {
        let (now, wall) = (Utc::now(), self.now());
        let mut conversation = self.conversations.get(id).cloned().unwrap_or_default();
        // How long its triggers have waited says nothing of it: that can have been an outage.
        let begun: DateTime<Utc> = conversation.in_vain_since.unwrap_or(now);
        let new = conversation.in_vain_since.replace(begun).is_none();
        let (mut batch, ledger) = (MessageBatch::default(), LedgerWriter::of(&self.context));
        match stage(since(begun, now), conversation.entry.is_some(), LEAST_PAUSE, &self.config) {
            Stage::Wait(pause) => {
                self.wait_for(id, 0, pause);
                if !new {
                    return Ok(());
                }
            }
            Stage::Tell => {
                let detail = format!("the messages of a conversation cannot be read: {why}");
                let entry = ledger.open(&OpenGap::messages(vec![id.to_owned()], begun, detail));
                batch.ledger.push(ledger.record(&entry));
                conversation.entry = Some(entry);
                // From now on it is fetched for itself, and its events are not late.
                batch.clears = self.clears_of(id, End::Healed);
                self.wait_for(id, 0, shortest(LEAST_PAUSE, &self.config));
                warn!(conversation = id, "a conversation cannot be read; the gap ledger names it");
                self.count_in_vain(1);
            }
            Stage::GiveUp => {
                let ended = conversation.entry.take().map(|entry| ledger.ended(&entry, End::GivenUp));
                batch.ledger.extend(ended.map(|entry| ledger.record(&entry)));
                conversation.give_up(wall);
                batch.clears = self.clears_of(id, End::GivenUp);
                warn!(conversation = id, "a conversation that cannot be read is given up");
            }
        }
        // From now on the conversation itself is owed.
        batch.done = self.done_by(id);
        self.commit(id, batch, &mut conversation).await
    }

    /// The end of the triggers of a conversation as they are now.
    fn clears_of(&self, id: &str, end: End) -> Vec<Clear> {
        self.triggers_of(id).into_iter().map(|(session, number)| Clear { session, number, end }).collect()
    }

    /// What closes the entry of a conversation that can be read.
    fn readable(&self, conversation: &mut Conversation) -> Option<crate::kafka::OutputRecord> {
        conversation.in_vain_since = None;
        let (entry, ledger) = (conversation.entry.take()?, LedgerWriter::of(&self.context));
        Some(ledger.record(&ledger.ended(&entry, End::Healed)))
    }

    /// What says that something of a conversation will not be written.
    pub(super) fn lost(&self, id: &str, detail: String) -> [crate::kafka::OutputRecord; 2] {
        warn!(conversation = id, detail, "messages are lost; the gap ledger names their conversation");
        LedgerWriter::of(&self.context).lost(&OpenGap::messages(vec![id.to_owned()], Utc::now(), detail))
    }

    /// Cuts what is kept of a conversation down to how far it is written: Kafka takes no more of it. What comes late or is
    /// redacted is not found any more, and that is in the ledger.
    async fn cut(&mut self, id: &str, mut conversation: Conversation) -> Result<Conversation, Setback> {
        self.refused().remove(id);
        conversation.strip();
        self.underway.remove(id);
        let detail = "what has to be kept of a conversation is larger than Kafka takes: entries of the last \
                      millisecond read, and those that came late or were redacted, may be missing";
        let batch = MessageBatch { ledger: self.lost(id, detail.to_owned()).into(), ..MessageBatch::default() };
        self.commit(id, batch, &mut conversation).await?;
        Ok(conversation)
    }

    fn refused(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, usize>> {
        self.memory.oversize_messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often Kafka refused something of that name for its size.
    pub(super) fn refusals(&self, name: &str) -> usize {
        self.refused().get(name).copied().unwrap_or_default()
    }

    /// The triggers of a conversation as they are now.
    pub(super) fn triggers_of(&self, id: &str) -> Vec<(String, u64)> {
        let triggers = self.desk.triggers();
        let of = |session: &String| {
            let (number, conversation) = self.sessions.resolved.get(session)?;
            // A newer event may have made it another conversation's.
            let same = conversation == id && triggers.get(session).is_some_and(|trigger| trigger.number == *number);
            same.then(|| (session.clone(), *number))
        };
        triggers.keys().filter_map(of).collect()
    }

    /// Has a batch committed together with its conversation as it is then: everything up to the cursor is written. From then
    /// on that is what is known of it, whatever becomes of what follows.
    pub(super) async fn commit(
        &mut self,
        id: &str,
        mut batch: MessageBatch,
        conversation: &mut Conversation,
    ) -> Result<(), Setback> {
        let most = most_known(self.refusals(id)).unwrap_or_default();
        conversation.settle(self.now(), &self.config, most);
        if most == 0 {
            // They are written once more with the next fetch, which does no harm.
            conversation.records.clear();
        }
        batch.kept.push((key(id), Some(conversation.value())));
        id.clone_into(&mut batch.conversation);
        self.hand_over(batch).await?;
        self.conversations.insert(id.to_owned(), conversation.clone());
        Ok(())
    }

    /// Forgets conversations.
    pub(super) async fn forget(&mut self, ids: Vec<String>) -> Result<(), Setback> {
        let kept = ids.iter().map(|id| (key(id), None)).collect();
        self.hand_over(MessageBatch { kept, ..MessageBatch::default() }).await?;
        for id in ids {
            self.conversations.remove(&id);
            self.beside.forget(&id);
        }
        Ok(())
    }

    /// Gives the run loop a batch and waits until it is committed.
    pub(super) async fn hand_over(&mut self, mut batch: MessageBatch) -> Result<(), Setback> {
        let sessions: Vec<String> = batch.clears.iter().map(|clear| clear.session.clone()).collect();
        let entries = batch.entries.iter().filter_map(|entry| Some((entry.key.clone(), entry.value.clone()?)));
        let entries: Vec<_> = entries.collect();
        let (receipt, committed) = oneshot::channel();
        batch.receipt = Some(receipt);
        self.out.send(batch).await.map_err(|_| Setback::Gone)?;
        committed.await.map_err(|_| Setback::Gone)?;
        self.comparing.committed(entries);
        for session in sessions {
            self.sessions.resolved.remove(&session);
        }
        Ok(())
    }
}

//! One page of a conversation: read, compared with what is known, handed to the run loop.

use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::pipeline::messages::conversation::{Conversation, MOST_KNOWN, Op, Reason, key};
use crate::pipeline::messages::entry_record::{EntryWriter, TreatedEntry};
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::MessageBatch;
use crate::pipeline::messages::sessions::session_of;
use crate::pipeline::messages::setback::Setback;
use crate::salesforce::conversation_entries::{Entry, Place};

/// One call may take so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Digests of a conversation whose record was too large for Kafka.
const FEW_KNOWN: usize = 250;

/// A fetch that has begun, between two pages.
pub(super) struct Underway {
    place: Place,
    reason: Reason,
    /// The triggers that it fetches, with their numbers when it began.
    triggers: Vec<(String, u64)>,
    /// Whether it has found anything.
    news: bool,
    /// When its last page was read: others may have their turn before the next one.
    pub since: i64,
}

impl MessageRunner {
    /// Reads one page of a conversation and commits what is new in it.
    pub(super) async fn fetch(&mut self, id: &str, reason: Reason) -> Result<(), Setback> {
        let now = self.now();
        let mut conversation = self.conversations.get(id).cloned().unwrap_or_default();
        // After an error it begins anew: what is known already is passed over.
        let mut underway = self.underway.remove(id).unwrap_or_else(|| Underway {
            place: Place::at(conversation.begin(now, &self.config)),
            reason,
            triggers: self.triggers_of(id),
            news: false,
            since: now,
        });
        self.budget.take(id, Instant::now());
        self.context.board.update(|status| status.messages.get_or_insert_default().fetches += 1);
        let deadline = Instant::now() + PATIENCE;
        let page = self.rest.conversation_entries(id, &underway.place, deadline).await.map_err(Setback::Entries)?;
        self.learn_cases(&page.entries).await?;
        let (left, news) = self.write(id, underway.reason, &mut conversation, page.entries).await?;
        underway.news |= news;

        let by_time = page.next.as_ref().is_none_or(|next| next.token.is_none());
        if by_time {
            // Whoever follows a token has not been promised an order between its pages.
            conversation.settle(now, &self.config, self.most_known(id));
        }
        let mut clears = Vec::new();
        match page.next {
            Some(place) => {
                let next = Underway { place, since: self.now(), ..underway };
                self.underway.insert(id.to_owned(), next);
            }
            None => {
                conversation.asked(now, underway.reason, underway.news, &self.config);
                clears = underway.triggers;
            }
        }
        self.commit(id, left, &conversation, clears).await?;
        self.conversations.insert(id.to_owned(), conversation);
        self.waits.remove(id);
        Ok(())
    }

    /// Writes what is new among entries, but for the last transaction, which it returns, and whether there was anything.
    /// Transactions are no larger than those of events.
    async fn write(
        &mut self,
        id: &str,
        reason: Reason,
        conversation: &mut Conversation,
        entries: Vec<Entry>,
    ) -> Result<(Page, bool), Setback> {
        let context = self.context.clone();
        let writer = EntryWriter {
            topic: self.topic.clone(),
            org: &context.identity.org,
            conversation: id,
            reason,
            fetched_at: self.rest.session().salesforce_now(),
            policies: &context.policies,
        };
        let too_large = self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (mut left, mut news, mut bytes) = (Page::default(), false, 0);
        for entry in entries {
            if left.records.len() >= context.batch.max_records || bytes >= context.batch.max_bytes {
                self.commit(id, std::mem::take(&mut left), conversation, Vec::new()).await?;
                bytes = 0;
            }
            let entry = TreatedEntry::new(entry, &context.policies);
            let Some(op) = conversation.take(&entry) else { continue };
            let session = session_of(&entry);
            let case = session.as_ref().and_then(|session| self.sessions.cases.get(session).cloned()).flatten();
            let omit = too_large.contains(&entry.identifier);
            let record = writer.record(op, &entry, session.as_deref(), case.as_deref(), omit);
            bytes += record.size();
            news = true;
            left.redactions += u64::from(op == Op::Redaction);
            left.records.push(record);
        }
        Ok((left, news))
    }

    /// How many digests of a conversation fit into a record.
    fn most_known(&self, id: &str) -> usize {
        let too_large = self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner);
        if too_large.contains(id) { FEW_KNOWN } else { MOST_KNOWN }
    }

    /// The triggers of a conversation as they are now.
    fn triggers_of(&self, id: &str) -> Vec<(String, u64)> {
        let triggers = self.desk.triggers();
        let of = |session: &String| {
            let (number, conversation) = self.sessions.resolved.get(session)?;
            // A newer event may have made it another conversation's.
            let same = conversation == id && triggers.get(session).is_some_and(|trigger| trigger.number == *number);
            same.then(|| (session.clone(), *number))
        };
        triggers.keys().filter_map(of).collect()
    }

    /// Has entries committed together with their conversation as it is then.
    async fn commit(
        &mut self,
        id: &str,
        page: Page,
        conversation: &Conversation,
        clears: Vec<(String, u64)>,
    ) -> Result<(), Setback> {
        self.hand_over(page, vec![(key(id), Some(conversation.value()))], id, clears).await
    }

    /// Takes triggers away of which there is nothing to fetch.
    pub(super) async fn clear(&mut self, triggers: Vec<(String, u64)>) -> Result<(), Setback> {
        self.hand_over(Page::default(), Vec::new(), "", triggers).await
    }

    /// Forgets conversations.
    pub(super) async fn forget(&mut self, ids: Vec<String>) -> Result<(), Setback> {
        let kept = ids.iter().map(|id| (key(id), None)).collect();
        self.hand_over(Page::default(), kept, "", Vec::new()).await?;
        for id in ids {
            self.conversations.remove(&id);
        }
        Ok(())
    }

    async fn hand_over(
        &mut self,
        page: Page,
        kept: Vec<(String, Option<Bytes>)>,
        conversation: &str,
        clears: Vec<(String, u64)>,
    ) -> Result<(), Setback> {
        let sessions: Vec<String> = clears.iter().map(|(session, _)| session.clone()).collect();
        let (receipt, committed) = oneshot::channel();
        let Page { records: entries, redactions } = page;
        let conversation = conversation.to_owned();
        let batch = MessageBatch { entries, redactions, kept, conversation, clears, receipt };
        self.out.send(batch).await.map_err(|_| Setback::Gone)?;
        committed.await.map_err(|_| Setback::Gone)?;
        for session in sessions {
            self.sessions.resolved.remove(&session);
        }
        Ok(())
    }
}

/// Records of one transaction.
#[derive(Default)]
pub(super) struct Page {
    records: Vec<crate::kafka::OutputRecord>,
    /// Redactions among them.
    redactions: u64,
}

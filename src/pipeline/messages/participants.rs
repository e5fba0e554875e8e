//! The records of conversations and of who takes part in them, written when they changed, together with the entries.
//!
//! No event tells of them. They are read for all conversations that are next, with two queries, and compared by digest
//! with what was written. What is missing here never holds up what was said: entries are committed without them, and the
//! conversation says that its records are still to be read, which needs no call for entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use crate::failure::Failure;
use crate::pipeline::jobs::{Reader, RowWriter};
use crate::pipeline::messages::catching_up::Step;
use crate::pipeline::messages::conversation::Conversation;
use crate::pipeline::messages::runner::MessageRunner;
use crate::pipeline::messages::seam::MessageBatch;
use crate::pipeline::messages::setback::{LIMITS, Setback};
use crate::salesforce::backoff::Backoff;
use crate::salesforce::conversation_records::{CONVERSATION, ConversationRow, PARTICIPANT};

/// Conversations of one query.
const TOGETHER: usize = 100;

/// How long what was read is good for a fetch.
const GOOD_FOR: TimeDelta = TimeDelta::minutes(1);

/// The queries with their repetitions may take so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// Records of one conversation of which it is kept what was written. Any others are written with each fetch.
const MOST_KEPT: usize = 500;

/// What their `source` has instead of an event.
const JOB: &str = "messages";

/// What was read lately.
#[derive(Default)]
pub(super) struct Beside {
    read: HashMap<String, (DateTime<Utc>, Vec<ConversationRow>)>,
    /// Nothing is read until then: somebody has to mend something, or it mends itself.
    not_before: Option<Instant>,
    backoff: Option<Backoff>,
    /// The conversation of which they could not be read the last time.
    failed: Option<String>,
    /// Those that were asked for together the last time, the one that it was for among them.
    asked: BTreeSet<String>,
    /// How often in a row several could not be read together.
    in_vain: u32,
    /// Those that are asked for one by one: one of them may be why all that were asked for with it failed, or it is known to be.
    apart: BTreeSet<String>,
}

impl Beside {
    /// Forgets a conversation.
    pub fn forget(&mut self, id: &str) {
        self.apart.remove(id);
    }

    fn waits(&self) -> bool {
        self.not_before.is_some_and(|at| at > Instant::now())
    }

    /// Notes that records could not be read. What passes by itself mostly has the next time, so one by one they are read only
    /// after a second failure.
    fn could_not_read(&mut self, id: &str) {
        self.failed = Some(id.to_owned());
        if self.asked.len() > 1 {
            self.in_vain += 1;
        }
        if self.asked.len() > 1 && self.in_vain > 1 {
            self.in_vain = 0;
            self.apart.append(&mut self.asked);
        }
    }

    /// Notes that those of all that were asked for were read.
    fn could_read(&mut self) {
        (self.backoff, self.in_vain) = (None, 0);
        self.apart.retain(|id| !self.asked.contains(id));
    }

    /// A conversation with others that are next, as far as they are asked for together.
    fn together(&self, id: &str, others: impl Iterator<Item = String>) -> BTreeSet<String> {
        let mut next = BTreeSet::from([id.to_owned()]);
        if self.apart.contains(id) {
            return next;
        }
        for other in others.filter(|other| !self.apart.contains(other)) {
            if next.len() >= TOGETHER {
                break;
            }
            next.insert(other);
        }
        next
    }
}

/// The digest of a record; half of it is enough to see a change.
fn digest(row: &ConversationRow) -> String {
    let hash = Sha256::digest(row.row.record.as_str());
    STANDARD_NO_PAD.encode(hash.get(..16).unwrap_or_default())
}

/// The records that are not as they were written, and what is kept of all of them.
fn changed<'a>(
    rows: &'a [ConversationRow],
    written: &BTreeMap<String, String>,
) -> (Vec<&'a ConversationRow>, BTreeMap<String, String>) {
    let mut kept = written.clone();
    let news = rows.iter().filter(|row| {
        let digest = digest(row);
        let known = written.get(&row.row.id) == Some(&digest);
        if kept.len() < MOST_KEPT || kept.contains_key(&row.row.id) {
            kept.insert(row.row.id.clone(), digest);
        }
        !known
    });
    (news.collect(), kept)
}

impl MessageRunner {
    /// Adds to the last batch of a fetch the records of its conversation that changed since they were written.
    pub(super) async fn add_records(
        &mut self,
        id: &str,
        conversation: &mut Conversation,
        batch: &mut MessageBatch,
    ) -> Result<(), Setback> {
        conversation.records_owed = self.config.records;
        if !self.config.records || self.beside.waits() {
            return Ok(());
        }
        let rows = match self.rows_of(id).await {
            Ok(rows) => rows,
            Err(Setback::Gone) => return Err(Setback::Gone),
            Err(setback) => {
                self.do_without(id, &setback);
                return Ok(());
            }
        };
        conversation.records_owed = false;
        let context = self.context.clone();
        let (news, kept) = changed(&rows, &conversation.records);
        for row in news {
            if self.refusals(&row.row.id) > 0 {
                let detail = format!("the {} {} is larger than Kafka takes", row.entity, row.row.id);
                batch.ledger.extend(self.lost(id, detail));
                continue;
            }
            let topic: Arc<str> = format!("{}.{}", context.identity.prefix, row.entity).into();
            let writer = RowWriter {
                context: &context,
                entity: row.entity,
                topic,
                by: Reader::Job(JOB),
                op: "refresh",
                from: "rest",
            };
            batch.rows.extend(writer.refresh(&row.row.id, &row.row.record, row.row.as_of.timestamp()));
        }
        conversation.records = kept;
        Ok(())
    }

    /// A conversation of which the entries are written and the records are not, as soon as these may be read.
    pub(super) fn next_without_records(&self) -> Option<&str> {
        if !self.config.records || self.beside.waits() {
            return None;
        }
        // A fetch that is under way brings its own.
        let without = |(id, conversation): &(&String, &Conversation)| {
            conversation.records_owed && !self.underway.contains_key(id.as_str())
        };
        // One that can never be read has its turn after all others.
        let behind = self.beside.failed.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.conversations.range::<String, _>((behind, Bound::Unbounded)).chain(self.conversations.iter());
        let mut rest = rest.filter(without).map(|(id, _)| id.as_str());
        rest.next()
    }

    /// Writes the records of a conversation without its entries. Returns whether they could be read.
    pub(super) async fn fetch_records(&mut self, id: &str) -> Result<bool, Setback> {
        let (mut conversation, mut batch) =
            (self.conversations.get(id).cloned().unwrap_or_default(), MessageBatch::default());
        self.add_records(id, &mut conversation, &mut batch).await?;
        if conversation.records_owed {
            return Ok(false);
        }
        self.commit(id, batch, &mut conversation).await?;
        Ok(true)
    }

    /// The records of a conversation, as they are since the last event that its fetch is for.
    async fn rows_of(&mut self, id: &str) -> Result<Vec<ConversationRow>, Setback> {
        let triggers = self.desk.triggers();
        let told = self.triggers_of(id).into_iter().filter_map(|(session, _)| Some(triggers.get(&session)?.renewed_at));
        let least = told.max().unwrap_or_default().max(Utc::now() - GOOD_FOR);
        if let Some((_, rows)) = self.beside.read.remove(id).filter(|(at, _)| *at > least) {
            return Ok(rows);
        }
        self.beside.asked.clear();
        for entity in [CONVERSATION, PARTICIPANT] {
            self.context.claims.claim(entity, &self.context.identity.topic).map_err(Setback::Stopped)?;
            let topic: Arc<str> = format!("{}.{entity}", self.context.identity.prefix).into();
            self.topics.ensure_entity(&topic, &self.cancel).await.map_err(Setback::Stopped)?;
        }
        let (next, at) = (self.next_ones(id), Utc::now());
        self.beside.asked.clone_from(&next);
        let ids: Vec<&str> = next.iter().map(String::as_str).collect();
        let rows = self.reader.conversation_records(&ids, Instant::now() + PATIENCE).await;
        let rows = rows.map_err(Setback::Records)?;
        self.beside.could_read();
        self.beside.read = next.into_iter().map(|id| (id, (at, Vec::new()))).collect();
        for row in rows {
            if let Some((_, of)) = self.beside.read.get_mut(&row.conversation) {
                of.push(row);
            }
        }
        Ok(self.beside.read.remove(id).map(|(_, rows)| rows).unwrap_or_default())
    }

    /// A conversation, and others that are fetched soon.
    fn next_ones(&self, id: &str) -> BTreeSet<String> {
        let wall = self.now();
        let owed = self.conversations.iter().filter(|(_, conversation)| conversation.records_owed);
        let owed = owed.map(|(id, _)| id.clone());
        let told = self.sessions.resolved.values().map(|(_, id)| id.clone());
        let due = |conversation: &Conversation| conversation.due(&self.config).is_some_and(|(at, _)| at <= wall);
        let watched = self.conversations.iter().filter(|(_, conversation)| due(conversation)).map(|(id, _)| id.clone());
        let old = self.ahead.iter().filter_map(|ahead| match &ahead.step {
            Step::Fetch(id) => Some(id.clone()),
            Step::Nothing | Step::Owe => None,
        });
        self.beside.together(id, owed.chain(told).chain(watched).chain(old))
    }

    /// Goes on without these records until somebody may have mended what is wrong, or it has mended itself.
    fn do_without(&mut self, id: &str, setback: &Setback) {
        self.beside.could_not_read(id);
        let Failure { what, remedy, .. } = setback.failure();
        warn!(topic = %self.context.identity.topic, error = what, remedy, "records of conversations are not written");
        self.context.board.error(what, remedy);
        let backoff = self.beside.backoff.get_or_insert_with(|| Backoff::new(LIMITS));
        self.beside.not_before = Some(Instant::now() + setback.wait(backoff));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{ObjectDescription, RowPlan};

    fn row(id: &str, name: &str) -> ConversationRow {
        let fields = ["Id", "Name", "LastModifiedDate"].map(|name| {
            let kind = if name == "LastModifiedDate" { "datetime" } else { "string" };
            serde_json::json!({"name": name, "type": kind})
        });
        let description = serde_json::json!({"name": "Conversation", "fields": fields}).to_string();
        let description = ObjectDescription::parse(description.as_bytes()).expect("an object");
        let plan = RowPlan::new(&description, &crate::change::FieldPolicies::default(), |_| true).expect("a plan");
        let text = serde_json::json!({"Id": id, "Name": name, "LastModifiedDate": "2026-11-22T10:00:00.000+0000"});
        let row = plan.render(&text.to_string()).expect("a row");
        ConversationRow { conversation: "c".into(), entity: CONVERSATION, row }
    }

    #[test]
    fn one_whose_records_can_never_be_read_keeps_nobody_elses_back() {
        let (mut beside, mut read, mut calls) = (Beside::default(), BTreeSet::new(), 0);
        let all: Vec<String> = (0..TOGETHER).map(|number| format!("c{number:03}")).collect();
        let owed = |read: &BTreeSet<String>| all.iter().filter(|id| !read.contains(*id)).cloned().collect::<Vec<_>>();
        // Once nobody's fault, and then always that of one of them.
        for broken in [&all[..], &all[40..41]].into_iter().chain(std::iter::repeat_n(&all[40..41], 110)) {
            let waiting = owed(&read);
            let behind = waiting.iter().find(|id| beside.failed.as_ref().is_none_or(|failed| *id > failed));
            let Some(id) = behind.or(waiting.first()).cloned() else { break };
            beside.asked = beside.together(&id, waiting.into_iter());
            calls += 1;
            if beside.asked.iter().any(|id| broken.contains(id)) {
                beside.could_not_read(&id);
            } else {
                beside.could_read();
                read.insert(id);
            }
        }
        assert_eq!(owed(&read), [all[40].clone()], "{calls} calls");
        assert_eq!(beside.apart, BTreeSet::from([all[40].clone()]), "the others are asked for together again");
        let others = || (0..3).map(|number| format!("n{number}"));
        assert_eq!(beside.together("n0", others()).len(), 3);
        assert_eq!(beside.together("n0", others().chain([all[40].clone()])).len(), 3, "and never with that one");
        beside.forget(&all[40]);
        assert!(beside.apart.is_empty());
    }

    #[test]
    fn a_record_is_written_when_it_is_new_or_changed_and_what_is_kept_of_them_is_bounded() {
        let rows = [row("0dw8d0000000001AAA", "a"), row("0dw8d0000000002AAA", "b")];
        let (news, kept) = changed(&rows, &BTreeMap::new());
        assert_eq!((news.len(), kept.len()), (2, 2));
        let rows = [rows[0].clone(), row("0dw8d0000000002AAA", "c")];
        let (news, kept) = changed(&rows, &kept);
        assert_eq!((news, kept.len()), (vec![&rows[1]], 2));
        assert!(changed(&rows, &kept).0.is_empty());
        let many: Vec<_> = (0..MOST_KEPT + 3).map(|number| row(&format!("0dw8d00000{number:05}AAA"), "a")).collect();
        let (news, kept) = changed(&many, &BTreeMap::new());
        assert_eq!((news.len(), kept.len(), changed(&many, &kept).0.len()), (MOST_KEPT + 3, MOST_KEPT, 3));
    }
}

//! One round of a poll: a page of what was changed, read, compared with what Kafka holds, and written; with the last page the
//! position. The head of the polls says why that is enough.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tracing::warn;

use crate::change::{Row, RowFault};
use crate::kafka::OutputRecord;
use crate::pipeline::jobs::entry::Entry;
use crate::pipeline::jobs::job::Job;
use crate::pipeline::jobs::polled::{Held, Window, content_of, is_news};
use crate::pipeline::jobs::polling::kept;
use crate::pipeline::jobs::reading::{PATIENCE, current_at_least};
use crate::pipeline::jobs::rows::{Reader, RowWriter};
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::seam::{JobBatch, JobRow};
use crate::pipeline::jobs::setback::Setback;
use crate::pipeline::jobs::touched::{Known, RecordKey};
use crate::pipeline::ledger::{GapCause, GapEnd, OpenGap};
use crate::salesforce::id_listing::ListedRecord;
use crate::salesforce::record_read::Found;

/// A round under way.
pub(super) struct Round {
    /// Salesforce's time before anything was asked for.
    began: DateTime<Utc>,
    at: Instant,
    /// The last id that is dealt with.
    after: Option<String>,
    /// Whether something was written meanwhile that may be newer than what was read.
    overtaken: bool,
}

/// What came of some records of a page.
#[derive(Default)]
struct Slice {
    rows: Vec<JobRow>,
    /// What Kafka holds once the rows are written.
    becomes: Vec<(RecordKey, Held)>,
    /// Records that cannot be read or written, as far as they are known.
    unread: Vec<(String, RecordKey, Held)>,
    /// Those that are listed and that no read shows, in one round after another.
    unseen: Vec<(String, RecordKey, Held)>,
    /// The same, for the first time.
    hidden: Vec<RecordKey>,
}

impl Runner {
    /// Deals with a page of what was changed; with the last one the round ends.
    pub(super) async fn poll_page(&mut self, number: usize, entity: &str, topic: &Arc<str>) -> Result<(), Setback> {
        // First the marker and the time, then the read.
        let marker = self.desk.marker();
        let now = self.reader.client().session().salesforce_now();
        let Some(poll) = self.polls.get_mut(number) else { return Ok(()) };
        let Some(from) = poll.from else { return Ok(()) };
        let begin = || Round { began: now, at: Instant::now(), after: None, overtaken: false };
        let round = poll.round.get_or_insert_with(begin);
        let (began, after) = (round.began, round.after.clone());
        let deadline = Instant::now() + PATIENCE;
        let page = self.reader.changed_since_after(entity, from, after.as_deref(), deadline).await?;
        // The answer has set the clock: one that went forward in between had made a time of it that is still to come.
        let began = began.min(self.reader.client().session().salesforce_now());
        if let Some(round) = self.polls.get_mut(number).and_then(|poll| poll.round.as_mut()) {
            round.began = began;
        }
        let mut left = page.records.as_slice();
        loop {
            let (slice, rest) = left.split_at(left.len().min(self.slice.max(1)));
            let read = self.poll_slice(number, entity, topic, slice, began).await?;
            let ends = page.last && rest.is_empty();
            self.poll_commit(number, entity, marker, read, ends).await?;
            if let Some(round) = self.polls.get_mut(number).and_then(|poll| poll.round.as_mut()) {
                round.after = slice.last().map(|last| last.id.clone()).or(round.after.take());
            }
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        if page.last {
            self.end_round(number, entity);
        }
        Ok(())
    }

    /// Reads records that are listed, and compares them with what Kafka holds.
    async fn poll_slice(
        &mut self,
        number: usize,
        entity: &str,
        topic: &Arc<str>,
        listed: &[ListedRecord],
        began: DateTime<Utc>,
    ) -> Result<Slice, Setback> {
        let alive: Vec<&str> = listed.iter().filter(|one| !one.deleted).map(|one| one.id.as_str()).collect();
        let found = if alive.is_empty() {
            HashMap::new()
        } else {
            self.reader.read(entity, None, &alive, Instant::now() + PATIENCE).await?
        };
        let plan = self.plan_of(entity).await?;
        let context = self.context.clone();
        let began = began.to_rfc3339_opts(SecondsFormat::Millis, true);
        let by = Reader::Poll(&began);
        let writer = RowWriter { context: &context, entity, topic: topic.clone(), by, op: "refresh", from: "rest" };
        let too_large = self.memory.oversize_rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let nothing = Window::new();
        let window = self.polls.get(number).and_then(|poll| poll.window.as_ref()).unwrap_or(&nothing);
        let hidden = self.polls.get(number).map(|poll| poll.hidden.clone()).unwrap_or_default();
        let mut slice = Slice::default();
        for one in listed {
            let Some(key) = RecordKey::of(one.id.as_bytes()) else { continue };
            let held = window.get(&key);
            let Some((stamp, row)) = read_of(one, found.get(&one.id)) else {
                let read = Held { as_of: one.as_of.timestamp(), alive: true, content: None };
                match hidden.contains(&key) {
                    // It stands in the ledger. Of one that was shown since nobody knows what it says now, whatever its stamp is.
                    _ if !is_news(held, &read) => {}
                    // One that was purged since is not listed any more when the round is made again.
                    false => slice.hidden.push(key),
                    true => slice.unseen.push((one.id.clone(), key, read)),
                }
                continue;
            };
            let content = row.ok().flatten().map(|row| content_of(row.record.as_str(), &plan));
            let read = Held { as_of: stamp, alive: !matches!(row, Ok(None)), content };
            if !is_news(held, &read) {
                continue;
            }
            let as_of = current_at_least(held.map(|held| held.as_of), stamp);
            let records = match row {
                Ok(Some(row)) if !too_large.contains(&one.id) => writer.refresh(&one.id, &row.record, as_of),
                Ok(None) => writer.delete(&one.id, as_of),
                Ok(Some(_)) | Err(_) => {
                    slice.unread.push((one.id.clone(), key, read));
                    continue;
                }
            };
            let becomes = Known { as_of, alive: read.alive };
            slice.rows.push(JobRow { id: one.id.clone(), key, stamp, becomes, absent: false, records });
            slice.becomes.push((key, Held { as_of, ..read }));
        }
        self.measure(&slice.rows);
        Ok(slice)
    }

    /// Hands rows over, in as many transactions as their size demands; with the last ones of a round the position.
    async fn poll_commit(
        &mut self,
        number: usize,
        entity: &str,
        marker: u64,
        slice: Slice,
        ends: bool,
    ) -> Result<(), Setback> {
        if let Some(poll) = self.polls.get_mut(number).filter(|_| !slice.hidden.is_empty()) {
            poll.hidden.extend(&slice.hidden);
            if let Some(round) = poll.round.as_mut() {
                round.overtaken = true;
            }
        }
        let (mut entries, mut opens) = self.gaps_of(entity, &slice);
        let mut rows = slice.rows.into_iter().peekable();
        let mut becomes = slice.becomes.into_iter();
        loop {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next_if(|_| bytes < self.context.batch.max_bytes) {
                bytes += row.records.iter().map(OutputRecord::size).sum::<usize>();
                part.push(row);
            }
            let last = rows.peek().is_none();
            let kept: Vec<_> =
                self.next_from(number).filter(|_| last && ends).map(|at| kept(entity, at)).into_iter().collect();
            if part.is_empty() && kept.is_empty() && entries.is_empty() {
                return Ok(());
            }
            let written = part.len();
            let (entries, opens) = (std::mem::take(&mut entries), std::mem::take(&mut opens));
            let deletes = part.iter().filter(|row| !row.becomes.alive).count();
            let (batch, committed) = JobBatch::new(marker);
            let batch = JobBatch { rows: part, entries, opens, kept, ..batch };
            let back = self.deliver(batch, committed).await?;
            let Some(poll) = self.polls.get_mut(number) else { return Ok(()) };
            let window = poll.window.get_or_insert_default();
            window.extend(becomes.by_ref().take(written).filter(|(key, _)| !back.contains(&key.id())));
            if let Some(round) = poll.round.as_mut() {
                round.overtaken |= !back.is_empty();
            }
            let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
            self.context.board.update(|status| {
                let shown = status.poll(entity);
                shown.rows += count(written.saturating_sub(deletes + back.len()));
                shown.deletes += count(deletes);
            });
            if last {
                break;
            }
        }
        // Known to be unread, in the ledger: not again with the next round.
        if let Some(window) = self.polls.get_mut(number).and_then(|poll| poll.window.as_mut()) {
            let noted = slice.unread.into_iter().chain(slice.unseen).map(|(_, key, read)| (key, read));
            window.extend(noted);
        }
        Ok(())
    }

    /// The entries of records that a round could not read, and the jobs that do.
    fn gaps_of(&self, entity: &str, slice: &Slice) -> (Vec<Entry>, Vec<Job>) {
        let gaps = [(GapCause::Unread, &slice.unread), (GapCause::Hidden, &slice.unseen)];
        let (mut entries, mut opens) = (Vec::new(), Vec::new());
        for gap in gaps.into_iter().filter_map(|(cause, records)| unread(entity, cause, records)) {
            warn!(entity, id = gap.id, records = gap.records.len(), "poll could not read records, gap opened");
            self.context.board.update(|status| status.gaps_opened += 1);
            let (entry, job) = self.opened(&gap);
            entries.extend(entry);
            opens.extend(job);
        }
        (entries, opens)
    }

    /// Where the next round begins if this one ends now; none if something of it has to be read again.
    fn next_from(&self, number: usize) -> Option<DateTime<Utc>> {
        let poll = self.polls.get(number)?;
        let round = poll.round.as_ref().filter(|round| !round.overtaken)?;
        let from = poll.from?;
        Some(from.max(round.began.checked_sub_signed(poll.look_back()).unwrap_or(from)))
    }

    fn end_round(&mut self, number: usize, entity: &str) {
        let next = self.next_from(number);
        let Some(poll) = self.polls.get_mut(number) else { return };
        let Some(round) = poll.round.take() else { return };
        poll.due = (round.at + poll.config.every).max(Instant::now());
        let Some(from) = next else { return };
        poll.hidden.clear();
        poll.from = Some(from);
        if let Some(window) = &mut poll.window {
            window.retain(|_, held| held.as_of >= from.timestamp());
        }
        self.context.board.update(|status| {
            let shown = status.poll(entity);
            shown.rounds += 1;
            (shown.from, shown.read_to) = (Some(from), Some(round.began));
            (shown.waits_for, shown.remedy, shown.next_attempt_at) = (None, None, None);
        });
    }
}

/// What was read of a record that is listed, with its stamp: the row, none of a deleted one, or why it cannot be rendered.
/// Nothing of one that was purged or hidden since, of which no query tells.
fn read_of<'a>(
    listed: &ListedRecord,
    found: Option<&'a Found>,
) -> Option<(i64, Result<Option<&'a Row>, &'a RowFault>)> {
    let (as_of, row) = match found {
        _ if listed.deleted => (listed.as_of, Ok(None)),
        Some(Found::Row(row)) => (row.as_of, Ok(Some(row))),
        Some(Found::Deleted { as_of }) => (*as_of, Ok(None)),
        Some(Found::Unreadable(fault)) => (listed.as_of, Err(fault)),
        Some(Found::Hidden) | None => return None,
    };
    Some((as_of.timestamp(), row))
}

/// The ledger's entry of records that cannot be read or written. Its id is made of all that it is about, so that a round that
/// is made again writes the same one, and one that finds others, or the same with other stamps, writes another one.
fn unread(entity: &str, cause: GapCause, unread: &[(String, RecordKey, Held)]) -> Option<OpenGap> {
    let (first, _, Held { as_of: stamp, .. }) = unread.first()?;
    let from = GapEnd { replay_id: None, time: DateTime::from_timestamp(*stamp, 0) };
    let (kind, detail) = match cause {
        GapCause::Hidden => {
            ("hidden-poll", "a poll finds these records listed, and no query that reads them shows them")
        }
        _ => ("poll", "a poll could not read these records: in a form that is not known, or larger than Kafka takes"),
    };
    let mut digest = Sha256::new();
    for (id, _, Held { as_of, .. }) in unread {
        // No id has such a byte in it.
        digest.update(format!("{id}\0{as_of}\0"));
    }
    let digest: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let (id, entity) = (format!("{kind}-{entity}-{first}-{stamp}-{digest}"), Some(entity.to_owned()));
    let records = unread.iter().map(|(id, ..)| id.clone()).collect();
    Some(OpenGap { id, entity, records, ..OpenGap::of_range(cause, from, GapEnd::default(), detail.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_the_same_for_the_same_records_as_they_are_and_another_one_for_others() {
        let id = |number: u32| crate::identity::case_safe_id(&format!("00a8d0000{number:06}")).into_owned();
        let entry = |cause, records: &[(u32, i64)]| {
            let one = |(number, as_of): &(u32, i64)| {
                let key = RecordKey::of(id(*number).as_bytes()).expect("an id");
                (id(*number), key, Held { as_of: *as_of, alive: true, content: None })
            };
            unread("CaseComment", cause, &records.iter().map(one).collect::<Vec<_>>()).expect("an entry")
        };
        let first = entry(GapCause::Unread, &[(1, 100), (2, 200)]);
        assert_eq!(first.id, entry(GapCause::Unread, &[(1, 100), (2, 200)]).id, "the round is made again");
        assert_eq!(first.records, [id(1), id(2)]);
        for (other, why) in [
            (entry(GapCause::Unread, &[(1, 100), (3, 200)]), "the second can be read meanwhile, and a third cannot"),
            (entry(GapCause::Unread, &[(1, 100), (2, 201)]), "the second was changed"),
            (entry(GapCause::Unread, &[(1, 101), (2, 200)]), "the first was changed"),
            (entry(GapCause::Unread, &[(1, 100)]), "the second can be read"),
            (entry(GapCause::Hidden, &[(1, 100), (2, 200)]), "another cause"),
        ] {
            assert_ne!(first.id, other.id, "{why}");
        }
        assert!(unread("CaseComment", GapCause::Unread, &[]).is_none());
    }
}

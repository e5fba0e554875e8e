//! A whole object by its ids, in their order: a page is listed, and what of it is to be read is read.
//!
//! Over REST each page is a query of its own behind the last id of the page before. A job over a range of time reads few
//! records, and looks at all ids to find what is gone; those of a large object are listed over Bulk. Such a listing comes in
//! no order and has no place to go on from, so it is put in order here, and a restart makes another one, of which what is dealt
//! with is left out. It may be hours old: it only says which records to read, and each is read with a marker of its own. What
//! changes after it comes by events.

use chrono::{DateTime, Utc};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use crate::pipeline::jobs::job::{Job, Listing};
use crate::pipeline::jobs::reading::{PATIENCE, Step};
use crate::pipeline::jobs::runner::Runner;
use crate::pipeline::jobs::setback::Setback;
use crate::pipeline::jobs::sweep;
use crate::pipeline::jobs::touched::{Copy, RecordKey};
use crate::salesforce::bulk::BulkError;
use crate::salesforce::id_listing::{IdPage, ListedRecord};
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest::RestError;

/// Ids that are dealt with together, as many as a page over REST has.
const PAGE: usize = 2_000;

/// All ids of an object, listed over Bulk.
pub(super) enum BulkIds {
    /// Salesforce is at it, or they are on their way.
    Coming(AbortOnDropHandle<Result<Vec<ShortRecord>, BulkError>>),
    /// In their order.
    Listed(Vec<ShortRecord>),
}

/// A listed record in 24 bytes: there can be millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShortRecord {
    key: RecordKey,
    deleted: bool,
    /// Milliseconds since 1970.
    as_of: i64,
}

impl ShortRecord {
    pub(super) fn of(record: &ListedRecord) -> Option<Self> {
        let key = RecordKey::of(record.id.as_bytes())?;
        Some(Self { key, deleted: record.deleted, as_of: record.as_of.timestamp_millis() })
    }

    fn long(&self) -> ListedRecord {
        let as_of = DateTime::<Utc>::from_timestamp_millis(self.as_of).unwrap_or_default();
        ListedRecord { id: self.key.id(), as_of, deleted: self.deleted }
    }
}

impl Runner {
    /// Deals with one page of a listing.
    pub(super) async fn page(&mut self, id: &str, entity: &str, job: Job) -> Result<(), Setback> {
        let bin = job.includes_deleted();
        let Some(listing) = &job.listing else { return Ok(()) };
        let after = listing.after.as_deref();
        let scope = job.snapshot.as_ref().filter(|scope| scope.is_partial());
        let page = match self.page_of_bulk(id, entity, listing).await? {
            Some(page) => page,
            None => {
                let condition = |time: &str| scope.and_then(|scope| scope.condition_by(time));
                self.reader.ids_where_after(entity, condition, after, Instant::now() + PATIENCE).await?
            }
        };
        let nothing = Copy::new();
        let copy = self.copies.get(id).unwrap_or(&nothing);
        let known = |key| self.desk.known(key);
        // What a part of the records lacks may be in the rest.
        let known = sweep::Held { copy, newer: known, between: scope.is_none(), bin };
        let ids = sweep::candidates(&page, after, listing.since, &known);
        let end = page.records.last().map(|last| last.id.clone()).or(listing.after.clone());
        let mut left = ids.as_slice();
        while !left.is_empty() {
            let (slice, rest) = left.split_at(left.len().min(self.slice.max(1)));
            let reached = if rest.is_empty() { end.as_deref() } else { None };
            let reached = reached.or(slice.last().map(String::as_str)).unwrap_or_default().to_owned();
            let back = self.read(id, entity, slice, &Step::Listed(&reached)).await?;
            self.after_read(back).await;
            left = rest;
        }
        let mut job = self.job(id)?;
        job.listed += u64::try_from(page.records.len()).unwrap_or(u64::MAX);
        job.listing = job.listing.filter(|_| !page.last).map(|listing| Listing { after: end, ..listing });
        self.hand_over(self.desk.marker(), Vec::new(), vec![(id.to_owned(), Some(job))]).await?;
        if page.last {
            self.listings.remove(id);
        }
        Ok(())
    }

    /// The next page of a listing over Bulk; `None` where REST lists the object.
    async fn page_of_bulk(&mut self, id: &str, entity: &str, listing: &Listing) -> Result<Option<IdPage>, Setback> {
        // Without a beginning all records are read, by a result that has them.
        if listing.since.is_none() || self.rest_only.contains(id) {
            return Ok(None);
        }
        let Some(ids) = self.listings.get_mut(id) else { return self.list_in_bulk(id, entity).await };
        let coming = match ids {
            BulkIds::Listed(ids) => return Ok(Some(page_behind(ids, listing.after.as_deref()))),
            BulkIds::Coming(coming) if !coming.is_finished() => return Err(Setback::Working { bulk: None }),
            BulkIds::Coming(coming) => coming.await,
        };
        let died = |_| BulkError::from(RestError::Unreachable("the task that lists ids has ended".to_owned()));
        match coming.map_err(died).flatten() {
            Ok(ids) => {
                info!(job = id, entity, records = ids.len(), "all ids are listed over bulk");
                let page = page_behind(&ids, listing.after.as_deref());
                self.listings.insert(id.to_owned(), BulkIds::Listed(ids));
                Ok(Some(page))
            }
            Err(BulkError::Rest(error)) => {
                self.listings.remove(id);
                Err(error.into())
            }
            Err(error) => {
                info!(job = id, entity, error = %error, "all ids are listed over rest");
                self.listings.remove(id);
                self.rest_only.insert(id.to_owned());
                Ok(None)
            }
        }
    }

    /// Whether an object has so many records that all of them are listed or read over Bulk.
    pub(super) async fn is_large(&self, entity: &str) -> Result<bool, Setback> {
        let from = self.desk.config.bulk_from;
        Ok(self.reader.client().has_at_least(from, entity, Instant::now() + PATIENCE).await?)
    }

    /// Begins a listing over Bulk, if the object is large enough.
    async fn list_in_bulk(&mut self, id: &str, entity: &str) -> Result<Option<IdPage>, Setback> {
        if !self.is_large(entity).await? {
            self.rest_only.insert(id.to_owned());
            return Ok(None);
        }
        let coming: JoinHandle<_> = tokio::spawn(all_ids(self.reader.clone(), entity.to_owned()));
        self.listings.insert(id.to_owned(), BulkIds::Coming(AbortOnDropHandle::new(coming)));
        Err(Setback::Working { bulk: None })
    }
}

/// All ids of an object, in their order.
async fn all_ids(reader: RecordReader, entity: String) -> Result<Vec<ShortRecord>, BulkError> {
    let mut listing = reader.list_in_bulk(&entity).await?;
    let mut ids = Vec::new();
    let listed = loop {
        match listing.next_page().await {
            Ok(page) => {
                ids.extend(page.records.iter().filter_map(ShortRecord::of));
                if page.last {
                    break Ok(());
                }
            }
            Err(error) => break Err(error),
        }
    };
    listing.end().await;
    listed?;
    let sorted = spawn_blocking(move || {
        ids.sort_unstable();
        ids
    });
    sorted.await.map_err(|_| RestError::Unexpected(format!("a listing of {entity} that cannot be put in order")).into())
}

/// The records behind an id, as over REST.
fn page_behind(ids: &[ShortRecord], after: Option<&str>) -> IdPage {
    let after = after.and_then(|id| RecordKey::of(id.as_bytes()));
    let begin = after.map_or(0, |after| ids.partition_point(|record| record.key <= after));
    let left = ids.get(begin..).unwrap_or_default();
    let records: Vec<_> = left.iter().take(PAGE).map(ShortRecord::long).collect();
    IdPage { last: records.len() == left.len(), records }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_a_listing_over_bulk_have_each_record_once_in_order_from_wherever_they_go_on() {
        let id = |number: usize| crate::identity::case_safe_id(&format!("5008d0000{number:06}")).into_owned();
        let listed = |number: usize| ListedRecord {
            id: id(number),
            as_of: DateTime::from_timestamp_millis(1_771_300_995_123 + number as i64).expect("a time"),
            deleted: number.is_multiple_of(7),
        };
        let expected: Vec<ListedRecord> = (0..PAGE * 2 + 1).map(listed).collect();
        let mut ids: Vec<ShortRecord> = expected.iter().rev().filter_map(ShortRecord::of).collect();
        ids.sort_unstable();
        for begin in [0, 1, PAGE, PAGE * 2, PAGE * 2 + 1] {
            let mut after = begin.checked_sub(1).map(id);
            let mut found = Vec::new();
            loop {
                let page = page_behind(&ids, after.as_deref());
                assert!(page.last || page.records.len() == PAGE, "{}", page.records.len());
                after = page.records.last().map(|last| last.id.clone());
                found.extend(page.records);
                if page.last {
                    break;
                }
            }
            assert_eq!(found, expected[begin..], "from {begin}");
        }
        assert!(page_behind(&[], None).last);
        assert_eq!(size_of::<ShortRecord>(), 24);
    }
}

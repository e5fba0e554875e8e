//! The ids of an object in their order, a page at a time, those in the recycle bin too: all, or those that were changed
//! within some time.
//!
//! Each page is a query of its own behind the last id of the page before. So a listing can go on after a restart, no
//! cursor of Salesforce expires in the middle of it, and a page is as old as its own answer.

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::time::Instant;

use crate::salesforce::query::{Scope, by_ids};
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::api_name;

/// Ids of a page: what one answer holds.
const PAGE: usize = 2_000;

/// One record of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRecord {
    /// 18 characters.
    pub id: String,
    /// Its `SystemModstamp`.
    pub as_of: DateTime<Utc>,
    /// Whether it lies in the recycle bin.
    pub deleted: bool,
}

/// A page of a listing.
#[derive(Debug)]
pub struct IdPage {
    /// In the order of Salesforce.
    pub records: Vec<ListedRecord>,
    /// Whether there is nothing behind it.
    pub last: bool,
}

/// A stretch of time by `SystemModstamp`, both ends within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedWithin {
    /// Its beginning.
    pub from: DateTime<Utc>,
    /// Its end.
    pub to: DateTime<Utc>,
}

impl ChangedWithin {
    fn condition(&self) -> String {
        let literal = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
        format!("SystemModstamp >= {} AND SystemModstamp <= {}", literal(self.from), literal(self.to))
    }
}

impl RecordReader {
    /// The records of an object whose ids come after `after`, at most 2,000.
    ///
    /// # Errors
    /// When the deadline passes, when it is hopeless, or when the object cannot say what is deleted.
    pub async fn ids_after(&self, object: &str, after: Option<&str>, deadline: Instant) -> Result<IdPage, RestError> {
        self.id_page(object, None, after, deadline).await
    }

    /// The same of those of which a condition holds, which is made out of the field that says when a record was changed.
    ///
    /// # Errors
    /// As [`ids_after`](Self::ids_after).
    pub async fn ids_where_after(
        &self,
        object: &str,
        condition: impl FnOnce(&str) -> Option<String>,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<IdPage, RestError> {
        let plan = self.descriptions().plan(object, None, deadline).await?;
        self.id_page(object, condition(plan.time_field()), after, deadline).await
    }

    /// The same of those that were last changed within `within`.
    ///
    /// # Errors
    /// As [`ids_after`](Self::ids_after).
    pub async fn changed_ids_after(
        &self,
        object: &str,
        within: ChangedWithin,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<IdPage, RestError> {
        self.id_page(object, Some(within.condition()), after, deadline).await
    }

    /// The same of those that were last changed at `since` or later. The object need not say what is deleted.
    ///
    /// # Errors
    /// When the deadline passes, or when it is hopeless.
    pub async fn changed_since_after(
        &self,
        object: &str,
        since: DateTime<Utc>,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<IdPage, RestError> {
        let plan = self.descriptions().plan(object, None, deadline).await?;
        let condition = format!("{} >= {}", plan.time_field(), since.to_rfc3339_opts(SecondsFormat::Millis, true));
        self.page_of(object, &plan.listing_fields(), Some(condition), after, deadline).await
    }

    async fn id_page(
        &self,
        object: &str,
        condition: Option<String>,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<IdPage, RestError> {
        let fields = self.listed_fields(object, deadline).await?;
        self.page_of(object, &fields, condition, after, deadline).await
    }

    async fn page_of(
        &self,
        object: &str,
        fields: &str,
        condition: Option<String>,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<IdPage, RestError> {
        let after = after.filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let behind = after.map(|id| format!("Id > '{id}'"));
        let conditions: Vec<String> = condition.into_iter().chain(behind).collect();
        let filter = if conditions.is_empty() { String::new() } else { format!("WHERE {} ", conditions.join(" AND ")) };
        let soql = format!("SELECT {fields} FROM {} {filter}ORDER BY Id LIMIT {PAGE}", api_name(object)?);
        let records = self.listed_by(object, &soql, deadline).await?;
        Ok(IdPage { last: records.len() < PAGE, records })
    }

    /// The records of these ids that are there, or in the recycle bin, in no order. One call for some hundred ids.
    ///
    /// # Errors
    /// As [`ids_after`](Self::ids_after).
    pub async fn listed(&self, object: &str, ids: &[&str], deadline: Instant) -> Result<Vec<ListedRecord>, RestError> {
        let fields = self.listed_fields(object, deadline).await?;
        let mut records = Vec::with_capacity(ids.len());
        for soql in by_ids(&fields, object, ids)? {
            records.extend(self.listed_by(object, &soql, deadline).await?);
        }
        Ok(records)
    }

    /// How many records that are not deleted were last changed within `within`. One call.
    ///
    /// # Errors
    /// When the deadline passes, or when it is hopeless.
    pub async fn count_changed(
        &self,
        object: &str,
        within: ChangedWithin,
        deadline: Instant,
    ) -> Result<u64, RestError> {
        let soql = format!("SELECT COUNT() FROM {} WHERE {}", api_name(object)?, within.condition());
        let page = self.client().query(&soql, Scope::Live)?.next_page(deadline).await?;
        Ok(page.map_or(0, |page| page.total_size))
    }

    async fn listed_fields(&self, object: &str, deadline: Instant) -> Result<String, RestError> {
        let plan = self.descriptions().plan(object, None, deadline).await?;
        plan.trace_fields().ok_or_else(|| {
            RestError::Unexpected(format!("{object} has no IsDeleted, so its deleted records cannot be told"))
        })
    }

    async fn listed_by(&self, object: &str, soql: &str, deadline: Instant) -> Result<Vec<ListedRecord>, RestError> {
        let plan = self.descriptions().plan(object, None, deadline).await?;
        let mut query = self.client().query(soql, Scope::All)?;
        let mut records = Vec::new();
        while let Some(page) = query.next_page(deadline).await? {
            for record in page.records {
                let row = plan.render(record.get());
                let row = row.map_err(|fault| RestError::Unexpected(format!("a listing of {object}: {fault}")))?;
                records.push(ListedRecord { id: row.id, as_of: row.as_of, deleted: row.deleted });
            }
        }
        Ok(records)
    }
}

//! All ids of an object in their order, a page at a time, those in the recycle bin too.
//!
//! Each page is a query of its own behind the last id of the page before. So a listing can go on after a restart, no
//! cursor of Salesforce expires in the middle of it, and a page is as old as its own answer.

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::salesforce::query::Scope;
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

impl RecordReader {
    /// The records of an object whose ids come after `after`, at most 2,000. `clause` makes a WHERE clause, with a space
    /// before it, out of the field that says when a record was changed; none where all records are meant.
    ///
    /// # Errors
    /// When the deadline passes, when it is hopeless, or when the object cannot say what is deleted.
    pub async fn ids_after(
        &self,
        object: &str,
        after: Option<&str>,
        clause: impl FnOnce(&str) -> Option<String>,
        deadline: Instant,
    ) -> Result<IdPage, RestError> {
        let plan = self.descriptions().plan(object, None, deadline).await?;
        let fields = plan.trace_fields().ok_or_else(|| {
            RestError::Unexpected(format!("{object} has no IsDeleted, so its deleted records cannot be told"))
        })?;
        let after = after.filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let clause = clause(plan.time_field()).unwrap_or_default();
        let word = if clause.is_empty() { " WHERE" } else { " AND" };
        let behind = after.map(|id| format!("{word} Id > '{id}'")).unwrap_or_default();
        let soql = format!("SELECT {fields} FROM {}{clause}{behind} ORDER BY Id LIMIT {PAGE}", api_name(object)?);
        let mut query = self.client().query(&soql, Scope::All)?;
        let mut records = Vec::new();
        while let Some(page) = query.next_page(deadline).await? {
            for record in page.records {
                let row = plan.render(record.get());
                let row = row.map_err(|fault| RestError::Unexpected(format!("a listing of {object}: {fault}")))?;
                records.push(ListedRecord { id: row.id, as_of: row.as_of, deleted: row.deleted });
            }
        }
        Ok(IdPage { last: records.len() < PAGE, records })
    }
}

//! Records by their ids, and what became of those that are not there.
//!
//! A place without a record says nothing of the reason. The recycle bin tells: a record in it is deleted. One that is
//! in neither may be purged or hidden from the user, and is never taken for deleted.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::change::{Row, RowFault, RowPlan};
use crate::identity::SchemaId;
use crate::salesforce::describe::Descriptions;
use crate::salesforce::query::{Scope, by_ids};
use crate::salesforce::rest::{RestError, RestVerdict};
use crate::salesforce::rest_client::RestClient;

/// What was found of one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The record.
    Row(Row),
    /// It lies in the recycle bin.
    Deleted {
        /// Its `SystemModstamp`.
        as_of: DateTime<Utc>,
    },
    /// It is not there for this user, and nothing says why.
    Hidden,
    /// It is there and cannot be rendered.
    Unreadable(RowFault),
}

/// Reads the records of one stream. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RecordReader {
    client: RestClient,
    descriptions: Descriptions,
}

impl RecordReader {
    /// Over a client, by these descriptions.
    pub fn new(client: RestClient, descriptions: Descriptions) -> Self {
        Self { client, descriptions }
    }

    /// The client.
    pub fn client(&self) -> &RestClient {
        &self.client
    }

    /// The descriptions that it reads by.
    pub(crate) fn descriptions(&self) -> &Descriptions {
        &self.descriptions
    }

    /// Reads the records of `ids`, each of which has its entry in the answer. `schema` is that of the events that ask.
    ///
    /// One call for up to 2,000 ids; one more for some hundred of those that are not there.
    ///
    /// # Errors
    /// When the deadline passes, or when it is hopeless; nothing is known then.
    pub async fn read(
        &self,
        object: &str,
        schema: Option<&SchemaId>,
        ids: &[&str],
        deadline: Instant,
    ) -> Result<HashMap<String, Found>, RestError> {
        let plan = self.descriptions.plan(object, schema, deadline).await?;
        let places = match self.client.retrieve(&plan, ids, deadline).await {
            Err(error) if error.verdict() == RestVerdict::DescribeAnew => {
                let plan = self.descriptions.replace(&plan, deadline).await?;
                self.client.retrieve(&plan, ids, deadline).await?
            }
            places => places?,
        };
        let mut found = HashMap::with_capacity(ids.len());
        let mut missing = Vec::new();
        for (id, place) in ids.iter().zip(places) {
            let what = match place {
                Some(Ok(row)) if row.deleted => Found::Deleted { as_of: row.as_of },
                Some(Ok(row)) => Found::Row(row),
                Some(Err(fault)) => Found::Unreadable(fault),
                None => {
                    missing.push(*id);
                    Found::Hidden
                }
            };
            found.insert((*id).to_owned(), what);
        }
        self.trace(&plan, &missing, &mut found, deadline).await?;
        Ok(found)
    }

    /// Looks for records in the recycle bin.
    async fn trace(
        &self,
        plan: &RowPlan,
        ids: &[&str],
        found: &mut HashMap<String, Found>,
        deadline: Instant,
    ) -> Result<(), RestError> {
        let Some(fields) = plan.trace_fields() else { return Ok(()) };
        for soql in by_ids(&fields, plan.object(), ids)? {
            let mut query = self.client.query(&soql, Scope::All)?;
            while let Some(page) = query.next_page(deadline).await? {
                for record in page.records {
                    let row = plan.render(record.get());
                    let row = row.map_err(|fault| RestError::Unexpected(format!("queryAll: {fault}")))?;
                    if row.deleted
                        && let Some(entry) = found.get_mut(&row.id)
                    {
                        *entry = Found::Deleted { as_of: row.as_of };
                    }
                }
            }
        }
        Ok(())
    }
}

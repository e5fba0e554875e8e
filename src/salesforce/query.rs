//! SOQL, page by page: `/query` sees what the user works with, `/queryAll` also the recycle bin.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::salesforce::rest::{RestError, RestRequest, read_json};
use crate::salesforce::rest_client::{RestClient, api_name};

/// URI and headers together may have 16,384 bytes (414 and 431 otherwise); tokens can have thousands.
const MOST_URI_BYTES: usize = 12_000;

/// What a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Records that are not deleted.
    Live,
    /// Deleted, merged and archived ones as well, as long as they have not been purged.
    All,
}

/// A query under way.
#[derive(Debug)]
pub struct Query {
    client: RestClient,
    /// The page to read next.
    next: Option<RestRequest>,
}

/// One page of a query.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// How many records the whole query has.
    #[serde(default)]
    pub total_size: u64,
    /// The records of this page, as JSON.
    #[serde(default)]
    pub records: Vec<Box<RawValue>>,
    /// Where the next page is.
    next_records_url: Option<String>,
}

impl RestClient {
    /// Begins a query. Nothing is asked yet.
    ///
    /// # Errors
    /// When the text is longer than a URI may be.
    pub fn query(&self, soql: &str, scope: Scope) -> Result<Query, RestError> {
        let resource = match scope {
            Scope::Live => "query",
            Scope::All => "queryAll",
        };
        let path = format!("{}?q={}", self.path(resource), encoded(soql));
        if path.len() > MOST_URI_BYTES {
            return Err(RestError::Path(format!("{resource} with {} bytes of SOQL", soql.len())));
        }
        Ok(Query { client: self.clone(), next: Some(RestRequest::get(path)) })
    }
}

impl RestClient {
    /// How many records an object has; `clause` is empty or a WHERE clause with a space before it.
    ///
    /// # Errors
    /// When it cannot be asked, and when there are too many to be counted in time (`QUERY_TIMEOUT`).
    pub async fn count(&self, object: &str, clause: &str, scope: Scope, deadline: Instant) -> Result<u64, RestError> {
        let soql = format!("SELECT COUNT() FROM {}{clause}", api_name(object)?);
        let page = self.query(&soql, scope)?.next_page(deadline).await?;
        Ok(page.map_or(0, |page| page.total_size))
    }

    /// Whether an object has so many records, those in the recycle bin too. One call.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn has_at_least(&self, records: u64, object: &str, deadline: Instant) -> Result<bool, RestError> {
        match self.count(object, "", Scope::All, deadline).await {
            Ok(found) => Ok(found >= records),
            // Too many to be counted in time.
            Err(RestError::Refused { code, .. }) if code == "QUERY_TIMEOUT" => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Query {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// After an error the same page is asked for again, unless the verdict is
    /// [`QueryAnew`](crate::salesforce::rest::RestVerdict::QueryAnew).
    pub async fn next_page(&mut self, deadline: Instant) -> Result<Option<Page>, RestError> {
        let Some(request) = &self.next else { return Ok(None) };
        let answer = self.client.call(request, deadline).await?;
        let page: Page = read_json(request.resource(), &answer)?;
        // `done` is not always there; the address of the next page is what there is to follow.
        self.next = page.next_records_url.clone().map(RestRequest::get);
        Ok(Some(page))
    }
}

/// Queries for records by their ids, as many as the length of a URI demands. Ids that are none are left out:
/// there is no such record.
///
/// # Errors
/// When the object's name is none.
pub fn by_ids(fields: &str, object: &str, ids: &[&str]) -> Result<Vec<String>, RestError> {
    let is_id = |id: &&&str| id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let ids: Vec<&str> = ids.iter().filter(is_id).copied().collect();
    by_values(fields, object, "Id", &ids)
}

/// The same by the values of another field: ids or UUIDs. Others are left out.
///
/// # Errors
/// When the object's or the field's name is none.
pub fn by_values(fields: &str, object: &str, field: &str, values: &[&str]) -> Result<Vec<String>, RestError> {
    let head = format!("SELECT {fields} FROM {} WHERE {} IN (", api_name(object)?, api_name(field)?);
    let mut left: VecDeque<_> = values
        .iter()
        .filter(|value| value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
        .map(|value| format!("'{value}'"))
        .collect();
    let mut queries = Vec::new();
    // The path before the query is short; a hundred bytes hold it many times over.
    let room = MOST_URI_BYTES.saturating_sub(encoded(&head).len() + 100);
    while !left.is_empty() {
        let mut soql = head.clone();
        let mut used = 0;
        while let Some(value) = left.front() {
            let first = used == 0;
            used += encoded(value).len() + 3;
            if used > room && !first {
                break;
            }
            soql.push_str(if first { "" } else { "," });
            soql.push_str(value);
            left.pop_front();
        }
        soql.push(')');
        queries.push(soql);
    }
    Ok(queries)
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_by_ids_are_as_few_as_the_length_of_a_uri_allows_and_leave_nobody_out() {
        let ids: Vec<String> = (0..2_000).map(|number| format!("5008d0000{number:09}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let queries = by_ids("Id, IsDeleted", "Case", &ids).expect("a name");
        assert!((5..=6).contains(&queries.len()), "{}", queries.len());
        assert!(queries.iter().all(|soql| encoded(soql).len() + 100 <= MOST_URI_BYTES));
        let asked: Vec<&str> = queries
            .iter()
            .flat_map(|soql| soql.split_once('(').expect("ids").1.trim_end_matches(')').split(','))
            .map(|id| id.trim_matches('\''))
            .collect();
        assert_eq!(asked, ids);
        assert_eq!(
            by_ids("Id", "Case", &["500A", "' OR Name != '", "500B"]).expect("a name"),
            ["SELECT Id FROM Case WHERE Id IN ('500A','500B')"]
        );
        assert!(by_ids("Id", "Case", &[]).expect("a name").is_empty());
        assert!(by_ids("Id", "Case WHERE", &["500A"]).is_err());
        assert_eq!(
            by_values("Id", "Conversation", "ConversationIdentifier", &["36b0f4d9-7c14", "' OR Id != '"])
                .expect("names"),
            ["SELECT Id FROM Conversation WHERE ConversationIdentifier IN ('36b0f4d9-7c14')"]
        );
    }
}

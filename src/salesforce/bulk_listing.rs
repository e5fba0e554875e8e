//! The ids of a whole object by a Bulk query job. Over REST a listing takes a call for every 2,000 records; here it takes one
//! for 25,000, and Salesforce splits the work by itself.
//!
//! The same fields and the same scope (`queryAll`), but no order, since an ORDER BY would make one piece of the work again. A
//! page is checked against what Salesforce says of it, and all pages against the job: a listing that comes to its end has all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::change::CsvPlan;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::bulk::{BulkError, BulkState};
use crate::salesforce::bulk_held::HeldJob;
use crate::salesforce::bulk_page::PageRoom;
use crate::salesforce::id_listing::{IdPage, ListedRecord};
use crate::salesforce::query::Scope;
use crate::salesforce::record_read::RecordReader;
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::{RestClient, api_name};

/// One call may take so long, with its repetitions.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between looks at the job.
const POLLS: BackoffLimits = BackoffLimits::constant(Duration::from_millis(200), Duration::from_secs(30));

/// So many rows are read before others get their turn on the thread.
const ROWS_A_TURN: usize = 1_024;

/// So long Salesforce may work on it. Its own limit for a query is far below.
const WORK: Duration = Duration::from_secs(3600);

/// A listing of a whole object, ready to be read. Dropped before its end, it gives the job back all the same.
#[derive(Debug)]
pub struct BulkListing {
    client: RestClient,
    plan: Arc<CsvPlan>,
    held: HeldJob,
    /// Records that the job has found.
    found: u64,
    /// Those that were read.
    read: u64,
    locator: Option<String>,
}

impl RecordReader {
    /// Has Salesforce list an object, those in the recycle bin too, and waits until it has.
    ///
    /// # Errors
    /// When Salesforce does not do it; the verdict says whether REST does.
    pub async fn list_in_bulk(&self, object: &str) -> Result<BulkListing, BulkError> {
        let (client, deadline) = (self.client().clone(), Instant::now() + PATIENCE);
        let fields = self.descriptions().plan(object, None, deadline).await?.without_members();
        let fields = fields.ok_or_else(|| BulkError::NotForBulk(format!("{object} has no IsDeleted")))?;
        let plan = CsvPlan::new(Arc::new(fields)).map(Arc::new).map_err(BulkError::NotForBulk)?;
        let soql = format!("SELECT {} FROM {}", plan.columns().join(", "), api_name(object)?);
        let held = client.hold_bulk_query(soql, Scope::All, deadline).await?;
        info!(object, bulk = held.job().id, "bulk query job created to list all ids");
        let mut listing = BulkListing { client, plan, held, found: 0, read: 0, locator: None };
        match listing.wait().await {
            Ok(found) => listing.found = found,
            Err(error) => {
                listing.end().await;
                return Err(error);
            }
        }
        Ok(listing)
    }
}

impl BulkListing {
    async fn wait(&self) -> Result<u64, BulkError> {
        let (mut polls, until) = (Backoff::new(POLLS), Instant::now() + WORK);
        loop {
            match self.client.bulk_state(self.held.job(), Instant::now() + PATIENCE).await? {
                BulkState::Complete(found) => return Ok(found),
                BulkState::Working if Instant::now() < until => sleep(polls.next_wait()).await,
                BulkState::Working => {
                    let what = format!("{} is still worked on after {} s", self.held.job().id, WORK.as_secs());
                    return Err(BulkError::Failed(what));
                }
            }
        }
    }

    /// The next page, in no order.
    ///
    /// # Errors
    /// When it cannot be had, or when the pages are not all that the job has found. What was read of the listing is worth nothing then.
    pub async fn next_page(&mut self) -> Result<IdPage, BulkError> {
        if self.found == 0 {
            return Ok(IdPage { records: Vec::new(), last: true });
        }
        let deadline = Instant::now() + PATIENCE;
        let (of, room, heads) = ((&self.plan, self.held.job()), PageRoom::default(), watch::Sender::new(None));
        let mut page = self.client.bulk_page(of, self.locator.as_deref(), room, &heads, deadline).await?;
        let mut records = Vec::with_capacity(page.left());
        while let Some(row) = page.next_row()? {
            let row = row.map_err(|(_, fault)| {
                RestError::Unexpected(format!("a listing of {} over Bulk: {fault}", self.plan.object()))
            })?;
            records.push(ListedRecord { id: row.id, as_of: row.as_of, deleted: row.deleted });
            if records.len() % ROWS_A_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.read += records.len() as u64;
        self.locator = page.next_locator().map(str::to_owned);
        let last = self.locator.is_none();
        // A place that comes again would bring the same records for ever.
        if self.read > self.found || (last && self.read != self.found) {
            let what = format!("the pages have {} records and the job says {}", self.read, self.found);
            return Err(BulkError::NotWhole(what));
        }
        Ok(IdPage { records, last })
    }

    /// Gives the result back to Salesforce, which keeps it for seven days otherwise.
    pub async fn end(self) {
        self.held.give_back().await;
    }
}

#[cfg(test)]
mod tests {
    use axum::response::Response;
    use serde_json::json;

    use super::*;
    use crate::change::FieldPolicies;
    use crate::config::FieldChoice;
    use crate::salesforce::describe::Descriptions;
    use crate::salesforce::scripted::{Asked, ORG, ScriptedHttp, answer, granted, session, soon};

    /// A result of two records whose pages have one each and never say that they are the last.
    fn going_round(asked: &Asked) -> Response {
        if asked.path.ends_with("/token") {
            return granted("token", &asked.host, ORG);
        }
        if !asked.path.ends_with("/results") {
            let fields = [("Id", "id"), ("IsDeleted", "boolean"), ("SystemModstamp", "datetime")];
            let fields = fields.map(|(name, kind)| json!({"name": name, "type": kind, "compoundFieldName": null}));
            let described = json!({"name": "Case", "fields": fields});
            let job = json!({"id": "7508d000000001AAAQ", "state": "JobComplete", "numberRecordsProcessed": 2});
            let body = if asked.path.ends_with("/describe") { described } else { job };
            return answer(200, body.to_string());
        }
        let csv =
            "\"Id\",\"IsDeleted\",\"SystemModstamp\"\n\"5008d000000047SAAQ\",\"false\",\"2026-02-17T04:03:15.000Z\"\n";
        let mut page = answer(200, csv);
        page.headers_mut().insert("sforce-numberofrecords", http::HeaderValue::from_static("1"));
        page.headers_mut().insert("sforce-locator", http::HeaderValue::from_static("MTAwMDA"));
        page
    }

    #[tokio::test]
    async fn a_listing_whose_places_come_again_ends_when_it_has_more_than_the_job_has_found() {
        let server = ScriptedHttp::start(|asked| going_round(&asked)).await;
        let client = RestClient::new(session(&server.url));
        let descriptions = Descriptions::new(client.clone(), FieldChoice::All, FieldPolicies::default());
        let reader = RecordReader::new(client, descriptions);
        let mut listing = soon(reader.list_in_bulk("Case")).await.expect("a listing");
        for _ in 0..2 {
            let page = soon(listing.next_page()).await.expect("a page");
            assert!(page.records.len() == 1 && !page.last);
        }
        let error = soon(listing.next_page()).await.expect_err("a third record of two");
        assert!(matches!(error, BulkError::NotWhole(_)), "{error}");
    }
}

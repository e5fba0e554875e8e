//! Many records by their ids in one call: sObject Collections, `POST /composite/sobjects/<Object>`.
//!
//! The answer has a place for each id, in order; the place of a record that is missing, deleted or not visible to the
//! user is `null`.

use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::change::{Row, RowFault, RowPlan};
use crate::salesforce::rest::{MAX_ANSWER_BYTES, RestError, RestRequest, RestVerdict, read_json};
use crate::salesforce::rest_client::{RestClient, api_name};

/// The most that Salesforce takes in one call.
const MOST_IDS: usize = 2_000;

/// The bytes of one answer that are aimed at, well below what is read: rows differ.
const AIM_BYTES: usize = MAX_ANSWER_BYTES / 4;

/// So many rows are rendered before others get their turn on the thread.
const ROWS_A_TURN: usize = 256;

/// What stands in the place of an id.
pub(crate) type Place = Option<Result<Row, RowFault>>;

impl RestClient {
    /// Reads records by their ids; there are as many places as ids, in order. One call for up to 2,000 ids, fewer
    /// where the rows of the object are large.
    pub(crate) async fn retrieve(
        &self,
        plan: &RowPlan,
        ids: &[&str],
        deadline: Instant,
    ) -> Result<Vec<Place>, RestError> {
        let mut places = Vec::with_capacity(ids.len());
        let mut most = MOST_IDS;
        while let Some(rest) = ids.get(places.len()..).filter(|rest| !rest.is_empty()) {
            let fitting = self.row_bytes(plan.object()).map_or(MOST_IDS, |bytes| AIM_BYTES / bytes.max(1));
            let count = rest.len().min(fitting.max(1)).min(most);
            let (asked, _) = rest.split_at(count);
            match self.retrieve_once(plan, asked, deadline).await {
                Ok(part) => places.extend(part),
                Err(error) if error.verdict() == RestVerdict::AskForLess && count > 1 => {
                    most = count / 2;
                    self.note_row_bytes(plan.object(), AIM_BYTES / most);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(places)
    }

    async fn retrieve_once(&self, plan: &RowPlan, ids: &[&str], deadline: Instant) -> Result<Vec<Place>, RestError> {
        let object = api_name(plan.object())?;
        let body = json!({"ids": ids, "fields": plan.fields()});
        let request = RestRequest::post(self.path(&format!("composite/sobjects/{object}")), body.to_string());
        let answer = self.call(&request, deadline).await?;
        let rows: Vec<Option<&RawValue>> = read_json(&request, &answer)?;
        if rows.len() != ids.len() {
            let what = format!("{}: {} places for {} ids", request.resource(), rows.len(), ids.len());
            return Err(RestError::Unexpected(what));
        }
        let there = rows.iter().flatten().count();
        if let Some(bytes) = answer.len().checked_div(there) {
            self.note_row_bytes(object, bytes);
        }
        let mut places = Vec::with_capacity(rows.len());
        for (at, (row, id)) in rows.into_iter().zip(ids).enumerate() {
            if at % ROWS_A_TURN == ROWS_A_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let row = row.map(|row| plan.render(row.get()));
            if let Some(Ok(row)) = &row
                && row.id != *id
            {
                let what = format!("{}: the record {} in the place of {id}", request.resource(), row.id);
                return Err(RestError::Unexpected(what));
            }
            places.push(row);
        }
        Ok(places)
    }
}

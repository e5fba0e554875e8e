//! Query jobs of the Bulk API 2.0 (Bulk API 2.0 Developer Guide, "Query Jobs"): Salesforce works on a query by itself and
//! keeps the result for seven days, to be fetched page by page.
//!
//! A job is `UploadComplete`, `InProgress`, and then `JobComplete`, `Failed` or `Aborted`. Its results are fetched under the
//! API version that it was created with, whatever is configured meanwhile; under another one they are refused with 409.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::failure::{Exit, Failure};
use crate::salesforce::query::Scope;
use crate::salesforce::rest::{RestAnswer, RestError, RestRequest, read_json};
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::rest_error::shown;

/// A job, as it is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkJob {
    /// Its id, `750…`.
    pub id: String,
    /// The API version that it was created with, such as `66.0`.
    pub version: String,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkState {
    /// Salesforce is at it.
    Working,
    /// So many records were found.
    Complete(u64),
}

/// Why a job cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BulkError {
    /// Salesforce cannot be asked, or says no for a reason that is not Bulk's.
    #[error(transparent)]
    Rest(#[from] RestError),
    /// REST answers this query, Bulk does not.
    #[error("The Bulk API does not take the query: {0}")]
    NotForBulk(String),
    /// The jobs, or the room for results, of 24 hours are used up.
    #[error("The Bulk API takes no more jobs today: {0}")]
    UsedUp(String),
    /// Salesforce gave the job up, or somebody aborted it.
    #[error("The Bulk query job ended without a result: {0}")]
    Failed(String),
    /// The job, its results or the place in them are not there any more.
    #[error("The result of the Bulk query job is not there any more: {0}")]
    Gone(String),
    /// What was fetched is not what Salesforce says that there is.
    #[error("The result of the Bulk query job is not whole: {0}")]
    NotWhole(String),
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkVerdict {
    /// That of the error of REST.
    AsRest,
    /// Ask over REST instead.
    AskRest,
    /// Create the job again.
    Anew,
}

impl BulkError {
    /// The verdict; pure.
    pub fn verdict(&self) -> BulkVerdict {
        match self {
            Self::Rest(_) => BulkVerdict::AsRest,
            Self::NotForBulk(_) | Self::UsedUp(_) => BulkVerdict::AskRest,
            Self::Failed(_) | Self::Gone(_) | Self::NotWhole(_) => BulkVerdict::Anew,
        }
    }

    /// What an operator has to know and do.
    pub fn failure(&self) -> Failure {
        if let Self::Rest(error) = self {
            return error.failure();
        }
        let remedy = match self.verdict() {
            BulkVerdict::AskRest => "nothing to do: the records are read over REST, which takes more calls",
            _ => "nothing to do unless it repeats; Setup > Bulk Data Load Jobs shows the job",
        };
        Failure::new(Exit::Unavailable, self.to_string(), remedy)
    }

    /// An error of creating a job. Bulk's own refusals have no codes of their own, but each names Bulk.
    fn of_creation(error: RestError) -> Self {
        let RestError::Refused { status: 400..500, code, message, .. } = &error else { return Self::Rest(error) };
        let names_bulk = message.to_ascii_lowercase().contains("bulk");
        match code.as_str() {
            "INVALID_FIELD" | "INVALID_TYPE" | "MALFORMED_QUERY" | "REQUEST_LIMIT_EXCEEDED" => Self::Rest(error),
            _ if message.starts_with("Max bulk v2") || code == "LIMIT_EXCEEDED" => Self::UsedUp(message.clone()),
            "INVALIDENTITY" | "FUNCTIONALITY_NOT_ENABLED" => Self::NotForBulk(message.clone()),
            _ if names_bulk => Self::NotForBulk(message.clone()),
            _ => Self::Rest(error),
        }
    }

    /// An error of asking for a job or its results: what is wrong with it is wrong with the job, or the place in it.
    fn of_job(error: RestError) -> Self {
        match &error {
            RestError::Refused { status: 404 | 409 | 410, message, .. } => Self::Gone(message.clone()),
            RestError::Refused { status: 400, code, message, .. } if !is_of_the_request(code) => {
                Self::Gone(message.clone())
            }
            _ => Self::Rest(error),
        }
    }
}

/// Codes that come with 400 and say nothing of the job.
fn is_of_the_request(code: &str) -> bool {
    matches!(code, "REQUEST_LIMIT_EXCEEDED" | "UNABLE_TO_LOCK_ROW" | "QUERY_TIMEOUT" | "SERVER_UNAVAILABLE")
}

/// What Salesforce says of a job; more members than these.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobJson {
    id: String,
    state: String,
    number_records_processed: Option<u64>,
    #[serde(default)]
    error_message: String,
}

impl RestClient {
    /// Creates a job. A repetition after an answer that was lost leaves a job behind that nobody fetches; Salesforce deletes
    /// it after seven days.
    ///
    /// # Errors
    /// When it is not created; the verdict says whether REST takes the query.
    pub async fn create_bulk_query(&self, soql: &str, scope: Scope, deadline: Instant) -> Result<BulkJob, BulkError> {
        let operation = match scope {
            Scope::Live => "query",
            Scope::All => "queryAll",
        };
        let body = json!({"operation": operation, "query": soql, "contentType": "CSV", "columnDelimiter": "COMMA", "lineEnding": "LF"});
        let request = RestRequest::post(self.path("jobs/query"), body.to_string());
        let answer = self.call(&request, deadline).await.map_err(BulkError::of_creation)?;
        let job: JobJson = read_json(request.resource(), &answer)?;
        // The id becomes part of paths.
        if job.id.is_empty() || !job.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(RestError::Unexpected("a Bulk query job without an id".to_owned()).into());
        }
        Ok(BulkJob { id: job.id, version: self.session().api_version().to_owned() })
    }

    /// How far a job is.
    ///
    /// # Errors
    /// When it has failed, was aborted, or is not there.
    pub async fn bulk_state(&self, job: &BulkJob, deadline: Instant) -> Result<BulkState, BulkError> {
        let request = RestRequest::get(path(job, ""));
        let answer = self.call(&request, deadline).await.map_err(BulkError::of_job)?;
        let found: JobJson = read_json(request.resource(), &answer)?;
        match found.state.as_str() {
            "UploadComplete" | "InProgress" => Ok(BulkState::Working),
            // Without the number nobody could tell a result that is whole, or empty, from one that is not.
            "JobComplete" => found.number_records_processed.map(BulkState::Complete).ok_or_else(|| {
                RestError::Unexpected(format!(
                    "the Bulk query job {} is complete and does not say of how many records",
                    job.id
                ))
                .into()
            }),
            "Failed" | "Aborted" => {
                let message = shown(&found.error_message, 400);
                Err(BulkError::Failed(format!("{} ({}) {message}", job.id, found.state)))
            }
            other => Err(RestError::Unexpected(format!("a Bulk query job in the state {}", shown(other, 40))).into()),
        }
    }

    /// Fetches at most `most` records of a result, behind `locator`, from the beginning without one; `limited` says what else
    /// holds for the call.
    ///
    /// # Errors
    /// When the job is not complete, or the job or the place is not there.
    pub(crate) async fn bulk_results(
        &self,
        job: &BulkJob,
        locator: Option<&str>,
        most: usize,
        limited: impl FnOnce(RestRequest) -> RestRequest,
        deadline: Instant,
    ) -> Result<RestAnswer, BulkError> {
        let mut place = format!("/results?maxRecords={most}");
        if let Some(locator) = locator {
            let locator: String = url::form_urlencoded::byte_serialize(locator.as_bytes()).collect();
            // Writing to a text does not fail.
            let _ = write!(place, "&locator={locator}");
        }
        let request = limited(RestRequest::get(path(job, &place)));
        self.answer(&request, deadline).await.map_err(BulkError::of_job)
    }

    /// Deletes a job with its results; one that is still worked on is aborted before. One that is not there is deleted.
    ///
    /// # Errors
    /// When Salesforce does not do it. It does so by itself after seven days.
    pub async fn delete_bulk_query(&self, job: &BulkJob, deadline: Instant) -> Result<(), BulkError> {
        let delete = RestRequest::delete(path(job, ""));
        let refused = match self.call(&delete, deadline).await {
            Ok(_) => return Ok(()),
            Err(error) => BulkError::of_job(error),
        };
        match self.bulk_state(job, deadline).await {
            Err(BulkError::Gone(_)) => return Ok(()),
            Ok(BulkState::Working) => {}
            _ => return Err(refused),
        }
        let abort = RestRequest::patch(path(job, ""), json!({"state": "Aborted"}).to_string());
        self.call(&abort, deadline).await.map_err(BulkError::of_job)?;
        self.call(&delete, deadline).await.map(drop).map_err(BulkError::of_job)
    }
}

fn path(job: &BulkJob, place: &str) -> String {
    format!("/services/data/v{}/jobs/query/{}{place}", job.version, job.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str, message: &str) -> RestError {
        RestError::Refused { status, code: code.to_owned(), message: message.to_owned(), retry_after: None }
    }

    #[test]
    fn what_only_bulk_refuses_is_told_from_what_nobody_answers() {
        for (status, code, message, verdict) in [
            (
                400,
                "FUNCTIONALITY_NOT_ENABLED",
                "Selecting compound data not supported in Bulk Query",
                BulkVerdict::AskRest,
            ),
            (400, "INVALIDENTITY", "Entity 'CaseStatus' is not supported by the Bulk API.", BulkVerdict::AskRest),
            (400, "API_ERROR", "OrderStatus is not supported by the Bulk API", BulkVerdict::AskRest),
            (400, "LIMIT_EXCEEDED", "Max bulk v2 query jobs (10000) per 24 hrs has been reached", BulkVerdict::AskRest),
            (
                400,
                "API_ERROR",
                "Max bulk v2 query result size stored (1000000000) kb per 24 hrs has been exceeded",
                BulkVerdict::AskRest,
            ),
            (400, "INVALID_FIELD", "No such column 'BulkRate__c' on entity 'Case'", BulkVerdict::AsRest),
            (400, "MALFORMED_QUERY", "unexpected token", BulkVerdict::AsRest),
            (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", BulkVerdict::AsRest),
            (403, "API_DISABLED_FOR_ORG", "not enabled", BulkVerdict::AsRest),
            (503, "SERVER_UNAVAILABLE", "the bulk api is down", BulkVerdict::AsRest),
        ] {
            let error = BulkError::of_creation(refused(status, code, message));
            assert_eq!(error.verdict(), verdict, "{status} {code} {message}");
            assert!(!error.failure().remedy.is_empty());
        }
        assert!(matches!(
            BulkError::of_creation(refused(400, "API_ERROR", "Max bulk v2 query jobs (1) per 24 hrs has been reached")),
            BulkError::UsedUp(_)
        ));
    }

    #[test]
    fn a_job_whose_results_cannot_be_had_any_more_is_begun_anew() {
        for (status, code, verdict) in [
            (404, "NOT_FOUND", BulkVerdict::Anew),
            (409, "API_ERROR", BulkVerdict::Anew),
            (400, "API_ERROR", BulkVerdict::Anew),
            (400, "INVALIDJOBSTATE", BulkVerdict::Anew),
            (400, "UNABLE_TO_LOCK_ROW", BulkVerdict::AsRest),
            (403, "REQUEST_LIMIT_EXCEEDED", BulkVerdict::AsRest),
            (401, "INVALID_SESSION_ID", BulkVerdict::AsRest),
            (503, "SERVER_UNAVAILABLE", BulkVerdict::AsRest),
        ] {
            assert_eq!(BulkError::of_job(refused(status, code, "x")).verdict(), verdict, "{status} {code}");
        }
        assert_eq!(BulkError::of_job(RestError::TooLong(1)).verdict(), BulkVerdict::AsRest);
    }
}

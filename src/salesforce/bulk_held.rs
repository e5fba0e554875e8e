//! A query job that is found again by nobody but its holder. It goes back to Salesforce with its end, however that comes: a
//! job that is left over takes room there for seven days, and of those that are worked on an org has only so many.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use crate::salesforce::bulk::{BulkError, BulkJob};
use crate::salesforce::query::Scope;
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::RestClient;

/// The last calls for a job: nothing depends on them.
const LAST_CALL: Duration = Duration::from_secs(20);

/// A job that goes back when it is dropped.
///
/// A process that is killed leaves it over all the same, and so does a call that creates a job and whose answer is lost.
#[derive(Debug)]
pub struct HeldJob {
    client: RestClient,
    job: BulkJob,
    runtime: Handle,
    /// Whether nothing is to be done any more.
    done: bool,
}

impl HeldJob {
    fn new(client: RestClient, job: BulkJob) -> Self {
        Self { client, job, runtime: Handle::current(), done: false }
    }

    /// The job.
    pub fn job(&self) -> &BulkJob {
        &self.job
    }

    /// Gives the job back now: aborts it where it is worked on, and deletes it with its results.
    pub async fn give_back(mut self) {
        self.client.give_back(&self.job).await;
        // Not before, so that somebody who gives up waiting for this leaves it to the drop.
        self.done = true;
    }

    /// Leaves the job to whoever finds it again.
    pub fn keep(mut self) {
        self.done = true;
    }
}

impl Drop for HeldJob {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let (client, job) = (self.client.clone(), self.job.clone());
        debug!(bulk = job.id, "bulk query job given up");
        self.client.last_calls().spawn_on(async move { client.give_back(&job).await }, &self.runtime);
    }
}

impl RestClient {
    /// Creates a job as [`create_bulk_query`](Self::create_bulk_query), and holds it. Whoever does not wait for the answer
    /// gives it back too.
    ///
    /// # Errors
    /// As there.
    pub async fn hold_bulk_query(&self, soql: String, scope: Scope, deadline: Instant) -> Result<HeldJob, BulkError> {
        let (client, (told, created)) = (self.clone(), oneshot::channel());
        self.last_calls().spawn(async move {
            let job = client.create_bulk_query(&soql, scope, deadline).await;
            if let Err(Ok(unwanted)) = told.send(job.map(|job| HeldJob::new(client, job))) {
                unwanted.give_back().await;
            }
        });
        let died = |_| RestError::Unreachable("the task that creates a Bulk query job has ended".to_owned());
        created.await.map_err(died)?
    }

    /// Aborts and deletes a job that is of no use any more, within twenty seconds. Where that fails, Salesforce does it after
    /// seven days.
    pub async fn give_back(&self, job: &BulkJob) {
        match self.delete_bulk_query(job, Instant::now() + LAST_CALL).await {
            Ok(()) => debug!(bulk = job.id, "bulk query job given back"),
            Err(error) => info!(bulk = job.id, error = %error, "bulk query job is left to salesforce to delete"),
        }
    }

    /// Waits until the jobs that were dropped are back, at most so long.
    pub async fn all_given_back(&self, within: Duration) {
        self.last_calls().close();
        if timeout(within, self.last_calls().wait()).await.is_err() {
            info!("bulk query jobs are left to salesforce to delete");
        }
    }
}

//! Everything that has to be in order before and beside a run, looked at one by one.
//!
//! Each check is a function that gives one [`Outcome`]; what needs something that failed is skipped, with the reason. The
//! failures are those that a run would end with, in the same words: they come from the same functions. Nothing is written
//! to Salesforce, no topic is made, and what is written to Kafka is never committed ([`crate::kafka::Rehearsal`]).
//!
//! | file | looks at |
//! |---|---|
//! | `finding` | what a check found, and the report |
//! | `fault` | what the checks below fail with on their own account, and what mends it |
//! | `files` | key, certificate, secrets, names |
//! | `network` | the way to the login host and the Pub/Sub API, and to the collector of traces |
//! | `organization` | the sign-in, the clock, the API version, the organisation |
//! | `allowances` | API requests, delivered events, Bulk jobs |
//! | `streams` | topics, records, fields and their policies, messages |
//! | `channel` | the objects of a channel |
//! | `brokers` | brokers, topics, transactions, rights |
//! | `checkpoints` | positions, and whether changes arrive |

mod allowances;
mod brokers;
mod channel;
mod checkpoints;
pub(crate) mod fault;
mod files;
mod finding;
mod network;
mod organization;
mod streams;

use std::time::Duration;

use chrono::Utc;

pub use files::{at_a_glance, days_left};
pub use finding::{Area, Finding, Outcome, Report};

use crate::config::{Config, ConfigError};
use crate::doctor::fault::CheckError;
use crate::failure::Failure;
use crate::pipeline::settings;
use crate::salesforce::pubsub::PubSub;

/// How long one question to Salesforce may take.
const ANSWER: Duration = Duration::from_secs(10);

/// Makes every check, in order. A configuration that cannot be read is the first finding, and then the only one that says
/// anything.
pub async fn examine(config: Result<Config, ConfigError>, report: &mut Report<'_>) {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            report.add(Area::Files, "configuration", Outcome::Failed(error.into()));
            for area in [Area::Network, Area::Salesforce, Area::Streams, Area::Kafka, Area::Checkpoints] {
                report.skip(area, ["all checks"], "the configuration cannot be used");
            }
            return;
        }
    };
    report.add(Area::Files, "configuration", Outcome::Ok(streams_in_words(config.streams.len())));
    let (pubsub, usable) = match settings::salesforce(&config) {
        Ok(pubsub) => (Some(pubsub), Ok(())),
        Err(failure) => (None, Err(failure)),
    };
    files::examine(&config, &usable, Utc::now(), report);
    let reachable = network::examine(&config, report).await;
    let token = match pubsub.as_ref().ok_or("the key cannot be used") {
        Ok(pubsub) if reachable.login => organization::examine(&config, pubsub.session(), report).await,
        blocked => {
            let because = blocked.err().unwrap_or("the login host cannot be reached");
            report.skip(Area::Salesforce, ["sign-in", "clock"], because);
            organization::skip(report, because);
            None
        }
    };
    match pubsub.as_ref().filter(|_| token.is_some()) {
        Some(pubsub) => streams::examine(&config, pubsub, reachable.pubsub, report).await,
        None => streams::skip(&config, report, "nobody is signed in"),
    }
    let org = token.as_ref().map(|token| token.org_id().clone()).or_else(|| config.salesforce.org_id.clone());
    match brokers::examine(&config, org.as_ref(), report).await {
        Some(kafka) => {
            let session = pubsub.as_ref().filter(|_| token.is_some()).map(PubSub::session);
            checkpoints::examine(&config, &kafka, org.as_ref(), session, report).await;
        }
        None => checkpoints::skip(&config, report, "no broker answers"),
    }
}

fn streams_in_words(count: usize) -> String {
    if count == 1 { "is valid, with 1 stream".to_owned() } else { format!("is valid, with {count} streams") }
}

/// Waits for an answer of `who`, but not for long.
///
/// # Errors
/// When none came.
async fn soon<T>(who: &'static str, answer: impl Future<Output = T>) -> Result<T, Failure> {
    let answered = tokio::time::timeout(ANSWER, answer).await;
    answered.map_err(|_| CheckError::NoAnswer { who, seconds: ANSWER.as_secs() }.into())
}

//! Where the streams stand: how old each position is, of which organisation, and whether what changed in Salesforce arrived.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tokio::time::Instant;

use crate::config::{Config, Start, StreamConfig};
use crate::doctor::fault::CheckError;
use crate::doctor::finding::{Area, Outcome, Report};
use crate::doctor::{ANSWER, soon};
use crate::identity::{OrgId, TopicKind};
use crate::kafka::{
    Checkpoint, KafkaError, KafkaSettings, ScanFrom, StoredCheckpoint, StreamIdentity, checkpoints_of_topic,
    read_checkpoint, scan,
};
use crate::pipeline::context::position_time;
use crate::pipeline::{NoBeginning, first_run};
use crate::salesforce::query::Scope;
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::RestClient;
use crate::salesforce::session::Session;
use crate::status::RETENTION;

const AREA: Area = Area::Checkpoints;

/// Less than this until data loss is worth a word.
const LITTLE_TIME: TimeDelta = TimeDelta::hours(24);

/// A live writer commits at least every two minutes.
const SIGN_OF_LIFE: TimeDelta = TimeDelta::minutes(3);

/// What is compared: the changes of this time.
const COMPARED: TimeDelta = TimeDelta::hours(24);

/// How many records of a topic are read for the comparison.
const MOST_READ: usize = 20_000;

/// How long that may take.
const READING: Duration = Duration::from_secs(15);

/// Looks at the position of each stream; with a `session` also at whether changes arrived.
pub async fn examine(
    config: &Config,
    kafka: &KafkaSettings,
    org: Option<&OrgId>,
    session: Option<&Session>,
    report: &mut Report<'_>,
) {
    for stream in &config.streams {
        let now = session.map_or_else(Utc::now, Session::salesforce_now);
        let (outcome, stored) = position(kafka, stream, org, now).await;
        report.add(AREA, position_check(stream), outcome);
        let TopicKind::Entity(object) = stream.topic.kind() else { continue };
        let check = arrivals_check(&object);
        match (session, stored.and_then(|stored| position_time(&stored.checkpoint.position))) {
            (None, _) => report.skip(AREA, [check], "nobody is signed in"),
            (_, None) => report.skip(AREA, [check], "the stream has no position yet"),
            (Some(session), Some(until)) => {
                let outcome = arrivals(kafka, session, &object, until).await;
                report.add(AREA, check, outcome);
            }
        }
    }
}

/// The rows of streams whose checkpoints nobody can read.
pub fn skip(config: &Config, report: &mut Report<'_>, because: &str) {
    for stream in &config.streams {
        report.skip(AREA, [position_check(stream)], because);
        if let TopicKind::Entity(object) = stream.topic.kind() {
            report.skip(AREA, [arrivals_check(&object)], because);
        }
    }
}

fn position_check(stream: &StreamConfig) -> String {
    format!("position of {}", stream.topic)
}

fn arrivals_check(object: &str) -> String {
    format!("arrivals of {object}")
}

/// Where a stream stands, and its checkpoint if it has one.
async fn position(
    kafka: &KafkaSettings,
    stream: &StreamConfig,
    org: Option<&OrgId>,
    now: DateTime<Utc>,
) -> (Outcome, Option<StoredCheckpoint>) {
    let identity = match identity(kafka, stream, org).await {
        Ok(Some(identity)) => identity,
        Ok(None) => return (no_checkpoint(stream), None),
        Err(outcome) => return (outcome, None),
    };
    match read_checkpoint(kafka, &identity).await {
        Ok(Some(stored)) => (age(&stored.checkpoint, now), Some(stored)),
        Ok(None) => match first_run(&identity, kafka).await {
            Ok(()) => (no_checkpoint(stream), None),
            Err(NoBeginning::Stop(failure)) => (Outcome::Failed(failure), None),
            Err(NoBeginning::Kafka(error)) => (Outcome::Failed(error.failure()), None),
        },
        Err(error) => (Outcome::Failed(error.failure()), None),
    }
}

/// What the stream is called in Kafka. Without a sign-in that is known only if one organisation wrote, and `None` if none did.
async fn identity(
    kafka: &KafkaSettings,
    stream: &StreamConfig,
    org: Option<&OrgId>,
) -> Result<Option<StreamIdentity>, Outcome> {
    let prefix = &kafka.topic_prefix;
    let known = match org {
        Some(org) => vec![org.clone()],
        None => checkpoints_of_topic(kafka, prefix, &stream.topic)
            .await
            .map_err(|error| Outcome::Failed(error.failure()))?,
    };
    match &known[..] {
        [] => Ok(None),
        [org] => Ok(Some(StreamIdentity { prefix: prefix.clone(), org: org.clone(), topic: stream.topic.clone() })),
        several => Err(Outcome::Skipped(format!("{} organisations have one, and nobody is signed in", several.len()))),
    }
}

fn no_checkpoint(stream: &StreamConfig) -> Outcome {
    let from = match stream.start {
        Start::Earliest => "the oldest event that Salesforce still has",
        Start::Latest => "what happens from then on",
    };
    Outcome::Ok(format!("no checkpoint: the first start begins with {from}"))
}

/// How old a position is, and who writes.
fn age(checkpoint: &Checkpoint, now: DateTime<Utc>) -> Outcome {
    let writer = &checkpoint.writer.host;
    let committed = checkpoint.committed_at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let alive = Utc::now() - checkpoint.committed_at < SIGN_OF_LIFE;
    let who = if alive {
        format!("{writer} writes it now, so another start would take over and {writer} stand by")
    } else {
        format!("last committed {committed} by {writer}")
    };
    let Some(time) = position_time(&checkpoint.position) else {
        return Outcome::Ok(format!("a position without a time; {who}"));
    };
    let left = RETENTION - (now - time);
    if left <= TimeDelta::zero() {
        return Outcome::failed(CheckError::PositionLost { age: in_words(now - time), who });
    }
    let what = format!("{} until data loss; {who}", in_words(left));
    if left < LITTLE_TIME {
        return Outcome::warning(what, "Get the stream going: start casewire, and look at its /status.");
    }
    Outcome::Ok(what)
}

fn in_words(time: TimeDelta) -> String {
    format!("{} h {} min", time.num_hours(), time.num_minutes() % 60)
}

/// Records of the object that changed within a day before the position, against those of which the topic tells.
async fn arrivals(kafka: &KafkaSettings, session: &Session, object: &str, until: DateTime<Utc>) -> Outcome {
    let since = until - COMPARED;
    let changed = match soon("The instance", changed(session, object, since, until)).await {
        Ok(Ok(changed)) => changed,
        Ok(Err(error)) => return Outcome::Skipped(format!("Salesforce does not tell what changed: {error}")),
        Err(failure) => return Outcome::Skipped(failure.what),
    };
    let topic = format!("{}.{object}", kafka.topic_prefix);
    let arrived = match tokio::time::timeout(READING, arrived(kafka, &topic, since)).await {
        Ok(Ok(arrived)) => arrived,
        Ok(Err(error)) => return Outcome::Failed(error.failure()),
        Err(_) => return Outcome::Skipped(format!("`{topic}` was not read within {} s", READING.as_secs())),
    };
    compare(object, changed, arrived)
}

/// Changes that Salesforce knows of and the topic does not: nothing arrived at all although records changed.
fn compare(object: &str, changed: u64, arrived: usize) -> Outcome {
    let counted = if arrived >= MOST_READ { format!("at least {arrived}") } else { arrived.to_string() };
    let what =
        format!("{changed} records of {object} changed within a day before the position, {counted} are in the topic");
    if changed > 0 && arrived == 0 {
        return Outcome::warning(
            what,
            format!(
                "If the stream began less than a day ago, nothing is wrong. Otherwise: Setup > Integrations > Change Data Capture has to \
                 have {object} selected, and the user to see all of its records (\"View All Records\"). Changes of formula fields \
                 alone cause no event."
            ),
        );
    }
    Outcome::Ok(what)
}

async fn changed(
    session: &Session,
    object: &str,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<u64, RestError> {
    let literal = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let soql = format!(
        "SELECT COUNT() FROM {object} WHERE SystemModstamp >= {} AND SystemModstamp <= {}",
        literal(since),
        literal(until)
    );
    let mut query = RestClient::new(session.clone()).query(&soql, Scope::Live)?;
    Ok(query.next_page(Instant::now() + ANSWER).await?.map_or(0, |page| page.total_size))
}

/// How many records a topic tells of since a time, by their keys; no more than [`MOST_READ`] are counted.
async fn arrived(kafka: &KafkaSettings, topic: &str, since: DateTime<Utc>) -> Result<usize, KafkaError> {
    let keys = Arc::new(Mutex::new(HashSet::new()));
    let (seen, mut read) = (keys.clone(), 0_usize);
    scan(kafka, topic, ScanFrom::Timestamp(since), move |record| {
        read += 1;
        seen.lock().unwrap_or_else(PoisonError::into_inner).extend(record.key.clone());
        if read < MOST_READ { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .await?;
    Ok(keys.lock().unwrap_or_else(PoisonError::into_inner).len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Anchor, Position};

    #[test]
    fn a_position_is_judged_by_the_time_that_is_left() {
        let now = Utc::now();
        let aged = |hours| {
            let since = now - TimeDelta::hours(hours);
            age(&Checkpoint::at(Position::starting(Anchor::Earliest { since })), now)
        };
        assert_eq!(
            [1, 48, 49, 71, 72, 100].map(|hours| aged(hours).word()),
            ["ok", "ok", "warning", "warning", "failed", "failed"]
        );
        assert!(aged(1).what().starts_with("71 h 0 min until data loss"), "{:?}", aged(1));
        let mut live = Checkpoint::at(Position::starting(Anchor::Latest { since: now }));
        live.committed_at = Utc::now();
        live.writer.host = "alpha".to_owned();
        assert!(age(&live, now).what().contains("alpha writes it now"), "{:?}", age(&live, now));
    }

    #[test]
    fn silence_is_suspicious_only_where_something_changed() {
        assert_eq!(compare("Case", 0, 0).word(), "ok");
        assert_eq!(compare("Case", 5, 1).word(), "ok");
        assert_eq!(compare("Case", 5, 0).word(), "warning");
        assert!(compare("Case", 5, MOST_READ).what().contains("at least 20000"));
    }
}

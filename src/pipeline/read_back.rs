//! What the output already holds, read back from the topics themselves.
//!
//! Two questions are asked of it: whether a stream that has no checkpoint is really new, and
//! which of the retained events were written before Salesforce refused the position. Both are
//! answered from headers, so records written by any version with the same contract count.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use crate::identity::{ReplayId, TopicKind, TopicName};
use crate::kafka::{KafkaError, KafkaSettings, ScanFrom, ScannedRecord, StreamIdentity, list_topics, scan};
use crate::pipeline::context::{StreamContext, dead_letters_topic, ledger_topic};
use crate::position::EventKey;

/// How far back the output is read. Salesforce promises 72 hours and does not promise that it is no more; an
/// event that is delivered again and not found here would be written twice.
const WINDOW: TimeDelta = TimeDelta::days(7);

/// So many records at the end of each partition are looked at: enough to see past the
/// tombstones and the records of a stream that shared the topic.
const TAIL: u64 = 200;

/// The topics that may hold records of the stream: one for an entity, every one of the prefix for a channel.
async fn output_topics(identity: &StreamIdentity, settings: &KafkaSettings) -> Result<Vec<String>, KafkaError> {
    let prefix = &identity.prefix;
    let named = match identity.topic.kind() {
        TopicKind::Entity(entity) | TopicKind::PlatformEvent(entity) => Some(format!("{prefix}.{entity}")),
        TopicKind::ChangeChannel | TopicKind::PlatformChannel => None,
    };
    let own = format!("{prefix}.");
    let checkpoints = format!("{prefix}.checkpoints.");
    let shared = [ledger_topic(prefix), dead_letters_topic(prefix)];
    let topics = list_topics(settings).await?;
    let belongs = |name: &String| match &named {
        Some(named) => name == named,
        None => name.starts_with(&own) && !name.starts_with(&checkpoints) && !shared.contains(name),
    };
    Ok(topics.into_iter().map(|topic| topic.name).filter(belongs).collect())
}

/// The topic, if any, that already holds records of the stream.
///
/// # Errors
/// When the topics cannot be read to their end.
pub async fn holds_records(context: &StreamContext, settings: &KafkaSettings) -> Result<Option<String>, KafkaError> {
    let channel = context.is_channel();
    for topic in output_topics(&context.identity, settings).await? {
        let org = context.identity.org.clone();
        let stream = context.identity.topic.clone();
        let found = Arc::new(AtomicBool::new(false));
        let seen = found.clone();
        scan(settings, &topic, ScanFrom::Tail(TAIL), move |record| {
            let own = header(record, "org") == Some(org.as_str())
                && (!channel || source_topic(record).as_deref() == Some(stream.as_str()));
            if own {
                seen.store(true, Ordering::Relaxed);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .await?;
        if found.load(Ordering::Relaxed) {
            return Ok(Some(topic));
        }
    }
    Ok(None)
}

/// The stream that wrote the newest record of this organisation in a topic.
///
/// # Errors
/// When the topic cannot be read to its end.
pub async fn last_writer(
    settings: &KafkaSettings,
    identity: &StreamIdentity,
    topic: &str,
) -> Result<Option<TopicName>, KafkaError> {
    let newest: Arc<Mutex<Option<Written>>> = Arc::default();
    let (org, found) = (identity.org.clone(), newest.clone());
    scan(settings, topic, ScanFrom::Tail(TAIL), move |record| {
        if header(record, "org") == Some(org.as_str())
            && let Some(source) = source_topic(record).and_then(|topic| topic.parse().ok())
        {
            let at = record.timestamp.unwrap_or_default();
            let mut newest = found.lock().unwrap_or_else(PoisonError::into_inner);
            if newest.as_ref().is_none_or(|newest| newest.at <= at) {
                *newest = Some(Written { at, by: source });
            }
        }
        ControlFlow::Continue(())
    })
    .await?;
    let newest = newest.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(newest.map(|written| written.by))
}

/// The entities whose topics hold newest records of this stream: what a channel is known to carry.
///
/// # Errors
/// When the topics cannot be read to their end.
pub async fn entities(settings: &KafkaSettings, identity: &StreamIdentity) -> Result<Vec<String>, KafkaError> {
    let mut entities = Vec::new();
    for topic in output_topics(identity, settings).await? {
        let entity = topic.strip_prefix(&identity.prefix).and_then(|name| name.strip_prefix('.'));
        if let Some(entity) = entity
            && last_writer(settings, identity, &topic).await?.as_ref() == Some(&identity.topic)
        {
            entities.push(entity.to_owned());
        }
    }
    Ok(entities)
}

/// When a record was produced, and the stream that did.
struct Written {
    at: DateTime<Utc>,
    by: TopicName,
}

/// The fingerprints of the events that were produced in the seven days before `now`.
///
/// # Errors
/// When the topics cannot be read to their end: a part would let duplicates pass.
pub async fn written_events(
    context: &StreamContext,
    settings: &KafkaSettings,
    now: DateTime<Utc>,
) -> Result<HashSet<u128>, KafkaError> {
    let mut topics = output_topics(&context.identity, settings).await?;
    topics.extend([context.ledger_topic.to_string(), context.dead_letters_topic.to_string()]);
    let written = Arc::new(Mutex::new(HashSet::new()));
    for topic in topics {
        let org = context.identity.org.clone();
        let collected = written.clone();
        scan(settings, &topic, ScanFrom::Timestamp(now - WINDOW), move |record| {
            if header(record, "org") == Some(org.as_str())
                && let Some(key) = event_key(record)
            {
                collected.lock().unwrap_or_else(PoisonError::into_inner).insert(key.fingerprint());
            }
            ControlFlow::Continue(())
        })
        .await?;
    }
    Ok(std::mem::take(&mut *written.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// The last event that was committed in Salesforce at or before `at`, in the last seven days before it by their time of
/// production: its replay id and that time. Salesforce refuses older ones.
///
/// # Errors
/// When the topics cannot be read to their end.
pub async fn position_at(
    settings: &KafkaSettings,
    identity: &StreamIdentity,
    at: DateTime<Utc>,
) -> Result<Option<(ReplayId, DateTime<Utc>)>, KafkaError> {
    let newest: Arc<Mutex<Option<Place>>> = Arc::default();
    for topic in output_topics(identity, settings).await? {
        let (org, stream, found) = (identity.org.clone(), identity.topic.clone(), newest.clone());
        scan(settings, &topic, ScanFrom::Timestamp(at.checked_sub_signed(WINDOW).unwrap_or(at)), move |record| {
            let own =
                header(record, "org") == Some(org.as_str()) && source_topic(record).as_deref() == Some(stream.as_str());
            if own
                && let Some(committed_at) = committed_at(record)
                && let Some(replay_id) = header(record, "replay_id").and_then(|text| text.parse().ok())
                && committed_at <= at
            {
                let mut newest = found.lock().unwrap_or_else(PoisonError::into_inner);
                let produced_at = record.timestamp.map_or(0, |time| time.timestamp_millis());
                // Equal times are of one transaction or one second; the order of production decides.
                let after = |place: &Place| (place.committed_at, place.produced_at) <= (committed_at, produced_at);
                if newest.as_ref().is_none_or(after) {
                    *newest = Some(Place { committed_at, produced_at, replay_id });
                }
            }
            ControlFlow::Continue(())
        })
        .await?;
    }
    let newest = newest.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(newest.map(|place| (place.replay_id, place.committed_at)))
}

/// Where an event stands in time.
struct Place {
    committed_at: DateTime<Utc>,
    produced_at: i64,
    replay_id: ReplayId,
}

/// The event of a record. One without an event id cannot be told from its siblings and is not
/// counted as written: it may then be written twice, but never be lost.
pub(crate) fn event_key(record: &ScannedRecord) -> Option<EventKey> {
    let event_id = match header(record, "event_id") {
        Some(event_id) => event_id,
        // A platform event is keyed by its id, or by what stands in for it.
        None if header(record, "op") == Some("event") => std::str::from_utf8(record.key.as_deref()?).ok()?,
        None => return None,
    };
    format!("{}/{event_id}", header(record, "replay_id")?).parse().ok()
}

fn header<'a>(record: &'a ScannedRecord, name: &str) -> Option<&'a str> {
    std::str::from_utf8(record.header(name)?).ok()
}

/// When the event was committed in Salesforce; a platform event carries only when it was published.
fn committed_at(record: &ScannedRecord) -> Option<DateTime<Utc>> {
    #[derive(Deserialize)]
    struct Value {
        changed: Changed,
    }
    #[derive(Deserialize)]
    struct Changed {
        #[serde(rename = "CreatedDate")]
        created_date: DateTime<Utc>,
    }
    match header(record, "committed_at") {
        Some(text) => text.parse().ok(),
        None => serde_json::from_slice::<Value>(record.value.as_deref()?).ok().map(|value| value.changed.created_date),
    }
}

fn source_topic(record: &ScannedRecord) -> Option<String> {
    #[derive(Deserialize)]
    struct Value {
        source: Source,
    }
    #[derive(Deserialize)]
    struct Source {
        topic: String,
    }
    let value: Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
    Some(value.source.topic)
}

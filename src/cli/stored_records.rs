//! The newest committed record of each key of a compacted topic, for the commands that list one.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cli::error::CommandError;
use crate::failure::Failure;
use crate::kafka::{KafkaSettings, ScanFrom, ScannedRecord, list_topics, scan};

/// The newest committed record of each key; keys whose newest one is a tombstone have none.
///
/// # Errors
/// When the topic cannot be read to its end, and when it does not exist: an empty list would read as good news where the
/// prefix or the cluster is the wrong one.
pub async fn newest_by_key(kafka: &KafkaSettings, topic: &str) -> Result<Vec<ScannedRecord>, Failure> {
    let topics = list_topics(kafka).await.map_err(|error| error.failure())?;
    if !topics.iter().any(|listed| listed.name == topic) {
        return Err(CommandError::NoTopic(topic.to_owned()).into());
    }
    let newest: Arc<Mutex<HashMap<Vec<u8>, ScannedRecord>>> = Arc::default();
    let found = newest.clone();
    scan(kafka, topic, ScanFrom::Beginning, move |record| {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        let key = record.key.as_deref().unwrap_or_default().to_vec();
        // All records of a key stand in one partition, and are read in their order.
        match record.value {
            Some(_) => found.insert(key, record.clone()),
            None => found.remove(&key),
        };
        ControlFlow::Continue(())
    })
    .await
    .map_err(|error| error.failure())?;
    let newest = std::mem::take(&mut *newest.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(newest.into_values().collect())
}

/// A header as text; empty where there is none.
pub fn header(record: &ScannedRecord, name: &str) -> String {
    String::from_utf8_lossy(record.header(name).unwrap_or_default()).into_owned()
}

/// A record's key as text.
pub fn key(record: &ScannedRecord) -> String {
    String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned()
}

//! The writer schemas, each fetched once and kept: an id names one schema for good.
//!
//! An event is decoded with the schema that it names, never with the topic's newest. While a
//! schema cannot be had the event waits; it is never passed over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::warn;

use crate::change::WriterSchema;
use crate::failure::Failure;
use crate::identity::SchemaId;
use crate::salesforce::backoff::{Backoff, BackoffLimits};
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::verdict::{CallError, Verdict};

/// An answer that will be the same next time is believed after so many times.
const DETERMINISTIC_ATTEMPTS: u32 = 5;

/// How long such an answer is believed, so that a flood of events of one bad id is not five calls each.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// How many ids are kept at a time, of schemas and of refusals. An object's schema changes when its
/// fields do, so an organisation has some dozens; more than this is a flood of ids that name nothing,
/// and what is forgotten is fetched again when an event names it.
const KEPT: usize = 1_024;

/// Why there is no schema.
#[derive(Debug)]
pub enum NoSchema {
    /// Salesforce does not know the id, or what it answers is no schema. The event is a dead letter.
    Undecodable(String),
    /// Something an operator has to mend. The event stays where it is.
    Stop(Failure),
    /// The stream is ending.
    Cancelled,
}

/// The schemas of one organisation, shared by all streams; cheap to clone.
#[derive(Clone)]
pub struct SchemaCache {
    pubsub: PubSub,
    entries: Arc<Mutex<HashMap<SchemaId, Arc<Entry>>>>,
}

#[derive(Default)]
struct Entry {
    schema: OnceCell<Arc<WriterSchema>>,
    refused: Mutex<Option<(Instant, String)>>,
}

impl SchemaCache {
    /// An empty cache.
    pub fn new(pubsub: PubSub) -> Self {
        Self { pubsub, entries: Arc::default() }
    }

    /// The schema of `id`. Whoever asks while it is being fetched waits for the same call.
    /// `waiting` hears of each failed attempt and how
    /// long it is until the next, so that a stream that waits says so.
    ///
    /// # Errors
    /// Only when waiting longer would not help.
    pub async fn get(
        &self,
        id: &SchemaId,
        cancel: &CancellationToken,
        waiting: impl Fn(&CallError, Duration),
    ) -> Result<Arc<WriterSchema>, NoSchema> {
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if entries.len() >= KEPT && !entries.contains_key(id) {
                make_room(&mut entries);
            }
            entries.entry(id.clone()).or_default().clone()
        };
        if let Some(reason) = entry.refused() {
            return Err(NoSchema::Undecodable(reason));
        }
        // The one that fetches is cancelled inside; the ones that wait for it, here.
        tokio::select! {
            schema = entry.schema.get_or_try_init(|| self.fetch(id, &entry, cancel, waiting)) => schema.cloned(),
            () = cancel.cancelled() => Err(NoSchema::Cancelled),
        }
    }

    async fn fetch(
        &self,
        id: &SchemaId,
        entry: &Entry,
        cancel: &CancellationToken,
        waiting: impl Fn(&CallError, Duration),
    ) -> Result<Arc<WriterSchema>, NoSchema> {
        let mut backoff = Backoff::new(BackoffLimits::default());
        let mut refusals = 0;
        loop {
            let answer = tokio::select! {
                () = cancel.cancelled() => return Err(NoSchema::Cancelled),
                answer = self.pubsub.schema(id) => answer,
            };
            let error = match answer {
                Ok(info) => match WriterSchema::parse(&info.schema_json) {
                    Ok(schema) => return Ok(Arc::new(schema)),
                    Err(error) => return Err(entry.refuse(format!("Schema {id}: {error}"))),
                },
                Err(error) => error,
            };
            warn!(schema_id = %id, %error, "the schema of an event cannot be had yet");
            let delay = match error.verdict() {
                Verdict::RetryNow | Verdict::NewToken => backoff.next_wait(),
                Verdict::RetryAfter(pause) => backoff.next_wait_at_least(pause.at_least),
                Verdict::Stop(failure) if !concerns_the_schema(&error) => return Err(NoSchema::Stop(failure)),
                Verdict::Stop(_) | Verdict::OpenGap => {
                    refusals += 1;
                    if refusals >= DETERMINISTIC_ATTEMPTS {
                        return Err(entry.refuse(format!("Schema {id} cannot be had: {error}")));
                    }
                    backoff.next_wait()
                }
            };
            waiting(&error, delay);
            tokio::select! {
                () = cancel.cancelled() => return Err(NoSchema::Cancelled),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }
}

/// Forgets the ids that name nothing, and only if that is not enough the schemas too. What somebody is
/// waiting for stays, so that nobody fetches it a second time at once.
fn make_room(entries: &mut HashMap<SchemaId, Arc<Entry>>) {
    entries.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.schema.initialized());
    if entries.len() >= KEPT {
        entries.retain(|_, entry| Arc::strong_count(entry) > 1);
    }
}

/// Whether the id is what Salesforce objects to. Anything else that does not mend itself, a missing
/// permission above all, is for an operator and no reason to give an event up.
fn concerns_the_schema(error: &CallError) -> bool {
    match error {
        // Salesforce's own code first: what status it comes with is not documented.
        CallError::Status { error_code, .. } if !error_code.is_empty() => {
            error_code.ends_with("schema.validation.failed")
        }
        CallError::Status { code, .. } => matches!(code, Code::NotFound | Code::InvalidArgument),
        CallError::Session(_) => false,
    }
}

impl Entry {
    fn refused(&self) -> Option<String> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.as_ref().filter(|(at, _)| at.elapsed() < BELIEVED_FOR).map(|(_, reason)| reason.clone())
    }

    fn refuse(&self, reason: String) -> NoSchema {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), reason.clone()));
        NoSchema::Undecodable(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> SchemaId {
        SchemaId::from(format!("schema-{number}").as_str())
    }

    fn known() -> Arc<Entry> {
        let schema = WriterSchema::parse(r#"{"type":"record","name":"Nothing","fields":[]}"#).expect("a schema");
        Arc::new(Entry { schema: OnceCell::new_with(Some(Arc::new(schema))), refused: Mutex::default() })
    }

    #[test]
    fn ids_that_name_nothing_are_forgotten_before_schemas_and_neither_while_somebody_waits() {
        let refused = || {
            let entry = Entry::default();
            entry.refuse("no such schema".to_owned());
            Arc::new(entry)
        };
        let waited_for = Arc::new(Entry::default());
        let mut entries: HashMap<_, _> = (0..KEPT).map(|number| (id(number), refused())).collect();
        entries.insert(id(KEPT), known());
        entries.insert(id(KEPT + 1), waited_for.clone());
        make_room(&mut entries);
        let mut left: Vec<_> = entries.keys().cloned().collect();
        left.sort();
        assert_eq!(left, [id(KEPT), id(KEPT + 1)]);

        entries.extend((0..KEPT).map(|number| (id(number), known())));
        make_room(&mut entries);
        assert_eq!(entries.keys().collect::<Vec<_>>(), [&id(KEPT + 1)]);
    }
}

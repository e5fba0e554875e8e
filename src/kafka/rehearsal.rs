//! A transaction that is never committed, to see whether the real ones would work.
//!
//! It has a transactional id of its own, so that it fences nobody who carries events, and what it writes is aborted, so that
//! no `read_committed` consumer sees it. It must never write to a checkpoint topic: a foreign transaction that is open there
//! would hide the newest checkpoint from a stream that starts.

use std::sync::Arc;

use bytes::Bytes;

use crate::kafka::error::KafkaError;
use crate::kafka::settings::KafkaSettings;
use crate::kafka::transaction::{Batches, Command, ProducerThread};
use crate::kafka::writer::{OutputRecord, call};

/// A producer that may write and never commits.
#[derive(Debug)]
pub struct Rehearsal {
    thread: ProducerThread,
    settings: Arc<KafkaSettings>,
}

impl Rehearsal {
    /// The transactional id of all rehearsals under a prefix. No stream can have it: theirs have an organisation in them.
    pub fn transactional_id(prefix: &str) -> String {
        format!("{prefix}.doctor")
    }

    /// Makes the producer and initialises its transactions. That alone shows whether the principal may use transactional
    /// ids under the prefix, and whether the brokers take `kafka.transaction_timeout`.
    ///
    /// # Errors
    /// What a stream's own start would end with. [`KafkaError::Fenced`]: another rehearsal under the prefix has begun.
    pub async fn begin(settings: &KafkaSettings) -> Result<Self, KafkaError> {
        let settings = Arc::new(settings.clone());
        let thread = ProducerThread::spawn(
            &settings,
            Self::transactional_id(&settings.topic_prefix),
            Batches::Set,
            Arc::default(),
        )?;
        call(&thread, settings.call_timeout, |reply| Command::Fence { reply }).await?;
        Ok(Self { thread, settings })
    }

    /// Writes one empty record to an existing topic and takes it back. The rehearsal is of no use after an error.
    ///
    /// # Errors
    /// What a stream's own transaction would end with: a permission, replicas that are missing.
    pub async fn write(&self, topic: &str) -> Result<(), KafkaError> {
        let probe = OutputRecord {
            topic: topic.into(),
            key: Bytes::from_static(b"casewire doctor"),
            value: Some(Bytes::new()),
            headers: Vec::new(),
        };
        call(&self.thread, self.settings.call_timeout, |reply| Command::FindEnd { probe, reply }).await.map(drop)
    }

    /// Ends the producer.
    ///
    /// # Errors
    /// When it does not end within [`KafkaSettings::call_timeout`] and fifteen seconds.
    pub async fn close(self) -> Result<(), KafkaError> {
        call(&self.thread, self.settings.call_timeout, |reply| Command::Close { reply }).await
    }
}

//! Entries that are put into the gap ledger from beside a stream: by a command, or by a comparison on a schedule.
//!
//! Why that cannot break the guarantee, although no transaction of the stream holds them:
//!
//! - An entry is a request and nothing else. It carries no record of an object and moves no position. What comes of it
//!   is read by a job and committed by the stream's run loop, in its transactions, like any other gap.
//! - Its key is new (a random id), so it takes no other entry's place, neither for readers nor for compaction. That of a
//!   dead letter is made of the letter's, so that a letter is redriven once; it takes the place of its own entry only.
//! - It is written without a transactional id ([`append()`]). So it fences nobody, and no open transaction of its own holds
//!   readers of the ledger back; readers that read committed records see it once it is acknowledged by all replicas in sync.
//! - Written twice, after an acknowledgement that was lost, it is two entries and makes two jobs: what the second one
//!   writes repeats what the first wrote. Not written, it is an error of whoever wanted it, and nothing else has changed.
//!
//! The runner of the stream's jobs looks at the ledger's end every `gaps.look_every`, and finds it; without a running
//! service it waits there, and is found at the next start.

use crate::identity::{OrgId, TopicName};
use crate::kafka::{KafkaError, KafkaSettings, TopicRole, append, ensure_topic};
use crate::pipeline::context::ledger_topic;
use crate::pipeline::ledger::OpenGap;

/// Puts entries of one stream into the ledger. `by` is the run that does, as `opened_by` shows it.
///
/// # Errors
/// When the ledger is not there and may not be made, or not every entry is acknowledged; some may stand there all the same.
pub async fn append_entries(
    settings: &KafkaSettings,
    (org, topic): (&OrgId, &TopicName),
    by: &str,
    entries: &[OpenGap],
) -> Result<(), KafkaError> {
    let ledger = ledger_topic(&settings.topic_prefix);
    ensure_topic(settings, &ledger, TopicRole::Gaps).await?;
    let ledger = ledger.into();
    append(settings, entries.iter().map(|entry| entry.record(&ledger, org, topic, by)).collect()).await
}

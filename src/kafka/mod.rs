//! Everything that speaks to Kafka.
//!
//! | file | duty |
//! |---|---|
//! | [`settings`] | brokers, prefix, properties; which properties are refused; the clients' configuration |
//! | [`stream`] | what names a stream in Kafka, and what names this run of casewire |
//! | [`checkpoint`] | the record that says where a stream stands |
//! | [`checkpoint_topic`] | reading it back, with or without fencing its writer |
//! | [`writer`] | the transactional writer: fence, read, commit |
//! | `batch_size` | how large its batches are |
//! | `transaction` | the thread below it that makes the blocking calls |
//! | [`connection`] | what a client's callbacks say about the connection |
//! | [`topics`] | what each topic is for; creating and checking them |
//! | [`rehearsal`] | a transaction that is never committed |
//! | `replicas` | whether a topic has the replicas in sync that a write needs |
//! | [`topic_findings`] | what is wrong with a topic that exists |
//! | [`scan`] | reading committed records back |
//! | [`mod@append`] | records appended without a transaction: what commands tell a running stream |
//! | [`news`] | what has come to a topic since somebody last looked |
//! | [`cluster`] | questions to the cluster: is it there, which topics has it |
//! | [`error`] | what can fail, and the one table of what to do then |
//! | `failpoint` | the places at which the crash test ends the process |

pub mod append;
mod batch_size;
pub mod checkpoint;
pub mod checkpoint_topic;
pub mod cluster;
pub mod connection;
pub mod error;
pub(crate) mod failpoint;
pub mod news;
pub mod rehearsal;
mod replicas;
pub mod scan;
pub mod settings;
pub mod stream;
pub mod topic_findings;
pub mod topics;
mod transaction;
pub mod writer;

pub use append::append;
pub use batch_size::MOST_BATCH_BYTES;
pub use checkpoint::{Checkpoint, StoredCheckpoint, Writer};
pub use checkpoint_topic::{FencedBy, checkpoints_of_topic, read_checkpoint, who_fenced};
pub use cluster::{BrokerInfo, TopicListing, list_topics, ping};
pub use connection::{Connection, WrittenTo};
#[cfg(test)]
pub(crate) use error::topic_that_went_back;
pub use error::{KafkaError, Verdict};
pub use news::{ReadTo, scan_news};
pub use rehearsal::Rehearsal;
pub use scan::{ScanFrom, ScannedRecord, scan};
pub use settings::{GUARDED_PROPERTIES, Isolation, KafkaSettings, TopicDefaults, check_properties};
pub use stream::{KEPT, RunIdentity, StreamIdentity};
#[cfg(test)]
pub(crate) use topic_findings::one_of_each as topic_samples;
pub use topic_findings::{Finding, Severity};
pub use topics::{TopicReport, TopicRole, TopicSpec, TopicState, broker_protocol, ensure_topic, inspect_topic};
pub use writer::{Committed, OutputRecord, TransactionalWriter};

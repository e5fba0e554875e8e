//! File and environment to one validated [`Config`].
//!
//! - `reader`: typed look-ups that collect every fault instead of stopping at the first
//! - `load`: the file, the `CASEWIRE__…` overrides and the secret files
//! - `stream`: the topics to carry
//! - `completion`: when full records are read
//! - `field_choice`: which fields of a record are read
//! - `gaps`: how gaps are healed
//! - `messages`: how the messages of conversations are fetched
//! - `poll`: objects that are read where they changed, since no event tells
//! - `policy`: which fields are kept from readers
//! - `snapshot`: which objects are read from beginning to end
//! - `reconcile`: how the records in Kafka are compared with those of the org
//! - `telemetry`: traces for an OpenTelemetry collector
//! - `settings`: each section, its keys, defaults and limits
//! - `schema`: the same keys as a JSON Schema
//! - `print`: the effective configuration, secrets left out

mod completion;
mod field_choice;
mod gaps;
mod load;
mod messages;
mod policy;
mod poll;
mod print;
mod reader;
mod reconcile;
mod schema;
mod settings;
mod snapshot;
mod stream;
mod telemetry;
#[cfg(test)]
mod tests;

pub use completion::{CompletionConfig, OnIncomplete, RecordMode};
pub use field_choice::FieldChoice;
pub use gaps::GapsConfig;
pub use load::{ConfigError, Environment};
pub use messages::{DataApiConfig, MessagesApi, MessagesConfig};
pub use policy::{CONVERSATION_ENTRY, PoliciesConfig, PolicyConfig};
pub use poll::{PollConfig, polls_of};
pub use reader::{Fault, SecretFile};
pub use reconcile::ReconcileConfig;
pub use settings::{
    AdminConfig, BatchConfig, BufferConfig, Config, Grant, KafkaConfig, LogConfig, LogFormat, PubSubConfig,
    SalesforceConfig,
};
pub use snapshot::{PagesConfig, SnapshotConfig, stream_of};
pub use stream::{OnGap, OnUndecodable, Start, StreamConfig};
pub use telemetry::TelemetryConfig;

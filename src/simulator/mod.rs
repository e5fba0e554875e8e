//! A Salesforce org in a box: what other people's clients take for Salesforce.
//!
//! As strict as what is known of the real services, because a lenient simulator hides the
//! faults of its clients. It uses the wire contract (`crate::proto`) and nothing else of
//! this crate: encoder and ledger are its own, so that no mistake of the client is also its.
//!
//! | file | holds |
//! |---|---|
//! | `settings` | the configuration and its defaults |
//! | `keys` | the sign-in key pair, the CA and the TLS side |
//! | `org` | the state that all services share |
//! | `sessions` | access tokens |
//! | `oauth`, `rest` | what is answered on the login and instance hosts |
//! | `soql`, `bulk_jobs`, `api_allowance` | queries, at once and as jobs; how many calls a day |
//! | `conversation_records` | what a conversation leaves in the records |
//! | `conversations` | what was said in messaging sessions, and how often it may be asked for |
//! | `record_store`, `row`, `columns` | every record as it truly is, packed; the fields that REST has |
//! | `truth` | the records for whoever compares a consumer with them |
//! | `running` | starting everything, and the end of it |
//! | `sockets`, `http_server` | accepting connections, with or without TLS; HTTP/1.1 on them |
//! | `connections` | HTTP/2 on the Pub/Sub port and what can happen to its connections |
//! | `pubsub` | the calls of the Pub/Sub API and who may make them |
//! | `subscription` | one Subscribe call |
//! | `publishing` | Publish and PublishStream calls |
//! | `refusal` | gRPC errors with their trailers |
//! | `bus` | the retained log and its replay ids |
//! | `publisher` | the one thread where events come into being |
//! | `generator` | draws transactions from the seed |
//! | `model`, `value`, `content` | the records, their values, and what stands in them |
//! | `change_event`, `text_diff`, `avro` | a change event and its encoding |
//! | `objects`, `schema`, `record_id` | objects and fields, event schemas, record ids |
//! | `ledger` | the file that says what was published |
//! | `faults`, `random_faults` | what can go wrong, on order and by chance |
//! | `control`, `control_port` | the handle in this process, and the same over HTTP |
//! | `stats` | the counters |
//! | `traffic` | publishing at a rate, and retention |
//! | `chatter` | what is said in messaging sessions, at a rate |
//! | `dice` | chance that a seed repeats |

mod api_allowance;
mod avro;
mod bulk_jobs;
mod bus;
mod change_event;
mod chatter;
mod columns;
mod connections;
mod content;
mod control;
mod control_port;
mod conversation_records;
mod conversations;
mod dice;
mod faults;
mod generator;
mod http_server;
mod keys;
mod ledger;
mod model;
mod oauth;
mod objects;
mod org;
mod publisher;
mod publishing;
mod pubsub;
mod random_faults;
mod record_id;
mod record_store;
mod refusal;
mod rest;
mod row;
mod running;
mod schema;
mod sessions;
mod settings;
mod sockets;
mod soql;
mod stats;
mod subscription;
mod text_diff;
mod traffic;
mod truth;
mod value;

#[cfg(test)]
mod tests;

pub use control::{Control, ControlError, EventOrder};
pub use conversations::{EntryLine, MessageOrder};
pub use faults::Fault;
pub use ledger::LedgerLine;
pub use running::{Simulator, SimulatorError};
pub use settings::{
    BulkDateTime, Channel, Listen, Mix, PubSub, RandomFaults, Rest, SignIn, SimulatorConfig, TimeBounds, Traffic,
};
pub use stats::Snapshot;
pub use truth::RecordLine;

//! Everything that speaks to Salesforce.
//!
//! | file | duty |
//! |---|---|
//! | [`backoff`] | how long to wait before the next attempt |
//! | `tls` | which certificate authorities are trusted |
//! | `proxy` | connections through an HTTP proxy of the environment |
//! | `clock` | Salesforce's time, as its own answers tell it |
//! | [`reachability`] | the way to a host, step by step: proxy, name, connection, TLS |
//! | [`certificate`] | what stands in a certificate |
//! | [`key_pair`] | a new key pair to sign in with |
//! | [`grant`] | what casewire signs in with: JWT bearer or client credentials |
//! | `oauth` | one token request, and what its answer means |
//! | [`session`] | the one owner of the access token |
//! | [`session_error`] | why there is no token, and which Setup page mends it |
//! | [`rest`] | one call over REST with the session's token; the org's limits |
//! | [`rest_error`] | what an error of REST means for the caller, and which Setup page mends it |
//! | [`api_usage`] | how much of the org's API requests is used, as each answer tells |
//! | [`rest_client`] | REST that does not give up at once: backoff, pauses, deadlines |
//! | `collections` | many records by their ids in one call |
//! | [`query`] | SOQL, page by page |
//! | [`bulk`] | query jobs of the Bulk API 2.0: what reads objects that are too large for anything else |
//! | [`bulk_held`] | a query job that goes back to Salesforce with its holder |
//! | [`bulk_page`] | one page of their results, from CSV to rows |
//! | [`bulk_pages`] | a result from a place on: several pages under way, their rows in order |
//! | [`bulk_listing`] | the ids of a whole object by such a job |
//! | [`describe`] | what the user may read of each object, asked once and again when it changes |
//! | [`id_listing`] | the ids of an object, page by page: all, or those that were changed within some time |
//! | `record_sight` | whether the user sees every record of an object |
//! | [`record_read`] | records by their ids, and what became of those that are not there |
//! | [`conversation_entries`] | what was said in a conversation, page by page |
//! | [`conversation_records`] | the records of conversations and of who takes part in them |
//! | [`messaging_sessions`] | sessions, and the conversations that they belong to |
//! | [`pubsub`] | the one HTTP/2 channel to the Pub/Sub API and its unary calls |
//! | [`verdict`] | what a gRPC error means for the caller |
//! | [`credit`] | how many events to ask for |
//! | [`buffer`] | the room between the subscription and the committed end |
//! | [`subscription`] | keeps a topic subscribed: the loop over calls |
//! | `recovery` | what follows the end of a call |
//! | `subscription_state` | how a subscription is doing, for whoever watches |
//! | `call` | one Subscribe call, from its first FetchRequest to its end |
//! | `call_fault` | what is wrong with a call where Salesforce did not say so itself |
//! | `fetch_response` | a FetchResponse is looked over before it is decoded |
//! | [`intake`] | what a subscription hands downstream |

pub mod api_usage;
pub mod backoff;
pub mod buffer;
pub mod bulk;
pub mod bulk_held;
pub mod bulk_listing;
pub mod bulk_page;
pub mod bulk_pages;
mod call;
pub(crate) mod call_fault;
pub mod certificate;
mod clock;
mod collections;
pub mod conversation_entries;
pub mod conversation_records;
pub mod credit;
pub mod describe;
mod fetch_response;
pub mod grant;
pub mod id_listing;
pub mod intake;
pub mod key_pair;
pub mod messaging_sessions;
mod oauth;
pub(crate) mod proxy;
pub mod pubsub;
pub mod query;
pub mod reachability;
pub mod record_read;
mod record_sight;
mod recovery;
pub mod rest;
pub mod rest_client;
pub mod rest_error;
pub mod session;
pub mod session_error;
pub mod subscription;
mod subscription_state;
pub(crate) mod tls;
pub mod verdict;

/// How answers are read, apart from the network that brings them. The fuzz targets of `fuzz/` are a crate of their own
/// and see only what is public; nothing else should use this.
#[doc(hidden)]
pub mod reading {
    pub use super::bulk_page::{BulkPage, BulkRow, read as bulk_page, rows as bulk_rows};
    pub use super::conversation_entries::read as conversation_entries;
    pub use super::fetch_response::{MOST_EVENTS, MOST_HEADERS, read as fetch_response};
    pub use super::oauth::read_answer as token_answer;
    pub use super::rest::read_json;
    pub use super::rest_error::refusal;
}

#[cfg(test)]
mod conversation_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod pubsub_tests;
#[cfg(test)]
mod rest_tests;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod secrecy_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod subscription_tests;

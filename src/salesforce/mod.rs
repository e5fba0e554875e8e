//! Everything that speaks to Salesforce.
//!
//! | file | duty |
//! |---|---|
//! | [`backoff`] | how long to wait before the next attempt |
//! | `tls` | which certificate authorities are trusted |
//! | `proxy` | connections through an HTTP proxy of the environment |
//! | `clock` | Salesforce's time, as its own answers tell it |
//! | [`grant`] | what casewire signs in with: JWT bearer or client credentials |
//! | `oauth` | one token request, and what its answer means |
//! | [`session`] | the one owner of the access token |
//! | [`session_error`] | why there is no token, and which Setup page mends it |
//! | [`rest`] | GET over REST with the session's token; the org's limits |
//! | [`pubsub`] | the one HTTP/2 channel to the Pub/Sub API and its unary calls |
//! | [`verdict`] | what a gRPC error means for the caller |
//! | [`credit`] | how many events to ask for |
//! | [`buffer`] | the room between the subscription and the committed end |
//! | [`subscription`] | keeps a topic subscribed: the loop over calls |
//! | `recovery` | what follows the end of a call |
//! | `subscription_state` | how a subscription is doing, for whoever watches |
//! | `call` | one Subscribe call, from its first FetchRequest to its end |
//! | `fetch_response` | a FetchResponse is looked over before it is decoded |
//! | [`intake`] | what a subscription hands downstream |

pub mod backoff;
pub mod buffer;
mod call;
mod clock;
pub mod credit;
mod fetch_response;
pub mod grant;
pub mod intake;
mod oauth;
mod proxy;
pub mod pubsub;
mod recovery;
pub mod rest;
pub mod session;
pub mod session_error;
pub mod subscription;
mod subscription_state;
mod tls;
pub mod verdict;

/// How answers are read, apart from the network that brings them. The fuzz targets of `fuzz/` are a crate of their own
/// and see only what is public; nothing else should use this.
#[doc(hidden)]
pub mod reading {
    pub use super::fetch_response::{MOST_EVENTS, MOST_HEADERS, read as fetch_response};
    pub use super::oauth::read_answer as token_answer;
    pub use super::rest::{read_json, refusal};
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod pubsub_tests;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod secrecy_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod subscription_tests;

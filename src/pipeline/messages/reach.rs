//! Whether the user may fetch messages at all, asked without marking any conversation active.
//!
//! Each call for entries makes its conversation count among the org's active ones for half an hour. A conversation of an
//! identifier that was drawn this moment is none of the org's, so nothing is marked; that it is not there is the answer of a
//! resource that the user may ask. One of the calls of the hour is used.

use tokio::time::Instant;

use crate::failure::Failure;
use crate::pipeline::messages::setback::Setback;
use crate::salesforce::conversation_entries::Place;
use crate::salesforce::rest::RestError;
use crate::salesforce::rest_client::RestClient;

/// A session that no org has.
const NO_SESSION: &str = "0Mw000000000000CAA";

/// Asks for a session and for a conversation that are not there.
///
/// # Errors
/// With the words with which fetching would wait.
pub async fn reach(rest: &RestClient, deadline: Instant) -> Result<(), Failure> {
    rest.messaging_sessions(&[NO_SESSION], deadline).await.map_err(|error| Setback::Sessions(error).failure())?;
    let nobody = uuid::Uuid::new_v4().to_string();
    match rest.conversation_entries(&nobody, &Place::at(0), deadline).await {
        Ok(_) | Err(RestError::Refused { status: 400 | 404 | 410, .. }) => Ok(()),
        Err(error) => Err(Setback::Entries(error).failure()),
    }
}

//! One Subscribe call, from its first FetchRequest to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Response, Status, Streaming};

use crate::failure::Failure;
use crate::identity::TopicName;
use crate::position::ReplayFrom;
use crate::proto::{FetchRequest, FetchResponse, ReplayPreset};
use crate::salesforce::credit::MOST_REQUESTS;
use crate::salesforce::pubsub::PubSub;
use crate::salesforce::session::Token;
use crate::salesforce::verdict::CallError;

/// Why a call is over.
#[derive(Debug)]
pub(crate) enum CallEnd {
    /// We were told to stop.
    Cancelled,
    /// Nobody takes batches any more.
    ReceiverGone,
    /// The server ended it with OK.
    Finished,
    /// No message for this long although events were asked for.
    Silent(Duration),
    /// No room downstream; closed on purpose.
    Full,
    /// Nothing is to be asked for until further notice; closed on purpose.
    Paused,
    /// So many events came without having been asked for that it was ended.
    Overrun(u32),
    /// The server or the transport ended it with an error.
    Failed(CallError),
    /// The server sent what cannot be taken.
    Unusable(Failure),
}

type Opening = Pin<Box<dyn Future<Output = Result<Response<Streaming<FetchResponse>>, Status>> + Send>>;

/// The response side of a call.
enum Incoming {
    /// The headers have not come; on a quiet topic that takes minutes.
    Opening(Opening),
    Open(Box<Streaming<FetchResponse>>),
    Over,
}

/// A call under way.
pub(crate) struct Call {
    /// Kept for the life of the call: dropping it half-closes the call, which ends the subscription.
    requests: mpsc::Sender<FetchRequest>,
    incoming: Incoming,
    token: Arc<Token>,
}

impl Call {
    /// Opens the call; the first FetchRequest is in the request stream before anything is awaited.
    pub(crate) fn open(
        pubsub: &PubSub,
        token: Arc<Token>,
        topic: &TopicName,
        from: &ReplayFrom,
        first: u32,
    ) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(1 + MOST_REQUESTS);
        // The channel is new and empty: there is room for one.
        let _ = requests.try_send(first_fetch(topic, from, first));
        let opening = pubsub.subscribe(&token, receiver)?;
        Ok(Self { requests, incoming: Incoming::Opening(Box::pin(opening)), token })
    }

    /// The token that the call carries.
    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// The next message; `None` when the server has ended the call with OK. May be dropped and called again.
    pub(crate) async fn message(&mut self) -> Result<Option<FetchResponse>, Status> {
        loop {
            match &mut self.incoming {
                Incoming::Opening(opening) => match opening.await {
                    Ok(response) => self.incoming = Incoming::Open(Box::new(response.into_inner())),
                    Err(status) => {
                        self.incoming = Incoming::Over;
                        return Err(status);
                    }
                },
                Incoming::Open(stream) => {
                    let message = stream.message().await;
                    if !matches!(message, Ok(Some(_))) {
                        self.incoming = Incoming::Over;
                    }
                    return message;
                }
                Incoming::Over => return Ok(None),
            }
        }
    }

    /// Asks for more events.
    ///
    /// There is room for as many requests as can be unconfirmed, so the channel cannot be full; if the call is over,
    /// the next [`Call::message`] says so.
    pub(crate) fn ask(&self, events: u32) {
        let num_requested = i32::try_from(events).unwrap_or(i32::MAX);
        let _ = self.requests.try_send(FetchRequest { num_requested, ..FetchRequest::default() });
    }

    /// Half-closes the call and waits for the server to end it, so that the old subscription
    /// is gone before a new one is made; after `patience` the call is reset instead.
    ///
    /// What still arrives is not taken: the position has not moved past it, so it comes again.
    pub(crate) async fn close(self, patience: Duration) {
        let Self { requests, mut incoming, .. } = self;
        drop(requests);
        let drained = tokio::time::timeout(patience, async {
            if let Incoming::Opening(opening) = &mut incoming {
                let Ok(response) = opening.await else { return };
                incoming = Incoming::Open(Box::new(response.into_inner()));
            }
            if let Incoming::Open(stream) = &mut incoming {
                while let Ok(Some(_)) = stream.message().await {}
            }
        });
        if drained.await.is_err() {
            tracing::debug!("the server did not end the call, resetting it");
        }
    }
}

fn first_fetch(topic: &TopicName, from: &ReplayFrom, first: u32) -> FetchRequest {
    let (preset, replay_id) = match from {
        ReplayFrom::After(id) => (ReplayPreset::Custom, id.as_bytes().clone()),
        ReplayFrom::Earliest => (ReplayPreset::Earliest, bytes::Bytes::new()),
        ReplayFrom::Latest => (ReplayPreset::Latest, bytes::Bytes::new()),
    };
    FetchRequest {
        topic_name: topic.to_string(),
        replay_preset: preset.into(),
        replay_id,
        num_requested: i32::try_from(first).unwrap_or(i32::MAX),
        auth_refresh: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn the_first_fetch_request_has_the_documented_bytes() {
        let topic = "/data/CaseChangeEvent".parse().expect("topic");
        let id = "00000000001790510000".parse().expect("id");
        let bytes = first_fetch(&topic, &ReplayFrom::After(id), 100).encode_to_vec();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0a152f646174612f436173654368616e67654576656e7410021a0a000000000017905100002064");
        let earliest = first_fetch(&topic, &ReplayFrom::Earliest, 1);
        assert_eq!((earliest.replay_preset(), earliest.replay_id.len()), (ReplayPreset::Earliest, 0));
    }
}

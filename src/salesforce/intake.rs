//! What a subscription hands downstream.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::identity::{ReplayId, SchemaId};
use crate::position::{EventKey, Position};
use crate::proto::ConsumerEvent;
use crate::salesforce::buffer::Hold;

/// The longest replay id that is taken. Salesforce's have 10 bytes, had 8, and may change; but a checkpoint holds a
/// hundred of them, and has to fit into one record of Kafka.
const LONGEST_REPLAY_ID: usize = 256;

/// Why an event has no place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Placeless {
    #[error("without a replay id")]
    NoReplayId,
    #[error("with a replay id of {0} bytes, where Salesforce has 10")]
    LongReplayId(usize),
}

/// Whether these bytes can be a position.
pub(crate) fn check_replay_id(id: &[u8]) -> Result<(), Placeless> {
    match id.len() {
        0 => Err(Placeless::NoReplayId),
        1..=LONGEST_REPLAY_ID => Ok(()),
        length => Err(Placeless::LongReplayId(length)),
    }
}

/// One event as it came off the wire, not yet decoded.
#[derive(Debug, Clone)]
pub struct ReceivedEvent {
    /// What makes it this event.
    pub key: EventKey,
    /// The event's own id; empty where Salesforce gave none.
    pub event_id: String,
    /// The writer schema of the payload; empty in an event without content.
    pub schema_id: SchemaId,
    /// One Avro datum.
    pub payload: Bytes,
}

impl ReceivedEvent {
    /// Reads an event of a response.
    ///
    /// An event without content is an event nevertheless: with an empty schema id and payload
    /// it cannot be decoded, and goes where undecodable events go.
    ///
    /// # Errors
    /// If its replay id is none, and so gives it no place in the stream.
    pub(crate) fn read(event: ConsumerEvent) -> Result<Self, Placeless> {
        check_replay_id(&event.replay_id)?;
        let content = event.event.unwrap_or_default();
        // Copied: what was received is a piece of its whole response, and a position remembers the keys of a hundred
        // events. Each of them would keep a response of up to 3 MB.
        let replay_id = ReplayId::from(Bytes::copy_from_slice(&event.replay_id));
        Ok(Self {
            key: EventKey::new(replay_id, &content.id, &content.payload),
            event_id: content.id,
            schema_id: SchemaId::from(content.schema_id.as_str()),
            payload: content.payload,
        })
    }
}

/// The new events of one response. Empty: a keepalive, which moves the position only.
#[derive(Debug)]
pub struct Batch {
    /// The subscription that it came from; see [`crate::salesforce::subscription::SubscriptionSettings::generation`].
    pub generation: u64,
    /// In the order of the bus, without those that were taken before.
    pub events: Vec<ReceivedEvent>,
    /// Where the stream stands after these events.
    pub position: Position,
    /// How many events of the response had been taken before and were dropped.
    pub duplicates: u32,
    /// Salesforce's time of arrival.
    pub received_at: DateTime<Utc>,
    /// The same by a clock that nobody sets.
    pub came_at: Instant,
    /// The room that the events take; drop it when they are committed or given up.
    pub hold: Hold,
}

/// What comes out of a subscription, in order.
#[derive(Debug)]
pub enum Intake {
    /// Events, or a keepalive.
    Batch(Batch),
    /// A start from the tip ended before it had a position and was made again: what was
    /// published in between has not been delivered. Comes before the batch that ends it.
    LatestRestarted {
        /// When the first attempt was made.
        from: DateTime<Utc>,
        /// When the attempt was made that lasted.
        to: DateTime<Utc>,
    },
    /// A start from the tip was resumed after its first id, on a topic where events share ids: siblings of
    /// what came, if there were any, are not delivered any more.
    ResumedInsideGroup {
        /// The id that the group would share.
        replay_id: ReplayId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ProducerEvent;

    #[test]
    fn an_event_without_content_is_handed_on_and_one_without_a_place_is_not_an_event() {
        let bare = ConsumerEvent { event: None, replay_id: Bytes::from_static(&[7]) };
        let event = ReceivedEvent::read(bare).expect("an event");
        assert!(event.payload.is_empty() && event.schema_id.as_str().is_empty());
        assert!(event.key.event_id().starts_with("sha256:"));
        let placeless = ConsumerEvent { event: Some(ProducerEvent::default()), replay_id: Bytes::new() };
        assert_eq!(ReceivedEvent::read(placeless).err(), Some(Placeless::NoReplayId));
        let long = ConsumerEvent { event: None, replay_id: vec![7; 257].into() };
        assert_eq!(ReceivedEvent::read(long).err(), Some(Placeless::LongReplayId(257)));
    }
}

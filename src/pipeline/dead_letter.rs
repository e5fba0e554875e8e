//! What becomes of an event that cannot be decoded: its bytes are kept in
//! `<prefix>.dead-letters`, in the transaction in which its records would have stood.
//!
//! And the brake: a few such events are data, many are a fault of ours or a change at
//! Salesforce that somebody has to look at before the whole stream ends in the letters.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::failure::{Exit, Failure};
use crate::identity::{OrgId, SchemaId, TopicName};
use crate::kafka::OutputRecord;
use crate::position::EventKey;

/// So many undecodable events in a row stop the stream.
const IN_A_ROW: usize = 20;

/// Of so many events …
const WINDOW: usize = 10_000;

/// … more than this many undecodable ones (1 %) stop the stream.
const IN_WINDOW: usize = 100;

/// An undecodable event, complete: it can be decoded again once the reason is gone.
#[derive(Debug, Clone)]
pub struct DeadLetter<'a> {
    /// Which event.
    pub key: &'a EventKey,
    /// The event id as received; empty when there was none.
    pub event_id: &'a str,
    /// The writer schema that the event names.
    pub schema_id: &'a SchemaId,
    /// The Avro bytes as received.
    pub payload: &'a Bytes,
    /// Why it could not be decoded.
    pub reason: &'a str,
}

impl DeadLetter<'_> {
    /// The record: the bytes as value, all else in headers.
    pub fn record(&self, letters_topic: &Arc<str>, org: &OrgId, topic: &TopicName) -> OutputRecord {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let mut headers = vec![
            ("casewire", Bytes::from_static(b"1")),
            ("content-type", Bytes::from_static(b"avro/binary")),
            ("org", text(org.as_str())),
            ("topic", text(topic.as_str())),
            ("replay_id", Bytes::from(self.key.replay_id().to_string())),
            ("schema_id", text(self.schema_id.as_str())),
            ("reason", text(self.reason)),
        ];
        if !self.event_id.is_empty() {
            headers.push(("event_id", text(self.event_id)));
        }
        let id = format!("{}-{}", self.key.replay_id(), self.key.event_id());
        OutputRecord {
            topic: letters_topic.clone(),
            key: Bytes::from(id.into_bytes()),
            value: Some(self.payload.clone()),
            headers,
        }
    }
}

/// Stops a stream that would end in the dead letters. It outlives restarts of the stream:
/// otherwise each attempt would let another nineteen pass.
#[derive(Debug, Default)]
pub struct FloodBrake {
    /// The events since the last decoded one. One that comes again after a failed transaction counts once.
    in_a_row: HashSet<EventKey>,
    window: VecDeque<bool>,
    in_window: usize,
}

impl FloodBrake {
    /// Notes an event that was decoded.
    pub fn decoded(&mut self) {
        self.in_a_row.clear();
        self.push(false);
    }

    /// Notes an event that was not.
    ///
    /// # Errors
    /// When it is one too many. The event is then not to be put away.
    pub fn undecodable(&mut self, event: &EventKey, reason: &str) -> Result<(), Failure> {
        if self.in_a_row.insert(event.clone()) {
            self.push(true);
        }
        let what = if self.in_a_row.len() >= IN_A_ROW {
            format!("{} events in a row could not be decoded; the last one: {reason}", self.in_a_row.len())
        } else if self.in_window > IN_WINDOW {
            format!("{} of the last {WINDOW} events could not be decoded; the last one: {reason}", self.in_window)
        } else {
            return Ok(());
        };
        let remedy = "read the newest records of the dead-letters topic: their reason and schema_id headers tell \
                      whether a newer casewire is needed; the stream goes on by itself once it decodes again";
        Err(Failure::new(Exit::Software, what, remedy))
    }

    fn push(&mut self, undecodable: bool) {
        self.window.push_back(undecodable);
        self.in_window += usize::from(undecodable);
        if self.window.len() > WINDOW {
            let oldest = self.window.pop_front().unwrap_or_default();
            self.in_window -= usize::from(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ReplayId;

    fn event(number: usize) -> EventKey {
        EventKey::new(ReplayId::from(Bytes::from_static(&[7])), &number.to_string(), b"")
    }

    #[test]
    fn twenty_in_a_row_stop_the_stream_and_one_decoded_event_releases_it() {
        let mut brake = FloodBrake::default();
        assert!((1..IN_A_ROW).all(|number| brake.undecodable(&event(number), "reason").is_ok()));
        assert!((1..IN_A_ROW).all(|number| brake.undecodable(&event(number), "reason").is_ok()), "the same ones again");
        assert!(brake.undecodable(&event(IN_A_ROW), "reason").is_err());
        assert!(brake.undecodable(&event(IN_A_ROW), "reason").is_err(), "the brake holds over a restart of the stream");
        brake.decoded();
        assert!(brake.undecodable(&event(IN_A_ROW), "reason").is_ok());
    }

    #[test]
    fn more_than_one_per_cent_of_ten_thousand_stop_the_stream() {
        let mut brake = FloodBrake::default();
        for number in 0..IN_WINDOW {
            assert!(brake.undecodable(&event(number), "reason").is_ok());
            (0..99).for_each(|_| brake.decoded());
        }
        assert!(brake.undecodable(&event(IN_WINDOW), "reason").is_ok(), "the first of them has left the window");
        assert!(brake.undecodable(&event(IN_WINDOW + 1), "reason").is_err());
    }
}

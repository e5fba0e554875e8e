//! Where a stream stands in the event bus: what has been taken, and from where
//! to go on without losing an event or taking one twice.
//!
//! A replay id alone does not say this. Events of an enriched group share one id
//! while delivery resumes strictly *after* an id, and servers redeliver. So a
//! position is three things:
//!
//! - the **anchor**: the newest id known to be complete. An id is complete once an
//!   event with another id, or a keepalive, came after it; only then can it be
//!   resumed after without skipping a sibling;
//! - **already**: the events taken beyond the anchor. They will be delivered again
//!   after a resume and are dropped then;
//! - **recent**: the last events before those, for a server that goes further back
//!   than it was asked to.
//!
//! Ids are compared for equality only.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::identity::{InvalidIdentifier, ReplayId};

/// How many events before the anchor a position remembers. One full credit
/// (100 events) is the most that Salesforce sends beyond what was confirmed.
pub const RECENT_EVENTS: usize = 100;

/// The longest event id that is kept as it is. Salesforce's own are UUIDs.
const LONGEST_EVENT_ID: usize = 200;

/// What makes an event that event, across redelivery, topics and channels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventKey {
    replay_id: ReplayId,
    event_id: Arc<str>,
}

impl EventKey {
    /// The key of an event. Two events can share a replay id, so where Salesforce gives
    /// no event id (it documents none for change events, though all captures have one)
    /// the payload's digest stands in. The id of a platform event is its publisher's to choose, so
    /// for a long one its digest stands in: a checkpoint holds a hundred keys.
    pub fn new(replay_id: ReplayId, event_id: &str, payload: &[u8]) -> Self {
        let event_id = if event_id.is_empty() { stand_in(payload) } else { bounded(event_id) };
        Self { replay_id, event_id }
    }

    /// The position of the event.
    pub fn replay_id(&self) -> &ReplayId {
        &self.replay_id
    }

    /// The event's own id, or the digest that stands in for it.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// A short form for large sets: half a SHA-256, so that two events share it never in practice.
    pub fn fingerprint(&self) -> u128 {
        let digest =
            Sha256::new().chain_update(self.replay_id.as_bytes()).chain_update([0]).chain_update(&*self.event_id);
        digest.finalize().iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte))
    }
}

/// The event id, or what stands in for a long one.
fn bounded(event_id: &str) -> Arc<str> {
    if event_id.len() <= LONGEST_EVENT_ID { event_id.into() } else { stand_in(event_id.as_bytes()) }
}

/// Half a SHA-256, named as such.
fn stand_in(for_bytes: &[u8]) -> Arc<str> {
    let digest = Sha256::digest(for_bytes);
    let hex = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>()).into()
}

impl fmt::Display for EventKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.replay_id, self.event_id)
    }
}

impl FromStr for EventKey {
    type Err = InvalidIdentifier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (replay_id, event_id) = text.split_once('/').ok_or_else(|| InvalidIdentifier {
            value: text.to_owned(),
            expected: "an event key: replay id, slash, event id",
        })?;
        // The whole id stands in the headers of the output, from which keys are read back.
        Ok(Self { replay_id: replay_id.parse()?, event_id: bounded(event_id) })
    }
}

impl Serialize for EventKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// From where the next subscription goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// Strictly after this replay id.
    After(ReplayId),
    /// From the oldest retained event; no id is complete yet.
    Earliest {
        /// When this start was decided.
        since: DateTime<Utc>,
    },
    /// From the tip; no id is complete yet. Whatever is published between two
    /// attempts is not delivered, so each attempt after the first is a gap.
    Latest {
        /// When this start was decided.
        since: DateTime<Utc>,
    },
}

/// What to write into the first FetchRequest of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayFrom {
    /// CUSTOM with this id.
    After(ReplayId),
    /// EARLIEST.
    Earliest,
    /// LATEST.
    Latest,
}

/// Whether an event is new to the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Take it; the position has moved past it.
    New,
    /// It was taken before; drop it. The position has not moved.
    Duplicate,
}

/// A stream's place in the bus; see the module's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    anchor: Anchor,
    #[serde(default)]
    already: Vec<EventKey>,
    #[serde(default)]
    recent: VecDeque<EventKey>,
    /// Salesforce's time of this position: the commit time of the last event, or when the keepalive was received.
    time: Option<DateTime<Utc>>,
    /// Set while a start from EARLIEST goes once more through what was taken before the replay id was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repeats_until: Option<DateTime<Utc>>,
}

/// How much later than the refusal an event must be for the repetition to be over. Delivery is in the
/// order of the bus, which is the order of commit times but for seconds; minutes are beyond doubt.
const REPETITION_MARGIN: TimeDelta = TimeDelta::minutes(10);

impl Position {
    /// A position at which nothing has been taken yet.
    pub fn starting(anchor: Anchor) -> Self {
        Self { anchor, already: Vec::new(), recent: VecDeque::new(), time: None, repeats_until: None }
    }

    /// The position after a refused replay id: from the oldest retained event, most of which was taken before.
    /// `covered` is the time of the refused position: until events are taken again, what was read ends there.
    pub fn starting_over(since: DateTime<Utc>, covered: Option<DateTime<Utc>>) -> Self {
        Self { time: covered, repeats_until: Some(since), ..Self::starting(Anchor::Earliest { since }) }
    }

    /// Takes back the event that was admitted last: it has not been dealt with after all. The anchor stays, since
    /// the event proved everything before it complete.
    pub fn withdraw(&mut self, key: &EventKey) {
        if self.already.last() == Some(key) {
            self.already.pop();
        }
    }

    /// Whether the events that come may already stand in the stream's own output, which then has to be
    /// read back to tell. It holds over restarts, until delivery is past what was taken before the refusal.
    pub fn repeats(&self) -> bool {
        self.repeats_until.is_some()
    }

    /// Takes one event, in the order of delivery.
    ///
    /// An id other than that of the events in `already` proves those complete, because
    /// delivery is in the order of the bus.
    pub fn admit(&mut self, key: &EventKey) -> Admission {
        if self.already.contains(key) || self.recent.contains(key) {
            return Admission::Duplicate;
        }
        if let Some(open) = self.already.first().map(|first| first.replay_id.clone())
            && open != key.replay_id
        {
            self.anchor = Anchor::After(open);
            self.recent.extend(self.already.drain(..));
            let surplus = self.recent.len().saturating_sub(RECENT_EVENTS);
            self.recent.drain(..surplus);
        }
        self.already.push(key.clone());
        Admission::New
    }

    /// Takes the position of a keepalive: everything up to it has been delivered.
    pub fn keepalive(&mut self, latest: ReplayId, at: DateTime<Utc>) {
        self.anchor = Anchor::After(latest);
        self.recent.extend(self.already.drain(..));
        let surplus = self.recent.len().saturating_sub(RECENT_EVENTS);
        self.recent.drain(..surplus);
        self.time = Some(at);
        self.repeats_until = None;
    }

    /// Notes the commit time of the last event taken.
    pub fn set_time(&mut self, at: DateTime<Utc>) {
        self.time = Some(at);
        if self.repeats_until.is_some_and(|until| at.signed_duration_since(until) > REPETITION_MARGIN) {
            self.repeats_until = None;
        }
    }

    /// From where to go on.
    ///
    /// A LATEST start whose first event came but whose id is not yet proven complete goes on
    /// after that id: going to the tip again would lose what came since. A sibling with the
    /// same id could then be missed; they exist on multi-entity channels only, see
    /// [`Position::may_miss_siblings`].
    pub fn replay_from(&self) -> ReplayFrom {
        match (&self.anchor, self.already.first()) {
            (Anchor::After(id), _) => ReplayFrom::After(id.clone()),
            (Anchor::Earliest { .. }, _) => ReplayFrom::Earliest,
            (Anchor::Latest { .. }, Some(first)) => ReplayFrom::After(first.replay_id.clone()),
            (Anchor::Latest { .. }, None) => ReplayFrom::Latest,
        }
    }

    /// Whether resuming here could skip an event that shares its id with one already taken.
    pub fn may_miss_siblings(&self) -> bool {
        matches!(self.anchor, Anchor::Latest { .. }) && !self.already.is_empty()
    }

    /// The anchor.
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// The events taken beyond the anchor, oldest first.
    pub fn already(&self) -> &[EventKey] {
        &self.already
    }

    /// Salesforce's time of this position, if anything was received yet.
    pub fn time(&self) -> Option<DateTime<Utc>> {
        self.time
    }

    /// Whether any event or keepalive has been taken.
    pub fn is_anchored(&self) -> bool {
        matches!(self.anchor, Anchor::After(_)) || !self.already.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn id(number: u8) -> ReplayId {
        ReplayId::from(Bytes::copy_from_slice(&[0, number]))
    }

    fn event(number: u8, name: &str) -> EventKey {
        EventKey::new(id(number), name, b"")
    }

    fn earliest() -> Position {
        Position::starting(Anchor::Earliest { since: DateTime::UNIX_EPOCH })
    }

    #[test]
    fn an_id_becomes_the_anchor_only_when_another_follows() {
        let mut position = earliest();
        assert_eq!(position.admit(&event(1, "a")), Admission::New);
        assert_eq!(position.replay_from(), ReplayFrom::Earliest);
        assert_eq!(position.admit(&event(1, "b")), Admission::New);
        assert_eq!(position.admit(&event(2, "c")), Admission::New);
        assert_eq!(position.replay_from(), ReplayFrom::After(id(1)));
        assert_eq!(position.already(), [event(2, "c")]);
    }

    #[test]
    fn a_group_cut_in_the_middle_is_resumed_without_loss_or_repetition() {
        let mut position = earliest();
        for (number, name) in [(1, "a"), (2, "b"), (2, "c")] {
            position.admit(&event(number, name));
        }
        let stored = serde_json::to_string(&position).expect("json");
        let mut resumed: Position = serde_json::from_str(&stored).expect("json");
        assert_eq!(resumed.replay_from(), ReplayFrom::After(id(1)));
        let again = [(2, "b"), (2, "c"), (2, "d"), (3, "e")];
        let taken: Vec<_> = again.iter().map(|(number, name)| resumed.admit(&event(*number, name))).collect();
        assert_eq!(taken, [Admission::Duplicate, Admission::Duplicate, Admission::New, Admission::New]);
    }

    #[test]
    fn a_keepalive_completes_everything_before_it() {
        let mut position = earliest();
        position.admit(&event(1, "a"));
        position.keepalive(id(9), DateTime::UNIX_EPOCH);
        assert_eq!(position.replay_from(), ReplayFrom::After(id(9)));
        assert!(position.already().is_empty());
        assert_eq!(position.admit(&event(1, "a")), Admission::Duplicate, "a server may redeliver older events");
    }

    #[test]
    fn a_latest_start_with_one_event_never_goes_back_to_the_tip() {
        let mut position = Position::starting(Anchor::Latest { since: DateTime::UNIX_EPOCH });
        assert_eq!(position.replay_from(), ReplayFrom::Latest);
        position.admit(&event(7, "a"));
        assert_eq!(position.replay_from(), ReplayFrom::After(id(7)));
        assert!(position.may_miss_siblings());
        position.admit(&event(8, "b"));
        assert!(!position.may_miss_siblings());
    }

    #[test]
    fn a_repetition_ends_with_a_keepalive_or_with_later_events() {
        let refused = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let mut position = Position::starting_over(refused, None);
        assert_eq!(position.replay_from(), ReplayFrom::Earliest);
        position.admit(&event(1, "a"));
        position.set_time(refused - TimeDelta::hours(20));
        let stored = serde_json::to_string(&position).expect("json");
        let mut resumed: Position = serde_json::from_str(&stored).expect("json");
        assert!(resumed.repeats(), "a restart in the middle must go on dropping what was written");
        resumed.set_time(refused + TimeDelta::minutes(1));
        assert!(resumed.repeats());
        resumed.set_time(refused + TimeDelta::minutes(11));
        assert!(!resumed.repeats());
        position.keepalive(id(9), refused);
        assert!(!position.repeats());
    }

    #[test]
    fn an_event_taken_back_is_delivered_again_and_nothing_before_it() {
        let mut position = earliest();
        for (number, name) in [(1, "a"), (2, "b")] {
            position.admit(&event(number, name));
        }
        position.withdraw(&event(2, "b"));
        assert_eq!(position.replay_from(), ReplayFrom::After(id(1)));
        assert_eq!(position.admit(&event(1, "a")), Admission::Duplicate);
        assert_eq!(position.admit(&event(2, "b")), Admission::New);
    }

    #[test]
    fn the_memory_of_recent_events_is_bounded() {
        let mut position = earliest();
        for number in 0..=255 {
            position.admit(&event(number, "x"));
        }
        assert_eq!(position.recent.len(), RECENT_EVENTS);
        assert_eq!(position.admit(&event(200, "x")), Admission::Duplicate);
        assert_eq!(position.admit(&event(100, "x")), Admission::New, "forgotten, as it must be");
    }

    #[test]
    fn a_publishers_long_event_id_does_not_make_the_checkpoint_long() {
        let long = |end: char| EventKey::new(id(1), &format!("{}{end}", "x".repeat(LONGEST_EVENT_ID)), b"");
        assert!(long('a').event_id().starts_with("sha256:") && long('a').event_id().len() < 50);
        assert_ne!(long('a'), long('b'));
        let as_in_headers = format!("{}/{}a", id(1), "x".repeat(LONGEST_EVENT_ID));
        assert_eq!(as_in_headers.parse(), Ok(long('a')));
        let mut position = earliest();
        for number in 0..=255 {
            position.admit(&EventKey::new(id(number), &"x".repeat(1 << 20), b""));
        }
        assert!(serde_json::to_string(&position).expect("json").len() < 16_000);
    }

    #[test]
    fn events_without_an_id_are_told_apart_by_their_payload() {
        let first = EventKey::new(id(1), "", b"one");
        assert_ne!(first, EventKey::new(id(1), "", b"two"));
        assert_eq!(first.to_string().parse(), Ok(first));
    }
}

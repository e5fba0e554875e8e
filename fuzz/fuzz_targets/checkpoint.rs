//! Checkpoint records as they are read from Kafka, and positions on their way through one.
//!
//! An input that begins like JSON is a record's value. What is accepted has to hold the numbers and texts that stand in
//! the value, and has to survive being written. Any other input is a course of events: the position after them, written
//! and read back, has to answer every later event as the one in memory does.

#![no_main]

use casewire::identity::ReplayId;
use casewire::kafka::Checkpoint;
use casewire::position::{Admission, Anchor, EventKey, Position, ReplayFrom};
use chrono::{DateTime, TimeDelta, Utc};
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    if data.first().is_some_and(|first| matches!(first, b'{' | b'[' | b' ' | b'"')) {
        record(data);
    } else if let Ok(course) = Course::arbitrary(&mut Unstructured::new(data)) {
        course.run();
    }
});

fn record(data: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_json(data) else { return };
    round_trip(&checkpoint);
    // Members that are not known are read over, whatever is in them; not all of it can be shown as a value.
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    assert_eq!(value["seq"].as_u64(), Some(checkpoint.seq));
    assert_eq!(value.get("event_count").map_or(Some(0), Value::as_u64), Some(checkpoint.event_count));
    assert_eq!(value["writer"]["run_id"].as_str(), Some(checkpoint.writer.run_id.as_str()));
    assert_eq!(value["instance_url"].as_str(), checkpoint.instance_url.as_deref());
    let committed_at = value["committed_at"].as_str().map(str::parse::<DateTime<Utc>>);
    assert_eq!(committed_at, Some(Ok(checkpoint.committed_at)));
    match value["position"]["anchor"]["after"].as_str() {
        Some(id) => assert_eq!(id.parse(), Ok(resumed(&checkpoint.position))),
        None => assert!(!matches!(checkpoint.position.anchor(), Anchor::After(_))),
    }
}

fn resumed(position: &Position) -> ReplayId {
    match position.replay_from() {
        ReplayFrom::After(id) => id,
        other => panic!("an anchored position goes on with {other:?}"),
    }
}

fn round_trip(checkpoint: &Checkpoint) -> Checkpoint {
    let written = checkpoint.to_json().expect("a checkpoint can be written");
    let read = Checkpoint::from_json(&written).expect("what was written is read");
    assert_eq!(&read, checkpoint);
    assert_eq!(read.to_json().expect("a checkpoint can be written"), written);
    read
}

#[derive(Debug, Arbitrary)]
enum Start {
    After(u8),
    Earliest,
    Latest,
    Over(i32),
}

#[derive(Debug, Arbitrary)]
enum Step {
    /// An event: its replay id, its own id, its payload.
    Event(u8, Name, u8),
    Keepalive(u8, i32),
    Time(i32),
    Withdraw(u8, Name, u8),
}

#[derive(Debug, Arbitrary)]
enum Name {
    None,
    Short(u8),
    Text(String),
}

#[derive(Debug, Arbitrary)]
struct Course {
    start: Start,
    before: Vec<Step>,
    after: Vec<Step>,
}

impl Course {
    fn run(self) {
        let mut position = match self.start {
            Start::After(id) => Position::starting(Anchor::After(replay(id))),
            Start::Earliest => Position::starting(Anchor::Earliest { since: at(0) }),
            Start::Latest => Position::starting(Anchor::Latest { since: at(0) }),
            Start::Over(seconds) => Position::starting_over(at(seconds), Some(at(0))),
        };
        for step in &self.before {
            step.take(&mut position);
        }
        let mut read = round_trip(&Checkpoint::at(position.clone())).position;
        for step in &self.after {
            assert_eq!(step.take(&mut position), step.take(&mut read), "{step:?}");
            assert_eq!(position, read);
        }
    }
}

impl Step {
    fn take(&self, position: &mut Position) -> Option<Admission> {
        match self {
            Self::Event(id, name, payload) => {
                let key = key(*id, name, *payload);
                let admission = position.admit(&key);
                assert_eq!(position.admit(&key), Admission::Duplicate, "the same event again");
                assert!(position.is_anchored() || admission == Admission::Duplicate);
                assert!(position.already().iter().all(|other| other.replay_id() == position.already()[0].replay_id()));
                Some(admission)
            }
            Self::Keepalive(id, seconds) => {
                position.keepalive(replay(*id), at(*seconds));
                assert_eq!((resumed(position), position.already().len()), (replay(*id), 0));
                None
            }
            Self::Time(seconds) => {
                position.set_time(at(*seconds));
                None
            }
            Self::Withdraw(id, name, payload) => {
                let before = position.already().len();
                position.withdraw(&key(*id, name, *payload));
                assert!(before - position.already().len() <= 1);
                None
            }
        }
    }
}

/// Few ids, so that events share them and come again.
fn replay(id: u8) -> ReplayId {
    ReplayId::from(bytes(&[0, id % 8]))
}

fn bytes(of: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(of)
}

fn key(id: u8, name: &Name, payload: u8) -> EventKey {
    let name = match name {
        Name::None => String::new(),
        Name::Short(number) => format!("event-{}", number % 8),
        Name::Text(text) => text.clone(),
    };
    let key = EventKey::new(replay(id), &name, &[payload]);
    assert_eq!(key.to_string().parse(), Ok(key.clone()));
    key
}

fn at(seconds: i32) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(i64::from(seconds))
}

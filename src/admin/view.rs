//! What the page shows, as one JSON document; and what has changed in it.
//!
//! A change is a merge patch (RFC 7396): objects are gone into, everything else is replaced, null removes. So the streams are
//! members by their topics, and whatever is null is left out from the beginning.

use serde_json::{Map, Value, json};

use crate::admin::snapshots::SnapshotDoor;
use crate::status::{Board, RETENTION};

/// The document. What only tells the time is not in it: it would be a change by itself.
pub(super) fn document(board: &Board, door: &SnapshotDoor, acts: bool) -> Value {
    let snapshot = board.snapshot();
    let mut not_ready: Map<String, Value> =
        snapshot.not_ready().into_iter().map(|one| (one.part, one.reason.into())).collect();
    let objects = door.objects(&Default::default()).unwrap_or_default();
    let mut streams = Map::new();
    for (place, stream) in snapshot.streams.iter().enumerate() {
        let topic = stream.topic.to_string();
        let of_stream = objects.iter().filter(|(_, owner)| *owner == stream.topic).map(|(object, _)| object.as_str());
        let mut shown = serde_json::to_value(stream).unwrap_or_default();
        if let Value::Object(members) = &mut shown {
            members.insert("place".to_owned(), place.into());
            members.insert("objects".to_owned(), of_stream.collect::<Vec<_>>().into());
            members.insert("not_ready".to_owned(), not_ready.remove(&topic).unwrap_or_default());
        }
        streams.insert(topic, shown);
    }
    let mut document = json!({
        "version": snapshot.version,
        "run_id": snapshot.run_id,
        "started_at": snapshot.started_at,
        "org": snapshot.org,
        "kafka": snapshot.kafka,
        "delivered_events": snapshot.delivered_events,
        "api_requests": snapshot.api_requests,
        "stopping": snapshot.stopping,
        "retention_seconds": RETENTION.num_seconds(),
        "clock_offset_ms": board.clock_offset().num_milliseconds(),
        "acts": acts,
        "streams": streams,
        "not_ready": not_ready,
    });
    without_nulls(&mut document);
    document
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// The patch that makes `after` of `before`; none where they are equal.
pub(super) fn patch(before: &Value, after: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return (before != after).then(|| after.clone());
    };
    let mut changed = Map::new();
    for (name, value) in new {
        let change = match old.get(name) {
            Some(known) => patch(known, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            changed.insert(name.clone(), change);
        }
    }
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        changed.insert(name.clone(), Value::Null);
    }
    (!changed.is_empty()).then_some(Value::Object(changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7396, as its text has it.
    fn applied(target: Value, patch: &Value) -> Value {
        let Value::Object(changes) = patch else { return patch.clone() };
        let mut members = if let Value::Object(members) = target { members } else { Map::new() };
        for (name, change) in changes {
            if change.is_null() {
                members.remove(name);
            } else {
                let known = members.remove(name).unwrap_or_default();
                members.insert(name.clone(), applied(known, change));
            }
        }
        Value::Object(members)
    }

    #[test]
    fn a_patch_makes_one_document_of_the_other_and_there_is_none_between_equal_ones() {
        let documents = [
            json!({}),
            json!({ "a": 1, "b": { "c": [1, 2], "d": "x" } }),
            json!({ "a": 2, "b": { "c": [1], "e": { "f": true } } }),
            json!({ "b": 7, "g": [] }),
            json!({ "b": { "c": { "d": {} } }, "a": { "h": 1.5 } }),
        ];
        for before in &documents {
            for after in &documents {
                match patch(before, after) {
                    None => assert_eq!(before, after),
                    Some(patch) => {
                        assert_ne!(before, after);
                        assert_eq!(&applied(before.clone(), &patch), after, "{before} {patch}");
                    }
                }
            }
        }
        assert_eq!(
            patch(&documents[1], &documents[2]),
            Some(json!({ "a": 2, "b": { "c": [1], "d": null, "e": { "f": true } } }))
        );
    }
}

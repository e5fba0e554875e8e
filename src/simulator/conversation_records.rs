//! What a conversation leaves in the records: its own, and one for whoever has said something in it. No event tells of
//! them.

use sha2::{Digest, Sha256};

use crate::simulator::conversations::EntryLine;
use crate::simulator::objects::{CONVERSATION, CONVERSATION_PARTICIPANT, Object};
use crate::simulator::record_id::record_id;
use crate::simulator::record_store::{RecordKey, RecordStore, Row, RowChange};
use crate::simulator::value::Value;

/// Who keeps these records.
const PLATFORM: &str = "0058d0000000000AAA";

/// Notes that something was said: the conversation begins with its first entry, and a participant was active.
pub(crate) fn note(records: &RecordStore, conversation: &RecordKey, entry: &EntryLine) {
    let at = entry.server_time;
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    let (time, millis) = (Some(Value::Long(whole_second(at))), Some(Value::Number(at as f64)));
    if held(records, CONVERSATION, conversation).is_none() {
        put(records, CONVERSATION, conversation, at, |field| match field {
            "Name" | "ConversationIdentifier" => text(&entry.conversation),
            "StartTime" => time.clone(),
            "StartTimeMilliSecs" => millis.clone(),
            _ => None,
        });
    }
    let Some(key) = participant(conversation, entry) else { return };
    // What was known of him stays: when he joined.
    let before = held(records, CONVERSATION_PARTICIPANT, &key);
    let earlier =
        |field: &str| before.as_ref().and_then(|(object, values)| values.get(object.position(field)?)?.clone());
    put(records, CONVERSATION_PARTICIPANT, &key, at, |field| match field {
        "AppType" => text(&entry.app_type),
        "ConversationId" => text(&conversation.id()),
        "JoinedTime" | "CreatedDate" => earlier(field).or(time.clone()),
        "JoinedTimeMilliSecs" => earlier(field).or(millis.clone()),
        "LastActiveTime" => time.clone(),
        "LastActiveTimeMilliSecs" => millis.clone(),
        "ParticipantDisplayName" => text(&entry.role),
        "ParticipantKey" => text(&entry.subject),
        "ParticipantRole" => text(&entry.role),
        _ => None,
    });
}

fn whole_second(millis: i64) -> i64 {
    millis - millis.rem_euclid(1_000)
}

/// The record of whoever said something: always the same for the same one in the same conversation.
fn participant(conversation: &RecordKey, entry: &EntryLine) -> Option<RecordKey> {
    let digest = Sha256::digest(format!("{} {} {}", conversation.fifteen(), entry.role, entry.subject));
    let number =
        digest.first_chunk().map(|bytes: &[u8; 7]| bytes.iter().fold(0, |all, byte| (all << 8) | u64::from(*byte)));
    RecordKey::parse(&record_id("0dx", number?))
}

/// The object and the values of a record that there is.
fn held(records: &RecordStore, object: &str, key: &RecordKey) -> Option<(std::sync::Arc<Object>, Vec<Option<Value>>)> {
    let (at, object) = records.find_object(object)?;
    let (_, row) = records.get(at, &[Some(*key)]).pop().flatten()?;
    let values = row.values(&object);
    Some((object, values))
}

/// Makes a record what `value` says of its fields, changed at `at`.
fn put(records: &RecordStore, object: &str, key: &RecordKey, at: i64, value: impl Fn(&str) -> Option<Value>) {
    let Some((place, object)) = records.find_object(object) else { return };
    let second = whole_second(at);
    let values: Vec<Option<Value>> = object
        .fields
        .iter()
        .map(|field| match &*field.name {
            "LastModifiedDate" => Some(Value::Long(second)),
            "CreatedById" | "LastModifiedById" => Some(Value::Text(PLATFORM.to_owned())),
            "CreatedDate" => value("CreatedDate").or(Some(Value::Long(second))),
            name => value(name),
        })
        .collect();
    records.commit(vec![RowChange::Put { object: place, key: *key, row: Row::new(second, false, &values) }]);
}

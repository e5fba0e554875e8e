//! Bodies of successful REST answers. The first byte picks the resource, the rest is the body.
//!
//! What is accepted is one whole JSON document and holds what stands in it; what is refused is refused without its content,
//! which may be somebody's case. A further resource is a further arm with its own comparison.

#![no_main]

use casewire::salesforce::reading::read_json;
use casewire::salesforce::rest::{Limits, RestError};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Stands in bodies and has no business in an error.
const CONTENT: &str = "cOnTenT";

const LONGEST_TEXT: usize = 600;

fuzz_target!(|data: &[u8]| {
    let [resource, body @ ..] = data else { return };
    match resource % 2 {
        0 => limits(body),
        _ => record(body),
    }
});

fn read<T: serde::de::DeserializeOwned>(path: &str, body: &[u8]) -> Option<(T, Value)> {
    match read_json(path, body) {
        Ok(read) => {
            let _: IgnoredAny = serde_json::from_slice(body).expect("what is accepted is one JSON document");
            // Members that are not asked for are read over; not all of them can be shown as a value.
            serde_json::from_slice(body).ok().map(|json| (read, json))
        }
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, RestError::Unexpected(_)), "{text}");
            assert!(text.contains(path) && text.len() <= LONGEST_TEXT, "{text}");
            // Where it happened may name any member of the body; what happened names no value.
            assert!(text.rsplit(": ").next().is_some_and(|reason| !reason.contains(CONTENT)), "{text}");
            assert!(!text.chars().any(char::is_control), "{text:?}");
            None
        }
    }
}

fn limits(body: &[u8]) {
    let Some((limits, json)) = read::<Limits>("/services/data/v66.0/limits", body) else { return };
    if json.is_array() {
        return;
    }
    for (name, allowance) in
        [("DailyDeliveredPlatformEvents", limits.delivered_events), ("DailyApiRequests", limits.api_requests)]
    {
        let stated = json.get(name).filter(|stated| stated.is_object());
        assert_eq!(stated.is_some(), allowance.is_some(), "{name}");
        if let (Some(stated), Some(allowance)) = (stated, allowance) {
            assert_eq!(stated["Max"].as_i64(), Some(allowance.max));
            assert_eq!(stated["Remaining"].as_i64(), Some(allowance.remaining));
        }
    }
}

/// A record as every object has it.
#[derive(Deserialize)]
struct Record {
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "SystemModstamp")]
    system_modstamp: Option<String>,
}

fn record(body: &[u8]) {
    let Some((record, json)) = read::<Record>("/services/data/v66.0/sobjects/Case/5008d000000047SAAQ", body) else {
        return;
    };
    if json.is_object() {
        assert_eq!(json["Id"].as_str(), Some(record.id.as_str()));
        assert_eq!(json["SystemModstamp"].as_str(), record.system_modstamp.as_deref());
    }
}

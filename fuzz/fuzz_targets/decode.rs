//! A schema and a payload that fit each other or do not: a two-byte big-endian length, the schema's JSON, the payload.

#![no_main]

use casewire::change::{FieldPolicies, WriterSchema};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    let Some((schema, payload)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { return };
    let Ok(schema) = std::str::from_utf8(schema) else { return };
    let Ok(schema) = WriterSchema::parse(schema) else { return };
    if let Ok(change) = schema.decode(payload, &FieldPolicies::default()) {
        for text in [change.changed.as_str(), change.enriched.as_str()] {
            assert!(serde_json::from_str::<IgnoredAny>(text).is_ok(), "not JSON: {text}");
        }
        assert_eq!(change.header.is_some(), schema.carries_header());
    }
});

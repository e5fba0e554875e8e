//! An update of a fixed schema whose three field lists are the input, one element a line, the lists apart by a blank line.
//!
//! Every list that is accepted has to be told in full: what it names is in `changed` or `unresolved`.

#![no_main]

use std::sync::LazyLock;

use casewire::change::{FieldPolicies, WriterSchema};
use libfuzzer_sys::fuzz_target;

static SCHEMA: LazyLock<WriterSchema> =
    LazyLock::new(|| WriterSchema::parse(include_str!("bitmap.avsc")).expect("a valid schema"));

fuzz_target!(|data: &str| {
    let lists: Vec<Vec<&str>> = data.splitn(3, "\n\n").map(|list| list.lines().collect()).collect();
    let list = |at: usize| lists.get(at).map(Vec::as_slice).unwrap_or_default();
    let mut payload = Vec::new();
    text("Sample", &mut payload);
    texts(&["500000000000001AAA"], &mut payload);
    // changeType UPDATE; after the texts: sequenceNumber, commitTimestamp, commitNumber.
    payload.push(2);
    text("", &mut payload);
    text("key", &mut payload);
    payload.extend([2, 2, 2]);
    text("user", &mut payload);
    texts(list(1), &mut payload);
    texts(list(2), &mut payload);
    texts(list(0), &mut payload);
    // Name, Status, Address: all null.
    payload.extend([0, 0, 0]);
    if let Ok(change) = SCHEMA.decode(&payload, &FieldPolicies::default()) {
        let named = data.bytes().any(|byte| matches!(byte, b'1'..=b'9' | b'a'..=b'f' | b'A'..=b'F'));
        assert!(named || (change.changed.is_empty() && change.unresolved.is_empty()), "out of nothing: {change:?}");
        assert!(change.enriched.is_empty(), "no field has a value: {change:?}");
    }
});

fn long(value: usize, payload: &mut Vec<u8>) {
    let mut rest = value << 1;
    while rest > 0x7f {
        payload.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    payload.push(rest as u8);
}

fn text(text: &str, payload: &mut Vec<u8>) {
    long(text.len(), payload);
    payload.extend(text.as_bytes());
}

fn texts(texts: &[&str], payload: &mut Vec<u8>) {
    if !texts.is_empty() {
        long(texts.len(), payload);
        texts.iter().for_each(|element| text(element, payload));
    }
    payload.push(0);
}

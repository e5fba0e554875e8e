//! The old value of a text, where the batches at hand hold it: then a text diff is applied and nothing has to be read.
//!
//! The digest that comes with a diff proves the result, so a base that is not the right one does no harm.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::change::text_diff;
use crate::kafka::OutputRecord;
use crate::pipeline::prepared::Prepared;
use crate::pipeline::want::{Reason, Unknown, put_values};

/// What a record says of a field.
#[derive(Deserialize)]
struct Said {
    op: String,
    changed: Map<String, Value>,
    #[serde(default)]
    unresolved: Vec<String>,
}

/// Applies the text diffs of all batches whose old values stand before them; what is then known is wanted no more.
pub(crate) fn apply_diffs(batches: &mut [Prepared]) {
    for at in 0..batches.len() {
        let Some(batch) = batches.get_mut(at) else { return };
        if !batch.wants.iter().any(|want| matches!(want.reason, Reason::Unknown(_))) {
            continue;
        }
        let mut wants = std::mem::take(&mut batch.wants);
        for want in &mut wants {
            let Reason::Unknown(unknown) = &want.reason else { continue };
            let found = new_values(batches.get(..=at).unwrap_or_default(), want.record, unknown);
            if let Some(output) = batches.get_mut(at).and_then(|batch| batch.records.get_mut(want.record)) {
                put_values(output, want, &found);
            }
            if let Reason::Unknown(unknown) = &want.reason
                && unknown.fields.is_empty()
                && unknown.whole
            {
                want.reason = Reason::Whole;
            }
        }
        wants.retain(|want| !matches!(&want.reason, Reason::Unknown(unknown) if unknown.fields.is_empty()));
        if let Some(batch) = batches.get_mut(at) {
            batch.wants = wants;
        }
    }
}

/// The fields of a record of the last batch whose new values come out of their diffs.
fn new_values(batches: &[Prepared], record: usize, unknown: &Unknown) -> Vec<(String, String)> {
    let diffs = unknown.fields.iter().filter_map(|field| Some((&field.field, field.diff.as_ref()?)));
    diffs
        .filter_map(|(field, diff)| {
            let old = old_value(batches, record, field)?;
            Some((field.clone(), text_diff::apply(&old, diff).ok()?))
        })
        .collect()
}

/// What the records before say of a field of the same key, the nearest first.
fn old_value(batches: &[Prepared], record: usize, field: &str) -> Option<String> {
    let (last, earlier) = batches.split_last()?;
    let this = last.records.get(record)?;
    let before = last.records.get(..record)?.iter().rev();
    let before = before.chain(earlier.iter().rev().flat_map(|batch| batch.records.iter().rev()));
    let same = |output: &&OutputRecord| output.key == this.key && output.topic == this.topic;
    for output in before.filter(same) {
        let Some(value) = &output.value else { continue };
        let said: Said = serde_json::from_slice(value).ok()?;
        if said.unresolved.iter().any(|name| name == field) {
            return None;
        }
        match (said.op.as_str(), said.changed.get(field)) {
            ("create" | "update" | "undelete", Some(Value::String(text))) => return Some(text.clone()),
            ("update", None) => {}
            _ => return None,
        }
    }
    None
}

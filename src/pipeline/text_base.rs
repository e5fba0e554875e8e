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
        match (said.op.as_str(), said.changed.get(field)) {
            ("create" | "update" | "undelete", Some(Value::String(text))) => return Some(text.clone()),
            ("update", None) => {}
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::change::TextDiff;
    use crate::pipeline::want::Want;
    use crate::position::{Anchor, Position};

    /// The diff that replaces the first line of a text.
    fn diff(old: &str, new: &str) -> String {
        let digest: String = Sha256::digest(format!("{new}\nrest")).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("--- \n+++ {digest}\n@@ -1,1 +1,1 @@\n-{old}\n+{new}")
    }

    /// A batch of updates and what they want; a diff where there is one.
    fn batch(records: &[(&str, &str, Value, Option<String>)]) -> Prepared {
        let mut batch = Prepared::empty(Position::starting(Anchor::Earliest { since: chrono::DateTime::UNIX_EPOCH }));
        for (at, (key, op, changed, diff)) in records.iter().enumerate() {
            let unresolved = if diff.is_some() { ",\"unresolved\":[\"Text\"]" } else { "" };
            let head = format!("{{\"op\":\"{op}\",\"changed\":{changed}");
            let value = format!("{head}{unresolved},\"record\":null,\"source\":{{}}}}");
            let (start, end) = (head.len(), head.len() + unresolved.len());
            let fields = vec![TextDiff { field: "Text".into(), diff: diff.clone() }];
            let unknown = Unknown { changed_end: start - 1, unresolved: start..end, fields, whole: false };
            if diff.is_some() {
                batch.wants.push(Want {
                    record: at,
                    slot: end + ",\"record\":".len(),
                    schema: "s".into(),
                    committed_at: chrono::DateTime::UNIX_EPOCH,
                    reason: Reason::Unknown(Box::new(unknown)),
                });
            }
            batch.records.push(OutputRecord {
                topic: "salesforce.Case".into(),
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Some(Bytes::from(value)),
                headers: Vec::new(),
            });
        }
        batch
    }

    fn changed(batch: &Prepared, record: usize) -> (Value, Value) {
        let value = batch.records[record].value.as_ref().expect("a value");
        let value: Value = serde_json::from_slice(value).expect("json");
        (value["changed"].clone(), value["unresolved"].clone())
    }

    #[test]
    fn a_diff_is_applied_to_the_nearest_text_before_it_over_batches_and_on_top_of_others() {
        let mut batches = [
            batch(&[("A", "create", json!({"Text": "one\nrest"}), None), ("B", "create", json!({"Text": "x"}), None)]),
            batch(&[
                ("A", "update", json!({"Status": "New"}), Some(diff("one", "two"))),
                ("A", "update", json!({}), Some(diff("two", "three"))),
            ]),
        ];
        apply_diffs(&mut batches);
        assert!(batches.iter().all(|batch| batch.wants.is_empty()), "nothing is to be read");
        assert_eq!(changed(&batches[1], 0), (json!({"Status": "New", "Text": "two\nrest"}), Value::Null));
        assert_eq!(changed(&batches[1], 1), (json!({"Text": "three\nrest"}), Value::Null));
    }

    #[test]
    fn a_text_that_is_not_the_right_one_or_is_not_there_leaves_the_diff_to_be_read() {
        for before in [
            ("A", "create", json!({"Text": "other\nrest"}), None),
            ("A", "create", json!({}), None),
            ("A", "update", json!({"Status": "New"}), None),
            ("A", "gap", json!({}), None),
            ("A", "update", json!({"Text": null}), None),
            ("A", "update", json!({}), Some(diff("zero", "one"))),
            ("B", "create", json!({"Text": "one\nrest"}), None),
        ] {
            let older = ("A", "create", json!({"Text": "one\nother"}), None);
            let mut batches = [batch(&[older, before.clone(), ("A", "update", json!({}), Some(diff("one", "two")))])];
            let wants = batches[0].wants.len();
            apply_diffs(&mut batches);
            assert_eq!(batches[0].wants.len(), wants, "{before:?}");
            assert_eq!(changed(&batches[0], 2), (json!({}), json!(["Text"])), "{before:?}");
        }
    }
}

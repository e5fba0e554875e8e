//! One change event before it is bytes: its header, and what it says about the fields.
//! From here come the payload on the wire and the line in the ledger, by separate ways.

use serde_json::{Map, Value as Json};

use crate::simulator::avro;
use crate::simulator::objects::{Avro, Object};
use crate::simulator::value::{self, Value};

/// What happened to one field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Set(Value),
    Cleared,
    /// Some components of a compound, by their positions; `None` is cleared.
    Components(Vec<(usize, Option<Value>)>),
    /// A long text, told as a diff.
    Diff(String),
}

/// What the event carries beside its header.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    /// Nothing: deletes and gaps.
    Empty,
    /// The whole record: creates and undeletes.
    Full(Vec<Option<Value>>),
    /// The changes of an update, by field position.
    Sparse(Vec<(usize, Change)>),
}

/// One change event of one object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChangeEvent {
    /// Index of the object in the org.
    pub(crate) object: usize,
    pub(crate) record_ids: Vec<String>,
    /// A symbol of the object's `ChangeType`.
    pub(crate) change_type: String,
    pub(crate) origin: String,
    pub(crate) transaction_key: String,
    pub(crate) sequence_number: i32,
    /// Milliseconds of the epoch; Salesforce sends whole seconds.
    pub(crate) commit_timestamp: i64,
    pub(crate) commit_number: i64,
    pub(crate) user: String,
    pub(crate) body: Body,
    /// Fields that a channel adds outside the bitmaps: position and value, when it has one.
    pub(crate) enriched: Vec<(usize, Option<Value>)>,
}

impl ChangeEvent {
    /// The Avro datum of this event under the schema of `object`.
    pub(crate) fn encode(&self, object: &Object) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        self.encode_header(object, &mut out);
        let mut values: Vec<Option<Value>> = match &self.body {
            Body::Empty => Vec::new(),
            Body::Full(values) => values.clone(),
            Body::Sparse(changes) => sparse(object, changes),
        };
        values.resize(object.fields.len(), None);
        for (at, enriched) in &self.enriched {
            // What changed is told as it changed, also when it was cleared and has a value again by now.
            let changed =
                matches!(&self.body, Body::Sparse(changes) if changes.iter().any(|(changed, _)| changed == at));
            if let Some(slot) = values.get_mut(*at).filter(|slot| slot.is_none() && !changed) {
                slot.clone_from(enriched);
            }
        }
        values.iter().for_each(|value| value::encode_nullable(&mut out, value.as_ref()));
        out
    }

    fn encode_header(&self, object: &Object, out: &mut Vec<u8>) {
        let symbol = object.change_types.iter().position(|symbol| *symbol == self.change_type).unwrap_or(1);
        let changes = match &self.body {
            Body::Sparse(changes) => changes.as_slice(),
            Body::Empty | Body::Full(_) => &[],
        };
        avro::string(out, object.name);
        avro::strings(out, &self.record_ids);
        avro::long(out, i64::try_from(symbol).unwrap_or(1));
        avro::string(out, &self.origin);
        avro::string(out, &self.transaction_key);
        avro::long(out, i64::from(self.sequence_number));
        avro::long(out, self.commit_timestamp);
        avro::long(out, self.commit_number);
        avro::string(out, &self.user);
        avro::strings(out, &bitmaps(changes, Listed::Nulled));
        avro::strings(out, &bitmaps(changes, Listed::Diffs));
        avro::strings(out, &bitmaps(changes, Listed::Changed));
    }

    /// Takes out the fields at these positions: the user may not see them, and is not told that they changed.
    pub(crate) fn hide(&mut self, hidden: &[usize]) {
        match &mut self.body {
            Body::Empty => {}
            Body::Full(values) => hidden.iter().for_each(|at| {
                if let Some(value) = values.get_mut(*at) {
                    *value = None;
                }
            }),
            Body::Sparse(changes) => changes.retain(|(at, _)| !hidden.contains(at)),
        }
    }

    /// The bytes of text in the body: what makes an event too large.
    pub(crate) fn text_bytes(&self) -> usize {
        let text = |value: &Value| if let Value::Text(text) = value { text.len() } else { 0 };
        match &self.body {
            Body::Empty => 0,
            Body::Full(values) => values.iter().flatten().map(text).sum(),
            Body::Sparse(changes) => changes
                .iter()
                .map(|(_, change)| match change {
                    Change::Set(value) => text(value),
                    Change::Diff(diff) => diff.len(),
                    Change::Cleared | Change::Components(_) => 0,
                })
                .sum(),
        }
    }

    /// The values that a consumer must see as changed, and the fields whose value it cannot know.
    pub(crate) fn render(&self, object: &Object) -> (Map<String, Json>, Vec<String>) {
        let (mut changed, mut unresolved) = (Map::new(), Vec::new());
        match &self.body {
            Body::Empty => {}
            Body::Full(values) => {
                for (field, value) in object.fields.iter().zip(values) {
                    let rendered = value.as_ref().map_or(Json::Null, |value| value::render(field.kind, value));
                    if !rendered.is_null() {
                        changed.insert(field.name.to_string(), rendered);
                    }
                }
            }
            Body::Sparse(changes) => {
                for (at, change) in changes {
                    let Some(field) = object.fields.get(*at) else { continue };
                    let rendered = match change {
                        // A compound that was set as a whole has lost the components that it does not have now.
                        Change::Set(Value::Compound(components)) => {
                            let all: Vec<_> = components.iter().cloned().enumerate().collect();
                            value::render_components(field.kind, &all)
                        }
                        Change::Set(value) => value::render(field.kind, value),
                        Change::Cleared => Json::Null,
                        Change::Components(components) => value::render_components(field.kind, components),
                        Change::Diff(_) => {
                            unresolved.push(field.name.to_string());
                            continue;
                        }
                    };
                    changed.insert(field.name.to_string(), rendered);
                }
            }
        }
        (changed, unresolved)
    }

    /// The enriched fields as a consumer must see them, outside what changed.
    pub(crate) fn render_enriched(&self, object: &Object) -> Map<String, Json> {
        let rendered = self.enriched.iter().filter_map(|(at, value)| {
            let field = object.fields.get(*at)?;
            Some((field.name.to_string(), value::render(field.kind, value.as_ref()?)))
        });
        rendered.collect()
    }
}

/// The body of an update: null wherever nothing changed, and where something was cleared.
fn sparse(object: &Object, changes: &[(usize, Change)]) -> Vec<Option<Value>> {
    let mut values = vec![None; object.fields.len()];
    for (at, change) in changes {
        let (Some(slot), Some(field)) = (values.get_mut(*at), object.fields.get(*at)) else { continue };
        *slot = match change {
            Change::Set(value) => Some(value.clone()),
            Change::Cleared => None,
            Change::Diff(diff) => Some(Value::Text(diff.clone())),
            Change::Components(changed) => {
                let count = match field.kind.avro() {
                    Avro::Record(_, components) => components.len(),
                    _ => 0,
                };
                let mut components = vec![None; count];
                for (at, component) in changed {
                    if let Some(slot) = components.get_mut(*at) {
                        slot.clone_from(component);
                    }
                }
                Some(Value::Compound(components))
            }
        };
    }
    values
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Listed {
    Changed,
    Nulled,
    Diffs,
}

/// The bitmaps of one header list: first the one over the event's fields if any of them
/// is in it, then one for each compound of which only components are.
fn bitmaps(changes: &[(usize, Change)], listed: Listed) -> Vec<String> {
    let mut whole = Vec::new();
    let mut nested = Vec::new();
    for (at, change) in changes {
        // The header is position 0 of the schema.
        let position = at + 1;
        match change {
            Change::Components(components) => {
                let children: Vec<usize> = components
                    .iter()
                    .filter(|(_, component)| match listed {
                        Listed::Changed => true,
                        Listed::Nulled => component.is_none(),
                        Listed::Diffs => false,
                    })
                    .map(|(child, _)| *child)
                    .collect();
                if !children.is_empty() {
                    nested.push((position, format!("{position}-{}", bitmap(&children))));
                }
            }
            Change::Cleared if listed == Listed::Diffs => {}
            Change::Set(_) if listed != Listed::Changed => {}
            Change::Diff(_) if listed == Listed::Nulled => {}
            _ => whole.push(position),
        }
    }
    nested.sort();
    let whole = (!whole.is_empty()).then(|| bitmap(&whole));
    whole.into_iter().chain(nested.into_iter().map(|(_, text)| text)).collect()
}

/// `0x` and the fewest whole bytes, most significant first, in upper case.
fn bitmap(positions: &[usize]) -> String {
    let length = positions.iter().max().map_or(1, |highest| highest / 8 + 1);
    let mut bytes = vec![0_u8; length];
    for position in positions {
        bytes[length - 1 - position / 8] |= 1 << (position % 8);
    }
    bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02X}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_are_those_of_captured_events() {
        assert_eq!(bitmap(&[11, 22]), "0x400800");
        assert_eq!(bitmap(&[23, 68]), "0x100000000000800000");
        let street = Change::Components(vec![(0, Some(Value::Text("12 Main Street".to_owned())))]);
        let modified = Change::Set(Value::Long(1));
        assert_eq!(bitmaps(&[(3, street), (21, modified)], Listed::Changed), ["0x400000", "4-0x01"]);
        let geocode = Change::Components(vec![(7, Some(Value::Number(1.0))), (8, None)]);
        assert_eq!(bitmaps(&[(5, geocode.clone())], Listed::Changed), ["6-0x0180"]);
        assert_eq!(bitmaps(&[(5, geocode)], Listed::Nulled), ["6-0x0100"]);
        assert_eq!(bitmaps(&[(1, Change::Diff(String::new())), (2, Change::Cleared)], Listed::Diffs), ["0x04"]);
        assert!(bitmaps(&[], Listed::Changed).is_empty());
    }

    #[test]
    fn a_compound_that_was_set_as_a_whole_has_its_empty_components_as_null_in_the_ledger() {
        let all = crate::simulator::objects::all();
        let object = all.iter().find(|object| object.name == "Installation__c").expect("an object with an address");
        let at = object.position("Site_Location__c").expect("a field");
        let set = Change::Set(Value::Compound(vec![None, Some(Value::Number(1.5))]));
        let event = ChangeEvent {
            object: 0,
            record_ids: Vec::new(),
            change_type: "UPDATE".to_owned(),
            origin: String::new(),
            transaction_key: String::new(),
            sequence_number: 1,
            commit_timestamp: 0,
            commit_number: 0,
            user: String::new(),
            body: Body::Sparse(vec![(at, set)]),
            enriched: Vec::new(),
        };
        let (changed, unresolved) = event.render(object);
        assert_eq!(changed["Site_Location__c"], serde_json::json!({ "Latitude": null, "Longitude": 1.5 }));
        assert!(unresolved.is_empty());
    }
}

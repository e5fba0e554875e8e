//! The fold of docs/records.md over an entity topic, and its comparison with the records as they truly are.
//!
//! It keeps what the page's own code keeps, on nested objects: a compound's components change one by one.

use std::collections::{BTreeMap, BTreeSet};

use casewire::simulator::RecordLine;
use serde_json::{Map, Value};

use crate::suite::deployment::Output;

/// What full records have and events do not.
const OF_ROWS_ONLY: [&str; 3] = ["Id", "IsDeleted", "SystemModstamp"];

/// What is known of one record.
#[derive(Debug, Default, Clone)]
pub struct State {
    pub exists: Option<bool>,
    pub fields: Map<String, Value>,
    pub unknown: BTreeSet<String>,
    pub as_of: String,
    pub read_as_of: String,
}

impl State {
    fn apply(&mut self, change: &Value) {
        let text = |value: &Value| value.as_str().map(|text| text.chars().take(19).collect::<String>());
        let committed_at = text(&change["source"]["committed_at"]).unwrap_or_default();
        let op = change["op"].as_str().expect("an op");
        if op == "delete" {
            if committed_at >= self.read_as_of {
                let read_as_of = change["source"]["job"].as_str().map(|_| committed_at.clone()).unwrap_or_default();
                *self = Self { exists: Some(false), as_of: committed_at, read_as_of, ..Self::default() };
            }
            return;
        }
        if let (Value::Object(record), Some(as_of)) = (&change["record"], text(&change["record_as_of"]))
            && as_of >= self.as_of
        {
            let (fields, read_as_of) = (record.clone(), as_of.clone());
            *self = Self { exists: Some(true), fields, as_of, read_as_of, unknown: BTreeSet::new() };
            return;
        }
        if committed_at < self.read_as_of {
            return;
        }
        let changed = change["changed"].as_object().expect("changed");
        match op {
            "create" | "undelete" => {
                *self = Self { exists: Some(true), fields: changed.clone(), as_of: committed_at, ..Self::default() };
            }
            "update" => {
                self.exists = Some(true);
                self.as_of = committed_at.max(std::mem::take(&mut self.as_of));
                for (name, value) in changed {
                    self.unknown.remove(name);
                    match (self.fields.get_mut(name), value) {
                        (Some(Value::Object(known)), Value::Object(parts)) => known.extend(parts.clone()),
                        _ => drop(self.fields.insert(name.clone(), value.clone())),
                    }
                }
            }
            "gap" => *self = Self { as_of: committed_at, ..Self::default() },
            other => panic!("no operation on a record: {other}"),
        }
        let unresolved = change["unresolved"].as_array().into_iter().flatten();
        self.unknown.extend(unresolved.filter_map(|name| Some(name.as_str()?.to_owned())));
    }
}

/// Folds a topic. Panics where a state goes back in time, where a job wrote a record twice, or one that is older than what
/// stands before it.
pub fn fold(records: &[Output]) -> BTreeMap<String, State> {
    let mut states: BTreeMap<String, State> = BTreeMap::new();
    let mut written = BTreeSet::new();
    for record in records.iter().filter(|record| record.value.is_some()) {
        let change = record.json();
        if let Some(job) = change["source"]["job"].as_str() {
            assert!(written.insert((job.to_owned(), record.key.clone())), "{job} wrote twice: {change}");
        }
        let state = states.entry(record.key.clone()).or_default();
        let before = state.as_of.clone();
        if change["source"]["job"].is_string() {
            let at = change["record_as_of"].as_str().or(change["source"]["committed_at"].as_str()).unwrap_or_default();
            assert!(
                at.get(..19).is_some_and(|at| at >= before.as_str()),
                "the fold would drop it behind {before}: {change}"
            );
        }
        state.apply(change);
        assert!(state.as_of >= before, "{} went back from {before} to {}: {change}", record.key, state.as_of);
    }
    states
}

/// Every difference between what a consumer believes and what is true, a line each.
pub fn differences(states: &BTreeMap<String, State>, truth: &[RecordLine]) -> Vec<String> {
    let mut found = Vec::new();
    let known: BTreeSet<&str> = truth.iter().map(|record| record.id.as_str()).collect();
    for (id, _) in states.iter().filter(|(id, state)| state.exists != Some(false) && !known.contains(id.as_str())) {
        found.push(format!("{id} is believed to be there and is gone"));
    }
    for record in truth {
        let id = &record.id;
        let Some(state) = states.get(id) else {
            if !record.deleted {
                found.push(format!("{id} is not known"));
            }
            continue;
        };
        if state.exists != Some(!record.deleted) {
            found.push(format!("{id}: exists {:?}, deleted {}", state.exists, record.deleted));
        } else if !record.deleted {
            found.extend(state.unknown.iter().map(|field| format!("{id}: {field} is unknown")));
            let believed = without_empty(&state.fields);
            let names: BTreeSet<&String> = believed.keys().chain(record.fields.keys()).collect();
            for name in names.into_iter().filter(|name| !OF_ROWS_ONLY.contains(&name.as_str())) {
                let (believed, owed) = (believed.get(name), record.fields.get(name));
                if believed != owed {
                    found.push(format!("{id}: {name} is {believed:?}, owed {owed:?}"));
                }
            }
        }
    }
    found
}

/// Without nulls, and without compounds of nothing but nulls: the truth leaves them out.
fn without_empty(fields: &Map<String, Value>) -> Map<String, Value> {
    let kept = fields.iter().filter_map(|(name, value)| match value {
        Value::Null => None,
        Value::Object(parts) => {
            let parts = without_empty(parts);
            (!parts.is_empty()).then(|| (name.clone(), Value::Object(parts)))
        }
        value => Some((name.clone(), value.clone())),
    });
    kept.collect()
}

//! The fold of docs/records.md, line by line: what a consumer knows of each record.

use std::collections::{BTreeMap, BTreeSet};

use casewire::simulator::RecordLine;
use serde_json::{Map, Value};

use crate::suite::deployment::Output;

/// What is known of one record.
#[derive(Debug, Default, Clone)]
pub struct State {
    pub exists: Option<bool>,
    pub fields: BTreeMap<String, Value>,
    pub unknown: BTreeSet<String>,
    pub complete: bool,
    pub as_of: String,
    pub read_as_of: String,
}

/// What is known of one field.
#[derive(Debug, PartialEq)]
pub enum Known {
    Value(Value),
    Unknown,
}

impl State {
    pub fn value(&self, path: &str) -> Known {
        if let Some(value) = self.fields.get(path) {
            return Known::Value(value.clone());
        }
        let parents: Vec<&str> = path.match_indices('.').filter_map(|(at, _)| path.get(..at)).collect();
        if self.unknown.contains(path) || parents.iter().any(|parent| self.unknown.contains(*parent)) {
            return Known::Unknown;
        }
        let inherited = parents.iter().any(|parent| self.fields.contains_key(*parent));
        if inherited || self.complete { Known::Value(Value::Null) } else { Known::Unknown }
    }

    fn set(&mut self, path: &str, value: &Value) {
        let within = format!("{path}.");
        self.unknown.retain(|known| known != path && !known.starts_with(&within));
        if let Value::Object(components) = value {
            self.fields.remove(path);
            for (component, part) in components {
                self.set(&format!("{within}{component}"), part);
            }
        } else {
            self.fields.retain(|known, _| !known.starts_with(&within));
            self.fields.insert(path.to_owned(), value.clone());
        }
    }

    fn forget(&mut self, path: &str) {
        let within = format!("{path}.");
        self.fields.retain(|known, _| known != path && !known.starts_with(&within));
        self.unknown.insert(path.to_owned());
    }

    fn replace(&mut self, fields: &Map<String, Value>, as_of: &str) {
        let read_as_of = std::mem::take(&mut self.read_as_of);
        *self = Self { exists: Some(true), complete: true, as_of: as_of.to_owned(), read_as_of, ..Self::default() };
        for (name, value) in fields {
            self.set(name, value);
        }
    }

    /// Applies one record of an entity topic.
    pub fn fold(&mut self, change: &Value) {
        let committed_at = second(&change["source"]["committed_at"]);
        let read_at = second(&change["record_as_of"]);
        let op = change["op"].as_str().expect("an op");
        if let Value::Object(record) = &change["record"]
            && read_at >= self.as_of
        {
            self.replace(record, &read_at);
            self.read_as_of = read_at;
            return;
        }
        let as_of = committed_at.clone().max(read_at.clone());
        if as_of < self.read_as_of {
            return;
        }
        let changed = change["changed"].as_object().expect("changed");
        match op {
            "delete" => *self = Self { exists: Some(false), as_of, read_as_of: read_at, ..Self::default() },
            "create" | "undelete" => self.replace(changed, &committed_at),
            "update" => {
                (self.exists, self.as_of) = (Some(true), self.as_of.clone().max(committed_at));
                for (name, value) in changed {
                    self.set(name, value);
                }
            }
            "gap" => *self = Self { as_of: committed_at, ..Self::default() },
            _ => {}
        }
        for path in change["unresolved"].as_array().into_iter().flatten() {
            self.forget(path.as_str().expect("a name"));
        }
    }
}

/// A time as the fold compares it, empty where there is none.
fn second(time: &Value) -> String {
    time.as_str().and_then(|text| text.get(..19)).unwrap_or_default().to_owned()
}

/// The state of each key of a topic. No state ever becomes older than a record that was read into it, and no job writes a
/// record twice, or one that is older than what stands before it.
pub fn folded(records: &[Output]) -> BTreeMap<String, State> {
    let mut states: BTreeMap<String, State> = BTreeMap::new();
    let mut of_jobs = BTreeSet::new();
    for record in records {
        let Some(change) = &record.value else { continue };
        let state = states.entry(record.key.clone()).or_default();
        if let Some(job) = change["source"]["job"].as_str() {
            assert!(of_jobs.insert((job, &record.key)), "{job} wrote twice: {change}");
            let read_at = second(&change["record_as_of"]);
            assert!(read_at >= state.as_of, "the fold would drop it behind {}: {change}", state.as_of);
        }
        let before = state.read_as_of.clone();
        state.fold(change);
        assert!(state.as_of >= before, "{} went back from {before} to {}: {change}", record.key, state.as_of);
    }
    states
}

/// Every field of the org's records as the fold has it, and no record that the org does not have.
pub fn assert_equals_the_org(states: &BTreeMap<String, State>, truth: &[RecordLine]) {
    let names: BTreeSet<&String> = truth.iter().flat_map(|record| record.fields.keys()).collect();
    for record in truth {
        let state = match states.get(&record.id) {
            Some(state) => state,
            // Made and deleted before anybody looked.
            None if record.deleted => continue,
            None => panic!("{} is not there", record.id),
        };
        assert_eq!(state.exists, Some(!record.deleted), "{record:?}\n{state:?}");
        if record.deleted {
            continue;
        }
        assert_fields(state, "", &record.fields, &record.id);
        for name in names.iter().filter(|name| !record.fields.contains_key(**name)) {
            assert_eq!(state.value(name), Known::Value(Value::Null), "{}.{name}", record.id);
        }
    }
    let known: BTreeSet<&str> = truth.iter().map(|record| record.id.as_str()).collect();
    for (id, state) in states {
        assert!(known.contains(id.as_str()) || state.exists != Some(true), "{id} is not the org's");
    }
}

fn assert_fields(state: &State, prefix: &str, fields: &Map<String, Value>, id: &str) {
    for (name, value) in fields {
        let path = format!("{prefix}{name}");
        match value {
            Value::Object(components) => assert_fields(state, &format!("{path}."), components, id),
            value => assert_eq!(state.value(&path), Known::Value(value.clone()), "{id}: {path}\n{state:#?}"),
        }
    }
}

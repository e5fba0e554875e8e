//! The records of the org, as they stand after every event published so far.
//! Updates are drawn from here, so that what a consumer folds together is consistent.

use std::collections::HashMap;

use crate::simulator::change_event::Change;
use crate::simulator::content;
use crate::simulator::dice::Dice;
use crate::simulator::objects::{Field, Kind, Object};
use crate::simulator::record_id::record_id;
use crate::simulator::text_diff;
use crate::simulator::value::Value;

/// One record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// In the order of the object's fields; shorter when fields were added later.
    pub(crate) values: Vec<Option<Value>>,
    pub(crate) deleted: bool,
}

/// The records of one object.
#[derive(Debug, Default)]
pub(crate) struct Records {
    records: Vec<Record>,
    places: HashMap<String, usize>,
    created: u64,
    /// How many records are remembered; beyond it a new one takes the place of an old one.
    most: usize,
}

/// Fields that change as a consequence, or never, and are not drawn by themselves.
const CONSEQUENCES: [&str; 10] = [
    "CreatedDate",
    "CreatedById",
    "LastModifiedDate",
    "LastModifiedById",
    "IsClosed",
    "ClosedDate",
    "IsClosedOnCreate",
    "EndTime",
    "EndedByType",
    // A session belongs to one conversation for ever.
    "ConversationId",
];

impl Records {
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), ..Self::default() }
    }

    /// A record as somebody would create it now, already remembered; with a given id or the next one.
    pub(crate) fn create(
        &mut self,
        dice: &mut Dice,
        object: &Object,
        now: i64,
        user: &str,
        id: Option<String>,
    ) -> Record {
        self.created += 1;
        let id = id.unwrap_or_else(|| record_id(object.prefix, self.created));
        let values = object.fields.iter().map(|field| self.first_value(dice, field, now, user)).collect();
        let mut record = Record { id, values, deleted: false };
        let mut changes = Vec::new();
        follow_status(object, &mut record, now, &mut changes);
        if let Some(at) = object.position("IsClosedOnCreate") {
            record.values[at] = object.position("IsClosed").and_then(|closed| record.values[closed].clone());
        }
        self.remember(dice, record.clone());
        record
    }

    fn first_value(&self, dice: &mut Dice, field: &Field, now: i64, user: &str) -> Option<Value> {
        match &*field.name {
            "CreatedDate" | "LastModifiedDate" => return Some(Value::Long(content::whole_second(now))),
            "CreatedById" | "LastModifiedById" => return Some(Value::Text(user.to_owned())),
            "ClosedDate" | "EndTime" | "EndedByType" => return None,
            "IsClosed" => return Some(Value::Flag(false)),
            "OwnerId" | "Status" | "Subject" | "Name" if field.kind != Kind::AutoNumber => {
                return Some(content::draw(dice, field, now));
            }
            _ => {}
        }
        match field.kind {
            Kind::AutoNumber => Some(Value::Text(format!("{:08}", self.created))),
            Kind::Checkbox => Some(Value::Flag(dice.percent(50))),
            _ => dice.percent(70).then(|| content::draw(dice, field, now)),
        }
    }

    /// Takes a record in, in place of one of the same id or, when there are too many, of any other.
    pub(crate) fn remember(&mut self, dice: &mut Dice, record: Record) {
        let known = self.places.get(&record.id).copied();
        let place = known.unwrap_or_else(|| {
            if self.records.len() < self.most { self.records.len() } else { dice.below(self.records.len()) }
        });
        match self.records.get_mut(place) {
            Some(slot) => {
                self.places.remove(&slot.id);
                self.places.insert(record.id.clone(), place);
                *slot = record;
            }
            None => {
                self.places.insert(record.id.clone(), place);
                self.records.push(record);
            }
        }
    }

    /// Takes the value at a position from every record.
    pub(crate) fn remove_field(&mut self, at: usize) {
        for record in self.records.iter_mut().filter(|record| at < record.values.len()) {
            record.values.remove(at);
        }
    }

    /// Remembers a record no longer.
    pub(crate) fn forget(&mut self, id: &str) {
        let Some(place) = self.places.remove(id) else { return };
        self.records.swap_remove(place);
        if let Some(moved) = self.records.get(place) {
            self.places.insert(moved.id.clone(), place);
        }
    }

    pub(crate) fn find(&mut self, id: &str) -> Option<&mut Record> {
        let place = self.places.get(id)?;
        self.records.get_mut(*place)
    }

    /// Some record that is, or is not, deleted; `None` when a few tries find none.
    pub(crate) fn any(&mut self, dice: &mut Dice, deleted: bool) -> Option<&mut Record> {
        let at = (0..32)
            .map(|_| dice.below(self.records.len()))
            .find(|at| self.records.get(*at).is_some_and(|record| record.deleted == deleted))?;
        self.records.get_mut(at)
    }

    /// Up to `count` different records that are not deleted, by their places.
    pub(crate) fn several(&self, dice: &mut Dice, count: usize) -> Vec<usize> {
        let mut places: Vec<usize> = Vec::with_capacity(count);
        for _ in 0..count * 2 {
            let at = dice.below(self.records.len());
            let alive = self.records.get(at).is_some_and(|record| !record.deleted);
            if alive && places.len() < count && !places.contains(&at) {
                places.push(at);
            }
        }
        places
    }

    pub(crate) fn at(&mut self, place: usize) -> Option<&mut Record> {
        self.records.get_mut(place)
    }
}

/// Changes one to four fields of a record and says which.
pub(crate) fn edit(dice: &mut Dice, object: &Object, record: &mut Record, now: i64) -> Vec<(usize, Change)> {
    record.values.resize(object.fields.len(), None);
    let mut changes: Vec<(usize, Change)> = Vec::new();
    // Agents write on in the description far more often than they touch most other fields.
    let long_text = object.fields.iter().position(|field| field.kind == Kind::LongText).filter(|_| dice.percent(15));
    let drawn: Vec<usize> = (0..dice.between(1, 4)).map(|_| dice.below(object.fields.len())).collect();
    for at in long_text.into_iter().chain(drawn) {
        let field = &object.fields[at];
        let fixed = field.kind == Kind::AutoNumber || CONSEQUENCES.contains(&&*field.name);
        if fixed || changes.iter().any(|(changed, _)| *changed == at) {
            continue;
        }
        let change = edit_field(dice, field, &mut record.values[at], now);
        changes.extend(change.map(|change| (at, change)));
    }
    if changes.is_empty()
        && let Some((at, field)) = object
            .fields
            .iter()
            .enumerate()
            .find(|(_, field)| matches!(&*field.name, "Status" | "Active__c" | "Locale"))
    {
        let value = content::draw(dice, field, now);
        record.values[at] = Some(value.clone());
        changes.push((at, Change::Set(value)));
    }
    if changes.iter().any(|(at, _)| object.fields[*at].name == "Status") {
        follow_status(object, record, now, &mut changes);
    }
    changes
}

fn edit_field(dice: &mut Dice, field: &Field, slot: &mut Option<Value>, now: i64) -> Option<Change> {
    let clearable = !matches!(field.kind, Kind::Checkbox | Kind::Location)
        && !matches!(&*field.name, "Status" | "OwnerId" | "Name");
    match (&*slot, field.kind) {
        (Some(_), Kind::Address) => return Some(edit_address(dice, field, slot, now)),
        (Some(_), _) if clearable && dice.percent(20) => {
            *slot = None;
            return Some(Change::Cleared);
        }
        (Some(Value::Text(old)), Kind::LongText) if dice.percent(70) => {
            let old = old.clone();
            let new = content::edit_lines(dice, &old);
            let change = match text_diff::between(&old, &new) {
                Some(diff) => Change::Diff(diff),
                None => Change::Set(Value::Text(new.clone())),
            };
            *slot = Some(Value::Text(new));
            return Some(change);
        }
        _ => {}
    }
    let value = content::draw(dice, field, now);
    if slot.as_ref() == Some(&value) {
        return None;
    }
    *slot = Some(value.clone());
    Some(match (field.kind, value) {
        // On custom objects every component of a geolocation is sent.
        (Kind::Location, Value::Compound(components)) => {
            Change::Components(components.into_iter().enumerate().collect())
        }
        (_, value) => Change::Set(value),
    })
}

/// Changes some components of an address, never all; one of them may be cleared.
fn edit_address(dice: &mut Dice, field: &Field, slot: &mut Option<Value>, now: i64) -> Change {
    let fresh = match content::draw(dice, field, now) {
        Value::Compound(components) => components,
        _ => Vec::new(),
    };
    let mut changed = Vec::new();
    if let Some(Value::Compound(components)) = slot {
        for (at, (component, fresh)) in components.iter_mut().zip(fresh).enumerate().take(7) {
            if at == 3 || dice.percent(30) {
                let value = if component.is_some() && dice.percent(15) { None } else { fresh };
                component.clone_from(&value);
                changed.push((at, value));
            }
        }
    }
    Change::Components(changed)
}

/// What the platform changes when the status does.
fn follow_status(object: &Object, record: &mut Record, now: i64, changes: &mut Vec<(usize, Change)>) {
    let status = object.position("Status").and_then(|at| record.values.get(at).cloned()).flatten();
    let Some(Value::Text(status)) = status else { return };
    let ended = matches!(status.as_str(), "Closed" | "Ended");
    let now = content::whole_second(now);
    for (name, value) in [
        ("IsClosed", Some(Value::Flag(ended))),
        ("ClosedDate", ended.then_some(Value::Long(now))),
        ("EndTime", ended.then_some(Value::Long(now))),
        ("EndedByType", ended.then(|| Value::Text("Agent".to_owned()))),
    ] {
        let Some(at) = object.position(name) else { continue };
        if record.values[at].is_some() == value.is_some() && (name != "IsClosed" || record.values[at] == value) {
            continue;
        }
        record.values[at].clone_from(&value);
        changes.push((at, value.map_or(Change::Cleared, Change::Set)));
    }
}

/// Puts changes that were drawn for one record on another one.
pub(crate) fn apply(object: &Object, record: &mut Record, changes: &[(usize, Change)]) {
    record.values.resize(object.fields.len(), None);
    for (at, change) in changes {
        let Some(slot) = record.values.get_mut(*at) else { continue };
        match change {
            Change::Set(value) => *slot = Some(value.clone()),
            Change::Cleared => *slot = None,
            Change::Components(changed) => {
                let size = crate::simulator::value::component_names(object.fields[*at].kind).len();
                let Value::Compound(components) = slot.get_or_insert_with(|| Value::Compound(vec![None; size])) else {
                    continue;
                };
                for (child, value) in changed {
                    if let Some(component) = components.get_mut(*child) {
                        component.clone_from(value);
                    }
                }
            }
            // A diff is drawn together with the value it leads to, for one record only.
            Change::Diff(_) => {}
        }
    }
}

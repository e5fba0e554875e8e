//! One event as somebody ordered it, instead of drawn.

use serde_json::{Map, Value as Json};

use crate::simulator::change_event::{Body, Change};
use crate::simulator::content;
use crate::simulator::control::EventOrder;
use crate::simulator::generator::{Draft, Generator, Transaction};
use crate::simulator::model::{self, Record};
use crate::simulator::objects::{Field, Kind};
use crate::simulator::record_store::RecordStore;
use crate::simulator::value::{self, Value};

/// The most changes behind one overflow event.
const MOST_ROWS: usize = 10_000_000;

impl Generator {
    /// Draws exactly the event that is ordered and keeps the records in step with it.
    /// Errors name the entity, field or change type that is not there.
    pub(crate) fn ordered(&mut self, order: &EventOrder, now: i64, store: &RecordStore) -> Result<Draft, String> {
        self.remember_named(&order.entity, &order.record_ids, store);
        let object = self.object(&order.entity).ok_or_else(|| format!("there is no entity `{}`", order.entity))?;
        let given = self.given(object, &order.fields)?;
        let earlier = std::mem::take(&mut self.waiting);
        let result = if self.objects[object].is_platform_event() {
            self.ordered_platform_event(object, now, given);
            Ok(())
        } else {
            let mut transaction = match (&self.last, order.same_transaction) {
                (Some(last), true) => last.clone(),
                _ => Transaction { sequence: 0, ..self.begin(now) },
            };
            let result = self.ordered_change(object, &mut transaction, order, given, store);
            self.last = Some(transaction);
            result
        };
        let drawn = self.waiting.pop_front();
        self.waiting = earlier;
        let (draft, rows) =
            result.and_then(|()| drawn.ok_or_else(|| format!("`{}` gives no event", order.change_type)))?;
        self.changed.extend(rows);
        Ok(draft)
    }

    fn given(&self, object: usize, fields: &Map<String, Json>) -> Result<Vec<(usize, Json)>, String> {
        let object = &self.objects[object];
        let position =
            |name: &String| object.position(name).ok_or_else(|| format!("{} has no field `{name}`", object.name));
        fields.iter().map(|(name, json)| Ok((position(name)?, json.clone()))).collect::<Result<_, String>>().and_then(
            |given: Vec<(usize, Json)>| {
                let wrong = given.iter().find_map(|(at, json)| value::parse(object.fields[*at].kind, json).err());
                wrong.map_or(Ok(given), Err)
            },
        )
    }

    fn ordered_platform_event(&mut self, object: usize, now: i64, given: Vec<(usize, Json)>) {
        let user = content::user(&mut self.dice);
        let mut values: Vec<Option<Value>> = vec![None; self.objects[object].fields.len()];
        for (slot, field) in values.iter_mut().zip(&self.objects[object].fields) {
            *slot = match &*field.name {
                "CreatedDate" => Some(Value::Long(now)),
                "CreatedById" => Some(Value::Text(user.clone())),
                _ => None,
            };
        }
        for (at, json) in given {
            values[at] = value::parse(self.objects[object].fields[at].kind, &json).ok().flatten();
        }
        self.waiting.push_back((Draft::Platform { object, created: now, values }, Vec::new()));
    }

    fn ordered_change(
        &mut self,
        object: usize,
        transaction: &mut Transaction,
        order: &EventOrder,
        given: Vec<(usize, Json)>,
        store: &RecordStore,
    ) -> Result<(), String> {
        let change_type = order.change_type.as_str();
        if !self.objects[object].change_types.iter().any(|known| known == change_type) {
            return Err(format!("{} has no change type `{change_type}`", order.entity));
        }
        let changes = self.ordered_changes(object, &order.fields)?;
        let wildcard = format!("{}*", self.objects[object].prefix);
        if change_type == "GAP_OVERFLOW" {
            let rows = usize::try_from(order.rows).unwrap_or(usize::MAX).min(MOST_ROWS);
            self.ordered_overflow(object, transaction, rows, &changes, store);
            return Ok(());
        }
        if order.record_ids == [wildcard.as_str()] {
            self.empty(object, transaction, change_type, vec![wildcard]);
            self.ordered_wildcard(object, &changes, store);
            return Ok(());
        }
        let mut records = self.records_for(object, transaction, order);
        let ids: Vec<String> = match order.record_ids.as_slice() {
            [] => records.iter().map(|record| record.id.clone()).collect(),
            ids => ids.to_vec(),
        };
        let body = self.ordered_body(object, transaction, change_type, &mut records, given, changes)?;
        let deleted = match change_type {
            "DELETE" | "GAP_DELETE" => Some(true),
            "CREATE" | "UPDATE" | "UNDELETE" | "GAP_CREATE" | "GAP_UPDATE" | "GAP_UNDELETE" => Some(false),
            // Whatever another type means, it changes no record.
            _ => None,
        };
        self.emit(object, transaction, change_type, ids, body);
        let Some(deleted) = deleted else {
            self.last_changed(object, &[], transaction.timestamp);
            return Ok(());
        };
        records.iter_mut().for_each(|record| record.deleted = deleted);
        self.last_changed(object, &records, transaction.timestamp);
        for record in records {
            self.records[object].remember(&mut self.dice, record);
        }
        Ok(())
    }

    /// Changes the records as ordered, and says what the event tells of that.
    fn ordered_body(
        &mut self,
        object: usize,
        transaction: &Transaction,
        change_type: &str,
        records: &mut [Record],
        given: Vec<(usize, Json)>,
        mut changes: Vec<(usize, Change)>,
    ) -> Result<Body, String> {
        match change_type {
            "CREATE" | "UNDELETE" | "GAP_CREATE" | "GAP_UNDELETE" => {
                for record in records.iter_mut() {
                    // A record from before a field was added has no place for it yet.
                    record.values.resize(self.objects[object].fields.len(), None);
                    for (at, json) in &given {
                        record.values[*at] = value::parse(self.objects[object].fields[*at].kind, json)?;
                    }
                }
                if change_type.starts_with("GAP_") {
                    return Ok(Body::Empty);
                }
                let values = records.first().ok_or("a create needs a record")?.values.clone();
                // One event has one body, whatever many records it is for.
                records.iter_mut().for_each(|record| record.values.clone_from(&values));
                Ok(Body::Full(values))
            }
            "UPDATE" => {
                records.iter_mut().for_each(|record| model::apply(&self.objects[object], record, &changes));
                let mut all: Vec<&mut Record> = records.iter_mut().collect();
                self.stamp(object, transaction, &mut changes, &mut all);
                Ok(Body::Sparse(changes))
            }
            "GAP_UPDATE" => {
                for record in records {
                    self.change_untold(object, transaction, record, &changes);
                }
                Ok(Body::Empty)
            }
            _ => Ok(Body::Empty),
        }
    }

    /// The records that are meant: those named, else a new one to be created or any one there is.
    fn records_for(&mut self, object: usize, transaction: &Transaction, order: &EventOrder) -> Vec<Record> {
        let create = matches!(order.change_type.as_str(), "CREATE" | "GAP_CREATE");
        if order.record_ids.is_empty() {
            let deleted = matches!(order.change_type.as_str(), "UNDELETE" | "GAP_UNDELETE");
            let known = if create { None } else { self.records[object].any(&mut self.dice, deleted).cloned() };
            return vec![known.unwrap_or_else(|| self.new_record(object, transaction, None))];
        }
        let prefix = self.objects[object].prefix;
        let mut records = Vec::new();
        // Wildcards and the overflow id name no record.
        for id in order.record_ids.iter().filter(|id| id.len() == 18 && id.starts_with(prefix)) {
            let known = self.records[object].find(id).cloned();
            records.push(known.unwrap_or_else(|| self.new_record(object, transaction, Some(id.clone()))));
        }
        records
    }
}

/// What a JSON value means for one field of an update: null clears, an object names the components that change.
pub(super) fn change(field: &Field, json: &Json) -> Result<Change, String> {
    match (field.kind, json) {
        (Kind::Address | Kind::Location, Json::Object(given)) => {
            let names = value::component_names(field.kind);
            let parsed = value::parse(field.kind, json)?;
            let Some(Value::Compound(components)) = parsed else { return Err(format!("{} is a compound", field.name)) };
            let changed =
                names.into_iter().enumerate().zip(components).filter(|((_, name), _)| given.contains_key(*name));
            Ok(Change::Components(changed.map(|((at, _), value)| (at, value)).collect()))
        }
        _ => Ok(value::parse(field.kind, json)?.map_or(Change::Cleared, Change::Set)),
    }
}

//! Changes of which no event tells the values: what stands behind overflow and wildcard
//! events, and what a consumer is never told of at all.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use crate::simulator::change_event::Change;
use crate::simulator::generator::ordered::change;
use crate::simulator::generator::{Generator, OVERFLOW, Transaction, put, stamps};
use crate::simulator::model::{self, Record};
use crate::simulator::objects::{Kind, Object};
use crate::simulator::record_store::{RecordKey, RecordStore, RowChange};

/// Rows behind an overflow or wildcard event that was drawn; of those remembered, so that a long history stays fast.
const DRAWN_ROWS: usize = 50;
/// Of so many rows behind an overflow one is deleted.
const ONE_DELETED_IN: usize = 20;

/// Beside so many transactions in a hundred something changes of which no event tells.
const UNTOLD_PERCENT: usize = 25;

impl Generator {
    /// Creates, changes, deletes or restores a record of an object that has no events, now and then.
    pub(super) fn change_untold_objects(&mut self, transaction: &Transaction) {
        for at in 0..self.untold.len() {
            let object = self.untold[at];
            std::mem::swap(&mut self.dice, &mut self.untold_dice);
            if self.dice.percent(UNTOLD_PERCENT) {
                let record = self.changed_or_new(object, transaction);
                let stamped = transaction.timestamp - transaction.commit_number.rem_euclid(4) * 1_000;
                self.changed.extend(put(object, &record, stamped));
            }
            std::mem::swap(&mut self.dice, &mut self.untold_dice);
        }
    }

    fn changed_or_new(&mut self, object: usize, transaction: &Transaction) -> Record {
        let restore = self.dice.percent(10);
        let known =
            if self.dice.percent(50) { self.records[object].any(&mut self.dice, restore).cloned() } else { None };
        let Some(mut record) = known else { return self.new_record(object, transaction, None) };
        if restore || self.dice.percent(20) {
            record.deleted = !restore;
        } else {
            self.change_untold(object, transaction, &mut record, &[]);
        }
        self.recall(object, &record);
        record
    }

    /// An overflow as the mix draws it.
    pub(super) fn drawn_overflow(&mut self, object: usize, transaction: &mut Transaction) {
        let places = self.records[object].several(&mut self.dice, DRAWN_ROWS);
        let mut records: Vec<Record> = places.iter().filter_map(|at| self.records[object].at(*at).cloned()).collect();
        self.overflow(object, transaction, &mut records, &[]);
    }

    /// As many changes as are wanted, of records that are there and, when these are too few, of new ones.
    pub(super) fn ordered_overflow(
        &mut self,
        object: usize,
        transaction: &mut Transaction,
        rows: usize,
        changes: &[(usize, Change)],
        store: &RecordStore,
    ) {
        let mut records: Vec<Record> = self.all(object, store).into_iter().filter(|one| !one.deleted).collect();
        records.truncate(rows);
        let new = rows.saturating_sub(records.len());
        self.overflow(object, transaction, &mut records, changes);
        for _ in 0..new {
            let record = self.new_record(object, transaction, None);
            let row = put(object, &record, transaction.timestamp);
            self.behind_last(row);
        }
    }

    fn overflow(
        &mut self,
        object: usize,
        transaction: &mut Transaction,
        records: &mut [Record],
        changes: &[(usize, Change)],
    ) {
        self.empty(object, transaction, "GAP_OVERFLOW", vec![OVERFLOW.to_owned()]);
        for (at, record) in records.iter_mut().enumerate() {
            if at % ONE_DELETED_IN == ONE_DELETED_IN - 1 {
                record.deleted = true;
            } else {
                self.change_untold(object, transaction, record, changes);
            }
            self.recall(object, record);
            self.behind_last(put(object, record, transaction.timestamp));
        }
    }

    /// Puts changes on a record, or drawn ones when none are given, with the stamps of the transaction.
    pub(super) fn change_untold(
        &mut self,
        object: usize,
        transaction: &Transaction,
        record: &mut Record,
        changes: &[(usize, Change)],
    ) {
        let definition = &self.objects[object];
        if changes.is_empty() {
            model::edit(&mut self.dice, definition, record, transaction.timestamp);
        }
        model::apply(definition, record, changes);
        model::apply(definition, record, &stamps(definition, transaction));
    }

    /// A wildcard as the mix draws it: a field loses its values.
    pub(super) fn drawn_wildcard(&mut self, object: usize, transaction: &mut Transaction) {
        let places = self.records[object].several(&mut self.dice, DRAWN_ROWS);
        let losing = losing_fields(&self.objects[object]);
        let wildcard = format!("{}*", self.objects[object].prefix);
        self.empty(object, transaction, "GAP_UPDATE", vec![wildcard]);
        if losing.is_empty() {
            return;
        }
        let change = [(*self.dice.pick(&losing), Change::Cleared)];
        let records = places.iter().filter_map(|at| self.records[object].at(*at).cloned()).collect();
        self.convert(object, records, &change);
    }

    /// Changes every record without touching its stamps, as when the type of a field is converted.
    pub(super) fn ordered_wildcard(&mut self, object: usize, changes: &[(usize, Change)], store: &RecordStore) {
        let records = self.all(object, store);
        self.convert(object, records, changes);
    }

    fn convert(&mut self, object: usize, records: Vec<Record>, changes: &[(usize, Change)]) {
        for mut record in records {
            model::apply(&self.objects[object], &mut record, changes);
            self.recall(object, &record);
            let key = RecordKey::parse(&record.id);
            self.behind_last(key.map(|key| RowChange::Restate { object, key, values: record.values }));
        }
    }

    /// Adds to what the event drawn last did to the records.
    fn behind_last(&mut self, row: Option<RowChange>) {
        if let Some((_, rows)) = self.waiting.back_mut() {
            rows.extend(row);
        }
    }

    /// Every record of an object, those in the recycle bin too, by id.
    fn all(&mut self, object: usize, store: &RecordStore) -> Vec<Record> {
        let Some(snapshot) = store.snapshot(object) else { return Vec::new() };
        let record = |(key, row): (RecordKey, crate::simulator::record_store::Row)| Record {
            id: key.id(),
            values: row.values(&snapshot.object),
            deleted: row.deleted,
        };
        snapshot.rows.into_iter().map(record).collect()
    }

    /// Lets a record that is remembered be this one; others stay in the store alone.
    fn recall(&mut self, object: usize, record: &Record) {
        if let Some(known) = self.records[object].find(&record.id) {
            known.clone_from(record);
        }
    }

    /// Remembers the named records again that a long history has pushed out.
    pub(crate) fn remember_named(&mut self, entity: &str, ids: &[String], store: &RecordStore) {
        let Some(object) = self.object(entity) else { return };
        let unknown: Vec<&String> = ids.iter().filter(|id| self.records[object].find(id).is_none()).collect();
        let keys: Vec<_> = unknown.iter().map(|id| RecordKey::parse(id)).collect();
        for (key, row) in store.get(object, &keys).into_iter().flatten() {
            let record = Record { id: key.id(), values: row.values(&self.objects[object]), deleted: row.deleted };
            self.records[object].remember(&mut self.dice, record);
        }
    }

    /// Removes records for good. Errors name what is not there.
    pub(crate) fn hard_delete(&mut self, entity: &str, ids: &[String], store: &RecordStore) -> Result<(), String> {
        let object = self.object(entity).ok_or_else(|| format!("there is no entity `{entity}`"))?;
        let keys: Vec<_> = ids.iter().map(|id| RecordKey::parse(id)).collect();
        let known: HashSet<RecordKey> = store.get(object, &keys).into_iter().flatten().map(|(key, _)| key).collect();
        for (id, key) in ids.iter().zip(keys) {
            let key = key.filter(|key| known.contains(key)).ok_or_else(|| format!("there is no record `{id}`"))?;
            self.records[object].forget(&key.id());
            self.changed.push(RowChange::Purge { object, key });
        }
        Ok(())
    }

    /// What an order says about fields, as changes.
    pub(super) fn ordered_changes(
        &self,
        object: usize,
        fields: &Map<String, Json>,
    ) -> Result<Vec<(usize, Change)>, String> {
        let object = &self.objects[object];
        let changes = fields.iter().map(|(name, json)| {
            let at = object.position(name).ok_or_else(|| format!("{} has no field `{name}`", object.name))?;
            Ok((at, change(&object.fields[at], json)?))
        });
        changes.collect()
    }
}

/// The fields whose values can get lost without the record being another.
fn losing_fields(object: &Object) -> Vec<usize> {
    let loses = |kind: Kind| matches!(kind, Kind::Picklist(_) | Kind::MultiPicklist(_) | Kind::Date);
    let fields = object.fields.iter().enumerate().filter(|(_, field)| loses(field.kind) && field.name != "Status");
    fields.map(|(at, _)| at).collect()
}

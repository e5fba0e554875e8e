//! Draws transactions: what users, integrations and the platform do to the records,
//! as change events. The same seed and settings draw the same events.

use std::collections::VecDeque;

use crate::simulator::change_event::{Body, Change, ChangeEvent};
use crate::simulator::content;
use crate::simulator::dice::Dice;
use crate::simulator::model::{self, Record, Records};
use crate::simulator::objects::{Kind, Object};
use crate::simulator::record_store::{RecordKey, Row, RowChange};
use crate::simulator::settings::{Mix, Traffic};
use crate::simulator::value::Value;

/// An event that is drawn and not yet published.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Draft {
    Change(ChangeEvent),
    Platform { object: usize, created: i64, values: Vec<Option<Value>> },
}

/// The header fields that the events of one transaction share, and how far it has come.
#[derive(Debug, Clone)]
struct Transaction {
    key: String,
    timestamp: i64,
    commit_number: i64,
    user: String,
    origin: String,
    sequence: i32,
}

/// The objects, their records, and the events still to come of the current transaction.
#[derive(Debug)]
pub(crate) struct Generator {
    pub(crate) objects: Vec<Object>,
    records: Vec<Records>,
    dice: Dice,
    mix: Mix,
    most_merged: usize,
    /// The objects that take part in generated traffic, by index.
    entities: Vec<usize>,
    platform_event: Option<usize>,
    /// Those among them of which no event tells, and the dice for these: what they do changes no event.
    untold: Vec<usize>,
    untold_dice: Dice,
    commit_number: i64,
    /// Each with the records as they are after it.
    waiting: VecDeque<(Draft, Vec<RowChange>)>,
    /// What the events taken so far, and changes that no event tells, did to the records.
    changed: Vec<RowChange>,
    last: Option<Transaction>,
}

const ORIGINS: [&str; 6] = [
    "com/salesforce/api/soap/66.0;client=SfdcInternalAPI/",
    "com/salesforce/api/soap/66.0;client=SfdcInternalAPI/",
    "com/salesforce/api/rest/66.0;client=ServiceConsole",
    "com/salesforce/api/bulkapi/66.0",
    "com/salesforce/api/apex/66.0",
    "",
];
/// The record id of an overflow event.
const OVERFLOW: &str = "000000000000000AAA";
/// A change type that the schemas of today do not have.
pub(crate) const FUTURE_CHANGE_TYPE: &str = "ARCHIVE";

impl Generator {
    pub(crate) fn new(seed: u64, traffic: &Traffic, objects: Vec<Object>) -> Self {
        let chosen = |object: &Object| traffic.entities.iter().any(|name| name == object.name);
        let by_index = |platform: bool| {
            let objects = objects.iter().enumerate();
            objects
                .filter(move |(_, object)| object.told && object.is_platform_event() == platform && chosen(object))
                .map(|(at, _)| at)
        };
        let untold = objects.iter().enumerate().filter(|(_, object)| !object.told && chosen(object));
        Self {
            entities: by_index(false).collect(),
            platform_event: by_index(true).next(),
            untold: untold.map(|(at, _)| at).collect(),
            untold_dice: Dice::stream(seed, "untold"),
            records: objects.iter().map(|_| Records::new(traffic.most_records)).collect(),
            dice: Dice::stream(seed, "traffic"),
            mix: traffic.mix.clone(),
            most_merged: traffic.most_merged,
            commit_number: traffic.first_commit_number,
            waiting: VecDeque::new(),
            changed: Vec::new(),
            last: None,
            objects,
        }
    }

    /// The next event, at a time in milliseconds of the epoch. A transaction keeps the time it began with.
    pub(crate) fn next(&mut self, now: i64) -> Option<Draft> {
        // A kind of transaction that needs records finds none at the beginning; creating one never fails.
        for _ in 0..64 {
            if let Some((draft, rows)) = self.waiting.pop_front() {
                self.changed.extend(rows);
                return Some(draft);
            }
            self.draw_transaction(now);
        }
        None
    }

    fn draw_transaction(&mut self, now: i64) {
        let weights = self.mix.weights();
        let Some(kind) = self.dice.weighted(&weights) else { return };
        if kind == Mix::PLATFORM_EVENT {
            return self.platform_event(now);
        }
        if self.entities.is_empty() {
            return self.platform_event(now);
        }
        let object = *self.dice.pick(&self.entities);
        let mut transaction = self.begin(now);
        match kind {
            Mix::UPDATE => self.update(object, &mut transaction, 1),
            Mix::DOUBLE_UPDATE => self.update(object, &mut transaction, 2),
            Mix::MERGED => self.merged(object, &mut transaction),
            Mix::SEVERAL => {
                for _ in 0..self.dice.between(2, 5) {
                    self.create(object, &mut transaction);
                    // An object that is not selected for change events took a number.
                    transaction.sequence += i32::from(self.dice.percent(25));
                }
            }
            Mix::GEOCODE => self.geocode(&mut transaction),
            Mix::DELETE => self.delete_or_restore(object, &mut transaction, true),
            Mix::UNDELETE => self.delete_or_restore(object, &mut transaction, false),
            Mix::GAP => self.gap(object, &mut transaction),
            Mix::OVERFLOW => self.drawn_overflow(object, &mut transaction),
            Mix::WILDCARD => self.drawn_wildcard(object, &mut transaction),
            Mix::SNAPSHOT => self.unusual(object, &mut transaction, "SNAPSHOT"),
            Mix::FUTURE_CHANGE_TYPE => {
                self.add_change_type(object, FUTURE_CHANGE_TYPE);
                self.unusual(object, &mut transaction, FUTURE_CHANGE_TYPE);
            }
            _ => self.create(object, &mut transaction),
        }
        self.change_untold_objects(&transaction);
        self.last = Some(transaction);
    }

    fn begin(&mut self, now: i64) -> Transaction {
        self.commit_number = self.commit_number.saturating_add(1 + self.dice.below(400) as i64);
        let key = self.dice.uuid();
        Transaction {
            // Real keys begin with zeros.
            key: format!("0000{}", &key[4..]),
            timestamp: content::whole_second(now),
            commit_number: self.commit_number,
            user: content::user(&mut self.dice),
            origin: (*self.dice.pick(&ORIGINS)).to_owned(),
            sequence: i32::from(self.dice.percent(10)),
        }
    }

    fn emit(
        &mut self,
        object: usize,
        transaction: &mut Transaction,
        change_type: &str,
        record_ids: Vec<String>,
        body: Body,
    ) {
        transaction.sequence += 1;
        // A record is stamped when it is written and its event is dated when the transaction ends, up to seconds later.
        let stamped = transaction.timestamp - transaction.commit_number.rem_euclid(4) * 1_000;
        let rows = self.rows(object, &record_ids, stamped);
        let draft = Draft::Change(ChangeEvent {
            object,
            record_ids,
            change_type: change_type.to_owned(),
            origin: transaction.origin.clone(),
            transaction_key: transaction.key.clone(),
            sequence_number: transaction.sequence,
            commit_timestamp: transaction.timestamp,
            commit_number: transaction.commit_number,
            user: transaction.user.clone(),
            body,
            enriched: Vec::new(),
        });
        self.waiting.push_back((draft, rows));
    }

    /// The records of these ids as they are now, for whoever reads them.
    fn rows(&mut self, object: usize, ids: &[String], modstamp: i64) -> Vec<RowChange> {
        let records = &mut self.records[object];
        ids.iter().filter_map(|id| put(object, records.find(id)?, modstamp)).collect()
    }

    /// What happened to the records since it was asked last, in order.
    pub(crate) fn take_changed(&mut self) -> Vec<RowChange> {
        std::mem::take(&mut self.changed)
    }

    fn empty(&mut self, object: usize, transaction: &mut Transaction, change_type: &str, record_ids: Vec<String>) {
        self.emit(object, transaction, change_type, record_ids, Body::Empty);
    }

    fn create(&mut self, object: usize, transaction: &mut Transaction) {
        let record = self.new_record(object, transaction, None);
        self.emit(object, transaction, "CREATE", vec![record.id], Body::Full(record.values));
    }

    fn new_record(&mut self, object: usize, transaction: &Transaction, id: Option<String>) -> Record {
        let (time, user) = (transaction.timestamp, &transaction.user);
        self.records[object].create(&mut self.dice, &self.objects[object], time, user, id)
    }

    /// One update, or two on the same record, as a trigger or a flow causes them.
    fn update(&mut self, object: usize, transaction: &mut Transaction, times: usize) {
        let Some(mut record) = self.records[object].any(&mut self.dice, false).cloned() else { return };
        for _ in 0..times {
            let mut changes = model::edit(&mut self.dice, &self.objects[object], &mut record, transaction.timestamp);
            self.stamp(object, transaction, &mut changes, &mut [&mut record]);
            if let Some(known) = self.records[object].find(&record.id) {
                known.clone_from(&record);
            }
            self.emit(object, transaction, "UPDATE", vec![record.id.clone()], Body::Sparse(changes));
        }
    }

    /// Adds the modification stamp: always when, and by whom only if that is somebody else than before.
    fn stamp(
        &self,
        object: usize,
        transaction: &Transaction,
        changes: &mut Vec<(usize, Change)>,
        records: &mut [&mut Record],
    ) {
        let object = &self.objects[object];
        let user = Value::Text(transaction.user.clone());
        let mut stamps = Vec::new();
        if let Some(at) = object.position("LastModifiedDate") {
            stamps.push((at, Change::Set(Value::Long(transaction.timestamp))));
        }
        if let Some(at) = object.position("LastModifiedById")
            && records.iter().any(|record| record.values.get(at) != Some(&Some(user.clone())))
        {
            stamps.push((at, Change::Set(user)));
        }
        records.iter_mut().for_each(|record| model::apply(object, record, &stamps));
        changes.extend(stamps);
    }

    /// The same change to many records of one transaction is one event with many ids.
    fn merged(&mut self, object: usize, transaction: &mut Transaction) {
        let most = if self.dice.percent(5) { self.most_merged } else { self.most_merged.min(12) };
        let count = self.dice.between(2, most.max(2));
        let places = self.records[object].several(&mut self.dice, count);
        let delete = self.dice.percent(15);
        let mut records: Vec<Record> = places.iter().filter_map(|at| self.records[object].at(*at).cloned()).collect();
        let ids: Vec<String> = records.iter().map(|record| record.id.clone()).collect();
        if records.len() < 2 {
            return;
        }
        let mut body = Body::Empty;
        if delete {
            records.iter_mut().for_each(|record| record.deleted = true);
        } else {
            let mut first = records[0].clone();
            let mut changes = model::edit(&mut self.dice, &self.objects[object], &mut first, transaction.timestamp);
            // A diff and a compound, whole or in parts, belong to one record's former value.
            changes.retain(|(_, change)| match change {
                Change::Set(value) => !matches!(value, Value::Compound(_)),
                Change::Cleared => true,
                Change::Components(_) | Change::Diff(_) => false,
            });
            let definition = &self.objects[object];
            records.iter_mut().for_each(|record| model::apply(definition, record, &changes));
            let mut all: Vec<&mut Record> = records.iter_mut().collect();
            self.stamp(object, transaction, &mut changes, &mut all);
            body = Body::Sparse(changes);
        }
        for (at, record) in places.into_iter().zip(records) {
            if let Some(known) = self.records[object].at(at) {
                *known = record;
            }
        }
        self.emit(object, transaction, if delete { "DELETE" } else { "UPDATE" }, ids, body);
    }

    /// The platform's geocoder: only components change, nobody is the modifier, no date is stamped.
    fn geocode(&mut self, transaction: &mut Transaction) {
        let with_address = |at: &&usize| self.objects[**at].fields.iter().any(|field| field.kind == Kind::Address);
        let Some(object) = self.entities.iter().find(with_address).copied() else { return };
        let Some(at) = self.objects[object].fields.iter().position(|field| field.kind == Kind::Address) else { return };
        let components = vec![
            (7, Some(content::coordinate(&mut self.dice, 90))),
            (8, Some(content::coordinate(&mut self.dice, 180))),
        ];
        let changes = vec![(at, Change::Components(components))];
        let Some(record) = self.records[object].any(&mut self.dice, false) else { return };
        model::apply(&self.objects[object], record, &changes);
        let id = record.id.clone();
        transaction.origin.clear();
        self.emit(object, transaction, "UPDATE", vec![id], Body::Sparse(changes));
    }

    fn delete_or_restore(&mut self, object: usize, transaction: &mut Transaction, delete: bool) {
        let Some(record) = self.records[object].any(&mut self.dice, !delete) else { return };
        record.deleted = delete;
        let record = record.clone();
        if delete {
            self.empty(object, transaction, "DELETE", vec![record.id]);
        } else {
            self.emit(object, transaction, "UNDELETE", vec![record.id], Body::Full(record.values));
        }
    }

    /// A change that happened and of which only the header is told, for one record or several.
    fn gap(&mut self, object: usize, transaction: &mut Transaction) {
        transaction.origin.clear();
        let count = self.dice.between(1, 4);
        if self.dice.percent(30) {
            let new: Vec<Record> = (0..count).map(|_| self.new_record(object, transaction, None)).collect();
            let ids = new.iter().map(|record| record.id.clone()).collect();
            self.empty(object, transaction, "GAP_CREATE", ids);
            return self.last_changed(object, &new, transaction.timestamp);
        }
        if self.dice.percent(10)
            && let Some(record) = self.records[object].any(&mut self.dice, true)
        {
            record.deleted = false;
            let id = record.id.clone();
            return self.empty(object, transaction, "GAP_UNDELETE", vec![id]);
        }
        let delete = self.dice.percent(25);
        let places = self.records[object].several(&mut self.dice, count);
        let mut ids = Vec::new();
        for at in places {
            let Some(record) = self.records[object].at(at) else { continue };
            if delete {
                record.deleted = true;
            } else {
                model::edit(&mut self.dice, &self.objects[object], record, transaction.timestamp);
                model::apply(&self.objects[object], record, &stamps(&self.objects[object], transaction));
            }
            ids.push(record.id.clone());
        }
        if !ids.is_empty() {
            self.empty(object, transaction, if delete { "GAP_DELETE" } else { "GAP_UPDATE" }, ids);
        }
    }

    /// A change type that no consumer can know the meaning of.
    fn unusual(&mut self, object: usize, transaction: &mut Transaction, change_type: &str) {
        let Some(record) = self.records[object].any(&mut self.dice, false) else { return };
        let id = record.id.clone();
        self.empty(object, transaction, change_type, vec![id]);
        // Whatever it means, it changed no value.
        self.last_changed(object, &[], transaction.timestamp);
    }

    fn platform_event(&mut self, now: i64) {
        let Some(object) = self.platform_event else { return };
        let created = now;
        let user = content::user(&mut self.dice);
        let fields = self.objects[object].fields.clone();
        let values = fields.iter().map(|field| match &*field.name {
            "CreatedDate" => Some(Value::Long(created)),
            "CreatedById" => Some(Value::Text(user.clone())),
            _ => self.dice.percent(80).then(|| content::draw(&mut self.dice, field, now)),
        });
        let values = values.collect();
        self.waiting.push_back((Draft::Platform { object, created, values }, Vec::new()));
    }

    /// Says which records the event drawn last changed, where its ids alone do not.
    fn last_changed(&mut self, object: usize, records: &[Record], modstamp: i64) {
        if let Some((_, rows)) = self.waiting.back_mut() {
            *rows = records.iter().filter_map(|record| put(object, record, modstamp)).collect();
        }
    }

    /// Lets the object's events have one more change type from now on.
    pub(crate) fn add_change_type(&mut self, object: usize, symbol: &str) {
        let symbols = &mut self.objects[object].change_types;
        if !symbols.iter().any(|known| known == symbol) {
            symbols.push(symbol.to_owned());
        }
    }

    /// Whether an event that is drawn and not yet published is about one of these records.
    pub(crate) fn awaits(&self, ids: &[String]) -> bool {
        let concerns = |draft: &Draft| match draft {
            Draft::Change(event) => event.record_ids.iter().any(|id| ids.contains(id)),
            Draft::Platform { .. } => false,
        };
        self.waiting.iter().any(|(draft, _)| concerns(draft))
    }

    /// The events that are drawn and not yet published.
    pub(crate) fn take_waiting(&mut self) -> Vec<Draft> {
        let (drafts, rows): (Vec<_>, Vec<_>) = self.waiting.drain(..).unzip();
        self.changed.extend(rows.into_iter().flatten());
        drafts
    }

    /// Takes a field from an object and its records. No event may be waiting.
    pub(crate) fn remove_field(&mut self, object: usize, at: usize) {
        self.objects[object].fields.remove(at);
        self.records[object].remove_field(at);
    }

    pub(crate) fn object(&self, name: &str) -> Option<usize> {
        self.objects.iter().position(|object| object.name == name)
    }

    /// The present values of some fields of a record.
    pub(crate) fn values_of(&mut self, object: usize, id: &str, fields: &[usize]) -> Vec<(usize, Option<Value>)> {
        let record = self.records[object].find(id);
        let value = |at: usize| record.as_ref().and_then(|record| record.values.get(at).cloned()).flatten();
        fields.iter().map(|at| (*at, value(*at))).collect()
    }
}

/// The record as it is now.
fn put(object: usize, record: &Record, modstamp: i64) -> Option<RowChange> {
    let key = RecordKey::parse(&record.id)?;
    Some(RowChange::Put { object, key, row: Row::new(modstamp, record.deleted, &record.values) })
}

/// When and by whom a record was modified, as a transaction leaves it.
fn stamps(object: &Object, transaction: &Transaction) -> Vec<(usize, Change)> {
    let when = object.position("LastModifiedDate").map(|at| (at, Change::Set(Value::Long(transaction.timestamp))));
    let who = object.position("LastModifiedById");
    let who = who.map(|at| (at, Change::Set(Value::Text(transaction.user.clone()))));
    when.into_iter().chain(who).collect()
}

mod ordered;
mod untold;

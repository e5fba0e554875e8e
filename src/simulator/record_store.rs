//! Every record of the org as it truly is, whatever was told about it: what REST reads.
//!
//! The publisher puts the state after each event here before the event can be received,
//! so that a reader is never behind what it was told; it may well be ahead. Values are
//! packed, because a long history leaves many records; a row is shared with the results
//! of queries, which keep the state of the moment they ran.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::simulator::objects::Object;
use crate::simulator::record_id;
use crate::simulator::rest::RowText;
use crate::simulator::row;
use crate::simulator::value::Value;

/// The first fifteen characters of a record id: all that tells records apart. Ordered as Salesforce orders ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordKey([u8; 15]);

impl RecordKey {
    /// Reads an id of fifteen characters, or of eighteen with a right checksum.
    pub(crate) fn parse(id: &str) -> Option<Self> {
        let sound = match id.len() {
            15 => id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            _ => record_id::is_complete(id),
        };
        let key = id.as_bytes().first_chunk::<15>().filter(|_| sound)?;
        Some(Self(*key))
    }

    /// The eighteen characters.
    pub(crate) fn id(&self) -> String {
        record_id::complete(self.fifteen())
    }

    /// The three characters that say the object.
    pub(crate) fn prefix(&self) -> &str {
        &self.fifteen()[..3]
    }

    pub(crate) fn fifteen(&self) -> &str {
        // Only letters and digits get in.
        std::str::from_utf8(&self.0).unwrap_or("000000000000000")
    }
}

/// One record.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// `SystemModstamp`, milliseconds of the epoch in whole seconds.
    pub(crate) modstamp: i64,
    /// In the recycle bin.
    pub(crate) deleted: bool,
    packed: Arc<[u8]>,
    /// What REST has made of it.
    pub(crate) text: RowText,
}

impl Row {
    pub(crate) fn new(modstamp: i64, deleted: bool, values: &[Option<Value>]) -> Self {
        Self { modstamp, deleted, packed: row::pack(values), text: RowText::default() }
    }

    fn restate(&mut self, values: &[Option<Value>]) {
        *self = Self::new(self.modstamp, self.deleted, values);
    }

    /// The values under the object that the row belongs to.
    pub(crate) fn values(&self, object: &Object) -> Vec<Option<Value>> {
        row::unpack(object, &self.packed)
    }
}

/// What a transaction does to one record.
#[derive(Debug, Clone)]
pub(crate) enum RowChange {
    /// The record is this from now on.
    Put { object: usize, key: RecordKey, row: Row },
    /// Its values are these; the stamp stays as it is, as when the type of a field is converted.
    Restate { object: usize, key: RecordKey, values: Vec<Option<Value>> },
    /// It is gone, from the recycle bin too.
    Purge { object: usize, key: RecordKey },
}

/// The records of one object, and the object as it is now.
#[derive(Debug)]
struct Table {
    object: Arc<Object>,
    rows: BTreeMap<RecordKey, Row>,
}

/// The rows that a query found, of the moment it ran.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) object: Arc<Object>,
    pub(crate) rows: Vec<(RecordKey, Row)>,
}

/// The records of all objects.
#[derive(Debug)]
pub(crate) struct RecordStore {
    tables: Vec<RwLock<Table>>,
}

impl RecordStore {
    pub(crate) fn new(objects: Vec<Object>) -> Self {
        let table = |object| RwLock::new(Table { object: Arc::new(object), rows: BTreeMap::new() });
        Self { tables: objects.into_iter().map(table).collect() }
    }

    fn read<T>(&self, object: usize, look: impl FnOnce(&Table) -> T) -> Option<T> {
        // A table is never left half changed: each change is one insert or remove.
        self.tables.get(object).map(|table| look(&table.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn write(&self, object: usize, change: impl FnOnce(&mut Table)) {
        if let Some(table) = self.tables.get(object) {
            change(&mut table.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Every object as it is now.
    pub(crate) fn objects(&self) -> Vec<Arc<Object>> {
        (0..self.tables.len()).filter_map(|object| self.read(object, |table| Arc::clone(&table.object))).collect()
    }

    /// An object by its API name, which REST reads without regard to case.
    pub(crate) fn find_object(&self, name: &str) -> Option<(usize, Arc<Object>)> {
        self.objects().into_iter().enumerate().find(|(_, object)| object.name.eq_ignore_ascii_case(name))
    }

    /// Makes changes visible, in their order.
    pub(crate) fn commit(&self, changes: Vec<RowChange>) {
        for change in changes {
            match change {
                RowChange::Put { object, key, row } => self.write(object, |table| drop(table.rows.insert(key, row))),
                RowChange::Restate { object, key, values } => self.write(object, |table| {
                    if let Some(row) = table.rows.get_mut(&key) {
                        row.restate(&values);
                    }
                }),
                RowChange::Purge { object, key } => self.write(object, |table| drop(table.rows.remove(&key))),
            }
        }
    }

    /// Some records by their keys, in the order of the keys; `None` for what is not there.
    pub(crate) fn get(&self, object: usize, keys: &[Option<RecordKey>]) -> Vec<Option<(RecordKey, Row)>> {
        let found = self.read(object, |table| {
            let get = |key: &Option<RecordKey>| key.and_then(|key| Some((key, table.rows.get(&key)?.clone())));
            keys.iter().map(get).collect()
        });
        found.unwrap_or_default()
    }

    /// All records of an object, those in the recycle bin too, by id.
    pub(crate) fn snapshot(&self, object: usize) -> Option<Snapshot> {
        self.read(object, |table| Snapshot {
            object: Arc::clone(&table.object),
            rows: table.rows.iter().map(|(key, row)| (*key, row.clone())).collect(),
        })
    }

    /// Replaces an object's definition; `removed` is the position of a field that it no longer has.
    pub(crate) fn redefine(&self, object: usize, definition: &Object, removed: Option<usize>) {
        self.write(object, |table| {
            if let Some(at) = removed {
                for row in table.rows.values_mut() {
                    let mut values = row::unpack(&table.object, &row.packed);
                    if at < values.len() {
                        values.remove(at);
                    }
                    row.restate(&values);
                }
            }
            // What was written of them was written by the old definition.
            table.rows.values_mut().for_each(|row| row.text = RowText::default());
            table.object = Arc::new(definition.clone());
        });
    }
}

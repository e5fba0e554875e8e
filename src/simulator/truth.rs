//! The records as they truly are, in the rendering of the ledger: what to compare a
//! consumer's state with, field by field, when all is told.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::simulator::objects::Object;
use crate::simulator::record_store::{RecordKey, Row, Snapshot};
use crate::simulator::value;

/// Records in one piece of the answer.
const CHUNK: usize = 500;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordLine {
    /// Eighteen characters.
    pub id: String,
    /// In the recycle bin.
    pub deleted: bool,
    /// RFC 3339, UTC, milliseconds.
    pub system_modstamp: String,
    /// Every field of the event schema that is not null, those that the user may not see too.
    pub fields: Map<String, Json>,
}

impl RecordLine {
    pub(crate) fn of(object: &Object, key: &RecordKey, row: &Row) -> Self {
        let values = row.values(object);
        let fields = object.fields.iter().zip(&values).filter_map(|(field, value)| {
            let rendered = value::render(field.kind, value.as_ref()?);
            let empty = rendered.is_null() || rendered.as_object().is_some_and(Map::is_empty);
            (!empty).then(|| (field.name.to_string(), rendered))
        });
        let modstamp = value::date_time(row.modstamp).as_str().unwrap_or_default().to_owned();
        Self { id: key.id(), deleted: row.deleted, system_modstamp: modstamp, fields: fields.collect() }
    }
}

/// The records as JSON lines, in pieces.
pub(crate) fn json_lines(snapshot: Snapshot) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    let Snapshot { object, rows } = snapshot;
    let mut rows = rows.into_iter();
    std::iter::from_fn(move || {
        let mut piece = Vec::new();
        for (key, row) in rows.by_ref().take(CHUNK) {
            // A record of texts, numbers and flags always has a JSON form.
            if serde_json::to_writer(&mut piece, &RecordLine::of(&object, &key, &row)).is_ok() {
                piece.push(b'\n');
            }
        }
        (!piece.is_empty()).then_some(piece)
    })
}

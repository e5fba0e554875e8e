//! The fields of an object as REST has them: those of the event schema, and those that
//! events never carry (`Id`, `IsDeleted`, `SystemModstamp`, the parts of compound fields).

use std::borrow::Cow;
use std::cell::OnceCell;

use crate::simulator::conversations::identifier_of;
use crate::simulator::objects::{Avro, Kind, Object};
use crate::simulator::record_store::{RecordKey, Row};
use crate::simulator::value::Value;

/// Where the value of a column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Id,
    IsDeleted,
    SystemModstamp,
    /// Null for an integration user: nobody looked at the record, and it was never merged.
    Never,
    /// The field at this position of the event schema.
    Field(usize),
    /// One component of the compound field at this position.
    Component(usize, usize),
    /// `ConversationIdentifier` of the conversation that the lookup at this position names.
    Conversation(usize),
}

/// One field.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) source: Source,
    /// The compound field that it is a component of.
    pub(crate) compound: Option<String>,
}

impl Column {
    pub(crate) fn new(name: &str, kind: Kind, source: Source) -> Self {
        Self { name: name.to_owned(), kind, source, compound: None }
    }

    /// Whether field-level security applies to a field; system fields everybody sees.
    pub(crate) fn can_be_hidden(name: &str) -> bool {
        const SYSTEM: [&str; 9] = [
            "Id",
            "IsDeleted",
            "SystemModstamp",
            "CreatedDate",
            "CreatedById",
            "LastModifiedDate",
            "LastModifiedById",
            "OwnerId",
            "Name",
        ];
        !SYSTEM.contains(&name)
    }

    /// Whether a query can filter or sort by it.
    pub(crate) fn is_filterable(&self) -> bool {
        !matches!(self.kind, Kind::LongText | Kind::RichText | Kind::Address | Kind::Location)
    }
}

/// Whether `Case.SuppliedEmail` is a field that can be hidden from a user. Errors say what it is not.
pub(crate) fn check_hidden_field<'a>(objects: impl IntoIterator<Item = &'a Object>, path: &str) -> Result<(), String> {
    let (entity, field) = path.split_once('.').ok_or_else(|| format!("`{path}` is not `Object.Field`"))?;
    let object = objects.into_iter().find(|object| object.name == entity && !object.is_platform_event());
    let object = object.ok_or_else(|| format!("there is no entity `{entity}`"))?;
    match object.position(field) {
        None => Err(format!("{entity} has no field `{field}`")),
        Some(_) if !Column::can_be_hidden(field) => Err(format!("`{path}` cannot be hidden from a user")),
        Some(_) => Ok(()),
    }
}

/// Every field of an object in the order of describe: that of the event schema, with the
/// system fields in their places and the components before their compound.
pub(crate) fn columns(object: &Object) -> Vec<Column> {
    let mut columns = Vec::new();
    let owned_first = object.fields.first().is_some_and(|field| field.name == "OwnerId");
    if !object.is_platform_event() {
        columns.push(Column::new("Id", Kind::Reference(object.prefix), Source::Id));
        if !owned_first {
            columns.push(Column::new("IsDeleted", Kind::Checkbox, Source::IsDeleted));
        }
        if object.name == "Case" {
            columns.push(Column::new("MasterRecordId", Kind::Reference(object.prefix), Source::Never));
        }
    }
    for (at, field) in object.fields.iter().enumerate() {
        columns.extend(components(at, &field.name, field.kind));
        columns.push(Column::new(&field.name, field.kind, Source::Field(at)));
        if at == 0 && owned_first {
            columns.push(Column::new("IsDeleted", Kind::Checkbox, Source::IsDeleted));
        }
        if field.name == "LastModifiedById" && object.has_modstamp() {
            columns.push(Column::new("SystemModstamp", Kind::DateTime, Source::SystemModstamp));
            // A comment has no page of its own to be looked at.
            if object.name != "CaseComment" {
                columns.push(Column::new("LastViewedDate", Kind::DateTime, Source::Never));
                columns.push(Column::new("LastReferencedDate", Kind::DateTime, Source::Never));
            }
        }
    }
    columns
}

/// What a query can read through a lookup: of a session, the identifier of its conversation.
pub(crate) fn through_lookups(object: &Object) -> Vec<Column> {
    let at = object.position("ConversationId");
    let column = |at| Column::new("Conversation.ConversationIdentifier", Kind::Text, Source::Conversation(at));
    at.map(column).into_iter().collect()
}

/// The components of a custom compound field as fields of their own: `Site__Latitude__s` of `Site__c`.
fn components(at: usize, name: &str, kind: Kind) -> Vec<Column> {
    let Avro::Record(_, components) = kind.avro() else { return Vec::new() };
    let stem = name.strip_suffix("__c").unwrap_or(name);
    let column = |(child, component): (usize, &crate::simulator::objects::Component)| Column {
        name: format!("{stem}__{}__s", component.name),
        kind: if component.number { Kind::Number } else { Kind::Text },
        source: Source::Component(at, child),
        compound: Some(name.to_owned()),
    };
    components.iter().enumerate().map(column).collect()
}

/// One row, unpacked when a column needs it.
pub(crate) struct Cells<'a> {
    object: &'a Object,
    pub(crate) key: &'a RecordKey,
    row: &'a Row,
    values: OnceCell<Vec<Option<Value>>>,
}

impl<'a> Cells<'a> {
    pub(crate) fn new(object: &'a Object, key: &'a RecordKey, row: &'a Row) -> Self {
        Self { object, key, row, values: OnceCell::new() }
    }

    /// The record that a lookup names.
    pub(crate) fn looked_up(&self, at: usize) -> Option<RecordKey> {
        match self.values.get_or_init(|| self.row.values(self.object)).get(at) {
            Some(Some(Value::Text(id))) => RecordKey::parse(id),
            _ => None,
        }
    }

    /// The value of a column; `None` is null. A checkbox is never null.
    pub(crate) fn get(&self, column: &Column) -> Option<Cow<'_, Value>> {
        let values = || self.values.get_or_init(|| self.row.values(self.object));
        let value = match column.source {
            Source::Id => Some(Cow::Owned(Value::Text(self.key.id()))),
            Source::IsDeleted => Some(Cow::Owned(Value::Flag(self.row.deleted))),
            Source::SystemModstamp => Some(Cow::Owned(Value::Long(self.row.modstamp))),
            Source::Never => None,
            Source::Field(at) => values().get(at).and_then(Option::as_ref).map(Cow::Borrowed),
            Source::Component(at, child) => match values().get(at) {
                Some(Some(Value::Compound(components))) => {
                    components.get(child).and_then(Option::as_ref).map(Cow::Borrowed)
                }
                _ => None,
            },
            Source::Conversation(at) => self.looked_up(at).map(|key| Cow::Owned(Value::Text(identifier_of(&key)))),
        };
        match value.as_deref() {
            Some(Value::Text(text)) if text.is_empty() => None,
            None if column.kind == Kind::Checkbox => Some(Cow::Owned(Value::Flag(false))),
            _ => value,
        }
    }
}
